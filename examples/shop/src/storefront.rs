//! The page that customers see. It asks the backend-for-frontend under `/api`.

use crate::Failure;
use crate::server::{Call, Reply, Service};
use hyper::Method;

const PAGE: &str = include_str!("storefront.html");

pub(crate) struct Storefront;

impl Service for Storefront {
    async fn answer(&self, call: Call) -> Result<Reply, Failure> {
        Ok(match (&call.method, call.path.as_str()) {
            (&(Method::GET | Method::HEAD), "/") => Reply::page(PAGE),
            _ => Reply::not_found(&call),
        })
    }
}

//! Pages beside the Kubernetes API that other parts of the program make: `/metrics` and all below `/coracle/`.
//!
//! They pass the same steps as everything else: who asks is known, and may, before a page is asked for. What is on them is nobody's
//! business here.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::call::{Call, Reply};
use crate::status::{Answer, Failure};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The path without its first slash, decoded: `metrics`, `coracle/v1/edges`.
    pub path: String,
    /// The query's parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The `Accept` header.
    pub accept: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The media type.
    pub media: &'static str,
    /// The text.
    pub body: Bytes,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// There is none at this path.
    #[error("there is no such page")]
    NotFound,
    /// A parameter is missing or makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// What is on it is not known yet, or no more.
    #[error("{0}")]
    Unavailable(String),
}

/// Who makes the pages.
pub trait Pages: Send + Sync {
    /// The page at a path, made anew for each request.
    fn page(&self, request: PageRequest) -> BoxFuture<'static, Result<Page, PageError>>;
}

/// Answers with a page.
pub(crate) async fn serve(pages: Option<&dyn Pages>, call: &Call, path: String) -> Answer<Reply> {
    let Some(pages) = pages else { return Err(Failure::no_such_path()) };
    let request = PageRequest { path, query: call.query.pairs(), accept: call.accept.clone() };
    match pages.page(request).await {
        Ok(Page { media, body }) => Ok(Reply::Made { media, tag: None, body }),
        Err(PageError::NotFound) => Err(Failure::no_such_path()),
        Err(PageError::BadRequest(why)) => Err(Failure::bad_request(why)),
        Err(PageError::Unavailable(why)) => Err(Failure::new(503, "ServiceUnavailable", why)),
    }
}

//! The shop: one program, one subcommand a service.
//!
//! It shows what a service that lives well on Coracle or Kubernetes looks like: configuration from the environment,
//! state in a store on a volume and never in the process, structured logs on stdout, health endpoints, and a clean end
//! on SIGTERM. Every service listens on `PORT`, the port its sandbox gave it, or 8080 where it has a network of its own.

mod bff;
mod client;
mod db;
mod inventory;
mod log;
mod orders;
mod payments;
mod server;
mod storefront;
mod users;

use std::process::ExitCode;

const USAGE: &str = "usage: shop storefront|bff|users|orders|inventory|payments|migrate";

fn main() -> ExitCode {
    let Some(service) = std::env::args().nth(1) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    log::init(&service);
    let outcome = match service.as_str() {
        "migrate" => db::migrate_all(),
        "storefront" => server::run(storefront::Storefront),
        "bff" => bff::Bff::from_env().and_then(server::run),
        "users" => users::Users::from_env().and_then(server::run),
        "orders" => orders::Orders::from_env().and_then(server::run),
        "inventory" => inventory::Inventory::from_env().and_then(server::run),
        "payments" => payments::Payments::from_env().and_then(server::run),
        _ => {
            eprintln!("shop: no service is called {service:?}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("stopped", &[("error", error.to_string().into())]);
            ExitCode::FAILURE
        }
    }
}

/// What goes wrong before or outside a request, as a sentence for the log.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A variable that the service cannot work without.
fn required(name: &str) -> Result<String, Failure> {
    std::env::var(name)
        .map_err(|_| format!("the environment variable {name} is not set; see the service's manifest").into())
}

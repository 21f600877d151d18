//! Who may use the calls of the admin port that tell of clients or change something: programs on
//! this machine, and whoever has an API key with `admin=true`. Others may reach the admin port, too,
//! such as whoever scrapes the metrics.

use std::net::IpAddr;

use actix_web::HttpRequest;

use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::problem::{Kind, Problem};

/// Refuses everybody but the operator.
pub(crate) fn check(request: &HttpRequest, app: &App) -> Result<(), Problem> {
    let has_key = app.access.is_admin(&Asking::of(request, &app.config.server));
    let from_here = request.peer_addr().is_some_and(|addr| addr.ip().is_loopback());
    if !from_here && !has_key {
        let detail =
            "from elsewhere than this machine this takes an API key with admin=true (auth.keys)";
        return Err(Problem::new(Kind::Unauthenticated, detail));
    }
    // No web page may do this, whatever name it used to reach this port (DNS rebinding). Browsers
    // send `Origin` with every request that may change something.
    if request.headers().contains_key("Origin") {
        let detail = "this is for programs, and not for pages";
        return Err(Problem::new(Kind::ForeignOrigin, detail).field("Origin"));
    }
    // With a GET of its own site a page sends no `Origin`. It then shows in `Host` the name that
    // was rebound.
    let host = request.headers().get("Host").and_then(|host| host.to_str().ok());
    if !has_key && host.is_some_and(|host| !is_of_this_machine(host)) {
        let detail = "without an API key, address this port by localhost, an IP address or a name \
                      without a dot";
        return Err(Problem::new(Kind::ForeignOrigin, detail).field("Host"));
    }
    Ok(())
}

/// Whether a `Host` is one that nobody else can make lead to this machine: an IP address, or a name
/// that is not in the public DNS.
fn is_of_this_machine(host: &str) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let name = host.split(':').next().unwrap_or_default().trim_end_matches('.');
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || name.to_ascii_lowercase().ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_can_own_is_not_of_this_machine() {
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "localhost:9090",
            "localhost",
            "LOCALHOST.",
            "gw.localhost:9090",
            "gateway1:9090",
        ] {
            assert!(is_of_this_machine(host), "{host}");
        }
        for host in ["rebound.example:9090", "127.0.0.1.nip.io", "xlocalhost.example", "a.b."] {
            assert!(!is_of_this_machine(host), "{host}");
        }
    }
}

//! Who may use the calls of the admin port that change something: programs of this machine, and API
//! keys with `admin=true` from elsewhere.

use actix_web::HttpRequest;

use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::problem::{Kind, Problem};

/// Refuses a request that is not the operator's.
pub(crate) fn check(request: &HttpRequest, app: &App) -> Result<(), Problem> {
    // Others than the operator may reach the admin port, for example the metrics scraper.
    let from_here = request.peer_addr().is_some_and(|addr| addr.ip().is_loopback());
    if !from_here && !app.access.is_admin(&Asking::of(request, &app.config.server)) {
        let detail =
            "from elsewhere than this machine this takes an API key with admin=true (auth.keys)";
        return Err(Problem::new(Kind::Unauthenticated, detail));
    }
    // Browsers send `Origin` with every request that changes something. No web page may do that,
    // whatever name it used to reach this port (DNS rebinding).
    if request.headers().contains_key("Origin") {
        let detail = "this is for programs, and not for pages";
        return Err(Problem::new(Kind::ForeignOrigin, detail).field("Origin"));
    }
    Ok(())
}

//! What an error of Redis means for the event it answers. Pure.

use redis::RedisError;

use crate::attempt::{Answer, Reason};

/// The answer to one `sse_publish`.
pub fn answer(result: Result<String, RedisError>) -> Answer {
    match result {
        Ok(id) => Answer::Published(id),
        Err(error) => refusal(&error),
    }
}

/// An error that Redis itself answered to a publish: it did nothing.
fn refusal(error: &RedisError) -> Answer {
    let reason = reason(error);
    match error.code() {
        _ if wants_setup(error) => Answer::Again { reason, perhaps_published: false },
        Some(code) if is_passing(code) => Answer::Again { reason, perhaps_published: false },
        Some(_) => Answer::Refused(reason),
        // An answer of another shape than an id: this is not the library of the contract.
        None => Answer::Unknown(reason),
    }
}

/// The function or script is gone: Redis restarted without it, or somebody flushed it.
pub fn wants_setup(error: &RedisError) -> bool {
    let missing = error.detail().is_some_and(|detail| detail.contains("Function not found"));
    missing || error.code() == Some("NOSCRIPT")
}

/// States that a server leaves by itself, or by a failover.
pub fn is_passing(code: &str) -> bool {
    matches!(
        code,
        "LOADING"
            | "READONLY"
            | "MASTERDOWN"
            | "CLUSTERDOWN"
            | "TRYAGAIN"
            | "BUSY"
            | "OOM"
            | "MISCONF"
            | "NOREPLICAS"
    )
}

/// An error in words, with its code where the words depend on it.
pub fn reason(error: &RedisError) -> Reason {
    let detail = error.detail().unwrap_or("");
    match error.code() {
        Some("MOVED" | "ASK" | "CROSSSLOT") => {
            let text = "this is a node of a Redis Cluster; publish through a gateway (--url)";
            Reason { kind: Some("CLUSTER".to_owned()), text: text.to_owned() }
        }
        Some("ERR") => Reason::new(detail),
        // The library's own codes are spelt out by the words behind them.
        Some(code @ ("SSEINVALID" | "SSECONFLICT" | "SSEDENIED")) => {
            Reason { kind: Some(code.to_owned()), text: detail.to_owned() }
        }
        Some(code) => Reason { kind: Some(code.to_owned()), text: format!("{code} {detail}") },
        None => Reason::new(error.to_string()),
    }
}

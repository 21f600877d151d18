//! Interprets the answers of Redis. Does no I/O.

use redis::RedisError;
use sse_contract::{Meaning, batch_answer, detail, meaning};

use crate::attempt::{Answer, Reason};

/// The answer to one event of a batch, from Redis' text.
pub fn answer(text: &str) -> Answer {
    match batch_answer(text) {
        Ok(id) => Answer::Published(id.to_string()),
        Err((meaning, _)) => refusal(meaning, reason_of(text)),
    }
}

/// The answer to every event of a call that failed as a whole.
pub fn call_answer(error: &RedisError) -> Answer {
    refusal(call_meaning(error), reason(error))
}

/// The meaning of an error that answers a call. An error without a code is not the library's, for
/// example an answer of another shape, so its meaning is [`Meaning::Unknown`].
pub fn call_meaning(error: &RedisError) -> Meaning {
    error.code().map_or(Meaning::Unknown, |_| meaning(&words(error)))
}

fn refusal(meaning: Meaning, reason: Reason) -> Answer {
    match meaning {
        // Nothing was published, and another attempt may succeed.
        Meaning::Missing | Meaning::OtherEpoch | Meaning::Undone | Meaning::Elsewhere => {
            Answer::Again { reason, perhaps_published: false }
        }
        Meaning::Invalid | Meaning::Conflict | Meaning::Denied | Meaning::Mismatch => {
            Answer::Refused(reason)
        }
        Meaning::Unknown => Answer::Unknown(reason),
    }
}

/// An error's text as Redis wrote it: its code, then its words.
pub fn words(error: &RedisError) -> String {
    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
}

/// The reason in an error. The text contains the error's code if the words alone would not explain
/// it.
pub fn reason(error: &RedisError) -> Reason {
    match error.code() {
        Some("CROSSSLOT") => node_of_a_cluster(),
        Some("ERR") => Reason::new(error.detail().unwrap_or_default()),
        Some(_) => reason_of(&words(error)),
        None => Reason::new(error.to_string()),
    }
}

/// The reason if the URL of one server leads to a node of a Redis Cluster.
pub fn node_of_a_cluster() -> Reason {
    let text = "this is a node of a Redis Cluster; write redis+cluster://, not redis://";
    Reason { kind: Some("CLUSTER".to_owned()), text: text.to_owned() }
}

/// The reason in a text that begins with a code. The words after the library's own codes are
/// enough, so the code is then left out of the text.
fn reason_of(text: &str) -> Reason {
    let code = text.split(' ').next().unwrap_or_default();
    Reason { kind: Some(code.to_owned()), text: detail(text).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> RedisError {
        let error = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let redis::Value::ServerError(error) = error else { panic!("{error:?}") };
        RedisError::from(error)
    }

    #[test]
    fn what_redis_itself_says_leaves_the_outcome_open() {
        for line in [
            "NOPERM this user has no permissions to run the 'fcall' command",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "ERR The user executing the script can't run this command",
            "CROSSSLOT Keys in request don't hash to the same slot",
        ] {
            let answer = call_answer(&error(line));
            assert!(matches!(answer, Answer::Unknown(_)), "{line}: {answer:?}");
        }
        let odd = answer("something else");
        assert!(matches!(odd, Answer::Unknown(_)), "{odd:?}");
    }

    #[test]
    fn what_surely_did_nothing_is_sent_again_or_refused() {
        for line in [
            "ERR Function not found",
            "NOSCRIPT No matching script. Please use EVAL.",
            "SSEEPOCH the data lives in epoch 1, the caller in 2",
            "SSEUNDONE WRONGTYPE",
            "MOVED 1 127.0.0.1:1",
            "TRYAGAIN Multiple keys request during rehashing of slot",
        ] {
            let Answer::Again { perhaps_published, .. } = call_answer(&error(line)) else {
                panic!("{line}");
            };
            assert!(!perhaps_published, "{line}");
        }
        let denied = Reason {
            kind: Some("SSEDENIED".to_owned()),
            text: "this user may not PUBLISH sse:a".to_owned(),
        };
        let line = "SSEDENIED this user may not PUBLISH sse:a";
        assert_eq!(call_answer(&error(line)), Answer::Refused(denied.clone()));
        assert_eq!(answer(line), Answer::Refused(denied));
        assert_eq!(answer("5-65536"), Answer::Published("5-65536".to_owned()));
    }
}

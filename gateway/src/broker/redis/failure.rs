//! What a failed command means: whether Redis answered, and what an error says about the events
//! that it answers.

use deadpool_redis::PoolError;
use redis::RedisError;
use sse_contract::{EventId, Meaning, detail, meaning};

use crate::feed::publication::PublishError;

/// The result of one attempt at a publication.
pub(crate) type Outcome = Result<EventId, Failure>;

/// Why an attempt did not publish, and whether it may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The result for the publisher if there is no further attempt.
    pub error: PublishError,
    /// When the publication may be sent again.
    pub again: Again,
}

/// When a publication may be sent again without being published twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Never: it may have been published, or Redis would refuse it again.
    Never,
    /// If it carries an idempotency key.
    WithKey,
    /// Always. Nothing was written, because the data lives in another epoch than the gateway named.
    InNewEpoch,
    /// Always, and until the time is over: Redis Cluster is moving the partition.
    Elsewhere,
}

/// An answer that is no event id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoId {
    /// Redis answered an error: its meaning, and its words.
    Answered(Meaning, String),
    /// No answer came, for this reason.
    Lost(String),
}

/// The failure of a publication that was not sent.
pub(crate) fn unsent(error: &RedisError) -> Failure {
    Failure { error: PublishError::Unavailable(format!("Redis: {error}")), again: Again::WithKey }
}

/// Interprets an error that answers a whole call.
pub(crate) fn refusal(error: &RedisError) -> NoId {
    let text = words(error);
    match error.code() {
        Some(_) => NoId::Answered(meaning(&text), detail(&text).to_owned()),
        None => NoId::Lost(text),
    }
}

/// An error's text as Redis wrote it: the code, then the words.
pub(crate) fn words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
        None => error.to_string(),
    }
}

/// Converts an error of the pool. It always means that nothing was sent.
pub(crate) fn pool_error(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) => error,
        other => RedisError::from((redis::ErrorKind::Io, "no connection", other.to_string())),
    }
}

/// Why the library could not be loaded: the connection's error, or Redis' refusal.
pub(crate) struct EnsureError(pub(crate) RedisError);

impl From<String> for EnsureError {
    fn from(text: String) -> Self {
        EnsureError(RedisError::from((redis::ErrorKind::Client, "no library", text)))
    }
}

impl From<NoId> for Failure {
    fn from(no_id: NoId) -> Self {
        let (meaning, text) = match no_id {
            NoId::Lost(text) => {
                let error = PublishError::OutcomeUnknown(format!("Redis: {text}"));
                return Failure { error, again: Again::WithKey };
            }
            NoId::Answered(meaning, text) => (meaning, text),
        };
        let told = format!("Redis: {text}");
        let (error, again) = match meaning {
            Meaning::Invalid if text.starts_with("data: ") => {
                (PublishError::TooLarge(text), Again::Never)
            }
            Meaning::Invalid => (PublishError::Refused(text), Again::Never),
            Meaning::Conflict => (PublishError::Conflict(text), Again::Never),
            Meaning::Denied => (PublishError::Denied(text), Again::Never),
            Meaning::OtherEpoch => (PublishError::Unavailable(told), Again::InNewEpoch),
            Meaning::Elsewhere => (PublishError::Unavailable(told), Again::Elsewhere),
            Meaning::Undone | Meaning::Missing => (PublishError::Unavailable(told), Again::WithKey),
            Meaning::Mismatch => (PublishError::Unavailable(told), Again::Never),
            // Redis may not have stored the idempotency key, so not even a keyed publication is
            // repeated.
            Meaning::Unknown => (PublishError::OutcomeUnknown(told), Again::Never),
        };
        Failure { error, again }
    }
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, ServerError, Value};
    use sse_contract::batch_answer;

    use super::*;

    fn failure(text: &str) -> Failure {
        let (meaning, words) = batch_answer(text).unwrap_err();
        NoId::Answered(meaning, words.to_owned()).into()
    }

    #[test]
    fn only_what_cannot_become_two_events_is_sent_again() {
        use Again::{Elsewhere, InNewEpoch, Never, WithKey};
        for (text, again, unknown) in [
            ("SSEINVALID data: 2 bytes, at most 1", Never, false),
            ("SSECONFLICT x", Never, false),
            ("SSEDENIED x", Never, false),
            ("SSEEPOCH x", InNewEpoch, false),
            ("SSEUNDONE x", WithKey, false),
            ("MOVED 1 a:1", Elsewhere, false),
            ("TRYAGAIN x", Elsewhere, false),
            ("NOPERM x", Never, true),
            ("OOM x", Never, true),
            ("READONLY x", Never, true),
            ("anything", Never, true),
        ] {
            let failure = failure(text);
            assert_eq!(failure.again, again, "{text}");
            let is_unknown = matches!(failure.error, PublishError::OutcomeUnknown(_));
            assert_eq!(is_unknown, unknown, "{text}");
        }
        let lost = Failure::from(NoId::Lost("broken pipe".into()));
        assert_eq!(lost.again, WithKey);
        assert!(matches!(lost.error, PublishError::OutcomeUnknown(_)));
    }

    #[test]
    fn each_refusal_has_its_answer_for_the_publisher() {
        let error = |text| failure(text).error;
        assert_eq!(
            error("SSEINVALID data: 2 bytes, at most 1"),
            PublishError::TooLarge("data: 2 bytes, at most 1".into())
        );
        assert_eq!(error("SSEINVALID event: x"), PublishError::Refused("event: x".into()));
        assert_eq!(error("SSECONFLICT x"), PublishError::Conflict("x".into()));
        assert_eq!(error("SSEDENIED x"), PublishError::Denied("x".into()));
        for text in ["SSEEPOCH x", "SSEUNDONE x", "SSEMISMATCH x", "ERR Function not found"] {
            assert!(matches!(error(text), PublishError::Unavailable(_)), "{text}");
        }
    }

    /// An error with a code is an answer, so its code says what happened. Without one, no answer
    /// came, and nobody knows.
    #[test]
    fn what_redis_answered_is_told_from_what_was_lost() {
        let answered = |text: &[u8]| -> RedisError {
            let value = redis::parse_redis_value(text).expect("a value");
            let Value::ServerError(error) = value else { panic!("no error: {value:?}") };
            ServerError::into(error)
        };
        for (text, expected) in [
            (&b"-SSEDENIED not SET\r\n"[..], NoId::Answered(Meaning::Denied, "not SET".into())),
            (b"-SSEEPOCH 1, not 2\r\n", NoId::Answered(Meaning::OtherEpoch, "1, not 2".into())),
            (b"-OOM no memory\r\n", NoId::Answered(Meaning::Unknown, "OOM no memory".into())),
            (b"-NOSCRIPT none\r\n", NoId::Answered(Meaning::Missing, "NOSCRIPT none".into())),
            (
                b"-ERR Function not found\r\n",
                NoId::Answered(Meaning::Missing, "ERR Function not found".into()),
            ),
            (b"-ERR\r\n", NoId::Answered(Meaning::Unknown, "ERR ".into())),
        ] {
            assert_eq!(refusal(&answered(text)), expected);
        }
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let late = RedisError::from((ErrorKind::Io, "no session", "x".into()));
        for error in [broken, late] {
            assert!(matches!(refusal(&error), NoId::Lost(_)), "{error}");
        }
    }

    #[test]
    fn without_a_connection_nothing_was_sent() {
        for error in [PoolError::Closed, PoolError::NoRuntimeSpecified] {
            let error = pool_error(error);
            assert!(error.is_io_error());
            let failure = unsent(&error);
            assert!(matches!(failure.error, PublishError::Unavailable(_)));
            assert_eq!(failure.again, Again::WithKey);
        }
    }
}

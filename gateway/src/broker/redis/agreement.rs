//! Whether Redis holds as many partitions as this gateway is configured for.
//!
//! Each partition's state names the number, and every tick compares it. But the state of a single
//! partition has another name than those of several, so ticks alone would not meet it. And the
//! partitions that only a gateway with a wrong number knows have no state to compare with. Such a
//! gateway would create states of its own beside the others.
//!
//! So the first partition looks for a state of the other kind before its first tick, and once more
//! after it, because two gateways may start on an empty Redis at once. The other partitions send
//! nothing to Redis until then.

use redis::Cmd;
use sse_contract::Keys;
use tokio::sync::watch;

use crate::broker::redis::connector::SessionError;
use crate::broker::redis::resp::Value;

/// What the partitions of a gateway know of the number in Redis. Once it is confirmed, it is not
/// asked for again: a state that somebody creates by mistake then stops no gateway that runs.
#[derive(Debug)]
pub(crate) struct Agreement {
    partitions: u16,
    /// The state of a single partition if this gateway has several, else of the first of several.
    other: String,
    confirmed: watch::Sender<bool>,
}

impl Agreement {
    /// Nothing is known yet.
    pub(crate) fn new(prefix: &str, partitions: u16) -> Self {
        let other = if partitions == 1 { 2 } else { 1 };
        let other = Keys::new(prefix, other).state(0);
        Agreement { partitions, other, confirmed: watch::Sender::new(false) }
    }

    /// Whether the number in Redis was found to be this gateway's.
    pub(crate) fn is_confirmed(&self) -> bool {
        *self.confirmed.borrow()
    }

    /// Waits until the number in Redis was found to be this gateway's.
    pub(crate) async fn confirmed(&self) {
        // An error would say that the sender is gone, which `self` holds.
        let _ = self.confirmed.subscribe().wait_for(|confirmed| *confirmed).await;
    }

    /// Records that the number in Redis is this gateway's.
    pub(crate) fn confirm(&self) {
        self.confirmed.send_replace(true);
    }

    /// Reads the number in a state of the other kind.
    pub(crate) fn question(&self) -> Cmd {
        redis::cmd("HGET").arg(&self.other).arg("partitions").to_owned()
    }

    /// Judges the answer to `question`.
    pub(crate) fn judge(&self, answer: &Value<'_>) -> Result<(), SessionError> {
        match answer {
            Value::Text(number) => {
                let (number, state) = (String::from_utf8_lossy(number), &self.other);
                let partitions = self.partitions;
                Err(SessionError::Mismatch(format!(
                    "partitions: Redis holds {number} ({state}), this gateway is configured for \
                     {partitions} (redis.partitions)"
                )))
            }
            // There is none, or this user may not read it. Then it has no right to names of that
            // kind, and who set up its rights knows the number.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_state_of_the_other_kind_is_named_with_both_numbers() {
        for (partitions, state, number) in [(1, "sse:{0}:state", "4"), (4, "sse:state", "1")] {
            let agreement = Agreement::new("sse", partitions);
            let question = agreement.question().get_packed_command();
            assert!(String::from_utf8_lossy(&question).contains(&format!("{state}\r\n")));
            let error = agreement.judge(&Value::Text(number.as_bytes())).unwrap_err();
            assert!(matches!(error, SessionError::Mismatch(_)), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("holds {number} ({state})")), "{text}");
            assert!(text.contains(&format!("configured for {partitions} ")), "{text}");
            for none in [Value::Null, Value::Error(b"NOPERM no right to that key")] {
                assert!(agreement.judge(&none).is_ok());
            }
        }
    }

    #[test]
    fn who_waits_goes_on_once_it_is_confirmed() {
        let agreement = Agreement::new("sse", 4);
        assert!(agreement.confirmed().now_or_never().is_none() && !agreement.is_confirmed());
        agreement.confirm();
        assert!(agreement.confirmed().now_or_never().is_some() && agreement.is_confirmed());
    }
}

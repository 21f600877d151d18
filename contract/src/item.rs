//! The JSON item that describes an event to `POST /publish` and `sse-publish --ndjson`, and its
//! idempotency key.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes of the longest idempotency key.
pub const MAX_IDEMPOTENCY_KEY: usize = 200;

/// One item as its publisher wrote it. An unknown member is an error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item<'a> {
    /// The channel to publish on. An item has this or `channels`; only `sse-publish --ndjson`
    /// accepts neither, and then publishes on the channels of its command line.
    pub channel: Option<String>,
    /// Several channels to publish on.
    pub channels: Option<Vec<String>>,
    /// The data: any JSON value.
    #[serde(borrow)]
    pub data: &'a RawValue,
    /// The event's type.
    pub event: Option<String>,
    /// Makes it harmless to publish the item again: a repetition returns the first event's id.
    pub idempotency_key: Option<String>,
}

impl Item<'_> {
    /// The event's data. A JSON string gives its own text. Any other value gives compact JSON, with
    /// the order of members and the spelling of numbers unchanged. The only error is a string with
    /// a lone surrogate, which is no Unicode text.
    pub fn data_text(&self) -> Result<Arc<str>, serde_json::Error> {
        let raw = self.data.get();
        if raw.starts_with('"') {
            return serde_json::from_str::<String>(raw).map(Arc::from);
        }
        Ok(compact_json(raw).into())
    }
}

/// Removes the white space between the tokens of valid JSON.
pub fn compact_json(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let was_in_string = in_string;
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        was_in_string || !matches!(c, ' ' | '\t' | '\r' | '\n')
    };
    json.chars().filter(keep).collect()
}

/// The text is not a valid idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to {MAX_IDEMPOTENCY_KEY} bytes of visible ASCII without spaces")]
pub struct IdempotencyKeyError;

/// Validates an idempotency key: 1 to 200 bytes of visible ASCII without spaces.
pub fn idempotency_key(key: &[u8]) -> Result<Arc<str>, IdempotencyKeyError> {
    let visible = !key.is_empty() && key.iter().all(u8::is_ascii_graphic);
    if !visible || key.len() > MAX_IDEMPOTENCY_KEY {
        return Err(IdempotencyKeyError);
    }
    Ok(String::from_utf8_lossy(key).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_string_is_verbatim_and_the_rest_is_compact_json() {
        for (raw, want) in [
            (r#""a\nb \u20ac""#, "a\nb €"),
            (r#"{"b" : 1.10, "a":[ 1, "x \" y" , 2e3] }"#, r#"{"b":1.10,"a":[1,"x \" y",2e3]}"#),
            ("12345678901234567890123", "12345678901234567890123"),
            ("null", "null"),
            ("\"\"", ""),
        ] {
            let json = format!(r#"{{"channel":"a","data": {raw}}}"#);
            let item: Item<'_> = serde_json::from_str(&json).unwrap();
            assert_eq!(&*item.data_text().unwrap(), want);
        }
    }

    proptest! {
        #[test]
        fn compact_means_the_same(text: String, numbers: Vec<i64>) {
            let value = serde_json::json!({ "k \" ": text, "n": numbers, "e": {} });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact_json(&pretty), value.to_string());
        }
    }
}

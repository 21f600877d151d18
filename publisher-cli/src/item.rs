//! Turns a line of input into events. Each event is on one channel, is valid by the contract, and
//! has an idempotency key. Does no I/O.

use std::sync::Arc;

use sse_contract::{Channel, EventType, Item};

use crate::attempt::Reason;

/// Where an event came from, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The DATA argument.
    Argument,
    /// A line of the input, counted from 1.
    Line(u64),
}

/// One event on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where the event came from.
    pub place: Place,
    /// The channel.
    pub channel: Channel,
    /// The type; `None` for an untyped event.
    pub event: Option<EventType>,
    /// The data, shared by all events of an item.
    pub data: Arc<str>,
    /// The idempotency key, which makes it harmless to publish the event again.
    pub key: Arc<str>,
}

impl Event {
    /// Roughly the bytes of this event in a request.
    pub fn size(&self) -> usize {
        self.data.len() + self.key.len() + self.channel.as_str().len() + 64
    }

    /// The bytes of this event's block in a subscriber's stream, for an id of the greatest likely
    /// length.
    pub fn block_bytes(&self) -> usize {
        const ID_LINE: usize = "id: 1795412348206-18446744073709551615\n\n".len();
        let lines = memchr::memchr2_iter(b'\n', b'\r', self.data.as_bytes()).count() + 1;
        let event = self.event.as_ref().map_or(0, |event| "event: \n".len() + event.as_str().len());
        // The data already contain all line ends but the last.
        self.data.len() + 1 + lines * "data: ".len() + event + ID_LINE
    }
}

/// Turns items into events, with defaults for what an item does not name.
#[derive(Debug, Clone)]
pub struct ItemReader {
    /// Whether each line is a JSON item, as in `POST /publish`. Otherwise a line is the data of an
    /// event.
    pub ndjson: bool,
    /// The channels of an item that names none.
    pub channels: Vec<Channel>,
    /// The type of an item that names none.
    pub event: Option<EventType>,
    /// The beginning of this run's idempotency keys.
    pub run: String,
}

impl ItemReader {
    /// The events of one item; none for a blank line of NDJSON.
    pub fn read(&self, place: Place, text: &str) -> Result<Vec<Event>, Reason> {
        if !self.ndjson || place == Place::Argument {
            let data = Arc::from(text);
            return Ok(events(
                place,
                &self.channels,
                self.event.as_ref(),
                data,
                self.own_key(place),
            ));
        }
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let item: Item<'_> = serde_json::from_str(text)
            .map_err(|error| Reason::new(format!("not an item: {error}")))?;
        let data = item.data_text().map_err(|error| Reason::new(format!("data: {error}")))?;
        let event = match &item.event {
            Some(text) => Some(text.parse().map_err(|why| Reason::new(format!("{why}")))?),
            None => self.event.clone(),
        };
        let channels = match (item.channel, item.channels) {
            (Some(_), Some(_)) => {
                return Err(Reason::new("an item has channel or channels, not both"));
            }
            (Some(one), None) => parse_channels([one.as_str()])?,
            (None, Some(many)) if many.is_empty() => return Err(Reason::new("channels is empty")),
            (None, Some(many)) => parse_channels(many.iter().map(String::as_str))?,
            (None, None) if self.channels.is_empty() => {
                return Err(Reason::new(
                    "the item names no channel and the command line none either",
                ));
            }
            (None, None) => self.channels.clone(),
        };
        let key = match item.idempotency_key {
            Some(key) => sse_contract::idempotency_key(key.as_bytes())
                .map_err(|why| Reason::new(format!("idempotency_key: {why}")))?,
            None => self.own_key(place),
        };
        Ok(events(place, &channels, event.as_ref(), data, key))
    }

    fn own_key(&self, place: Place) -> Arc<str> {
        let number = match place {
            Place::Argument => 1,
            Place::Line(number) => number,
        };
        format!("{}-{number}", self.run).into()
    }
}

fn events(
    place: Place,
    channels: &[Channel],
    event: Option<&EventType>,
    data: Arc<str>,
    key: Arc<str>,
) -> Vec<Event> {
    let one = |channel: &Channel| Event {
        place,
        channel: channel.clone(),
        event: event.cloned(),
        data: data.clone(),
        key: key.clone(),
    };
    channels.iter().map(one).collect()
}

/// Parses channel names and drops repeated ones. An idempotency key publishes only once on a
/// channel, so a repeated name would only be reported twice.
pub fn parse_channels<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Channel>, Reason> {
    let mut channels: Vec<Channel> = Vec::new();
    for name in names {
        let channel =
            name.parse().map_err(|why| Reason::new(format!("channel {name:?}: {why}")))?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(channels: &[&str]) -> ItemReader {
        let channels = parse_channels(channels.iter().copied()).unwrap();
        ItemReader { ndjson: true, channels, event: Some("tick".parse().unwrap()), run: "r".into() }
    }

    fn read(channels: &[&str], text: &str) -> Result<Vec<Event>, String> {
        reader(channels).read(Place::Line(17), text).map_err(|reason| reason.text)
    }

    #[test]
    fn an_item_overrides_the_command_line() {
        let events = read(&["a"], r#"{"data":"x"}"#).unwrap();
        assert_eq!((events[0].channel.as_str(), &*events[0].key), ("a", "r-17"));
        assert_eq!(events[0].event.as_ref().unwrap().as_str(), "tick");
        let item = r#"{"channels":["b","c","b"],"event":"t","data":"x","idempotency_key":"k"}"#;
        let events = read(&["a"], item).unwrap();
        let names: Vec<_> = events.iter().map(|event| event.channel.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!((events[0].event.as_ref().unwrap().as_str(), &*events[1].key), ("t", "k"));
    }

    #[test]
    fn the_culprit_is_named() {
        for (line, part) in [
            (r#"{"channel":"a b","data":1}"#, "a channel name holds only"),
            (r#"{"channel":"a","data":1,"event":"gap"}"#, "reserved"),
            (r#"{"channel":"a","channels":["b"],"data":1}"#, "not both"),
            (r#"{"channels":[],"data":1}"#, "empty"),
            (r#"{"data":1}"#, "names no channel"),
            (r#"{"channel":"a"}"#, "missing field `data`"),
            (r#"{"channel":"a","data":1,"datta":2}"#, "unknown field `datta`"),
            (r#"{"channel":"a","data":1,"idempotency_key":""}"#, "idempotency_key"),
            (r#"{"channel":"a","data":1,"idempotency_key":"ü"}"#, "idempotency_key"),
            ("hello", "not an item"),
        ] {
            let text = read(&[], line).unwrap_err();
            assert!(text.contains(part), "{line}: {text}");
        }
    }

    #[test]
    fn a_blank_line_is_no_item_but_empty_data() {
        assert_eq!(read(&["a"], " \t").unwrap(), []);
        let plain = ItemReader { ndjson: false, ..reader(&["a"]) };
        assert_eq!(&*plain.read(Place::Line(1), "").unwrap()[0].data, "");
    }
}

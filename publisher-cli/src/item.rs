//! Turns a line of input into events. Each event is on one channel, is valid by the contract, and
//! has an idempotency key. Does no I/O.

use std::sync::Arc;

use serde_json::value::RawValue;
use sse_contract::{Channel, EventType, Item, RESERVED_EVENT_TYPES};

use crate::attempt::Reason;
use crate::plain::{Members, kind, what_is_wrong};

/// The members of an item.
const MEMBERS: [&str; 5] = ["channel", "channels", "data", "event", "idempotency_key"];
/// Further members of the lines of `tail --json`, which say nothing to a publisher.
const OF_TAIL: [&str; 2] = ["id", "time"];

/// Where an event came from, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// DATA or the whole input: it is the only one.
    Argument,
    /// A line of the input, counted from 1.
    Line(u64),
    /// A part of an input that has no lines, or a repetition, counted from 1.
    Number(u64),
}

/// What the numbers of an input count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Nothing: there is one event.
    One,
    /// Lines.
    Lines,
    /// Other parts.
    Parts,
}

impl Counting {
    /// The place with this number.
    pub fn place(self, number: u64) -> Place {
        match self {
            Counting::One => Place::Argument,
            Counting::Lines => Place::Line(number),
            Counting::Parts => Place::Number(number),
        }
    }
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

/// Where events get their idempotency keys from, unless an item has one.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// This text and the event's number: the keys of one run.
    Run(String),
    /// This key, for the only event; of several, this text and the event's number.
    Given(Arc<str>),
    /// The member of this name.
    Member(String),
}

/// Turns items into events, with defaults for what an item does not name.
#[derive(Debug, Clone)]
pub struct ItemReader {
    /// Whether each line is a JSON item, as in `POST /publish`. Otherwise a line is the data of an
    /// event.
    pub ndjson: bool,
    /// What the input's numbers count.
    pub counting: Counting,
    /// The channels of an item that names none.
    pub channels: Vec<Channel>,
    /// The type of an item that names none.
    pub event: Option<EventType>,
    /// Where keys come from.
    pub keys: KeySource,
}

impl ItemReader {
    /// The events of one item; none for a blank line of NDJSON, and none for a line of `tail --json`
    /// that is no event.
    pub fn read(&self, number: u64, text: &str) -> Result<Vec<Event>, Reason> {
        let place = self.counting.place(number);
        if !self.ndjson {
            let key = self.key(place, None, text)?;
            return Ok(events(place, &self.channels, self.event.as_ref(), text.into(), key));
        }
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let members = Members::read(text).map_err(Reason::new)?;
        let of_tail = members.get("id").is_some();
        let item = self.item(&members)?;
        let event = match item.event.as_deref() {
            Some("gap") if of_tail => {
                let text = "a gap of the stream that was followed: events may be missing before it";
                return Err(Reason::new(text));
            }
            Some(name) if of_tail && RESERVED_EVENT_TYPES.contains(&name) => return Ok(Vec::new()),
            // That is how `tail` shows an event without a type.
            Some("message") if of_tail => None,
            Some(text) => Some(text.parse().map_err(|why| Reason::new(format!("{why}")))?),
            None => self.event.clone(),
        };
        let channels = self.channels(&item)?;
        let data = item.data_text().map_err(|error| {
            Reason::new(format!("data: {}", what_is_wrong(item.data.get(), &error)))
        })?;
        let key = match &item.idempotency_key {
            Some(key) => checked_key("idempotency_key", key)?,
            None => self.key(place, Some(&members), &data)?,
        };
        Ok(events(place, &channels, event.as_ref(), data, key))
    }

    fn item<'a>(&self, members: &Members<'a>) -> Result<Item<'a>, Reason> {
        for (name, _) in &members.0 {
            let own = matches!(&self.keys, KeySource::Member(member) if member == name);
            if !own && !MEMBERS.contains(&&**name) && !OF_TAIL.contains(&&**name) {
                let text = format!("an item has no member {name:?}; it has {}", MEMBERS.join(", "));
                return Err(Reason::new(text));
            }
        }
        let Some(data) = members.get("data") else {
            return Err(Reason::new("the item has no data"));
        };
        Ok(Item {
            channel: string(members, "channel")?,
            channels: strings(members, "channels")?,
            data,
            event: string(members, "event")?,
            idempotency_key: string(members, "idempotency_key")?,
        })
    }

    fn channels(&self, item: &Item<'_>) -> Result<Vec<Channel>, Reason> {
        match (&item.channel, &item.channels) {
            (Some(_), Some(_)) => Err(Reason::new("an item has channel or channels, not both")),
            (Some(one), None) => parse_channels([one.as_str()]),
            (None, Some(many)) if many.is_empty() => Err(Reason::new("channels is empty")),
            (None, Some(many)) => parse_channels(many.iter().map(String::as_str)),
            (None, None) if self.channels.is_empty() => {
                Err(Reason::new("the item names no channel and the command line none either"))
            }
            (None, None) => Ok(self.channels.clone()),
        }
    }

    /// The key of an event that has none of its own.
    fn key(
        &self,
        place: Place,
        item: Option<&Members<'_>>,
        data: &str,
    ) -> Result<Arc<str>, Reason> {
        match (&self.keys, place) {
            (KeySource::Run(run), Place::Argument) => Ok(format!("{run}-1").into()),
            (KeySource::Run(run), Place::Line(number) | Place::Number(number)) => {
                Ok(format!("{run}-{number}").into())
            }
            (KeySource::Given(key), Place::Argument) => Ok(key.clone()),
            (KeySource::Given(key), Place::Line(number) | Place::Number(number)) => {
                checked_key("--idempotency-key", &format!("{key}-{number}"))
            }
            (KeySource::Member(name), _) => member_key(name, item, data),
        }
    }
}

/// The key in a member of the item, or else of the event's data.
fn member_key(name: &str, item: Option<&Members<'_>>, data: &str) -> Result<Arc<str>, Reason> {
    let what = format!("--key-field {name}");
    if let Some(value) = item.and_then(|members| members.get(name)) {
        return key_of_value(&what, value);
    }
    let members = Members::read(data)
        .map_err(|why| Reason::new(format!("{what}: the data are no JSON object: {why}")))?;
    match members.get(name) {
        Some(value) => key_of_value(&what, value),
        None => Err(Reason::new(format!("{what}: there is no member of that name"))),
    }
}

/// A string or a number as a key.
fn key_of_value(what: &str, value: &RawValue) -> Result<Arc<str>, Reason> {
    match kind(value.get()) {
        "a number" => checked_key(what, value.get()),
        "a string" => checked_key(what, &unquoted(what, value)?),
        other => Err(Reason::new(format!("{what}: a key is a string or a number, not {other}"))),
    }
}

fn checked_key(what: &str, key: &str) -> Result<Arc<str>, Reason> {
    sse_contract::idempotency_key(key.as_bytes())
        .map_err(|why| Reason::new(format!("{what}: {why}")))
}

/// The text of a JSON string.
fn unquoted(what: &str, value: &RawValue) -> Result<String, Reason> {
    serde_json::from_str(value.get())
        .map_err(|error| Reason::new(format!("{what}: {}", what_is_wrong(value.get(), &error))))
}

/// A member that is a string, or null, which is the same as none.
fn string(members: &Members<'_>, name: &str) -> Result<Option<String>, Reason> {
    let Some(value) = members.get(name) else { return Ok(None) };
    match kind(value.get()) {
        "a string" => unquoted(name, value).map(Some),
        "null" => Ok(None),
        other => Err(Reason::new(format!("{name} is a string, not {other}"))),
    }
}

/// A member that is a list of strings, or null, which is the same as none.
fn strings(members: &Members<'_>, name: &str) -> Result<Option<Vec<String>>, Reason> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let of = |other| Reason::new(format!("{name} is a list of strings, not {other}"));
    match kind(value.get()) {
        "a list" => {}
        "null" => return Ok(None),
        other => return Err(of(other)),
    }
    let values: Vec<&RawValue> = serde_json::from_str(value.get())
        .map_err(|error| Reason::new(format!("{name}: {}", what_is_wrong(value.get(), &error))))?;
    let one = |value: &&RawValue| match kind(value.get()) {
        "a string" => unquoted(name, value),
        other => Err(Reason::new(format!("{name} is a list of strings; this one holds {other}"))),
    };
    values.iter().map(one).collect::<Result<_, _>>().map(Some)
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
mod tests;

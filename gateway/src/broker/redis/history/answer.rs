//! What Redis answers to `sse_read`.

use std::collections::HashMap;

use redis::Value;
use sse_contract::{Channel, EventId, Part};

use crate::feed::frame::Frame;
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Which part of a history a part of a read is.
pub(super) fn extent(part: &Part) -> Extent {
    if part.newest { Extent::Newest } else { Extent::All }
}

/// Parses the answer of `sse_read`. Returns `None` if the answer as a whole has the wrong form.
/// Calls `unreadable` for each history that cannot be read, with the reason.
pub fn snapshot(
    plan: &[Part],
    value: Value,
    mut unreadable: impl FnMut(&Channel, &str),
) -> Option<Snapshot> {
    let Value::Array(answer) = value else { return None };
    let mut answer = answer.into_iter();
    let clock = text(&answer.next()?)?.parse().ok()?;
    let (now_ms, max_len, ttl_ms) =
        (number(&answer.next()?)?, number(&answer.next()?)?, number(&answer.next()?)?);
    let mut ranges: HashMap<Channel, Vec<Range>> = HashMap::with_capacity(plan.len());
    for part in plan {
        let (after, extent) = (part.after, extent(part));
        let range = range(&part.channel, after, extent, answer.next()?).unwrap_or_else(|why| {
            unreadable(&part.channel, &why);
            Range::unreadable(after, extent)
        });
        ranges.entry(part.channel.clone()).or_default().push(range);
    }
    Some(Snapshot { clock, now_ms, history: max_len > 0, ttl_ms, ranges })
}

/// Parses one range of a channel. The error says why the history cannot be read.
fn range(channel: &Channel, after: EventId, extent: Extent, value: Value) -> Result<Range, String> {
    let odd = || "sse_read answered a range otherwise".to_owned();
    let Value::Array(fields) = value else { return Err(odd()) };
    if let [why] = &fields[..] {
        return Err(text(why).ok_or_else(odd)?.to_owned());
    }
    let [last, oldest, added, length, more, entries] =
        <[Value; 6]>::try_from(fields).map_err(|_| odd())?;
    let Value::Array(entries) = entries else { return Err(odd()) };
    let mut frames = Vec::with_capacity(entries.len() / 3);
    for entry in entries.chunks_exact(3) {
        let id = text(&entry[0]).ok_or_else(odd)?;
        let id = id.parse().map_err(|_| format!("it holds {id}, which is no event's id"))?;
        let (event, data) = (lossy(&entry[2]).ok_or_else(odd)?, lossy(&entry[1]).ok_or_else(odd)?);
        frames.push(Frame::event(channel, id, &event, &data));
    }
    let number = |value| number(value).ok_or_else(odd);
    let upto = match number(&more)? {
        0 => None,
        _ => Some(frames.last().and_then(|frame| frame.id).unwrap_or(after)),
    };
    let id = |value| text(value).and_then(|text| text.parse().ok());
    Ok(Range {
        after,
        upto,
        last: id(&last),
        oldest: id(&oldest),
        length: number(&length)?,
        untrimmed: number(&added)? == number(&length)?,
        frames: frames.into(),
        extent,
        readable: true,
    })
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Invalid UTF-8 becomes U+FFFD, as it would in a browser.
fn lossy(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => text(other)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One channel's trouble is not the others'.
    #[test]
    fn a_range_that_cannot_be_read_is_told_and_the_others_are_there() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entries = |id: &str| Value::Array(vec![text(id), text("data"), text("")]);
        let range = |entries| {
            let numbers = [text("60-458752"), text("50-458752"), Value::Int(2), Value::Int(1)];
            Value::Array([&numbers[..], &[Value::Int(0), entries]].concat())
        };
        let parts: Vec<Part> = ["good", "refused", "odd", "foreign"]
            .map(|name| Part {
                channel: name.parse().unwrap(),
                after: EventId::new(1, 7, 0),
                newest: false,
            })
            .into();
        let answer = Value::Array(vec![
            text("70-458752"),
            Value::Int(70),
            Value::Int(1000),
            Value::Int(5000),
            range(entries("60-458752")),
            Value::Array(vec![text("WRONGTYPE")]),
            Value::Int(5),
            range(entries("x")),
        ]);
        let mut told = Vec::new();
        let read = snapshot(&parts, answer.clone(), |channel, why| {
            told.push(format!("{channel}: {why}"));
        });
        let read = read.unwrap();
        let (clock, history, ttl) = (read.clock, read.history, read.ttl_ms);
        assert_eq!((clock, history, ttl), (EventId::new(70, 7, 0), true, 5000));
        let readable = |part: &Part| read.ranges[&part.channel][0].readable;
        assert_eq!(parts.iter().map(readable).collect::<Vec<_>>(), [true, false, false, false]);
        let good = &read.ranges[&parts[0].channel][0];
        assert_eq!((good.frames.len(), good.untrimmed, good.upto), (1, false, None));
        assert_eq!(
            told,
            [
                "refused: WRONGTYPE",
                "odd: sse_read answered a range otherwise",
                "foreign: it holds x, which is no event's id"
            ]
        );
        // Without its head, or with too few ranges, the whole answer is of no use.
        let Value::Array(whole) = answer else { unreachable!() };
        for short in [&whole[..3], &whole[..6]] {
            assert!(snapshot(&parts, Value::Array(short.to_vec()), |_, _| {}).is_none());
        }
        assert!(snapshot(&parts, Value::Nil, |_, _| {}).is_none());
    }
}

//! A client's position in its stream, as it stands in `id:` and comes back in `Last-Event-ID`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::EventId;

/// A client's position in its stream. The client has everything at or below it, or was told what is
/// missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cursor {
    /// All of the stream's channels belong to one partition. The cursor is the position there,
    /// written as an event id: `<ms>-<seq>`.
    One(EventId),
    /// The stream's channels belong to several partitions, whose ids do not compare.
    Several(Positions),
}

/// Positions in several partitions.
///
/// They are written as `~` and the base64url (RFC 4648 §5, without padding) of these numbers: how
/// many partitions there are; then for each position its partition, less the one before and one
/// more; its milliseconds, from the second position on as the difference to the first; its epoch in
/// 4 bytes; its counter. All but the epoch are LEB128, and a difference is folded onto the even and
/// odd numbers. So five positions take 128 bytes at most, and the text has only characters that
/// CORS allows in `Last-Event-ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Positions {
    partitions: u16,
    /// Rising by partition.
    list: Vec<(u16, EventId)>,
}

/// The text is neither an event id nor the positions of several partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is an event id, <milliseconds>-<sequence>, or several of them behind a ~")]
pub struct CursorError;

/// The beginning of a cursor of several positions.
const SEVERAL: char = '~';

impl Positions {
    /// How many positions fit into the 1024 bytes that a cursor may have, however long each is.
    pub const MOST: usize = 44;

    /// Positions by partition, of `partitions` in all. Each partition must be below that and come
    /// once; there may be [`Positions::MOST`].
    pub fn new(partitions: u16, positions: impl IntoIterator<Item = (u16, EventId)>) -> Self {
        let mut list: Vec<_> = positions.into_iter().collect();
        list.sort_unstable_by_key(|(partition, _)| *partition);
        debug_assert!(list.is_sorted_by(|(a, _), (b, _)| a < b) && list.len() <= Self::MOST);
        Positions { partitions, list }
    }

    /// How many partitions there were when the cursor was made.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The position in a partition; `None` if the stream had none there.
    pub fn of(&self, partition: u16) -> Option<EventId> {
        let found = self.list.binary_search_by_key(&partition, |(partition, _)| *partition);
        found.ok().map(|n| self.list[n].1)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(3 + 17 * self.list.len());
        put(&mut bytes, self.partitions.into());
        let (mut next, first) = (0, self.list.first().map_or(0, |(_, id)| id.ms));
        for (n, (partition, id)) in self.list.iter().enumerate() {
            put(&mut bytes, u64::from(partition - next));
            next = partition.saturating_add(1);
            put(&mut bytes, if n == 0 { id.ms } else { fold(id.ms as i64 - first as i64) });
            bytes.extend_from_slice(&(id.epoch() as u32).to_be_bytes());
            put(&mut bytes, id.seq & 0xFFFF);
        }
        bytes
    }

    /// Reads what `encode` writes; `None` for all else.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let partitions = u16::try_from(take(rest)?).ok()?;
        let (mut list, mut next, mut first) = (Vec::new(), 0_u64, 0);
        while !rest.is_empty() && list.len() < Self::MOST {
            let partition = u16::try_from(next.checked_add(take(rest)?)?).ok()?;
            next = u64::from(partition) + 1;
            let ms = take(rest)?;
            let ms = match list.is_empty() {
                true => ms,
                false => u64::try_from(unfold(ms).checked_add(first)?).ok()?,
            };
            let (epoch, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            let counter = u16::try_from(take(rest)?).ok()?;
            let seq = (u64::from(u32::from_be_bytes(*epoch)) << 16) | u64::from(counter);
            let id = EventId { ms, seq };
            if partition >= partitions || id > EventId::MAX || seq > EventId::MAX.seq {
                return None;
            }
            if list.is_empty() {
                first = i64::try_from(ms).ok()?;
            }
            list.push((partition, id));
        }
        (rest.is_empty() && !list.is_empty()).then_some(Positions { partitions, list })
    }
}

/// Appends a number, seven bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number that `put` appended.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// 0, -1, 1, -2, 2, … as 0, 1, 2, 3, 4, …
fn fold(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unfold(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

impl From<EventId> for Cursor {
    fn from(position: EventId) -> Self {
        Cursor::One(position)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let Some(encoded) = text.strip_prefix(SEVERAL) else {
            return text.parse().map(Cursor::One).map_err(|_| CursorError);
        };
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| CursorError)?;
        let positions = Positions::decode(&bytes).ok_or(CursorError)?;
        // A number can be written with more bytes than it needs. Only one text is a cursor.
        if positions.encode() != bytes {
            return Err(CursorError);
        }
        Ok(Cursor::Several(positions))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cursor::One(position) => position.fmt(f),
            Cursor::Several(positions) => {
                write!(f, "{SEVERAL}{}", URL_SAFE_NO_PAD.encode(positions.encode()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = EventId> {
        let parts = (0..=EventId::MAX.ms, 0..1_u32 << 28, any::<u16>());
        parts.prop_map(|(ms, epoch, counter)| EventId::new(ms, epoch, counter))
    }

    #[test]
    fn a_cursor_of_one_partition_is_written_as_its_event_id() {
        let cursor: Cursor = "5-65536".parse().unwrap();
        assert_eq!(cursor, Cursor::One(EventId { ms: 5, seq: 65536 }));
        assert_eq!(cursor.to_string(), "5-65536");
        assert!("5".parse::<Cursor>().is_err());
    }

    /// The vector of docs/redis-contract.md.
    #[test]
    fn a_cursor_of_several_partitions_has_this_text() {
        let id = |text: &str| text.parse::<EventId>().unwrap();
        let positions = Positions::new(
            16,
            [(9, id("1795412349206-885044477952")), (2, id("1795412348246-196611"))],
        );
        let cursor = Cursor::Several(positions.clone());
        assert_eq!(cursor.to_string(), "~EALWmqm3oDQAAAADAwaADwDOEMMA");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!(positions.of(9).map(|id| id.ms), Some(1_795_412_349_206));
        assert_eq!(positions.of(3), None);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        // Nothing; no position; padding; a number with a byte too many; a partition that there is
        // not; a byte too few and one too many.
        for text in ["", "~", "~EA", "~EAA=", "~", "~kAACAAAAAAMD", "~AgIFAAAAAwM", "~EAIFAAAAAw"] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
        assert!("~EAIFAAAAAwM".parse::<Cursor>().is_ok());
        assert!("~EAIFAAAAAwMA".parse::<Cursor>().is_err());
    }

    proptest! {
        #[test]
        fn cursors_are_read_as_they_were_written(
            partitions in 1..=u16::MAX,
            positions in proptest::collection::btree_map(any::<u16>(), id(), 1..=Positions::MOST),
        ) {
            let positions = positions.into_iter().map(|(p, id)| (p % partitions, id));
            let positions: std::collections::BTreeMap<_, _> = positions.collect();
            let few = positions.len() <= 5;
            let cursor = Cursor::Several(Positions::new(partitions, positions));
            let text = cursor.to_string();
            prop_assert!(text.len() <= if few { 128 } else { 1024 }, "{}", text.len());
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)));
            prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn a_text_has_one_reading(text in "~[A-Za-z0-9_-]{0,40}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}

//! Builds the calls of the library's functions. It only builds words and sends nothing, so the
//! gateway, the publishers and the tests call in the same way, whatever Redis client they use.
//!
//! A call is `FCALL <function's name>` or `EVALSHA <digest of eval_script(function)>`, followed by
//! its words.

use std::borrow::Cow;

use crate::{CONTRACT_VERSION, Channel, EventId, Function, Keys, MAX_BATCH};

/// Bytes of data, channels and keys in one call at most: Redis serves nobody else while it runs. A
/// single larger event still goes, alone.
const BATCH_BYTES: usize = 256 * 1024;

/// An event to publish.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// The event type; `None` for an untyped event.
    pub event: Option<&'a str>,
    /// The data.
    pub data: &'a [u8],
    /// Makes it harmless to publish the event again: a repetition returns the first event's id.
    pub idempotency_key: Option<&'a str>,
}

/// A part of one channel's history to read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// The channel.
    pub channel: Channel,
    /// The position to read after.
    pub after: EventId,
    /// Whether to read only the two newest events above the position.
    pub newest: bool,
}

/// What a gateway passes with every tick and every read: what it has seen of the data, and its
/// configured limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The highest position it has seen. A clock below it has lost events.
    pub seen: Option<EventId>,
    /// The highest count of ticks it has seen. A lower count means that the state went back in
    /// time.
    pub beat: Option<u64>,
    /// Events a history keeps at least.
    pub max_len: u64,
    /// Milliseconds an event is kept at least.
    pub ttl_ms: u64,
    /// Bytes of an event's data at most.
    pub max_data: u64,
    /// Milliseconds an idempotency key is remembered.
    pub idem_ttl_ms: u64,
    /// Whether the operator vouches that acknowledged writes survive a restart of Redis.
    pub durable: bool,
}

/// A call of a function: everything that follows the function's name or the script's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    function: Function,
    words: Vec<Cow<'a, [u8]>>,
}

impl<'a> Call<'a> {
    /// Publishes one event. With an epoch, Redis publishes it only if its data lives in that epoch.
    /// This guards against a deposed master, whose data lives in another epoch than its
    /// successor's.
    pub fn publish(keys: &Keys, item: &Publish<'a>, epoch: Option<u64>) -> Self {
        let mut call = Call::begin(Function::Publish, 6);
        call.text(keys.state(keys.partition(item.channel.as_str())));
        call.keys_of(keys, item);
        call.count_keys();
        call.words.push(Cow::Borrowed(item.data));
        if item.event.is_some() || epoch.is_some() {
            call.words.push(Cow::Borrowed(item.event.unwrap_or_default().as_bytes()));
        }
        if let Some(epoch) = epoch {
            call.text(epoch.to_string());
        }
        call
    }

    /// Publishes up to [`MAX_BATCH`] events in order. All channels must belong to this partition.
    /// The answer is an array with one text for each event, to be read by [`crate::batch_answer`].
    pub fn batch(keys: &Keys, partition: u16, items: &[Publish<'a>], epoch: Option<u64>) -> Self {
        debug_assert!(items.iter().all(|item| keys.partition(item.channel.as_str()) == partition));
        let mut call = Call::begin(Function::PublishBatch, 3 + 4 * items.len());
        call.text(keys.state(partition));
        for item in items {
            call.keys_of(keys, item);
        }
        call.count_keys();
        call.text(epoch.map_or(String::new(), |epoch| epoch.to_string()));
        for item in items {
            call.words.push(Cow::Borrowed(item.data));
            call.words.push(Cow::Borrowed(item.event.unwrap_or_default().as_bytes()));
        }
        call
    }

    /// Checks a partition's epoch, and raises its clock and its count of ticks.
    pub fn tick(keys: &Keys, partition: u16, caller: &Caller) -> Call<'static> {
        let mut call = Call::begin(Function::Tick, 12);
        call.text(keys.state(partition));
        call.count_keys();
        caller.words(keys.partitions()).into_iter().for_each(|word| call.text(word));
        call
    }

    /// The same for the first tick on a server of a Redis Cluster. If another process wrote the
    /// partition's state, the answer is `SSESTRANGE <its run id> <its replication id> …` unless
    /// `moved_from` is set: the run id of the process that the partition was moved from, or empty if its data may be lost.
    pub fn first_tick(
        keys: &Keys,
        partition: u16,
        caller: &Caller,
        moved_from: Option<&str>,
    ) -> Call<'static> {
        let mut call = Call::tick(keys, partition, caller);
        call.text(moved_from.unwrap_or("?").to_owned());
        call
    }

    /// Reads parts of histories and the clock in one atomic step. All channels must belong to this
    /// partition. Each part is cut behind the event that reaches `part_bytes`, all parts together
    /// behind the one that reaches `bytes`.
    pub fn read(
        keys: &Keys,
        partition: u16,
        caller: &Caller,
        (part_bytes, bytes): (usize, usize),
        parts: &[Part],
    ) -> Call<'static> {
        let of_partition = |part: &Part| keys.partition(part.channel.as_str()) == partition;
        debug_assert!(parts.iter().all(of_partition));
        let mut call = Call::begin(Function::Read, 13 + 2 * parts.len());
        call.text(keys.state(partition));
        parts.iter().for_each(|part| call.text(keys.history(&part.channel)));
        call.count_keys();
        caller.words(keys.partitions()).into_iter().for_each(|word| call.text(word));
        call.text(part_bytes.to_string());
        call.text(bytes.to_string());
        for part in parts {
            let mark = if part.newest { "~" } else { "" };
            call.text(format!("{mark}{}", part.after));
        }
        call
    }

    /// Begins a new epoch in a partition.
    pub fn fence(keys: &Keys, partition: u16) -> Call<'static> {
        let mut call = Call::begin(Function::Fence, 2);
        call.text(keys.state(partition));
        call.count_keys();
        call
    }

    /// Writes the caller's configured limits into a partition, which begins a new epoch there.
    pub fn settings(keys: &Keys, partition: u16, caller: &Caller) -> Call<'static> {
        let mut call = Call::begin(Function::Settings, 7);
        call.text(keys.state(partition));
        call.count_keys();
        let [_, _, limits @ .., _, _] = caller.words(keys.partitions());
        limits.into_iter().for_each(|word| call.text(word));
        call
    }

    /// The function that is called.
    pub fn function(&self) -> Function {
        self.function
    }

    /// The words of the call: the number of keys, the keys, the arguments.
    pub fn words(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.words.iter().map(|word| &**word)
    }

    /// Reserves the first word for the number of keys, which `count_keys` fills in.
    fn begin(function: Function, words: usize) -> Self {
        let mut call = Call { function, words: Vec::with_capacity(words) };
        call.words.push(Cow::Borrowed(b""));
        call
    }

    fn keys_of(&mut self, keys: &Keys, item: &Publish<'_>) {
        self.text(keys.history(item.channel));
        if let Some(key) = item.idempotency_key {
            self.text(keys.idempotency(item.channel, key));
        }
    }

    fn count_keys(&mut self) {
        self.words[0] = Cow::Owned((self.words.len() - 1).to_string().into_bytes());
    }

    fn text(&mut self, text: String) {
        self.words.push(Cow::Owned(text.into_bytes()));
    }
}

impl Caller {
    /// The nine arguments that begin every tick and every read.
    pub fn words(&self, partitions: u16) -> [String; 9] {
        [
            self.seen.map_or(String::new(), |id| id.to_string()),
            self.beat.map_or(String::new(), |beat| beat.to_string()),
            self.max_len.to_string(),
            self.ttl_ms.to_string(),
            self.max_data.to_string(),
            self.idem_ttl_ms.to_string(),
            u8::from(self.durable).to_string(),
            partitions.to_string(),
            CONTRACT_VERSION.to_string(),
        ]
    }
}

/// How many of the next events one batch should take, given the approximate bytes of each event: at
/// most [`MAX_BATCH`] events and 256 KiB, but always at least one event if there is any.
pub fn batch_len(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += size;
        bytes <= BATCH_BYTES || bytes == *size
    };
    sizes.into_iter().take(MAX_BATCH).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(call: &Call<'_>) -> Vec<String> {
        call.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn the_vectors_of_the_written_contract() {
        let (plain, split) = (Keys::new("sse", 1), Keys::new("sse", 16));
        let orders: Channel = "orders".parse().unwrap();
        let item = Publish { channel: &orders, event: None, data: b"hello", idempotency_key: None };
        let words = shown(&Call::publish(&plain, &item, None));
        assert_eq!(words, ["2", "sse:state", "sse:history:orders", "hello"]);
        let keyed = Publish { event: Some("tick"), idempotency_key: Some("k"), ..item };
        let words = shown(&Call::publish(&split, &keyed, Some(7)));
        let keys = ["3", "sse:{9}:state", "sse:{9}:history:orders", "sse:{9}:idem:orders|k"];
        assert_eq!(words, [&keys[..], &["hello", "tick", "7"]].concat());
        let words = shown(&Call::publish(&plain, &item, Some(7)));
        assert_eq!(words, ["2", "sse:state", "sse:history:orders", "hello", "", "7"]);

        let words = shown(&Call::batch(&split, 9, &[item, keyed], Some(7)));
        let keys = ["4", "sse:{9}:state", "sse:{9}:history:orders", "sse:{9}:history:orders"];
        let rest = ["sse:{9}:idem:orders|k", "7", "hello", "", "hello", "tick"];
        assert_eq!(words, [&keys[..], &rest].concat());
        let words = shown(&Call::batch(&plain, 0, &[item], None));
        assert_eq!(words, ["2", "sse:state", "sse:history:orders", "", "hello", ""]);
    }

    #[test]
    fn a_gateway_tells_what_it_has_seen_and_is_configured_for() {
        let caller = Caller {
            seen: Some(EventId { ms: 5, seq: 65536 }),
            beat: Some(3),
            max_len: 1000,
            ttl_ms: 60_000,
            max_data: 1 << 20,
            idem_ttl_ms: 600_000,
            durable: true,
        };
        let words = shown(&Call::tick(&Keys::new("sse", 2), 1, &caller));
        let state = ["1", "sse:{1}:state"];
        let rest = ["5-65536", "3", "1000", "60000", "1048576", "600000", "1", "2", "2"];
        assert_eq!(words, [&state[..], &rest].concat());
        let new = Caller { seen: None, beat: None, durable: false, ..caller };
        let words = new.words(1);
        assert_eq!((words[0].as_str(), words[1].as_str(), words[6].as_str()), ("", "", "0"));
    }

    #[test]
    fn a_read_names_each_history_and_where_to_begin() {
        let keys = Keys::new("sse", 1);
        let part = |name: &str, newest| {
            let after = EventId { ms: 5, seq: 65536 };
            Part { channel: name.parse().unwrap(), after, newest }
        };
        let caller = Caller {
            seen: None,
            beat: None,
            max_len: 1000,
            ttl_ms: 60_000,
            max_data: 100,
            idem_ttl_ms: 5000,
            durable: false,
        };
        let parts = [part("a", false), part("b", true)];
        let words = shown(&Call::read(&keys, 0, &caller, (10, 20), &parts));
        let names = ["3", "sse:state", "sse:history:a", "sse:history:b"];
        let of_caller = ["", "", "1000", "60000", "100", "5000", "0", "1", "2"];
        let rest = ["10", "20", "5-65536", "~5-65536"];
        assert_eq!(words, [&names[..], &of_caller, &rest].concat());
        let words = shown(&Call::settings(&keys, 0, &caller));
        assert_eq!(words, ["1", "sse:state", "1000", "60000", "100", "5000", "0"]);
        assert_eq!(shown(&Call::fence(&keys, 0)), ["1", "sse:state"]);
    }

    #[test]
    fn a_batch_is_bounded_in_events_and_in_bytes() {
        assert_eq!(batch_len([]), 0);
        assert_eq!(batch_len(vec![100; 1000]), MAX_BATCH);
        assert_eq!(batch_len([10 << 20, 1]), 1, "one too large for any batch goes alone");
        assert_eq!(batch_len([100 << 10; 9]), 2);
        assert_eq!(batch_len([1, 10 << 20]), 1);
    }
}

//! Tests of the library in a real Redis, without a gateway: what it promises to every caller, by
//! `FCALL` and by `EVALSHA`.

mod epochs;
mod histories;
mod publishing;
mod rights;
mod witness;

use std::net::SocketAddr;

use sse_contract::{
    Call, Caller, Channel, EventId, Function, Keys, LiveMessage, Meaning, Publish, batch_answer,
    decode_live, eval_script, library_source, meaning,
};
use sse_lab::resp::{Answer, Connection};

use crate::support::Redis;

/// Reads an answer as the contract defines it.
trait Meant {
    fn id(&self) -> EventId;
    fn meaning(&self) -> Meaning;
    /// The results of a batch.
    fn items(&self) -> Vec<Result<EventId, (Meaning, &str)>>;
}

impl Meant for Answer {
    #[track_caller]
    fn id(&self) -> EventId {
        self.text().parse().unwrap_or_else(|_| panic!("no id: {self:?}"))
    }

    #[track_caller]
    fn meaning(&self) -> Meaning {
        meaning(self.error())
    }

    #[track_caller]
    fn items(&self) -> Vec<Result<EventId, (Meaning, &str)>> {
        self.elements().iter().map(|item| batch_answer(item.text())).collect()
    }
}

/// A Redis with the library, and how to call its functions.
struct Library {
    redis: Redis,
    keys: Keys,
    /// The scripts' digests, in the order of [`Function::ALL`]. `None` to call by `FCALL`.
    digests: Option<Vec<String>>,
}

/// The arguments of a gateway with the default settings that has seen nothing.
const NEW: Caller = Caller {
    seen: None,
    beat: None,
    max_len: 1000,
    ttl_ms: 3_600_000,
    max_data: 1_048_576,
    idem_ttl_ms: 600_000,
    durable: false,
};

impl Library {
    fn functions(redis: Redis) -> Self {
        assert_eq!(redis.command(&["FUNCTION", "LOAD", "REPLACE", library_source()]), "sse");
        Library { redis, keys: Keys::new("sse", 1), digests: None }
    }

    fn scripts(redis: Redis) -> Self {
        let load = |function| redis.command(&["SCRIPT", "LOAD", &eval_script(function)]);
        let digests = Function::ALL.into_iter().map(load).collect();
        Library { redis, keys: Keys::new("sse", 1), digests: Some(digests) }
    }

    /// Runs a test twice: with functions and with scripts.
    fn both(args: &[&str], story: impl Fn(Library)) {
        story(Library::functions(Redis::start_with(args)));
        story(Library::scripts(Redis::start_with(args)));
    }

    /// Starts a Redis with the library as functions.
    fn start() -> Self {
        Library::functions(Redis::start())
    }

    fn call(&self, call: &Call<'_>) -> Answer {
        self.call_on(&mut Connection::to(self.redis.addr), call)
    }

    fn call_on(&self, connection: &mut Connection, call: &Call<'_>) -> Answer {
        let function = call.function();
        let head = match &self.digests {
            None => ["FCALL", function.name()],
            Some(digests) => ["EVALSHA", &digests[function as usize]],
        };
        connection.ask(head.into_iter().map(str::as_bytes).chain(call.words()))
    }

    /// Calls a function with any keys and arguments, also invalid ones.
    fn run(&self, function: Function, keys: &[&str], args: &[&str]) -> Answer {
        let count = keys.len().to_string();
        let head = match &self.digests {
            None => ["FCALL", function.name(), &count],
            Some(digests) => ["EVALSHA", &digests[function as usize], &count],
        };
        let words = head.iter().chain(keys).chain(args).map(|word| word.as_bytes());
        Connection::to(self.redis.addr).ask(words)
    }

    fn publish(&self, channel: &str, data: &str) -> Answer {
        self.call(&Call::publish(&self.keys, &event(&name(channel), data), None))
    }

    fn publish_in(&self, epoch: u64, channel: &str, data: &str) -> Answer {
        self.call(&Call::publish(&self.keys, &event(&name(channel), data), Some(epoch)))
    }

    fn publish_keyed(&self, channel: &str, key: &str, data: &str) -> Answer {
        let channel = name(channel);
        let item = Publish { idempotency_key: Some(key), ..event(&channel, data) };
        self.call(&Call::publish(&self.keys, &item, None))
    }

    fn publish_item(&self, item: &Item<'_>) -> Answer {
        let channel = name(item.channel);
        let (event_type, idempotency_key) = (item.event, item.key);
        let item = Publish { event: event_type, idempotency_key, ..event(&channel, item.data) };
        self.call(&Call::publish(&self.keys, &item, None))
    }

    fn batch(&self, items: &[Item<'_>]) -> Answer {
        let channels: Vec<Channel> = items.iter().map(|item| name(item.channel)).collect();
        let items: Vec<Publish<'_>> = items
            .iter()
            .zip(&channels)
            .map(|(item, channel)| Publish {
                event: item.event,
                idempotency_key: item.key,
                ..event(channel, item.data)
            })
            .collect();
        self.call(&Call::batch(&self.keys, 0, &items, None))
    }

    fn try_tick(&self, caller: Caller) -> Answer {
        self.call(&Call::tick(&self.keys, 0, &caller))
    }

    #[track_caller]
    fn tick(&self, caller: Caller) -> Tick {
        let answer = self.try_tick(caller);
        let fields = answer.elements();
        assert_eq!(fields.len(), 8, "{fields:?}");
        Tick {
            clock: fields[0].id(),
            now: fields[1].integer(),
            limits: fields[2..6].iter().map(Answer::integer).collect(),
            durable: fields[6].integer(),
            beat: fields[7].integer() as u64,
        }
    }

    fn read(&self, caller: Caller, ranges: &[(&str, &str)]) -> Snapshot {
        let answer = self.try_read(caller, (100_000, 1_000_000), ranges);
        let (head, ranges) = answer.elements().split_at(4);
        Snapshot { clock: head[0].id(), ranges: ranges.iter().map(Range::of).collect() }
    }

    /// Reads ranges with a budget of bytes for each and for all. Returns them, and whether each was
    /// cut.
    fn page(&self, budgets: (u32, u32), ranges: &[(&str, &str)]) -> (Vec<Range>, Vec<bool>) {
        let answer = self.try_read(NEW, budgets, ranges);
        let ranges = &answer.elements()[4..];
        let more = ranges.iter().map(|range| range.elements()[4].integer() == 1).collect();
        (ranges.iter().map(|range| Range::of(range).unwrap()).collect(), more)
    }

    fn try_read(
        &self,
        caller: Caller,
        (range_bytes, all_bytes): (u32, u32),
        ranges: &[(&str, &str)],
    ) -> Answer {
        let mut words = vec![(ranges.len() + 1).to_string(), self.keys.state(0)];
        words.extend(ranges.iter().map(|(channel, _)| format!("sse:history:{channel}")));
        words.extend(caller.words(1));
        words.extend([range_bytes.to_string(), all_bytes.to_string()]);
        words.extend(ranges.iter().map(|(_, after)| after.to_string()));
        let head = match &self.digests {
            None => ["FCALL", "sse_read"],
            Some(digests) => ["EVALSHA", &digests[Function::Read as usize]],
        };
        let words = head.into_iter().chain(words.iter().map(String::as_str)).map(str::as_bytes);
        Connection::to(self.redis.addr).ask(words)
    }

    fn get(&self, field: &str) -> String {
        self.redis.command(&["HGET", "sse:state", field])
    }

    fn set(&self, field: &str, value: &str) {
        self.redis.command(&["HSET", "sse:state", field, value]);
    }

    fn length(&self, channel: &str) -> String {
        self.redis.command(&["XLEN", &format!("sse:history:{channel}")])
    }

    /// A text that changes if anything in the data set does.
    fn digest(&self) -> String {
        let keys = self.redis.command(&["KEYS", "*"]);
        let mut keys: Vec<&str> = keys.lines().collect();
        keys.sort_unstable();
        let value = |key: &&str| self.redis.command(&["DEBUG", "DIGEST-VALUE", key]);
        keys.iter().map(|key| format!("{key} {}\n", value(key))).collect()
    }
}

/// The arguments of a Redis that allows [`Library::digest`].
const DEBUG: [&str; 2] = ["--enable-debug-command", "yes"];

#[derive(Debug, Clone, Copy, Default)]
struct Item<'a> {
    channel: &'a str,
    data: &'a str,
    event: Option<&'a str>,
    key: Option<&'a str>,
}

impl<'a> Item<'a> {
    fn new(channel: &'a str, data: &'a str) -> Self {
        Item { channel, data, event: None, key: None }
    }

    fn keyed(channel: &'a str, key: &'a str, data: &'a str) -> Self {
        Item { key: Some(key), ..Item::new(channel, data) }
    }
}

/// The answer to a tick.
#[derive(Debug, Clone, PartialEq)]
struct Tick {
    clock: EventId,
    now: i64,
    limits: Vec<i64>,
    durable: i64,
    beat: u64,
}

impl Tick {
    fn epoch(&self) -> u64 {
        self.clock.epoch()
    }

    /// The arguments of a gateway that has seen this tick.
    fn seen(&self) -> Caller {
        Caller { seen: Some(self.clock), beat: Some(self.beat), ..NEW }
    }
}

struct Snapshot {
    clock: EventId,
    ranges: Vec<Result<Range, String>>,
}

/// A range of a snapshot.
#[derive(Debug, Clone, PartialEq)]
struct Range {
    last: String,
    oldest: String,
    added: i64,
    length: i64,
    data: Vec<String>,
    types: Vec<String>,
}

impl Range {
    fn of(answer: &Answer) -> Result<Range, String> {
        match answer.elements() {
            [why] => Err(why.text().to_owned()),
            [last, oldest, added, length, _, entries] => Ok(Range {
                last: last.text().to_owned(),
                oldest: oldest.text().to_owned(),
                added: added.integer(),
                length: length.integer(),
                data: entries.elements().chunks(3).map(|e| e[1].text().to_owned()).collect(),
                types: entries.elements().chunks(3).map(|e| e[2].text().to_owned()).collect(),
            }),
            other => panic!("no range: {other:?}"),
        }
    }

    /// Whether nothing was ever removed from the history. If so, a gateway knows that no event is
    /// missing after a young position, although the oldest event is above the position.
    fn untrimmed(&self) -> bool {
        self.added == self.length
    }
}

fn name(channel: &str) -> Channel {
    channel.parse().unwrap()
}

fn event<'a>(channel: &'a Channel, data: &'a str) -> Publish<'a> {
    Publish { channel, event: None, data: data.as_bytes(), idempotency_key: None }
}

/// A Redis client that is subscribed to live channels.
struct Listener {
    connection: Connection,
    addr: SocketAddr,
    channels: Vec<String>,
}

impl Listener {
    fn on(redis: &Redis, channels: &[&str]) -> Self {
        let mut connection = Connection::to(redis.addr);
        for channel in channels {
            connection.ask([&b"SUBSCRIBE"[..], channel.as_bytes()]);
        }
        let channels = channels.iter().map(|channel| channel.to_string()).collect();
        Listener { connection, addr: redis.addr, channels }
    }

    /// The id and data of all events since the last call, in order.
    fn heard(&mut self) -> Vec<(EventId, String)> {
        let channel = self.channels[0].clone();
        let mark: [&[u8]; 3] = [b"PUBLISH", channel.as_bytes(), b"that is all"];
        Connection::to(self.addr).ask(mark);
        let mut events = Vec::new();
        loop {
            let message = self.connection.read();
            match decode_live(message.elements()[2].bytes()) {
                LiveMessage::Event { id, data, .. } => events.push((id, data.into_owned())),
                LiveMessage::Text(_) => return events,
                LiveMessage::Unknown => panic!("{message:?}"),
            }
        }
    }
}

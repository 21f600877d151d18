//! Measures what publishing costs Redis: microseconds per event, from its own `INFO commandstats`.
//! Compares single calls and batches, with and without idempotency keys, with bare `XADD` and
//! `PUBLISH`. Starts its own `redis-server`.
//!
//! Every round measures all ways of publishing in turn, so that a slowdown of the machine affects
//! all of them. The output is the median round and the fastest one.

use sse_contract::{Call, Caller, Channel, Keys, MAX_BATCH, Publish, library_source};
use sse_lab::redis_server::RedisServer;
use sse_lab::resp::{Connection, command};

/// How many events a round publishes in each way.
const EVENTS: usize = 6400;
const ROUNDS: usize = 15;
const DATA: [u8; 200] = [b'x'; 200];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    for channels in [10, 300, 8000] {
        let mut costs: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
        let mut redis = Redis::start();
        let mut load = Load::new(channels)?;
        redis.ask(&[b"FUNCTION", b"LOAD", library_source().as_bytes()])?;
        redis.call(&[Call::tick(&load.keys, 0, &LIMITS)])?;
        for round in 0..=ROUNDS {
            for (way, costs) in Way::ALL.iter().zip(&mut costs) {
                let cost = way.measure(&mut redis, &mut load)?;
                // The first round is not counted: its histories and memory are new.
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        println!("{channels} channels, events of {} bytes: µs an event", DATA.len());
        for (way, mut costs) in Way::ALL.iter().zip(costs) {
            costs.sort_by(f64::total_cmp);
            println!("  {:28} {:6.2}   at best {:6.2}", way.name(), costs[ROUNDS / 2], costs[0]);
        }
    }
    Ok(())
}

const LIMITS: Caller = Caller {
    seen: None,
    beat: None,
    max_len: 1000,
    ttl_ms: 3_600_000,
    max_data: 1 << 20,
    idem_ttl_ms: 600_000,
    durable: false,
};

/// A way to publish.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Single,
    KeyedSingle,
    Batch,
    KeyedBatch,
    /// The client sends `XADD` and `PUBLISH` itself, without what the library guarantees.
    Bare,
}

impl Way {
    const ALL: [Way; 5] = [Way::Single, Way::KeyedSingle, Way::Batch, Way::KeyedBatch, Way::Bare];

    fn name(self) -> &'static str {
        match self {
            Way::Single => "one event a call",
            Way::KeyedSingle => "the same with a key",
            Way::Batch => "batches of 64",
            Way::KeyedBatch => "the same with keys",
            Way::Bare => "XADD and PUBLISH alone",
        }
    }

    fn measure(self, redis: &mut Redis, load: &mut Load) -> Outcome<f64> {
        redis.ask(&[b"CONFIG", b"RESETSTAT"])?;
        for _ in 0..EVENTS / MAX_BATCH {
            let channels: Vec<Channel> = (0..MAX_BATCH).map(|_| load.channel()).collect();
            if self == Way::Bare {
                redis.bare(&channels)?;
                continue;
            }
            let keyed = matches!(self, Way::KeyedSingle | Way::KeyedBatch);
            let keys: Vec<Option<String>> =
                channels.iter().map(|_| keyed.then(|| load.next_key())).collect();
            let items: Vec<Publish<'_>> = channels
                .iter()
                .zip(&keys)
                .map(|(channel, key)| Publish {
                    channel,
                    event: None,
                    data: &DATA,
                    idempotency_key: key.as_deref(),
                })
                .collect();
            match self {
                Way::Batch | Way::KeyedBatch => {
                    redis.call(&[Call::batch(&load.keys, 0, &items, None)])?;
                }
                _ => {
                    let call = |item| Call::publish(&load.keys, item, None);
                    redis.call(&items.iter().map(call).collect::<Vec<_>>())?;
                }
            }
        }
        let commands: &[&str] = if self == Way::Bare { &["xadd", "publish"] } else { &["fcall"] };
        Ok(redis.microseconds(commands)? / EVENTS as f64)
    }
}

/// Hands out channels in turn, and idempotency keys that never repeat.
struct Load {
    keys: Keys,
    channels: Vec<Channel>,
    next: usize,
}

impl Load {
    fn new(channels: usize) -> Outcome<Self> {
        // 37 has no factor in common with the number of channels, so every channel occurs once and
        // channels with adjacent numbers do not follow each other.
        let channels: Result<Vec<Channel>, _> =
            (0..channels).map(|n| format!("user:{}", n * 37 % channels).parse()).collect();
        Ok(Load { keys: Keys::new("sse", 1), channels: channels?, next: 0 })
    }

    fn channel(&mut self) -> Channel {
        self.next += 1;
        self.channels[self.next % self.channels.len()].clone()
    }

    fn next_key(&mut self) -> String {
        self.next += self.channels.len();
        format!("key-{}", self.next)
    }
}

/// A `redis-server` and a connection to it.
struct Redis {
    connection: Connection,
    _server: RedisServer,
}

impl Redis {
    fn start() -> Self {
        let server = RedisServer::start();
        Redis { connection: Connection::to(server.addr), _server: server }
    }

    /// Sends the calls in one write. Fails if an answer is an error.
    fn call(&mut self, calls: &[Call<'_>]) -> Outcome<()> {
        let mut wire = Vec::new();
        for call in calls {
            let head = [b"FCALL".as_slice(), call.function().name().as_bytes()];
            command(&mut wire, head.into_iter().chain(call.words()));
        }
        self.connection.send(&wire);
        calls.iter().try_for_each(|_| self.answer().map(drop))
    }

    fn bare(&mut self, channels: &[Channel]) -> Outcome<()> {
        let mut wire = Vec::new();
        for channel in channels {
            let (history, live) = (format!("bare:history:{channel}"), format!("bare:{channel}"));
            let (history, live) = (history.as_bytes(), live.as_bytes());
            let xadd: [&[u8]; 8] =
                [b"XADD", history, b"MAXLEN", b"~", b"1000", b"*", b"data", &DATA];
            command(&mut wire, xadd);
            command(&mut wire, [b"PUBLISH".as_slice(), live, &DATA]);
        }
        self.connection.send(&wire);
        (0..2 * channels.len()).try_for_each(|_| self.answer().map(drop))
    }

    fn ask(&mut self, words: &[&[u8]]) -> Outcome<String> {
        let mut wire = Vec::new();
        command(&mut wire, words);
        self.connection.send(&wire);
        self.answer()
    }

    /// The microseconds that these commands have taken since the counters were reset.
    fn microseconds(&mut self, commands: &[&str]) -> Outcome<f64> {
        let stats = self.ask(&[b"INFO", b"commandstats"])?;
        let mut total = 0.0;
        for command in commands {
            let head = format!("cmdstat_{command}:");
            let line = stats.lines().find(|line| line.starts_with(&head)).ok_or("no statistics")?;
            let usec = line.split(',').find_map(|part| part.strip_prefix("usec="));
            total += usec.ok_or("no microseconds")?.parse::<f64>()?;
        }
        Ok(total)
    }

    /// Reads an answer and returns its texts, one per line. Fails if the answer, or an event in it,
    /// is an error.
    fn answer(&mut self) -> Outcome<String> {
        let answer = self.connection.read();
        let text = answer.to_string();
        let failed = answer.refusal().is_some() || text.lines().any(|line| line.starts_with("SSE"));
        if failed { Err(text.into()) } else { Ok(text) }
    }
}

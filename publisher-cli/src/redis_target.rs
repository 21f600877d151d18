//! Publishes straight to Redis, as `docs/redis-contract.md` says: pipelined calls of
//! `sse_publish_batch`. If the user may not load functions, the same code runs as a script.
//!
//! Every new connection checks the library, the partitions and the epochs again, because a restart
//! may have removed the library. A library newer than this program's is used and never replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult, Value, cmd,
};
use sse_contract::{
    CONTRACT_VERSION, Call, EventId, Function, Keys, Loading, Meaning, Publish, Reply, Step, Way,
    batch_len, is_passing,
};

use crate::attempt::{Answer, Attempt, Reason, Target};
use crate::item::Event;
use crate::plain::without_number;
use crate::redis_reply;

/// A Redis server to publish to.
pub struct RedisTarget {
    client: Client,
    prefix: String,
    /// The number of partitions that the user has given.
    partitions: Option<u16>,
    wait: Duration,
    session: Option<Session>,
}

/// A connection that is ready to publish.
struct Session {
    connection: MultiplexedConnection,
    keys: Keys,
    way: Way,
    /// The epoch of each partition that was published to; `None` if the partition has no state yet.
    /// Every call passes it, so that no event is written to data of another epoch.
    epochs: BTreeMap<u16, Option<u64>>,
}

/// Why no session could be opened.
enum NoSession {
    /// Another attempt may succeed.
    Passing(Reason),
    /// Another attempt would fail too.
    Final(Reason),
}

impl RedisTarget {
    /// Checks the URL. Connects only when something is sent. Without `partitions`, their number is
    /// read from Redis. `wait` is the longest wait for a connection or an answer.
    pub fn new(
        url: &str,
        prefix: &str,
        partitions: Option<u16>,
        wait: Duration,
    ) -> Result<Self, String> {
        // The error is not repeated, because it could quote the URL with its password.
        let info = url.into_connection_info().map_err(|error| {
            let detail = error.category().to_owned();
            format!("not a redis:// or rediss:// URL ({detail})")
        })?;
        if info.redis_settings().db() != 0 {
            return Err(
                "the gateway's keys are in database 0: pub/sub knows no databases".to_owned()
            );
        }
        let client = Client::open(info).map_err(|error| error.category().to_owned())?;
        Ok(RedisTarget { client, prefix: prefix.to_owned(), partitions, wait, session: None })
    }

    async fn open(&self) -> Result<Session, NoSession> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.wait))
            .set_response_timeout(Some(self.wait));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let keys = self.keys(&mut connection).await?;
        let way = prepare(&mut connection).await?;
        Ok(Session { connection, keys, way, epochs: BTreeMap::new() })
    }

    /// Reads how many partitions the data have, which determines the names of the keys. A single
    /// partition has its state under a plain name. Several partitions each have a state, and all
    /// states name the same number.
    async fn keys(&self, connection: &mut MultiplexedConnection) -> Result<Keys, NoSession> {
        let mut found = Vec::new();
        for state in [Keys::new(&self.prefix, 1).state(0), Keys::new(&self.prefix, 2).state(0)] {
            let read = cmd("HMGET").arg(&state).arg("partitions").arg("version").to_owned();
            let (partitions, version): (Option<u16>, Option<u32>) =
                match read.query_async(connection).await {
                    Ok(fields) => fields,
                    // The rights of this user may be limited to keys with plain names.
                    Err(error) if error.code() == Some("NOPERM") => continue,
                    Err(error) => return Err(error.into()),
                };
            if let Some(version) = version.filter(|&version| version != CONTRACT_VERSION) {
                return Err(NoSession::Final(Reason::new(format!(
                    "this Redis holds contract version {version}, this program speaks {CONTRACT_VERSION}"
                ))));
            }
            found.extend(partitions.map(|partitions| (partitions, state)));
        }
        match number(self.partitions, &found) {
            Ok(partitions) => Ok(Keys::new(&self.prefix, partitions)),
            Err(why) => Err(NoSession::Final(Reason::new(why))),
        }
    }
}

/// The number of partitions: the given one, or the one in a state that was found. The error says why
/// it is uncertain. Without any state there is one partition, because no gateway was ever here.
fn number(given: Option<u16>, found: &[(u16, String)]) -> Result<u16, String> {
    match (given, found) {
        (None, []) => Ok(1),
        (None, [(only, _)]) => Ok(*only),
        (None, [(one, state), (other, its_state), ..]) => Err(format!(
            "this Redis holds states of {one} partitions ({state}) and of {other} ({its_state}); \
             --partitions says which to use"
        )),
        (Some(given), found) if found.iter().all(|(number, _)| *number != given) => {
            match found.first() {
                None => Ok(given),
                Some((number, state)) => Err(format!(
                    "this Redis holds {number} partitions ({state}), --partitions says {given}"
                )),
            }
        }
        (Some(given), _) => Ok(given),
    }
}

/// Makes sure that the function can be called, by its name or as a script. Fails with Redis' last
/// error.
async fn prepare(connection: &mut MultiplexedConnection) -> RedisResult<Way> {
    let (mut loading, mut step) = Loading::begin(&[Function::PublishBatch]);
    let mut refusal = None;
    loop {
        match step {
            Step::Send(words) => {
                let answer = Cmd::new().arg(words).query_async::<Value>(connection).await;
                let reply = match answer {
                    Ok(Value::Int(n)) => {
                        refusal = None;
                        Reply::Integer(n)
                    }
                    Ok(value) => Reply::Text(redis::from_redis_value(value)?),
                    Err(error) if error.code().is_none() => return Err(error),
                    Err(error) => {
                        let text = redis_reply::words(&error);
                        refusal = Some(error);
                        Reply::Error(text)
                    }
                };
                step = loading.answered(reply);
            }
            Step::Done(way, _) => return Ok(way),
            Step::Failed(text) => {
                let odd = || RedisError::from((ErrorKind::Client, "no library", text));
                return Err(refusal.unwrap_or_else(odd));
            }
        }
    }
}

impl From<RedisError> for NoSession {
    fn from(error: RedisError) -> Self {
        let passing = match error.code() {
            Some(code) => is_passing(code),
            None => error.is_io_error(),
        };
        if passing {
            NoSession::Passing(Reason::new(describe(&error)))
        } else {
            NoSession::Final(Reason::new(format!("Redis refuses: {}", describe(&error))))
        }
    }
}

fn describe(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Io => without_number(&error.to_string()),
        _ => redis_reply::reason(error).text,
    }
}

impl Session {
    /// Reads the epochs of those partitions whose epochs are not known.
    async fn learn_epochs(&mut self, partitions: impl Iterator<Item = u16>) -> RedisResult<()> {
        for partition in partitions {
            if !self.epochs.contains_key(&partition) {
                let read = cmd("HGET").arg(self.keys.state(partition)).arg("id").to_owned();
                let clock: Option<String> = read.query_async(&mut self.connection).await?;
                let clock = clock.and_then(|clock| clock.parse::<EventId>().ok());
                self.epochs.insert(partition, clock.map(EventId::epoch));
            }
        }
        Ok(())
    }

    fn command(&self, partition: u16, events: &[&Event]) -> Cmd {
        let items: Vec<Publish<'_>> = events
            .iter()
            .map(|event| Publish {
                channel: &event.channel,
                event: event.event.as_ref().map(|event| event.as_str()),
                data: event.data.as_bytes(),
                idempotency_key: Some(&event.key),
            })
            .collect();
        let epoch = self.epochs.get(&partition).copied().flatten();
        let call = Call::batch(&self.keys, partition, &items, epoch);
        let words = self.way.words(&call).expect("the function is loaded");
        words.fold(Cmd::new(), |mut command, word| {
            command.arg(word);
            command
        })
    }
}

/// Splits the events into calls. Each call is a partition and the indices of some of its events, in
/// order, at most as many as a call may have.
fn calls(keys: &Keys, events: &[&Event]) -> Vec<(u16, Vec<usize>)> {
    let mut of_partition: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        of_partition.entry(keys.partition(event.channel.as_str())).or_default().push(at);
    }
    let mut calls = Vec::new();
    for (partition, mut places) in of_partition {
        while !places.is_empty() {
            let rest = places.split_off(batch_len(places.iter().map(|&at| events[at].size())));
            calls.push((partition, places));
            places = rest;
        }
    }
    calls
}

/// The answers to the events of one call.
fn answers(result: RedisResult<Vec<String>>, events: usize) -> Vec<Answer> {
    match result {
        Ok(texts) if texts.len() == events => {
            texts.iter().map(|text| redis_reply::answer(text)).collect()
        }
        Ok(texts) => {
            let text = format!("Redis gave {} answers to {events} events", texts.len());
            vec![Answer::Unknown(Reason::new(text)); events]
        }
        Err(error) => vec![redis_reply::call_answer(&error); events],
    }
}

/// Whether the next attempt must connect anew, to find the master, the library and the epochs.
fn leaves(result: &RedisResult<Vec<String>>) -> bool {
    let meaning = |error| redis_reply::call_meaning(error);
    // This includes the error of a demoted master: the host's name may already lead to its
    // successor.
    result.as_ref().is_err_and(|error| {
        matches!(meaning(error), Meaning::Missing | Meaning::OtherEpoch | Meaning::Unknown)
    })
}

impl Target for RedisTarget {
    fn place(&self) -> String {
        let info = self.client.get_connection_info();
        let scheme = match info.addr() {
            ConnectionAddr::TcpTls { .. } => "rediss",
            ConnectionAddr::Unix(_) => "unix",
            _ => "redis",
        };
        format!("{scheme}://{}", info.addr())
    }

    async fn send(&mut self, events: &[&Event]) -> Attempt {
        let all = events.len();
        let again = |reason, perhaps_published| Answer::Again { reason, perhaps_published };
        let mut session = match self.session.take() {
            Some(session) => session,
            None => match self.open().await {
                Ok(session) => session,
                Err(NoSession::Passing(reason)) => {
                    return Attempt {
                        connected: false,
                        ..Attempt::alike(all, again(reason, false))
                    };
                }
                Err(NoSession::Final(reason)) => {
                    let answer = Answer::Refused(reason);
                    return Attempt { connected: false, stop: true, ..Attempt::alike(all, answer) };
                }
            },
        };
        let calls = calls(&session.keys, events);
        if let Err(error) = session.learn_epochs(calls.iter().map(|call| call.0)).await {
            let reason = Reason::new(format!("cannot read the epoch: {}", describe(&error)));
            return Attempt::alike(all, again(reason, false));
        }
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for (partition, places) in &calls {
            let events: Vec<&Event> = places.iter().map(|&at| events[at]).collect();
            pipeline.add_command(session.command(*partition, &events));
        }
        let results: RedisResult<Vec<RedisResult<Vec<String>>>> =
            pipeline.query_async(&mut session.connection).await;
        match results {
            Ok(results) => {
                let mut in_order = vec![again(Reason::new("not sent"), false); all];
                let leave = results.iter().any(leaves);
                for ((_, places), result) in calls.iter().zip(results) {
                    for (&at, answer) in places.iter().zip(answers(result, places.len())) {
                        in_order[at] = answer;
                    }
                }
                // The epochs of partitions that had no state are read at the next attempt: now they
                // have one.
                session.epochs.retain(|_, epoch| epoch.is_some());
                self.session = Some(session).filter(|_| !leave);
                Attempt::of(in_order)
            }
            Err(error) => {
                let reason = Reason::new(format!(
                    "the connection broke: {}",
                    without_number(&error.to_string())
                ));
                Attempt::alike(all, again(reason, true))
            }
        }
    }
}

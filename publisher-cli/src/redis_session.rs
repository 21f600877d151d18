//! A connection to one master, and the calls that it is to run.
//!
//! Every new connection checks the library and the epochs again, because a restart may have removed
//! the library, and another server may have other data. A library newer than this program's is used
//! and never replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value, cmd};
use sse_contract::{
    Call, EventId, Function, Keys, Loading, Meaning, Publish, Reply, Step, Way, batch_len,
};

use crate::attempt::{Answer, Reason};
use crate::item::Event;
use crate::plain::without_number;
use crate::redis_error::{NoSession, describe, is_elsewhere};
use crate::redis_place::Server;
use crate::redis_reply;

/// A connection that is ready to publish.
pub(crate) struct Session {
    connection: MultiplexedConnection,
    way: Way,
    /// The epoch of each partition that was published to; `None` if the partition has no state yet.
    /// Every call passes it, so that no event is written to data of another epoch.
    epochs: BTreeMap<u16, Option<u64>>,
}

/// Some events of one partition, in order, at most as many as one call may have.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) partition: u16,
    /// The indices of the events.
    pub(crate) places: Vec<usize>,
}

/// Divides the events into batches, in order.
pub(crate) fn batches(keys: &Keys, events: &[&Event]) -> BTreeMap<u16, Vec<Batch>> {
    let mut of_partition: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        of_partition.entry(keys.partition(event.channel.as_str())).or_default().push(at);
    }
    let divided = of_partition.into_iter().map(|(partition, mut places)| {
        let mut batches = Vec::new();
        while !places.is_empty() {
            let rest = places.split_off(batch_len(places.iter().map(|&at| events[at].size())));
            batches.push(Batch { partition, places });
            places = rest;
        }
        (partition, batches)
    });
    divided.collect()
}

/// What one master is to publish.
pub(crate) struct Work {
    pub(crate) server: Server,
    /// The connection of an earlier attempt.
    pub(crate) session: Option<Session>,
    /// The batches that are sent together. A round is sent when the one before is answered.
    pub(crate) rounds: Vec<Vec<Batch>>,
    pub(crate) in_cluster: bool,
    /// Whether reasons name the server, because the URL does not.
    pub(crate) is_named: bool,
}

/// What came of it.
pub(crate) struct Done {
    pub(crate) server: Server,
    in_cluster: bool,
    is_named: bool,
    /// The connection, if it can be used again.
    pub(crate) session: Option<Session>,
    /// Whether there was a usable connection.
    pub(crate) connected: bool,
    /// Whether every further attempt would fail in the same way.
    pub(crate) stop: bool,
    /// An answer for each event, with its index.
    pub(crate) answers: Vec<(usize, Answer)>,
    /// What the node of a cluster said about slots: the words of its errors `MOVED`.
    pub(crate) moved: Vec<String>,
    /// Whether to find the master anew before the next attempt.
    pub(crate) lost: bool,
    /// Partitions of which an event waits for another attempt. They get nothing more, so that their
    /// events stay in order.
    waiting: BTreeSet<u16>,
}

impl Work {
    /// Publishes, round by round.
    pub(crate) async fn run(self, keys: &Keys, events: &[&Event], wait: Duration) -> Done {
        let Work { server, session, rounds, in_cluster, is_named } = self;
        let mut done = Done::new(server, in_cluster, is_named);
        let opened = match session {
            Some(session) => Ok(session),
            None => Session::open(&done.server, wait).await,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(no) => {
                done.refuse(rounds.into_iter().flatten(), no);
                return done;
            }
        };
        let mut rounds = rounds.into_iter();
        while let Some(round) = rounds.next() {
            let ready = done.ready(keys, &mut session, round).await;
            if ready.is_empty() {
                continue;
            }
            match session.publish(keys, events, &ready).await {
                Ok(results) => {
                    for (batch, result) in ready.into_iter().zip(results) {
                        if result.as_ref().is_err_and(is_elsewhere) {
                            session.epochs.remove(&batch.partition);
                        }
                        done.take_in(batch, result);
                    }
                    // The epochs of partitions that had no state are read at the next attempt: now
                    // they have one.
                    session.epochs.retain(|_, epoch| epoch.is_some());
                }
                Err(error) => {
                    let text = without_number(&error.to_string());
                    let reason = done.reason(&format!("the connection broke: {text}"));
                    done.again(ready, &reason, true);
                    done.again(rounds.by_ref().flatten(), &reason, false);
                    done.lost = true;
                }
            }
        }
        done.session = Some(session).filter(|_| !done.lost);
        done
    }
}

impl Done {
    fn new(server: Server, in_cluster: bool, is_named: bool) -> Self {
        Done {
            server,
            in_cluster,
            is_named,
            session: None,
            connected: true,
            stop: false,
            answers: Vec::new(),
            moved: Vec::new(),
            lost: false,
            waiting: BTreeSet::new(),
        }
    }

    /// The batches that can be sent now: those whose partition does not wait, and whose epoch is
    /// known.
    async fn ready(&mut self, keys: &Keys, session: &mut Session, round: Vec<Batch>) -> Vec<Batch> {
        let mut ready = Vec::new();
        for batch in round {
            if self.waiting.contains(&batch.partition) {
                self.again([batch], &Reason::new("not sent, as an earlier event waits"), false);
                continue;
            }
            match session.learn_epoch(keys, batch.partition).await {
                Ok(()) => ready.push(batch),
                Err(error) => {
                    self.lost |= !is_elsewhere(&error);
                    self.hear(&error);
                    let text = format!("cannot read the epoch: {}", describe(&error));
                    let reason = self.reason(&text);
                    self.again([batch], &reason, false);
                }
            }
        }
        ready
    }

    /// Takes in the answer to a call.
    fn take_in(&mut self, batch: Batch, result: RedisResult<Vec<String>>) {
        if let Err(error) = &result {
            self.hear(error);
            self.lost |= leaves(error);
        }
        let elsewhere = result.as_ref().is_err_and(is_elsewhere);
        let mut answers = answers(result, batch.places.len());
        if elsewhere && !self.in_cluster {
            answers.fill(Answer::Refused(redis_reply::node_of_a_cluster()));
        }
        for answer in &mut answers {
            match answer {
                Answer::Again { reason, .. } => {
                    self.waiting.insert(batch.partition);
                    reason.text = self.reason(&reason.text).text;
                }
                Answer::Unknown(reason) => reason.text = self.reason(&reason.text).text,
                Answer::Published(_) | Answer::Refused(_) => {}
            }
        }
        self.answers.extend(batch.places.into_iter().zip(answers));
    }

    /// All of these events wait for another attempt.
    fn again(
        &mut self,
        batches: impl IntoIterator<Item = Batch>,
        reason: &Reason,
        perhaps_published: bool,
    ) {
        let answer = Answer::Again { reason: reason.clone(), perhaps_published };
        for batch in batches {
            self.waiting.insert(batch.partition);
            self.answers.extend(batch.places.into_iter().map(|at| (at, answer.clone())));
        }
    }

    /// There is no connection for these events.
    fn refuse(&mut self, batches: impl IntoIterator<Item = Batch>, no: NoSession) {
        (self.connected, self.lost) = (false, true);
        self.stop = no.is_final();
        let no = if self.is_named { no.of(&self.server.to_string()) } else { no };
        let answer = no.answer();
        let places = batches.into_iter().flat_map(|batch| batch.places);
        self.answers.extend(places.map(|at| (at, answer.clone())));
    }

    fn hear(&mut self, error: &RedisError) {
        match error.code() {
            Some("MOVED") => self.moved.push(error.detail().unwrap_or_default().to_owned()),
            // The nodes miss the slot's owner. Another one may take its place.
            Some("CLUSTERDOWN") => self.lost = true,
            _ => {}
        }
    }

    /// The reason for this text, which names the server if need be.
    fn reason(&self, text: &str) -> Reason {
        Reason::new(match self.is_named {
            true => format!("{}: {text}", self.server),
            false => text.to_owned(),
        })
    }
}

impl Session {
    async fn open(server: &Server, wait: Duration) -> Result<Self, NoSession> {
        let mut connection = server.connect(wait).await?;
        // A user may lack the right to ask. Then a replica is noticed when it refuses to write.
        if let Ok(Value::Array(role)) = cmd("ROLE").query_async(&mut connection).await
            && role.first() == Some(&Value::BulkString(b"slave".to_vec()))
        {
            return Err(NoSession::new(false, "this Redis is a replica, a master is needed"));
        }
        let way = prepare(&mut connection).await?;
        Ok(Session { connection, way, epochs: BTreeMap::new() })
    }

    /// Reads a partition's epoch unless it is known.
    async fn learn_epoch(&mut self, keys: &Keys, partition: u16) -> RedisResult<()> {
        if !self.epochs.contains_key(&partition) {
            let read = cmd("HGET").arg(keys.state(partition)).arg("id").to_owned();
            let clock: Option<String> = read.query_async(&mut self.connection).await?;
            let clock = clock.and_then(|clock| clock.parse::<EventId>().ok());
            self.epochs.insert(partition, clock.map(EventId::epoch));
        }
        Ok(())
    }

    /// Sends one call for each batch, all at once. The error says that the connection broke.
    async fn publish(
        &mut self,
        keys: &Keys,
        events: &[&Event],
        batches: &[Batch],
    ) -> RedisResult<Vec<RedisResult<Vec<String>>>> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for Batch { partition, places } in batches {
            let events: Vec<&Event> = places.iter().map(|&at| events[at]).collect();
            pipeline.add_command(self.command(keys, *partition, &events));
        }
        pipeline.query_async(&mut self.connection).await
    }

    fn command(&self, keys: &Keys, partition: u16, events: &[&Event]) -> Cmd {
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
        let call = Call::batch(keys, partition, &items, epoch);
        let words = self.way.words(&call).expect("the function is loaded");
        words.fold(Cmd::new(), |mut command, word| {
            command.arg(word);
            command
        })
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

/// Whether the next attempt must connect anew, to find the master, the library and the epochs. This
/// includes the error of a demoted master: the host's name may already lead to its successor, and
/// the Sentinels may name it.
fn leaves(error: &RedisError) -> bool {
    let meaning = redis_reply::call_meaning(error);
    matches!(meaning, Meaning::Missing | Meaning::OtherEpoch | Meaning::Unknown)
}

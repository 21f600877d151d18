//! Publishes straight to Redis, as `docs/redis-contract.md` says: pipelined calls of
//! `sse_publish_batch`. If the user may not load functions, the same code runs as a script.
//!
//! The master may be one server, the one that Sentinels name, or one for each partition in a Redis
//! Cluster. The masters of a cluster are called at the same time. Within a partition the order is
//! kept: there a call is sent only once the one before is answered, because a cluster may refuse one
//! and run the next.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{RedisError, cmd};
use sse_contract::{CONTRACT_VERSION, Keys};

use crate::attempt::{Answer, Attempt, Reason, Target};
use crate::item::Event;
use crate::redis_error::{NoSession, is_elsewhere};
use crate::redis_place::{Place, Server};
use crate::redis_reply;
use crate::redis_session::{Batch, Done, Session, Work, batches};

/// How many partitions a Redis Cluster has where no gateway was yet: the gateway's default.
const IN_A_CLUSTER: u16 = 16;

/// A Redis to publish to.
pub struct RedisTarget {
    place: Place,
    prefix: String,
    /// The number of partitions that the user has given.
    partitions: Option<u16>,
    wait: Duration,
    /// The names of the keys. They are read again whenever a connection is made anew.
    keys: Option<Keys>,
    /// The connections to the masters, by their addresses.
    sessions: BTreeMap<String, Session>,
    /// The one master, if this is no cluster. It is found anew once its connection is gone.
    master: Option<Server>,
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
        let place = Place::parse(url)?;
        if place.is_cluster() && partitions == Some(1) {
            return Err(
                "in a Redis Cluster there are several partitions, not --partitions 1: the \
                        names of one without a number are in many slots"
                    .to_owned(),
            );
        }
        Ok(RedisTarget {
            place,
            prefix: prefix.to_owned(),
            partitions,
            wait,
            keys: None,
            sessions: BTreeMap::new(),
            master: None,
        })
    }

    /// The server that has these slots.
    async fn server(&mut self, slot: u16) -> Result<Server, NoSession> {
        if let Some(server) = &self.master {
            return Ok(server.clone());
        }
        let server = self.place.master(slot, self.wait).await?;
        if !self.place.is_cluster() {
            self.master = Some(server.clone());
        }
        Ok(server)
    }

    /// Reads how many partitions the data have, which determines the names of the keys. A single
    /// partition has its state under a plain name. Several partitions each have a state, and all
    /// states name the same number.
    async fn keys(&mut self) -> Result<Keys, NoSession> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        let in_cluster = self.place.is_cluster();
        let one = Keys::new(&self.prefix, 1).state(0);
        let several = Keys::new(&self.prefix, 2);
        let (slot, several) = (several.slot(0), several.state(0));
        let states = if in_cluster { vec![several] } else { vec![one, several] };
        self.place.find(&[slot], self.wait).await?;
        let server = self.server(slot).await?;
        let mut found = Vec::new();
        let read = async {
            let mut connection = server.connect(self.wait).await?;
            for state in states {
                let read = cmd("HMGET").arg(&state).arg("partitions").arg("version").to_owned();
                match read.query_async::<(Option<u16>, Option<u32>)>(&mut connection).await {
                    Ok((partitions, version)) => found.push((state, partitions, version)),
                    // The rights of this user may be limited to keys with plain names.
                    Err(error) if error.code() == Some("NOPERM") => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        if let Err(error) = read.await {
            return Err(self.unread(&error, &server));
        }
        let other = found
            .iter()
            .find_map(|(_, _, version)| version.filter(|&version| version != CONTRACT_VERSION));
        if let Some(version) = other {
            return Err(NoSession::new(
                true,
                format!(
                    "this Redis holds contract version {version}, this program speaks {CONTRACT_VERSION}"
                ),
            ));
        }
        let found: Vec<(u16, String)> =
            found.into_iter().filter_map(|(state, n, _)| Some((n?, state))).collect();
        let without = if in_cluster { IN_A_CLUSTER } else { 1 };
        let partitions = number(self.partitions, without, &found);
        let keys = Keys::new(&self.prefix, partitions.map_err(|why| NoSession::new(true, why))?);
        self.keys = Some(keys.clone());
        Ok(keys)
    }

    /// The state could not be read at this server.
    fn unread(&mut self, error: &RedisError, server: &Server) -> NoSession {
        self.forget();
        if !self.place.is_cluster() {
            if is_elsewhere(error) {
                return NoSession::Final(redis_reply::node_of_a_cluster());
            }
            let no = NoSession::from(error.clone());
            // Sentinels and master may have different passwords.
            return match &self.place {
                Place::Sentinel { .. } => no.of(&format!("the master {server}")),
                _ => no,
            };
        }
        if error.code() == Some("MOVED") {
            self.place.moved(error.detail().unwrap_or_default(), server);
        }
        match is_elsewhere(error) {
            true => NoSession::new(false, redis_reply::words(error)),
            false => NoSession::from(error.clone()),
        }
        .of(&server.to_string())
    }

    /// Finds the masters anew.
    fn forget(&mut self) {
        (self.master, self.keys) = (None, None);
        self.place.forget();
    }

    /// Divides the batches among the masters. The error is the trouble of all of them.
    async fn divide(
        &mut self,
        keys: &Keys,
        batches: BTreeMap<u16, Vec<Batch>>,
    ) -> Result<Vec<Work>, NoSession> {
        let slots: Vec<u16> = batches.keys().map(|partition| keys.slot(*partition)).collect();
        self.place.find(&slots, self.wait).await?;
        let in_cluster = self.place.is_cluster();
        let is_named = !matches!(self.place, Place::Server(_));
        let mut works: BTreeMap<String, Work> = BTreeMap::new();
        for (partition, batches) in batches {
            let server = self.server(keys.slot(partition)).await?;
            let name = server.to_string();
            let session = self.sessions.remove(&name);
            let work = works.entry(name).or_insert_with(|| Work {
                server,
                session: None,
                rounds: Vec::new(),
                in_cluster,
                is_named,
            });
            work.session = work.session.take().or(session);
            for (n, batch) in batches.into_iter().enumerate() {
                let round = if in_cluster { n } else { 0 };
                if work.rounds.len() <= round {
                    work.rounds.push(Vec::new());
                }
                work.rounds[round].push(batch);
            }
        }
        Ok(works.into_values().collect())
    }

    /// Takes in what came of the masters' work. Returns the attempt.
    fn collect(&mut self, events: usize, all: Vec<Done>) -> Attempt {
        let unsent = Answer::Again { reason: Reason::new("not sent"), perhaps_published: false };
        let mut answers = vec![unsent; events];
        let (mut connected, mut stop, mut lost) = (false, false, false);
        for done in all {
            (connected, stop) = (connected | done.connected, stop | done.stop);
            lost |= done.lost;
            for words in &done.moved {
                self.place.moved(words, &done.server);
            }
            if let Some(session) = done.session {
                self.sessions.insert(done.server.to_string(), session);
            }
            for (at, answer) in done.answers {
                answers[at] = answer;
            }
        }
        if lost {
            self.forget();
        }
        Attempt { connected, stop, ..Attempt::of(answers) }
    }
}

/// The number of partitions: the given one, or the one in a state that was found. The error says why
/// it is uncertain. Without any state it is `without`, because no gateway was ever here.
fn number(given: Option<u16>, without: u16, found: &[(u16, String)]) -> Result<u16, String> {
    match (given, found) {
        (None, []) => Ok(without),
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

impl Target for RedisTarget {
    fn place(&self) -> String {
        self.place.to_string()
    }

    async fn send(&mut self, events: &[&Event]) -> Attempt {
        let divided = match self.keys().await {
            Ok(keys) => {
                let batches = batches(&keys, events);
                self.divide(&keys, batches).await.map(|works| (keys, works))
            }
            Err(no) => Err(no),
        };
        let (keys, works) = match divided {
            Ok(divided) => divided,
            Err(no) => {
                let answers = Attempt::alike(events.len(), no.answer());
                return Attempt { connected: false, stop: no.is_final(), ..answers };
            }
        };
        let works = works.into_iter().map(|work| work.run(&keys, events, self.wait));
        let all = join_all(works).await;
        self.collect(events.len(), all)
    }
}

//! Changes the number of partitions that Redis holds, while no gateway runs.
//!
//! The number is in the state of the first partition: a gateway with another one refuses to start.
//! So the other old states are deleted first. The first old state is deleted and the first new one
//! created in one transaction, and then the other new ones are created. After a crash Redis holds
//! the old number or the new one, and a second call does what is left.
//!
//! Histories and idempotency keys of the old number are left alone. They expire by themselves, and
//! nobody reads them under names that are not in use.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use sse_contract::Keys;

use crate::broker::redis::calls::Calls;
use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::place::{Place, Server};
use crate::broker::redis::resp::Value;
use crate::broker::redis::settings::{BadRedis, RedisSettings};
use crate::broker::redis::survey::{self, FIELDS, MOST, Name, Plan, State, Survey};
use crate::feed::clock::unix_ms;

/// How many revocations are written in one command.
const REVOCATIONS: usize = 500;

/// What became of the revocations.
#[derive(Debug, PartialEq, Eq)]
pub enum Revocations {
    /// They have the same name with the new number.
    Stay(String),
    /// So many were copied from one name to the other.
    Copied(usize, String, String),
}

/// Talks to the masters of all partitions, old and new.
pub struct Repartition {
    settings: RedisSettings,
    place: Place,
    /// The masters that were found, by slot.
    masters: HashMap<u16, Server>,
    connections: HashMap<Arc<str>, Connection>,
    /// The calls that create the new states.
    calls: BTreeMap<u16, Calls>,
}

impl Repartition {
    /// Reads the PEM files, and connects to nothing yet. Fails if a file or the address is invalid.
    pub fn new(settings: RedisSettings) -> Result<Self, BadRedis> {
        Ok(Repartition {
            place: Place::of(&settings)?,
            settings,
            masters: HashMap::new(),
            connections: HashMap::new(),
            calls: BTreeMap::new(),
        })
    }

    /// Whether it is a Redis Cluster, where a single partition is not possible.
    pub fn is_cluster(&self) -> bool {
        self.place.moves_partitions()
    }

    /// How long to wait for a tick of every gateway that runs.
    pub fn patience(&self) -> Duration {
        self.settings.tick * 2 + Duration::from_millis(500)
    }

    /// Reads the states that tell a number. One that this user may not read is passed over.
    pub async fn telling(&mut self) -> Result<Survey, String> {
        self.read(1, None).await
    }

    /// Reads the states of all partitions that there may be. A state that this user may not read is
    /// passed over, unless it is one of the old or the new number.
    pub async fn survey(&mut self, to: u16) -> Result<Survey, String> {
        self.read(MOST, Some(to)).await
    }

    /// The addresses of a Redis Cluster's masters, each with its share of so many partitions. `None`
    /// if there is one master.
    pub async fn shares(
        &self,
        partitions: u16,
    ) -> Result<Option<Vec<(Arc<str>, Vec<u16>)>>, String> {
        let keys = Keys::new(&*self.settings.prefix, partitions);
        let slots: Vec<u16> = (0..partitions).map(|partition| keys.slot(partition)).collect();
        let timeout = self.settings.connect_timeout;
        let told = tokio::time::timeout(timeout, self.place.shares(&slots)).await;
        let told = told.unwrap_or(Err(SessionError::Timeout(timeout)));
        let told = told.map_err(|error| format!("Redis at {}: {error}", self.place.addr()))?;
        let partitions = |owned: Vec<u16>| {
            (0..partitions).filter(|p| owned.contains(&slots[usize::from(*p)])).collect()
        };
        let share =
            |(server, owned): (Server, Vec<u16>)| (server.addr().clone(), partitions(owned));
        Ok(told.map(|masters| masters.into_iter().map(share).collect()))
    }

    async fn read(&mut self, most: u16, to: Option<u16>) -> Result<Survey, String> {
        let plain = (!self.is_cluster()).then_some(Name { tagged: false, partition: 0 });
        let tagged = (0..most).map(|partition| Name { tagged: true, partition });
        let mut states: Vec<State> = Vec::new();
        for name in plain.into_iter().chain(tagged) {
            // The first states come first, so the old number is known by then.
            let old = states.iter().filter_map(|state| state.number).max().unwrap_or(0);
            let must = |to| name.tells() || name.is_of(to) || name.partition < old;
            states.extend(self.state(name, to.is_some_and(must)).await?);
        }
        Ok(Survey { states })
    }

    async fn state(&mut self, name: Name, must: bool) -> Result<Option<State>, String> {
        let key = self.key(name);
        let cmd = redis::cmd("HMGET").arg(&key).arg(&FIELDS[..]).to_owned();
        self.call(name, &cmd, |value| match value {
            Value::Error(text) if !must && text.starts_with(b"NOPERM") => Ok(None),
            value => Ok(survey::state(name, key.clone(), checked(value)?)),
        })
        .await
    }

    /// Begins a change, which fails from now on if a gateway starts or a publisher publishes in the
    /// first partition before it is made. Fails if a gateway has ticked since `before`.
    pub async fn begin(&mut self, before: &Survey, plan: &Plan) -> Result<(), String> {
        // The operator may have thought for longer than an idle connection lives.
        self.masters.clear();
        self.connections.clear();
        self.load(plan).await?;
        let first = Name::of(plan.to, 0);
        let mut watch = redis::cmd("WATCH");
        watch.arg(self.key(first));
        if !self.is_cluster() {
            watch.arg(self.key(Name { tagged: !first.tagged, partition: 0 }));
        }
        self.call(first, &watch, |value| checked(value).map(drop)).await?;
        match self.survey(plan.to).await?.ticked_since(before) {
            Some(state) => Err(started(state)),
            None => Ok(()),
        }
    }

    /// Loads the library where the new states will be.
    async fn load(&mut self, plan: &Plan) -> Result<(), String> {
        let keys = Keys::new(&*self.settings.prefix, plan.to);
        for &partition in &plan.missing {
            let calls = Calls::new(keys.clone(), partition, plan.limits, self.settings.page_bytes);
            plan.seen.into_iter().for_each(|clock| calls.saw(clock));
            let (name, timeout) = (Name::of(plan.to, partition), self.settings.answer_timeout);
            let (addr, connection) = self.connection(name).await?;
            let ensured = calls.library.ensure(async |cmd| connection.ask(&cmd).await);
            let ensured: Result<(), SessionError> = tokio::time::timeout(timeout, ensured)
                .await
                .unwrap_or(Err(SessionError::Timeout(timeout)));
            ensured.map_err(|error| self.failed(name, &addr, &error))?;
            self.calls.insert(partition, calls);
        }
        Ok(())
    }

    /// Copies the revocations that still hold to their name with the new number. What is there is
    /// kept. The old set expires by itself.
    pub async fn copy_revocations(&mut self, plan: &Plan) -> Result<Revocations, String> {
        let to = Name::of(plan.to, 0);
        let from = Name { tagged: !to.tagged, partition: 0 };
        let [source, target] = [from, to].map(|name| name.keys(&self.settings.prefix).revoked());
        if !plan.old.iter().any(|state| state.name.tagged == from.tagged) && !plan.old.is_empty() {
            return Ok(Revocations::Stay(target));
        }
        // In a Redis Cluster there are always several partitions.
        if self.is_cluster() {
            return Ok(Revocations::Stay(target));
        }
        let mut read = redis::cmd("ZRANGE");
        read.arg(&source).arg(format!("({}", unix_ms())).arg("+inf").arg("BYSCORE");
        let found = self.call(from, read.arg("WITHSCORES"), |value| pairs(checked(value)?)).await?;
        for some in found.chunks(REVOCATIONS) {
            let mut add = redis::cmd("ZADD");
            // A revocation that is kept for longer is kept for that long.
            add.arg(&target).arg("GT");
            for (revocation, end) in some {
                add.arg(*end).arg(&revocation[..]);
            }
            self.call(to, &add, |value| checked(value).map(drop)).await?;
        }
        let mut last = redis::cmd("ZRANGE");
        last.arg(&target).arg(-1).arg(-1).arg("WITHSCORES");
        if let [(_, end)] = self.call(to, &last, |value| pairs(checked(value)?)).await?[..] {
            let expire = redis::cmd("PEXPIREAT").arg(&target).arg(end).to_owned();
            self.call(to, &expire, |value| checked(value).map(drop)).await?;
        }
        Ok(Revocations::Copied(found.len(), source, target))
    }

    /// Deletes the old states that tell no number, each with its witness. Returns their partitions.
    pub async fn delete_others(&mut self, plan: &Plan) -> Result<Vec<u16>, String> {
        let mut deleted = Vec::new();
        for state in plan.old.iter().rev().filter(|state| !state.name.tells()) {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(state.all_keys(&self.settings.prefix));
            self.call(state.name, &unlink, |value| checked(value).map(drop)).await?;
            deleted.push(state.name.partition);
        }
        deleted.reverse();
        Ok(deleted)
    }

    /// Deletes the states that tell another number, and creates the first state of the new number,
    /// in one transaction. Fails without a change if the first partition's state has been changed
    /// since [`Repartition::begin`].
    pub async fn change(&mut self, plan: &Plan) -> Result<(), String> {
        let first = Name::of(plan.to, 0);
        let mut cmds = Vec::new();
        let telling = plan.old.iter().filter(|state| state.name.tells());
        let keys: Vec<String> =
            telling.flat_map(|state| state.all_keys(&self.settings.prefix)).collect();
        if !keys.is_empty() {
            cmds.push(redis::cmd("UNLINK").arg(keys).to_owned());
        }
        cmds.extend(self.calls.get(&0).map(Calls::tick));
        self.call(first, &redis::cmd("MULTI"), |value| checked(value).map(drop)).await?;
        for cmd in &cmds {
            self.call(first, cmd, |value| checked(value).map(drop)).await?;
        }
        self.call(first, &redis::cmd("EXEC"), |value| match checked(value)? {
            Value::Null => Err(SessionError::Refused(CHANGED.to_owned())),
            value => value.elements().iter().try_for_each(|value| checked(value).map(drop)),
        })
        .await
    }

    /// Creates the states of the other partitions that have none. Returns these partitions.
    pub async fn create_others(&mut self, plan: &Plan) -> Result<Vec<u16>, String> {
        let others: Vec<u16> = plan.missing.iter().copied().filter(|p| *p > 0).collect();
        for partition in &others {
            let tick = self.calls[partition].tick();
            let name = Name::of(plan.to, *partition);
            self.call(name, &tick, |value| checked(value).map(drop)).await?;
        }
        Ok(others)
    }

    /// Creates the states that an interrupted change left out. Returns their partitions.
    pub async fn complete(&mut self, plan: &Plan) -> Result<Vec<u16>, String> {
        self.load(plan).await?;
        self.create_others(plan).await
    }

    fn key(&self, name: Name) -> String {
        name.keys(&self.settings.prefix).state(name.partition)
    }

    fn failed(&self, name: Name, addr: &str, error: &SessionError) -> String {
        let (partition, key) = (name.partition, self.key(name));
        format!("Redis at {addr}, partition {partition} ({key}): {error}")
    }

    /// The connection to the master of this name's slot.
    async fn connection(&mut self, name: Name) -> Result<(Arc<str>, &mut Connection), String> {
        let slot = match self.is_cluster() {
            true => name.keys(&self.settings.prefix).slot(name.partition),
            false => 0,
        };
        let timeout = self.settings.connect_timeout;
        if !self.masters.contains_key(&slot) {
            let place = self.place.at_slot(slot);
            let told = tokio::time::timeout(timeout, place.master()).await;
            let told = told.unwrap_or(Err(SessionError::Timeout(timeout)));
            let server = told.map_err(|error| self.failed(name, &place.addr(), &error))?;
            self.masters.insert(slot, server);
        }
        let server = &self.masters[&slot];
        let addr = server.addr().clone();
        if !self.connections.contains_key(&addr) {
            let connected = connector::connect(server, timeout).await;
            let connection = connected.map_err(|error| self.failed(name, &addr, &error))?;
            self.connections.insert(addr.clone(), connection);
        }
        Ok((addr.clone(), self.connections.get_mut(&addr).expect("it was inserted")))
    }

    async fn call<T>(
        &mut self,
        name: Name,
        cmd: &Cmd,
        read: impl FnOnce(&Value<'_>) -> Result<T, SessionError>,
    ) -> Result<T, String> {
        let timeout = self.settings.answer_timeout;
        let (addr, connection) = self.connection(name).await?;
        let answered = tokio::time::timeout(timeout, connection.call(cmd, read)).await;
        let answered = answered.unwrap_or(Err(SessionError::Timeout(timeout)));
        answered.and_then(|answer| answer).map_err(|error| self.failed(name, &addr, &error))
    }
}

/// The state of the first partition was changed between `begin` and `change`.
const CHANGED: &str = "the state was changed meanwhile: a gateway or a publisher was started; stop \
                       it and call again";

/// The refusal because of a gateway that has ticked.
pub fn started(state: &State) -> String {
    format!(
        "nothing is changed: a gateway still runs, because {state} was ticked; stop all gateways \
         and call again"
    )
}

/// An answer that is no error.
fn checked<'a, 'b>(value: &'a Value<'b>) -> Result<&'a Value<'b>, SessionError> {
    match value {
        Value::Error(text) => {
            Err(SessionError::Refused(String::from_utf8_lossy(text).into_owned()))
        }
        value => Ok(value),
    }
}

/// Reads a sorted set's members with their scores, which are whole milliseconds.
fn pairs(value: &Value<'_>) -> Result<Vec<(Vec<u8>, u64)>, SessionError> {
    let pair = |value: &Value<'_>| match value.elements() {
        [Value::Text(member), score] => {
            Some((member.to_vec(), score.text()?.parse::<f64>().ok()? as u64))
        }
        _ => None,
    };
    let odd = || SessionError::Refused(format!("ZRANGE answered {value:?}"));
    value.elements().iter().map(|value| pair(value).ok_or_else(odd)).collect()
}

#[cfg(test)]
mod tests {
    use sse_lab::redis_server::RedisServer;

    use super::*;
    use crate::config::Config;

    /// A gateway may start between the check and the change.
    #[tokio::test]
    async fn a_state_that_is_changed_meanwhile_stops_the_change() {
        let server = RedisServer::start();
        let pairs = [("redis.url".to_owned(), server.url())];
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        let limits = RedisSettings::of(&config).limits;
        let mut redis = Repartition::new(RedisSettings::of(&config)).unwrap();
        let none = redis.survey(1).await.unwrap();
        let plan = none.plan(1, limits);
        redis.begin(&none, &plan).await.unwrap();
        redis.change(&plan).await.unwrap();
        let one = redis.survey(4).await.unwrap();
        let plan = one.plan(4, limits);
        for key in ["sse:state", "sse:{0}:state"] {
            let now = redis.survey(4).await.unwrap();
            redis.begin(&now, &plan).await.unwrap();
            server.command(&["HSET", key, "other", "1"]);
            let error = redis.change(&plan).await.unwrap_err();
            assert!(error.contains("changed meanwhile"), "{error}");
            assert_eq!(server.command(&["HGET", "sse:state", "partitions"]), "1");
            server.command(&["HDEL", key, "other"]);
        }
        server.command(&["HINCRBY", "sse:state", "beat", "1"]);
        let error = redis.begin(&one, &plan).await.unwrap_err();
        assert!(error.contains("a gateway still runs"), "{error}");
        let now = redis.survey(4).await.unwrap();
        redis.begin(&now, &plan).await.unwrap();
        redis.change(&plan).await.unwrap();
        assert_eq!(server.command(&["EXISTS", "sse:state", "sse:{0}:state"]), "1");
    }
}

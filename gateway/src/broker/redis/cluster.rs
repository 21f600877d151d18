//! Finds the server of a Redis Cluster that owns a partition's slot, and asks the nodes how the
//! partition came there.
//!
//! Source: redis.io, "Redis cluster specification".

mod topology;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::broker::redis::cluster::topology::{Node, Slots, addresses, moves_to, node_id, nodes};
use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::moved::{Evidence, Given, Life, Verdict};
use crate::broker::redis::place::Server;
use crate::broker::redis::resp::Value;

/// A node that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a node is asked whether it has moved a slot.
const LOOK: Duration = Duration::from_millis(10);

/// The nodes of a Redis Cluster, as far as they are known.
#[derive(Debug)]
pub struct Cluster {
    /// Where to ask first. At least one; any node will do.
    seeds: Vec<Server>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The nodes of the last answer, by address.
    nodes: Vec<(String, u16)>,
    /// Where a node said that a slot has gone. It knew better than the last answer.
    gone: HashMap<u16, (String, u16)>,
    evidence: Evidence,
    /// The server of each slot's last session.
    servers: HashMap<u16, Server>,
}

impl Cluster {
    /// A cluster of which these nodes are known.
    pub(crate) fn new(seeds: Vec<Server>) -> Self {
        Cluster { seeds, known: Mutex::default() }
    }

    /// The addresses of the seeds, for messages before a node is known.
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<&str> = self.seeds.iter().map(|server| &**server.addr()).collect();
        format!("the cluster of {}", addrs.join(", "))
    }

    /// The server that owns a slot. The error says of each node why it did not tell, or that no node
    /// owns the slot.
    pub(crate) async fn owner(&self, slot: u16) -> Result<Server, SessionError> {
        if let Some((host, port)) = self.known().gone.remove(&slot) {
            return Ok(self.seeds[0].at(&host, port));
        }
        let found = self.told(|slots| match slots.owner(slot) {
            Some(node) => Ok(self.seeds[0].at(&node.host, node.port)),
            None => Err(format!("no node owns slot {slot}")),
        });
        found.await.map_err(|why| {
            let text = format!("the cluster does not tell where slot {slot} is: {why}");
            SessionError::Refused(text)
        })
    }

    /// The masters that own slots, by address, each with those of these slots that it owns. The error
    /// says of each node why it did not tell.
    pub(crate) async fn shares(&self, of: &[u16]) -> Result<Vec<(Server, Vec<u16>)>, SessionError> {
        let mut masters = self.told(|slots| Ok(slots.masters())).await.map_err(|why| {
            SessionError::Refused(format!("the cluster does not tell its masters: {why}"))
        })?;
        masters.sort_by(|(a, _), (b, _)| (&a.host, a.port).cmp(&(&b.host, b.port)));
        let owned = |ranges: &[(u16, u16)]| {
            let owns =
                |slot: &&u16| ranges.iter().any(|(first, last)| (first..=last).contains(slot));
            of.iter().filter(owns).copied().collect()
        };
        let at = |node: &Node| self.seeds[0].at(&node.host, node.port);
        Ok(masters.iter().map(|(node, ranges)| (at(node), owned(ranges))).collect())
    }

    /// What the first node tells that has an answer. The error says of each why it has none.
    async fn told<T>(&self, read: impl Fn(&Slots) -> Result<T, String>) -> Result<T, String> {
        let mut failures = Vec::new();
        for server in self.candidates() {
            let told = match self.slots(&server).await {
                Ok(slots) => {
                    self.known().nodes.clone_from(&slots.nodes);
                    read(&slots)
                }
                Err(error) => Err(error.to_string()),
            };
            match told {
                Ok(told) => return Ok(told),
                Err(why) => failures.push(format!("{}: {why}", server.addr())),
            }
        }
        Err(failures.join("; "))
    }

    /// Notes an error that says where a slot has gone: `MOVED <slot> <host>:<port>`.
    pub(crate) fn heard(&self, error: &str) {
        let mut words = error.split_whitespace();
        let (Some("MOVED"), Some(slot), Some(addr)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        let Some((host, port)) = addr.rsplit_once(':') else { return };
        // Without a host it is the one that answered, which the next topology tells.
        if let (Ok(slot), Ok(port), false) = (slot.parse(), port.parse(), host.is_empty()) {
            self.known().gone.insert(slot, (host.to_owned(), port));
        }
    }

    /// Notes that a slot's session with this master, at the other end of the connection, begins.
    pub(crate) async fn begins(
        &self,
        slot: u16,
        server: &Server,
        connection: &mut Connection,
    ) -> Result<(), SessionError> {
        let (life, node) = (life(connection).await?, node_id(connection).await?);
        let mut known = self.known();
        known.servers.insert(slot, server.clone());
        known.evidence.begins(slot, node, life, Instant::now());
        Ok(())
    }

    /// Notes that a tick of a slot's partition was answered.
    pub(crate) fn ticks(&self, slot: u16) {
        self.known().evidence.ticks(slot, Instant::now());
    }

    /// Asks the server of a slot's last session who has the slot, and notes that for the next one. The
    /// server may be stopped once it has given everything away. While it moves the slot, it is asked
    /// again: a master that gives away its last slot is a replica in the same moment, and proves
    /// nothing any more.
    pub(crate) async fn gives(&self, slot: u16) {
        let Some(server) = self.known().servers.get(&slot).cloned() else { return };
        match tokio::time::timeout(PATIENCE, given(&server, slot)).await {
            Ok(Ok(Some(given))) => self.known().evidence.gives(slot, given, Instant::now()),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(redis.addr = %server.addr(), %error, "a former owner does not tell");
            }
        }
    }

    /// How a slot's partition came to the server at the other end of this connection. Its state was
    /// written by the process `run` in the life of the data set `replid`. Waits for other nodes no
    /// longer than `patience`.
    pub(crate) async fn judge(
        &self,
        slot: u16,
        (run, replid): (&str, &str),
        connection: &mut Connection,
        patience: Duration,
    ) -> Verdict {
        let (Ok(here), Ok(id)) = (life(connection).await, node_id(connection).await) else {
            return Verdict::Doubtful;
        };
        let (restarted, stayed, given) = {
            let evidence = &self.known().evidence;
            let now = Instant::now();
            let (stayed, given) =
                (evidence.stayed(slot, &here, now), evidence.given(slot, run, now));
            (evidence.was(slot, run, &id), stayed, given)
        };
        if here.former == replid || restarted {
            return Verdict::Lost;
        }
        if !stayed {
            return Verdict::Doubtful;
        }
        // A session may also end before the move does. Its server is asked first, and alone: on a busy
        // machine that is much faster than to ask all.
        let given = match given {
            Some(given) => Some(given),
            None => {
                let _ = tokio::time::timeout(patience, self.gives(slot)).await;
                self.known().evidence.given(slot, run, Instant::now())
            }
        };
        let whole = match given {
            Some(Given { from, to }) => to == id && from.wrote(run, replid),
            None => {
                let gave = self.gave(slot, (run, replid), &id, connection);
                tokio::time::timeout(patience, gave).await.unwrap_or(false)
            }
        };
        if whole { Verdict::Whole } else { Verdict::Doubtful }
    }

    /// Whether the process that wrote the state lives, was not replaced since, and says that the slot
    /// belongs to the node `id`. (A master that is replaced loses all its slots at once, and becomes a
    /// replica in the same moment.)
    async fn gave(
        &self,
        slot: u16,
        (run, replid): (&str, &str),
        id: &str,
        connection: &mut Connection,
    ) -> bool {
        // A node without slots is in no answer to CLUSTER SLOTS.
        let mut servers = self.candidates();
        for (host, port) in nodes(connection, addresses).await.unwrap_or_default() {
            let server = self.seeds[0].at(&host, port);
            if !servers.iter().any(|known| known.addr() == server.addr()) {
                servers.push(server);
            }
        }
        let asked = servers.iter().map(|server| async {
            let ask = async {
                let mut connection = connector::dial(server, PATIENCE).await?;
                if !life(&mut connection).await?.wrote(run, replid) {
                    return Ok(false);
                }
                let slots = Slots::of(&mut connection, server).await?;
                Ok::<_, SessionError>(slots.owner(slot).is_some_and(|node| node.id == id))
            };
            matches!(ask.await, Ok(true))
        });
        // A node that stands still is not waited for once the right one has answered.
        let asked: FuturesUnordered<_> = asked.collect();
        asked.any(|gave| async move { gave }).await
    }

    /// The nodes to ask, in an order that differs from time to time.
    fn candidates(&self) -> Vec<Server> {
        let mut nodes: Vec<Server> = {
            let known = self.known();
            known.nodes.iter().map(|(host, port)| self.seeds[0].at(host, *port)).collect()
        };
        let seeds = self.seeds.iter().filter(|seed| !nodes.iter().any(|n| n.addr() == seed.addr()));
        let seeds: Vec<Server> = seeds.cloned().collect();
        fastrand::shuffle(&mut nodes);
        nodes.extend(seeds);
        nodes
    }

    async fn slots(&self, server: &Server) -> Result<Slots, SessionError> {
        let ask = async {
            let mut connection = connector::dial(server, PATIENCE).await?;
            Slots::of(&mut connection, server).await
        };
        tokio::time::timeout(PATIENCE, ask).await.unwrap_or(Err(SessionError::Timeout(PATIENCE)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a server who has a slot that it had, and waits while it moves the slot away. `None` if it
/// still has the slot.
async fn given(server: &Server, slot: u16) -> Result<Option<Given>, SessionError> {
    let mut connection = connector::dial(server, PATIENCE).await?;
    let id = node_id(&mut connection).await?;
    // What it was a moment ago, when it still had the slot, and where it moves the slot to.
    let mut before: Option<(Life, String)> = None;
    loop {
        // In this order: what it has lost since the first answer is seen in the last one.
        let life = life(&mut connection).await?;
        let target = nodes(&mut connection, |nodes| moves_to(nodes, slot)).await?;
        let slots = Slots::of(&mut connection, server).await?;
        if let Some(owner) = slots.owner(slot).filter(|owner| owner.id != id) {
            let before = before.filter(|(_, target)| *target == owner.id);
            let from = before.map_or(life, |(life, _)| life);
            return Ok(Some(Given { from, to: owner.id.clone() }));
        }
        let Some(target) = target else { return Ok(None) };
        before = Some((life, target));
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks a server which process it is, and how it got its data.
async fn life(connection: &mut Connection) -> Result<Life, SessionError> {
    let mut cmd = redis::cmd("INFO");
    cmd.arg("server").arg("replication");
    let read = |value: &Value<'_>| value.text().and_then(Life::read);
    let life = connection.call(&cmd, read).await?;
    life.ok_or_else(|| SessionError::Refused("INFO does not tell which process it is".into()))
}

#[cfg(test)]
mod tests;

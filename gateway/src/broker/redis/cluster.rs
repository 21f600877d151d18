//! Finds the server of a Redis Cluster that owns a partition's slot, and whether a partition that
//! another process wrote was moved here or was lost.
//!
//! Source: redis.io, "Redis cluster specification".

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::place::Server;
use crate::broker::redis::resp::Value;

/// A node that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

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
    /// Processes that were masters when a session with them began, by run id.
    masters: HashMap<String, Master>,
    /// When the last session of each slot's partition ended; `None` while it lasts.
    ended: HashMap<u16, Option<Instant>>,
}

/// A process that was a master when a session with it began.
#[derive(Debug)]
struct Master {
    /// What it was a replica of before (`Life::former`).
    former: String,
    /// When the first of these sessions began.
    since: Instant,
}

/// One answer to `CLUSTER SLOTS`: each range of slots with its owner, and all nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slots {
    ranges: Vec<(u16, u16, Node)>,
    nodes: Vec<(String, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    host: String,
    port: u16,
    id: String,
}

/// Which process a server is, and how it got its data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    run: String,
    is_master: bool,
    replid: String,
    /// The replication id of the master that it was a replica of, or zeros. It changes at a
    /// promotion. (A master forgets it when it gets a first replica, and has a new `replid` then.)
    former: String,
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
        let mut failures = Vec::new();
        for server in self.candidates() {
            match self.slots(&server).await {
                Ok(slots) => {
                    self.known().nodes.clone_from(&slots.nodes);
                    match slots.owner(slot) {
                        Some(node) => return Ok(self.seeds[0].at(&node.host, node.port)),
                        None => {
                            failures.push(format!("{}: no node owns slot {slot}", server.addr()))
                        }
                    }
                }
                Err(error) => failures.push(format!("{}: {error}", server.addr())),
            }
        }
        let why = failures.join("; ");
        Err(SessionError::Refused(format!("the cluster does not tell where slot {slot} is: {why}")))
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

    /// Notes that a slot's session with the master at the other end of this connection begins.
    pub(crate) async fn begins(
        &self,
        slot: u16,
        connection: &mut Connection,
    ) -> Result<(), SessionError> {
        let Life { run, former, .. } = Life::of(connection).await?;
        let mut known = self.known();
        known.ended.insert(slot, None);
        // A process that was promoted once more is another master.
        if known.masters.get(&run).is_none_or(|master| master.former != former) {
            known.masters.insert(run, Master { former, since: Instant::now() });
        }
        Ok(())
    }

    /// Notes that a slot has no session.
    pub(crate) fn ended(&self, slot: u16) {
        self.known().ended.entry(slot).or_default().get_or_insert_with(Instant::now);
    }

    /// Whether Redis Cluster moved a slot to this server from the process `run`, which wrote the
    /// partition's state. That moves every key as it is, so nothing is lost. The other explanation is
    /// that the server was a replica of that process, and took its place with what it had.
    ///
    /// It was moved if this server was a master already when the slot's last session ended, because
    /// this gateway had a session with it, and was not promoted since. A session that began later
    /// proves nothing: that may have been another partition's, after the replacement.
    ///
    /// It was also moved if the process still lives, is a master, knows that this server owns the slot,
    /// and was not replaced by it. (A master that is replaced loses all its slots at once, and becomes
    /// a replica in the same moment.) The library still compares the replication ids.
    pub(crate) async fn moved(&self, run: &str, slot: u16, connection: &mut Connection) -> bool {
        let (Ok(here), Ok(id)) = (Life::of(connection).await, node_id(connection).await) else {
            return false;
        };
        let was_master = {
            let known = self.known();
            let ended = known.ended.get(&slot).copied().flatten();
            known.masters.get(&here.run).is_some_and(|master| {
                let still =
                    master.former == here.former || here.former.bytes().all(|byte| byte == b'0');
                still && ended.is_some_and(|ended| master.since < ended)
            })
        };
        if was_master {
            return true;
        }
        // A node without slots is in no answer to CLUSTER SLOTS.
        let mut nodes = self.candidates();
        for (host, port) in all_nodes(connection).await.unwrap_or_default() {
            let server = self.seeds[0].at(&host, port);
            if !nodes.iter().any(|node| node.addr() == server.addr()) {
                nodes.push(server);
            }
        }
        let asked = nodes.iter().map(|server| async {
            let ask = async {
                let mut connection = connector::dial(server, PATIENCE).await?;
                let life = Life::of(&mut connection).await?;
                if life.run != run || !life.is_master || life.replid == here.former {
                    return Ok(false);
                }
                let slots = Slots::of(&mut connection, server).await?;
                Ok::<_, SessionError>(slots.owner(slot).is_some_and(|node| node.id == id))
            };
            matches!(tokio::time::timeout(PATIENCE, ask).await, Ok(Ok(true)))
        });
        join_all(asked).await.contains(&true)
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

impl Slots {
    async fn of(connection: &mut Connection, server: &Server) -> Result<Self, SessionError> {
        let cmd = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
        let host = server.host().unwrap_or_default();
        connection.call(&cmd, |value| Slots::read(value, host)).await?
    }

    /// Reads an answer of the node at `host`, which may leave out its own.
    fn read(value: &Value<'_>, host: &str) -> Result<Self, SessionError> {
        if let Value::Error(error) = value {
            let error = String::from_utf8_lossy(error);
            return Err(SessionError::Refused(match error.contains("cluster support disabled") {
                true => "it is not a node of a Redis Cluster".to_owned(),
                false => error.into_owned(),
            }));
        }
        let node = |value: &Value<'_>| {
            let [named, port, id, ..] = value.elements() else { return None };
            let named = named.text().filter(|host| !matches!(*host, "" | "?")).unwrap_or(host);
            let port = u16::try_from(port.integer()?).ok()?;
            Some(Node { host: named.to_owned(), port, id: id.text()?.to_owned() })
        };
        let mut slots = Slots::default();
        for range in value.elements() {
            let odd = || SessionError::Refused(format!("CLUSTER SLOTS answered {value:?}"));
            let [first, last, nodes @ ..] = range.elements() else { return Err(odd()) };
            let slot = |value: &Value<'_>| u16::try_from(value.integer()?).ok();
            let nodes: Vec<Node> = nodes.iter().filter_map(node).collect();
            let (Some(first), Some(last), Some(owner)) = (slot(first), slot(last), nodes.first())
            else {
                return Err(odd());
            };
            slots.ranges.push((first, last, owner.clone()));
            slots.nodes.extend(nodes.into_iter().map(|node| (node.host, node.port)));
        }
        slots.nodes.sort();
        slots.nodes.dedup();
        Ok(slots)
    }

    fn owner(&self, slot: u16) -> Option<&Node> {
        let of = |(first, last, _): &&(u16, u16, Node)| (*first..=*last).contains(&slot);
        self.ranges.iter().find(of).map(|(_, _, node)| node)
    }
}

impl Life {
    async fn of(connection: &mut Connection) -> Result<Self, SessionError> {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("server").arg("replication");
        let read = |value: &Value<'_>| value.text().and_then(Life::read);
        let life = connection.call(&cmd, read).await?;
        life.ok_or_else(|| SessionError::Refused("INFO does not tell which process it is".into()))
    }

    fn read(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::to_owned)
        };
        Some(Life {
            run: field("run_id")?,
            is_master: field("role")? == "master",
            replid: field("master_replid")?,
            former: field("master_replid2")?,
        })
    }
}

/// The addresses of all nodes that this one knows: the second words of the lines of CLUSTER NODES,
/// `<ip>:<port>@<port of the bus>[,<name>]`.
async fn all_nodes(connection: &mut Connection) -> Result<Vec<(String, u16)>, SessionError> {
    let cmd = redis::cmd("CLUSTER").arg("NODES").to_owned();
    connection.call(&cmd, |value| addresses(value.text().unwrap_or_default())).await
}

fn addresses(nodes: &str) -> Vec<(String, u16)> {
    let address = |line: &str| {
        let (host, port) = line.split(' ').nth(1)?.split('@').next()?.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    };
    nodes.lines().filter_map(address).collect()
}

async fn node_id(connection: &mut Connection) -> Result<String, SessionError> {
    let cmd = redis::cmd("CLUSTER").arg("MYID").to_owned();
    let id = connection.call(&cmd, |value| value.text().map(str::to_owned)).await?;
    id.ok_or_else(|| SessionError::Refused("CLUSTER MYID does not tell".into()))
}

#[cfg(test)]
mod tests {
    use sse_lab::eventually;
    use sse_lab::redis_cluster::RedisCluster;
    use sse_lab::redis_server::RedisServer;

    use super::*;
    use crate::broker::redis::place::Place;
    use crate::broker::redis::settings::RedisSettings;
    use crate::config::Config;

    fn node<'a>(host: Value<'a>, port: i64, id: &'static [u8]) -> Value<'a> {
        Value::Array(vec![host, Value::Integer(port), Value::Text(id), Value::Array(vec![])])
    }

    #[test]
    fn the_owner_of_a_slot_is_the_first_node_of_its_range() {
        let range = |first, last, nodes: Vec<Value<'static>>| {
            let slots = [first, last].map(Value::Integer).into_iter();
            Value::Array(slots.chain(nodes).collect())
        };
        let a = || node(Value::Text(b"10.0.0.1"), 7001, b"a");
        let answer = Value::Array(vec![
            range(0, 99, vec![a(), node(Value::Text(b"10.0.0.3"), 7003, b"c")]),
            // The node that was asked may not know its own name.
            range(100, 199, vec![node(Value::Null, 7002, b"b")]),
            range(300, 300, vec![node(Value::Text(b""), 7002, b"b")]),
        ]);
        let slots = Slots::read(&answer, "asked").unwrap();
        let owner = |slot| slots.owner(slot).map(|node| format!("{}:{}", node.host, node.port));
        assert_eq!(owner(99).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(100).as_deref(), Some("asked:7002"));
        assert_eq!(owner(300).as_deref(), Some("asked:7002"));
        assert_eq!(owner(299), None);
        assert_eq!(slots.nodes.len(), 3);
        let alone =
            Slots::read(&Value::Error(b"ERR This instance has cluster support disabled"), "");
        assert_eq!(alone.unwrap_err().to_string(), "it is not a node of a Redis Cluster");
        assert!(Slots::read(&Value::Array(vec![range(0, 1, vec![])]), "").is_err());
    }

    fn server(node: &RedisServer) -> Server {
        let pairs = [("redis.url".to_owned(), node.url())];
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        let place = Place::of(&RedisSettings::of(&config)).unwrap();
        let Place::Url(server) = place else { panic!("{place:?}") };
        *server
    }

    async fn dial(node: &RedisServer) -> Connection {
        connector::dial(&server(node), PATIENCE).await.unwrap()
    }

    /// Another partition's session begins on the new master before this partition asks.
    #[tokio::test]
    async fn a_partition_whose_master_was_replaced_did_not_move() {
        let servers = RedisCluster::start(3, true);
        let (old, new) = (&servers.nodes[0], &servers.nodes[3]);
        let cluster = Cluster::new(vec![server(old)]);
        let [asks, other] = [0, 1];
        let mut connection = dial(old).await;
        let run = Life::of(&mut connection).await.unwrap().run;
        for slot in [asks, other] {
            cluster.begins(slot, &mut connection).await.unwrap();
        }
        assert_eq!(new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
        eventually("the old master is a replica of the new one, and in step", || {
            old.command(&["INFO", "replication"]).contains("master_link_status:up")
        });
        for slot in [asks, other] {
            cluster.ended(slot);
        }
        let mut connection = dial(new).await;
        cluster.begins(other, &mut connection).await.unwrap();
        assert!(!cluster.moved(&run, asks, &mut connection).await);
    }

    /// An operator may stop a node at once after it has given everything away.
    #[tokio::test]
    async fn a_partition_moved_to_a_master_that_was_known_though_its_old_master_is_dead() {
        let mut servers = RedisCluster::start(3, false);
        let cluster = Cluster::new(vec![server(&servers.nodes[1])]);
        let [asks, other, late] = [0, 1, 2];
        let mut old = dial(&servers.nodes[0]).await;
        let run = Life::of(&mut old).await.unwrap().run;
        let mut known = dial(&servers.nodes[1]).await;
        let mut unknown = dial(&servers.nodes[2]).await;
        cluster.begins(other, &mut known).await.unwrap();
        cluster.begins(asks, &mut old).await.unwrap();
        cluster.ended(asks);
        cluster.begins(late, &mut unknown).await.unwrap();
        servers.nodes[0].kill();
        assert!(cluster.moved(&run, asks, &mut known).await);
        assert!(!cluster.moved(&run, asks, &mut unknown).await);
    }

    #[test]
    fn every_node_is_listed_whether_it_has_slots_or_not() {
        let nodes = "ab 10.0.0.1:7001@17001,name master - 0 1 2 connected 0-5\n\
                     cd ::1:7002@17002 myself,slave ab 0 0 2 connected\n\
                     ef :0@0 master,noaddr - 1 1 1 disconnected\n";
        let expected = [("10.0.0.1".to_owned(), 7001), ("::1".to_owned(), 7002)];
        assert_eq!(addresses(nodes), expected);
    }

    #[test]
    fn info_tells_which_process_it_is() {
        let info = "# Server\r\nrun_id:ab\r\n# Replication\r\nrole:master\r\nmaster_replid:cd\r\n\
                    master_replid2:0000\r\nmaster_repl_offset:5\r\n";
        let life = Life::read(info).unwrap();
        let expected = ("ab", true, "cd", "0000");
        assert_eq!((&*life.run, life.is_master, &*life.replid, &*life.former), expected);
        assert_eq!(Life::read("run_id:ab\r\n"), None);
    }
}

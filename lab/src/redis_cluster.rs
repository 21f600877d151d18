//! A Redis Cluster, of processes on addresses of their own.

use std::net::SocketAddr;

use crate::eventually;
use crate::redis_server::RedisServer;

/// How many slots a cluster has (Redis cluster specification).
const SLOTS: usize = 16384;

/// A running cluster, whose masters have equal parts of the slots at the beginning.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters in the order of their slots, then a replica of each, if there are replicas, then
    /// what was added.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster of so many masters, each with a replica or without, and waits until all its
    /// nodes know all slots.
    #[track_caller]
    pub fn start(masters: usize, replicas: bool) -> Self {
        let count = masters * (1 + usize::from(replicas));
        let cluster = RedisCluster { nodes: (0..count).map(|_| node()).collect() };
        for (n, node) in cluster.nodes.iter().take(masters).enumerate() {
            let [first, last] = [n * SLOTS / masters, (n + 1) * SLOTS / masters - 1];
            let range = [first, last].map(|slot| slot.to_string());
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]), "OK");
            // Nodes of equal epochs settle which is which, but only in time.
            let epoch = (n + 1).to_string();
            assert_eq!(node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]), "OK");
        }
        cluster.nodes.iter().skip(1).for_each(|node| cluster.meet(node));
        cluster.settled();
        for n in masters..count {
            cluster.follow(n, n - masters);
        }
        cluster.settled();
        cluster
    }

    /// Adds an empty master.
    #[track_caller]
    pub fn add(&mut self) -> usize {
        let node = node();
        self.meet(&node);
        self.nodes.push(node);
        self.settled();
        self.nodes.len() - 1
    }

    /// A URL that names two of the nodes.
    pub fn url(&self) -> String {
        let nodes: Vec<String> =
            self.nodes.iter().take(2).map(|node| node.addr.to_string()).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The id of a node in the cluster.
    #[track_caller]
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }

    /// The slot of a key.
    #[track_caller]
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).parse().expect("a number")
    }

    /// The node that owns a slot, as `of` says.
    #[track_caller]
    pub fn owner_by(&self, slot: u16, of: usize) -> usize {
        let nodes = self.nodes[of].command(&["CLUSTER", "NODES"]);
        let has = |range: &str| match range.split_once('-') {
            Some((first, last)) => {
                let number = |text: &str| text.parse::<u16>().unwrap_or(u16::MAX);
                (number(first)..=number(last)).contains(&slot)
            }
            None => range.parse() == Ok(slot),
        };
        let line = nodes.lines().find(|line| line.split(' ').skip(8).any(has));
        let addr = line.and_then(|line| line.split(' ').nth(1)?.split('@').next());
        let addr: SocketAddr = addr.expect("the slot has an owner").parse().expect("an address");
        self.nodes.iter().position(|node| node.addr == addr).expect("it is one of these")
    }

    /// Moves a slot to another node, as `redis-cli --cluster reshard` does: key by key.
    #[track_caller]
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        self.finish_move(slot, from, to);
    }

    /// Begins to move a slot. From now on its new keys belong to the other node.
    #[track_caller]
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        self.set_slot(to, slot, &["IMPORTING", &self.id(from)]);
        self.set_slot(from, slot, &["MIGRATING", &self.id(to)]);
    }

    /// Moves a slot's keys, and then the slot.
    #[track_caller]
    pub fn finish_move(&self, slot: u16, from: usize, to: usize) {
        let (text, target) = (slot.to_string(), self.id(to));
        let addr = self.nodes[to].addr;
        let [host, port] = [addr.ip().to_string(), addr.port().to_string()];
        loop {
            let keys = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &text, "3"]);
            let keys: Vec<&str> = keys.lines().collect();
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", &host, &port, "", "0", "5000", "KEYS"];
            words.extend(keys);
            let moved = self.nodes[from].command(&words);
            assert!(moved == "OK" || moved == "NOKEY", "{moved}");
        }
        self.set_slot(to, slot, &["NODE", &target]);
        // A master that has given away its last slot may be a replica already.
        let words = ["CLUSTER", "SETSLOT", &text, "NODE", &target];
        let told = self.nodes[from].command(&words);
        assert!(told == "OK" || told.contains("only with masters"), "{told}");
    }

    #[track_caller]
    fn set_slot(&self, node: usize, slot: u16, words: &[&str]) {
        let slot = slot.to_string();
        let words = [&["CLUSTER", "SETSLOT", &slot], words].concat();
        assert_eq!(self.nodes[node].command(&words), "OK");
    }

    /// Waits until all nodes that live agree on who owns what.
    #[track_caller]
    pub fn settled(&self) {
        let views = || self.nodes.iter().map(|node| node.command(&["CLUSTER", "SLOTS"]));
        eventually("the nodes know each other and all slots", || {
            let known = self.nodes.len().to_string();
            self.nodes.iter().all(|node| {
                let info = node.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{known}\r"))
            }) && views().all(|view| Some(view) == views().next())
        });
    }

    #[track_caller]
    fn meet(&self, node: &RedisServer) {
        let addr = self.nodes[0].addr;
        let [host, port] = [addr.ip().to_string(), addr.port().to_string()];
        assert_eq!(node.command(&["CLUSTER", "MEET", &host, &port, BUS]), "OK");
    }

    #[track_caller]
    fn follow(&self, node: usize, master: usize) {
        assert_eq!(self.nodes[node].command(&["CLUSTER", "REPLICATE", &self.id(master)]), "OK");
        eventually("the replica is in step", || {
            self.nodes[node].command(&["INFO", "replication"]).contains("master_link_status:up")
        });
    }
}

/// The port of the nodes' bus. Each node has an address of its own, so the ports may be the same.
const BUS: &str = "16999";

#[track_caller]
fn node() -> RedisServer {
    RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        BUS,
        "--cluster-node-timeout",
        "2000",
        // By default a replica gives up after half a minute, and on a busy machine several elections
        // may fail.
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
        "--protected-mode",
        "no",
    ])
}

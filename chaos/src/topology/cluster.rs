//! A Redis Cluster of three masters with a replica each, and what happens to it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use sse_contract::Keys;
use sse_lab::redis_cluster::RedisCluster;

use crate::ledger::now_ms;
use crate::topology::asking::{ask, field, until};
use crate::topology::lane::{Lane, Side};
use crate::topology::shared::Kill;

/// How many partitions there are, if the gateways' configuration does not say.
pub const PARTITIONS: u16 = 16;

/// The faults, with what each does.
pub const FAULTS: [(&str, &str); 13] = [
    ("kill-master", "a master is killed, and comes back once its replica took its place"),
    ("restart-master", "a master is killed and starts again at once, empty or with old data"),
    ("freeze-master", "a master stands still until its replica took its place, then runs on"),
    ("cluster-failover", "CLUSTER FAILOVER: master and replica change places"),
    ("failover-force", "CLUSTER FAILOVER FORCE: the same, without the master's consent"),
    ("failover-takeover", "CLUSTER FAILOVER TAKEOVER: the same, without anybody's consent"),
    ("move", "some partitions move to another master, key by key"),
    (
        "move-crash",
        "some partitions move to another master, which is killed and starts again at once",
    ),
    ("replace-move", "a replica takes its master's place, and gives some partitions away at once"),
    ("reshard", "redis-cli --cluster reshard moves slots from a master to another"),
    ("grow", "a node joins, gets partitions, loses them and is forgotten"),
    (
        "shard-down",
        "a master and its replica are killed, and start again after a while, at most a minute",
    ),
    ("replica-down", "a replica is killed, and comes back after a while"),
];

/// The nodes.
#[derive(Debug)]
pub struct ClusterSide {
    cluster: RedisCluster,
    keys: Keys,
    /// Whether the cluster refuses everything while slots have no owner.
    full_coverage: bool,
}

/// One node, as another one sees it.
#[derive(Debug)]
struct Node {
    /// The index in the cluster.
    index: usize,
    id: String,
    /// The id of its master, if it is a replica.
    follows: Option<String>,
    /// The slots that it has, as ranges.
    slots: Vec<(u16, u16)>,
}

impl ClusterSide {
    /// Starts everything.
    pub fn start(full_coverage: bool) -> Self {
        let cluster = RedisCluster::start(3, true);
        let side = ClusterSide { cluster, keys: Keys::new("sse", PARTITIONS), full_coverage };
        (0..side.cluster.nodes.len()).for_each(|node| side.configure(node));
        side
    }

    /// A node that starts again has forgotten this.
    fn configure(&self, node: usize) {
        let value = if self.full_coverage { "yes" } else { "no" };
        self.cluster.nodes[node].command(&[
            "CONFIG",
            "SET",
            "cluster-require-full-coverage",
            value,
        ]);
    }

    fn addr(&self, node: usize) -> SocketAddr {
        self.cluster.nodes[node].addr
    }

    /// All nodes, as one of them sees them.
    fn view(&self, by: usize) -> Result<Vec<Node>, String> {
        let told = ask(self.addr(by), &["CLUSTER", "NODES"])?;
        let node = |line: &str| -> Option<Node> {
            let words: Vec<&str> = line.split(' ').collect();
            let addr: SocketAddr = words.get(1)?.split('@').next()?.parse().ok()?;
            let index = self.cluster.nodes.iter().position(|node| node.addr == addr)?;
            let range = |word: &&str| -> Option<(u16, u16)> {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                Some((first.parse().ok()?, last.parse().ok()?))
            };
            let follows = (words[3] != "-").then(|| words[3].to_owned());
            let slots = words.iter().skip(8).filter_map(range).collect();
            Some(Node { index, id: words[0].to_owned(), follows, slots })
        };
        Ok(told.lines().filter_map(node).collect())
    }

    /// The partitions of a node.
    fn partitions(&self, node: &Node) -> Vec<u16> {
        let has = |partition: &u16| {
            let slot = self.keys.slot(*partition);
            node.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        };
        (0..PARTITIONS).filter(has).collect()
    }

    /// The masters that have partitions.
    fn owners(&self) -> Result<Vec<Node>, String> {
        let has = |node: &Node| node.follows.is_none() && !self.partitions(node).is_empty();
        Ok(self.view(0)?.into_iter().filter(has).collect())
    }

    /// A slot of no partition, and the node that has it.
    fn spare(&self) -> Result<(u16, usize), String> {
        let own: Vec<u16> = (0..PARTITIONS).map(|partition| self.keys.slot(partition)).collect();
        let owners = self.owners()?;
        let of = |owner: &Node| {
            let slots = owner.slots.iter().flat_map(|(first, last)| *first..=*last);
            let mut free = slots.filter(|slot| !own.contains(slot));
            free.next().map(|slot| (slot, owner.index))
        };
        owners.iter().find_map(of).ok_or_else(|| "every slot is a partition's".to_owned())
    }

    fn replica_of(&self, master: &Node) -> Result<Node, String> {
        let view = self.view(master.index)?;
        let follows = |node: &Node| node.follows.as_ref() == Some(&master.id);
        view.into_iter().find(follows).ok_or_else(|| "the master has no replica".to_owned())
    }

    /// Whether every node that is not left out says that another one has the slots of `master`.
    fn is_replaced(&self, master: &Node, left_out: Option<usize>) -> bool {
        let Some((slot, _)) = master.slots.first() else { return false };
        let says = |by: usize| {
            let view = self.view(by).unwrap_or_default();
            let has = |node: &Node| node.slots.iter().any(|(a, b)| (*a..=*b).contains(slot));
            view.iter().any(|node| has(node) && node.index != master.index)
        };
        (0..self.cluster.nodes.len()).filter(|n| Some(*n) != left_out).all(says)
    }

    fn replaced(&self, lane: &Lane, master: &Node, left_out: bool) -> Result<(), String> {
        let left_out = left_out.then_some(master.index);
        let what = "another node has the master's slots";
        until(&lane.shared, what, || self.is_replaced(master, left_out))
    }

    /// What keeps the nodes from agreeing, or a replica from being in step.
    fn disorder(&self) -> Vec<String> {
        let count = self.cluster.nodes.len().to_string();
        let views: Vec<_> = self
            .cluster
            .nodes
            .iter()
            .map(|node| {
                let info = ask(node.addr, &["CLUSTER", "INFO"]).unwrap_or_default();
                let replication = ask(node.addr, &["INFO", "replication"]).unwrap_or_default();
                let told = [
                    ("cluster_state", field(&info, "cluster_state"), "ok"),
                    ("cluster_known_nodes", field(&info, "cluster_known_nodes"), &*count),
                    (
                        "master_link_status",
                        field(&replication, "master_link_status").or(Some("up")),
                        "up",
                    ),
                ];
                let wrong = told.into_iter().filter(|(_, value, good)| *value != Some(good));
                let wrong: Vec<String> = wrong
                    .map(|(name, value, _)| {
                        format!("{} says {name}:{}", node.addr, value.unwrap_or("-"))
                    })
                    .collect();
                (wrong, ask(node.addr, &["CLUSTER", "SLOTS"]).unwrap_or_default())
            })
            .collect();
        let first = views[0].1.clone();
        let other = |(node, (_, view)): (usize, &(Vec<String>, String))| {
            (*view != first).then(|| format!("{} sees other slots", self.addr(node)))
        };
        let others: Vec<String> = views.iter().enumerate().filter_map(other).collect();
        views.into_iter().flat_map(|(wrong, _)| wrong).chain(others).collect()
    }

    fn wait_for_order(&self, lane: &Lane) -> Result<(), String> {
        let what = "the nodes agree and the replicas are in step";
        let waited = until(&lane.shared, what, || self.disorder().is_empty());
        waited.map_err(|error| format!("{error}: {}", self.disorder().join(", ")))
    }

    fn restart(&mut self, node: usize) {
        self.cluster.nodes[node].restart();
        self.configure(node);
    }

    /// Another master than this one, with or without partitions.
    fn other(&self, lane: &mut Lane, than: usize) -> Result<usize, String> {
        let view = self.view(0)?;
        let others: Vec<usize> = view
            .iter()
            .filter(|node| node.follows.is_none() && node.index != than)
            .map(|node| node.index)
            .collect();
        lane.rng.choice(others).ok_or_else(|| "there is no other master".to_owned())
    }

    /// Kills a master. Mostly nothing else is broken meanwhile, so that streams can be measured.
    fn kill(&mut self, lane: &mut Lane, master: &Node, partitions: Vec<u16>) -> Result<(), String> {
        let full_coverage = self.full_coverage;
        lane.shared.set_quiet(lane.rng.u8(..3) > 0);
        until(&lane.shared, "gateways are left alone", || !lane.shared.is_busy())?;
        let at_ms = now_ms();
        self.cluster.nodes[master.index].kill();
        self.replaced(lane, master, true)?;
        let promoted_ms = now_ms();
        lane.shared.say(&format!("  replaced after {} ms", promoted_ms - at_ms));
        lane.shared.killed(Kill { partitions, at_ms, promoted_ms, full_coverage });
        lane.wait(2_500..4_000)?;
        lane.shared.set_quiet(false);
        self.restart(master.index);
        Ok(())
    }

    fn freeze(&self, lane: &mut Lane, master: &Node) -> Result<(), String> {
        self.cluster.nodes[master.index].freeze();
        let replaced = self.replaced(lane, master, true);
        let waited = lane.wait(0..3_000);
        self.cluster.nodes[master.index].thaw();
        replaced.and(waited)
    }

    fn fail_over(&self, lane: &Lane, master: &Node, words: &[&str]) -> Result<(), String> {
        let replica = self.addr(self.replica_of(master)?.index);
        until(&lane.shared, "a failover is begun", || ask(replica, words).is_ok())?;
        // It gives up after some seconds, and is asked again. On a busy machine it may never succeed.
        let (began_ms, mut asked_ms) = (now_ms(), now_ms());
        until(&lane.shared, "master and replica have changed places", || {
            if now_ms() > asked_ms + 10_000 {
                asked_ms = now_ms();
                let _ = ask(replica, words);
            }
            self.is_replaced(master, None) || now_ms() > began_ms + 30_000
        })
    }

    /// Moves some of a node's partitions to another one, but not the last one.
    fn move_some(&self, lane: &mut Lane, from: usize, mut partitions: Vec<u16>, to: usize) {
        partitions.pop();
        lane.rng.shuffle(&mut partitions);
        partitions.truncate(lane.rng.usize(1..4));
        for partition in partitions {
            lane.shared.say(&format!("  partition {partition} to {}", self.addr(to)));
            self.cluster.move_slot(self.keys.slot(partition), from, to);
        }
    }

    /// Partitions that a node gave away, and in which no gateway has ticked since. Whether all of them
    /// left it cannot be proven once it ends.
    fn unproven(&self, from: &Node) -> Vec<u16> {
        let info = ask(self.addr(from.index), &["INFO", "server"]).unwrap_or_default();
        let run = field(&info, "run_id").unwrap_or_default().to_owned();
        let owners = self.owners().unwrap_or_default();
        let others = owners.iter().filter(|owner| owner.index != from.index);
        let names = |owner: &Node, partition: u16| {
            let state = self.keys.state(partition);
            ask(self.addr(owner.index), &["HGET", &state, "run"]).is_ok_and(|by| by == run)
        };
        let of = |owner| {
            let all = self.partitions(owner).into_iter();
            all.filter(|partition| names(owner, *partition)).collect::<Vec<_>>()
        };
        others.flat_map(of).collect()
    }

    fn move_and_crash(
        &mut self,
        lane: &mut Lane,
        place: usize,
        master: &Node,
        partitions: Vec<u16>,
    ) -> Result<(), String> {
        let to = self.other(lane, master.index)?;
        let view = self.view(to)?;
        let target = view.iter().filter(|node| node.index == to);
        let has: Vec<u16> = target.flat_map(|node| self.partitions(node)).collect();
        lane.shared.amend(place, |window| window.partitions.extend(has));
        self.move_some(lane, master.index, partitions, to);
        self.cluster.nodes[to].kill();
        self.restart(to);
        Ok(())
    }

    fn replace_and_move(
        &self,
        lane: &mut Lane,
        master: &Node,
        all: Vec<u16>,
    ) -> Result<(), String> {
        let (replica, to) = (self.replica_of(master)?, self.other(lane, master.index)?);
        let addr = self.addr(replica.index);
        until(&lane.shared, "a replica takes its master's place", || {
            ask(addr, &["CLUSTER", "FAILOVER", "TAKEOVER"]).is_ok()
        })?;
        until(&lane.shared, "the next owner knows of the replica", || {
            let view = self.view(to).unwrap_or_default();
            view.iter().any(|node| node.index == replica.index && !node.slots.is_empty())
        })?;
        self.move_some(lane, replica.index, all, to);
        self.replaced(lane, master, false)
    }

    fn miss_a_shard(&mut self, lane: &mut Lane, master: &Node) -> Result<(), String> {
        let replica = self.replica_of(master)?.index;
        self.cluster.nodes[replica].kill();
        self.cluster.nodes[master.index].kill();
        let long = (lane.storm.as_millis() as u64 / 3).clamp(4_000, 60_000);
        let waited = lane.wait(3_000..long);
        self.restart(master.index);
        self.restart(replica);
        waited
    }

    fn miss_a_replica(&mut self, lane: &mut Lane, master: &Node) -> Result<(), String> {
        let replica = self.replica_of(master)?.index;
        self.cluster.nodes[replica].kill();
        let long = (lane.storm.as_millis() as u64 / 6).clamp(3_000, 60_000);
        let waited = lane.wait(1_000..long);
        self.restart(replica);
        waited
    }

    fn grow(&mut self, lane: &mut Lane) -> Result<(), String> {
        let node = self.cluster.add();
        self.configure(node);
        lane.shared.set_servers(self.servers());
        self.wait_for_order(lane)?;
        // A gateway that does not know a node believes that it is the same process as before only if
        // it has run for some time.
        lane.wait(2_000..2_500)?;
        let mut moved = Vec::new();
        for owner in self.owners()? {
            // The last partition stays: a master without slots becomes a replica.
            let mut partitions = self.partitions(&owner);
            partitions.pop();
            lane.rng.shuffle(&mut partitions);
            partitions.truncate(lane.rng.usize(0..3));
            moved.extend(partitions.into_iter().map(|partition| (partition, owner.index)));
        }
        // A master that gives its last slot away becomes a replica at once, and then proves nothing any
        // more. A gateway that is late may so tell of a gap (docs/operations.md). Real nodes have
        // hundreds of slots after their last partition; this one has one, and keeps it for a moment.
        let (spare, its) = self.spare()?;
        self.cluster.move_slot(spare, its, node);
        for (partition, from) in &moved {
            self.cluster.move_slot(self.keys.slot(*partition), *from, node);
        }
        lane.wait(0..3_000)?;
        for (partition, to) in &moved {
            self.cluster.move_slot(self.keys.slot(*partition), node, *to);
        }
        lane.wait(1_000..1_500)?;
        self.cluster.move_slot(spare, node, its);
        // A gateway that starts meanwhile asks the node.
        lane.wait(1_000..2_500)?;
        let id = self.cluster.id(node);
        for other in 0..node {
            // A master without slots may be a replica already, and it is not forgotten by its master
            // before its master knows.
            let addr = self.addr(other);
            until(&lane.shared, "a node is forgotten", || {
                let forgotten = ask(addr, &["CLUSTER", "FORGET", &id]);
                forgotten.is_ok() || forgotten.is_err_and(|error| error.contains("Unknown node"))
            })?;
        }
        self.cluster.nodes.truncate(node);
        Ok(())
    }

    fn reshard(&self, lane: &mut Lane, from: &Node) -> Result<(), String> {
        let to = self.other(lane, from.index)?;
        // redis-cli takes the source's first slots.
        let first = from.slots.first().map_or(0, |(first, _)| *first);
        let next = self.partitions(from).iter().map(|p| self.keys.slot(*p)).min().unwrap_or(first);
        let slots = (next - first + 1).min(3_000);
        let (id, to, count) = (&from.id, self.cluster.id(to), slots.to_string());
        let moved = redis_cli(&[
            "reshard",
            &self.addr(0).to_string(),
            "--cluster-from",
            id,
            "--cluster-to",
            &to,
            "--cluster-slots",
            &count,
            "--cluster-yes",
        ]);
        match moved {
            Ok(()) => {
                lane.shared.say(&format!("  redis-cli has moved {slots} slots"));
                Ok(())
            }
            // On a busy machine a node may answer too late. It then wants to be run again with
            // `fix`, which finishes the move of a slot.
            Err(error) => {
                lane.shared.say(&format!("  redis-cli failed, so fix is called: {error}"));
                let addr = self.addr(0).to_string();
                let mut last = String::new();
                let fixed = until(&lane.shared, "redis-cli has fixed the slots", || {
                    let fixed = redis_cli(&["fix", &addr]);
                    last = fixed.clone().err().unwrap_or_default();
                    fixed.is_ok()
                });
                fixed.map_err(|error| format!("{error}: {last}"))
            }
        }
    }

    fn cause(
        &mut self,
        fault: &'static str,
        lane: &mut Lane,
        place: usize,
        master: &Node,
        partitions: Vec<u16>,
    ) -> Result<(), String> {
        let (shared, all) = (lane.shared.clone(), || (0..PARTITIONS).collect());
        let full_coverage = self.full_coverage;
        let ends = |splits: bool, dies: bool| {
            shared.amend(place, |window| {
                (window.ends_epoch, window.splits) = (true, splits);
                if dies && full_coverage {
                    window.also_away = all();
                }
            });
        };
        match fault {
            "kill-master" => {
                ends(false, true);
                self.kill(lane, master, partitions)?;
            }
            "restart-master" => {
                ends(true, true);
                self.cluster.nodes[master.index].kill();
                self.restart(master.index);
            }
            "freeze-master" => {
                ends(true, true);
                self.freeze(lane, master)?;
            }
            "cluster-failover" => {
                ends(false, false);
                self.fail_over(lane, master, &["CLUSTER", "FAILOVER"])?;
            }
            "failover-force" | "failover-takeover" => {
                ends(true, false);
                let how = if fault == "failover-force" { "FORCE" } else { "TAKEOVER" };
                self.fail_over(lane, master, &["CLUSTER", "FAILOVER", how])?;
            }
            "move" => {
                let to = self.other(lane, master.index)?;
                self.move_some(lane, master.index, partitions, to);
            }
            "move-crash" => {
                ends(true, true);
                self.move_and_crash(lane, place, master, partitions)?;
            }
            "replace-move" => {
                ends(true, false);
                self.replace_and_move(lane, master, partitions)?;
            }
            "shard-down" => {
                ends(true, true);
                self.miss_a_shard(lane, master)?;
            }
            "reshard" => self.reshard(lane, master)?,
            "grow" => {
                shared.amend(place, |window| window.partitions = all());
                self.grow(lane)?;
            }
            _ => self.miss_a_replica(lane, master)?,
        }
        Ok(())
    }
}

/// Runs `redis-cli --cluster` with these words. The error is what it complained about.
fn redis_cli(words: &[&str]) -> Result<(), String> {
    let mut command = Command::new("redis-cli");
    command.arg("--cluster").args(words).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("redis-cli: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let says = |line: &&str| ["ERR", "WARNING", "***"].iter().any(|it| line.contains(it));
            let lines: Vec<&str> = text.lines().filter(says).collect();
            Err(format!("{}: {}", output.status, lines.join(" ")))
        }
    }
}

impl Side for ClusterSide {
    fn url(&self) -> String {
        self.cluster.url()
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.cluster.nodes.iter().map(|node| node.addr).collect()
    }

    fn fault(&mut self, fault: &'static str, lane: &mut Lane) -> Result<(), String> {
        let owners = self.owners()?;
        let master = lane.rng.choice(owners).ok_or("nobody has partitions")?;
        let partitions = self.partitions(&master);
        let names: Vec<String> = partitions.iter().map(u16::to_string).collect();
        let addr = self.addr(master.index);
        lane.shared.say(&format!("  at {addr}, partitions {}", names.join(" ")));
        let place = lane.shared.begin(fault, partitions.clone());
        if !matches!(fault, "move" | "reshard" | "grow" | "replica-down") {
            let unproven = self.unproven(&master);
            lane.shared.amend(place, |window| window.partitions.extend(unproven));
        }
        self.cause(fault, lane, place, &master, partitions)?;
        self.wait_for_order(lane)?;
        lane.shared.end(place);
        Ok(())
    }
}

//! The clusters and Sentinels of the lab work.

use sse_lab::eventually;
use sse_lab::redis_cluster::RedisCluster;
use sse_lab::sentinels::{NAME, Sentinels};

#[test]
fn a_slot_moves_with_its_keys() {
    let mut cluster = RedisCluster::start(3, false);
    let slot = cluster.slot("{9}");
    let from = cluster.owner_by(slot, 0);
    for key in ["{9}a", "{9}b", "{9}c", "{9}d"] {
        assert_eq!(cluster.nodes[from].command(&["SET", key, key]), "OK");
    }
    let to = cluster.add();
    cluster.move_slot(slot, from, to);
    cluster.settled();
    assert_eq!(cluster.owner_by(slot, from), to);
    assert_eq!(cluster.nodes[to].command(&["GET", "{9}d"]), "{9}d");
    assert!(cluster.nodes[from].command(&["GET", "{9}d"]).starts_with("MOVED"));
}

#[test]
fn a_replica_takes_the_place_of_a_master() {
    let mut cluster = RedisCluster::start(3, true);
    let slot = cluster.slot("{9}");
    let master = cluster.owner_by(slot, 0);
    let other = (master + 1) % 3;
    cluster.nodes[master].kill();
    eventually("the replica owns the slot", || cluster.owner_by(slot, other) == master + 3);
}

#[test]
fn sentinels_name_another_master() {
    let mut all = Sentinels::start(1, "secret");
    let [first, second] = [0, 1].map(|n| all.servers[n].addr);
    let named = |all: &Sentinels| {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        all.sentinels[1].command("secret", &words).replace('\n', ":")
    };
    assert_eq!(named(&all), first.to_string());
    all.servers[0].kill();
    eventually("the replica is named", || named(&all) == second.to_string());
}

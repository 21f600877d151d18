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
    let alone = Slots::read(&Value::Error(b"ERR This instance has cluster support disabled"), "");
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

const SLOT: u16 = 0;
const OTHER: u16 = 9_000;

/// The process of a node and its replication id, as the state of a partition names them.
async fn wrote_by(node: &RedisServer) -> (String, String) {
    let life = life(&mut dial(node).await).await.unwrap();
    (life.run, life.replid)
}

/// Begins a session of the slot with this node.
async fn begins(cluster: &Cluster, slot: u16, node: &RedisServer) {
    cluster.begins(slot, &server(node), &mut dial(node).await).await.unwrap();
}

/// A cluster whose second node is known as a master since before the slot's last tick, which node
/// `first` answered.
async fn ticked(servers: &RedisCluster, first: usize) -> Cluster {
    let cluster = Cluster::new(vec![server(&servers.nodes[1])]);
    begins(&cluster, OTHER, &servers.nodes[1]).await;
    begins(&cluster, SLOT, &servers.nodes[first]).await;
    cluster
}

/// How the slot's partition came to this node, whose state another process wrote.
async fn judged(cluster: &Cluster, wrote: &(String, String), node: &RedisServer) -> Verdict {
    cluster.judge(SLOT, (&wrote.0, &wrote.1), &mut dial(node).await, PATIENCE).await
}

/// Another partition's session begins on the new master before this partition asks.
#[tokio::test]
async fn a_partition_whose_master_was_replaced_did_not_move() {
    let servers = RedisCluster::start(3, true);
    let (old, new) = (&servers.nodes[0], &servers.nodes[3]);
    let cluster = ticked(&servers, 0).await;
    let wrote = wrote_by(old).await;
    assert_eq!(new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    eventually("the old master is a replica of the new one, and in step", || {
        old.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    cluster.gives(SLOT).await;
    begins(&cluster, OTHER, new).await;
    assert_eq!(judged(&cluster, &wrote, new).await, Verdict::Lost);
    let older = (wrote.0, "older".to_owned());
    assert_eq!(judged(&cluster, &older, new).await, Verdict::Doubtful);
}

/// Nobody hears of the replacement, because the new master gives everything away at once.
#[tokio::test]
async fn a_partition_whose_master_was_replaced_before_it_moved_is_in_doubt() {
    let servers = RedisCluster::start(3, true);
    let (old, new, to) = (&servers.nodes[0], &servers.nodes[3], &servers.nodes[1]);
    let cluster = ticked(&servers, 0).await;
    let wrote = wrote_by(old).await;
    assert_eq!(new.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    eventually("the old master is a replica of the new one, and in step", || {
        old.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    servers.move_slot(SLOT, 3, 1);
    assert_eq!(judged(&cluster, &wrote, to).await, Verdict::Doubtful);
    cluster.gives(SLOT).await;
    assert_eq!(judged(&cluster, &wrote, to).await, Verdict::Doubtful);
}

#[tokio::test]
async fn a_partition_moved_if_its_old_master_lives_and_the_new_one_stayed() {
    let mut servers = RedisCluster::start(3, true);
    let cluster = ticked(&servers, 0).await;
    let wrote = wrote_by(&servers.nodes[0]).await;
    servers.move_slot(SLOT, 0, 1);
    let known = &servers.nodes[1];
    assert_eq!(judged(&cluster, &wrote, known).await, Verdict::Whole);
    // A gateway that has just started was in no session before.
    let late = Cluster::new(vec![server(known)]);
    assert_eq!(judged(&late, &wrote, known).await, Verdict::Doubtful);
    // What was acknowledged after the move may be missing at a replica of the new master.
    let replica = &servers.nodes[4];
    assert_eq!(replica.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    assert_eq!(judged(&cluster, &wrote, replica).await, Verdict::Doubtful);
    servers.nodes[1].kill();
    servers.nodes[1].restart();
    assert_eq!(judged(&cluster, &wrote, &servers.nodes[1]).await, Verdict::Doubtful);
}

/// An operator may stop a node at once after it has given everything away.
#[tokio::test]
async fn a_partition_moved_if_its_old_master_said_so_before_it_died() {
    let mut servers = RedisCluster::start(3, false);
    let cluster = ticked(&servers, 0).await;
    let wrote = wrote_by(&servers.nodes[0]).await;
    cluster.gives(SLOT).await;
    servers.move_slot(SLOT, 0, 1);
    servers.nodes[0].kill();
    let verdict = judged(&cluster, &wrote, &servers.nodes[1]).await;
    assert_eq!(verdict, Verdict::Doubtful, "it was asked before it gave the slot away");
    servers.nodes[0].restart();
    let wrote = wrote_by(&servers.nodes[0]).await;
    eventually("it knows who has its slot", || {
        servers.nodes[0].command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    begins(&cluster, SLOT, &servers.nodes[0]).await;
    cluster.gives(SLOT).await;
    servers.nodes[0].kill();
    assert_eq!(judged(&cluster, &wrote, &servers.nodes[1]).await, Verdict::Whole);
    assert_eq!(judged(&cluster, &wrote, &servers.nodes[2]).await, Verdict::Doubtful);
}

/// Asks the process that has the slot while it moves the slot to node 1, its last one. In the end
/// node `to` has the slot. Returns what the process wrote in the state.
async fn asked_meanwhile(
    servers: &RedisCluster,
    cluster: &Cluster,
    from: usize,
    to: usize,
) -> (String, String) {
    let old = &servers.nodes[from];
    let wrote = wrote_by(old).await;
    servers.begin_move(SLOT, from, 1);
    let moves = async {
        assert_eq!(old.command(&["CONFIG", "RESETSTAT"]), "OK");
        while !old.command(&["INFO", "commandstats"]).contains("cmdstat_cluster|slots") {
            tokio::task::yield_now().await;
        }
        servers.finish_move(SLOT, from, to);
        assert!(old.command(&["INFO", "replication"]).contains("role:slave"));
    };
    tokio::join!(cluster.gives(SLOT), moves);
    wrote
}

/// The session ends when the first key has moved. When all have, the old master is a replica.
#[tokio::test]
async fn a_partition_moved_if_its_old_master_was_asked_while_it_gave_away_its_last_slot() {
    for (to, as_master) in [(2, false), (1, true)] {
        let mut servers = RedisCluster::start(3, false);
        let emptied = servers.add();
        servers.move_slot(SLOT, 0, emptied);
        servers.settled();
        let cluster = ticked(&servers, emptied).await;
        let wrote = asked_meanwhile(&servers, &cluster, emptied, to).await;
        let given = cluster.known().evidence.given(SLOT, &wrote.0, Instant::now()).unwrap();
        let told = (given.to, given.from.is_master);
        assert_eq!(told, (servers.id(to), as_master), "it moved the slot to node 1");
        let verdict = judged(&cluster, &wrote, &servers.nodes[to]).await;
        assert_eq!(verdict == Verdict::Whole, as_master, "{verdict:?}");
    }
}

#[tokio::test]
async fn a_process_that_was_started_again_has_lost_what_it_had() {
    let mut servers = RedisCluster::start(3, false);
    let cluster = ticked(&servers, 0).await;
    let wrote = wrote_by(&servers.nodes[0]).await;
    servers.nodes[0].kill();
    servers.nodes[0].restart();
    assert_eq!(judged(&cluster, &wrote, &servers.nodes[0]).await, Verdict::Lost);
}

#[test]
fn a_node_tells_where_it_moves_a_slot() {
    let nodes = "ab 10.0.0.1:7001@17001 myself,master - 0 1 2 connected 0-5 [3->-ef] [12-<-cd]\n";
    assert_eq!(moves_to(nodes, 3).as_deref(), Some("ef"));
    assert_eq!(moves_to(nodes, 12), None, "that one comes");
    assert_eq!(moves_to(nodes, 4), None);
}

#[test]
fn every_node_is_listed_whether_it_has_slots_or_not() {
    let nodes = "ab 10.0.0.1:7001@17001,name master - 0 1 2 connected 0-5\n\
                 cd ::1:7002@17002 myself,slave ab 0 0 2 connected\n\
                 ef :0@0 master,noaddr - 1 1 1 disconnected\n";
    let expected = [("10.0.0.1".to_owned(), 7001), ("::1".to_owned(), 7002)];
    assert_eq!(addresses(nodes), expected);
}

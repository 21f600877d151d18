//! TLS towards Redis: one server, the nodes of a Redis Cluster, Sentinels and their master.

use std::net::SocketAddr;
use std::path::Path;

use sse_contract::Keys;
use sse_lab::redis_cluster::RedisCluster;
use sse_lab::redis_server::RedisServer;
use sse_lab::sentinels::Sentinels;

use super::{Authority, Pair};
use crate::support::{Redis, TestGateway, eventually};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What makes a server speak TLS with this certificate, as names and values of its configuration.
fn files<'a>(authority: &'a Path, pair: &'a Pair) -> [(&'static str, &'a str); 3] {
    let (certificate, key) = (text(&pair.certificate), text(&pair.key));
    [("tls-cert-file", certificate), ("tls-key-file", key), ("tls-ca-cert-file", text(authority))]
}

/// Makes a server speak TLS on a further port, and refuse everybody but the user `gateway`. Returns
/// the port's address.
fn speaks_tls(redis: &RedisServer, authority: &Authority, clients: &str) -> SocketAddr {
    // A port on this server's own host, which no other process uses.
    let free = std::net::TcpListener::bind((redis.addr.ip(), 0)).unwrap().local_addr().unwrap();
    let pair = authority.signs_for(&format!("redis-{free}"), free.ip());
    let (ca, port) = (authority.certificate(), free.port().to_string());
    let mut words = vec!["CONFIG", "SET", "tls-port", &port, "tls-auth-clients", clients];
    words.extend(files(&ca, &pair).iter().flat_map(|(name, value)| [name, value]));
    assert_eq!(redis.command(&words), "OK");
    let user = ["ACL", "SETUSER", "gateway", "on", ">secret", "~sse:*", "&sse:*", "+@all"];
    assert_eq!(redis.command(&user), "OK");
    free
}

#[test]
fn redis_is_reached_with_a_certificate_and_as_a_user() {
    let authority = Authority::new();
    let redis = Redis::start();
    let free = speaks_tls(&redis, &authority, "yes");
    let own = authority.signs("gateway");
    let ca = authority.certificate();
    let ca = text(&ca);
    assert_eq!(redis.command(&["ACL", "SETUSER", "default", "off"]), "OK");
    let url = format!("rediss://gateway:secret@{free}");
    let start = |files: &[(&str, &str)]| {
        let mut settings = vec![("redis.url", url.as_str()), ("redis.tick", "100ms")];
        settings.extend(files);
        TestGateway::try_start(&settings)
    };
    let own = [("redis.certificate", text(&own.certificate)), ("redis.key", text(&own.key))];
    let all = [&[("redis.ca", ca)], &own[..]].concat();
    let gateway = start(&all).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = gateway.live("channel=a");
    let id = gateway.publish("a", "through TLS");
    assert_eq!(stream.event().data, "through TLS");
    drop(stream);
    let mut resumed = gateway.resumed("channel=a", &id);
    gateway.publish("a", "after it");
    assert_eq!(resumed.event().data, "after it");
    drop(resumed);
    gateway.settled();
    let refused = |files: &[(&str, &str)]| start(files).err().expect("it does not start");
    let anonymous = refused(&[("redis.ca", ca)]);
    assert!(anonymous.contains("CertificateRequired"), "{anonymous}");
    let stranger = Authority::new();
    let distrusted = refused(&[&[("redis.ca", text(&stranger.certificate()))], &own[..]].concat());
    assert!(distrusted.contains("UnknownIssuer"), "{distrusted}");
    assert!(!distrusted.contains("secret"), "{distrusted}");
}

/// A stream over all masters, and an event through each.
fn serves_all(gateway: &TestGateway) {
    let keys = Keys::new("sse", 16);
    let names = (0..).map(|n| format!("c{n}"));
    let mut found = Vec::new();
    for name in names.take(200) {
        let partition = keys.partition(&name);
        if !found.iter().any(|(_, known)| *known == partition) {
            found.push((name, partition));
        }
    }
    assert_eq!(found.len(), 16);
    let query: Vec<String> = found.iter().map(|(name, _)| format!("channel={name}")).collect();
    let mut stream = gateway.live(&query.join("&"));
    for (name, _) in &found {
        gateway.publish(name, name);
        assert_eq!(stream.event().data, *name);
    }
}

/// The nodes announce their TLS ports, and each has a password.
#[test]
fn the_nodes_of_a_cluster_are_reached_by_tls_and_as_a_user() {
    let authority = Authority::new();
    let cluster = RedisCluster::start(3, false);
    let addrs: Vec<SocketAddr> =
        cluster.nodes.iter().map(|node| speaks_tls(node, &authority, "no")).collect();
    for (node, addr) in cluster.nodes.iter().zip(&addrs) {
        let port = addr.port().to_string();
        assert_eq!(node.command(&["CONFIG", "SET", "cluster-announce-port", &port]), "OK");
    }
    eventually("all nodes know the ports", || {
        cluster.nodes.iter().all(|node| {
            let slots = node.command(&["CLUSTER", "SLOTS"]);
            addrs.iter().all(|addr| slots.lines().any(|line| line == addr.port().to_string()))
        })
    });
    let ca = authority.certificate();
    let start = |password: &str, nodes: &[SocketAddr]| {
        let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
        let url = format!("rediss+cluster://gateway:{password}@{}", nodes.join(","));
        let settings =
            [("redis.url", url.as_str()), ("redis.ca", text(&ca)), ("stream.max_channels", "20")];
        TestGateway::try_start(&settings)
    };
    serves_all(&start("secret", &addrs[..1]).unwrap_or_else(|error| panic!("{error}")));
    let error = start("wrong", &addrs[..1]).err().expect("it does not start");
    assert!(error.contains("WRONGPASS") && error.contains(&addrs[0].to_string()), "{error}");
    // One node does not know the user.
    assert_eq!(cluster.nodes[1].command(&["ACL", "SETUSER", "gateway", "off"]), "OK");
    let error = start("secret", &addrs[..1]).err().expect("it does not start");
    assert!(error.contains("WRONGPASS") && error.contains(&addrs[1].to_string()), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn sentinels_and_their_master_are_reached_by_tls_and_with_passwords() {
    let authority = Authority::new();
    let master = Redis::start();
    let addr = speaks_tls(&master, &authority, "no");
    let ca = authority.certificate();
    let all = Sentinels::over_tls(addr, "guard", |own| {
        let pair = authority.signs_for(&format!("sentinel-{own}"), own);
        let files = files(&ca, &pair).map(|(name, value)| format!("{name} {value}"));
        [files.to_vec(), vec!["tls-auth-clients no".to_owned()]].concat()
    });
    let start = |url: String| {
        TestGateway::try_start(&[("redis.url", url.as_str()), ("redis.ca", text(&ca))])
    };
    let url = |master: &str, sentinel: &str| {
        let url = Sentinels::url_of(&all).replace("redis+", "rediss+");
        let url = url.replace("://", &format!("://gateway:{master}@"));
        format!("{url}?sentinel_password={sentinel}")
    };
    let gateway = start(url("secret", "guard")).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = gateway.live("channel=a");
    gateway.publish("a", "through TLS");
    assert_eq!(stream.event().data, "through TLS");
    let error = start(url("wrong", "guard")).err().expect("it does not start");
    assert!(error.contains("WRONGPASS") && error.contains(&addr.to_string()), "{error}");
    let error = start(url("secret", "wrong")).err().expect("it does not start");
    assert!(error.contains("WRONGPASS") && error.contains("Sentinel"), "{error}");
}

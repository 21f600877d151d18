//! Where the masters are: at an address, where Sentinels say, or at the nodes of a Redis Cluster that
//! own the partitions' slots.
//!
//! Sources: redis.io, "Guidelines for Redis clients with support for Redis Sentinel" and "Redis
//! cluster specification".

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    Value, cmd,
};
use sse_contract::Address;

use crate::redis_error::NoSession;
use crate::redis_slots::Slots;

/// A Sentinel or a node that does not answer within this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server, with credentials and the settings of connections.
#[derive(Debug, Clone)]
pub(crate) struct Server(ConnectionInfo);

/// Tells where the masters are.
#[derive(Debug)]
pub(crate) enum Place {
    /// One server.
    Server(Server),
    /// The master that Sentinels name.
    Sentinel {
        /// At least one.
        sentinels: Vec<Server>,
        /// What they call the master.
        name: String,
        /// The master's credentials, at another address than its own.
        template: Server,
    },
    /// A Redis Cluster.
    Cluster {
        /// Where to ask first, at least one.
        seeds: Vec<Server>,
        /// Which node owns which slot, as far as is known.
        slots: Slots,
        /// How often the nodes were asked. Each time another one is asked first, because one that is
        /// cut off from the others tells what was.
        asked: usize,
    },
}

impl Place {
    /// Reads a URL. The error does not repeat it, because it may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let all = |urls: &[String]| -> Result<Vec<Server>, String> {
            urls.iter().map(|url| Server::parse(url)).collect()
        };
        Ok(match Address::parse(url).map_err(|error| error.to_string())? {
            Address::Server(url) => Place::Server(Server::parse(&url)?),
            Address::Sentinel { sentinels, name, master } => Place::Sentinel {
                sentinels: all(&sentinels)?,
                name,
                template: Server::parse(&master)?,
            },
            Address::Cluster(nodes) => {
                Place::Cluster { seeds: all(&nodes)?, slots: Slots::default(), asked: 0 }
            }
        })
    }

    /// Whether the masters are those of a Redis Cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Place::Cluster { .. })
    }

    /// Finds where the masters of these slots are, unless that is known.
    pub(crate) async fn find(&mut self, wanted: &[u16], wait: Duration) -> Result<(), NoSession> {
        let Place::Cluster { seeds, slots, asked } = self else { return Ok(()) };
        if wanted.iter().all(|slot| slots.owner(*slot).is_some()) {
            return Ok(());
        }
        let wait = wait.min(PATIENCE);
        let (mut failures, mut is_final) = (Vec::new(), true);
        let known = slots.nodes().map(|(host, port)| seeds[0].at(host, *port));
        let mut nodes: Vec<Server> = known.collect();
        let others = seeds.iter().filter(|seed| !nodes.iter().any(|node| node.same(seed)));
        nodes.extend(others.cloned().collect::<Vec<_>>());
        let first = *asked % nodes.len();
        nodes.rotate_left(first);
        *asked += 1;
        for node in nodes {
            let why = match ask(&node, &["CLUSTER", "SLOTS"], wait).await {
                Ok(answer) => match Slots::read(&answer, node.host()) {
                    None => format!("{node}: CLUSTER SLOTS answered {answer:?}"),
                    Some(read) => match wanted.iter().find(|slot| read.owner(**slot).is_none()) {
                        Some(slot) => format!("{node}: no node owns slot {slot}"),
                        None => {
                            *slots = read;
                            return Ok(());
                        }
                    },
                },
                Err(no) => {
                    is_final &= no.is_final();
                    match no.text().contains("cluster support disabled") {
                        true => format!("{node}: it is not a node of a Redis Cluster"),
                        false => format!("{node}: {}", no.text()),
                    }
                }
            };
            failures.push(why);
        }
        // A cluster that served this run before is rather being repaired.
        let is_final = is_final && slots.is_new();
        let text = format!("the cluster does not tell its masters: {}", failures.join("; "));
        Err(NoSession::new(is_final, text))
    }

    /// The master of a slot, which [`Place::find`] has found.
    pub(crate) async fn master(&self, slot: u16, wait: Duration) -> Result<Server, NoSession> {
        match self {
            Place::Server(server) => Ok(server.clone()),
            Place::Sentinel { sentinels, name, template } => {
                let (host, port) = master_of(sentinels, name, wait.min(PATIENCE)).await?;
                Ok(template.at(&host, port))
            }
            Place::Cluster { seeds, slots, .. } => match slots.owner(slot) {
                Some((host, port)) => Ok(seeds[0].at(host, *port)),
                None => Err(NoSession::new(false, format!("no node is known to own slot {slot}"))),
            },
        }
    }

    /// Notes where a node said that a slot has gone: `<slot> <host>:<port>`, the words of `MOVED`.
    /// The node that said so is at `from`.
    pub(crate) fn moved(&mut self, words: &str, from: &Server) {
        if let Place::Cluster { slots, .. } = self
            && slots.moved(words, from.host()).is_none()
        {
            slots.forget();
        }
    }

    /// Asks anew before the next attempt, because a master may have been replaced.
    pub(crate) fn forget(&mut self) {
        if let Place::Cluster { slots, .. } = self {
            slots.forget();
        }
    }
}

/// The address without credentials, for messages.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |servers: &[Server]| -> String {
            let addrs: Vec<String> = servers.iter().map(Server::to_string).collect();
            addrs.join(",")
        };
        match self {
            Place::Server(server) => write!(f, "{}://{server}", server.scheme()),
            Place::Sentinel { sentinels, name, template } => {
                write!(f, "{}+sentinel://{}/{name}", template.scheme(), all(sentinels))
            }
            Place::Cluster { seeds, .. } => {
                write!(f, "{}+cluster://{}", seeds[0].scheme(), all(seeds))
            }
        }
    }
}

impl Server {
    fn parse(url: &str) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|error| {
            format!(
                "not a redis://, rediss://, redis+sentinel:// or redis+cluster:// URL ({})",
                error.category()
            )
        })?;
        if info.redis_settings().db() != 0 {
            return Err(
                "the gateway's keys are in database 0: pub/sub knows no databases".to_owned()
            );
        }
        let server = Server(info);
        Client::open(server.0.clone()).map_err(|error| error.category().to_owned())?;
        Ok(server)
    }

    /// The server at another address, with the same credentials and TLS.
    fn at(&self, host: &str, port: u16) -> Self {
        let addr = match self.0.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Server(self.0.clone().set_addr(addr))
    }

    fn same(&self, other: &Server) -> bool {
        self.0.addr() == other.0.addr()
    }

    fn host(&self) -> &str {
        match self.0.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    fn scheme(&self) -> &'static str {
        match self.0.addr() {
            ConnectionAddr::TcpTls { .. } => "rediss",
            ConnectionAddr::Unix(_) => "unix",
            _ => "redis",
        }
    }

    /// Connects and authenticates. `wait` is the longest wait for the connection, and then for each
    /// answer.
    pub(crate) async fn connect(
        &self,
        wait: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(wait))
            .set_response_timeout(Some(wait));
        let client = Client::open(self.0.clone())?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// The address without credentials.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.addr().fmt(f)
    }
}

/// Where the master is, as the Sentinels say. Waits for more than half of them, and believes the one
/// that knows of the last failover: a Sentinel that is cut off from the others still names a master
/// that was deposed. The error says of each why it did not tell.
async fn master_of(
    sentinels: &[Server],
    name: &str,
    wait: Duration,
) -> Result<(String, u16), NoSession> {
    let asked = sentinels.iter().map(|sentinel| async move {
        let told = ask(sentinel, &["SENTINEL", "MASTER", name], wait).await;
        let told = told.and_then(|answer| {
            said(&answer).ok_or_else(|| NoSession::new(true, format!("it answered {answer:?}")))
        });
        told.map_err(|no| (sentinel, no))
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let (mut told, mut failures, mut is_final) = (Vec::new(), Vec::new(), true);
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(said) => told.push(said),
            Err((sentinel, no)) => {
                is_final &= no.is_final();
                failures.push(match no.text().contains("No such master") {
                    true => format!("{sentinel}: it knows no master named {name:?}"),
                    false => format!("{sentinel}: {}", no.text()),
                });
            }
        }
        if told.len() > sentinels.len() / 2 {
            break;
        }
    }
    let newest = told.into_iter().max_by_key(|(epoch, ..)| *epoch);
    newest.map(|(_, host, port)| (host, port)).ok_or_else(|| {
        let why = failures.join("; ");
        NoSession::new(is_final, format!("no Sentinel tells where {name:?} is: {why}"))
    })
}

/// The epoch of the last failover, and where the master is: fields of an answer to `SENTINEL MASTER`,
/// which is names and values in turn.
fn said(answer: &Value) -> Option<(u64, String, u16)> {
    let words: Vec<String> = redis::from_redis_value(answer.clone()).ok()?;
    let field = |name| words.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| &pair[1]);
    let port = field("port")?.parse().ok()?;
    Some((field("config-epoch")?.parse().ok()?, field("ip")?.clone(), port))
}

/// Asks a Sentinel or a node on a connection of its own.
async fn ask(server: &Server, words: &[&str], wait: Duration) -> Result<Value, NoSession> {
    let mut connection = server.connect(wait).await?;
    let command = words[1..].iter().fold(cmd(words[0]), |mut command, word| {
        command.arg(word);
        command
    });
    Ok(command.query_async(&mut connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_without_credentials() {
        for (url, shown) in [
            ("redis://u:p@h", "redis://h:6379"),
            ("rediss://u:p@h:1", "rediss://h:1"),
            ("redis+sentinel://u:p@a,b:1/m?sentinel_password=q", "redis+sentinel://a:26379,b:1/m"),
            ("rediss+cluster://u:p@a,b:1", "rediss+cluster://a:6379,b:1"),
        ] {
            assert_eq!(Place::parse(url).unwrap().to_string(), shown);
        }
        for bad in ["redis://h/1", "redis+cluster://u:secret@h/1", "http://u:secret@h", "secret"] {
            let error = Place::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_sentinel_tells_the_master_and_the_epoch_of_the_last_failover() {
        let texts = |words: &[&str]| {
            Value::Array(words.iter().map(|w| Value::BulkString(w.as_bytes().to_vec())).collect())
        };
        let answer = texts(&["name", "m", "ip", "::1", "port", "6380", "config-epoch", "7"]);
        assert_eq!(said(&answer), Some((7, "::1".to_owned(), 6380)));
        assert_eq!(said(&texts(&["ip", "::1", "port", "x", "config-epoch", "7"])), None);
        assert_eq!(said(&Value::Nil), None);
    }
}

//! URLs that name a Redis: one server, the master that Sentinels watch over, or a Redis Cluster.
//!
//! There is no standard for the last two. These schemes are those of several client libraries, and
//! the rest is written as in the `redis://` of one server.

use std::fmt;

/// What a URL names. The parts are URLs of single servers, `redis://` or `rediss://`, with
/// credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// One server: the URL as it is.
    Server(String),
    /// `redis+sentinel://[user:password@]host[:26379][,host…]/master` or `rediss+…`.
    Sentinel {
        /// The Sentinels, at least one.
        sentinels: Vec<String>,
        /// What they call the master.
        name: String,
        /// The master, with another host and port than its own.
        master: String,
    },
    /// `redis+cluster://[user:password@]host[:6379][,host…]` or `rediss+…`: some of the nodes, at
    /// least one.
    Cluster(Vec<String>),
}

/// Why a URL names no Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is an empty host between the commas.
    #[error("it names no host, as in {0}host1,host2")]
    NoHost(&'static str),
    /// What the Sentinels call the master is missing.
    #[error(
        "it does not say what the Sentinels call the master, as in redis+sentinel://host:26379/mymaster"
    )]
    NoName,
    /// Something follows that a cluster's URL does not have.
    #[error("a cluster has neither databases nor names: nothing follows its hosts, but {0:?} does")]
    Path(String),
    /// A parameter is not known.
    #[error("it has the parameter {0:?}; there are sentinel_user and sentinel_password")]
    Parameter(String),
}

impl Address {
    /// Reads a URL. What is not of one of the two schemes above is one server's, and is not looked
    /// at.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Ok(Address::Server(url.to_owned()));
        };
        let (server, kind) = match scheme {
            "redis+sentinel" => ("redis", Kind::Sentinel),
            "rediss+sentinel" => ("rediss", Kind::Sentinel),
            "redis+cluster" => ("redis", Kind::Cluster),
            "rediss+cluster" => ("rediss", Kind::Cluster),
            _ => return Ok(Address::Server(url.to_owned())),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let port = if kind == Kind::Sentinel { 26379 } else { 6379 };
        let urls = |user: &str| -> Result<Vec<String>, AddressError> {
            let url = |host: &str| match host {
                "" => Err(AddressError::NoHost(kind.scheme())),
                host if has_port(host) => Ok(format!("{server}://{user}{host}")),
                host => Ok(format!("{server}://{user}{host}:{port}")),
            };
            hosts.split(',').map(url).collect()
        };
        if kind == Kind::Cluster {
            let nodes = urls(&user)?;
            let more = if path.is_empty() { query } else { path };
            return match more.is_empty() {
                true => Ok(Address::Cluster(nodes)),
                false => Err(AddressError::Path(more.to_owned())),
            };
        }
        let (mut name, mut password) = ("", "");
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sentinel_user", value)) => name = value,
                Some(("sentinel_password", value)) => password = value,
                _ => {
                    let name = parameter.split('=').next().unwrap_or_default();
                    return Err(AddressError::Parameter(name.to_owned()));
                }
            }
        }
        let for_sentinels = match (name, password) {
            ("", "") => String::new(),
            (name, password) => format!("{name}:{password}@"),
        };
        let sentinels = urls(&for_sentinels)?;
        if path.is_empty() {
            return Err(AddressError::NoName);
        }
        let master = format!("{server}://{user}localhost:6379");
        Ok(Address::Sentinel { sentinels, name: path.to_owned(), master })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sentinel,
    Cluster,
}

impl Kind {
    fn scheme(self) -> &'static str {
        match self {
            Kind::Sentinel => "redis+sentinel://",
            Kind::Cluster => "redis+cluster://",
        }
    }
}

/// Whether a port follows the host, which may be an IPv6 address in brackets.
fn has_port(host: &str) -> bool {
    let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    behind.contains(':')
}

/// The URLs may hold passwords.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Address::Server(_) => "Server(..)",
            Address::Sentinel { .. } => "Sentinel(..)",
            Address::Cluster(_) => "Cluster(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_one_server_stays_as_it_is() {
        for url in ["redis://h", "rediss://u:p@h:1/0?x=y", "redis+unix:///s", "h:6379", ""] {
            assert!(Address::parse(url) == Ok(Address::Server(url.to_owned())), "{url}");
        }
    }

    #[test]
    fn sentinels_and_master_have_their_own_credentials() {
        let parse = |url| match Address::parse(url) {
            Ok(Address::Sentinel { sentinels, name, master }) => {
                (sentinels.join(" "), name, master)
            }
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(
            parse("redis+sentinel://a,b:1,[::1],[::2]:3/mymaster"),
            (
                "redis://a:26379 redis://b:1 redis://[::1]:26379 redis://[::2]:3".into(),
                "mymaster".into(),
                "redis://localhost:6379".into()
            )
        );
        assert_eq!(
            parse("rediss+sentinel://u:p%40@a/m?sentinel_user=s&sentinel_password=q"),
            ("rediss://s:q@a:26379".into(), "m".into(), "rediss://u:p%40@localhost:6379".into())
        );
        assert_eq!(parse("redis+sentinel://a/m?sentinel_password=q").0, "redis://:q@a:26379");
    }

    #[test]
    fn any_nodes_name_a_cluster() {
        let Ok(Address::Cluster(nodes)) = Address::parse("rediss+cluster://:p@a,b:7001") else {
            panic!("a cluster");
        };
        assert_eq!(nodes, ["rediss://:p@a:6379", "rediss://:p@b:7001"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, error) in [
            ("redis+cluster://", AddressError::NoHost("redis+cluster://")),
            ("redis+sentinel://u:p@/m", AddressError::NoHost("redis+sentinel://")),
            ("redis+cluster://a,,b", AddressError::NoHost("redis+cluster://")),
            ("redis+cluster://a/1", AddressError::Path("1".into())),
            ("redis+sentinel://a", AddressError::NoName),
            ("redis+sentinel://a/", AddressError::NoName),
            ("redis+sentinel://a/m?db=1", AddressError::Parameter("db".into())),
        ] {
            assert_eq!(Address::parse(url), Err(error), "{url}");
        }
    }
}

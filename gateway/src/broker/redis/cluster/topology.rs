//! What a node of a Redis Cluster tells of the others: who owns which slots, and where they are.

use crate::broker::redis::connector::{Connection, SessionError};
use crate::broker::redis::place::Server;
use crate::broker::redis::resp::Value;

/// One answer to `CLUSTER SLOTS`: each range of slots with its owner, and all nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    ranges: Vec<(u16, u16, Node)>,
    pub(super) nodes: Vec<(String, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) id: String,
}

impl Slots {
    /// Asks this server.
    pub(super) async fn of(
        connection: &mut Connection,
        server: &Server,
    ) -> Result<Self, SessionError> {
        let cmd = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
        let host = server.host().unwrap_or_default();
        connection.call(&cmd, |value| Slots::read(value, host)).await?
    }

    /// Reads an answer of the node at `host`, which may leave out its own.
    pub(super) fn read(value: &Value<'_>, host: &str) -> Result<Self, SessionError> {
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

    /// The nodes that own slots, each with its ranges.
    pub(super) fn masters(&self) -> Vec<(Node, Vec<(u16, u16)>)> {
        let mut masters: Vec<(Node, Vec<(u16, u16)>)> = Vec::new();
        for (first, last, node) in &self.ranges {
            match masters.iter_mut().find(|(known, _)| known.id == node.id) {
                Some((_, ranges)) => ranges.push((*first, *last)),
                None => masters.push((node.clone(), vec![(*first, *last)])),
            }
        }
        masters
    }

    /// The owner of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let of = |(first, last, _): &&(u16, u16, Node)| (*first..=*last).contains(&slot);
        self.ranges.iter().find(of).map(|(_, _, node)| node)
    }
}

/// Reads an answer to CLUSTER NODES.
pub(super) async fn nodes<T>(
    connection: &mut Connection,
    read: impl Fn(&str) -> T,
) -> Result<T, SessionError> {
    let cmd = redis::cmd("CLUSTER").arg("NODES").to_owned();
    connection.call(&cmd, |value| read(value.text().unwrap_or_default())).await
}

/// The addresses of all nodes that this one knows: the second words of the lines,
/// `<ip>:<port>@<port of the bus>[,<name>]`.
pub(super) fn addresses(nodes: &str) -> Vec<(String, u16)> {
    let address = |line: &str| {
        let (host, port) = line.split(' ').nth(1)?.split('@').next()?.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    };
    nodes.lines().filter_map(address).collect()
}

/// The id of the node to which this one moves a slot: `[<slot>->-<id>]` in its own line.
pub(super) fn moves_to(nodes: &str, slot: u16) -> Option<String> {
    let (_, rest) = nodes.split_once(&format!("[{slot}->-"))?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The id of the node at the other end of the connection.
pub(super) async fn node_id(connection: &mut Connection) -> Result<String, SessionError> {
    let cmd = redis::cmd("CLUSTER").arg("MYID").to_owned();
    let id = connection.call(&cmd, |value| value.text().map(str::to_owned)).await?;
    id.ok_or_else(|| SessionError::Refused("CLUSTER MYID does not tell".into()))
}

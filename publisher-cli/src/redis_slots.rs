//! Which node of a Redis Cluster owns which slot. Does no I/O.

use std::collections::HashMap;

use redis::Value;

/// A node's host and port.
pub(crate) type Node = (String, u16);

/// An answer to `CLUSTER SLOTS`, and what nodes said since.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    ranges: Vec<(u16, u16, Node)>,
    /// Slots that have gone to another node since.
    moved: HashMap<u16, Node>,
    /// All nodes that were ever told of, to ask again.
    nodes: Vec<Node>,
}

impl Slots {
    /// Reads an answer of the node at `host`, which may leave out its own name. `None` if it has
    /// another form.
    pub(crate) fn read(answer: &Value, host: &str) -> Option<Self> {
        let node = |value: &Value| {
            let Value::Array(fields) = value else { return None };
            let [named, port, ..] = &fields[..] else { return None };
            let named = text(named).filter(|named| !matches!(&**named, "" | "?"));
            Some((named.unwrap_or_else(|| host.to_owned()), u16::try_from(int(port)?).ok()?))
        };
        let Value::Array(answer) = answer else { return None };
        let mut slots = Slots::default();
        for range in answer {
            let Value::Array(fields) = range else { return None };
            let [first, last, owner, replicas @ ..] = &fields[..] else { return None };
            let slot = |value| u16::try_from(int(value)?).ok();
            let owner = node(owner)?;
            slots.nodes.push(owner.clone());
            slots.nodes.extend(replicas.iter().filter_map(node));
            slots.ranges.push((slot(first)?, slot(last)?, owner));
        }
        slots.nodes.sort();
        slots.nodes.dedup();
        Some(slots)
    }

    /// The node that owns a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Node> {
        let of = |(first, last, _): &&(u16, u16, Node)| (*first..=*last).contains(&slot);
        let range = self.ranges.iter().find(of).map(|(_, _, node)| node);
        self.moved.get(&slot).or(range)
    }

    /// Notes the words of `MOVED`, `<slot> <host>:<port>`, that the node at `from` said. Without a
    /// host it is that node's. `None` if they have another form.
    pub(crate) fn moved(&mut self, words: &str, from: &str) -> Option<()> {
        let (slot, addr) = words.split_once(' ')?;
        let (host, port) = addr.trim().rsplit_once(':')?;
        let host = if matches!(host, "" | "?") { from } else { host };
        self.moved.insert(slot.parse().ok()?, (host.to_owned(), port.parse().ok()?));
        Some(())
    }

    /// Forgets who owns what, but not which nodes there are.
    pub(crate) fn forget(&mut self) {
        self.ranges.clear();
        self.moved.clear();
    }

    /// Every node that was told of.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Whether no node ever told anything.
    pub(crate) fn is_new(&self) -> bool {
        self.nodes.is_empty()
    }
}

fn text(value: &Value) -> Option<String> {
    redis::from_redis_value::<Option<String>>(value.clone()).ok()?
}

fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(*n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: Value, port: i64) -> Value {
        let id = Value::BulkString(b"id".to_vec());
        Value::Array(vec![host, Value::Int(port), id, Value::Array(vec![])])
    }

    fn named(host: &str) -> Value {
        Value::BulkString(host.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([first, last].map(Value::Int).into_iter().chain(nodes).collect())
    }

    fn owner(slots: &Slots, slot: u16) -> Option<String> {
        slots.owner(slot).map(|(host, port)| format!("{host}:{port}"))
    }

    #[test]
    fn the_owner_of_a_slot_is_the_first_node_of_its_range_unless_it_moved() {
        let answer = Value::Array(vec![
            range(0, 99, vec![node(named("10.0.0.1"), 7001), node(named("10.0.0.3"), 7003)]),
            // The node that was asked may not know its own name.
            range(100, 199, vec![node(Value::Nil, 7002)]),
            range(300, 300, vec![node(named(""), 7002)]),
        ]);
        let mut slots = Slots::read(&answer, "asked").unwrap();
        assert_eq!(owner(&slots, 99).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(&slots, 100).as_deref(), Some("asked:7002"));
        assert_eq!(owner(&slots, 300).as_deref(), Some("asked:7002"));
        assert_eq!(owner(&slots, 299), None);
        assert_eq!(slots.nodes().count(), 3);
        assert!(!slots.is_new());

        assert_eq!(slots.moved("99 ::1:7004", "from"), Some(()));
        assert_eq!(owner(&slots, 99).as_deref(), Some("::1:7004"));
        assert_eq!(slots.moved("98 :7005", "from"), Some(()));
        assert_eq!(owner(&slots, 98).as_deref(), Some("from:7005"));
        assert_eq!(owner(&slots, 97).as_deref(), Some("10.0.0.1:7001"));
        for odd in ["", "x", "1", "1 x", "x a:1", "1 a:b"] {
            assert_eq!(slots.moved(odd, "from"), None, "{odd}");
        }
        slots.forget();
        assert_eq!(owner(&slots, 99), None);
        assert_eq!(slots.nodes().count(), 3, "they are asked again");
    }

    #[test]
    fn an_answer_of_another_form_tells_nothing() {
        for odd in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 1, vec![])]),
            Value::Array(vec![range(-1, 1, vec![node(named("a"), 1)])]),
            Value::Array(vec![range(0, 1, vec![node(named("a"), 1 << 16)])]),
        ] {
            assert_eq!(Slots::read(&odd, "asked"), None, "{odd:?}");
        }
        assert!(Slots::read(&Value::Array(vec![]), "asked").unwrap().is_new());
    }
}

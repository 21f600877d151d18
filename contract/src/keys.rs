//! The names of keys and pub/sub channels in Redis.

use crate::Channel;

/// Builds every name that the contract uses in Redis, from a prefix and the number of partitions.
///
/// With one partition names are plain (`sse:history:orders`). With more, each name carries the hash
/// tag of its partition (`sse:{3}:history:orders`), so that all names of a partition share one slot
/// of a Redis Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    partitions: u16,
}

/// Why a text is not a valid prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The prefix is empty.
    #[error("a prefix has at least 1 byte")]
    Empty,
    /// It holds a colon. The first colon of a name ends its prefix: with the prefixes `sse` and
    /// `sse:a`, the name `sse:a:b` could belong to either.
    #[error("a prefix does not hold a colon: it ends at the first one of a name")]
    Colon,
    /// It holds a brace. Braces mark the hash tag of a partition.
    #[error("a prefix does not hold {{ or }}: they are the hash tag of a partition")]
    Brace,
    /// It holds a space, a control character or a character beyond ASCII.
    #[error("a prefix is visible ASCII without spaces, which {0:?} is not")]
    Character(char),
}

impl Keys {
    /// Validates a prefix. Two installations with different valid prefixes share no name.
    pub fn check_prefix(prefix: &str) -> Result<(), PrefixError> {
        if prefix.is_empty() {
            return Err(PrefixError::Empty);
        }
        match prefix.chars().find(|c| !c.is_ascii_graphic() || ":{}".contains(*c)) {
            None => Ok(()),
            Some(':') => Err(PrefixError::Colon),
            Some('{' | '}') => Err(PrefixError::Brace),
            Some(c) => Err(PrefixError::Character(c)),
        }
    }

    /// Creates the names of one installation. `prefix` must pass [`Keys::check_prefix`];
    /// `partitions` must be at least 1.
    pub fn new(prefix: impl Into<String>, partitions: u16) -> Self {
        Keys { prefix: prefix.into(), partitions: partitions.max(1) }
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The partition of a channel, a subject or a ticket's hash: the CRC16 of its hash tag, or of
    /// the whole text if it has no tag, modulo the number of partitions. (CRC16 is XMODEM, as in the
    /// Redis Cluster specification.)
    pub fn partition(&self, name: &str) -> u16 {
        if self.partitions == 1 {
            return 0;
        }
        crc16(Channel::hashed(name).as_bytes()) % self.partitions
    }

    /// The slot of a Redis Cluster that a partition's names share. Without several partitions they
    /// share none.
    pub fn slot(&self, partition: u16) -> u16 {
        crc16(partition.to_string().as_bytes()) % SLOTS
    }

    /// The beginning of every name of a partition.
    pub fn head(&self, partition: u16) -> String {
        if self.partitions == 1 {
            self.prefix.clone()
        } else {
            format!("{}:{{{partition}}}", self.prefix)
        }
    }

    /// The hash with a partition's clock and limits.
    pub fn state(&self, partition: u16) -> String {
        format!("{}:state", self.head(partition))
    }

    /// The stream with a channel's events.
    pub fn history(&self, channel: &Channel) -> String {
        format!("{}:history:{channel}", self.head(self.partition(channel.as_str())))
    }

    /// The pub/sub channel that carries a channel's live events.
    pub fn live(&self, channel: &Channel) -> String {
        format!("{}:{channel}", self.head(self.partition(channel.as_str())))
    }

    /// The key that remembers what was published on a channel with an idempotency key. No channel
    /// holds a `|`, so the name shows where the channel ends. With a colon instead, channel `user`
    /// and key `42:7` would share their name with channel `user:42` and key `7`, and one of two
    /// acknowledged events would never be published.
    pub fn idempotency(&self, channel: &Channel, key: &str) -> String {
        format!("{}:idem:{channel}|{key}", self.head(self.partition(channel.as_str())))
    }

    /// The witness of one generation: the hash of each channel's last event id. It reveals
    /// histories that vanished.
    pub fn known(&self, partition: u16, generation: u64) -> String {
        format!("{}:known:{generation}", self.head(partition))
    }

    /// The sorted set that counts a subject's open streams on all gateways. A subject may be any
    /// text.
    pub fn streams(&self, subject: &str) -> String {
        format!("{}:streams:{subject}", self.head(self.partition(subject)))
    }

    /// The pub/sub channel for one gateway's probes of a partition. No channel's name begins with a
    /// colon, so no channel can collide with this name.
    pub fn probe(&self, partition: u16, nonce: u64) -> String {
        format!("{}::probe:{nonce:016x}", self.head(partition))
    }

    /// The key with what an unused ticket grants. `hash` is the ticket's hash, which also decides on
    /// the partition.
    pub fn ticket(&self, hash: &str) -> String {
        format!("{}:ticket:{hash}", self.head(self.partition(hash)))
    }

    /// The sorted set of revocations, scored by the time (ms) until which each is kept. A gateway
    /// reads all of them in one step, so all are in the first partition.
    pub fn revoked(&self) -> String {
        format!("{}:revoked", self.head(0))
    }

    /// The pub/sub channel on which gateways tell each other to read the revocations. It is in the
    /// first partition, as they are.
    pub fn revocation_channel(&self) -> String {
        format!("{}::revoked", self.head(0))
    }
}

/// How many slots a Redis Cluster has (Redis cluster specification).
const SLOTS: u16 = 16384;

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn crc16_is_that_of_the_redis_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn one_partition_has_plain_names() {
        let keys = Keys::new("sse", 1);
        let orders: Channel = "orders".parse().unwrap();
        assert_eq!(keys.state(0), "sse:state");
        assert_eq!(keys.history(&orders), "sse:history:orders");
        assert_eq!(keys.live(&orders), "sse:orders");
        assert_eq!(keys.idempotency(&orders, "k1"), "sse:idem:orders|k1");
        assert_eq!(keys.known(0, 3), "sse:known:3");
        assert_eq!(keys.streams("ann"), "sse:streams:ann");
        assert_eq!(keys.probe(0, 255), "sse::probe:00000000000000ff");
        assert_eq!(keys.ticket("ab"), "sse:ticket:ab");
        assert_eq!(
            (keys.revoked(), keys.revocation_channel()),
            ("sse:revoked".into(), "sse::revoked".into())
        );
    }

    #[test]
    fn the_vectors_of_the_written_contract() {
        let keys = Keys::new("sse", 16);
        let tagged = [("{orders}", 9), ("mail:{orders}", 9), ("{user:42}:mail", 8)];
        let plain = [("demo", 7), ("orders", 9), ("user:42", 8)];
        for (channel, partition) in plain.into_iter().chain(tagged) {
            assert_eq!(keys.partition(channel), partition, "{channel}");
        }
        let orders: Channel = "orders".parse().unwrap();
        assert_eq!(keys.history(&orders), "sse:{9}:history:orders");
        assert_eq!(keys.live(&orders), "sse:{9}:orders");
        assert_eq!(keys.known(9, 1), "sse:{9}:known:1");
        // As a Redis Cluster counts: CLUSTER KEYSLOT sse:{9}:state.
        assert_eq!(keys.slot(9), 10106);
        assert_eq!(keys.state(9), "sse:{9}:state");
        assert_eq!(keys.idempotency(&orders, "k1"), "sse:{9}:idem:orders|k1");
        assert_eq!(keys.streams("user:42"), "sse:{8}:streams:user:42");
        assert_eq!(keys.probe(9, 255), "sse:{9}::probe:00000000000000ff");
        assert_eq!(keys.ticket("ab"), "sse:{15}:ticket:ab");
        assert_eq!(
            (keys.revoked(), keys.revocation_channel()),
            ("sse:{0}:revoked".into(), "sse:{0}::revoked".into())
        );
    }

    /// Redis Cluster hashes what stands between the first brace and the next closing one.
    fn slot_text(name: &str) -> &str {
        name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or(name, |(tag, _)| tag)
    }

    #[test]
    fn each_name_of_a_partition_is_in_its_slot() {
        let keys = Keys::new("sse", 16);
        for name in ["demo", "mail:{orders}", "{user:42}:mail", "a{}", "{", "}{x}"] {
            let partition = keys.partition(name);
            let own = partition.to_string();
            let mut names = vec![keys.streams(name), keys.ticket(name), keys.state(partition)];
            names.extend([keys.known(partition, 1), keys.probe(partition, 1)]);
            if let Ok(channel) = name.parse() {
                names.extend([keys.history(&channel), keys.live(&channel)]);
                names.push(keys.idempotency(&channel, "{k}"));
            }
            for name in names {
                assert_eq!(slot_text(&name), own, "{name}");
            }
        }
        assert_eq!(slot_text(&keys.revoked()), slot_text(&keys.state(0)));
        assert_eq!(slot_text(&keys.revocation_channel()), slot_text(&keys.state(0)));
    }

    #[test]
    fn what_is_wrong_with_a_prefix_is_named() {
        for prefix in ["sse", "a", "my-app.sse", "x*y|z"] {
            assert_eq!(Keys::check_prefix(prefix), Ok(()));
        }
        for (prefix, error) in [
            ("", PrefixError::Empty),
            ("a:b", PrefixError::Colon),
            ("sse:", PrefixError::Colon),
            ("{a}", PrefixError::Brace),
            ("a}", PrefixError::Brace),
            ("a b", PrefixError::Character(' ')),
            ("ü", PrefixError::Character('ü')),
        ] {
            assert_eq!(Keys::check_prefix(prefix), Err(error), "{prefix}");
        }
    }

    /// Everything that has a name in an installation. The names of pub/sub channels and of keys
    /// cannot collide, because Redis keeps the two apart.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Thing {
        State(u16),
        Known(u16, u64),
        History(Channel),
        Idempotency(Channel, String),
        Streams(String),
        Live(Channel),
        Probe(u16, u64),
        Ticket(String),
        Revoked,
        RevocationChannel,
    }

    impl Thing {
        fn name(&self, keys: &Keys) -> (bool, String) {
            match self {
                Thing::State(partition) => (false, keys.state(partition % keys.partitions())),
                Thing::Known(partition, generation) => {
                    (false, keys.known(partition % keys.partitions(), *generation))
                }
                Thing::History(channel) => (false, keys.history(channel)),
                Thing::Idempotency(channel, key) => (false, keys.idempotency(channel, key)),
                Thing::Streams(subject) => (false, keys.streams(subject)),
                Thing::Live(channel) => (true, keys.live(channel)),
                Thing::Probe(partition, nonce) => {
                    (true, keys.probe(partition % keys.partitions(), *nonce))
                }
                Thing::Ticket(hash) => (false, keys.ticket(hash)),
                Thing::Revoked => (false, keys.revoked()),
                Thing::RevocationChannel => (true, keys.revocation_channel()),
            }
        }

        fn in_installation(self, keys: &Keys) -> Thing {
            match self {
                Thing::State(partition) => Thing::State(partition % keys.partitions()),
                Thing::Known(p, generation) => Thing::Known(p % keys.partitions(), generation),
                Thing::Probe(p, nonce) => Thing::Probe(p % keys.partitions(), nonce),
                other => other,
            }
        }
    }

    /// Everything that could have this name.
    fn readings(name: &(bool, String), keys: &Keys) -> Vec<Thing> {
        let mut things = Vec::new();
        for partition in 0..keys.partitions() {
            things.push(Thing::State(partition));
            things.extend((0..20).map(|generation| Thing::Known(partition, generation)));
            things.extend((0..20).map(|nonce| Thing::Probe(partition, nonce)));
        }
        things.extend([Thing::Revoked, Thing::RevocationChannel]);
        // Any suffix of the name may be a channel, and any character within it may separate a
        // channel from an idempotency key.
        for (at, _) in name.1.char_indices() {
            let end = &name.1[at..];
            things.push(Thing::Ticket(end.to_owned()));
            things.push(Thing::Streams(end.to_owned()));
            if let Ok(channel) = end.parse::<Channel>() {
                things.extend([Thing::History(channel.clone()), Thing::Live(channel)]);
            }
            for (middle, _) in end.char_indices().skip(1) {
                if let (Ok(channel), Some(key)) = (end[..middle].parse(), end.get(middle + 1..)) {
                    things.push(Thing::Idempotency(channel, key.to_owned()));
                }
            }
        }
        things.retain(|thing| thing.name(keys) == *name);
        things
    }

    /// Words that names consist of, and the marks that separate them.
    const PIECES: &str = "(:|state|history|idem|known|streams|probe|ticket|revoked|[{][0-9a]{1,2}[}]|[0-9]{1,2}|a|sse|[.~-]){1,5}";

    fn channel() -> impl Strategy<Value = Channel> {
        PIECES.prop_filter_map("a channel", |text| text.parse().ok())
    }

    fn key() -> impl Strategy<Value = String> {
        proptest::string::string_regex(&format!("({PIECES}|[|]){{1,3}}")).unwrap()
    }

    fn thing() -> impl Strategy<Value = Thing> {
        prop_oneof![
            (0u16..20).prop_map(Thing::State),
            (0u16..20, 0u64..20).prop_map(|(p, g)| Thing::Known(p, g)),
            channel().prop_map(Thing::History),
            (channel(), key()).prop_map(|(channel, key)| Thing::Idempotency(channel, key)),
            key().prop_map(Thing::Streams),
            channel().prop_map(Thing::Live),
            (0u16..20, 0u64..20).prop_map(|(p, nonce)| Thing::Probe(p, nonce)),
            "[0-9a-f]{1,4}".prop_map(Thing::Ticket),
            Just(Thing::Revoked),
            Just(Thing::RevocationChannel),
        ]
    }

    fn partitions() -> impl Strategy<Value = u16> {
        prop_oneof![Just(1u16), 2u16..20]
    }

    fn prefix() -> impl Strategy<Value = String> {
        "[s:{}a1.|]{1,4}".prop_filter("a prefix", |prefix| Keys::check_prefix(prefix).is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_name_can_be_read_in_two_ways(thing in thing(), partitions in partitions()) {
            let keys = Keys::new("sse", partitions);
            let thing = thing.in_installation(&keys);
            prop_assert_eq!(readings(&thing.name(&keys), &keys), [thing]);
        }

        #[test]
        fn two_prefixes_share_no_name(thing in thing(), prefix in prefix(), of in partitions()) {
            // So a name shows its prefix, whatever the rest of the installation is.
            let (_, name) = thing.name(&Keys::new(prefix.clone(), of));
            prop_assert_eq!(name.split_once(':').map(|(first, _)| first), Some(&*prefix));
        }
    }
}

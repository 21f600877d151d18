//! Names of keys and live channels.

use crate::Channel;

/// Names everything the contract keeps in Redis, from a prefix and the number of partitions.
///
/// With one partition names are plain (`sse:history:orders`); with more, each carries the hash tag of
/// its partition (`sse:{3}:history:orders`), so that a partition's state, histories and live channels
/// share one slot of a Redis Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    partitions: u16,
}

impl Keys {
    /// `partitions` is at least 1.
    pub fn new(prefix: impl Into<String>, partitions: u16) -> Self {
        Keys { prefix: prefix.into(), partitions: partitions.max(1) }
    }

    /// The configured number of partitions.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The partition of a channel: CRC16 (XMODEM, as in the Redis Cluster specification) of its name,
    /// modulo the number of partitions.
    pub fn partition(&self, channel: &str) -> u16 {
        crc16(channel.as_bytes()) % self.partitions
    }

    /// What every name of a partition begins with.
    pub fn head(&self, partition: u16) -> String {
        if self.partitions == 1 {
            self.prefix.clone()
        } else {
            format!("{}:{{{partition}}}", self.prefix)
        }
    }

    /// The hash that holds a partition's clock and limits.
    pub fn state(&self, partition: u16) -> String {
        format!("{}:state", self.head(partition))
    }

    /// The stream that holds a channel's events.
    pub fn history(&self, channel: &Channel) -> String {
        format!("{}:history:{channel}", self.head(self.partition(channel.as_str())))
    }

    /// The pub/sub channel that carries a channel's live events.
    pub fn live(&self, channel: &Channel) -> String {
        format!("{}:{channel}", self.head(self.partition(channel.as_str())))
    }

    /// The key that remembers what an idempotency key published on a channel.
    pub fn idempotency(&self, channel: &Channel, key: &str) -> String {
        format!("{}:idem:{channel}:{key}", self.head(self.partition(channel.as_str())))
    }
}

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
        assert_eq!(keys.idempotency(&orders, "k1"), "sse:idem:orders:k1");
    }

    #[test]
    fn the_vectors_of_the_written_contract() {
        let keys = Keys::new("sse", 16);
        for (channel, partition) in [("demo", 7), ("orders", 9), ("user:42", 8)] {
            assert_eq!(keys.partition(channel), partition, "{channel}");
        }
        let orders: Channel = "orders".parse().unwrap();
        assert_eq!(keys.history(&orders), "sse:{9}:history:orders");
        assert_eq!(keys.live(&orders), "sse:{9}:orders");
    }
}

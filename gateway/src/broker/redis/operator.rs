//! What an operator asks of all partitions: new epochs, and the limits that Redis holds.

use futures_util::future::join_all;
use redis::Cmd;

use crate::broker::redis::RedisBroker;
use crate::broker::redis::partition::Partition;
use crate::broker::redis::settings::HistoryLimits;

/// What a partition answered to a call that begins a new epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The number of the partition.
    pub partition: u16,
    /// The clock at which the epoch begins, or why it did not begin.
    pub clock: Result<String, String>,
}

/// The limits of this gateway and those in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The limits that this gateway is configured for.
    pub configured: HistoryLimits,
    /// The limits that each partition holds, by its number; `None` before its first tick.
    pub found: Vec<Option<HistoryLimits>>,
}

impl Limits {
    /// Whether a partition holds exactly the configured limits.
    fn holds(&self, partition: u16) -> bool {
        self.found[usize::from(partition)] == Some(self.configured)
    }

    /// Whether all partitions hold exactly the configured limits.
    pub fn agree(&self) -> bool {
        (0..).zip(&self.found).all(|(partition, _)| self.holds(partition))
    }

    /// The different limits that partitions hold, each with the numbers of these partitions.
    pub fn groups(&self) -> Vec<(HistoryLimits, Vec<u16>)> {
        let mut groups: Vec<(HistoryLimits, Vec<u16>)> = Vec::new();
        for (number, limits) in (0..).zip(&self.found) {
            let Some(limits) = limits else { continue };
            match groups.iter_mut().find(|(known, _)| known == limits) {
                Some((_, numbers)) => numbers.push(number),
                None => groups.push((*limits, vec![number])),
            }
        }
        groups
    }
}

impl RedisBroker {
    /// Begins a new epoch in every partition. Returns each partition's answer, by number.
    pub async fn fence(&self) -> Vec<Begun> {
        let calls = self.partitions.iter();
        join_all(calls.map(|partition| begin(partition, partition.calls.fence()))).await
    }

    /// Writes the configured limits to every partition that holds others, which begins a new epoch
    /// there. Returns the answers of these partitions, by number.
    pub async fn write_settings(&self) -> Vec<Begun> {
        let limits = self.limits();
        let others = self.partitions.iter().filter(|partition| !limits.holds(partition.number));
        join_all(others.map(|partition| begin(partition, partition.calls.write_settings()))).await
    }

    /// The configured limits, and the limits that Redis holds as far as they are known.
    pub fn limits(&self) -> Limits {
        Limits {
            configured: self.first().config.limits,
            found: self.partitions.iter().map(|partition| partition.calls.found_limits()).collect(),
        }
    }
}

async fn begin(partition: &Partition, cmd: Cmd) -> Begun {
    let clock = match partition.command(&cmd).await {
        Ok(value) => redis::from_redis_value(value).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Begun { partition: partition.number, clock }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_are_shown_once_for_all_partitions_that_hold_them() {
        let limits = |max_len| HistoryLimits {
            max_len,
            ttl: Duration::from_secs(60),
            max_data: 100,
            idempotency_ttl: Duration::from_secs(5),
            durable: false,
        };
        let of = |found: &[u64]| Limits {
            configured: limits(1),
            found: found.iter().map(|max_len| Some(limits(*max_len))).collect(),
        };
        assert!(of(&[1, 1]).agree());
        assert_eq!(of(&[1, 1]).groups(), [(limits(1), vec![0, 1])]);
        let differ = of(&[1, 2, 1]);
        assert!(!differ.agree());
        assert_eq!(differ.groups(), [(limits(1), vec![0, 2]), (limits(2), vec![1])]);
        let unknown = Limits { found: vec![None], ..of(&[]) };
        assert!(!unknown.agree() && unknown.groups().is_empty());
    }
}

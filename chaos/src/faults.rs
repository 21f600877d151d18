//! The catalogue of faults.

/// Something that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    RedisRollback,
    RedisEmpty,
    RedisAof,
    RedisPause,
    Promote,
    KillPubsub,
    KillNormal,
    FunctionFlush,
    ScriptFlush,
    FlushAll,
    ClockBack,
    Evict,
    Fence,
    Trim,
    GatewayKill,
    GatewayKillAll,
    GatewayTerm,
    GatewayPause,
    WireCut,
    WireSilent,
    WireStall,
    PacketLoss,
    PacketDrop,
    ReadersStall,
    ReadersAbort,
}

/// Every fault, its name on the command line, and what it does.
const CATALOGUE: [(Fault, &str, &str); 25] = [
    (Fault::RedisRollback, "redis-rollback", "Redis is killed and starts from an older snapshot"),
    (Fault::RedisEmpty, "redis-empty", "Redis is killed and starts without data"),
    (Fault::RedisAof, "redis-aof", "Redis is killed and starts with all it had acknowledged"),
    (Fault::RedisPause, "redis-pause", "Redis stands still (SIGSTOP)"),
    (Fault::Promote, "promote", "a replica that lags becomes the master"),
    (Fault::KillPubsub, "kill-pubsub", "CLIENT KILL TYPE pubsub"),
    (Fault::KillNormal, "kill-normal", "CLIENT KILL TYPE normal"),
    (Fault::FunctionFlush, "function-flush", "FUNCTION FLUSH"),
    (Fault::ScriptFlush, "script-flush", "SCRIPT FLUSH"),
    (Fault::FlushAll, "flushall", "FLUSHALL"),
    (Fault::ClockBack, "clock-back", "the clock in sse:state is set back by hand"),
    (Fault::Evict, "evict", "Redis is short of memory and evicts keys"),
    (Fault::Fence, "fence", "sse_fence"),
    (Fault::Trim, "trim", "XTRIM of some histories"),
    (Fault::GatewayKill, "gateway-kill", "a gateway is killed and started"),
    (Fault::GatewayKillAll, "gateway-kill-all", "all gateways are killed at once and started"),
    (Fault::GatewayTerm, "gateway-term", "a gateway is drained (SIGTERM) and started"),
    (Fault::GatewayPause, "gateway-pause", "a gateway stands still (SIGSTOP)"),
    (Fault::WireCut, "wire-cut", "connections to Redis are closed"),
    (Fault::WireSilent, "wire-silent", "connections to Redis stay open and carry nothing any more"),
    (Fault::WireStall, "wire-stall", "nothing passes between one gateway and Redis for a while"),
    (Fault::PacketLoss, "packet-loss", "a gateway's packets are dropped at random (iptables)"),
    (Fault::PacketDrop, "packet-drop", "all of a gateway's packets are dropped (iptables)"),
    (Fault::ReadersStall, "readers-stall", "no subscriber reads for a while"),
    (Fault::ReadersAbort, "readers-abort", "all subscribers drop their connections at once"),
];

impl Fault {
    /// Every fault.
    pub fn all() -> impl Iterator<Item = Fault> {
        CATALOGUE.iter().map(|(fault, ..)| *fault)
    }

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Fault> {
        CATALOGUE.iter().find(|(_, known, _)| *known == name).map(|(fault, ..)| *fault)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// What it does.
    pub fn about(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> &'static (Fault, &'static str, &'static str) {
        // The catalogue is in the enum's order.
        &CATALOGUE[self as usize]
    }

    /// Whether it is done to Redis; else to gateways, wires and readers.
    pub fn of_redis(self) -> bool {
        (self as usize) <= Fault::Trim as usize
    }

    /// Whether it needs a network namespace.
    pub fn of_packets(self) -> bool {
        matches!(self, Fault::PacketLoss | Fault::PacketDrop)
    }

    /// Whether Redis may begin an epoch after it, so that a `reset` may be told.
    pub fn ends_epoch(self) -> bool {
        self.loses_keys() || matches!(self, Fault::RedisAof | Fault::ClockBack | Fault::Fence)
    }

    /// Whether Redis may forget idempotency keys, so that a repeated publication is a second event.
    pub fn loses_keys(self) -> bool {
        matches!(
            self,
            Fault::RedisRollback
                | Fault::RedisEmpty
                | Fault::Promote
                | Fault::FlushAll
                | Fault::Evict
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_the_order_of_the_enum() {
        for fault in Fault::all() {
            assert_eq!(Fault::named(fault.name()), Some(fault));
        }
    }
}

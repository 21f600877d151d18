//! The catalogue of faults: names and possible effects. The modules below cause them.

pub mod access;
pub mod data;
pub mod gateways;
pub mod life;
pub mod rollback;
pub mod time;

use sse_contract::CONTRACT_VERSION;

/// A fault that the suite can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    RedisRollback,
    RedisEmpty,
    RedisAof,
    RedisPause,
    Promote,
    TwoMasters,
    FailoverBack,
    Revert,
    DebugReload,
    FlushAll,
    ClockBack,
    Evict,
    Fence,
    DelFence,
    Del,
    PoisonType,
    PoisonId,
    Trim,
    Oom,
    TimeGlitch,
    TimeBack,
    TimeForward,
    KillPubsub,
    KillNormal,
    FunctionFlush,
    ScriptFlush,
    ClientPause,
    AclUser,
    RefuseChannel,
    RawFrames,
    ForgedFrames,
    GatewayKill,
    GatewayKillAll,
    GatewayTerm,
    GatewayPause,
    Flood,
    WireCut,
    WireSilent,
    WireStall,
    PacketLoss,
    PacketDrop,
    ReadersStall,
    ReadersAbort,
}

use Fault::*;

/// Every fault, its name on the command line, and what it does.
const CATALOGUE: [(Fault, &str, &str); 43] = [
    (RedisRollback, "redis-rollback", "Redis is killed and starts from an older snapshot"),
    (RedisEmpty, "redis-empty", "Redis is killed and starts without data"),
    (RedisAof, "redis-aof", "Redis is killed and starts with all it had acknowledged"),
    (RedisPause, "redis-pause", "Redis stands still (SIGSTOP)"),
    (Promote, "promote", "a replica that lags becomes the master"),
    (TwoMasters, "two-masters", "a master that was replaced goes on until it is demoted"),
    (
        FailoverBack,
        "failover-back",
        "a replica that lags becomes the master, and the old one again",
    ),
    (Revert, "revert", "state and histories are put back to what they were, in the living Redis"),
    (DebugReload, "debug-reload", "the living Redis loads an older snapshot"),
    (FlushAll, "flushall", "FLUSHALL"),
    (ClockBack, "clock-back", "the clock in sse:state is set back by hand"),
    (Evict, "evict", "Redis is short of memory and evicts keys"),
    (Fence, "fence", "sse_fence"),
    (DelFence, "del-fence", "a history is deleted, with sse_fence"),
    (Del, "del", "a history is deleted, and nobody says so"),
    (PoisonType, "poison-type", "a history is a list for a while"),
    (PoisonId, "poison-id", "a history holds an id that none can be"),
    (Trim, "trim", "XTRIM of some histories"),
    (Oom, "oom", "Redis is out of memory and refuses writes"),
    (TimeGlitch, "time-glitch", "Redis' time is minutes ahead, for less than a tick"),
    (TimeBack, "time-back", "Redis' time goes back by seconds, for a while or for good"),
    (TimeForward, "time-forward", "Redis' time goes forward by seconds, for good"),
    (KillPubsub, "kill-pubsub", "CLIENT KILL TYPE pubsub"),
    (KillNormal, "kill-normal", "CLIENT KILL TYPE normal"),
    (FunctionFlush, "function-flush", "FUNCTION FLUSH"),
    (ScriptFlush, "script-flush", "SCRIPT FLUSH"),
    (ClientPause, "client-pause", "CLIENT PAUSE"),
    (AclUser, "acl-user", "gateways and publishers lose the right to one command for a while"),
    (RefuseChannel, "refuse-channel", "gateways and publishers lose the right to one channel"),
    (RawFrames, "raw-frames", "PUBLISH of plain text"),
    (ForgedFrames, "forged-frames", "PUBLISH of frames that no publisher can have written"),
    (GatewayKill, "gateway-kill", "a gateway is killed and started"),
    (GatewayKillAll, "gateway-kill-all", "all gateways are killed at once and started"),
    (GatewayTerm, "gateway-term", "a gateway is drained (SIGTERM) and started"),
    (GatewayPause, "gateway-pause", "a gateway stands still (SIGSTOP)"),
    (Flood, "flood", "a gateway stands still while more is published than its inbox takes"),
    (WireCut, "wire-cut", "connections to Redis are closed"),
    (WireSilent, "wire-silent", "connections to Redis stay open and carry nothing any more"),
    (WireStall, "wire-stall", "nothing passes between one gateway and Redis for a while"),
    (PacketLoss, "packet-loss", "a gateway's packets are dropped at random (iptables)"),
    (PacketDrop, "packet-drop", "all of a gateway's packets are dropped (iptables)"),
    (ReadersStall, "readers-stall", "no subscriber reads for a while"),
    (ReadersAbort, "readers-abort", "all subscribers drop their connections at once"),
];

impl Fault {
    /// Every fault that this version of the contract promises to survive.
    pub fn all() -> impl Iterator<Item = Fault> {
        // Version 1 cannot notice the DEL of a history without `sse_fence`.
        let promised = |fault: &Fault| CONTRACT_VERSION >= 2 || *fault != Del;
        CATALOGUE.iter().map(|(fault, ..)| *fault).filter(promised)
    }

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Fault> {
        CATALOGUE.iter().find(|(_, known, _)| *known == name).map(|(fault, ..)| *fault)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// What the fault does.
    pub fn about(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> &'static (Fault, &'static str, &'static str) {
        // The catalogue has the order of the enum.
        &CATALOGUE[self as usize]
    }

    /// Whether the fault happens in Redis. Otherwise it concerns gateways, wires or readers.
    pub fn of_redis(self) -> bool {
        (self as usize) <= ForgedFrames as usize
    }

    /// Whether the fault needs a network namespace.
    pub fn of_packets(self) -> bool {
        matches!(self, PacketLoss | PacketDrop)
    }

    /// Whether the fault needs a server whose clock can be set.
    pub fn of_time(self) -> bool {
        matches!(self, TimeGlitch | TimeBack | TimeForward)
    }

    /// Whether the fault is possible with the memory broker.
    pub fn of_memory(self) -> bool {
        !self.of_redis()
            && !matches!(self, WireCut | WireSilent | WireStall | PacketLoss | PacketDrop)
    }

    /// Whether the fault ends a gateway's process, and a memory broker with it.
    pub fn ends_gateways(self) -> bool {
        matches!(self, GatewayKill | GatewayKillAll | GatewayTerm)
    }

    /// Whether Redis may begin a new epoch after the fault, so that a `reset` may be told.
    pub fn ends_epoch(self) -> bool {
        self.loses_keys()
            || matches!(self, RedisAof | ClockBack | Fence | DelFence | PoisonId | Revert)
    }

    /// Whether Redis may forget idempotency keys, so that a repeated publication becomes a second
    /// event.
    pub fn loses_keys(self) -> bool {
        matches!(
            self,
            RedisRollback
                | RedisEmpty
                | Promote
                | TwoMasters
                | FailoverBack
                | DebugReload
                | FlushAll
                | Evict
        )
    }

    /// Whether two servers may accept publications at the same time.
    pub fn makes_two_masters(self) -> bool {
        matches!(self, Promote | TwoMasters | FailoverBack)
    }

    /// Whether older data may be restored, or two versions of the data live on side by side, so
    /// that ids are issued again.
    pub fn splits(self) -> bool {
        self.loses_keys() || matches!(self, Revert | ClockBack)
    }

    /// Whether gateways may be unable to read an existing history.
    pub fn hides_histories(self) -> bool {
        matches!(self, AclUser | PoisonType | PoisonId)
    }

    /// Whether Redis may refuse commands of gateways or publishers.
    pub fn refuses(self) -> bool {
        matches!(self, AclUser | RefuseChannel | PoisonType | PoisonId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_the_order_of_the_enum() {
        for (fault, name, _) in CATALOGUE {
            assert_eq!(Fault::named(name), Some(fault));
            assert_eq!(fault.name(), name);
        }
    }
}

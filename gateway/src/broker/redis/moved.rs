//! Whether a partition of a Redis Cluster that another process wrote was moved to its server as a
//! whole.
//!
//! Redis Cluster moves every key as it is, so nothing is lost. But a replica that takes a master's
//! place, and a process that starts again, may lack what was acknowledged last. The partition's
//! state looks the same after all of them: another process wrote it. So two things must be proven.
//!
//! 1. The process that wrote the state lost nothing before it gave the partition away: it lives, or
//!    lived when it said who has the partition, and was a master in the same life as before.
//! 2. The server that has the partition now lost nothing of it: it is the same process as before the
//!    partition left, and was not promoted since.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a former owner's word is believed. Later it may have had the partition once more.
const WORD: Duration = Duration::from_secs(5);

/// How long a process is remembered after the last session with it began, if it has no partition.
const MEMORY: Duration = Duration::from_secs(3600);

/// How a partition came to the server that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was moved as a whole.
    Whole,
    /// The server was a replica of the one that wrote the state, and took its place.
    Lost,
    /// This gateway cannot tell. Another one may.
    Doubtful,
}

/// Which process a server is, and how it got its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) run: String,
    pub(crate) is_master: bool,
    /// The id of its data set, which its replicas have, too.
    pub(crate) replid: String,
    /// The replication id of the master that it was a replica of, or zeros. It changes at a
    /// promotion. (A master forgets it when it gets a first replica, and has a new `replid` then.)
    pub(crate) former: String,
    uptime: Duration,
}

/// What the process that had a slot said when the slot had another owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) from: Life,
    /// The id of the node that has the slot.
    pub(crate) to: String,
}

/// What a gateway has seen of a cluster that helps to tell how a partition came to its server.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Processes that were masters when a session with them began, by run id.
    masters: HashMap<String, Master>,
    /// The last tick of each slot's partition.
    ticks: HashMap<u16, Tick>,
    /// The last word about each slot of a process that had it, and when it was given.
    given: HashMap<u16, (Instant, Given)>,
}

#[derive(Debug)]
struct Master {
    /// `Life::former`.
    former: String,
    /// When the first of the sessions began.
    since: Instant,
    /// When the last of them began.
    seen: Instant,
}

#[derive(Debug)]
struct Tick {
    run: String,
    /// The id of the node that the process is.
    node: String,
    /// When it was answered.
    at: Instant,
}

impl Life {
    /// Reads an answer to `INFO server replication`.
    pub(crate) fn read(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::to_owned)
        };
        Some(Life {
            run: field("run_id")?,
            is_master: field("role")? == "master",
            replid: field("master_replid")?,
            former: field("master_replid2")?,
            uptime: Duration::from_secs(field("uptime_in_seconds")?.parse().ok()?),
        })
    }

    fn was_promoted(&self) -> bool {
        self.former.bytes().any(|byte| byte != b'0')
    }

    /// Whether it is the master that wrote a state with this run id and replication id, without a
    /// replacement in between. (Without one, the replication id changes when a first replica comes.)
    pub(crate) fn wrote(&self, run: &str, replid: &str) -> bool {
        let goes_on = self.replid == replid || !self.was_promoted();
        self.run == run && self.is_master && goes_on
    }
}

impl Master {
    /// Whether the same process was not promoted since. (It may have got a first replica.)
    fn is_still(&self, life: &Life) -> bool {
        self.former == life.former || !life.was_promoted()
    }
}

impl Evidence {
    /// Notes that a slot's session with this master begins, which is the node `node`.
    pub(crate) fn begins(&mut self, slot: u16, node: String, life: Life, now: Instant) {
        self.given.remove(&slot);
        self.ticks.insert(slot, Tick { run: life.run.clone(), node, at: now });
        match self.masters.get_mut(&life.run) {
            Some(master) if master.is_still(&life) => master.seen = now,
            _ => {
                let master = Master { former: life.former, since: now, seen: now };
                self.masters.insert(life.run, master);
            }
        }
        // Each start of a server makes a new process.
        let ticks = &self.ticks;
        let has_partition = |run: &String| ticks.values().any(|tick| tick.run == *run);
        self.masters.retain(|run, master| now - master.seen < MEMORY || has_partition(run));
    }

    /// Notes that the session's master answered a tick.
    pub(crate) fn ticks(&mut self, slot: u16, now: Instant) {
        if let Some(tick) = self.ticks.get_mut(&slot) {
            tick.at = now;
        }
    }

    /// Notes what the process said that had a slot.
    pub(crate) fn gives(&mut self, slot: u16, given: Given, now: Instant) {
        self.given.insert(slot, (now, given));
    }

    /// What the process with this run id said when it did not have the slot any more.
    pub(crate) fn given(&self, slot: u16, run: &str, now: Instant) -> Option<Given> {
        let (at, given) = self.given.get(&slot)?;
        (given.from.run == run && now - *at < WORD).then(|| given.clone())
    }

    /// Whether the slot's last session was with this process, and as this node.
    pub(crate) fn was(&self, slot: u16, run: &str, node: &str) -> bool {
        self.ticks.get(&slot).is_some_and(|tick| tick.run == run && tick.node == node)
    }

    /// Whether this server was a master all the time since the last tick of the slot's partition. A
    /// session that began later proves nothing: the server may have been promoted in between.
    pub(crate) fn stayed(&self, slot: u16, here: &Life, now: Instant) -> bool {
        let Some(Tick { at: ticked, .. }) = self.ticks.get(&slot) else { return false };
        let known = self.masters.get(&here.run);
        if known.is_some_and(|master| master.is_still(here) && master.since < *ticked) {
            return true;
        }
        // The uptime is in whole seconds.
        !here.was_promoted() && here.uptime > (now - *ticked) + Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: &str = "0000";

    fn life(run: &str, replid: &str, former: &str, uptime: u64) -> Life {
        let uptime = uptime.to_string();
        let info = format!(
            "# Server\r\nrun_id:{run}\r\nuptime_in_seconds:{uptime}\r\n# Replication\r\n\
             role:master\r\nmaster_replid:{replid}\r\nmaster_replid2:{former}\r\n"
        );
        Life::read(&info).unwrap()
    }

    #[test]
    fn info_tells_which_process_it_is() {
        let life = life("ab", "cd", NEVER, 7);
        let expected = ("ab", true, "cd", NEVER, Duration::from_secs(7));
        let Life { run, is_master, replid, former, uptime } = &life;
        assert_eq!((&**run, *is_master, &**replid, &**former, *uptime), expected);
        assert_eq!(Life::read("run_id:ab\r\n"), None);
    }

    #[test]
    fn a_master_wrote_the_state_unless_it_was_replaced_since() {
        let wrote = |life: Life| life.wrote("ab", "cd");
        assert!(wrote(life("ab", "cd", NEVER, 7)));
        assert!(wrote(life("ab", "cd", "older", 7)), "it was promoted before");
        assert!(wrote(life("ab", "ef", NEVER, 7)), "a first replica came");
        assert!(!wrote(life("ab", "ef", "cd", 7)), "it was replaced, and took its place back");
        assert!(!wrote(life("xy", "cd", NEVER, 7)), "it was started again");
        let replica = Life { is_master: false, ..life("ab", "cd", NEVER, 7) };
        assert!(!wrote(replica));
    }

    #[test]
    fn a_server_stayed_if_it_was_known_as_a_master_before_the_last_tick() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut evidence = Evidence::default();
        let here = |former: &str| life("here", "x", former, 0);
        assert!(!evidence.stayed(0, &life("here", "x", NEVER, 100), at(0)), "no tick is known");
        let begins = |evidence: &mut Evidence, slot, life, seconds| {
            evidence.begins(slot, "node".to_owned(), life, at(seconds));
        };
        begins(&mut evidence, 0, life("there", "y", NEVER, 0), 10);
        begins(&mut evidence, 1, here("old"), 10);
        assert!(!evidence.stayed(0, &here("old"), at(12)), "known only since then");
        evidence.ticks(0, at(11));
        assert!(evidence.stayed(0, &here("old"), at(12)));
        assert!(evidence.stayed(0, &here(NEVER), at(12)), "it has a first replica");
        assert!(!evidence.stayed(0, &here("other"), at(12)), "it was promoted since");
        begins(&mut evidence, 1, here(NEVER), 12);
        assert!(evidence.stayed(0, &here(NEVER), at(12)), "another session began there");
        let again = life("again", "x", "old", 0);
        assert!(!evidence.stayed(0, &again, at(12)), "it was started again");
        begins(&mut evidence, 1, here("other"), 13);
        assert!(!evidence.stayed(0, &here("other"), at(14)), "known only after its promotion");
    }

    #[test]
    fn a_server_that_is_not_known_stayed_if_it_runs_since_before_the_last_tick() {
        let began = Instant::now();
        let mut evidence = Evidence::default();
        evidence.begins(0, "node".to_owned(), life("there", "y", NEVER, 0), began);
        let stayed = |former, uptime| {
            evidence.stayed(0, &life("here", "x", former, uptime), began + Duration::from_secs(5))
        };
        assert!(stayed(NEVER, 7));
        assert!(!stayed(NEVER, 6), "it may have been started a moment after the tick");
        assert!(!stayed("old", 7), "nobody knows when it was promoted");
    }

    #[test]
    fn a_process_that_has_no_partition_is_forgotten_in_the_end() {
        let began = Instant::now();
        let mut evidence = Evidence::default();
        let mut begins = |slot, run, seconds| {
            let life = life(run, "x", NEVER, 0);
            evidence.begins(slot, "node".to_owned(), life, began + Duration::from_secs(seconds));
            let mut known: Vec<String> = evidence.masters.keys().cloned().collect();
            known.sort();
            known.join(" ")
        };
        begins(0, "a", 0);
        assert_eq!(begins(1, "b", 0), "a b");
        assert_eq!(begins(1, "c", 3_599), "a b c", "it may get a partition again");
        assert_eq!(begins(2, "c", 3_600), "a c", "one has a partition, one had none for an hour");
    }

    #[test]
    fn only_the_process_that_wrote_the_state_is_believed() {
        let mut evidence = Evidence::default();
        let given = Given { from: life("old", "x", NEVER, 9), to: "node".to_owned() };
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        evidence.gives(3, given.clone(), at(0));
        assert_eq!(evidence.given(3, "old", at(4)), Some(given));
        assert_eq!(evidence.given(3, "old", at(5)), None, "it may have had the slot again");
        assert_eq!(evidence.given(3, "other", at(0)), None);
        assert_eq!(evidence.given(4, "old", at(0)), None);
        evidence.begins(3, "node".to_owned(), life("old", "x", NEVER, 9), at(1));
        assert_eq!(evidence.given(3, "old", at(1)), None, "it has the slot again");
        let was = |run, node| evidence.was(3, run, node);
        assert!(was("old", "node") && !was("other", "node") && !was("old", "other"));
    }
}

//! Reports of these runs: text for people and one line of JSON for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::tally::Wrong;
use crate::topology::checker::Judgement;
use crate::topology::history::{History, What};
use crate::topology::pauses::Pauses;
use crate::topology::run::Plan;

/// How many violations are printed in words.
const EXAMPLES: usize = 12;

/// What came out of one run.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// What happened.
    pub history: &'a History,
    /// What the checker says.
    pub judgement: &'a Judgement,
    /// What kills meant for streams.
    pub pauses: &'a Pauses,
    /// How often subscribers connected.
    pub reconnects: u64,
}

/// The sums of runs.
#[derive(Debug, Default)]
pub struct Sums {
    seeds: Vec<u64>,
    failed: Vec<u64>,
    undone: Vec<u64>,
    numbers: BTreeMap<&'static str, u64>,
    longest: BTreeMap<&'static str, u64>,
    faults: BTreeMap<String, u64>,
    gaps: BTreeMap<String, u64>,
    violations: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds a run.
    pub fn add(&mut self, plan: &Plan, outcome: &Outcome<'_>) {
        let Outcome { history, judgement, pauses, reconnects } = outcome;
        self.seeds.push(plan.seed);
        if !judgement.wrongs.is_empty() {
            self.failed.push(plan.seed);
        }
        let publications = history.publications.values();
        let acked: usize = publications.clone().map(|publication| publication.acked.len()).sum();
        let unknown = publications.filter(|p| p.acked.is_empty() && p.doubted).count();
        let [others, others_full] = pauses.others;
        for (name, n) in [
            ("events", judgement.events),
            ("told", judgement.told),
            ("again", judgement.again),
            ("repeated", judgement.repeated),
            ("acked", acked as u64),
            ("unknown", unknown as u64),
            ("sessions", history.seen.len() as u64),
            ("connects", *reconnects),
            ("faults", history.windows.len() as u64),
            ("others_measured", others + others_full),
            ("repaired_measured", pauses.repaired),
        ] {
            *self.numbers.entry(name).or_default() += n;
        }
        let [alone, full] = pauses.others_ms;
        for (name, n) in [
            ("others_pause_ms", alone),
            ("others_pause_full_coverage_ms", full),
            ("promotion_ms", pauses.promotion_ms),
            ("repaired_ms", pauses.repaired_ms),
            ("recovery_ms", recovery_ms(history)),
        ] {
            let longest = self.longest.entry(name).or_default();
            *longest = n.max(*longest);
        }
        for window in &history.windows {
            *self.faults.entry(window.fault.to_owned()).or_default() += 1;
        }
        for (reason, n) in &judgement.gaps {
            *self.gaps.entry(reason.clone()).or_default() += n;
        }
        for (what, _) in &judgement.wrongs {
            *self.violations.entry(format!("{what:?}")).or_default() += 1;
        }
    }

    /// Notes a run that could not be completed.
    pub fn undone(&mut self, seed: u64) {
        self.undone.push(seed);
    }

    /// 0: every promise was kept in every run. 1: a promise was broken. 2: a run could not be
    /// completed.
    pub fn exit_code(&self) -> u8 {
        match (&self.failed[..], &self.undone[..]) {
            ([], []) => 0,
            ([], _) => 2,
            _ => 1,
        }
    }

    /// Prints the sums as text.
    pub fn print(&self) {
        let n = |name: &str| self.numbers.get(name).copied().unwrap_or(0);
        let ms = |name: &str| self.longest.get(name).copied().unwrap_or(0);
        let wrong = |what: Wrong| self.violations.get(&format!("{what:?}")).copied().unwrap_or(0);
        println!(
            "  {} events checked at {} sessions with {} connections, {} more told missing",
            n("events"),
            n("sessions"),
            n("connects"),
            n("told")
        );
        println!(
            "  {} events acknowledged, {} publications of unknown outcome; {} happened twice because \
             Redis lost their keys; {} deliveries came again after a reset between two masters",
            n("acked"),
            n("unknown"),
            n("repeated"),
            n("again")
        );
        println!("  {} faults: {}", n("faults"), list(&self.faults));
        println!("  gaps told, by partition: {}", list(&self.gaps));
        println!("  longest until a subscriber was up to date at the end {} ms", ms("recovery_ms"));
        if n("others_measured") + n("repaired_measured") > 0 {
            println!(
                "  a master killed: its replica in its place after {} ms at most, its streams repaired \
                 or told {} ms later ({}); the longest way of an event of the other masters {} ms, and \
                 {} ms with full coverage ({})",
                ms("promotion_ms"),
                ms("repaired_ms"),
                n("repaired_measured"),
                ms("others_pause_ms"),
                ms("others_pause_full_coverage_ms"),
                n("others_measured")
            );
        }
        let named = [
            Wrong::Lost,
            Wrong::Duplicated,
            Wrong::Disorder,
            Wrong::FalseGap,
            Wrong::Untold,
            Wrong::Stuck,
        ];
        let all: u64 = self.violations.values().sum();
        println!(
            "  lost without a gap {}, duplicated {}, out of order {}, false gaps {}, untold epochs {}, \
             stuck {}, others {}",
            wrong(Wrong::Lost),
            wrong(Wrong::Duplicated),
            wrong(Wrong::Disorder),
            wrong(Wrong::FalseGap),
            wrong(Wrong::Untold),
            wrong(Wrong::Stuck),
            all - named.map(wrong).iter().sum::<u64>(),
        );
    }

    /// The sums as JSON.
    pub fn json(&self) -> Value {
        let mut line = json!({
            "seeds": self.seeds, "passed": self.exit_code() == 0, "failed": self.failed,
            "undone": self.undone, "faults_by_kind": self.faults, "gaps": self.gaps,
            "violations": self.violations,
        });
        for (name, n) in self.numbers.iter().chain(&self.longest) {
            line[*name] = json!(n);
        }
        line
    }
}

/// Prints the result of one run.
pub fn print(plan: &Plan, outcome: &Outcome<'_>) {
    let mut sums = Sums::default();
    sums.add(plan, outcome);
    println!("{} seed {}", plan.topology.name(), plan.seed);
    sums.print();
    let wrongs = &outcome.judgement.wrongs;
    if !wrongs.is_empty() {
        for (what, text) in wrongs.iter().take(EXAMPLES) {
            println!("{what:?}: {text}");
        }
        let over: String = plan.over.iter().map(|setting| format!(" --set {setting}")).collect();
        println!(
            "replay: sse-chaos --topology {} --seed {} --seconds {} --subscribers {} --faults {}{over}",
            plan.topology.name(),
            plan.seed,
            plan.storm.as_secs(),
            plan.subscribers,
            plan.faults.join(","),
        );
    }
    println!("{}", sums.json());
}

/// The longest time from the end of the last fault until a subscriber was sent something that was
/// published after it.
fn recovery_ms(history: &History) -> u64 {
    let after = |seen: &crate::topology::history::Seen| {
        let new = seen.told.iter().find(|told| {
            matches!(&told.what, What::Event(stamp)
                if history.publications.get(stamp).is_some_and(|p| p.sent_ms > history.healed_ms))
        });
        new.map(|told| told.at_ms.saturating_sub(history.healed_ms))
    };
    history.seen.iter().filter(|seen| seen.last).filter_map(after).max().unwrap_or(0)
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

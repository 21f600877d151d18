//! Reports: text for people and one line of JSON for programs, for one run or the sums of several.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Value, json};

use crate::run::Plan;
use crate::stage::Stage;
use crate::tally::{Tally, Wrong};

/// The sums of runs.
#[derive(Debug, Default)]
pub struct Sums {
    seeds: Vec<u64>,
    failed: Vec<u64>,
    undone: Vec<u64>,
    /// Counts that are added up alike.
    numbers: BTreeMap<&'static str, u64>,
    faults: BTreeMap<String, u64>,
    gaps: BTreeMap<String, u64>,
    opened: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
    settings: BTreeMap<String, u64>,
    violations: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds a run.
    pub fn add(&mut self, plan: &Plan, stage: &Stage) {
        let (tally, (acked, unknown)) = (stage.tally.borrow(), stage.ledger.borrow().counts());
        self.seeds.push(plan.seed);
        if tally.violations() > 0 {
            self.failed.push(plan.seed);
        }
        let numbers = [
            ("events", tally.events),
            ("told", tally.told),
            ("raw", tally.raw),
            ("acked", acked as u64),
            ("unknown", unknown as u64),
            ("unanswered", tally.unanswered),
            ("repeated", tally.repeated),
            ("again", tally.again),
            ("reconnects", tally.reconnects),
            ("cautious_gaps", tally.cautious),
            ("inventories", stage.census.borrow().inventories),
            ("sessions", stage.sessions.borrow().len() as u64),
            ("opened_came", tally.opened_came),
            ("opened_told", tally.opened_told),
            ("opened_void", tally.opened_void),
            ("faults", tally.faults.values().sum()),
        ];
        numbers.iter().for_each(|(name, n)| *self.numbers.entry(name).or_default() += n);
        for (name, n) in [("repair_ms", tally.repair_ms), ("recovery_ms", tally.recovery_ms)] {
            let longest = self.numbers.entry(name).or_default();
            *longest = n.max(*longest);
        }
        add(&mut self.faults, tally.faults.iter());
        add(&mut self.gaps, tally.gaps.iter());
        add(&mut self.opened, tally.opened.iter());
        add(&mut self.clients, tally.clients.iter());
        add(&mut self.settings, plan.settings.words().iter().map(|word| (word, &1)));
        let wrongs = tally.wrongs.iter().map(|(what, n)| (format!("{what:?}"), n));
        add(&mut self.violations, wrongs);
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
        let wrong = |what: Wrong| self.violations.get(&format!("{what:?}")).copied().unwrap_or(0);
        println!(
            "  {} events checked at {} sessions, {} more told missing; {} live-only texts",
            n("events"),
            n("sessions"),
            n("told"),
            n("raw")
        );
        println!(
            "  {} events acknowledged, {} publications never; {} tries went unanswered; {} happened \
             twice because Redis forgot their keys; {} deliveries came again where a reset between two masters \
             took the position back",
            n("acked"),
            n("unknown"),
            n("unanswered"),
            n("repeated"),
            n("again")
        );
        println!("  {} faults: {}", n("faults"), list(&self.faults));
        self.print_told();
        println!("  clients: {}", list(&self.clients));
        println!("  settings: {}", list(&self.settings));
        println!(
            "  {} reconnects; {} inventories of Redis; longest repair {} ms, where no further fault \
             came between; longest until all were up to date {} ms",
            n("reconnects"),
            n("inventories"),
            n("repair_ms"),
            n("recovery_ms")
        );
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

    fn print_told(&self) {
        let n = |name: &str| self.numbers.get(name).copied().unwrap_or(0);
        println!(
            "  gaps told: {}; of them {} where nothing was missing and nobody could know",
            list(&self.gaps),
            n("cautious_gaps")
        );
        println!(
            "  published on open: {} came, {} told missing, {} without a claim; by fault then at \
             work: {}",
            n("opened_came"),
            n("opened_told"),
            n("opened_void"),
            list(&self.opened)
        );
    }

    /// The sums as JSON.
    pub fn json(&self) -> Value {
        let seed = match self.seeds[..] {
            [only] => json!(only),
            _ => json!(self.seeds),
        };
        let mut line = json!({
            "seed": seed, "passed": self.exit_code() == 0, "failed": self.failed,
            "undone": self.undone,
            "faults_by_kind": self.faults, "gaps": self.gaps, "opened_by_fault": self.opened,
            "clients": self.clients, "settings": self.settings, "violations": self.violations,
        });
        for (name, n) in &self.numbers {
            line[*name] = json!(n);
        }
        line
    }
}

/// Prints the result of one run.
pub fn print(plan: &Plan, stage: &Stage) {
    let mut sums = Sums::default();
    sums.add(plan, stage);
    println!("seed {}", plan.seed);
    sums.print();
    let tally = stage.tally.borrow();
    if tally.violations() > 0 {
        print_wrongs(plan, &tally);
    }
    println!("{}", sums.json());
}

fn print_wrongs(plan: &Plan, tally: &Tally) {
    let examples = tally.examples.iter().map(|(_, text)| text);
    for text in examples.chain(&tally.stories) {
        println!("{text}");
    }
    let faults: Vec<&str> = plan.faults.iter().map(|fault| fault.name()).collect();
    let settings = plan.over.iter().map(|setting| format!(" --set {setting}"));
    println!(
        "replay: sse-chaos --seed {} --seconds {} --subscribers {} --faults {}{}",
        plan.seed,
        plan.storm.as_secs(),
        plan.subscribers,
        faults.join(","),
        settings.collect::<String>()
    );
}

fn add<'a, K: ToString>(sums: &mut BTreeMap<String, u64>, of: impl Iterator<Item = (K, &'a u64)>) {
    for (name, n) in of {
        *sums.entry(name.to_string()).or_default() += n;
    }
}

fn list<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

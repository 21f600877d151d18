//! The sums of runs, of either kind: what was counted, which seeds failed, and the exit code.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Value, json};

use crate::tally::Wrong;

/// The violations that are named in the text; the others are summed up.
const NAMED: [(&str, Wrong); 6] = [
    ("lost without a gap", Wrong::Lost),
    ("duplicated", Wrong::Duplicated),
    ("out of order", Wrong::Disorder),
    ("false gaps", Wrong::FalseGap),
    ("untold epochs", Wrong::Untold),
    ("stuck", Wrong::Stuck),
];

/// The sums of runs.
#[derive(Debug, Default)]
pub struct Sums {
    seeds: Vec<u64>,
    failed: Vec<u64>,
    undone: Vec<u64>,
    numbers: BTreeMap<&'static str, u64>,
    /// Counts by name, by what is counted.
    counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    violations: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds a run. It failed if there are violations.
    pub fn run(&mut self, seed: u64, violations: impl IntoIterator<Item = (Wrong, u64)>) {
        self.seeds.push(seed);
        let mut failed = false;
        for (what, n) in violations {
            *self.violations.entry(format!("{what:?}")).or_default() += n;
            failed |= n > 0;
        }
        if failed {
            self.failed.push(seed);
        }
    }

    /// Notes a run that could not be completed.
    pub fn undone(&mut self, seed: u64) {
        self.undone.push(seed);
    }

    /// Adds to a number.
    pub fn add(&mut self, name: &'static str, n: u64) {
        *self.numbers.entry(name).or_default() += n;
    }

    /// Raises a number to the longest of all runs.
    pub fn longest(&mut self, name: &'static str, n: u64) {
        let longest = self.numbers.entry(name).or_default();
        *longest = n.max(*longest);
    }

    /// Adds counts by name.
    pub fn count(
        &mut self,
        what: &'static str,
        counts: impl IntoIterator<Item = (impl Display, u64)>,
    ) {
        let sums = self.counts.entry(what).or_default();
        for (name, n) in counts {
            *sums.entry(name.to_string()).or_default() += n;
        }
    }

    /// A number.
    pub fn n(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// Counts by name, as text.
    pub fn list(&self, what: &str) -> String {
        let counts = self.counts.get(what).into_iter().flatten();
        let parts: Vec<String> = counts.map(|(name, n)| format!("{name} {n}")).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    }

    /// The violations, as text.
    pub fn violations(&self) -> String {
        let of = |what: Wrong| self.violations.get(&format!("{what:?}")).copied().unwrap_or(0);
        let others: u64 = self.violations.values().sum::<u64>()
            - NAMED.map(|(_, what)| of(what)).iter().sum::<u64>();
        let named = NAMED.map(|(name, what)| format!("{name} {}", of(what)));
        format!("{}, others {others}", named.join(", "))
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

    /// Everything, as one line for programs.
    pub fn json(&self) -> Value {
        let mut line = json!({
            "seeds": self.seeds, "passed": self.exit_code() == 0, "failed": self.failed,
            "undone": self.undone, "violations": self.violations,
        });
        for (name, n) in &self.numbers {
            line[*name] = json!(n);
        }
        for (what, counts) in &self.counts {
            line[*what] = json!(counts);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_weighs_more_than_a_run_that_was_not_completed() {
        let mut sums = Sums::default();
        sums.run(1, []);
        assert_eq!(sums.exit_code(), 0);
        sums.undone(2);
        assert_eq!(sums.exit_code(), 2);
        sums.run(3, [(Wrong::Lost, 2), (Wrong::Crashed, 1)]);
        assert_eq!(sums.exit_code(), 1);
        let told = "lost without a gap 2, duplicated 0, out of order 0, false gaps 0, untold epochs 0, \
                    stuck 0, others 1";
        assert_eq!(sums.violations(), told);
        let line = sums.json();
        assert_eq!(line["failed"], json!([3]));
        assert_eq!(line["undone"], json!([2]));
    }

    #[test]
    fn numbers_are_added_up_or_the_longest_counts() {
        let mut sums = Sums::default();
        for n in [3, 1] {
            sums.add("events", n);
            sums.longest("repair_ms", n);
            sums.count("faults_by_kind", [("cut", n)]);
        }
        assert_eq!((sums.n("events"), sums.n("repair_ms"), sums.n("none")), (4, 3, 0));
        assert_eq!(sums.list("faults_by_kind"), "cut 4");
        assert_eq!(sums.list("gaps"), "none");
        assert_eq!(sums.json()["faults_by_kind"], json!({ "cut": 4 }));
    }
}

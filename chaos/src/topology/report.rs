//! Reports of these runs: text for people and one line of JSON for programs.

use crate::sums::Sums;
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

/// Adds a run.
pub fn add(sums: &mut Sums, plan: &Plan, outcome: &Outcome<'_>) {
    let Outcome { history, judgement, pauses, reconnects } = outcome;
    sums.run(plan.seed, judgement.wrongs.iter().map(|(what, _)| (*what, 1)));
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
        sums.add(name, n);
    }
    let [alone, full] = pauses.others_ms;
    for (name, n) in [
        ("others_pause_ms", alone),
        ("others_pause_full_coverage_ms", full),
        ("promotion_ms", pauses.promotion_ms),
        ("repaired_ms", pauses.repaired_ms),
        ("recovery_ms", recovery_ms(history)),
    ] {
        sums.longest(name, n);
    }
    sums.count("faults_by_kind", history.windows.iter().map(|window| (window.fault, 1)));
    sums.count("gaps", judgement.gaps.iter().map(|(reason, n)| (reason, *n)));
}

/// Prints sums as text.
pub fn print_sums(sums: &Sums) {
    let n = |name: &str| sums.n(name);
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
    println!("  {} faults: {}", n("faults"), sums.list("faults_by_kind"));
    println!("  gaps told, by partition: {}", sums.list("gaps"));
    println!("  longest until a subscriber was up to date at the end {} ms", n("recovery_ms"));
    if n("others_measured") + n("repaired_measured") > 0 {
        println!(
            "  a master killed: its replica in its place after {} ms at most, its streams repaired \
             or told {} ms later ({}); the longest way of an event of the other masters {} ms, and \
             {} ms with full coverage ({})",
            n("promotion_ms"),
            n("repaired_ms"),
            n("repaired_measured"),
            n("others_pause_ms"),
            n("others_pause_full_coverage_ms"),
            n("others_measured")
        );
    }
    println!("  {}", sums.violations());
}

/// Prints the result of one run.
pub fn print(plan: &Plan, outcome: &Outcome<'_>) {
    let mut sums = Sums::default();
    add(&mut sums, plan, outcome);
    println!("{} seed {}", plan.topology.name(), plan.seed);
    print_sums(&sums);
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

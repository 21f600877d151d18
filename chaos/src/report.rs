//! What is printed at the end: text for people, one line of JSON for programs.

use serde_json::json;

use crate::run::Plan;
use crate::stage::Stage;
use crate::tally::Wrong;

/// Prints the verdict; answers whether all was well.
pub fn print(plan: &Plan, stage: &Stage) -> bool {
    let (tally, (acked, unknown)) = (stage.tally.borrow(), stage.ledger.borrow().counts());
    let faults: u64 = tally.faults.values().sum();
    let sessions = stage.sessions.borrow().len();
    println!("seed {}", plan.seed);
    println!(
        "  {} events checked at {sessions} sessions, {} more told missing",
        tally.events, tally.told
    );
    println!(
        "  {acked} publications acknowledged, {unknown} never; {} tries went unanswered; \
         {} happened twice because Redis forgot their keys",
        tally.unanswered, tally.repeated
    );
    println!("  {faults} faults: {}", list(tally.faults.iter()));
    println!("  gaps told: {}", list(tally.gaps.iter()));
    println!(
        "  {} reconnects; longest repair {} ms, where no further fault came between",
        tally.reconnects, tally.repair_ms
    );
    println!(
        "  lost without a gap {}, duplicated {}, out of order {}, others {}",
        tally.count(Wrong::Lost),
        tally.count(Wrong::Duplicated),
        tally.count(Wrong::Disorder),
        tally.violations()
            - [Wrong::Lost, Wrong::Duplicated, Wrong::Disorder]
                .map(|w| tally.count(w))
                .iter()
                .sum::<u64>(),
    );
    let wrongs = tally.wrongs.iter().map(|(what, n)| (format!("{what:?}"), *n));
    let wrongs: serde_json::Map<_, _> = wrongs.map(|(what, n)| (what, json!(n))).collect();
    let line = json!({
        "seed": plan.seed, "passed": tally.violations() == 0, "events": tally.events,
        "told": tally.told, "acked": acked, "unknown": unknown, "unanswered": tally.unanswered,
        "faults": faults, "faults_by_kind": tally.faults, "gaps": tally.gaps,
        "reconnects": tally.reconnects, "repair_ms": tally.repair_ms, "violations": wrongs,
    });
    if tally.violations() > 0 {
        for text in tally.examples.iter().chain(&tally.stories) {
            println!("{text}");
        }
        let faults: Vec<&str> = plan.faults.iter().map(|fault| fault.name()).collect();
        let settings = plan.settings.iter().map(|setting| format!(" --set {setting}"));
        println!(
            "replay: sse-chaos --seed {} --seconds {} --subscribers {} --faults {}{}",
            plan.seed,
            plan.storm.as_secs(),
            plan.subscribers,
            faults.join(","),
            settings.collect::<String>()
        );
    }
    println!("{line}");
    tally.violations() == 0
}

fn list<K: std::fmt::Display>(counts: impl Iterator<Item = (K, impl std::fmt::Display)>) -> String {
    let parts: Vec<String> = counts.map(|(name, n)| format!("{name} {n}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

//! Reports of runs on one Redis: text for people and one line of JSON for programs.

use crate::run::Plan;
use crate::stage::Stage;
use crate::sums::Sums;
use crate::tally::Tally;

/// Adds a run.
pub fn add(sums: &mut Sums, plan: &Plan, stage: &Stage) {
    let (tally, (acked, unknown)) = (stage.tally.borrow(), stage.ledger.borrow().counts());
    sums.run(plan.seed, tally.wrongs.iter().map(|(what, n)| (*what, *n)));
    for (name, n) in [
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
    ] {
        sums.add(name, n);
    }
    sums.longest("repair_ms", tally.repair_ms);
    sums.longest("recovery_ms", tally.recovery_ms);
    sums.count("faults_by_kind", tally.faults.iter().map(|(name, n)| (name, *n)));
    sums.count("gaps", tally.gaps.iter().map(|(name, n)| (name, *n)));
    sums.count("opened_by_fault", tally.opened.iter().map(|(name, n)| (name, *n)));
    sums.count("clients", tally.clients.iter().map(|(name, n)| (name, *n)));
    sums.count("settings", plan.settings.words().iter().map(|word| (word, 1)));
}

/// Prints sums as text.
pub fn print_sums(sums: &Sums) {
    let n = |name: &str| sums.n(name);
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
    println!("  {} faults: {}", n("faults"), sums.list("faults_by_kind"));
    println!(
        "  gaps told: {}; of them {} where nothing was missing and nobody could know",
        sums.list("gaps"),
        n("cautious_gaps")
    );
    println!(
        "  published on open: {} came, {} told missing, {} without a claim; by fault then at \
         work: {}",
        n("opened_came"),
        n("opened_told"),
        n("opened_void"),
        sums.list("opened_by_fault")
    );
    println!("  clients: {}", sums.list("clients"));
    println!("  settings: {}", sums.list("settings"));
    println!(
        "  {} reconnects; {} inventories of Redis; longest repair {} ms, where no further fault \
         came between; longest until all were up to date {} ms",
        n("reconnects"),
        n("inventories"),
        n("repair_ms"),
        n("recovery_ms")
    );
    println!("  {}", sums.violations());
}

/// Prints the result of one run.
pub fn print(plan: &Plan, stage: &Stage) {
    let mut sums = Sums::default();
    add(&mut sums, plan, stage);
    println!("seed {}", plan.seed);
    print_sums(&sums);
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

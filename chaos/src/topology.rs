//! Runs on a master behind Sentinels and on a Redis Cluster, with a checker of their own.
//!
//! The other runs have one partition, and compare ids over channels. Here nothing is compared over
//! partitions, and nothing is ever removed from a history, so that nearly every gap needs a fault
//! of its own partition.

mod asking;
mod checker;
#[cfg(test)]
mod checker_tests;
mod cluster;
mod crew;
mod history;
mod lane;
mod pauses;
mod publisher;
mod report;
mod run;
mod sentinel;
mod shared;
mod stage;
mod subscriber;

use std::rc::Rc;

pub use report::print_sums;
pub use run::Plan;

use crate::sums::Sums;

/// Where Redis' servers are and how they stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// A master with two replicas, and three Sentinels.
    Sentinel,
    /// Three masters with a replica each, and 16 partitions.
    Cluster,
}

impl Topology {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Sentinel => "sentinel",
            Topology::Cluster => "cluster",
        }
    }
}

/// Performs a run, prints its result, and adds it to the sums.
pub async fn perform(plan: &Plan, sums: &mut Sums) -> Result<(), String> {
    let (stage, judgement) = run::run(plan).await?;
    let history = stage.history.borrow();
    let pauses = pauses::of(&history, &stage.shared.kills());
    let outcome = report::Outcome {
        history: &history,
        judgement: &judgement,
        pauses: &pauses,
        reconnects: stage.reconnects.get(),
    };
    report::print(plan, &outcome);
    report::add(sums, plan, &outcome);
    drop(history);
    debug_assert_eq!(Rc::strong_count(&stage), 1, "every task has ended");
    Ok(())
}

//! A window of time in which everything is measured at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{self, SECOND};
use crate::load::{Expected, Load, Measured, Settled};
use crate::proc::{self, Cpu};
use crate::publish::{Plan, Published, Publishers};
use crate::servers::Server;

/// Between the last stream's first bytes and the first event. A server may answer before it has
/// subscribed inside: with no pause, 976 of 2,000 streams of Nchan's were once seen to miss the first event.
const ATTACHING: Duration = Duration::from_millis(500);

/// More of a core than this spent by others, and a window is no measurement.
const QUIET: f64 = 0.25;
/// What the mark of [`disturbed`] means.
pub const LEGEND: &str =
    "others: CPU that other programs took meanwhile; !: more than a quarter of a core, repeat it.";

/// How a window runs.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Published but not measured before.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
    /// How long the last events may take to arrive once publishing has stopped.
    pub settling: Duration,
    /// What each subscriber should have by then.
    pub expected: fn(&Published) -> Expected,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// By the load.
    pub measured: Measured,
    /// By the publishers, warm-up included.
    pub published: Published,
    /// Once publishing had stopped: every number accounted for, from the first.
    pub settled: Settled,
    /// The server's CPU within the window.
    pub cpu: Cpu,
    /// CPU seconds in the window of whatever is neither the server nor this program: what disturbed it.
    pub others: f64,
}

impl Window {
    /// Measures; `each_second` is called with the second since the window began, from 0 on.
    pub fn measure(
        server: &Server,
        load: &Load,
        plan: &Plan,
        timing: Timing,
        mut each_second: impl FnMut(u64),
    ) -> Window {
        clock::sleep(ATTACHING);
        let publishers = Publishers::start(plan);
        clock::sleep(timing.warm_up);
        let (cpu, own, machine) = (server.cpu(), own_cpu(), proc::machine_cpu());
        load.begin();
        let began = clock::now();
        for second in 0..timing.time.as_secs() {
            each_second(second);
            clock::sleep_until(began + (second + 1) * SECOND);
        }
        let measured = load.end();
        let cpu = server.cpu() - cpu;
        let ours = cpu.total() + own_cpu() - own;
        let others = (proc::machine_cpu() - machine - ours).max(0.0);
        let published = publishers.stop();
        let settled = load.settle((timing.expected)(&published), timing.settling);
        Window { measured, published, settled, cpu, others }
    }

    /// It, or why nothing could be published or was delivered.
    pub fn checked(self) -> Result<Window, String> {
        match &self.published.error {
            Some(error) if self.published.events == 0 => Err(error.clone()),
            _ if self.deliveries() == 0 => {
                let (time, sent) = (self.measured.readers.seconds, self.published.events);
                Err(format!("delivered nothing within {time:.0} s, of {sent} events published"))
            }
            _ => Ok(self),
        }
    }

    /// It, where some CPU was not others' after all, but of what is measured beside the server.
    pub fn without(mut self, seconds: f64) -> Window {
        self.others = (self.others - seconds).max(0.0);
        self
    }

    /// Deliveries within the window, to all.
    pub fn deliveries(&self) -> u64 {
        self.measured.readers.events + self.measured.stalled.events
    }

    /// Deliveries a second.
    pub fn rate(&self) -> f64 {
        self.deliveries() as f64 / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// The server's CPU for each delivery, in microseconds.
    pub fn cost(&self) -> Cpu {
        let deliveries = self.deliveries().max(1) as f64 / 1e6;
        Cpu { user: self.cpu.user / deliveries, system: self.cpu.system / deliveries }
    }

    /// The part of a core that the load's own thread used.
    pub fn own_share(&self) -> f64 {
        self.measured.own_cpu / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// What disturbed, in cores.
    pub fn disturbance(&self) -> f64 {
        self.others / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// How well the publishers kept their schedule, if not: late events and the worst delay.
    pub fn lateness(&self) -> String {
        let Published { late, behind, failed, events, .. } = &self.published;
        let part = 100.0 * *late as f64 / (*events + *failed).max(1) as f64;
        let late = match late {
            0 => "no".to_owned(),
            _ => format!("{part:.1} %, {behind:.2} s"),
        };
        match &self.published.error {
            Some(error) => format!("{late}; {failed} failed: {error}"),
            None => late,
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let cost = self.cost();
        let (published, settled) = (&self.published, &self.settled);
        json!({
            "readers": self.measured.readers.json(), "stalled": self.measured.stalled.json(),
            "deliveries_per_second": self.rate(),
            "cpu_us_per_delivery": {
                "user": cost.user, "system": cost.system, "total": cost.total(),
            },
            "cpu_seconds": { "user": self.cpu.user, "system": self.cpu.system },
            "load_cpu_share": self.own_share(), "others_cpu_share": self.disturbance(),
            "published": {
                "events": published.events, "failed": published.failed, "error": published.error,
                "late": published.late, "behind_seconds": published.behind,
                "seconds": published.seconds,
            },
            "settled": {
                "connections": settled.connections, "behind": settled.behind,
                "lost": settled.lost, "duplicated": settled.duplicated,
                "out_of_order": settled.out_of_order, "gaps": settled.gaps,
            },
        })
    }
}

/// A disturbance for a table, in percent of a core; marked where it forbids a comparison.
pub fn disturbed(cores: f64) -> String {
    let mark = if cores > QUIET { " !" } else { "" };
    format!("{:.0} %{mark}", 100.0 * cores)
}

/// CPU of this program: the load and the publishers.
fn own_cpu() -> f64 {
    proc::cpu(&[std::process::id()]).total()
}

//! A window of time in which the load, the publishers and the server's CPU are all measured.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{self, SECOND};
use crate::load::{Expected, Load, Measured, Settled};
use crate::proc::{self, Cpu};
use crate::publish::{Plan, Published, Publishers};
use crate::servers::Server;

/// The pause between the last stream's first bytes and the first event. A server may answer before
/// it has subscribed the reader: without a pause, 976 of 2,000 streams of Nchan once missed the
/// first event.
const ATTACHING: Duration = Duration::from_millis(500);

/// If other programs take more than this share of a core, the results are not comparable.
const QUIET: f64 = 0.25;
/// Explains the column `others` and the mark of [`disturbed`].
pub const LEGEND: &str =
    "others: CPU that other programs took meanwhile; !: more than a quarter of a core, repeat it.";

/// The timing of a window.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long to publish before measuring.
    pub warm_up: Duration,
    /// How long to measure.
    pub time: Duration,
    /// How long the last events may take to arrive once publishing has stopped.
    pub settling: Duration,
    /// What each reader should have received by then.
    pub expected: fn(&Published) -> Expected,
}

/// The results of a window.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// The results of the load.
    pub measured: Measured,
    /// The results of the publishers, including the warm-up.
    pub published: Published,
    /// The state of all numbers from the first on, once publishing has stopped.
    pub settled: Settled,
    /// The CPU that the server used within the window.
    pub cpu: Cpu,
    /// The CPU seconds within the window that were used by neither the server nor this program, and
    /// may have disturbed the measurement.
    pub others: f64,
}

impl Window {
    /// Measures a window. `each_second` is called each second with the seconds since the window
    /// began: first with 0 at its beginning, last with all of them at its end, before events that
    /// are still on their way may settle. What it measures at these two is of the same window.
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
        for second in 0..=timing.time.as_secs() {
            clock::sleep_until(began + second * SECOND);
            each_second(second);
        }
        let measured = load.end();
        let cpu = server.cpu() - cpu;
        let ours = cpu.total() + own_cpu() - own;
        let others = (proc::machine_cpu() - machine - ours).max(0.0);
        let published = publishers.stop();
        let settled = load.settle((timing.expected)(&published), timing.settling);
        Window { measured, published, settled, cpu, others }
    }

    /// Returns the window, or an error if no event was accepted or none was delivered.
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

    /// Takes CPU seconds out of `others`, for processes that are measured besides the server.
    pub fn without(mut self, seconds: f64) -> Window {
        self.others = (self.others - seconds).max(0.0);
        self
    }

    /// Deliveries within the window, to all connections.
    pub fn deliveries(&self) -> u64 {
        self.measured.readers.events + self.measured.stalled.events
    }

    /// Deliveries per second.
    pub fn rate(&self) -> f64 {
        self.deliveries() as f64 / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// The server's CPU microseconds per delivery.
    pub fn cost(&self) -> Cpu {
        let deliveries = self.deliveries().max(1) as f64 / 1e6;
        Cpu { user: self.cpu.user / deliveries, system: self.cpu.system / deliveries }
    }

    /// The share of a core that the load's thread used.
    pub fn own_share(&self) -> f64 {
        self.measured.own_cpu / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// The CPU that other programs used, in cores.
    pub fn disturbance(&self) -> f64 {
        self.others / self.measured.readers.seconds.max(f64::MIN_POSITIVE)
    }

    /// The late events and the worst delay of the publishers, and their failures.
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

    /// The results as JSON.
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

/// The CPU of other programs for a table, in percent of a core. A mark says that the results are
/// not comparable.
pub fn disturbed(cores: f64) -> String {
    let mark = if cores > QUIET { " !" } else { "" };
    format!("{:.0} %{mark}", 100.0 * cores)
}

/// The CPU that this program has used: the load and the publishers.
fn own_cpu() -> f64 {
    proc::cpu(&[std::process::id()]).total()
}

//! The clock that publishers and the load share: `CLOCK_MONOTONIC`, in nanoseconds.
//!
//! It is the same for every process of one machine, so a stamp of one thread or process can be compared
//! with the clock of another. It is of no use across machines.

use std::time::Duration;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Now.
pub fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(clock_gettime(ClockId::ThreadCPUTime)))
}

/// Sleeps until a moment of [`now`]; not at all when it is past. An absolute deadline does not drift,
/// which a sleep for a while does.
pub fn sleep_until(moment: u64) {
    let until = Timespec { tv_sec: (moment / SECOND) as i64, tv_nsec: (moment % SECOND) as i64 };
    // Only a signal ends it early.
    while clock_nanosleep_absolute(ClockId::Monotonic, &until).is_err() && now() < moment {}
}

/// Sleeps for a while.
pub fn sleep(time: Duration) {
    sleep_until(now() + time.as_nanos() as u64);
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

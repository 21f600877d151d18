//! The clock that publishers and the load share: `CLOCK_MONOTONIC`, in nanoseconds.
//!
//! All processes of a machine share it, so a reader can compare a publisher's stamp with its own
//! time. Stamps of another machine mean nothing.

use std::time::Duration;

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// The current time in nanoseconds.
pub fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// The CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanoseconds(clock_gettime(ClockId::ThreadCPUTime)))
}

/// Sleeps until the clock shows `moment`; returns at once if it has passed. Publishers keep their
/// schedule with such absolute times, because a row of relative sleeps drifts.
pub fn sleep_until(moment: u64) {
    let until = Timespec { tv_sec: (moment / SECOND) as i64, tv_nsec: (moment % SECOND) as i64 };
    // Only a signal ends the sleep early.
    while clock_nanosleep_absolute(ClockId::Monotonic, &until).is_err() && now() < moment {}
}

/// Sleeps for this long.
pub fn sleep(time: Duration) {
    sleep_until(now() + time.as_nanos() as u64);
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

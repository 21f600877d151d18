//! Pauses below a millisecond. The runtime's own timer counts whole milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer with the kernel's resolution (timerfd_create(2)), polled by the thread's runtime.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: AsyncFd<Timer>,
}

#[derive(Debug)]
struct Timer(OwnedFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Alarm {
    /// Creates a timer that is not set. Must be called within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = Timer(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        #[expect(deprecated, reason = "its replacement is unsafe; the descriptor is owned here")]
        let timer = AsyncFd::new(timer)?;
        Ok(Alarm { timer })
    }

    /// Waits for `pause`. If the future is dropped early, `wait` may be called again.
    pub(crate) async fn wait(&self, pause: Duration) -> io::Result<()> {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A zero value would disarm the timer, so that this would wait for ever.
        let it_value = pause
            .max(Duration::from_nanos(1))
            .try_into()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let setting = Itimerspec { it_interval: nothing, it_value };
        timerfd_settime(&self.timer.get_ref().0, TimerfdTimerFlags::empty(), &setting)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let read =
                |timer: &AsyncFd<Timer>| Ok(rustix::io::read(&timer.get_ref().0, &mut [0; 8])?);
            // On `WouldBlock` the readiness was left over from an earlier setting, so wait again.
            if let Ok(read) = ready.try_io(read) {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_waits_as_long_as_it_is_told() {
        let alarm = Alarm::new().unwrap();
        for pause in [0, 300, 0, 2_500].map(Duration::from_micros) {
            let began = Instant::now();
            alarm.wait(pause).await.unwrap();
            assert!(began.elapsed() >= pause);
        }
    }

    #[tokio::test]
    async fn a_pause_that_was_given_up_does_not_end_the_next_one() {
        let alarm = Alarm::new().unwrap();
        tokio::select! {
            biased;
            _ = alarm.wait(Duration::from_micros(1)) => panic!("it was not asked again"),
            () = std::future::ready(()) => {}
        }
        let other = Alarm::new().unwrap();
        other.wait(Duration::from_millis(2)).await.unwrap();
        let (began, pause) = (Instant::now(), Duration::from_millis(20));
        alarm.wait(pause).await.unwrap();
        assert!(began.elapsed() >= pause);
    }
}

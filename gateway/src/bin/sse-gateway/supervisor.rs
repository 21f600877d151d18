//! What the program tells systemd: that it is ready, that it stops, and that it still works
//! (sd_notify(3), sd_watchdog_enabled(3)).

use std::time::Duration;

use sd_notify::NotifyState;
use sse_gateway::gateway::Pulse;
use tokio::time::MissedTickBehavior;

/// Tells systemd (`Type=notify`) how far the program is. Without `NOTIFY_SOCKET` nobody is told.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "the supervisor that NOTIFY_SOCKET names is not told");
    }
}

/// Tells systemd three times in each `WatchdogSec` that the gateway works, if its threads do. While
/// one hangs, systemd is told nothing, and so ends the process and starts it again.
pub(crate) fn feed_watchdog(pulse: Pulse) {
    let mut patience = 0;
    if !sd_notify::watchdog_enabled(false, &mut patience) || patience == 0 {
        return;
    }
    let third = Duration::from_micros(patience) / 3;
    #[expect(clippy::disallowed_methods, reason = "systemd hears of its end, by the silence")]
    actix_rt::spawn(async move {
        let mut turn = tokio::time::interval(third);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            match pulse.check(third).await {
                Ok(()) => tell(NotifyState::Watchdog),
                Err(error) => tracing::error!(
                    %error,
                    "a thread hangs; the watchdog ends the process unless the thread goes on"
                ),
            }
        }
    });
}

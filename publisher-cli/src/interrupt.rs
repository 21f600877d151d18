//! Ctrl-C. The first is a request, remembered until somebody looks; the second ends the process at
//! once, because a write to a pipe that nobody reads may block everything else.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit;

/// Tells whether Ctrl-C was pressed.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From here on, Ctrl-C no longer ends the process by itself.
    pub fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        let (pressed, receiver) = watch::channel(false);
        std::thread::spawn(move || {
            runtime.block_on(async {
                signals.recv().await;
                // Nobody listens any more when the work is done; then the process ends by itself.
                pressed.send(true).ok();
                signals.recv().await;
                std::process::exit(exit::INTERRUPTED.into());
            });
        });
        Ok(Interrupt(receiver))
    }

    /// Waits for Ctrl-C; at once, if it was pressed before.
    pub async fn pressed(&mut self) {
        if self.0.wait_for(|pressed| *pressed).await.is_err() {
            // The listening thread cannot end before the process does.
            std::future::pending::<()>().await;
        }
    }
}

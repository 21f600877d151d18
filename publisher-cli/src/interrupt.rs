//! Handles Ctrl-C. The first one is a request, remembered until the program looks. The second one
//! ends the process at once, because a write to a pipe that nobody reads may block everything else.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit;

/// Says whether Ctrl-C was pressed.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Begins to handle Ctrl-C, which then no longer ends the process by itself.
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
                // Sending fails if the work is done; then the process ends by itself.
                pressed.send(true).ok();
                signals.recv().await;
                std::process::exit(exit::INTERRUPTED.into());
            });
        });
        Ok(Interrupt(receiver))
    }

    /// Waits until Ctrl-C is pressed. Returns at once if it was pressed before.
    pub async fn pressed(&mut self) {
        if self.0.wait_for(|pressed| *pressed).await.is_err() {
            // Cannot happen: the listening thread lives as long as the process.
            std::future::pending::<()>().await;
        }
    }
}

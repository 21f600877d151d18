//! What becomes of a panic, wherever in the process it happens.
//!
//! A thread or task that panicked serves nobody any more, while its streams stay open and every probe finds the process
//! well. So a panic is logged with its thread's name and ends the process. The one exception is what serves a single
//! client's connection: that client is answered 500, or its connection ends, and nobody else notices.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, PanicHookInfo};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::logging::FINISHING;

thread_local! {
    /// One connection is being served on this thread, and nothing that outlives it is touched.
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic is logged, and ends the process by `end`, unless it is a connection's own.
pub fn hook(end: impl Fn() + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name").to_owned();
        if name == FINISHING {
            // The process ends already.
            return;
        }
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = text(info);
        if HANDLING.get() {
            tracing::error!(
                thread = name,
                panic.place = place,
                "what served a connection panicked: {text}"
            );
            return;
        }
        tracing::error!(
            thread = name,
            panic.place = place,
            "the thread {name} panicked, which ends the process: {text}"
        );
        end();
    }));
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let payload: &dyn Any = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words")
        .to_owned()
}

/// Serves a connection: a panic in `future` is the connection's own.
pub fn handling<F: Future>(future: F) -> Handling<F> {
    Handling { future }
}

pin_project! {
    /// What [`handling`] makes. A type of its own, because an `async fn` keeps its argument twice, and every connection holds one.
    pub struct Handling<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Handling<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _handling = Mark::set(true);
        self.project().future.poll(cx)
    }
}

/// While it lives, a panic is not a connection's own, although what serves it called: what is worked on outlives it.
#[must_use]
pub fn shared() -> impl Drop {
    Mark::set(false)
}

/// Puts the mark back when it is dropped, also by a panic.
struct Mark(bool);

impl Mark {
    fn set(handling: bool) -> Self {
        Mark(HANDLING.replace(handling))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        HANDLING.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a panic would be a connection's own: within, in what it shares with others, after that, and outside.
    #[tokio::test]
    async fn only_what_a_connection_has_for_itself_may_panic() {
        let marks = handling(async {
            let within = HANDLING.get();
            tokio::task::yield_now().await;
            let sharing = {
                let _shared = shared();
                HANDLING.get()
            };
            (within, sharing, HANDLING.get())
        });
        assert_eq!(marks.await, (true, false, true));
        assert!(!HANDLING.get());
    }
}

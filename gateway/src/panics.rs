//! What a panic does, anywhere in the process.
//!
//! A thread or task that panicked serves nobody, while its streams stay open and every probe
//! reports a healthy process. So a panic is logged with the thread's name and ends the process.
//! There is one exception: a panic in code that serves a single client's connection. That client is
//! answered 500, or its connection ends, and nothing else is affected.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, PanicHookInfo};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::logging::FINISHING;

thread_local! {
    /// Whether this thread is serving one connection, and touches nothing that outlives it.
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// Installs the panic hook. From now on a panic is logged and calls `end`, which ends the process,
/// unless the panic belongs to one connection.
pub fn hook(end: impl Fn() + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name").to_owned();
        if name == FINISHING {
            // The process is ending already.
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

/// Serves a connection. A panic in `future` belongs to that connection.
pub fn handling<F: Future>(future: F) -> Handling<F> {
    Handling { future }
}

pin_project! {
    /// The future that [`handling`] returns. It is a named type, because an `async fn` stores its
    /// argument twice and every connection has one.
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

/// Returns a guard. Until it is dropped, a panic ends the process even while a connection is
/// served, because the code touches state that outlives the connection.
#[must_use]
pub fn shared() -> impl Drop {
    Mark::set(false)
}

/// Restores the previous mark when it is dropped, also while a panic unwinds.
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

    /// Checks whether a panic would belong to a connection: while it is served, in a shared
    /// section, after that section, and outside.
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

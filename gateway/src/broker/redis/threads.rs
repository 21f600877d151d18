//! The threads of the broker: each runs a future, or several at the same time, and ends when the
//! broker is dropped.

use std::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::vitals::Vitals;

/// The threads of all partitions. Dropping this ends them and waits for their end.
#[derive(Debug)]
pub(crate) struct Threads {
    ended: watch::Sender<bool>,
    handles: Vec<JoinHandle<()>>,
    /// The runtime of each thread, with the thread's name.
    runtimes: Vec<(&'static str, Handle)>,
}

impl Threads {
    /// No threads.
    pub(crate) fn new() -> Self {
        Threads { ended: watch::Sender::new(false), handles: Vec::new(), runtimes: Vec::new() }
    }

    /// Runs a future on a thread of its own, until all threads are ended.
    pub(crate) fn run<F: Future<Output = Infallible>>(
        &mut self,
        name: &'static str,
        vitals: &Vitals,
        work: impl FnOnce() -> F + Send + 'static,
    ) {
        let mut end = self.ended.subscribe();
        let watching = vitals.clone();
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return vitals.stillborn(name, &error),
        };
        self.runtimes.push((name, runtime.handle().clone()));
        let run = move || {
            runtime.block_on(watching.live(name, async {
                tokio::select! {
                    never = work() => match never {},
                    _ = end.wait_for(|ended| *ended) => {}
                }
                Ok::<_, Infallible>(())
            }));
            // The resolver of names may block for longer than a drain may take, and this thread is
            // waited for.
            runtime.shutdown_background();
        };
        match thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(handle) => self.handles.push(handle),
            Err(error) => vitals.stillborn(name, &error),
        }
    }

    /// Has each thread run an empty task, until `end` at the latest.
    pub(crate) async fn run_tasks(&self, end: Instant) -> Result<(), String> {
        for (name, runtime) in &self.runtimes {
            // A task that is cancelled says that the thread has ended, which is reported elsewhere.
            let task = runtime.spawn(async {});
            let ran = tokio::time::timeout_at(end.into(), task).await;
            let _ = ran.map_err(|_| format!("the thread {name} does nothing"))?;
        }
        Ok(())
    }
}

/// Runs futures that never end, all at the same time. A panic in one of them is a panic of all.
pub(crate) async fn together<F>(futures: impl Iterator<Item = F>) -> Infallible
where
    F: Future<Output = Infallible>,
{
    let mut futures: Vec<F> = futures.collect();
    if futures.len() == 1
        && let Some(only) = futures.pop()
    {
        return only.await;
    }
    let mut all: FuturesUnordered<F> = futures.into_iter().collect();
    match all.next().await {
        Some(never) => match never {},
        None => std::future::pending().await,
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        for handle in self.handles.drain(..) {
            // A panic was reported as a death.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;
    use crate::vitals;

    #[test]
    fn threads_have_ended_once_they_are_dropped_and_are_not_missed() {
        let (vitals, mut watch) = vitals::watch();
        let (mut threads, held) = (Threads::new(), Arc::new(()));
        for _ in 0..3 {
            let held = held.clone();
            threads.run("a thread", &vitals, move || async move {
                let _held = held;
                std::future::pending().await
            });
        }
        drop(threads);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(watch.death().now_or_never().is_none());
    }

    /// One that waits does not keep the others from their work, and none may end unseen.
    #[tokio::test]
    async fn futures_that_share_a_thread_run_at_the_same_time_and_panic_together() {
        let (vitals, mut watch) = vitals::watch();
        let (mut threads, notes) = (Threads::new(), Arc::new([Notify::new(), Notify::new()]));
        threads.run("a thread", &vitals, move || {
            together((0..3).map(move |n| {
                let notes = notes.clone();
                async move {
                    let [asked, answered] = &*notes;
                    match n {
                        0 => {
                            asked.notified().await;
                            answered.notify_one();
                        }
                        1 => {
                            asked.notify_one();
                            answered.notified().await;
                            panic!("of the test");
                        }
                        _ => {}
                    }
                    std::future::pending().await
                }
            }))
        });
        assert_eq!(watch.death().await, "a thread");
    }

    /// Names are resolved by blocking calls, which nothing can interrupt.
    #[test]
    fn the_end_does_not_wait_for_a_call_that_blocks() {
        let mut threads = Threads::new();
        let (blocks, blocked) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        threads.run("a thread", &vitals::watch().0, move || async move {
            let block = move || {
                blocks.send(()).expect("the test waits");
                // It ends with an error when the test drops its end.
                let _ = released.recv();
            };
            drop(tokio::task::spawn_blocking(block).await);
            std::future::pending().await
        });
        blocked.recv().expect("the call has begun");
        drop(threads);
        drop(release);
    }
}

//! The threads and tasks that must live as long as the gateway does.
//!
//! If one of them ends early, for whatever reason, nothing serves its streams. Their clients would
//! wait for ever, and every probe would report a healthy process. So its end is the process's end.

use std::fmt::Display;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Receives reports of deaths.
#[derive(Debug)]
pub struct Watch(mpsc::UnboundedReceiver<String>);

/// Reports the death of threads and tasks that must live. Clones report to the same [`Watch`].
#[derive(Debug, Clone)]
pub struct Vitals {
    deaths: mpsc::UnboundedSender<String>,
    #[cfg(feature = "panic-on-demand")]
    demands: std::sync::Arc<tokio::sync::broadcast::Sender<(String, Trouble)>>,
}

/// What a test can do to a part.
#[cfg(feature = "panic-on-demand")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It panics.
    Panic,
    /// It blocks its thread for ever.
    Hang,
}

/// Held by a thread or task that must live. Unless `vitals` was taken out of it, dropping it
/// reports a death, also when a panic drops it.
#[derive(Debug)]
struct Alive {
    name: String,
    vitals: Option<Vitals>,
}

/// Creates a pair of a reporter and its receiver. No death is reported yet.
pub fn watch() -> (Vitals, Watch) {
    #[expect(clippy::disallowed_methods, reason = "each part dies once")]
    let (deaths, heard) = mpsc::unbounded_channel();
    let vitals = Vitals {
        deaths,
        #[cfg(feature = "panic-on-demand")]
        demands: std::sync::Arc::new(tokio::sync::broadcast::Sender::new(16)),
    };
    (vitals, Watch(heard))
}

impl Watch {
    /// Waits for a death. Returns the name of what died, with the error if there was one.
    pub async fn death(&mut self) -> String {
        match self.0.recv().await {
            Some(name) => name,
            // No reporter is left, so nothing more can die.
            None => std::future::pending().await,
        }
    }
}

impl Vitals {
    /// Runs `life`. If it returns an error, panics or is dropped before its end, that is reported
    /// as the death of `name`.
    pub async fn live<E: Display>(&self, name: &str, life: impl Future<Output = Result<(), E>>) {
        let mut alive = Alive { name: name.to_owned(), vitals: Some(self.clone()) };
        match self.until_told(name, life).await {
            Ok(()) => alive.vitals = None,
            Err(error) => alive.name = format!("{name} ({error})"),
        }
    }

    /// Runs `life` as a task of this thread, as [`Vitals::live`] does.
    pub fn spawn<E: Display>(
        &self,
        name: &'static str,
        life: impl Future<Output = Result<(), E>> + 'static,
    ) -> JoinHandle<()> {
        let vitals = self.clone();
        #[expect(clippy::disallowed_methods, reason = "whoever ends before its time is missed")]
        tokio::task::spawn_local(async move { vitals.live(name, life).await })
    }

    /// Reports that something that must live cannot even begin.
    pub fn stillborn(&self, name: &str, error: &impl Display) {
        // Nothing listens any more once the gateway ends.
        let _ = self.deaths.send(format!("{name} ({error})"));
    }

    #[cfg(not(feature = "panic-on-demand"))]
    async fn until_told<T>(&self, _: &str, life: impl Future<Output = T>) -> T {
        life.await
    }

    /// Runs `life` until it ends, or until a test demands trouble of this name.
    #[cfg(feature = "panic-on-demand")]
    async fn until_told<T>(&self, name: &str, life: impl Future<Output = T>) -> T {
        let mut demands = self.demands.subscribe();
        tokio::pin!(life);
        loop {
            tokio::select! {
                end = &mut life => return end,
                demand = demands.recv() => match demand {
                    Ok((who, Trouble::Panic)) if who == name => panic!("on demand"),
                    Ok((who, Trouble::Hang)) if who == name => loop { std::thread::park() },
                    _ => {}
                },
            }
        }
    }

    /// Makes the part with this name panic or hang, to test all this.
    #[cfg(feature = "panic-on-demand")]
    pub fn demand(&self, name: &str, trouble: Trouble) {
        let _ = self.demands.send((name.to_owned(), trouble));
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(vitals) = self.vitals.take() {
            // Nothing listens any more once the gateway ends.
            let _ = vitals.deaths.send(std::mem::take(&mut self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_out_of_order_is_told_and_one_in_order_is_not() {
        let (vitals, mut watch) = watch();
        let live = |name: &'static str, end: fn() -> Result<(), &'static str>| {
            let vitals = vitals.clone();
            let life = async move { vitals.live(name, async { end() }).await };
            std::thread::spawn(|| futures_util::FutureExt::now_or_never(life)).join()
        };
        assert!(live("one", || Ok(())).is_ok());
        assert!(live("two", || Err("no sockets")).is_ok());
        assert!(live("three", || panic!("of the test")).is_err());
        assert_eq!(watch.0.try_recv().as_deref(), Ok("two (no sockets)"));
        assert_eq!(watch.0.try_recv().as_deref(), Ok("three"));
        assert!(watch.0.try_recv().is_err());
    }
}

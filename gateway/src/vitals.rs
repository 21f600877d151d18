//! Who must live for as long as the gateway does: its threads and its tasks.
//!
//! A thread or task that ends before its time, whatever the reason, leaves streams open that nobody serves. Its clients
//! would wait for ever, and every probe would find the process well. So its end is the process' end.

use std::fmt::Display;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Hears of deaths.
#[derive(Debug)]
pub struct Watch(mpsc::UnboundedReceiver<String>);

/// Watches over those who must live. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Vitals {
    deaths: mpsc::UnboundedSender<String>,
    #[cfg(feature = "panic-on-demand")]
    demands: std::sync::Arc<tokio::sync::broadcast::Sender<String>>,
}

/// Held by whoever must live. Dropped without [`Alive::leave`], it tells of a death: so does a panic.
#[derive(Debug)]
struct Alive {
    name: String,
    vitals: Option<Vitals>,
}

/// Nobody has died yet.
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
    /// Waits for a death; answers whose.
    pub async fn death(&mut self) -> String {
        match self.0.recv().await {
            Some(name) => name,
            // Nobody is left who could die before the time.
            None => std::future::pending().await,
        }
    }
}

impl Vitals {
    /// Lives this life. That it ends with an error, by a panic or by being dropped is a death; that it ends well is not.
    pub async fn live<E: Display>(&self, name: &str, life: impl Future<Output = Result<(), E>>) {
        let mut alive = Alive { name: name.to_owned(), vitals: Some(self.clone()) };
        match self.until_told(name, life).await {
            Ok(()) => alive.vitals = None,
            Err(error) => alive.name = format!("{name} ({error})"),
        }
    }

    /// Lives this life as a task of this thread.
    pub fn spawn<E: Display>(
        &self,
        name: &'static str,
        life: impl Future<Output = Result<(), E>> + 'static,
    ) -> JoinHandle<()> {
        let vitals = self.clone();
        #[expect(clippy::disallowed_methods, reason = "whoever ends before its time is missed")]
        tokio::task::spawn_local(async move { vitals.live(name, life).await })
    }

    /// Something that must be there cannot even begin.
    pub fn stillborn(&self, name: &str, error: &impl Display) {
        // Nobody listens any more once the gateway ends.
        let _ = self.deaths.send(format!("{name} ({error})"));
    }

    #[cfg(not(feature = "panic-on-demand"))]
    async fn until_told<T>(&self, _: &str, life: impl Future<Output = T>) -> T {
        life.await
    }

    /// Lives until it is told to panic.
    #[cfg(feature = "panic-on-demand")]
    async fn until_told<T>(&self, name: &str, life: impl Future<Output = T>) -> T {
        let mut demands = self.demands.subscribe();
        tokio::pin!(life);
        loop {
            tokio::select! {
                end = &mut life => return end,
                demand = demands.recv() => assert_ne!(demand.as_deref(), Ok(name), "on demand"),
            }
        }
    }

    /// For the test of all this: makes whoever has this name panic.
    #[cfg(feature = "panic-on-demand")]
    pub fn demand_panic(&self, name: &str) {
        let _ = self.demands.send(name.to_owned());
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(vitals) = self.vitals.take() {
            // Nobody listens any more once the gateway ends.
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

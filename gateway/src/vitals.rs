//! Who must live for as long as the gateway does: its threads and its workers' hubs.
//!
//! A thread or task that ends before its time, whatever the reason, leaves streams open that nobody serves. Its clients
//! would wait for ever, and every probe would find the process well. So its end is the process' end.

use tokio::sync::mpsc;

/// Hears of deaths.
#[derive(Debug)]
pub struct Watch(mpsc::UnboundedReceiver<String>);

/// Makes guards for whoever must live. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Vitals(mpsc::UnboundedSender<String>);

/// Held by whoever must live. Dropped without [`Alive::leave`], it tells of a death: so does a panic.
#[derive(Debug)]
pub struct Alive {
    name: String,
    vitals: Option<Vitals>,
}

/// Nobody has died yet.
pub fn watch() -> (Vitals, Watch) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Vitals(sender), Watch(receiver))
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
    /// For the thread or task of this name.
    pub fn guard(&self, name: impl Into<String>) -> Alive {
        Alive { name: name.into(), vitals: Some(self.clone()) }
    }
}

impl Alive {
    /// The end has come in order.
    pub fn leave(mut self) {
        self.vitals = None;
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(vitals) = self.vitals.take() {
            // Nobody listens any more once the gateway ends.
            let _ = vitals.0.send(std::mem::take(&mut self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_out_of_order_is_told_and_one_in_order_is_not() {
        let (vitals, mut watch) = watch();
        vitals.guard("one").leave();
        let alive = vitals.guard("two");
        let panicked = std::thread::spawn(move || {
            let _alive = alive;
            panic!("of the test");
        });
        assert!(panicked.join().is_err());
        assert_eq!(watch.0.try_recv().as_deref(), Ok("two"));
        assert!(watch.0.try_recv().is_err());
    }
}

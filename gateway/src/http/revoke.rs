//! Passes revocations on: to the broker, where all gateways read them, and to this gateway's hubs,
//! which end the streams.

use std::time::Duration;

use crate::access::revocations::{PAUSE, REFRESH, Revocation};
use crate::broker::Broker;
use crate::feed::inbox::{ToHub, Whose};
use crate::http::app::App;

impl App {
    /// Ends streams on all gateways, and refuses their subject or token for `keep`. The error says
    /// why Redis did not take the revocation.
    pub(crate) async fn revoke(&self, whose: Whose, keep: Duration) -> Result<(), String> {
        let revocation = Revocation::now(whose);
        match &self.broker {
            Broker::Memory(_) => {
                let new = self.access.revocations.add(revocation, keep);
                self.end_streams(new);
            }
            Broker::Redis(redis) => {
                redis.add_revocation(&revocation.to_string(), keep).await?;
                self.read_revocations().await?;
            }
        }
        Ok(())
    }

    /// Applies revocations that other gateways made, and forgets expired ones. Never returns.
    pub(crate) async fn follow_revocations(&self) {
        let redis = match &self.broker {
            Broker::Redis(redis) if !self.access.is_open() => redis,
            _ => loop {
                tokio::time::sleep(REFRESH).await;
                self.end_streams(self.access.revocations.learn_own());
            },
        };
        let mut told = false;
        loop {
            let pause = match self.read_revocations().await {
                Ok(()) => {
                    told = false;
                    REFRESH
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "revocations cannot be read; those known so far hold");
                    }
                    PAUSE
                }
            };
            let _ = tokio::time::timeout(pause, redis.revocations_called()).await;
        }
    }

    /// Reads all current revocations from Redis and ends the streams of new ones. Does nothing with
    /// the memory broker.
    pub(crate) async fn read_revocations(&self) -> Result<(), String> {
        let Broker::Redis(redis) = &self.broker else { return Ok(()) };
        let _reading = self.access.revocations.reading.lock().await;
        let lines = redis.revocations().await?;
        let all = lines.iter().filter_map(|line| Revocation::read(line)).collect();
        self.end_streams(self.access.revocations.learn(all));
        Ok(())
    }

    fn end_streams(&self, new: Vec<Revocation>) {
        for revocation in new {
            self.tell_hubs(|| ToHub::End(revocation.whose.clone()));
        }
    }
}

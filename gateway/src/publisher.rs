//! One worker's way to publish: at the pace that the workers of this gateway keep up with.

use std::sync::Arc;

use sse_contract::EventId;

use crate::app::App;
use crate::broker::{Broker, Publication, PublishError};
use crate::redis_line::Line;

/// What a worker's handlers publish by.
#[derive(Debug)]
pub struct Publisher {
    app: Arc<App>,
    line: Line,
}

impl Publisher {
    /// A worker's.
    pub fn new(app: Arc<App>) -> Self {
        Publisher { app, line: Line::default() }
    }

    /// Publishes, in order; answers each one's id or error in the same order.
    pub async fn publish(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        match &self.app.broker {
            Broker::Memory(broker) => {
                let mut results = Vec::with_capacity(items.len());
                for item in items {
                    self.app.room().await;
                    results.push(broker.publish(item));
                }
                results
            }
            Broker::Redis(broker) => {
                self.app.room().await;
                // Boxed: it is some 15 KB, which every handler of the other broker would carry around as well.
                Box::pin(broker.publish(&self.line, items)).await
            }
        }
    }
}

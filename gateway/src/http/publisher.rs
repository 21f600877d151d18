//! How handlers publish: at a pace at which this gateway's workers keep up.

use std::time::{Duration, Instant};

use sse_contract::EventId;

use crate::broker::Broker;
use crate::feed::publication::{Publication, PublishError};
use crate::http::app::App;
use crate::http::trace::Trace;
use crate::panics;

/// How long one call waits for workers that are behind.
const WORKERS_WAIT: Duration = Duration::from_secs(1);

/// Publishes the items in order. Returns an id or an error for each, in the same order.
pub(crate) async fn publish(
    app: &App,
    trace: &mut Trace,
    items: &[Publication],
) -> Vec<Result<EventId, PublishError>> {
    let timer = app.metrics.publish_seconds.start_timer();
    let results = published(app, items).await;
    timer.observe_duration();
    trace.tell(items, &results);
    results
}

async fn published(app: &App, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
    match &app.broker {
        Broker::Memory(broker) => {
            let mut results = Vec::with_capacity(items.len());
            // One deadline for the whole batch. Otherwise a worker that hangs would delay the batch
            // by `WORKERS_WAIT` for each item.
            let end = Instant::now() + WORKERS_WAIT;
            for item in items {
                app.workers_caught_up(end).await;
                let _shared = panics::shared();
                results.push(broker.publish(item));
            }
            results
        }
        Broker::Redis(broker) => {
            app.workers_caught_up(Instant::now() + WORKERS_WAIT).await;
            // Boxed, because the future has some 15 KB, which every handler would carry even with
            // the memory broker.
            Box::pin(broker.publish(items)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::Access;
    use crate::broker::memory::{MemoryBroker, MemoryLimits};
    use crate::config::Config;
    use crate::feed::frame::Frame;
    use crate::feed::inbox::{ChannelKey, Inbox, ToHub};
    use crate::metrics::Metrics;
    use crate::telemetry::Telemetry;

    /// A worker that hangs must delay a batch by a second, not by a second for each event.
    #[actix_web::test]
    async fn a_batch_waits_for_a_worker_that_hangs_as_long_as_one_event_does() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let limits = MemoryLimits {
            max_len: 10,
            ttl: Duration::from_secs(60),
            bytes: 1 << 20,
            event_bytes: 1000,
            idempotency_ttl: Duration::from_secs(60),
            page_bytes: 1000,
        };
        let metrics = Metrics::default();
        let broker = Broker::Memory(Arc::new(MemoryBroker::new(limits, metrics.clone())));
        let access = Access::new(&config.auth, &config.cors).unwrap();
        let telemetry = Telemetry::start(&config.telemetry, &metrics).unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let app = Arc::new(App::new(config, broker, metrics, access, telemetry, addr, 1));
        let hanging = Inbox::new(1000);
        let key = ChannelKey { slot: 0, generation: 0 };
        let channel: sse_contract::Channel = "demo".parse().unwrap();
        hanging.send(0, [ToHub::Event(key, Frame::raw(&channel, &"x".repeat(600)))]);
        app.add_hub(hanging);
        let item = Publication { channel, event: None, data: "x".into(), idempotency_key: None };
        let items = vec![item; 200];
        let request = actix_web::test::TestRequest::default().to_http_request();
        let mut trace = Trace::begin(&request, &app, "/publish");
        let published = publish(&app, &mut trace, &items);
        let published = tokio::time::timeout(Duration::from_secs(60), published).await;
        assert!(published.expect("within a minute").iter().all(Result::is_ok));
    }
}

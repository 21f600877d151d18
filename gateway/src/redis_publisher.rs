//! Publishes through Redis: many at once on one connection of the pool, each answered for itself; a single one on
//! its worker's line.
//!
//! Nothing is accepted and then lost: what was not sent is `Unavailable`, what may have happened is
//! `OutcomeUnknown`. Only publications with an idempotency key are repeated here, because only theirs is
//! the same event twice.

use std::time::Duration;

use backon::BackoffBuilder;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError};
use sse_contract::{EventId, Function};

use crate::broker::{Publication, PublishError};
use crate::library::is_missing;
use crate::redis_broker::{RedisShared, pool_error};
use crate::redis_line::{Line, Shared};

/// How often a publication with a key is sent at most.
const ATTEMPTS: usize = 4;

/// Publishes in order; answers in the same order.
pub async fn publish(
    shared: &RedisShared,
    line: &Line,
    items: &[Publication],
) -> Vec<Result<EventId, PublishError>> {
    let mut results = attempt(shared, line, items.iter()).await;
    let delays = backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_jitter()
        .with_max_times(ATTEMPTS - 1)
        .build();
    for delay in delays {
        let again: Vec<usize> =
            (0..items.len()).filter(|&n| repeatable(&items[n], &results[n])).collect();
        if again.is_empty() {
            break;
        }
        tokio::time::sleep(delay).await;
        let repeated = attempt(shared, line, again.iter().map(|&n| &items[n])).await;
        for (n, result) in again.into_iter().zip(repeated) {
            // Once it may have been published, a later "nothing was sent" does not take that back.
            if !matches!(
                (&results[n], &result),
                (Err(PublishError::OutcomeUnknown(_)), Err(PublishError::Unavailable(_)))
            ) {
                results[n] = result;
            }
        }
    }
    for result in &results {
        shared.metrics.count_publish(result);
    }
    results
}

fn repeatable(item: &Publication, result: &Result<EventId, PublishError>) -> bool {
    let failed =
        matches!(result, Err(PublishError::Unavailable(_) | PublishError::OutcomeUnknown(_)));
    failed && item.idempotency_key.is_some()
}

/// A way to Redis that was sound a moment ago.
enum Way {
    Pooled(deadpool_redis::Connection),
    Line(Shared),
}

impl Way {
    async fn find(shared: &RedisShared, line: &Line, items: usize) -> Result<Way, RedisError> {
        match items {
            1 => line.get(shared).await.map(Way::Line),
            _ => shared.pool.get().await.map(Way::Pooled).map_err(pool_error),
        }
    }

    fn connection(&mut self) -> &mut MultiplexedConnection {
        match self {
            Way::Pooled(connection) => connection,
            Way::Line(connection) => connection.connection(),
        }
    }

    fn has_answered(&self) {
        if let Way::Line(connection) = self {
            connection.has_answered();
        }
    }

    /// Whoever comes next connects anew.
    fn give_up(self) {
        match self {
            Way::Pooled(connection) => drop(deadpool_redis::Connection::take(connection)),
            Way::Line(connection) => connection.give_up(),
        }
    }
}

async fn attempt<'a>(
    shared: &RedisShared,
    line: &Line,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Result<EventId, PublishError>> {
    let mut way = match Way::find(shared, line, items.clone().count()).await {
        Ok(way) => way,
        Err(error) => {
            let error = PublishError::Unavailable(format!("Redis: {error}"));
            return items.map(|_| Err(error.clone())).collect();
        }
    };
    let connection = way.connection();
    let mut results = send(shared, connection, items.clone()).await;
    if results.iter().any(|result| matches!(result, Err(error) if is_missing(&error.to_string()))) {
        // The library was missing from some item on, so those did nothing, whatever their keys.
        if let Err(error) = shared.ensure_library(connection).await {
            tracing::debug!(%error, "the function library cannot be put back");
        }
        let missing = |result: &Result<EventId, RedisError>| matches!(result, Err(error) if is_missing(&error.to_string()));
        let again: Vec<&Publication> =
            items.zip(&results).filter(|(_, r)| missing(r)).map(|(item, _)| item).collect();
        let mut repeated = send(shared, connection, again.into_iter()).await.into_iter();
        for result in results.iter_mut().filter(|result| missing(result)) {
            if let Some(new) = repeated.next() {
                *result = new;
            }
        }
    }
    if !results.iter().any(|result| matches!(result, Err(error) if unusable(error))) {
        way.has_answered();
    } else {
        // A master that became a replica, or a connection that hangs.
        way.give_up();
    }
    results.into_iter().map(|result| result.map_err(|error| classify(&error))).collect()
}

/// One pipeline, so that Redis runs the publications in their order.
async fn send<'a>(
    shared: &RedisShared,
    connection: &mut MultiplexedConnection,
    items: impl Iterator<Item = &'a Publication>,
) -> Vec<Result<EventId, RedisError>> {
    let mut pipeline = redis::pipe();
    for item in items {
        pipeline.add_command(call(shared, item));
    }
    let count = pipeline.len();
    let answers: Result<Vec<Result<String, RedisError>>, RedisError> =
        pipeline.ignore_errors().query_async(connection).await;
    let parsed = |id: String| {
        id.parse().map_err(|_| {
            RedisError::from((redis::ErrorKind::UnexpectedReturnType, "sse_publish answered", id))
        })
    };
    match answers {
        Ok(answers) => answers.into_iter().map(|answer| answer.and_then(parsed)).collect(),
        Err(error) => vec![Err(error); count],
    }
}

fn call(shared: &RedisShared, item: &Publication) -> Cmd {
    let keys = 2 + usize::from(item.idempotency_key.is_some());
    let mut cmd = shared.library.call(Function::Publish, keys);
    cmd.arg(shared.keys.state(0)).arg(shared.keys.history(&item.channel));
    if let Some(key) = &item.idempotency_key {
        cmd.arg(shared.keys.idempotency(&item.channel, key));
    }
    cmd.arg(item.data.as_bytes());
    if let Some(event) = &item.event {
        cmd.arg(event.as_str());
    }
    cmd
}

fn unusable(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.code() == Some("READONLY")
}

fn classify(error: &RedisError) -> PublishError {
    let detail = error.detail().unwrap_or_default().to_owned();
    match error.code() {
        Some("SSEINVALID") if detail.starts_with("data: ") => PublishError::TooLarge(detail),
        Some("SSEINVALID") => PublishError::Refused(detail),
        Some("SSECONFLICT") => PublishError::Conflict(detail),
        Some("SSEDENIED" | "NOPERM") => PublishError::Denied(detail),
        // Redis answered, and a script that fails before its first write has done nothing.
        Some(_) => PublishError::Unavailable(format!("Redis: {error}")),
        None if error.is_connection_refusal() => {
            PublishError::Unavailable(format!("Redis: {error}"))
        }
        None => PublishError::OutcomeUnknown(format!("Redis: {error}")),
    }
}

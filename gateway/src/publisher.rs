//! Publishes through Redis: many at once on one connection, each answered for itself.
//!
//! Nothing is accepted and then lost: what was not sent is `Unavailable`, what may have happened is
//! `OutcomeUnknown`. Only publications with an idempotency key are repeated here, because only theirs is
//! the same event twice.

use std::time::Duration;

use backon::BackoffBuilder;
use redis::{Cmd, RedisError};
use sse_contract::{EventId, Function};

use crate::broker::{Publication, PublishError};
use crate::library::is_missing;
use crate::redis_broker::{RedisShared, pool_error};

/// How often a publication with a key is sent at most.
const ATTEMPTS: usize = 4;

/// Publishes in order; answers in the same order.
pub async fn publish(
    shared: &RedisShared,
    items: &[Publication],
) -> Vec<Result<EventId, PublishError>> {
    let mut results = attempt(shared, items.iter()).await;
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
        let repeated = attempt(shared, again.iter().map(|&n| &items[n])).await;
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

async fn attempt<'a>(
    shared: &RedisShared,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Result<EventId, PublishError>> {
    let mut connection = match shared.pool.get().await {
        Ok(connection) => connection,
        Err(error) => {
            let error = PublishError::Unavailable(format!("Redis: {}", pool_error(error)));
            return items.map(|_| Err(error.clone())).collect();
        }
    };
    let mut results = send(shared, &mut connection, items.clone()).await;
    if results.iter().any(|result| matches!(result, Err(error) if is_missing(&error.to_string()))) {
        // The library was missing from some item on, so those did nothing, whatever their keys.
        if let Err(error) = shared.ensure_library(&mut connection).await {
            tracing::debug!(%error, "the function library cannot be put back");
        }
        let missing = |result: &Result<EventId, RedisError>| matches!(result, Err(error) if is_missing(&error.to_string()));
        let again: Vec<&Publication> =
            items.zip(&results).filter(|(_, r)| missing(r)).map(|(item, _)| item).collect();
        let mut repeated = send(shared, &mut connection, again.into_iter()).await.into_iter();
        for result in results.iter_mut().filter(|result| missing(result)) {
            if let Some(new) = repeated.next() {
                *result = new;
            }
        }
    }
    if results.iter().any(|result| matches!(result, Err(error) if unusable(error))) {
        // A master that became a replica, or a connection that hangs: the next checkout connects anew.
        drop(deadpool_redis::Connection::take(connection));
    }
    results.into_iter().map(|result| result.map_err(|error| classify(&error))).collect()
}

/// One pipeline, so that Redis runs the publications in their order.
async fn send<'a>(
    shared: &RedisShared,
    connection: &mut deadpool_redis::Connection,
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

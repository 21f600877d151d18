//! Publishes through Redis: several events on a connection of the pool, each with its own result; a
//! single event on the line, together with others that wait there.
//!
//! An accepted event is never lost silently. An event that was not sent is `Unavailable`; one that
//! may have been published is `OutcomeUnknown`. This module sends a publication again only where
//! that cannot publish it twice: no answer came and it carries an idempotency key, or it is certain
//! that nothing was written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use sse_contract::{Call, EventId, Meaning, Publish, batch_answer, batch_len, detail, meaning};

use crate::broker::redis::connection::Line;
use crate::broker::redis::session::Session;
use crate::broker::redis::{RedisShared, pool_error, words};
use crate::feed::publication::{Publication, PublishError};

/// How often a publication is sent at most.
const ATTEMPTS: usize = 4;

/// The result of one attempt at a publication.
pub(crate) type Outcome = Result<EventId, Failure>;

/// Why an attempt did not publish, and whether it may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The result for the publisher if there is no further attempt.
    pub error: PublishError,
    /// When the publication may be sent again.
    pub again: Again,
}

/// When a publication may be sent again without being published twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Never: it may have been published, or Redis would refuse it again.
    Never,
    /// If it carries an idempotency key.
    WithKey,
    /// Always. Nothing was written, because the data lives in another epoch than the gateway named.
    InNewEpoch,
}

/// Publishes in order and returns the results in the same order. Failed publications are repeated
/// where that is safe, until `request_timeout` is over.
pub(crate) async fn publish(
    shared: &Arc<RedisShared>,
    line: &Line,
    items: &[Publication],
) -> Vec<Result<EventId, PublishError>> {
    let end = Instant::now() + shared.config.request_timeout;
    let mut results = attempt_until(end, shared, line, items.iter()).await;
    let delays = backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_jitter()
        .with_max_times(ATTEMPTS - 1)
        .build();
    for delay in delays {
        let again: Vec<usize> =
            (0..items.len()).filter(|&n| repeatable(&items[n], &results[n])).collect();
        if again.is_empty() || Instant::now() + delay >= end {
            break;
        }
        tokio::time::sleep(delay).await;
        let repeated = attempt_until(end, shared, line, again.iter().map(|&n| &items[n])).await;
        for (n, result) in again.into_iter().zip(repeated) {
            results[n] = later(&results[n], result);
        }
    }
    let count = |result: Outcome| {
        let result = result.map_err(|failure| failure.error);
        shared.metrics.count_publish(&result);
        result
    };
    results.into_iter().map(count).collect()
}

fn repeatable(item: &Publication, result: &Outcome) -> bool {
    match result {
        Ok(_) => false,
        Err(failure) => match failure.again {
            Again::Never => false,
            Again::WithKey => item.idempotency_key.is_some(),
            Again::InNewEpoch => true,
        },
    }
}

/// Chooses the result after a repetition. An attempt that may have published keeps its
/// `OutcomeUnknown`, even if nothing was sent the second time.
fn later(before: &Outcome, now: Outcome) -> Outcome {
    let unknown = |outcome: &Outcome| {
        matches!(outcome, Err(Failure { error: PublishError::OutcomeUnknown(_), .. }))
    };
    let unsent = matches!(&now, Err(Failure { error: PublishError::Unavailable(_), .. }));
    match (unknown(before) && unsent, now) {
        (true, Err(now)) => before.clone().map_err(|was| Failure { again: now.again, ..was }),
        (_, now) => now,
    }
}

/// One attempt at these publications. At `end` it is given up with an unknown outcome.
async fn attempt_until<'a>(
    end: Instant,
    shared: &Arc<RedisShared>,
    line: &Line,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Outcome> {
    let count = items.clone().count();
    let attempt = attempt(shared, line, items);
    tokio::time::timeout_at(end.into(), attempt).await.unwrap_or_else(|_| {
        let why = format!("Redis: no answer within {:?}", shared.config.request_timeout);
        alike(count, &Failure { error: PublishError::OutcomeUnknown(why), again: Again::Never })
    })
}

async fn attempt<'a>(
    shared: &Arc<RedisShared>,
    line: &Line,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Outcome> {
    let count = items.clone().count();
    if count == 1 {
        let mut outcomes = Vec::with_capacity(1);
        for item in items {
            outcomes.push(line.publish(item.clone()).await);
        }
        return outcomes;
    }
    let items: Vec<Publish<'_>> = items.map(Publication::as_publish).collect();
    let session = match shared.sessions.get().await {
        Ok(session) => session,
        Err(error) => return alike(count, &unsent(&error)),
    };
    match session.pool.get().await {
        Ok(mut connection) => {
            let sent = send(shared, &session, &mut connection, &items).await;
            if !sent.usable {
                drop(deadpool_redis::Connection::take(connection));
            }
            sent.outcomes
        }
        Err(error) => alike(count, &unsent(&pool_error(error))),
    }
}

fn alike(count: usize, failure: &Failure) -> Vec<Outcome> {
    vec![Err(failure.clone()); count]
}

/// The failure of a publication that was not sent.
pub(crate) fn unsent(error: &RedisError) -> Failure {
    Failure { error: PublishError::Unavailable(format!("Redis: {error}")), again: Again::WithKey }
}

/// The results of publications that were sent together.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The result of each publication, in order.
    pub outcomes: Vec<Outcome>,
    /// Whether the connection may be used again.
    pub usable: bool,
}

/// Sends publications on a connection of this session. One pipeline carries them all, so Redis runs
/// them in order.
pub(crate) async fn send(
    shared: &RedisShared,
    session: &Arc<Session>,
    connection: &mut MultiplexedConnection,
    items: &[Publish<'_>],
) -> Sent {
    let epoch = session.epoch();
    let mut answers = pipeline(shared, connection, items, epoch).await;
    if answers.iter().any(is_missing) {
        // A missing function did not run. So these publications are sent again, with or without a
        // key.
        if let Err(error) = shared.ensure_library(connection).await {
            tracing::debug!(%error, "the function library cannot be put back");
        }
        let missing: Vec<usize> = (0..items.len()).filter(|&n| is_missing(&answers[n])).collect();
        let again: Vec<Publish<'_>> = missing.iter().map(|&n| items[n]).collect();
        let repeated = pipeline(shared, connection, &again, epoch).await;
        for (n, answer) in missing.into_iter().zip(repeated) {
            answers[n] = answer;
        }
    }
    let usable = !answers.iter().any(|answer| matches!(answer, Err(Error::Lost(_))));
    let mut outcomes: Vec<Outcome> =
        answers.into_iter().map(|answer| answer.map_err(Failure::from)).collect();
    if outcomes.iter().any(Result::is_ok) && !shared.sessions.confirms(session).await {
        // The answers may come from a master that was deposed. It loses what it acknowledged once
        // it becomes a replica.
        let failure = Failure::from(Error::Lost("the session with Redis ended meanwhile".into()));
        outcomes.iter_mut().filter(|o| o.is_ok()).for_each(|o| *o = Err(failure.clone()));
        return Sent { outcomes, usable: false };
    }
    if outcomes.iter().any(|o| matches!(o, Err(failure) if failure.again == Again::InNewEpoch)) {
        // Either the ingest has not heard of the new epoch yet, or its server is no longer the
        // master.
        shared.want_tick();
        session.other_epoch(epoch).await;
    }
    Sent { outcomes, usable }
}

/// An answer that is no event id.
#[derive(Debug)]
enum Error {
    /// Redis answered an error: its meaning, and its words.
    Answered(Meaning, String),
    /// No answer came, for this reason.
    Lost(String),
}

fn is_missing(answer: &Result<EventId, Error>) -> bool {
    matches!(answer, Err(Error::Answered(Meaning::Missing, _)))
}

async fn pipeline(
    shared: &RedisShared,
    connection: &mut MultiplexedConnection,
    items: &[Publish<'_>],
    epoch: u64,
) -> Vec<Result<EventId, Error>> {
    let mut pipeline = redis::pipe();
    let mut lengths = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let length = batch_len(rest.iter().map(|item| item.data.len()));
        let (batch, others) = rest.split_at(length);
        pipeline.add_command(command(shared, batch, epoch));
        lengths.push(length);
        rest = others;
    }
    let answers: Result<Vec<Result<Value, RedisError>>, RedisError> =
        pipeline.ignore_errors().query_async(connection).await;
    match answers {
        Ok(answers) => lengths
            .into_iter()
            .zip(answers)
            .flat_map(|(length, answer)| read(length, answer))
            .collect(),
        Err(error) => {
            let lost = |_| Err(Error::Lost(error.to_string()));
            items.iter().map(lost).collect()
        }
    }
}

/// Builds one call for these publications. A single event gets a plain call, which costs Redis less
/// than a batch of one.
fn command(shared: &RedisShared, items: &[Publish<'_>], epoch: u64) -> Cmd {
    let call = match items {
        [item] => Call::publish(&shared.keys, item, Some(epoch)),
        items => Call::batch(&shared.keys, 0, items, Some(epoch)),
    };
    let mut cmd = shared.library.begin(call.function());
    for word in call.words() {
        cmd.arg(word);
    }
    cmd
}

/// Reads the answer to one call of `length` publications.
fn read(length: usize, answer: Result<Value, RedisError>) -> Vec<Result<EventId, Error>> {
    let odd = |answer: &dyn std::fmt::Debug| {
        Err(Error::Answered(Meaning::Unknown, format!("the library answered {answer:?}")))
    };
    let text = |value: Value| match redis::from_redis_value::<String>(value) {
        Ok(text) => batch_answer(&text)
            .map_err(|(meaning, words)| Error::Answered(meaning, words.to_owned())),
        Err(error) => odd(&error),
    };
    match answer {
        Ok(Value::Array(values)) if length > 1 && values.len() == length => {
            values.into_iter().map(text).collect()
        }
        Ok(value) if length == 1 => vec![text(value)],
        Ok(value) => (0..length).map(|_| odd(&value)).collect(),
        Err(error) => (0..length).map(|_| Err(refusal(&error))).collect(),
    }
}

/// Interprets an error that answers a whole call.
fn refusal(error: &RedisError) -> Error {
    let text = words(error);
    match error.code() {
        Some(_) => Error::Answered(meaning(&text), detail(&text).to_owned()),
        None => Error::Lost(text),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (meaning, text) = match error {
            Error::Lost(text) => {
                let error = PublishError::OutcomeUnknown(format!("Redis: {text}"));
                return Failure { error, again: Again::WithKey };
            }
            Error::Answered(meaning, text) => (meaning, text),
        };
        let told = format!("Redis: {text}");
        let (error, again) = match meaning {
            Meaning::Invalid if text.starts_with("data: ") => {
                (PublishError::TooLarge(text), Again::Never)
            }
            Meaning::Invalid => (PublishError::Refused(text), Again::Never),
            Meaning::Conflict => (PublishError::Conflict(text), Again::Never),
            Meaning::Denied => (PublishError::Denied(text), Again::Never),
            Meaning::OtherEpoch => (PublishError::Unavailable(told), Again::InNewEpoch),
            Meaning::Undone | Meaning::Missing => (PublishError::Unavailable(told), Again::WithKey),
            Meaning::Mismatch => (PublishError::Unavailable(told), Again::Never),
            // Redis may not have stored the idempotency key, so not even a keyed publication is
            // repeated.
            Meaning::Unknown => (PublishError::OutcomeUnknown(told), Again::Never),
        };
        Failure { error, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        let (meaning, words) = batch_answer(text).unwrap_err();
        Error::Answered(meaning, words.to_owned()).into()
    }

    #[test]
    fn only_what_cannot_become_two_events_is_sent_again() {
        use Again::{InNewEpoch, Never, WithKey};
        for (text, again, unknown) in [
            ("SSEINVALID data: 2 bytes, at most 1", Never, false),
            ("SSECONFLICT x", Never, false),
            ("SSEDENIED x", Never, false),
            ("SSEEPOCH x", InNewEpoch, false),
            ("SSEUNDONE x", WithKey, false),
            ("NOPERM x", Never, true),
            ("OOM x", Never, true),
            ("READONLY x", Never, true),
            ("anything", Never, true),
        ] {
            let failure = failure(text);
            assert_eq!(failure.again, again, "{text}");
            let is_unknown = matches!(failure.error, PublishError::OutcomeUnknown(_));
            assert_eq!(is_unknown, unknown, "{text}");
        }
        let lost = Failure::from(Error::Lost("broken pipe".into()));
        assert_eq!(lost.again, WithKey);
        assert!(matches!(lost.error, PublishError::OutcomeUnknown(_)));
    }

    #[test]
    fn what_may_have_been_published_is_not_taken_back() {
        let unknown: Outcome = Err(Error::Lost("broken pipe".into()).into());
        let unsent = Err(failure("SSEUNDONE x"));
        assert_eq!(
            later(&unknown, unsent.clone()).unwrap_err().error,
            unknown.clone().unwrap_err().error
        );
        assert_eq!(later(&unsent, unknown.clone()), unknown);
        let id = EventId::new(5, 1, 0);
        assert_eq!(later(&unknown, Ok(id)), Ok(id));
    }
}

//! Publishes through Redis: many at once on one connection of the pool, each answered for itself; a single one on
//! the line, together with others that wait there.
//!
//! Nothing is accepted and then lost: what was not sent is `Unavailable`, what may have happened is
//! `OutcomeUnknown`. A publication is repeated here only where that cannot make two events of it: it carries an idempotency
//! key, and no answer came; or it is known that nothing was written.

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

/// What became of one attempt at a publication.
pub(crate) type Outcome = Result<EventId, Failure>;

/// Why an attempt did not publish, and who may try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is answered if nobody does.
    pub error: PublishError,
    /// Who may.
    pub again: Again,
}

/// Whose publication may be sent again without becoming two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nobody's, or it would be refused again.
    Never,
    /// One that carries an idempotency key.
    WithKey,
    /// Any: nothing was written, because the data lives in another epoch than the gateway knew of.
    InNewEpoch,
}

/// Publishes in order; answers in the same order.
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

/// Once it may have been published, a later "nothing was sent" does not take that back.
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

/// An attempt that is given up at this time.
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

/// Nothing was sent.
pub(crate) fn unsent(error: &RedisError) -> Failure {
    Failure { error: PublishError::Unavailable(format!("Redis: {error}")), again: Again::WithKey }
}

/// What became of publications sent together.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Of each, in order.
    pub outcomes: Vec<Outcome>,
    /// Whether the connection may be used again.
    pub usable: bool,
}

/// Sends publications on a connection of this session, in one pipeline, so that Redis runs them in their order.
pub(crate) async fn send(
    shared: &RedisShared,
    session: &Arc<Session>,
    connection: &mut MultiplexedConnection,
    items: &[Publish<'_>],
) -> Sent {
    let epoch = session.epoch();
    let mut answers = pipeline(shared, connection, items, epoch).await;
    if answers.iter().any(is_missing) {
        // From some call on the library was missing, so those did nothing, whatever their keys.
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
        // A master that was deposed may have answered: what it acknowledged is lost when it hears of that.
        let failure = Failure::from(Error::Lost("the session with Redis ended meanwhile".into()));
        outcomes.iter_mut().filter(|o| o.is_ok()).for_each(|o| *o = Err(failure.clone()));
        return Sent { outcomes, usable: false };
    }
    if outcomes.iter().any(|o| matches!(o, Err(failure) if failure.again == Again::InNewEpoch)) {
        // The ingest has not heard of it yet, or this is not its server any more.
        shared.want_tick();
        session.other_epoch(epoch).await;
    }
    Sent { outcomes, usable }
}

/// What an answer says instead of an id.
#[derive(Debug)]
enum Error {
    /// Redis' words, and what they mean.
    Answered(Meaning, String),
    /// No answer came.
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

/// One call for these publications: alone, one costs Redis less without a batch around it.
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

/// The answer to one call of so many publications.
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

/// What an error for a whole call says.
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
            // Whatever it is, the key may not have been kept, so that not even a publication with one is repeated.
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

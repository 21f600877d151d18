//! Publishes through Redis: several events on a connection of the pool, each with its own result; a
//! single event by the publish thread, together with others that wait there.
//!
//! An accepted event is never lost silently. An event that was not sent is `Unavailable`; one that
//! may have been published is `OutcomeUnknown`. This module sends a publication again only where
//! that cannot publish it twice: no answer came and it carries an idempotency key, or it is certain
//! that nothing was written.

pub(crate) mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use sse_contract::{EventId, Meaning, Publish, batch_answer, batch_len};

use crate::broker::redis::backoff::delays;
use crate::broker::redis::dispatch::IngestRequest;
use crate::broker::redis::failure::{Again, Failure, NoId, Outcome, pool_error, refusal};
use crate::broker::redis::partition::Partition;
use crate::broker::redis::session::Session;
use crate::feed::publication::{Publication, PublishError};

/// How often a publication is sent at most, unless Redis Cluster is moving the partition.
const ATTEMPTS: usize = 4;
/// The longest delay before a publication is sent again.
const LONGEST_DELAY: Duration = Duration::from_millis(250);

/// Publishes in order and returns the results in the same order. Failed publications are repeated
/// where that is safe: a few times, and until `request_timeout` is over while Redis Cluster moves the
/// partition.
pub(crate) async fn publish(
    partition: &Partition,
    items: &[Publication],
) -> Vec<Result<EventId, PublishError>> {
    let begun = Begun::now(partition);
    let results = attempt_until(begun.end, partition, items.iter()).await;
    begun.finish(partition, items, results).await
}

/// When publishing began, and in which session.
#[derive(Debug, Clone, Copy)]
struct Begun {
    end: Instant,
    session: Option<u64>,
}

impl Begun {
    fn now(partition: &Partition) -> Self {
        let end = Instant::now() + partition.config.request_timeout;
        Begun { end, session: partition.sessions.number() }
    }

    /// Repeats what failed in the first attempt, where that is safe.
    async fn finish(
        self,
        partition: &Partition,
        items: &[Publication],
        mut results: Vec<Outcome>,
    ) -> Vec<Result<EventId, PublishError>> {
        let Begun { end, mut session } = self;
        for (attempts, delay) in (1..).zip(delays(LONGEST_DELAY)) {
            let again: Vec<usize> = (0..items.len())
                .filter(|&n| repeatable(&items[n], &results[n], attempts))
                .collect();
            if again.is_empty() || Instant::now() + delay >= end {
                break;
            }
            let moving = again.iter().any(|&n| is_elsewhere(&results[n]));
            if moving {
                // The tick ends a session whose server does not serve the partition any more.
                partition.tell(IngestRequest::Tick);
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = partition.sessions.after(session) => {}
            }
            session = partition.sessions.number();
            if moving && session.is_none() {
                // An attempt that waits for a session until the time is over could not say that
                // nothing was sent.
                continue;
            }
            let repeated = attempt_until(end, partition, again.iter().map(|&n| &items[n])).await;
            for (n, result) in again.into_iter().zip(repeated) {
                results[n] = later(&results[n], result);
            }
        }
        let count = |result: Outcome| {
            let result = result.map_err(|failure| failure.error);
            partition.metrics.count_publish(&result);
            result
        };
        results.into_iter().map(count).collect()
    }
}

/// Whether a publication may be sent again after so many attempts.
fn repeatable(item: &Publication, result: &Outcome, attempts: usize) -> bool {
    match result {
        Ok(_) => false,
        Err(failure) => match failure.again {
            Again::Never => false,
            Again::WithKey => item.idempotency_key.is_some() && attempts < ATTEMPTS,
            Again::InNewEpoch => attempts < ATTEMPTS,
            Again::Elsewhere => true,
        },
    }
}

fn is_elsewhere(result: &Outcome) -> bool {
    matches!(result, Err(failure) if failure.again == Again::Elsewhere)
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
    partition: &Partition,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Outcome> {
    let count = items.clone().count();
    let attempt = attempt(partition, items);
    let late = |_| alike(count, &late(partition));
    tokio::time::timeout_at(end.into(), attempt).await.unwrap_or_else(late)
}

/// The failure of an attempt that took until the end.
fn late(partition: &Partition) -> Failure {
    let why = format!("Redis: no answer within {:?}", partition.config.request_timeout);
    Failure { error: PublishError::OutcomeUnknown(why), again: Again::Never }
}

async fn attempt<'a>(
    partition: &Partition,
    items: impl Iterator<Item = &'a Publication> + Clone,
) -> Vec<Outcome> {
    let count = items.clone().count();
    if count == 1 {
        let mut outcomes = Vec::with_capacity(1);
        for item in items {
            outcomes.push(partition.publish_thread.publish(item.clone()).await);
        }
        return outcomes;
    }
    let items: Vec<Publish<'_>> = items.map(Publication::as_publish).collect();
    let session = match partition.sessions.get().await {
        Ok(session) => session,
        Err(error) => return alike(count, &partition.unsent(&error)),
    };
    match session.pool.get().await {
        Ok(mut connection) => {
            let sent = send(partition, &session, &mut connection, &items).await;
            if !sent.usable {
                drop(deadpool_redis::Connection::take(connection));
            }
            sent.outcomes
        }
        Err(error) => alike(count, &partition.unsent(&pool_error(error))),
    }
}

fn alike(count: usize, failure: &Failure) -> Vec<Outcome> {
    vec![Err(failure.clone()); count]
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
    partition: &Partition,
    session: &Arc<Session>,
    connection: &mut MultiplexedConnection,
    items: &[Publish<'_>],
) -> Sent {
    let sending = Sending { partition, session, items, epoch: session.epoch() };
    let answers = sending.ask(connection, items).await;
    sending.judge(connection, answers).await
}

/// Publications of one partition that are sent together.
struct Sending<'a> {
    partition: &'a Partition,
    session: &'a Arc<Session>,
    items: &'a [Publish<'a>],
    /// The epoch that the publications are for.
    epoch: u64,
}

type Answer = Result<EventId, NoId>;

impl Sending<'_> {
    /// Adds the calls for these publications to a pipeline. Returns how many each call carries.
    fn add(&self, pipeline: &mut Pipeline, items: &[Publish<'_>]) -> Vec<usize> {
        let (mut lengths, mut rest) = (Vec::new(), items);
        while !rest.is_empty() {
            let length = batch_len(rest.iter().map(|item| item.data.len()));
            let (batch, others) = rest.split_at(length);
            pipeline.add_command(self.partition.calls.publish(batch, self.epoch));
            lengths.push(length);
            rest = others;
        }
        lengths
    }

    /// Sends some of the publications in a pipeline of their own.
    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        items: &[Publish<'_>],
    ) -> Vec<Answer> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let lengths = self.add(&mut pipeline, items);
        match answers(&pipeline, connection).await {
            Ok(answers) => read_all(lengths, answers),
            Err(error) => lost(items.len(), &error),
        }
    }

    /// Decides what the answers mean. What a missing library did not run is sent again.
    async fn judge(
        &self,
        connection: &mut MultiplexedConnection,
        mut answers: Vec<Answer>,
    ) -> Sent {
        let &Sending { partition, session, items, epoch } = self;
        if answers.iter().any(is_missing) {
            // A missing function did not run. So these publications are sent again, with or without
            // a key.
            if let Err(error) = partition.ensure_library(connection).await {
                tracing::debug!(
                    partition = partition.label(), %error,
                    "the function library cannot be put back"
                );
            }
            let missing: Vec<usize> =
                (0..items.len()).filter(|&n| is_missing(&answers[n])).collect();
            let again: Vec<Publish<'_>> = missing.iter().map(|&n| items[n]).collect();
            let repeated = self.ask(connection, &again).await;
            for (n, answer) in missing.into_iter().zip(repeated) {
                answers[n] = answer;
            }
        }
        let usable = !answers.iter().any(|answer| matches!(answer, Err(NoId::Lost(_))));
        let mut outcomes: Vec<Outcome> =
            answers.into_iter().map(|answer| answer.map_err(Failure::from)).collect();
        if outcomes.iter().any(Result::is_ok) && !partition.sessions.confirms(session).await {
            // The answers may come from a master that was deposed. It loses what it acknowledged
            // once it becomes a replica.
            let failure =
                Failure::from(NoId::Lost("the session with Redis ended meanwhile".into()));
            outcomes.iter_mut().filter(|o| o.is_ok()).for_each(|o| *o = Err(failure.clone()));
            return Sent { outcomes, usable: false };
        }
        if outcomes.iter().any(|o| matches!(o, Err(failure) if failure.again == Again::InNewEpoch))
        {
            // Either the ingest has not heard of the new epoch yet, or its server is no longer the
            // master.
            partition.tell(IngestRequest::Tick);
            session.other_epoch(epoch).await;
        }
        Sent { outcomes, usable }
    }
}

fn is_missing(answer: &Answer) -> bool {
    matches!(answer, Err(NoId::Answered(Meaning::Missing, _)))
}

/// Sends a pipeline. Each call has an answer of its own.
async fn answers(
    pipeline: &Pipeline,
    connection: &mut MultiplexedConnection,
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    pipeline.query_async(connection).await
}

fn lost(count: usize, error: &RedisError) -> Vec<Answer> {
    vec![Err(NoId::Lost(error.to_string())); count]
}

/// Reads the answers to calls that carried so many publications each.
fn read_all(
    lengths: Vec<usize>,
    answers: impl IntoIterator<Item = Result<Value, RedisError>>,
) -> Vec<Answer> {
    let answers = lengths.into_iter().zip(answers);
    answers.flat_map(|(length, answer)| read(length, answer)).collect()
}

/// Reads the answer to one call of `length` publications.
fn read(length: usize, answer: Result<Value, RedisError>) -> Vec<Answer> {
    let odd = |answer: &dyn std::fmt::Debug| {
        Err(NoId::Answered(Meaning::Unknown, format!("the library answered {answer:?}")))
    };
    let text = |value: Value| match redis::from_redis_value::<String>(value) {
        Ok(text) => batch_answer(&text)
            .map_err(|(meaning, words)| NoId::Answered(meaning, words.to_owned())),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One answer stands for each publication, whatever Redis answers.
    #[test]
    fn an_answer_of_another_form_leaves_every_outcome_open() {
        let text = |text: &str| Value::SimpleString(text.to_owned());
        let id = EventId { ms: 5, seq: 65536 };
        let denied = Err(NoId::Answered(Meaning::Denied, "x".into()));
        let both = Value::Array(vec![text("5-65536"), text("SSEDENIED x")]);
        assert_eq!(read(2, Ok(both.clone())), [Ok(id), denied.clone()]);
        assert_eq!(read(1, Ok(text("5-65536"))), [Ok(id)]);
        assert_eq!(read(1, Ok(text("SSEDENIED x"))), [denied]);
        for (length, odd) in [(3, both), (2, text("5-65536")), (1, Value::Nil), (2, Value::Int(5))]
        {
            let outcomes = read(length, Ok(odd));
            assert_eq!(outcomes.len(), length);
            let open = |outcome: &Result<_, _>| {
                matches!(outcome, Err(NoId::Answered(Meaning::Unknown, _)))
            };
            assert!(outcomes.iter().all(open), "{outcomes:?}");
        }
        let lost = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let outcomes = read(2, Err(lost));
        assert!(matches!(outcomes[..], [Err(NoId::Lost(_)), Err(NoId::Lost(_))]), "{outcomes:?}");
    }

    #[test]
    fn only_what_a_moving_partition_refused_is_sent_again_without_end() {
        let item = |key: Option<&str>| Publication {
            channel: "demo".parse().unwrap(),
            event: None,
            data: "x".into(),
            idempotency_key: key.map(Into::into),
        };
        let failed = |meaning| Err(NoId::Answered(meaning, "x".into()).into());
        let lost = Err(NoId::Lost("broken pipe".into()).into());
        for (result, plain, keyed) in [
            (Ok(EventId::new(5, 1, 0)), 0, 0),
            (failed(Meaning::Invalid), 0, 0),
            (failed(Meaning::Unknown), 0, 0),
            (lost, 0, ATTEMPTS - 1),
            (failed(Meaning::Undone), 0, ATTEMPTS - 1),
            (failed(Meaning::OtherEpoch), ATTEMPTS - 1, ATTEMPTS - 1),
            (failed(Meaning::Elsewhere), 1000, 1000),
        ] {
            for (item, expected) in [(item(None), plain), (item(Some("k")), keyed)] {
                let again = (1..=1000).take_while(|n| repeatable(&item, &result, *n)).count();
                assert_eq!(again, expected, "{result:?} {:?}", item.idempotency_key);
            }
        }
    }

    #[test]
    fn what_may_have_been_published_is_not_taken_back() {
        let unknown: Outcome = Err(NoId::Lost("broken pipe".into()).into());
        let unsent = Err(NoId::Answered(Meaning::Undone, "x".into()).into());
        assert_eq!(
            later(&unknown, unsent.clone()).unwrap_err().error,
            unknown.clone().unwrap_err().error
        );
        assert_eq!(later(&unsent, unknown.clone()), unknown);
        let id = EventId::new(5, 1, 0);
        assert_eq!(later(&unknown, Ok(id)), Ok(id));
    }
}

//! Publishes events of several partitions at the same time. What goes to the same server goes there
//! in one pipeline: a write, a wake-up and a read for each partition would cost both sides more than
//! its few events.

use std::sync::Arc;

use futures_util::future::{join, join_all};
use redis::aio::MultiplexedConnection;
use sse_contract::{EventId, Publish};

use super::{Begun, Sending, Sent, alike, answers, late, lost, publish as publish_alone, read_all};
use crate::broker::redis::failure::{Outcome, pool_error};
use crate::broker::redis::partition::Partition;
use crate::broker::redis::session::Session;
use crate::feed::publication::{Publication, PublishError};

/// A partition with its publications.
pub(crate) type Part<'a> = (&'a Arc<Partition>, Vec<Publication>);

/// Publishes these parts, each in order. Returns the results in the same order. What fails is
/// repeated for each part by itself.
pub(crate) async fn publish(parts: &[Part<'_>]) -> Vec<Vec<Result<EventId, PublishError>>> {
    let mut groups: Vec<Vec<Member<'_>>> = Vec::new();
    // A part whose partition has no session waits for one, and nobody waits for that part.
    let mut alone = Vec::new();
    for (n, (partition, items)) in parts.iter().enumerate() {
        let Some(session) = partition.sessions.current() else {
            alone.push(n);
            continue;
        };
        let same = |group: &&mut Vec<Member<'_>>| group[0].session.run() == session.run();
        match groups.iter_mut().find(same) {
            Some(group) => group.push(Member { n, partition, items, session }),
            None => groups.push(vec![Member { n, partition, items, session }]),
        }
    }
    let grouped = groups.iter().map(|members| publish_group(members));
    let alone = alone.into_iter().map(|n| async move {
        let (partition, items) = &parts[n];
        (n, publish_alone(partition, items).await)
    });
    let (grouped, alone) = join(join_all(grouped), join_all(alone)).await;
    let mut results: Vec<_> = grouped.into_iter().flatten().chain(alone).collect();
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, results)| results).collect()
}

/// A part whose partition has a session.
struct Member<'a> {
    /// Its place among all parts.
    n: usize,
    partition: &'a Partition,
    items: &'a [Publication],
    session: Arc<Session>,
}

/// Publishes parts that go to the same server.
async fn publish_group(members: &[Member<'_>]) -> Vec<(usize, Vec<Result<EventId, PublishError>>)> {
    let [first, others @ ..] = members else { return Vec::new() };
    if others.is_empty() {
        return vec![(first.n, publish_alone(first.partition, first.items).await)];
    }
    let begun: Vec<Begun> = members.iter().map(|member| Begun::now(member.partition)).collect();
    let first_attempt = tokio::time::timeout_at(begun[0].end.into(), attempt(members)).await;
    let attempted = first_attempt.unwrap_or_else(|_| {
        members.iter().map(|m| alike(m.items.len(), &late(m.partition))).collect()
    });
    let finishing = members.iter().zip(begun).zip(attempted).map(|((member, begun), outcomes)| {
        let Member { n, partition, items, .. } = member;
        async move { (*n, begun.finish(partition, items, outcomes).await) }
    });
    join_all(finishing).await
}

/// One attempt at all these parts, in one pipeline.
async fn attempt(members: &[Member<'_>]) -> Vec<Vec<Outcome>> {
    // Any of their pools leads to this server. Under load the first one alone would be too small.
    let in_use = |member: &&Member<'_>| {
        let status = member.session.pool.status();
        status.size.saturating_sub(status.available) + status.waiting
    };
    let Some(least) = members.iter().min_by_key(in_use) else { return Vec::new() };
    let mut connection = match least.session.pool.get().await {
        Ok(connection) => connection,
        Err(error) => {
            let error = pool_error(error);
            let unsent = |m: &Member<'_>| alike(m.items.len(), &m.partition.unsent(&error));
            return members.iter().map(unsent).collect();
        }
    };
    let sent = send(&mut connection, members).await;
    if sent.iter().any(|sent| !sent.usable) {
        drop(deadpool_redis::Connection::take(connection));
    }
    sent.into_iter().map(|sent| sent.outcomes).collect()
}

async fn send(connection: &mut MultiplexedConnection, members: &[Member<'_>]) -> Vec<Sent> {
    let items: Vec<Vec<Publish<'_>>> = members
        .iter()
        .map(|member| member.items.iter().map(Publication::as_publish).collect())
        .collect();
    let sendings: Vec<Sending<'_>> = members
        .iter()
        .zip(&items)
        .map(|(Member { partition, session, .. }, items)| Sending {
            partition,
            session,
            items,
            epoch: session.epoch(),
        })
        .collect();
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    let lengths: Vec<Vec<usize>> =
        sendings.iter().map(|sending| sending.add(&mut pipeline, sending.items)).collect();
    let answered = answers(&pipeline, connection).await;
    let answered: Vec<_> = match answered {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            lengths
                .into_iter()
                .map(|lengths| {
                    let calls = lengths.len();
                    read_all(lengths, answers.by_ref().take(calls))
                })
                .collect()
        }
        Err(error) => sendings.iter().map(|sending| lost(sending.items.len(), &error)).collect(),
    };
    // All at the same time, because each may wait for its session.
    join_all(sendings.iter().zip(answered).map(|(sending, answers)| {
        let mut connection = connection.clone();
        async move { sending.judge(&mut connection, answers).await }
    }))
    .await
}

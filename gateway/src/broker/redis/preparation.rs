//! What must be so before a session begins: the library is loaded, Redis holds as many partitions as
//! this gateway has, and the first tick is answered.

use std::time::{Duration, Instant};

use sse_contract::EventId;

use crate::broker::redis::connector::{Connection, SessionError};
use crate::broker::redis::ingest::Status;
use crate::broker::redis::moved::Verdict;
use crate::broker::redis::partition::Partition;
use crate::broker::redis::place::Server;
use crate::broker::redis::resp::Value;
use crate::broker::redis::session::{self, Run};

/// How the library answers a first tick if another process wrote the state: the code, then the run
/// id and the replication id of that process.
const STRANGE: &str = "SSESTRANGE ";

/// How long another gateway has time to tell how a partition came to its server, and how often this
/// one looks.
const DOUBT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);

/// Loads the library, checks the server and sends the first tick. Returns the server's run id
/// and the clock.
pub(crate) async fn prepare(
    partition: &Partition,
    server: &Server,
    connection: &mut Connection,
) -> Result<(Run, EventId), SessionError> {
    partition.calls.library.ensure(async |cmd| connection.ask(&cmd).await).await?;
    let policy = redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").to_owned();
    let policy = connection
        .call(&policy, |value| {
            value.elements().get(1).and_then(Value::text).unwrap_or("noeviction").to_owned()
        })
        .await?;
    if policy != "noeviction" && *partition.status.borrow() == Status::Connecting {
        tracing::warn!(
            partition = partition.label(), redis.maxmemory_policy = %policy,
            "any eviction ends an epoch, and every cursor with it: set maxmemory-policy noeviction"
        );
    }
    let info = redis::cmd("INFO").arg("server").to_owned();
    let run = connection.call(&info, |value| Some(session::run_id(value.text()?)?.into())).await?;
    let run = run.ok_or_else(|| {
        let text = "INFO does not tell run_id: a gateway needs the right to INFO";
        SessionError::Refused(text.to_owned())
    })?;
    agree(partition, connection).await?;
    let clock = first_tick(partition, connection).await?;
    // Another gateway may have looked for this state before it was there, and be about to create
    // one of the other kind.
    ask_for_others(partition, connection).await?;
    partition.agreement.confirm();
    partition.place.begins(server, connection).await?;
    Ok((run, clock))
}

/// Makes sure that Redis holds as many partitions as this gateway has.
async fn agree(partition: &Partition, connection: &mut Connection) -> Result<(), SessionError> {
    let agreement = &partition.agreement;
    if agreement.is_confirmed() {
        return Ok(());
    }
    if partition.number == 0 {
        return ask_for_others(partition, connection).await;
    }
    // The state of this partition tells as well, if there is one. Its tick compares the number.
    let state = redis::cmd("EXISTS").arg(partition.keys.state(partition.number)).to_owned();
    if connection.call(&state, |value| value.integer() == Some(1)).await? {
        return Ok(());
    }
    let first = tokio::time::timeout(partition.config.connect_timeout / 2, agreement.confirmed());
    first.await.map_err(|_| {
        let text = "partition 0 is away, and Redis has no state of this partition yet";
        SessionError::Refused(text.to_owned())
    })
}

/// Looks for a state that another number of partitions would have.
async fn ask_for_others(
    partition: &Partition,
    connection: &mut Connection,
) -> Result<(), SessionError> {
    let agreement = &partition.agreement;
    if agreement.is_confirmed() || partition.number > 0 {
        return Ok(());
    }
    connection.call(&agreement.question(), |value| agreement.judge(value)).await?
}

/// Sends the first tick and returns the clock. In a Redis Cluster it first asks who wrote the
/// state, because a partition that was moved has lost nothing. If this gateway cannot tell whether
/// it was moved, another one may, and its tick then makes the state known.
async fn first_tick(
    partition: &Partition,
    connection: &mut Connection,
) -> Result<EventId, SessionError> {
    let (place, calls) = (&partition.place, &partition.calls);
    if !place.moves_partitions() {
        return connection.call(&calls.tick(), |value| calls.ticked(value)).await?;
    }
    let patience = DOUBT.min(partition.config.connect_timeout / 3);
    let until = Instant::now() + patience;
    loop {
        let first = calls.first_tick(None);
        let strange = match connection.call(&first, |value| calls.ticked(value)).await? {
            Err(SessionError::Refused(text)) if text.starts_with(STRANGE) => text,
            answered => return answered,
        };
        let mut words = strange[STRANGE.len()..].split(' ');
        let (run, replid) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let verdict = place.judge((run, replid), connection, patience).await;
        let (addr, label) = (partition.addr(), partition.label());
        let from = match verdict {
            Verdict::Whole => {
                tracing::info!(
                    redis.addr = %addr, partition = label,
                    "Redis Cluster has moved the partition here"
                );
                run
            }
            Verdict::Lost => "",
            Verdict::Doubtful if Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Verdict::Doubtful => {
                tracing::warn!(
                    redis.addr = %addr, partition = label,
                    "nobody can tell whether the partition came here as a whole, so it counts as \
                     incomplete"
                );
                ""
            }
        };
        let tick = calls.first_tick(Some(from));
        return connection.call(&tick, |value| calls.ticked(value)).await?;
    }
}

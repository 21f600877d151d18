//! Publishes directly through Redis, as any service can, and interprets its answers.

use sse_contract::{
    Call, Channel, EventId, Function, Keys, Meaning, Publish, Way, batch_answer, batch_len,
    eval_script, meaning,
};

use crate::ledger::now_ms;
use crate::payload::{Stamp, channel_name};
use crate::publisher::{Answer, Answers, refused};
use crate::redis_side::PUBLISHER_USER;
use crate::resp::{Redis, Reply};
use crate::settings::Broker;
use crate::stage::Stage;
use crate::tally::Wrong;

/// The connection of one publisher, and the epoch of the state when it connected.
#[derive(Debug, Default)]
pub struct Direct {
    connection: Option<(Redis, Option<u64>)>,
    way: Way,
}

/// One event of a publication.
struct Item {
    stamp: Stamp,
    index: u16,
    channel: Channel,
    text: String,
    key: Option<String>,
}

impl Item {
    fn all(seed: u64, stamps: &[Stamp]) -> Vec<Item> {
        let one = |stamp: Stamp, index: u16| Item {
            stamp,
            index,
            channel: channel_name(index).parse().expect("the suite's own channels"),
            text: stamp.text(seed),
            key: stamp.key(),
        };
        stamps.iter().flat_map(|s| s.channels().iter().map(move |index| one(*s, *index))).collect()
    }

    fn publish(&self) -> Publish<'_> {
        let (channel, data) = (&self.channel, self.text.as_bytes());
        Publish { channel, event: None, data, idempotency_key: self.key.as_deref() }
    }
}

impl Direct {
    /// Sends publications in one pipeline: one call per event, or in batches.
    pub async fn publish(&mut self, stage: &Stage, batches: bool, stamps: &[Stamp]) -> Answers {
        let (mut redis, epoch) = match self.connection.take() {
            Some(known) => known,
            None => match self.connect(stage).await {
                Ok(known) => known,
                Err(_) => return Answers::nothing(stamps),
            },
        };
        let sent_ms = now_ms();
        let items = Item::all(stage.seed, stamps);
        let groups: Vec<&[Item]> = match batches {
            true => in_batches(&items),
            false => items.chunks(1).collect(),
        };
        let calls: Vec<_> = groups.iter().map(|items| self.call(items, batches, epoch)).collect();
        if redis.send(&calls).await.is_err() {
            return Answers::default();
        }
        let (mut answers, mut sound) = (Answers::default(), true);
        for items in groups {
            let Ok(reply) = redis.reply().await else { return answers };
            for (n, item) in items.iter().enumerate() {
                let answer = read(stage, &reply, n, batches, sent_ms);
                sound &= !matches!(answer, Err(Meaning::OtherEpoch));
                answers.note(item.stamp, item.index, answer.unwrap_or(Answer::Nothing));
            }
            sound &= !matches!(reply, Reply::Error(error) if error.starts_with("READONLY"));
        }
        if sound {
            self.connection = Some((redis, epoch));
        }
        answers
    }

    async fn connect(&mut self, stage: &Stage) -> Result<(Redis, Option<u64>), String> {
        let addr = stage.places.redis.ok_or("there is no Redis")?;
        let mut redis = Redis::log_in(addr, PUBLISHER_USER).await?;
        if stage.settings.broker == Broker::Scripts {
            let mut digests = Vec::new();
            for function in [Function::Publish, Function::PublishBatch] {
                match redis.call(&["SCRIPT", "LOAD", &eval_script(function)]).await? {
                    Reply::Text(digest) => digests.push((function, digest)),
                    Reply::Error(error) => return Err(error),
                }
            }
            self.way = Way::Scripts(digests);
        }
        let state = redis.call(&["HGET", "sse:state", "id"]).await?;
        let Reply::Text(clock) = state else { return Err(format!("{state:?}")) };
        let epoch = clock.parse::<EventId>().ok().map(EventId::epoch);
        Ok((redis, epoch))
    }

    fn call(&self, items: &[Item], batch: bool, epoch: Option<u64>) -> Vec<Vec<u8>> {
        let keys = Keys::new("sse".to_owned(), 1);
        let call = match items {
            [only] if !batch => Call::publish(&keys, &only.publish(), epoch),
            several => {
                let items: Vec<Publish<'_>> = several.iter().map(Item::publish).collect();
                Call::batch(&keys, 0, &items, epoch)
            }
        };
        let words = self.way.words(&call).expect("both functions are loaded");
        words.map(<[u8]>::to_vec).collect()
    }
}

fn in_batches(mut items: &[Item]) -> Vec<&[Item]> {
    let mut batches = Vec::new();
    while !items.is_empty() {
        let (batch, rest) = items.split_at(batch_len(items.iter().map(|item| item.text.len())));
        batches.push(batch);
        items = rest;
    }
    batches
}

/// What became of the n-th event of a call. The error says why the event can safely be sent again.
fn read(
    stage: &Stage,
    reply: &Reply,
    n: usize,
    batch: bool,
    sent_ms: u64,
) -> Result<Answer, Meaning> {
    let (meaning, error) = match reply {
        Reply::Error(error) => (meaning(error), error.as_str()),
        Reply::Text(text) if batch => match text.lines().nth(n).map(batch_answer) {
            Some(Ok(id)) => return Ok(Answer::Event(id)),
            Some(Err(error)) => error,
            None => return Ok(Answer::Unknown),
        },
        Reply::Text(text) => return Ok(text.parse().map_or(Answer::Unknown, Answer::Event)),
    };
    match meaning {
        Meaning::Unknown => return Ok(Answer::Unknown),
        Meaning::Conflict => {
            // The suite uses each key for one publication only.
            stage.wrong(Wrong::Duplicated, format!("a key is said to be used: {error}"));
            return Ok(Answer::Never);
        }
        Meaning::Denied | Meaning::Invalid | Meaning::Mismatch => refused(stage, error, sent_ms),
        Meaning::Missing | Meaning::OtherEpoch | Meaning::Undone | Meaning::Elsewhere => {}
    }
    Err(meaning)
}

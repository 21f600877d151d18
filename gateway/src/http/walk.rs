//! Walks through the tables of all hubs, to list streams and channels.
//!
//! Only one walk runs at a time, so however many ask, a worker has one step of it to do between two
//! rounds, and the memory for what was found is needed once. A walk has a second; what it did not
//! reach by then is missing, and the answer says so.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sse_contract::Channel;
use tokio::sync::mpsc;

use crate::feed::inbox::{Inbox, ToHub};
use crate::feed::listing::{
    ChannelEntry, ChannelsPart, ChannelsStep, StreamEntry, StreamFilter, StreamKey, StreamSort,
    StreamsPart, StreamsStep,
};
use crate::http::app::App;

/// How long a walk may take, with the wait for the walk before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The streams that a walk found.
#[derive(Debug, Default)]
pub(crate) struct FoundStreams {
    /// The first of them, in order.
    pub entries: BTreeMap<StreamKey, StreamEntry>,
    /// How many there are, whatever their place.
    pub matched: usize,
    /// Whether every worker answered in time.
    pub complete: bool,
}

/// The channels that a walk found.
#[derive(Debug, Default)]
pub(crate) struct FoundChannels {
    /// All of them, with their numbers summed over the workers.
    pub entries: HashMap<Channel, ChannelEntry>,
    /// Whether every worker answered in time.
    pub complete: bool,
}

impl App {
    /// Finds the first `most` streams behind `after`.
    pub(crate) async fn find_streams(
        &self,
        filter: StreamFilter,
        sort: StreamSort,
        after: Option<StreamKey>,
        most: usize,
    ) -> FoundStreams {
        let (filter, found) = (Arc::new(filter), RefCell::new(FoundStreams::default()));
        let step = |from, answer| {
            let found = found.borrow();
            let entries = &found.entries;
            // What is behind the last one found is not wanted any more.
            let before = entries.last_key_value().filter(|_| entries.len() >= most);
            let before = before.map(|(key, _)| *key);
            let filter = filter.clone();
            let step = StreamsStep { from, filter, sort, after, before, most, answer };
            ToHub::ListStreams(Box::new(step))
        };
        let take = |part: StreamsPart| {
            let mut found = found.borrow_mut();
            found.matched += part.matched;
            found.entries.extend(part.entries);
            while found.entries.len() > most {
                found.entries.pop_last();
            }
            part.next
        };
        let complete = self.walk(step, take).await;
        FoundStreams { complete, ..found.into_inner() }
    }

    /// Finds all channels whose names begin with `prefix`.
    pub(crate) async fn find_channels(&self, prefix: Arc<str>) -> FoundChannels {
        let found = RefCell::new(FoundChannels::default());
        let step = |from, answer| {
            ToHub::ListChannels(ChannelsStep { from, prefix: prefix.clone(), answer })
        };
        let take = |part: ChannelsPart| {
            let mut found = found.borrow_mut();
            for (name, entry) in part.entries {
                let sum = found.entries.entry(name).or_default();
                sum.subscribers += entry.subscribers;
                sum.last = sum.last.max(entry.last);
            }
            part.next
        };
        let complete = self.walk(step, take).await;
        FoundChannels { complete, ..found.into_inner() }
    }

    async fn walk<T>(
        &self,
        step: impl Fn(usize, mpsc::Sender<T>) -> ToHub,
        take: impl Fn(T) -> Option<usize>,
    ) -> bool {
        let hubs = self.hubs();
        let all = async {
            let _alone = self.walking.lock().await;
            walk(&hubs, step, take).await;
        };
        tokio::time::timeout(PATIENCE, all).await.is_ok()
    }
}

/// Walks through every hub's table at once, step by step. `take` takes a step's answer, and returns
/// where to go on.
async fn walk<T>(
    hubs: &[Arc<Inbox>],
    step: impl Fn(usize, mpsc::Sender<T>) -> ToHub,
    take: impl Fn(T) -> Option<usize>,
) {
    let walks = hubs.iter().map(|hub| async {
        let mut next = Some(0);
        while let Some(from) = next {
            let (answer, mut answered) = mpsc::channel(1);
            hub.tell(step(from, answer));
            // A drained hub has ended and does not answer; it has nothing to tell of.
            next = answered.recv().await.and_then(&take);
        }
    });
    join_all(walks).await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// One hub answers, one has ended, and one does not come to it.
    #[test]
    fn a_walk_waits_for_hubs_that_may_still_answer_and_sends_each_one_step_at_a_time() {
        let [quick, ended, slow] = [0; 3].map(|_| Inbox::new(1000));
        let hubs = [quick.clone(), ended.clone(), slow.clone()];
        let got = RefCell::new(Vec::new());
        let step =
            |from, answer| ToHub::ListChannels(ChannelsStep { from, prefix: "".into(), answer });
        let take = |part: ChannelsPart| {
            got.borrow_mut().push(part.entries.len());
            part.next
        };
        let mut walking = pin!(walk(&hubs, step, take));
        let mut context = Context::from_waker(Waker::noop());
        let answer = |inbox: &Inbox, at: usize, next| {
            let mut messages = Vec::new();
            inbox.take(&mut messages);
            let [ToHub::ListChannels(step)] = &messages[..] else { panic!("{messages:?}") };
            assert_eq!(step.from, at);
            step.answer.try_send(ChannelsPart { entries: Vec::new(), next }).unwrap();
        };
        assert_eq!(walking.as_mut().poll(&mut context), Poll::Pending);
        answer(&quick, 0, Some(7));
        ended.close();
        assert_eq!(walking.as_mut().poll(&mut context), Poll::Pending);
        answer(&quick, 7, None);
        assert_eq!(walking.as_mut().poll(&mut context), Poll::Pending, "the third may answer");
        answer(&slow, 0, None);
        assert_eq!(walking.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(*got.borrow(), [0, 0, 0]);
    }
}

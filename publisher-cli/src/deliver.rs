//! Delivers one batch: sends it, records the answers, waits, and sends again what is left. Every
//! event of the batch has an outcome, wherever an attempt broke off.
//!
//! The order within a channel is kept, because the next request is made only when every event of
//! the previous one is settled. Only events without a final answer are sent again. A repeated event
//! would get the same id, so leaving it out is safe and saves work.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::attempt::{Answer, Attempt, Reason, Target};
use crate::gather::{BATCH_BYTES, BATCH_EVENTS};
use crate::item::Event;
use crate::retry::Patience;

/// The final result of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The event was published with this id.
    Published(String),
    /// The event was certainly not published.
    Failed(Reason),
    /// An attempt may have published the event, but no answer confirmed it.
    Unknown(Reason),
}

#[derive(Debug, Clone)]
enum State {
    Waiting { why: Option<Reason>, perhaps_published: bool },
    Settled(Outcome),
}

/// The state of every event of a batch.
#[derive(Debug)]
pub struct Ledger {
    events: Vec<Event>,
    states: Vec<State>,
    /// The index of the first event that may still be waiting. All events before it are settled.
    first: usize,
    /// Whether any attempt had a usable connection.
    pub connected: bool,
}

/// How the delivery of a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every event has its own final answer.
    Settled,
    /// Nothing has succeeded for too long, or further attempts would fail in the same way.
    GaveUp,
}

impl Ledger {
    /// A ledger of events that were not sent yet.
    pub fn new(events: Vec<Event>) -> Self {
        let states = vec![State::Waiting { why: None, perhaps_published: false }; events.len()];
        Ledger { events, states, first: 0, connected: false }
    }

    /// Each event with its outcome. An event that is still waiting is unknown if an attempt may
    /// have published it, and failed otherwise.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Event, Outcome)> {
        let outcome = |state: &State| match state {
            State::Settled(outcome) => outcome.clone(),
            State::Waiting { why, perhaps_published } => {
                let why = why.clone().unwrap_or_else(|| Reason::new("not sent"));
                if *perhaps_published { Outcome::Unknown(why) } else { Outcome::Failed(why) }
            }
        };
        self.events.iter().zip(self.states.iter().map(outcome))
    }

    /// Records that the delivery was interrupted, perhaps in the middle of an attempt.
    pub fn interrupt(&mut self) {
        for state in &mut self.states {
            if let State::Waiting { why, .. } = state {
                why.get_or_insert_with(|| Reason::new("interrupted before an answer came"));
            }
        }
    }

    /// The indices of the events to send next: the first that wait, at most `most` events and
    /// `BATCH_BYTES`, but at least one if any waits.
    fn next_request(&self, most: usize) -> Vec<usize> {
        let mut bytes = 0;
        let waiting = (self.first..self.events.len())
            .filter(|&at| matches!(self.states[at], State::Waiting { .. }));
        waiting
            .take(most)
            .take_while(|&at| {
                bytes += self.events[at].size();
                bytes <= BATCH_BYTES || bytes == self.events[at].size()
            })
            .collect()
    }

    /// Marks the events as perhaps published, in case the delivery is interrupted before the
    /// answer. Returns the previous marks.
    fn begin(&mut self, request: &[usize]) -> Vec<bool> {
        let mut before = Vec::with_capacity(request.len());
        for &at in request {
            if let State::Waiting { perhaps_published, .. } = &mut self.states[at] {
                before.push(std::mem::replace(perhaps_published, true));
            }
        }
        before
    }

    /// Records the answers. Returns whether any event was settled.
    fn record(&mut self, request: &[usize], in_doubt: Vec<bool>, answers: Vec<Answer>) -> bool {
        let mut settled_any = false;
        for ((&at, in_doubt), answer) in request.iter().zip(in_doubt).zip(answers) {
            let outcome = match answer {
                Answer::Published(id) => Outcome::Published(id),
                // A refusal says nothing about an earlier attempt that may have succeeded.
                Answer::Refused(reason) if in_doubt => Outcome::Unknown(reason),
                Answer::Refused(reason) => Outcome::Failed(reason),
                Answer::Unknown(reason) => Outcome::Unknown(reason),
                Answer::Again { reason, perhaps_published } => {
                    let perhaps_published = perhaps_published || in_doubt;
                    self.states[at] = State::Waiting { why: Some(reason), perhaps_published };
                    continue;
                }
            };
            self.states[at] = State::Settled(outcome);
            settled_any = true;
        }
        while matches!(self.states.get(self.first), Some(State::Settled(_))) {
            self.first += 1;
        }
        settled_any
    }

    /// Restores the marks after the server refused the whole request and looked at no single event.
    fn put_back(&mut self, request: &[usize], in_doubt: Vec<bool>) {
        for (&at, perhaps_published) in request.iter().zip(in_doubt) {
            self.states[at] = State::Waiting { why: None, perhaps_published };
        }
    }

    /// Gives the events that were never sent a reason: the failure of those that were.
    fn explain_unsent(&mut self, reason: &Reason) {
        for state in &mut self.states[self.first..] {
            if let State::Waiting { why: why @ None, .. } = state {
                *why = Some(reason.clone());
            }
        }
    }
}

/// What keeps a delivery from getting on, for those who watch it meanwhile.
#[derive(Debug, Default)]
pub struct Trouble(RefCell<Option<Failing>>);

/// Attempts fail, and others follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Why the last attempt failed.
    pub why: String,
    /// When the first attempt failed.
    pub since: Instant,
    /// When the last attempt will be made.
    pub until: Instant,
}

impl Trouble {
    /// The trouble of this moment.
    pub fn now(&self) -> Option<Failing> {
        self.0.borrow().clone()
    }

    fn set(&self, failing: Option<Failing>) {
        *self.0.borrow_mut() = failing;
    }
}

/// Publishes the events of a ledger, and gives up once nothing has succeeded for `patience`. While
/// attempts fail, `trouble` says why.
pub async fn deliver(
    target: &mut impl Target,
    ledger: &mut Ledger,
    patience: Duration,
    first_wait: Duration,
    trouble: &Trouble,
) -> Ending {
    let mut patience = Patience::new(patience, first_wait);
    let mut most = BATCH_EVENTS;
    loop {
        let request = ledger.next_request(most);
        if request.is_empty() {
            return Ending::Settled;
        }
        let in_doubt = ledger.begin(&request);
        let events: Vec<&Event> = request.iter().map(|&at| &ledger.events[at]).collect();
        let Attempt { answers, retry_after, connected, too_large, stop } =
            target.send(&events).await;
        ledger.connected |= connected;
        if too_large && request.len() > 1 {
            ledger.put_back(&request, in_doubt);
            most = request.len() / 2;
            continue;
        }
        let why = answers.iter().find_map(reason);
        if ledger.record(&request, in_doubt, answers) {
            patience.progress();
            trouble.set(None);
        }
        if stop {
            ledger.explain_unsent(&why.unwrap_or_else(|| Reason::new("not sent")));
            return Ending::GaveUp;
        }
        let still_waiting =
            |&at: &usize| matches!(ledger.states[at], State::Waiting { why: Some(_), .. });
        if !request.iter().any(still_waiting) {
            continue;
        }
        let text = why.map(|reason| reason.text).unwrap_or_default();
        let now = Instant::now();
        let Some(wait) = patience.wait(now, retry_after) else {
            let why = format!("not sent, as an earlier event failed: {text}");
            ledger.explain_unsent(&Reason::new(why));
            return Ending::GaveUp;
        };
        let (since, until) = (patience.failing_since(now), now + patience.left(now));
        trouble.set(Some(Failing { why: text, since, until }));
        tokio::time::sleep(wait).await;
    }
}

fn reason(answer: &Answer) -> Option<Reason> {
    match answer {
        Answer::Published(_) => None,
        Answer::Refused(reason) | Answer::Unknown(reason) | Answer::Again { reason, .. } => {
            Some(reason.clone())
        }
    }
}

#[cfg(test)]
mod tests;

//! Tests delivery against a model of a server. The model remembers idempotency keys and fails in
//! every way in which a connection or a gateway can fail.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::item::Place;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
enum Fault {
    None,
    /// No connection is made.
    Refuse,
    /// The connection breaks after the first `published` events were published and the first
    /// `answered` answers arrived.
    Cut {
        published: usize,
        answered: usize,
    },
    /// The gateway loses its Redis at this event.
    Unavailable {
        from: usize,
    },
    /// The server refuses a request with more events than this as too large.
    TooLarge {
        most: usize,
    },
    /// The server refuses everything, and would do so again.
    Stop,
}

struct Server {
    log: Vec<(String, String)>,
    keys: HashMap<(String, String), String>,
    faults: std::vec::IntoIter<Fault>,
}

impl Server {
    fn new(faults: Vec<Fault>) -> Self {
        Server { log: Vec::new(), keys: HashMap::new(), faults: faults.into_iter() }
    }

    fn publish(&mut self, event: &Event) -> Answer {
        if &*event.data == "bad" {
            return Answer::Refused(Reason::new("bad"));
        }
        let (channel, key) = (event.channel.to_string(), event.key.to_string());
        if let Some(id) = self.keys.get(&(channel.clone(), key.clone())) {
            return Answer::Published(id.clone());
        }
        let id = format!("id-{}", self.log.len());
        self.log.push((channel.clone(), key.clone()));
        self.keys.insert((channel, key), id.clone());
        Answer::Published(id)
    }
}

fn again(perhaps_published: bool) -> Answer {
    Answer::Again { reason: Reason::new("again"), perhaps_published }
}

impl Target for Server {
    fn place(&self) -> String {
        "http://a".to_owned()
    }

    async fn send(&mut self, events: &[&Event]) -> Attempt {
        let all = events.len();
        match self.faults.next().unwrap_or(Fault::None) {
            Fault::None => Attempt::of(events.iter().map(|event| self.publish(event)).collect()),
            Fault::Refuse => Attempt { connected: false, ..Attempt::alike(all, again(false)) },
            Fault::Cut { published, answered } => {
                let mut answers = Vec::new();
                for (at, event) in events.iter().enumerate() {
                    let answer = if at < published { self.publish(event) } else { again(true) };
                    answers.push(if at < answered { answer } else { again(true) });
                }
                Attempt::of(answers)
            }
            Fault::Unavailable { from } => {
                let answer = |(at, event): (usize, &&Event)| {
                    if at < from { self.publish(event) } else { again(false) }
                };
                Attempt::of(events.iter().enumerate().map(answer).collect())
            }
            Fault::TooLarge { most } if all > most => Attempt {
                too_large: true,
                ..Attempt::alike(all, Answer::Refused(Reason::new("too large")))
            },
            Fault::TooLarge { .. } => {
                Attempt::of(events.iter().map(|event| self.publish(event)).collect())
            }
            Fault::Stop => {
                Attempt { stop: true, ..Attempt::alike(all, Answer::Refused(Reason::new("no"))) }
            }
        }
    }
}

fn event(number: usize, channel: &str, bad: bool) -> Event {
    Event {
        place: Place::Line(number as u64),
        channel: channel.parse().unwrap(),
        event: None,
        data: if bad { "bad" } else { "good" }.into(),
        key: format!("k-{number}").into(),
    }
}

fn run(server: &mut Server, ledger: &mut Ledger, patience: Duration) -> Ending {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(deliver(server, ledger, patience, Duration::ZERO, &Trouble::default()))
}

fn fault() -> impl Strategy<Value = Fault> {
    let most = 12usize;
    prop_oneof![
        Just(Fault::None),
        Just(Fault::Refuse),
        (0..most, 0..most).prop_map(|(published, answered)| Fault::Cut {
            published,
            answered: answered.min(published)
        }),
        (0..most).prop_map(|from| Fault::Unavailable { from }),
        // At least 1: a single event that is too large would fail, and rightly.
        (1..most).prop_map(|most| Fault::TooLarge { most }),
        Just(Fault::Stop),
    ]
}

proptest! {
    #[test]
    fn every_event_has_a_true_account_and_order_holds(
        kinds in proptest::collection::vec((0usize..3, proptest::bool::weighted(0.1)), 1..30),
        faults in proptest::collection::vec(fault(), 0..12),
        patient: bool,
    ) {
        let channels = ["a", "b", "c"];
        let events: Vec<_> =
            kinds.iter().enumerate().map(|(n, &(c, bad))| event(n, channels[c], bad)).collect();
        let mut server = Server::new(faults);
        let mut ledger = Ledger::new(events);
        let patience = Duration::from_secs(if patient { 3600 } else { 0 });
        let ending = run(&mut server, &mut ledger, patience);

        for (event, outcome) in ledger.outcomes() {
            let key = (event.channel.to_string(), event.key.to_string());
            let in_log = server.log.iter().filter(|entry| **entry == key).count();
            match outcome {
                Outcome::Published(id) => prop_assert_eq!(Some(&id), server.keys.get(&key)),
                Outcome::Failed(_) => prop_assert_eq!(in_log, 0),
                Outcome::Unknown(_) => prop_assert!(in_log <= 1),
            }
            if ending == Ending::Settled && &*event.data == "good" {
                prop_assert_eq!(in_log, 1);
            }
        }
        for channel in channels {
            let order: Vec<u64> = server
                .log
                .iter()
                .filter(|(on, _)| on == channel)
                .map(|(_, key)| key[2..].parse().unwrap())
                .collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
    }
}

#[test]
fn a_request_too_large_is_halved_until_it_passes() {
    let mut server = Server::new(vec![Fault::TooLarge { most: 2 }; 20]);
    let mut ledger = Ledger::new((0..9).map(|n| event(n, "a", false)).collect());
    assert_eq!(run(&mut server, &mut ledger, Duration::ZERO), Ending::Settled);
    assert_eq!(server.log.len(), 9);
}

#[test]
fn doubt_outlives_later_refusals_to_connect() {
    let cut = Fault::Cut { published: 1, answered: 0 };
    let mut server = Server::new(vec![cut, Fault::Stop]);
    let mut ledger = Ledger::new(vec![event(0, "a", false), event(1, "a", false)]);
    assert_eq!(run(&mut server, &mut ledger, Duration::from_secs(9)), Ending::GaveUp);
    assert!(ledger.outcomes().all(|(_, outcome)| matches!(outcome, Outcome::Unknown(_))));
}

#[test]
fn an_interrupted_request_is_in_doubt_and_what_was_not_sent_is_not() {
    let mut ledger = Ledger::new((0..2 * BATCH_EVENTS).map(|n| event(n, "a", false)).collect());
    let request = ledger.next_request(BATCH_EVENTS);
    ledger.begin(&request);
    ledger.interrupt();
    let doubtful = ledger.outcomes().filter(|(_, outcome)| matches!(outcome, Outcome::Unknown(_)));
    assert_eq!(doubtful.count(), BATCH_EVENTS);
}

#[test]
fn a_request_is_bounded_in_bytes_but_takes_one_event_of_any_size() {
    let big = |n| Event { data: "x".repeat(BATCH_BYTES / 2).into(), ..event(n, "a", false) };
    let huge = Event { data: "x".repeat(3 * BATCH_BYTES).into(), ..event(9, "a", false) };
    assert_eq!(Ledger::new(vec![big(0), big(1)]).next_request(99), [0]);
    assert_eq!(Ledger::new(vec![huge, big(1)]).next_request(99), [0]);
}

/// Fails as told, and notes the trouble that is known before each attempt.
struct Watched<'a> {
    server: Server,
    trouble: &'a Trouble,
    seen: Vec<Option<String>>,
}

impl Target for Watched<'_> {
    fn place(&self) -> String {
        self.server.place()
    }

    async fn send(&mut self, events: &[&Event]) -> Attempt {
        self.seen.push(self.trouble.now().map(|failing| failing.why));
        self.server.send(events).await
    }
}

#[test]
fn trouble_is_known_while_attempts_fail_and_over_when_one_succeeds() {
    let faults = [Fault::Refuse, Fault::Refuse, Fault::None];
    let trouble = Trouble::default();
    let mut watched =
        Watched { server: Server::new(faults.to_vec()), trouble: &trouble, seen: Vec::new() };
    let mut ledger = Ledger::new(vec![event(0, "a", false)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let hour = Duration::from_secs(3600);
    let delivery = deliver(&mut watched, &mut ledger, hour, Duration::ZERO, &trouble);
    assert_eq!(runtime.block_on(delivery), Ending::Settled);
    assert_eq!(watched.seen, [None, Some("again".to_owned()), Some("again".to_owned())]);
    assert_eq!(trouble.now(), None);

    let mut server = Server::new(vec![Fault::Refuse]);
    let mut ledger = Ledger::new(vec![event(0, "a", false)]);
    let delivery = deliver(&mut server, &mut ledger, Duration::ZERO, Duration::ZERO, &trouble);
    assert_eq!(runtime.block_on(delivery), Ending::GaveUp);
    assert_eq!(trouble.now(), None, "no other attempt will be made");
}

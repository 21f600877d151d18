//! The model's clients. Each reads its stream's bytes as an EventSource does, and panics if it was
//! not sent what it is owed.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sse_contract::{Channel, EventId};
use sse_gateway::hub::Opening;
use sse_gateway::stream::body_pipe::PipeReader;
use sse_gateway::stream::join::Start;

use super::claim::{Claim, Facts};
use super::redis::{Event, Published, TTL, name};

/// The client's connection to its gateway.
pub enum Stream {
    /// The head of its response has not arrived yet.
    Waiting(Opening),
    Open(PipeReader),
    None,
}

pub struct Client {
    pub channels: Vec<usize>,
    pub names: Arc<[Channel]>,
    pub gateway: usize,
    pub worker: usize,
    pub stream: Stream,
    /// How many turns it still reads nothing.
    pub stalled: u32,
    wire: String,
    /// The last id that it was sent, as an EventSource keeps it.
    pub cursor: Option<EventId>,
    start: Start,
    /// Every event at or below this was received, told missing, or published before the client's
    /// start. `None` before the first position.
    position: Option<EventId>,
    claims: Vec<Claim>,
    /// The index in `Gateway::heard` that its worker had reached when it connected.
    since: usize,
    /// How many events there were when the head of its response was sent, if its channels were
    /// subscribed by then. Later events are owed to it.
    let_in: Option<Event>,
    pub received: usize,
    pub resets: usize,
    /// The events, with their channels, that `conflated` gaps on this connection named as the
    /// newest.
    newest: HashSet<(usize, EventId)>,
    pub conflated: usize,
}

/// One block of the stream.
struct Block<'a> {
    kind: &'a str,
    data: &'a str,
    id: Option<EventId>,
}

impl<'a> Block<'a> {
    fn of(text: &'a str) -> Self {
        let mut block = Block { kind: "message", data: "", id: None };
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("event", kind)) => block.kind = kind,
                Some(("data", data)) => block.data = data,
                Some(("id", id)) => block.id = Some(id.parse().unwrap()),
                _ => assert!(line.starts_with("retry: ") || line == ":", "{line}"),
            }
        }
        block
    }
}

impl Client {
    pub fn new(channels: Vec<usize>) -> Self {
        Client {
            names: channels.iter().map(|c| name(*c)).collect(),
            channels,
            gateway: 0,
            worker: 0,
            stream: Stream::None,
            stalled: 0,
            wire: String::new(),
            cursor: None,
            start: Start::Now,
            position: None,
            claims: Vec::new(),
            since: 0,
            let_in: None,
            received: 0,
            resets: 0,
            newest: HashSet::new(),
            conflated: 0,
        }
    }

    /// Begins a new connection. `at` is the index in `Gateway::heard` that its worker has reached.
    pub fn connect(&mut self, start: Start, place: (usize, usize), at: usize, opening: Opening) {
        (self.gateway, self.worker) = place;
        self.stream = Stream::Waiting(opening);
        self.wire.clear();
        self.newest.clear();
        (self.since, self.let_in) = (at, None);
        self.position = None;
        if let Start::After(cursor) = start {
            self.position = Some(cursor);
            let debts = self.claims.drain(..).map(|claim| claim.debts);
            let debts = debts.min_by_key(HashSet::len).unwrap_or_default();
            self.claims.push(Claim { debts, ..Claim::new(cursor.epoch(), at) });
        }
        self.start = start;
    }

    /// The head of the response arrives. `events` is how many events there are by now.
    pub fn open(&mut self, body: PipeReader, late: bool, events: usize) {
        self.stream = Stream::Open(body);
        self.let_in = (!late).then_some(events);
    }

    /// Reads what has arrived. Returns whether anything had.
    pub fn read(&mut self, facts: &Facts) -> bool {
        let Stream::Open(body) = &mut self.stream else { return false };
        let bytes = match body.poll(&Context::from_waker(Waker::noop())) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(bytes))) => bytes,
            Poll::Ready(end) => panic!("the stream ended: {end:?}"),
        };
        let mut wire = std::mem::take(&mut self.wire);
        wire.push_str(std::str::from_utf8(&bytes).unwrap());
        let mut at = 0;
        let mut line = 0;
        while let Some(length) = wire[line..].find('\n') {
            line += length + 1;
            if length == 0 {
                self.block(&Block::of(&wire[at..line - 1]), facts);
                at = line;
            }
        }
        wire.drain(..at);
        self.wire = wire;
        true
    }

    fn block(&mut self, block: &Block, facts: &Facts) {
        match (block.kind, block.id) {
            ("gap", Some(id)) => self.gap(block, id, facts),
            ("checkpoint", Some(id)) => self.checkpoint(block, id, facts),
            ("message", Some(id)) => self.event(block, id, facts),
            ("message", None) => assert_eq!(block.data, "raw"),
            ("alive", None) => {}
            (kind, id) => panic!("{kind} {id:?}"),
        }
        self.cursor = block.id.or(self.cursor);
    }

    fn event(&mut self, block: &Block, id: EventId, facts: &Facts) {
        let event: Event =
            block.data.split(' ').next().unwrap().parse().expect("an event that was published");
        let published = &facts.events[event];
        assert_eq!(published.id, id);
        assert!(self.channels.contains(&published.channel), "an event of another channel");
        let position = self.position.expect("a position comes before the first event");
        assert!(id > position, "twice or out of order: {id:?} after {position:?}");
        self.advance(id, false, facts);
        self.received += 1;
    }

    fn checkpoint(&mut self, block: &Block, id: EventId, facts: &Facts) {
        match (self.position, &self.start) {
            (Some(position), _) => {
                assert!(id >= position, "a checkpoint below the position: {id:?}, {position:?}");
                self.advance(id, true, facts);
            }
            (None, Start::Oldest) => self.begin_oldest(id, facts),
            (None, _) => {
                assert_eq!(block.data, r#"{"from":"now"}"#);
                self.begin_now(id, facts);
            }
        }
    }

    /// Takes the first position of a client that starts at the oldest event. It is just below the
    /// lowest of its channels' oldest events.
    fn begin_oldest(&mut self, id: EventId, facts: &Facts) {
        self.position = Some(id);
        self.claims =
            facts.epochs(self.since).map(|(since, epoch)| Claim::new(epoch, since)).collect();
        for claim in &mut self.claims {
            claim.replays = facts.clock(claim.epoch);
            for channel in &self.channels {
                let gone = facts.gateway.gone.get(channel).copied().unwrap_or_default();
                claim.told.insert(*channel, if self.channels.len() == 1 { id } else { gone });
            }
        }
    }

    /// Takes the first position of a client that starts at "now". It is a violation if an event
    /// published after the client was let in is at or below it.
    fn begin_now(&mut self, id: EventId, facts: &Facts) {
        self.position = Some(id);
        self.claims = vec![Claim::new(id.epoch(), self.since)];
        let Some(let_in) = self.let_in else { return };
        let log = &facts.server(id.epoch()).data.log;
        let missed = log.iter().find(|event| {
            let published = &facts.events[**event];
            **event >= let_in
                && published.sound
                && published.id <= id
                && published.id.epoch() == id.epoch()
                && self.channels.contains(&published.channel)
        });
        assert!(missed.is_none(), "published after the head and lost: {missed:?}");
    }

    /// Moves the position to `id` in every claim, and drops the claims that do not hold. It is a
    /// violation if none is left.
    fn advance(&mut self, id: EventId, inclusive: bool, facts: &Facts) {
        let from = self.position.replace(id).unwrap();
        if from == id {
            return;
        }
        let mut why = String::new();
        let channels = &self.channels;
        self.claims.retain_mut(|claim| {
            let held = claim.advance(channels, from, id, inclusive, facts);
            held.map_err(|error| why = error).is_ok()
        });
        assert!(!self.claims.is_empty(), "{why}");
    }

    fn gap(&mut self, block: &Block, id: EventId, facts: &Facts) {
        let data: serde_json::Value = serde_json::from_str(block.data).unwrap();
        let oldest = data["oldest"].as_str().map(|id| id.parse::<EventId>().unwrap());
        let reason = data["reason"].as_str().unwrap();
        assert_eq!(data["channel"] == "*", !matches!(reason, "trimmed" | "expired" | "conflated"));
        match reason {
            "reset" => self.reset(id, facts),
            "unknown_id" => {
                assert!(matches!(self.start, Start::Unknown(_)), "its own cursor is unknown");
                self.position = None;
                // The stream begins at the checkpoint that follows, so what was published before it
                // is not owed.
                self.let_in = None;
            }
            "late" => self.let_in = None,
            "trimmed" | "expired" => {
                let channel = data["channel"].as_str().unwrap()[1..].parse().unwrap();
                self.missing(reason, channel, id, oldest, facts);
            }
            "conflated" => {
                let channel = data["channel"].as_str().unwrap()[1..].parse().unwrap();
                let oldest = oldest.expect("the newest event is kept");
                self.left_out(channel, id, oldest, facts);
            }
            other => panic!("{other}"),
        }
    }

    /// Checks a `conflated` gap: it comes once for each newest event, and only if there are events
    /// in between.
    fn left_out(&mut self, channel: usize, id: EventId, newest: EventId, facts: &Facts) {
        let position = self.position.expect("a position comes before a gap");
        assert!(id >= position, "a gap moves the position back");
        self.advance(id, true, facts);
        assert!(channel < facts.gateway.shape.latest, "nobody asked for the newest alone");
        assert!(self.newest.insert((channel, newest)), "told twice: {newest:?}");
        self.conflated += 1;
        let between =
            |event: &&Published| event.channel == channel && event.id > id && event.id < newest;
        assert!(facts.events.iter().any(|event| between(&event)), "nothing was left out");
        for claim in &mut self.claims {
            let told = claim.told.entry(channel).or_default();
            *told = newest.before().max(*told);
        }
    }

    fn missing(
        &mut self,
        reason: &str,
        channel: usize,
        id: EventId,
        oldest: Option<EventId>,
        facts: &Facts,
    ) {
        let position = self.position.expect("a position comes before a gap");
        assert!(id >= position, "a gap moves the position back");
        self.advance(id, true, facts);
        if reason == "expired" {
            assert!(position.ms <= facts.latest.saturating_sub(TTL), "it has not expired");
        } else {
            // The gateway cannot always tell whether something was removed only before the
            // position, so any removal is enough.
            assert!(facts.cut[channel], "nothing was ever trimmed");
        }
        for claim in &mut self.claims {
            let upto = oldest.map_or(facts.clock(claim.epoch), EventId::before);
            let told = claim.told.entry(channel).or_default();
            *told = upto.max(*told);
        }
    }

    /// Checks a `reset`: it comes once for each epoch that the gateway came to live in and that is
    /// not the client's. Makes one claim for each epoch that it may have been told for.
    fn reset(&mut self, id: EventId, facts: &Facts) {
        let position = self.position.expect("a position comes before a reset");
        if id > position && self.claims.iter().any(|claim| claim.epoch == id.epoch()) {
            self.advance(id, true, facts);
        }
        let mut claims: Vec<Claim> = Vec::new();
        for before in &self.claims {
            for (since, epoch) in facts.epochs(before.since) {
                if epoch != before.epoch && claims.iter().all(|claim| claim.epoch != epoch) {
                    let replays = facts.clock(epoch);
                    let told = self.channels.iter().map(|channel| (*channel, replays)).collect();
                    claims.push(Claim { replays, told, ..Claim::new(epoch, since) });
                }
            }
        }
        let lived: Vec<u64> = self.claims.iter().map(|claim| claim.epoch).collect();
        assert!(!claims.is_empty(), "a reset, though {lived:?} lives: {:?}", facts.gateway.heard);
        self.claims = claims;
        self.position = Some(id);
        self.resets += 1;
    }

    /// The world has settled: the client must have everything, and no debts.
    pub fn finish(&self, last: EventId) {
        assert!(self.position >= Some(last), "{last:?} did not arrive: {:?}", self.position);
        let least = self.claims.iter().min_by_key(|claim| claim.debts.len()).unwrap();
        assert!(least.debts.is_empty(), "passed by and never told: {:?}", least.debts);
    }
}

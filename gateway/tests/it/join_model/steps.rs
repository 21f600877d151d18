//! The steps of the model, and how often each of them happens.

use sse_contract::{EventId, encode_live};

use super::faults::FAR;
use super::world::World;

/// One step of the model.
#[derive(Clone, Copy, PartialEq)]
pub enum Step {
    Publish,
    WantTick,
    Ingest,
    ServeLink,
    Connect,
    Round,
    PlanRead,
    ServeRead,
    FinishRead,
    Client,
    Reconnect,
    Sweep,
    Replicate,
    Stall,
    OddMessage,
    Fault,
}

/// How often each step happens, relative to the others.
const STEPS: [(Step, u32); 16] = [
    (Step::Publish, 14),
    (Step::WantTick, 2),
    (Step::Ingest, 16),
    (Step::ServeLink, 10),
    (Step::Connect, 3),
    (Step::Round, 20),
    (Step::PlanRead, 6),
    (Step::ServeRead, 6),
    (Step::FinishRead, 6),
    (Step::Client, 28),
    (Step::Reconnect, 2),
    (Step::Sweep, 1),
    (Step::Replicate, 1),
    (Step::Stall, 2),
    (Step::OddMessage, 1),
    (Step::Fault, 4),
];

/// What is special in a stretch: one step happens much more often, and some happen seldom.
#[derive(Clone, Copy)]
pub struct Mood {
    often: Step,
    seldom: [Step; 2],
}

const OFTEN: [Step; 6] =
    [Step::Round, Step::Publish, Step::Reconnect, Step::OddMessage, Step::Client, Step::WantTick];
const SELDOM: [Step; 6] =
    [Step::Fault, Step::Round, Step::Ingest, Step::PlanRead, Step::ServeRead, Step::FinishRead];

impl Mood {
    pub fn new(random: &mut fastrand::Rng) -> Self {
        let often = OFTEN[random.usize(0..OFTEN.len())];
        let seldom = [(); 2].map(|()| SELDOM[random.usize(0..SELDOM.len())]);
        Mood { often, seldom }
    }

    fn step(self, random: &mut fastrand::Rng) -> Step {
        let weight = |(step, weight): &(Step, u32)| match step {
            step if self.seldom.contains(step) => weight.div_ceil(10) * 2,
            step if *step == self.often => weight * 10 + 30,
            _ => weight * 2,
        };
        let mut at = random.u32(0..STEPS.iter().map(weight).sum());
        for choice in &STEPS {
            match at.checked_sub(weight(choice)) {
                Some(rest) => at = rest,
                None => return choice.0,
            }
        }
        unreachable!()
    }
}

impl World<'_> {
    pub fn step(&mut self, mood: Mood, faults: bool) {
        let n = self.random.usize(0..self.clients.len());
        let g = self.random.usize(0..2);
        self.now += self.random.u64(0..4);
        let step = mood.step(&mut self.random);
        match step {
            Step::Publish => self.publish_somewhere(),
            Step::WantTick => self.gateways[g].want_tick(),
            Step::Ingest => {
                let values = self.random.usize(0..10);
                self.gateways[g].ingest(values);
            }
            Step::ServeLink => (0..self.random.u8(1..5)).for_each(|_| self.serve_link(g)),
            Step::Connect => self.connect(g),
            Step::Round => {
                let w = self.random.usize(0..self.gateways[g].workers.len());
                self.gateways[g].round(w);
            }
            Step::PlanRead => self.gateways[g].plan_read(self.now),
            Step::ServeRead => {
                let page = self.random.usize(1..6);
                self.serve_read(g, page);
            }
            Step::FinishRead => {
                let patient = self.random.bool();
                self.gateways[g].finish_read(self.now, patient);
            }
            Step::Client => self.client_turn(n),
            Step::Reconnect => self.reconnect(n),
            Step::Sweep => {
                let workers = &self.gateways[g].workers;
                workers[self.random.usize(0..workers.len())].hub.sweep();
            }
            Step::Replicate => self.replicate(),
            Step::Stall => self.clients[n].stalled = self.random.u32(0..40),
            Step::OddMessage => self.odd_message(),
            Step::Fault if faults => self.fault(),
            Step::Fault => {}
        }
    }

    pub fn client_turn(&mut self, n: usize) {
        let late = self.random.u8(0..30) == 0;
        self.let_in(n, late);
        self.read(n);
    }

    /// Publishes through a gateway, in the epoch of its session, or as another client in any epoch.
    pub fn publish_somewhere(&mut self) {
        let channel = self.random.usize(0..self.cut.len());
        let g = self.random.usize(0..2);
        if self.random.u8(0..30) == 0 {
            // More than an inbox or a client's queue may hold, or more marks than a round hands
            // out.
            for _ in 0..self.random.u8(0..60) {
                self.publish(self.master, channel, None);
            }
        }
        match (self.random.bool(), self.gateways[g].session()) {
            (true, Some((epoch, server))) => self.publish(server, channel, Some(epoch)),
            _ => {
                let stale = self.random.u8(0..4) == 0;
                let server = if stale { 1 - self.master } else { self.master };
                self.publish(server, channel, None);
            }
        }
    }

    /// Sends a message that was not published by this version of the library: raw text, a forged
    /// id, or events whose frames these gateways cannot read.
    pub fn odd_message(&mut self) {
        let channel = self.random.usize(0..self.cut.len());
        let server = self.random.usize(0..2);
        let clock = self.servers[server].data.clock();
        let message = match self.random.u8(0..8) {
            0 => b"raw".to_vec(),
            1 => encode_live(EventId { ms: clock.ms + FAR, seq: clock.seq }, "", b"forged"),
            2 => encode_live(EventId::new(clock.ms, 1 << 27, 0), "", b"forged"),
            _ => {
                let count = self.random.u8(1..4);
                return (0..count).for_each(|_| self.publish_as(server, channel, None, false));
            }
        };
        self.send(server, channel, &message);
    }
}

//! The loop of the load: opens connections, reads those that are ready, and obeys commands after
//! each wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::account::Counts;
use super::connection::{Connection, Progress, Rules};
use super::report::{Report, Tally};
use super::{Command, Expected, LastIds, Measured, Opened, Plan, Settled};
use crate::clock;

/// The epoll token of the eventfd that announces commands.
const WAKE: u64 = u64::MAX;
/// The size of one read. It is large so that a stream that fell behind catches up in few calls.
const READ_BYTES: usize = 256 * 1024;
/// How many epoll events one wait returns at most.
const BATCH: usize = 1024;
/// How long a wait takes at most while the load opens or settles, so that neither misses its
/// deadline.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

pub struct Engine {
    plan: Plan,
    rules: Rules,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    connections: Vec<Option<Connection>>,
    /// The last event ids of closed connections.
    last_ids: LastIds,
    buffer: Vec<u8>,
    opening: Option<Opening>,
    settling: Option<Settling>,
    readers: Tally,
    stalled: Tally,
    /// What was counted before measuring began.
    before: Counts,
    began: (u64, Duration),
    closed_because: Option<String>,
}

struct Opening {
    reply: Sender<Opened>,
    began: u64,
    deadline: u64,
    last: u64,
    in_flight: usize,
    so_far: Opened,
}

struct Settling {
    reply: Sender<Settled>,
    expected: Expected,
    deadline: u64,
    next_look: u64,
}

impl Engine {
    pub fn new(plan: Plan, wake: Arc<OwnedFd>, commands: Receiver<Command>) -> io::Result<Engine> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Engine {
            rules: Rules {
                first: plan.first,
                any_server: plan.any_server,
                remember_ids: plan.remember_ids,
            },
            epoll,
            wake,
            commands,
            connections: Vec::with_capacity(plan.connections),
            last_ids: vec![None; plan.connections],
            buffer: vec![0; READ_BYTES],
            opening: None,
            settling: None,
            readers: Tally::default(),
            stalled: Tally::default(),
            before: Counts::default(),
            began: (clock::now(), Duration::ZERO),
            closed_because: None,
            plan,
        })
    }

    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            let pending = self.opening.is_some() || self.settling.is_some();
            let timeout = pending.then_some(&LOOK);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => self.rearm_wake(),
                    token => self.ready(token as usize),
                }
            }
            if !self.obey() {
                return;
            }
            self.open_more();
            self.look_at_settling();
        }
    }

    fn rearm_wake(&self) {
        // Reading resets the eventfd. How often it was written does not matter.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }

    /// Obeys the commands in the queue. False means that the loop must end.
    fn obey(&mut self) -> bool {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            // A reply fails only if nobody waits for it any more.
            match command {
                Command::Open(bound, reply) => self.opening = Some(Opening::new(bound, reply)),
                Command::Opening(cut, reply) => {
                    let so_far = self.opening.as_mut().map(|opening| {
                        opening.deadline = if cut { 0 } else { opening.deadline };
                        opening.so_far.clone()
                    });
                    let _ = reply.send(so_far.unwrap_or_default());
                }
                Command::Begin(reply) => {
                    self.before = self.total();
                    for tally in [&mut self.readers, &mut self.stalled] {
                        // Closed streams stay counted: a stream that ended before measuring began
                        // is still lost.
                        *tally = Tally { closed: tally.closed, ..Tally::default() };
                    }
                    self.began = (clock::now(), clock::thread_cpu());
                    let _ = reply.send(());
                }
                Command::End(reply) => drop(reply.send(self.measured())),
                Command::Resume(reply) => {
                    self.resume();
                    let _ = reply.send(());
                }
                Command::Settle(expected, bound, reply) => {
                    let deadline = clock::now() + bound.as_nanos() as u64;
                    self.settling = Some(Settling { reply, expected, deadline, next_look: 0 });
                }
                Command::Stop(reply) => {
                    for (number, connection) in self.connections.iter_mut().enumerate() {
                        if let Some(connection) = connection {
                            self.last_ids[number] = connection.last_id.take();
                        }
                    }
                    let _ = reply.send(std::mem::take(&mut self.last_ids));
                    return false;
                }
            }
        }
    }

    /// Handles an epoll event of a connection.
    fn ready(&mut self, number: usize) {
        // The connection may have been closed by an earlier event of this batch.
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        if connection.connecting() {
            let request = self.plan.request(number);
            let data = EventData::new_u64(number as u64);
            let done = connection.connected(&request, self.plan.tls.as_ref()).and_then(|()| {
                epoll::modify(&self.epoll, &connection.socket, data, EventFlags::IN)
                    .map_err(|error| format!("epoll: {error}"))
            });
            if let Err(error) = done {
                self.close(number, error);
            }
            return;
        }
        let tally = if connection.stalled { &mut self.stalled } else { &mut self.readers };
        match connection.read(&mut self.buffer, self.rules, tally) {
            Ok(Progress::Going) => {}
            Ok(Progress::Opened) => self.opened(number),
            Err(error) => self.close(number, error),
        }
    }

    fn opened(&mut self, number: usize) {
        if let Some(connection) = &mut self.connections[number]
            && connection.stalled
        {
            connection.paused = true;
            if let Err(error) = epoll::delete(&self.epoll, &connection.socket) {
                return self.close(number, format!("epoll: {error}"));
            }
        }
        if let Some(opening) = &mut self.opening {
            opening.in_flight -= 1;
            opening.so_far.open += 1;
            opening.last = clock::now();
        }
    }

    fn close(&mut self, number: usize, why: String) {
        let Some(mut connection) = self.connections[number].take() else { return };
        self.last_ids[number] = connection.last_id.take();
        if connection.open() {
            let tally = if connection.stalled { &mut self.stalled } else { &mut self.readers };
            tally.closed += 1;
            self.closed_because.get_or_insert(why);
        } else if let Some(opening) = &mut self.opening {
            opening.in_flight -= 1;
            opening.fail(why);
        }
    }

    fn open_more(&mut self) {
        let Some(mut opening) = self.opening.take() else { return };
        while self.connections.len() < self.plan.connections
            && opening.in_flight < self.plan.in_flight
        {
            let number = self.connections.len();
            let connection = self.begin(number);
            if connection.is_ok() {
                opening.in_flight += 1;
            }
            self.connections.push(connection.map_err(|error| opening.fail(error)).ok());
        }
        let all = opening.so_far.open + opening.so_far.failed == self.plan.connections;
        if all || clock::now() >= opening.deadline {
            let mut done = opening.so_far;
            done.seconds = (opening.last - opening.began) as f64 / clock::SECOND as f64;
            let _ = opening.reply.send(done);
        } else {
            self.opening = Some(opening);
        }
    }

    fn begin(&self, number: usize) -> Result<Connection, String> {
        let plan = &self.plan;
        let stalled = plan.is_stalled(number);
        let buffer = plan.stalled_receive_buffer.filter(|_| stalled);
        let connection =
            Connection::begin(plan.addr(number), plan.source(number), stalled, buffer)?;
        let data = EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &connection.socket, data, EventFlags::OUT)
            .map_err(|error| format!("epoll: {error}"))?;
        Ok(connection)
    }

    /// Lets the stalled connections read. They are still counted apart from the others.
    fn resume(&mut self) {
        for number in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[number] else { continue };
            if std::mem::take(&mut connection.paused) {
                let data = EventData::new_u64(number as u64);
                let added = epoll::add(&self.epoll, &connection.socket, data, EventFlags::IN);
                if let Err(error) = added {
                    self.close(number, format!("epoll: {error}"));
                }
            }
        }
    }

    fn measured(&self) -> Measured {
        let time = Duration::from_nanos(clock::now() - self.began.0);
        let open = |stalled| {
            let open = self.connections.iter().flatten().filter(|c| c.open());
            open.filter(|c| c.stalled == stalled).count()
        };
        Measured {
            readers: Report::of(&self.readers, open(false), time),
            stalled: Report::of(&self.stalled, open(true), time),
            own_cpu: clock::thread_cpu().saturating_sub(self.began.1).as_secs_f64(),
            closed_because: self.closed_because.clone(),
        }
    }

    fn look_at_settling(&mut self) {
        let now = clock::now();
        let Some(settling) = &mut self.settling else { return };
        if now < settling.next_look {
            return;
        }
        settling.next_look = now + LOOK.tv_nsec as u64;
        let deadline = settling.deadline;
        let settled = self.settled();
        if (settled.behind == 0 || now >= deadline)
            && let Some(settling) = self.settling.take()
        {
            let _ = settling.reply.send(settled);
        }
    }

    fn settled(&self) -> Settled {
        let mut settled = Settled::default();
        let Some(Settling { expected, .. }) = &self.settling else { return settled };
        let total = self.total();
        let mut lost = total.lost;
        let first = self.plan.first.unwrap_or(1);
        for (number, connection) in self.connections.iter().enumerate() {
            let Some(connection) = connection.as_ref().filter(|c| c.open() && !c.paused) else {
                continue;
            };
            let missing =
                |(stream, last): &(u32, u64)| connection.tracker.missing(*stream, *last, first);
            let missing: u64 = match expected {
                Expected::All(streams) => streams.iter().map(missing).sum(),
                Expected::Own(streams) => streams.get(number).map_or(0, missing),
            };
            settled.connections += 1;
            settled.behind += usize::from(missing > 0);
            lost += missing as i64;
        }
        settled.lost = lost.max(0) as u64;
        settled.duplicated = total.duplicated;
        settled.out_of_order = total.out_of_order;
        settled.gaps = total.gaps;
        settled
    }

    /// What was counted since the opening.
    fn total(&self) -> Counts {
        let mut total = self.before;
        total += self.readers.counts;
        total += self.stalled.counts;
        total
    }
}

impl Opening {
    fn new(bound: Duration, reply: Sender<Opened>) -> Opening {
        let began = clock::now();
        let deadline = began + bound.as_nanos() as u64;
        let so_far = Opened::default();
        Opening { reply, began, deadline, last: began, in_flight: 0, so_far }
    }

    fn fail(&mut self, why: String) {
        self.so_far.failed += 1;
        self.so_far.error.get_or_insert(why);
    }
}

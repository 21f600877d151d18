//! One open stream: its way out, its queue, and its position.
//!
//! Each of a connection's strands is live (the hub hands it events) or joining (its `Join` reads
//! history). A connection knows neither the worker's other connections nor the broker: the hub
//! calls it and acts on what it returns.

use std::io::{self, IoSlice};

use bytes::Bytes;
use smallvec::SmallVec;
use sse_contract::EventId;

use crate::feed::frame::{self, Form, Placed, SharedFrame};
use crate::feed::gap::After;
use crate::stream::account::Output;
use crate::stream::delivery::{Attempt, Batch, Delivery, End, QueueLimits, Traffic};
use crate::stream::outbox::{Block, Deciseconds, Outbox};
use crate::stream::sink::Sink;
use crate::stream::strand::Strands;
use crate::stream::subscription::About;

/// An open stream.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sink: Sink,
    pub(crate) strands: Strands,
    outbox: Option<Box<Outbox>>,
    /// When a byte was last written, for the heartbeat.
    pub(crate) last_write: Deciseconds,
    /// When the stream was opened, for the greatest age.
    pub(crate) opened: Deciseconds,
    /// Tells this connection's token from those of earlier connections in its slot of the hub's
    /// slab.
    pub(crate) generation: u32,
    pub(crate) checkpoints: bool,
    pub(crate) form: Form,
    /// What is known of the client. `None` for most: neither expiry nor a revocation of a subject
    /// or token can end the stream, and the log does not tell of it.
    pub(crate) about: Option<Box<About>>,
}

impl Connection {
    /// Creates a connection of these strands.
    pub(crate) fn new(
        sink: Sink,
        strands: Strands,
        checkpoints: bool,
        form: Form,
        generation: u32,
        now: Deciseconds,
    ) -> Self {
        Connection {
            sink,
            strands,
            outbox: None,
            last_write: now,
            opened: now,
            generation,
            checkpoints,
            form,
            about: None,
        }
    }

    /// How many strands join.
    pub(crate) fn joining(&self) -> usize {
        self.strands.iter().filter(|strand| strand.joining.is_some()).count()
    }

    /// Writes live events, if there is one strand, it is live and nothing else waits. Nearly every delivery is
    /// this one write, which the socket takes whole; [`Connection::deliver`] does all others.
    #[inline]
    pub(crate) fn write_now(&mut self, batch: &Batch<'_>, now: Deciseconds) -> Attempt {
        let Some(seen) = self.strands.live() else { return Attempt::NotMade };
        if !batch.begins_above(seen) || self.outbox.is_some() {
            return Attempt::NotMade;
        }
        let bytes = batch.bytes(self.form);
        match self.sink.write(bytes) {
            Ok(n) if n == bytes.len() => {
                self.last_write = now;
                if let Some(last) = batch.last {
                    self.strands.wrote(last);
                }
                if let Some(about) = &mut self.about {
                    about.wrote(batch.len() as u64, n);
                }
                Attempt::Whole(n)
            }
            Ok(n) => Attempt::Part(n),
            Err(_) => Attempt::Broken,
        }
    }

    /// Delivers live events after this attempt to write them: queues what was not written, or has
    /// the join keep it. If `write` is false, [`Connection::flush`] must follow.
    #[inline(never)]
    pub(crate) fn deliver(
        &mut self,
        batch: &Batch<'_>,
        attempt: Attempt,
        limits: QueueLimits,
        now: Deciseconds,
        write: bool,
    ) -> Delivery {
        let nothing = Delivery { written: Traffic::default(), missed: 0, end: End::Taken };
        match attempt {
            Attempt::Whole(n) => {
                return Delivery { written: Traffic::of(batch.len() as u64, n), ..nothing };
            }
            Attempt::Broken => return Delivery { end: End::Broken, ..nothing },
            Attempt::Part(_) | Attempt::NotMade => {}
        }
        if let Some(joining) = self.strands.joining(batch.partition) {
            let missed = batch.frames().filter(|frame| !joining.join.live(frame)).count();
            return Delivery { missed: missed as u64, ..nothing };
        }
        let idle = self.outbox.is_none();
        let (mut delivery, done) =
            (nothing, if let Attempt::Part(done) = attempt { done } else { 0 });
        self.queue_batch(batch, done, limits, now, &mut delivery);
        if attempt == Attempt::NotMade && write && idle {
            self.flush_into(&mut delivery, now);
        }
        delivery
    }

    /// Queues the rest of a batch whose first `done` bytes are written.
    fn queue_batch(
        &mut self,
        batch: &Batch<'_>,
        mut done: usize,
        limits: QueueLimits,
        now: Deciseconds,
        delivery: &mut Delivery,
    ) {
        let (partition, accepted) = (batch.partition, done);
        let (mut seen, mut whole) = (self.strands.of(partition).seen, 0);
        for frame in batch.frames() {
            if frame.id.is_some_and(|id| id <= seen) {
                continue;
            }
            if delivery.end == End::Taken && self.is_full(frame, limits) {
                // The queue may be full only because nothing has tried to write it yet.
                self.flush_into(delivery, now);
                if delivery.end == End::Taken
                    && let Some(id) = frame.id
                    && self.is_full(frame, limits)
                {
                    delivery.end = End::Overflow(id.before());
                }
            }
            if delivery.end != End::Taken || self.is_full(frame, limits) {
                // An event with an id will be read from history. A raw event is not in history, so
                // it is missed.
                delivery.missed += u64::from(frame.id.is_none());
                continue;
            }
            let size = frame.length(self.form);
            let written = done.min(size);
            done -= written;
            if written == size {
                whole += 1;
            } else {
                self.queue_event(partition, frame, written, now);
            }
            self.last_write = now;
            seen = frame.id.unwrap_or(seen);
        }
        self.strands.saw(partition, seen);
        delivery.written += Traffic::of(whole, accepted);
        if let Some(about) = &mut self.about {
            about.wrote(whole, accepted);
        }
    }

    fn flush_into(&mut self, delivery: &mut Delivery, now: Deciseconds) {
        match self.flush(now) {
            Ok(written) => delivery.written += written,
            Err(_) => delivery.end = End::Broken,
        }
    }

    /// Whether an event does not fit. A single event always fits, however large it is.
    fn is_full(&self, frame: &SharedFrame, limits: QueueLimits) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| {
            outbox.len() >= limits.blocks || outbox.bytes() + frame.size() > limits.bytes
        })
    }

    /// Renders and queues what the join of a partition handed out. [`Connection::flush`] writes it.
    pub(crate) fn queue_output(&mut self, partition: u16, output: Output, now: Deciseconds) {
        let cursor = |position| self.strands.cursor(partition, position);
        let block = match output {
            Output::Frame(frame) => return self.queue_event(partition, &frame, 0, now),
            Output::Gap(gap) => {
                // What the client sent instead of a position is told for all its channels.
                let whole = matches!(gap.after, After::Text(_));
                let among = self.strands.among_others(partition).filter(|_| !whole);
                frame::gap(&cursor(gap.position), &gap, among)
            }
            Output::Opened(..) | Output::Checkpoint(_) if !self.checkpoints => return,
            Output::Checkpoint(id) => frame::checkpoint(&cursor(id)),
            Output::Opened(id, began) => {
                let cursor = cursor(id);
                match self.strands.greet() {
                    true => frame::first_checkpoint(&cursor, began),
                    false => frame::checkpoint(&cursor),
                }
            }
        };
        self.queue_own(&block, now);
    }

    /// Queues the response's head before all else. Nothing may be written yet.
    pub(crate) fn lead(&mut self, head: Bytes, now: Deciseconds) {
        self.outbox.get_or_insert_with(|| Outbox::new(self.form, now).into()).lead(head);
    }

    /// Writes a block that belongs to this connection, after everything queued.
    pub(crate) fn send_own(&mut self, block: &[u8], now: Deciseconds) -> io::Result<Traffic> {
        self.queue_own(block, now);
        self.flush(now)
    }

    /// Writes a heartbeat. Skipped when data is queued: that data probes the connection just as
    /// well.
    pub(crate) fn heartbeat(&mut self, block: &[u8], now: Deciseconds) -> io::Result<Traffic> {
        if self.outbox.is_some() {
            return Ok(Traffic::default());
        }
        let bytes = frame::framed(block, self.form.framing());
        let n = self.sink.write(&bytes)?;
        if let Some(about) = &mut self.about {
            about.wrote(0, n);
        }
        if n > 0 && n < bytes.len() {
            self.queue(Block::Own(bytes), n, now);
        }
        self.last_write = now;
        Ok(Traffic::of(0, n))
    }

    /// Writes as much of the queue as fits. Returns what the socket accepted.
    pub(crate) fn flush(&mut self, now: Deciseconds) -> io::Result<Traffic> {
        let mut written = Traffic::default();
        while let Some(outbox) = &mut self.outbox {
            let offered: SmallVec<[IoSlice<'_>; 64]> = outbox.slices().collect();
            let size: usize = offered.iter().map(|s| s.len()).sum();
            let n = self.sink.write_vectored(&offered)?;
            drop(offered);
            let finished = outbox.advance(n, now);
            written += Traffic::of(finished, n);
            if let Some(about) = &mut self.about {
                about.wrote(finished, n);
            }
            if n > 0 {
                self.last_write = now;
            }
            if outbox.is_empty() {
                self.outbox = None;
            }
            if n < size {
                break;
            }
        }
        Ok(written)
    }

    /// Drops the events of this epoch at the end of the queue. Returns the position before the
    /// first of them that has an id, and how many had none.
    pub(crate) fn drop_events(&mut self, epoch: u64) -> (Option<EventId>, u64) {
        let Some(outbox) = &mut self.outbox else { return (None, 0) };
        let (first, raw) = outbox.drop_events(epoch, self.sink.holds_back());
        if outbox.is_empty() {
            self.outbox = None;
        }
        (first.map(EventId::before), raw)
    }

    /// Ends the body as finished, so that the client does not reconnect. If something is queued,
    /// the client would take the last chunk for a part of that, so the connection is cut instead.
    pub(crate) fn finish(&mut self) {
        if !self.pending() {
            self.sink.finish(self.form.framing());
        }
    }

    /// Whether something is queued and the socket has accepted none of it for longer than this.
    pub(crate) fn stalled(&self, now: Deciseconds, deadline: Deciseconds) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| now - outbox.progress() > deadline)
    }

    /// How many bytes are queued.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// What is queued; `None` if nothing is.
    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_deref()
    }

    /// Whether something is queued.
    pub(crate) fn pending(&self) -> bool {
        self.outbox.is_some()
    }

    /// Queues a block that belongs to this connection. [`Connection::flush`] writes it.
    pub(crate) fn queue_own(&mut self, block: &[u8], now: Deciseconds) {
        self.queue(Block::Own(frame::framed(block, self.form.framing())), 0, now);
    }

    /// Queues an event of a partition, of which `written` bytes are written.
    fn queue_event(
        &mut self,
        partition: u16,
        frame: &SharedFrame,
        written: usize,
        now: Deciseconds,
    ) {
        let block = match frame.id {
            Some(id) if self.strands.are_several() => {
                let cursor = self.strands.cursor(partition, id);
                Block::Placed(Box::new(Placed::new(frame.clone(), &cursor, self.form)))
            }
            _ => Block::Shared(frame.clone()),
        };
        self.queue(block, written, now);
    }

    fn queue(&mut self, block: Block, written: usize, now: Deciseconds) {
        let outbox = self.outbox.get_or_insert_with(|| Outbox::new(self.form, now).into());
        outbox.push(block, written);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use sse_contract::Channel;

    use super::*;
    use crate::feed::frame::{Frame, Framing};
    use crate::feed::inbox::ChannelKey;
    use crate::stream::join::{Join, Limits, Start};
    use crate::stream::strand::Joining;
    use crate::stream::tls_socket::{self, TlsSocket};

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    /// The client's end of a connection.
    enum Client {
        Plain(UnixStream),
        Tls(UnixStream, Box<rustls::ClientConnection>),
    }

    impl Client {
        /// Reads at most this many bytes from the socket, and appends their content.
        fn read(&mut self, most: usize, into: &mut Vec<u8>) {
            let (Client::Plain(socket) | Client::Tls(socket, _)) = self;
            let mut buffer = vec![0; most];
            let n = socket.read(&mut buffer).unwrap_or(0);
            let mut bytes = &buffer[..n];
            let Client::Tls(_, session) = self else { return into.extend_from_slice(bytes) };
            while !bytes.is_empty() {
                session.read_tls(&mut bytes).unwrap();
                session.process_new_packets().unwrap();
                // Ends with an error, because there is no more data yet.
                let _ = session.reader().read_to_end(into);
            }
        }
    }

    const LIMITS: QueueLimits = QueueLimits { blocks: 6, bytes: 20_000 };

    /// Makes a live connection that has everything up to `seen`, and its client.
    fn live(seen: EventId, form: Form, tls: bool) -> (Connection, Client) {
        let (server, client) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&server, 1).unwrap();
        server.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let limits = Limits { live_events: 1, live_bytes: 1 };
        let join = Join::new(Start::Now, limits);
        let mut strands = Strands::of_one(0, Joining::new(join, [].into(), false));
        strands.go_live(0, seen);
        let (sink, client) = if tls {
            let (session, other) = tls_socket::session(&rustls::version::TLS13);
            let socket = TlsSocket::new(server.into(), session);
            (Sink::Tls(Box::new(socket)), Client::Tls(client, Box::new(other)))
        } else {
            (Sink::Socket(server.into()), Client::Plain(client))
        };
        let connection = Connection::new(sink, strands, true, form, 0, 0);
        (connection, client)
    }

    fn id(n: u64) -> EventId {
        EventId::new(1000 + n, 1, 5)
    }

    fn run_of(frames: impl Iterator<Item = SharedFrame>) -> Vec<(ChannelKey, SharedFrame)> {
        frames.map(|frame| (ChannelKey { slot: 0, generation: 0 }, frame)).collect()
    }

    fn deliver(
        connection: &mut Connection,
        run: &[(ChannelKey, SharedFrame)],
        write: bool,
    ) -> Delivery {
        let picks: Vec<u32> = (0..run.len() as u32).collect();
        let joined = Form::ALL.map(|form| {
            run.iter().flat_map(|(_, frame)| frame.pieces(form).concat()).collect::<Vec<u8>>()
        });
        let batch = Batch::new(0, run, &picks, joined.each_ref().map(Vec::as_slice));
        let attempt = if write { connection.write_now(&batch, 0) } else { Attempt::NotMade };
        connection.deliver(&batch, attempt, LIMITS, 0, write)
    }

    /// Every open stream has one, in the hub's slab.
    #[test]
    fn a_connection_is_small() {
        let size = size_of::<Connection>();
        assert!(size <= 96, "{size} bytes");
    }

    proptest! {
        /// Whatever the client takes and however events are batched, it is sent each event up to
        /// the position where the delivery ended, once, and no other.
        #[test]
        fn what_is_sent_ends_at_the_position_that_is_answered(
            batches in proptest::collection::vec(
                (proptest::collection::vec(1usize..3000, 1..9), any::<bool>(), 0usize..9000), 1..20),
            seen in 0u64..12,
            form in proptest::sample::select(&Form::ALL[..]),
            tls: bool,
        ) {
            let (mut connection, mut client) = live(id(seen), form, tls);
            let (mut next, mut expected, mut got, mut written, mut events) =
                (0, Vec::new(), Vec::new(), 0, 0);
            for (sizes, write, most) in batches {
                let run = run_of(sizes.iter().map(|size| {
                    next += 1;
                    Frame::event(&demo(), id(next), "", &"x".repeat(*size))
                }));
                let delivery = deliver(&mut connection, &run, write);
                written += delivery.written.events;
                let upto = if let End::Overflow(upto) = delivery.end { upto } else { id(next) };
                for (_, frame) in &run {
                    if frame.id.is_some_and(|frame| frame > id(seen) && frame <= upto) {
                        events += 1;
                        expected.extend(frame.pieces(form).concat());
                    }
                }
                if delivery.end != End::Taken {
                    break;
                }
                client.read(most, &mut got);
                written += connection.flush(0).unwrap().events;
            }
            while connection.pending() {
                client.read(1 << 16, &mut got);
                written += connection.flush(0).unwrap().events;
            }
            client.read(1 << 20, &mut got);
            prop_assert!(got == expected);
            prop_assert_eq!(written, events);
        }
    }

    #[test]
    fn a_raw_event_that_finds_no_room_is_missed_and_nothing_else() {
        let (mut connection, _client) = live(id(0), Form::Chunked, false);
        let raw = |n: usize| Frame::raw(&demo(), &format!("{n}{}", "x".repeat(4000)));
        let delivery = deliver(&mut connection, &run_of((0..500).map(raw)), true);
        assert_eq!(delivery.end, End::Taken);
        let waiting = LIMITS.bytes as u64 / 4000;
        assert!(delivery.written.events + delivery.missed + waiting >= 499, "{delivery:?}");
        let event = Frame::event(&demo(), id(1), "", &"x".repeat(10_000));
        let delivery = deliver(&mut connection, &run_of([event].into_iter()), true);
        assert_eq!(delivery.end, End::Overflow(id(1).before()));
    }

    /// The session has sealed one byte of an event that counts as not accepted. That byte will be
    /// sent.
    #[test]
    fn what_a_session_has_sealed_is_not_dropped() {
        let (mut connection, mut client) = live(id(0), Form::Plain, true);
        // A record ends one byte after the first event.
        let around = Frame::event(&demo(), id(1), "", "").bytes(Framing::Plain).len();
        let first = Frame::event(&demo(), id(1), "", &"x".repeat(16 * 1024 - 1 - around));
        let second = Frame::event(&demo(), id(2), "", "second");
        let run = run_of([first, second, Frame::event(&demo(), id(3), "", "third")].into_iter());
        deliver(&mut connection, &run, true);
        assert!(connection.pending(), "the socket took it all");
        let (mut got, before) = (Vec::new(), connection.drop_events(id(1).epoch()).0);
        assert_eq!(before, Some(id(3).before()));
        while connection.pending() {
            client.read(1 << 16, &mut got);
            connection.flush(0).unwrap();
        }
        client.read(1 << 20, &mut got);
        let sent = run.iter().filter(|(_, frame)| frame.id <= before);
        let sent: Vec<u8> =
            sent.flat_map(|(_, frame)| frame.bytes(Framing::Plain).to_vec()).collect();
        assert!(got == sent, "{} bytes came, {} are told", got.len(), sent.len());
    }
}

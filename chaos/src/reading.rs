//! Reads one stream, as fast as the subscriber's habit allows, until it ends or the subscriber
//! leaves.

use std::time::Duration;

use sse_lab::chunked::Framing;
use sse_lab::event_stream::{CutOff, Parser};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::faults::Fault;
use crate::ledger::now_ms;
use crate::session::Session;
use crate::stage::Cue;
use crate::subscriber::{Habit, Subscriber};
use crate::tally::{Tally, Wrong};
use crate::truth::HEARD_MS;

/// A stream without a byte for this long is given up. Heartbeats come every second, and a gateway
/// is paused for eight seconds at most.
const SILENCE: Duration = Duration::from_secs(10);
/// The same while nothing is broken.
const CALM_SILENCE: Duration = Duration::from_secs(4);
/// How long a client that published on `open` waits for its event.
const OPENER_BOUND_MS: u64 = 30_000;
/// Within this time after the last fault, everybody must be up to date.
pub const RECOVERY: Duration = Duration::from_secs(10);

/// Why reading a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The server ended it.
    Ended,
    /// No byte came for too long.
    Silent,
    /// The subscriber left and will reconnect with its cursor.
    Hopped,
    /// The response was no stream.
    Refused,
    /// Everything was received, or the run is over.
    Finished,
    /// The subscriber left and will begin a new session.
    Reborn,
}

/// The state of reading one stream.
#[derive(Debug)]
pub struct Reading {
    parser: Parser,
    body: Option<Framing>,
    head: Vec<u8>,
    aborts: u32,
    /// The socket's receive buffer is small.
    slow: bool,
    leave: Instant,
    dawdle: Instant,
    silence: Instant,
}

impl Reading {
    /// The subscriber leaves after `leave_ms`, and first stops reading after `dawdle_ms`.
    pub fn new(aborts: u32, leave_ms: u64, dawdle_ms: u64, slow: bool) -> Self {
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        Reading {
            parser: Parser::default(),
            body: None,
            head: Vec::new(),
            aborts,
            slow,
            leave: after(leave_ms),
            dawdle: after(dawdle_ms),
            silence: Instant::now() + SILENCE,
        }
    }
}

impl Subscriber {
    pub(crate) async fn read(&mut self, mut stream: TcpStream, aborts: u32) -> Left {
        let mut reading = self.reading(aborts);
        let mut buffer = vec![0; 16 * 1024];
        let left = loop {
            let cue = *self.cue.borrow_and_update();
            if let Some(left) = self.has_to_leave(&reading, cue) {
                break left;
            }
            let size = if cue.calm { buffer.len() } else { self.dawdle(&mut reading, cue).await };
            if cue.calm {
                reading.silence = reading.silence.min(Instant::now() + CALM_SILENCE);
            }
            let n = tokio::select! {
                read = stream.read(&mut buffer[..size]) => match read {
                    Ok(n) if n > 0 => n,
                    _ => break Left::Ended,
                },
                () = sleep_until(reading.leave), if !cue.calm => break self.leaves(),
                () = sleep_until(reading.silence) => break Left::Silent,
                // Wakes up regularly, because an opener has its own time limit.
                () = sleep_until(Instant::now() + Duration::from_millis(100)), if !self.lasts() => continue,
                _ = self.cue.changed() => continue,
            };
            reading.silence = Instant::now() + SILENCE;
            if !self.digest(&mut reading, &buffer[..n]) {
                break Left::Refused;
            }
        };
        self.cut_off(&reading, left);
        left
    }

    fn has_to_leave(&mut self, reading: &Reading, cue: Cue) -> Option<Left> {
        if cue.over || self.session.complete() {
            return Some(Left::Finished);
        }
        if self.habit == Habit::Opener && self.session.opener.is_some() && self.opener_is_done(cue)
        {
            return Some(Left::Reborn);
        }
        // The size of a receive buffer is fixed at the start, so another size needs a new
        // connection.
        let hops = cue.aborts != reading.aborts || reading.slow != self.is_slow();
        hops.then_some(Left::Hopped)
    }

    fn leaves(&mut self) -> Left {
        match self.habit {
            Habit::Fresh => Left::Reborn,
            Habit::Crowd if self.rng.u8(0..6) == 0 => Left::Reborn,
            _ => Left::Hopped,
        }
    }

    /// Waits as a slow reader does, and returns how many bytes to read next.
    async fn dawdle(&mut self, reading: &mut Reading, cue: Cue) -> usize {
        let mut size = 16 * 1024;
        let mut hold = cue.stalled_until_ms.saturating_sub(now_ms());
        if self.habit == Habit::Slow {
            (size, hold) = (self.rng.usize(1..4_000), hold.max(self.rng.u64(20..80)));
        }
        if self.habit == Habit::Stalling && reading.dawdle < Instant::now() {
            hold = hold.max(self.rng.u64(500..7_000));
            let next = hold + self.rng.u64(500..5_000);
            reading.dawdle = Instant::now() + Duration::from_millis(next);
        }
        if hold > 0 {
            // Calm ends a stall, so that the end of the run does not wait for it.
            let calm = self.cue.wait_for(|cue| cue.calm || cue.over);
            let _ = timeout(Duration::from_millis(hold), calm).await;
            reading.silence = reading.silence.max(Instant::now() + Duration::from_secs(1));
        }
        size
    }

    /// Processes bytes. Returns whether they are of a stream.
    fn digest(&mut self, reading: &mut Reading, mut bytes: &[u8]) -> bool {
        if reading.body.is_none() {
            let before = reading.head.len();
            reading.head.extend_from_slice(bytes);
            let end = reading.head.windows(4).position(|w| w == b"\r\n\r\n");
            let Some(end) = end else { return true };
            let text = String::from_utf8_lossy(&reading.head[..end]).into_owned();
            if !self.judge(&text) {
                return false;
            }
            self.opened();
            reading.body = Some(Framing::of(&text));
            bytes = &bytes[end + 4 - before..];
        }
        let Some(body) = &mut reading.body else { return true };
        let Ok(content) = body.decode(bytes) else {
            let text = "a chunk without a size".to_owned();
            self.session.wrong(Wrong::Forged, text, &mut self.stage.tally.borrow_mut());
            return false;
        };
        for block in reading.parser.feed(&content) {
            let mut ledger = self.stage.ledger.borrow_mut();
            self.session.take(&block, &mut ledger, &mut self.stage.tally.borrow_mut());
        }
        if let Some(reached) = self.stage.reached.borrow_mut().get_mut(self.number) {
            *reached = self.session.position;
        }
        true
    }

    /// Checks the response's head; returns whether the status is 200. Any other status ends a
    /// native EventSource for good, so only a 403 is allowed, while Redis refuses channels.
    fn judge(&mut self, head: &str) -> bool {
        let status = head.split(' ').nth(1).unwrap_or_default();
        let mut tally = self.stage.tally.borrow_mut();
        let asked_ms = self.session.opens.last().map_or(0, |open| open.at_ms);
        let may = status == "403"
            && tally.touched(asked_ms.saturating_sub(2_000), now_ms(), |fault| fault.refuses());
        if status != "200" && !may {
            let line = head.lines().next().unwrap_or_default().to_owned();
            self.session.wrong(Wrong::Terminal, line, &mut tally);
        }
        if self.session.quirks.http10 && head.to_ascii_lowercase().contains("chunked") {
            let text = "chunks to a client of HTTP/1.0".to_owned();
            self.session.wrong(Wrong::Forged, text, &mut tally);
        }
        status == "200"
    }

    /// A client that adopts the cursor at the `id:` line has it even if the block's end never came.
    fn cut_off(&mut self, reading: &Reading, left: Left) {
        if !self.session.quirks.eager || left == Left::Finished {
            return;
        }
        match reading.parser.cut_off() {
            Some(CutOff::Inside(id)) => self.session.cut_off(&id),
            // The id is the last line of a block. No server can promise that the empty line after
            // it comes in the same packet, so a client that is cut off between the two counts as
            // having the event.
            Some(CutOff::AtTheEnd(block)) => {
                let mut ledger = self.stage.ledger.borrow_mut();
                self.session.take(&block, &mut ledger, &mut self.stage.tally.borrow_mut());
            }
            None => {}
        }
    }

    /// Whether the event published on `open` was received or told missing, or will never be known.
    fn opener_is_done(&mut self, cue: Cue) -> bool {
        let Some((stamp, _)) = self.session.opener else { return false };
        let ledger = self.stage.ledger.borrow();
        let sent_ms = ledger.sent_ms(stamp).unwrap_or_else(now_ms);
        let acked = ledger.acked_on(stamp.channel).next().map(|(id, acked)| (id, acked.known_ms));
        if self.session.received.keys().any(|(_, came)| *came == stamp) {
            return acked.is_some() || now_ms() > sent_ms + OPENER_BOUND_MS;
        }
        if let Some((id, known_ms)) = acked {
            let position = self.session.position;
            let told = self.session.gaps.iter().any(|gap| gap.channel.is_none());
            if position >= id || (told && position.epoch() != id.epoch()) {
                // With two masters, the event may be in the other one's data. The client is told
                // when one of the two ends.
                let two = |fault: Fault| fault.makes_two_masters();
                let two = self.stage.tally.borrow().touched(sent_ms, now_ms(), two);
                return told || !two || now_ms() > known_ms + HEARD_MS + 1_000;
            }
            // The first position came on a connection that was opened after the event, because an
            // earlier one was lost. Then the client is not owed the event.
            let first = self.session.first.map(|first| &self.session.opens[first.open]);
            if first.is_some_and(|open| open.head_ms.is_none_or(|head_ms| sent_ms <= head_ms)) {
                return true;
            }
            let mut tally = self.stage.tally.borrow_mut();
            let since_ms = known_ms.max(tally.healed_ms);
            if cue.calm && tally.active == 0 && stuck(since_ms) {
                let text = "what was published on open neither comes nor is told".to_owned();
                self.session.wrong(Wrong::Stuck, text, &mut tally);
                return true;
            }
        }
        now_ms() > sent_ms + OPENER_BOUND_MS
    }
}

fn stuck(since_ms: u64) -> bool {
    now_ms() > since_ms + RECOVERY.as_millis() as u64
}

impl Session {
    /// Counts the session's kind of client.
    pub fn count(&self, habit: Habit, tally: &mut Tally) {
        tally.client(&format!("{habit:?}").to_lowercase());
        tally.client(&format!("from {:?}", self.from).to_lowercase());
        let quirks = self.quirks;
        let named = [
            (quirks.no_checkpoints, "checkpoints=off"),
            (quirks.eager, "cursor at the id: line"),
            (quirks.http10, "http/1.0"),
            (quirks.nginx, "through nginx"),
        ];
        named.iter().filter(|(so, _)| *so).for_each(|(_, name)| tally.client(name));
    }
}

//! Gathers lines of input into batches of events. Batches are full while input is plentiful.
//! Otherwise they are small, and complete soon after their first line was read. A line that is not
//! a valid item is kept apart, with the reason.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout_at};

use crate::attempt::Reason;
use crate::input::{Chunk, Line};
use crate::item::{Event, ItemReader, Place};
use crate::pace::Pace;

/// A batch is full with this many events: what a gateway hands to Redis at once, so that each of
/// several partitions gets many in one call.
pub const BATCH_EVENTS: usize = 512;
/// A batch is full with this many bytes. The limit is below the request limits of gateways and of
/// common proxies.
pub const BATCH_BYTES: usize = 512 * 1024;
/// How long a batch waits for more events after its first one.
const LINGER: Duration = Duration::from_millis(50);
/// The same with `--rate`, which asks for even spacing.
const PACED_LINGER: Duration = Duration::from_millis(5);

/// What to publish next, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// The valid events.
    pub events: Vec<Event>,
    /// The lines that are no valid items, and why.
    pub refused: Vec<(Place, Reason)>,
    /// The error if reading the input failed after these lines.
    pub input_error: Option<String>,
    bytes: usize,
}

/// Gathers lines into batches.
#[derive(Debug)]
pub struct Gather {
    input: mpsc::Receiver<Chunk>,
    ready: std::vec::IntoIter<Line>,
    /// A line that was due after its batch's deadline, and the time when it is due. The next batch
    /// takes it.
    held: Option<(Line, Instant)>,
    items: ItemReader,
    pace: Option<Pace>,
    strict: bool,
    ended: bool,
    /// The number of the last line that went into a batch; 0 if there is none.
    last: u64,
    /// The bytes of the input up to the end of that line.
    pub read: u64,
}

enum Next {
    Line(Line),
    /// Nothing arrived before the deadline.
    Late,
    End,
    Failed(String),
}

impl Gather {
    /// With `strict`, gathering ends at the first line that is not a valid item.
    pub fn new(
        input: mpsc::Receiver<Chunk>,
        items: ItemReader,
        rate: Option<f64>,
        strict: bool,
    ) -> Self {
        let ready = Vec::new().into_iter();
        let pace = rate.map(Pace::new);
        Gather { input, ready, held: None, items, pace, strict, ended: false, last: 0, read: 0 }
    }

    /// The place of the last line that went into a batch.
    pub fn last(&self) -> Place {
        self.items.counting.place(self.last)
    }

    /// Waits for the next batch. Returns `None` at the end of the input.
    pub async fn next(&mut self) -> Option<Batch> {
        let linger = if self.pace.is_some() { PACED_LINGER } else { LINGER };
        let mut batch = Batch::default();
        let mut deadline = None;
        while !self.ended && batch.events.len() < BATCH_EVENTS && batch.bytes < BATCH_BYTES {
            match self.next_due(deadline).await {
                Next::Line(line) => self.take(line, &mut batch),
                Next::Late => break,
                Next::End => self.ended = true,
                Next::Failed(why) => {
                    batch.input_error = Some(why);
                    self.ended = true;
                }
            }
            let empty = batch.events.is_empty() && batch.refused.is_empty();
            if !empty && deadline.is_none() {
                deadline = Some(Instant::now() + linger);
            }
        }
        let empty = batch.events.is_empty() && batch.refused.is_empty();
        (!empty || batch.input_error.is_some()).then_some(batch)
    }

    /// Waits for the next line, and until it is due.
    async fn next_due(&mut self, deadline: Option<Instant>) -> Next {
        let (line, due) = match self.held.take() {
            Some(held) => held,
            None => match self.next_line(deadline).await {
                Next::Line(line) => match &mut self.pace {
                    Some(pace) => (line, pace.take(Instant::now())),
                    None => return Next::Line(line),
                },
                other => return other,
            },
        };
        if deadline.is_some_and(|deadline| due > deadline) {
            self.held = Some((line, due));
            return Next::Late;
        }
        sleep_until(due.into()).await;
        Next::Line(line)
    }

    async fn next_line(&mut self, deadline: Option<Instant>) -> Next {
        loop {
            if let Some(line) = self.ready.next() {
                return Next::Line(line);
            }
            let chunk = match deadline {
                None => self.input.recv().await,
                Some(deadline) => match timeout_at(deadline.into(), self.input.recv()).await {
                    Ok(chunk) => chunk,
                    Err(_) => return Next::Late,
                },
            };
            match chunk {
                Some(Ok(lines)) => self.ready = lines.into_iter(),
                Some(Err(error)) => return Next::Failed(error.to_string()),
                None => return Next::End,
            }
        }
    }

    fn take(&mut self, line: Line, batch: &mut Batch) {
        (self.last, self.read) = (line.number, line.end);
        let text = line.text.map_err(|error| Reason::new(error.to_string()));
        match text.and_then(|text| self.items.read(line.number, &text)) {
            Ok(events) => {
                batch.bytes += events.iter().map(Event::size).sum::<usize>();
                batch.events.extend(events);
            }
            Err(reason) => {
                batch.refused.push((self.items.counting.place(line.number), reason));
                self.ended |= self.strict;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Split, read};
    use crate::item::{Counting, KeySource};

    fn gather(input: &'static str, strict: bool, rate: Option<f64>) -> Gather {
        let channels = vec!["a".parse().unwrap()];
        let (counting, keys) = (Counting::Lines, KeySource::Run("r".into()));
        let items = ItemReader { ndjson: true, counting, channels, event: None, keys };
        Gather::new(read(input.as_bytes(), Split::Lines), items, rate, strict)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    async fn lines(mut gather: Gather) -> (Vec<Place>, Vec<Place>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        while let Some(batch) = gather.next().await {
            assert!(batch.events.len() <= BATCH_EVENTS);
            good.extend(batch.events.iter().map(|event| event.place));
            bad.extend(batch.refused.iter().map(|(place, _)| *place));
        }
        (good, bad)
    }

    const MIXED: &str = "{\"data\":1}\nx\n\n{\"data\":2}\n";

    #[test]
    fn a_bad_line_is_set_aside_or_with_strict_is_the_last() {
        let (one, two, four) = (Place::Line(1), Place::Line(2), Place::Line(4));
        assert_eq!(run(lines(gather(MIXED, false, None))), (vec![one, four], vec![two]));
        assert_eq!(run(lines(gather(MIXED, true, None))), (vec![one], vec![two]));
    }

    #[test]
    fn plenty_of_input_makes_full_batches() {
        let input = Box::leak("{\"data\":1}\n".repeat(1000).into_boxed_str());
        let (good, _) = run(lines(gather(input, false, None)));
        assert!(good.iter().copied().eq((1..=1000).map(Place::Line)));
    }

    #[test]
    fn a_paced_line_does_not_hold_back_those_before_it() {
        let input = "{\"data\":1}\n{\"data\":2}\n";
        let started = Instant::now();
        // The second line is due in a day. The first batch must not wait for it.
        let batch = run(async { gather(input, false, Some(1.0 / 86400.0)).next().await }).unwrap();
        assert_eq!(batch.events.len(), 1);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

//! What `Dispatch` makes of each thing that Redis says, without a Redis.

use sse_contract::encode_live;

use super::*;
use crate::broker::redis::settings::HistoryLimits;
use crate::metrics::Metrics;

const PARTITION: u16 = 5;
const KEY: ChannelKey = ChannelKey { slot: 3, generation: 1 };
/// The live name of the channel `demo`.
const DEMO: &str = "sse:demo";
const PROBE: &str = "sse::probe:1";
const REVOKED: &str = "sse::revoked";
const ADDR: &str = "127.0.0.1:1";

/// A dispatch with one worker that wants the channel `demo`.
struct Bench {
    dispatch: Dispatch,
    inbox: Arc<Inbox>,
    metrics: BrokerMetrics,
}

impl Bench {
    fn new() -> Self {
        Self::with(Keys::new("sse", 1), PROBE)
    }

    fn with(keys: Keys, probe_channel: &str) -> Self {
        let hour = Duration::from_secs(3600);
        let limits = HistoryLimits {
            max_len: 1000,
            ttl: hour,
            max_data: 100,
            idempotency_ttl: hour,
            durable: false,
        };
        let terms = Terms {
            partition: PARTITION,
            keys: keys.clone(),
            probe_channel: probe_channel.to_owned(),
            revocation_channel: Some(REVOKED.to_owned()),
            linger: Duration::ZERO,
            tick: hour,
            answer_timeout: hour,
        };
        let metrics = Metrics::default().broker;
        let calls = Arc::new(Calls::new(keys, 0, limits, 1000));
        let mut dispatch = Dispatch::new(terms, calls, metrics.clone());
        let inbox = Inbox::new(1 << 20);
        dispatch.request(IngestRequest::Register(inbox.clone()));
        dispatch.request(IngestRequest::Attach(0, "demo".parse().unwrap(), KEY));
        Bench { dispatch, inbox, metrics }
    }

    /// The same in a session whose subscriptions are confirmed.
    fn live() -> Self {
        let mut bench = Bench::new();
        bench.dispatch.begin(id(1, 0), ADDR.into());
        for channel in bench.asked() {
            bench.hears(&subscribed(&channel)).unwrap();
        }
        bench.told();
        bench
    }

    /// The channels that a session subscribes, in order.
    fn asked(&self) -> Vec<String> {
        let of = |asked: &Asked| match asked {
            Asked::Subscribe(channel) => String::from_utf8(channel.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        self.dispatch.asked.iter().map(of).collect()
    }

    fn hears(&mut self, bytes: &[u8]) -> Result<Heard, SessionError> {
        let mut input = BytesMut::from(bytes);
        let heard = self.dispatch.understand(&mut input)?;
        assert!(input.is_empty(), "all of it is understood");
        self.dispatch.deliver();
        Ok(heard)
    }

    /// What the worker was told since.
    fn told(&self) -> Vec<String> {
        let mut messages = Vec::new();
        while self.inbox.take(&mut messages) {}
        let word = |message: &ToHub| match message {
            ToHub::Event(key, frame) => format!("event {} {:?}", key.slot, frame.parts().1),
            ToHub::Attached(key) => format!("attached {}", key.slot),
            ToHub::Refused(key, why) => format!("refused {} {why}", key.slot),
            ToHub::Missed(key) => format!("missed {}", key.slot),
            other => format!("{other:?}"),
        };
        messages.iter().map(word).collect()
    }

    fn event(&self, id: EventId) -> Vec<u8> {
        message(DEMO, &encode_live(id, "", b"x"))
    }
}

/// A position some milliseconds from now.
fn id(epoch: u32, ms: u64) -> EventId {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    EventId::new(now.as_millis() as u64 + ms, epoch, 0)
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A push about a channel's subscription.
fn push(kind: &str, channel: &str) -> Vec<u8> {
    let words = [kind, channel].map(|word| bulk(word.as_bytes())).concat();
    [b">3\r\n".to_vec(), words, b":1\r\n".to_vec()].concat()
}

fn subscribed(channel: &str) -> Vec<u8> {
    push("subscribe", channel)
}

fn message(channel: &str, payload: &[u8]) -> Vec<u8> {
    [b">3\r\n".to_vec(), bulk(b"message"), bulk(channel.as_bytes()), bulk(payload)].concat()
}

#[test]
fn a_session_subscribes_what_is_wanted_and_confirms_it_in_order() {
    let mut bench = Bench::new();
    assert!(bench.dispatch.out.is_empty(), "without a session wishes are only noted");
    bench.dispatch.begin(id(1, 0), ADDR.into());
    let asked = bench.asked();
    assert_eq!(asked, [DEMO, PROBE, REVOKED]);
    assert!(bench.told().is_empty(), "asked is not subscribed");
    bench.hears(&subscribed(&asked[0])).unwrap();
    assert_eq!(bench.told(), ["attached 3"]);
    // Another session begins from nothing.
    bench.dispatch.end();
    assert_eq!(bench.told(), ["Detached(5)"]);
    bench.dispatch.begin(id(1, 0), ADDR.into());
    assert_eq!(bench.asked(), asked);
}

#[test]
fn an_answer_to_something_else_ends_the_session() {
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0), ADDR.into());
    // The probe's confirmation comes before the channel's, which was asked first.
    assert!(bench.hears(&subscribed(PROBE)).is_err());
    let mut bench = Bench::live();
    assert!(bench.hears(b"+OK\r\n").is_err(), "nothing was asked");
}

#[test]
fn an_error_is_the_trouble_of_its_own_command() {
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0), ADDR.into());
    bench.hears(b"-NOPERM not this channel\r\n").unwrap();
    assert_eq!(bench.told(), ["refused 3 NOPERM not this channel"]);
    assert_eq!(bench.metrics.refused_subscriptions.get(), 1);
    bench.hears(&subscribed(PROBE)).unwrap();
    assert!(bench.told().is_empty());
}

#[test]
fn an_event_goes_to_those_who_want_it_and_raises_what_was_seen() {
    let mut bench = Bench::live();
    let (first, elsewhere) = (bench.event(id(1, 1)), message("sse:live:other", b"x"));
    bench.hears(&[first, elsewhere, message(DEMO, b"raw")].concat()).unwrap();
    assert_eq!(bench.told(), ["event 3 \"x\"", "event 3 \"raw\""]);
    assert_eq!(bench.metrics.received.get(), 2);
    // One in two pieces is one all the same.
    let whole = bench.event(id(1, 2));
    let mut input = BytesMut::from(&whole[..20]);
    bench.dispatch.understand(&mut input).unwrap();
    input.extend_from_slice(&whole[20..]);
    bench.dispatch.understand(&mut input).unwrap();
    bench.dispatch.deliver();
    assert_eq!(bench.told().len(), 1);
}

#[test]
fn what_is_not_believed_sends_its_channels_streams_to_history() {
    let (hour, unknown) = (3_600_000, b"\xff\x09what".to_vec());
    let event = |id| encode_live(id, "", b"x");
    for (reason, payload) in
        [("unknown", unknown), ("unbelieved", event(id(2, 0))), ("unbelieved", event(id(1, hour)))]
    {
        let mut bench = Bench::live();
        bench.dispatch.tick_wanted = false;
        let frame = message(DEMO, &payload);
        bench.hears(&frame).unwrap();
        assert_eq!(bench.told(), ["missed 3"], "{reason}");
        assert!(bench.dispatch.tick_wanted, "the next tick tells what holds");
        let refused = bench.metrics.refused_frames.with_label_values(&[reason]);
        assert_eq!(refused.get(), 1, "{reason}");
    }
}

#[test]
fn a_probe_that_comes_back_is_answered_and_a_refused_one_says_why() {
    let mut bench = Bench::live();
    let (answer, mut waits) = oneshot::channel();
    bench.dispatch.request(IngestRequest::Probe("p1".to_owned(), answer));
    bench.hears(&message(PROBE, b"p0")).unwrap();
    assert!(waits.try_recv().is_err(), "another one's");
    bench.hears(&message(PROBE, b"p1")).unwrap();
    assert_eq!(waits.try_recv(), Ok(Ok(())));

    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0), ADDR.into());
    let channel = bench.asked().remove(0);
    bench.hears(&[&subscribed(&channel)[..], b"-NOPERM no probes\r\n"].concat()).unwrap();
    let (answer, mut waits) = oneshot::channel();
    bench.dispatch.request(IngestRequest::Probe("p2".to_owned(), answer));
    assert!(waits.try_recv().unwrap().unwrap_err().contains("NOPERM no probes"));
}

#[test]
fn a_tick_is_sent_once_and_its_answer_tells_every_worker() {
    let mut bench = Bench::live();
    let sent = |bench: &Bench| {
        bench.dispatch.asked.iter().filter(|asked| matches!(asked, Asked::Tick)).count()
    };
    bench.dispatch.maintain();
    assert_eq!(sent(&bench), 1);
    bench.dispatch.request(IngestRequest::Tick);
    bench.dispatch.maintain();
    assert_eq!(sent(&bench), 1, "one is under way");
    // An error in its place ends the session: nothing proves any more what was heard.
    assert!(bench.hears(b"-ERR busy\r\n").is_err());
}

/// A tick's answer.
fn tick(clock: EventId) -> Vec<u8> {
    let numbers = [0, 1000, 3_600_000, 100, 3_600_000, 0, 1].map(|n| format!(":{n}\r\n"));
    [b"*8\r\n".to_vec(), bulk(clock.to_string().as_bytes()), numbers.concat().into()].concat()
}

#[test]
fn a_tick_tells_every_worker_the_clock_and_others_the_epoch() {
    let mut bench = Bench::live();
    bench.dispatch.maintain();
    let clock = id(2, 5);
    let heard = bench.hears(&tick(clock)).unwrap();
    assert_eq!(heard, Heard { epoch: Some(2), revocations: false });
    assert_eq!(bench.told(), [format!("Tick(5, {clock})")]);
    // Events of that epoch are believed from now on.
    bench.hears(&bench.event(id(2, 6))).unwrap();
    assert_eq!(bench.told(), ["event 3 \"x\""]);
}

#[test]
fn revocations_are_read_when_another_gateway_asks_and_when_a_session_begins_to_listen() {
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0), ADDR.into());
    let heard = bench.hears(&[subscribed(DEMO), subscribed(PROBE)].concat()).unwrap();
    assert_eq!(heard, Heard::default());
    assert!(bench.hears(&subscribed(REVOKED)).unwrap().revocations);
    assert!(!bench.hears(&bench.event(id(1, 1))).unwrap().revocations);
    assert!(bench.hears(&message(REVOKED, b"")).unwrap().revocations);
    // A user without the right to that channel hears events all the same.
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0), ADDR.into());
    let refused = [subscribed(DEMO), subscribed(PROBE), b"-NOPERM no\r\n".to_vec()].concat();
    assert_eq!(bench.hears(&refused).unwrap(), Heard::default());
}

/// Nothing that an ended session said may be told of the next one.
#[test]
fn an_epoch_does_not_outlive_its_session() {
    let mut bench = Bench::live();
    bench.dispatch.maintain();
    let then_broken = [tick(id(2, 5)), b"+nothing asked\r\n".to_vec()].concat();
    assert!(bench.hears(&then_broken).is_err());
    bench.dispatch.end();
    bench.dispatch.begin(id(3, 0), ADDR.into());
    assert_eq!(bench.hears(&subscribed(DEMO)).unwrap(), Heard::default());
}

#[test]
fn several_partitions_use_sharded_pub_sub() {
    let (demo, probe) = ("sse:{7}:demo", "sse:{7}::probe:1");
    let mut bench = Bench::with(Keys::new("sse", 16), probe);
    bench.dispatch.begin(id(1, 0), ADDR.into());
    assert_eq!(bench.asked(), [demo, probe, REVOKED]);
    let ask = [&b"*2\r\n"[..], &bulk(b"SSUBSCRIBE"), &bulk(demo.as_bytes())].concat();
    assert!(bench.dispatch.out.starts_with(&ask), "{:?}", bench.dispatch.out);
    let confirmed = [demo, probe, REVOKED].map(|channel| push("ssubscribe", channel)).concat();
    assert!(bench.hears(&confirmed).unwrap().revocations);
    assert_eq!(bench.told(), ["attached 3"]);
    let event = encode_live(id(1, 1), "", b"x");
    let words = [&b"smessage"[..], demo.as_bytes(), &event].map(bulk).concat();
    bench.hears(&[b">3\r\n".to_vec(), words].concat()).unwrap();
    assert_eq!(bench.told(), ["event 3 \"x\""]);
    bench.dispatch.request(IngestRequest::Detach(0, "demo".parse().unwrap(), KEY));
    bench.dispatch.out.clear();
    bench.dispatch.maintain();
    let ask = [&b"*2\r\n"[..], &bulk(b"SUNSUBSCRIBE"), &bulk(demo.as_bytes())].concat();
    assert!(bench.dispatch.out.starts_with(&ask), "{:?}", bench.dispatch.out);
    bench.hears(&push("sunsubscribe", demo)).unwrap();
}

/// Redis Cluster says so when a slot moves away. What is published then goes to another server.
#[test]
fn a_subscription_that_redis_ends_by_itself_ends_the_session() {
    let demo = "sse:{7}:demo";
    let mut bench = Bench::with(Keys::new("sse", 16), PROBE);
    bench.dispatch.begin(id(1, 0), ADDR.into());
    let confirmed: Vec<Vec<u8>> =
        bench.asked().iter().map(|channel| push("ssubscribe", channel)).collect();
    bench.hears(&confirmed.concat()).unwrap();
    let error = bench.hears(&push("sunsubscribe", demo)).unwrap_err().to_string();
    assert!(error.contains("ended the subscription of sse:{7}:demo unasked"), "{error}");
}

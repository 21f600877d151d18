//! What `Dispatch` makes of each thing that Redis says, without a Redis.

use sse_contract::encode_live;

use super::*;
use crate::broker::redis::RedisBroker;
use crate::broker::redis::settings::RedisSettings;
use crate::config::Config;
use crate::metrics::Metrics;

const KEY: ChannelKey = ChannelKey { slot: 3, generation: 1 };

/// A dispatch with one worker that wants the channel `demo`.
struct Bench {
    dispatch: Dispatch,
    shared: Arc<RedisShared>,
    inbox: Arc<Inbox>,
    metrics: Metrics,
    // Without it the hubs' wishes would have nowhere to go.
    _broker: Arc<RedisBroker>,
}

impl Bench {
    fn new() -> Self {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let metrics = Metrics::default();
        let made = RedisBroker::without_threads(RedisSettings::of(&config), metrics.clone());
        let (broker, works) = made.unwrap();
        let shared = works.shared.clone();
        let (mut dispatch, inbox) = (Dispatch::new(shared.clone()), Inbox::new(1 << 20));
        dispatch.command(Command::Register(inbox.clone()));
        dispatch.command(Command::Attach(0, "demo".parse().unwrap(), KEY));
        Bench { dispatch, shared, inbox, metrics, _broker: broker }
    }

    /// The same in a session whose subscriptions are confirmed.
    fn live() -> Self {
        let mut bench = Bench::new();
        bench.dispatch.begin(id(1, 0));
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

    fn hears(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let mut input = BytesMut::from(bytes);
        self.dispatch.understand(&mut input)?;
        assert!(input.is_empty(), "all of it is understood");
        self.dispatch.deliver();
        Ok(())
    }

    /// What the worker was told since.
    fn told(&self) -> Vec<String> {
        let mut messages = Vec::new();
        while self.inbox.take(&mut messages) {}
        let word = |message: &ToHub| match message {
            ToHub::Event(key, frame) => format!("event {} {:?}", key.slot, frame.parts().1),
            ToHub::Attached(key) => format!("attached {}", key.slot),
            ToHub::Refused(key, why) => format!("refused {} {why}", key.slot),
            other => format!("{other:?}"),
        };
        messages.iter().map(word).collect()
    }

    fn live_name(&self) -> String {
        let channel: Channel = "demo".parse().unwrap();
        String::from_utf8(self.shared.keys.live(&channel).as_bytes().to_vec()).unwrap()
    }

    fn event(&self, id: EventId) -> Vec<u8> {
        message(&self.live_name(), &encode_live(id, "", b"x"))
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

fn subscribed(channel: &str) -> Vec<u8> {
    [b">3\r\n".to_vec(), bulk(b"subscribe"), bulk(channel.as_bytes()), b":1\r\n".to_vec()].concat()
}

fn message(channel: &str, payload: &[u8]) -> Vec<u8> {
    [b">3\r\n".to_vec(), bulk(b"message"), bulk(channel.as_bytes()), bulk(payload)].concat()
}

#[test]
fn a_session_subscribes_what_is_wanted_and_confirms_it_in_order() {
    let mut bench = Bench::new();
    assert!(bench.dispatch.out.is_empty(), "without a session wishes are only noted");
    bench.dispatch.begin(id(1, 0));
    let asked = bench.asked();
    assert_eq!(asked[0], bench.live_name());
    assert_eq!(asked[1], bench.shared.probe_channel);
    assert!(bench.told().is_empty(), "asked is not subscribed");
    bench.hears(&subscribed(&asked[0])).unwrap();
    assert_eq!(bench.told(), ["attached 3"]);
    // Another session begins from nothing.
    bench.dispatch.end();
    assert_eq!(bench.told(), ["Detached"]);
    bench.dispatch.begin(id(1, 0));
    assert_eq!(bench.asked(), asked);
}

#[test]
fn an_answer_to_something_else_ends_the_session() {
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0));
    let probe = bench.shared.probe_channel.clone();
    // The probe's confirmation comes before the channel's, which was asked first.
    assert!(bench.hears(&subscribed(&probe)).is_err());
    let mut bench = Bench::live();
    assert!(bench.hears(b"+OK\r\n").is_err(), "nothing was asked");
}

#[test]
fn an_error_is_the_trouble_of_its_own_command() {
    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0));
    let asked = bench.asked();
    bench.hears(b"-NOPERM not this channel\r\n").unwrap();
    assert_eq!(bench.told(), ["refused 3 NOPERM not this channel"]);
    assert_eq!(bench.metrics.broker.refused_subscriptions.get(), 1);
    bench.hears(&subscribed(&asked[1])).unwrap();
    assert!(bench.told().is_empty());
}

#[test]
fn an_event_goes_to_those_who_want_it_and_raises_what_was_seen() {
    let mut bench = Bench::live();
    let (first, elsewhere) = (bench.event(id(1, 1)), message("sse:live:other", b"x"));
    bench.hears(&[first, elsewhere, message(&bench.live_name(), b"raw")].concat()).unwrap();
    assert_eq!(bench.told(), ["event 3 \"x\"", "event 3 \"raw\""]);
    assert_eq!(bench.metrics.broker.received.get(), 2);
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
        let frame = message(&bench.live_name(), &payload);
        bench.hears(&frame).unwrap();
        assert_eq!(bench.told(), ["Lagged"], "{reason}");
        assert!(bench.dispatch.tick_wanted, "the next tick tells what holds");
        let refused = bench.metrics.broker.refused_frames.with_label_values(&[reason]);
        assert_eq!(refused.get(), 1, "{reason}");
    }
}

#[test]
fn a_probe_that_comes_back_is_answered_and_a_refused_one_says_why() {
    let mut bench = Bench::live();
    let (answer, mut waits) = oneshot::channel();
    bench.dispatch.command(Command::Probe("p1".to_owned(), answer));
    let probe = bench.shared.probe_channel.clone();
    bench.hears(&message(&probe, b"p0")).unwrap();
    assert!(waits.try_recv().is_err(), "another one's");
    bench.hears(&message(&probe, b"p1")).unwrap();
    assert_eq!(waits.try_recv(), Ok(Ok(())));

    let mut bench = Bench::new();
    bench.dispatch.begin(id(1, 0));
    let channel = bench.asked().remove(0);
    bench.hears(&[&subscribed(&channel)[..], b"-NOPERM no probes\r\n"].concat()).unwrap();
    let (answer, mut waits) = oneshot::channel();
    bench.dispatch.command(Command::Probe("p2".to_owned(), answer));
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
    bench.dispatch.command(Command::Tick);
    bench.dispatch.maintain();
    assert_eq!(sent(&bench), 1, "one is under way");
    // An error in its place ends the session: nothing proves any more what was heard.
    assert!(bench.hears(b"-ERR busy\r\n").is_err());
}

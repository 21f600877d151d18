//! Tests of what Prometheus scrapes after clients did something.

use crate::streams::on_both;
use crate::support::{Subscriber, TestGateway, eventually};

/// A number of a scrape, by the name and the labels of its line.
fn value(gateway: &TestGateway, series: &str) -> f64 {
    let text = gateway.admin("/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}:\n{text}")).parse().unwrap()
}

#[test]
fn a_delivery_is_counted_with_its_bytes_its_write_and_its_delay() {
    on_both(&[("server.workers", "2")], |gateway| {
        let mut subscribers: Vec<_> = (0..4).map(|_| gateway.live("channel=demo")).collect();
        let of = |name: &str| value(gateway, name);
        let names = ["sse_sent_bytes_total", "sse_writes_total"];
        let before = names.map(of);
        for _ in 0..3 {
            gateway.publish("demo", "hello");
        }
        for subscriber in &mut subscribers {
            (0..3).for_each(|_| assert_eq!(subscriber.event().data, "hello"));
        }
        eventually("the workers have counted", || of("sse_delivered_events_total") == 12.0);
        // `data: hello`, and an id of at least 20 characters.
        let [bytes, writes] = [0, 1].map(|n| of(names[n]) - before[n]);
        assert!(bytes >= 12.0 * 40.0, "{bytes}");
        assert!((4.0..=12.0).contains(&writes), "{writes}");
        assert_eq!(of("sse_delivery_delay_seconds_count"), 12.0);
        assert_eq!(of("sse_delivery_delay_seconds_bucket{le=\"+Inf\"}"), 12.0);
        // Both workers serve the channel.
        assert_eq!(of("sse_channels"), 1.0);
    });
}

#[test]
fn a_closed_stream_is_counted_with_its_duration() {
    on_both(&[], |gateway| {
        let subscriber = gateway.live("channel=demo");
        assert_eq!(value(gateway, "sse_stream_duration_seconds_count"), 0.0);
        drop(subscriber);
        eventually("the stream is counted", || {
            value(gateway, "sse_stream_duration_seconds_count") == 1.0
        });
        eventually("the channel is gone", || value(gateway, "sse_channels") == 0.0);
    });
}

#[test]
fn a_replay_is_counted_with_its_result_and_its_size() {
    on_both(&[("history.max_len", "5")], |gateway| {
        let replays = |result| value(gateway, &format!("sse_replays_total{{result=\"{result}\"}}"));
        // A stream from now reads no history.
        let mut first = gateway.live("channel=demo");
        // Redis trims whole nodes of 100 events.
        let ids: Vec<String> = (0..250).map(|n| gateway.publish("demo", &n.to_string())).collect();
        (0..250).for_each(|_| drop(first.event()));
        assert_eq!((replays("complete"), replays("gap")), (0.0, 0.0));
        let mut resumed = gateway.resumed("channel=demo", &ids[246]);
        (247..250).for_each(|n| assert_eq!(resumed.event().data, n.to_string()));
        eventually("the replay is counted", || replays("complete") == 1.0);
        assert_eq!(value(gateway, "sse_replay_events_sum"), 3.0);
        assert_eq!(value(gateway, "sse_replay_seconds_count"), 1.0);
        let late = gateway.resumed("channel=demo", &ids[0]);
        eventually("the gap is counted", || replays("gap") == 1.0);
        assert_eq!(value(gateway, "sse_lag_events_count"), 0.0);
        drop(late);
    });
}

#[test]
fn what_waits_for_a_slow_reader_and_how_far_it_fell_behind_is_counted() {
    on_both(&[("stream.queue_events", "10")], |gateway| {
        let mut slow = Subscriber::narrow(gateway.addr, "channel=demo");
        slow.opening();
        let data = "x".repeat(100_000);
        eventually("the reader lags", || {
            gateway.publish("demo", &data);
            value(gateway, "sse_lags_total") > 0.0
        });
        eventually("a sweep has seen the queue", || {
            value(gateway, "sse_queued_bytes") > 1000.0
                && value(gateway, "sse_queued_streams") == 1.0
        });
        let last = gateway.publish("demo", "last");
        while slow.next().id != last {}
        eventually("the lag is counted", || value(gateway, "sse_lag_events_count") > 0.0);
        assert!(value(gateway, "sse_lag_events_sum") >= 1.0);
        eventually("nothing waits", || value(gateway, "sse_queued_bytes") == 0.0);
    });
}

#[test]
fn the_memory_brokers_bytes_are_told_beside_their_limit() {
    let gateway = TestGateway::memory(&[("history.memory_bytes", "1048576")]);
    assert_eq!(value(&gateway, "sse_memory_history_limit_bytes"), 1_048_576.0);
    assert_eq!(value(&gateway, "sse_memory_history_bytes"), 0.0);
    (0..40).for_each(|_| drop(gateway.publish("demo", &"x".repeat(50_000))));
    let kept = value(&gateway, "sse_memory_history_bytes");
    assert!((500_000.0..=1_048_576.0).contains(&kept), "{kept}");
}

//! Tests of what `top` shows.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use crate::top::ask::Answer;
use crate::top::model::Model;
use crate::top::view::{self, View};
use crate::top::{plain, press};

/// A scrape of a gateway that has delivered this many events, half of them 1 to 2 ms and the others
/// 2 to 4 ms after they were published.
fn scrape(delivered: u64, connected: u8) -> String {
    let half = delivered / 2;
    format!(
        "sse_subscribers{{state=\"live\"}} 1200\nsse_subscribers{{state=\"joining\"}} 4\n\
         sse_channels 42\nsse_streams_opened_total 1300\nsse_streams_closed_total{{reason=\"gone\"}} 96\n\
         sse_delivered_events_total {delivered}\nsse_received_events_total {}\n\
         sse_delivery_delay_seconds_bucket{{le=\"0.001\"}} 0\n\
         sse_delivery_delay_seconds_bucket{{le=\"0.002\"}} {half}\n\
         sse_delivery_delay_seconds_bucket{{le=\"0.004\"}} {delivered}\n\
         sse_delivery_delay_seconds_bucket{{le=\"+Inf\"}} {delivered}\n\
         sse_gaps_total{{reason=\"trimmed\"}} 2\nsse_gaps_total{{reason=\"reset\"}} 1\n\
         sse_broker_connected{{broker=\"redis\"}} {connected}\n",
        delivered / 100
    )
}

fn answer(delivered: u64, connected: u8) -> Answer {
    let stream = |id: &str, state: &str, queued: u64, behind: f64| {
        json!({
            "id": id, "client": "192.0.2.7", "subject": null, "channels": ["orders"],
            "channel_count": 3, "state": state, "queued_bytes": queued,
            "behind_seconds": behind, "stalled_seconds": 0.0, "age_seconds": 90.0,
        })
    };
    let list = json!({ "connections": [stream("0.7", "lagging", 65_536, 12.0), stream("1.3", "live", 0, 0.0)] });
    Answer { metrics: scrape(delivered, connected), connections: Ok(list) }
}

/// A model of one gateway that answers and another one that does not, after two seconds.
fn model() -> Model {
    let (mut model, began) = (Model::default(), Instant::now());
    for (seconds, delivered) in [(0, 1000), (2, 3000)] {
        let silent = ("10.0.0.4:9090".to_owned(), Err("connection refused".to_owned()));
        let answers = vec![("10.0.0.3:9090".to_owned(), Ok(answer(delivered, 1))), silent];
        model.take(answers, "slowest", began + Duration::from_secs(seconds));
    }
    model
}

/// The lines of a screen of this size.
fn screen(model: &Model, view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, view)).unwrap();
    let cells = terminal.backend().buffer().content.chunks(usize::from(width.max(1)));
    cells.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_small_terminal_shows_every_part() {
    let lines = screen(&model(), &View::default(), 80, 24);
    let find = |word: &str| {
        lines
            .iter()
            .find(|line| line.contains(word))
            .unwrap_or_else(|| panic!("{word}: {lines:#?}"))
    };
    assert!(find("sse-gateway top").contains("2 gateways · 1 silent"), "{lines:#?}");
    let numbers = words(find("10.0.0.3:9090"));
    assert_eq!(numbers[..6], ["10.0.0.3:9090", "1,204", "0", "0", "10", "1,000"]);
    assert_eq!(numbers[6..8], ["4.0", "ms"]);
    assert!(find("10.0.0.4:9090").contains("silent: connection refused"), "{lines:#?}");
    assert!(find("Streams ").contains("1,200 live · 4 joining · up to 42 channels each"));
    assert!(find("Delivery").contains("p50 2.0 ms · p99 4.0 ms"), "{lines:#?}");
    assert!(find("Trouble").contains("3 gaps (trimmed 2)"), "{lines:#?}");
    assert!(find("Redis").contains("connected"), "{lines:#?}");
    assert!(find("0.7").contains("lagging 64.0 KiB    12 s"), "{lines:#?}");
    assert!(find("0.7").contains("orders +2"), "{lines:#?}");
    assert!(find("quit").contains("sort: slowest"), "{lines:#?}");
}

#[test]
fn no_size_of_the_terminal_is_too_small() {
    for (width, height) in [(1, 1), (10, 4), (40, 12), (80, 10), (300, 100)] {
        for help in [false, true] {
            screen(&model(), &View { help, ..View::default() }, width, height);
        }
    }
    screen(&Model::default(), &View::default(), 80, 24);
}

#[test]
fn a_gateway_without_redis_and_a_list_that_is_refused_are_told() {
    let mut model = Model::default();
    let refused = Answer { connections: Err("this takes an API key".to_owned()), ..answer(1, 0) };
    model.take(vec![("gw".to_owned(), Ok(refused))], "slowest", Instant::now());
    let text = plain(&model, &View { once: true, ..View::default() }, 100);
    assert!(text.contains("away from 1 of 1"), "{text}");
    assert!(text.contains("gw: this takes an API key"), "{text}");
    assert!(!text.contains("quit") && !text.contains(" \n"), "{text}");
}

#[test]
fn rates_begin_anew_where_a_gateway_was_started_anew() {
    let (mut model, began) = (Model::default(), Instant::now());
    for (n, delivered) in [1000, 3000, 50].into_iter().enumerate() {
        let answers = vec![("gw".to_owned(), Ok(answer(delivered, 1)))];
        model.take(answers, "slowest", began + Duration::from_secs(n as u64));
        let rate = model.rate(|numbers| numbers.delivered);
        assert_eq!(rate, (n == 1).then_some(2000.0), "{n}");
    }
}

#[test]
fn the_streams_of_several_gateways_are_sorted_together() {
    let mut model = Model::default();
    let answers = ["a", "b"].map(|name| (name.to_owned(), Ok(answer(1, 1))));
    model.take(answers.to_vec(), "slowest", Instant::now());
    let states: Vec<&str> = model.readers.iter().map(|reader| reader.state.as_str()).collect();
    assert_eq!(states, ["lagging", "lagging", "live", "live"]);
}

#[test]
fn keys_change_the_view_or_end_it() {
    let mut view = View::default();
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    let mut on = |code| press(&mut view, key(code), 5);
    assert!(on(KeyCode::Char('p')) && on(KeyCode::Char('s')) && on(KeyCode::Char('?')));
    assert!(on(KeyCode::PageDown) && on(KeyCode::Up));
    assert!(on(KeyCode::Esc), "it closes the help first");
    assert!(!on(KeyCode::Esc) && !on(KeyCode::Char('q')));
    assert_eq!((view.paused, view.help, view.sort, view.scroll), (true, false, 1, 3));
    assert!(!press(&mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), 5));
    assert!(press(&mut view, key(KeyCode::Char('c')), 5));
}

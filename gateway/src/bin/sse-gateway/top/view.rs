//! Draws the view: a header, the gateways, what they do together, the streams, and the keys.
//!
//! Everything stands at a fixed place, so that the eye finds it again; colour is only for what
//! somebody should look at.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use crate::top::model::{Gateway, Model, Numbers, Reader};
use crate::top::readers;
use crate::top::words::{self, UNKNOWN, of};

/// The orders of the streams, as `GET /connections` names them.
pub const SORTS: [&str; 3] = ["slowest", "oldest", "newest"];
/// Lines of the part that tells what all gateways do together.
const FACTS: u16 = 5;
/// Lines that the streams have at least, with their head.
const LEAST_READERS: u16 = 6;

/// What decides how the model is shown.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The index in [`SORTS`].
    pub sort: usize,
    /// How many streams are scrolled past.
    pub scroll: usize,
    /// Nothing new is shown.
    pub paused: bool,
    /// The help is shown.
    pub help: bool,
    /// How often the gateways are asked.
    pub interval: String,
    /// One frame is printed, so no keys are told of and every gateway is shown.
    pub once: bool,
}

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// How many lines show everything.
pub fn height(model: &Model) -> u16 {
    let gateways = lines_of_gateways(model);
    let readers = model.readers.len().max(1);
    u16::try_from(3 + gateways + 1 + usize::from(FACTS) + 1 + 2 + readers).unwrap_or(u16::MAX)
}

/// The head, a line for each gateway, and the sum of several.
fn lines_of_gateways(model: &Model) -> usize {
    let n = model.gateways.len();
    1 + n.max(1) + usize::from(n > 1)
}

/// Draws the model.
pub fn draw(frame: &mut Frame<'_>, model: &Model, view: &View) {
    let area = frame.area();
    let area = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    let wanted = u16::try_from(lines_of_gateways(model)).unwrap_or(u16::MAX);
    let rest = area.height.saturating_sub(2 + 1 + FACTS + 1 + LEAST_READERS + 1);
    let gateways = if view.once { wanted } else { wanted.min(rest.max(2)) };
    let parts = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(gateways),
        Constraint::Length(1),
        Constraint::Length(FACTS),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(u16::from(!view.once)),
    ]);
    let [head, table, _, facts, _, streams, keys] = parts.areas(area);
    draw_head(frame, head, model, view);
    draw_gateways(frame, table, model);
    draw_facts(frame, facts, model);
    readers::draw(frame, streams, model, view);
    if !view.once {
        draw_keys(frame, keys, view);
    }
    if view.help {
        draw_help(frame, frame.area());
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let silent = model.gateways.iter().filter(|gateway| gateway.now.is_err()).count();
    let mut left = vec![Span::styled("sse-gateway top", BOLD), Span::raw("   ")];
    left.push(match model.gateways.len() {
        0 => Span::styled("asking…", DIM),
        n => of(n as f64, "gateway", "gateways").into(),
    });
    if silent > 0 {
        left.push(Span::raw(" · "));
        left.push(Span::styled(format!("{silent} silent"), BAD));
    }
    frame.render_widget(Paragraph::new(Line::from(left)), area);
    let right = match view.paused {
        true => Span::styled("paused", WARN),
        false => Span::styled(format!("every {}", view.interval), DIM),
    };
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), area);
}

/// The columns of numbers: title and width.
const COLUMNS: [(&str, u16); 8] = [
    ("streams", 7),
    ("open/s", 7),
    ("close/s", 7),
    ("in/s", 7),
    ("out/s", 7),
    ("p99", 6),
    ("cpu", 5),
    ("memory", 8),
];

fn draw_gateways(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let widths = COLUMNS.map(|(_, width)| width);
    let left = area.width.saturating_sub(widths.iter().sum::<u16>() + widths.len() as u16);
    // Not wider than needed: the numbers stand near the names.
    let longest = model.gateways.iter().map(|gateway| gateway.name.chars().count()).max();
    let name = left.min(longest.unwrap_or(0).max(14) as u16 + 2);
    let several = model.gateways.len() > 1;
    // What does not fit is told of in the last line before the sum.
    let room = usize::from(area.height).saturating_sub(1 + usize::from(several)).max(1);
    let all = &model.gateways;
    let shown = if all.len() > room { room.saturating_sub(1) } else { all.len() };
    let mut lines =
        vec![line("gateway", name, COLUMNS.map(|(title, _)| title.to_owned())).style(DIM)];
    for gateway in &all[..shown] {
        lines.push(gateway_line(gateway, name));
    }
    if shown < all.len() {
        lines.push(Line::styled(format!("and {} more", all.len() - shown), DIM));
    }
    if several {
        lines.push(line("together", name, cells(model)).style(BOLD));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn gateway_line(gateway: &Gateway, name: u16) -> Line<'static> {
    match &gateway.now {
        Ok(numbers) => {
            let row = line(&gateway.name, name, cells_of(numbers));
            let away = numbers.broker.as_ref().is_some_and(|(_, connected)| !connected);
            match () {
                () if away => row.style(Style::new().fg(Color::Red)),
                () if numbers.draining => row.style(WARN),
                () => row,
            }
        }
        Err(why) => {
            let width = usize::from(name);
            Line::from(vec![
                format!("{:<width$} ", words::cut_within(&gateway.name, width)).into(),
                Span::styled(format!("silent: {why}"), BAD),
            ])
        }
    }
}

fn line(name: &str, width: u16, cells: [String; 8]) -> Line<'static> {
    let width = usize::from(width);
    let mut text = format!("{:<width$}", words::cut_within(name, width));
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let width = usize::from(width);
        text += &format!(" {cell:>width$}");
    }
    Line::raw(text)
}

fn cells_of(numbers: &Numbers) -> [String; 8] {
    [
        words::count(numbers.streams),
        words::rate(numbers.opened),
        words::rate(numbers.closed),
        words::rate(numbers.received),
        words::rate(numbers.delivered),
        words::quantile(numbers.delay.quantile(0.99)),
        words::percent(numbers.cpu),
        words::bytes(numbers.memory),
    ]
}

fn cells(model: &Model) -> [String; 8] {
    [
        words::count(model.sum(|numbers| numbers.streams)),
        words::rate(model.rate(|numbers| numbers.opened)),
        words::rate(model.rate(|numbers| numbers.closed)),
        words::rate(model.rate(|numbers| numbers.received)),
        words::rate(model.rate(|numbers| numbers.delivered)),
        words::quantile(model.together(|numbers| &numbers.delay).quantile(0.99)),
        words::percent(model.rate(|numbers| numbers.cpu)),
        words::bytes(model.sum(|numbers| numbers.memory)),
    ]
}

fn draw_facts(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let lines = [
        ("Streams", streams(model)),
        ("Delivery", delivery(model)),
        ("Waiting", waiting(model)),
        ("Trouble", trouble(model, area.width)),
        broker(model),
    ];
    let lines = lines.map(|(title, what)| {
        let mut spans = vec![Span::styled(format!("{title:<10}"), DIM)];
        spans.extend(what);
        Line::from(spans)
    });
    frame.render_widget(Paragraph::new(lines.to_vec()), area);
    // The curve stands behind the first line, at the right edge.
    let width = area.width.saturating_sub(58).min(40);
    if width >= 10 && model.history.len() > 1 {
        let curve = words::curve(model.history.iter().copied(), usize::from(width) - 6);
        let area = Rect { x: area.x + area.width - width, width, height: 1, ..area };
        let line = Line::from(vec![Span::styled("out/s ", DIM), curve.into()]);
        frame.render_widget(Paragraph::new(line).alignment(Alignment::Right), area);
    }
}

fn streams(model: &Model) -> Vec<Span<'static>> {
    let joining = model.sum(|numbers| numbers.joining);
    let live = model.sum(|numbers| numbers.streams) - joining;
    let channels = model.answering().map(|numbers| numbers.channels).fold(0.0, f64::max);
    let each =
        |text: String| if model.gateways.len() > 1 { format!("up to {text} each") } else { text };
    vec![
        format!("{} live · ", words::count(live)).into(),
        noted(format!("{} joining", words::count(joining)), joining > 0.0),
        format!(" · {}", each(of(channels, "channel", "channels"))).into(),
    ]
}

fn delivery(model: &Model) -> Vec<Span<'static>> {
    let delay = model.together(|numbers| &numbers.delay);
    let [half, most] = [0.5, 0.99].map(|part| words::quantile(delay.quantile(part)));
    let bytes = model.rate(|numbers| numbers.bytes).map(words::bytes);
    let writes = model.rate(|numbers| numbers.writes).filter(|writes| *writes > 0.0);
    let each = model.rate(|numbers| numbers.delivered).zip(writes);
    let each = each
        .map_or_else(|| UNKNOWN.to_owned(), |(events, writes)| format!("{:.1}", events / writes));
    vec![
        format!(
            "p50 {half} · p99 {most} · {}/s · {each} events a write",
            bytes.as_deref().unwrap_or(UNKNOWN)
        )
        .into(),
    ]
}

fn waiting(model: &Model) -> Vec<Span<'static>> {
    let streams = model.sum(|numbers| numbers.queued_streams);
    let text = format!(
        "{} for {}",
        words::bytes(model.sum(|numbers| numbers.queued_bytes)),
        of(streams, "slow reader", "slow readers")
    );
    vec![noted(text, streams > 0.0)]
}

fn trouble(model: &Model, width: u16) -> Vec<Span<'static>> {
    let lags = model.rate(|numbers| numbers.lag_rate);
    let refused = model.rate(|numbers| numbers.refused_rate);
    let dropped = model.sum(|numbers| numbers.dropped);
    let gaps = model.gaps();
    let sum: f64 = gaps.iter().map(|(_, count)| count).sum();
    let mut gap_text = of(sum, "gap", "gaps");
    let named: Vec<String> = gaps
        .iter()
        .take(if width < 100 { 1 } else { 3 })
        .map(|(reason, count)| format!("{reason} {}", words::count(*count)))
        .collect();
    if !named.is_empty() {
        gap_text += &format!(" ({})", named.join(", "));
    }
    let lag_text = format!(
        "{} lags/s ({})",
        words::rate(lags),
        words::count(model.sum(|numbers| numbers.lags))
    );
    let refused_text = format!("{} refused/s", words::rate(refused));
    vec![
        noted(lag_text, lags.is_some_and(|rate| rate > 0.0)),
        " · ".into(),
        noted(gap_text, sum > 0.0),
        " · ".into(),
        noted(refused_text, refused.is_some_and(|rate| rate > 0.0)),
        " · ".into(),
        noted(format!("{} dropped", words::count(dropped)), dropped > 0.0),
    ]
}

fn broker(model: &Model) -> (&'static str, Vec<Span<'static>>) {
    let brokers: Vec<&(String, bool)> =
        model.answering().filter_map(|numbers| numbers.broker.as_ref()).collect();
    match brokers.first() {
        None => return ("Broker", vec![UNKNOWN.into()]),
        Some((kind, _)) if kind == "memory" => {
            return ("Broker", vec!["memory, in the gateway itself".into()]);
        }
        Some(_) => {}
    }
    let away = brokers.iter().filter(|(_, connected)| !connected).count();
    let state = match away {
        0 => "connected".into(),
        _ => Span::styled(format!("away from {away} of {}", brokers.len()), BAD),
    };
    let answers = model.together(|numbers| &numbers.answers);
    let [half, most] = [0.5, 0.99].map(|part| words::quantile(answers.quantile(part)));
    let epochs = model.answering().map(|numbers| numbers.epochs).fold(0.0, f64::max);
    let sessions = of(model.sum(|numbers| numbers.sessions), "session", "sessions");
    let what = vec![
        state,
        format!(" · answers p50 {half} · p99 {most} · {sessions} · ").into(),
        noted(of(epochs, "epoch", "epochs"), epochs > 0.0),
    ];
    ("Redis", what)
}

/// A text that is marked if somebody should look at it.
fn noted(text: String, yes: bool) -> Span<'static> {
    if yes { Span::styled(text, WARN) } else { Span::raw(text) }
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let pause = if view.paused { "go on" } else { "pause" };
    let sort = format!("sort: {}", SORTS[view.sort]);
    let keys = [("q", "quit"), ("p", pause), ("s", sort.as_str()), ("↑↓", "scroll"), ("?", "help")];
    let spans = keys.iter().flat_map(|(key, does)| {
        [Span::styled((*key).to_owned(), BOLD), Span::styled(format!(" {does}   "), DIM)]
    });
    frame.render_widget(Paragraph::new(Line::from_iter(spans)), area);
}

/// The help: the keys, and the columns whose titles do not say it all.
const HELP: [(&str, &str); 16] = [
    ("q, Esc, Ctrl-C", "quit"),
    ("p, space", "pause, and go on"),
    ("s", "order of the streams: slowest, oldest, newest"),
    ("↑ ↓ PgUp PgDn", "scroll through the streams"),
    ("?, h", "this help"),
    ("", ""),
    ("in/s, out/s", "events from the broker, events to clients"),
    ("p99", "delay from publication to write, of 99%, over 10 s"),
    ("waiting", "what sockets of slow readers have not taken"),
    ("lags", "live streams that had to read history"),
    ("gaps", "clients told that events may be missing"),
    ("dropped", "events that a full inbox did not take"),
    ("epochs", "begun while a gateway ran; each tells all clients of a gap"),
    ("queued", "bytes that wait for this client"),
    ("behind", "how old the first event is that it waits for"),
    ("stalled", "since when its socket took no byte"),
];

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (area.width.min(74), area.height.min(HELP.len() as u16 + 2));
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let rows = HELP.map(|(name, what)| Row::new([name.bold(), what.into()]));
    let widths = [Constraint::Length(16), Constraint::Min(10)];
    let block = Block::bordered().title(" help ").border_style(DIM);
    frame.render_widget(Clear, place);
    frame.render_widget(
        Table::new(rows, widths).block(block.padding(ratatui::widgets::Padding::horizontal(1))),
        place,
    );
}

/// A line about one stream, in the style of its state.
pub fn style_of(reader: &Reader) -> Style {
    match reader.state.as_str() {
        "lagging" => WARN,
        "joining" => DIM,
        _ => Style::new(),
    }
}

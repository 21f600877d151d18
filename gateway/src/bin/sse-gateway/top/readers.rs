//! The table of streams. Its columns depend on the width: the most telling ones come first.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::top::model::{Model, Reader};
use crate::top::view::{SORTS, View, style_of};
use crate::top::words;

/// A column of the table.
struct Column {
    title: &'static str,
    width: usize,
    /// Columns with the lowest number are left out last.
    rank: u8,
    /// Numbers stand at the right of their column.
    right: bool,
    text: fn(&Reader) -> String,
}

/// The columns, from left to right.
const COLUMNS: [Column; 10] = [
    Column { title: "stream", width: 7, rank: 0, right: false, text: |r| r.id.clone() },
    Column { title: "gateway", width: 16, rank: 7, right: false, text: |r| r.gateway.clone() },
    Column { title: "client", width: 15, rank: 1, right: false, text: |r| r.client.clone() },
    Column { title: "subject", width: 14, rank: 8, right: false, text: |r| r.subject.clone() },
    Column { title: "channels", width: 11, rank: 5, right: false, text: |r| r.channels.clone() },
    Column { title: "state", width: 7, rank: 2, right: false, text: |r| r.state.clone() },
    Column { title: "queued", width: 8, rank: 3, right: true, text: |r| words::bytes(r.queued) },
    Column { title: "behind", width: 7, rank: 4, right: true, text: |r| words::seconds(r.behind) },
    Column {
        title: "stalled",
        width: 7,
        rank: 9,
        right: true,
        text: |r| words::seconds(r.stalled),
    },
    Column { title: "age", width: 6, rank: 6, right: true, text: |r| words::seconds(r.age) },
];

/// Draws the table.
pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let dim = Style::new().add_modifier(Modifier::DIM);
    let title = match SORTS[view.sort] {
        "slowest" => "Slowest streams",
        "oldest" => "Oldest streams",
        _ => "Newest streams",
    };
    let mut lines = vec![Line::styled(title, Style::new().add_modifier(Modifier::BOLD))];
    let several = model.gateways.len() > 1;
    let columns = chosen(usize::from(area.width), several);
    let titles =
        columns.iter().map(|(column, width)| cell(column, column.title.to_owned(), *width));
    lines.push(Line::styled(titles.collect::<Vec<_>>().join(" "), dim));
    let room = usize::from(area.height).saturating_sub(2);
    // Scrolling ends where the last stream is at the bottom.
    let past = view.scroll.min(model.readers.len().saturating_sub(room));
    for reader in model.readers.iter().skip(past).take(room) {
        let cells =
            columns.iter().map(|(column, width)| cell(column, (column.text)(reader), *width));
        lines.push(Line::styled(cells.collect::<Vec<_>>().join(" "), style_of(reader)));
    }
    match &model.unlisted {
        Some(why) => lines.push(Line::from(Span::styled(why.clone(), dim))),
        None if model.readers.is_empty() => lines.push(Line::styled("none", dim)),
        None => {}
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// The columns that fit, each with its width. The channels get the room that is left.
fn chosen(width: usize, several: bool) -> Vec<(&'static Column, usize)> {
    let wanted = |column: &&Column| several || column.title != "gateway";
    let mut ranked: Vec<&'static Column> = COLUMNS.iter().filter(wanted).collect();
    // Ids of streams are those of their gateway, so several need its name.
    ranked.sort_by_key(|column| if column.title == "gateway" { 2 } else { column.rank });
    let (mut used, mut kept) = (0, Vec::new());
    for column in ranked {
        if used + column.width <= width {
            used += column.width + 1;
            kept.push(column.title);
        }
    }
    let left = (width + 1).saturating_sub(used);
    let columns = COLUMNS.iter().filter(|column| kept.contains(&column.title));
    columns
        .map(|column| (column, column.width + if column.title == "channels" { left } else { 0 }))
        .collect()
}

fn cell(column: &Column, text: String, width: usize) -> String {
    let text = match column.title {
        "gateway" | "client" => words::cut_within(&text, width),
        _ => words::cut(&text, width),
    };
    if column.right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

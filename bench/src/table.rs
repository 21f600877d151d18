//! What a run prints for people, and the same, a line of JSON each, for programs.

use std::fs::File;
use std::io::Write;

use serde_json::Value;

/// A table of text; the first column is flush left, the others right.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One with these columns.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Table {
        let head = columns.iter().map(|name| (*name).to_owned()).collect();
        Table { title: title.into(), rows: vec![head] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("\n{}\n", self.title);
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                match at {
                    0 => line += &format!("{cell:<0$}", widths[0]),
                    _ => line += &format!("  {cell:>0$}", widths[at]),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Where results go.
#[derive(Debug)]
pub struct Output {
    json: Option<File>,
}

impl Output {
    /// To standard output, and to a file if there is one.
    pub fn new(json: Option<File>) -> Output {
        Output { json }
    }

    /// A line on how it goes.
    pub fn note(&self, text: &str) {
        println!("{text}");
    }

    /// A table.
    pub fn table(&self, table: &Table) {
        println!("{}", table.text());
    }

    /// One result for programs.
    pub fn record(&mut self, value: &Value) {
        if let Some(file) = &mut self.json
            && let Err(error) = writeln!(file, "{value}")
        {
            eprintln!("sse-bench: the JSON file: {error}");
            self.json = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("t", &["server", "p99"]);
        table.row(vec!["a".to_owned(), "12.5".to_owned()]);
        assert_eq!(table.text(), "\nt\nserver   p99\na       12.5\n");
    }
}

//! The output of a run: tables for people, and lines of JSON for programs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

use serde_json::Value;

/// A table of text. The first column is aligned left, the others right.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Table {
        let head = columns.iter().map(|name| (*name).to_owned()).collect();
        Table { title: title.into(), rows: vec![head] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("### {}\n\n", self.title);
        for (at, row) in self.rows.iter().enumerate() {
            // A bar in an error's text would start another column.
            text += &line(row.iter().map(|cell| cell.replace('|', "\\|")).collect());
            if at == 0 {
                let side = |at| if at == 0 { "---" } else { "---:" }.to_owned();
                text += &line((0..row.len()).map(side).collect());
            }
        }
        text
    }

    /// The table as aligned text.
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

/// A part of the output that the page of results repeats.
#[derive(Debug)]
pub enum Kept {
    /// A table.
    Table(Table),
    /// A line below a table.
    Remark(String),
}

/// Prints and collects the output of a run.
#[derive(Debug)]
pub struct Output {
    json: Option<File>,
    kept: Vec<Kept>,
    records: Vec<Value>,
    skipped: BTreeSet<String>,
}

impl Output {
    /// Writes to standard output, and records to the file if there is one.
    pub fn new(json: Option<File>) -> Output {
        Output { json, kept: Vec::new(), records: Vec::new(), skipped: BTreeSet::new() }
    }

    /// Prints a line about the progress.
    pub fn note(&self, text: &str) {
        println!("{text}");
    }

    /// Prints a line about the last table, and keeps it for the page.
    pub fn remark(&mut self, text: &str) {
        println!("{text}");
        self.kept.push(Kept::Remark(text.to_owned()));
    }

    /// Reports the error of a server. That a server is not installed is reported once per run.
    pub fn failed(&mut self, scenario: &str, server: &str, error: &str) {
        let skipped = format!("{server}: {error}");
        if !error.starts_with("skipped: ") {
            self.remark(&format!("{scenario}: {server}: {error}"));
        } else if !self.skipped.contains(&skipped) {
            self.remark(&skipped);
            self.skipped.insert(skipped);
        }
    }

    /// Prints a table, and keeps it for the page.
    pub fn table(&mut self, table: Table) {
        println!("{}", table.text());
        self.kept.push(Kept::Table(table));
    }

    /// Records a result as JSON.
    pub fn record(&mut self, value: Value) {
        if let Some(file) = &mut self.json
            && let Err(error) = writeln!(file, "{value}")
        {
            eprintln!("sse-bench: the JSON file: {error}");
            self.json = None;
        }
        self.records.push(value);
    }

    /// All tables and remarks so far, in order.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// All results so far.
    pub fn records(&self) -> &[Value] {
        &self.records
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

    #[test]
    fn a_table_of_markdown_has_as_many_columns_as_its_head() {
        let mut table = Table::new("t", &["server", "late"]);
        table.row(vec!["a".to_owned(), "no | yes".to_owned()]);
        let expected = "### t\n\n| server | late |\n| --- | ---: |\n| a | no \\| yes |\n";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn what_is_not_installed_is_told_once() {
        let mut output = Output::new(None);
        output.failed("steady", "a", "skipped: not installed");
        output.failed("idle", "a", "skipped: not installed");
        output.failed("idle", "b", "broken");
        assert_eq!(output.kept().len(), 2);
    }
}

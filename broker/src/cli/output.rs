//! What commands print: tables for people, JSON for machines; and progress, on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::error::CliError;
use crate::json::Json;

/// How long something may take before progress is shown, and between two showings.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Spaces between two columns.
const GAP: &str = "  ";

/// Standard output, in the form that the user wants.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

/// A table: rows are sorted and cut by whoever fills it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Stands left.
    Text(String),
    /// Stands right.
    Number(String),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Cell {
        Cell::Number(number.to_string())
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Cell {
        Cell::Number(number.to_string())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Cell {
        Cell::Number(number.to_string())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::Number("-".to_owned()), Into::into)
    }
}

impl Cell {
    fn text(&self) -> &str {
        match self {
            Cell::Text(text) | Cell::Number(text) => text,
        }
    }
}

impl Table {
    /// A table without rows.
    pub fn new(heads: &[&'static str]) -> Table {
        Table { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        assert_eq!(N, self.heads.len(), "a row has a cell for each head");
        self.rows.push(cells.into());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Its lines.
    fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(row[column].text()));
                cells.chain([width(self.heads[column])]).max().unwrap_or(0)
            })
            .collect();
        let is_number =
            |column: usize| !self.rows.is_empty() && self.rows.iter().all(|row| matches!(row[column], Cell::Number(_)));
        let mut text = String::new();
        let mut line = |cells: Vec<&str>| {
            let mut line = String::new();
            for (column, cell) in cells.into_iter().enumerate() {
                let space = " ".repeat(widths[column].saturating_sub(width(cell)));
                let (before, after) = if is_number(column) { (space, String::new()) } else { (String::new(), space) };
                line.push_str(&format!("{}{before}{cell}{after}", if column == 0 { "" } else { GAP }));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(self.heads.clone());
        for row in &self.rows {
            line(row.iter().map(Cell::text).collect());
        }
        text
    }
}

impl Output {
    /// JSON, or tables.
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// Prints one of the two.
    pub fn print(self, json: impl FnOnce() -> Json, text: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = if self.json { format!("{}\n", json()) } else { text() };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Prints a table, or what it says instead when it has no rows.
    pub fn table(self, json: impl FnOnce() -> Json, table: &Table, none: &str) -> Result<(), CliError> {
        self.print(json, || if table.is_empty() { format!("{none}\n") } else { table.render() })
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.render())
    }
}

/// Shows how far something has come, on standard error, once it takes longer than a second and if that is a terminal.
#[derive(Debug)]
pub struct Progress {
    shows: bool,
    shown_at: Instant,
    is_shown: bool,
}

impl Progress {
    /// Something begins.
    pub fn start() -> Progress {
        Progress { shows: io::stderr().is_terminal(), shown_at: Instant::now(), is_shown: false }
    }

    /// Something begins whose output shows by itself how far it has come, if that is a terminal.
    pub fn beside_output() -> Progress {
        let progress = Progress::start();
        Progress { shows: progress.shows && !io::stdout().is_terminal(), ..progress }
    }

    /// It has come so far.
    pub fn at(&mut self, text: impl FnOnce() -> String) {
        if self.shows && self.shown_at.elapsed() >= PROGRESS_INTERVAL {
            eprint!("\r\x1b[K{}", text());
            self.shown_at = Instant::now();
            self.is_shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["TOPIC", "PARTITIONS", "LAG"]);
        assert!(table.is_empty());
        table.row(["a-rather-long-name".into(), 3.into(), None::<i64>.into()]);
        table.row(["ö".into(), 100.into(), 7i64.into()]);
        assert_eq!(
            table.to_string(),
            "TOPIC               PARTITIONS  LAG\n\
             a-rather-long-name           3    -\n\
             ö                          100    7\n"
        );
    }
}

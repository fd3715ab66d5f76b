//! What commands print with: one writer for tables, lines and JSON. Whatever text goes through it has its control
//! characters made visible, since labels and names come from containers. What is printed is the commands' business.

pub mod cell;
pub mod escape;
pub mod table;

pub use cell::Cell;
pub use table::{Layout, Table};

use crate::failure::Failure;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::Write;

pub const BOLD: Style = Style::new().bold();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
pub const RED: Style = AnsiColor::Red.on_default();
pub const CYAN: Style = AnsiColor::Cyan.on_default();

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    /// A report of tests, for `policy test` alone
    Junit,
}

/// Tables and lines one below the other.
#[derive(Clone, Debug, Default)]
pub struct Page(Vec<Block>);

#[derive(Clone, Debug)]
enum Block {
    Line(Cell),
    Table(Table),
}

impl Page {
    pub fn line(&mut self, line: impl Into<Cell>) {
        self.0.push(Block::Line(line.into()));
    }

    pub fn table(&mut self, table: Table) {
        self.0.push(Block::Table(table));
    }

    /// The whole page with terminal colours in it.
    pub fn styled(&self) -> String {
        let mut text = String::new();
        for block in &self.0 {
            match block {
                Block::Line(line) => {
                    line.write_to(&mut text);
                    text.push('\n');
                }
                Block::Table(table) => table.write_to(&mut text),
            }
        }
        text
    }
}

impl From<Table> for Page {
    fn from(table: Table) -> Page {
        Page(vec![Block::Table(table)])
    }
}

impl From<Cell> for Page {
    fn from(line: Cell) -> Page {
        Page(vec![Block::Line(line)])
    }
}

/// Where a command's results go.
pub struct Output {
    sink: Box<dyn Write>,
    format: Format,
}

impl Output {
    /// Standard output; colours only where it is a terminal that wants them.
    pub fn stdout(format: Format) -> Output {
        let stream = anstream::AutoStream::auto(std::io::stdout());
        Output { sink: Box::new(std::io::BufWriter::new(stream)), format }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Shows `value` in the form that the user asked for.
    pub fn show<T: Serialize + ?Sized>(&mut self, value: &T, page: impl FnOnce(&T) -> Page) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Junit => self.page(&page(value)),
            Format::Json => self.json(value),
        }
    }

    /// `value` as indented JSON.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|source| Failure::Encode { source })?;
        self.write(&escape::json(&text))?;
        self.write("\n")
    }

    /// `value` as one line of JSON, sent off at once.
    pub fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|source| Failure::Encode { source })?;
        self.write(&escape::json(&text))?;
        self.write("\n")?;
        self.flush()
    }

    pub fn page(&mut self, page: &Page) -> Result<(), Failure> {
        self.write(&page.styled())
    }

    pub fn line(&mut self, line: impl Into<Cell>) -> Result<(), Failure> {
        self.page(&Page::from(line.into()))
    }

    /// Text of several lines; its own line ends stay.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write(&escape::lines(text))?;
        if text.ends_with('\n') { Ok(()) } else { self.write("\n") }
    }

    /// Text that this program made itself, tabs and all.
    pub fn verbatim(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text)
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|source| Failure::Write { source })
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.sink.write_all(text.as_bytes()).map_err(|source| Failure::Write { source })
    }
}

/// What a page looks like without colours: for tests that hold the shape of a table.
#[cfg(test)]
pub fn plain(page: impl Into<Page>) -> String {
    anstream::adapter::strip_str(&page.into().styled()).to_string()
}

//! A piece of one line: text with colours, free of control characters from the moment it is made.

use super::escape;
use anstyle::Style;
use std::fmt::Write;

/// Text in one or several colours.
#[derive(Clone, Debug, Default)]
pub struct Cell(Vec<Span>);

#[derive(Clone, Debug)]
struct Span {
    text: String,
    style: Style,
}

impl Cell {
    pub fn styled(text: &str, style: Style) -> Cell {
        Cell::default().then_styled(text, style)
    }

    pub fn then(self, text: &str) -> Cell {
        self.then_styled(text, Style::new())
    }

    pub fn then_styled(mut self, text: &str, style: Style) -> Cell {
        if !text.is_empty() {
            self.0.push(Span { text: escape::line(text).into_owned(), style });
        }
        self
    }

    pub fn join(mut self, other: Cell) -> Cell {
        self.0.extend(other.0);
        self
    }

    /// The whole cell in one colour.
    pub fn in_style(mut self, style: Style) -> Cell {
        for span in &mut self.0 {
            span.style = style;
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Characters on the screen.
    pub fn width(&self) -> usize {
        self.0.iter().map(|span| span.text.chars().count()).sum()
    }

    /// Appends the text with its colours as terminal sequences.
    pub fn write_to(&self, out: &mut String) {
        for Span { text, style } in &self.0 {
            write!(out, "{style}{text}{style:#}").expect("writing to a String cannot fail");
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::styled(text, Style::new())
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Cell {
        Cell::from(text.as_str())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::from(text.as_str())
    }
}

macro_rules! from_numbers {
    ($($number:ty),*) => { $(
        impl From<$number> for Cell {
            fn from(number: $number) -> Cell {
                Cell::from(number.to_string())
            }
        }
    )* };
}

from_numbers!(u16, u32, u64, usize);

/// `row!["a", 1, name]`: the cells of one row.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { [$($crate::render::Cell::from($cell)),*] };
}
pub(crate) use row;

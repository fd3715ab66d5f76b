//! Columns padded with spaces, laid out as Cilium's tables are: a column is as wide as its widest cell and the padding,
//! but never narrower than the minimum; a row's last cell is not padded.

use super::{BOLD, Cell};

/// Minimum column width, gap between columns and indentation, in characters.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub minimum: usize,
    pub padding: usize,
    pub indent: usize,
}

impl Layout {
    pub const WIDE: Layout = Layout { minimum: 5, padding: 3, indent: 0 };
    pub const NARROW: Layout = Layout { minimum: 2, padding: 3, indent: 0 };
}

#[derive(Clone, Debug)]
pub struct Table {
    layout: Layout,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(layout: Layout) -> Table {
        Table { layout, rows: Vec::new() }
    }

    pub fn with_header<const N: usize>(layout: Layout, names: [&str; N]) -> Table {
        let mut table = Table::new(layout);
        table.header(names);
        table
    }

    /// A header line; there may be several.
    pub fn header<const N: usize>(&mut self, names: [&str; N]) {
        self.row(names.map(|name| Cell::styled(name, BOLD)));
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// A row whose cell in `column` holds the first of `items` and is followed by a row of its own for each other item,
    /// with all other cells empty. Without items, the cell shows `none`.
    pub fn row_with_list<const N: usize>(&mut self, cells: [Cell; N], column: usize, items: &[String], none: &str) {
        let mut first = cells;
        first[column] = items.first().map_or_else(|| Cell::from(none), Cell::from);
        self.row(first);
        for item in items.iter().skip(1) {
            let mut cells = std::array::from_fn::<Cell, N, _>(|_| Cell::default());
            cells[column] = Cell::from(item);
            self.row(cells);
        }
    }

    pub fn write_to(&self, out: &mut String) {
        let widths = self.widths();
        for row in &self.rows {
            let used = row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
            if used > 0 {
                spaces(out, self.layout.indent);
            }
            for (i, cell) in row.iter().take(used).enumerate() {
                cell.write_to(out);
                if i + 1 < used {
                    spaces(out, widths[i] - cell.width());
                }
            }
            out.push('\n');
        }
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![self.layout.minimum; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width() + self.layout.padding);
            }
        }
        widths
    }
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::cell::row;
    use crate::render::{RED, plain};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_header(Layout::WIDE, ["A", "NAME", "C"]);
        table.row(row![1u32, "longer", "x"]);
        table.row(row![22u32, "", ""]);
        assert_eq!(plain(table), "A    NAME     C\n1    longer   x\n22\n");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(Layout::NARROW);
        table.row([Cell::styled("Failure", RED), Cell::from("x")]);
        table.row(row!["Ok", "y"]);
        assert_eq!(plain(table), "Failure   x\nOk        y\n");
    }

    #[test]
    fn lists_continue_on_rows_of_their_own() {
        let mut table = Table::new(Layout::WIDE);
        table.row_with_list(row![1u32, "", "end"], 1, &["a".into(), "b".into()], "none");
        table.row_with_list(row![2u32, "", "end"], 1, &[], "none");
        assert_eq!(plain(table), "1    a      end\n     b\n2    none   end\n");
    }

    #[test]
    fn a_name_cannot_break_its_row() {
        let mut table = Table::new(Layout::WIDE);
        table.row(row!["evil\n1    ready\x1b[2J", "x"]);
        assert_eq!(plain(table), "evil\\n1    ready\\x1b[2J   x\n");
    }
}

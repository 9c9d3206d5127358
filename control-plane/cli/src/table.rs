//! Columns of text that line up, for people.

use anstyle::Style;

use crate::output::{BOLD, paint};

/// One field of a row.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A field in a style of its own.
    pub(crate) fn styled(style: Style, text: impl Into<String>) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(Style::new(), text)
    }
}

/// Which edge of its column a field keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names and words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns. A heading that starts with `>` keeps its column to the right edge.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        let columns = columns
            .iter()
            .map(|name| match name.strip_prefix('>') {
                Some(name) => (name, Align::Right),
                None => (*name, Align::Left),
            })
            .collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; it must have as many fields as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a field for every column");
        self.rows.push(cells);
    }

    /// The table as lines, each ended, without spaces at their ends.
    pub(crate) fn render(&self) -> String {
        let widths = self.widths();
        let heading: Vec<Cell> =
            self.columns.iter().map(|(name, _)| Cell::styled(BOLD, name.to_string())).collect();
        std::iter::once(&heading).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        let mut owed = 0; // spaces are written only once something follows them
        for ((cell, width), (_, align)) in row.iter().zip(widths).zip(&self.columns) {
            let room = width.saturating_sub(cell.text.chars().count());
            let (before, after) = match align {
                Align::Left => (0, room),
                Align::Right => (room, 0),
            };
            if !cell.text.is_empty() {
                line.push_str(&" ".repeat(owed + before));
                line.push_str(&paint(cell.style, &cell.text));
                owed = after + 2;
            } else {
                owed += width + 2;
            }
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::GOOD;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_line_up_and_numbers_keep_right() {
        let mut table = Table::new(&["NAME", ">REQUESTS", "PEER"]);
        table.row(vec!["web".into(), "7".into(), Cell::styled(GOOD, "a")]);
        table.row(vec!["payments".into(), "12000".into(), "b".into()]);
        assert_eq!(
            plain(&table.render()),
            "NAME      REQUESTS  PEER\n\
             web              7  a\n\
             payments     12000  b\n"
        );
    }

    #[test]
    fn an_empty_field_keeps_its_place_and_leaves_no_space_at_the_end() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(vec!["x".into(), "".into(), "z".into()]);
        table.row(vec!["x".into(), "".into(), "".into()]);
        assert_eq!(plain(&table.render()), "A  B  C\nx     z\nx\n");
    }

    #[test]
    fn a_style_takes_no_width() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![Cell::styled(GOOD, "long"), "1".into()]);
        table.row(vec!["x".into(), "2".into()]);
        assert_eq!(plain(&table.render()), "A     B\nlong  1\nx     2\n");
    }
}

//! Tables that people read: columns as wide as their widest cell.

use textwrap::core::display_width;

/// Rows of cells under a head. The first columns, words, are aligned to the left, numbers to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    words: usize,
}

impl Table {
    /// An empty table whose first `words` columns hold words.
    pub(crate) fn new(words: usize, head: &[&str]) -> Self {
        Table { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()], words }
    }

    /// Adds a row of as many cells as the head has.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| display_width(&row[column])).max().unwrap_or(0))
            .collect()
    }

    fn line(&self, row: &[String], widths: &[usize], between: &str) -> String {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| {
            // Some characters are two columns wide, or none.
            let space = " ".repeat(width - display_width(cell));
            if at < self.words { format!("{cell}{space}") } else { format!("{space}{cell}") }
        });
        cells.collect::<Vec<_>>().join(between)
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let widths = self.widths();
        self.rows.iter().map(|row| self.line(row, &widths, "  ").trim_end().to_owned() + "\n").collect()
    }

    /// For a page of documentation.
    pub(crate) fn markdown(&self) -> String {
        let widths: Vec<usize> = self.widths().into_iter().map(|width| width.max(3)).collect();
        let rule = widths.iter().enumerate().map(|(at, width)| {
            if at < self.words { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" }
        });
        let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        let mut text = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            text += &format!("| {} |\n", self.line(row, &widths, " | "));
            if at == 0 {
                text += &rule;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(1, &["chip", "µs"]);
        table.row(vec!["M1".into(), "220".into()]);
        table.row(vec!["M4 Max".into(), "95".into()]);
        assert_eq!(table.text(), "chip     µs\nM1      220\nM4 Max   95\n");
        assert_eq!(
            table.markdown(),
            "| chip   |  µs |\n| ------ | --: |\n| M1     | 220 |\n| M4 Max |  95 |\n"
        );
        let mut wide = Table::new(1, &["text", "id"]);
        wide.row(vec!["中文".into(), "7".into()]);
        wide.row(vec!["a".into(), "8".into()]);
        assert_eq!(wide.text(), "text  id\n中文   7\na      8\n", "two columns each");
    }
}

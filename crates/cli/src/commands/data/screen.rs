//! What `anneal data inspect` shows on a terminal.

use std::io::{self, Write};

use data::inspect::{Lengths, Profile, TokenCount, TokenizerProfile};
use terminal_size::terminal_size_of;
use textwrap::core::display_width;

use crate::table::Table;

/// Columns where there is no terminal to ask.
const COLUMNS: usize = 80;
/// Columns of a token in a table, at most.
const TOKEN_COLUMNS: usize = 26;
/// Between two tables side by side.
const GAP: usize = 4;
/// Eighths of a block.
const BLOCKS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Where lines end.
#[derive(Clone, Copy)]
pub(super) struct Screen {
    width: usize,
}

impl Screen {
    /// As wide as the terminal, where standard output is one.
    pub(super) fn of_stdout() -> Screen {
        let width = terminal_size_of(io::stdout()).map_or(COLUMNS, |(width, _)| usize::from(width.0));
        Screen { width: width.clamp(40, 120) }
    }

    /// The documents of each part of a source, with `facts` about the whole between their counts and the rest.
    pub(super) fn parts(
        self,
        parts: &[(&str, Profile)],
        facts: &[(String, String)],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        write!(out, "{}", self.counts(parts))?;
        if !facts.is_empty() {
            writeln!(out)?;
        }
        self.facts(facts, out)?;
        for (name, profile) in parts.iter().filter(|(_, profile)| profile.documents > 0) {
            let (unit, lengths) = match &profile.tokens {
                Some(tokens) => ("Tokens", &tokens.lengths),
                None => ("Bytes", &profile.lengths),
            };
            writeln!(out, "\n{unit} of a document, {name}\n")?;
            write!(out, "{}", self.histogram(lengths))?;
            self.duplicates(profile, out)?;
        }
        for (name, profile) in parts {
            if let Some(tokens) = profile.tokens.as_ref().filter(|tokens| !tokens.most_frequent.is_empty()) {
                let tables = [
                    token_table("most frequent", &tokens.most_frequent),
                    token_table("least frequent", &tokens.least_frequent),
                ];
                writeln!(out, "\nTokens, {name}\n\n{}", self.beside(&tables.map(|table| table.text())))?;
            }
        }
        for (name, profile) in parts.iter().filter(|(_, profile)| !profile.samples.is_empty()) {
            writeln!(out, "\nSamples, {name}")?;
            for sample in &profile.samples {
                writeln!(out, "\n{}", self.paragraph(sample))?;
            }
        }
        Ok(())
    }

    /// A tokenizer, and the names of its first `top` special tokens.
    pub(super) fn tokenizer(
        self,
        found: &TokenizerProfile,
        top: usize,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        // An id stays on the line of its name.
        let names = found.special.iter().take(top);
        let mut special: Vec<String> =
            names.map(|token| format!("{}\u{a0}({})", escaped(&token.name), token.id)).collect();
        match found.special.len() - special.len() {
            0 if special.is_empty() => special.push("none".into()),
            0 => {}
            more => special.push(format!("{more} more")),
        }
        let special = special.join(", ");
        let begins = format!("{} begins a document", found.bos_id);
        let facts = [
            ("vocabulary", format!("{} tokens; {begins}", grouped(found.vocab_size as u64))),
            ("special", special),
            ("merges", found.merges.map_or("none".into(), |merges| grouped(merges as u64))),
            ("hash", found.hash.clone()),
        ];
        self.facts(&facts.map(|(key, value)| (key.to_owned(), value)), out)?;
        writeln!(out, "\nBytes of a token\n\n{}", self.histogram(&found.lengths).trim_end())?;
        if found.longest.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(1, &["longest", "id", "bytes"]);
        for token in &found.longest {
            let text = shortened(&quoted(&token.text), self.width.saturating_sub(20));
            table.row(vec![text, token.id.to_string(), token.bytes.to_string()]);
        }
        writeln!(out, "\n{}", table.text().trim_end())
    }

    /// A line for each part; a column for each where a line would be too long.
    fn counts(self, parts: &[(&str, Profile)]) -> String {
        let mut columns = vec![["", "documents", "characters", "bytes"].map(str::to_owned).to_vec()];
        if parts.iter().any(|(_, profile)| profile.tokens.is_some()) {
            columns[0].extend(["tokens", "bytes/token", "unused"].map(str::to_owned));
        }
        for (name, profile) in parts {
            let mut column = vec![(*name).to_owned()];
            column.extend([profile.documents, profile.characters, profile.bytes].map(grouped));
            if let Some(tokens) = &profile.tokens {
                let bytes_per_token = format!("{:.3}", tokens.bytes_per_token);
                column.extend([grouped(tokens.tokens), bytes_per_token, grouped(tokens.absent)]);
            }
            columns.push(column);
        }
        let table = |rows: &[Vec<String>]| {
            let head: Vec<&str> = rows[0].iter().map(String::as_str).collect();
            let mut table = Table::new(1, &head);
            rows[1..].iter().for_each(|row| table.row(row.clone()));
            table.text()
        };
        let text = table(&columns);
        if text.lines().all(|line| display_width(line) <= self.width) {
            return text;
        }
        let rows: Vec<Vec<String>> = (0..columns[0].len())
            .map(|at| columns.iter().map(|column| column[at].clone()).collect())
            .collect();
        table(&rows)
    }

    /// A line for each, longer ones continued under themselves.
    fn facts(self, facts: &[(String, String)], out: &mut dyn Write) -> io::Result<()> {
        let words = facts.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in facts {
            let (first, rest) = (format!("{key:<words$}  "), " ".repeat(words + 2));
            writeln!(out, "{}", self.filled(&escaped(value), &first, &rest).replace('\u{a0}', " "))?;
        }
        Ok(())
    }

    fn duplicates(self, profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
        let again = &profile.duplicates;
        if again.documents == 0 {
            return writeln!(out, "\nNo document is there twice.");
        }
        let (number, share) = (grouped(again.documents), again.share * 100.0);
        let (verb, times) =
            (if again.documents == 1 { "document equals" } else { "documents equal" }, grouped(again.most));
        let told = format!(
            "{number} {verb} an earlier one ({share:.1}%); the most frequent is there {times} times:"
        );
        writeln!(out, "\n{}\n", self.filled(&told, "", ""))?;
        let line = again.example.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(out, "  {}", shortened(&escaped(&line), self.width - 2))
    }

    /// A bar for each power of two that occurs, and those between.
    fn histogram(self, lengths: &Lengths) -> String {
        let first = lengths.0.iter().position(|count| *count > 0).unwrap_or(0);
        let most = lengths.0.iter().copied().max().unwrap_or(0).max(1);
        let all: u64 = lengths.0.iter().sum();
        let mut table = Table::new(0, &["from", "to", "number", "share"]);
        for (bucket, count) in lengths.0.iter().enumerate().skip(first) {
            let (from, to) = (1_u64 << bucket, (1_u64 << bucket) * 2 - 1);
            table.row(vec![
                grouped(from),
                grouped(to),
                grouped(*count),
                percent(*count as f64 / all.max(1) as f64),
            ]);
        }
        let text = table.text();
        let columns = text.lines().map(display_width).max().unwrap_or(0);
        let room = self.width.saturating_sub(columns + 2).max(8);
        let bars = std::iter::once(String::new())
            .chain(lengths.0.iter().skip(first).map(|count| bar(*count as f64 / most as f64, room)));
        text.lines()
            .zip(bars)
            .map(|(line, bar)| format!("{line:<columns$}  {bar}").trim_end().to_owned() + "\n")
            .collect()
    }

    /// Two blocks of lines next to each other, or below each other where there is no room.
    fn beside(self, [left, right]: &[String; 2]) -> String {
        let columns = |block: &str| block.lines().map(display_width).max().unwrap_or(0);
        let wide = columns(left);
        if wide + GAP + columns(right) > self.width {
            return format!("{}\n\n{}", left.trim_end(), right.trim_end());
        }
        let rows = left.lines().count().max(right.lines().count());
        let (mut lefts, mut rights) = (left.lines(), right.lines());
        let lines = (0..rows).map(|_| {
            let (left, right) = (lefts.next().unwrap_or_default(), rights.next().unwrap_or_default());
            let space = " ".repeat(wide + GAP - display_width(left));
            format!("{left}{space}{right}").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn filled(self, text: &str, first: &str, rest: &str) -> String {
        let options = textwrap::Options::new(self.width).initial_indent(first).subsequent_indent(rest);
        textwrap::fill(text, options)
    }

    /// A text, two columns from the left.
    fn paragraph(self, text: &str) -> String {
        let lines = escaped(text.trim());
        lines
            .lines()
            .map(|line| self.filled(line.trim_end(), "  ", "  ").trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn token_table(title: &str, tokens: &[TokenCount]) -> Table {
    let mut table = Table::new(1, &[title, "id", "times", "share"]);
    for token in tokens {
        let text = if token.special { escaped(&token.text) } else { quoted(&token.text) };
        let text = shortened(&text, TOKEN_COLUMNS);
        table.row(vec![text, token.id.to_string(), grouped(token.count), percent(token.share)]);
    }
    table
}

/// A share with one digit; one too small for it says so.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0005 { "<0.1%".into() } else { format!("{:.1}%", share * 100.0) }
}

/// A bar of `share` of `room` columns; what is there at all shows.
fn bar(share: f64, room: usize) -> String {
    let mut eighths = (share * room as f64 * 8.0).round() as usize;
    if share > 0.0 {
        eighths = eighths.max(1);
    }
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(BLOCKS[eighths % 8]);
    }
    bar
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A token so that spaces and line ends show.
fn quoted(text: &str) -> String {
    escaped(&format!("{text:?}"))
}

/// Text that a terminal shows and does not obey: no escape sequences, no change of the direction of writing. Line ends
/// stay, a tab is four spaces.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' => shown.push(c),
            '\t' => shown.push_str("    "),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(c.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// At most `most` columns of a text.
fn shortened(text: &str, most: usize) -> String {
    if display_width(text) <= most {
        return text.to_owned();
    }
    let mut shown = String::new();
    for c in text.chars() {
        shown.push(c);
        if display_width(&shown) + 2 > most {
            shown.pop();
            break;
        }
    }
    shown + " …"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_aligned_and_as_wide_as_asked() {
        let text = Screen { width: 40 }.histogram(&Lengths(vec![0, 0, 1, 0, 4000]));
        let expected = "from  to  number   share\n\
                        \u{20}  4   7       1   <0.1%  ▏\n\
                        \u{20}  8  15       0    0.0%\n\
                        \u{20} 16  31   4,000  100.0%  ██████████████\n";
        assert_eq!(text, expected);
        assert_eq!([0.0, 0.5, 1.0].map(|share| bar(share, 3)), ["", "█▌", "███"]);
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn counts_stand_below_each_other_where_a_line_is_too_short() {
        let profile = Profile { documents: 1234, characters: 5, bytes: 6, ..Profile::default() };
        let wide = Screen { width: 35 }.counts(&[("train", profile.clone())]);
        assert_eq!(wide, "       documents  characters  bytes\ntrain      1,234           5      6\n");
        let narrow = Screen { width: 34 }.counts(&[("train", profile)]);
        assert_eq!(narrow, "            train\ndocuments   1,234\ncharacters      5\nbytes           6\n");
    }

    #[test]
    fn tables_stand_beside_each_other_where_there_is_room() {
        let tables = ["ab\nc\n".to_owned(), "中\n".to_owned()];
        assert_eq!(Screen { width: 8 }.beside(&tables), "ab    中\nc");
        assert_eq!(Screen { width: 7 }.beside(&tables), "ab\nc\n\n中");
    }

    #[test]
    fn text_cannot_command_the_terminal_and_keeps_its_width() {
        assert_eq!(escaped("a\u{1b}[31m\tb\r\nc\u{202e}\r"), "a\\u{1b}[31m    b\nc\\u{202e}\\u{d}");
        assert_eq!(["abcd", "abcde", "中文中文"].map(|text| shortened(text, 4)), ["abcd", "ab …", "中 …"]);
        let wrapped = Screen { width: 40 }.paragraph(&"word ".repeat(20));
        assert!(
            wrapped.lines().all(|line| line.starts_with("  word") && display_width(line) <= 40),
            "{wrapped}"
        );
        assert_eq!(wrapped.lines().count(), 3, "seven words of five columns in each line");
    }
}

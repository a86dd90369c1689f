//! Cutting text into pieces before byte-pair merging, by hand: what the regular expression [`PATTERN`] does, without a
//! backtracking engine for its look-ahead. The tests compare the two on arbitrary text.

use std::sync::OnceLock;

/// The split pattern of autoresearch and nanochat (GPT-4's, with numbers in groups of at most two). It is written into
/// tokenizer.json, so that other tools split alike.
pub const PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other = 0,
    Letter = 1,
    Number = 2,
    Space = 3,
    /// `\r` or `\n`, which are white space too.
    Newline = 4,
}

/// The class of every character, one byte each, from the Unicode tables that the `regex` crates use.
fn table() -> &'static [Class] {
    static TABLE: OnceLock<Vec<Class>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = vec![Class::Other; char::MAX as usize + 1];
        for (pattern, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)]
        {
            let parsed = regex_syntax::parse(pattern).expect("a class of one property is a valid pattern");
            let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(set)) =
                parsed.into_kind()
            else {
                unreachable!("{pattern} is a Unicode class")
            };
            for range in set.ranges() {
                table[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        table[b'\r' as usize] = Class::Newline;
        table[b'\n' as usize] = Class::Newline;
        table
    })
}

/// The pieces of `text`; joined together they are `text` again.
///
/// ```
/// let pieces: Vec<&str> = data::tokenizer::pieces("It's 1984,\n she said.").collect();
/// assert_eq!(pieces, ["It", "'s", " ", "19", "84", ",\n", " she", " said", "."]);
/// ```
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces { rest: text, table: table() }
}

/// The iterator of [`pieces`].
pub struct Pieces<'t> {
    rest: &'t str,
    table: &'static [Class],
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.length());
        self.rest = rest;
        Some(piece)
    }
}

impl Pieces<'_> {
    /// Class and end of the character at byte `at`.
    fn at(&self, at: usize) -> Option<(Class, usize)> {
        let byte = *self.rest.as_bytes().get(at)?;
        if byte < 0x80 {
            return Some((self.table[byte as usize], at + 1));
        }
        let c = self.rest[at..].chars().next()?;
        Some((self.table[c as usize], at + c.len_utf8()))
    }

    /// End of the run of characters of these classes that begins at `at`.
    fn run(&self, mut at: usize, is: impl Fn(Class) -> bool) -> usize {
        while let Some((class, end)) = self.at(at) {
            if !is(class) {
                break;
            }
            at = end;
        }
        at
    }

    /// Length of the first piece of `rest`, which is not empty. The alternatives in the pattern's order.
    fn length(&self) -> usize {
        let (first, end) = self.at(0).expect("there is a first character");
        let letter = |c| c == Class::Letter;
        if let Some(length) = self.contraction() {
            return length;
        }
        if first == Class::Letter {
            return self.run(end, letter);
        }
        if matches!(first, Class::Other | Class::Space) {
            let letters = self.run(end, letter);
            if letters > end {
                return letters;
            }
        }
        if first == Class::Number {
            return self.at(end).filter(|(class, _)| *class == Class::Number).map_or(end, |(_, end)| end);
        }
        let from = if self.rest.starts_with(' ') { 1 } else { 0 };
        let others = self.run(from, |c| c == Class::Other);
        if others > from {
            return self.run(others, |c| c == Class::Newline);
        }
        // White space: up to its last line break; else, before a word, all but its last character; else all.
        let spaces = self.run(0, |c| matches!(c, Class::Space | Class::Newline));
        let run = &self.rest[..spaces];
        if let Some(newline) = run.rfind(['\r', '\n']) {
            return newline + 1;
        }
        match run.char_indices().next_back() {
            Some((last, _)) if last > 0 && spaces < self.rest.len() => last,
            _ => spaces,
        }
    }

    /// `'(?i:[sdmt]|ll|ve|re)`; the long s folds to s.
    fn contraction(&self) -> Option<usize> {
        let rest = self.rest.strip_prefix('\'')?;
        let first = rest.chars().next()?;
        if matches!(first.to_ascii_lowercase(), 's' | 'd' | 'm' | 't' | 'ſ') {
            return Some(1 + first.len_utf8());
        }
        let two = rest.as_bytes().get(..2)?.to_ascii_lowercase();
        [b"ll", b"ve", b"re"].iter().any(|s| **s == two[..]).then_some(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) {
        // Oracle: the pattern itself, run by fancy-regex.
        static REGEX: OnceLock<fancy_regex::Regex> = OnceLock::new();
        let regex = REGEX.get_or_init(|| fancy_regex::Regex::new(PATTERN).expect("the pattern is valid"));
        let expected: Vec<&str> =
            regex.find_iter(text).map(|m| m.expect("no match limit").as_str()).collect();
        assert_eq!(pieces(text).collect::<Vec<_>>(), expected, "{text:?}");
        assert_eq!(expected.concat(), text);
    }

    #[test]
    fn every_character_is_in_the_class_that_the_pattern_gives_it() {
        for c in (0..=char::MAX as u32)
            .filter_map(char::from_u32)
            .filter(|c| (*c as u32) < 0x3500 || (*c as u32).is_multiple_of(61))
        {
            check(&format!("a{c}1{c}{c} {c}b"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_text_is_split_as_the_pattern_splits_it(text in any::<String>()) {
            check(&text);
        }

        #[test]
        fn difficult_text_too(text in "[ab'sSſlLvVeErRdDmMtT019 \t\r\n\u{a0}\u{3000}.,!é²½Ⅷ一\u{301}]{0,40}") {
            check(&text);
        }
    }
}

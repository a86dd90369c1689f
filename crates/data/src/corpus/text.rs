//! The documents of a text file.

use super::input::Input;
use crate::{Error, Result};

/// A text up to this size is one document.
const WHOLE_BYTES: u64 = 64 << 10;
/// A longer one is cut at the first blank line after this many bytes …
const CUT_AFTER_BYTES: usize = 8 << 10;
/// … or, when none comes, at this size. Tokenizer training reads 10,000 characters of a document, so that most text counts.
const CUT_AT_MOST_BYTES: usize = 16 << 10;

pub(super) struct TextDocuments {
    input: Input,
    /// Offset in the file (unpacked) of the first byte not yet handed out.
    offset: u64,
    /// Its line from 1; unknown when reading starts inside the file.
    line: Option<u64>,
    /// Bytes after which a document may end at a blank line; the largest size for a file that is one document.
    cut_after: usize,
    cut_at_most: usize,
    /// The beginning of a character whose end is in the next document's bytes.
    carried: Vec<u8>,
}

impl TextDocuments {
    /// * `from`: where in the file `input` begins
    pub(super) fn open(mut input: Input, from: u64) -> Result<Self> {
        let mut first = Vec::new();
        input.read_some(WHOLE_BYTES + 1, &mut first)?;
        let whole = first.len() as u64 <= WHOLE_BYTES;
        input.give_back(first);
        Ok(TextDocuments {
            input,
            offset: from,
            line: (from == 0).then_some(1),
            cut_after: if whole { usize::MAX } else { CUT_AFTER_BYTES },
            cut_at_most: if whole { usize::MAX } else { CUT_AT_MOST_BYTES },
            carried: Vec::new(),
        })
    }

    /// [`Input::taken`].
    pub(super) fn taken(&self) -> u64 {
        self.input.taken()
    }

    /// The next document. After an error about its bytes, the one after it.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.carried);
        let mut ended = false;
        loop {
            let line_start = bytes.len();
            let room = self.cut_at_most.saturating_sub(line_start) as u64;
            let read = self.input.read_line(room, &mut bytes)?;
            ended = ended || read == 0;
            let blank = read > 0 && bytes[line_start..].iter().all(u8::is_ascii_whitespace);
            if read == 0 || bytes.len() >= self.cut_at_most || (blank && bytes.len() >= self.cut_after) {
                break;
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let (start, line) = (self.offset, self.line);
        let problem = match std::str::from_utf8(&bytes) {
            Ok(_) => None,
            // A document cut at its largest size may end inside a character; the next one begins with it.
            Err(e) if e.error_len().is_none() && !ended && e.valid_up_to() > 0 => {
                self.carried = bytes.split_off(e.valid_up_to());
                None
            }
            Err(e) => Some(e.valid_up_to()),
        };
        self.offset += bytes.len() as u64;
        self.line = self.line.map(|line| line + newlines(&bytes));
        if let Some(at) = problem.or_else(|| bytes.iter().position(|byte| *byte == 0)) {
            let place = match line {
                Some(line) => format!("line {}", line + newlines(&bytes[..at])),
                None => "near the end".into(),
            };
            return Err(not_text(&self.input, &bytes, start, at, place));
        }
        let mut text = String::from_utf8(bytes).expect("the bytes were just found to be UTF-8");
        if start == 0 && text.starts_with('\u{FEFF}') {
            text.remove(0);
        }
        Ok(Some(text))
    }
}

/// What to say of bytes that are no UTF-8 text.
fn not_text(input: &Input, bytes: &[u8], start: u64, at: usize, place: String) -> Error {
    let (path, offset, byte) = (input.path.clone(), start + at as u64, bytes[at]);
    let utf16 = match bytes {
        [0xff, 0xfe, ..] if start == 0 => Some("utf-16le"),
        [0xfe, 0xff, ..] if start == 0 => Some("utf-16be"),
        _ => None,
    };
    match utf16 {
        Some(encoding) => Error::Encoding { path, encoding },
        None if bytes.contains(&0) => Error::Binary { path, place, offset },
        None => Error::Utf8 { path, place, offset, byte },
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufReader, Read};

    /// Gives as many bytes at a time as it is told.
    struct Dripping {
        bytes: std::io::Cursor<Vec<u8>>,
        sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
    }

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let most = self.sizes.next().unwrap_or(1).min(buffer.len());
            self.bytes.read(&mut buffer[..most])
        }
    }

    fn documents(reader: impl Read + Send + 'static) -> Vec<String> {
        let input = Input::of_reader(Box::new(BufReader::with_capacity(7, reader)));
        let mut documents = TextDocuments::open(input, 0).expect("opens");
        std::iter::from_fn(|| documents.next_text().expect("is text")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn documents_do_not_depend_on_how_bytes_come(
            line in "[aé日 ]{0,60}", lines in 1..4000usize, blank_every in 1..60usize,
            sizes in proptest::collection::vec(1..5000usize, 1..20),
        ) {
            let text: String = (0..lines)
                .map(|i| if i % blank_every == 0 { "\n".to_owned() } else { format!("{line}{i}\n") })
                .collect();
            let bytes = text.clone().into_bytes();
            let dripping =
                Dripping { bytes: std::io::Cursor::new(bytes.clone()), sizes: sizes.into_iter().cycle() };
            let found = documents(dripping);
            prop_assert_eq!(&found, &documents(std::io::Cursor::new(bytes)));
            prop_assert_eq!(found.concat(), text.clone());
            prop_assert!(text.len() as u64 > WHOLE_BYTES || found.len() == 1);
        }
    }
}

//! What a file holds, by its name and, where that does not say, by its first bytes.

use std::path::Path;

use super::input::{Compression, Input};
use crate::Result;

/// Endings of compressed files.
const COMPRESSED: [&str; 4] = ["gz", "gzip", "zst", "zstd"];
/// The first bytes of a Parquet file.
pub(crate) const PARQUET: &[u8] = b"PAR1";
/// How much of a file is looked at.
const LOOK: u64 = 64 << 10;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    JsonLines,
    Parquet,
    /// Token ids: u16 without a header, or a [`crate::TokenShard`].
    TokenIds,
}

impl Kind {
    /// All kinds, the one that a folder is read for first.
    pub(super) const ALL: [Kind; 4] = [Kind::Parquet, Kind::JsonLines, Kind::Text, Kind::TokenIds];

    /// By the file's name: its ending, or the one before that of a compression.
    pub(crate) fn of(path: &Path) -> Option<Kind> {
        let ending = path.extension()?.to_string_lossy().to_lowercase();
        match ending.as_str() {
            "txt" | "md" => Some(Kind::Text),
            "jsonl" | "ndjson" => Some(Kind::JsonLines),
            "parquet" => Some(Kind::Parquet),
            "bin" | "tokens" => Some(Kind::TokenIds),
            _ if COMPRESSED.contains(&ending.as_str()) => {
                let inner = Kind::of(Path::new(path.file_stem()?));
                inner.filter(|kind| matches!(kind, Kind::Text | Kind::JsonLines))
            }
            _ => None,
        }
    }

    /// By the contents of a file whose name does not say it: Parquet, or text in a file without an ending of its own.
    pub(super) fn of_contents(path: &Path) -> Result<Option<Kind>> {
        let compression = Compression::of_file(path)?;
        let mut first = Vec::new();
        Input::open(path, None)?.read_some(LOOK, &mut first)?;
        if compression == Compression::None && first.starts_with(PARQUET) {
            return Ok(Some(Kind::Parquet));
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let silent = ending.is_none_or(|ending| COMPRESSED.contains(&ending.as_str()));
        Ok(silent.then(|| Kind::of_text(&first)))
    }

    /// JSON lines or plain text, by its beginning.
    pub(crate) fn of_text(first: &[u8]) -> Kind {
        let blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
        let mut lines = first.split(|byte| *byte == b'\n').skip_while(blank);
        let Some(line) = lines.next() else { return Kind::Text };
        // A first document may be longer than what is looked at; then its line is cut off, in a string or not.
        let cut = lines.next().is_none();
        match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(whole_characters(line)) {
            Ok(_) => Kind::JsonLines,
            Err(error) if cut && error.is_eof() && opens_an_object(line) => Kind::JsonLines,
            Err(_) => Kind::Text,
        }
    }
}

/// Without a last character that is cut off.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// Whether a line begins as an object with a field does.
fn opens_an_object(line: &[u8]) -> bool {
    let mut letters = line.iter().filter(|byte| !byte.is_ascii_whitespace());
    (letters.next(), letters.next()) == (Some(&b'{'), Some(&b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_told_from_text_by_their_first_line_even_where_it_is_cut_off() {
        for (text, kind) in [
            ("\n\n{\"text\": \"a\"}\nwhatever", Kind::JsonLines),
            ("{\"text\": \"a", Kind::JsonLines),
            ("{\"text\": \"a\", \"n\": [1, 2", Kind::JsonLines),
            ("{\"te", Kind::JsonLines),
            ("{\"text\": \"a\nb", Kind::Text),
            ("{ a brace", Kind::Text),
            ("{", Kind::Text),
            ("\"a string", Kind::Text),
            ("[1, 2", Kind::Text),
            ("text", Kind::Text),
            ("", Kind::Text),
        ] {
            assert_eq!(Kind::of_text(text.as_bytes()), kind, "{text:?}");
        }
        assert_eq!(Kind::of_text("{\"text\": \"é".as_bytes()), Kind::JsonLines);
        assert_eq!(Kind::of_text(b"{\"text\": \"\xc3"), Kind::JsonLines, "in the middle of a character");
    }
}

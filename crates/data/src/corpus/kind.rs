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
    /// Token ids, u16 without a header.
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
            "bin" => Some(Kind::TokenIds),
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
        let line = first.split(|byte| *byte == b'\n').find(|line| !line.iter().all(u8::is_ascii_whitespace));
        let object = line.is_some_and(|line| {
            serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
        });
        if object { Kind::JsonLines } else { Kind::Text }
    }
}

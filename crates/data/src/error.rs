//! What can go wrong in this room. Every message names the file, the place, the value and the repair.

use std::path::{Path, PathBuf};

/// The result of this room's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as in "cannot …".
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Prepared data cannot be kept where it is to be kept.
    #[error(
        "the cache of prepared data, {}, cannot be used: {problem}; \
         see that it can be written and has room, or set ANNEAL_CACHE to another folder",
        folder.display()
    )]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        problem: std::io::Error,
    },
    /// A download that five attempts did not complete.
    #[error("{url}: {why}; {kept} bytes are kept, and the next attempt goes on from there")]
    Download {
        /// The file's address.
        url: String,
        /// What went wrong last.
        why: String,
        /// Bytes that are here.
        kept: u64,
    },
    /// The server does not give a file to everybody.
    #[error(
        "{url}: the server answers {status}: {}",
        if *token { "the token in HF_TOKEN does not open this data set; see on the data set's page what it asks for" }
        else { "the data set is private, or asks for consent on its page; set HF_TOKEN to an access token" }
    )]
    Forbidden {
        /// The file's address.
        url: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// A file or data set that the server does not have.
    #[error("{url}: the server has no such file; check the name of the data set, its revision and folder")]
    NoSuchFile {
        /// The file's address.
        url: String,
    },
    /// Files are missing, and the network is not to be used.
    #[error(
        "{name} is not whole in the cache, and HF_HUB_OFFLINE is set: {} missing ({}{}); \
         unset it, or prepare the data once with the network",
        if files.len() == 1 { "1 file is".to_owned() } else { format!("{} files are", files.len()) },
        files.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", "),
        if files.len() > 3 { ", …" } else { "" }
    )]
    Offline {
        /// The source.
        name: String,
        /// Its missing files.
        files: Vec<String>,
    },
    /// The data source does not exist, or is nothing that can be read.
    #[error("{path}: {why}; give `stories`, `climbmix`, `tinystories`, `hf:OWNER/NAME`, a .txt, .md, .jsonl, .parquet, .bin or .tokens file (text also as .gz or .zst), or a folder of one of these", path = path.display())]
    Source {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Text that is not UTF-8.
    #[error("{path}, {place}: byte 0x{byte:02x} at byte offset {offset} is not valid UTF-8; convert it first, for example with `iconv -t utf-8`", path = path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Line, or row group and row.
        place: String,
        /// Offset of the byte in the file, or in the row's text for Parquet.
        offset: u64,
        /// The byte.
        byte: u8,
    },
    /// Text in another encoding.
    #[error(
        "{path}: it is {encoding}, not UTF-8; convert it first, for example with `iconv -f {encoding} -t utf-8 {path} > new.txt`",
        path = path.display()
    )]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The encoding's name for `iconv`.
        encoding: &'static str,
    },
    /// Bytes that no text has.
    #[error("{path}, {place}: byte 0x00 at byte offset {offset}: it looks like a binary file, not text; leave it out", path = path.display())]
    Binary {
        /// The file.
        path: PathBuf,
        /// Line.
        place: String,
        /// Offset in the file.
        offset: u64,
    },
    /// A compressed file that breaks off or is damaged.
    #[error("{path}: the {kind} data is broken after {good} good bytes of text ({why}); download or compress the file again, or read what is good with --lenient", path = path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// Bytes of text before it.
        good: u64,
        /// What the decoder said.
        why: String,
    },
    /// Token ids whose tokenizer nobody named.
    #[error("{path}: it holds token ids, which mean nothing without their tokenizer; name it with --tokenizer FILE (data.tokenizer)", path = path.display())]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// A line of a .jsonl file that is not an object with a string field of this name.
    #[error("{path}, line {line} (byte offset {offset}): {why}; every line must be a JSON object with a string field `{field}`", path = path.display())]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: u64,
        /// Offset of the line's first byte.
        offset: u64,
        /// The field with the text.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A Parquet file that cannot be read.
    #[error("{path}, {place}: {why}; download or write the file again", path = path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Footer, or row group and row.
        place: String,
        /// What the reader said.
        why: String,
    },
    /// A Parquet file without a usable `text` column.
    #[error("{path}: {why}; its columns are {found}; name the one that holds the text with --column NAME (data.column); it must hold a string per row", path = path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// The columns found with their types.
        found: String,
    },
    /// A source that holds no text, or too little for the split in question.
    #[error("{path}: {why}", path = path.display())]
    NoText {
        /// The file or folder.
        path: PathBuf,
        /// What is missing and what to do.
        why: String,
    },
    /// A tokenizer file that cannot be used.
    #[error("{path}: {why}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// A vocabulary size that training cannot give.
    #[error("vocabulary of {asked}: {why}")]
    Vocabulary {
        /// The size asked for, special tokens included.
        asked: usize,
        /// What is possible.
        why: String,
    },
    /// A token shard that is not what it should be.
    #[error("{path}, {field}: found {found}, expected {expected}; {remedy}", path = path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// The header field or the part of the payload.
        field: &'static str,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
        /// What to do.
        remedy: String,
    },
    /// Fewer tokens than one window needs.
    #[error(
        "{tokens} tokens are too few for windows of {seq_len} + 1; use more text or a shorter sequence length"
    )]
    TooShort {
        /// Tokens at hand.
        tokens: usize,
        /// Sequence length T asked for.
        seq_len: usize,
    },
    /// The system gives no thread to make batches on.
    #[error("no thread can be started for making batches: {source}")]
    Thread {
        /// The system's reason.
        source: std::io::Error,
    },
    /// Training cannot go on where it was, since the data is another one.
    #[error("the order of the data cannot be taken up again: {why}; give the data that the run began with")]
    Resume {
        /// What does not agree.
        why: String,
    },
}

impl Error {
    /// For `map_err` on an i/o operation: `File::open(p).map_err(Error::io(p, "open it"))`.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { path: path.to_path_buf(), doing, source }
    }

    /// What went wrong with a file under one of `ours`, whose names tell nobody anything, as an error of `cache`.
    pub(crate) fn in_cache(self, cache: &Path, ours: &[&Path]) -> Error {
        match self {
            Error::Io { path, source, .. } if ours.iter().any(|folder| path.starts_with(folder)) => {
                Error::Cache { folder: cache.to_owned(), problem: source }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_becomes_an_error_of_the_cache() {
        let (cache, ours) = (Path::new("cache"), Path::new("cache/datasets"));
        let broken = |path: &str| Error::io(Path::new(path), "read it")(std::io::Error::other("no"));
        let error = broken("cache/datasets/.new-1/train.tokens").in_cache(cache, &[ours]);
        assert!(matches!(&error, Error::Cache { folder, .. } if folder == cache), "{error}");
        let error = broken("cache/my.txt").in_cache(cache, &[ours]);
        assert!(error.to_string().contains("my.txt"), "{error}");
    }
}

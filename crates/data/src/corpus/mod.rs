//! Where text comes from: the `--data` string, the documents behind it, and what is held out for validation.
//!
//! Documents stream in sorted file order with constant memory. What is read:
//!
//! | file | documents |
//! | --- | --- |
//! | `.txt`, `.md` | one per file up to 64 KiB; a longer file is cut at blank lines into documents of 8 to 16 KiB |
//! | `.jsonl` | one per line, the string field `text` |
//! | `.parquet` | one per row, the string column `text` |
//! | `.bin`, `.tokens` | token ids, u16 without a header, as llama2.c and nanoGPT write them, or a [`crate::shard`]: one from each BOS to the next |
//!
//! Text and JSON lines may be compressed (gzip, zstd), whatever the file is called. Another field or column is a
//! [`ReadOptions::column`]. A folder is read without its subfolders and holds one kind: Parquet files if there are any,
//! else `.jsonl`, else text, else token ids. Documents of no characters are passed over, and counted.
//!
//! Held out for validation (the first rule that applies):
//! 1. the built-in stories: a stream of their own;
//! 2. a folder with files whose names start with `valid` or are `val`, `val_…`, `val-…`, `val.…`: these (files named `test…` are
//!    then read by nobody); a folder with files named `test…`: these; of a data set on the Hub a folder's name counts likewise;
//! 3. a folder with `shard_06542.parquet` (the pinned shard of climbmix-400b-shuffle): that shard;
//! 4. a single text file that is not compressed: from the first blank line after 95% of its bytes (else the next line,
//!    else the next character); a single file of token ids: from the first BOS after 95% of them (else from there);
//! 5. otherwise every 100th document, counting from the first, at most 1,000.

mod input;
mod json_lines;
pub(crate) mod kind;
mod parquet_rows;
mod reading;
mod text;

use crate::hub::{HubSource, LocalFile};
use crate::stories::Stories;
use crate::{Error, Result, Split};
pub(crate) use input::{Compression, unpacked};
pub(crate) use kind::Kind;
pub use reading::{Documents, Others, ReadReport, Skipped};
use reading::{FileReading, Reading};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Without validation files, one document in this many is held out.
pub const HELD_OUT_EVERY: u64 = 100;
/// … until this many are.
pub const HELD_OUT_MOST: u64 = 1000;
/// A single text file keeps this share of its bytes for training.
pub const TEXT_TRAIN_SHARE: f64 = 0.95;
/// The file that climbmix-400b-shuffle pins as validation.
pub const PINNED_SHARD: &str = "shard_06542.parquet";

/// Bytes of training stories unless the source says otherwise.
pub const STORIES_TRAIN_BYTES: u64 = 10_000_000;
/// Bytes of validation stories.
pub const STORIES_VALID_BYTES: u64 = 300_000;

/// A data source as the user names it.
///
/// ```
/// use data::Source;
/// assert_eq!("stories".parse::<Source>()?, Source::stories(1));
/// assert_eq!("stories:7".parse::<Source>()?, Source::stories(7));
/// assert!(matches!("books/".parse::<Source>()?, Source::Path(_)));
/// # Ok::<(), data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in stories.
    Stories {
        /// Seed of the two streams.
        seed: u64,
        /// Training stories are told until they have this many bytes.
        train_bytes: u64,
        /// Validation stories likewise.
        valid_bytes: u64,
    },
    /// A file or a folder.
    Path(PathBuf),
    /// A public data set, which [`crate::prepare()`] downloads.
    Hub(HubSource),
}

impl Source {
    /// The built-in stories of this seed in their default size.
    pub fn stories(seed: u64) -> Self {
        Source::Stories { seed, train_bytes: STORIES_TRAIN_BYTES, valid_bytes: STORIES_VALID_BYTES }
    }
}

impl FromStr for Source {
    type Err = Error;

    /// `stories`, `stories:SEED`, a [`HubSource`], or a path (write `./stories` for a folder of that name).
    fn from_str(text: &str) -> Result<Self> {
        if text == "stories" {
            return Ok(Source::stories(1));
        }
        if let Some(seed) = text.strip_prefix("stories:") {
            return seed.parse().map(Source::stories).map_err(|_| Error::Source {
                path: text.into(),
                why: format!("the seed {seed:?} is not a whole number"),
            });
        }
        if let Some(hub) = HubSource::parse(text) {
            return hub.map(Source::Hub).map_err(|why| Error::Source { path: text.into(), why });
        }
        Ok(Source::Path(text.into()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Stories { seed, .. } => write!(f, "stories:{seed}"),
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Hub(hub) => write!(f, "{hub}"),
        }
    }
}

/// The column or field that holds the text, unless the options say otherwise.
pub const COLUMN: &str = "text";

/// How files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The column of a Parquet file, or the field of a JSON line, with the text.
    pub column: String,
    /// Pass over what cannot be read, and count it, instead of ending with an error.
    pub lenient: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { column: COLUMN.into(), lenient: false }
    }
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text; never empty.
    pub text: String,
    /// Whether it is the first of its split in its group: a row group of a Parquet file, any other file, all stories.
    pub begins_group: bool,
}

impl AsRef<str> for Document {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// A source whose files have been listed and whose split has been decided.
#[derive(Clone, Debug)]
pub struct Corpus {
    source: Source,
    kind: Kind,
    files: Vec<PathBuf>,
    held_out: HeldOut,
    options: ReadOptions,
    others: Others,
}

#[derive(Clone, Debug)]
enum HeldOut {
    /// The stories' own validation stream.
    Stream,
    /// These files.
    Files(Vec<PathBuf>),
    /// The bytes of the only file from this offset on.
    From(u64),
    /// The last part of the only file of token ids.
    LastTokens,
    /// Every [`HELD_OUT_EVERY`]th document.
    Documents,
}

impl Corpus {
    /// Lists the files and decides the split; reads no documents (only, for a single text file, where to cut it).
    pub fn open(source: &Source) -> Result<Corpus> {
        Corpus::open_with(source, &ReadOptions::default())
    }

    /// Likewise, with other options.
    pub fn open_with(source: &Source, options: &ReadOptions) -> Result<Corpus> {
        let corpus = |kind, files, held_out| {
            let (source, options, others) = (source.clone(), options.clone(), Others::default());
            Ok(Corpus { source, kind, files, held_out, options, others })
        };
        let path = match source {
            Source::Stories { .. } => {
                return corpus(Kind::Text, Vec::new(), HeldOut::Stream);
            }
            Source::Path(path) => path,
            Source::Hub(_) => {
                let why = "its files are looked up by `Corpus::of_hub`".into();
                return Err(Error::Source { path: source.to_string().into(), why });
            }
        };
        let about = |why: String| Error::Source { path: path.clone(), why };
        let found = fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => about("there is no such file or folder".into()),
            _ => Error::Io { path: path.clone(), doing: "look at it", source: e },
        })?;
        if !found.is_dir() {
            let kind = match Kind::of(path) {
                Some(kind) => kind,
                None => Kind::of_contents(path)?.ok_or_else(|| about(unreadable_kind(path)))?,
            };
            let held_out = match kind {
                Kind::Text if Compression::of_file(path)? == Compression::None => {
                    HeldOut::From(text_cut(path)?)
                }
                Kind::TokenIds => HeldOut::LastTokens,
                _ => HeldOut::Documents,
            };
            return corpus(kind, vec![path.clone()], held_out);
        }
        let (mut all, mut others) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(path).map_err(Error::io(path, "list the folder"))? {
            let entry = entry.map_err(Error::io(path, "list the folder"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match fs::metadata(entry.path()) {
                _ if name.starts_with('.') => {}
                Ok(about) if about.is_file() => all.push(entry.path()),
                Ok(about) if about.is_dir() => others.push(name + "/"),
                _ => others.push(name),
            }
        }
        all.sort();
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| all.iter().any(|file| Kind::of(file) == Some(*kind)))
            .ok_or_else(|| {
                about(format!(
                    "the folder holds no such file among its {} (subfolders are not read)",
                    all.len()
                ))
            })?;
        let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (all, of_other_kind) =
            all.into_iter().partition::<Vec<_>, _>(|file| Kind::of(file) == Some(kind));
        others.extend(of_other_kind.iter().map(name));
        let (files, held_out, test) = split_files(all.into_iter().map(|file| (name(&file), file)).collect());
        others.extend(test);
        if files.is_empty() {
            return Err(about(
                "every file in the folder is named as validation or test data; none is left to train on"
                    .into(),
            ));
        }
        corpus(kind, files, held_out).map(|corpus: Corpus| Corpus { others: Others::of(others), ..corpus })
    }

    /// A public data set whose files are here; `files` as [`crate::hub::fetch`] gives them.
    pub fn of_hub(source: &HubSource, files: &[LocalFile], options: &ReadOptions) -> Result<Corpus> {
        let kind = files.first().and_then(|file| Kind::of(&file.path)).unwrap_or(Kind::Parquet);
        let within = source.folder();
        let name = |file: &LocalFile| file.name.strip_prefix(within).unwrap_or(&file.name).to_owned();
        let named = files.iter().map(|file| (name(file), file.path.clone())).collect();
        let (files, held_out, test) = split_files(named);
        if files.is_empty() {
            let why = "every file of it is named as validation or test data; none is left to train on".into();
            return Err(Error::Source { path: source.to_string().into(), why });
        }
        let mut options = options.clone();
        if let Some(column) = source.column() {
            options.column = column.into();
        }
        let (source, others) = (Source::Hub(source.clone()), Others::of(test));
        Ok(Corpus { source, kind, files, held_out, options, others })
    }

    /// The source as given.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Every file that may be read, training files first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let held_out = match &self.held_out {
            HeldOut::Files(files) => files.as_slice(),
            _ => &[],
        };
        self.files.iter().chain(held_out).map(PathBuf::as_path)
    }

    /// One sentence on what is held out for validation, for people.
    pub fn split_rule(&self) -> String {
        match &self.held_out {
            HeldOut::Stream => "validation stories are a stream of their own".into(),
            HeldOut::Files(files) => {
                let names: Vec<_> =
                    files.iter().filter_map(|f| f.file_name()).map(|n| n.to_string_lossy()).collect();
                format!("validation is {}", names.join(", "))
            }
            HeldOut::From(cut) => format!("validation is the file's end, from byte {cut}"),
            HeldOut::LastTokens => "validation is the file's last twentieth".into(),
            HeldOut::Documents => {
                format!("every {HELD_OUT_EVERY}th document is held out, at most {HELD_OUT_MOST}")
            }
        }
    }

    /// What lies in the folder and is no part of the data.
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// What its files hold.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its files hold token ids, which [`Corpus::token_files`] names and [`Corpus::documents`] cannot read.
    pub fn holds_token_ids(&self) -> bool {
        self.kind == Kind::TokenIds
    }

    /// The files of token ids of one split; `None` in place of the validation files of a single one.
    pub fn token_files(&self, split: Split) -> Option<&[PathBuf]> {
        match (&self.held_out, split) {
            (HeldOut::Files(files), Split::Valid) => Some(files),
            (_, Split::Valid) => None,
            (_, Split::Train) => Some(&self.files),
        }
    }

    /// Whether both splits are read from the same files, so that each is read past the other's documents.
    pub fn shares_files(&self) -> bool {
        matches!(self.held_out, HeldOut::Documents)
    }

    /// The documents of one split, in order. Nothing is read ahead of the iterator.
    pub fn documents(&self, split: Split) -> Documents<'_> {
        let reading = match (&self.source, &self.held_out, split) {
            (Source::Stories { seed, train_bytes, valid_bytes }, ..) => {
                let left = if split == Split::Train { *train_bytes } else { *valid_bytes };
                Reading::Stories { stories: Stories::new(*seed, split), left, begun: false }
            }
            (_, HeldOut::Files(files), Split::Valid) => self.reading(files, None, None),
            (_, HeldOut::From(cut), Split::Train) => self.reading(&self.files, Some((0, *cut)), None),
            (_, HeldOut::From(cut), Split::Valid) => self.reading(&self.files, Some((*cut, u64::MAX)), None),
            (_, HeldOut::Documents, _) => self.reading(&self.files, None, Some(split)),
            _ => self.reading(&self.files, None, None),
        };
        Documents::new(reading)
    }

    fn reading<'c>(
        &'c self,
        files: &'c [PathBuf],
        span: Option<(u64, u64)>,
        pick: Option<Split>,
    ) -> Reading<'c> {
        Reading::Files(Box::new(FileReading::new(self.kind, files, &self.options, span, pick)))
    }
}

/// Parts a folder's files, each with its name in it, into those to train on, what is held out, and the names of those that
/// are neither. A file is what it or a folder on the way to it is named.
fn split_files(files: Vec<(String, PathBuf)>) -> (Vec<PathBuf>, HeldOut, Vec<String>) {
    let is_valid = |part: &str| {
        part.starts_with("valid")
            || part.strip_prefix("val").is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let is_test = |part: &str| part.starts_with("test");
    let (mut train, mut valid, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for (written, file) in files {
        let name = written.to_lowercase();
        if name.split('/').any(is_valid) {
            valid.push(file);
        } else if name.split('/').any(is_test) {
            test.push((written, file));
        } else {
            train.push(file);
        }
    }
    let (test_names, test): (Vec<_>, Vec<_>) = test.into_iter().unzip();
    match (valid.is_empty(), test.is_empty()) {
        (false, _) => return (train, HeldOut::Files(valid), test_names),
        (true, false) => return (train, HeldOut::Files(test), Vec::new()),
        (true, true) => {}
    }
    let pinned = |f: &PathBuf| f.file_name().is_some_and(|n| n == PINNED_SHARD);
    match train.iter().position(pinned) {
        Some(at) if train.len() > 1 => {
            let shard = train.remove(at);
            (train, HeldOut::Files(vec![shard]), Vec::new())
        }
        _ => (train, HeldOut::Documents, Vec::new()),
    }
}

fn unreadable_kind(path: &Path) -> String {
    match path.extension().map(|e| e.to_string_lossy().to_lowercase()) {
        Some(e) if ["zip", "bz2", "xz", "7z", "tar", "tgz"].contains(&e.as_str()) => {
            format!("files of kind .{e} are not read; unpack it, or compress it with gzip or zstd")
        }
        Some(e) => format!("files of kind .{e} are not read"),
        None => "the file's name has no ending that says what it holds".into(),
    }
}

/// Where a single text file is cut: the end of the first blank line at or after 95% of its bytes, else of the first
/// line, else the next character boundary. Looks at most 64 KiB ahead.
fn text_cut(path: &Path) -> Result<u64> {
    let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
    let bytes = file.metadata().map_err(Error::io(path, "ask for its size"))?.len();
    if bytes == 0 {
        let why = "the file is empty (0 bytes); give a file with text in it".into();
        return Err(Error::NoText { path: path.to_path_buf(), why });
    }
    let from = (bytes as f64 * TEXT_TRAIN_SHARE) as u64;
    file.seek(SeekFrom::Start(from)).map_err(Error::io(path, "read it"))?;
    let mut reader = BufReader::new(file);
    let (mut at, mut first_line, mut line) = (from, None, Vec::new());
    while at - from < 64 << 10 {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(Error::io(path, "read it"))?;
        at += read as u64;
        if read == 0 || at >= bytes {
            break;
        }
        // The first piece may be the rest of a line, so only a later one can be a blank line.
        if first_line.is_some() && line.iter().all(u8::is_ascii_whitespace) {
            return Ok(at);
        }
        first_line.get_or_insert(at);
    }
    if let Some(cut) = first_line {
        return Ok(cut);
    }
    // One long line: step over the continuation bytes (0b10xxxxxx) of a character that the cut would split.
    let mut file = reader.into_inner();
    file.seek(SeekFrom::Start(from)).map_err(Error::io(path, "read it"))?;
    let mut next = [0u8; 4];
    let read = std::io::Read::read(&mut file, &mut next).map_err(Error::io(path, "read it"))?;
    Ok(from + next[..read].iter().take_while(|b| **b & 0xC0 == 0x80).count() as u64)
}

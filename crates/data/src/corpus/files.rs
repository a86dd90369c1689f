//! Reading the documents of one file: text, JSON lines, Parquet.

use crate::{Error, Result};
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A text file up to this size is one document.
const WHOLE_BYTES: u64 = 64 << 10;
/// A longer one is cut at the first blank line after this many bytes …
const CUT_AFTER_BYTES: usize = 8 << 10;
/// … or, when none comes, at this size. Tokenizer training reads 10,000 characters of a document, so that most text counts.
const CUT_AT_MOST_BYTES: usize = 16 << 10;
/// Rows asked of a Parquet column at a time.
const ROWS: usize = 64;
/// The column or field that holds the text.
pub const COLUMN: &str = "text";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    JsonLines,
    Parquet,
}

impl Kind {
    pub(super) fn of(path: &Path) -> Option<Kind> {
        match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "txt" | "md" => Some(Kind::Text),
            "jsonl" => Some(Kind::JsonLines),
            "parquet" => Some(Kind::Parquet),
            _ => None,
        }
    }
}

/// The texts of one file, one after another.
pub(super) enum FileDocuments {
    Text(TextDocuments),
    JsonLines(JsonLines),
    Parquet(Box<ParquetRows>),
}

impl FileDocuments {
    /// `span` is for text files: the bytes to read.
    pub(super) fn open(kind: Kind, path: &Path, span: Option<(u64, u64)>) -> Result<Self> {
        match kind {
            Kind::Text => TextDocuments::open(path, span).map(FileDocuments::Text),
            Kind::JsonLines => JsonLines::open(path).map(FileDocuments::JsonLines),
            Kind::Parquet => ParquetRows::open(path).map(Box::new).map(FileDocuments::Parquet),
        }
    }

    /// The group (see [`crate::DocumentIndex`]) of the text that came last.
    pub(super) fn group(&self) -> usize {
        match self {
            FileDocuments::Parquet(rows) => rows.next_group,
            FileDocuments::Text(_) | FileDocuments::JsonLines(_) => 0,
        }
    }

    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        match self {
            FileDocuments::Text(text) => text.next_text(),
            FileDocuments::JsonLines(lines) => lines.next_text(),
            FileDocuments::Parquet(rows) => rows.next_text(),
        }
    }
}

pub(super) struct TextDocuments {
    path: PathBuf,
    reader: std::io::Take<BufReader<File>>,
    /// Offset in the file of the first byte not yet handed out.
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
    fn open(path: &Path, span: Option<(u64, u64)>) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
        let bytes = file.metadata().map_err(Error::io(path, "ask for its size"))?.len();
        let (from, to) = span.map_or((0, bytes), |(from, to)| (from, to.min(bytes)));
        file.seek(SeekFrom::Start(from)).map_err(Error::io(path, "read it"))?;
        let whole = to - from <= WHOLE_BYTES;
        Ok(TextDocuments {
            path: path.to_path_buf(),
            reader: BufReader::new(file).take(to - from),
            offset: from,
            line: (from == 0).then_some(1),
            cut_after: if whole { usize::MAX } else { CUT_AFTER_BYTES },
            cut_at_most: if whole { usize::MAX } else { CUT_AT_MOST_BYTES },
            carried: Vec::new(),
        })
    }

    fn next_text(&mut self) -> Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.carried);
        loop {
            let line_start = bytes.len();
            let room = self.cut_at_most.saturating_sub(line_start) as u64;
            let read = (&mut self.reader)
                .take(room)
                .read_until(b'\n', &mut bytes)
                .map_err(Error::io(&self.path, "read it"))?;
            let blank = read > 0 && bytes[line_start..].iter().all(u8::is_ascii_whitespace);
            if read == 0 || bytes.len() >= self.cut_at_most || (blank && bytes.len() >= self.cut_after) {
                break;
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let text = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes,
            // A document cut at its largest size may end inside a character; the next one begins with it.
            Err(e) if e.error_len().is_none() && self.reader.limit() > 0 && e.valid_up_to() > 0 => {
                self.carried = bytes.split_off(e.valid_up_to());
                bytes
            }
            Err(e) => {
                let at = e.valid_up_to();
                let place = match self.line {
                    Some(line) => format!("line {}", line + newlines(&bytes[..at])),
                    None => "near the end".into(),
                };
                return Err(Error::Utf8 {
                    path: self.path.clone(),
                    place,
                    offset: start + at as u64,
                    byte: bytes[at],
                });
            }
        };
        self.offset += text.len() as u64;
        self.line = self.line.map(|line| line + newlines(&text));
        let mut text = String::from_utf8(text).expect("the bytes were just found to be UTF-8");
        if start == 0 && text.starts_with('\u{FEFF}') {
            text.remove(0);
        }
        Ok(Some(text))
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

pub(super) struct JsonLines {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
    offset: u64,
}

impl JsonLines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open it"))?;
        Ok(JsonLines { path: path.to_path_buf(), reader: BufReader::new(file), line: 0, offset: 0 })
    }

    /// The next line's text; blank lines count as empty documents.
    fn next_text(&mut self) -> Result<Option<String>> {
        #[derive(serde::Deserialize)]
        struct Line {
            text: String,
        }
        let mut bytes = Vec::new();
        let offset = self.offset;
        let read = self.reader.read_until(b'\n', &mut bytes).map_err(Error::io(&self.path, "read it"))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.offset += read as u64;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(String::new()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| Error::Utf8 {
            path: self.path.clone(),
            place: format!("line {}", self.line),
            offset: offset + e.valid_up_to() as u64,
            byte: bytes[e.valid_up_to()],
        })?;
        // Without its newline, after which a cut-off line would seem to go on.
        serde_json::from_str::<Line>(text.trim_end()).map(|line| Some(line.text)).map_err(|e| {
            // serde_json counts lines within what it was given, which is always one line.
            let why = e.to_string().replace(" at line 1 column", " at column");
            Error::JsonLine { path: self.path.clone(), line: self.line, offset, why }
        })
    }
}

pub(super) struct ParquetRows {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    column: usize,
    optional: bool,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Row of the current group that `rows` begins with, for errors.
    row: usize,
    rows: std::vec::IntoIter<Option<ByteArray>>,
}

impl ParquetRows {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open it"))?;
        let bytes = file.metadata().map_err(Error::io(path, "ask for its size"))?.len();
        let reader = SerializedFileReader::new(file).map_err(|e| Error::Parquet {
            path: path.to_path_buf(),
            place: format!("footer (the end of its {bytes} bytes)"),
            why: format!("it is not a whole Parquet file ({e})"),
        })?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let about = |why: &str| Error::Column {
            path: path.to_path_buf(),
            why: why.into(),
            found: schema
                .columns()
                .iter()
                .map(|c| format!("`{}` ({})", c.path().string(), c.physical_type()))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let column = (0..schema.num_columns()).find(|i| schema.column(*i).path().string() == COLUMN);
        let column = column.ok_or_else(|| about("there is no column `text`"))?;
        let described = schema.column(column);
        if described.physical_type() != PhysicalType::BYTE_ARRAY || described.max_rep_level() > 0 {
            return Err(about("the column `text` does not hold one string per row"));
        }
        Ok(ParquetRows {
            path: path.to_path_buf(),
            reader,
            column,
            optional: described.max_def_level() > 0,
            next_group: 0,
            group: None,
            row: 0,
            rows: Vec::new().into_iter(),
        })
    }

    /// The next row's text; null counts as an empty document.
    fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(row) = self.rows.next() {
                self.row += 1;
                let bytes = row.as_ref().map_or(&[][..], |r| r.data());
                return match std::str::from_utf8(bytes) {
                    Ok(text) => Ok(Some(text.to_string())),
                    Err(e) => Err(Error::Utf8 {
                        path: self.path.clone(),
                        place: self.place(),
                        offset: e.valid_up_to() as u64,
                        byte: bytes[e.valid_up_to()],
                    }),
                };
            }
            if !self.read_rows().map_err(|e| Error::Parquet {
                path: self.path.clone(),
                place: self.place(),
                why: e.to_string(),
            })? {
                return Ok(None);
            }
        }
    }

    fn place(&self) -> String {
        format!(
            "row group {}, row {}, column `{COLUMN}`",
            self.next_group.saturating_sub(1),
            self.row.saturating_sub(1)
        )
    }

    /// Fills `rows` or moves on to the next row group; false at the end of the file.
    fn read_rows(&mut self) -> parquet::errors::Result<bool> {
        let Some(group) = &mut self.group else {
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            self.next_group += 1;
            self.row = 0;
            let group = self.reader.get_row_group(self.next_group - 1)?;
            match group.get_column_reader(self.column)? {
                ColumnReader::ByteArrayColumnReader(reader) => self.group = Some(reader),
                _ => unreachable!("open() checked that the column is a byte array"),
            }
            return Ok(true);
        };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (records, ..) =
            group.read_records(ROWS, self.optional.then_some(&mut levels), None, &mut values)?;
        if records == 0 {
            self.group = None;
        }
        let mut values = values.into_iter();
        // A definition level of 0 marks a null, for which no value is stored.
        self.rows = match self.optional {
            false => values.map(Some).collect::<Vec<_>>(),
            true => levels.iter().map(|level| if *level > 0 { values.next() } else { None }).collect(),
        }
        .into_iter();
        Ok(true)
    }
}

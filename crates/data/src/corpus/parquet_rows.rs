//! The documents of a Parquet file.
//!
//! Several row groups are unpacked at the same time, as many as there are threads; one that is very large is read piece
//! by piece instead, so that memory stays bounded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use rayon::prelude::*;

use crate::{Error, Result};

/// Rows asked of a column at a time.
const ROWS: usize = 64;
/// A row group with more bytes of text is not unpacked at once.
const AT_ONCE_BYTES: i64 = 32 << 20;

/// A file that several threads read, each from its own place.
struct Positioned {
    file: Arc<File>,
    bytes: u64,
}

/// A place in it.
struct Place {
    file: Arc<File>,
    at: u64,
}

impl Read for Place {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Length for Positioned {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Positioned {
    type T = BufReader<Place>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(Place { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// The column of a file.
struct Column {
    path: PathBuf,
    reader: SerializedFileReader<Positioned>,
    name: String,
    column: usize,
    optional: bool,
}

pub(super) struct ParquetRows {
    column: Column,
    next_group: usize,
    /// Row groups that are unpacked, by number from 1.
    ready: VecDeque<(usize, std::vec::IntoIter<Result<String>>)>,
    /// A large row group that is read piece by piece.
    large: Option<GroupRows>,
    /// The row group of the row that came last.
    last: usize,
}

/// The rows of one row group, one after another.
struct GroupRows {
    /// From 0.
    number: usize,
    /// `None` when it has ended.
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Rows that came.
    row: usize,
    rows: std::vec::IntoIter<Option<ByteArray>>,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open it"))?;
        let bytes = file.metadata().map_err(Error::io(path, "ask for its size"))?.len();
        let reader = SerializedFileReader::new(Positioned { file: Arc::new(file), bytes });
        let reader = reader.map_err(|e| Error::Parquet {
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
        let column = (0..schema.num_columns()).find(|i| schema.column(*i).path().string() == name);
        let column = column.ok_or_else(|| about(&format!("there is no column `{name}`")))?;
        let described = schema.column(column);
        if described.physical_type() != PhysicalType::BYTE_ARRAY || described.max_rep_level() > 0 {
            return Err(about(&format!("the column `{name}` does not hold one string per row")));
        }
        let optional = described.max_def_level() > 0;
        let column = Column { path: path.to_path_buf(), reader, name: name.to_owned(), column, optional };
        Ok(ParquetRows { column, next_group: 0, ready: VecDeque::new(), large: None, last: 0 })
    }

    /// The row group (from 1) of the row that came last.
    pub(super) fn group(&self) -> usize {
        self.last
    }

    /// Bytes of the file in row groups that were begun, about.
    pub(super) fn taken(&self) -> u64 {
        let bytes = |group| self.column.reader.metadata().row_group(group).compressed_size().max(0) as u64;
        (0..self.last).map(bytes).sum()
    }

    /// The next row's text; null counts as an empty document. After an error about a row, the next one; after one about
    /// the file, the next row group.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            if let Some((group, rows)) = self.ready.front_mut() {
                self.last = *group;
                match rows.next() {
                    Some(row) => return row.map(Some),
                    None => _ = self.ready.pop_front(),
                }
            } else if let Some(rows) = &mut self.large {
                self.last = rows.number + 1;
                match rows.next(&self.column) {
                    Some(row) => return row.map(Some),
                    None => self.large = None,
                }
            } else if self.next_group < self.column.reader.num_row_groups() {
                self.begin_groups()?;
            } else {
                return Ok(None);
            }
        }
    }

    /// Unpacks the next row groups, or begins a large one.
    fn begin_groups(&mut self) -> Result<()> {
        let first = self.next_group;
        if self.column.text_bytes(first) > AT_ONCE_BYTES {
            self.next_group += 1;
            self.large = Some(self.column.group(first)?);
            return Ok(());
        }
        let most = self.column.reader.num_row_groups().min(first + rayon::current_num_threads());
        let small = (first..most).take_while(|group| self.column.text_bytes(*group) <= AT_ONCE_BYTES).count();
        self.next_group += small;
        let column = &self.column;
        let unpacked = (first..first + small).into_par_iter().map(|group| {
            let rows: Vec<Result<String>> = match column.group(group) {
                Err(error) => vec![Err(error)],
                Ok(mut rows) => std::iter::from_fn(|| rows.next(column)).collect(),
            };
            (group + 1, rows.into_iter())
        });
        self.ready.extend(unpacked.collect::<Vec<_>>());
        Ok(())
    }
}

impl Column {
    /// Bytes of the column in a row group, unpacked.
    fn text_bytes(&self, group: usize) -> i64 {
        self.reader.metadata().row_group(group).column(self.column).uncompressed_size()
    }

    fn group(&self, number: usize) -> Result<GroupRows> {
        let reader = self.reader.get_row_group(number).and_then(|group| group.get_column_reader(self.column));
        match reader.map_err(|e| self.broken(number, 0, &e))? {
            ColumnReader::ByteArrayColumnReader(reader) => {
                Ok(GroupRows { number, reader: Some(reader), row: 0, rows: Vec::new().into_iter() })
            }
            _ => unreachable!("open() checked that the column is a byte array"),
        }
    }

    fn place(&self, group: usize, row: usize) -> String {
        format!("row group {group}, row {row}, column `{}`", self.name)
    }

    fn broken(&self, group: usize, row: usize, why: &parquet::errors::ParquetError) -> Error {
        Error::Parquet { path: self.path.clone(), place: self.place(group, row), why: why.to_string() }
    }
}

impl GroupRows {
    /// The next row; after an error about the file, the end.
    fn next(&mut self, column: &Column) -> Option<Result<String>> {
        loop {
            if let Some(row) = self.rows.next() {
                self.row += 1;
                let bytes = row.as_ref().map_or(&[][..], |r| r.data());
                let text = std::str::from_utf8(bytes).map_err(|e| Error::Utf8 {
                    path: column.path.clone(),
                    place: column.place(self.number, self.row - 1),
                    offset: e.valid_up_to() as u64,
                    byte: bytes[e.valid_up_to()],
                });
                return Some(text.map(str::to_owned));
            }
            let reader = self.reader.as_mut()?;
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            let read = reader.read_records(ROWS, column.optional.then_some(&mut levels), None, &mut values);
            match read {
                Err(e) => {
                    self.reader = None;
                    return Some(Err(column.broken(self.number, self.row, &e)));
                }
                Ok((0, ..)) => self.reader = None,
                Ok(_) => {
                    let mut values = values.into_iter();
                    // A definition level of 0 marks a null, for which no value is stored.
                    let rows: Vec<Option<ByteArray>> = match column.optional {
                        false => values.map(Some).collect(),
                        true => levels.iter().map(|l| if *l > 0 { values.next() } else { None }).collect(),
                    };
                    self.rows = rows.into_iter();
                }
            }
        }
    }
}

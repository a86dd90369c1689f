//! The documents of a Parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::{Error, Result};

/// Rows asked of a column at a time.
const ROWS: usize = 64;

pub(super) struct ParquetRows {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    name: String,
    column: usize,
    optional: bool,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    /// Row of the current group that `rows` begins with, for errors.
    row: usize,
    rows: std::vec::IntoIter<Option<ByteArray>>,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
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
        let column = (0..schema.num_columns()).find(|i| schema.column(*i).path().string() == name);
        let column = column.ok_or_else(|| about(&format!("there is no column `{name}`")))?;
        let described = schema.column(column);
        if described.physical_type() != PhysicalType::BYTE_ARRAY || described.max_rep_level() > 0 {
            return Err(about(&format!("the column `{name}` does not hold one string per row")));
        }
        Ok(ParquetRows {
            path: path.to_path_buf(),
            reader,
            name: name.to_owned(),
            column,
            optional: described.max_def_level() > 0,
            next_group: 0,
            group: None,
            row: 0,
            rows: Vec::new().into_iter(),
        })
    }

    /// The row group (from 1) of the row that came last.
    pub(super) fn group(&self) -> usize {
        self.next_group
    }

    /// The next row's text; null counts as an empty document. After an error about a row, the next one; after one about
    /// the file, the next row group.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
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
            match self.read_rows() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) => {
                    let (path, place, why) = (self.path.clone(), self.place(), e.to_string());
                    self.group = None;
                    return Err(Error::Parquet { path, place, why });
                }
            }
        }
    }

    fn place(&self) -> String {
        format!(
            "row group {}, row {}, column `{}`",
            self.next_group.saturating_sub(1),
            self.row.saturating_sub(1),
            self.name
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

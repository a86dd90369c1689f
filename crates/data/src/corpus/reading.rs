//! An iterator over the documents of a split, and what it passed over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::input::Input;
use super::json_lines::JsonLines;
use super::parquet_rows::ParquetRows;
use super::text::TextDocuments;
use super::{Document, HELD_OUT_EVERY, HELD_OUT_MOST, Kind, ReadOptions};
use crate::stories::Stories;
use crate::{Error, Result, Split};

/// What was passed over while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Documents without a character.
    pub empty: u64,
    /// What could not be read, by reason; only with [`ReadOptions::lenient`].
    pub skipped: Vec<Skipped>,
    /// What lies in the folder and is no part of the data.
    #[serde(default)]
    pub others: Others,
}

/// Files and folders beside those that are read: of another kind, named as test data where there are validation files,
/// or subfolders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Others {
    /// How many.
    pub count: u64,
    /// The names of the first of them, folders with a slash behind.
    pub some: Vec<String>,
}

impl Others {
    /// Names that [`Others::some`] has at most.
    const SOME: usize = 3;

    pub(super) fn of(mut names: Vec<String>) -> Others {
        let count = names.len() as u64;
        names.sort();
        names.truncate(Others::SOME);
        Others { count, some: names }
    }

    /// What a person is told.
    fn line(&self) -> Option<String> {
        let more = if self.count > self.some.len() as u64 { ", …" } else { "" };
        let names = self.some.join(", ");
        (self.count > 0).then(|| format!("not read, {} in the folder: {names}{more}", self.count))
    }
}

/// Parts that could not be read for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The reason.
    pub why: String,
    /// How many.
    pub count: u64,
    /// What was said of the first.
    pub first: String,
}

impl ReadReport {
    /// Notes a part that could not be read.
    fn skip(&mut self, why: &str, error: &Error) {
        match self.skipped.iter_mut().find(|skipped| skipped.why == why) {
            Some(skipped) => skipped.count += 1,
            None => self.skipped.push(Skipped { why: why.into(), count: 1, first: error.to_string() }),
        }
    }

    /// What a person is told of it, a line for each reason; none when nothing was passed over.
    pub fn lines(&self) -> Vec<String> {
        let counted = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let empty = (self.empty > 0)
            .then(|| format!("passed over {} without a character", counted(self.empty, "document")));
        let skipped = self.skipped.iter().map(|Skipped { why, count, first }| {
            let parts = counted(*count, "part");
            format!("passed over {parts} that could not be read, {why}; the first: {first}")
        });
        empty.into_iter().chain(skipped).chain(self.others.line()).collect()
    }

    /// Both.
    pub fn and(mut self, other: ReadReport) -> ReadReport {
        self.empty += other.empty;
        for more in other.skipped {
            match self.skipped.iter_mut().find(|skipped| skipped.why == more.why) {
                Some(skipped) => skipped.count += more.count,
                None => self.skipped.push(more),
            }
        }
        self
    }
}

/// The texts of one file, one after another.
enum FileDocuments {
    Text(TextDocuments),
    JsonLines(JsonLines),
    Parquet(Box<ParquetRows>),
}

impl FileDocuments {
    /// `span` is for text files: the bytes to read.
    fn open(
        kind: Kind,
        path: &std::path::Path,
        options: &ReadOptions,
        span: Option<(u64, u64)>,
    ) -> Result<Self> {
        Ok(match kind {
            Kind::Text => {
                let from = span.map_or(0, |(from, _)| from);
                FileDocuments::Text(TextDocuments::open(Input::open(path, span)?, from)?)
            }
            Kind::JsonLines => {
                FileDocuments::JsonLines(JsonLines::new(Input::open(path, None)?, &options.column))
            }
            Kind::Parquet => FileDocuments::Parquet(Box::new(ParquetRows::open(path, &options.column)?)),
            Kind::TokenIds => return Err(Error::NoTokenizer { path: path.to_owned() }),
        })
    }

    /// The group (see [`crate::DocumentIndex`]) of the text that came last.
    fn group(&self) -> usize {
        match self {
            FileDocuments::Parquet(rows) => rows.group(),
            FileDocuments::Text(_) | FileDocuments::JsonLines(_) => 0,
        }
    }

    /// Bytes of the file that were read, about.
    fn taken(&self) -> u64 {
        match self {
            FileDocuments::Text(text) => text.taken(),
            FileDocuments::JsonLines(lines) => lines.taken(),
            FileDocuments::Parquet(rows) => rows.taken(),
        }
    }

    fn next_text(&mut self) -> Result<Option<String>> {
        match self {
            FileDocuments::Text(text) => text.next_text(),
            FileDocuments::JsonLines(lines) => lines.next_text(),
            FileDocuments::Parquet(rows) => rows.next_text(),
        }
    }
}

/// Why a part of a file is passed over where that is asked for, and whether the rest of the file can be read; `None` for
/// what no leniency helps.
fn skippable(error: &Error) -> Option<(&'static str, bool)> {
    Some(match error {
        Error::Utf8 { .. } => ("not valid UTF-8", true),
        Error::Binary { .. } => ("not text", true),
        Error::Encoding { .. } => ("not UTF-8 but UTF-16", true),
        Error::JsonLine { .. } => ("no JSON object with the field", true),
        Error::Parquet { .. } => ("a broken part of a Parquet file", true),
        Error::Compressed { .. } => ("the broken end of a compressed file", false),
        Error::Column { .. } => ("a file without the column", false),
        _ => return None,
    })
}

/// An iterator over the documents of one split.
pub struct Documents<'c>(Reading<'c>);

impl<'c> Documents<'c> {
    pub(super) fn new(reading: Reading<'c>) -> Self {
        Documents(reading)
    }

    /// What has been passed over so far; all of it when the iterator has ended.
    pub fn report(&self) -> ReadReport {
        match &self.0 {
            Reading::Stories { .. } => ReadReport::default(),
            Reading::Files(reading) => reading.report.clone(),
        }
    }

    /// How many bytes of text there will be, judged by how much of the files gave `bytes` so far.
    pub fn estimate(&self, bytes: u64) -> u64 {
        match &self.0 {
            Reading::Stories { left, .. } => bytes + left,
            Reading::Files(reading) => {
                let read = reading.read_before + reading.open.as_ref().map_or(0, FileDocuments::taken);
                let share = (read as f64 / reading.file_bytes.max(1) as f64).min(1.0);
                if share > 0.0 { (bytes as f64 / share) as u64 } else { bytes }
            }
        }
    }
}

pub(super) enum Reading<'c> {
    Stories { stories: Stories, left: u64, begun: bool },
    Files(Box<FileReading<'c>>),
}

pub(super) struct FileReading<'c> {
    kind: Kind,
    files: std::slice::Iter<'c, PathBuf>,
    options: &'c ReadOptions,
    /// A span of bytes, for the two parts of a single text file.
    span: Option<(u64, u64)>,
    /// With [`HeldOut::Documents`]: which split is wanted.
    pick: Option<Split>,
    seen: u64,
    open: Option<FileDocuments>,
    /// Bytes of all files (of the span), and of those that were read to their ends.
    file_bytes: u64,
    read_before: u64,
    /// File and group of the document that was handed out last.
    group: Option<(usize, usize)>,
    report: ReadReport,
    failed: bool,
}

impl<'c> FileReading<'c> {
    /// * `span`: the bytes of a text file to read
    /// * `pick`: the split that is wanted of files that hold both
    pub(super) fn new(
        kind: Kind,
        files: &'c [PathBuf],
        options: &'c ReadOptions,
        span: Option<(u64, u64)>,
        pick: Option<Split>,
    ) -> Self {
        let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |about| about.len());
        let all: u64 = files.iter().map(size).sum();
        let file_bytes = span.map_or(all, |(from, to)| to.min(all).saturating_sub(from));
        let (files, report) = (files.iter(), ReadReport::default());
        FileReading {
            kind,
            files,
            file_bytes,
            read_before: 0,
            options,
            span,
            pick,
            seen: 0,
            open: None,
            group: None,
            report,
            failed: false,
        }
    }

    /// Goes on after an error where that is asked for and possible; `rest` says whether in the same file.
    fn pass_over(&mut self, error: Error) -> Result<()> {
        match skippable(&error).filter(|_| self.options.lenient) {
            None => Err(error),
            Some((why, rest)) => {
                self.report.skip(why, &error);
                if !rest {
                    self.close();
                }
                Ok(())
            }
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.read_before += open.taken();
        }
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(file) = self.files.next() else {
                    return Ok(None);
                };
                match FileDocuments::open(self.kind, file, self.options, self.span) {
                    Ok(open) => self.open = Some(open),
                    Err(error) => self.pass_over(error)?,
                }
                continue;
            };
            match open.next_text() {
                Err(error) => self.pass_over(error)?,
                Ok(None) => self.close(),
                Ok(Some(text)) if text.is_empty() => self.report.empty += 1,
                Ok(Some(text)) => {
                    let number = self.seen;
                    self.seen += 1;
                    let held_out =
                        number.is_multiple_of(HELD_OUT_EVERY) && number / HELD_OUT_EVERY < HELD_OUT_MOST;
                    if self.pick.is_none_or(|split| held_out == (split == Split::Valid)) {
                        let group = Some((self.files.len(), open.group()));
                        let begins_group = std::mem::replace(&mut self.group, group) != group;
                        return Ok(Some(Document { text, begins_group }));
                    }
                }
            }
        }
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Document>;

    /// After an error the iterator is over.
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Reading::Stories { left: 0, .. } => None,
            Reading::Stories { stories, left, begun } => {
                let text = stories.next()?.text;
                *left = left.saturating_sub(text.len() as u64);
                let begins_group = !std::mem::replace(begun, true);
                Some(Ok(Document { text, begins_group }))
            }
            Reading::Files(reading) if reading.failed => None,
            Reading::Files(reading) => {
                let next = reading.next_document();
                reading.failed = next.is_err();
                next.transpose()
            }
        }
    }
}

//! The lines of a log, one at a time, however long the log is and wherever it was cut.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The longest line that is read. A step of a model with a thousand layers takes some 20 kB.
const LONGEST: u64 = 1 << 24;

/// What was found in a log.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Found {
    /// Lines that are not empty, without an unfinished last one.
    pub(crate) lines: u64,
    /// Of them, those that could not be read.
    pub(crate) unreadable: u64,
    /// The first of these, from 1, and what is wrong with it.
    pub(crate) first_unreadable: Option<(u64, String)>,
}

/// Gives each line of a log to `visit`. A last line without its end is left out: somebody is writing it,
/// or was killed while doing so. Other lines that cannot be read are counted; resuming a run repairs them.
/// A log that does not exist has no lines. Memory does not grow with the log.
///
/// # Errors
/// [`Error::Read`], [`Error::LongLine`].
pub(crate) fn for_each<T: DeserializeOwned>(path: &Path, mut visit: impl FnMut(T)) -> Result<Found> {
    let mut found = Found::default();
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        opened => opened.map_err(Error::reading(path))?,
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let read = file.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(Error::reading(path))?;
        if read as u64 == LONGEST && line.last() != Some(&b'\n') {
            return Err(Error::LongLine { path: path.to_owned(), line: number, most: LONGEST });
        }
        let finished = line.last() == Some(&b'\n');
        if read == 0 {
            return Ok(found);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(object) => visit(object),
            Err(_) if !finished => continue,
            Err(e) => {
                found.unreadable += 1;
                found.first_unreadable.get_or_insert_with(|| (number, e.to_string()));
            }
        }
        found.lines += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn read(text: &[u8]) -> (Vec<Value>, Found) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut objects = Vec::new();
        let found = for_each(&path, |object| objects.push(object)).unwrap();
        (objects, found)
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_broken_one_is_counted() {
        let (objects, found) = read(b"{\"step\":1}\n{\"step\":2}\n{\"st");
        assert_eq!((objects.len(), found), (2, Found { lines: 2, ..Found::default() }));
        let (objects, found) = read(b"{\"step\":1}\n\0\0\0\n\n{\"step\":2}\n");
        assert_eq!((objects.len(), found.lines, found.unreadable), (2, 3, 1));
        assert_eq!(found.first_unreadable.unwrap().0, 2);
        assert_eq!(read(b"").1, Found::default());
        // Whole, but for its end: what was killed between the two cannot be told apart, and is as good.
        assert_eq!(read(b"{\"step\":1}").0.len(), 1);
    }

    #[test]
    fn a_file_of_one_endless_line_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, vec![b'x'; LONGEST as usize + 5]).unwrap();
        let error = for_each(&path, |_: Value| ()).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl, line 1: it is longer than"), "{error}");
        assert_eq!(for_each(&folder.path().join("none"), |_: Value| ()).unwrap(), Found::default());
    }
}

//! Files of one JSON object a line, which grow while they are read and survive being cut anywhere.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result, whole_file};

/// A file of lines, open for adding to it.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
    /// Of the whole lines in it.
    len: u64,
}

impl JsonLines {
    /// Opens or creates it.
    pub(crate) fn open(path: &Path) -> Result<JsonLines> {
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        let (file, len) = open().map_err(Error::writing(path, "open it for writing", 0))?;
        Ok(JsonLines { path: path.to_owned(), file, len })
    }

    /// Adds a line, in a single write, so that readers never wait for its second half. One that has no room is taken back,
    /// and may be added once there is some.
    pub(crate) fn push(&mut self, object: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(object).expect("numbers and strings can be written");
        line.push(b'\n');
        let bytes = line.len() as u64;
        self.file.write_all(&line).map_err(|error| {
            // What cannot be taken back is repaired when the run is resumed.
            let _ = self.file.set_len(self.len);
            Error::writing(&self.path, "add a line to it", bytes)(error)
        })?;
        self.len += bytes;
        Ok(())
    }

    /// Makes what was added survive a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::writing(&self.path, "sync it", 0))
    }
}

/// Drops lines that `keep` refuses, and lines that are not JSON: what a kill or a power cut left of
/// the last one. Returns how many were dropped; a file that needs no repair is not touched, and one
/// that does not exist is left so.
pub(crate) fn repair(path: &Path, keep: impl Fn(&Value) -> bool) -> Result<usize> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        read => read.map_err(Error::io(path, "read it"))?,
    };
    let mut kept = Vec::with_capacity(bytes.len());
    let mut dropped = 0;
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        if serde_json::from_slice::<Value>(line).is_ok_and(|value| value.is_object() && keep(&value)) {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        } else {
            dropped += 1;
        }
    }
    if kept != bytes {
        whole_file::write_whole(path, &kept)?;
    }
    Ok(dropped)
}

/// All objects of a file; an unfinished last line is left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Line`] for any other line that is not JSON.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read(path).map_err(Error::io(path, "read it"))?;
    let mut objects = Vec::new();
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(object) => objects.push(object),
            Err(_) if number + 1 == lines.len() => {}
            Err(e) => {
                let problem = format!("this is not JSON ({e}); resuming the run repairs the file");
                return Err(Error::Line { path: path.to_owned(), line: number + 1, problem });
            }
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cut_line_is_dropped_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(repair(&path, |_| true).unwrap(), 0);
        let mut lines = JsonLines::open(&path).unwrap();
        (1..=4).for_each(|step| lines.push(&json!({ "step": step })).unwrap());
        lines.sync().unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(repair(&path, |_| true).unwrap(), 0);
        assert_eq!(fs::read(&path).unwrap(), whole);
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let before = read(&path).unwrap();
            repair(&path, |_| true).unwrap();
            assert_eq!(read(&path).unwrap(), before, "cut at {cut}");
            assert!(fs::read(&path).unwrap().ends_with(b"\n") || before.is_empty());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(repair(&path, |line| line["step"].as_u64() <= Some(2)).unwrap(), 2);
        assert_eq!(read(&path).unwrap(), [json!({ "step": 1 }), json!({ "step": 2 })]);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        fs::write(&path, "{}\n\0\0\0\n{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("events.jsonl, line 2: this is not JSON"));
        assert_eq!(repair(&path, |_| true).unwrap(), 1);
        assert_eq!(read(&path).unwrap().len(), 2);
    }
}

//! Packages on disk: they appear whole, and replace nothing but packages of ours.

use std::fs;
use std::path::{Path, PathBuf};

use super::{EXTENSION, MANIFEST, MODEL, WEIGHTS, WRITTEN_BY, decode, spec, write};
use crate::text::Header;
use crate::{Error, Program, Result, blob};

fn error(path: &Path, problem: impl Into<String>) -> Error {
    Error::Package { file: path.display().to_string(), problem: problem.into() }
}

/// Writes `program` as the package `path`, by rename when all of it is there. A package that
/// [`write_to_dir`] wrote before is replaced. The result is the size of its files in bytes.
///
/// # Errors
/// As [`write()`]; [`Error::Package`] when the name does not end with [`EXTENSION`], when something
/// else than a package of ours is there, or with what the system said.
pub fn write_to_dir(program: &Program, path: &Path, header: Header) -> Result<u64> {
    let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|e| e == EXTENSION)) else {
        return Err(error(
            path,
            format!("Core ML knows a package by its name; let it end with .{EXTENSION}"),
        ));
    };
    let package = write(program, header)?;
    let there = replaceable(path).map_err(|found| {
        error(path, format!("{found}, so it is not replaced; move it away or choose another name"))
    })?;
    let beside = |end: &str| -> PathBuf {
        let name = format!(".{}.{}.{end}", name.to_string_lossy(), std::process::id());
        path.with_file_name(name)
    };
    let (new, old) = (beside("new"), beside("old"));
    let bytes = (|| {
        let mut bytes = 0;
        for (place, content) in package.files() {
            let file = new.join(place);
            let folder = file.parent().expect("it lies in the package");
            fs::create_dir_all(folder).map_err(|e| error(folder, format!("cannot make the folder: {e}")))?;
            blob::write_whole(&file, &content)?;
            bytes += content.len() as u64;
        }
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|e| error(path, format!("cannot put it in its place: {e}")))
        };
        if there {
            rename(path, &old)?;
        }
        if let Err(error) = rename(&new, path) {
            // What was there comes back; that this fails too is no second error.
            let _ = there.then(|| rename(&old, path));
            return Err(error);
        }
        Ok(bytes)
    })();
    // What is left of a failed attempt helps nobody, and the package that was replaced neither.
    let _ = fs::remove_dir_all(&new);
    if bytes.is_ok() && there {
        let _ = fs::remove_dir_all(&old);
    }
    bytes
}

/// The specification in the package `path`.
///
/// # Errors
/// [`Error::Package`] when it cannot be read or is no specification.
pub fn read_model(path: &Path) -> Result<spec::Model> {
    let file = path.join(MODEL);
    let bytes = fs::read(&file).map_err(|e| error(&file, format!("cannot read it: {e}")))?;
    decode(&file.display().to_string(), &bytes)
}

/// Whether there is something at `path`; an error is what is there that must not be lost.
fn replaceable(path: &Path) -> std::result::Result<bool, String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(format!("cannot look at what is there: {e}")),
    };
    if !kind.is_dir() {
        return Err("it is there and no folder".to_owned());
    }
    let mut files = Vec::new();
    list(path, &mut files).map_err(|e| format!("cannot look at what is there: {e}"))?;
    let known = [MANIFEST, MODEL, WEIGHTS].map(|place| path.join(place));
    if let Some(strange) = files.iter().find(|file| !known.contains(file)) {
        let strange = strange.strip_prefix(path).unwrap_or(strange).display();
        return Err(format!("it is there and holds {strange}, which anneal did not put into it"));
    }
    let ours = files.is_empty()
        || read_model(path).is_ok_and(|m| {
            m.description.and_then(|d| d.metadata).is_some_and(|m| m.user_defined.contains_key(WRITTEN_BY))
        });
    if ours { Ok(true) } else { Err("it is there and was not written by anneal".to_owned()) }
}

/// Everything below `folder` that is no folder itself.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

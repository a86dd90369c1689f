//! Small files that appear whole or not at all, and what makes names on disk last.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Names that begin and end so belong to something unfinished; nobody else may have left them in a
/// locked run.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Removes what a killed process left unfinished in `folder`.
pub(crate) fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // What cannot be removed is in nobody's way: it is written over or stays unread.
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

/// Writes a file in place and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8], needed: u64) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::writing(path, "write it", needed))
}

/// Writes a file under another name, syncs it and renames it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = unfinished(path);
    let needed = bytes.len() as u64;
    let done = write_synced(&temporary, bytes, needed).and_then(|()| {
        fs::rename(&temporary, path).map_err(Error::writing(path, "give it its name", needed))
    });
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    sync_folder(path.parent());
    done
}

/// Makes names in a folder last, where the system can do that; without it the files are still
/// whole, only perhaps not there after a power cut.
pub(crate) fn sync_folder(folder: Option<&Path>) {
    if let Some(Ok(folder)) = folder.map(File::open) {
        let _ = folder.sync_all();
    }
}

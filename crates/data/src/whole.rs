//! Files that appear whole or not at all: written under a temporary name beside the target, synced, renamed.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A name beside `path` that no other process or thread uses.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Syncs `file`, which was written at `temporary`, and gives it its name.
pub(crate) fn commit(file: File, temporary: &Path, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io(temporary, "sync it"))?;
    drop(file);
    fs::rename(temporary, path).map_err(Error::io(path, "give the finished file its name"))?;
    sync_folder(path);
    Ok(())
}

/// Makes a rename durable where the system allows it; without that the file is still whole, only perhaps not there.
pub(crate) fn sync_folder(path: &Path) {
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
}

/// Writes a small file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary).map_err(Error::io(&temporary, "create it"))?;
    let written = file.write_all(bytes).map_err(Error::io(&temporary, "write it"));
    written.and_then(|()| commit(file, &temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

//! The folder in which framework and driver meet: `NSTemporaryDirectory()/<hex>`, named after the program.
//!
//! Two processes that compile the same program have the same folder. A lock beside it says who still needs it,
//! so that the last one clears it away, and what a killed process left is used again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A folder that is there as long as this is.
pub(super) struct Folder {
    path: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

impl Folder {
    /// The folder at `path`, made if it is not there. If nobody else needs it, it is empty: what a process left
    /// that was killed while it compiled is cleared away.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn at(path: PathBuf) -> io::Result<Folder> {
        let lock_path = path.with_extension("anneal-lock");
        let lock = loop {
            let lock = File::options().create(true).write(true).truncate(false).open(&lock_path)?;
            if lock.try_lock().is_ok() {
                if path.exists() && is_at(&lock, &lock_path) {
                    fs::remove_dir_all(&path)?;
                }
                lock.unlock()?;
            }
            lock.lock_shared()?;
            // Whoever cleared the folder away while we waited has removed this file, and it protects nothing.
            if is_at(&lock, &lock_path) {
                break lock;
            }
        };
        fs::create_dir_all(&path)?;
        Ok(Folder { path, lock_path, lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in a folder that the system clears.
        let _ = self.lock.unlock();
        match self.lock.try_lock() {
            Ok(()) => {
                let _ = fs::remove_dir_all(&self.path);
                let _ = fs::remove_file(&self.lock_path);
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Whether the file that is open is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0a1b_2c3d");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("net.plist"), "half").unwrap();
        let _folder = Folder::at(path.clone()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn the_last_one_clears_it_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0a1b_2c3d");
        let (first, second) = (Folder::at(path.clone()).unwrap(), Folder::at(path.clone()).unwrap());
        fs::write(path.join("model.mil"), "text").unwrap();
        drop(first);
        assert!(path.join("model.mil").exists());
        let third = Folder::at(path.clone()).unwrap();
        drop(second);
        assert!(path.join("model.mil").exists());
        drop(third);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

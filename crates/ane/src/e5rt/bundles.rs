//! Compiled bundles on disk: where they lie, what is in them, and keeping them for the next start.
//!
//! What is inside belongs to the compiler; only the names of folders and one file of text are looked at.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the bundle of the program whose text is in `dir` goes.
pub(crate) fn dir(dir: &Path) -> PathBuf {
    dir.join("bundle")
}

/// What may be a compiled bundle below `dir`, the likeliest first: a folder `*.bundle` that holds further
/// ones, another `*.bundle`, and `dir` itself.
pub(crate) fn found_in(dir: &Path) -> Vec<PathBuf> {
    let is_bundle = |path: &Path| path.extension().is_some_and(|e| e == "bundle") && path.is_dir();
    let mut composite = Vec::new();
    let mut plain = Vec::new();
    for path in folders_below(dir) {
        if !is_bundle(&path) {
            continue;
        }
        let holds_bundles =
            fs::read_dir(&path).is_ok_and(|entries| entries.flatten().any(|entry| is_bundle(&entry.path())));
        if holds_bundles { composite.push(path) } else { plain.push(path) }
    }
    composite.append(&mut plain);
    if dir.is_dir() {
        composite.push(dir.to_owned());
    }
    composite
}

/// Every folder below `dir`, in the order of names.
fn folders_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut inner: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        inner.sort();
        found.extend(inner.iter().cloned());
        waiting.extend(inner.into_iter().rev());
    }
    found
}

/// Which engine the compiler chose, as the bundle's `analytics.mil` says (`SelectedBackend`, ANEForge);
/// `None` when it does not say.
pub(crate) fn selected_backend(bundle_dir: &Path) -> Option<String> {
    let mut folders = folders_below(bundle_dir);
    folders.push(bundle_dir.to_owned());
    folders.iter().find_map(|folder| {
        let text = fs::read_to_string(folder.join("analytics.mil")).ok()?;
        let (_, rest) = text.split_once("SelectedBackend")?;
        let (_, rest) = rest.split_once("string(\"")?;
        rest.split_once('"').map(|(backend, _)| backend.to_owned())
    })
}

/// Keeps a copy of the bundles below `from` as `kept`, which appears by rename when it is whole. That it cannot
/// be kept (a full disk, another process that was faster) costs the next start a compile and nothing else. A
/// copy, because what is loaded may still read its own files.
pub(crate) fn keep(from: &Path, kept: &Path) {
    let Some(folder) = kept.parent().filter(|folder| fs::create_dir_all(folder).is_ok()) else { return };
    // In the same folder, so that the rename stays on one disk.
    let Ok(copy) = tempfile::Builder::new().prefix("new-").tempdir_in(folder) else { return };
    if copy_tree(from, copy.path()).is_ok() {
        let _ = fs::rename(copy.path(), kept);
    }
}

/// Takes a bundle away that is of no use. By rename first: nobody opens half of it.
pub(crate) fn remove(kept: &Path) {
    let Some(folder) = kept.parent().filter(|_| kept.exists()) else { return };
    if let Ok(away) = tempfile::Builder::new().prefix("old-").tempdir_in(folder) {
        let _ = fs::rename(kept, away.path().join("bundle"));
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_whole_and_what_is_removed_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let (from, kept) = (place.path().join("bundle"), place.path().join("cache/bundles/key"));
        fs::create_dir_all(from.join("main.bundle/H16.bundle/weights")).unwrap();
        fs::write(from.join("main.bundle/H16.bundle/weights/w.bin"), b"1234").unwrap();
        keep(&from, &kept);
        assert_eq!(fs::read(kept.join("main.bundle/H16.bundle/weights/w.bin")).unwrap(), b"1234");
        assert_eq!(found_in(&kept)[0], kept.join("main.bundle"));
        // A second process keeps the same program: nothing is disturbed, nothing is left over.
        keep(&from, &kept);
        let left = || fs::read_dir(kept.parent().unwrap()).unwrap().count();
        assert_eq!(left(), 1);
        remove(&kept);
        assert!(!kept.exists());
        assert_eq!(left(), 0);
        assert!(found_in(&kept).is_empty());
        // Where nothing can be written nothing happens.
        keep(&from, Path::new("/dev/null/bundles/key"));
    }
}

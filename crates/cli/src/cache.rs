//! Where prepared data is kept between runs.

use std::path::PathBuf;

/// `ANNEAL_CACHE`, or `.cache/anneal` in the home directory.
///
/// # Errors
/// When neither is known, with what to do.
pub(crate) fn dir() -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("ANNEAL_CACHE")
        .or_else(|| Some(set("HOME")?.join(".cache").join("anneal")))
        .ok_or_else(|| "there is no HOME to keep prepared data in; set ANNEAL_CACHE to a folder".to_owned())
}

//! What was learnt about this chip and this system, kept between runs.
//!
//! Trying costs time, and a burst of refused compiles can wedge the compiler's service (rule ANE-017): what
//! was refused once is not tried again on the same system, and what was accepted needs no child process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How a program fared with the compiler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It was compiled and loaded.
    Accepted {
        /// How long that took.
        ms: f64,
    },
    /// It was refused.
    Refused {
        /// What was said.
        problem: String,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct System {
    /// What the route was found to do, in the route's own terms.
    ways: Option<serde_json::Value>,
    #[serde(default)]
    programs: BTreeMap<String, Verdict>,
}

/// The file, and what is in it for one system.
pub(crate) struct Known {
    path: PathBuf,
    /// Chip, version of the system, device.
    system: String,
    all: Mutex<BTreeMap<String, System>>,
}

impl Known {
    /// Reads `path` for `system`. A file that is missing or means nothing is as good as an empty one: all
    /// that it holds can be found out again.
    pub(crate) fn read(path: &Path, system: &str) -> Known {
        Known { path: path.to_owned(), system: system.to_owned(), all: Mutex::new(read(path)) }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What [`learn_ways`](Known::learn_ways) was told.
    pub(crate) fn ways<T: DeserializeOwned>(&self) -> Option<T> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::from_value(all.get(&self.system)?.ways.clone()?).ok()
    }

    pub(crate) fn verdict(&self, program: &str) -> Option<Verdict> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&self.system)?.programs.get(program).cloned()
    }

    pub(crate) fn learn_ways(&self, ways: impl Serialize) {
        self.change(|system| system.ways = serde_json::to_value(ways).ok());
    }

    pub(crate) fn learn(&self, program: &str, verdict: Verdict) {
        self.change(|system| {
            system.programs.insert(program.to_owned(), verdict);
        });
    }

    /// Writes the file whole or not at all. That it cannot be written (a full disk) costs the next start
    /// some time and nothing else.
    fn change(&self, change: impl FnOnce(&mut System)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Another process may have learnt something since.
        for (system, theirs) in read(&self.path) {
            let ours = all.entry(system).or_default();
            ours.ways = ours.ways.take().or(theirs.ways);
            for (program, verdict) in theirs.programs {
                ours.programs.entry(program).or_insert(verdict);
            }
        }
        change(all.entry(self.system.clone()).or_default());
        if let (Some(folder), Ok(text)) = (self.path.parent(), serde_json::to_string_pretty(&*all)) {
            let _ = std::fs::create_dir_all(folder);
            let _ = mil::blob::write_whole(&self.path, text.as_bytes());
        }
    }
}

/// What is in the file; nothing when it cannot be read.
fn read(path: &Path) -> BTreeMap<String, System> {
    let all = std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok());
    all.unwrap_or_default()
}

/// Milliseconds, as they are kept.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_known_again_for_the_same_system_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/engine.json");
        let known = Known::read(&path, "M4, macOS 26.1, ane");
        assert_eq!((known.ways::<[bool; 2]>(), known.verdict("p")), (None, None));
        let ways = [true, false];
        known.learn_ways(ways);
        known.learn("p", Verdict::Refused { problem: "too long".to_owned() });
        known.learn("q", Verdict::Accepted { ms: 1.5 });

        let again = Known::read(&path, "M4, macOS 26.1, ane");
        assert_eq!(again.ways(), Some(ways));
        assert_eq!(again.verdict("p"), Some(Verdict::Refused { problem: "too long".to_owned() }));
        assert_eq!(again.verdict("q"), Some(Verdict::Accepted { ms: 1.5 }));
        assert_eq!(Known::read(&path, "M4, macOS 26.2, ane").verdict("p"), None);

        // Two processes at once: neither loses what the other has learnt.
        let (first, second) = (Known::read(&path, "M4"), Known::read(&path, "M4"));
        first.learn("r", Verdict::Accepted { ms: 1.0 });
        second.learn("s", Verdict::Accepted { ms: 1.0 });
        let both = Known::read(&path, "M4");
        assert!(both.verdict("r").is_some() && both.verdict("s").is_some());

        std::fs::write(&path, "{ no json").unwrap();
        assert_eq!(Known::read(&path, "M4, macOS 26.1, ane").ways::<[bool; 2]>(), None);
    }
}

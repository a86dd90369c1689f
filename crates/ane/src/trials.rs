//! Whether a compiler takes a program: found out once, in a child process, and remembered.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mil::text;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use sha2::{Digest, Sha256};

use crate::child::{self, ChildCommand, NoAnswer, Request};
use crate::known::{Known, Verdict, ms};
use crate::options::Options;

/// What one device tries, and what it knows.
pub(crate) struct Trials {
    known: Known,
    child: Option<ChildCommand>,
    limit: Duration,
    back_off: Duration,
    /// When a compile was last refused.
    refused: Mutex<Option<Instant>>,
}

impl Trials {
    /// Of the device called `name`.
    pub(crate) fn new(options: &Options, name: &str) -> Trials {
        let system = format!("{}, {name}", options.system);
        Trials {
            known: Known::read(&options.folder.join("engine.json"), &system),
            child: options.child.clone(),
            limit: options.limit,
            back_off: options.back_off,
            refused: Mutex::new(None),
        }
    }

    /// What was found out about the route; by `find`, if it is not known yet. It is remembered if `find` is sure.
    ///
    /// # Errors
    /// As `find`.
    pub(crate) fn ways<T>(&self, find: impl FnOnce() -> Result<(T, bool), String>) -> Result<T, String>
    where
        T: DeserializeOwned + Serialize,
    {
        if let Some(ways) = self.known.ways() {
            return Ok(ways);
        }
        let (ways, is_sure) = find()?;
        if is_sure {
            self.known.learn_ways(&ways);
        }
        Ok(ways)
    }

    /// Asks a child.
    ///
    /// # Errors
    /// [`NoAnswer`]; not started when there is no command for one.
    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, NoAnswer> {
        match &self.child {
            Some(command) => child::ask(command, request, self.limit),
            None => Err(NoAnswer::NotStarted("there is no command for child processes".to_owned())),
        }
    }

    /// Nothing, unless the program of this key was refused on this chip and system.
    ///
    /// # Errors
    /// What was said then.
    pub(crate) fn refused_before(&self, key: &str) -> Result<(), String> {
        match self.known.verdict(key) {
            Some(Verdict::Refused { problem }) => Err(format!(
                "it was refused before on this chip and system: {problem} (remembered in {}; delete the file to try again)",
                self.known.path().display()
            )),
            _ => Ok(()),
        }
    }

    /// Lets a child compile and load the program of this key by `request`, unless it is known to work. A
    /// refusal is remembered if `control`, a small program, still works: a full disk or a wedged service
    /// refuses everything, and says nothing about the program that was refused first.
    ///
    /// # Errors
    /// What the child was told.
    pub(crate) fn try_first(
        &self,
        key: &str,
        request: impl FnOnce() -> Result<Request, String>,
        control: impl FnOnce() -> Request,
    ) -> Result<(), String> {
        if self.child.is_none() || matches!(self.known.verdict(key), Some(Verdict::Accepted { .. })) {
            return Ok(());
        }
        self.wait();
        match self.ask::<()>(&request()?) {
            // Without a child nothing is known, and the run would rather try than give up.
            Ok(()) | Err(NoAnswer::NotStarted(_)) => Ok(()),
            Err(NoAnswer::Ended(problem)) => Err(problem),
            Err(no_answer) => {
                self.note_refusal();
                let problem = no_answer.to_string();
                self.wait();
                if let Err(also) = self.ask::<IgnoredAny>(&control()) {
                    return Err(format!(
                        "{problem}; a small program that is known to run is refused as well ({also}), so nothing is remembered"
                    ));
                }
                self.known.learn(key, Verdict::Refused { problem: problem.clone() });
                Err(problem)
            }
        }
    }

    /// Compiles in this process, not too soon after a refusal.
    ///
    /// # Errors
    /// As `compile`.
    pub(crate) fn compile<T>(&self, compile: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.wait();
        compile().inspect_err(|_| self.note_refusal())
    }

    /// Remembers that the program of this key works.
    pub(crate) fn accept(&self, key: &str, took: Duration) {
        self.known.learn(key, Verdict::Accepted { ms: ms(took) });
    }

    fn note_refusal(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn wait(&self) {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = refused.and_then(|at| self.back_off.checked_sub(at.elapsed())) {
            std::thread::sleep(left);
        }
    }
}

/// What a program is known by: its text and its constants.
pub(crate) fn key(written: &text::Written) -> String {
    let mut hash = Sha256::new();
    let files = written.weights.iter().flat_map(|file| [file.path.as_bytes(), &file.bytes]);
    for part in std::iter::once(written.text.as_bytes()).chain(files) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

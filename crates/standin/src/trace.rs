//! What was called, in order, and what must not have been.

use std::fmt::Write as _;
use std::io::Write as _;

/// The trace of one process.
#[derive(Debug, Default)]
pub struct Trace {
    lines: String,
    violations: String,
    events: u64,
    file: Option<std::fs::File>,
}

impl Trace {
    /// An empty trace, which is also written to the file that `ANNEAL_STANDIN_TRACE` names.
    pub fn new() -> Trace {
        let file = std::env::var_os("ANNEAL_STANDIN_TRACE")
            .and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
        Trace { file, ..Trace::default() }
    }

    /// Adds a line.
    pub fn event(&mut self, text: &str) {
        self.events += 1;
        let line = format!("{} {text}\n", self.events);
        self.append(&line);
        self.lines += &line;
    }

    /// Adds a line that tells of something that a driver must not do.
    pub fn violation(&mut self, text: &str) {
        let line = format!("{} VIOLATION {text}\n", self.events);
        self.append(&line);
        self.lines += &line;
        // A string takes everything that is written to it.
        let _ = writeln!(self.violations, "{text}");
    }

    /// A full disk is no reason to change what the stand-in does.
    fn append(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            let _ = write!(file, "[{}] {line}", std::process::id());
        }
    }

    /// Every call, a line each, violations among them.
    pub fn lines(&self) -> &str {
        &self.lines
    }

    /// The violations, a line each.
    pub fn violations(&self) -> &str {
        &self.violations
    }
}

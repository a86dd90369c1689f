//! A place to run the real binary in: a folder of its own with a little text and a cache.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod machine;

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use data::Split;
use data::stories::Stories;
use serde_json::Value;
use tempfile::TempDir;

/// The folder goes away with it.
pub struct Place {
    dir: TempDir,
}

/// What a command did.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// With `text.txt`: 60 kB of stories.
    pub fn new() -> Place {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut text = String::new();
        for story in Stories::new(1, Split::Train) {
            text += &story.text;
            text += "\n\n";
            if text.len() > 60_000 {
                break;
            }
        }
        std::fs::write(dir.path().join("text.txt"), text).expect("a small file");
        Place { dir }
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, about to run in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("anneal"));
        command.args(args).current_dir(self.dir.path()).env("ANNEAL_CACHE", self.path("cache"));
        command
    }

    /// A line for the shell, about to run in the folder: what a person pastes.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.dir.path()).env("ANNEAL_CACHE", self.path("cache"));
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().expect("the binary runs").into()
    }

    /// Runs it and expects it to succeed.
    pub fn ok(&self, args: &[&str]) -> Done {
        let done = self.run(args);
        assert_eq!(done.code, Some(0), "{args:?}\n{}{}", done.stdout, done.stderr);
        done
    }

    /// Runs it and expects exit code 1 and one error whose text holds all of `wanted`.
    pub fn fails(&self, args: &[&str], wanted: &[&str]) -> Done {
        self.run(args).expect_one_error(wanted)
    }

    /// A small training of the text, to the run `name`, in one thread, on the CPU unless `more` names a device;
    /// `more` is added.
    pub fn train<'a>(&self, name: &'a str, budget: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["train", "--preset", "odd", "--data", "text.txt", "--out", name];
        args.extend(["--set", "model.vocab_size=300", "--batch", "4", "--threads", "1"]);
        args.extend(["--set", "eval.every=0", "--set", "eval.final_windows=4", "--budget", budget]);
        if !more.contains(&"--device") {
            // On a Mac the best device is another.
            args.extend(["--device", "cpu"]);
        }
        args.extend(more);
        args
    }

    /// A file of the newest checkpoint of a run.
    pub fn newest(&self, run: &str, file: &str) -> PathBuf {
        self.checkpoints(run).pop().expect("the run has a checkpoint").join(file)
    }

    /// The checkpoints of a run, oldest first.
    pub fn checkpoints(&self, run: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(run).join("checkpoints")).expect("a run's folder");
        let mut all: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| name(path).starts_with("step_"))
            .collect();
        all.sort();
        all
    }
}

/// The last part of a path.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8 is printed");
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Done {
    /// Checks that it ended with exit code 1 and one error whose text holds all of `wanted`.
    pub fn expect_one_error(self, wanted: &[&str]) -> Done {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{}", self.stderr);
        for part in wanted {
            assert!(self.stderr.contains(part), "no {part:?} in\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Each line of standard output as JSON.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// A training that goes on while the test does something, with `--json`.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(place: &Place, args: &[&str]) -> Running {
        let mut command = place.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Running { child, lines }
    }

    /// The next object that says `event`.
    pub fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended before {event}"));
            let object: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
            if object["event"] == event {
                return object;
            }
        }
    }

    /// Asks it to stop, as Ctrl-C does.
    #[cfg(unix)]
    pub fn interrupt(&self) {
        use nix::sys::signal::{Signal, kill};
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGINT).expect("it is our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

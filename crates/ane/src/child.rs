//! Trying in a child process: the real compiler can hang or crash, and the run must survive it.
//!
//! The parent starts itself once more with a hidden command, hands over a request as JSON and waits, with a
//! limit, for one line of JSON. The child is a new process and no fork: a forked one crashes in Espresso
//! (rule ANE-011). What it does is the routes' affair.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::e5rt;
#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
use crate::inmem;

/// How often a parent looks whether its child is done.
const POLL: Duration = Duration::from_millis(5);
/// How much of what a child said before it failed is told.
const TOLD_BYTES: usize = 400;

/// Makes the command that starts a child: one that reads a request from its standard input, gives it to
/// [`answer`], and prints the result.
#[derive(Clone)]
pub struct ChildCommand(Arc<dyn Fn() -> Command + Send + Sync>);

impl ChildCommand {
    /// Of a function that makes the command.
    pub fn new(make: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        ChildCommand(Arc::new(make))
    }
}

/// What a child is asked, by route.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Through Espresso.
    E5rt(e5rt::Request),
    /// Through `_ANEInMemoryModel`.
    #[cfg(any(target_vendor = "apple", feature = "gnustep"))]
    InMem(inmem::Request),
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply<T> {
    Done(T),
    Failed(String),
}

/// The child's side: does what `request` asks and returns the reply to be printed.
pub fn answer(request: &str) -> String {
    let done = match serde_json::from_str::<Request>(request) {
        Ok(Request::E5rt(request)) => e5rt::answer(&request),
        #[cfg(any(target_vendor = "apple", feature = "gnustep"))]
        Ok(Request::InMem(request)) => inmem::answer(&request),
        Err(error) => Err(format!("the request cannot be read: {error}")),
    };
    let reply = done.map_or_else(Reply::Failed, Reply::Done);
    serde_json::to_string(&reply).expect("replies are plain data")
}

/// An answer as replies carry it.
pub(crate) fn plain(value: impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).expect("answers are plain data")
}

/// Why a child has no answer for its parent.
#[derive(Debug, Clone, PartialEq)]
pub enum NoAnswer {
    /// It tried, and this is what it was told.
    Failed(String),
    /// It took longer than this and was ended.
    TooLong(Duration),
    /// It crashed.
    Crashed(String),
    /// Somebody else ended it (Ctrl-C reaches children too, a system without memory kills), so nothing is
    /// known.
    Ended(String),
    /// It could not be started, so nothing is known.
    NotStarted(String),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoAnswer::Failed(problem)
            | NoAnswer::Crashed(problem)
            | NoAnswer::Ended(problem)
            | NoAnswer::NotStarted(problem) => f.write_str(problem),
            NoAnswer::TooLong(limit) => {
                write!(f, "it took longer than {} s and was ended", limit.as_secs_f64())
            }
        }
    }
}

/// How a child ended.
pub struct Ended {
    /// Its status; `None` when it took too long and was ended.
    pub status: Option<std::process::ExitStatus>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs a command with `input` for at most `limit`.
///
/// # Errors
/// [`NoAnswer::NotStarted`].
pub fn run_limited(command: &mut Command, input: &str, limit: Duration) -> Result<Ended, NoAnswer> {
    let lost = |what: &str, error: std::io::Error| NoAnswer::NotStarted(format!("{what}: {error}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| lost("the child process cannot be started", error))?;
    let stdin = child.stdin.take().expect("its input is a pipe");
    let said = collect(child.stdout.take().expect("its output is a pipe"));
    let complained = collect(child.stderr.take().expect("its errors are a pipe"));
    // A child that ends before it has read everything shows that by its own end.
    let _ = { stdin }.write_all(input.as_bytes());
    let status = match wait(&mut child, limit) {
        Ok(status) => status,
        Err(error) => return Err(lost("the child process cannot be waited for", error)),
    };
    if status.is_none() {
        // It may be stuck in the system; that it cannot be ended changes nothing for us.
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(Ended {
        status,
        stdout: said.join().unwrap_or_default(),
        stderr: complained.join().unwrap_or_default(),
    })
}

/// The parent's side: asks a child and waits for at most `limit`.
pub(crate) fn ask<T: DeserializeOwned>(
    command: &ChildCommand,
    request: &Request,
    limit: Duration,
) -> Result<T, NoAnswer> {
    let text = serde_json::to_string(request).expect("requests are plain data");
    let ended = run_limited(&mut (command.0)(), &text, limit)?;
    let Some(status) = ended.status else { return Err(NoAnswer::TooLong(limit)) };
    match ended.stdout.lines().rev().find_map(|line| serde_json::from_str::<Reply<T>>(line).ok()) {
        Some(Reply::Done(value)) => Ok(value),
        Some(Reply::Failed(problem)) => Err(NoAnswer::Failed(with_complaint(problem, &ended.stderr))),
        None => {
            let problem = format!("the child process ended with {status} and without an answer");
            let problem = with_complaint(problem, &ended.stderr);
            Err(if from_outside(status) { NoAnswer::Ended(problem) } else { NoAnswer::Crashed(problem) })
        }
    }
}

/// Whether a process was ended by a signal that its own faults do not raise.
#[cfg(unix)]
fn from_outside(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    matches!(status.signal(), Some(libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGKILL))
}

#[cfg(not(unix))]
fn from_outside(_status: std::process::ExitStatus) -> bool {
    false
}

/// Espresso writes its reasons to the standard error.
fn with_complaint(problem: String, complained: &str) -> String {
    let complained = complained.trim();
    if complained.is_empty() {
        return problem;
    }
    let start = complained.len().saturating_sub(TOLD_BYTES);
    let start = (start..).find(|at| complained.is_char_boundary(*at)).unwrap_or(0);
    format!("{problem}; it said: {}", complained[start..].replace('\n', " | "))
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a failed read is still worth telling.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

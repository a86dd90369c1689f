//! The child's side of trying programs on an engine: a request on standard input, a line of JSON back.

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::Result;

pub(crate) fn run(out: &mut dyn Write) -> Result {
    end_with_the_parent();
    let mut request = String::new();
    std::io::stdin().read_to_string(&mut request)?;
    writeln!(out, "{}", ane::answer(&request))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends this process when its parent is gone: somebody ended the run, and a compile that hangs would stay.
#[cfg(unix)]
fn end_with_the_parent() {
    let parent = nix::unistd::getppid();
    std::thread::spawn(move || {
        while nix::unistd::getppid() == parent {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        std::process::exit(1);
    });
}

#[cfg(not(unix))]
fn end_with_the_parent() {}

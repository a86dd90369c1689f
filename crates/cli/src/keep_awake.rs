//! A machine that trains overnight does not fall asleep because nobody touches it.
//!
//! On macOS `caffeinate(8)` says so to the system: `-i` keeps it from idle sleep, and `-w PID` ends with this process,
//! however that ends. A closed lid, an empty battery and who chooses Sleep still have their way; the run then
//! goes on when the machine wakes. Linux machines sleep when their desktop says so; `systemd-inhibit anneal train …`
//! is the same there.

use std::process::{Child, Command, Stdio};

/// As long as it is there, the machine does not sleep for want of a user, where that can be had.
#[derive(Debug)]
pub(crate) struct KeepAwake(Option<Child>);

impl KeepAwake {
    /// Begins, on macOS.
    pub(crate) fn begin() -> KeepAwake {
        // Training without it is training all the same.
        KeepAwake(if cfg!(target_os = "macos") { caffeinate("caffeinate").spawn().ok() } else { None })
    }
}

impl Drop for KeepAwake {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn caffeinate(program: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-i", "-w", &std::process::id().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_watches_this_process_and_goes_with_it() {
        let command = caffeinate("caffeinate");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args, ["-i".to_owned(), "-w".to_owned(), std::process::id().to_string()]);
        assert!(caffeinate("there-is-no-such-program").spawn().is_err(), "which begin() lets pass");
        if cfg!(unix) {
            let child = Command::new("sleep").arg("60").spawn().expect("every Unix sleeps");
            let id = child.id();
            drop(KeepAwake(Some(child)));
            assert!(!Command::new("kill").args(["-0", &id.to_string()]).status().expect("it runs").success());
        }
    }
}

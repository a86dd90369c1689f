//! A run that is asked to stop saves, says how to go on, and goes on to the same end.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Place, Running};
use nix::sys::signal::{Signal, kill};

#[test]
fn ctrl_c_saves_and_the_printed_command_goes_on() {
    let place = Place::new();
    place.ok(&place.train("whole", "600steps", &["--quiet"]));
    let mut running = Running::start(&place, &place.train("my run", "600steps", &["--json"]));
    while running.wait_for("step")["step"].as_u64() < Some(5) {}
    running.interrupt();
    let result = running.wait_for("result");
    assert_eq!(result["outcome"], "interrupted");
    let step = result["step"].as_u64().expect("a number");
    assert!((5..600).contains(&step), "{step}");
    assert_eq!(running.child.wait().expect("it ended").code(), Some(130));
    assert_eq!(place.checkpoints("my run").len(), 1);

    let command = result["resume"].as_str().expect("a command").to_owned();
    // As a person would: pasted into a shell, a space in the path and all.
    let done: common::Done = place.shell(&format!("{command} --threads 1")).output().expect("sh runs").into();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains(&format!("going on after step {step}")), "{}", done.stderr);
    let weights = |run| fs::read(place.newest(run, "weights.safetensors")).expect("it is there");
    assert!(weights("my run") == weights("whole"), "the end differs from that of a run without a stop");
}

#[test]
fn people_are_told_in_words() {
    let place = Place::new();
    let mut command = place.command(&place.train("run", "1h", &[]));
    let piped = std::process::Stdio::piped;
    let mut child = command.stdout(piped()).stderr(piped()).spawn().expect("it starts");
    // Its lines may come seconds apart; metrics are written with each step.
    let metrics = place.path("run/metrics.jsonl");
    while fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().expect("our child").is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    send(&child, Signal::SIGTERM);
    let done: common::Done = child.wait_with_output().expect("it ends").into();
    assert_eq!(done.code, Some(130), "{}", done.stderr);
    assert!(done.stdout.contains("anneal train --resume run"), "{}", done.stdout);
    assert!(done.stderr.contains("stopping, with a checkpoint"), "{}", done.stderr);
}

fn send(child: &Child, signal: Signal) {
    kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).expect("our child");
}

/// A step of a million microbatches: the first signal waits for its end, the second does not.
#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut command = place.command(&place.train("run", "1h", &["--set", "accum=1000000"]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut wait_for = |wanted: &str| {
        while !lines.next().expect("it goes on").expect("UTF-8").contains(wanted) {}
    };
    wait_for("budget  1h");
    // What a terminal sends that is closed.
    send(&child, Signal::SIGHUP);
    wait_for("stopping, with a checkpoint; once more to stop without");
    assert!(child.try_wait().expect("our child").is_none(), "it ended in the middle of a step");
    send(&child, Signal::SIGTERM);
    // Far less than the step; only so that a failure is one and no test without end.
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().expect("our child") {
            Some(status) => break status,
            None if begun.elapsed() < Duration::from_secs(120) => {
                std::thread::sleep(Duration::from_millis(5))
            }
            None => {
                child.kill().expect("our child");
                panic!("the second signal was not heard");
            }
        }
    };
    assert_eq!(status.code(), Some(130));
    assert!(!place.path("run/checkpoints").exists());
}

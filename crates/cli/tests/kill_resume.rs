//! A run that is killed at random instants and resumed ends with the same bytes as one that never
//! was: a real process, SIGKILL. `ANNEAL_KILLS` says how often (default 20), `ANNEAL_KILL_SEED`
//! repeats the instants of an earlier test.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::Place;
use data::random::Stream;

/// What the runs train with: the defaults, and all that has a state of its own.
const PLANS: [&[&str]; 2] = [
    &["--batch", "4"],
    &[
        "--batch",
        "2",
        "--set",
        "accum=3",
        "--set",
        "batch_ramp.over=0.4",
        "--set",
        "ema.half_life=0.05",
        "--set",
        "optimizer.kind=muon",
        "--set",
        "schedule.kind=wsd",
        "--set",
        "data.packing=best_fit",
    ],
];

/// A run of some seconds with a checkpoint every few hundredths of one.
fn settings(plan: &[&str], run: &str, threads: &'static str) -> Vec<String> {
    let args = [
        "train",
        "--preset",
        "odd",
        "--data",
        "stories",
        "--out",
        run,
        "--budget",
        "300steps",
        "--threads",
        threads,
        "--quiet",
        "--set",
        "checkpoint.every=7steps",
        "--set",
        "eval.every=100steps",
        "--set",
        "eval.windows=4",
        "--set",
        "eval.final_windows=4",
    ];
    args.iter().chain(plan).map(|arg| (*arg).to_owned()).collect()
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text}: not a number")))
}

/// Starts or goes on with the run, and kills it after `time`; whether it had ended by then.
fn work_for(place: &Place, plan: &[&str], run: &str, time: Duration) -> bool {
    // What was killed before it had a configuration is no run yet: the same command begins it again.
    let begun = place.path(run).join("config.toml").exists();
    let args = if begun {
        ["train", "--resume", run, "--threads", "2", "--quiet"].map(str::to_owned).to_vec()
    } else {
        settings(plan, run, "2")
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = place.command(&args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let begin = Instant::now();
    while begin.elapsed() < time {
        if child.try_wait().expect("our child").is_some() {
            break;
        }
        sleep(time.saturating_sub(begin.elapsed()).min(Duration::from_millis(5)));
    }
    child.kill().expect("our child");
    let output = child.wait_with_output().expect("our child");
    let ended = output.status.code();
    assert!(matches!(ended, None | Some(0)), "{}", String::from_utf8_lossy(&output.stderr));
    ended == Some(0)
}

fn same(place: &Place, run: &str, other: &str) {
    for file in ["weights.safetensors", "means.safetensors", "optimizer.safetensors"] {
        // Not every plan has a mean.
        let read = |run: &str| fs::read(place.newest(run, file)).ok();
        assert!(read(run) == read(other), "{file} of {run} and {other} differ");
    }
    assert!(place.newest(run, "weights.safetensors").exists());
    assert_eq!(place.checkpoints(run).last().map(|p| common::name(p)).as_deref(), Some("step_000300"));
}

#[test]
fn killed_runs_end_with_the_same_bytes() {
    let kills = env_number("ANNEAL_KILLS").unwrap_or(20);
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let seed = env_number("ANNEAL_KILL_SEED").unwrap_or_else(now);
    println!("ANNEAL_KILL_SEED={seed}");
    let mut random = Stream::new(seed);
    for plan in PLANS {
        killed_runs_of_a_plan(plan, kills.div_ceil(PLANS.len() as u64), &mut random);
    }
}

fn killed_runs_of_a_plan(plan: &[&str], kills: u64, random: &mut Stream) {
    let place = Place::new();
    let whole: Vec<String> = settings(plan, "whole", "1");
    place.ok(&whole.iter().map(String::as_str).collect::<Vec<_>>());
    let two: Vec<String> = settings(plan, "two", "2");
    let begin = Instant::now();
    place.ok(&two.iter().map(String::as_str).collect::<Vec<_>>());
    let duration = begin.elapsed();
    // One thread and two threads give identical bytes.
    same(&place, "two", "whole");

    println!("a run without a kill takes {duration:?}");
    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        let run = format!("killed{runs}");
        // Up to a third of a whole run: some hit the start, some a step, some a checkpoint, some the end.
        let most = duration.as_micros() as u64 / 3;
        let mut ended = false;
        while killed < kills && !ended {
            ended = work_for(&place, plan, &run, Duration::from_micros(random.below(most.max(1))));
            killed += u64::from(!ended);
        }
        if !ended {
            let ended = work_for(&place, plan, &run, Duration::from_secs(300));
            assert!(ended, "it ends when nobody kills it");
        }
        same(&place, &run, "whole");
        no_litter(&place.path(&run));
        runs += 1;
    }
    println!("{killed} kills over {runs} runs");
}

/// What killed processes left half-done is gone once a run has ended.
fn no_litter(run: &Path) {
    for folder in [run.to_owned(), run.join("checkpoints")] {
        for entry in fs::read_dir(folder).expect("a folder") {
            let name = common::name(&entry.expect("an entry").path());
            assert!(!name.starts_with('.') && !name.contains("tmp"), "{name}");
        }
    }
}

//! A run that is killed at random instants and resumed ends with the same bytes as one that never
//! was: a real process, SIGKILL. `ANNEAL_KILLS` says how often (default 10 for each course), `ANNEAL_KILL_SEED`
//! repeats the instants of an earlier test.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::Place;
use data::random::Stream;

/// What a run goes through.
#[derive(Clone, Copy)]
struct Course {
    budget: &'static str,
    /// The last checkpoint's name begins so.
    last: &'static str,
    /// Further settings, in lists.
    more: &'static [&'static [&'static str]],
}

/// A run of some seconds with a checkpoint every few hundredths of one.
const PLAIN: Course = Course { budget: "300steps", last: "step_000300", more: &[&["batch=4"]] };

/// All that has a state of its own.
const FULL: Course = Course {
    more: &[&[
        "batch=2",
        "accum=3",
        "batch_ramp.over=0.4",
        "ema.half_life=0.05",
        "optimizer.kind=muon",
        "schedule.kind=wsd",
        "data.packing=best_fit",
    ]],
    ..PLAIN
};

/// A rate that rises until the run is ill, whatever optimiser has it, and states that are to go back with it.
const UNTIL_ILL: &[&str] = &[
    "batch=2",
    "accum=2",
    "batch_ramp.over=0.4",
    "ema.half_life=0.05",
    "data.packing=best_fit",
    "optimizer.lr=3.0",
    "schedule.kind=linear",
    "schedule.warmup=0.8",
    "schedule.final_fraction=0",
];

/// It goes back, more than once.
const ILL: Course = Course { budget: "600steps", last: "step_000600-r", more: &[UNTIL_ILL] };

/// Likewise, by Muon.
const ILL_BY_MUON: Course =
    Course { more: &[UNTIL_ILL, &["optimizer.kind=muon", "optimizer.muon.lr=3.0"]], ..ILL };

fn settings(run: &str, threads: &str, course: Course) -> Vec<String> {
    let args = [
        "train",
        "--preset",
        "odd",
        "--data",
        "stories",
        "--out",
        run,
        "--budget",
        course.budget,
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
    args.iter()
        .chain(course.more.iter().copied().flatten().flat_map(|set| [&"--set", set]))
        .map(|arg| (*arg).to_owned())
        .collect()
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} = {text}: not a number")))
}

/// Starts or goes on with the run, and kills it after `time`; whether it had ended by then.
fn work_for(place: &Place, run: &str, course: Course, time: Duration) -> bool {
    // What was killed before it had a configuration is no run yet: the same command begins it again.
    let begun = place.path(run).join("config.toml").exists();
    let args = if begun {
        ["train", "--resume", run, "--threads", "2", "--quiet"].map(str::to_owned).to_vec()
    } else {
        settings(run, "2", course)
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

fn same(place: &Place, run: &str, other: &str, course: Course) {
    for file in ["weights.safetensors", "means.safetensors", "optimizer.safetensors"] {
        // Not every course has a mean.
        let read = |run: &str| fs::read(place.newest(run, file)).ok();
        assert!(read(run) == read(other), "{file} of {run} and {other} differ");
    }
    assert!(place.newest(run, "weights.safetensors").exists());
    let last = common::name(place.checkpoints(run).last().expect("a checkpoint"));
    assert!(last.starts_with(course.last), "{last}");
}

#[test]
fn killed_runs_end_with_the_same_bytes() {
    for course in [PLAIN, FULL] {
        let place = Place::new();
        let two: Vec<String> = settings("two", "2", course);
        place.ok(&two.iter().map(String::as_str).collect::<Vec<_>>());
        killed_runs_end_as_whole_ones(&place, course, env_number("ANNEAL_KILLS").unwrap_or(10));
        // One thread and two threads give identical bytes.
        same(&place, "two", "whole", course);
    }
}

/// Most of the time such a run is on its way to a recovery, in one, or in steps that come again.
#[test]
fn runs_that_are_killed_around_recoveries_end_with_the_same_bytes() {
    for course in [ILL, ILL_BY_MUON] {
        let place = Place::new();
        killed_runs_end_as_whole_ones(&place, course, env_number("ANNEAL_KILLS").unwrap_or(10));
        let events = fs::read_to_string(place.path("whole/events.jsonl")).expect("it is there");
        assert!(events.matches("\"event\":\"recovered\"").count() > 1, "{events}");
    }
}

/// Kills runs like `whole`, which it makes first.
fn killed_runs_end_as_whole_ones(place: &Place, course: Course, kills: u64) {
    let whole: Vec<String> = settings("whole", "1", course);
    let begin = Instant::now();
    place.ok(&whole.iter().map(String::as_str).collect::<Vec<_>>());
    let duration = begin.elapsed();
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let seed = env_number("ANNEAL_KILL_SEED").unwrap_or_else(now);
    println!("ANNEAL_KILL_SEED={seed}; a run without a kill takes {duration:?}");
    let mut random = Stream::new(seed);
    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        let run = format!("killed{runs}");
        // Up to a third of a whole run: some hit the start, some a step, some a checkpoint, some the end.
        let most = duration.as_micros() as u64 / 3;
        let mut ended = false;
        while killed < kills && !ended {
            ended = work_for(place, &run, course, Duration::from_micros(random.below(most.max(1))));
            killed += u64::from(!ended);
        }
        if !ended {
            assert!(work_for(place, &run, course, Duration::from_secs(300)), "it ends when nobody kills it");
        }
        same(place, &run, "whole", course);
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

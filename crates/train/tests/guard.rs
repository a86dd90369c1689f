//! Runs that fall ill: at a rate that tears them apart the guard carries them to a better end, and stopping or
//! killing them at any instant of it changes no bit.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Place, Ticks, cpu};
use serde_json::Value;
use train::{Error, Event, Observer, Outcome, Pick, Start, StepMetrics, Summary, UserConfig, train_run};

/// A rate that rises until `odd` loses what it has learned.
const TOO_HIGH: f64 = 2.0;
/// Steps of these runs.
const STEPS: u64 = 900;
/// Steps after which it has begun to lose it, and nobody has seen it yet.
const LATE: u64 = 300;

/// Validations and checkpoints at the same instants, all over the same windows.
fn config(place: &Place, seed: i64, action: &str) -> UserConfig {
    let mut config = place.config(&format!("{STEPS}steps"), "");
    for (key, value) in [
        ("eval.every", "50steps"),
        ("checkpoint.every", "25steps"),
        ("guard.action", action),
        ("schedule.kind", "linear"),
    ] {
        config.set(key, value, "test");
    }
    config.set("accum", 1, "test");
    config.set("optimizer.lr", TOO_HIGH, "test");
    config.set("schedule.warmup", 0.8, "test");
    config.set("schedule.final_fraction", 0.0, "test");
    config.set("eval.windows", 16, "test");
    config.set("eval.final_windows", 16, "test");
    config.set("seed", seed, "test");
    config
}

fn finished(outcome: Result<Outcome, Error>) -> Summary {
    match outcome {
        Ok(Outcome::Finished(summary)) => *summary,
        other => panic!("nobody stops it: {other:?}"),
    }
}

/// val_bpb of a run's validations, until an event of this kind.
fn best_until(place: &Place, name: &str, kind: &str) -> f64 {
    let events = train::json_lines::read(&place.runs().join(name).join("events.jsonl")).unwrap();
    let before = events.iter().take_while(|event| event["event"] != kind);
    before.filter_map(|event| event["val_bpb"].as_f64()).fold(f64::INFINITY, f64::min)
}

#[test]
fn a_diverging_run_ends_no_worse_than_its_best() {
    for seed in [1, 2, 3] {
        let place = Place::new();
        let off = finished(place.train(place.start("off", config(&place, seed, "off")), cpu()));
        let best = best_until(&place, "off", "finished");
        // Twenty standard errors of a validation.
        assert!(off.val_bpb > best + 0.1, "seed {seed}: it was to diverge: {best}, then {}", off.val_bpb);
        assert!(place.metrics("off").iter().all(|line| line["guard"].is_null()));

        let on = finished(place.train(place.start("on", config(&place, seed, "recover")), cpu()));
        let before = best_until(&place, "on", "recovered");
        println!("seed {seed}: off {best} to {}; on {before} to {}", off.val_bpb, on.val_bpb);
        assert!(on.val_bpb <= best.min(before), "seed {seed}: {best}, {before}, then {}", on.val_bpb);
        assert_eq!((on.steps, on.tokens), (STEPS, STEPS * 63), "steps that were taken back do not count");
        let recovered = place.events("on", "recovered");
        assert!(on.recoveries > 0 && recovered.len() == on.recoveries);
        let number = |event: &Value, key: &str| event[key].as_u64().unwrap();
        let discarded: u64 = recovered.iter().map(|e| number(e, "step") - number(e, "back_to")).sum();
        assert_eq!(on.discarded_steps, discarded);
        // Not all that it learned is lost each time.
        assert!(recovered.iter().any(|e| number(e, "back_to") > 0), "seed {seed}: {recovered:?}");
        for (event, times) in recovered.iter().zip(1..) {
            assert!(
                number(event, "back_to") <= number(event, "since")
                    && number(event, "since") < number(event, "step")
            );
            assert_eq!(event["lr_factor"], 0.5_f64.powi(times));
            assert_eq!(event["checkpoint"].is_string(), number(event, "back_to") > 0);
        }

        // The log tells all of it, the rate included: a line for every step that was done.
        let metrics = place.metrics("on");
        assert_eq!(metrics.len() as u64, STEPS + discarded);
        let moment =
            |line: &Value| (line["recoveries"].as_u64().unwrap_or(0), line["step"].as_u64().unwrap());
        assert!(metrics.is_sorted_by_key(moment));
        let lr = |line: &Value| line["lr"].as_f64().unwrap();
        let first = &recovered[0];
        let again = metrics.iter().find(|line| moment(line) == (1, number(first, "back_to") + 1)).unwrap();
        let before = metrics.iter().find(|line| moment(line) == (0, number(first, "back_to") + 1)).unwrap();
        assert_eq!(lr(again), 0.5 * lr(before));
        assert!(again["loss"] != before["loss"], "it sees other data");
        assert!(metrics.last().unwrap()["guard"]["verdict"].is_string());
    }
}

/// Time cannot be taken back. The schedule goes back all the same, or weights that were well at a low rate would go on at
/// a higher one than tore them apart.
#[test]
fn a_diverging_run_with_a_budget_in_time_ends_no_worse_than_its_best() {
    // Steps take a fifth of a second each.
    let budget = format!("{}s", STEPS / 5);
    for seed in [1, 3] {
        let place = Place::new();
        let run = |name: &str, action: &str| {
            let mut config = config(&place, seed, action);
            config.set("budget", budget.as_str(), "test");
            finished(place.train_by(Ticks::new(u64::MAX), place.start(name, config), cpu(), u64::MAX).1)
        };
        let (off, on) = (run("off", "off"), run("on", "recover"));
        let (best, before) = (best_until(&place, "off", "finished"), best_until(&place, "on", "recovered"));
        println!("seed {seed}: off {best} to {}; on {before} to {}", off.val_bpb, on.val_bpb);
        assert!(off.val_bpb > best + 0.1, "seed {seed}: it was to diverge: {best}, then {}", off.val_bpb);
        assert!(on.val_bpb <= best.min(before), "seed {seed}: {best}, {before}, then {}", on.val_bpb);
        let done = on.steps + on.discarded_steps;
        // A sum of fifths may end just below.
        assert!(on.recoveries > 0 && done.abs_diff(STEPS) <= 1, "{done} steps");

        // Oracle: by hand. It goes on where the schedule was after the step that it went back to, at half the rate, and
        // each step takes more of what is left of it; it ends with the time.
        let metrics = place.metrics("on");
        let of = |line: &Value, key: &str| line[key].as_f64().unwrap();
        let middle = 0.05 * 5.0 / STEPS as f64;
        for (event, times) in place.events("on", "recovered").iter().zip(1_u32..) {
            let back_to = event["back_to"].as_u64().unwrap();
            let again = metrics.iter().find(|line| line["recoveries"] == times);
            let again = again.expect("it went on");
            assert_eq!(again["step"], back_to + 1);
            let last = metrics
                .iter()
                .take_while(|line| *line != again)
                .filter(|line| line["step"] == back_to)
                .last();
            let progress = last.map_or(0.0, |line| of(line, "progress"));
            let passed = of(again, "progress") - progress;
            assert!(
                (0.0..0.05).contains(&passed),
                "seed {seed}, recovery {times}: {passed} after {progress}"
            );
            assert!(passed >= middle, "a step is no less of the schedule than before");
            let rate = 2.0 * 0.5_f64.powi(times as i32) * of(again, "progress") / 0.8;
            assert!((of(again, "lr") - rate).abs() < 1e-9 * rate || of(again, "progress") > 0.8);
        }
        assert!(of(metrics.last().unwrap(), "progress") > 0.99);
    }
}

/// The rate rises to the end, and the run with it beyond what it bears, so late that no block of steps shows it. Whoever has
/// steps goes back and does them again; whoever has no time left ends with the best that there is.
#[test]
fn a_run_that_falls_ill_at_its_very_end_does_not_end_so() {
    for budget in [format!("{LATE}steps"), format!("{}s", LATE as f64 / 5.0)] {
        let place = Place::new();
        let run = |name: &str, action: &str| {
            let mut config = config(&place, 1, action);
            config.set("budget", budget.as_str(), "test");
            // As steep as in the other runs here, and to the end.
            config.set("optimizer.lr", TOO_HIGH * LATE as f64 / (0.8 * STEPS as f64), "test");
            config.set("schedule.warmup", 0.999, "test");
            finished(place.train_by(Ticks::new(u64::MAX), place.start(name, config), cpu(), u64::MAX).1)
        };
        let (warned, on) = (run("warned", "warn"), run("on", "recover"));
        let best = best_until(&place, "on", "recovered");
        println!("{budget}: warned {}, on {best} to {}", warned.val_bpb, on.val_bpb);
        let told = place.events("warned", "warned");
        let ends = |event: &Value| event["why"].as_str().unwrap().contains("the run ends with a loss of");
        assert!(told.last().is_some_and(ends), "{told:?}");
        assert!(warned.val_bpb > best + 0.1, "{budget}: it was to end ill: {best}, {}", warned.val_bpb);
        let recovered = place.events("on", "recovered");
        let had = |event: &Value| event["why"].as_str().unwrap().contains("the run ends with a val_bpb of");
        let at_the_end =
            if budget.ends_with("steps") { recovered.iter().any(ends) } else { recovered.iter().any(had) };
        assert!(at_the_end, "{recovered:?}");
        assert!(on.val_bpb <= best, "{budget}: {best}, then {}", on.val_bpb);
    }
}

/// Somebody who stops the run after so many steps, or kills it when something happens in a recovery.
struct Disturber {
    stop: Arc<AtomicBool>,
    steps_left: u64,
    deadly: &'static str,
    recovers: bool,
}

impl Observer for Disturber {
    fn on_step(&mut self, _: &StepMetrics, _: f64) {
        self.steps_left = self.steps_left.saturating_sub(1);
        if self.steps_left == 0 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn on_event(&mut self, event: &Event) {
        self.recovers |= matches!(event, Event::Recovered { .. });
        let kind = serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        assert!(!self.recovers || self.deadly != kind, "killed, as it was to be");
    }
}

/// Goes on until it is stopped after `steps` steps, or killed by the event `deadly` of its first recovery; `None` when
/// it was killed.
fn disturbed(place: &Place, start: Start, steps: u64, deadly: &'static str) -> Option<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let options = place.options(start, cpu());
    let mut observer = Disturber { stop: stop.clone(), steps_left: steps, deadly, recovers: false };
    let run = catch_unwind(AssertUnwindSafe(|| train_run(options, &mut observer, &stop)));
    run.ok().map(|outcome| outcome.unwrap())
}

/// Oracle: the same run, never disturbed.
#[test]
fn a_run_that_is_stopped_or_killed_around_a_recovery_ends_with_the_same_bytes() {
    let place = Place::new();
    let config = || config(&place, 1, "recover");
    finished(place.train(place.start("straight", config()), cpu()));
    let recovered = place.events("straight", "recovered");
    let ill_at = recovered[0]["step"].as_u64().unwrap();
    let same = |name: &str| {
        assert!(place.tensors(name) == place.tensors("straight"), "{name} ends with other bytes");
        let curve = |name: &str| -> Vec<String> {
            let told = ["step", "recoveries", "tokens", "loss", "lr", "guard"];
            place.metrics(name).iter().map(|line| told.map(|key| line[key].to_string()).join(" ")).collect()
        };
        assert_eq!(curve(name), curve("straight"), "{name}: one clean curve");
        assert_eq!(listed(&place, name), listed(&place, "straight"), "{name}: the same checkpoints stay");
    };
    // Long before, just before it, in the stretch that comes again.
    for (number, steps) in [ill_at / 3, ill_at - 1, ill_at + 60].into_iter().enumerate() {
        let name = format!("stopped-{number}");
        let stopped = disturbed(&place, place.start(&name, config()), steps, "");
        assert!(matches!(stopped, Some(Outcome::Interrupted { .. })), "{stopped:?}");
        finished(place.train(place.resume(&name), cpu()));
        same(&name);
    }
    // When it was decided and is not yet true; when it is true.
    for deadly in ["recovered", "checkpoint"] {
        assert!(disturbed(&place, place.start(deadly, config()), u64::MAX, deadly).is_none(), "{deadly}");
        finished(place.train(place.resume(deadly), cpu()));
        same(deadly);
    }
    // When it is true and what was left is still there.
    let checkpoints = |name: &str| place.runs().join(name).join("checkpoints");
    assert!(disturbed(&place, place.start("littered", config()), u64::MAX, "recovered").is_none());
    let before: Vec<String> = listed(&place, "littered");
    copy(&checkpoints("littered"), &place.path().join("before"));
    assert!(disturbed(&place, place.resume("littered"), u64::MAX, "checkpoint").is_none());
    for name in before {
        copy(&place.path().join("before").join(&name), &checkpoints("littered").join(&name));
    }
    finished(place.train(place.resume("littered"), cpu()));
    same("littered");
}

fn listed(place: &Place, name: &str) -> Vec<String> {
    let all = train::Checkpoints::of_run(&place.runs().join(name)).list();
    all.into_iter().map(|(_, path)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// A folder with all that is in it, where it is not there.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}

/// A rate so high that no number of halvings that is allowed here makes it a good one.
#[test]
fn who_falls_ill_too_often_gives_up_and_stands_where_it_was_well() {
    let place = Place::new();
    let mut config = config(&place, 1, "recover");
    config.set("guard.lr_factor", 0.99, "test");
    config.set("guard.max_recoveries", 1, "test");
    let error = place.train(place.start("a", config), cpu()).unwrap_err();
    let Error::GaveUp { back_to, max_recoveries: 1, .. } = error else { panic!("{error}") };
    let text = error.to_string();
    for wanted in
        ["after 1 recoveries", "lower optimizer.lr", "guard.max_recoveries", "config.toml", "--resume"]
    {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!((place.events("a", "recovered").len(), place.events("a", "failed").len()), (2, 1));
    assert_eq!(
        train::load_trained(&place.runs().join("a"), Pick::Newest).unwrap().checkpoint.state.spent.steps,
        back_to
    );
    // It says so again, and does what it says.
    assert!(matches!(place.train(place.resume("a"), cpu()), Err(Error::GaveUp { .. })));
    let path = place.runs().join("a/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace("max_recoveries = 1", "max_recoveries = 9")
            .replace("lr_factor = 0.99", "lr_factor = 0.3"),
    )
    .unwrap();
    let summary = finished(place.train(place.resume("a"), cpu()));
    assert!(summary.recoveries > 2 && summary.steps == STEPS);
}

#[test]
fn who_only_warns_goes_on() {
    let place = Place::new();
    let off = finished(place.train(place.start("off", config(&place, 1, "off")), cpu()));
    let warned = finished(place.train(place.start("warned", config(&place, 1, "warn")), cpu()));
    assert_eq!(warned.val_bpb, off.val_bpb);
    assert!(place.tensors("warned") == place.tensors("off"), "to be watched changes nothing");
    let told = place.events("warned", "warned");
    assert!(!told.is_empty() && told.len() < 20, "{} warnings", told.len());
    assert!(told[0]["why"].as_str().unwrap().contains("the loss"), "{}", told[0]);
}

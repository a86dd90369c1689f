//! A run that is stopped or killed wherever that may be ends with the bytes of one that never was, whatever it trains
//! with: each optimiser, schedule and packing, with a mean of the weights and growing steps or without, on devices of
//! f32 and f16, in health and in illness. `ANNEAL_KILL_SEED` repeats the places of an earlier test.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use common::{Place, cpu, sim_f16};
use data::random::Stream;
use device::Device;
use serde_json::json;
use train::{Evaluation, Event, Observer, Outcome, StepMetrics, train_run};

/// How an interruption comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    /// A request to stop.
    Stop,
    /// The process is gone: nothing of it runs after this, as far as one process can show that.
    Kill,
}

struct Killed;

/// Strikes when it has been told so many things.
struct Assassin {
    blow: Blow,
    left: u64,
    /// How many at most from when the run goes back: 0 is before that is true, 1 just after.
    left_in_recovery: u64,
    stop: Arc<AtomicBool>,
}

impl Assassin {
    fn told(&mut self) {
        match (self.left, self.blow) {
            (0, Blow::Stop) => self.stop.store(true, Ordering::Relaxed),
            // Unlike `panic!` it says nothing.
            (0, Blow::Kill) => resume_unwind(Box::new(Killed)),
            _ => self.left -= 1,
        }
    }
}

impl Observer for Assassin {
    fn on_step(&mut self, _: &StepMetrics, _: f64) {
        self.told();
    }
    fn on_eval(&mut self, _: u64, _: &Evaluation) {
        self.told();
    }
    fn on_event(&mut self, event: &Event) {
        if matches!(event, Event::Recovered { .. }) {
            self.left = self.left.min(self.left_in_recovery);
        }
        self.told();
    }
}

/// Trains to the end, with interruptions on the way; how many there were.
fn train_with_interruptions(
    place: &Place,
    config: train::UserConfig,
    device: &Arc<dyn Device>,
    random: &mut Stream,
) -> u64 {
    let mut start = place.start("interrupted", config);
    for interruptions in 0.. {
        let stop = Arc::new(AtomicBool::new(false));
        // A run from its beginning tells about 30 things; later on there is always one that survives.
        let blow = if random.below(2) == 0 { Blow::Stop } else { Blow::Kill };
        let mut assassin = Assassin {
            blow,
            left: random.below(30 + 8 * interruptions),
            left_in_recovery: random.below(4),
            stop: stop.clone(),
        };
        let options = place.options(start, device.clone());
        match catch_unwind(AssertUnwindSafe(|| train_run(options, &mut assassin, &stop))) {
            Ok(Ok(Outcome::Finished(_))) => return interruptions,
            Ok(Ok(Outcome::Interrupted { .. })) => assert_eq!(blow, Blow::Stop),
            Ok(Err(error)) => panic!("{error}"),
            Err(panic) if panic.is::<Killed>() => assert_eq!(blow, Blow::Kill),
            Err(panic) => resume_unwind(panic),
        }
        start = place.resume("interrupted");
    }
    unreachable!("it tries until it ends")
}

/// Whether the run `interrupted` ended as the run `straight` did.
fn compare(place: &Place, straight: &str, mean: bool, about: &str) {
    assert!(place.tensors("interrupted") == place.tensors(straight), "{about}");
    assert!(!mean || place.means("interrupted") == place.means(straight), "{about}");
    let curve = |name: &str| -> Vec<String> {
        let told = ["step", "recoveries", "tokens", "loss", "lr", "guard"];
        place.metrics(name).iter().map(|line| told.map(|key| line[key].to_string()).join(" ")).collect()
    };
    assert_eq!(curve("interrupted"), curve(straight), "{about}: one clean curve");
}

/// The text as documents of a sentence each: a row is fitted together from several.
fn documents(place: &Place) -> String {
    let text = std::fs::read_to_string(place.text()).unwrap();
    let sentences = text.split(". ").map(str::trim).filter(|sentence| !sentence.is_empty());
    let lines = sentences.map(|sentence| format!("{}\n", json!({ "text": format!("{sentence}. ") })));
    let path = place.path().join("documents.jsonl");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    path.display().to_string()
}

fn places() -> Stream {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let seed = std::env::var("ANNEAL_KILL_SEED").map_or(now, |text| text.parse().expect("a number"));
    println!("ANNEAL_KILL_SEED={seed}");
    Stream::new(seed)
}

#[test]
fn whatever_interrupts_a_run_changes_no_bit() {
    let mut random = places();
    let (mut case, mut interruptions) = (0, 0);
    for optimizer in ["adamw", "muon"] {
        for schedule in ["cosine", "linear", "wsd"] {
            for packing in ["windows", "best_fit"] {
                case += 1;
                // Both with both, over the dozen cases.
                let (mean, ramp) = (case % 3 != 0, case % 4 != 0);
                let device = if case % 4 == 1 { sim_f16() } else { cpu() };
                let place = Place::new();
                let source = documents(&place);
                let config = || {
                    let mut config = place.config(if case % 2 == 0 { "14steps" } else { "2100tok" }, "");
                    config.set("data.source", source.as_str(), "test");
                    config.set("optimizer.kind", optimizer, "test");
                    config.set("schedule.kind", schedule, "test");
                    config.set("data.packing", packing, "test");
                    config.set("checkpoint.every", "3steps", "test");
                    config.set("eval.every", "4steps", "test");
                    config.set("loss_scale.growth_interval", 4, "test");
                    if mean {
                        config.set("ema.half_life", 0.2, "test");
                    }
                    if ramp {
                        config.set("batch", 2, "test");
                        config.set("accum", 4, "test");
                        config.set("batch_ramp.over", 0.7, "test");
                    }
                    config
                };
                place.train(place.start("straight", config()), device.clone()).unwrap();
                interruptions += train_with_interruptions(&place, config(), &device, &mut random);
                let about =
                    format!("case {case}: {optimizer}, {schedule}, {packing}, mean {mean}, ramp {ramp}");
                compare(&place, "straight", mean, &about);
            }
        }
    }
    println!("{interruptions} interruptions over {case} runs");
    assert!(interruptions >= case, "too few to show anything");
}

/// All that has a state of its own, at rates that rise until the run is ill; it goes back to its beginning, and to a
/// checkpoint.
#[test]
fn whatever_interrupts_an_ill_run_changes_no_bit() {
    let mut random = places();
    for (optimizer, lr) in [("adamw", 2.0), ("muon", 3.0)] {
        let place = Place::new();
        let source = documents(&place);
        let config = |seed: i64| {
            let mut config = place.config("330steps", "");
            for (key, value) in [
                ("data.source", source.as_str()),
                ("data.packing", "best_fit"),
                ("optimizer.kind", optimizer),
                ("schedule.kind", "linear"),
                ("checkpoint.every", "12steps"),
                ("eval.every", "100steps"),
            ] {
                config.set(key, value, "test");
            }
            for (key, value) in [
                ("optimizer.lr", lr),
                ("schedule.warmup", 0.9),
                ("schedule.final_fraction", 0.0),
                ("ema.half_life", 0.05),
                ("batch_ramp.over", 0.4),
            ] {
                config.set(key, value, "test");
            }
            if optimizer == "muon" {
                config.set("optimizer.muon.lr", lr, "test");
            }
            config.set("batch", 1, "test");
            config.set("accum", 3, "test");
            config.set("seed", seed, "test");
            config
        };
        // Where an ill run goes back to hangs on every bit of it.
        let straight = |seed: &i64| {
            let name = format!("straight-{seed}");
            place.train(place.start(&name, config(*seed)), cpu()).unwrap();
            let recovered = place.events(&name, "recovered");
            let back_to: Vec<u64> = recovered.iter().map(|e| e["back_to"].as_u64().unwrap()).collect();
            println!("{optimizer}, seed {seed}: it went back to {back_to:?}");
            back_to.iter().any(|step| *step > 0)
        };
        let seed = (5..15).find(straight).expect("one of ten goes back to a checkpoint");
        let interruptions = train_with_interruptions(&place, config(seed), &cpu(), &mut random);
        println!("{interruptions} interruptions");
        compare(&place, &format!("straight-{seed}"), true, optimizer);
        assert_eq!(place.metrics("interrupted").last().unwrap()["step"], 330);
    }
}

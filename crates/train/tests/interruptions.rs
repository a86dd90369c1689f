//! A run that is stopped or killed wherever that may be ends with the bytes of one that never was, whatever it trains
//! with: each optimiser, schedule and packing, with a mean of the weights and growing steps or without, on devices of
//! f32 and f16. `ANNEAL_KILL_SEED` repeats the places of an earlier test.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use common::{Place, cpu, sim_f16};
use data::random::Stream;
use device::Device;
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
    fn on_event(&mut self, _: &Event) {
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
        let mut assassin = Assassin { blow, left: random.below(30 + 8 * interruptions), stop: stop.clone() };
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

#[test]
fn whatever_interrupts_a_run_changes_no_bit() {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64);
    let seed = std::env::var("ANNEAL_KILL_SEED").map_or(now, |text| text.parse().expect("a number"));
    println!("ANNEAL_KILL_SEED={seed}");
    let mut random = Stream::new(seed);
    let (mut case, mut interruptions) = (0, 0);
    for optimizer in ["adamw", "muon"] {
        for schedule in ["cosine", "linear", "wsd"] {
            for packing in ["windows", "best_fit"] {
                case += 1;
                // Both with both, over the dozen cases.
                let (mean, ramp) = (case % 3 != 0, case % 4 != 0);
                let device = if case % 4 == 1 { sim_f16() } else { cpu() };
                let place = Place::new();
                let config = || {
                    let mut config = place.config(if case % 2 == 0 { "14steps" } else { "2100tok" }, "");
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
                assert!(place.tensors("interrupted") == place.tensors("straight"), "{about}");
                assert!(!mean || place.means("interrupted") == place.means("straight"), "{about}");
                let curve = |name: &str| -> Vec<String> {
                    let of = |m: &serde_json::Value| {
                        format!("{} {} {} {}", m["step"], m["tokens"], m["loss"], m["lr"])
                    };
                    place.metrics(name).iter().map(of).collect()
                };
                assert_eq!(curve("interrupted"), curve("straight"), "{about}: one clean curve");
            }
        }
    }
    println!("{interruptions} interruptions over {case} runs");
    assert!(interruptions >= case, "too few to show anything");
}

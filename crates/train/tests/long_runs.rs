//! What long runs need: a mean of the weights, steps that grow, a machine that sleeps, another device.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::{NIGHT, Place, Ticks, cpu, devices, sim_f16};
use data::ByteCount;
use device::Device;
use model::Stack;
use train::{
    Budget, Change, Checkpoint, Checkpoints, Error, Outcome, Pick, Protocol, Start, Stretch, Summary,
    UserConfig, ValidationData, checkpoint,
};

/// Tokens of a microbatch of the runs here: 3 sequences of 21.
const MICROBATCH: u64 = 63;

fn finished(outcome: Result<Outcome, Error>) -> Summary {
    match outcome.unwrap() {
        Outcome::Finished(summary) => *summary,
        Outcome::Interrupted { step, .. } => panic!("it was stopped after step {step}"),
    }
}

/// A configuration with these settings.
fn with(place: &Place, budget: &str, settings: &[(&str, &str)]) -> UserConfig {
    let mut config = place.config(budget, "");
    for (key, value) in settings {
        let value = format!("value = {value}").parse::<toml::Table>().unwrap().remove("value").unwrap();
        config.set(key, value, "test");
    }
    config
}

fn checkpoints(place: &Place, name: &str) -> Vec<Checkpoint> {
    let dir = place.runs().join(name);
    let model = train::load_trained(&dir, Pick::Newest).unwrap().config.model;
    let all = Checkpoints::of_run(&dir).list().into_iter();
    all.map(|(_, path)| checkpoint::load(&path, &model, None).unwrap()).collect()
}

// ---- the mean of the weights ----

const WITH_EMA: [(&str, &str); 3] =
    [("ema.half_life", "0.2"), ("checkpoint.every", "'1steps'"), ("checkpoint.keep", "100")];

/// Oracle: the sum by hand in f64, term by term. A weight is below 2 and rounds by 1.2e-7 at most in each of 20 steps,
/// about as often up as down.
#[test]
fn the_mean_is_the_weighted_sum_of_all_weights_so_far() {
    let place = Place::new();
    finished(place.train(place.start("a", with(&place, "20steps", &WITH_EMA)), cpu()));
    let all = checkpoints(&place, "a");
    assert_eq!(all.len(), 20);
    let passed = |step: usize| if step == 0 { 0.5 / 20.0 } else { 1.0 / 20.0 };
    for last in [0, 1, 7, 19] {
        let mut shares = vec![0.0; last + 1];
        let mut kept = 1.0;
        for step in (0..=last).rev() {
            let decay = 2_f64.powf(-passed(step) / 0.2);
            shares[step] = kept * (1.0 - decay);
            kept *= decay;
        }
        let mass: f64 = shares.iter().sum();
        let means = all[last].means.as_ref().expect("the run keeps a mean");
        for (parameter, means) in means.iter().enumerate() {
            for (at, mean) in means.iter().enumerate() {
                let terms =
                    shares.iter().zip(&all).map(|(share, c)| share * f64::from(c.weights[parameter][at]));
                let wanted = terms.sum::<f64>() / mass;
                assert!((f64::from(*mean) - wanted).abs() < 1e-6, "after step {}: {mean} {wanted}", last + 1);
            }
        }
    }
    assert_ne!(all[19].means.as_ref(), Some(&all[19].weights));
}

/// Oracle: the same function on a model that is given the weights of the file.
#[test]
fn validation_is_of_the_mean_and_leaves_no_trace() {
    for device in devices() {
        let place = Place::new();
        let config = |every: &str| {
            let mut config = with(&place, "12steps", &WITH_EMA);
            config.set("eval.every", every, "test");
            config
        };
        let summary = finished(place.train(place.start("often", config("1steps")), device.clone()));
        finished(place.train(place.start("never", config("1h")), device.clone()));
        assert!(
            place.tensors("often") == place.tensors("never"),
            "{}: a validation moved something",
            device.name()
        );
        assert!(place.means("often") == place.means("never"), "{}", device.name());

        let trained = train::load_trained(&place.runs().join("often"), Pick::Newest).unwrap();
        let dataset =
            train::prepare_data(&trained.config, true, &place.path().join("cache"), &mut ()).unwrap().0;
        let data = ValidationData::new(&dataset, ByteCount::Raw);
        let measured = |raw: bool| {
            let mut stack =
                Stack::new(&trained.config.model, device.clone(), &trained.config.stack_options()).unwrap();
            for (index, weights) in trained.checkpoint.model_weights(raw).iter().enumerate() {
                stack.set_weights(index, weights).unwrap();
            }
            train::evaluate(&mut stack, &data, Protocol::windows(8), &mut |_, _| ()).unwrap().val_bpb
        };
        assert_eq!(measured(false), summary.val_bpb, "{}", device.name());
        assert_ne!(measured(true), summary.val_bpb, "{}", device.name());
    }
}

#[test]
fn a_mean_may_begin_later_and_end_earlier() {
    let place = Place::new();
    let (_, outcome) = place.train_until(place.start("a", place.config("8steps", "")), cpu(), 3);
    outcome.unwrap();
    let path = place.runs().join("a/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = text.replace("half_life = 0.0", "half_life = 0.25");
    assert_ne!(text, other);
    std::fs::write(&path, other).unwrap();
    let (_, outcome) = place.train_until(place.resume("a"), cpu(), 4);
    outcome.unwrap();
    let newest = checkpoints(&place, "a").pop().unwrap();
    assert_eq!(newest.means.as_ref(), Some(&newest.weights), "its first term is the mean");
    std::fs::write(&path, text).unwrap();
    finished(place.train(place.resume("a"), cpu()));
    assert_eq!(checkpoints(&place, "a").pop().unwrap().means, None);
}

// ---- steps that grow ----

/// The microbatches of each step of a run, by its metrics.
fn microbatches(place: &Place, name: &str) -> Vec<u64> {
    let tokens: Vec<u64> = place.metrics(name).iter().map(|m| m["tokens"].as_u64().unwrap()).collect();
    let before = std::iter::once(0).chain(tokens.clone());
    tokens.iter().zip(before).map(|(after, before)| (after - before) / MICROBATCH).collect()
}

/// Oracle: by hand. Step i of 16 follows one whose middle was at (i - 1.5) / 16; the number is 1 + floor(3 p / 0.5).
#[test]
fn steps_grow_as_the_ramp_says() {
    let place = Place::new();
    let ramp = [("accum", "4"), ("batch_ramp.start", "1"), ("batch_ramp.over", "0.5")];
    let summary = finished(place.train(place.start("steps", with(&place, "16steps", &ramp)), cpu()));
    let wanted = [1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4];
    assert_eq!(microbatches(&place, "steps"), wanted);
    assert_eq!(summary.tokens, MICROBATCH * wanted.iter().sum::<u64>());
    // No sequence is left out or seen twice: the loader is where the sum of all microbatches is.
    let newest = checkpoints(&place, "steps").pop().unwrap();
    assert_eq!(newest.state.next_window, summary.tokens / 21);

    // In tokens: a budget of 20 microbatches, from 2 to 4 over all of it. Middles after steps of 2 are at 1/20, 3/20, …;
    // the seventh step follows 11/20 and is the first of 3.
    let ramp = [("accum", "4"), ("batch_ramp.start", "2"), ("batch_ramp.over", "1.0")];
    finished(place.train(place.start("tokens", with(&place, "1260tok", &ramp)), cpu()));
    assert_eq!(microbatches(&place, "tokens"), [2, 2, 2, 2, 2, 2, 3, 3, 3]);
    let progress: Vec<f64> =
        place.metrics("tokens").iter().map(|m| m["progress"].as_f64().unwrap()).collect();
    let wanted = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.5, 16.5, 19.5].map(|middle| middle / 20.0);
    assert!(progress.iter().zip(wanted).all(|(p, w)| (p - w).abs() < 1e-12), "{progress:?}");
    // An amount is its share of the budget.
    let amount = [("accum", "4"), ("batch_ramp.start", "2"), ("batch_ramp.over", "'1260tok'")];
    finished(place.train(place.start("amount", with(&place, "1260tok", &amount)), cpu()));
    assert!(place.tensors("amount") == place.tensors("tokens"));
}

/// Oracle: the same sequences in one batch. f32 sums in another order are off by some 1e-6 of the norm, products of
/// f16 by half a step, 5e-4, of each of their terms; a wrong number of tokens would be off by a third at least.
#[test]
fn a_smaller_step_has_the_gradient_of_its_own_sequences() {
    for (device, tolerance) in [(cpu(), 1e-5), (sim_f16(), 5e-3)] {
        for parts in [1, 2, 3] {
            let place = Place::new();
            let parts = format!("{parts}");
            let ramp = [("accum", "4"), ("batch_ramp.start", parts.as_str()), ("batch_ramp.over", "0.9")];
            let batch = format!("{}", 3 * parts.parse::<u64>().unwrap());
            let big = [("accum", "1"), ("batch", batch.as_str())];
            let first = |name: &str, settings: &[(&str, &str)]| {
                let start = place.start(name, with(&place, "8steps", settings));
                let (seen, outcome) = place.train_until(start, device.clone(), 1);
                outcome.unwrap();
                seen.steps[0].clone()
            };
            let (one, two) = (first("ramp", &ramp), first("big", &big));
            assert_eq!(one.tokens, two.tokens);
            assert!(!one.skipped && !two.skipped);
            for (one, two) in [(one.loss, two.loss), (one.grad_norm, two.grad_norm)] {
                assert!((one - two).abs() < tolerance * two, "{} {parts}: {one} {two}", device.name());
            }
        }
    }
}

// ---- sleep, and budgets in time ----

/// Steps of a fifth of a second each, whatever this machine does.
fn train_by(place: &Place, clock: Arc<Ticks>, start: Start, last_step: u64) -> Result<Outcome, Error> {
    place.train_by(clock, start, cpu(), last_step).1
}

#[test]
fn a_night_asleep_is_not_time_in_training() {
    let place = Place::new();
    let run = |name: &str, sleeps_at: u64| {
        let start = place.start(name, place.config("4s", ""));
        finished(train_by(&place, Ticks::new(sleeps_at), start, u64::MAX))
    };
    let awake = run("awake", u64::MAX);
    assert_eq!(place.events("awake", "slept").len(), 0);
    // The eighth step looks at the clock for the 30th, 31st and 32nd time: it begins after the night, or ends so.
    for (name, sleeps_at) in [("before", 30), ("within", 32)] {
        let asleep = run(name, sleeps_at);
        assert_eq!((awake.steps, asleep.steps), (20, 20));
        assert!((asleep.seconds - 4.0).abs() < 1e-9, "{}", asleep.seconds);
        assert!(place.tensors("awake") == place.tensors(name));
        let slept = place.events(name, "slept");
        assert_eq!((slept.len(), slept[0]["step"].as_u64()), (1, Some(8)), "{slept:?}");
        assert!((slept[0]["seconds"].as_f64().unwrap() - NIGHT.as_secs_f64()).abs() < 1.0, "{slept:?}");
    }
}

/// A rate that falls in a line to nothing, and nothing on the way.
const LINEAR: &[(&str, &str)] = &[
    ("schedule.kind", "'linear'"),
    ("schedule.warmup", "0.0"),
    ("schedule.final_fraction", "0.0"),
    ("eval.every", "0.0"),
];

fn rates(place: &Place, name: &str) -> Vec<f64> {
    place.metrics(name).iter().map(|m| m["lr"].as_f64().unwrap()).collect()
}

/// Oracle: by hand. A step takes 0.2 s and goes by the time of its update, 0.1 s after its beginning, of which half
/// counts: step i of a budget of T s has the progress (0.2 (i - 1) + 0.05) / T.
#[test]
fn a_budget_in_time_ends_its_schedule_with_the_time_whatever_becomes_of_it() {
    let place = Place::new();
    let clock = || Ticks::new(u64::MAX);
    let stopped = |name: &str| {
        let start = place.start(name, with(&place, "4s", LINEAR));
        let outcome = train_by(&place, clock(), start, 10).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { step: 10, .. }));
    };
    let middle = |step: usize| 0.2 * (step as f64 - 1.0) + 0.05;
    let check = |name: &str, steps: usize, factor: &dyn Fn(usize) -> f64| {
        let rates = rates(&place, name);
        assert_eq!(rates.len(), steps, "{name}");
        for (at, rate) in rates.iter().enumerate() {
            let wanted = 0.01 * factor(at + 1);
            assert!((rate - wanted).abs() < 1e-9, "{name}, step {}: {rate}, expected {wanted}", at + 1);
        }
    };
    stopped("whole");
    finished(train_by(&place, clock(), place.resume("whole"), u64::MAX));
    check("whole", 20, &|step| 1.0 - middle(step) / 4.0);

    let changed = |name: &str, change: Change| {
        stopped(name);
        finished(train_by(&place, clock(), place.resume_with(name, change), u64::MAX));
    };
    let seconds = |n| Budget::Time(Duration::from_secs(n));
    // As if it had always been 8 s long.
    changed("stretched", Change::Stretch(seconds(8)));
    check("stretched", 40, &|step| 1.0 - middle(step) / if step <= 10 { 4.0 } else { 8.0 });
    // From the top over the 6 s that are left.
    changed("restarted", Change::Restart(seconds(8)));
    check("restarted", 40, &|step| {
        1.0 - if step <= 10 { middle(step) / 4.0 } else { (middle(step) - 2.0) / 6.0 }
    });
    // From where it is, a half, to nothing over 2 s more.
    changed("decayed", Change::DecayNow(Some(seconds(2))));
    check("decayed", 20, &|step| {
        if step <= 10 { 1.0 - middle(step) / 4.0 } else { 0.5 * (1.0 - (middle(step) - 2.0) / 2.0) }
    });
    // The same in another unit.
    changed("in-steps", Change::DecayNow(Some(Budget::Steps(4))));
    check("in-steps", 14, &|step| {
        if step <= 10 { 1.0 - middle(step) / 4.0 } else { 0.5 * (1.0 - (step as f64 - 10.5) / 4.0) }
    });
    // A run that is over has no rate left that could fall; it never was validated on the way either.
    let error =
        place.train(place.resume_with("decayed", Change::DecayNow(None)), cpu()).unwrap_err().to_string();
    assert!(
        error.contains("its rate has already fallen to nothing") && error.contains("--schedule restart"),
        "{error}"
    );
    changed("again", Change::Restart(seconds(3)));
    finished(train_by(&place, clock(), place.resume_with("again", Change::Restart(seconds(5))), u64::MAX));
    check("again", 25, &|step| match step {
        0..=10 => 1.0 - middle(step) / 4.0,
        11..=15 => 1.0 - (middle(step) - 2.0),
        _ => 1.0 - (middle(step) - 3.0) / 2.0,
    });
}

/// Oracle: by hand. A schedule that began anew after step 8 of 16 (a share of 0.5) began at a share of 0.25 of 32.
#[test]
fn a_schedule_that_began_later_is_stretched_from_where_it_began() {
    let place = Place::new();
    let start = place.start("a", with(&place, "12steps", LINEAR));
    place.train_until(start, cpu(), 8).1.unwrap();
    let restart = place.resume_with("a", Change::Restart(Budget::Steps(16)));
    place.train_until(restart, cpu(), 12).1.unwrap();
    finished(place.train(place.resume_with("a", Change::Stretch(Budget::Steps(32))), cpu()));
    for (at, rate) in rates(&place, "a").iter().enumerate() {
        let middle = at as f64 + 0.5;
        let wanted = 0.01
            * match at {
                0..8 => 1.0 - middle / 12.0,
                8..12 => 1.0 - (middle - 8.0) / 8.0,
                _ => 1.0 - (middle - 8.0) / 24.0,
            };
        assert!((rate - wanted).abs() < 1e-9, "step {}: {rate}, expected {wanted}", at + 1);
    }
}

#[test]
fn what_is_an_amount_follows_a_budget_in_another_unit() {
    let place = Place::new();
    let settings = [
        ("schedule.warmup", "'2steps'"),
        ("ema.half_life", "'4steps'"),
        ("batch_ramp.over", "'6steps'"),
        ("batch_ramp.start", "1"),
        ("eval.every", "'5steps'"),
    ];
    place.train_until(place.start("a", with(&place, "20steps", &settings)), cpu(), 10).1.unwrap();
    let change = Change::Stretch(Budget::Time(Duration::from_secs(100)));
    place.train_until(place.resume_with("a", change), cpu(), 12).1.unwrap();
    let config = train::load_trained(&place.runs().join("a"), Pick::Newest).unwrap().config;
    let share = |stretch: Stretch| match stretch {
        Stretch::Share(share) => share,
        Stretch::Amount(amount) => panic!("{amount}"),
    };
    let (warmup, half_life, over) =
        (share(config.schedule.warmup), share(config.ema.half_life), share(config.batch_ramp.over));
    // Ten steps took some part of the 100 s, which two, four and six of them are parts of.
    assert!(
        (half_life / warmup - 2.0).abs() < 1e-9 && (over / warmup - 3.0).abs() < 1e-9,
        "{warmup} {half_life} {over}"
    );
    assert!(warmup > 0.0 && warmup < 0.1, "{warmup}");
}

#[test]
fn a_replay_has_the_length_of_what_it_replays() {
    let place = Place::new();
    finished(place.train(place.start("timed", place.config("4steps", "")), cpu()));
    let replay = format!("replay = '{}'", place.runs().join("timed").display());
    place.train_until(place.start("again", place.config("4steps", &replay)), cpu(), 2).1.unwrap();
    let change = Change::DecayNow(Some(Budget::Steps(3)));
    let error = place.train(place.resume_with("again", change), cpu()).unwrap_err().to_string();
    assert!(error.contains("replay = ") && error.contains("recorded progress of another one"), "{error}");
    finished(place.train(place.resume("again"), cpu()));
    assert!(place.tensors("again") == place.tensors("timed"));
}

/// With a mean and a ramp as well, whose sizes and shares go by recorded progress too.
#[test]
fn a_run_with_a_budget_in_time_is_replayed_with_mean_and_ramp() {
    let place = Place::new();
    let settings = [("ema.half_life", "0.1"), ("accum", "3"), ("batch_ramp.over", "0.6")];
    let start = place.start("timed", with(&place, "3s", &settings));
    finished(train_by(&place, Ticks::new(u64::MAX), start, u64::MAX));
    // Step i follows one at (0.2 (i - 2) + 0.05) / 3, which passes 0.3 before the seventh and 0.6 before the eleventh.
    assert_eq!(microbatches(&place, "timed"), [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
    let mut replay = with(&place, "3s", &settings);
    replay.set("replay", place.runs().join("timed").display().to_string(), "test");
    place.train_until(place.start("again", replay), cpu(), 7).1.unwrap();
    finished(place.train(place.resume("again"), cpu()));
    assert!(place.tensors("again") == place.tensors("timed"));
    assert!(place.means("again") == place.means("timed"));
}

// ---- another device ----

fn losses(place: &Place, name: &str) -> Vec<f64> {
    place.metrics(name).iter().map(|m| m["loss"].as_f64().unwrap()).collect()
}

/// What is kept is f32 on every device, so that nothing is lost on the way. Then products are of f16: a loss is a
/// mean of 126 terms with errors of some steps of f16, 1e-3 each, and what ten steps make of them.
#[test]
fn a_run_goes_on_on_another_device_from_the_same_bits() {
    let place = Place::new();
    let settings = [("ema.half_life", "0.2"), ("eval.every", "0.0")];
    let config = || with(&place, "20steps", &settings);
    finished(place.train(place.start("stays", config()), cpu()));
    for (name, first, second) in [("to-sim", cpu(), sim_f16()), ("to-cpu", sim_f16(), cpu())] {
        place.train_until(place.start(name, config()), first, 10).1.unwrap();
        let before = (place.tensors(name), place.means(name));
        // Loaded on the other device and stopped at once: the same bytes.
        let stop = AtomicBool::new(true);
        let options = place.options(place.resume(name), second.clone());
        assert!(matches!(
            train::train_run(options, &mut (), &stop).unwrap(),
            Outcome::Interrupted { step: 10, .. }
        ));
        assert!((place.tensors(name), place.means(name)) == before, "{name}");
        let (seen, outcome) = place.train_until(place.resume(name), second.clone(), u64::MAX);
        let summary = finished(outcome);
        assert_eq!(summary.device, second.name());
        assert!(seen.steps.iter().all(|step| !step.skipped));
        let f16 = second.element() == mil::Element::F16;
        assert_eq!(seen.steps[0].scale, if f16 { 4096.0 } else { 1.0 }, "{name}: 32 for each of 126 tokens");
        for (at, (one, other)) in losses(&place, name).iter().zip(losses(&place, "stays")).enumerate() {
            assert!((one - other).abs() < 0.01 * other, "{name}, step {}: {one} {other}", at + 1);
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_threads_to_the_same_bytes() {
    let place = Place::new();
    let device = |threads| -> Arc<dyn Device> { Arc::new(cpu::CpuDevice::new(threads)) };
    let settings = [("ema.half_life", "0.2"), ("optimizer.kind", "'muon'")];
    let config = || with(&place, "8steps", &settings);
    finished(place.train(place.start("two", config()), device(2)));
    place.train_until(place.start("changes", config()), device(1), 3).1.unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    finished(pool.install(|| place.train(place.resume("changes"), device(2))));
    assert!(place.tensors("changes") == place.tensors("two"));
    assert!(place.means("changes") == place.means("two"));
}

// ---- stopping at the very end ----

/// Oracle: the same run without a stop.
#[test]
fn a_stop_in_the_last_validation_leaves_it_for_later() {
    let place = Place::new();
    let straight = finished(place.train(place.start("straight", place.config("6steps", "")), cpu()));
    let (seen, outcome) = place.train_until(place.start("stopped", place.config("6steps", "")), cpu(), 6);
    assert!(matches!(outcome.unwrap(), Outcome::Interrupted { step: 6, .. }));
    assert!(seen.evaluations.iter().all(|(step, _)| *step < 6));
    assert!(!place.runs().join("stopped/summary.json").exists());
    let again = finished(place.train(place.resume("stopped"), cpu()));
    assert_eq!((again.val_bpb, again.steps, again.tokens), (straight.val_bpb, 6, straight.tokens));
    assert!(place.tensors("stopped") == place.tensors("straight"));
}

// ---- what cannot be ----

#[test]
fn a_changed_architecture_is_named_with_both_values() {
    let place = Place::new();
    place.train_until(place.start("a", place.config("6steps", "")), cpu(), 2).1.unwrap();
    let path = place.runs().join("a/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let before = place.tensors("a");
    for (from, to, wanted) in [
        ("n_layers = 2", "n_layers = 3", "model.n_layers = 2, and config.toml says 3"),
        ("ffn_hidden = ", "ffn_hidden = 1", "model.ffn_hidden = "),
        ("qk_norm = true", "qk_norm = false", "model.qk_norm = true, and config.toml says false"),
        ("kind = \"adamw\"", "kind = \"muon\"", "optimizer.kind = \"adamw\", and config.toml says \"muon\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        std::fs::write(&path, changed).unwrap();
        let error = place.train(place.resume("a"), cpu()).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("set it back"), "{error}\nexpected {wanted}");
        assert!(place.tensors("a") == before);
    }
    std::fs::write(&path, text).unwrap();
    finished(place.train(place.resume("a"), cpu()));
}

/// What decides a run's course is either changed by an option that says what becomes of the rest, or kept, or the log says
/// that it is another one from there.
#[test]
fn an_edited_course_is_refused_or_told() {
    let place = Place::new();
    place.train_until(place.start("a", place.config("6steps", "")), cpu(), 2).1.unwrap();
    let path = place.runs().join("a/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let edited = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        std::fs::write(&path, changed).unwrap();
        place.train_until(place.resume("a"), cpu(), 3).1
    };
    for (from, to, wanted) in [
        (
            "budget = \"6steps\"",
            "budget = \"60steps\"",
            "budget = \"60steps\": the run was saved with \"6steps\", and",
        ),
        (
            "budget = \"6steps\"",
            "budget = \"2steps\"",
            "--resume with --budget and --schedule, or --decay-now",
        ),
        (
            "kind = \"cosine\"",
            "kind = \"linear\"",
            "schedule.kind = \"linear\": the run was saved with \"cosine\"",
        ),
        ("seed = 5", "seed = 6", "seed = 6: the run was saved with 5, and the order of its data"),
    ] {
        let error = edited(from, to).unwrap_err().to_string();
        assert!(
            error.contains(wanted) && error.contains("config.toml: ") && error.contains("set it back"),
            "{error}"
        );
    }
    assert_eq!(place.events("a", "config_changed").len(), 0);
    // Once: from then on it is what the run goes by.
    edited("lr = 0.01", "lr = 0.005").unwrap();
    finished(place.train(place.resume("a"), cpu()));
    let told = place.events("a", "config_changed");
    assert_eq!(told.len(), 1, "{told:?}");
    let of = |key: &str| told[0][key].as_str().unwrap();
    assert_eq!((of("key"), of("was"), of("now")), ("optimizer.lr", "0.01", "0.005"));
    // Watching and keeping may change as they like.
    place.train_until(place.start("b", place.config("6steps", "")), cpu(), 2).1.unwrap();
    let path = place.runs().join("b/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("keep = 3", "keep = 1").replace("windows = 4", "windows = 2"))
        .unwrap();
    finished(place.train(place.resume("b"), cpu()));
    assert_eq!(place.events("b", "config_changed").len(), 0);
}

#[test]
fn settings_of_mean_and_ramp_that_cannot_be() {
    let place = Place::new();
    for (settings, wanted) in [
        (
            vec![("ema.half_life", "'1h'")],
            "ema.half_life = 1h: with budget = 20steps it must be a shorter part",
        ),
        (vec![("ema.half_life", "'30steps'")], "ema.half_life = 30steps: "),
        (vec![("ema.half_life", "-0.1")], "ema.half_life = -0.1: as a number it is a share"),
        (vec![("batch_ramp.over", "'1h'")], "batch_ramp.over = 1h: "),
        (
            vec![("batch_ramp.over", "'1ktok'")],
            "batch_ramp.over = 1ktok: with budget = 20steps and steps that a batch_ramp",
        ),
        (
            vec![("batch_ramp.over", "0.5"), ("batch_ramp.start", "3")],
            "batch_ramp.start = 3: expected 1 to accum = 2",
        ),
        (vec![("batch_ramp.start", "0")], "batch_ramp.start = 0: expected 1 to accum = 2"),
        (vec![("batch_ramp.over", "0.5"), ("schedule.warmup", "'500tok'")], "schedule.warmup = 500tok: "),
        (vec![("batch_ramp.until", "0.5")], "there is no key `batch_ramp.until`; there are over, start"),
    ] {
        let error = with(&place, "20steps", &settings).resolve().unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\nexpected {wanted}");
    }
    // Without a ramp steps are alike, and tokens are steps.
    with(&place, "20steps", &[("schedule.warmup", "'500tok'")]).resolve().unwrap();
}

// ---- which checkpoint ----

/// A rate that only rises, beyond what the model bears: the best model is an early one. Oracle: the model of that
/// checkpoint, measured anew, and the validations as the run logged them.
#[test]
fn the_best_checkpoint_can_be_used_and_a_run_that_ends_worse_says_which_it_is() {
    let place = Place::new();
    let settings = [
        ("optimizer.lr", "1.0"),
        ("schedule.warmup", "0.99"),
        ("schedule.decay", "0.0"),
        ("schedule.final_fraction", "1.0"),
        ("guard.action", "'off'"),
        ("checkpoint.every", "0.1"),
        ("checkpoint.keep", "1"),
        ("checkpoint.spaced", "false"),
    ];
    let (seen, outcome) =
        place.train_until(place.start("a", with(&place, "60steps", &settings)), cpu(), u64::MAX);
    let summary = finished(outcome);
    let better = summary.better.expect("it ends worse than it was");
    // The last two are of the end: over the windows of all others, and of more.
    let (end, all) = (seen.evaluations[seen.evaluations.len() - 2].clone(), &seen.evaluations);
    assert_eq!((end.1.windows, all.last().unwrap().1.windows), (4, 8));
    let best = all.iter().filter(|(_, e)| e.windows == 4).min_by(|a, b| a.1.val_bpb.total_cmp(&b.1.val_bpb));
    let (step, best) = best.unwrap();
    assert!(*step < 60 && best.val_bpb < end.1.val_bpb);
    assert_eq!((better.step, better.val_bpb, better.end_val_bpb), (*step, best.val_bpb, end.1.val_bpb));
    assert_eq!(better.windows, 4);

    let dir = place.runs().join("a");
    let trained = train::load_trained(&dir, Pick::Best).unwrap();
    assert_eq!(trained.checkpoint.path, better.checkpoint);
    let dataset = train::prepare_data(&trained.config, true, &place.path().join("cache"), &mut ()).unwrap().0;
    let mut stack = Stack::new(&trained.config.model, cpu(), &trained.config.stack_options()).unwrap();
    for (index, weights) in trained.checkpoint.model_weights(false).iter().enumerate() {
        stack.set_weights(index, weights).unwrap();
    }
    let data = ValidationData::new(&dataset, ByteCount::Raw);
    let again = train::evaluate(&mut stack, &data, Protocol::windows(4), &mut |_, _| ()).unwrap();
    assert_eq!(again.val_bpb, better.val_bpb);

    let of_step = |step| train::load_trained(&dir, Pick::Step { step, recoveries: None });
    assert_eq!(of_step(*step).unwrap().checkpoint.path, better.checkpoint);
    let error = of_step(7).unwrap_err().to_string();
    let there = format!("it has no checkpoint of step 7: there are step_{step:06}, step_000060");
    assert!(error.contains(&there), "{error}");
    // Broken, it is passed over for the best that is left, and nothing stands in for a step.
    std::fs::remove_file(better.checkpoint.join("weights.safetensors")).unwrap();
    let second = train::load_trained(&dir, Pick::Best).unwrap();
    assert_eq!((second.checkpoint.state.spent.steps, second.skipped.len()), (60, 1));
    assert!(matches!(of_step(*step), Err(Error::Checkpoint { .. })));
}

#[test]
fn a_run_that_ends_best_says_nothing_and_its_end_is_its_best_checkpoint() {
    let place = Place::new();
    let summary = finished(place.train(place.start("a", place.config("30steps", "")), cpu()));
    assert_eq!(summary.better, None);
    let best = train::load_trained(&place.runs().join("a"), Pick::Best).unwrap();
    assert_eq!(best.checkpoint.state.spent.steps, 30);
    // What was not validated is passed over, and said to be.
    let state = best.checkpoint.path.join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let (outcome, resumed) =
        (place.train(place.resume("a"), cpu()), std::fs::read_to_string(&state).unwrap());
    finished(outcome);
    assert_eq!(text, resumed, "its end is measured anew and is the same");
    // Where nothing is validated before the end, nothing is compared.
    let config = with(&place, "4steps", &[("eval.every", "0.0")]);
    let (seen, outcome) = place.train_until(place.start("b", config), cpu(), u64::MAX);
    assert_eq!(finished(outcome).better, None);
    assert_eq!(seen.evaluations.len(), 1);
    let error = train::load_trained(&place.runs().join("b"), Pick::Best).unwrap_err().to_string();
    assert!(error.contains("no checkpoint that was validated"), "{error}");
}

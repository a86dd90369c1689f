//! Whole runs of a small model: they learn, repeat, resume to the same bits, and survive damage.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Place, cpu, devices, sim_f16};
use serde_json::json;
use train::{Budget, Change, Error, Outcome, Pick, Start, UserConfig, train_run};

#[test]
fn a_run_learns_and_leaves_a_directory_that_explains_itself() {
    for device in devices() {
        let place = Place::new();
        let name = device.name().to_owned();
        let (seen, outcome) =
            place.train_until(place.start("first", place.config("40steps", "")), device, u64::MAX);
        let Outcome::Finished(summary) = outcome.unwrap() else { panic!("nobody asked it to stop") };
        // The text has 150 sentences that are all as likely: a model that learned nothing but the
        // frequencies of its tokens is far from half of what it began with.
        let (first, last) = (seen.steps[0].loss, seen.steps[39].loss);
        // A new logit is a sum of `width` products of a normed value and a weight of deviation
        // 1/sqrt(width), so of deviation 1: the mean of exp(logit) is exp(1/2), that of the target's
        // own logit 0. The step has 126 targets, so the loss has a deviation of 0.09; three are allowed.
        let untaught = 300_f64.ln() + 0.5;
        assert!((first - untaught).abs() < 0.27, "{name}: a new model knows nothing: {first}");
        assert!(last < 0.5 * first, "{name}: {first} -> {last}");
        assert_eq!((summary.steps, summary.tokens, summary.skipped_steps), (40, 40 * 6 * 21, 0));
        assert!(summary.val_bpb < seen.evaluations[0].1.val_bpb, "{name}");
        assert_eq!(summary.device, name);

        let run = place.runs().join("first");
        let mut files: Vec<String> =
            fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let expected = [
            "checkpoints",
            "config.toml",
            "events.jsonl",
            "lock",
            "metrics.jsonl",
            "summary.json",
            "tokenizer.json",
        ];
        assert_eq!(files, expected);
        let metrics = place.metrics("first");
        let steps: Vec<u64> = metrics.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=40).collect::<Vec<_>>());
        for key in
            ["tokens", "progress", "loss", "lr", "grad_norm", "clip", "scale", "act_max", "tok_s", "elapsed"]
        {
            assert!(!metrics[7][key].is_null(), "{key}: {}", metrics[7]);
        }
        assert_eq!(metrics[7]["act_max"].as_array().unwrap().len(), 2);
        assert_eq!(place.events("first", "validation").len(), 11, "ten tenths, and more windows of the end");
        assert_eq!(place.events("first", "checkpoint").len(), 10);
        assert_eq!(place.events("first", "finished").len(), 1);
        assert!(!place.events("first", "choice").is_empty());
        let trained = train::load_trained(&run, Pick::Newest).unwrap();
        assert_eq!(trained.checkpoint.state.spent.steps, 40);
        assert_eq!(trained.config.model.vocab_size, trained.tokenizer.vocab_size());
    }
}

#[test]
fn the_same_run_twice_gives_the_same_bytes() {
    for device in devices() {
        let place = Place::new();
        place.train(place.start("one", place.config("7steps", "")), device.clone()).unwrap();
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        single
            .install(|| place.train(place.start("two", place.config("7steps", "")), device.clone()))
            .unwrap();
        assert!(place.tensors("one") == place.tensors("two"), "{}", device.name());
        let other = place.config("7steps", "");
        let other =
            UserConfig::parse(&other.resolve().unwrap().to_toml().replace("seed = 5", "seed = 6"), "x")
                .unwrap();
        place.train(place.start("other", other), device.clone()).unwrap();
        assert!(place.tensors("one") != place.tensors("other"), "the seed matters");
    }
}

/// Threads of the device, not only of the optimiser.
#[test]
fn one_thread_of_the_cpu_gives_the_bytes_of_two() {
    let place = Place::new();
    let device = |threads| std::sync::Arc::new(cpu::CpuDevice::new(threads));
    place.train(place.start("one", place.config("5steps", "")), device(1)).unwrap();
    place.train(place.start("two", place.config("5steps", "")), device(2)).unwrap();
    assert!(place.tensors("one") == place.tensors("two"));
}

#[test]
fn stopping_anywhere_and_resuming_changes_no_bit() {
    for device in devices() {
        let place = Place::new();
        // In tokens, so that the last step goes beyond: 12 steps of 126 are 1,512.
        let config = || place.config("1500tok", "");
        place.train(place.start("straight", config()), device.clone()).unwrap();
        for (stops, name) in [(vec![1], "a"), (vec![5], "b"), (vec![3, 4, 11], "c")] {
            let mut start = place.start(name, config());
            for stop in stops {
                let (_, outcome) = place.train_until(start, device.clone(), stop);
                let Outcome::Interrupted { run, step } = outcome.unwrap() else {
                    panic!("it was asked to stop")
                };
                assert_eq!(step, stop);
                assert!(run.ends_with(name), "{}", run.display());
                start = place.resume(name);
            }
            place.train(start, device.clone()).unwrap();
            assert!(place.tensors(name) == place.tensors("straight"), "{} {name}", device.name());
            let curve = |name: &str| -> Vec<(u64, u64, String, String)> {
                place
                    .metrics(name)
                    .iter()
                    .map(|m| {
                        (
                            m["step"].as_u64().unwrap(),
                            m["tokens"].as_u64().unwrap(),
                            m["loss"].to_string(),
                            m["lr"].to_string(),
                        )
                    })
                    .collect()
            };
            assert_eq!(curve(name), curve("straight"), "one clean curve");
        }
    }
}

#[test]
fn muon_learns_and_is_resumed_to_the_same_bytes() {
    for device in devices() {
        let place = Place::new();
        let config = || {
            let mut config = place.config("1500tok", "");
            config.set("optimizer.kind", "muon", "test");
            config.set("optimizer.decay_falls", true, "test");
            config
        };
        let Outcome::Finished(summary) =
            place.train(place.start("straight", config()), device.clone()).unwrap()
        else {
            panic!("nobody stops it")
        };
        let by_adamw =
            place.train(place.start("adamw", place.config("1500tok", "")), device.clone()).unwrap();
        let Outcome::Finished(by_adamw) = by_adamw else { panic!("nobody stops it") };
        assert!(summary.val_loss != by_adamw.val_loss);
        let losses: Vec<f64> =
            place.metrics("straight").iter().map(|m| m["loss"].as_f64().unwrap()).collect();
        assert!(summary.val_loss < losses[0] - 0.3, "{} after {}", summary.val_loss, losses[0]);
        let (_, outcome) = place.train_until(place.start("stopped", config()), device.clone(), 5);
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted { step: 5, .. }));
        // The moments are Muon's.
        let path = place.runs().join("stopped/config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("kind = \"muon\"", "kind = \"adamw\"")).unwrap();
        let error = place.train(place.resume("stopped"), device.clone()).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors") && error.contains("optimizer.kind"), "{error}");
        std::fs::write(&path, text).unwrap();
        place.train(place.resume("stopped"), device.clone()).unwrap();
        assert!(place.tensors("stopped") == place.tensors("straight"), "{}", device.name());
    }
}

/// The recipe `autoresearch` on a model of few numbers: every parameter of every kind learns, and what was stopped
/// goes on to the same bytes.
#[test]
fn autoresearch_learns_and_is_resumed_to_the_same_bytes() {
    for device in devices() {
        let place = Place::new();
        let config = || {
            let mut config = place.config("3000tok", "");
            config.set("recipe", "autoresearch", "test");
            config.set("optimizer.lr", 0.04, "test");
            config.set("data.packing", "windows", "test");
            config.set("data.shuffle", true, "test");
            for (key, value) in [
                ("n_layers", 4),
                ("width", 40),
                ("n_heads", 4),
                ("n_kv_heads", 2),
                ("head_dim", 10),
                ("ffn_hidden", 56),
                ("seq_len", 21),
            ] {
                config.set(&format!("model.{key}"), value, "test");
            }
            config
        };
        let outcome = place.train(place.start("straight", config()), device.clone()).unwrap();
        let Outcome::Finished(summary) = outcome else { panic!("nobody stops it") };
        let first = place.metrics("straight")[0]["loss"].as_f64().unwrap();
        assert!(summary.val_loss < first - 0.3, "{}: {} after {first}", device.name(), summary.val_loss);
        let trained = train::load_trained(&place.runs().join("straight"), Pick::Newest).unwrap();
        let model = &trained.config.model;
        for (parameter, weights) in model::Parameter::all(model).iter().zip(&trained.checkpoint.weights) {
            let first = model::initial_values(model, parameter, trained.config.seed);
            assert!(*weights != first, "{} stands still", parameter.name);
        }
        let (_, outcome) = place.train_until(place.start("stopped", config()), device.clone(), 7);
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted { step: 7, .. }));
        place.train(place.resume("stopped"), device.clone()).unwrap();
        assert!(place.tensors("stopped") == place.tensors("straight"), "{}", device.name());
    }
}

#[test]
fn a_run_is_given_another_length_and_resumes_to_the_same_bytes() {
    let rate_at = |place: &Place, name: &str, step: u64| -> f64 {
        let metrics = place.metrics(name);
        metrics.iter().find(|m| m["step"] == step).expect("it is logged")["lr"].as_f64().unwrap()
    };
    let place = Place::new();
    let stopped = |name: &str| {
        let start = place.start(name, place.config("20steps", ""));
        let (_, outcome) = place.train_until(start, cpu(), 10);
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted { step: 10, .. }));
    };
    stopped("a");
    let straight =
        place.train(place.resume_with("a", Change::DecayNow(Some(Budget::Steps(5)))), cpu()).unwrap();
    let Outcome::Finished(summary) = straight else { panic!("nobody stops it") };
    assert_eq!(summary.steps, 15);
    assert!(
        rate_at(&place, "a", 11) < rate_at(&place, "a", 10)
            && rate_at(&place, "a", 15) < 0.2 * rate_at(&place, "a", 10)
    );
    assert_eq!(place.events("a", "rescheduled").len(), 1);

    // Stopped on its way to the new end, it goes on to it.
    stopped("b");
    let start = place.resume_with("b", Change::DecayNow(Some(Budget::Steps(5))));
    let (_, outcome) = place.train_until(start, cpu(), 13);
    assert!(matches!(outcome.unwrap(), Outcome::Interrupted { step: 13, .. }));
    place.train(place.resume("b"), cpu()).unwrap();
    assert!(place.tensors("b") == place.tensors("a"));

    // A finished run goes on when it is given more.
    let longer = place.train(place.resume_with("a", Change::Restart(Budget::Steps(20))), cpu()).unwrap();
    let Outcome::Finished(summary) = longer else { panic!("nobody stops it") };
    assert_eq!(summary.steps, 20);
    let spent = place.train(place.resume_with("a", Change::Stretch(Budget::Steps(20))), cpu()).unwrap_err();
    assert!(spent.to_string().contains("has already used 20 steps"), "{spent}");
    let replay = place.config("20steps", &format!("replay = '{}'", place.runs().join("a").display()));
    let error = place.train(place.start("again", replay), cpu()).unwrap_err().to_string();
    assert!(error.contains("another length after step 15"), "{error}");
}

#[test]
fn packed_documents_are_taken_up_again_where_they_were() {
    let place = Place::new();
    for (order, shuffle) in [("random", true), ("own", false)] {
        let config = || {
            let mut config = place.config("12steps", "");
            config.set("data.packing", "best_fit", "the test");
            config.set("data.shuffle", shuffle, "the test");
            config
        };
        let straight = format!("straight-{order}");
        let stopped = format!("stopped-{order}");
        place.train(place.start(&straight, config()), cpu()).unwrap();
        let (_, outcome) = place.train_until(place.start(&stopped, config()), cpu(), 5);
        outcome.unwrap();
        place.train(place.resume(&stopped), cpu()).unwrap();
        assert!(place.tensors(&stopped) == place.tensors(&straight), "{order}");
    }
    let windows = place.config("12steps", "");
    place.train(place.start("windows", windows), cpu()).unwrap();
    assert!(place.tensors("windows") != place.tensors("straight-random"));
}

/// The file of weights has every token of the tokenizer, whatever rows the model has.
#[test]
fn a_shortened_vocabulary_is_seen_by_the_model_only() {
    let place = Place::new();
    let config = || {
        let mut config = place.config("12steps", "");
        config.set("data.compact_vocab", true, "the test");
        config
    };
    place.train(place.start("straight", config()), cpu()).unwrap();
    let (_, outcome) = place.train_until(place.start("stopped", config()), cpu(), 5);
    outcome.unwrap();
    place.train(place.resume("stopped"), cpu()).unwrap();
    assert!(place.tensors("stopped") == place.tensors("straight"));

    let trained = train::load_trained(&place.runs().join("straight"), Pick::Newest).unwrap();
    let vocabulary = trained.vocabulary.unwrap();
    let (rows, width) = (trained.config.model.vocab_size, trained.config.model.width);
    assert_eq!((vocabulary.vocab_size(), vocabulary.rows()), (300, rows));
    assert!(rows < 300, "bytes that the text lacks have no rows");
    assert_eq!(trained.checkpoint.weights[0].len(), rows * width);
    let weights = fs::read(trained.checkpoint.path.join("weights.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(file.tensor("model.embed_tokens.weight").unwrap().shape(), [300, width]);

    // Its configuration begins a run on other data with the tokenizer's own size.
    let mut other = UserConfig::read(&place.runs().join("straight/config.toml")).unwrap();
    other.set("data.source", "stories:2", "--data");
    let other = other.resolve().unwrap();
    assert_eq!((other.model.vocab_size, other.data.vocab_size), (300, 0));
}

/// As after a kill between checkpoints: metrics run ahead, the last line is cut, a checkpoint is
/// half-written.
#[test]
fn a_killed_run_goes_on_from_its_newest_whole_checkpoint() {
    for device in devices() {
        let place = Place::new();
        let config = || place.config("20steps", "");
        place.train(place.start("straight", config()), device.clone()).unwrap();
        let (_, outcome) = place.train_until(place.start("killed", config()), device.clone(), 9);
        assert!(matches!(outcome, Ok(Outcome::Interrupted { step: 9, .. })));
        let run = place.runs().join("killed");
        let newest = run.join("checkpoints/step_000009");
        let weights = newest.join("weights.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&weights, bytes).unwrap();
        let unfinished = run.join("checkpoints/.step_000010.tmp");
        fs::create_dir(&unfinished).unwrap();
        let metrics = run.join("metrics.jsonl");
        fs::write(&metrics, fs::read_to_string(&metrics).unwrap() + "{\"step\":10,\"tok").unwrap();

        let (seen, outcome) = place.train_until(place.resume("killed"), device.clone(), u64::MAX);
        outcome.unwrap();
        assert_eq!(seen.steps[0].step, 9, "the checkpoint before was of step 8");
        let skipped = place.events("killed", "checkpoint_skipped");
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0]["path"], newest.display().to_string());
        assert!(skipped[0]["why"].as_str().unwrap().contains("weights.safetensors: its checksum is"));
        let resumed = place.events("killed", "resumed");
        assert_eq!((resumed[0]["step"].as_u64(), resumed[0]["dropped_metrics"].as_u64()), (Some(8), Some(2)));
        assert!(!unfinished.exists());
        assert!(place.tensors("killed") == place.tensors("straight"), "{}", device.name());
        let steps: Vec<u64> = place.metrics("killed").iter().map(|m| m["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=20).collect::<Vec<_>>());
    }
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so() {
    let place = Place::new();
    let config = || place.config("6steps", "");
    place.train(place.start("straight", config()), cpu()).unwrap();
    let (_, outcome) = place.train_until(place.start("killed", config()), cpu(), 3);
    outcome.unwrap();
    fs::remove_dir_all(place.runs().join("killed/checkpoints")).unwrap();
    place.train(place.resume("killed"), cpu()).unwrap();
    let resumed = place.events("killed", "resumed");
    assert_eq!(resumed[0]["step"], 0);
    assert!(resumed[0]["checkpoint"].is_null());
    assert!(place.tensors("killed") == place.tensors("straight"));
}

#[test]
fn a_finished_run_that_is_resumed_is_finished() {
    let place = Place::new();
    let Outcome::Finished(first) = place.train(place.start("a", place.config("3steps", "")), cpu()).unwrap()
    else {
        panic!("nobody asked it to stop")
    };
    let before = place.tensors("a");
    let Outcome::Finished(mut again) = place.train(place.resume("a"), cpu()).unwrap() else {
        panic!("nobody asked it to stop")
    };
    // It is measured once more, which takes its own time.
    again.validation.seconds = first.validation.seconds;
    assert_eq!(again, first);
    assert!(place.tensors("a") == before);
    assert_eq!(place.metrics("a").len(), 3);
}

#[test]
fn a_run_with_a_time_budget_can_be_replayed_to_the_same_bytes() {
    let place = Place::new();
    place.train(place.start("timed", place.config("1s", "log_every = 50")), cpu()).unwrap();
    let recorded = place.runs().join("timed");
    let replay = format!("replay = '{}'", recorded.display());
    // How many steps a second holds is the machine's affair; the replay is interrupted half-way.
    let half = place.metrics("timed").len() as u64 / 2;
    assert!(half > 0, "a second was too short for two steps");
    let (_, outcome) = place.train_until(place.start("again", place.config("1s", &replay)), cpu(), half);
    assert!(matches!(outcome, Ok(Outcome::Interrupted { step, .. }) if step == half));
    place.train(place.resume("again"), cpu()).unwrap();
    assert!(place.tensors("timed") == place.tensors("again"));
    let progress: Vec<f64> = place.metrics("timed").iter().map(|m| m["progress"].as_f64().unwrap()).collect();
    assert!(progress.windows(2).all(|w| w[0] <= w[1]));
    assert!(*progress.last().unwrap() <= 1.0);
}

#[test]
fn an_overflowing_loss_scale_backs_off_and_the_run_learns() {
    let place = Place::new();
    let mut config = place.config("40steps", "");
    config.set("loss_scale.initial", 4e6, "test");
    let (seen, outcome) = place.train_until(place.start("a", config), sim_f16(), u64::MAX);
    let Outcome::Finished(summary) = outcome.unwrap() else { panic!("nobody asked it to stop") };
    assert!(seen.steps[0].skipped && summary.skipped_steps > 0, "4e6 is too large a scale");
    assert_eq!(place.events("a", "skipped").len() as u64, summary.skipped_steps);
    assert!(place.events("a", "skipped")[0]["why"].as_str().unwrap().contains("gradient"));
    let last = seen.steps.last().unwrap();
    assert!(!last.skipped && last.scale < 4e6 && last.loss < 0.6 * seen.steps[0].loss, "{last:?}");
}

#[test]
fn a_rate_that_tears_the_weights_apart_ends_in_an_error_that_says_so() {
    let place = Place::new();
    let train = |name: &str, action: &str, max_recoveries: i64| {
        let mut config = place.config("60steps", "");
        config.set("optimizer.lr", 10.0, "test");
        config.set("optimizer.grad_clip", 0.0, "test");
        config.set("model.residual_scale", 1e38, "test");
        config.set("guard.action", action, "test");
        config.set("guard.max_recoveries", max_recoveries, "test");
        place.train(place.start(name, config), cpu())
    };
    for action in ["off", "warn"] {
        let error = train(action, action, 5).unwrap_err();
        assert!(matches!(error, Error::Diverged { skipped: 10, .. }), "{error}");
        assert!(error.to_string().contains("lower optimizer.lr"), "{error}");
        assert_eq!(place.events(action, "failed").len(), 1);
        let last = place.metrics(action).pop().unwrap();
        assert_eq!(last["skipped"], true, "the step that ends it is there: {last}");
        assert_eq!(
            last["guard"]["helpless"],
            if action == "off" { json!(null) } else { json!(10) },
            "{last}"
        );
    }
    let error = train("once", "recover", 1).unwrap_err();
    assert!(matches!(error, Error::GaveUp { max_recoveries: 1, .. }), "{error}");
    assert!(error.to_string().contains("lower optimizer.lr"), "{error}");
    // With more of them the guard finds a rate that even such a model bears.
    let Outcome::Finished(summary) = train("saved", "recover", 5).unwrap() else { panic!("nobody stops it") };
    assert!(summary.recoveries > 1 && summary.val_bpb.is_finite(), "{summary:?}");
    let recovered = place.events("saved", "recovered");
    assert!(recovered.iter().all(|event| event["kind"] == "overflow"), "{recovered:?}");
}

#[test]
fn two_microbatches_are_one_batch_of_twice_the_size() {
    // Oracle: the same windows in one batch; f32 sums in another order, 7 steps of Adam.
    let place = Place::new();
    let losses = |name: &str, batch: usize, accum: usize| -> Vec<f64> {
        let mut config = place.config("7steps", "");
        config.set("batch", batch as i64, "test");
        config.set("accum", accum as i64, "test");
        let (seen, outcome) = place.train_until(place.start(name, config), cpu(), u64::MAX);
        outcome.unwrap();
        seen.steps.iter().map(|s| s.loss).collect()
    };
    for (one, two) in losses("one", 6, 1).into_iter().zip(losses("two", 2, 3)) {
        assert!((one - two).abs() < 1e-4 * one, "{one} against {two}");
    }
}

#[test]
fn one_process_works_on_a_run() {
    let place = Place::new();
    let (_, outcome) = place.train_until(place.start("a", place.config("6steps", "")), cpu(), 2);
    outcome.unwrap();
    let before = place.tensors("a");
    let (held, _) = train::RunDir::open(&place.runs().join("a")).unwrap();
    let error = place.train(place.resume("a"), cpu()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(place.tensors("a") == before);
    drop(held);
    place.train(place.resume("a"), cpu()).unwrap();
}

#[test]
fn bad_input_is_refused_before_anything_is_made() {
    let place = Place::new();
    let refused = |change: &dyn Fn(&mut UserConfig), wanted: &str| {
        let mut config = place.config("3steps", "");
        change(&mut config);
        let error = place.train(place.start("bad", config), cpu()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\nexpected {wanted}");
        assert!(!place.runs().join("bad").exists(), "{wanted}");
    };
    refused(
        &|c| c.set("optimizer.learning_rate", 1.0, "--set"),
        "--set: there is no key `optimizer.learning_rate`; there are",
    );
    refused(
        &|c| c.set("preset", "huge", "--preset"),
        "--preset: preset = \"huge\": there is no preset `huge`; there are odd,",
    );
    refused(&|c| c.set("model.seq_len", 90_000, "--set"), "but model.seq_len = 90000 needs at least 90001");
    refused(&|c| c.set("model.vocab_size", 100_000, "--set"), "vocabulary of 100000");
    refused(&|c| c.set("data.source", "/nowhere/at/all.txt", "--data"), "/nowhere/at/all.txt");
    let tokenizer = place.path().join("tokenizer.json");
    data::Tokenizer::train(["ab ab ab"], 261).unwrap().save(&tokenizer).unwrap();
    let path = tokenizer.display().to_string();
    refused(
        &|c| c.set("data.tokenizer", path.clone(), "--tokenizer"),
        &format!("model.vocab_size = 300, but the tokenizer of {path} has 261 tokens"),
    );
    let broken = PathBuf::from("/dev/null/runs");
    let start = Start::New { config: place.config("3steps", ""), runs_dir: broken, name: None };
    let options = place.options(start, cpu());
    let error = train_run(options, &mut (), &false.into()).unwrap_err().to_string();
    assert!(error.starts_with("/dev/null/runs: cannot create this folder"), "{error}");
}

#[test]
fn a_name_is_taken_once_and_changed_data_is_noticed() {
    let place = Place::new();
    let (_, outcome) = place.train_until(place.start("a", place.config("6steps", "")), cpu(), 2);
    outcome.unwrap();
    let error = place.train(place.start("a", place.config("6steps", "")), cpu()).unwrap_err().to_string();
    assert!(error.contains("a run of this name exists"), "{error}");
    let text = fs::read_to_string(place.text()).unwrap();
    fs::write(place.text(), text.replace("aunt", "uncle") + "and more\n").unwrap();
    let before = place.tensors("a");
    let error = place.train(place.resume("a"), cpu()).unwrap_err().to_string();
    assert!(
        error.contains("config.toml: data.tokenizer_hash = ") && error.contains("restore that data"),
        "{error}"
    );
    assert!(place.tensors("a") == before);
}

#[test]
fn a_presets_vocabulary_gives_way_to_the_text_and_says_so() {
    let place = Place::new();
    let text = format!("preset = 'odd'\nbudget = '2steps'\n[data]\nsource = '{}'\n", place.text().display());
    let config = UserConfig::parse(&text, "test.toml").unwrap();
    place.train(place.start("a", config), cpu()).unwrap();
    let choice = place.events("a", "choice")[0]["what"].as_str().unwrap().to_owned();
    assert!(choice.contains("a tokenizer of the preset's 131 tokens cannot be made"), "{choice}");
    let trained = train::load_trained(&place.runs().join("a"), Pick::Newest).unwrap();
    assert_eq!(trained.config.model.vocab_size, trained.tokenizer.vocab_size());
    place.train(place.resume("a"), cpu()).unwrap();
}

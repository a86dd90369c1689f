//! `anneal train`: from options to a run, and what is said when it is over.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpu::CpuDevice;
use device::Device;
use serde_json::json;
use train::{
    Change, DEFAULT_PRESET, Outcome, Pick, RunOptions, Start, Summary, UserConfig, run_dir, train_run,
};

use crate::args::{NewSchedule, TrainArgs};
use crate::commands::generate::{self, Writing};
use crate::device_choice::{self, Choice};
use crate::keep_awake::KeepAwake;
use crate::own_command::own_command;
use crate::progress::{Notes, Progress, Style};
use crate::sampling::Sampling;
use crate::{Result, cache, units, validation};

/// Where runs go that nobody gave a place.
const RUNS_DIR: &str = "runs";
/// The exit status of who was asked to stop: 128 and the number of SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;
/// The story at the end.
const SAMPLE: Writing =
    Writing { sampling: Sampling { temperature: 0.8, top_k: 50 }, seed: 42, max_tokens: 400 };

pub(crate) fn run(args: &TrainArgs, out: &mut dyn Write) -> Result {
    let (start, choice) = match &args.resume {
        Some(dir) => {
            let change = change(args)?;
            (Start::Resume { dir: dir.clone(), change }, resumed_device(args, dir)?)
        }
        None => {
            let (config, choice) = settings(args)?;
            let (runs_dir, name) = match &args.out {
                Some(dir) => {
                    let name = dir.file_name().ok_or_else(|| {
                        format!(
                            "--out {}: expected the directory of a new run, such as runs/mine",
                            dir.display()
                        )
                    })?;
                    let parent = dir.parent().unwrap_or(Path::new("")).to_owned();
                    (parent, Some(name.to_string_lossy().into_owned()))
                }
                None => (RUNS_DIR.into(), None),
            };
            (Start::New { config, runs_dir, name }, choice)
        }
    };
    let style = Style::choose(args.json, args.quiet);
    let mut progress = Progress::new(style, format!("{}: {}", choice.device.describe(), choice.why));
    let stop = stop_on_signals(&progress)?;
    let _awake = KeepAwake::begin();
    let threads = usize::from(args.device.threads.unwrap_or(0));
    let options = RunOptions {
        start,
        device: choice.device.clone(),
        device_why: choice.why.clone(),
        fallback: Some(Box::new(move || Ok(Arc::new(CpuDevice::new(threads))))),
        cache_dir: cache::dir()?,
    };
    let outcome = train_run(options, &mut progress, &stop);
    progress.finish();
    match outcome? {
        Outcome::Finished(summary) => finished(&summary, &choice, args.json, out),
        Outcome::Interrupted { run, step } => {
            let resume = own_command(&["train", "--resume"], &run);
            if args.json {
                let result = json!({
                    "event": "result", "outcome": "interrupted", "run": run, "step": step, "resume": resume,
                });
                writeln!(out, "{result}")?;
            } else {
                writeln!(out, "stopped after step {step}; everything is saved. Go on with:\n  {resume}")?;
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The length that a run is to have from now on.
fn change(args: &TrainArgs) -> Result<Option<Change>> {
    Ok(match (args.decay_now, args.budget, args.schedule) {
        (Some(length), ..) => Some(Change::DecayNow(length)),
        (None, None, _) => None,
        (None, Some(budget), Some(NewSchedule::Stretch)) => Some(Change::Stretch(budget)),
        (None, Some(budget), Some(NewSchedule::Restart)) => Some(Change::Restart(budget)),
        (None, Some(budget), Some(NewSchedule::Decay)) => Some(Change::DecayUntil(budget)),
        (None, Some(budget), None) => {
            return Err(format!(
                "--budget {budget} gives a run that has begun another length, so its learning rate has to change; say how:\n  \
                 --schedule stretch   the schedule becomes as long: the rate goes back to where it would be by now\n  \
                 --schedule restart   the schedule begins anew for what is left, with its warm-up\n  \
                 --schedule decay     the rate falls to nothing until the end\n\
                 or, without --budget, --decay-now to end it soon"
            )
            .into());
        }
    })
}

/// The device of a run to go on with: the one that it began with, unless another is asked for.
fn resumed_device(args: &TrainArgs, dir: &Path) -> Result<Choice> {
    // What is no directory at all is left to `train_run`, which says so.
    let written = if dir.is_dir() { Some(run_dir::read_config(dir)?.device) } else { None };
    Ok(device_choice::open(&args.device, written.as_deref())?)
}

/// What was typed, as settings, and the device.
fn settings(args: &TrainArgs) -> Result<(UserConfig, Choice)> {
    let mut config = match &args.config {
        Some(path) => UserConfig::read(path)?,
        None => UserConfig::default(),
    };
    for (key, value) in &args.set {
        config.set_text(key, value, "--set");
    }
    if let Some(recipe) = &args.recipe {
        config.set("recipe", recipe.as_str(), "--recipe");
    }
    if let Some(preset) = &args.preset {
        config.set("preset", preset.as_str(), "--preset");
    }
    if let Some(source) = &args.data {
        config.set("data.source", super::data::text_source(source)?, "--data");
    }
    if let Some(budget) = args.budget {
        config.set("budget", budget.to_string(), "--budget");
    }
    if let Some(seed) = args.seed {
        config.set("seed", i64::from(seed), "--seed");
    }
    if let Some(batch) = args.batch {
        config.set("batch", i64::from(batch), "--batch");
    }
    if let Some(lr) = args.lr {
        config.set("optimizer.lr", lr, "--lr");
    }
    let written = config.get("device").and_then(|value| value.as_str()).map(str::to_owned);
    let choice = device_choice::open(&args.device, written.as_deref())?;
    config.set("device", choice.name.as_str(), "--device");
    let resolved = config.resolve()?;
    let is_story_run = resolved.preset == DEFAULT_PRESET && resolved.data.source.starts_with("stories");
    if is_story_run && !config.has("eval.final_windows") {
        // All of the text, so that val_bpb and the bound are of the same one. It takes seconds.
        config.set("eval.final_windows", 0, "the built-in stories");
    }
    Ok((config, choice))
}

/// The first signal (Ctrl-C, SIGTERM, SIGHUP) asks the run to save and stop, the second ends it at
/// once. Before the first step there is nothing to save.
fn stop_on_signals(progress: &Progress) -> Result<Arc<AtomicBool>> {
    let (notes, started): (Notes, _) = (progress.notes(), progress.started());
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) || !started.load(Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        notes.say("stopping, with a checkpoint; once more to stop without");
    })?;
    Ok(stop)
}

fn finished(summary: &Summary, choice: &Choice, as_json: bool, out: &mut dyn Write) -> Result {
    if as_json {
        let mut sample = String::new();
        write_sample(summary, choice, &mut |text| {
            sample.push_str(text);
            Ok(())
        });
        let mut result = serde_json::to_value(summary)?;
        result["event"] = "result".into();
        result["outcome"] = "finished".into();
        result["sample"] = sample.into();
        writeln!(out, "{result}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let Summary { run, steps, skipped_steps, tokens, seconds, tok_s, val_bpb, val_bpb_se, .. } = summary;
    let Summary { recoveries, discarded_steps, .. } = summary;
    writeln!(
        out,
        "\nval_bpb  {} bits per byte after {steps} steps, {} tokens in {} ({} tokens/s)",
        units::with_error(*val_bpb, *val_bpb_se),
        units::count(*tokens as f64),
        units::time(std::time::Duration::from_secs_f64(*seconds)),
        units::count(*tok_s),
    )?;
    if let Some(bound) = summary.bound_bits_per_byte {
        writeln!(out, "bound    {bound:.4} is the best that any model could reach on this validation text")?;
    }
    writeln!(out, "protocol {}", validation::how(&summary.validation))?;
    writeln!(out, "over     {}", validation::over(&summary.validation))?;
    if *skipped_steps > 0 {
        writeln!(out, "skipped  {skipped_steps} steps, whose gradients could not be used")?;
    }
    if *recoveries > 0 {
        let times = if *recoveries == 1 { "once".to_owned() } else { format!("{recoveries} times") };
        writeln!(
            out,
            "guard    it fell ill and went back {times}; {discarded_steps} more steps were taken back"
        )?;
    }
    if let Some(better) = &summary.better {
        writeln!(
            out,
            "better   {:.4} after step {}, where the end has {:.4} over the same windows: that checkpoint is kept, and \
             --checkpoint best takes it",
            better.val_bpb, better.step, better.end_val_bpb
        )?;
    }
    let (which, more): (_, &[&str]) = match &summary.better {
        Some(better) => (format!("The model of step {}", better.step), &["generate", "--checkpoint", "best"]),
        None => ("The model".to_owned(), &["generate"]),
    };
    writeln!(out, "\n{which} writes:\n")?;
    write_sample(summary, choice, &mut |text| {
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    });
    writeln!(out, "\n\nMore of it:\n  {}", own_command(more, run))?;
    Ok(ExitCode::SUCCESS)
}

/// A text from the weights that the run ends with, or has better ones than, written where the run ended. The run is over
/// and saved, so that a text which cannot be written is only said.
fn write_sample(summary: &Summary, choice: &Choice, emit: generate::Emit<'_>) {
    let mut write = || -> Result<()> {
        let device: Arc<dyn Device> = if summary.device == choice.device.name() {
            choice.device.clone()
        } else {
            // The run has left its device for this one.
            Arc::new(CpuDevice::new(0))
        };
        let pick = if summary.better.is_some() { Pick::Best } else { Pick::Newest };
        let trained = train::load_trained(&summary.run, pick)?;
        let mut decoder = generate::open_decoder(&trained, false, &device)?;
        generate::write_text(&mut decoder, &trained, "", &SAMPLE, emit)?;
        Ok(())
    };
    if let Err(error) = write() {
        eprintln!("note: nothing is written: {error}");
    }
}

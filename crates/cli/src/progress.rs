//! What a person or a program sees while something takes long: a bar on a terminal, plain lines
//! where there is none, JSON where it was asked for. All of it goes to standard error, but for the
//! JSON, so that standard output holds results only.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use train::{Evaluation, Event, Observer, StepMetrics, Stretch, Trainer};

use crate::units;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The phase in which files come from the network.
const DOWNLOADING: &str = "downloading";
/// Of the bar: progress in hundredths of a percent.
const BAR_LENGTH: u64 = 10_000;
/// How much of the mean stays from one step to the next: about the last 10 steps count.
const SMOOTHING: f64 = 0.9;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A bar that is redrawn.
    Bar,
    /// A line now and then.
    Lines,
    /// An object for everything that happens, on standard output.
    Json,
    /// Nothing.
    Quiet,
}

impl Style {
    /// What was asked for, else what standard error is made for.
    pub(crate) fn choose(json: bool, quiet: bool) -> Style {
        match (json, quiet) {
            (true, _) => Style::Json,
            (_, true) => Style::Quiet,
            _ if std::io::stderr().is_terminal() => Style::Bar,
            _ => Style::Lines,
        }
    }
}

/// Says single lines, above the bar where there is one. Clones speak to the same place.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    style: Style,
    bar: ProgressBar,
}

impl Notes {
    fn new(style: Style) -> Notes {
        let target =
            if style == Style::Bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(BAR_LENGTH), target);
        Notes { style, bar }
    }

    /// A line for people.
    pub(crate) fn say(&self, line: &str) {
        if matches!(self.style, Style::Bar | Style::Lines) {
            self.bar.suspend(|| {
                // Who closed standard error does not want to know.
                let _ = writeln!(std::io::stderr(), "{line}");
            });
        }
    }

    /// An object for programs. Who reads no more does not stop the work.
    fn object(&self, object: &Value) {
        if self.style == Style::Json {
            let _ = writeln!(std::io::stdout(), "{object}");
        }
    }
}

/// A mean of the recent past.
#[derive(Debug, Default)]
struct Smoothed {
    sum: f64,
    weight: f64,
}

impl Smoothed {
    fn add(&mut self, value: f64) {
        self.sum = SMOOTHING * self.sum + (1.0 - SMOOTHING) * value;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
    }

    fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// Shows preparation and training.
pub(crate) struct Progress {
    notes: Notes,
    /// The device's description and the reason for it.
    device: String,
    /// Set before the first step: from then on there is something to save.
    started: Arc<AtomicBool>,
    /// What was decided on the way to the first step.
    choices: Vec<String>,
    /// The whole and the spent part of the budget, in words.
    steps_total: Option<u64>,
    /// Progress and seconds in steps when this process took its first step, or the first after going back.
    origin: Option<(f64, f64)>,
    /// How often the run had gone back then.
    recoveries: usize,
    loss: Smoothed,
    /// Seconds for a token.
    pace: Smoothed,
    val_bpb: Option<f64>,
    last_line: Option<Instant>,
    /// The phase of preparation that was announced last.
    phase: &'static str,
}

impl Progress {
    pub(crate) fn new(style: Style, device: String) -> Progress {
        Progress {
            notes: Notes::new(style),
            device,
            started: Arc::default(),
            choices: Vec::new(),
            steps_total: None,
            origin: None,
            recoveries: 0,
            loss: Smoothed::default(),
            pace: Smoothed::default(),
            val_bpb: None,
            last_line: None,
            phase: "",
        }
    }

    /// To speak from another thread.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Becomes true before the first step.
    pub(crate) fn started(&self) -> Arc<AtomicBool> {
        self.started.clone()
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.notes.bar.finish_and_clear();
    }

    /// A preparation's bar, or one line for each of its phases.
    pub(crate) fn preparing(&mut self, progress: &data::Progress) {
        let (phase, of, detail) = match progress {
            data::Progress::Cached => return,
            data::Progress::Rebuilding(why) => {
                self.notes.say(&format!("prepared data cannot be used and is made again: {why}"));
                return;
            }
            data::Progress::Retrying(what) => {
                self.notes.say(what);
                return;
            }
            data::Progress::Downloading { bytes, total, done, files } => {
                self.downloading(*bytes, *total, *done, *files);
                return;
            }
            data::Progress::Counting { bytes, total } => {
                ("reading the text", Some((*bytes, *total)), units::bytes(*bytes))
            }
            data::Progress::Merging { words } => {
                let words = format!("{} different words", units::count(*words as f64));
                ("training the tokenizer", None, words)
            }
            data::Progress::Encoding { split, bytes, total, tokens } => {
                let of = Some((*bytes, *total));
                let (bytes, tokens) = (units::bytes(*bytes), units::count(*tokens as f64));
                let phase = match split {
                    data::Split::Train => "encoding the training text",
                    data::Split::Valid => "encoding the validation text",
                };
                (phase, of, format!("{bytes}, {tokens} tokens"))
            }
            _ => return,
        };
        match self.notes.style {
            Style::Bar => {
                let bar = &self.notes.bar;
                if self.phase != phase {
                    let style = match of {
                        Some(_) => "{spinner:.cyan} {msg} {wide_bar:.cyan/dim} {percent:>3}%",
                        None => "{spinner:.cyan} {wide_msg}",
                    };
                    let style = ProgressStyle::with_template(style);
                    bar.set_style(style.expect("the template is part of this program"));
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
                if let Some((done, total)) = of {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                bar.set_message(format!("{phase}: {detail}"));
            }
            Style::Lines if self.phase != phase => self.notes.say(&format!("{phase} …")),
            _ => {}
        }
        self.phase = phase;
    }

    /// A download's bar, or a line now and then.
    fn downloading(&mut self, bytes: u64, total: u64, done: usize, files: usize) {
        match self.notes.style {
            Style::Bar => {
                if self.phase.is_empty() {
                    let style =
                        "{wide_bar:.cyan/dim} {bytes}/{total_bytes} {msg}  {bytes_per_sec}, {eta} left";
                    let style = ProgressStyle::with_template(style);
                    self.notes.bar.set_style(style.expect("the template is part of this program"));
                }
                self.notes.bar.set_length(total);
                self.notes.bar.set_position(bytes);
                self.notes.bar.set_message(format!("file {} of {files}", (done + 1).min(files)));
            }
            Style::Lines if self.last_line.is_some_and(|last| last.elapsed() < LINE_EVERY) => {}
            Style::Lines => {
                let (bytes, total) = (units::bytes(bytes), units::bytes(total));
                self.notes.say(&format!("downloading: {bytes} of {total}, {done} of {files} files"));
                self.last_line = Some(Instant::now());
            }
            Style::Json | Style::Quiet => {}
        }
        self.phase = DOWNLOADING;
    }

    /// A measurement's bar, or a line now and then.
    pub(crate) fn measuring(&mut self, done: usize, all: usize) {
        match self.notes.style {
            Style::Bar => {
                if self.phase.is_empty() {
                    let style = "{wide_bar:.cyan/dim} {pos}/{len} windows, {eta} left";
                    let style = ProgressStyle::with_template(style);
                    self.notes.bar.set_style(style.expect("the template is part of this program"));
                    self.notes.bar.set_length(all as u64);
                }
                self.notes.bar.set_position(done as u64);
            }
            Style::Lines if self.last_line.is_some_and(|last| last.elapsed() < LINE_EVERY) => {}
            Style::Lines => {
                // None for what is over at once.
                if self.last_line.is_some() {
                    self.notes.say(&format!("{done}/{all} windows"));
                }
                self.last_line = Some(Instant::now());
            }
            Style::Json | Style::Quiet => {}
        }
        self.phase = "measuring";
    }

    /// The line of the bar, and every few seconds a plain one.
    fn line(&self, metrics: &StepMetrics, progress: f64) -> String {
        let mut line = match self.steps_total {
            Some(total) => format!("step {}/{total}", metrics.step),
            None => format!("step {}", metrics.step),
        };
        if self.notes.style != Style::Bar {
            line += &format!("  {:.0}%", progress * 100.0);
        }
        line += &format!("  loss {:.3}", self.loss.mean().unwrap_or(metrics.loss));
        if let Some(bpb) = self.val_bpb {
            line += &format!("  val_bpb {bpb:.4}");
        }
        let pace = self.pace.mean().unwrap_or(0.0);
        line += &format!("  {} tok/s", units::count(1.0 / pace));
        if progress >= 1.0 && self.notes.style == Style::Bar {
            line += "  the last validation …";
        } else if let Some(left) = self.time_left(metrics, progress) {
            line += &format!("  {} left", units::time(left));
        }
        line
    }

    /// What is left takes as long as what was done by this process, in proportion.
    fn time_left(&self, metrics: &StepMetrics, progress: f64) -> Option<Duration> {
        let (from, seconds) = self.origin?;
        let left = (metrics.elapsed - seconds) * (1.0 - progress) / (progress - from);
        Duration::try_from_secs_f64(left).ok()
    }
}

/// An object of one kind, with the fields of `value` beside it.
fn tagged(kind: &str, value: &impl Serialize) -> Value {
    let mut object = json!({ "event": kind });
    if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
        for (name, field) in fields {
            object[name] = field;
        }
    }
    object
}

/// What a run is, as a short table.
fn header(run: &Path, trainer: &Trainer, device: &str, choices: &[String]) -> Vec<String> {
    let (config, info) = (trainer.config(), &trainer.dataset().info);
    let (model, tokens) = (&config.model, config.step_tokens());
    let parameters = model.parameter_count();
    let count = |n: u64| units::count(n as f64);
    let accumulated = if config.accum > 1 { format!(" in {} parts", config.accum) } else { String::new() };
    let how_often = match config.checkpoint.every {
        Stretch::Share(0.0) => "at the end".to_owned(),
        Stretch::Share(share) => format!("every {:.0}% of it", share * 100.0),
        Stretch::Amount(amount) => format!("every {amount}"),
    };
    let mut lines = vec![
        format!("run     {}", run.display()),
        format!(
            "model   {}: {} parameters, {} layers of width {}, vocabulary {}, sequences of {}",
            config.preset,
            count(parameters as u64),
            model.n_layers,
            model.width,
            model.vocab_size,
            model.seq_len
        ),
        format!("device  {device}"),
        format!(
            "data    {}: {} tokens to train on, {} to validate on; {}",
            config.data.source,
            count(config.data.train_tokens),
            count(config.data.valid_tokens),
            info.split_rule
        ),
        format!(
            "step    {tokens} tokens ({} sequences of {}{accumulated}), {}FLOP; learning rate {}",
            config.step_sequences(),
            model.seq_len,
            spaced(&units::count(model.flops_per_step(tokens as usize))),
            config.optimizer.lr
        ),
        format!(
            "budget  {}; a checkpoint {how_often}, {} each, at most {} on disk{}",
            config.budget,
            units::bytes(config.checkpoint_bytes()),
            units::bytes(config.most_checkpoint_bytes()),
            if config.counts_milestones() { "" } else { ", and each milestone" },
        ),
    ];
    if config.fixed_step_tokens().is_none() {
        let (start, all, over) = (config.batch_ramp.start, config.accum, stretch(config.batch_ramp.over));
        lines.push(format!(
            "ramp    steps of {start} of these {all} parts at first, of all of them after {over}"
        ));
    }
    if !config.ema.half_life.is_zero() {
        lines.push(format!(
            "mean    of the weights, with a half-life of {}, {} in memory; who uses the model takes it",
            stretch(config.ema.half_life),
            units::bytes(4 * parameters as u64)
        ));
    }
    lines.extend(choices.iter().map(|choice| format!("chosen  {choice}")));
    lines
}

/// A length as a part of a run.
fn stretch(stretch: Stretch) -> String {
    match stretch {
        Stretch::Share(share) => format!("{:.1}% of the run", share * 100.0),
        Stretch::Amount(amount) => amount.to_string(),
    }
}

/// `25.1G` -> `25.1 G`.
fn spaced(count: &str) -> String {
    match count.strip_suffix(char::is_alphabetic) {
        Some(number) => format!("{number} {}", &count[number.len()..]),
        None => format!("{count} "),
    }
}

impl Observer for Progress {
    fn on_data(&mut self, progress: &data::Progress) {
        self.preparing(progress);
    }

    fn on_start(&mut self, run: &Path, trainer: &Trainer) {
        // From here on somebody looks whether to stop, so that who reads the lines below may ask for it.
        self.started.store(true, Ordering::Relaxed);
        let bar = &self.notes.bar;
        if self.notes.style == Style::Bar {
            bar.disable_steady_tick();
            let style = ProgressStyle::with_template("[{bar:24.cyan}] {percent:>3}%  {wide_msg}");
            bar.set_style(style.expect("the template is part of this program").progress_chars("=> "));
            // Preparations have set it to their bytes.
            bar.set_length(BAR_LENGTH);
            bar.set_position((trainer.progress() * BAR_LENGTH as f64) as u64);
        }
        for line in header(run, trainer, &self.device, &self.choices) {
            self.notes.say(&line);
        }
        self.notes.object(&json!({ "event": "run", "run": run }));
        self.steps_total = trainer.budget().steps(trainer.config().fixed_step_tokens());
        self.origin = Some((trainer.progress(), trainer.spent().seconds));
        self.recoveries = trainer.recoveries().all.len();
        if self.notes.style == Style::Bar {
            bar.set_message("the first step …");
        }
    }

    fn on_step(&mut self, metrics: &StepMetrics, progress: f64) {
        if metrics.recoveries != self.recoveries {
            // What went before says nothing about what follows.
            self.origin = Some((progress, metrics.elapsed));
            self.loss = Smoothed::default();
            self.recoveries = metrics.recoveries;
        }
        if metrics.loss.is_finite() {
            self.loss.add(metrics.loss);
        }
        self.pace.add(1.0 / metrics.tok_s);
        match self.notes.style {
            Style::Bar => {
                self.notes.bar.set_message(self.line(metrics, progress));
                self.notes.bar.set_position((progress * BAR_LENGTH as f64) as u64);
            }
            Style::Lines => {
                if progress >= 1.0 || self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    self.notes.say(&self.line(metrics, progress));
                    self.last_line = Some(Instant::now());
                }
            }
            Style::Json => self.notes.object(&tagged("step", metrics)),
            Style::Quiet => {}
        }
    }

    fn on_eval(&mut self, step: u64, evaluation: &Evaluation) {
        let Evaluation { val_bpb, val_bpb_se, windows, window, .. } = evaluation;
        self.val_bpb = Some(*val_bpb);
        let bpb = units::with_error(*val_bpb, *val_bpb_se);
        let windows = units::counted(*windows as u64, "window");
        self.notes.say(&format!("validation after step {step}: val_bpb {bpb} over {windows} of {window}"));
    }

    fn on_event(&mut self, event: &Event) {
        if let Ok(object) = serde_json::to_value(event) {
            self.notes.object(&object);
        }
        match event {
            Event::Choice { what } => self.choices.push(what.clone()),
            Event::CheckpointSkipped { path, why } => {
                self.notes.say(&format!("note: the checkpoint {} is passed over: {why}", path.display()));
            }
            Event::Resumed { step, checkpoint: Some(path), .. } => {
                self.notes.say(&format!("going on after step {step}, from {}", path.display()));
            }
            Event::Resumed { checkpoint: None, .. } => {
                self.notes.say("this run has no checkpoint yet; it begins anew");
            }
            Event::Rescheduled { what, .. } => self.notes.say(what),
            Event::ConfigChanged { key, was, now, .. } => {
                self.notes
                    .say(&format!("note: config.toml says {key} = {now}; so far the run went by {was}"));
            }
            Event::MadeRoom { path, .. } => {
                self.notes.say(&format!("note: the disk was full; {} is gone to make room", path.display()));
            }
            Event::LittleRoom { what, .. } => self.notes.say(&format!("note: {what}")),
            Event::Slept { step, seconds } => {
                let slept = units::time(Duration::from_secs_f64(*seconds));
                self.notes.say(&format!(
                    "step {step}: the machine slept for {slept} (or its clock was set forward), which no time budget counts"
                ));
            }
            Event::Skipped { step, why, scale } => {
                self.notes.say(&format!("step {step} left out: {why}; the loss scale is now {scale}"));
            }
            Event::Warned { step, why, .. } => {
                self.notes.say(&format!("warning after step {step}: {why}"));
            }
            Event::Recovered { step, why, back_to, lr_factor, .. } => {
                let from = match back_to {
                    0 => "the beginning".to_owned(),
                    step => format!("step {step}"),
                };
                self.notes.say(&format!(
                    "the run is ill after step {step}: {why}; it goes back to {from}, and on from there with other \
                     data at {lr_factor} of its rate"
                ));
            }
            Event::DeviceFailed { step, why, then } => {
                self.notes.say(&format!("after step {step}: {why}; {then}"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64, elapsed: f64) -> StepMetrics {
        StepMetrics {
            step,
            recoveries: 0,
            tokens: step * 100,
            progress: 0.0,
            loss: 2.5,
            lr: 0.0,
            grad_norm: 0.0,
            clip: 1.0,
            scale: 1.0,
            skipped: false,
            act_max: Vec::new(),
            tok_s: 12_345.0,
            elapsed,
            dispatches: 0,
            bytes_written: 0,
            bytes_read: 0,
            ms: train::Timings::default(),
            scale_change: None,
            guard: None,
        }
    }

    #[test]
    fn a_line_holds_what_people_look_for() {
        let mut progress = Progress::new(Style::Lines, String::new());
        progress.steps_total = Some(40);
        progress.origin = Some((0.25, 50.0));
        progress.loss.add(2.5);
        progress.pace.add(1.0 / 12_345.0);
        assert_eq!(
            progress.line(&metrics(20, 80.0), 0.5),
            "step 20/40  50%  loss 2.500  12.3k tok/s  1m00s left"
        );
        progress.val_bpb = Some(1.23456);
        progress.steps_total = None;
        assert_eq!(
            progress.line(&metrics(20, 80.0), 1.0),
            "step 20  100%  loss 2.500  val_bpb 1.2346  12.3k tok/s  0s left"
        );
    }

    /// After 400 of 1,000 steps in 40 s it goes back to the 200th, and does ten more in 2 s: 790 are left.
    #[test]
    fn who_goes_back_counts_the_time_anew() {
        let mut progress = Progress::new(Style::Quiet, String::new());
        progress.origin = Some((0.0, 0.0));
        progress.on_step(&metrics(400, 40.0), 0.4);
        let after = |step, elapsed| StepMetrics { recoveries: 1, loss: 9.0, ..metrics(step, elapsed) };
        progress.on_step(&after(201, 40.1), 0.201);
        assert_eq!(progress.time_left(&after(201, 40.1), 0.201), None);
        progress.on_step(&after(211, 42.1), 0.211);
        let left = progress.time_left(&after(211, 42.1), 0.211).map(|left| left.as_secs_f64());
        assert!((left.unwrap_or(0.0) - 157.8).abs() < 1e-6, "{left:?}");
        assert_eq!(progress.loss.mean().map(|loss| loss.round()), Some(9.0));
    }

    #[test]
    fn the_mean_begins_at_the_first_value_and_forgets_slowly() {
        let mut mean = Smoothed::default();
        assert_eq!(mean.mean(), None);
        mean.add(4.0);
        assert!((mean.mean().unwrap_or(0.0) - 4.0).abs() < 1e-12);
        (0..200).for_each(|_| mean.add(1.0));
        assert!((mean.mean().unwrap_or(0.0) - 1.0).abs() < 1e-3);
    }
}

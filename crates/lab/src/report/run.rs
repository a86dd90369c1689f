//! A run as its directory tells it, finished or not.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use train::run_dir;

use super::events::{Events, Object, protocol};
use super::lines::{self, Found};
use super::series::{At, Heat, Moment, Series};
use crate::{Error, Result};

/// Buckets of a curve: about as many as a plot has pixels.
const BUCKETS: usize = 1024;
/// Buckets of curves that are drawn as areas.
const WIDE_BUCKETS: usize = 256;
/// Columns of a heat map.
const COLUMNS: usize = 128;
/// Places in a run that are remembered, to find the tokens and seconds of a step.
const PLACES: usize = 4096;

/// What is known about a run in a few words and figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// The last part of its path, or all of it where runs share that.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// `finished`, `interrupted` (it was asked to stop), `failed`, or `unfinished`: it goes on at this
    /// moment, or was killed.
    pub state: &'static str,
    /// The preset.
    pub preset: Option<String>,
    /// The recipe, where its configuration names one.
    pub recipe: Option<String>,
    /// Learned numbers.
    pub parameters: Option<u64>,
    /// What exactly the device is.
    pub device: Option<String>,
    /// The seed.
    pub seed: Option<i64>,
    /// The budget.
    pub budget: Option<String>,
    /// The last step that was logged.
    pub steps: u64,
    /// Of the steps so far, those without an update.
    pub skipped_steps: u64,
    /// The share of the budget that the last step went by.
    pub progress: f64,
    /// Training tokens.
    pub tokens: u64,
    /// Seconds in steps.
    pub seconds: f64,
    /// Training tokens in a second of steps.
    pub tok_s: Option<f64>,
    /// The last loss of a step, in nats for each token.
    pub loss: Option<f64>,
    /// The last validation: bits per byte.
    pub val_bpb: Option<f64>,
    /// Its standard error.
    pub val_bpb_se: Option<f64>,
    /// After which step it was.
    pub val_step: Option<u64>,
    /// How it was counted.
    pub val_protocol: Option<String>,
    /// The best that any model can reach on the validation text, where that is known.
    pub bound_bits_per_byte: Option<f64>,
    /// What is strange about its files.
    pub notes: Vec<String>,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) about: RunSummary,
    /// Its `config.toml`, as text and as settings by their whole keys.
    pub(crate) config_text: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) curves: Curves,
    pub(crate) events: Events,
    pub(crate) places: Places,
}

/// Its curves over steps.
#[derive(Debug, Clone)]
pub(crate) struct Curves {
    pub(crate) loss: Series,
    pub(crate) lr: Series,
    pub(crate) grad_norm: Series,
    /// The largest magnitude of all layers together.
    pub(crate) act_max: Series,
    /// That of each layer.
    pub(crate) layers: Heat,
    pub(crate) scale: Series,
    pub(crate) tok_s: Series,
    pub(crate) time: Split,
    pub(crate) guard: Readings,
}

/// What the guard read, where it could already tell: [`train::guard::Reading`].
#[derive(Debug, Clone)]
pub(crate) struct Readings {
    pub(crate) z: Series,
    pub(crate) rise: Series,
    pub(crate) lost: Series,
    pub(crate) act_growth: Series,
    pub(crate) grad_growth: Series,
}

/// Milliseconds of a step.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    pub(crate) programs: Series,
    pub(crate) copies: Series,
    pub(crate) host: Series,
    pub(crate) update: Series,
    pub(crate) engine: Series,
}

/// A line of `metrics.jsonl`, as far as it is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    step: Option<u64>,
    recoveries: u64,
    tokens: Option<u64>,
    elapsed: Option<f64>,
    progress: Option<f64>,
    loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    scale: Option<f64>,
    skipped: Option<bool>,
    act_max: Vec<Option<f32>>,
    tok_s: Option<f64>,
    ms: Milliseconds,
    guard: Reading,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reading {
    z: Option<f64>,
    rise: Option<f64>,
    lost: Option<f64>,
    act_growth: Option<f64>,
    grad_growth: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Milliseconds {
    programs: Option<f64>,
    engine: Option<f64>,
    copies: Option<f64>,
    host: Option<f64>,
    update: Option<f64>,
}

impl Run {
    /// Reads a run directory without locking or changing it.
    ///
    /// # Errors
    /// [`train::Error::NotARun`], [`Error::Toml`], [`Error::NoSteps`], [`Error::Read`].
    pub(crate) fn read(dir: &Path) -> Result<Run> {
        let (config_text, config) = read_config(dir)?;
        let of = |key: &str| setting(&config, key);
        let mut curves = Curves::new();
        let mut places = Places::new(step_tokens(&config));
        let (mut steps, mut skipped) = (0, 0);
        let (mut progress, mut last_loss) = (0.0, None);
        let path = dir.join(run_dir::METRICS);
        if !path.is_file() {
            return Err(Error::not_a_run(
                dir,
                format!(
                    "it has no {}; give the directory of a run that `anneal train` wrote",
                    run_dir::METRICS
                ),
            ));
        }
        let found = lines::for_each(&path, |line: Line| {
            let Some(step) = line.step else { return };
            steps += 1;
            skipped += u64::from(line.skipped == Some(true));
            progress = line.progress.unwrap_or(progress);
            last_loss = line.loss.or(last_loss);
            let at = places.push(Moment { recoveries: line.recoveries, step }, line.tokens, line.elapsed);
            curves.push(at, &line);
        })?;
        if steps == 0 && found.lines > 0 {
            let problem = match found.first_unreadable {
                Some((number, problem)) => format!("line {number} is not JSON: {problem}"),
                None => "no line has a `step`".to_owned(),
            };
            return Err(Error::NoSteps { path, lines: found.lines, problem });
        }
        let mut notes = Vec::new();
        note_unreadable(&mut notes, run_dir::METRICS, &found);
        let (mut events, mut facts) = (Events::default(), Facts::default());
        let found = lines::for_each(&dir.join(run_dir::EVENTS), |object: Object| {
            facts.push(&object);
            events.push(&object, |moment| places.of(moment));
        })?;
        note_unreadable(&mut notes, run_dir::EVENTS, &found);
        let last = places.last();
        let summary = read_summary(dir);
        let state = match events.latest(&["started", "resumed", "interrupted", "failed", "finished"]) {
            Some("finished") => "finished",
            Some("interrupted") => "interrupted",
            Some("failed") => "failed",
            None if summary.is_some() => "finished",
            _ => "unfinished",
        };
        let finished = summary.filter(|_| state == "finished");
        let figure = |key: &str| finished.as_ref().and_then(|summary| summary.get(key)?.as_f64());
        let count = |key: &str| finished.as_ref().and_then(|summary| summary.get(key)?.as_u64());
        let validation = events.validations.last();
        let in_summary = || Some(protocol(finished.as_ref()?.get("validation")?.as_object()?));
        let about = RunSummary {
            name: name_of(dir),
            path: dir.to_owned(),
            state,
            preset: of("preset"),
            recipe: of("recipe").filter(|recipe| !recipe.is_empty()),
            parameters: facts.parameters.or_else(|| count("parameters")),
            device: facts.device.or_else(|| of("device")),
            seed: of("seed").and_then(|seed| seed.parse().ok()),
            budget: of("budget"),
            steps: count("steps").unwrap_or(last.step),
            skipped_steps: count("skipped_steps")
                .unwrap_or((events.moments("skipped").len() as u64).max(skipped)),
            progress: if state == "finished" { 1.0 } else { progress.clamp(0.0, 1.0) },
            tokens: count("tokens").unwrap_or(last.tokens),
            seconds: figure("seconds").unwrap_or(last.seconds),
            tok_s: (last.seconds > 0.0).then(|| last.tokens as f64 / last.seconds),
            loss: last_loss,
            val_bpb: validation.map(|v| v.val_bpb).or_else(|| figure("val_bpb")),
            val_bpb_se: validation.map_or_else(|| figure("val_bpb_se"), |v| v.se),
            val_step: validation.map(|v| v.at.step).or_else(|| count("steps")),
            val_protocol: validation.map(|v| v.protocol.clone()).or_else(in_summary),
            bound_bits_per_byte: facts.bound.or_else(|| figure("bound_bits_per_byte")),
            notes,
        };
        Ok(Run { about, config_text, settings: flat(&config), curves, events, places })
    }

    /// A setting by its whole key, `optimizer.grad_clip`.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.settings.iter().find(|(name, _)| name == key)?.1.parse().ok()
    }

    /// A setting as it was written.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        Some(self.settings.iter().find(|(name, _)| name == key)?.1.as_str())
    }
}

impl Curves {
    fn new() -> Curves {
        let series = || Series::new(BUCKETS);
        let wide = || Series::new(WIDE_BUCKETS);
        Curves {
            loss: series(),
            lr: series(),
            grad_norm: series(),
            act_max: series(),
            layers: Heat::new(COLUMNS),
            scale: series(),
            tok_s: series(),
            time: Split { programs: wide(), copies: wide(), host: wide(), update: wide(), engine: wide() },
            guard: Readings {
                z: series(),
                rise: series(),
                lost: series(),
                act_growth: series(),
                grad_growth: series(),
            },
        }
    }

    fn push(&mut self, at: At, line: &Line) {
        self.loss.push(at, line.loss);
        self.lr.push(at, line.lr);
        self.grad_norm.push(at, line.grad_norm);
        self.scale.push(at, line.scale);
        self.tok_s.push(at, line.tok_s);
        if !line.act_max.is_empty() {
            let finite = line.act_max.iter().all(|value| value.is_some_and(f32::is_finite));
            let largest = line.act_max.iter().flatten().fold(0f32, |most, value| most.max(value.abs()));
            self.act_max.push(at, finite.then_some(f64::from(largest)));
            self.layers.push(at, &line.act_max);
        }
        let Split { programs, copies, host, update, engine } = &mut self.time;
        let ms = &line.ms;
        for (series, value) in
            [(programs, ms.programs), (copies, ms.copies), (host, ms.host), (update, ms.update)]
        {
            series.push(at, value);
        }
        if ms.engine.is_some() {
            engine.push(at, ms.engine);
        }
        let Readings { z, rise, lost, act_growth, grad_growth } = &mut self.guard;
        let read = &line.guard;
        for (series, value) in [
            (z, read.z),
            (rise, read.rise),
            (lost, read.lost),
            (act_growth, read.act_growth),
            (grad_growth, read.grad_growth),
        ] {
            if value.is_some() {
                series.push(at, value);
            }
        }
    }
}

/// Where steps lie in tokens and seconds.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    all: Vec<(Moment, At)>,
    /// Every so many steps are remembered.
    every: u64,
    pushed: u64,
    last: (Moment, At),
    /// Tokens of a step by the configuration.
    step_tokens: u64,
    /// Tokens of steps that the run went back from.
    discarded: u64,
}

impl Places {
    fn new(step_tokens: u64) -> Places {
        Places { all: Vec::new(), every: 1, pushed: 0, last: Default::default(), step_tokens, discarded: 0 }
    }

    /// The next logged step. What its line does not tell follows from the step before.
    fn push(&mut self, moment: Moment, tokens: Option<u64>, seconds: Option<f64>) -> At {
        let tokens = tokens.unwrap_or(moment.step.saturating_mul(self.step_tokens));
        let (before, last) = self.last;
        if moment.recoveries > before.recoveries {
            // It goes on where the last step was.
            self.discarded = last.tokens.saturating_sub(tokens.saturating_sub(self.step_tokens));
        }
        let seconds = seconds.unwrap_or(last.seconds);
        let at = At { step: moment.step, tokens: tokens.saturating_add(self.discarded), seconds };
        if self.pushed.is_multiple_of(self.every) {
            if self.all.len() == PLACES {
                let mut index = 0;
                self.all.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.every *= 2;
            }
            self.all.push((moment, at));
        }
        self.pushed += 1;
        self.last = (moment, at);
        at
    }

    /// The last step.
    pub(crate) fn last(&self) -> At {
        self.last.1
    }

    /// Where a step lies, between those that are remembered.
    pub(crate) fn of(&self, moment: Moment) -> At {
        let step = moment.step;
        let (end, last) = self.last;
        if moment >= end {
            let more = step.saturating_sub(end.step).saturating_mul(self.step_tokens);
            return At { step, tokens: last.tokens.saturating_add(more), seconds: last.seconds };
        }
        let after = self.all.partition_point(|(at, _)| *at < moment);
        let (next, high) = self.all.get(after).copied().unwrap_or(self.last);
        let low = after.checked_sub(1).and_then(|before| self.all.get(before)).copied().unwrap_or_default();
        // The last steps before the run went back may not be remembered: they lie where it went back.
        let (low, high) = if low.0.recoveries == moment.recoveries { (low.1, high) } else { (high, high) };
        if next.recoveries > moment.recoveries {
            return At { step, ..low };
        }
        let share = match high.step.saturating_sub(low.step) {
            0 => 1.0,
            steps => step.saturating_sub(low.step) as f64 / steps as f64,
        };
        let between = |low: f64, high: f64| low + share * (high - low);
        let tokens = between(low.tokens as f64, high.tokens as f64).round() as u64;
        At { step, tokens, seconds: between(low.seconds, high.seconds) }
    }
}

/// What events say about the whole run.
#[derive(Default)]
struct Facts {
    parameters: Option<u64>,
    device: Option<String>,
    bound: Option<f64>,
}

impl Facts {
    fn push(&mut self, object: &Object) {
        let is = |kind: &str| object.get("event").is_some_and(|event| event == kind);
        if is("started") || is("resumed") {
            let device = object.get("device").and_then(Value::as_str);
            self.device = device.map(str::to_owned).or(self.device.take());
        }
        if is("started") {
            self.parameters = object.get("parameters").and_then(Value::as_u64);
        }
        if is("data") {
            self.bound = object.get("bound_bits_per_byte").and_then(Value::as_f64);
        }
    }
}

/// The configuration as settings of whatever version: a report must not fail where a run could not go on.
fn read_config(dir: &Path) -> Result<(String, toml::Table)> {
    let path = dir.join(run_dir::CONFIG);
    let give = "give the directory of a run that `anneal train` wrote";
    if !dir.exists() {
        return Err(Error::not_a_run(dir, format!("it does not exist; {give}")));
    }
    if !dir.is_dir() {
        return Err(Error::not_a_run(dir, format!("it is a file; {give}")));
    }
    if !path.is_file() {
        return Err(Error::not_a_run(dir, format!("it has no {}; {give}", run_dir::CONFIG)));
    }
    let text = std::fs::read_to_string(&path).map_err(Error::reading(&path))?;
    let config = text.parse::<toml::Table>();
    let config = config.map_err(|e| Error::Toml { path, problem: e.message().to_owned() })?;
    Ok((text, config))
}

/// The summary of a run that has one that can be read.
fn read_summary(dir: &Path) -> Option<Object> {
    serde_json::from_slice(&std::fs::read(dir.join(run_dir::SUMMARY)).ok()?).ok()
}

fn step_tokens(config: &toml::Table) -> u64 {
    let number = |key: &str| setting(config, key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    number("batch").saturating_mul(number("accum")).saturating_mul(number("model.seq_len"))
}

fn setting(config: &toml::Table, key: &str) -> Option<String> {
    let mut parts = key.split('.');
    let first = config.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part)).map(written)
}

/// All settings by their whole keys.
fn flat(config: &toml::Table) -> Vec<(String, String)> {
    fn walk(prefix: &str, table: &toml::Table, all: &mut Vec<(String, String)>) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                toml::Value::Table(inner) => walk(&format!("{key}."), inner, all),
                value => all.push((key, written(value))),
            }
        }
    }
    let mut all = Vec::new();
    walk("", config, &mut all);
    // What stands above all tables comes first.
    all.sort_by_key(|(key, _)| key.contains('.'));
    all
}

fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn name_of(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = real.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| dir.display().to_string())
}

fn note_unreadable(notes: &mut Vec<String>, file: &str, found: &Found) {
    if let Some((line, problem)) = &found.first_unreadable {
        let n = found.unreadable;
        notes.push(format!(
            "{n} {} of {file} could not be read and {} passed over, first line {line} ({problem}); \
             resuming the run repairs the file",
            if n == 1 { "line" } else { "lines" },
            if n == 1 { "is" } else { "are" },
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_in_tokens_and_seconds() {
        let at = |step| Moment { recoveries: 0, step };
        let mut places = Places::new(8);
        assert_eq!(places.of(at(3)), At { step: 3, tokens: 24, seconds: 0.0 });
        for step in [10, 20] {
            places.push(at(step), Some(100 * step), Some(step as f64 / 2.0));
        }
        assert_eq!(places.of(at(10)), At { step: 10, tokens: 1000, seconds: 5.0 });
        assert_eq!(places.of(at(15)), At { step: 15, tokens: 1500, seconds: 7.5 });
        assert_eq!(places.of(at(5)), At { step: 5, tokens: 500, seconds: 2.5 });
        assert_eq!(places.of(at(22)), At { step: 22, tokens: 2016, seconds: 10.0 });
        let mut long = Places::new(1);
        for step in 1..=100_000 {
            long.push(at(step), Some(7 * step), Some(step as f64));
        }
        assert!(long.all.len() <= PLACES);
        assert_eq!(
            [1, 54_321, 99_999, 100_000].map(|step| long.of(at(step)).tokens),
            [7, 380_247, 699_993, 700_000]
        );
    }

    #[test]
    fn what_came_after_a_recovery_lies_behind_what_came_before() {
        let mut places = Places::new(10);
        let moment = |recoveries, step| Moment { recoveries, step };
        (1..=9).for_each(|step| _ = places.push(moment(0, step), Some(10 * step), Some(step as f64)));
        (5..=7).for_each(|step| _ = places.push(moment(1, step), Some(10 * step), Some(step as f64 + 5.0)));
        let tokens = |recoveries, step| places.of(moment(recoveries, step)).tokens;
        assert_eq!(
            [tokens(0, 6), tokens(0, 9), tokens(1, 5), tokens(1, 7), tokens(1, 8)],
            [60, 90, 100, 120, 130]
        );
        assert_eq!(places.of(moment(0, 11)), At { step: 11, tokens: 90, seconds: 9.0 });
        assert_eq!(places.of(moment(1, 4)), At { step: 4, tokens: 100, seconds: 10.0 });
    }

    #[test]
    fn settings_have_whole_keys() {
        let config: toml::Table =
            "a.b = 1\nz = 'x'\n[optimizer.multipliers]\nnorm = 0.05".parse().expect("TOML");
        let flat = flat(&config);
        let expected = [("z", "x"), ("a.b", "1"), ("optimizer.multipliers.norm", "0.05")];
        assert_eq!(flat, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(setting(&config, "optimizer.multipliers.norm").as_deref(), Some("0.05"));
        assert_eq!(setting(&config, "optimizer.none"), None);
    }
}

//! A small run on a small text: what every test here trains.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use device::Device;
use mil::Element;
use serde_json::Value;
use sim::{Profile, SimDevice};
use train::{
    Change, Clock, Error, Evaluation, Event, MachineClock, Observer, Outcome, RunOptions, Start, StepMetrics,
    UserConfig, train_run_by,
};

/// A folder with a text and room for runs.
pub struct Place {
    folder: tempfile::TempDir,
}

/// The devices that every behaviour here must hold on.
pub fn devices() -> Vec<Arc<dyn Device>> {
    vec![cpu(), sim_f16()]
}

pub fn cpu() -> Arc<dyn Device> {
    Arc::new(cpu::CpuDevice::new(2))
}

pub fn sim_f16() -> Arc<dyn Device> {
    Arc::new(SimDevice::with_element(Profile::m4(), Element::F16))
}

impl Place {
    pub fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        std::fs::write(place.text(), text(600)).unwrap();
        place
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn text(&self) -> PathBuf {
        self.path().join("text.txt")
    }

    pub fn runs(&self) -> PathBuf {
        self.path().join("runs")
    }

    /// The preset `odd` on the text, with this budget, and a line for whatever differs.
    pub fn config(&self, budget: &str, more: &str) -> UserConfig {
        let text = format!(
            "preset = 'odd'\nbudget = '{budget}'\nbatch = 3\naccum = 2\nseed = 5\n{more}\n\
             [data]\nsource = '{}'\n[model]\nvocab_size = 300\n\
             [optimizer]\nlr = 0.01\n[eval]\nwindows = 4\nfinal_windows = 8\n[checkpoint]\nkeep = 3\n",
            self.text().display()
        );
        UserConfig::parse(&text, "test.toml").unwrap()
    }

    pub fn start(&self, name: &str, config: UserConfig) -> Start {
        Start::New { config, runs_dir: self.runs(), name: Some(name.into()) }
    }

    pub fn resume(&self, name: &str) -> Start {
        Start::Resume { dir: self.runs().join(name), change: None }
    }

    pub fn resume_with(&self, name: &str, change: Change) -> Start {
        Start::Resume { dir: self.runs().join(name), change: Some(change) }
    }

    pub fn train(&self, start: Start, device: Arc<dyn Device>) -> Result<Outcome, Error> {
        self.train_until(start, device, u64::MAX).1
    }

    /// Trains and asks to stop after `last_step`.
    pub fn train_until(
        &self,
        start: Start,
        device: Arc<dyn Device>,
        last_step: u64,
    ) -> (Seen, Result<Outcome, Error>) {
        self.train_by(Arc::new(MachineClock::default()), start, device, last_step)
    }

    /// The same by another clock.
    pub fn train_by(
        &self,
        clock: Arc<dyn Clock>,
        start: Start,
        device: Arc<dyn Device>,
        last_step: u64,
    ) -> (Seen, Result<Outcome, Error>) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut seen = Seen { last_step, stop: stop.clone(), ..Seen::default() };
        let outcome = train_run_by(clock, self.options(start, device), &mut seen, &stop);
        (seen, outcome)
    }

    pub fn options(&self, start: Start, device: Arc<dyn Device>) -> RunOptions {
        RunOptions {
            start,
            device,
            device_why: String::new(),
            fallback: None,
            cache_dir: self.path().join("cache"),
        }
    }

    /// The files of the newest checkpoint of a run that hold tensors.
    pub fn tensors(&self, name: &str) -> (u64, Vec<u8>, Vec<u8>) {
        let (step, path) = train::Checkpoints::of_run(&self.runs().join(name)).list().pop().unwrap();
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        (step, read("weights.safetensors"), read("optimizer.safetensors"))
    }

    /// The file of the newest checkpoint of a run that holds the mean of the weights.
    pub fn means(&self, name: &str) -> Vec<u8> {
        let (_, path) = train::Checkpoints::of_run(&self.runs().join(name)).list().pop().unwrap();
        std::fs::read(path.join("means.safetensors")).unwrap()
    }

    pub fn metrics(&self, name: &str) -> Vec<Value> {
        train::json_lines::read(&self.runs().join(name).join("metrics.jsonl")).unwrap()
    }

    pub fn events(&self, name: &str, kind: &str) -> Vec<Value> {
        let mut events = train::json_lines::read(&self.runs().join(name).join("events.jsonl")).unwrap();
        events.retain(|event| event["event"] == kind);
        events
    }
}

/// A tenth of a second for each look; once it has been looked at so often, the machine has slept for eight hours.
pub struct Ticks {
    looks: AtomicU64,
    sleeps_at: u64,
}

impl Ticks {
    pub fn new(sleeps_at: u64) -> Arc<Ticks> {
        Arc::new(Ticks { looks: AtomicU64::new(0), sleeps_at })
    }
}

pub const NIGHT: Duration = Duration::from_secs(8 * 3600);

impl Clock for Ticks {
    fn awake(&self) -> Duration {
        Duration::from_millis(100) * self.looks.fetch_add(1, Ordering::Relaxed) as u32
    }
    fn wall(&self) -> Duration {
        let looks = self.looks.load(Ordering::Relaxed);
        Duration::from_millis(100) * looks as u32
            + if looks >= self.sleeps_at { NIGHT } else { Duration::ZERO }
    }
}

/// Everything that an observer is told.
#[derive(Default)]
pub struct Seen {
    pub steps: Vec<StepMetrics>,
    pub evaluations: Vec<(u64, Evaluation)>,
    pub events: Vec<Event>,
    last_step: u64,
    stop: Arc<AtomicBool>,
}

impl Observer for Seen {
    fn on_step(&mut self, metrics: &StepMetrics, _progress: f64) {
        self.steps.push(metrics.clone());
        if metrics.step >= self.last_step {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn on_eval(&mut self, step: u64, evaluation: &Evaluation) {
        self.evaluations.push((step, evaluation.clone()));
    }

    fn on_event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }
}

/// Sentences with a little sense and much repetition, so that a few steps show that a model learns.
fn text(sentences: usize) -> String {
    let (who, does, what) = (
        ["the cat", "a dog", "my aunt", "the old king", "nobody"],
        ["sees", "likes", "forgets", "carries", "paints"],
        ["a red ball", "the sea", "an apple", "seven letters", "the moon", "a song"],
    );
    let mut text = String::new();
    for i in 0..sentences {
        let pick = |salt: u64| data::random::splitmix64(i as u64 * 3 + salt) as usize;
        write!(text, "{} {} {}. ", who[pick(0) % 5], does[pick(1) % 5], what[pick(2) % 6]).unwrap();
        if i % 10 == 9 {
            text.push_str("\n\n");
        }
    }
    text
}

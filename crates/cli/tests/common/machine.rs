//! A place with a library that stands in for one of Apple's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{Done, Place};

/// The folder goes away with it.
pub struct Machine {
    pub place: Place,
    device: &'static str,
    /// Where the environment names the library.
    variable: &'static str,
    library: PathBuf,
}

impl Machine {
    /// With the device `ane`.
    pub fn with_espresso() -> Machine {
        let place = Place::new();
        let library = standin::copy_to(&place.path(""));
        Machine { place, device: "ane:m4", variable: "ANNEAL_ESPRESSO", library }
    }

    /// With the device `ane-inmem`.
    pub fn with_neural_engine() -> Machine {
        let place = Place::new();
        fs::create_dir(place.path("tmp")).expect("a folder");
        let library = standin::objective_c();
        Machine { place, device: "ane-inmem:m4", variable: "ANNEAL_NEURAL_ENGINE", library }
    }

    /// A training of 6 steps on the device, under a profile and with bad luck; `more` is added.
    pub fn train(&self, name: &str, profile: &str, fault: &str, more: &[&str]) -> Command {
        self.train_for("6steps", name, profile, fault, more)
    }

    pub fn train_for(&self, budget: &str, name: &str, profile: &str, fault: &str, more: &[&str]) -> Command {
        let mut args = self.place.train(name, budget, &["--device", self.device, "--set", "log_every=1"]);
        args.extend(more);
        self.command(&args, profile, fault)
    }

    pub fn command(&self, args: &[&str], profile: &str, fault: &str) -> Command {
        let mut command = self.place.command(args);
        command
            .env(self.variable, &self.library)
            .env("ANNEAL_STANDIN_PROFILE", profile)
            .env("ANNEAL_STANDIN_FAULT", fault)
            .env("ANNEAL_STANDIN_TRACE", self.place.path("trace"))
            .env("ANNEAL_COMPILE_LIMIT", "3");
        if self.place.path("tmp").exists() {
            // Programs of one text have one folder in it.
            command.envs(["TEMP", "TMP", "TMPDIR"].map(|name| (name, self.place.path("tmp"))));
        }
        command
    }

    pub fn violations(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.place.path("trace")).unwrap_or_default();
        trace.lines().filter(|line| line.contains("VIOLATION")).map(str::to_owned).collect()
    }

    pub fn lines(&self, run: &str, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.place.path(run).join(file)).expect("a run's file");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Loss and norm of each step: the whole computation, to the last bit.
    /// A norm that is no number, of a step that was skipped, is null.
    pub fn losses(&self, run: &str) -> Vec<[Value; 2]> {
        let metrics = self.lines(run, "metrics.jsonl").into_iter();
        metrics.map(|step| ["loss", "grad_norm"].map(|key| step[key].clone())).collect()
    }

    pub fn choices(&self, run: &str) -> String {
        let events = self.lines(run, "events.jsonl");
        events.iter().filter(|e| e["event"] == "choice").map(|e| format!("{}\n", e["what"])).collect()
    }
}

pub fn done(mut command: Command) -> Done {
    command.output().expect("the binary runs").into()
}

pub fn ok(command: Command) -> Done {
    let done = done(command);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    done
}

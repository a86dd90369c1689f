//! Public data as a person gets it: the real binary and a server nearby, killed in the middle, without room on the disk,
//! without a network.
#![cfg(unix)]

mod common;
#[allow(dead_code, reason = "its other faults are for the library's own tests")]
#[path = "../../data/tests/hub/server.rs"]
mod server;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Done, Place, name};
use server::{Behave, Server, sha256};

const SOURCE: &str = "hf:me/stories";
const TRAIN: &str = "/datasets/me/stories/resolve/main/train/0.jsonl";
const VALIDATION: &str = "/datasets/me/stories/resolve/main/validation/0.jsonl";

/// A cache and a server with a data set of two files, whose text is in the field `story`.
struct Hub {
    place: Place,
    server: Server,
    train: Vec<u8>,
}

impl Hub {
    fn new() -> Hub {
        let (place, server) = (Place::new(), Server::start());
        let text = fs::read_to_string(place.path("text.txt")).expect("reads");
        let line = |story: &str| format!("{}\n", serde_json::json!({ "story": story }));
        let stories: Vec<String> = text.split_inclusive("\n\n").map(line).collect();
        let train = stories.concat().repeat(10).into_bytes();
        let validation = stories[..20].concat().into_bytes();
        let entry = |path: &str, bytes: &[u8]| {
            let sum = sha256(bytes);
            serde_json::json!({ "type": "file", "path": path, "size": bytes.len(), "lfs": { "oid": sum } })
        };
        let listing = [entry("train/0.jsonl", &train), entry("validation/0.jsonl", &validation)];
        let listing = serde_json::to_string(&listing).expect("it can be written");
        server.put("/api/datasets/me/stories/tree/main?recursive=true", listing);
        server.put(TRAIN, train.clone());
        server.put(VALIDATION, validation);
        Hub { place, server, train }
    }

    fn with(&self, mut command: Command) -> Command {
        command.env("HF_ENDPOINT", &self.server.url).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
        command
    }

    fn prepare(&self) -> Command {
        let vocabulary = ["--vocab", "300", "--json"];
        let args = ["data", "prepare", SOURCE, "--column", "story"].into_iter().chain(vocabulary);
        self.with(self.place.command(&args.collect::<Vec<_>>()))
    }

    fn run(mut command: Command) -> Done {
        command.output().expect("it runs").into()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path("cache/downloads/me--stories/train").join(name)
    }

    /// Ranges asked for of the training file.
    fn ranges(&self) -> Vec<Option<String>> {
        let asked = self.server.requests().into_iter().filter(|request| request.path == TRAIN);
        asked.map(|request| request.header("range").map(str::to_owned)).collect()
    }

    fn is_whole(&self) {
        assert!(fs::read(self.file("0.jsonl")).expect("it is there") == self.train, "another file");
        assert!(!self.file(".0.jsonl.part").exists() && !self.file(".0.jsonl.part.json").exists());
    }
}

#[test]
fn killed_in_the_middle_it_goes_on_there_and_works_offline_afterwards() {
    let hub = Hub::new();
    hub.server.misbehave(TRAIN, [Behave::Stall(200_000)]);
    let mut child = hub.prepare().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    while fs::metadata(hub.file(".0.jsonl.part")).map_or(0, |part| part.len()) < 200_000 {
        assert!(child.try_wait().expect("our child").is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("our child");
    child.wait().expect("it ended");
    assert!(!hub.file("0.jsonl").exists());

    let done = Hub::run(hub.prepare());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    hub.is_whole();
    assert_eq!(hub.ranges(), [None, Some("bytes=200000-".into())]);
    let asked = hub.server.requests().len();
    let prepared = &done.json()[0];
    assert_eq!(prepared["split_rule"], "validation is 0.jsonl", "{prepared}");

    // From a cache of prepared data, and from the downloads alone.
    for forget in [false, true] {
        if forget {
            fs::remove_dir_all(hub.place.path("cache/datasets")).expect("it was there");
        }
        let mut offline = hub.prepare();
        offline.env("HF_HUB_OFFLINE", "1");
        let again = Hub::run(offline);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        assert_eq!(again.json()[0]["dir"], prepared["dir"]);
    }
    assert_eq!(hub.server.requests().len(), asked);
    fs::remove_file(hub.file("0.jsonl")).expect("it was there");
    let mut offline = hub.prepare();
    offline.env("HF_HUB_OFFLINE", "1");
    Hub::run(offline).expect_one_error(&["1 file is missing (train/0.jsonl)", "HF_HUB_OFFLINE"]);
}

#[test]
fn a_full_disk_is_an_error_with_a_remedy_and_what_came_is_kept() {
    let hub = Hub::new();
    // A limit on the size of a file fails a write as a full disk does, and in the middle likewise.
    let binary = assert_cmd::cargo::cargo_bin!("anneal").display();
    let line = format!(
        "trap '' XFSZ; ulimit -f 200; exec '{binary}' data prepare {SOURCE} --column story --vocab 300"
    );
    let done = Hub::run(hub.with(hub.place.shell(&line)));
    done.expect_one_error(&["cache", "ANNEAL_CACHE"]);
    assert!(!hub.file("0.jsonl").exists());
    let kept = fs::metadata(hub.file(".0.jsonl.part")).expect("it is kept").len();
    assert!((1..=200 * 1024).contains(&kept), "{kept}");

    let done = Hub::run(hub.prepare());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    hub.is_whole();
    assert_eq!(hub.ranges(), [None, Some(format!("bytes={kept}-"))]);
}

#[test]
fn a_wrong_column_names_those_there_are_and_a_run_trains_on_the_right_one() {
    let hub = Hub::new();
    let done = Hub::run(hub.with(hub.place.command(&["data", "prepare", SOURCE])));
    done.expect_one_error(&["0.jsonl", "line 1", "`text`"]);
    let mut args = hub.place.train("run", "3steps", &["--set", "data.column=story", "--quiet"]);
    let data = args.iter().position(|arg| *arg == "text.txt").expect("the data");
    args[data] = SOURCE;
    let done = Hub::run(hub.with(hub.place.command(&args)));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(name(&hub.place.newest("run", "weights.safetensors")).ends_with("safetensors"));
}

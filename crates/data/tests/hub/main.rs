//! Downloads from a local server that fails in every way a network can.

mod server;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use data::hub::{LocalFile, fetch};
use data::{
    Corpus, Error, HubOptions, HubSource, PrepareOptions, Progress, ReadOptions, Result, Source, Split,
    prepare,
};
use server::{Behave, Request, Server, sha256};

const CLIMBMIX: &str = "/datasets/karpathy/climbmix-400b-shuffle/resolve/main";

/// A cache, a server, and how to reach it.
struct Place {
    cache: tempfile::TempDir,
    server: Server,
    options: HubOptions,
    /// Said while downloading.
    notes: RefCell<Vec<String>>,
}

impl Place {
    fn new() -> Place {
        let server = Server::start();
        let options = HubOptions {
            endpoint: server.url.clone(),
            token: None,
            offline: false,
            jobs: 2,
            waits: vec![Duration::ZERO; 4],
            stall: Duration::from_millis(300),
        };
        Place { cache: tempfile::tempdir().expect("a folder"), server, options, notes: RefCell::default() }
    }

    /// Serves shard 0 and the pinned one, of these sizes.
    fn with_shards(sizes: [usize; 2]) -> Place {
        let place = Place::new();
        for (name, size) in ["shard_00000.parquet", "shard_06542.parquet"].into_iter().zip(sizes) {
            place.server.put(&path(name), contents(name, size));
        }
        place
    }

    fn fetch(&self) -> Result<Vec<LocalFile>> {
        let source = HubSource::Climbmix { shards: 1 };
        fetch(&source, &self.options, self.cache.path(), &|progress| {
            if let Progress::Retrying(what) = progress {
                self.notes.borrow_mut().push(what);
            }
        })
    }

    /// Fetches, and compares with what the server has.
    fn fetch_whole(&self, sizes: [usize; 2]) {
        let files = self.fetch().expect("all goes well in the end");
        for (file, size) in files.iter().zip(sizes) {
            let found = std::fs::read(&file.path).expect("it is there");
            assert!(found == contents(&file.name, size), "{} differs", file.name);
        }
        let left: Vec<_> = self
            .hidden()
            .into_iter()
            .filter(|name| name.ends_with(".part") || name.ends_with(".part.json"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("downloads/karpathy--climbmix-400b-shuffle")
    }

    fn hidden(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        names
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
            .collect()
    }

    fn requests_for(&self, name: &str) -> Vec<Request> {
        self.server.requests().into_iter().filter(|request| request.path.ends_with(name)).collect()
    }
}

fn path(name: &str) -> String {
    format!("{CLIMBMIX}/{name}")
}

/// Bytes that tell their place.
fn contents(name: &str, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + at / 251 + name.len() + usize::from(name.as_bytes()[8])) as u8).collect()
}

#[test]
fn what_is_there_is_not_asked_for_again_and_works_offline() {
    let mut place = Place::with_shards([300_000, 1000]);
    place.fetch_whole([300_000, 1000]);
    assert_eq!(place.server.requests().len(), 2);
    place.options.offline = true;
    place.fetch_whole([300_000, 1000]);
    assert_eq!(place.server.requests().len(), 2);
    std::fs::remove_file(place.folder().join("shard_06542.parquet")).expect("was there");
    let error = place.fetch().expect_err("offline").to_string();
    assert!(
        error.contains("1 file is missing (shard_06542.parquet)") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert_eq!(place.server.requests().len(), 2);
}

#[test]
fn a_dropped_connection_goes_on_where_it_broke() {
    let place = Place::with_shards([300_000, 1000]);
    place.server.misbehave(&path("shard_00000.parquet"), [Behave::Drop(100_000), Behave::Drop(70_000)]);
    place.fetch_whole([300_000, 1000]);
    let requests = place.requests_for("00000.parquet");
    let ranges: Vec<_> = requests.iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=170000-".into())]);
    assert_eq!(requests.iter().map(|r| r.sent).sum::<usize>(), 300_000, "no byte came twice");
    assert!(place.notes.borrow()[0].contains("broke off after 100000 of 300000 bytes"), "{:?}", place.notes);
}

#[test]
fn a_server_that_falls_silent_is_asked_anew() {
    let place = Place::with_shards([50_000, 1000]);
    place.server.misbehave(&path("shard_00000.parquet"), [Behave::Stall(20_000)]);
    place.fetch_whole([50_000, 1000]);
    assert_eq!(place.requests_for("00000.parquet")[1].header("range"), Some("bytes=20000-"));
}

#[test]
fn passing_faults_are_passed() {
    for fault in [
        Behave::Status(500, String::new()),
        Behave::Status(503, "retry-after: 0\r\n".into()),
        Behave::Status(429, "retry-after: 0\r\n".into()),
        Behave::IgnoreRange,
    ] {
        let place = Place::with_shards([40_000, 1000]);
        place.server.misbehave(&path("shard_00000.parquet"), [Behave::Drop(10_000), fault]);
        place.fetch_whole([40_000, 1000]);
    }
}

#[test]
fn a_server_that_stays_broken_is_said_and_nothing_is_lost() {
    let place = Place::with_shards([40_000, 1000]);
    let mut faults = vec![Behave::Drop(10_000)];
    faults.extend(vec![Behave::Status(502, String::new()); 4]);
    place.server.misbehave(&path("shard_00000.parquet"), faults);
    let error = place.fetch().expect_err("five attempts fail").to_string();
    assert!(error.contains("shard_00000.parquet") && error.contains("the server answers 502"), "{error}");
    assert!(error.contains("10000 bytes are kept"), "{error}");
    assert_eq!(place.requests_for("00000.parquet").len(), 5);
    place.fetch_whole([40_000, 1000]);
    assert_eq!(place.requests_for("00000.parquet")[5].header("range"), Some("bytes=10000-"));
}

#[test]
fn a_new_version_on_the_server_begins_anew() {
    let place = Place::with_shards([40_000, 1000]);
    let name = "shard_00000.parquet";
    place.server.misbehave(&path(name), [Behave::Drop(10_000), Behave::Etag("new".into())]);
    place.fetch_whole([40_000, 1000]);
    let requests = place.requests_for(name);
    assert_eq!((requests.len(), requests[1].sent), (2, 40_000));

    let place = Place::with_shards([40_000, 1000]);
    place.server.misbehave(&path(name), [Behave::Drop(10_000), Behave::Changed("new".into())]);
    place.fetch_whole([40_000, 1000]);
    assert!(place.notes.borrow()[1].contains("no longer the file that it was"), "{:?}", place.notes);
}

#[test]
fn contents_that_do_not_fit_their_name_are_never_taken() {
    let cdn = Server::start();
    let place = Place::with_shards([40_000, 1000]);
    place.server.redirect_to(&cdn);
    for (name, size) in [("shard_00000.parquet", 40_000), ("shard_06542.parquet", 1000)] {
        cdn.put(&format!("/cdn{}", path(name)), contents(name, size));
    }
    let at_cdn = format!("/cdn{}", path("shard_00000.parquet"));
    // A damaged copy and a shortened one, then good ones.
    cdn.misbehave(&at_cdn, [Behave::Damage, Behave::Short(39_000)]);
    place.fetch_whole([40_000, 1000]);
    let notes = place.notes.borrow().join("\n");
    assert!(
        notes.contains("its SHA-256 is") && notes.contains("39000 bytes are offered, 40000 announced"),
        "{notes}"
    );

    let place = Place::with_shards([40_000, 1000]);
    place.server.redirect_to(&cdn);
    cdn.misbehave(&at_cdn, vec![Behave::Damage; 5]);
    let error = place.fetch().expect_err("always damaged").to_string();
    assert!(error.contains("its SHA-256 is") && error.contains("0 bytes are kept"), "{error}");
    assert!(!place.folder().join("shard_00000.parquet").exists());

    let place = Place::with_shards([40_000, 1000]);
    place.server.redirect_to(&cdn);
    place.server.misbehave(&path("shard_00000.parquet"), vec![Behave::LinkedSize(40_001); 5]);
    let error = place.fetch().expect_err("the sizes disagree").to_string();
    assert!(error.contains("40000 bytes are offered, 40001 announced"), "{error}");
}

#[test]
fn a_redirected_download_goes_on_too_and_the_token_stays_at_home() {
    let cdn = Server::start();
    let mut place = Place::with_shards([40_000, 1000]);
    place.server.redirect_to(&cdn);
    place.options.token = Some("secret".into());
    for (name, size) in [("shard_00000.parquet", 40_000), ("shard_06542.parquet", 1000)] {
        cdn.put(&format!("/cdn{}", path(name)), contents(name, size));
    }
    cdn.misbehave(&format!("/cdn{}", path("shard_00000.parquet")), [Behave::Drop(15_000)]);
    place.fetch_whole([40_000, 1000]);
    assert!(place.server.requests().iter().all(|r| r.header("authorization") == Some("Bearer secret")));
    let elsewhere = cdn.requests();
    assert!(elsewhere.len() >= 3 && elsewhere.iter().all(|r| r.header("authorization").is_none()));
    let resumed = elsewhere.iter().find(|r| r.header("range").is_some()).expect("it went on");
    assert_eq!((resumed.header("range"), resumed.sent), (Some("bytes=15000-"), 25_000));
}

#[test]
fn what_no_attempt_mends_is_said_at_once() {
    for (fault, token, wanted) in [
        (Behave::Status(401, String::new()), None, "set HF_TOKEN to an access token"),
        (Behave::Status(403, String::new()), Some("x"), "the token in HF_TOKEN does not open this data set"),
        (Behave::Status(404, String::new()), None, "the server has no such file"),
        (Behave::Status(418, String::new()), None, "the server answers 418"),
    ] {
        let mut place = Place::with_shards([400, 100]);
        place.options.token = token.map(str::to_owned);
        place.server.misbehave(&path("shard_00000.parquet"), [fault]);
        let error = place.fetch().expect_err(wanted).to_string();
        assert!(error.contains("shard_00000.parquet") && error.contains(wanted), "{error}");
        assert_eq!(place.requests_for("00000.parquet").len(), 1);
    }
}

#[test]
fn nobody_at_the_other_end_is_said() {
    let mut place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    place.options.endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = place.fetch().expect_err("nobody listens").to_string();
    assert!(error.contains("shard_0") && error.contains("refused"), "{error}");
    assert_eq!(place.notes.borrow().iter().filter(|note| note.contains("shard_00000")).count(), 4);
}

#[test]
fn two_at_once_download_once() {
    let place = Place::with_shards([400_000, 1000]);
    let (cache, options) = (place.cache.path(), &place.options);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| {
            scope.spawn(move || fetch(&HubSource::Climbmix { shards: 1 }, options, cache, &|_| ()))
        });
        for one in both {
            one.join().expect("does not panic").expect("all goes well");
        }
    });
    place.fetch_whole([400_000, 1000]);
    assert_eq!(place.requests_for("00000.parquet").len(), 1);
}

#[test]
fn a_part_that_is_too_long_or_unknown_begins_anew() {
    let place = Place::with_shards([40_000, 1000]);
    std::fs::create_dir_all(place.folder()).expect("a folder");
    // Of an unknown version: what a program left that was killed before it could say which.
    std::fs::write(place.folder().join(".shard_00000.parquet.part"), [7; 50_000]).expect("writes");
    place.fetch_whole([40_000, 1000]);
    // Of a known one, but longer than it.
    std::fs::remove_file(place.folder().join("shard_00000.parquet")).expect("was there");
    std::fs::write(place.folder().join(".shard_00000.parquet.part"), [7; 50_000]).expect("writes");
    place.fetch_whole([40_000, 1000]);
}

/// Real books in climbmix's layout, over a bad line. Oracle: the numbers in their README.
#[test]
fn a_corpus_in_shards_comes_whole_over_a_bad_line() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let classics = std::env::var_os("ANNEAL_SHARED").map_or(beside, PathBuf::from).join("data/classics");
    if !classics.is_dir() {
        println!(
            "skipped: {} does not exist; set ANNEAL_SHARED to the folder that holds data/",
            classics.display()
        );
        return;
    }
    let place = Place::new();
    for name in ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"] {
        place.server.put(&path(name), std::fs::read(classics.join(name)).expect("reads"));
    }
    let faults = [Behave::Drop(1_000_000), Behave::Status(500, String::new()), Behave::Drop(400_000)];
    place.server.misbehave(&path("shard_00000.parquet"), faults);
    place.server.misbehave(&path("shard_06542.parquet"), [Behave::Stall(300_000), Behave::IgnoreRange]);
    let source = HubSource::Climbmix { shards: 2 };
    let files = fetch(&source, &place.options, place.cache.path(), &|_| ()).expect("all goes well");
    let corpus = Corpus::of_hub(&source, &files, &ReadOptions::default()).expect("opens");
    let count = |split| {
        let texts = corpus.documents(split).map(|document| document.expect("reads").text.len());
        texts.fold((0, 0), |(documents, bytes), length| (documents + 1, bytes + length))
    };
    assert_eq!(count(Split::Train), (1561 + 1599, 8_023_377 + 8_023_654));
    assert_eq!(count(Split::Valid), (519, 2_555_623));
}

#[test]
fn a_data_set_by_name_is_listed_page_by_page_once() {
    let place = Place::new();
    let size = |path: &str| path.trim_end_matches(".parquet").trim_start_matches("data/").len();
    let entry =
        |kind: &str, path: &str| format!(r#"{{"type": "{kind}", "path": "{path}", "size": {}}}"#, size(path));
    let api = "/api/datasets/roneneldan/TinyStories/tree/main?recursive=true";
    let pages = [
        [
            entry("directory", "data"),
            entry("file", "data/train-00000-of-00002.parquet"),
            entry("file", "README.md"),
        ],
        [
            entry("file", "data/validation-00000-of-00001.parquet"),
            entry("file", "data/train-00001-of-00002.parquet"),
            entry("file", "other/x.parquet"),
        ],
    ];
    place.server.put(&format!("{api}&cursor=2"), format!("[{}]", pages[1].join(",")));
    place.server.misbehave(api, [Behave::Status(500, String::new())]);
    // The first page names the second one.
    place.server.put(api, format!("[{}]", pages[0].join(",")));
    for name in ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"] {
        place.server.put(&format!("/datasets/roneneldan/TinyStories/resolve/main/data/{name}.parquet"), name);
    }
    place.server.link(api, &format!("<{}{api}&cursor=2>; rel=\"next\"", place.server.url));
    let names = |options: &HubOptions| -> Vec<String> {
        let files =
            fetch(&HubSource::TinyStories, options, place.cache.path(), &|_| ()).expect("all goes well");
        files.into_iter().map(|file| file.name).collect()
    };
    let expected = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
        .map(|n| format!("data/{n}.parquet"));
    assert_eq!(names(&place.options), expected);
    let asked = place.server.requests().len();
    assert_eq!(names(&HubOptions { offline: true, ..place.options.clone() }), expected);
    assert_eq!(place.server.requests().len(), asked);
    let other = HubSource::Dataset {
        id: "roneneldan/TinyStories".into(),
        revision: "main".into(),
        folder: "nothing".into(),
        column: None,
    };
    let error =
        fetch(&other, &place.options, place.cache.path(), &|_| ()).expect_err("no such folder").to_string();
    assert!(error.contains("its folder nothing/ holds no .parquet or .jsonl file among 5"), "{error}");
}

/// A server that lists one file of `me/it` with its checksum, as the Hub does.
fn listed(place: &Place, file: &str, contents: &str, sum: &str) {
    let entry = format!(
        r#"[{{"type": "file", "path": "{file}", "size": {}, "lfs": {{"oid": "{sum}", "size": 9}}}}]"#,
        contents.len()
    );
    place.server.put("/api/datasets/me/it/tree/main?recursive=true", entry);
    place.server.put(&format!("/datasets/me/it/resolve/main/{file}"), contents);
}

fn it() -> HubSource {
    let column = None;
    HubSource::Dataset { id: "me/it".into(), revision: "main".into(), folder: String::new(), column }
}

#[test]
fn a_listed_checksum_is_held_against_the_contents_and_tells_of_a_new_version() {
    let place = Place::new();
    listed(&place, "a.jsonl", "one", &sha256(b"one"));
    let file =
        || fetch(&it(), &place.options, place.cache.path(), &|_| ()).map(|files| files[0].path.clone());
    let path = file().expect("all goes well");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one");
    // Of the same size; while all is there nobody asks.
    listed(&place, "a.jsonl", "two", &sha256(b"two"));
    file().expect("is there");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one");
    // Something is missing, so that the listing is asked for, and what is here is of another version.
    let beside = path.with_file_name(".a.jsonl.json");
    let about = std::fs::read_to_string(&beside).expect("reads");
    std::fs::remove_file(&path).expect("removes");
    std::fs::write(path.with_file_name(".a.jsonl.part"), "on").expect("writes");
    std::fs::write(path.with_file_name(".a.jsonl.part.json"), &about).expect("writes");
    file().expect("all goes well");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), "two");

    let place = Place::new();
    listed(&place, "a.jsonl", "one", &sha256(b"other"));
    let error =
        fetch(&it(), &place.options, place.cache.path(), &|_| ()).expect_err("another sum").to_string();
    assert!(error.contains("a.jsonl: its SHA-256 is"), "{error}");
    listed(&place, "a.jsonl", "one", &sha256(b"one"));
    place.server.put("/datasets/me/it/resolve/main/a.jsonl", "longer");
    let error =
        fetch(&it(), &place.options, place.cache.path(), &|_| ()).expect_err("another size").to_string();
    assert!(
        error.contains("it has 6 bytes, where 3 are listed") && error.contains("run the command again"),
        "{error}"
    );
}

#[test]
fn a_listing_is_asked_for_as_patiently_as_a_file() {
    let api = "/api/datasets/me/it/tree/main?recursive=true";
    for (fault, times, wanted) in [
        (Behave::Status(401, String::new()), 1, "set HF_TOKEN"),
        (Behave::Status(404, String::new()), 1, "no such file"),
        (Behave::Status(418, String::new()), 1, "the server answers 418"),
        (Behave::Status(503, String::new()), 5, "the server answers 503"),
        (Behave::Status(429, "retry-after: 301\r\n".into()), 1, "wants to be asked in 301 s at the earliest"),
    ] {
        let place = Place::new();
        listed(&place, "a.jsonl", "one", &sha256(b"one"));
        place.server.misbehave(api, vec![fault; 5]);
        let error = fetch(&it(), &place.options, place.cache.path(), &|_| ()).expect_err(wanted).to_string();
        assert!(error.contains(api) && error.contains(wanted), "{error}");
        assert_eq!(place.server.requests().len(), times, "{wanted}");
    }
}

#[test]
fn what_is_complete_but_for_its_name_is_named_without_a_request() {
    let cdn = Server::start();
    let place = Place::with_shards([40_000, 1000]);
    place.server.redirect_to(&cdn);
    for (name, size) in [("shard_00000.parquet", 40_000), ("shard_06542.parquet", 1000)] {
        cdn.put(&format!("/cdn{}", path(name)), contents(name, size));
    }
    place.fetch_whole([40_000, 1000]);
    let asked = place.server.requests().len();
    let file = place.folder().join("shard_00000.parquet");
    let beside = |ending: &str| place.folder().join(format!(".shard_00000.parquet.{ending}"));
    // Killed after the last byte; killed between the two renames.
    std::fs::rename(&file, beside("part")).expect("renames");
    std::fs::rename(beside("json"), beside("part.json")).expect("renames");
    place.fetch_whole([40_000, 1000]);
    std::fs::rename(beside("json"), beside("part.json")).expect("renames");
    place.fetch_whole([40_000, 1000]);
    assert_eq!(place.server.requests().len(), asked);
    // All bytes are here, but not all are right: a loss of power.
    let mut bytes = std::fs::read(&file).expect("reads");
    bytes[30_000..].fill(0);
    std::fs::remove_file(&file).expect("removes");
    std::fs::write(beside("part"), bytes).expect("writes");
    std::fs::rename(beside("json"), beside("part.json")).expect("renames");
    place.fetch_whole([40_000, 1000]);
    assert!(place.notes.borrow().join("").contains("its SHA-256 is"));
}

#[test]
fn bytes_of_two_versions_never_meet() {
    let name = "shard_00000.parquet";
    // A name that does not stand for the bytes; a part of an older version of the same size; one that is as long as the
    // file, and no checksum to tell whether it is right.
    let place = Place::with_shards([40_000, 1000]);
    place.server.misbehave(&path(name), [Behave::Etag(String::new()), Behave::Etag(String::new())]);
    place.server.misbehave(&path(name), [Behave::Drop(10_000)]);
    place.fetch_whole([40_000, 1000]);
    for (etag, bytes) in [("older", 10_000), ("", 10_000), ("W/v40000", 10_000), ("v40000", 40_000)] {
        let place = Place::with_shards([40_000, 1000]);
        std::fs::create_dir_all(place.folder()).expect("a folder");
        let beside = |ending: &str| place.folder().join(format!(".{name}.{ending}"));
        std::fs::write(beside("part"), vec![7; bytes]).expect("writes");
        std::fs::write(beside("part.json"), format!(r#"{{"etag": "{etag}", "size": 40000}}"#))
            .expect("writes");
        if etag.is_empty() || etag.starts_with("W/") {
            place.server.misbehave(&path(name), [Behave::Changed(etag.into())]);
        }
        place.fetch_whole([40_000, 1000]);
    }
    // A whole file of another version stands there while the new one comes, and the process ends in between.
    let place = Place::with_shards([40_000, 1000]);
    std::fs::create_dir_all(place.folder()).expect("a folder");
    std::fs::write(place.folder().join(name), vec![7; 40_000]).expect("writes");
    place.server.misbehave(&path(name), vec![Behave::Drop(0); 5]);
    place.fetch().expect_err("nothing comes");
    place.fetch_whole([40_000, 1000]);
}

#[test]
fn the_column_may_be_named_on_either_side_and_folders_name_splits() {
    let place = Place::new();
    let line = |text: &str| format!("{{\"story\": \"{text}\"}}\n");
    let names = ["en/train/0.jsonl", "en/validation/0.jsonl", "en/test/0.jsonl"];
    let entry =
        |name: &&str| format!(r#"{{"type": "file", "path": "{name}", "size": {}}}"#, line(name).len());
    let entries = names.iter().map(entry).collect::<Vec<_>>().join(",");
    place.server.put("/api/datasets/me/it/tree/main?recursive=true", format!("[{entries}]"));
    for name in names {
        place.server.put(&format!("/datasets/me/it/resolve/main/{name}"), line(name));
    }
    let read = |column: Option<&str>, option: &str| {
        let column = column.map(str::to_owned);
        let source =
            HubSource::Dataset { id: "me/it".into(), revision: "main".into(), folder: "en".into(), column };
        let files = fetch(&source, &place.options, place.cache.path(), &|_| ()).expect("all goes well");
        let options = ReadOptions { column: option.into(), ..ReadOptions::default() };
        let corpus = Corpus::of_hub(&source, &files, &options).expect("all goes well");
        [Split::Train, Split::Valid].map(|split| {
            let texts = corpus.documents(split).map(|document| document.map(|document| document.text));
            texts.collect::<Result<Vec<_>>>()
        })
    };
    for (column, option) in [(Some("story"), "text"), (None, "story")] {
        let [train, valid] = read(column, option).map(|texts| texts.expect("reads"));
        assert_eq!((train, valid), (vec![names[0].to_owned()], vec![names[1].to_owned()]));
    }
    let [train, _] = read(None, "text");
    assert!(train.expect_err("no such field").to_string().contains("text"));
}

#[test]
fn a_token_gets_into_no_log() {
    let mut place = Place::new();
    place.options.token = Some("hf_secret".into());
    let shown = format!("{:?}", place.options);
    assert!(shown.contains("token") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_full_disk_names_the_cache() {
    // A folder that cannot be made stands for every refusal of the file system.
    let place = Place::with_shards([400, 100]);
    std::fs::write(place.cache.path().join("downloads"), "in the way").expect("writes");
    let mut options = PrepareOptions::new(Source::Hub(HubSource::Climbmix { shards: 1 }), place.cache.path());
    options.hub = place.options.clone();
    let error = prepare(&options, &|_| ()).expect_err("a file is in the way");
    assert!(matches!(&error, Error::Cache { folder, .. } if folder == place.cache.path()), "{error}");
    assert!(error.to_string().contains("ANNEAL_CACHE"), "{error}");
}

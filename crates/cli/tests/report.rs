//! `anneal report` on real runs: two side by side, one that is still going on, one that was cut, and what
//! cannot be reported.

mod common;

use std::fs;

use common::{Place, Running};
use roxmltree::{Document, ParsingOptions};
use serde_json::Value;

/// The page of a report, as a parser of XML sees it.
fn with_page<T>(place: &Place, name: &str, look: impl FnOnce(&str, &Document<'_>) -> T) -> T {
    let html = fs::read_to_string(place.path(name)).expect("a report");
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let page = Document::parse_with_options(&html, options).unwrap_or_else(|e| panic!("{e}"));
    // Each plot is a file of SVG of its own, too.
    for rest in html.split("<svg").skip(1) {
        let plot = format!("<svg{}</svg>", rest.split("</svg>").next().unwrap_or_default());
        Document::parse(&plot).unwrap_or_else(|e| panic!("{e}: {plot}"));
    }
    look(&html, &page)
}

/// A number as the page writes figures of validations.
fn figure(summary: &Value) -> String {
    format!("{:.4}", summary["val_bpb"].as_f64().expect("a number"))
}

#[test]
fn two_runs_side_by_side() {
    let place = Place::new();
    let more = ["--set", "eval.every=0.25", "--set", "eval.windows=2"];
    place.ok(&place.train("runs/first", "24steps", &more));
    place.ok(&place.train(
        "runs/second",
        "24steps",
        &[&more[..], &["--lr", "0.003", "--seed", "5"]].concat(),
    ));
    let done = place.ok(&["report", "runs/first", "runs/second"]);
    assert!(done.stdout.contains("report  report.html, "), "{}", done.stdout);
    assert_eq!(done.stderr, "");
    with_page(&place, "report.html", |html, page| {
        for run in ["first", "second"] {
            let path = place.path(&format!("runs/{run}/summary.json"));
            let summary = serde_json::from_slice(&fs::read(path).expect("a summary")).expect("JSON");
            let bpb = figure(&summary);
            assert!(html.contains(&bpb) && done.stdout.contains(&bpb), "{run}: no {bpb}");
            let curves = page.descendants().filter(|node| node.attribute("data-run") == Some(run)).count();
            assert!(curves >= 10, "{run} is in {curves} plots");
        }
        let plots = page.descendants().filter(|node| node.tag_name().name() == "figure").count();
        assert!(plots >= 12, "{plots} plots");
        for part in ["Guard: single", "optimizer.lr", "0.003", "best possible", "Settings that differ"] {
            assert_eq!(html.contains(part), part != "best possible", "{part}: this text has no known bound");
        }
    });
    // For programs, and over the report that is there.
    let object = &place.ok(&["report", "runs/first", "runs/second", "--json"]).json()[0];
    let size = fs::metadata(place.path("report.html")).expect("it is there").len();
    assert_eq!((&object["report"], object["bytes"].as_u64()), (&"report.html".into(), Some(size)));
    let runs = object["runs"].as_array().expect("a list");
    assert_eq!((&runs[0]["name"], &runs[1]["seed"]), (&"first".into(), &5.into()));
    assert_eq!((&runs[0]["state"], &runs[0]["steps"]), (&"finished".into(), &24.into()));
}

#[test]
fn a_run_that_goes_on_and_one_that_was_killed() {
    let place = Place::new();
    let mut running = Running::start(&place, &place.train("run", "1h", &["--json"]));
    running.wait_for("step");
    // Its lock stays with it: it is only read.
    let object = &place.ok(&["report", "run", "--json", "--out", "now.html"]).json()[0];
    assert_eq!(object["runs"][0]["state"], "unfinished");
    assert!(object["runs"][0]["steps"].as_u64() >= Some(1), "{object}");
    with_page(&place, "now.html", |html, _| assert!(html.contains("unfinished at 0%")));
    running.wait_for("step");
    running.child.kill().expect("our child");
    running.child.wait().expect("our child");
    // In the middle of a line.
    let path = place.path("run/metrics.jsonl");
    let lines = fs::read(&path).expect("it is there");
    fs::write(&path, &lines[..lines.len() - 9]).expect("it is ours");
    let object = &place.ok(&["report", "run", "--json"]).json()[0];
    let whole = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(object["runs"][0]["steps"].as_u64(), Some(whole - 1));
}

#[test]
fn what_cannot_be_reported() {
    let place = Place::new();
    place.fails(&["report", "nowhere"], &["nowhere: this is no run directory", "it does not exist"]);
    fs::create_dir(place.path("empty")).expect("a folder");
    place.fails(&["report", "empty"], &["empty: this is no run directory", "config.toml"]);
    place.fails(&["report", "text.txt"], &["text.txt: this is no run directory: it is a file"]);
    place.ok(&place.train("run", "2steps", &[]));
    place.fails(&["report", "run", "empty"], &["empty: this is no run directory"]);
    place.fails(&["report", "run", "--out", "empty"], &["empty: this is a folder", "--out"]);
    let text = fs::read(place.path("text.txt")).expect("it is there");
    place.fails(&["report", "run", "--out", "text.txt"], &["text.txt", "is no report", "--out"]);
    assert_eq!(fs::read(place.path("text.txt")).expect("it is there"), text, "it is not touched");
    place.fails(
        &["report", "run", "--out", "none/a.html"],
        &["none/a.html: cannot write the report", "--out"],
    );
    if cfg!(target_os = "linux") {
        // Nobody makes files there, root included.
        place.fails(&["report", "run", "--out", "/sys/a.html"], &["/sys/a.html: cannot write the report"]);
    }
    fs::remove_file(place.path("run/metrics.jsonl")).expect("it is there");
    place.fails(&["report", "run"], &["run: this is no run directory", "it has no metrics.jsonl"]);
    assert_eq!(place.run(&["report"]).code, Some(2));
    assert!(!place.path("report.html").exists(), "nothing was written");
}

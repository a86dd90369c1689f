//! Reports of runs that a test writes line by line: long ones, broken ones, ones that have hardly begun.
//! What a page holds is asked of a parser of XML.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use lab::report::Report;
use roxmltree::{Document, ParsingOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use train::guard::{Reading, Verdict};

/// A folder of runs.
struct Runs(TempDir);

impl Runs {
    fn new() -> Runs {
        Runs(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run of these files.
    fn run(&self, name: &str, config: &str, metrics: &str, events: &[Value]) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).expect("a folder");
        let config =
            format!("preset = \"odd\"\nseed = 3\nbatch = 2\naccum = 1\n{config}\n[model]\nseq_len = 50\n");
        fs::write(dir.join("config.toml"), config).expect("a small file");
        fs::write(dir.join("metrics.jsonl"), metrics).expect("a file");
        let events: String = events.iter().map(|event| format!("{event}\n")).collect();
        fs::write(dir.join("events.jsonl"), events).expect("a small file");
        dir
    }
}

/// Lines of `steps` steps of 100 tokens with this loss and `layers` layers.
fn metrics(steps: u64, layers: usize, loss: impl Fn(u64) -> Value) -> String {
    let mut text = String::new();
    for step in 1..=steps {
        let act_max: Vec<f64> = (0..layers).map(|layer| 1.0 + layer as f64 + (step % 13) as f64).collect();
        let line = json!({
            "step": step, "tokens": 100 * step, "progress": step as f64 / steps as f64, "loss": loss(step),
            "lr": 1e-3 / step as f64, "grad_norm": 0.5 + (step % 7) as f64, "clip": 1.0, "scale": 1024.0,
            "skipped": false, "act_max": act_max, "tok_s": 1000.0 + (step % 11) as f64,
            "elapsed": 0.1 * step as f64,
            "ms": { "total": 100.0, "programs": 80.0, "copies": 5.0, "host": 15.0, "update": 10.0 },
        });
        writeln!(text, "{line}").expect("a string grows");
    }
    text
}

fn usual(step: u64) -> Value {
    json!(2.0 + (step % 17) as f64 / 10.0)
}

fn html(dirs: &[&Path]) -> String {
    let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    Report::read(&dirs).unwrap_or_else(|e| panic!("{e}")).to_html()
}

/// The page as a parser sees it.
fn parsed(html: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, nodes_limit: u32::MAX, ..ParsingOptions::default() };
    Document::parse_with_options(html, options).unwrap_or_else(|e| panic!("{e}"))
}

/// The plot of this title: its SVG.
fn plot<'a>(page: &'a Document<'_>, title: &str) -> roxmltree::Node<'a, 'a> {
    let figures = || {
        page.descendants().filter(|node| node.has_tag_name("figure") || node.tag_name().name() == "figure")
    };
    let found = figures().find(|figure| text_of(*figure).starts_with(title));
    let figure = found.unwrap_or_else(|| panic!("no plot {title}"));
    figure.descendants().find(|node| node.tag_name().name() == "svg").expect("a plot")
}

fn text_of(node: roxmltree::Node<'_, '_>) -> String {
    node.descendants().filter(|node| node.is_text()).filter_map(|node| node.text()).collect()
}

#[test]
fn a_spike_of_one_step_in_a_hundred_thousand_is_drawn_and_the_page_stays_small() {
    let runs = Runs::new();
    let spike = |step| if step == 61_803 { json!(1e3) } else { usual(step) };
    let long = runs.run("long", "", &metrics(100_000, 28, spike), &[]);
    let html = html(&[&long]);
    assert!(html.len() < 1_000_000, "{} bytes", html.len());
    let page = parsed(&html);
    let svg = plot(&page, "Training loss");
    let ring = svg.descendants().find(|node| node.attribute("class") == Some("ring")).expect("a mark");
    assert_eq!(text_of(ring), "long: 1000 in step 61803");
    // The curve itself goes up there. The axis is logarithmic and 1000 is its largest value, 4% of the range
    // below the upper end at 12, and the step lies at 61.8% of the width from 66 to 622.
    let raw = svg.descendants().find(|node| node.attribute("class") == Some("raw")).expect("a curve");
    let (mut x, mut y, mut top) = (0.0, 0.0, (0.0, f64::MAX));
    let d = raw.attribute("d").expect("a path").replace('-', " -").replace('l', " l ").replace('M', " M ");
    let words: Vec<&str> = d.split_whitespace().collect();
    for part in words.chunks(3) {
        // A number may begin where the one before ends: `.5.5` is not written.
        let [kind, a, b] = part else { panic!("{part:?}") };
        let (a, b): (f64, f64) = (a.parse().expect("a number"), b.parse().expect("a number"));
        (x, y) = if *kind == "M" { (a, b) } else { (x + a, y + b) };
        if y < top.1 {
            top = (x, y);
        }
    }
    assert!((top.0 - (66.0 + 0.61803 * 556.0)).abs() < 1.0, "{top:?}");
    assert!((12.0..30.0).contains(&top.1), "{top:?}");
}

#[test]
fn every_name_setting_and_message_is_escaped() {
    let runs = Runs::new();
    let bad = "<script>alert('&')</script>";
    let events = [
        json!({ "time": "t", "event": "started", "device": bad, "parameters": 5 }),
        json!({ "time": "t", "event": bad, "step": 3, "why": bad }),
        json!({ "time": "t", "event": "skipped", "step": 4, "why": "\u{0}\u{1b}[31m]]>", "scale": 8.0 }),
    ];
    let run = runs.run("a <b> & 'c'", &format!("recipe = {}", json!(bad)), &metrics(9, 2, usual), &events);
    let other = runs.run("plain", "", &metrics(9, 2, usual), &[]);
    let html = html(&[&run, &other]);
    let page = parsed(&html);
    assert!(!html.contains("<script>alert"), "it is escaped everywhere");
    // Shown as it was: recipe, difference, device, kind and message of the event.
    assert!(text_of(page.root_element()).matches(bad).count() >= 5);
    assert!(page.descendants().any(|node| node.attribute("data-run") == Some("a <b> & 'c'")));
    let scripts = page.descendants().filter(|node| node.tag_name().name() == "script").count();
    assert_eq!(scripts, 1, "ours");
    for outside in ["http-equiv", "src=", "href=", "url(", "@import"] {
        let allowed = usize::from(outside == "http-equiv");
        assert_eq!(html.matches(outside).count(), allowed, "{outside}: the page asks nobody for anything");
    }
}

#[test]
fn a_run_that_has_hardly_begun_and_one_that_was_killed_are_shown_as_far_as_they_are() {
    let runs = Runs::new();
    let begun = runs.run("begun", "", "", &[]);
    let page = html(&[&begun]);
    assert!(text_of(parsed(&page).root_element()).contains("No step has been logged yet."));
    fs::remove_file(begun.join("events.jsonl")).expect("it is there");
    parsed(&html(&[&begun]));
    let first = runs.run("first", "", &metrics(1, 2, usual), &[]);
    let page = html(&[&first]);
    assert!(
        plot(&parsed(&page), "Training loss").descendants().any(|node| node.tag_name().name() == "circle")
    );

    let whole = metrics(40, 2, usual);
    let torn = &whole[..whole.len() - 17];
    let killed = runs.run("killed", "", torn, &[json!({ "event": "started" })]);
    let report = Report::read(&[killed, begun, first]).expect("they can be read");
    let [killed, begun, first] = &report.runs().collect::<Vec<_>>()[..] else { panic!("three runs") };
    assert_eq!((killed.steps, killed.tokens, killed.state), (39, 3900, "unfinished"));
    assert_eq!((begun.steps, begun.val_bpb, first.steps), (0, None, 1));
    assert_eq!(killed.notes, [""; 0]);
    parsed(&report.to_html());
}

#[test]
fn lines_that_cannot_be_read_are_passed_over_and_told() {
    let runs = Runs::new();
    let whole = metrics(5, 2, usual);
    let broken = whole.replacen("{\"act_max\"", "\0\0\0\n{\"act_max\"", 3);
    let run = runs.run("run", "", &broken, &[]);
    let report = Report::read(&[run]).expect("it can be read");
    let about = report.runs().next().expect("a run");
    assert_eq!(about.steps, 5);
    assert!(
        about.notes[0]
            .starts_with("3 lines of metrics.jsonl could not be read and are passed over, first line 1 ("),
        "{:?}",
        about.notes
    );
    assert!(report.to_html().contains("3 lines of metrics.jsonl"));
}

#[test]
fn losses_that_are_not_finite_are_counted_and_marked() {
    let runs = Runs::new();
    let loss = |step| if [7, 8].contains(&step) { Value::Null } else { usual(step) };
    let run = runs.run("run", "", &metrics(30, 2, loss), &[]);
    let html = html(&[&run]);
    assert!(html.contains("run: 2 steps without a finite value"), "it is told");
    let page = parsed(&html);
    assert!(plot(&page, "Training loss").descendants().any(|node| node.attribute("class") == Some("lost")));
}

/// Oracle: readings that are their thresholds, or ten times them, as `train` writes them. Those of the configuration
/// count, and the usual ones (a tenth lost, growth of two) where it says nothing.
#[test]
fn what_the_guard_read_is_drawn_against_its_thresholds() {
    let runs = Runs::new();
    let watched = |act_growth: f64| {
        let reading = Reading {
            z: Some(2.5),
            rise: Some(4.5),
            lost: Some(-0.2),
            act_growth: Some(act_growth),
            act_layer: Some(1),
            grad_growth: None,
            helpless: 0,
            verdict: Verdict::Healthy,
            news: None,
        };
        let guard = format!("{{\"guard\":{},", serde_json::to_string(&reading).expect("JSON"));
        // The first ten steps are too few for it.
        let all = metrics(40, 2, usual);
        let lines = all.lines().enumerate();
        lines
            .map(|(n, line)| if n < 10 { line.to_owned() } else { line.replacen('{', &guard, 1) } + "\n")
            .collect::<String>()
    };
    let warned = [json!({ "event": "warned", "step": 22, "why": "it grows" })];
    let config = "[guard]\nrise = 4.5";
    let ill = runs.run("ill", config, &watched(20.0), &warned);
    let well = runs.run("well", config, &watched(2.0), &[]);
    let older = runs.run("older", "", &metrics(40, 2, usual), &[]);
    let html = html(&[&ill, &well, &older]);
    let page = parsed(&html);
    let in_class = |svg: roxmltree::Node<'_, '_>, class: &str| {
        let found = svg.descendants().find(|node| node.attribute("class") == Some(class));
        found.map(|node| node.attribute("d").unwrap_or_default().to_owned())
    };
    // Where a curve or a line begins, as `M66 75.4`.
    let begins = |svg, class: &str| -> (f64, f64) {
        let d = in_class(svg, class).unwrap_or_else(|| panic!("no {class}"));
        let (x, y) = d[1..].split_once(' ').expect("two numbers");
        let y = y.split(|c: char| c != '.' && !c.is_ascii_digit()).next().expect("a number");
        (x.parse().expect("a number"), y.parse().expect("a number"))
    };
    let (first, second) = (plot(&page, "Guard: ill"), plot(&page, "Guard: well"));
    let level = begins(first, "level threshold").1;
    for svg in [first, second] {
        // All plots have the same axes; the curve begins at step 11 of 40, 66 + 11/40 556 from the left.
        assert_eq!((begins(svg, "level threshold").1, begins(svg, "line g0")), (level, (218.9, level)));
        // Less than a tenth of its threshold: at the lower end, 12 + 226.
        assert_eq!(begins(svg, "line g1").1, 238.0);
        assert_eq!(in_class(svg, "line g3"), None, "nothing was read");
    }
    assert_eq!(begins(second, "line g2").1, level);
    assert!(begins(first, "line g2").1 < level - 60.0, "ten times is half of the axis above");
    let marks = |svg: roxmltree::Node<'_, '_>| text_of(svg).matches("events, see the timeline").count();
    assert_eq!([first, second].map(marks), [1, 0], "its own events");
    let text = text_of(page.root_element());
    assert!(text.contains("rise of the loss, standard errors / 4.5") && text.contains("activations / 2"));
    assert!(!text.contains("Guard: older") && text.contains("Guard: single losses"));
}

#[test]
fn what_a_resume_undid_is_struck_out_and_unknown_events_are_told() {
    let runs = Runs::new();
    let validation = |step: u64, bpb: f64| json!({ "time": format!("2026-11-24T00:00:{step:02}Z"), "event": "validation", "step": step, "val_bpb": bpb, "val_bpb_se": 0.01 });
    let events = [
        json!({ "event": "started", "parameters": 1234, "device": "cpu: one" }),
        validation(10, 3.5),
        validation(20, 9.25),
        json!({ "event": "resumed", "step": 12, "checkpoint": "a/step_000012", "dropped_metrics": 8, "device": "cpu: two" }),
        validation(20, 3.25),
        json!({ "event": "warned", "step": 22, "why": "it grows" }),
        json!({ "event": "recovered", "step": 25, "why": "loss", "since": 18, "checkpoint": "c", "lr_factor": 0.5 }),
        json!({ "event": "moon_rose", "step": 26, "phase": "full" }),
        json!({ "event": "far_away", "step": u64::MAX }),
    ];
    let run = runs.run("run", "[optimizer]\ngrad_clip = 2.5\n", &metrics(30, 2, usual), &events);
    let report = Report::read(std::slice::from_ref(&run)).expect("it can be read");
    let about = report.runs().next().expect("a run");
    assert_eq!((about.val_bpb, about.val_step, about.parameters), (Some(3.25), Some(20), Some(1234)));
    assert_eq!((about.device.as_deref(), about.state), (Some("cpu: two"), "unfinished"));
    let html = report.to_html();
    let page = parsed(&html);
    let undone: Vec<String> =
        page.descendants().filter(|n| n.attribute("class") == Some("undone")).map(text_of).collect();
    assert_eq!((undone.len(), undone[0].contains("9.2500")), (1, true));
    assert!(!text_of(plot(&page, "val_bpb over training tokens")).contains("9.25"));
    let text = text_of(page.root_element());
    for part in [
        "phase: full",
        "it grows",
        "back to c, and on at 0.5 of the rate",
        "B went back and recovered",
        "clipped above 2.5",
        "moon rose 1",
    ] {
        assert!(text.contains(part), "no {part:?}");
    }
}

#[test]
fn runs_that_cannot_be_compared_are_said_to_be_such() {
    let runs = Runs::new();
    let a = runs.run("a", "[data]\nsource = \"stories\"\ntokenizer_hash = \"x\"", &metrics(3, 1, usual), &[]);
    let b = runs.run("b", "[data]\nsource = \"books\"\ntokenizer_hash = \"y\"", &metrics(3, 1, usual), &[]);
    let report = Report::read(&[a.clone(), b]).expect("they can be read");
    let cautions = report.cautions();
    assert!(cautions[0].contains("different texts (books / stories)"), "{cautions:?}");
    assert!(cautions[1].contains("different tokenizers"), "{cautions:?}");
    assert_eq!(Report::read(&[a.clone(), a]).expect("twice the same").cautions(), [""; 0]);
}

#[test]
fn many_runs_are_told_apart_by_colour_and_dash() {
    let runs = Runs::new();
    let dirs: Vec<PathBuf> =
        (0..35).map(|n| runs.run(&format!("r{n}"), "", &metrics(3, 1, usual), &[])).collect();
    let html = Report::read(&dirs).expect("they can be read").to_html();
    parsed(&html);
    let styles: std::collections::BTreeSet<&str> = html
        .split(".r")
        .skip(1)
        .filter_map(|rule| rule.split_once('{')?.1.split_once('}'))
        .map(|(style, _)| style)
        .filter(|style| style.contains("--d:"))
        .collect();
    assert_eq!(styles.len(), 35);
}

#[test]
fn bad_input_gives_one_error_with_a_repair() {
    let runs = Runs::new();
    let error = |name: &str| Report::read(&[runs.path(name)]).expect_err("it is no run").to_string();
    assert!(error("nowhere").contains("nowhere: this is no run directory: it does not exist; give"));
    fs::create_dir(runs.path("empty")).expect("a folder");
    assert!(error("empty").contains("it has no config.toml"));
    fs::write(runs.path("file"), "").expect("a file");
    assert!(error("file").contains("it is a file"));
    let run = runs.run("run", "", "hello\nworld\n", &[]);
    let text = error("run");
    assert!(
        text.contains("metrics.jsonl: none of its 2 lines is a step of a run (line 1 is not JSON"),
        "{text}"
    );
    fs::write(run.join("metrics.jsonl"), "{\"a\":1}\n").expect("a file");
    assert!(error("run").contains("no line has a `step`"));
    fs::remove_file(run.join("metrics.jsonl")).expect("it is there");
    assert!(error("run").contains("it has no metrics.jsonl"));
    fs::write(run.join("config.toml"), "a = = 1").expect("a file");
    assert!(error("run").contains("config.toml: this is not TOML"));
}

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    let runs = Runs::new();
    let run = runs.run("run", "", &metrics(3, 1, usual), &[]);
    let report = Report::read(std::slice::from_ref(&run)).expect("it can be read");
    let out = runs.path("report.html");
    for _ in 0..2 {
        let bytes = report.write(&out).expect("it can be written");
        assert_eq!(fs::metadata(&out).expect("it is there").len(), bytes);
    }
    let error = |path: &Path| report.write(path).expect_err("it must not").to_string();
    let log = run.join("metrics.jsonl");
    let before = fs::read(&log).expect("it is there");
    assert!(error(&log).contains("metrics.jsonl: a file of this name exists and is no report"));
    assert_eq!(fs::read(&log).expect("it is there"), before);
    assert!(error(&run).contains("this is a folder"));
    assert!(error(&runs.path("no/where.html")).contains("cannot write the report"));
    #[cfg(unix)]
    assert!(error("/dev/null".as_ref()).contains("no regular file"));
    let left: Vec<_> =
        fs::read_dir(runs.0.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "no litter: {left:?}");
}

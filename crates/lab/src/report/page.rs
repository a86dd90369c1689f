//! The page: tables, plots and the style that they share.

use std::collections::BTreeSet;

use super::axis;
use super::plots::{self, Figure};
use super::run::Run;
use super::xml::Xml;

/// How every report begins, and nothing else does.
pub(crate) const HEAD: &str = "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\
<head><meta charset=\"utf-8\"/><meta name=\"generator\" content=\"anneal report\"/>";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// More settings than this make a table that scrolls.
const MANY: usize = 20;
/// Runs differ in colour and in dash; after so many of each they begin again, so that 35 runs all differ.
const COLOURS: usize = 7;
const DASHES: [&str; 5] = ["none", "7 3", "2 2.5", "10 3 2 3", "14 4"];

/// The whole page.
pub(crate) fn html(runs: &[Run]) -> String {
    let mut page = Xml::default();
    page.markup(HEAD);
    // No address at all may be asked for anything.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
    page.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
    page.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
    let names = runs.iter().map(|run| run.about.name.as_str()).collect::<Vec<_>>().join(", ");
    page.element("title", &[], format!("{names}: anneal report"));
    // The style has no character that would have to be escaped.
    page.markup(&format!(
        "<style>\n{STYLE}{}{}\n</style></head>\n<body>\n",
        plots::heat_style(),
        run_style(runs.len())
    ));
    page.element("h1", &[], if runs.len() == 1 { names } else { format!("{} runs", runs.len()) });
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %Z");
    let version = env!("CARGO_PKG_VERSION");
    page.element("p", &[("class", &"soft")], format!("anneal {version} report, written {now}"));
    legend(&mut page, runs);
    runs_table(&mut page, runs);
    for caution in cautions(runs) {
        page.element("p", &[("class", &"warn")], caution);
    }
    for run in runs {
        for note in &run.about.notes {
            page.element("p", &[("class", &"warn")], format!("{}: {note}", run.about.name));
        }
    }
    differences(&mut page, runs);
    figures(&mut page, runs);
    events(&mut page, runs);
    configurations(&mut page, runs);
    page.markup(&format!("<script>//<![CDATA[\n{SCRIPT}//]]></script>\n</body></html>\n"));
    page.finish()
}

/// Why the figures of runs should not be compared as they stand.
pub(crate) fn cautions(runs: &[Run]) -> Vec<String> {
    let differ = |of: &dyn Fn(&Run) -> Option<String>| {
        let all: BTreeSet<String> = runs.iter().filter_map(of).collect();
        (all.len() > 1).then(|| all.into_iter().collect::<Vec<_>>().join(" / "))
    };
    let mut cautions = Vec::new();
    if let Some(texts) = differ(&|run| run.text("data.source").map(str::to_owned)) {
        cautions.push(format!("The runs were trained and measured on different texts ({texts}): their val_bpb and losses are of different things."));
    } else if let Some(protocols) = differ(&|run| run.about.val_protocol.clone()) {
        cautions.push(format!("The last validations were counted differently ({protocols}): val_bpb in the table is of different parts of the text."));
    }
    if differ(&|run| run.text("data.tokenizer_hash").filter(|hash| !hash.is_empty()).map(str::to_owned))
        .is_some()
    {
        cautions.push("The runs have different tokenizers: their losses are of different tokens; val_bpb can be compared.".to_owned());
    }
    cautions
}

/// Each run's colour and dash.
fn run_style(runs: usize) -> String {
    let of =
        |run: usize| format!(".r{run}{{--c:var(--c{});--d:{}}}", run % COLOURS, DASHES[run % DASHES.len()]);
    (0..runs).map(of).collect()
}

fn key(page: &mut Xml, run: usize) {
    let class = format!("key r{run}");
    page.open("svg", &[("class", &class), ("viewBox", &"0 0 38 10"), ("aria-hidden", &"true")]);
    page.empty("path", &[("class", &"line"), ("d", &"M0 5H38")]);
    page.close();
}

fn legend(page: &mut Xml, runs: &[Run]) {
    page.open("div", &[("class", &"legend")]);
    for (number, run) in runs.iter().enumerate() {
        let of = format!("r{number}");
        page.open("span", &[("data-of", &of)]);
        key(page, number);
        page.text(&run.about.name);
        page.close();
    }
    page.close();
}

/// A cell: what is read, and what it is sorted by.
struct Cell {
    text: String,
    value: Option<f64>,
    class: &'static str,
}

fn word(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), value: None, class: "" }
}

fn figure(value: Option<f64>, text: impl Fn(f64) -> String) -> Cell {
    Cell { text: value.map_or_else(|| "–".to_owned(), text), value, class: "n" }
}

fn head(page: &mut Xml, names: &[(&str, &str)]) {
    page.open("thead", &[]);
    page.open("tr", &[]);
    for (name, class) in names {
        page.element("th", &[("class", class), ("scope", &"col")], name);
    }
    page.close();
    page.close();
}

fn row(page: &mut Xml, class: &str, cells: &[Cell]) {
    page.open("tr", &[("class", &class)]);
    for Cell { text, value, class } in cells {
        match value {
            Some(value) => page.element("td", &[("class", class), ("data-v", value)], text),
            None => page.element("td", &[("class", class)], text),
        }
    }
    page.close();
}

fn runs_table(page: &mut Xml, runs: &[Run]) {
    let has_recipe = runs.iter().any(|run| run.about.recipe.is_some());
    let has_skips = runs.iter().any(|run| run.about.skipped_steps > 0);
    let has_bound = runs.iter().any(|run| run.about.bound_bits_per_byte.is_some());
    let mut names = vec![("run", ""), ("state", ""), ("preset", "")];
    names.extend(has_recipe.then_some(("recipe", "")));
    names.extend([("parameters", "n"), ("device", ""), ("budget", "n"), ("steps", "n")]);
    names.extend(has_skips.then_some(("skipped", "n")));
    names.extend([("tokens", "n"), ("time", "n"), ("tokens/s", "n"), ("val_bpb", "n")]);
    names.extend(has_bound.then_some(("best possible", "n")));
    names.push(("seed", "n"));
    page.element("h2", &[], "Runs");
    page.open("div", &[("class", &"scroll")]);
    page.open("table", &[("class", &"sort")]);
    head(page, &names);
    page.open("tbody", &[]);
    for run in runs {
        let about = &run.about;
        let state = match about.state {
            "unfinished" | "interrupted" | "failed" => {
                format!("{} at {:.0}%", about.state, 100.0 * about.progress)
            }
            state => state.to_owned(),
        };
        let mut cells = vec![
            Cell { class: "w", ..word(&about.name) },
            Cell { class: "w", ..word(state) },
            Cell { class: "w", ..word(about.preset.as_deref().unwrap_or("–")) },
        ];
        cells.extend(has_recipe.then(|| word(about.recipe.as_deref().unwrap_or("–"))));
        cells.push(figure(about.parameters.map(|n| n as f64), axis::count));
        cells.push(Cell { class: "device", ..word(about.device.as_deref().unwrap_or("–")) });
        cells.push(Cell { class: "n", ..word(about.budget.as_deref().unwrap_or("–")) });
        cells.push(figure(Some(about.steps as f64), |n| n.to_string()));
        cells.extend(has_skips.then(|| figure(Some(about.skipped_steps as f64), |n| n.to_string())));
        cells.push(figure(Some(about.tokens as f64), axis::count));
        cells.push(figure(Some(about.seconds), |s| axis::time(s.round())));
        cells.push(figure(about.tok_s, axis::count));
        let se = about.val_bpb_se.map(|se| format!(" ± {se:.4}")).unwrap_or_default();
        let when = match (about.state, about.val_step) {
            (state, Some(step)) if state != "finished" && step != about.steps => format!(" (step {step})"),
            _ => String::new(),
        };
        cells.push(figure(about.val_bpb, |bpb| format!("{bpb:.4}{se}{when}")));
        cells.extend(has_bound.then(|| figure(about.bound_bits_per_byte, |bound| format!("{bound:.4}"))));
        cells.push(figure(about.seed.map(|seed| seed as f64), |seed| seed.to_string()));
        row(page, "", &cells);
    }
    (0..3).for_each(|_| page.close());
    let about = "time: seconds in training steps, without validation and checkpoints; val_bpb: bits per byte of \
                 held-out text, ± standard error, smaller is better";
    page.element("p", &[("class", &"soft")], about);
}

/// Settings in which runs differ.
fn differences(page: &mut Xml, runs: &[Run]) {
    if runs.len() < 2 {
        return;
    }
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.settings) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys.retain(|key| runs.iter().any(|run| run.text(key) != runs[0].text(key)));
    page.element("h2", &[], "Settings that differ");
    if keys.len() > MANY {
        let text = format!("{} settings; – where a run's configuration has no such key", keys.len());
        page.element("p", &[("class", &"soft")], text);
    }
    if keys.is_empty() {
        page.element("p", &[], "None: these runs have the same configuration.");
        return;
    }
    // So many that the curves would be far below: the table scrolls.
    let class = if keys.len() > MANY { "scroll tall" } else { "scroll" };
    page.open("div", &[("class", &class)]);
    page.open("table", &[]);
    let names = runs.iter().map(|run| (run.about.name.as_str(), ""));
    head(page, &[("setting", "")].into_iter().chain(names).collect::<Vec<_>>());
    page.open("tbody", &[]);
    for key in keys {
        let mut cells = vec![Cell { class: "k", ..word(key) }];
        cells.extend(runs.iter().map(|run| Cell {
            class: "v",
            ..word(run.text(key).map_or("–", |value| if value.is_empty() { "\"\"" } else { value }))
        }));
        row(page, "", &cells);
    }
    (0..3).for_each(|_| page.close());
}

fn figures(page: &mut Xml, runs: &[Run]) {
    page.element("h2", &[], "Curves");
    let all = plots::all(runs);
    if runs.iter().all(|run| run.about.steps == 0) {
        page.element("p", &[], "No step has been logged yet.");
    }
    let class = if runs.len() == 1 { "plots alone" } else { "plots" };
    page.open("div", &[("class", &class)]);
    for Figure { title, about, svg, key } in all {
        page.open("figure", &[]);
        page.open("figcaption", &[]);
        page.element("b", &[], title);
        page.element("span", &[], about);
        if !key.is_empty() {
            page.open("span", &[]);
            page.markup(&key);
            page.close();
        }
        page.close();
        page.markup(&svg);
        page.close();
    }
    page.close();
    let scales: Option<Vec<(f64, f64)>> = runs.iter().map(|run| run.curves.scale.range()).collect();
    if let Some([(lo, hi), rest @ ..]) = scales.as_deref()
        && lo == hi
        && rest.iter().all(|scale| scale == &(*lo, *hi))
        && runs.iter().all(|run| run.about.skipped_steps == 0)
    {
        let text = format!("The loss scale stayed at {} and no step was skipped.", axis::power(*lo));
        page.element("p", &[("class", &"soft")], text);
    }
}

fn events(page: &mut Xml, runs: &[Run]) {
    page.element("h2", &[], "What happened");
    let all: u64 = runs.iter().map(|run| run.events.count()).sum();
    if all == 0 {
        page.element("p", &[], "No event has been logged yet.");
        return;
    }
    page.open("div", &[("class", &"scroll tall")]);
    page.open("table", &[("class", &"sort")]);
    let mut names = vec![("time (UTC)", ""), ("run", ""), ("step", "n"), ("event", ""), ("what", "")];
    if runs.len() == 1 {
        names.remove(1);
    }
    head(page, &names);
    page.open("tbody", &[]);
    let mut rows: Vec<_> =
        runs.iter().flat_map(|run| run.events.told().into_iter().map(move |told| (run, told))).collect();
    // By time, and within a run as they were written.
    rows.sort_by(|(_, a), (_, b)| a.time.cmp(&b.time));
    let told = rows.len() as u64;
    for (run, event) in rows {
        let time = event.time.trim_end_matches('Z').replacen('T', " ", 1);
        let mut cells = vec![Cell { class: "w", ..word(time) }];
        if runs.len() > 1 {
            cells.push(word(&run.about.name));
        }
        cells.push(figure(event.step.map(|step| step as f64), |step| step.to_string()));
        cells.push(Cell { class: "w", ..word(event.kind.replace('_', " ")) });
        cells.push(Cell { class: "long", ..word(&event.what) });
        row(page, if event.undone { "undone" } else { "" }, &cells);
    }
    (0..3).for_each(|_| page.close());
    let mut about = Vec::new();
    if told < all {
        about.push(format!("{told} of {all} events: the first and the last of each kind."));
    }
    if runs.iter().any(|run| run.events.told().iter().any(|told| told.undone)) {
        about.push("Struck out: the run was resumed from before it.".to_owned());
    }
    if !about.is_empty() {
        page.element("p", &[("class", &"soft")], about.join(" "));
    }
}

fn configurations(page: &mut Xml, runs: &[Run]) {
    page.element("h2", &[], "Configurations");
    for run in runs {
        page.open("details", &[]);
        page.element("summary", &[], format!("{} (config.toml)", run.about.path.display()));
        page.element("pre", &[], &run.config_text);
        page.close();
    }
}

//! Recipes, and what a person may do to the length of a run that has begun.

mod common;

use common::Place;

fn setting(place: &Place, run: &str, key: &str) -> String {
    let text = std::fs::read_to_string(place.path(run).join("config.toml")).expect("a configuration");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    line.unwrap_or_else(|| panic!("no {key} in\n{text}")).to_owned()
}

#[test]
fn another_budget_needs_a_word_on_the_rate() {
    let place = Place::new();
    place.ok(&place.train("run", "12steps", &["--quiet"]));
    let args = ["train", "--resume", "run", "--budget", "20steps", "--threads", "1", "--quiet"];
    place.fails(&args, &["--schedule stretch", "--schedule restart", "--schedule decay", "--decay-now"]);
    place.ok(&[&args[..], &["--schedule", "stretch"]].concat());
    assert_eq!(setting(&place, "run", "budget"), "\"20steps\"");
    place.ok(&["train", "--resume", "run", "--decay-now", "--threads", "1", "--quiet"]);
    assert_eq!(setting(&place, "run", "budget"), "\"22steps\"", "a tenth more");
    // Nothing is left to decay; what is left is to begin anew.
    let ended = ["train", "--resume", "run", "--decay-now=3steps", "--threads", "1"];
    place.fails(&ended, &["budget = 22steps", "already fallen to nothing", "--schedule restart"]);
    let anew = ["train", "--resume", "run", "--budget", "30steps", "--schedule", "restart", "--threads", "1"];
    place.ok(&anew);
    let done = place.ok(&ended);
    let said = "budget 30steps becomes 33steps; the rate falls to nothing from here to its end";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    place.fails(
        &[&args[..], &["--schedule", "decay"]].concat(),
        &["budget = 20steps", "already used 33 steps"],
    );
}

#[test]
fn a_recipe_stands_under_what_is_written() {
    let place = Place::new();
    let args = place.train("run", "3steps", &["--quiet", "--recipe", "v3b"]);
    place.ok(&args);
    assert_eq!(setting(&place, "run", "recipe"), "\"v3b\"");
    assert_eq!(
        (setting(&place, "run", "lr"), setting(&place, "run", "embedding")),
        ("0.00025".into(), "5.0".into())
    );
    let unknown = place.train("other", "3steps", &["--recipe", "v4"]);
    place.fails(
        &unknown,
        &["--recipe: recipe = \"v4\": there is no such recipe; there are anneal, v1, v2, ane-10k"],
    );
    assert!(!place.path("other").exists());
}

//! `anneal mil estimate`, and the pages of documentation that it wrote.

mod common;

use common::Place;

/// A page of `docs/`.
fn page(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The figures of a page are those that the code computes: each table stands in it word for word.
fn stands_in(page: &str, printed: &str) {
    for part in printed.trim_end().split("\n\n") {
        assert!(page.contains(part), "the page lacks, or has otherwise:\n{part}");
    }
}

#[test]
fn the_page_on_traffic_has_the_figures_of_the_code() {
    let printed = Place::new().ok(&["mil", "estimate", "--preset", "gpt-48m", "--boundary"]).stdout;
    assert!(printed.contains("| anneal, cut `whole`, B = 4 "), "{printed}");
    stands_in(&page("engine-traffic.md"), &printed);
}

#[test]
fn the_page_on_the_estimate_has_the_figures_of_the_code() {
    let printed = Place::new().ok(&["mil", "estimate", "--published"]).stdout;
    stands_in(&page("engine-estimate.md"), &printed);
}

#[test]
fn people_and_programs_are_told_the_same() {
    let place = Place::new();
    let args = ["mil", "estimate", "--preset", "tiny", "--batch", "2", "--cut", "ten", "--chip", "all"];
    let text = place.ok(&args).stdout;
    let report = &place.ok(&[&args[..], &["--json"]].concat()).json()[0];
    for chip in ["m1", "m2", "m3", "m4", "m5"] {
        let step = &report["chips"][chip];
        let line = text.lines().find(|line| line.to_lowercase().starts_with(&format!("{chip} ")));
        let told: Vec<f64> =
            line.expect("a line for each").split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
        for (at, key) in
            ["layer_ms", "head_ms", "engine_ms", "convert_ms", "update_ms", "step_ms"].iter().enumerate()
        {
            let value = step[key].as_f64().expect("a number");
            assert!((told[at] - value).abs() <= 0.051, "{chip} {key}: {value} in {line:?}");
        }
        let programs = step["programs"].as_array().expect("a list");
        assert_eq!(programs.len(), 11);
        for program in programs {
            assert!(text.contains(program["name"].as_str().expect("a name")), "{program}");
        }
    }
    assert!(text.contains("41 dispatches"), "{text}");
    assert!(text.contains("assumed for the M3: floor"), "{text}");
    assert_eq!(report["chips"]["m4"]["traffic"]["dispatches"], 4 * 10 + 1);
}

#[test]
fn choices_are_shown_with_what_is_not_possible() {
    let place = Place::new();
    let args = ["mil", "estimate", "--preset", "tiny", "--choose", "--sequences", "4", "--memory", "0.05"];
    let choices = place.ok(&[&args[..], &["--json"]].concat()).json()[0]["chips"]["m4"].clone();
    let choices = choices.as_array().expect("a list").clone();
    assert_eq!(choices.len(), 3 * 3 * 2);
    let text = place.ok(&args).stdout;
    let refused = choices.iter().filter(|choice| choice["problem"].is_string()).count();
    assert!(refused > 0 && text.matches("not possible: ").count() == refused, "{text}");
    let (cut, batch) = (choices[0]["cut"].as_str().expect("a cut"), choices[0]["batch"].to_string());
    let first: Vec<&str> = text.lines().nth(3).expect("a line for each").split_whitespace().collect();
    assert_eq!((first[0], first[2]), (cut, batch.as_str()), "{text}");
}

#[test]
fn what_cannot_be_estimated_is_said() {
    let place = Place::new();
    let fails = |args: &[&str], told: &[&str]| place.fails(&[&["mil", "estimate"], args].concat(), told);
    fails(&["--preset", "huge"], &["there is no preset `huge`"]);
    fails(&["--batch", "0"], &["--batch 0", "1 to 4096"]);
    fails(&["--preset", "odd", "--boundary"], &["ffn = relu2", "swiglu only"]);
    for (args, told) in
        [(&["--chip", "m9"][..], "m4"), (&["--sequences", "8"], "--choose"), (&["--memory", "lots"], "GB")]
    {
        let done = place.run(&[&["mil", "estimate"], args].concat());
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(told), "{}", done.stderr);
    }
}

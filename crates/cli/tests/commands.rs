//! What each command prints, for people and for programs.

mod common;

use std::path::Path;

use common::Place;
use serde_json::Value;

#[test]
fn a_run_is_trained_measured_and_writes() {
    let place = Place::new();
    let done = place.ok(&place.train("runs/a", "30steps", &[]));
    for part in ["run     runs/a", "device  cpu (1 thread, ", "budget  30steps", "step 30/30  100%  loss "] {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
    for part in ["val_bpb  ", "The model writes:", "anneal generate runs/a"] {
        assert!(done.stdout.contains(part), "no {part:?} in\n{}", done.stdout);
    }

    let done = place.ok(&["eval", "runs/a"]);
    assert!(done.stdout.starts_with("val_bpb  "), "{}", done.stdout);
    let eval = &place.ok(&["eval", "runs/a", "--json", "--windows", "4"]).json()[0];
    let summary = std::fs::read(place.path("runs/a/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!(eval["val_bpb"], summary["val_bpb"], "the same windows, the same weights");
    assert_eq!((&eval["step"], &eval["tokens"]), (&30.into(), &(4 * 21).into()));
    assert!(eval["bytes"].as_u64() > Some(100));
    assert_eq!(
        (&eval["documents"], &eval["val_bpb_se"]),
        (&1.into(), &Value::Null),
        "one document has no spread"
    );
    let other = &place.ok(&["eval", "runs/a", "--data", "stories:5", "--json", "--windows", "9"]).json()[0];
    assert_eq!(
        (&other["windows"], &other["protocol"], &other["window"]),
        (&9.into(), &"windows".into(), &21.into())
    );
    assert!(other["val_bpb_se"].as_f64() > Some(0.0) && other["documents"].as_u64() > Some(1));
    assert!(other["bound_bits_per_byte"].as_f64() > Some(0.0));

    let write = |more: &[&str]| {
        let mut args = vec!["generate", "runs/a", "--json", "--max-tokens", "60", "--prompt", "Once"];
        args.extend(more);
        place.ok(&args).json()
    };
    // 60 tokens are more than the context of 21: it slides.
    let texts = write(&["--stories", "2"]);
    assert_eq!(texts, write(&["--stories", "2"]), "the same seed, the same text");
    assert_ne!(texts[0]["text"], texts[1]["text"]);
    assert_ne!(texts[0]["text"], write(&["--seed", "9"])[0]["text"]);
    let greedy = write(&["--temperature", "0", "--seed", "1"]);
    assert_eq!(greedy[0]["text"], write(&["--temperature", "0", "--seed", "2"])[0]["text"]);
    for text in &texts {
        assert!(text["text"].as_str().is_some_and(|t| t.starts_with("Once")), "{text}");
        assert!(text["tokens"].as_u64() <= Some(60));
    }
    let plain = place.ok(&["generate", "runs/a", "--max-tokens", "60", "--prompt", "Once"]).stdout;
    assert_eq!(plain.trim_end_matches('\n'), texts[0]["text"].as_str().expect("text").trim_end_matches('\n'));
}

/// A rate that only rises, beyond what the model bears.
#[test]
fn a_run_that_ends_worse_than_it_was_offers_its_best_checkpoint() {
    let place = Place::new();
    let mut set = Vec::new();
    for setting in [
        "optimizer.lr=1.0",
        "schedule.warmup=0.99",
        "schedule.decay=0.0",
        "guard.action=off",
        "eval.every=0.1",
    ] {
        set.extend(["--set", setting]);
    }
    let done = place.ok(&place.train("runs/a", "60steps", &set));
    let summary = std::fs::read(place.path("runs/a/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    let step = &summary["better"]["step"];
    let said = format!("The model of step {step} writes:");
    for part in ["better   ", &said, "anneal generate --checkpoint best runs/a"] {
        assert!(done.stdout.contains(part), "no {part:?} in\n{}", done.stdout);
    }
    let best = &place.ok(&["eval", "runs/a", "--json", "--windows", "4", "--checkpoint", "best"]).json()[0];
    assert_eq!(&best["step"], step);
    let text = &place.ok(&["generate", "runs/a", "--json", "--checkpoint", "best"]).json()[0];
    assert_eq!((&text["step"], &text["checkpoint"]), (step, &summary["better"]["checkpoint"]));
    place.fails(&["generate", "runs/a", "--checkpoint", "7"], &["no checkpoint of step 7", "newest"]);
}

#[test]
fn who_uses_a_run_takes_the_mean_of_its_weights() {
    let place = Place::new();
    let more = ["--set", "ema.half_life=0.3", "--set", "accum=2", "--set", "batch_ramp.over=10steps"];
    let done = place.ok(&place.train("a", "20steps", &more));
    for part in [
        "mean    of the weights, with a half-life of 30.0% of the run, ",
        "ramp    steps of 1 of these 2 parts at first, of all of them after 10steps",
    ] {
        assert!(done.stderr.contains(part), "no {part:?} in\n{}", done.stderr);
    }
    let eval = |more: &[&str]| {
        let args = ["eval", "a", "--json", "--windows", "4"];
        place.ok(&[&args[..], more].concat()).json()[0].clone()
    };
    let (mean, raw) = (eval(&[]), eval(&["--raw-weights"]));
    let summary = std::fs::read(place.path("a/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!(mean["val_bpb"], summary["val_bpb"], "the same windows, the same weights");
    assert_ne!(raw["val_bpb"], mean["val_bpb"]);
    assert_eq!((&mean["mean_weights"], &raw["mean_weights"]), (&true.into(), &false.into()));
    let plain = place.ok(&["eval", "a"]).stdout;
    assert!(plain.contains("weights   their running mean"), "{plain}");
    let text = |more: &[&str]| {
        let args = ["generate", "a", "--temperature", "1", "--max-tokens", "40"];
        place.ok(&[&args[..], more].concat()).stdout
    };
    assert_ne!(text(&[]), text(&["--raw-weights"]));
}

#[test]
fn training_speaks_json_on_standard_output_and_nothing_else_there() {
    let place = Place::new();
    let done = place.ok(&place.train("run", "6steps", &["--json"]));
    let events = done.json();
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).count();
    assert_eq!([of("started"), of("run"), of("step"), of("validation"), of("result")], [1, 1, 6, 1, 1]);
    let result = events.last().expect("there are some");
    assert_eq!((&result["event"], &result["outcome"]), (&"result".into(), &"finished".into()));
    assert!(result["val_bpb"].is_f64() && result["sample"].is_string(), "{result}");
    assert_eq!(done.stderr, "");
    let quiet = place.ok(&place.train("quiet", "2steps", &["--quiet"]));
    assert_eq!(quiet.stderr, "");
    assert!(quiet.stdout.contains("val_bpb"));
}

/// What checkpoints may take is said before the first step, to people and to programs; the files are weighed after it.
#[test]
fn the_bound_on_checkpoints_is_said_and_holds() {
    let place = Place::new();
    let often = ["--set", "checkpoint.every=2steps", "--set", "checkpoint.keep=2"];
    let done = place.ok(&place.train("run", "30steps", &often));
    let started = |run: &str| -> Value {
        let events = std::fs::read_to_string(place.path(run).join("events.jsonl")).expect("events");
        serde_json::from_str(events.lines().next().expect("the first")).expect("JSON")
    };
    let bytes = |key: &str| started("run")[key].as_u64().expect("a number");
    let (each, most) = (bytes("checkpoint_bytes"), bytes("most_checkpoint_bytes"));
    assert!(done.stderr.contains(" on disk\n") && started("run").get("and_milestones").is_none());
    let files = |folder: &Path| std::fs::read_dir(folder).expect("a checkpoint").map(|e| e.expect("a file"));
    let all: u64 = place
        .checkpoints("run")
        .iter()
        .flat_map(|path| files(path))
        .map(|f| f.metadata().expect("one").len())
        .sum();
    // The tensors are what is counted; beside them a checkpoint has names and state, some 12 kB.
    let others = 12_000 * place.checkpoints("run").len() as u64;
    assert!(each < all && all < most + others, "{each}, {all}, {most}");
    // Nobody knows how many steps a second has.
    let milestones = ["--set", "checkpoint.milestones=500steps", "--set", "checkpoint.every=0.5"];
    let done = place.ok(&place.train("timed", "1s", &milestones));
    assert!(done.stderr.contains(" on disk, and each milestone\n"), "{}", done.stderr);
    assert_eq!(started("timed")["and_milestones"], true);
}

#[test]
fn every_device_is_listed() {
    let place = Place::new();
    let text = place.ok(&["devices"]).stdout;
    let objects = place.ok(&["devices", "--json"]).json();
    let (machine, objects) = objects.split_first().expect("the machine comes first");
    assert!(text.starts_with(machine["machine"].as_str().expect("a name")), "{text}");
    assert!(machine["system"].is_string() && machine.get("chip").is_some(), "{machine}");
    for (device, line) in objects.iter().zip(text.lines().skip(1)) {
        assert!(line.starts_with(device["name"].as_str().expect("a name")), "{line}");
        assert_eq!(device["available"] == true, device["describe"].is_string());
        assert_eq!(device["available"] == false, device["why_not"].is_string());
    }
    let here: Vec<&Value> = objects.iter().filter(|d| d["available"] == true).map(|d| &d["name"]).collect();
    // On a Mac there are more.
    assert!(here.ends_with(&[&"cpu".into(), &"sim".into()]), "{here:?}");
    assert!(here.len() == 2 || cfg!(target_os = "macos"), "{here:?}");
    assert_eq!(objects.len(), 6);
}

#[test]
fn programs_are_printed_and_linted() {
    let place = Place::new();
    let text = place.ok(&["mil", "print", "--preset", "odd", "--cut", "ten"]).stdout;
    assert_eq!(text.matches("program(1.3)").count(), 15);
    // Through a file: what is printed is what is read.
    let one =
        place.ok(&["mil", "print", "--preset", "odd", "--cut", "ten", "--segment", "wo_forward"]).stdout;
    std::fs::write(place.path("wo.mil"), &one).expect("a small file");
    let from_file = place.run(&["mil", "lint", "wo.mil", "--json"]);
    let args = ["mil", "lint", "--preset", "odd", "--cut", "ten", "--segment", "wo_forward", "--json"];
    let direct = place.run(&args);
    let rules = |done: &common::Done| -> Vec<Value> {
        let findings = done.json()[0]["findings"].as_array().expect("a list").clone();
        findings.into_iter().map(|finding| finding["rule"].clone()).collect()
    };
    assert_eq!(rules(&from_file), rules(&direct));
    // Into folders: each path that is named can be read, large constants included.
    let written = place.ok(&["mil", "print", "--preset", "odd", "--cut", "ten", "--out", "programs"]).stdout;
    // Ten of a layer, three of the head, two of decoding.
    assert_eq!(written.lines().count(), 15);
    assert!(place.path("programs/wo_forward/model.mil").is_file(), "{written}");
    let found = place.run(&["mil", "lint", "programs/wo_forward/model.mil", "--json"]);
    assert_eq!(rules(&found), rules(&direct));
    for path in written.lines() {
        assert_ne!(place.run(&["mil", "lint", path, "--json"]).json()[0]["programs"], Value::Null);
    }
    place
        .fails(&["mil", "print", "--preset", "odd", "--segment", "middle"], &["middle", "forward, backward"]);
    place.fails(&["mil", "lint", "none.mil"], &["none.mil"]);

    // Where the route itself does not work, the rules that say so are told.
    for (chip, code) in [("m1", 3), ("m2", 3)] {
        let args = ["mil", "lint", "--preset", "odd", "--chip", chip, "--route", "ane-inmem"];
        let told = place.run(&args);
        assert_eq!(told.code, Some(code), "{chip}");
        assert!(told.stdout.contains("this route is not supported on M"), "{}", told.stdout);
        let object = &place.run(&[&args[..], &["--json"]].concat()).json()[0];
        assert_eq!(
            (&object["supported"], &object["against"][0]),
            (&false.into(), &(if chip == "m1" { "ANE-040" } else { "ANE-054" }).into())
        );
    }
    // In the form in which the route takes them: packed, so that last axes are multiples of 16.
    let packed = place.run(&["mil", "lint", "--preset", "odd", "--route", "ane-inmem", "--json"]);
    assert_eq!(packed.code, Some(0), "{}", packed.stdout);
    assert!(rules(&packed).contains(&"ANE-021".into()), "{}", packed.stdout);
    // The head's programs and those of decoding are looked at too.
    let all = place.run(&["mil", "lint", "--preset", "odd", "--json"]);
    assert_eq!(all.code, Some(0));
    let programs = all.json()[0]["programs"].as_array().expect("a list").len();
    assert_eq!(programs, 7);

    // The last axis may not pass 16,384 on this chip; the activations of 800 sequences do.
    let long = place.run(&["mil", "lint", "--preset", "odd", "--batch", "800", "--chip", "m1", "--json"]);
    assert_eq!(long.code, Some(1));
    assert!(long.json()[0]["errors"].as_u64() > Some(0));
    let table = place.run(&["mil", "lint", "--preset", "odd", "--batch", "800", "--chip", "m1"]);
    assert!(table.stdout.contains("error "), "{}", table.stdout);
}

/// Oracle: the rules' own numbers, on text that somebody else may have written.
#[test]
fn a_file_is_linted_as_it_stands() {
    let place = Place::new();
    let text = |columns: usize, flag: &str| {
        format!(
            "program(1.3)\n{{\n  func main<ios18>(tensor<fp16, [1, 1, 384, {columns}]> a0) {{\n    \
             bool no = const()[name = string(\"no\"), val = bool(false)];\n    \
             bool yes = const()[name = string(\"yes\"), val = bool(true)];\n    \
             tensor<fp16, [1, 1, 384, 384]> z0 = matmul(transpose_x = no, transpose_y = {flag}, x = a0, y = a0)\
             [name = string(\"z0\")];\n  }} -> (z0);\n}}\n"
        )
    };
    let lint = |text: &str, chip: &str, route: &str| {
        std::fs::write(place.path("model.mil"), text).expect("a small file");
        let done = place.run(&["mil", "lint", "model.mil", "--chip", chip, "--route", route, "--json"]);
        let errors: Vec<String> = done.json()[0]["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|finding| finding["severity"] == "error")
            .map(|finding| finding["rule"].as_str().expect("an id").to_owned())
            .collect();
        (done.code, errors)
    };
    let inline = text(64, "bool(true)");
    for (text, chip, route, code, errors) in [
        (&text(64, "yes"), "m4", "ane-inmem", 0, &[][..]),
        (&text(64, "yes"), "m4", "ane", 0, &[]),
        // Flags in the call are ANEForge's way, and Orion's error.
        (&inline, "m4", "ane", 0, &[]),
        (&inline, "m4", "ane-inmem", 1, &["ANE-034"]),
        // 384 x 32 halves are 24,576 bytes, and 32 columns.
        (&text(32, "yes"), "m4", "ane-inmem", 1, &["ANE-029", "ANE-029"]),
        (&text(32, "yes"), "m4", "ane", 0, &[]),
        (&text(64, "yes"), "m2", "ane-inmem", 3, &[]),
    ] {
        let errors: Vec<String> = errors.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(lint(text, chip, route), (Some(code), errors), "{chip}, {route}: {text}");
    }
    // What cannot be read is an error with its place, and no finding.
    std::fs::write(place.path("model.mil"), text(64, "maybe")).expect("a small file");
    place.fails(&["mil", "lint", "model.mil"], &["model.mil:6:", "maybe"]);
}

#[test]
fn programs_are_exported_as_packages() {
    let place = Place::new();
    let args = ["mil", "export", "--preset", "odd", "--cut", "ten", "--out", "packages"];
    let report = &place.ok(&[&args[..], &["--json"]].concat()).json()[0];
    let packages = report["packages"].as_array().expect("a list");
    assert_eq!((packages.len(), &report["opset"]), (15, &"CoreML8".into()));
    for package in packages {
        let path = package["path"].as_str().expect("a path");
        assert!(place.path(path).join("Data/com.apple.CoreML/model.mlmodel").is_file(), "{package}");
        assert!(
            package["bytes"].as_u64() > Some(0) && !package["outputs"][0]["shape"].is_null(),
            "{package}"
        );
    }
    let model = place.path("packages/wo_forward.mlpackage/Data/com.apple.CoreML/model.mlmodel");
    let first = std::fs::read(&model).expect("it is there");

    // Again, over what is there; then the same program by way of its text.
    let again = place.ok(&[&args[..], &["--segment", "wo_forward"]].concat()).stdout;
    assert!(again.starts_with("packages/wo_forward.mlpackage  ") && again.ends_with("B\n"), "{again}");
    assert_eq!(std::fs::read(&model).expect("it is there"), first);
    place.ok(&["mil", "print", "--preset", "odd", "--cut", "ten", "--out", "programs"]);
    let file = "programs/wo_forward/model.mil";
    place.ok(&["mil", "export", file, "--out", "one.mlpackage"]);
    let one = place.path("one.mlpackage/Data/com.apple.CoreML/model.mlmodel");
    assert_eq!(std::fs::read(one).expect("it is there"), first);

    // Errors name the file and what to do.
    let model = ["mil", "export", file, "--out"];
    place.fails(&[&model[..], &["one"]].concat(), &["package one", ".mlpackage"]);
    std::fs::write(place.path("one.mlpackage/notes.txt"), "precious").expect("it can be written");
    place.fails(&[&model[..], &["one.mlpackage"]].concat(), &["one.mlpackage", "notes.txt", "move it away"]);
    place.fails(&["mil", "export", "none.mil", "--out", "none.mlpackage"], &["none.mil"]);
    place.fails(&[&args[..], &["--segment", "middle"]].concat(), &["middle", "head_norm", "layer_decode"]);
}

#[test]
fn text_is_prepared_and_looked_at() {
    let place = Place::new();
    let prepared = &place.ok(&["data", "prepare", "text.txt", "--vocab", "300", "--json"]).json()[0];
    assert_eq!(prepared["vocab_size"], 300);
    let found = &place.ok(&["data", "inspect", "text.txt", "--json"]).json()[0];
    assert_eq!(found["train"]["bytes"], prepared["train"]["bytes"]);
    // The same documents, from the text with a tokenizer and from the tokens.
    let dir = prepared["dir"].as_str().expect("a path");
    let tokenizer = format!("{dir}/tokenizer.json");
    let text = ["data", "inspect", "text.txt", "--tokenizer", &tokenizer, "--json"];
    let (text, tokens) =
        (&place.ok(&text).json()[0], &place.ok(&["data", "inspect", dir, "--json"]).json()[0]);
    assert_eq!(text["train"], tokens["train"]);
    assert_eq!(tokens["train"]["tokens"]["tokens"], prepared["train"]["tokens"]);
    let screen = place.ok(&["data", "inspect", dir]).stdout;
    for part in ["documents", "Tokens of a document, train", "██", "most frequent", "Samples, valid"] {
        assert!(screen.contains(part), "no {part:?} in\n{screen}");
    }
    let shard = format!("{dir}/valid.tokens");
    assert!(place.ok(&["data", "inspect", &shard]).stdout.contains("Tokens, tokens"));
    assert!(place.ok(&["data", "inspect", &tokenizer]).stdout.contains("Bytes of a token"));
    std::fs::copy(&shard, place.path("alone.tokens")).expect("copies");
    place.fails(&["data", "inspect", "alone.tokens"], &["alone.tokens", "--tokenizer FILE"]);
    place.ok(&["data", "prepare", "text.txt", "--vocab", "290"]);
    let other = &place.ok(&["data", "prepare", "text.txt", "--vocab", "290", "--json"]).json()[0];
    let other = format!("{}/tokenizer.json", other["dir"].as_str().expect("a path"));
    place.fails(
        &["data", "inspect", "alone.tokens", "--tokenizer", &other],
        &["alone.tokens", "vocabulary size", "found 300"],
    );
    let about = &place.ok(&["data", "tokenizer", &tokenizer, "--text", "the the", "--json"]).json()[0];
    assert_eq!((&about["vocab_size"], &about["bos_id"]), (&300.into(), &296.into()));
    let tokens: Vec<&str> =
        about["tokens"].as_array().expect("a list").iter().map(|t| t.as_str().expect("text")).collect();
    assert_eq!(tokens.concat(), "the the");
    for args in [
        &["data", "prepare", "text.txt"][..],
        &["data", "inspect", "text.txt"],
        &["data", "tokenizer", &tokenizer, "--text", "a"],
    ] {
        assert!(!place.ok(args).stdout.is_empty());
    }
    place.fails(&["data", "inspect", "none.txt"], &["none.txt", "there is no such file"]);
    place.fails(&["data", "tokenizer", "text.txt"], &["text.txt", "tokenizer.json"]);
    place.ok(&["data", "tokenizer", &tokenizer, "--export", "again.json"]);
    let read = |path| std::fs::read(path).expect("a file");
    assert!(
        read(place.path("again.json")) == read(tokenizer.into()),
        "an export of our own file is that file"
    );
}

/// Oracle: counted by hand.
#[test]
fn what_is_looked_at_is_counted_and_known_by_its_contents() {
    let place = Place::new();
    // 20 training documents of which one is there three times, and one to validate; an escape sequence in one.
    let line = |text: &str| serde_json::json!({ "text": text }).to_string() + "\n";
    let mut lines: String = (10..28).map(|number| line(&format!("number {number}"))).collect();
    lines += &line("number 17");
    lines += &line("number 17");
    std::fs::create_dir(place.path("docs")).expect("a folder");
    std::fs::write(place.path("docs/train.jsonl"), lines).expect("a small file");
    std::fs::write(place.path("docs/valid.jsonl"), line("r\u{1b}[31med 中")).expect("a small file");
    let found = &place.ok(&["data", "inspect", "docs", "--json", "--samples", "2"]).json()[0];
    assert_eq!((&found["kind"], &found["source"]), (&"text".into(), &"docs".into()));
    let train = &found["train"];
    assert_eq!((&train["documents"], &train["bytes"]), (&20.into(), &(20 * 9).into()));
    assert_eq!(train["lengths"], serde_json::json!([0, 0, 0, 20]), "from 8 to 15 bytes");
    let again = serde_json::json!({ "documents": 2, "share": 0.1, "most": 3, "example": "number 17" });
    assert_eq!(train["duplicates"], again);
    let samples = train["samples"].as_array().expect("a list");
    assert_eq!((samples.len(), &samples[0]), (2, &"number 10".into()));
    assert_eq!((&found["valid"]["characters"], &found["valid"]["bytes"]), (&10.into(), &12.into()));
    let screen = place.ok(&["data", "inspect", "docs"]).stdout;
    for part in [
        "train         20         180    180\n",
        "   8  15      20  100.0%  ███",
        "2 documents equal an earlier one (10.0%); the most frequent is there 3 times:",
        "  number 17\n",
        "  r\\u{1b}[31med 中\n",
    ] {
        assert!(screen.contains(part), "no {part:?} in\n{screen}");
    }
    assert!(!screen.contains('\u{1b}'), "text commands no terminal");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "80 columns where there is no terminal");

    // Tokens, under any name, and a folder of them beside their tokenizer.
    let prepared = &place.ok(&["data", "prepare", "text.txt", "--vocab", "300", "--json"]).json()[0];
    let dir = std::path::Path::new(prepared["dir"].as_str().expect("a path"));
    let shard = std::fs::read(dir.join("valid.tokens")).expect("a shard");
    std::fs::create_dir(place.path("ids")).expect("a folder");
    std::fs::write(place.path("ids/renamed.bin"), &shard).expect("a small file");
    std::fs::copy(dir.join("tokenizer.json"), place.path("ids/tokenizer.json")).expect("copies");
    let named = &place.ok(&["data", "inspect", "ids/renamed.bin", "--json"]).json()[0];
    assert_eq!(named["kind"], "tokens");
    // Behind the header, the ids are what others write.
    std::fs::write(place.path("ids/renamed.bin"), &shard[data::shard::HEADER_BYTES..]).expect("writes");
    for path in ["ids", "ids/renamed.bin"] {
        let raw = &place.ok(&["data", "inspect", path, "--json"]).json()[0];
        assert_eq!(raw["tokens"], named["tokens"], "{path}");
    }
    assert_eq!(named["tokens"]["tokens"]["tokens"], prepared["valid"]["tokens"]);
    std::fs::copy(dir.join("tokenizer.json"), place.path("words.dat")).expect("copies");
    let about = &place.ok(&["data", "inspect", "words.dat", "--json"]).json()[0];
    assert_eq!((&about["kind"], &about["merges"]), (&"tokenizer".into(), &(300 - 256 - 4).into()));
    assert_eq!(about["special"][0], serde_json::json!({ "id": 296, "name": "<|reserved_0|>" }));

    let mut damaged = shard;
    damaged[data::shard::HEADER_BYTES + 1] = 0xFF;
    std::fs::write(place.path("ids/damaged.tokens"), damaged).expect("writes");
    place.fails(&["data", "inspect", "ids/damaged.tokens"], &["damaged.tokens", "checksum of the ids"]);
    std::fs::write(place.path("picture.png"), [0xFF; 9]).expect("writes");
    place.fails(&["data", "inspect", "picture.png"], &["picture.png", ".png are not read", ".tokens file"]);
    std::fs::write(place.path("one.json"), line("text")).expect("writes");
    place.fails(&["data", "inspect", "one.json"], &["one.json", "tokenizer", ".jsonl"]);
}

#[test]
fn a_step_is_measured() {
    let place = Place::new();
    let args = [
        "bench",
        "step",
        "--preset",
        "odd",
        "--batch",
        "4",
        "--steps",
        "3",
        "--threads",
        "1",
        "--device",
        "cpu",
    ];
    let text = place.ok(&[&args[..], &["--profile"]].concat()).stdout;
    assert!(text.contains("tokens/s") && text.contains("GFLOP/s") && text.contains("matmul"), "{text}");
    let object = &place.ok(&[&args[..], &["--json"]].concat()).json()[0];
    let number = |key: &str| object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"));
    assert_eq!(number("step_tokens"), 84.0);
    let tok_s = 84.0 / number("ms_step") * 1e3;
    assert!((number("tok_s") / tok_s - 1.0).abs() < 1e-9, "{object}");
    let share = number("gflops") / number("peak_gflops");
    assert!((number("share_of_peak") / share - 1.0).abs() < 1e-9 && share > 0.0, "{object}");
    assert!(number("peak_rss_bytes") > 1e6);
    // A preset as others measure it, unless a recipe is asked for.
    let step = |more: &[&str]| {
        let args = ["bench", "step", "--preset", "tiny", "--steps", "1", "--device", "cpu", "--json"];
        place.ok(&[&args[..], more].concat()).json()[0]["step_tokens"].as_f64()
    };
    assert_eq!((step(&[]), step(&["--set", "recipe=anneal"])), (Some(512.0), Some(2048.0)));
}

#[test]
fn the_ops_of_a_layer_are_held_against_the_machine() {
    let place = Place::new();
    let args = ["bench", "layer", "--preset", "odd", "--steps", "2", "--threads", "1", "--device", "cpu"];
    let text = place.ok(&args).stdout;
    assert!(text.contains("one layer of odd") && text.contains("arithmetic"), "{text}");
    let object = &place.ok(&[&args[..], &["--json"]].concat()).json()[0];
    let ops = object["ops"].as_array().expect("ops");
    // y [F, N] = w [F, C] x [C, N] of the preset's 56 hidden channels, 40 channels, 4 sequences of 21 each.
    let product = ops
        .iter()
        .find(|op| op["program"] == "forward" && op["op"].as_str().unwrap_or("").starts_with("matmul 56x40x"))
        .unwrap_or_else(|| panic!("{object}"));
    let number = |key: &str| product[key].as_f64().unwrap_or_else(|| panic!("{key} in {product}"));
    assert_eq!(number("runs_per_step"), 1.0);
    let columns: f64 = product["op"].as_str().unwrap()["matmul 56x40x".len()..].parse().expect("columns");
    let (flops, bytes) = (2.0 * 56.0 * 40.0 * columns, 4.0 * (56.0 * 40.0 + 96.0 * columns));
    let seconds = number("ms") / 1e3;
    assert!((number("gflops") * 1e9 * seconds / flops - 1.0).abs() < 1e-6, "{product}");
    assert!((number("gbytes") * 1e9 * seconds / bytes - 1.0).abs() < 1e-6, "{product}");
    let of = |key: &str| object[key].as_f64().expect("a wall") * 1e9;
    let least = (flops / of("peak_gflops")).max(bytes / of("peak_gbytes"));
    assert!((number("share_of_wall") * seconds / least - 1.0).abs() < 1e-6, "{object}");
    place.fails(&["bench", "layer", "--device", "sim"], &["bench layer", "--device cpu"]);
}

#[test]
fn writing_is_held_against_memory() {
    let place = Place::new();
    let args = ["bench", "generate", "--preset", "odd", "--steps", "30", "--threads", "1"];
    let cpu = [&args[..], &["--device", "cpu"]].concat();
    let text = place.ok(&cpu).stdout;
    assert!(text.contains("tokens/s, ") && text.contains("at which memory is read here"), "{text}");
    let object = &place.ok(&[&cpu[..], &["--json"]].concat()).json()[0];
    let number = |key: &str| object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"));
    // All parameters but the embedding, 131 tokens by 40 channels; keys and values of 2 layers, 20 channels, 21 tokens.
    let read = number("parameters") - 131.0 * 40.0 + 2.0 * 2.0 * 20.0 * 21.0;
    assert_eq!(number("bytes_per_token"), 4.0 * read);
    assert!((number("tok_s") * number("ms_token") / 1e3 - 1.0).abs() < 1e-9, "{object}");
    let rate = number("bytes_per_token") / number("ms_token") / 1e6;
    assert!((number("gbytes") / rate - 1.0).abs() < 1e-9, "{object}");
    assert!((number("share_of_wall") / (rate / number("read_gbytes")) - 1.0).abs() < 1e-9, "{object}");
    let other = &place.ok(&[&args[..], &["--device", "sim", "--json"]].concat()).json()[0];
    assert!(other["share_of_wall"].is_null() && other["tok_s"].is_f64(), "{other}");
}

#[test]
fn an_early_reader_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command(&["mil", "print", "--preset", "tiny", "--cut", "ten"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let done: common::Done = child.wait_with_output().expect("it ends").into();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn rules_are_listed_and_told_in_full() {
    let place = Place::new();
    let listed = place.ok(&["mil", "rules"]).stdout;
    let of_rule =
        |id: &str| listed.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{id}"));
    assert!(of_rule("ANE-054").contains("w/w") && of_rule("ANE-054").contains("M1-M2"), "{listed}");
    for number in 1..=80 {
        of_rule(&format!("ANE-{number:03}"));
    }
    let told = place.ok(&["mil", "rules", "ane-054"]).stdout;
    for part in ["4,094", "infinity", "ANEForge, M1, M1 Max, M2 Pro", "what to do", "warning"] {
        assert!(told.contains(part), "{told}");
    }
    let objects = place.ok(&["mil", "rules", "--json"]).json();
    assert_eq!(objects.len() + 3, listed.lines().count());
    assert!(objects.iter().all(|rule| !rule["symptom"].as_str().expect("a text").is_empty()));
    place.fails(&["mil", "rules", "ANE-999"], &["there is no rule ANE-999", "anneal mil rules"]);
}

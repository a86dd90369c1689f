//! Training through Apple's route `ane`, on a library that stands in for Espresso: the same losses as `sim`,
//! and what happens on a bad day.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::machine::{Machine, done, ok};
use serde_json::Value;

/// Oracle: the interpreter. The engine is handed text and gives back halves; not a bit is lost between.
#[test]
fn a_run_on_the_engine_has_the_losses_of_the_interpreter_on_every_cut() {
    for cut in ["whole", "attn|ffn", "ten"] {
        let machine = Machine::with_espresso();
        let cut = format!("cut={cut}");
        let sim = ["--device", "sim:m4", "--set", "log_every=1", "--set", &cut];
        machine.place.ok(&machine.place.train("sim", "6steps", &sim));
        ok(machine.train("ane", "hypothetical/generous", "", &["--set", &cut]));
        let (sim, ane) = (machine.losses("sim"), machine.losses("ane"));
        assert_eq!((sim.len(), &ane), (6, &sim), "{cut}");
        assert_eq!(machine.violations(), [""; 0], "{cut}");
        let metrics = &machine.lines("ane", "metrics.jsonl")[3];
        for key in ["dispatches", "bytes_written", "bytes_read"] {
            assert!(metrics[key].as_u64() > Some(0), "{key}: {metrics}");
        }
    }
}

#[test]
fn long_sequences_train() {
    let machine = Machine::with_espresso();
    // Enough to validate on.
    let text = machine.place.path("text.txt");
    fs::write(&text, fs::read_to_string(&text).expect("it is there").repeat(2)).expect("a small file");
    for seq_len in ["model.seq_len=1024", "model.seq_len=2048"] {
        // A scale that leaves no step out: a run whose only step is left out is an error.
        let more = ["--set", "eval.final_windows=1", "--set", "loss_scale.initial=256", "--set", seq_len];
        let sim = [&["--device", "sim:m4", "--set", "log_every=1"], &more[..]].concat();
        machine.place.ok(&machine.place.train("sim", "1steps", &sim));
        ok(machine.train_for("1steps", "ane", "M5/ANEForge", "", &more));
        assert_eq!(machine.losses("ane"), machine.losses("sim"), "{seq_len}");
        for run in ["sim", "ane"] {
            fs::remove_dir_all(machine.place.path(run)).expect("a run's folder");
        }
    }
}

/// The ladder: what is refused is told, remembered and not tried again.
#[test]
fn a_refused_cut_is_told_and_remembered() {
    let machine = Machine::with_espresso();
    // Without a recipe: what that compiler takes is known of the plain model's programs.
    let tiny = ["--preset", "tiny", "--recipe", ""];
    let mut args = vec!["train", "--data", "text.txt", "--budget", "1steps", "--device", "ane:m4", "--out"];
    args.extend(["first", "--set", "model.vocab_size=300"]);
    args.extend(tiny);
    ok(machine.command(&args, "hypothetical/refuses-attn-ffn", ""));
    let told = machine.choices("first");
    assert!(told.contains("cut whole: refused: ") && told.contains("cut attn|ffn: refused: "), "{told}");
    assert!(told.contains("cut ten: 10 programs for all layers, compiled in "), "{told}");
    let compiles = |machine: &Machine| {
        let trace = fs::read_to_string(machine.place.path("trace")).expect("a trace");
        trace.lines().filter(|line| line.contains("e5rt_e5_compiler_compile(")).count()
    };
    let before = compiles(&machine);
    args[8] = "second";
    ok(machine.command(&args, "hypothetical/refuses-attn-ffn", ""));
    let told = machine.choices("second");
    assert!(told.contains("it was refused before on this chip and system: "), "{told}");
    // Its bundles open again, so nothing at all is compiled the second time.
    assert_eq!(compiles(&machine), before, "{told}");
}

/// What the real compiler does on a bad day happens to a child process.
#[test]
fn a_compiler_that_hangs_or_crashes_is_survived() {
    for (fault, wanted) in [
        ("compile-hang", "it took longer than 3 s and was ended"),
        ("compile-crash", "the child process ended with signal"),
        ("compile-refuse", "ANECCompile() FAILED"),
        ("load-refuse", "programs are loaded"),
    ] {
        let machine = Machine::with_espresso();
        done(machine.train("run", "M5/ANEForge", fault, &[]))
            .expect_one_error(&["ane cannot be used", wanted]);
        assert!(!machine.place.path("run").exists(), "{fault}: nothing had begun");
    }
    // Only one program does: the small one runs, and a finer cut is taken.
    for (fault, wanted) in [
        ("compile-hang=-backward/", "it took longer than 3 s and was ended"),
        ("compile-crash=-backward/", "the child process ended with signal"),
        ("compile-refuse=-backward/", "ANECCompile() FAILED"),
    ] {
        let machine = Machine::with_espresso();
        ok(machine.train("run", "M5/ANEForge", fault, &[]));
        let told = machine.choices("run");
        assert!(
            told.contains("cut whole: refused: ane: compiling `backward`") && told.contains(wanted),
            "{told}"
        );
        assert!(told.contains("cut attn|ffn: 4 programs"), "{told}");
    }
}

/// Bundles that were kept may be damaged, or of no use after a restart of the system's service.
#[test]
fn a_kept_bundle_that_no_longer_loads_is_compiled_again() {
    let machine = Machine::with_espresso();
    ok(machine.train("first", "hypothetical/generous", "", &[]));
    let bundles = machine.place.path("cache/engine/bundles");
    let texts = || -> Vec<PathBuf> {
        let kept = fs::read_dir(&bundles).expect("bundles are kept");
        kept.map(|entry| entry.expect("an entry").path().join("main.bundle/M4.bundle/program.mil")).collect()
    };
    let whole: Vec<String> =
        texts().iter().map(|path| fs::read_to_string(path).expect("it is whole")).collect();
    assert!(whole.len() >= 3, "{}", whole.len());
    for path in texts() {
        fs::write(path, "program(1.3)").expect("a small file");
    }
    ok(machine.train("second", "hypothetical/generous", "", &[]));
    assert_eq!(machine.losses("second"), machine.losses("first"));
    for path in texts() {
        assert!(whole.contains(&fs::read_to_string(&path).expect("it is whole again")), "{}", path.display());
    }
}

/// Ctrl-C reaches children too, and so does a system that runs out of memory: what a child did not finish is no
/// verdict on its program.
#[cfg(unix)]
#[test]
fn a_compile_that_somebody_ends_is_not_remembered_as_refused() {
    use nix::sys::signal::{Signal, kill};
    let machine = Machine::with_espresso();
    let mut command = machine.train("run", "M5/ANEForge", "compile-hang=-backward/", &[]);
    command.env("ANNEAL_COMPILE_LIMIT", "60");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let known = machine.place.path("cache/engine/engine.json");
    // The forward pass is compiled; then the backward pass hangs, and the trace stands still.
    while !fs::read_to_string(&known).unwrap_or_default().contains("accepted") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let trace = || fs::read_to_string(machine.place.path("trace")).expect("a trace");
    let mut before = trace();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = trace();
        if now == before {
            break;
        }
        before = now;
    }
    let last = before.lines().last().expect("it has lines");
    let pid =
        last.trim_start_matches('[').split(']').next().and_then(|pid| pid.parse().ok()).expect("a process");
    assert_ne!(pid, child.id() as i32, "the child hangs, not the run: {last}");
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT).expect("it is there");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let told = machine.choices("run");
    assert!(told.contains("cut whole: refused: ") && told.contains("signal: 2"), "{told}");
    let known = fs::read_to_string(&known).expect("it is there");
    assert!(!known.contains("refused"), "{known}");
}

/// A compiler that refuses everything all of a sudden says nothing about the program that it refuses first.
#[test]
fn a_refusal_is_remembered_only_while_the_compiler_works() {
    let machine = Machine::with_espresso();
    ok(machine.train("first", "M5/ANEForge", "", &["--set", "cut=ten"]));
    let wanted = ["ANECCompile() FAILED", "a small program that is known to run is refused as well"];
    done(machine.train("second", "M5/ANEForge", "compile-refuse", &["--set", "cut=whole"]))
        .expect_one_error(&wanted);
    let known = fs::read_to_string(machine.place.path("cache/engine/engine.json")).expect("it is there");
    assert!(known.contains("accepted") && !known.contains("refused"), "{known}");
    ok(machine.train("third", "M5/ANEForge", "", &["--set", "cut=whole"]));
}

#[test]
fn a_run_that_fails_in_the_middle_goes_on_where_it_was() {
    let machine = Machine::with_espresso();
    ok(machine.train("sound", "M5/ANEForge", "", &[]));
    // Two layers and a head: some step in the middle.
    ok(machine.train("once", "M5/ANEForge", "execute-error@23", &[]));
    assert_eq!(machine.losses("once"), machine.losses("sound"));
    let failed: Vec<Value> =
        machine.lines("once", "events.jsonl").into_iter().filter(|e| e["event"] == "device_failed").collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0]["why"].as_str().expect("a text").contains("status=0x1d"), "{}", failed[0]);

    let wanted = ["running", "e5rt_execution_stream_execute_sync answered 13", "status=0x1d"];
    done(machine.train("twice", "M5/ANEForge", "execute-error@23+", &[])).expect_one_error(&wanted);
    ok(machine.command(&["train", "--resume", "twice", "--threads", "1"], "M5/ANEForge", ""));
    assert_eq!(machine.losses("twice"), machine.losses("sound"));

    let moved =
        ok(machine.train("moved", "M5/ANEForge", "silent-zero@23+", &["--set", "on_device_failure=cpu"]));
    assert!(moved.stderr.contains("the run goes on on cpu"), "{}", moved.stderr);
    assert_eq!(machine.losses("moved").len(), 6);
}

/// NaN with a success: nothing is learnt from it, wherever it comes up, and the run says so.
#[test]
fn not_a_number_in_the_middle_is_not_learnt_from() {
    let machine = Machine::with_espresso();
    ok(machine.train("sound", "M5/ANEForge", "", &["--set", "cut=whole"]));
    let sound = machine.losses("sound");
    let mut told = String::new();
    // Five runs are a step: two layers forward, the head, two layers backward.
    for run in 11..=15 {
        let name = format!("run-{run}");
        // This engine makes something finite of a NaN that it reads (rule ANE-060).
        ok(machine.train(&name, "M5/ANEForge", &format!("nan@{run}"), &["--set", "cut=whole"]));
        let events: Vec<Value> = machine
            .lines(&name, "events.jsonl")
            .into_iter()
            .filter(|e| e["event"] == "skipped" || e["event"] == "device_failed")
            .collect();
        assert_eq!(events.len(), 1, "{name}: {events:?}");
        told += &events[0].to_string();
        let losses = machine.losses(&name);
        if events[0]["event"] == "device_failed" {
            assert_eq!(losses, sound, "{name}: the step was taken once more");
            continue;
        }
        // Up to here they are the same; from then on they are numbers.
        let at = events[0]["step"].as_u64().expect("a step") as usize;
        assert_eq!(at, 3, "{name}");
        assert_eq!(losses[..at - 1], sound[..at - 1], "{name}");
        assert!(losses[at..].iter().flatten().all(Value::is_number), "{name}: {losses:?}");
    }
    // The loss of that step is a number: only the layer's own magnitude shows what happened.
    assert!(told.contains("an activation is NaN"), "{told}");
}

/// A system that lacks a function that the driver needs, as an unknown version may: it is named.
#[test]
fn a_library_without_the_symbols_is_told_apart() {
    let machine = Machine::with_espresso();
    let other = if cfg!(target_os = "macos") { "/usr/lib/libSystem.B.dylib" } else { "libc.so.6" };
    let wanted = ["lacks e5rt_e5_compiler_config_options_create, ", "this version of the system"];
    let mut devices = machine.command(&["devices"], "M5/ANEForge", "");
    devices.env("ANNEAL_ESPRESSO", other);
    let told = ok(devices).stdout;
    assert!(wanted.iter().all(|part| told.contains(part)), "{told}");
    let mut train = machine.train("run", "M5/ANEForge", "", &[]);
    train.env("ANNEAL_ESPRESSO", other);
    done(train).expect_one_error(&wanted);
}

/// Oracle: the interpreter under the profile that the library computes by, and the published limit of products.
#[test]
fn the_self_test_asks_every_device_and_keeps_its_answers() {
    let machine = Machine::with_espresso();
    let args = ["devices", "--self-test", "--out", "self-test.json"];
    let told = ok(machine.command(&args, "M5/ANEForge", "")).stdout;
    let read = |machine: &Machine| -> Value {
        let text = fs::read(machine.place.path("self-test.json")).expect("a file to send in");
        serde_json::from_slice(&text).expect("JSON")
    };
    let report = read(&machine);
    assert!(report["machine"].is_string() && report["system"].is_string() && report["anneal"].is_string());
    let devices = report["devices"].as_array().expect("a list");
    let names: Vec<&Value> = devices.iter().map(|device| &device["device"]).collect();
    assert_eq!(names, ["ane", "ane-inmem", "gpu", "bnns"]);
    for name in ["ane", "gpu", "bnns"] {
        let device = devices.iter().find(|device| device["device"] == name).expect("found above");
        let answers = device["answers"].as_array().expect("a list");
        let of =
            |id: &str| answers.iter().find(|a| a["id"] == id).unwrap_or_else(|| panic!("{name}: no {id}"));
        assert_eq!(of("add")["outputs"][0]["equal"], true, "{name}");
        // Only the engine has the cliff.
        let above = if name == "ane" { Value::from("inf") } else { Value::from(32_768.0) };
        let found = &of("product-limit")["outputs"][0]["found"];
        assert_eq!((&found[0], &found[1]), (&Value::from(32_752.0), &above), "{name}");
        assert!(
            answers
                .iter()
                .filter(|a| a["id"].as_str().is_some_and(|id| id.starts_with("layer/ten/")))
                .count()
                == 10
        );
        assert!(device["latency_us"].as_f64() > Some(0.0) && device["describe"].is_string(), "{name}");
        assert!(told.lines().any(|line| line.starts_with(&format!("{name:<10} "))), "{told}");
    }
    if !cfg!(target_os = "macos") {
        let in_memory = devices.iter().find(|device| device["device"] == "ane-inmem").expect("found above");
        assert!(in_memory["why_not"].is_string(), "{in_memory}");
    }

    // A program that crashes its process, before it is known to work, spoils no other answer.
    let machine = Machine::with_espresso();
    let told = ok(machine.command(&args, "M5/ANEForge", "compile-crash=-self_test/")).stdout;
    assert!(told.contains("refused"), "{told}");
    for device in
        read(&machine)["devices"].as_array().expect("a list").iter().filter(|d| d["why_not"].is_null())
    {
        let answers = device["answers"].as_array().expect("a list");
        assert!(answers.iter().all(|answer| answer["error"].is_string()), "{device}");
        assert!(device["latency_us"].as_f64() > Some(0.0), "{device}");
    }
}

/// The same output on every device.
#[test]
fn dispatches_and_working_sets_are_measured() {
    let machine = Machine::with_espresso();
    for device in ["ane:m4", "cpu"] {
        let bench = |kind: &str| {
            let args = ["bench", kind, "--device", device, "--json"];
            ok(machine.command(&args, "M5/ANEForge", "")).json().remove(0)
        };
        let dispatch = bench("dispatch");
        let us = ["us_least", "us_median", "us_p90"].map(|key| dispatch[key].as_f64().expect("a time"));
        assert!(0.0 < us[0] && us[0] <= us[1] && us[1] <= us[2], "{dispatch}");
        assert_eq!((&dispatch["bench"], dispatch["device"].as_str()), (&"dispatch".into(), Some(device)));
    }
    assert_eq!(machine.violations(), [""; 0]);
}

/// A figure in the device's floats and one in int8, or why there is none.
#[test]
fn peak_is_measured_in_floats_and_in_int8() {
    let machine = Machine::with_espresso();
    let args = ["bench", "peak", "--depth", "1", "--device", "ane:m4", "--json"];
    let object = ok(machine.command(&args, "M5/ANEForge", "")).json().remove(0);
    for figures in [&object, &object["int8"]] {
        assert!(figures["tflops_median"].as_f64() > Some(0.0), "{object}");
    }
    // Only the second program quantizes.
    let refused = ok(machine.command(&args, "M5/ANEForge", "compile-refuse=001-peak")).json().remove(0);
    assert!(refused["tflops_median"].as_f64() > Some(0.0), "{refused}");
    let why = refused["int8"]["why_not"].as_str().expect("a text");
    assert!(why.contains("ANECCompile() FAILED"), "{why}");
    // The CPU has no int8 products: a figure of floats does not go by their name.
    let floats = ["bench", "peak", "--depth", "1", "--device", "cpu", "--json"];
    let floats = ok(machine.command(&floats, "M5/ANEForge", "")).json().remove(0);
    assert!(floats["tflops_median"].as_f64() > Some(0.0), "{floats}");
    assert!(floats["int8"]["why_not"].as_str().is_some_and(|why| why.contains("in floats")), "{floats}");
    assert_eq!(machine.violations(), [""; 0]);
}

#[test]
fn devices_say_what_is_there_and_what_is_missing() {
    let machine = Machine::with_espresso();
    let there = ok(machine.command(&["devices"], "M5/ANEForge", "")).stdout;
    for name in ["ane", "gpu", "bnns"] {
        assert!(there.lines().any(|line| line.starts_with(&format!("{name:<10} yes"))), "{there}");
    }
    let mut command = machine.command(&["devices"], "M5/ANEForge", "");
    command.env("ANNEAL_ESPRESSO", machine.place.path("text.txt"));
    let missing = ok(command).stdout;
    assert!(missing.contains("text.txt cannot be loaded"), "{missing}");
}

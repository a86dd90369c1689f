//! Training through Apple's route `ane-inmem`, on a library that stands in for the framework: the same losses as
//! `sim`, and what happens on a bad day.
//!
//! It needs the feature `gnustep`, and the library: `cargo build -p anneal-standin --features objc --example
//! ane_objc`.
#![cfg(all(feature = "gnustep", not(target_vendor = "apple")))]

mod common;

use std::fs;
use std::process::Stdio;

use common::machine::{Machine, done, ok};

/// Oracle: the interpreter, which runs the programs as they are before they are packed.
#[test]
fn a_run_on_the_engine_has_the_losses_of_the_interpreter_on_every_cut() {
    // What Llama has not: layers of two kinds, the first of which reads one buffer by two ports.
    let pieces = [
        "norm_gain=false",
        "embed_norm=true",
        "x0_residual=true",
        "value_embeddings=true",
        "window_pattern=SL",
    ]
    .map(|piece| format!("model.{piece}"));
    for (cut, pieces) in
        [("whole", &[][..]), ("attn|ffn", &[]), ("ten", &[]), ("whole", &pieces), ("ten", &pieces)]
    {
        let machine = Machine::with_neural_engine();
        let cut = format!("cut={cut}");
        let mut more = vec!["--set", &cut];
        pieces.iter().for_each(|piece| more.extend(["--set", piece]));
        let sim = [&["--device", "sim:m4", "--set", "log_every=1"], &more[..]].concat();
        machine.place.ok(&machine.place.train("sim", "6steps", &sim));
        ok(machine.train("ane", "M4/maderix", "", &more));
        let (sim, ane) = (machine.losses("sim"), machine.losses("ane"));
        assert_eq!((sim.len(), &ane), (6, &sim), "{cut}");
        assert_eq!(machine.violations(), [""; 0], "{cut}");
        let metrics = &machine.lines("ane", "metrics.jsonl")[3];
        for key in ["dispatches", "bytes_written", "bytes_read"] {
            assert!(metrics[key].as_u64() > Some(0), "{key}: {metrics}");
        }
        let config = fs::read_to_string(machine.place.path("ane/config.toml")).expect("a run's file");
        assert!(config.contains("ane-inmem:m4"), "{config}");
    }
}

/// One program that the compiler refuses, by the shape of its surface: a finer cut is taken.
#[test]
fn a_refused_cut_is_told_and_a_finer_one_taken() {
    let machine = Machine::with_neural_engine();
    let mut config = model::presets::by_name("odd").expect("the preset of these tests");
    config.vocab_size = 300;
    let programs = model::programs(&config, model::Cut::Whole, model::Taps::Keep, 4, mil::Element::F16);
    let backward = programs.expect("it is whole").into_iter().find(|segment| segment.name == "backward");
    let limits = ane::SurfaceLimits::of(mil::lint::Chip::M4);
    let packing = ane::Packing::new(&backward.expect("a layer has one").program, limits).expect("it packs");
    let [_, channels, _, columns] = packing.surface(mil::PortKind::Input).shape();
    // A fault is a word of a list that commas divide.
    let fault = format!("compile-refuse= {columns}]> a0");
    ok(machine.train("run", "M4/rustane", &fault, &[]));
    let told = machine.choices("run");
    let wanted = "cut whole: refused: ane-inmem: compiling `backward`";
    assert!(told.contains(wanted), "{channels} x {columns}: {told}");
    assert!(told.contains("ANECCompile() FAILED") && told.contains("cut attn|ffn: 4 programs"), "{told}");
}

#[test]
fn long_sequences_train() {
    let machine = Machine::with_neural_engine();
    // Enough to validate on.
    let text = machine.place.path("text.txt");
    fs::write(&text, fs::read_to_string(&text).expect("it is there").repeat(2)).expect("a small file");
    for seq_len in ["model.seq_len=1024", "model.seq_len=2048"] {
        // A scale that leaves no step out: a run whose only step is left out is an error.
        let more = ["--set", "eval.final_windows=1", "--set", "loss_scale.initial=256", "--set", seq_len];
        let sim = [&["--device", "sim:m4", "--set", "log_every=1"], &more[..]].concat();
        machine.place.ok(&machine.place.train("sim", "1steps", &sim));
        ok(machine.train_for("1steps", "ane", "M4/maderix", "", &more));
        assert_eq!(machine.losses("ane"), machine.losses("sim"), "{seq_len}");
        for run in ["sim", "ane"] {
            fs::remove_dir_all(machine.place.path(run)).expect("a run's folder");
        }
    }
}

/// Surfaces that cannot be had and loads that fail at first are tried again; a run that fails in the middle goes
/// on where it was.
#[test]
fn bad_luck_that_passes_changes_nothing() {
    let machine = Machine::with_neural_engine();
    ok(machine.train("sound", "M4/rustane", "", &[]));
    for (name, fault) in [
        ("surface", "no-surface@4"),
        ("load", "load-error@2"),
        ("run", "execute-error@23"),
        ("zeros", "silent-zero@23"),
    ] {
        ok(machine.train(name, "M4/rustane", fault, &[]));
        assert_eq!(machine.losses(name), machine.losses("sound"), "{name}");
    }
    let moved =
        ok(machine.train("moved", "M4/rustane", "execute-error@23+", &["--set", "on_device_failure=cpu"]));
    assert!(moved.stderr.contains("the run goes on on cpu"), "{}", moved.stderr);
    let wanted = ["running", "evaluateWithQoS:options:request:error: answered 29", "status=0x1d", "ANE-029"];
    done(machine.train("stopped", "M4/rustane", "execute-error@23+", &[])).expect_one_error(&wanted);
    ok(machine.command(&["train", "--resume", "stopped", "--threads", "1"], "M4/rustane", ""));
    assert_eq!(machine.losses("stopped"), machine.losses("sound"));
    assert_eq!(machine.violations(), [""; 0]);
}

/// What the real compiler does on a bad day happens to a child process.
#[test]
fn a_compiler_that_hangs_or_crashes_is_survived() {
    for (fault, wanted) in [
        ("compile-hang", "it took longer than 3 s and was ended"),
        ("compile-crash", "the child process ended with signal"),
        ("compile-refuse", "ANECCompile() FAILED"),
        ("load-refuse", "0x50004"),
        ("no-surface@1+", "no surface of 98304 bytes after 4 tries"),
    ] {
        let machine = Machine::with_neural_engine();
        done(machine.train("run", "M4/maderix", fault, &[]))
            .expect_one_error(&["ane-inmem cannot be used", wanted]);
        assert!(!machine.place.path("run").exists(), "{fault}: nothing had begun");
    }
}

/// Systems about which the field disagrees, and chips that lack what the layout is made of.
#[test]
fn a_system_without_what_the_route_needs_is_told_apart() {
    let machine = Machine::with_neural_engine();
    let wanted = ["ane-inmem cannot be used", "concat", "ANE-021", "use --device ane"];
    done(machine.train("run", "M4/Orion", "", &[])).expect_one_error(&wanted);
    let args = machine.place.train("run", "6steps", &["--device", "ane-inmem:m1"]);
    done(machine.command(&args, "M1/ane-train", "")).expect_one_error(&[
        "ane-inmem cannot be used",
        "does not work on M1",
        "ANE-040",
        "ANE-054",
    ]);
    // The chip of this machine is not known.
    let listed = ok(machine.command(&["devices"], "M4/maderix", "")).stdout;
    let line = listed.lines().find(|line| line.starts_with("ane-inmem")).expect("every device has a line");
    assert!(line.starts_with("ane-inmem  no ") && line.contains("--device ane-inmem:m5"), "{line}");
    let mut command = machine.command(&["devices"], "M4/maderix", "");
    command.env("ANNEAL_NEURAL_ENGINE", machine.place.path("text.txt"));
    let missing = ok(command).stdout;
    assert!(missing.contains("text.txt cannot be loaded"), "{missing}");
}

/// Two runs at once have the same folders for their programs; neither takes them from the other, and the last
/// one clears them away.
#[test]
fn two_runs_at_once_do_not_disturb_one_another() {
    let machine = Machine::with_neural_engine();
    let mut running: Vec<_> = ["first", "second"]
        .map(|name| {
            let mut command = machine.train(name, "M5/ANEgpt", "", &[]);
            command.stdout(Stdio::null()).spawn().expect("the binary runs")
        })
        .into();
    for child in &mut running {
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
    assert_eq!(machine.losses("first"), machine.losses("second"));
    let left: Vec<_> = walk(&machine.place.path("tmp"));
    assert!(left.is_empty(), "{left:?}");
}

/// Every file below `dir`.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

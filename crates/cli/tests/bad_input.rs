//! Every bad input gives one clear error that names the file, the value and what to do, exit code
//! 1 (2 for usage), and what was saved before stays. The real binary runs; nothing is mocked.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Place, Running, name};

#[test]
fn a_preset_that_does_not_exist() {
    let place = Place::new();
    place
        .fails(&["train", "--preset", "huge"], &["--preset", "there is no preset `huge`", "tiny", "gpt-48m"]);
    place.fails(&["mil", "print", "--preset", "huge"], &["there is no preset `huge`"]);
    place.fails(&["bench", "step", "--preset", "huge"], &["there is no preset `huge`"]);
    assert!(!place.path("runs").exists(), "nothing was begun");
}

#[test]
fn settings_that_mean_nothing() {
    let place = Place::new();
    fs::write(place.path("my.toml"), "preset = 'odd'\n[optimizer]\nlerning_rate = 1\n")
        .expect("a small file");
    place.fails(&["train", "my.toml"], &["my.toml, line 3", "optimizer.lerning_rate", "beta1"]);
    place.fails(&["train", "none.toml"], &["none.toml", "No such file"]);
    place.fails(&["train", "--set", "optimizer.lerning_rate=1"], &["--set", "optimizer.lerning_rate"]);
    place.fails(
        &["train", "--set", "batch=many"],
        &["--set: batch = \"many\": expected a whole number, 1 to 65536"],
    );
    place.fails(&["train", "--set", "accum=1.5"], &["--set: accum = 1.5: expected a whole number, 1 to "]);
    place.fails(&["train", "--set", "seed=-1"], &["--set: seed = -1: expected a whole number, 0 or more"]);
    place.fails(&["train", "--batch", "0"], &["--batch", "batch = 0", "expected 1 to"]);
    place.fails(&["train", "--lr", "-1"], &["--lr", "optimizer.lr = -1"]);
    place.fails(&["train", "--out", "/"], &["--out /", "runs/mine"]);
    place
        .fails(&["train", "--recipe", "my.toml"], &["--recipe", "there are anneal, v1", "anneal train FILE"]);
    assert!(!place.path("runs").exists(), "nothing was begun");
}

#[test]
fn settings_that_contradict_each_other() {
    let place = Place::new();
    let muon = ["--set", "optimizer.kind=adamw", "--set", "optimizer.muon.lr=0.02"];
    let without_effect = "optimizer.muon.lr = 0.02: it has no effect with optimizer.kind = \"adamw\"";
    place.fails(
        &place.train("run", "2steps", &muon),
        &["--set: ", without_effect, "optimizer.kind = \"muon\""],
    );
    let heads = place.train("run", "2steps", &["--set", "model.n_heads=3"]);
    place.fails(&heads, &["--set: model.n_heads = 3: it must be a multiple of model.n_kv_heads = 2"]);
    assert!(!place.path("run").exists(), "nothing was begun");
    // A run keeps every key, and goes on with them; so does another that begins with its file.
    place.ok(&place.train("run", "2steps", &muon[..2]));
    let config = fs::read_to_string(place.path("run/config.toml")).expect("a run's file");
    assert!(config.contains("kind = \"adamw\"") && config.contains("[optimizer.muon]"), "{config}");
    place.ok(&["train", "--resume", "run", "--threads", "1"]);
    let again = ["train", "run/config.toml", "--out", "again", "--threads", "1"];
    place.ok(&again);
    place.fails(&[&again[..], &muon[2..]].concat(), &["--set: ", without_effect]);
}

#[test]
fn usage_errors_exit_with_2() {
    let place = Place::new();
    for (args, wanted) in [
        (vec!["tran"], "tran"),
        (vec!["train", "--frobnicate"], "--frobnicate"),
        (vec!["train", "--budget", "soon"], "5m"),
        (vec!["train", "--set", "batch"], "KEY=VALUE"),
        (vec!["train", "--resume", "runs/a", "--preset", "tiny"], "cannot be used with"),
        (vec!["generate"], "<RUN>"),
        (vec!["generate", "runs/a", "--temperature", "-1"], "0 to 100"),
        (vec!["mil", "print", "--cut", "half"], "there are whole"),
        (vec!["mil", "lint"], "--preset"),
        (vec!["mil", "lint", "--preset", "odd", "--chip", "m9"], "m4"),
        (vec!["bench", "step", "--steps", "0"], "--steps"),
        (vec![], "Usage"),
    ] {
        let done = place.run(&args);
        assert_eq!(done.code, Some(2), "{args:?}\n{}", done.stderr);
        assert!(done.stderr.contains(wanted), "{args:?}: no {wanted:?} in\n{}", done.stderr);
    }
}

#[test]
fn devices_that_are_not_here() {
    let place = Place::new();
    place.fails(&["train", "--device", "cuda"], &["`cuda`", "cpu, sim"]);
    place.fails(&["train", "--device", "sim:m9"], &["`m9`", "m4, m5"]);
    place.fails(&["bench", "step", "--device", "ane"], &["`ane` cannot be used", "there are cpu and sim"]);
}

/// The folder of files that are broken on purpose, where this machine has it.
fn broken_files() -> Option<PathBuf> {
    let shared = std::env::var_os("ANNEAL_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    Some(shared.join("data/broken")).filter(|folder| folder.is_dir())
}

#[test]
fn every_broken_file_is_named_with_what_to_do() {
    let Some(folder) = broken_files() else {
        println!("skipped: there is no ../shared/data/broken beside the workspace, nor under ANNEAL_SHARED");
        return;
    };
    let place = Place::new();
    let mut seen = 0;
    for entry in fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("an entry").path();
        let data = path.to_str().expect("its name is UTF-8");
        let args = ["train", "--preset", "odd", "--budget", "2steps", "--out", "run", "--data", data];
        let done = place.fails(&args, &[&name(&path)]);
        println!("{}", done.stderr.lines().last().unwrap_or_default());
        let wanted = match name(&path).as_str() {
            "bad_line3.jsonl" => "line 3",
            "invalid_utf8.txt" => "is not valid UTF-8",
            "truncated.parquet" => "download or write the file again",
            "wrong_column.parquet" => "column",
            _ => "",
        };
        assert!(done.stderr.contains(wanted), "{}", done.stderr);
        assert!(!place.path("run").exists(), "nothing was begun");
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} files");
}

#[test]
fn a_disk_that_is_too_small_for_the_checkpoints() {
    let place = Place::new();
    // A thousand million saves that all stay.
    let all = ["--set", "checkpoint.every=1steps", "--set", "checkpoint.keep=1000000000000"];
    let many = place.train("run", "1000000000steps", &all);
    place.fails(&many, &["run: ", " MB are free on this disk", "take up to ", "--set checkpoint.keep=1"]);
    assert!(!place.path("run").exists(), "nothing was begun");
}

#[test]
fn data_that_is_missing_or_does_not_fit() {
    let place = Place::new();
    place.fails(&["train", "--data", "books"], &["books", "there is no such file or folder", "stories"]);
    let long = place.train("run", "2steps", &["--set", "model.seq_len=3000"]);
    place.fails(&long, &["model.seq_len = 3000", "tokens", "shorter"]);
    let large = place.train("run", "2steps", &["--set", "model.vocab_size=100000"]);
    place.fails(&large, &["100000", "at most"]);
    // A vocabulary that does not match the tokenizer.
    place.ok(&["data", "prepare", "text.txt", "--vocab", "300"]);
    let prepared = fs::read_dir(place.path("cache/datasets")).expect("the cache").next().expect("a data set");
    let tokenizer = prepared.expect("an entry").path().join("tokenizer.json");
    let setting = format!("data.tokenizer={}", tokenizer.display());
    let other = place.train("run", "2steps", &["--set", &setting, "--set", "model.vocab_size=400"]);
    place.fails(&other, &["model.vocab_size = 400", "has 300 tokens", "tokenizer.json"]);
    assert!(!place.path("run").exists(), "nothing was begun");
}

#[test]
fn runs_that_are_none() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).expect("a folder");
    for (command, wanted) in [("eval", "config.toml"), ("generate", "config.toml")] {
        place.fails(&[command, "empty"], &["empty", wanted]);
        place.fails(&[command, "nowhere"], &["nowhere"]);
    }
    place.fails(&["train", "--resume", "empty"], &["empty", "config.toml"]);
    place.fails(&["train", "--resume", "nowhere"], &["nowhere", "it does not exist"]);
    place.ok(&place.train("run", "2steps", &[]));
    place.fails(&place.train("run", "2steps", &[]), &["run", "exists", "--resume run"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_the_run_goes_on_from_an_older_one() {
    let place = Place::new();
    place.ok(&place.train("run", "20steps", &["--set", "checkpoint.every=0.25"]));
    let weights = place.newest("run", "weights.safetensors");
    let whole = fs::read(&weights).expect("it is there");
    // Half-written: cut off.
    fs::write(&weights, &whole[..whole.len() / 2]).expect("it can be cut");
    let done = place.ok(&["generate", "run", "--max-tokens", "4"]);
    assert!(done.stderr.contains("step_000020") && done.stderr.contains("passed over"), "{}", done.stderr);
    // Damaged: one bit.
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("it has bytes") ^= 1;
    fs::write(&weights, damaged).expect("it can be written");
    let done = place.ok(&["train", "--resume", "run", "--threads", "1"]);
    assert!(done.stderr.contains("passed over") && done.stderr.contains("checksum"), "{}", done.stderr);
    assert_eq!(
        fs::read(&weights).expect("it was written again"),
        whole,
        "the same steps give the same bytes"
    );
    // None is left: an error, and no new beginning over the old run.
    for checkpoint in place.checkpoints("run") {
        fs::write(checkpoint.join("state.json"), "{}").expect("it can be written");
    }
    for args in [&["train", "--resume", "run"][..], &["eval", "run"], &["generate", "run"]] {
        place.fails(args, &["no checkpoint can be used", "state.json"]);
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let place = Place::new();
    if cfg!(target_os = "linux") {
        // Nobody makes folders there, root included.
        place.fails(
            &place.train("/sys/anneal-run", "2steps", &[]),
            &["/sys/anneal-run", "choose another one"],
        );
    }
    place.ok(&place.train("run", "4steps", &[]));
    let folder = place.path("run/checkpoints");
    let mut permissions = fs::metadata(&folder).expect("a folder").permissions();
    let before = permissions.clone();
    permissions.set_readonly(true);
    fs::set_permissions(&folder, permissions).expect("it is ours");
    if fs::write(folder.join("probe"), "").is_ok() {
        println!("skipped in part: this user writes into read-only folders");
        return;
    }
    fs::remove_dir_all(place.path("cache")).expect("it is there");
    place.fails(&place.train("run/checkpoints/run", "4steps", &[]), &["writable"]);
    fs::set_permissions(&folder, before).expect("it is ours");
    place.ok(&["eval", "run"]);
}

#[test]
fn a_second_process_on_the_same_run() {
    let place = Place::new();
    let mut first = Running::start(&place, &place.train("run", "1h", &["--json"]));
    first.wait_for("step");
    let id = format!("id {}", first.child.id());
    place.fails(&["train", "--resume", "run"], &["run", "another process", &id]);
    first.wait_for("step");
}

/// Runs a script in which `"$0"` is the binary.
#[cfg(unix)]
fn shell(place: &Place, words: &[&str]) -> common::Done {
    let mut shell = Command::new(words[0]);
    shell.args(&words[1..]).arg(place.command(&[]).get_program()).current_dir(place.path(""));
    shell.env("ANNEAL_CACHE", place.path("cache")).output().expect("it runs").into()
}

/// The disk is full for large files only, which needs no privilege: the system is told to refuse
/// files beyond 200 kB, and the moments of the optimiser take more.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_older_ones() {
    let place = Place::new();
    place.ok(&place.train(
        "run",
        "40steps",
        &["--set", "checkpoint.every=0.25", "--set", "checkpoint.keep=9"],
    ));
    let last = fs::read(place.newest("run", "weights.safetensors")).expect("it is there");
    for checkpoint in place.checkpoints("run").split_off(1) {
        fs::remove_dir_all(checkpoint).expect("it is ours");
    }
    let limited = "trap '' XFSZ; ulimit -f 400; exec \"$0\" train --resume run --threads 1";
    let done = shell(&place, &["sh", "-c", limited]);
    done.expect_one_error(&["optimizer.safetensors"]);
    let left: Vec<String> = place.checkpoints("run").iter().map(|path| name(path)).collect();
    assert_eq!(left, ["step_000010"]);
    place.ok(&["eval", "run", "--windows", "2"]);
    place.ok(&["train", "--resume", "run", "--threads", "1"]);
    assert_eq!(fs::read(place.newest("run", "weights.safetensors")).expect("it is there"), last);
}

/// The cache of prepared data: in the way of it lies a file; the disk fills while a data set is made.
#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written() {
    let place = Place::new();
    fs::write(place.path("cache"), "no folder").expect("a small file");
    place.fails(&["data", "prepare", "text.txt", "--vocab", "300"], &["/cache", "ANNEAL_CACHE"]);
    fs::remove_file(place.path("cache")).expect("it is ours");
    // A file may have 1 KiB (two blocks of 512 bytes), which is less than the tokens take.
    let limited = "trap '' XFSZ; ulimit -f 2; exec \"$0\" data prepare text.txt --vocab 300";
    let done = shell(&place, &["sh", "-c", limited]);
    done.expect_one_error(&["/cache,", "too large", "ANNEAL_CACHE"]);
    place.ok(&["data", "prepare", "text.txt", "--vocab", "300"]);
}

/// A disk that is really full: a small one in memory, where the system lets us make one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let may = Command::new("unshare").args(["-rm", "true"]).stderr(std::process::Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: this system gives no mount of our own (unshare -rm)");
        return;
    }
    let place = Place::new();
    place.ok(&place.train(
        "run",
        "40steps",
        &["--set", "checkpoint.every=0.25", "--set", "checkpoint.keep=9"],
    ));
    for checkpoint in place.checkpoints("run").split_off(1) {
        fs::remove_dir_all(checkpoint).expect("it is ours");
    }
    fs::create_dir(place.path("disk")).expect("a folder");
    let script = "mount -t tmpfs -o size=3m none disk && cp -r run disk/ && \
         head -c 1900000 /dev/zero > disk/filler && \
         \"$0\" train --resume disk/run --threads 1; echo \"first $?\"; \
         rm disk/filler && \"$0\" train --resume disk/run --threads 1 --quiet; echo \"second $?\"";
    let done = shell(&place, &["unshare", "-rm", "sh", "-c", script]);
    if done.stderr.contains("mount:") {
        println!("skipped: this system does not mount: {}", done.stderr);
        return;
    }
    assert!(done.stdout.contains("first 1"), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("no room on this disk"), "{}", done.stderr);
    assert!(done.stdout.contains("second 0"), "{}{}", done.stdout, done.stderr);

    // Where older checkpoints lie that are kept only for going back far, they make room: half of one is free.
    place.ok(&place.train(
        "old",
        "40steps",
        &["--set", "checkpoint.every=0.25", "--set", "checkpoint.keep=1"],
    ));
    for checkpoint in place.checkpoints("old").split_off(2) {
        fs::remove_dir_all(checkpoint).expect("it is ours");
    }
    let script = "mount -t tmpfs -o size=4m none disk && cp -r old disk/ && \
         free=$(df -k --output=avail disk | tail -n 1) && one=$(du -sk disk/old/checkpoints/step_000010 | cut -f 1) && \
         head -c $(( (free - one / 2) * 1024 )) /dev/zero > disk/filler && \
         \"$0\" train --resume disk/old --threads 1; echo \"third $?\"; \
         ls disk/old/checkpoints; grep -c made_room disk/old/events.jsonl";
    let done = shell(&place, &["unshare", "-rm", "sh", "-c", script]);
    assert!(done.stdout.contains("third 0"), "{}{}", done.stdout, done.stderr);
    assert!(
        done.stderr.contains("the disk was full; disk/old/checkpoints/step_000010 is gone"),
        "{}",
        done.stderr
    );
    assert!(done.stdout.ends_with("third 0\nstep_000030\nstep_000040\n2\n"), "{}", done.stdout);

    // So they do for the logs: two pages are free, and the lines of 40 steps need five before the next checkpoint is due.
    let settings =
        ["--set", "checkpoint.every=0.25", "--set", "checkpoint.keep=1", "--set", "eval.final_windows=1"];
    place.ok(&place.train("log", "40steps", &settings));
    let script = "mount -t tmpfs -o size=4m none disk && cp -r log disk/ && \
         free=$(df -k --output=avail disk | tail -n 1) && head -c $(( (free - 8) * 1024 )) /dev/zero > disk/filler && \
         \"$0\" train --resume disk/log --budget 160steps --schedule restart --threads 1; echo \"fourth $?\"; \
         cp disk/log/metrics.jsonl .; \
         grep -o '\"event\":\"made_room\",\"step\":[0-9]*' disk/log/events.jsonl | head -n 1";
    let done = shell(&place, &["unshare", "-rm", "sh", "-c", script]);
    assert!(done.stdout.contains("fourth 0\n"), "{}{}", done.stdout, done.stderr);
    let first: u64 =
        done.stdout.trim_end().rsplit(':').next().and_then(|step| step.parse().ok()).expect("a step");
    assert!(first < 80, "{}", done.stdout);
    let metrics = fs::read_to_string(place.path("metrics.jsonl")).expect("a copy");
    let steps = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a whole line")["step"].as_u64());
    assert!(steps.eq((1..=160).map(Some)), "{metrics}");
}

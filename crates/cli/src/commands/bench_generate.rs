//! `anneal bench generate`: how fast a model writes, token after token, beside what memory allows.
//!
//! Each token needs every weight once, but for tables of which it takes a row, and the keys and values of those before.
//! Nothing is computed with them often enough to matter: the wall is the rate at which memory is read.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use cpu::Precision;
use model::{Decoder, ModelConfig, Parameter, ParameterKind, initial_values};
use serde_json::json;

use crate::args::BenchArgs;
use crate::commands::bench;
use crate::device_choice::Choice;
use crate::{Result, units};

/// Tokens before the measured ones.
const WARM_UP: usize = 4;

/// Bytes that a token has to read at the least: of matrices in `precision`, of other weights and of `context` keys and values
/// in f32.
fn bytes_of_token(config: &ModelConfig, precision: Precision, context: usize) -> usize {
    let is_read = |p: &Parameter| match p.kind {
        // A row for each token; a tied one is the classifier, too.
        ParameterKind::Embedding => config.tied,
        ParameterKind::ValueEmbedding => false,
        _ => true,
    };
    let bytes_of = |p: &Parameter| match precision {
        Precision::Bf16 if p.shape.len() == 2 => 2 * p.numel(),
        _ => 4 * p.numel(),
    };
    let weights: usize = Parameter::all(config).iter().filter(|p| is_read(p)).map(bytes_of).sum();
    weights + 4 * 2 * config.n_layers * config.kv_dim() * context
}

pub(crate) fn run(args: &BenchArgs, choice: &Choice, out: &mut dyn Write) -> Result {
    let config = bench::config(args)?;
    let model = &config.model;
    let weights: Vec<Vec<f32>> =
        Parameter::all(model).iter().map(|p| initial_values(model, p, config.seed)).collect();
    let mut decoder = Decoder::new(model, &choice.device, &weights)?;
    drop(weights);
    let wall = |choice: &Choice| choice.cpu.as_ref().map(|cpu| cpu::probe::read_bytes(cpu.pool()));
    let before = wall(choice);
    let precision = choice.cpu.as_ref().map_or(Precision::F32, |cpu| cpu.precision());
    let mut tokens = Vec::new();
    for number in 0..WARM_UP + args.steps as usize {
        if let (true, WARM_UP, Some(cpu)) = (args.profile, number, &choice.cpu) {
            cpu.start_profile();
        }
        if decoder.position() == decoder.capacity() {
            decoder.reset();
        }
        let start = Instant::now();
        // Which token it is makes no difference.
        decoder.feed((number % model.vocab_size) as u32)?;
        if number >= WARM_UP {
            let ms = start.elapsed().as_secs_f64() * 1e3;
            tokens.push((ms, bytes_of_token(model, precision, decoder.context())));
        }
    }
    let profile = match (args.profile, &choice.cpu) {
        (true, Some(cpu)) => cpu.take_profile(),
        _ => Vec::new(),
    };
    // On a machine that does other things as well the better figure is nearer to the truth.
    let wall = before.zip(wall(choice)).map(|(before, after)| before.max(after));

    // Time and bytes of one token, since caches grow.
    tokens.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ms_token, bytes) = tokens[tokens.len() / 2];
    let rate = bytes as f64 / ms_token * 1e3;
    let share = wall.map(|wall| rate / wall);
    if args.json {
        let object = json!({
            "preset": config.preset, "device": choice.name, "describe": choice.device.describe(),
            "parameters": model.parameter_count(), "seq_len": model.seq_len, "tokens": args.steps,
            "tok_s": 1e3 / ms_token, "ms_token": ms_token, "bytes_per_token": bytes,
            "gbytes": rate / 1e9, "read_gbytes": wall.map(|wall| wall / 1e9), "share_of_wall": share,
            "profile": bench::profile_json(&profile, args.steps),
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{} on {}: {} parameters, a context of {}",
        config.preset,
        choice.device.describe(),
        units::count(model.parameter_count() as f64),
        model.seq_len
    )?;
    writeln!(out, "{:.1} tokens/s, {ms_token:.2} ms each (median of {})", 1e3 / ms_token, args.steps)?;
    let of_wall = match wall.zip(share) {
        Some((wall, share)) => {
            format!(", {:.0}% of the {:.1} GB/s at which memory is read here", share * 100.0, wall / 1e9)
        }
        None => String::new(),
    };
    writeln!(
        out,
        "{:.1} GB/s of weights, keys and values: {} a token{of_wall}",
        rate / 1e9,
        units::bytes(bytes as u64)
    )?;
    bench::print_profile(args, choice, &profile, ms_token, out)?;
    Ok(ExitCode::SUCCESS)
}

//! What the oracles in `tests/oracle` need of a model: weights, and logits to compare.
//!
//! ```text
//! logits_check initial MODEL.json SEED OUT.safetensors    what a run with this seed begins with
//! logits_check random MODEL.json SEED OUT.safetensors     the same with nothing left at zero or one
//! logits_check logits MODEL.json WEIGHTS IDS OUT [bf16]   what the model says on `cpu`, or on `cpu:bf16`
//! ```
//!
//! MODEL.json is the table `[model]` of a run's `config.toml` as JSON. IDS holds little-endian u32.
//! `logits` writes little-endian f32 into the folder OUT: `logits.f32` [T, V] from [`Decoder`],
//! which takes one token at a time, and `nll.f32` [T] from [`Stack`], the pass that training uses,
//! with the ids moved by one (the last target is the first id).

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cpu::{CpuDevice, Precision};
use device::Device;
use model::{Decoder, ModelConfig, Parameter, ParameterKind, Stack, StackOptions, initial_values, weights};

const USAGE: &str = "usage: logits_check initial|random MODEL.json SEED OUT.safetensors
       logits_check logits MODEL.json WEIGHTS.safetensors IDS.u32 OUT_FOLDER [bf16]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["initial", model, seed, out] => write_weights(model, seed, out, false),
        ["random", model, seed, out] => write_weights(model, seed, out, true),
        ["logits", model, weights, ids, out] => {
            write_logits(model, weights, ids, Path::new(out), Precision::F32)
        }
        ["logits", model, weights, ids, out, "bf16"] => {
            write_logits(model, weights, ids, Path::new(out), Precision::Bf16)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{path}: {e}"))
}

fn config(path: &str) -> Result<ModelConfig, Box<dyn Error>> {
    let config: ModelConfig = serde_json::from_slice(&read(path)?).map_err(|e| format!("{path}: {e}"))?;
    config.validate()?;
    Ok(config)
}

fn write_weights(model: &str, seed: &str, out: &str, random: bool) -> Result<(), Box<dyn Error>> {
    let mut config = config(model)?;
    let seed: u64 = seed.parse().map_err(|e| format!("seed `{seed}`: {e}"))?;
    if random {
        // Logits then spread over several units.
        config.init.embedding_std = 0.5;
        config.init.zero_output_projections = false;
    }
    let parameters = Parameter::all(&config);
    let values = parameters.iter().map(|parameter| {
        let mut values = initial_values(&config, parameter, seed);
        if random && parameter.kind == ParameterKind::Norm {
            // Gains around 1, no two alike among neighbours.
            let vary = |(i, gain): (usize, &mut f32)| *gain += 0.2 * ((i * 7 + 1) as f32).sin();
            values.iter_mut().enumerate().for_each(vary);
        }
        values
    });
    let bytes = weights::to_bytes(&parameters, &values.collect::<Vec<_>>())?;
    fs::write(out, bytes).map_err(|e| format!("{out}: {e}").into())
}

fn write_logits(
    model: &str,
    weights_path: &str,
    ids: &str,
    out: &Path,
    precision: Precision,
) -> Result<(), Box<dyn Error>> {
    let bytes = read(ids)?;
    let (words, rest) = bytes.as_chunks::<4>();
    let ids: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    if !rest.is_empty() || ids.len() < 2 {
        return Err("expected at least two little-endian u32 as ids".into());
    }
    let config = ModelConfig { seq_len: ids.len(), ..config(model)? };
    let tensors = weights::from_bytes(&config, &read(weights_path)?, Path::new(weights_path))?;
    let device: Arc<dyn Device> = Arc::new(CpuDevice::with_precision(0, precision));

    let mut decoder = Decoder::new(&config, &device, &tensors)?;
    let mut logits = Vec::with_capacity(ids.len() * config.vocab_size);
    for id in &ids {
        logits.extend(decoder.feed(*id)?);
    }

    let mut stack = Stack::new(&config, device, &StackOptions::default())?;
    for (index, values) in tensors.iter().enumerate() {
        stack.set_weights(index, values)?;
    }
    let mut targets = ids.clone();
    targets.rotate_left(1);
    let nll = stack.evaluate(&ids, &targets)?.nll;

    fs::create_dir_all(out)?;
    for (name, values) in [("logits.f32", logits), ("nll.f32", nll)] {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(out.join(name), bytes)?;
    }
    Ok(())
}

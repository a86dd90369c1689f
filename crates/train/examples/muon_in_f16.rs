//! What f16 does to learning by way of Muon alone: runs on `cpu` in f32, and the same with nothing but the orthogonal
//! factors of Muon on `sim`, in the f16 of an engine.
//!
//! ```sh
//! cargo run --release -p anneal-train --example muon_in_f16 -- TEXT PRESET PROFILE BUDGET SEEDS [KEY=VALUE...]
//! cargo run --release -p anneal-train --example muon_in_f16 -- books/ tiny m4 500ktok 3
//! ```
//!
//! One line for each seed: val_bpb at the end in f32, with the factors in f16, and the difference. Training amplifies any
//! rounding, so that the two differ by about as much as two seeds do; what f16 costs is the mean of the differences,
//! beside the standard deviation of the first column.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cpu::CpuDevice;
use device::Device;
use sim::{Profile, SimDevice};
use train::{RunConfig, Trainer, UserConfig, prepare_data};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [text, preset, profile, budget, seeds, rest @ ..] = &args[..] else {
        return Err("expected TEXT PRESET PROFILE BUDGET SEEDS [KEY=VALUE...]".into());
    };
    let mut user = UserConfig::default();
    for (key, value) in [("preset", preset), ("budget", budget), ("data.source", text)] {
        user.set(key, value.as_str(), "argument");
    }
    for setting in rest {
        let (key, value) = setting.split_once('=').ok_or("a setting is KEY=VALUE")?;
        user.set_text(key, value, "argument");
    }
    let profile = Profile::by_name(profile).ok_or("no such profile")?;
    for seed in 1..=seeds.parse::<i64>()? {
        user.set("seed", seed, "argument");
        let config = user.resolve()?;
        let single = end(config.clone(), None)?;
        let half = end(config, Some(Arc::new(SimDevice::new(profile.clone()))))?;
        println!("seed {seed}: f32 {single:.4}, factors in f16 {half:.4}, {:+.4}", half - single);
    }
    Ok(())
}

/// val_bpb of a run at its end; Muon's factors come from `factors` where that is given.
fn end(config: RunConfig, factors: Option<Arc<dyn Device>>) -> Result<f64, Box<dyn Error>> {
    let cache = std::env::temp_dir().join("anneal-muon-in-f16");
    let (dataset, _) = prepare_data(&config, true, &cache, &mut ())?;
    let windows = config.eval.final_windows;
    let mut trainer = Trainer::new(config, dataset, Arc::new(CpuDevice::new(1)))?;
    if let Some(device) = factors {
        trainer.move_optimizer_to(device)?;
    }
    while !trainer.is_done() {
        let metrics = trainer.step()?;
        if metrics.step % 50 == 0 {
            eprintln!("step {}: loss {:.4}", metrics.step, metrics.loss);
        }
    }
    let found = trainer.evaluate(windows, &AtomicBool::new(false))?;
    Ok(found.ok_or("it was stopped")?.val_bpb)
}

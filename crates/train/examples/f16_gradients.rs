//! What f16 does to the gradients of a model while it learns: a run on `cpu`, and at some of its steps
//! the gradients of the same weights and the same batch on `sim`, parameter by parameter.
//!
//! ```sh
//! cargo run --release -p anneal-train --example f16_gradients -- TEXT PRESET PROFILE BUDGET STEP,STEP,... [KEY=VALUE...]
//! ```
//!
//! `off` is the norm of the difference over that of the f32 gradient, `radial` how much of the
//! difference lies along the f32 gradient itself: an op that loses a share of everything shows there,
//! while rounding scatters.

use std::error::Error;
use std::sync::Arc;

use cpu::CpuDevice;
use data::WindowSampler;
use model::Stack;
use sim::{Profile, SimDevice};
use train::loss_scale::FIRST_SCALE_PER_TOKEN;
use train::{Trainer, UserConfig, prepare_data};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [text, preset, profile, budget, steps, rest @ ..] = &args[..] else {
        return Err("expected TEXT PRESET PROFILE BUDGET STEP,STEP,... [KEY=VALUE...]".into());
    };
    let mut user = UserConfig::default();
    for (key, value) in [("preset", preset), ("budget", budget), ("data.source", text)] {
        user.set(key, value.as_str(), "argument");
    }
    for setting in rest {
        let (key, value) = setting.split_once('=').ok_or("a setting is KEY=VALUE")?;
        user.set_text(key, value, "argument");
    }
    let steps: Vec<u64> = steps.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let config = user.resolve()?;
    let cache = std::env::temp_dir().join("anneal-f16-gradients");
    let (dataset, _) = prepare_data(&config, false, &cache, &mut ())?;
    let profile = Profile::by_name(profile).ok_or("no such profile")?;
    let device = Arc::new(SimDevice::new(profile));
    let mut half = Stack::new(&config.model, device, &config.stack_options())?;
    let mut single = Stack::new(&config.model, Arc::new(CpuDevice::new(0)), &config.stack_options())?;
    let sampler = WindowSampler::new(dataset.train.len(), config.model.seq_len, config.seed)?;
    let tokens = config.batch * config.model.seq_len;
    let (mut ids, mut targets) = (vec![0; tokens], vec![0; tokens]);
    // What a run begins with: train::loss_scale::FIRST_SCALE_PER_TOKEN.
    let log_scale = (FIRST_SCALE_PER_TOKEN as f32).ln();
    let mut trainer = Trainer::new(config, dataset, Arc::new(CpuDevice::new(0)))?;
    for step in 0..=*steps.iter().max().ok_or("no steps")? {
        if steps.contains(&step) {
            for (index, weights) in trainer.weights().iter().enumerate() {
                // Both see what the engine sees.
                let rounded: Vec<f32> = weights.iter().map(|w| mil::Element::F16.round(*w)).collect();
                half.set_weights(index, &rounded)?;
                single.set_weights(index, &rounded)?;
            }
            sampler.batch(
                &trainer.dataset().train,
                step * trainer.config().batch as u64,
                &mut ids,
                &mut targets,
            );
            let a = half.forward_backward(&ids, &targets, log_scale, true)?;
            let b = single.forward_backward(&ids, &targets, 0.0, true)?;
            let mean = |nll: &[f32]| nll.iter().sum::<f32>() / nll.len() as f32;
            println!("step {step}: loss {:.5} f16, {:.5} f32", mean(&a.nll), mean(&b.nll));
            let factor = 1.0 / half.effective_scale(log_scale);
            for (index, parameter) in half.parameters().to_vec().iter().enumerate() {
                let (x, y) = (half.gradient(index), single.gradient(index));
                let (mut xx, mut yy, mut xy, mut dd, mut zeros) = (0.0, 0.0, 0.0, 0.0, 0);
                for (x, y) in x.iter().zip(&y) {
                    let (x, y) = (f64::from(*x) * factor, f64::from(*y));
                    (xx, yy, xy, dd) = (xx + x * x, yy + y * y, xy + x * y, dd + (x - y) * (x - y));
                    zeros += usize::from(x == 0.0 && y != 0.0);
                }
                println!(
                    "  {:<34} norm {:9.3e}  off {:8.5}  radial {:+.5}  cosine {:.6}  lost {:.3}  largest {:.0}",
                    parameter.name,
                    yy.sqrt(),
                    (dd / yy).sqrt(),
                    xy / yy - 1.0,
                    xy / (xx * yy).sqrt(),
                    zeros as f64 / x.len() as f64,
                    x.iter().fold(0f32, |largest, v| largest.max(v.abs())),
                );
            }
        }
        let metrics = trainer.step()?;
        if step % 10 == 0 {
            eprintln!("step {step}: loss {:.4}, grad_norm {:.3}", metrics.loss, metrics.grad_norm);
        }
    }
    Ok(())
}

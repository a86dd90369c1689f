//! Where a forward and backward pass spends its time on the cpu, or how long it takes on `sim`:
//! `cargo run --release -p anneal-model --example layer_times -- gpt-48m 1 [m4]`.

use std::sync::Arc;
use std::time::Instant;

use device::Device;
use model::{Stack, StackOptions, presets};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let config = presets::by_name(&args.next().unwrap_or("gpt-48m".into()))?;
    let batch = args.next().map_or(Ok(1), |b| b.parse())?;
    let cpu = Arc::new(cpu::CpuDevice::new(0));
    let device: Arc<dyn Device> = match args.next() {
        Some(chip) => Arc::new(sim::SimDevice::new(sim::Profile::by_name(&chip).ok_or("no such chip")?)),
        None => cpu.clone(),
    };
    let description = device.describe();
    let mut stack = Stack::new(&config, device, &StackOptions { batch, ..Default::default() })?;
    for index in 0..stack.parameters().len() {
        let values = model::initial_values(&config, &stack.parameters()[index].clone(), 1);
        stack.set_weights(index, &values)?;
    }
    let n = stack.tokens();
    let ids: Vec<u32> = (0..n as u32).map(|i| i * 7 % config.vocab_size as u32).collect();
    let log_scale = -(n as f32).ln();
    stack.forward_backward(&ids, &ids, log_scale, true)?;
    cpu.start_profile();
    let (start, runs) = (Instant::now(), 5);
    for _ in 0..runs {
        stack.forward_backward(&ids, &ids, log_scale, true)?;
    }
    let seconds = start.elapsed().as_secs_f64() / f64::from(runs);
    let flops = config.flops_per_step(n);
    println!(
        "{}: {:.1} ms, {:.0} tokens/s, {:.1} GFLOP/s",
        description,
        seconds * 1e3,
        n as f64 / seconds,
        flops / seconds / 1e9
    );
    for step in cpu.take_profile().iter().take(25) {
        let time = step.time.as_secs_f64();
        println!(
            "{:>8.2} ms {:>7.1} GFLOP/s  {:<14} {}",
            time / f64::from(runs) * 1e3,
            step.flops / time / 1e9,
            step.program,
            step.label
        );
    }
    Ok(())
}

//! `anneal bench`: how fast this machine trains, in whole steps of the real trainer. What the ops of a layer
//! reach is in [`bench_layer`], what single programs reach in [`bench_engine`], how fast a model writes in
//! [`bench_generate`].

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use cpu::StepProfile;
use data::random::Stream;
use data::{Dataset, DatasetInfo, SplitInfo, TokenShard, Tokenizer};
use serde_json::json;
use train::{RunConfig, Trainer, UserConfig};

use crate::args::{BenchArgs, BenchKind};
use crate::commands::{bench_engine, bench_generate, bench_layer};
use crate::machine::{matmul_peak, peak_rss_bytes};
use crate::{Result, device_choice, device_choice::Choice, units};

/// How long the rate of matrix products is measured, before the steps and once more after them: on
/// a machine that does other things as well the better of the two is nearer to the truth.
const MEASURE: Duration = Duration::from_millis(500);
/// Steps before the measured ones: memory is touched, pools are awake.
const WARM_UP: u32 = 1;

pub(crate) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result {
    let choice = device_choice::open(&args.device, None)?;
    match args.kind {
        BenchKind::Step => step(args, &choice, out),
        BenchKind::Layer => bench_layer::run(args, &choice, out),
        BenchKind::Generate => bench_generate::run(args, &choice, out),
        BenchKind::Peak | BenchKind::Dispatch | BenchKind::Sram => bench_engine::run(args, &choice, out),
    }
}

/// What the options ask for, for [`WARM_UP`] steps and those that are measured.
pub(super) fn config(args: &BenchArgs) -> train::Result<RunConfig> {
    let mut user = UserConfig::default();
    // A preset as it is: what others measure, too.
    user.set("recipe", "", "the default");
    for (key, value) in &args.set {
        user.set_text(key, value, "--set");
    }
    user.set("preset", args.preset.as_str(), "--preset");
    user.set("budget", format!("{}steps", WARM_UP + args.steps), "--steps");
    for (key, value, option) in [("model.seq_len", args.seq, "--seq"), ("batch", args.batch, "--batch")] {
        if let Some(value) = value {
            user.set(key, i64::from(value), option);
        }
    }
    user.resolve()
}

/// A trainer on made-up tokens that has taken its first steps. Its tokens are in `folder`.
pub(super) fn warm_trainer(config: &RunConfig, choice: &Choice, folder: &Path) -> Result<Trainer> {
    let dataset = synthetic(folder, config.model.vocab_size, 64 * config.model.seq_len + 1)?;
    let mut trainer = Trainer::new(config.clone(), dataset, choice.device.clone())?;
    for _ in 0..WARM_UP {
        trainer.step()?;
    }
    Ok(trainer)
}

fn step(args: &BenchArgs, choice: &Choice, out: &mut dyn Write) -> Result {
    let config = config(args)?;
    let folder = tempfile::tempdir()?;
    let peak_before = matmul_peak(choice.device.as_ref(), MEASURE)?;
    let mut trainer = warm_trainer(&config, choice, folder.path())?;
    if let (true, Some(cpu)) = (args.profile, &choice.cpu) {
        cpu.start_profile();
    }
    let mut steps = Vec::new();
    for _ in 0..args.steps {
        steps.push(trainer.step()?.ms);
    }
    let profile = match (args.profile, &choice.cpu) {
        (true, Some(cpu)) => cpu.take_profile(),
        _ => Vec::new(),
    };

    let rss = peak_rss_bytes();
    let peak = peak_before.max(matmul_peak(choice.device.as_ref(), MEASURE)?);

    let median = |of: fn(&train::Timings) -> f64| {
        let mut values: Vec<f64> = steps.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    let ms_step = median(|ms| ms.total);
    let tokens = config.step_tokens();
    let tok_s = tokens as f64 / ms_step * 1e3;
    let flops = config.model.flops_per_step(tokens as usize);
    let gflops = flops / ms_step / 1e6;
    let share = gflops * 1e9 / peak;
    if args.json {
        let profile = profile_json(&profile, args.steps);
        let object = json!({
            "preset": config.preset, "device": choice.name, "describe": choice.device.describe(),
            "parameters": config.model.parameter_count(),
            "batch": config.batch, "accum": config.accum, "seq_len": config.model.seq_len,
            "step_tokens": tokens, "steps": args.steps,
            "tok_s": tok_s, "ms_step": ms_step,
            "ms": { "programs": median(|ms| ms.programs), "copies": median(|ms| ms.copies), "update": median(|ms| ms.update) },
            "flops_per_step": flops, "gflops": gflops, "peak_gflops": peak / 1e9, "share_of_peak": share,
            "peak_rss_bytes": rss, "profile": profile,
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{} on {}: {} parameters, {tokens} tokens in a step ({} sequences of {})",
        config.preset,
        choice.device.describe(),
        units::count(config.model.parameter_count() as f64),
        config.step_sequences(),
        config.model.seq_len
    )?;
    writeln!(out, "{tok_s:.0} tokens/s, {ms_step:.1} ms per step (median of {})", args.steps)?;
    writeln!(
        out,
        "  of these {:.1} ms in programs, {:.1} ms in gradient norm and {}, {:.1} ms in copies",
        median(|ms| ms.programs),
        median(|ms| ms.update),
        config.optimizer.kind,
        median(|ms| ms.copies)
    )?;
    writeln!(
        out,
        "{gflops:.1} GFLOP/s, {:.0}% of the {:.0} GFLOP/s that matrix products reach here",
        share * 100.0,
        peak / 1e9
    )?;
    if let Some(rss) = rss {
        writeln!(out, "{} of memory at most", units::bytes(rss))?;
    }
    print_profile(args, choice, &profile, ms_step, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the time of `steps` steps went, what took longest first.
pub(super) fn profile_json(profile: &[StepProfile], steps: u32) -> Vec<serde_json::Value> {
    let of = |step: &StepProfile| {
        let seconds = step.time.as_secs_f64();
        json!({
            "program": step.program, "label": step.label, "runs": step.runs,
            "ms_step": seconds * 1e3 / f64::from(steps), "gflops": step.flops / seconds / 1e9,
        })
    };
    profile.iter().map(of).collect()
}

/// The same for people, beside the `ms_step` of a step.
pub(super) fn print_profile(
    args: &BenchArgs,
    choice: &Choice,
    profile: &[StepProfile],
    ms_step: f64,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if args.profile && choice.cpu.is_none() {
        writeln!(out, "there is no profile: only the device cpu keeps one")?;
    }
    if !profile.is_empty() {
        writeln!(
            out,
            "\n{:>9}  {:>6}  {:>8}  {:>6}  {:<16}  what",
            "ms/step", "share", "GFLOP/s", "GB/s", "program"
        )?;
    }
    for step in profile {
        let seconds = step.time.as_secs_f64();
        let ms = seconds * 1e3 / f64::from(args.steps);
        let rate =
            if step.flops > 0.0 { format!("{:.1}", step.flops / seconds / 1e9) } else { "-".to_owned() };
        let traffic = format!("{:.1}", step.bytes / seconds / 1e9);
        let (program, label, percent) = (&step.program, &step.label, ms / ms_step * 100.0);
        writeln!(out, "{ms:>9.3}  {percent:>5.1}%  {rate:>8}  {traffic:>6}  {program:<16}  {label}")?;
    }
    Ok(())
}

/// Made-up tokens, each as likely as the next. Ids beyond u16 do not occur, which no step's time
/// depends on.
fn synthetic(folder: &Path, vocab_size: usize, tokens: usize) -> Result<Dataset> {
    let mut random = Stream::new(1);
    let below = vocab_size.min(1 << 16) as u64;
    let ids: Vec<u8> = (0..tokens).flat_map(|_| (random.below(below) as u16).to_le_bytes()).collect();
    let path = folder.join("tokens.u16");
    std::fs::write(&path, ids)?;
    let split = SplitInfo { tokens: tokens as u64, ..SplitInfo::default() };
    // Not used: a step looks at ids only.
    let tokenizer = Tokenizer::train(["made up"], 256 + data::tokenizer::SPECIAL_TOKENS.len())?;
    Ok(Dataset {
        dir: folder.to_owned(),
        train: Arc::new(TokenShard::open_raw_u16(&path, vocab_size)?),
        valid: Arc::new(TokenShard::open_raw_u16(&path, vocab_size)?),
        info: DatasetInfo {
            source: "made up".to_owned(),
            split_rule: String::new(),
            passed_over: data::ReadReport::default(),
            tokenizer_hash: tokenizer.hash().to_owned(),
            train: split.clone(),
            valid: split,
            bound_bits_per_byte: None,
        },
        vocabulary: None,
        tokenizer,
    })
}

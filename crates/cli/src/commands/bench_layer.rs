//! `anneal bench layer`: the ops of one layer and of the classifier, each beside what the machine allows it.
//!
//! An op has to do its multiply-adds and to move its operands and results, each once. The larger of the two times, at the
//! rates that were measured for nothing else (the roofline), is the least that it can take. What an op finds in a cache,
//! left there by the one before, costs less than the traffic that is counted: such ops may show more than all of it.

use std::io::Write;
use std::process::ExitCode;

use cpu::StepProfile;
use serde_json::json;

use crate::Result;
use crate::args::BenchArgs;
use crate::commands::bench;
use crate::device_choice::Choice;
use crate::table::Table;
use crate::units;

/// An op's time and the least that it could be.
struct Line<'a> {
    of: &'a StepProfile,
    /// Seconds of one run.
    seconds: f64,
    /// FLOP/s and bytes/s.
    rates: (f64, f64),
    /// Whether its arithmetic takes longer than its traffic, at the measured walls.
    by_arithmetic: bool,
    /// The least time, as a share of its time.
    share: f64,
}

impl<'a> Line<'a> {
    fn new(of: &'a StepProfile, walls: cpu::Walls) -> Line<'a> {
        let total = of.time.as_secs_f64();
        let (arithmetic, traffic) = (of.flops / walls.flops, of.bytes / walls.bytes);
        Line {
            of,
            seconds: total / of.runs as f64,
            rates: (of.flops / total, of.bytes / total),
            by_arithmetic: arithmetic > traffic,
            share: arithmetic.max(traffic) / total,
        }
    }

    fn wall(&self) -> &'static str {
        if self.by_arithmetic { "arithmetic" } else { "memory" }
    }
}

pub(crate) fn run(args: &BenchArgs, choice: &Choice, out: &mut dyn Write) -> Result {
    let Some(device) = &choice.cpu else {
        return Err(format!(
            "`bench layer` needs the device cpu, and {} keeps no profile: --device cpu",
            choice.name
        )
        .into());
    };
    let mut config = bench::config(args)?;
    config.model.n_layers = 1;
    let folder = tempfile::tempdir()?;
    let before = device.walls();
    let mut trainer = bench::warm_trainer(&config, choice, folder.path())?;
    device.start_profile();
    for _ in 0..args.steps {
        trainer.step()?;
    }
    let mut profile = device.take_profile();
    let after = device.walls();
    // On a machine that does other things as well the better figure is nearer to the truth.
    let walls = cpu::Walls { flops: before.flops.max(after.flops), bytes: before.bytes.max(after.bytes) };
    profile.sort_by(|a, b| (&a.program, a.index).cmp(&(&b.program, b.index)));
    let lines: Vec<Line> = profile.iter().map(|of| Line::new(of, walls)).collect();

    if args.json {
        let ops: Vec<_> = lines
            .iter()
            .map(|line| {
                json!({
                    "program": line.of.program, "op": line.of.label, "ms": line.seconds * 1e3,
                    "runs_per_step": line.of.runs as f64 / f64::from(args.steps),
                    "gflops": line.rates.0 / 1e9, "gbytes": line.rates.1 / 1e9,
                    "wall": line.wall(), "share_of_wall": line.share,
                })
            })
            .collect();
        let object = json!({
            "preset": config.preset, "device": choice.name, "describe": choice.device.describe(),
            "batch": config.batch, "seq_len": config.model.seq_len, "steps": args.steps,
            "peak_gflops": walls.flops / 1e9, "peak_gbytes": walls.bytes / 1e9, "ops": ops,
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "one layer of {} on {}: {} of {} tokens",
        config.preset,
        choice.device.describe(),
        units::counted(config.batch as u64, "sequence"),
        config.model.seq_len
    )?;
    writeln!(
        out,
        "the walls: {:.0} GFLOP/s of multiply-adds, {:.1} GB/s of traffic with memory\n",
        walls.flops / 1e9,
        walls.bytes / 1e9
    )?;
    let mut table = Table::new(2, &["program", "op", "ms", "GFLOP/s", "GB/s", "wall", "of it"]);
    for line in &lines {
        let flops = if line.of.flops > 0.0 { format!("{:.1}", line.rates.0 / 1e9) } else { "-".to_owned() };
        table.row(vec![
            line.of.program.clone(),
            line.of.label.clone(),
            format!("{:.3}", line.seconds * 1e3),
            flops,
            format!("{:.1}", line.rates.1 / 1e9),
            line.wall().to_owned(),
            format!("{:.0}%", line.share * 100.0),
        ]);
    }
    write!(out, "{}", table.text())?;
    let (time, least) = lines.iter().fold((0.0, 0.0), |(time, least), line| {
        let seconds = line.of.time.as_secs_f64();
        (time + seconds, least + seconds * line.share.min(1.0))
    });
    writeln!(
        out,
        "\n{:.1} ms for these in a step; at the walls they would take {:.1} ms ({:.0}%)",
        time * 1e3 / f64::from(args.steps),
        least * 1e3 / f64::from(args.steps),
        least / time * 100.0
    )?;
    Ok(ExitCode::SUCCESS)
}

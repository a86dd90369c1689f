//! `anneal mil estimate`: what a training step would cost on an engine, and how good that guess is.

use std::io::Write;
use std::process::ExitCode;

use mil::estimate::{Basis, Rates};
use mil::lint::{Chip, Route};
use model::estimate::published::{self, Line, Standing};
use model::estimate::{Plan, StepEstimate, boundaries, choices};
use model::{ModelConfig, Taps, presets};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::args::{EstimateArgs, RouteName, TapsName, chip_name};
use crate::table::Table;
use crate::units;

pub(crate) fn run(args: &EstimateArgs, out: &mut dyn Write) -> Result {
    if args.published {
        return published_table(args, out);
    }
    let mut config = presets::by_name(&args.preset)?;
    if let Some(seq) = args.seq {
        config.seq_len = seq;
    }
    config.validate()?;
    for (option, value) in
        [("--batch", args.batch), ("--batches", args.batches), ("--sequences", args.sequences)]
    {
        if !(1..=4096).contains(&value) {
            return Err(format!("{option} {value}: expected 1 to 4096").into());
        }
    }
    if args.boundary {
        boundary(args, &config, out)
    } else if args.choose {
        choose(args, &config, out)
    } else {
        step(args, &config, out)
    }
}

fn route(args: &EstimateArgs) -> Route {
    match args.route {
        RouteName::Ane => Route::Ane,
        RouteName::AneInmem => Route::AneInMem,
    }
}

fn taps_name(taps: Taps) -> &'static str {
    match taps {
        Taps::Keep => "keep",
        Taps::Recompute => "recompute",
    }
}

fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

/// One step on each chip, program by program.
fn step(args: &EstimateArgs, config: &ModelConfig, out: &mut dyn Write) -> Result {
    let taps = match args.taps {
        TapsName::Keep => Taps::Keep,
        TapsName::Recompute => Taps::Recompute,
    };
    let plan = Plan { batch: args.batch, batches: args.batches, cut: args.cut, taps };
    let chips = &args.chip.0;
    let steps = StepEstimate::on_each(config, &plan, chips, route(args))?;
    if args.json {
        let by_chip: Map<String, Value> = chips
            .iter()
            .zip(&steps)
            .map(|(chip, step)| Ok((chip_name(*chip), serde_json::to_value(step)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        let report = json!({
            "preset": args.preset, "seq": config.seq_len, "batch": args.batch, "batches": args.batches,
            "cut": args.cut.name(), "taps": taps_name(taps), "chips": by_chip,
        });
        writeln!(out, "{report}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{}: {} layers of width {}, sequences of {}, {} in a batch, batches to an update: {}, cut {}, taps {}\n",
        args.preset,
        config.n_layers,
        config.width,
        config.seq_len,
        args.batch,
        args.batches,
        args.cut.name(),
        taps_name(taps)
    )?;
    let mut head: Vec<String> =
        ["program", "runs", "GFLOP", "MB in", "MB weights", "MB out", "MB spilled"].map(str::to_owned).into();
    for chip in chips {
        head.extend([format!("{chip:?} ms"), "bound by".to_owned()]);
    }
    let mut table = Table::new(1, &head.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, program) in steps[0].programs.iter().enumerate() {
        let mut row = vec![
            program.name.clone(),
            program.runs.to_string(),
            format!("{:.1}", program.flops / 1e9),
            megabytes(program.bytes_in),
            megabytes(program.bytes_weights),
            megabytes(program.bytes_out),
            megabytes(program.bytes_spilled),
        ];
        for step in &steps {
            row.extend([ms(step.programs[at].ms), step.programs[at].bound.to_owned()]);
        }
        table.row(row);
    }
    writeln!(out, "{}", table.text())?;
    let mut table = Table::new(
        1,
        &["chip", "layer ms", "head ms", "engine ms", "convert ms", "update ms", "step ms", "tok/s"],
    );
    for (chip, step) in chips.iter().zip(&steps) {
        table.row(vec![
            format!("{chip:?}"),
            ms(step.layer_ms),
            ms(step.head_ms),
            ms(step.engine_ms),
            ms(step.convert_ms),
            ms(step.update_ms),
            ms(step.step_ms),
            units::count(step.tok_s),
        ]);
    }
    writeln!(out, "{}", table.text())?;
    let (step, traffic) = (&steps[0], &steps[0].traffic);
    writeln!(
        out,
        "a step: {} tokens, {} dispatches, {} to the device, {} back ({} a token); buffers {}, in all {}",
        step.tokens,
        traffic.dispatches,
        units::bytes(traffic.bytes_written as u64),
        units::bytes(traffic.bytes_read as u64),
        units::bytes((traffic.bytes() / step.tokens) as u64),
        units::bytes(step.buffer_bytes as u64),
        units::bytes(step.memory_bytes as u64)
    )?;
    writeln!(out, "engine = batches x (layers x layer + head); the host is taken to be an M4 Max's")?;
    chips.iter().try_for_each(|chip| doubts(*chip, route(args), out))?;
    Ok(ExitCode::SUCCESS)
}

/// Which rates nobody measured on this chip.
fn doubts(chip: Chip, route: Route, out: &mut dyn Write) -> std::io::Result<()> {
    for (name, rate) in Rates::of(chip, route).all() {
        let word = match rate.basis {
            Basis::Measured => continue,
            Basis::Fitted => "fitted",
            Basis::Assumed => "assumed",
        };
        writeln!(out, "{word} for the {chip:?}: {name}: {:.3} ({})", rate.value, rate.source)?;
    }
    Ok(())
}

/// Every cut, taps and batch, fastest first.
fn choose(args: &EstimateArgs, config: &ModelConfig, out: &mut dyn Write) -> Result {
    let mut by_chip = Map::new();
    for chip in &args.chip.0 {
        let budget = (args.memory * 1e9) as usize;
        let found = choices(config, *chip, route(args), args.sequences, budget)?;
        if args.json {
            by_chip.insert(chip_name(*chip), serde_json::to_value(found)?);
            continue;
        }
        writeln!(
            out,
            "{} on the {chip:?}: {} sequences of {} to an update, within {} GB\n",
            args.preset, args.sequences, config.seq_len, args.memory
        )?;
        let head = ["cut", "taps", "B", "step ms", "tok/s", "dispatches", "memory", ""];
        let mut table = Table::new(2, &head);
        for choice in found {
            table.row(vec![
                choice.cut.name().to_owned(),
                taps_name(choice.taps).to_owned(),
                choice.batch.to_string(),
                ms(choice.step_ms),
                units::count(choice.tok_s),
                choice.dispatches.to_string(),
                units::bytes(choice.memory_bytes as u64),
                choice.problem.map(|problem| format!("not possible: {problem}")).unwrap_or_default(),
            ]);
        }
        writeln!(out, "{}", table.text())?;
    }
    if args.json {
        let report = json!({
            "preset": args.preset, "seq": config.seq_len, "sequences": args.sequences, "chips": by_chip,
        });
        writeln!(out, "{report}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What crosses between host and device, beside autoresearch-ANE's, and that kernel by kernel.
fn boundary(args: &EstimateArgs, config: &ModelConfig, out: &mut dyn Write) -> Result {
    let rows = boundaries(config, args.batch)?;
    let kernels = published::kernels(config)?;
    if args.json {
        let kernels: Vec<Value> = kernels
            .iter()
            .map(|kernel| {
                json!({
                    "name": kernel.name, "backward": kernel.backward, "weights": kernel.weights,
                    "activations_in": kernel.activations_in(), "activations_out": kernel.activations_out(),
                    "written": kernel.written, "copied": kernel.copied, "read": kernel.read,
                })
            })
            .collect();
        let report =
            json!({ "preset": args.preset, "sequences": args.batch, "rows": rows, "kernels": kernels });
        writeln!(out, "{report}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let dispatches = format!("dispatches for {} sequences", args.batch);
    let mut table = Table::new(
        1,
        &[
            "system",
            &dispatches,
            "activations, B/token",
            "weights, B/token",
            "gradients, B/token",
            "all, B/token",
        ],
    );
    for row in &rows {
        table.row(vec![
            row.system.replace('|', "\\|"),
            row.dispatches.to_string(),
            thousands(row.activations),
            thousands(row.weights),
            thousands(row.gradients),
            thousands(row.bytes_per_token()),
        ]);
    }
    writeln!(out, "{}", table.markdown())?;
    let head = ["kernel", "weights", "activations in", "written", "copied", "activations out", "read"];
    let mut table = Table::new(1, &head);
    for kernel in &kernels {
        let counts = [
            kernel.weights,
            kernel.activations_in(),
            kernel.written,
            kernel.copied,
            kernel.activations_out(),
            kernel.read,
        ];
        let mut row = vec![kernel.name.to_owned()];
        row.extend(counts.map(|count| thousands(count as f64)));
        table.row(row);
    }
    write!(out, "{}", table.markdown())?;
    Ok(ExitCode::SUCCESS)
}

/// `405,504`.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The model against what others measured.
fn published_table(args: &EstimateArgs, out: &mut dyn Write) -> Result {
    let lines = published::table()?;
    if args.json {
        let lines = lines
            .iter()
            .map(|line| {
                let mut object = serde_json::to_value(line)?;
                object["error"] = line.error().into();
                Ok(object)
            })
            .collect::<Result<Vec<Value>, serde_json::Error>>()?;
        writeln!(out, "{}", json!({ "lines": lines, "unexplained": published::UNEXPLAINED }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["system", "machine", "what", "measured ms", "predicted ms", "error", "", "floor hidden"];
    let mut table = Table::new(3, &head);
    for line in &lines {
        table.row(vec![
            line.system.to_owned(),
            line.machine.to_owned(),
            line.part.clone(),
            measured(line),
            ms(line.predicted_ms),
            format!("{:+.0}%", 100.0 * line.error()),
            if line.standing == Standing::Fitted { "fitted".to_owned() } else { String::new() },
            line.overlapped_ms.map(ms).unwrap_or_default(),
        ]);
    }
    writeln!(out, "{}", table.text())?;
    writeln!(
        out,
        "predicted = floor + max(compute, memory) for each dispatch, and the host's part. `fitted`: a constant\n\
         was chosen by this line. `floor hidden`: max(floor, compute, memory) instead.\n\n\
         What the model does not explain:"
    )?;
    published::UNEXPLAINED.iter().try_for_each(|text| writeln!(out, "- {text}"))?;
    Ok(ExitCode::SUCCESS)
}

fn measured(line: &Line) -> String {
    let (from, to) = line.measured_ms;
    if from == to { ms(from) } else { format!("{}-{}", ms(from), ms(to)) }
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn digits_come_in_groups_of_three() {
        assert_eq!(
            [0.4, 999.0, 1_000.0, 405_504.0, 1e6].map(thousands),
            ["0", "999", "1,000", "405,504", "1,000,000"]
        );
    }
}

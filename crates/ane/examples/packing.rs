//! What packing costs: for each program of a model, the surfaces, the share of them that is padding, and the
//! ops that are added.
//!
//! ```text
//! cargo run -p anneal-ane --example packing -- gpt-48m 512 4 m4
//! ```
//! Preset, tokens of a sequence, sequences, chip; the names of the ports' places follow with `--ports`.

use std::error::Error;

use ane::{Packing, SurfaceLimits};
use mil::lint::Chip;
use mil::{Element, Op, PortKind, Program};
use model::{Cut, ModelConfig, Taps, presets};

/// Ops other than constants, composites taken apart.
fn ops(program: &Program) -> Result<usize, mil::Error> {
    let stmts = program.expand_all()?;
    Ok(stmts.stmts().iter().filter(|stmt| !matches!(stmt.op, Op::Const(_))).count())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let ports = args.iter().position(|arg| arg == "--ports").map(|at| args.remove(at)).is_some();
    let [preset, seq_len, batch, chip] = args.as_slice() else {
        return Err("usage: packing PRESET TOKENS SEQUENCES m1|m2|m3|m4|m5 [--ports]".into());
    };
    let chip = Chip::ALL.into_iter().find(|c| format!("{c:?}").eq_ignore_ascii_case(chip));
    let limits = SurfaceLimits::of(chip.ok_or("the chips are m1, m2, m3, m4, m5")?);
    let config = ModelConfig { seq_len: seq_len.parse()?, ..presets::by_name(preset)? };
    println!(
        "{:<10}{:<18}{:>16}{:>9}{:>7}{:>16}{:>9}{:>7}{:>7}{:>7}",
        "cut", "program", "a0", "MiB", "pad", "z0", "MiB", "pad", "ops", "added"
    );
    for cut in Cut::ALL {
        let mut segments = model::programs(&config, cut, Taps::Keep, batch.parse()?, Element::F16)?;
        if cut != Cut::Whole {
            // Those of head and decoding are the same for every cut.
            segments.retain(|segment| !segment.name.contains("head") && !segment.name.contains("decode"));
        }
        for segment in segments {
            let packing = match Packing::new(&segment.program, limits) {
                Ok(packing) => packing,
                Err(error) => {
                    println!("{:<10}{:<18} {error}", cut.name(), segment.name);
                    continue;
                }
            };
            let side = |kind| {
                let surface = packing.surface(kind);
                let padding = 100.0 * (1.0 - surface.used() as f64 / surface.numel() as f64);
                format!(
                    "{:>16}{:>9.2}{padding:>6.1}%",
                    format!("{} x {}", surface.channels, surface.columns),
                    surface.bytes() as f64 / f64::from(1 << 20),
                )
            };
            let (before, after) = (ops(&segment.program)?, ops(packing.program())?);
            println!(
                "{:<10}{:<18}{}{}{before:>7}{:>7}",
                cut.name(),
                segment.name,
                side(PortKind::Input),
                side(PortKind::Output),
                after - before
            );
            for port in packing.ports().iter().filter(|_| ports) {
                let p = port.place;
                println!(
                    "    {:<12}{:<8}{:<22}{} x {} at ({}, {})",
                    port.name,
                    format!("{:?}", port.kind),
                    format!("{:?}", port.shape),
                    p.rows,
                    p.columns,
                    p.first_row,
                    p.first_column
                );
            }
        }
    }
    Ok(())
}

//! Programs of one op or one kind of op whose time somebody published.

use mil::estimate::Rates;
use mil::lint::{Chip, Route};
use mil::{Builder, Element, Op, Program, Result};

use super::{Line, Standing};

fn convolutions(count: usize, from: usize, to: usize, height: usize, columns: usize) -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let mut x = b.input("x", &[1, from, height, columns])?;
    for at in 0..count {
        let w = b.input(&format!("w{at}"), &[to, from, 1, 1])?;
        x = b.pointwise_conv(x, w)?;
    }
    b.output("y", x)?;
    b.finish()
}

fn softmax(channels: usize, columns: usize) -> Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, channels, 1, columns])?;
    let y = b.push1(Op::Softmax { axis: 1 }, &[x])?;
    b.output("y", y)?;
    b.finish()
}

/// The lines of the table.
pub(super) fn lines() -> Result<Vec<Line>> {
    let max = ("rustane", "M4 Max", Chip::M4);
    let m5 = ("ANEgpt", "M5", Chip::M5);
    let chain = ("maderix/ANE", "M4", Chip::M4);
    let measured = [
        (max, "1x1 conv 768 to 768, 512 columns", convolutions(1, 768, 768, 1, 512)?, 0.183),
        (max, "1x1 conv 768 to 3072, 512 columns", convolutions(1, 768, 3072, 1, 512)?, 0.330),
        (max, "1x1 conv 3072 to 768, 512 columns", convolutions(1, 3072, 768, 1, 512)?, 0.746),
        (m5, "1x1 conv 768 to 32000, 256 columns", convolutions(1, 768, 32_000, 1, 256)?, 1.06),
        (m5, "softmax 32000 x 256", softmax(32_000, 256)?, 2.40),
        (chain, "128 convs of 512 channels, 64 x 64", convolutions(128, 512, 512, 64, 64)?, 14.8),
    ];
    measured
        .into_iter()
        .map(|((system, machine, chip), part, program, ms)| {
            let cost = program.cost(|port| port.starts_with('w'))?;
            let time = Rates::of(chip, Route::AneInMem).predict(&cost);
            Ok(Line {
                system,
                machine,
                part: part.to_owned(),
                measured_ms: (ms, ms),
                predicted_ms: time.ms(),
                overlapped_ms: Some(time.overlapped_ms()),
                standing: if part.starts_with("softmax") { Standing::Fitted } else { Standing::Predicted },
            })
        })
        .collect()
}

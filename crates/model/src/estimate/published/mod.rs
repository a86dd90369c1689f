//! Systems that others built and timed, rebuilt as programs, to see how far the model of
//! [`mil::estimate`] is off.
//!
//! One rate of the engine and the rates of the host are fitted to one row: autoresearch-ANE's step of
//! sequence 512 on a quiet M4 Max. How much slower the host was in its long run is fitted to that run.
//! Every other line is a prediction.

mod single;
mod static_pipeline;
mod ten_kernels;

use mil::estimate::Rates;
use mil::lint::{Chip, Route};
use serde::Serialize;

use super::Host;
use crate::{ModelConfig, presets};

pub use ten_kernels::{Kernel, kernels};

/// Whether a line of the table tests the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// A constant was chosen so that this line comes out.
    Fitted,
    /// Nothing was chosen by it.
    Predicted,
}

/// A published time and what the model says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Whose it is.
    pub system: &'static str,
    /// On which machine.
    pub machine: &'static str,
    /// What was timed.
    pub part: String,
    /// Shortest and longest published time; equal where one was published.
    pub measured_ms: (f64, f64),
    /// By floor + max(compute, memory), and the host's rates.
    pub predicted_ms: f64,
    /// By max(floor, compute, memory), as if the floor were hidden; only where the engine works alone.
    pub overlapped_ms: Option<f64>,
    /// Whether it tests the model.
    pub standing: Standing,
}

impl Line {
    /// How far the prediction is from the middle of what was measured, as a fraction of it.
    pub fn error(&self) -> f64 {
        self.predicted_ms * 2.0 / (self.measured_ms.0 + self.measured_ms.1) - 1.0
    }
}

/// Sequence length, what kind of run, median of each part of the log and of the step (the long run's mean is
/// 150.3); autoresearch-ANE on an M4 Max, milliseconds.
struct TenKernelRun {
    seq: usize,
    name: &'static str,
    ane_fwd: f64,
    ane_bwd: f64,
    host: [(&'static str, f64); 7],
    step: f64,
}

/// Six layers of width 768; the classifier sees the 8144 tokens that occur in the training file.
const TEN_KERNEL_RUNS: [TenKernelRun; 3] = [
    TenKernelRun {
        seq: 512,
        name: "S 512, quiet",
        ane_fwd: 16.1,
        ane_bwd: 17.6,
        host: [
            ("io_fwd", 3.7),
            ("rms", 1.2),
            ("io_bwd", 7.0),
            ("silu", 6.4),
            ("rms_bwd", 5.1),
            ("cls", 25.9),
            ("dw_copy", 7.0),
        ],
        step: 99.5,
    },
    TenKernelRun {
        seq: 512,
        name: "S 512, long run",
        ane_fwd: 15.6,
        ane_bwd: 19.4,
        host: [
            ("io_fwd", 5.6),
            ("rms", 2.0),
            ("io_bwd", 15.7),
            ("silu", 11.1),
            ("rms_bwd", 6.2),
            ("cls", 43.9),
            ("dw_copy", 13.2),
        ],
        step: 156.9,
    },
    TenKernelRun {
        seq: 1024,
        name: "S 1024, long run",
        ane_fwd: 37.9,
        ane_bwd: 40.8,
        host: [
            ("io_fwd", 10.3),
            ("rms", 4.1),
            ("io_bwd", 30.4),
            ("silu", 23.4),
            ("rms_bwd", 11.2),
            ("cls", 109.1),
            ("dw_copy", 24.0),
        ],
        step: 327.0,
    },
];

/// Vocabulary after its compaction.
const COMPACT_VOCABULARY: usize = 8144;

impl TenKernelRun {
    fn host_ms(&self) -> f64 {
        self.step - self.ane_fwd - self.ane_bwd
    }

    /// Relative to the quiet machine, how much slower the host of the two other runs was. Fitted to the
    /// long run of sequence 512, whose weather that of sequence 1024 is taken to share.
    fn load(&self) -> f64 {
        let [quiet, long, _] = &TEN_KERNEL_RUNS;
        if self.name == quiet.name { 1.0 } else { long.host_ms() / quiet.host_ms() }
    }

    fn lines(&self) -> crate::Result<Vec<Line>> {
        let config = ModelConfig { seq_len: self.seq, ..presets::by_name("gpt-48m")? };
        let kernels = kernels(&config)?;
        let rates = Rates::of(Chip::M4, Route::AneInMem);
        let mut engine = [(0.0, 0.0); 2];
        for kernel in &kernels {
            let time = rates.predict(&kernel.cost()?);
            let (ms, overlapped) = &mut engine[usize::from(kernel.backward)];
            *ms += config.n_layers as f64 * time.ms();
            *overlapped += config.n_layers as f64 * time.overlapped_ms();
        }
        let host = Host { load: self.load() };
        let parts = ten_kernels::host_parts(&config, &kernels, COMPACT_VOCABULARY, &host);
        let host_ms: f64 = parts.iter().map(|(_, ms)| ms).sum();
        let quiet = self.load() == 1.0;
        let line = |part: &str, measured: f64, predicted: f64, overlapped: Option<f64>, fitted: bool| Line {
            system: "autoresearch-ANE",
            machine: "M4 Max",
            part: format!("{}: {part}", self.name),
            measured_ms: (measured, measured),
            predicted_ms: predicted,
            overlapped_ms: overlapped,
            standing: if fitted { Standing::Fitted } else { Standing::Predicted },
        };
        let mut lines = vec![
            line("ane_fwd", self.ane_fwd, engine[0].0, Some(engine[0].1), quiet),
            line("ane_bwd", self.ane_bwd, engine[1].0, Some(engine[1].1), quiet),
        ];
        for (part, measured) in self.host {
            let predicted = parts.iter().find(|(name, _)| *name == part).expect("the same names").1;
            // The copies of the backward pass go at the rate of those of the forward pass.
            lines.push(line(part, measured, predicted, None, quiet && part != "io_bwd"));
        }
        let long = self.name == TEN_KERNEL_RUNS[1].name;
        lines.push(line("all of the host", self.host_ms(), host_ms, None, quiet || long));
        lines.push(line("step", self.step, engine[0].0 + engine[1].0 + host_ms, None, quiet));
        Ok(lines)
    }
}

/// maderix/ANE's static pipeline on stories110m, 256 tokens: machine, its convolution peak in TFLOP/s as the
/// same project measured it, chip, engine's part (which two reports do not tell) and step in milliseconds.
type StaticRun = (&'static str, Option<f64>, Chip, Option<(f64, f64)>, (f64, f64));

const STATIC_RUNS: [StaticRun; 6] = [
    ("M1 Pro", None, Chip::M1, Some((32.0, 35.0)), (148.0, 163.0)),
    ("M1 Max", None, Chip::M1, None, (143.0, 167.0)),
    ("M3 Ultra", None, Chip::M3, None, (91.0, 91.0)),
    ("M4 Pro", Some(12.57), Chip::M4, Some((8.9, 8.9)), (69.0, 73.0)),
    ("M4 Max", Some(10.93), Chip::M4, Some((10.2, 10.2)), (64.0, 64.0)),
    ("M5", Some(12.3), Chip::M5, Some((9.1, 9.8)), (101.0, 120.0)),
];

fn static_lines() -> crate::Result<Vec<Line>> {
    let config = presets::by_name("stories110m")?;
    let layers = config.n_layers as f64;
    // Norms and the derivative of silu run on the engine; the rest of the host's work is the ten kernels'.
    let host = ten_kernels::host_parts(&config, &kernels(&config)?, config.vocab_size, &Host::QUIET);
    let host_ms: f64 =
        host.iter().filter(|(name, _)| !["rms", "silu"].contains(name)).map(|(_, ms)| ms).sum();
    let programs = static_pipeline::programs(&config)?;
    let mut lines = Vec::new();
    for (machine, conv, chip, engine, step) in STATIC_RUNS {
        let mut rates = Rates::of(chip, Route::AneInMem);
        if let Some(conv) = conv {
            rates.conv_tflops.value = conv;
        }
        let (mut ms, mut overlapped) = (0.0, 0.0);
        for program in &programs {
            let time = rates.predict(&program.cost(static_pipeline::is_weight)?);
            ms += layers * time.ms();
            overlapped += layers * time.overlapped_ms();
        }
        let line = |part: &str, measured_ms, predicted_ms, overlapped_ms| Line {
            system: "maderix/ANE",
            machine,
            part: part.to_owned(),
            measured_ms,
            predicted_ms,
            overlapped_ms,
            standing: Standing::Predicted,
        };
        lines.extend(engine.map(|measured| line("stories110m: engine", measured, ms, Some(overlapped))));
        lines.push(line("stories110m: step, host of an M4 Max", step, ms + host_ms, None));
    }
    Ok(lines)
}

/// Every published time that the model is held against.
///
/// # Errors
/// When a system cannot be rebuilt: a bug of this module.
pub fn table() -> crate::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for run in &TEN_KERNEL_RUNS {
        lines.extend(run.lines()?);
    }
    lines.extend(static_lines()?);
    lines.extend(single::lines()?);
    Ok(lines)
}

/// What the model does not explain, for people.
pub const UNEXPLAINED: &[&str] = &[
    "Two runs of one system on one machine at S 512 take 99.5 and 156.9 ms: the engine's part stays, the \
     host's nearly doubles. The model knows no weather; that S 1024 had the weather of the second run is an \
     assumption, under which its step comes out within 1%.",
    "Within that run the parts of the host did not slow down alike (rms_bwd 1.2 times, io_bwd 2.2 times), so \
     single parts are off by up to 69% where the sum is right.",
    "maderix/ANE's engine part is less than half of what the model says on M4 and M5. Its 72 dispatches alone \
     would take 7 of 10 ms on an M4 Max at the published floor, and leave its products faster than any peak \
     that was measured. The operations of its products at the convolution peak, and nothing else, come 12 to \
     18% short on all four machines whose engine's part is told: programs of baked weights, run one after \
     another, seem to hide their floor and all that is not a product.",
    "maderix/ANE's step on an M4 Max is shorter than the classifier alone would be at autoresearch-ANE's rate for \
     the same CPU with everything else beside it: the two classifiers differ. Other hosts are given the same \
     rates, which nobody measured.",
    "A convolution from 3072 to 768 channels takes over twice as long as one from 768 to 3072 with as many \
     operations. The rates know no shapes.",
    "128 convolutions run at 18.6 TFLOP/s over 4096 columns and at 10.9 over 64, the rate used here.",
    "ANEForge's roofline gives the M4 7.7 GB/s for activations. autoresearch-ANE's backward kernels would then \
     take over 30 ms at S 512, not 17.6. The M5's cost anchor of 57 GB/s is used instead, a choice made by looking at \
     this table.",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(lines: &'a [Line], part: &str) -> &'a Line {
        lines.iter().find(|line| line.part == part).expect("a line of the table")
    }

    /// Oracle: the published medians. Where a constant was fitted the line must come out, and the engine
    /// was fitted in sum.
    #[test]
    fn what_was_fitted_comes_out() {
        let lines = table().unwrap();
        let engine = |field: fn(&Line) -> f64| -> f64 {
            ["ane_fwd", "ane_bwd"]
                .iter()
                .map(|part| field(find(&lines, &format!("S 512, quiet: {part}"))))
                .sum()
        };
        let (measured, predicted) = (engine(|l| l.measured_ms.0), engine(|l| l.predicted_ms));
        assert!((predicted / measured - 1.0).abs() < 0.01, "{predicted} against {measured}");
        for line in lines.iter().filter(|line| line.standing == Standing::Fitted) {
            let near = if line.part.contains("ane_") { 0.08 } else { 0.015 };
            assert!(line.error().abs() < near, "{}: {:+.3}", line.part, line.error());
        }
    }

    /// Oracle: the published medians at twice the sequence, to which nothing was fitted. The tolerance is
    /// that of a model: without its softmax the forward pass would be 30% too short.
    #[test]
    fn twice_the_sequence_is_predicted() {
        let lines = table().unwrap();
        for (part, near) in [("ane_fwd", 0.1), ("ane_bwd", 0.1), ("step", 0.03)] {
            let line = find(&lines, &format!("S 1024, long run: {part}"));
            assert_eq!(line.standing, Standing::Predicted);
            assert!(line.error().abs() < near, "{part}: {:+.3}", line.error());
        }
    }

    /// Oracle: the published times. What [`UNEXPLAINED`] says about them holds.
    #[test]
    fn what_is_said_to_be_unexplained_is_so() {
        let config = presets::by_name("stories110m").unwrap();
        let costs: Vec<_> = static_pipeline::programs(&config)
            .unwrap()
            .iter()
            .map(|program| program.cost(static_pipeline::is_weight).unwrap())
            .collect();
        let flops: f64 = 12.0 * costs.iter().map(|cost| cost.product_flops + cost.conv_flops).sum::<f64>();
        for (machine, conv, chip, engine, _) in STATIC_RUNS {
            let Some((from, to)) = engine else { continue };
            let peak = conv.unwrap_or(Rates::of(chip, Route::AneInMem).conv_tflops.value);
            let short = 1.0 - flops / peak / 1e9 / ((from + to) / 2.0);
            assert!((0.12..0.185).contains(&short), "{machine}: {short}");
        }
        let mut rates = Rates::of(Chip::M4, Route::AneInMem);
        rates.activation_gb_s.value = 7.7;
        let backward: f64 = kernels(&presets::by_name("gpt-48m").unwrap())
            .unwrap()
            .iter()
            .filter(|kernel| kernel.backward)
            .map(|kernel| 6.0 * rates.predict(&kernel.cost().unwrap()).ms())
            .sum();
        assert!((30.0..31.0).contains(&backward), "{backward}");
        let worst = table()
            .unwrap()
            .iter()
            .filter(|line| line.system == "autoresearch-ANE")
            .map(|line| line.error().abs())
            .fold(0.0, f64::max);
        assert_eq!((100.0 * worst).round(), 69.0);
    }

    /// Oracle: the published medians of each run add up to less than its step; what is left is `other`.
    #[test]
    fn the_runs_are_copied_whole() {
        for run in &TEN_KERNEL_RUNS {
            let named: f64 = run.host.iter().map(|(_, ms)| ms).sum();
            let left = run.host_ms() - named;
            assert!((0.05..0.2).contains(&(left / run.step)), "{}: {left}", run.name);
        }
    }
}

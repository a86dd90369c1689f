//! `anneal bench peak|dispatch|sram`: what the field publishes about engines, on any device.
//!
//! The programs are those of maderix/ANE's and Orion's benchmarks: their figures can be laid beside ours.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use data::random::Stream;
use device::{Binding, Buffer, Device, Invocation};
use mil::{Builder, Constant, DType, Element, Op, PortKind, Program};
use serde_json::{Value, json};

use crate::Result;
use crate::args::{BenchArgs, BenchKind};
use crate::device_choice::Choice;

/// Channels of the stacked convolutions.
const CHANNELS: usize = 512;
/// The step of activations in int8: inputs are up to 0.1, and their size stays.
const ACTIVATION_SCALE: f32 = 1.0 / 1024.0;
/// Height and width of the planes that they go over.
const PLANE: usize = 64;
/// How long one figure is measured at least, after one run to warm up.
const MEASURE: Duration = Duration::from_secs(1);
/// And how many runs at least.
const MIN_RUNS: usize = 5;
/// Runs of the smallest program.
const DISPATCHES: usize = 500;
/// Rows and columns of the matrices of `sram`: 0.5 to 128 MiB of weights in f16.
const SIDES: [usize; 9] = [512, 1024, 1448, 2048, 2896, 4096, 5120, 6144, 8192];
/// Columns that each matrix of `sram` is multiplied with.
const COLUMNS: usize = 64;

pub(crate) fn run(args: &BenchArgs, choice: &Choice, out: &mut dyn Write) -> Result {
    let device = choice.device.as_ref();
    let about = json!({ "device": choice.name, "describe": device.describe() });
    let (lines, mut object) = match args.kind {
        BenchKind::Peak => peak(device, args.depth as usize)?,
        BenchKind::Dispatch => dispatch(device)?,
        BenchKind::Sram => sram(device)?,
        BenchKind::Step | BenchKind::Layer | BenchKind::Generate => {
            unreachable!("they have files of their own")
        }
    };
    if args.json {
        object["device"] = about["device"].clone();
        object["describe"] = about["describe"].clone();
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{}", device.describe())?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Times of runs in seconds, sorted.
struct Times(Vec<f64>);

impl Times {
    fn of(invocation: &Invocation, least: usize, time: Duration) -> device::Result<Times> {
        invocation.run()?;
        let begun = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < least || begun.elapsed() < time {
            let start = Instant::now();
            invocation.run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Times(seconds))
    }

    /// The time that this share of the runs stays below.
    fn quantile(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }
}

/// Compiles a program and binds it to buffers with small different numbers. The buffers come along, to be kept.
fn bound(device: &dyn Device, name: &str, program: &Program) -> device::Result<(Invocation, Vec<Buffer>)> {
    let executable = device.compile(name, program)?;
    let mut buffers = Vec::new();
    for port in program.ports() {
        let buffer = device.alloc(&port.ty.shape)?;
        if port.kind == PortKind::Input {
            buffer
                .write_f32(&(0..buffer.numel()).map(|i| (i % 13) as f32 / 64.0 - 0.1).collect::<Vec<_>>())?;
        }
        buffers.push(buffer);
    }
    let bindings: Vec<Binding<'_>> =
        program.ports().zip(&buffers).map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
    Ok((executable.bind(&bindings)?, buffers))
}

/// In which numbers the convolutions of `peak` are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// The device's own floats.
    Float,
    /// Weights kept as int8, activations through int8 between any two convolutions (W8A8).
    Int8,
}

/// `depth` convolutions 1x1, x [1, 512, 64, 64] -> y of the same shape, weights baked in.
fn stacked(element: Element, depth: usize, numbers: Numbers) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let mut x = b.input("x0", &[1, CHANNELS, PLANE, PLANE])?;
    let mut random = Stream::new(1);
    let mut uniform = || random.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0;
    // A deviation of 1/sqrt(C) keeps values where they are, layer by layer.
    let bound = (3.0 / CHANNELS as f64).sqrt();
    let shape = [CHANNELS, CHANNELS, 1, 1];
    for _ in 0..depth {
        let uniform = (0..CHANNELS * CHANNELS).map(|_| uniform());
        let weight = match numbers {
            Numbers::Float => Constant::float(element, &shape, uniform.map(|u| (u * bound) as f32)),
            Numbers::Int8 => {
                let whole: Vec<i8> = uniform.map(|u| (u * 127.0).round() as i8).collect();
                Constant::quantized(element, &shape, &whole, (bound / 127.0) as f32)
            }
        };
        let weight = b.constant(weight);
        if numbers == Numbers::Int8 {
            let scale = b.scalar(ACTIVATION_SCALE);
            let whole = b.push1(Op::Quantize { output_dtype: DType::I8 }, &[x, scale])?;
            x = b.push1(Op::Dequantize, &[whole, scale])?;
        }
        x = b.pointwise_conv(x, weight)?;
    }
    b.output("y0", x)?;
    b.finish()
}

fn peak(device: &dyn Device, depth: usize) -> Result<(Vec<String>, Value)> {
    let (line, mut object) = peak_in(device, depth, Numbers::Float)?;
    let mut lines = vec![line];
    object["bench"] = "peak".into();
    if !device.limits().int8 {
        let why_not = format!("{} computes it in floats, rounded in between", device.name());
        lines.push(format!("peak      int8 (W8A8) is left out: {why_not}"));
        object["int8"] = json!({ "why_not": why_not });
        return Ok((lines, object));
    }
    // What a device does not take is its answer.
    match peak_in(device, depth, Numbers::Int8) {
        Ok((line, int8)) => {
            let ratio = int8["tflops_median"].as_f64().unwrap_or(f64::NAN)
                / object["tflops_median"].as_f64().unwrap_or(f64::NAN);
            lines.push(format!("{line}; {ratio:.2} times the above"));
            object["int8"] = int8;
        }
        Err(error) => {
            lines.push(format!("peak      int8 (W8A8) is refused: {error}"));
            object["int8"] = json!({ "why_not": error.to_string() });
        }
    }
    Ok((lines, object))
}

/// The rate of the stacked convolutions in these numbers.
fn peak_in(device: &dyn Device, depth: usize, numbers: Numbers) -> Result<(String, Value)> {
    let program = stacked(device.element(), depth, numbers)?;
    let (invocation, _buffers) = bound(device, "peak", &program)?;
    let times = Times::of(&invocation, MIN_RUNS, MEASURE)?;
    let flops = 2.0 * (depth * CHANNELS * CHANNELS * PLANE * PLANE) as f64;
    let (median, best) = (times.quantile(0.5), times.quantile(0.0));
    let (unit, name) = match numbers {
        Numbers::Float => ("TFLOP/s", device.element().dtype().mil_name()),
        Numbers::Int8 => ("TOP/s", "int8 (W8A8)"),
    };
    let line = format!(
        "peak      {:.2} {unit} (best {:.2}) in {name}: {depth} convolutions of {CHANNELS} channels over {PLANE} x {PLANE} in {:.2} ms, median of {}",
        flops / median / 1e12,
        flops / best / 1e12,
        median * 1e3,
        times.0.len()
    );
    let object = json!({
        "depth": depth, "channels": CHANNELS, "plane": PLANE, "flops": flops, "numbers": name,
        "runs": times.0.len(), "ms_median": median * 1e3, "ms_best": best * 1e3,
        "tflops_median": flops / median / 1e12, "tflops_best": flops / best / 1e12,
    });
    Ok((line, object))
}

/// y0 = a0 + b0, [1, 64, 1, 64]: as small as every source says that a program may be.
pub(crate) fn smallest(element: Element) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("a0", &[1, 64, 1, 64])?;
    let y = b.input("b0", &[1, 64, 1, 64])?;
    let sum = b.add(x, y)?;
    b.output("y0", sum)?;
    b.finish()
}

fn dispatch(device: &dyn Device) -> Result<(Vec<String>, Value)> {
    let (invocation, _buffers) = bound(device, "dispatch", &smallest(device.element())?)?;
    let times = Times::of(&invocation, DISPATCHES, Duration::ZERO)?;
    let [least, median, p90] = [0.0, 0.5, 0.9].map(|share| times.quantile(share) * 1e6);
    let line = format!(
        "dispatch  {median:.1} us (least {least:.1}, nine tenths below {p90:.1}): an addition of 64 x 64, {DISPATCHES} runs"
    );
    let object = json!({
        "bench": "dispatch", "runs": DISPATCHES, "us_least": least, "us_median": median, "us_p90": p90,
    });
    Ok((vec![line], object))
}

/// y [1, 1, side, 64] = w [1, 1, side, side] x.
fn matvec(element: Element, side: usize) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let w = b.input("w0", &[1, 1, side, side])?;
    let x = b.input("x0", &[1, 1, side, COLUMNS])?;
    let y = b.matmul(w, x, false, false)?;
    b.output("y0", y)?;
    b.finish()
}

fn sram(device: &dyn Device) -> Result<(Vec<String>, Value)> {
    let mut lines = vec!["weights MiB      ms   GFLOP/s      GB/s".to_owned()];
    let mut rows = Vec::new();
    for side in SIDES.into_iter().filter(|side| *side <= device.limits().max_axis) {
        let (invocation, _buffers) = bound(device, "sram", &matvec(device.element(), side)?)?;
        let times = Times::of(&invocation, MIN_RUNS, MEASURE / 4)?;
        let median = times.quantile(0.5);
        let bytes = (side * side * device.element().bytes()) as f64;
        let flops = 2.0 * (side * side * COLUMNS) as f64;
        let mib = bytes / f64::from(1 << 20);
        lines.push(format!(
            "{mib:>11.1}{:>8.3}{:>10.1}{:>10.2}",
            median * 1e3,
            flops / median / 1e9,
            bytes / median / 1e9
        ));
        rows.push(json!({
            "weight_bytes": bytes, "ms_median": median * 1e3, "gflops": flops / median / 1e9,
            "gb_s": bytes / median / 1e9, "runs": times.0.len(),
        }));
    }
    Ok((lines, json!({ "bench": "sram", "columns": COLUMNS, "rows": rows })))
}

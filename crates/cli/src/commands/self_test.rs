//! `anneal devices --self-test`: what only real hardware can answer.
//!
//! Each question is a small program with inputs; the answer of the device stands beside that of `sim` under the
//! chip's profile, which is what this project believes. A child process asks each device, with a time limit,
//! because private interfaces can hang or crash.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use ane::Machine;
use device::{Binding, Device};
use mil::{Builder, Op, PortKind, Program, ValueId};
use model::{Cut, Taps, layer, presets};
use serde_json::{Value, json};
use sim::{Profile, SimDevice};

use crate::Result;
use crate::args::{DeviceArgs, DevicesArgs};
use crate::commands::bench_engine::smallest;
use crate::commands::devices::machine_object;
use crate::device_choice::{self, COMPILE_LIMIT_VARIABLE, ENTRIES};

/// How long one device may take for all of its answers; those that it has given by then are kept.
const LIMIT: Duration = Duration::from_secs(1200);
/// How long a compile may take here: the programs are small.
const COMPILE_LIMIT: &str = "60";
/// Runs whose latency is taken.
const RUNS: usize = 200;
/// How many values of an answer are kept.
const SHOWN: usize = 8;

/// Something that documents disagree about, or that nobody has tried.
struct Question {
    id: &'static str,
    /// What its answer settles.
    asks: &'static str,
    /// The program: one input x0 [1, 64, 1, 64] unless it makes its own.
    build: fn(&mut Builder) -> mil::Result<()>,
    /// Values of all inputs by their index.
    input: fn(usize) -> f32,
}

/// Builds the usual form: y0 of x0.
fn unary(
    b: &mut Builder,
    body: impl FnOnce(&mut Builder, ValueId) -> mil::Result<ValueId>,
) -> mil::Result<()> {
    let x = b.input("x0", &[1, 64, 1, 64])?;
    let y = body(b, x)?;
    b.output("y0", y)
}

/// Values between -2 and 2, all different along an axis.
fn spread(index: usize) -> f32 {
    (index % 64) as f32 / 16.0 - 2.0
}

const QUESTIONS: &[Question] = &[
    Question {
        id: "add",
        asks: "whether data arrives where it should: anything but equality is a fault of the driver",
        build: |b| unary(b, |b, x| b.add(x, x)),
        input: |i| (i % 512) as f32 / 4.0,
    },
    Question {
        id: "matmul",
        asks: "the error of a product of 64 x 64 (M5: 3e-4 relative, ANEForge)",
        build: |b| {
            let (x, w) = (b.input("x0", &[1, 1, 64, 64])?, b.input("w0", &[1, 1, 64, 64])?);
            let y = b.matmul(w, x, false, false)?;
            b.output("y0", y)
        },
        input: |i| ((i * 37) % 101) as f32 / 128.0 - 0.4,
    },
    Question {
        id: "exp",
        asks: "the table of exp (M5: 4.7e-4)",
        build: |b| unary(b, |b, x| b.push1(Op::Exp, &[x])),
        input: spread,
    },
    Question {
        id: "tanh",
        asks: "the table of tanh (M5: 1.3e-3)",
        build: |b| unary(b, |b, x| b.push1(Op::Tanh, &[x])),
        input: spread,
    },
    Question {
        id: "sigmoid",
        asks: "the table of sigmoid (M5: 3.8e-3)",
        build: |b| unary(b, |b, x| b.push1(Op::Sigmoid, &[x])),
        input: spread,
    },
    Question {
        id: "silu",
        asks: "the table of silu (M5: 1.0e-2)",
        build: |b| unary(b, |b, x| b.push1(Op::Silu, &[x])),
        input: spread,
    },
    Question {
        id: "softmax",
        asks: "the error of softmax along the last axis",
        build: |b| unary(b, |b, x| b.push1(Op::Softmax { axis: -1 }, &[x])),
        input: spread,
    },
    Question {
        id: "rsqrt",
        asks: "whether rsqrt compiles, and its error (ANE-038; M5: 1e-3)",
        build: |b| unary(b, |b, x| b.push1(Op::Rsqrt { epsilon: 1e-3 }, &[x])),
        input: |i| (i % 64) as f32 / 8.0 + 0.1,
    },
    Question {
        id: "product-limit",
        asks: "whether products beyond 32,752 become infinite (ANE-057): columns of 32,752 and 32,768",
        build: |b| {
            let (x, w) = (b.input("x0", &[1, 1, 64, 64])?, b.input("w0", &[1, 1, 64, 64])?);
            // Row k of w is 8; column j of x sums to 4,094 or 4,096.
            let eights = b.scale(w, 0.0)?;
            let eight = b.scalar(8.0);
            let eights = b.add(eights, eight)?;
            let y = b.matmul(eights, x, false, false)?;
            b.output("y0", y)
        },
        input: |i| if i % 2 == 0 { 63.96875 } else { 64.0 },
    },
    Question {
        id: "slice-inside-the-last-axis",
        asks: "whether values above 4,094 survive a slice that begins inside the last axis (ANE-054)",
        build: |b| unary(b, |b, x| b.slice(x, &[0, 0, 0, 16], &[1, 64, 1, 32])),
        input: |i| [4094.0, 4096.0, 5000.0, -6000.0][i % 4],
    },
    Question {
        id: "concat-on-the-last-axis",
        asks: "whether two slices of the last axis can be joined in another order (ANE-021, ANE-055)",
        build: |b| {
            unary(b, |b, x| {
                let first = b.slice(x, &[0, 0, 0, 0], &[1, 64, 1, 32])?;
                let second = b.slice(x, &[0, 0, 0, 32], &[1, 64, 1, 32])?;
                b.concat(&[second, first], 3)
            })
        },
        input: |i| (i % 2048) as f32,
    },
    Question {
        id: "reduce-sum",
        asks: "whether reduce_sum rounds every partial sum: 4,096 ones give 2,048 (ANE-058)",
        build: |b| {
            let x = b.input("x0", &[1, 16, 1, 4096])?;
            let sum = b.push1(Op::ReduceSum { axes: vec![3], keep_dims: true }, &[x])?;
            b.output("y0", sum)
        },
        input: |_| 1.0,
    },
    Question {
        id: "wide-product",
        asks: "whether a product adds up wide: 4,096 ones give 4,096",
        build: |b| {
            let (x, w) = (b.input("x0", &[1, 1, 4096, 64])?, b.input("w0", &[1, 1, 64, 4096])?);
            let y = b.matmul(w, x, false, false)?;
            b.output("y0", y)
        },
        input: |_| 1.0,
    },
    Question {
        id: "rounded-products",
        asks: "whether each product is rounded to f16 before it is added: (1+e)^2 - (1+2e) is e^2 or 0, e = 2^-10",
        build: |b| {
            let x = b.input("x0", &[1, 1, 64, 64])?;
            // Rows of x are 1+e and 1+2e by turns; those of w are 1+e and -1.
            let e = 1.0 / 1024.0;
            let values: Vec<f32> = (0..64 * 64).map(|i| if i % 2 == 0 { 1.0 + e } else { -1.0 }).collect();
            let w = b.constant(mil::Constant::float(b.element(), &[1, 1, 64, 64], values));
            let y = b.matmul(w, x, false, false)?;
            b.output("y0", y)
        },
        input: |i| if (i / 64) % 2 == 0 { 1.0 + 1.0 / 1024.0 } else { 1.0 + 2.0 / 1024.0 },
    },
    Question {
        id: "nan",
        asks: "what becomes of NaN and of infinity (ANE-060)",
        build: |b| unary(b, |b, x| b.add(x, x)),
        input: |i| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0][i % 4],
    },
    Question {
        id: "subnormals",
        asks: "whether numbers below 2^-14 survive",
        build: |b| unary(b, |b, x| b.scale(x, 0.5)),
        input: |i| 2.0_f32.powi(-14 - (i % 10) as i32),
    },
    Question {
        id: "select",
        asks: "whether a comparison can choose (the head's programs need it)",
        build: |b| {
            unary(b, |b, x| {
                let zero = b.zeros_like(x)?;
                let positive = b.push1(Op::Greater, &[x, zero])?;
                b.select(positive, x, zero)
            })
        },
        input: spread,
    },
];

/// Runs a program once and returns its outputs by name.
fn answer(
    device: &dyn Device,
    program: &Program,
    input: fn(usize) -> f32,
) -> device::Result<Vec<(String, Vec<f32>)>> {
    let executable = device.compile("self_test", program)?;
    let mut buffers = Vec::new();
    for port in program.ports() {
        let buffer = device.alloc(&port.ty.shape)?;
        if port.kind == PortKind::Input {
            buffer.write_f32(&(0..buffer.numel()).map(input).collect::<Vec<_>>())?;
        }
        buffers.push(buffer);
    }
    let bindings: Vec<_> =
        program.ports().zip(&buffers).map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
    executable.bind(&bindings)?.run()?;
    let outputs = program.ports().zip(&buffers).filter(|(port, _)| port.kind == PortKind::Output);
    outputs
        .map(|(port, buffer)| {
            let mut values = vec![0.0; buffer.numel()];
            buffer.read_f32(&mut values)?;
            Ok((port.name.to_owned(), values))
        })
        .collect()
}

/// The largest difference over the largest magnitude, among values that are finite in both; and whether all
/// values, finite or not, are the same.
fn compare(found: &[f32], expected: &[f32]) -> (f64, bool) {
    let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
    let finite = || found.iter().zip(expected).filter(|(a, b)| a.is_finite() && b.is_finite());
    let size = finite().map(|(_, b)| f64::from(b.abs())).fold(0.0, f64::max);
    let difference = finite().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let equal = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(*a, *b));
    (if difference == 0.0 { 0.0 } else { difference / size.max(f64::MIN_POSITIVE) }, equal)
}

/// JSON has no infinity: what is not finite is spelt.
fn shown(values: &[f32]) -> Value {
    let one = |value: &f32| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
    values.iter().take(SHOWN).map(one).collect()
}

/// The answer to one program beside what the interpreter says.
fn entry(device: &dyn Device, sim: &dyn Device, program: &Program, input: fn(usize) -> f32) -> Value {
    let expected = match answer(sim, program, input) {
        Ok(expected) => expected,
        Err(error) => return json!({ "error": format!("sim: {error}") }),
    };
    let found = match answer(device, program, input) {
        Ok(found) => found,
        Err(error) => return json!({ "error": error.to_string() }),
    };
    let outputs: Vec<Value> = found
        .iter()
        .zip(&expected)
        .map(|((name, found), (_, expected))| {
            let (error, equal) = compare(found, expected);
            json!({
                "output": name, "found": shown(found), "sim": shown(expected), "error": error, "equal": equal,
            })
        })
        .collect();
    json!({ "outputs": outputs })
}

/// Everything that one device answers: a line about it, one for each question, and one with its latency.
fn all_answers(name: &str, out: &mut dyn Write) -> Result<()> {
    let asked = DeviceArgs { device: Some(name.to_owned()), ..DeviceArgs::default() };
    let device = device_choice::open(&asked, None)?.device;
    let device = device.as_ref();
    let here = || Machine::here().chip.map_or("m4".to_owned(), |chip| format!("{chip:?}").to_lowercase());
    let chip = name.split_once(':').map_or_else(here, |(_, chip)| chip.to_owned());
    // gpu and bnns have no quirks of an engine.
    let profile = if name.starts_with("ane") {
        Profile::by_name(&chip).expect("every chip has a profile")
    } else {
        Profile::exact()
    };
    let sim = SimDevice::with_element(profile.clone(), device.element());
    writeln!(out, "{}", json!({ "describe": device.describe(), "sim_profile": profile.name }))?;
    for question in QUESTIONS {
        let mut b = Builder::new(device.element());
        (question.build)(&mut b)?;
        let mut answer = entry(device, &sim, &b.finish()?, question.input);
        answer["id"] = question.id.into();
        answer["asks"] = question.asks.into();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    // Which programs of a layer compile, and how far they are from the interpreter.
    let mut config = presets::by_name("tiny")?;
    config.seq_len = 64;
    for (kind, _) in config.layer_kinds() {
        let joint = layer::joint(&config, kind, 1, device.element())?;
        for cut in Cut::ALL {
            for segment in cut.divide(&joint, kind, Taps::Keep)? {
                let mut answer =
                    entry(device, &sim, &segment.program, |i| ((i * 37) % 101) as f32 / 512.0 - 0.1);
                answer["id"] = format!("layer/{}/{}", cut.name(), segment.name).into();
                answer["asks"] = "whether a layer's program compiles, and its error".into();
                writeln!(out, "{answer}")?;
                out.flush()?;
            }
        }
    }
    writeln!(out, "{}", json!({ "latency_us": latency(device)? }))?;
    Ok(())
}

/// The median time of the smallest program in microseconds.
fn latency(device: &dyn Device) -> Result<f64> {
    let program = smallest(device.element())?;
    let executable = device.compile("latency", &program)?;
    let buffers: Vec<_> =
        program.ports().map(|port| device.alloc(&port.ty.shape)).collect::<device::Result<_>>()?;
    let bindings: Vec<_> =
        program.ports().zip(&buffers).map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
    let invocation = executable.bind(&bindings)?;
    invocation.run()?;
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begun = Instant::now();
        invocation.run()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// The child's side: one device, on standard output.
pub(crate) fn answer_for(name: &str, out: &mut dyn Write) -> Result {
    all_answers(name, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks every one of Apple's devices in a child of its own, tells people what came of it, and writes the file.
pub(crate) fn run(args: &DevicesArgs, out: &mut dyn Write) -> Result {
    let machine = Machine::here();
    let mut devices = Vec::new();
    for entry in ENTRIES.iter().filter(|entry| entry.apple) {
        let answers = match entry.missing() {
            Some(why) => json!({ "device": entry.name, "why_not": why }),
            None => ask_child(entry.name),
        };
        writeln!(out, "{}", summary(entry.name, &answers))?;
        devices.push(answers);
    }
    let mut report = machine_object(&machine);
    report["anneal"] = env!("CARGO_PKG_VERSION").into();
    report["devices"] = devices.into();
    write_report(&args.out, &report)?;
    writeln!(out, "written to {}; docs/real-hardware.md says what each answer settles", args.out.display())?;
    Ok(ExitCode::SUCCESS)
}

fn write_report(path: &Path, report: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, text).map_err(|error| format!("{}: cannot write it: {error}", path.display()))?;
    Ok(())
}

fn ask_child(name: &str) -> Value {
    let fail = |why: String| json!({ "device": name, "error": why });
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return fail(format!("this program does not find itself: {error}")),
    };
    let mut command = Command::new(own);
    command.args(["devices", "--self-test-device", name]);
    if std::env::var_os(COMPILE_LIMIT_VARIABLE).is_none() {
        command.env(COMPILE_LIMIT_VARIABLE, COMPILE_LIMIT);
    }
    match ane::run_limited(&mut command, "", LIMIT) {
        Ok(done) => gather(name, &done),
        Err(no_answer) => fail(no_answer.to_string()),
    }
}

/// What a child has said, whether it came to its end or not.
fn gather(name: &str, done: &ane::Ended) -> Value {
    let mut gathered = json!({ "device": name });
    let mut answers = Vec::new();
    for line in done.stdout.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(answer) if answer["id"].is_string() => answers.push(answer),
            Ok(Value::Object(about)) => {
                gathered.as_object_mut().expect("made as one").extend(about);
            }
            // The last line of a child that was ended.
            _ => {}
        }
    }
    if !done.status.is_some_and(|status| status.success()) {
        let how = match done.status {
            Some(status) => format!("the child process ended with {status}"),
            None => format!("the child process took longer than {} s and was ended", LIMIT.as_secs()),
        };
        let said = done.stderr.trim();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        gathered["error"] = format!("{how}, after {} answers{said}", answers.len()).into();
    }
    gathered["answers"] = answers.into();
    gathered
}

/// One line for people.
fn summary(name: &str, answers: &Value) -> String {
    if let Some(why) = answers["why_not"].as_str() {
        return format!("{name:<10} not here: {why}");
    }
    let failed = answers["error"].as_str().map(|error| format!("failed: {error}"));
    let all = answers["answers"].as_array().map_or(&[][..], Vec::as_slice);
    if let (Some(failed), true) = (&failed, all.is_empty()) {
        return format!("{name:<10} {failed}");
    }
    let outputs = || all.iter().filter_map(|answer| answer["outputs"].as_array()).flatten();
    let equal = all
        .iter()
        .filter(|answer| answer["outputs"].as_array().is_some_and(|o| o.iter().all(|o| o["equal"] == true)))
        .count();
    let refused = all.iter().filter(|answer| answer["error"].is_string()).count();
    let largest = outputs().filter_map(|output| output["error"].as_f64()).fold(0.0, f64::max);
    let end = failed
        .unwrap_or_else(|| format!("{:.0} us a run", answers["latency_us"].as_f64().unwrap_or(f64::NAN)));
    format!(
        "{name:<10} {} questions: {equal} answered as sim does, {} otherwise (error up to {largest:.1e}), {refused} refused; {end}",
        all.len(),
        all.len() - equal - refused,
    )
}

#[cfg(test)]
mod tests {
    use mil::Element;

    use super::*;

    #[test]
    fn questions_have_ids_of_their_own_and_type_check() {
        for (at, question) in QUESTIONS.iter().enumerate() {
            assert!(QUESTIONS[..at].iter().all(|other| other.id != question.id), "{}", question.id);
            let mut b = Builder::new(Element::F16);
            (question.build)(&mut b).unwrap();
            b.finish().unwrap();
        }
    }

    /// Each quirk must show in the answer to its question: a profile that has it and one that has not differ.
    #[test]
    fn quirks_show_in_the_answers() {
        let ask = |id: &str, profile: Profile| {
            let question = QUESTIONS.iter().find(|question| question.id == id).unwrap();
            let mut b = Builder::new(Element::F16);
            (question.build)(&mut b).unwrap();
            let device = SimDevice::with_element(profile, Element::F16);
            answer(&device, &b.finish().unwrap(), question.input).unwrap().remove(0).1
        };
        let exact = Profile::exact;
        for (id, quirky) in [
            ("product-limit", Profile { product_limit: Some(sim::PRODUCT_LIMIT), ..exact() }),
            ("slice-inside-the-last-axis", Profile { width_offset_limit: Some(4094.0), ..exact() }),
            ("reduce-sum", Profile { narrow_reduce: true, ..exact() }),
            ("rounded-products", Profile { round_products: true, ..exact() }),
            ("nan", Profile { propagate_nan: false, ..exact() }),
            ("subnormals", Profile { flush_subnormals: true, ..exact() }),
        ] {
            assert!(!compare(&ask(id, exact()), &ask(id, quirky.clone())).1, "{id} does not show its quirk");
            assert!(compare(&ask(id, quirky.clone()), &ask(id, quirky)).1, "{id}");
        }
        assert_eq!(ask("product-limit", exact())[..2], [32_752.0, 32_768.0]);
    }
}

//! Runs the programs that ANEForge wrote and compares with what NumPy computed from other formulas.
//!
//! ```text
//! python tests/oracle/aneforge_corpus.py OUT
//! cargo run --release -p anneal-sim --example aneforge_check -- OUT
//! ```
//!
//! Each case of `OUT/manifest.json` is read by `mil::text` and run in f16 on the profiles `exact`
//! and `m4`. The expected values are unrounded, inputs and weights are exact in f16, so what must
//! be allowed is what f16 does to results on the way: see [`allowed`]. A planted fault, input
//! elements scaled by 1, 1.1 or 1.2, has to be seen in each case. The exit status is 1 when a case
//! misses or does not see its fault.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use mil::{Op, Program, text};
use serde_json::Value;
use sim::{Interpreter, Profile};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Half a step of f16 relative to the value: what one rounding may change.
const HALF_STEP: f64 = 1.0 / 2048.0;

/// A case's inputs or outputs.
struct Tensors(Vec<(String, Vec<f32>)>);

impl Tensors {
    fn read(case: &Value, way: &str, folder: &Path) -> Result<Tensors> {
        let list = case[way].as_array().ok_or(format!("manifest.json: a case without {way}"))?;
        let one = |entry: &Value| {
            let text = |key: &str| entry[key].as_str().ok_or(format!("manifest.json: {way} without {key}"));
            let path = folder.join(text("file")?);
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Ok((text("port")?.to_owned(), values))
        };
        list.iter().map(one).collect::<Result<_>>().map(Tensors)
    }

    /// Elements scaled by 1, 1.1 or 1.2, differently along every axis and in every port, so that no
    /// norm, softmax or division undoes it.
    fn with_fault(&self) -> Tensors {
        let bent = |at: usize, values: &[f32]| -> Vec<f32> {
            let factor = |i: usize| 1.0 + 0.1 * ((7 * i + i / 5 + at) % 3) as f32;
            values.iter().enumerate().map(|(i, v)| v * factor(i)).collect()
        };
        Tensors(self.0.iter().enumerate().map(|(at, (port, v))| (port.clone(), bent(at, v))).collect())
    }
}

/// The longest chain of roundings on the way to each output, in the order of the output ports.
///
/// An op that computes rounds its result once; one that moves or compares does not. Where the
/// profile adds up in f16, every term of a sum is a rounding.
fn roundings(program: &Program, profile: &Profile) -> Vec<usize> {
    let mut depth = vec![0; program.values().len()];
    for stmt in program.stmts() {
        let terms = || {
            let numel = |id: mil::ValueId| program.ty(id).numel();
            numel(stmt.args[0]) / numel(stmt.results[0])
        };
        let own = match &stmt.op {
            Op::Const(_)
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::SliceBySize { .. }
            | Op::Concat { .. }
            | Op::Split { .. }
            | Op::ReduceMax { .. }
            | Op::Equal
            | Op::NotEqual
            | Op::Greater
            | Op::GreaterEqual
            | Op::Less
            | Op::LessEqual
            | Op::Select
            | Op::Relu
            | Op::Abs
            | Op::Maximum
            | Op::Minimum
            | Op::Cast { .. } => 0,
            Op::ReduceSum { .. } | Op::ReduceMean { .. } if profile.narrow_reduce => terms(),
            _ => 1,
        };
        let before = stmt.args.iter().map(|id| depth[id.index()]).max().unwrap_or(0);
        stmt.results.iter().for_each(|id| depth[id.index()] = before + own);
    }
    program.outputs().iter().map(|id| depth[id.index()]).collect()
}

/// The largest allowed error of an output, as a share of its largest value: 2 sqrt(n) half steps for
/// a chain of n roundings. One rounding is off by at most half a step, evenly spread, which is a
/// deviation of half a step / sqrt(3); n independent ones add up to sqrt(n) times that, and twice
/// sqrt(n) half steps is 3.5 deviations. Nothing is allowed for a chain without any: what only moves
/// has to be exact.
fn allowed(roundings: usize) -> f64 {
    2.0 * (roundings as f64).sqrt() * HALF_STEP
}

/// The largest difference as a share of the largest expected value; infinite for NaN.
fn difference(values: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
    let worst = values.iter().zip(expected).fold(0.0_f64, |worst, (a, b)| {
        let d = (f64::from(*a) - f64::from(*b)).abs();
        if d.is_nan() { f64::INFINITY } else { worst.max(d) }
    });
    if values.len() != expected.len() {
        f64::INFINITY
    } else if worst == 0.0 {
        0.0
    } else {
        worst / largest
    }
}

/// What one profile made of a case.
struct Outcome {
    roundings: usize,
    difference: f64,
    allowed: f64,
    /// The planted fault's difference.
    fault: f64,
}

impl Outcome {
    fn is_right(&self) -> bool {
        self.difference <= self.allowed
    }
}

fn run(program: &Program, profile: &Profile, inputs: &Tensors) -> Result<Vec<(String, Vec<f32>)>> {
    let inputs: Vec<(&str, &[f32])> =
        inputs.0.iter().map(|(port, v)| (port.as_str(), v.as_slice())).collect();
    Ok(sim::run(program, profile, &inputs)?.into_iter().collect())
}

fn check(program: &Program, profile: &Profile, inputs: &Tensors, expected: &Tensors) -> Result<Outcome> {
    // Counted on what the interpreter really runs.
    let depths = roundings(Interpreter::new(program, profile)?.program(), profile);
    let ports: Vec<String> = program.outputs().iter().map(|id| program.value(*id).name.clone()).collect();
    let (sound, faulty) = (run(program, profile, inputs)?, run(program, profile, &inputs.with_fault())?);
    let mut worst: Option<Outcome> = None;
    for (port, expected) in &expected.0 {
        let of = |outputs: &[(String, Vec<f32>)]| {
            let found = outputs.iter().find(|(name, _)| name == port);
            found.map(|(_, v)| difference(v, expected)).ok_or(format!("the program has no output {port}"))
        };
        let roundings = ports.iter().position(|name| name == port).map_or(0, |at| depths[at]);
        let outcome =
            Outcome { roundings, difference: of(&sound)?, allowed: allowed(roundings), fault: of(&faulty)? };
        // Of several outputs the one that comes closest to its bound, or goes beyond it.
        let share = |o: &Outcome| o.difference / o.allowed.max(f64::MIN_POSITIVE);
        if worst.as_ref().is_none_or(|w| share(&outcome) > share(w)) {
            worst = Some(outcome);
        }
    }
    Ok(worst.ok_or("the manifest names no output")?)
}

fn check_all(out: &Path) -> Result<bool> {
    let path = out.join("manifest.json");
    let manifest =
        fs::read(&path).map_err(|e| format!("{}: {e}; run aneforge_corpus.py first", path.display()))?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let all = manifest["cases"].as_array().ok_or("manifest.json: no cases")?;
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let (mut misses, mut unseen, mut count) = (0, 0, 0);
    println!(
        "{:<28} {:<6} {:>9} {:>11} {:>10} {:>9}",
        "case", "chip", "roundings", "difference", "allowed", "fault"
    );
    for case in all.iter().filter(|case| text(case, "folder").starts_with("cases/")) {
        let (name, folder) = (text(case, "name"), out.join(text(case, "folder")));
        let program = text::read_file(&folder.join("model.mil"))?;
        let (inputs, expected) =
            (Tensors::read(case, "inputs", &folder)?, Tensors::read(case, "outputs", &folder)?);
        // The one case that nothing can disturb: all of it is zero.
        let is_zero = expected.0.iter().all(|(_, v)| v.iter().all(|v| *v == 0.0));
        for profile in [Profile::exact(), Profile::m4()] {
            let outcome = check(&program, &profile, &inputs, &expected)
                .map_err(|e| format!("{name} on {}: {e}", profile.name))?;
            let sees = is_zero || outcome.fault > outcome.allowed;
            misses += usize::from(!outcome.is_right());
            unseen += usize::from(!sees);
            let remark = match (outcome.is_right(), sees) {
                (false, _) => "  MISS",
                (_, false) => "  FAULT NOT SEEN",
                _ => "",
            };
            let Outcome { roundings, difference, allowed, fault } = outcome;
            println!(
                "{name:<28} {:<6} {roundings:>9} {difference:>11.1e} {allowed:>10.1e} {fault:>9.1e}{remark}",
                profile.name
            );
        }
        count += 1;
    }
    println!("{count} cases on 2 profiles: {misses} misses, {unseen} planted faults not seen");
    Ok(count > 0 && misses + unseen == 0)
}

fn main() -> ExitCode {
    let Some(out) = std::env::args().nth(1) else {
        eprintln!("usage: aneforge_check OUT (a folder that aneforge_corpus.py wrote)");
        return ExitCode::from(2);
    };
    match check_all(Path::new(&out)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

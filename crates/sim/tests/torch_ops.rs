//! Values and gradients against PyTorch, for every case of `tests/golden/ops.safetensors`; that
//! file, its script and the library versions lie in one folder.

mod common;

use std::collections::HashSet;

use common::{distance, largest, run};
use mil::composites::cross_entropy::Statistics;
use mil::{AttrValue, Builder, DType, Element, Op, Program, TensorType, differentiate, gradient_name};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sim::Profile;

/// Allowed error in f32, as a share of the largest element: the golden values are exact but for
/// one rounding of 2^-24, results here are chains of f32 operations and sums of up to 80 terms:
/// some tens of roundings, 2^-24 * 50 = 3e-6.
const F32: f32 = 3e-6;

/// Allowed error in f16, in units of 2^-11 (half a step at 1) of the largest element. The golden
/// values belong to unrounded inputs, so the rounding of the inputs counts too: for one operation
/// with two operands 3 roundings. What is a chain in f16, or steep, gets more, and says why.
fn f16_units(case: &str, op: &str) -> f32 {
    match case {
        // Half a step at 100 is 2^-5, which is the relative error of a probability.
        "softmax_large" => return 64.0,
        // Squares of 1e-3, their mean and eps * 3/16 = 1.9e-6 are subnormal, where a step is 6e-8:
        // 3 % of the sum, half of that after the root.
        "rms_norm_small" => return 32.0,
        _ => {}
    }
    match op {
        // d/dy x^y = ln(x) x^y and y up to 3: rounding y moves the result by |y ln x| steps; the
        // gradients are chains of 4 operations.
        "pow" => 12.0,
        // 1/y² at |y| = 0.2 in the gradient: terms 25 times the upstream gradient, whose sum over a
        // broadcast axis cancels.
        "real_div" => 14.0,
        // Rounding x moves exp(x) by |x| steps, x up to 3.
        "exp" | "softmax" => 8.0,
        // Slopes are chains of 5 to 15 operations.
        "tanh" | "sigmoid" | "silu" | "gelu" | "erf" | "log" | "rsqrt" => 10.0,
        // Gradients are sums over up to 70 elements of rounded terms, in f16 where at most 256.
        "add" | "sub" | "mul" | "maximum" | "minimum" | "matmul" | "conv" => 6.0,
        // Sums of 21 elements whose partial sums are rounded, of size sqrt(21).
        "reduce_sum" | "reduce_mean" => 8.0,
        // Chains of about 15 operations.
        "rms_norm" => 16.0,
        // Scores up to 10 are exponentiated: their rounding of 10 half steps becomes a relative
        // error of probabilities, and dS is a difference of them.
        "attention" => 16.0,
        // Logits up to 15, likewise.
        "cross_entropy" => 16.0,
        _ => 3.0,
    }
}

struct Golden<'a> {
    tensors: SafeTensors<'a>,
}

impl Golden<'_> {
    /// Shape, type and values of `<case>.<key>`.
    fn get(&self, case: &str, key: &str) -> (TensorType, Vec<f32>) {
        let name = format!("{case}.{key}");
        let view = self.tensors.tensor(&name).unwrap_or_else(|_| panic!("{name} is missing"));
        let (dtype, values) = match view.dtype() {
            Dtype::F32 => {
                let words = view.data().chunks(4);
                let value = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
                (DType::F32, words.map(value).collect())
            }
            Dtype::BOOL => {
                let values = view.data().iter().map(|b| f32::from(*b)).collect();
                (DType::Bool, values)
            }
            other => panic!("{name} is {other:?}"),
        };
        (TensorType::new(dtype, view.shape()), values)
    }
}

fn attribute(value: &Value) -> AttrValue {
    match value {
        Value::Bool(v) => AttrValue::Bool(*v),
        Value::String(v) => AttrValue::Str(v.clone()),
        Value::Number(v) if v.is_f64() => AttrValue::Float(v.as_f64().expect("a number") as f32),
        Value::Number(v) => AttrValue::Int(v.as_i64().expect("a whole number") as i32),
        Value::Array(v) => {
            let int = |v: &Value| v.as_i64().expect("whole numbers") as i32;
            AttrValue::Ints(v.iter().map(int).collect())
        }
        other => panic!("no attribute is {other}"),
    }
}

/// The program of a case: inputs and outputs as the golden file names them.
fn program(element: Element, op: &Op, inputs: &[(String, TensorType)], outputs: &[String]) -> Program {
    let mut b = Builder::new(element);
    let mut args = Vec::new();
    for (name, ty) in inputs {
        let dtype = if ty.dtype.is_float() { element.dtype() } else { ty.dtype };
        let ty = TensorType::new(dtype, &ty.shape);
        args.push(b.typed_input(name, ty).expect("a new name"));
    }
    let results = b.push(op.clone(), &args).expect("the case fits the op");
    assert_eq!(results.len(), outputs.len(), "{op:?}");
    for (name, mut result) in outputs.iter().zip(results) {
        if b.ty(result).dtype == DType::Bool {
            let (one, zero) = (b.scalar(1.0), b.scalar(0.0));
            result = b.select(result, one, zero).expect("shapes broadcast");
        }
        b.output(name, result).expect("a new name");
    }
    b.finish().expect("it has outputs")
}

struct Check {
    element: Element,
    /// Largest error as a share of what is allowed, and where.
    worst: Vec<(f32, String)>,
}

impl Check {
    /// * `terms`: the size of terms that may cancel in `expected`, 0 where none do
    fn compare(&mut self, (case, op, key): (&str, &str, &str), actual: &[f32], expected: &[f32], terms: f32) {
        let unit = match self.element {
            Element::F32 => F32,
            Element::F16 => f16_units(case, op) * 2.0_f32.powi(-11),
        };
        let bound = unit * largest(expected).max(terms);
        let error = distance(actual, expected);
        let share = if error == 0.0 { 0.0 } else { error / bound };
        self.worst.push((share, format!("{case} {key}")));
    }

    /// Prints what comes nearest to its bound and fails where one is passed.
    fn finish(&mut self) {
        self.worst.sort_by(|a, b| b.0.total_cmp(&a.0));
        let lines: Vec<String> = self
            .worst
            .iter()
            .take(12)
            .map(|(share, what)| format!("{what}: {:.0} % of its bound", 100.0 * share))
            .collect();
        println!("{:?}\n{}", self.element, lines.join("\n"));
        // `<=` so that NaN fails.
        assert!(self.worst.iter().all(|(share, _)| *share <= 1.0), "see above");
    }
}

fn check_all(element: Element) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/ops.safetensors");
    let bytes =
        std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}; tests/golden/make_all.sh makes it"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let golden = Golden { tensors: SafeTensors::deserialize(&bytes).expect("a safetensors file") };
    let metadata = metadata.metadata().as_ref().expect("the script writes it");
    let cases: Vec<Value> = serde_json::from_str(&metadata["cases"]).expect("a JSON list");
    let profile = Profile::m4();
    let mut check = Check { element, worst: Vec::new() };
    let mut seen = HashSet::new();
    for case in &cases {
        let text = |key: &str| case[key].as_str().expect("a string").to_owned();
        let list = |key: &str| -> Vec<String> {
            let list = case[key].as_array().expect("a list").iter();
            list.map(|v| v.as_str().expect("a string").to_owned()).collect()
        };
        let (name, op_name) = (text("name"), text("op"));
        seen.insert(op_name.clone());
        let op = Op::from_attrs(&op_name, &mut |attr| case["attrs"].get(attr).map(attribute))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (types, inputs): (Vec<_>, Vec<_>) = list("inputs")
            .into_iter()
            .map(|key| {
                let (mut ty, values) = golden.get(&name, &key);
                if op_name == "cross_entropy" && key == "w" {
                    // The file has the table as checkpoints do, [V, C].
                    let vocab = values.len() / ty.shape[ty.rank() - 1];
                    ty.shape = vec![1, 1, vocab, ty.shape[ty.rank() - 1]];
                }
                ((key.clone(), ty), (key, values))
            })
            .unzip();
        if op_name == "cross_entropy" {
            check_cross_entropy(&golden, &mut check, &name, &op, &types, inputs);
            continue;
        }
        let outputs = list("outputs");
        let forward = program(element, &op, &types, &outputs);
        let values = run(&forward, &profile, &inputs);
        for key in &outputs {
            let (ty, expected) = golden.get(&name, key);
            assert_eq!(forward.output(key).expect("it has it").shape, ty.shape, "{name}");
            check.compare((&name, &op_name, key), &values[key], &expected, 0.0);
        }
        let wrt = list("grads");
        if wrt.is_empty() || op.gradient() != mil::ops::Gradient::Rule {
            continue;
        }
        let mut all = inputs;
        for key in &outputs {
            all.push((gradient_name(key), golden.get(&name, &format!("d{key}")).1));
        }
        let names: Vec<&str> = wrt.iter().map(String::as_str).collect();
        let whole = differentiate(&forward, &names).unwrap_or_else(|e| panic!("{name}: {e}"));
        let values = run(&whole, &profile, &all);
        for key in names {
            let (_, expected) = golden.get(&name, &format!("d{key}"));
            let actual = &values[&gradient_name(key)];
            // A gradient is made of terms of about the size of the upstream one, which is standard
            // normal, and they may cancel: summed over a broadcast axis, or where a query sees
            // one key only.
            check.compare((&name, &op_name, &gradient_name(key)), actual, &expected, 1.0);
        }
    }
    check.finish();
    assert!(cases.len() >= 100 && seen.len() >= 35, "{} cases, {} ops", cases.len(), seen.len());
}

/// The three cross-entropy ops on one case.
fn check_cross_entropy(
    golden: &Golden,
    check: &mut Check,
    name: &str,
    op: &Op,
    types: &[(String, TensorType)],
    inputs: Vec<(String, Vec<f32>)>,
) {
    let Op::CrossEntropy { softcap } = *op else { unreachable!("called for it") };
    let profile = Profile::m4();
    let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let expected = |key: &str| golden.get(name, key).1;
    let combined = strings(&["max", "sum_exp", "at_target", "dh", "dw"]);
    let whole = run(&program(check.element, op, types, &combined), &profile, &inputs);
    let stats = Op::CrossEntropyStats { softcap };
    let stats = program(check.element, &stats, &types[..4], &combined[..3]);
    let stats = run(&stats, &profile, &inputs[..4]);
    for key in &combined[..3] {
        assert_eq!(stats[key], whole[key], "the same ops in the same order");
    }
    for (key, theirs) in [("max", "largest"), ("sum_exp", "sum"), ("at_target", "target")] {
        check.compare((name, "cross_entropy", key), &stats[key], &expected(theirs), 0.0);
    }
    let losses: Vec<f32> = (0..stats["max"].len())
        .map(|i| {
            let (max, sum_exp, target) = (stats["max"][i], stats["sum_exp"][i], stats["at_target"][i]);
            Statistics { max, sum_exp, target }.nll()
        })
        .collect();
    check.compare((name, "cross_entropy", "out"), &losses, &expected("out"), 0.0);
    let lse = expected("lse");
    let coarse: Vec<f32> = lse.iter().map(|v| Element::F16.round(*v)).collect();
    let fine: Vec<f32> = lse.iter().zip(&coarse).map(|(a, b)| a - b).collect();
    let row = &types[2].1;
    let rows = [("lse_hi", coarse), ("lse_lo", fine)];
    let mut more_types = types[..4].to_vec();
    let mut more = inputs[..4].to_vec();
    for (key, values) in rows {
        more_types.push((key.to_owned(), row.clone()));
        more.push((key.to_owned(), values));
    }
    more_types.push(types[4].clone());
    more.push(inputs[4].clone());
    let grad = Op::CrossEntropyGrad { softcap };
    let grad = program(check.element, &grad, &more_types, &combined[3..]);
    let grad = run(&grad, &profile, &more);
    for key in ["dh", "dw"] {
        check.compare((name, "cross_entropy", key), &whole[key], &expected(key), 0.0);
        check.compare((name, "cross_entropy", key), &grad[key], &expected(key), 0.0);
    }
}

#[test]
fn f32_agrees_with_pytorch() {
    check_all(Element::F32);
}

#[test]
fn f16_agrees_with_pytorch() {
    check_all(Element::F16);
}

//! The executor against the interpreter, the living definition of the language.
//!
//! Oracle: `sim` in f32, which computes statement by statement what the executor fuses, folds and
//! reorders. Tolerance: both round to 2^-24 relative at each op; a chain of tens of ops, and sums
//! of up to some hundred terms in another order, stay below 1e-5 of the largest value.

use std::collections::HashMap;

use cpu::CpuDevice;
use device::{Binding, Device, Mode};
use mil::composites::attention::AttentionShape;
use mil::ops::{self, Example};
use mil::{Builder, DType, Element, Op, Program, ValueId, differentiate};
use proptest::prelude::*;

const TOLERANCE: f32 = 1e-5;

/// Deterministic values in `domain`.
fn values(count: usize, domain: (f32, f32), seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            domain.0 + (domain.1 - domain.0) * (state >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect()
}

fn inputs_of(program: &Program, domain: (f32, f32)) -> Vec<(String, Vec<f32>)> {
    let inputs = program.inputs().iter().enumerate();
    inputs
        .map(|(at, id)| {
            (program.value(*id).name.clone(), values(program.ty(*id).numel(), domain, at as u64 + 1))
        })
        .collect()
}

/// Runs `program` on a cpu device; outputs begin at `start` and are written as `mode` says.
fn run_on_cpu(
    device: &CpuDevice,
    program: &Program,
    inputs: &[(String, Vec<f32>)],
    mode: Mode,
    start: f32,
) -> HashMap<String, Vec<f32>> {
    let executable = device.compile("test", program).unwrap();
    let mut buffers = Vec::new();
    for (name, values) in inputs {
        let buffer = device.alloc(&program.input(name).unwrap().shape).unwrap();
        buffer.write_f32(values).unwrap();
        buffers.push((name.clone(), buffer, Mode::Store));
    }
    for id in program.outputs() {
        let buffer = device.alloc(&program.ty(*id).shape).unwrap();
        buffer.write_f32(&vec![start; buffer.numel()]).unwrap();
        buffers.push((program.value(*id).name.clone(), buffer, mode));
    }
    let bindings: Vec<_> =
        buffers.iter().map(|(port, buffer, mode)| Binding { port, buffer, mode: *mode }).collect();
    executable.bind(&bindings).unwrap().run().unwrap();
    buffers[inputs.len()..].iter().map(|(name, buffer, _)| (name.clone(), buffer.to_vec())).collect()
}

/// * `floor`: magnitude of the intermediate values, where outputs are small differences of them
fn compare(what: &str, program: &Program, domain: (f32, f32), floor: f32) {
    let inputs = inputs_of(program, domain);
    let borrowed: Vec<(&str, &[f32])> =
        inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let expected = sim::run(program, &sim::Profile::exact(), &borrowed).unwrap();
    let one = run_on_cpu(&CpuDevice::new(1), program, &inputs, Mode::Store, f32::NAN);
    let two = run_on_cpu(&CpuDevice::new(2), program, &inputs, Mode::Store, f32::NAN);
    for (name, expected) in &expected {
        let actual = &one[name];
        let size = expected.iter().fold(floor, |size, v| size.max(v.abs()));
        for (at, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!(
                (a - e).abs() <= TOLERANCE * size || a == e,
                "{what}: output {name}[{at}] is {a}, expected {e}\n{program:#?}"
            );
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(actual) == bits(&two[name]), "{what}: {name} depends on the number of threads");
    }
}

/// A program that applies one example; truth values enter and leave as numbers, since ports are
/// floats.
fn wrap(example: &Example) -> Program {
    let mut b = Builder::new(Element::F32);
    let mut args: Vec<ValueId> = Vec::new();
    for (at, ty) in example.operands.iter().enumerate() {
        let x = b.input(&format!("x{at}"), &ty.shape).unwrap();
        args.push(match ty.dtype {
            DType::Bool => {
                let zero = b.scalar(0.0);
                b.push1(Op::Greater, &[x, zero]).unwrap()
            }
            DType::I8 => {
                let scale = b.scalar(1.0 / 64.0);
                b.push1(Op::Quantize { output_dtype: DType::I8 }, &[x, scale]).unwrap()
            }
            _ => x,
        });
    }
    if let (Op::AttentionGrad { .. }, Some(shape)) = (&example.op, AttentionShape::of(&example.op)) {
        // Its operand o is by contract the result of the attention, which the kernel need not read.
        args[3] = b.push1(shape.op(), &args[..3]).unwrap();
    }
    for (at, result) in b.push(example.op.clone(), &args).unwrap().into_iter().enumerate() {
        let result = match b.ty(result).dtype {
            DType::Bool => {
                let (one, zero) = (b.scalar(1.0), b.scalar(0.0));
                b.select(result, one, zero).unwrap()
            }
            DType::F16 | DType::I8 => b.push1(Op::Cast { dtype: DType::F32 }, &[result]).unwrap(),
            _ => result,
        };
        b.output(&format!("y{at}"), result).unwrap();
    }
    b.finish().unwrap()
}

#[test]
fn every_op_computes_what_the_interpreter_does() {
    for example in ops::examples() {
        compare(example.op.name(), &wrap(&example), example.domain, 1e-3);
    }
}

/// An int8 holds neither NaN nor infinity. Oracle: by hand.
#[test]
fn what_is_no_number_is_a_whole_number_in_int8() {
    let mut b = Builder::new(Element::F32);
    let x = b.input("x", &[1, 5]).unwrap();
    let scale = b.scalar(0.25);
    let whole = b.push1(Op::Quantize { output_dtype: DType::I8 }, &[x, scale]).unwrap();
    let y = b.push1(Op::Dequantize, &[whole, scale]).unwrap();
    b.output("y", y).unwrap();
    let program = b.finish().unwrap();
    let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1.0];
    let outputs =
        run_on_cpu(&CpuDevice::new(1), &program, &[("x".to_owned(), x.to_vec())], Mode::Store, f32::NAN);
    assert_eq!(outputs["y"], [0.0, 31.75, -32.0, 0.0, 1.0]);
}

#[test]
fn every_gradient_does_too() {
    for example in ops::examples() {
        let has_condition = example.operands.iter().any(|ty| ty.dtype == DType::Bool);
        if example.op.gradient() != ops::Gradient::Rule || has_condition {
            continue;
        }
        let program = wrap(&example);
        let all: Vec<&str> = program.inputs().iter().map(|id| program.value(*id).name.as_str()).collect();
        // Rotary angles are constants of a model and have no gradient.
        let wrt = if matches!(example.op, Op::Rope { .. }) { &all[..1] } else { &all[..] };
        let joint = differentiate(&program, wrt).unwrap();
        compare(&format!("gradient of {}", example.op.name()), &joint, example.domain, 1e-3);
    }
}

#[test]
fn composites_equal_their_decompositions() {
    for example in ops::examples().iter().filter(|e| e.op.is_composite()) {
        let program = wrap(example).expand_all().unwrap();
        compare(&format!("decomposed {}", example.op.name()), &program, example.domain, 1e-3);
    }
}

/// Integers beyond 2^24 and results that f16 would round are not f32's: better no answer than another one.
#[test]
fn arithmetic_that_is_not_f32_is_refused() {
    for (dtype, name) in [(DType::I32, "int32"), (DType::F16, "fp16")] {
        let mut b = Builder::new(Element::F32);
        let x = b.input("x", &[4]).unwrap();
        let narrow = b.push1(Op::Cast { dtype }, &[x]).unwrap();
        let product = b.mul(narrow, narrow).unwrap();
        let wide = b.push1(Op::Cast { dtype: DType::F32 }, &[product]).unwrap();
        b.output("y", wide).unwrap();
        let error = CpuDevice::new(1).compile("mixed", &b.finish().unwrap()).err().unwrap().to_string();
        assert!(error.contains(&format!("= mul is tensor<{name}, [4]>")), "{error}");
    }
}

#[test]
fn an_accumulating_output_adds_to_its_buffer() {
    let device = CpuDevice::new(2);
    for example in ops::examples() {
        let program = wrap(&example);
        let inputs = inputs_of(&program, example.domain);
        let stored = run_on_cpu(&device, &program, &inputs, Mode::Store, 0.0);
        let summed = run_on_cpu(&device, &program, &inputs, Mode::Accumulate, 2.0);
        for (name, stored) in stored {
            for (sum, value) in summed[&name].iter().zip(stored) {
                let expected = 2.0 + value;
                assert!(
                    (sum - expected).abs() <= TOLERANCE * expected.abs().max(1.0) || *sum == expected,
                    "{}: {name} accumulates to {sum}, expected {expected}",
                    example.op.name()
                );
            }
        }
    }
}

/// A random program over tensors `[1, C, 1, N]` and what broadcasts with them: elementwise chains
/// that fork and join, products, views, reductions, norms.
fn random_program(choices: &[u8]) -> Program {
    let mut b = Builder::new(Element::F32);
    let (c, n) = (6, 10);
    let full = [1, c, 1, n];
    let mut values = vec![
        b.input("a", &full).unwrap(),
        b.input("b", &full).unwrap(),
        b.input("row", &[1, c, 1, 1]).unwrap(),
        b.input("column", &[1, 1, 1, n]).unwrap(),
    ];
    let (row, w) = (values[2], b.input("w", &[1, 1, c, c]).unwrap());
    for chunk in choices.chunks_exact(3) {
        let pick = |at: u8| values[at as usize % values.len()];
        let (x, y) = (pick(chunk[1]), pick(chunk[2]));
        let is_full = b.shape(x) == full;
        let made = match chunk[0] % 14 {
            0 => b.add(x, y),
            1 => b.mul(x, y),
            2 => b.sub(x, y),
            3 => b.push1(Op::Tanh, &[x]),
            4 => b.push1(Op::Silu, &[x]),
            5 => b.scale(x, 0.5),
            6 => b.push1(Op::Maximum, &[x, y]),
            7 if is_full => (|| {
                let x = b.reshape(x, &[1, 1, c, n])?;
                let z = b.matmul(w, x, chunk[2] & 1 == 1, false)?;
                let z = b.scale(z, 0.3)?;
                b.reshape(z, &full)
            })(),
            8 if is_full => (|| {
                let x = b.transpose(x, &[0, 3, 2, 1])?;
                let x = b.reshape(x, &[1, 1, n, c])?;
                let z = b.matmul(w, x, false, true)?;
                let z = b.push1(Op::Tanh, &[z])?;
                b.reshape(z, &full)
            })(),
            9 if is_full => b.push1(Op::RmsNorm { axis: 1, eps: 1e-2 }, &[x, row]),
            10 if is_full => b.push1(Op::ReduceMean { axes: vec![1], keep_dims: true }, &[x]),
            11 if is_full => b.push1(Op::ReduceMax { axes: vec![3], keep_dims: true }, &[x]),
            12 if is_full => (|| {
                let top = b.slice(x, &[0, 0, 0, 0], &[1, 2, 1, n])?;
                let rest = b.slice(x, &[0, 2, 0, 0], &[1, c - 2, 1, n])?;
                b.concat(&[rest, top], 1)
            })(),
            13 if is_full => b.push1(Op::Softmax { axis: -1 }, &[x]),
            _ => b.push1(Op::Sigmoid, &[x]),
        };
        // Products of products would leave f32's range; a squeeze keeps every value below 1.
        let made = made.and_then(|made| b.push1(Op::Tanh, &[made]));
        values.push(made.unwrap());
    }
    // The last few, among them values that others read and values that are views.
    for (at, value) in values.iter().rev().take(3).enumerate() {
        b.output(&format!("y{at}"), *value).unwrap();
    }
    b.finish().unwrap()
}

// Values stay below 1, but outputs may be small differences of such, and a norm magnifies what is
// small by up to 1/sqrt(eps) = 10; a fault shows in the first digits. Floor 10: 1e-4 of the values.
proptest! {
    // The same programs every time: a gate that fails by luck is no gate.
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]
    #[test]
    fn random_programs_compute_what_the_interpreter_does(
        choices in proptest::collection::vec(any::<u8>(), 3..60),
    ) {
        compare("a random program", &random_program(&choices), (-1.0, 1.0), 10.0);
    }
}

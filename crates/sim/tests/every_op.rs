//! Every op of the language runs, in both element types, and the two agree.

mod common;

use std::collections::HashSet;

use common::{distance, largest, program_of, rng, run, spread};
use mil::ops::{Example, KINDS, examples};
use mil::{DType, Element};
use rand::RngExt;
use sim::Profile;

/// Inputs of an example: spread over its domain, exact in f16 so that both element types see the
/// same ones.
fn inputs_of(example: &Example, seed: u64) -> Vec<(String, Vec<f32>)> {
    let mut rng = rng(seed);
    let sizes: Vec<usize> = example.operands.iter().map(|ty| ty.numel()).collect();
    let mut all = spread(&mut rng, sizes.iter().sum(), example.domain);
    let operands = example.operands.iter().zip(sizes).enumerate();
    operands
        .map(|(i, (ty, n))| {
            let mut values: Vec<f32> = all.drain(..n).collect();
            if ty.dtype == DType::Bool {
                values = (0..n).map(|_| f32::from(u8::from(rng.random::<bool>()))).collect();
            }
            let rounded = values.iter().map(|v| Element::F16.round(*v)).collect();
            (format!("x{i}"), rounded)
        })
        .collect()
}

/// Oracle: the same program in f32. A result of f16 differs from it by half a step, 2^-11 of its
/// size; composites are chains of up to a dozen ops of which the worst loses a few bits, so 2^-7
/// of the largest element is allowed (and 2^-11 would fail for most of them).
#[test]
fn every_op_runs_in_f32_and_in_f16_and_they_agree() {
    let mut seen = HashSet::new();
    for (seed, example) in examples().iter().enumerate() {
        seen.insert(example.op.name());
        let inputs = inputs_of(example, seed as u64);
        let wide = program_of(Element::F32, &example.op, &example.operands);
        let half = program_of(Element::F16, &example.op, &example.operands);
        let expected = run(&wide, &Profile::m4(), &inputs);
        for profile in Profile::NAMES {
            let profile = Profile::by_name(profile).expect("it is on the list");
            let actual = run(&half, &profile, &inputs);
            assert_eq!(expected.keys().collect::<Vec<_>>(), actual.keys().collect::<Vec<_>>());
            for (name, expected) in &expected {
                assert!(expected.iter().all(|v| v.is_finite()), "{:?}", example.op);
                let bound = largest(expected).max(1e-3) * 2.0_f32.powi(-7);
                let error = distance(expected, &actual[name]);
                assert!(error <= bound, "{:?}, {name}, {}: {error} > {bound}", example.op, profile.name);
                let rounded = actual[name].iter().all(|v| Element::F16.round(*v) == *v);
                assert!(rounded, "{:?} leaves values that are no f16", example.op);
            }
        }
    }
    for kind in KINDS {
        assert!(seen.contains(kind.name), "{} was not run", kind.name);
    }
}

/// In f32 a profile changes nothing.
#[test]
fn profiles_do_not_touch_f32() {
    for (seed, example) in examples().iter().enumerate() {
        let inputs = inputs_of(example, seed as u64);
        let program = program_of(Element::F32, &example.op, &example.operands);
        let mut bent = Profile::m1();
        bent.round_products = true;
        bent.flush_subnormals = true;
        bent.propagate_nan = false;
        let expected = run(&program, &Profile::exact(), &inputs);
        assert_eq!(expected, run(&program, &bent, &inputs), "{:?}", example.op);
    }
}

#[test]
fn wrong_inputs_are_errors_that_name_the_port() {
    let example = &examples()[0];
    let program = program_of(Element::F32, &example.op, &example.operands);
    let exact = Profile::exact();
    let message = |inputs: &[(&str, &[f32])]| {
        sim::run(&program, &exact, inputs).expect_err("the inputs are wrong").to_string()
    };
    assert!(message(&[("x0", &[0.0; 24])]).contains("`x1`: it is not given"));
    assert!(message(&[("z", &[0.0; 24])]).contains("`z`: the program has no such port"));
    let short = message(&[("x0", &[0.0; 23]), ("x1", &[0.0; 3])]);
    assert!(short.contains("`x0`") && short.contains("24 elements; 23 were given"), "{short}");
}

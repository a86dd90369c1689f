//! What the tests of this crate share.
#![allow(dead_code)] // no test file uses all of it

use std::collections::BTreeMap;

use mil::{Builder, Constant, DType, Element, Op, Program, TensorType};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Outputs by port name.
pub(crate) type Outputs = BTreeMap<String, Vec<f32>>;

/// A repeatable stream of random numbers.
pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Values evenly spaced over `domain`, its ends excluded, in random order: no two are closer than
/// the spacing, so that ops with corners are differentiated away from them.
pub(crate) fn spread(rng: &mut ChaCha8Rng, len: usize, (low, high): (f32, f32)) -> Vec<f32> {
    let step = (high - low) / len as f32;
    let mut values: Vec<f32> = (0..len).map(|i| low + (i as f32 + 0.5) * step).collect();
    values.shuffle(rng);
    values
}

/// Standard normal values times `std`, by Box and Muller.
pub(crate) fn normal(rng: &mut ChaCha8Rng, len: usize, std: f32) -> Vec<f32> {
    (0..len)
        .map(|_| {
            let (a, b): (f64, f64) = (rng.random(), rng.random());
            let radius = (-2.0 * (1.0 - a).ln()).sqrt();
            (radius * (std::f64::consts::TAU * b).cos()) as f32 * std
        })
        .collect()
}

/// Uniform values.
pub(crate) fn uniform(rng: &mut ChaCha8Rng, len: usize, low: f32, high: f32) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(low..high)).collect()
}

/// A program of one statement with inputs `x0`, `x1`, … and outputs `y0`, `y1`, …
pub(crate) fn program_of(element: Element, op: &Op, operands: &[TensorType]) -> Program {
    let mut b = Builder::new(element);
    let mut args = Vec::new();
    for (i, ty) in operands.iter().enumerate() {
        let dtype = if ty.dtype.is_float() { element.dtype() } else { ty.dtype };
        let ty = TensorType::new(dtype, &ty.shape);
        args.push(b.typed_input(&format!("x{i}"), ty).expect("a new name"));
    }
    let results = b.push(op.clone(), &args).expect("operands fit");
    for (i, result) in results.into_iter().enumerate() {
        // A truth value is no port of a real program; 1 and 0 stand for it.
        let result = if b.ty(result).dtype == DType::Bool {
            let one = b.constant(Constant::float(element, &[], [1.0]));
            let zero = b.constant(Constant::float(element, &[], [0.0]));
            b.select(result, one, zero).expect("shapes broadcast")
        } else {
            result
        };
        b.output(&format!("y{i}"), result).expect("a new name");
    }
    b.finish().expect("it has outputs")
}

/// Runs `program` on named inputs.
pub(crate) fn run(program: &Program, profile: &sim::Profile, inputs: &[(String, Vec<f32>)]) -> Outputs {
    let inputs: Vec<(&str, &[f32])> =
        inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    sim::run(program, profile, &inputs).unwrap_or_else(|error| panic!("{error}"))
}

/// The largest magnitude, 0 of nothing.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

/// The largest difference.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |max, (a, b)| {
        let d = (a - b).abs();
        if d > max || d.is_nan() { d } else { max }
    })
}

//! Orthogonal factors by products alone, against PyTorch's values, on f32 and on the engine's f16.

use std::sync::Arc;

use cpu::CpuDevice;
use device::Device;
use mil::Element;
use mil::lint::{Chip, Route, Severity};
use model::orthogonal::{COEFFICIENTS, MARGIN, Orthogonalizer, frobenius, program};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::SafeTensors;
use sim::{Profile, SimDevice};

/// What rounding a matrix to f16 leaves of noise, a share of its Frobenius norm: errors are evenly spread over a unit,
/// 2^-10 of the power of two below (2^-10 / √12), and numbers 1.36 times that power on average.
const ROUNDING: f64 = 2.1e-4;

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(2))
}

fn engine() -> Arc<dyn Device> {
    Arc::new(SimDevice::new(Profile::m4()))
}

fn orthogonal(device: Arc<dyn Device>, [rows, columns]: [usize; 2], matrix: &[f32]) -> Vec<f32> {
    let mut values = matrix.to_vec();
    let mut orthogonalizer =
        Orthogonalizer::new(device, MARGIN, [[rows, columns]]).expect("the device takes it");
    orthogonalizer.run(rows, columns, &mut values).expect("it runs");
    values
}

/// The Frobenius norm of the difference over that of `wanted`.
fn difference(got: &[f32], wanted: &[f32]) -> f64 {
    let differences: Vec<f32> = got.iter().zip(wanted).map(|(got, wanted)| got - wanted).collect();
    frobenius(&differences) / frobenius(wanted)
}

/// Entries are sums of four numbers in (-1, 1): nearly normal.
fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (0..4).map(|_| rng.random::<f32>() * 2.0 - 1.0).sum()).collect()
}

/// Oracle: the iteration in f64 by PyTorch (`tests/golden/make_muon_golden.py`). Tolerance: a direction with a small
/// singular value grows by the product of the first coefficients, 1e3, and its rounding, 6e-8 for each of some ten
/// products, with it; the smallest singular value here is 1/30 of the largest.
#[test]
fn f32_is_pytorchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/muon.safetensors");
    let bytes = std::fs::read(path).expect("it is committed");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    for (name, shape) in [("wide", [6, 11]), ("tall", [13, 5]), ("square", [8, 8])] {
        let tensor = |name: &str| -> Vec<f32> {
            let tensor = file.tensor(name).expect("it is in the file");
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect()
        };
        let gradient = tensor(&format!("{name}.gradients"))[..shape[0] * shape[1]].to_vec();
        let error = difference(&orthogonal(cpu(), shape, &gradient), &tensor(&format!("{name}.orthogonal")));
        assert!(error < 2e-5, "{name}: {error:e}");
    }
}

/// A matrix whose singular values fall evenly over so many decades: rows of noise of such sizes, mixed by the cosine
/// transform, which is orthogonal, so that no entry tells them apart. Those of the noise itself are within a factor of
/// (√columns + √rows) / (√columns - √rows), 4.2 for [768, 2048].
fn decaying([rows, columns]: [usize; 2], decades: f32, seed: u64) -> Vec<f32> {
    let noise = random(rows * columns, seed);
    let mut matrix = vec![0.0; rows * columns];
    matrix.par_chunks_mut(columns).enumerate().for_each(|(row, values)| {
        for (at, noise) in noise.chunks(columns).enumerate() {
            let share = if at == 0 { 1.0 } else { 2.0 } / rows as f32;
            let angle = ((2 * row + 1) * at) as f64 * std::f64::consts::PI / (2 * rows) as f64;
            let size = 10_f32.powf(-decades * at as f32 / (rows - 1) as f32);
            let factor = share.sqrt() * angle.cos() as f32 * size;
            values.iter_mut().zip(noise).for_each(|(value, noise)| *value += factor * noise);
        }
    });
    matrix
}

/// The engine's f16 keeps the direction: measured relative errors are 0.5 to 1.3% for matrices of noise, as
/// gradients of a small batch nearly are; Muon's own approximation leaves singular values 0.7 to 1.2.
#[test]
fn f16_stays_near_f32() {
    for shape in [[64, 64], [64, 192], [192, 64], [96, 256], [768, 2048]] {
        let matrix = random(shape[0] * shape[1], 7);
        let error = difference(&orthogonal(engine(), shape, &matrix), &orthogonal(cpu(), shape, &matrix));
        println!("{shape:?}: {error:.2e}");
        assert!(error < 0.02, "{shape:?}: {error:e}");
    }
}

/// Oracle: the same products in f32, of a real size, for singular values over four decades. Tolerance: X is rounded at
/// first, and in each of five steps both terms and their sum are. Each time that adds noise in all directions, which
/// ends as at most `ROUNDING` times the product of all a: it grows by no more than a in a step, and so does X. Together,
/// in quadrature, that is 0.83 in a factor of norm 21.3, or 3.9%. An emulation in PyTorch gives 1.5%, because larger
/// singular values grow less, and 5.1% for a matrix in bf16, of which that one rounding is 8 times as coarse: it is seen.
#[test]
fn f16_stays_near_f32_for_ill_conditioned_matrices() {
    let shape = [768, 2048];
    let matrix = decaying(shape, 4.0, 5);
    let wanted = orthogonal(cpu(), shape, &matrix);
    let roundings = (1 + 3 * COEFFICIENTS.len()) as f64;
    let gain: f64 = COEFFICIENTS.iter().map(|[a, ..]| f64::from(*a)).product();
    let tolerance = ROUNDING * roundings.sqrt() * gain / frobenius(&wanted);
    let error = difference(&orthogonal(engine(), shape, &matrix), &wanted);
    let to_bf16 = |value: &f32| f32::from_bits((value.to_bits() + 0x8000) & 0xffff_0000);
    let coarse: Vec<f32> = matrix.iter().map(to_bf16).collect();
    let of_coarse = difference(&orthogonal(engine(), shape, &coarse), &wanted);
    println!("{error:.2e}, from bf16 {of_coarse:.2e}; allowed {tolerance:.2e}");
    assert!(error < tolerance, "{error:e}, allowed {tolerance:e}");
    assert!(of_coarse > tolerance, "bf16 is not seen: {of_coarse:e}, allowed {tolerance:e}");
}

/// Of a direction and what it should be, the sine of the angle between them.
fn turned(got: &[f32], wanted: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let along = dot(got, wanted) / dot(wanted, wanted);
    let rest =
        got.iter().zip(wanted).map(|(got, wanted)| (f64::from(*got) - along * f64::from(*wanted)).powi(2));
    (rest.sum::<f64>() / dot(got, got)).sqrt()
}

/// Where `got`, which should be along u vᵀ, takes v, and its transpose u: the larger angle to u and v, as a sine.
fn tilt(got: &[f32], u: &[f32], v: &[f32]) -> f64 {
    let (mut of_v, mut of_u) = (vec![0.0; u.len()], vec![0.0; v.len()]);
    for (row, values) in got.chunks(v.len()).enumerate() {
        for (column, value) in values.iter().enumerate() {
            of_v[row] += value * v[column];
            of_u[column] += value * u[row];
        }
    }
    turned(&of_v, u).max(turned(&of_u, v))
}

/// Nothing overflows and nothing turns into zeros for the matrices that are furthest from noise, and a single singular
/// value keeps its directions. Oracle: they themselves. Tolerance: twice what rounding does to one row in five steps,
/// whose terms are larger than their sums (8.0 - 6.8 = 1.2 in the first): 13 `ROUNDING` in quadrature. What it adds in
/// all other directions does not count here; that is what makes the norm uncertain.
#[test]
fn f16_survives_extreme_matrices() {
    const TILT: f64 = 2.0 * 13.0 * ROUNDING;
    let shape @ [rows, columns] = [128, 256];
    let (u, v) = (random(rows, 1), random(columns, 2));
    let mut first = vec![0.0; rows];
    first[0] = 1.0;
    let product = |u: &[f32]| -> Vec<f32> { u.iter().flat_map(|u| v.iter().map(move |v| u * v)).collect() };
    let mut one_entry = vec![0.0; rows * columns];
    one_entry[5 * columns + 3] = 1e-20;
    let tiny: Vec<f32> = random(rows * columns, 4).into_iter().map(|value| value * 1e-30).collect();
    let huge: Vec<f32> = random(rows * columns, 4).into_iter().map(|value| value * 1e30).collect();
    for (name, matrix) in
        [("rank one", product(&u)), ("one entry", one_entry), ("one row", product(&first)), ("huge", huge)]
    {
        let got = orthogonal(engine(), shape, &matrix);
        assert!(got.iter().all(|value| value.is_finite()), "{name}");
        // Of all with one singular value it is that direction, of noise all of them.
        let wanted = if name == "huge" { (rows as f64).sqrt() } else { 1.0 };
        let norm = frobenius(&got);
        if name != "one entry" {
            assert!((0.7..1.3).contains(&(norm / wanted)), "{name}: {norm}");
        }
    }
    // A hundredth of something else in the direction is seen.
    let other: Vec<f32> = v.iter().zip(random(columns, 3)).map(|(v, other)| v + 0.01 * other).collect();
    for (name, u) in [("rank one", &u), ("one row", &first)] {
        let got = orthogonal(engine(), shape, &product(u));
        let tilts = [&v, &other].map(|v| tilt(&got, u, v));
        println!("{name}: {tilts:?}, allowed {TILT:.2e}");
        assert!(tilts[0] < TILT && tilts[1] > TILT, "{name}: {tilts:?}");
    }
    // Below the addend of the norm it fades away, as in autoresearch.
    for matrix in [tiny, vec![0.0; rows * columns]] {
        let got = orthogonal(engine(), shape, &matrix);
        assert!(got.iter().all(|value| value.abs() < 1e-6), "it stays nothing");
    }
}

#[test]
fn every_preset_has_programs_that_the_routes_take() {
    for name in model::presets::NAMES {
        let config = model::presets::by_name(name).expect("a preset");
        for parameter in model::Parameter::all(&config) {
            if parameter.kind != model::ParameterKind::Matrix {
                continue;
            }
            let program = program(parameter.shape[0], parameter.shape[1], Element::F16).expect("it builds");
            for chip in Chip::ALL {
                let findings = program.lint(chip, Route::Ane);
                let error = findings.iter().find(|finding| finding.severity == Severity::Error);
                assert!(error.is_none(), "{name} {:?} {chip:?}: {error:?}", parameter.shape);
            }
        }
    }
}

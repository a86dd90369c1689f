//! Orthogonal factors by products alone, against PyTorch's values, on f32 and on the engine's f16.

use std::sync::Arc;

use cpu::CpuDevice;
use device::Device;
use mil::Element;
use mil::lint::{Chip, Route, Severity};
use model::orthogonal::{Orthogonalizer, frobenius, program};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use sim::{Profile, SimDevice};

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(2))
}

fn engine() -> Arc<dyn Device> {
    Arc::new(SimDevice::new(Profile::m4()))
}

fn orthogonal(device: Arc<dyn Device>, [rows, columns]: [usize; 2], matrix: &[f32]) -> Vec<f32> {
    let mut values = matrix.to_vec();
    let mut orthogonalizer = Orthogonalizer::new(device, [[rows, columns]]).expect("the device takes it");
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

/// The engine's f16 keeps the direction: measured relative errors are 0.9 to 1.3% for matrices of noise, as
/// gradients of a small batch nearly are; Muon's own approximation leaves singular values 0.7 to 1.2.
#[test]
fn f16_stays_near_f32() {
    for shape in [[64, 64], [64, 192], [192, 64], [96, 256]] {
        let matrix = random(shape[0] * shape[1], 7);
        let error = difference(&orthogonal(engine(), shape, &matrix), &orthogonal(cpu(), shape, &matrix));
        println!("{shape:?}: {error:.2e}");
        assert!(error < 0.02, "{shape:?}: {error:e}");
    }
}

/// Nothing overflows and nothing turns into zeros for the matrices that are furthest from noise.
#[test]
fn f16_survives_extreme_matrices() {
    let shape @ [rows, columns] = [128, 256];
    let (u, v) = (random(rows, 1), random(columns, 2));
    let rank_one: Vec<f32> = u.iter().flat_map(|u| v.iter().map(move |v| u * v)).collect();
    let mut one_entry = vec![0.0; rows * columns];
    one_entry[5 * columns + 3] = 1e-20;
    let mut one_row = vec![0.0; rows * columns];
    one_row[..columns].copy_from_slice(&random(columns, 3));
    let tiny: Vec<f32> = random(rows * columns, 4).into_iter().map(|value| value * 1e-30).collect();
    let huge: Vec<f32> = random(rows * columns, 4).into_iter().map(|value| value * 1e30).collect();
    for (name, matrix) in
        [("rank one", rank_one), ("one entry", one_entry), ("one row", one_row), ("huge", huge)]
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

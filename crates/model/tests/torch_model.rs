//! Whole models against PyTorch: forward, loss and every gradient.
//!
//! Oracle: `tests/golden/make_model_goldens.py`, which computes in f64 and stores f32.

mod common;

use common::{Golden, compare_model, devices_f32, sim_f16};
use model::StackOptions;

const GOLDENS: &[&str] = &[
    "model_swiglu_tied.safetensors",
    "model_odd.safetensors",
    "model_window.safetensors",
    "model_all.safetensors",
];

/// f32 rounds to 6e-8; sums of up to a few hundred terms through two layers and back multiply that
/// by well under a thousand.
const F32_TOLERANCE: f64 = 1e-5;

#[test]
fn f32_devices_agree_with_pytorch() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        for device in devices_f32() {
            let what = format!("{name} on {}", device.describe());
            let mut stack = golden.stack(device, StackOptions::default());
            let misses = compare_model(&golden, &mut stack, F32_TOLERANCE);
            assert!(misses.0.is_empty(), "{what}:\n{}", misses.0.join("\n"));
        }
    }
}

/// f16 rounds to 4.9e-4 (half a unit in the last place of 11 bits). Errors of the roundings along a
/// path of some tens of ops add up like a random walk: sqrt(40) * 4.9e-4 = 3e-3 for typical
/// quantities, and several times that for gradients that are small differences of large terms
/// (queries and keys, through softmax's centred gradient).
const F16_TOLERANCE: f64 = 2e-2;

#[test]
fn sim_in_f16_agrees_with_pytorch_within_f16() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        for chip in ["m1", "m4"] {
            let mut stack = golden.stack(sim_f16(chip), StackOptions::default());
            let misses = compare_model(&golden, &mut stack, F16_TOLERANCE);
            assert!(misses.0.is_empty(), "{name} on {chip}:\n{}", misses.0.join("\n"));
        }
    }
}

/// bf16 rounds to 2e-3 (half a unit in the last place of 8 bits), four times as coarse as f16, but here only the operands
/// of products: two thirds of a path's roundings are not there.
const BF16_TOLERANCE: f64 = 5e-2;

#[test]
fn products_in_bf16_agree_with_pytorch_within_bf16() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        let device = std::sync::Arc::new(cpu::CpuDevice::with_precision(2, cpu::Precision::Bf16));
        let mut stack = golden.stack(device, StackOptions::default());
        let misses = compare_model(&golden, &mut stack, BF16_TOLERANCE);
        assert!(misses.0.is_empty(), "{name}:\n{}", misses.0.join("\n"));
        // And they are in bf16.
        assert!(!compare_model(&golden, &mut stack, 10.0 * F32_TOLERANCE).0.is_empty(), "{name}");
    }
}

/// The comparison can fail: a gradient that lost the residual scale on one branch, or a thousandth
/// of its size, is found.
#[test]
fn a_dropped_factor_is_found() {
    let golden = Golden::read(GOLDENS[0]);
    assert_ne!(golden.config.residual_scale, 1.0);
    let name = "grad.model.layers.1.mlp.down_proj.weight";
    let expected = golden.tensor(name);
    for factor in [1.0 / golden.config.residual_scale, 0.999] {
        let faulty: Vec<f32> = expected.iter().map(|g| g * factor).collect();
        let mut misses = common::Misses::default();
        misses.check(name, &faulty, expected, F32_TOLERANCE);
        assert_eq!(misses.0.len(), 1, "factor {factor} went unnoticed");
    }
    // And in the program itself: the same model with another residual scale disagrees widely.
    let mut changed = Golden::read(GOLDENS[0]);
    changed.config.residual_scale = 1.0;
    let mut stack = changed.stack(devices_f32().remove(0), StackOptions::default());
    assert!(!compare_model(&golden, &mut stack, F16_TOLERANCE).0.is_empty());
}

/// Each piece that Llama lacks shows: the model without it, or with a fault that could have been made in it,
/// disagrees widely, on the CPU in f32.
#[test]
fn a_fault_in_any_piece_is_found() {
    let golden = Golden::read("model_all.safetensors");
    let misses = |changed: &Golden, fault: &dyn Fn(&str, &mut Vec<f32>)| {
        let mut stack = changed.stack(devices_f32().remove(0), StackOptions::default());
        for (index, parameter) in stack.parameters().to_vec().iter().enumerate() {
            let mut values = golden.tensor(&parameter.name).to_vec();
            fault(&parameter.name, &mut values);
            stack.set_weights(index, &values).unwrap();
        }
        compare_model(&golden, &mut stack, 100.0 * F32_TOLERANCE).0.len()
    };
    // Token losses and gradients, where the factors of a kind are one vector: 4 layers with 6 matrices, 2 of them
    // with a gate and a table.
    let all = 1 + 2 + 2 + 4 * 6 + 2 * 2;
    assert_eq!(misses(&golden, &|_, _| ()), 0, "no fault");
    type Change = fn(&mut model::ModelConfig);
    let configs: [(&str, Change); 4] = [
        ("embeddings are not normed", |config| config.embed_norm = false),
        ("another pattern of windows", |config| config.window_pattern = "SLSL".into()),
        ("no window", |config| config.window_pattern = String::new()),
        ("queries and keys are not normed", |config| config.qk_norm = false),
    ];
    for (what, change) in configs {
        let mut changed = Golden::read("model_all.safetensors");
        change(&mut changed.config);
        let found = misses(&changed, &|_, _| ());
        assert!(found > all / 2, "{what}: {found} of {all}");
    }
    type Fault = fn(&str, &mut Vec<f32>);
    let weights: [(&str, Fault); 4] = [
        ("a gate without its factor of 2", |name, values| {
            if name.contains("value_embed") {
                values.iter_mut().for_each(|value| *value *= 0.5);
            }
        }),
        ("a gate of other heads", |name, values| {
            if name.contains("value_gate") {
                values.rotate_left(model::GATE_CHANNELS);
            }
        }),
        ("no factor on the stream", |name, values| {
            if name.contains("resid_lambda") {
                values[0] = 1.0;
            }
        }),
        ("no x0", |name, values| {
            if name.contains("x0_lambda") {
                values[0] = 0.0;
            }
        }),
    ];
    for (what, fault) in weights {
        let found = misses(&golden, &fault);
        assert!(found > all / 2, "{what}: {found} of {all}");
    }
}

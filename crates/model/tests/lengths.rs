//! The layers of every preset at every sequence length that is promised, and arithmetic at the longest.

mod common;

use std::sync::Arc;

use common::relative_error;
use cpu::CpuDevice;
use device::Device;
use mil::Element;
use model::{Cut, ModelConfig, Stack, StackOptions, Taps, initial_values, layer, presets};
use sim::{Profile, SimDevice};

/// Programs only: no buffers, which for the large presets would take gigabytes.
#[test]
fn the_layers_of_every_preset_compile_at_every_length() {
    let devices: [Arc<dyn Device>; 2] =
        [Arc::new(CpuDevice::new(1)), Arc::new(SimDevice::new(Profile::m1()))];
    for name in presets::NAMES {
        for seq_len in [512, 1024, 2048] {
            let config = ModelConfig { seq_len, ..presets::by_name(name).unwrap() };
            config.validate().unwrap_or_else(|error| panic!("{name} at {seq_len}: {error}"));
            for device in &devices {
                for (kind, _) in config.layer_kinds() {
                    let joint = layer::joint(&config, kind, 1, device.element()).unwrap();
                    for cut in Cut::ALL {
                        for segment in cut.divide(&joint, kind, Taps::Keep).unwrap() {
                            if let Err(error) = device.compile(&segment.name, &segment.program) {
                                panic!("{name} at {seq_len}, cut {}: {error}", cut.name());
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Oracle: `sim`, which computes scores, mask and softmax statement by statement, where `cpu` goes
/// through them block by block; at lengths of some tens both agree with PyTorch. Tolerances: a sum of
/// n terms in another order is off by sqrt(n) * 6e-8, at 2,048 positions 3e-6, and a path of tens of
/// such sums by ten times that; in f16 as in `torch_model.rs`.
#[test]
fn two_thousand_positions() {
    let config = ModelConfig {
        n_layers: 1,
        width: 32,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        ffn_hidden: 48,
        vocab_size: 96,
        seq_len: 2048,
        init: model::InitConfig {
            embedding_std: 0.3,
            zero_output_projections: false,
            ..model::InitConfig::default()
        },
        ..presets::by_name("tiny").unwrap()
    };
    let ids: Vec<u32> = (0..2048_u32).map(|at| (at * at + 7 * (at >> 3)) % 96).collect();
    let targets: Vec<u32> = ids[1..].iter().chain(&ids[..1]).copied().collect();
    let log_scale = (64.0_f32 / 2048.0).ln();
    let run = |device: Arc<dyn Device>| {
        let mut stack = Stack::new(&config, device, &StackOptions::default()).unwrap();
        for (index, parameter) in stack.parameters().to_vec().iter().enumerate() {
            stack.set_weights(index, &initial_values(&config, parameter, 1)).unwrap();
        }
        let report = stack.forward_backward(&ids, &targets, log_scale, true).unwrap();
        let scale = stack.effective_scale(log_scale) as f32;
        let names: Vec<String> = stack.parameters().iter().map(|p| p.name.clone()).collect();
        let gradients = (0..names.len())
            .map(|index| stack.gradient(index).iter().map(|g| g / scale).collect::<Vec<f32>>());
        let mut all = vec![("nll".to_owned(), report.nll)];
        let gradients: Vec<_> = gradients.collect();
        all.extend(names.into_iter().zip(gradients));
        all
    };
    let expected = run(Arc::new(SimDevice::with_element(Profile::exact(), Element::F32)));
    let ours: [(Arc<dyn Device>, f64); 2] =
        [(Arc::new(CpuDevice::new(2)), 3e-5), (Arc::new(SimDevice::new(Profile::m1())), 2e-2)];
    for (device, tolerance) in ours {
        let what = device.describe();
        for ((name, actual), (_, expected)) in run(device).iter().zip(&expected) {
            let error = relative_error(actual, expected);
            assert!(error <= tolerance, "{what}, {name}: {error:.2e}");
        }
    }
}

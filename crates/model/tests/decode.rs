//! Decoding with cached keys and values gives the logits of the training forward pass.
//!
//! Oracle: PyTorch's logits over whole sequences.

mod common;

use common::{Golden, devices_f32, relative_error, sim_f16};
use model::{Decoder, Parameter, Stack, StackOptions};

#[test]
fn tokens_one_by_one_give_the_logits_of_the_whole_sequence() {
    for name in [
        "model_swiglu_tied.safetensors",
        "model_odd.safetensors",
        "model_window.safetensors",
        "model_all.safetensors",
    ] {
        let golden = Golden::read(name);
        let weights: Vec<Vec<f32>> =
            Parameter::all(&golden.config).iter().map(|p| golden.tensor(&p.name).to_vec()).collect();
        let (s, v) = (golden.config.seq_len, golden.config.vocab_size);
        for device in devices_f32() {
            let mut decoder = Decoder::new(&golden.config, &device, &weights).unwrap();
            for sequence in 0..2 {
                decoder.reset();
                for t in 0..s {
                    let logits = decoder.feed(golden.ids()[sequence * s + t]).unwrap();
                    let expected = &golden.tensor("logits")[(sequence * s + t) * v..][..v];
                    // f32 roundings through two layers; see torch_model.rs.
                    let error = relative_error(&logits, expected);
                    assert!(error < 1e-5, "{name} on {}, token {t}: {error:.1e}", device.describe());
                }
            }
            assert!(decoder.feed(0).unwrap_err().to_string().contains("full"));
        }
    }
}

/// A sequence long enough for two lengths of caches, and a second one after it, without and with a window; on a device
/// whose memory the host writes into, and on one where it goes through copies. Oracle: the pass that training uses, which
/// is compared with PyTorch's elsewhere.
#[test]
fn caches_grow_without_a_trace() {
    let base = model::presets::by_name("odd-all").unwrap();
    let config = model::ModelConfig { seq_len: 260, ..base };
    let weights: Vec<Vec<f32>> =
        Parameter::all(&config).iter().map(|p| model::initial_values(&config, p, 3)).collect();
    let ids: Vec<u32> = (0..config.seq_len as u32).map(|i| i * 37 % config.vocab_size as u32).collect();
    // f32 in another order, of logits around 1 (see torch_model.rs); in f16, whose values go through copies, 2e-2 of them.
    let devices = devices_f32().into_iter().map(|device| (device, 2e-5));
    for (device, tolerance) in devices.chain([(sim_f16("m4"), 2e-2)]) {
        let mut stack = Stack::new(&config, device.clone(), &StackOptions::default()).unwrap();
        for (index, values) in weights.iter().enumerate() {
            stack.set_weights(index, values).unwrap();
        }
        let mut targets = ids.clone();
        targets.rotate_left(1);
        let want = stack.evaluate(&ids, &targets).unwrap().nll;
        let mut decoder = Decoder::new(&config, &device, &weights).unwrap();
        for _ in 0..2 {
            let mut contexts = Vec::new();
            for (t, id) in ids.iter().enumerate() {
                let logits = decoder.feed(*id).unwrap();
                contexts.push(decoder.context());
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
                let nll = sum.ln() + f64::from(largest - logits[targets[t] as usize]);
                let error = (nll - f64::from(want[t])).abs();
                assert!(error < tolerance, "{}, token {t}: {error:.1e}", device.describe());
            }
            contexts.dedup();
            assert_eq!(contexts, [65, 260]);
            decoder.reset();
        }
    }
}

/// A vocabulary beyond the longest axis of a chip decodes in tiles. Oracle: the f32 device, which has
/// one tile; tolerance as f16 rounds (see torch_model.rs).
#[test]
fn a_vocabulary_longer_than_an_axis_decodes_in_tiles() {
    let config = model::ModelConfig { vocab_size: 20_000, ..model::presets::by_name("odd").unwrap() };
    let weights: Vec<Vec<f32>> =
        Parameter::all(&config).iter().map(|p| model::initial_values(&config, p, 3)).collect();
    let mut logits = Vec::new();
    for device in [sim_f16("m1"), devices_f32().remove(0)] {
        let mut decoder = Decoder::new(&config, &device, &weights).unwrap();
        logits.push(decoder.feed(19_999).unwrap());
    }
    assert_eq!(logits[0].len(), 20_000);
    assert!(relative_error(&logits[0], &logits[1]) < 2e-2);
}

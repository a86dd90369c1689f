//! Decoding with cached keys and values gives the logits of the training forward pass.
//!
//! Oracle: PyTorch's logits over whole sequences.

mod common;

use common::{Golden, devices_f32, relative_error};
use model::{Decoder, Parameter};

#[test]
fn tokens_one_by_one_give_the_logits_of_the_whole_sequence() {
    for name in ["model_swiglu_tied.safetensors", "model_odd.safetensors", "model_window.safetensors"] {
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

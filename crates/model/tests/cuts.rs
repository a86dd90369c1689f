//! Every way of dividing a layer, of keeping taps and of tiling the vocabulary computes the same.
//!
//! Oracle: PyTorch's golden values, and the undivided layer: dividing moves statements, it does not
//! change them, so gradients are equal to the last bit on a device that computes statement by
//! statement.

mod common;

use common::{Golden, Misses, compare_model, devices_f32, sim_f16, together};
use model::{Cut, Stack, StackOptions, Taps};

fn gradients(stack: &mut Stack, golden: &Golden) -> Vec<Vec<f32>> {
    stack.forward_backward(golden.ids(), golden.targets(), (1.0_f32 / 64.0).ln(), true).unwrap();
    (0..stack.parameters().len()).map(|index| stack.gradient(index)).collect()
}

#[test]
fn every_cut_gives_the_same_gradients() {
    for name in ["model_odd.safetensors", "model_window.safetensors", "model_all.safetensors"] {
        let golden = Golden::read(name);
        for device in devices_f32().into_iter().chain([sim_f16("m4")]) {
            let mut reference =
                golden.stack(device.clone(), StackOptions { cut: Some(Cut::Whole), ..Default::default() });
            let expected = gradients(&mut reference, &golden);
            for cut in Cut::ALL {
                for taps in [Taps::Keep, Taps::Recompute] {
                    let options = StackOptions { cut: Some(cut), taps, ..Default::default() };
                    let mut stack = golden.stack(device.clone(), options);
                    // A fused kernel may order its sums differently from its decomposition; f16 rounds
                    // what passes between programs no differently from what stays inside.
                    let tolerance = 1e-6;
                    let mut misses = Misses::default();
                    let actual = gradients(&mut stack, &golden);
                    let actual = together(stack.parameters(), actual);
                    let expected = together(stack.parameters(), expected.clone());
                    for ((name, actual), (_, expected)) in actual.iter().zip(&expected) {
                        misses.check(name, actual, expected, tolerance);
                    }
                    let what = format!("{name}, {} {taps:?} on {}", cut.name(), device.describe());
                    assert!(misses.0.is_empty(), "{what}:\n{}", misses.0.join("\n"));
                }
            }
        }
    }
}

#[test]
fn vocabulary_tiles_agree_with_pytorch() {
    for name in ["model_swiglu_tied.safetensors", "model_odd.safetensors", "model_all.safetensors"] {
        let golden = Golden::read(name);
        for device in devices_f32() {
            for max_tile in [50, 131] {
                let mut stack = golden
                    .stack(device.clone(), StackOptions { max_tile: Some(max_tile), ..Default::default() });
                compare_model(&golden, &mut stack, 1e-5).none();
            }
        }
    }
}

#[test]
fn a_second_batch_adds_its_gradients() {
    for name in ["model_odd.safetensors", "model_all.safetensors"] {
        let golden = Golden::read(name);
        for device in devices_f32().into_iter().chain([sim_f16("m4")]) {
            for max_tile in [None, Some(50)] {
                let options = StackOptions { max_tile, ..Default::default() };
                let mut stack = golden.stack(device.clone(), options);
                let once = gradients(&mut stack, &golden);
                stack.forward_backward(golden.ids(), golden.targets(), (1.0_f32 / 64.0).ln(), false).unwrap();
                let mut misses = Misses::default();
                for (index, once) in once.iter().enumerate() {
                    let twice: Vec<f32> = once.iter().map(|g| 2.0 * g).collect();
                    // x + x is exact; a product that accumulates in place rounds its sums once more.
                    let sum = stack.gradient(index);
                    misses.check(&stack.parameters()[index].name, &sum, &twice, 1e-5);
                }
                misses.none();
            }
        }
    }
}

/// Oracle: the same with one thread. Every reduction of ours goes by shape, not by threads.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let golden = Golden::read("model_all.safetensors");
    let with = |threads: usize| {
        let device = std::sync::Arc::new(cpu::CpuDevice::new(threads));
        gradients(&mut golden.stack(device, StackOptions::default()), &golden)
    };
    let bits =
        |all: Vec<Vec<f32>>| -> Vec<u32> { all.concat().iter().map(|value| value.to_bits()).collect() };
    let one = bits(with(1));
    assert_eq!(one, bits(with(2)));
    assert_eq!(one, bits(with(5)));
}

/// The finest cut has the ten programs that are known to compile.
#[test]
fn the_finest_cut_has_ten_segments() {
    let config = model::presets::by_name("gpt-48m").unwrap();
    let kind = config.layer_kind(0);
    let joint = model::layer::joint(&config, kind, 1, mil::Element::F16).unwrap();
    let segments = Cut::Ten.divide(&joint, kind, Taps::Keep).unwrap();
    assert_eq!(segments.len(), 10);
    for segment in &segments {
        let products = segment.program.expand_all().unwrap();
        let count = products.stmts().iter().filter(|s| matches!(s.op, mil::Op::Matmul { .. })).count();
        assert!(count > 0, "{} computes no product", segment.name);
    }
}

//! The estimate of a step against a step: dispatches, bytes and buffers of a real [`Stack`] on a device that
//! counts, operations against a published count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use device::{Buffer, Device, Executable, Limits, Telemetry};
use mil::lint::{Chip, Route};
use mil::{Element, Program};
use model::estimate::{BATCHES, Plan, StepEstimate, Traffic, boundaries, choices};
use model::{Cut, ModelConfig, Stack, StackOptions, Taps, presets};
use sim::{Profile, SimDevice};

/// `sim`, and the elements that were allocated on it.
struct Counting {
    inner: SimDevice,
    elements: AtomicUsize,
}

impl Device for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn element(&self) -> Element {
        self.inner.element()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn compile(&self, name: &str, program: &Program) -> device::Result<Executable> {
        self.inner.compile(name, program)
    }
    fn alloc(&self, shape: &[usize]) -> device::Result<Buffer> {
        self.elements.fetch_add(shape.iter().product(), Ordering::Relaxed);
        self.inner.alloc(shape)
    }
    fn telemetry(&self) -> Telemetry {
        self.inner.telemetry()
    }
}

/// Grouped heads, an untied classifier; a tied one; a vocabulary of two tiles, tied and not; three kinds of
/// layers with everything that a model can have.
fn models() -> Vec<ModelConfig> {
    let odd = presets::by_name("odd").unwrap();
    let small = ModelConfig { n_layers: 3, seq_len: 16, ..odd.clone() };
    let tied = ModelConfig { tied: true, qk_norm: false, ..small.clone() };
    let tiled = ModelConfig { n_layers: 1, vocab_size: 16_500, ..small.clone() };
    let tiled_tied = ModelConfig { tied: true, ..tiled.clone() };
    vec![odd, tied, tiled, tiled_tied, presets::by_name("odd-all").unwrap()]
}

/// Oracle: the counters of a device under a [`Stack`] that takes a step of two batches.
#[test]
fn a_stack_moves_what_was_estimated() {
    for config in models() {
        for (at, cut) in Cut::ALL.into_iter().enumerate() {
            let taps = [Taps::Keep, Taps::Recompute][at % 2];
            let plan = Plan { batch: 1 + at % 2, batches: 2, cut, taps };
            let device =
                Arc::new(Counting { inner: SimDevice::new(Profile::m4()), elements: AtomicUsize::new(0) });
            let options = StackOptions { batch: plan.batch, cut: Some(cut), taps, max_tile: None };
            let mut stack = Stack::new(&config, device.clone(), &options).unwrap();
            let before = device.telemetry();
            let ids: Vec<u32> = (0..stack.tokens() as u32).map(|at| at % 131).collect();
            for batch in 0..plan.batches {
                stack.forward_backward(&ids, &ids, 0.0, batch == 0).unwrap();
            }
            for index in 0..stack.parameters().len() {
                stack.update(index, &mut |_, _, _| {}).unwrap();
            }
            let counted = device.telemetry().since(before);
            let what = format!("{config:?}, {plan:?}");
            let traffic = Traffic::of_step(&config, &plan).unwrap();
            assert_eq!(traffic.dispatches as u64, counted.dispatches, "{what}");
            assert_eq!(traffic.bytes_written as u64, counted.bytes_written, "{what}");
            assert_eq!(traffic.bytes_read as u64, counted.bytes_read, "{what}");
            let allocated = device.elements.load(Ordering::Relaxed) * Element::F16.bytes();
            assert_eq!(plan.buffer_bytes(&config).unwrap(), allocated, "{what}");
            let names: Vec<String> = plan.programs(&config).unwrap().into_iter().map(|p| p.name).collect();
            let compiled: u64 = names.len() as u64;
            assert_eq!(counted.compiles, 0, "{what}");
            // A stack also compiles what only evaluation runs: norm and statistics of one tile.
            let evaluation = if names.iter().any(|name| name == "head") { 2 } else { 0 };
            assert_eq!(before.compiles, compiled + evaluation, "{what}: {names:?}");
        }
    }
}

/// Oracle: autoresearch-ANE prints 130.5 G operations a step for six layers at sequence 512, attention not
/// counted. Attention has seven products of S x S x (H D): two forward, five backward.
#[test]
fn products_of_the_layers_are_those_that_others_count() {
    let config = presets::by_name("gpt-48m").unwrap();
    for cut in Cut::ALL {
        let plan = Plan { batch: 1, batches: 1, cut, taps: Taps::Keep };
        let mut flops = 0.0;
        for planned in plan.programs(&config).unwrap().iter().filter(|planned| planned.in_layer) {
            flops += planned.runs as f64 * planned.program.cost(|_| false).unwrap().product_flops;
        }
        let attention = 6.0 * 7.0 * 2.0 * 512.0 * 512.0 * 768.0;
        let layers = (flops - attention) / 1e9;
        assert!((layers / 130.5 - 1.0).abs() < 0.01, "{}: {layers}", cut.name());
    }
}

#[test]
fn a_step_is_the_sum_of_its_parts() {
    let config = presets::by_name("tiny").unwrap();
    let plan = Plan { batch: 2, batches: 3, cut: Cut::AttnFfn, taps: Taps::Keep };
    let steps = StepEstimate::on_each(&config, &plan, &Chip::ALL, Route::Ane).unwrap();
    for step in &steps {
        let layers = config.n_layers as f64 * step.layer_ms + step.head_ms;
        assert!((step.engine_ms - 3.0 * layers).abs() < 1e-9);
        assert!((step.step_ms - step.engine_ms - step.convert_ms - step.update_ms).abs() < 1e-9);
        assert_eq!(step.tokens, 6 * config.seq_len);
        assert!((step.tok_s * step.step_ms / 1e3 - step.tokens as f64).abs() < 1e-6);
    }
    // The M1 was measured to be the slowest in everything, the M5 the fastest in all but the floor.
    assert!(steps[0].step_ms > steps[1].step_ms && steps[3].step_ms > steps[4].step_ms);
}

#[test]
fn choices_are_sorted_and_keep_to_the_budget() {
    let config = presets::by_name("tiny").unwrap();
    let all = choices(&config, Chip::M4, Route::Ane, 8, usize::MAX).unwrap();
    assert_eq!(all.len(), BATCHES.iter().filter(|batch| 8 % **batch == 0).count() * 3 * 2);
    assert!(all.iter().all(|choice| choice.problem.is_none()));
    assert!(all.windows(2).all(|pair| pair[0].step_ms <= pair[1].step_ms));
    // One batch of all sequences needs the fewest dispatches and streams weights and gradients once.
    assert_eq!((all[0].cut, all[0].batch), (Cut::Whole, 8));

    let largest = all.iter().map(|choice| choice.memory_bytes).max().unwrap();
    let tight = choices(&config, Chip::M4, Route::Ane, 8, largest - 1).unwrap();
    let refused: Vec<_> = tight.iter().skip_while(|choice| choice.problem.is_none()).collect();
    assert!(!refused.is_empty() && refused.iter().all(|choice| choice.memory_bytes == largest));
    assert!(refused[0].problem.as_deref().unwrap().contains("GB"));
    let of = |taps: Taps| {
        all.iter().find(|c| (c.cut, c.batch, c.taps) == (Cut::Whole, 8, taps)).unwrap().memory_bytes
    };
    assert!(of(Taps::Recompute) < of(Taps::Keep));

    // 16 sequences of 2048 tokens are more columns than an axis of an M3 has.
    let long = ModelConfig { seq_len: 2048, n_layers: 1, width: 32, ffn_hidden: 32, ..config };
    let long = choices(&long, Chip::M3, Route::Ane, 16, usize::MAX).unwrap();
    let problems = long.iter().filter(|c| c.problem.as_deref().is_some_and(|p| p.contains("axis")));
    assert_eq!(problems.count(), 6);
}

/// The two targets that the engine's cut was made for: at most 20 dispatches for four sequences, and at most
/// a quarter of the bytes of autoresearch-ANE for a token, whichever way its bytes are counted.
#[test]
fn the_whole_cut_meets_its_targets_at_the_boundary() {
    let rows = boundaries(&presets::by_name("gpt-48m").unwrap(), 4).unwrap();
    let (ours, theirs) = (&rows[0], &rows[3..]);
    assert!(ours.system.contains("`whole`"), "{}", ours.system);
    assert!(ours.dispatches <= 20, "{}", ours.dispatches);
    assert_eq!(theirs.len(), 2);
    for theirs in theirs {
        assert_eq!(theirs.dispatches, 4 * 60);
        let ratio = ours.bytes_per_token() / theirs.bytes_per_token();
        assert!(ratio <= 0.25, "{ratio}: {ours:?} {theirs:?}");
    }
}

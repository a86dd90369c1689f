//! The models that the Rust peers train, as `shapes.py` wrote them, and the clock around a step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use safetensors::{Dtype, SafeTensors};

/// A file of `shapes.py --save`: sizes in its metadata; weights by name, `cos` and `sin` [T, head_dim], `tokens` [steps, B, T + 1].
pub struct Model {
    numbers: BTreeMap<String, f64>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Model {
    pub fn read(path: &Path) -> Model {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, head) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let numbers = head.metadata().as_ref().expect("sizes in the metadata").iter();
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        Model {
            numbers: numbers.map(|(name, value)| (name.clone(), value.parse().expect("a number"))).collect(),
            tensors: tensors
                .iter()
                .map(|(name, view)| {
                    assert!(matches!(view.dtype(), Dtype::F32 | Dtype::U32), "{name} is {:?}", view.dtype());
                    (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))
                })
                .collect(),
        }
    }

    /// A size or constant of the model, by its name in `shapes.Shape`.
    pub fn number(&self, name: &str) -> f64 {
        *self.numbers.get(name).unwrap_or_else(|| panic!("no {name} in the file"))
    }

    pub fn size(&self, name: &str) -> usize {
        self.number(name) as usize
    }

    pub fn f32s(&self, name: &str) -> (&[usize], Vec<f32>) {
        let (shape, bytes) = &self.tensors[name];
        (
            shape,
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect(),
        )
    }

    /// Everything that is trained, in one order.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str).filter(|name| !["cos", "sin", "tokens"].contains(name))
    }

    /// Of step `i` (they come round): ids and what follows each, `[B * T]`.
    pub fn tokens(&self, i: usize) -> (Vec<u32>, Vec<u32>) {
        let (shape, bytes) = &self.tensors["tokens"];
        let row = shape[2];
        let step = shape[1] * row * 4;
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for sequence in bytes[i % shape[0] * step..][..step].chunks_exact(row * 4) {
            let all: Vec<u32> = sequence
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
                .collect();
            ids.extend(&all[..row - 1]);
            targets.extend(&all[1..]);
        }
        (ids, targets)
    }
}

/// What every peer does at a step; clipping of the gradient norm to 1 is its part.
pub trait Peer {
    fn new(model: &Model) -> Self;
    /// -> loss, and the gradient norm before clipping; with `update` the weights change
    fn step(&mut self, ids: &[u32], targets: &[u32], update: bool) -> (f64, f64);
}

/// `MODEL SMALL --steps N --warmup N --threads N`: prints what `run.py` reads.
pub fn main<P: Peer>() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| -> usize {
        let at = args.iter().position(|arg| arg == name).unwrap_or_else(|| panic!("{name} is missing"));
        args[at + 1].parse().expect("a number")
    };
    rayon::ThreadPoolBuilder::new().num_threads(option("--threads")).build_global().expect("one pool");
    let small = Model::read(Path::new(&args[1]));
    let (ids, targets) = small.tokens(0);
    let check = P::new(&small).step(&ids, &targets, false);
    let model = Model::read(Path::new(&args[0]));
    let parameters: usize = model.weights().map(|name| model.tensors[name].0.iter().product::<usize>()).sum();
    let mut peer = P::new(&model);
    let (mut ms, warmup) = (Vec::new(), option("--warmup"));
    for i in 0..warmup + option("--steps") {
        let (ids, targets) = model.tokens(i);
        let start = Instant::now();
        let (loss, _) = peer.step(&ids, &targets, true);
        if i >= warmup {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        assert!(loss > 0.0 && loss < 20.0, "the loss is {loss}");
    }
    ms.sort_by(f64::total_cmp);
    let ms = (ms[(ms.len() - 1) / 2] + ms[ms.len() / 2]) / 2.0;
    println!(
        "{}",
        serde_json::json!({
            "tok_s": (model.size("batch") * model.size("seq_len")) as f64 / ms * 1e3, "ms_step": ms, "parameters": parameters,
            "check": [check.0, check.1], "peak_rss_bytes": peak_rss(),
        })
    );
}

fn peak_rss() -> u64 {
    // SAFETY: getrusage fills the struct that it is given; all zeros are a value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 }
}

/// As `shapes.ADAMW`.
pub const LR: f64 = 3e-4;
pub const BETAS: (f64, f64) = (0.9, 0.95);
pub const EPS: f64 = 1e-8;
pub const WEIGHT_DECAY: f64 = 0.1;

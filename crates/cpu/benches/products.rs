//! Our products beside those of the library `gemm`, and in bf16 beside those in f32, on one thread, in alternation.
//!
//! `cargo bench -p anneal-cpu --bench products [-- WORD]`: only the shapes whose name has the word in it. Prints the
//! median rate of each, the best rates in f32, the median ratios of neighbouring runs, and the share of the arithmetic
//! peak.

use std::time::Instant;

use cpu::matmul::{Mat, MatMut, matmul};
use cpu::{Pool, Precision, Write, probe};

/// Runs of each side.
const ROUNDS: usize = 41;

/// `y [M, N] = a [M, K] · b [K, N]`, an operand that is kept transposed where its flag says so.
struct Shape {
    name: &'static str,
    sizes: [usize; 3],
    transposed: [bool; 2],
    write: Write,
}

fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    let mut add = |name, sizes, transposed, write| all.push(Shape { name, sizes, transposed, write });
    // A layer: width, hidden, tokens. y = w x; dx = wᵀ dy; dw += dy xᵀ.
    for (c, f, s) in [(256, 688, 512), (768, 2048, 512), (768, 2048, 2048)] {
        for [out, c] in [[c, c], [f, c], [c, f]] {
            add("y", [out, s, c], [false, false], Write::Store);
            add("dx", [c, s, out], [true, false], Write::Store);
            add("dw", [out, c, s], [false, true], Write::Accumulate);
        }
    }
    for (c, f) in [(256, 688), (768, 2048)] {
        add("muon gram", [c, c, f], [false, true], Write::Store);
        add("muon square", [c, c, c], [false, false], Write::Store);
        add("muon update", [c, f, c], [false, false], Write::Store);
    }
    // Attention: a block of 64 queries, 320 keys; of its gradient the sums of a key.
    for d in [64, 128] {
        add("scores", [320, 64, d], [false, false], Write::Store);
        add("values", [d, 64, 320], [false, false], Write::Store);
        add("by key", [320, d, 64], [false, false], Write::Accumulate);
    }
    // A tile of the classifier.
    add("logits", [512, 512, 768], [false, false], Write::Store);
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let test = std::env::args().any(|arg| arg == "--test");
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let pool = Pool::new(1);
    let peak = if test { 1.0 } else { probe::peak_flops(&pool, Precision::F32) };
    let peak_bf16 = if test { 1.0 } else { probe::peak_flops(&pool, Precision::Bf16) };
    let how = if cpu::simd::has_bf16() { "an instruction" } else { "made of f32" };
    println!("peak {:.1} GFLOP/s, {:?}; bf16, {how}: {:.1}", peak / 1e9, cpu::simd::level(), peak_bf16 / 1e9);
    println!(
        "{:12} {:>15} {:>9} {:>9} {:>6} {:>9} {:>9} {:>7} {:>9} {:>6} {:>7}",
        "product",
        "M N K",
        "ours",
        "library",
        "ratio",
        "best",
        "library",
        "of peak",
        "bf16",
        "to f32",
        "of peak"
    );
    for Shape { name, sizes: [m, n, k], transposed, write } in shapes() {
        if !name.contains(&only) {
            continue;
        }
        let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
        let (mut ours, mut theirs) = (vec![0f32; m * n], vec![0f32; m * n]);
        let lhs = if transposed[0] { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let rhs = if transposed[1] { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
        let strides = |t: bool, rows: usize, cols: usize| {
            if t { (1, rows as isize) } else { (cols as isize, 1) }
        };
        let ((ar, ac), (br, bc)) = (strides(transposed[0], m, k), strides(transposed[1], k, n));
        let (mut of_ours, mut of_theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rounded, mut of_bf16, mut gains) = (vec![0f32; m * n], Vec::new(), Vec::new());
        for _ in 0..if test { 1 } else { ROUNDS } {
            let start = Instant::now();
            matmul(&pool, Precision::F32, MatMut::new(&mut ours, m, n), write, 1.0, lhs, rhs);
            let first = start.elapsed().as_secs_f64();
            let start = Instant::now();
            // SAFETY: the strides are those of dense matrices of these sizes.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    theirs.as_mut_ptr(),
                    1,
                    n as isize,
                    write == Write::Accumulate,
                    a.as_ptr(),
                    ac,
                    ar,
                    b.as_ptr(),
                    bc,
                    br,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            let second = start.elapsed().as_secs_f64();
            let start = Instant::now();
            matmul(&pool, Precision::Bf16, MatMut::new(&mut rounded, m, n), write, 1.0, lhs, rhs);
            let third = start.elapsed().as_secs_f64();
            of_bf16.push(third);
            gains.push(first / third);
            of_ours.push(first);
            of_theirs.push(second);
            ratios.push(second / first);
        }
        assert!(
            // The operands are powers of two, which bf16 holds.
            ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs()) && ours == rounded,
            "{name}: they differ"
        );
        let rate = |seconds: f64| (2 * m * n * k) as f64 / seconds / 1e9;
        let best = |seconds: &[f64]| rate(seconds.iter().copied().fold(f64::INFINITY, f64::min));
        let bests = (best(&of_ours), best(&of_theirs));
        let rates = (rate(median(of_ours)), rate(median(of_theirs)));
        println!(
            "{name:12} {m:5}{n:5}{k:5} {:9.1} {:9.1} {:6.2} {:9.1} {:9.1} {:6.0}% {:9.1} {:6.2} {:6.0}%",
            rates.0,
            rates.1,
            median(ratios),
            bests.0,
            bests.1,
            1e11 * bests.0 / peak,
            rate(median(of_bf16.clone())),
            median(gains),
            1e11 * best(&of_bf16) / peak_bf16
        );
    }
}

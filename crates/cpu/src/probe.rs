//! What this machine can do at most, measured: the walls that a kernel's speed is compared with.

use std::hint::black_box;
use std::time::Instant;

use device::memory::Block;

use crate::matmul::{Mat, MatMut, matmul};
use crate::pool::{Pool, SharedMut};
use crate::simd::{self, dispatch, mul_add};
use crate::{Precision, Write};

/// Seconds per probe: long enough to reach the sustained clock.
const SECONDS: f64 = 0.3;

/// The best of repeated runs of `work` over [`SECONDS`], in seconds.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Rounds of the register loop per task, some 2 ms.
const ROUNDS: usize = 200_000;
/// Independent accumulators: 12 vectors of 16 lanes cover latency times issue width.
const ACCUMULATORS: usize = 12 * 16;

/// The arithmetic peak over all of the pool's threads, in FLOP/s: multiply-adds on registers, nothing else. Where there
/// is no instruction for bf16 its peak is that of f32.
pub fn peak_flops(pool: &Pool, precision: Precision) -> f64 {
    let tasks = pool.threads();
    let in_pairs = precision == Precision::Bf16 && simd::has_bf16();
    let seconds = best(|| {
        pool.run(tasks, |_| {
            if in_pairs {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `has_bf16` says that the instruction exists.
                black_box(unsafe { multiply_add_pairs(black_box(1.0), black_box(-1e-9)) });
            } else {
                black_box(multiply_adds(black_box(1.000_000_1), black_box(-1e-9)));
            }
        });
    });
    let per_sum = if in_pairs { 4 } else { 2 };
    (per_sum * ACCUMULATORS * ROUNDS * tasks) as f64 / seconds
}

/// As `multiply_adds`, two products to a sum, of pairs of bf16 whose bits are those of `a` and `b`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_add_pairs(a: f32, b: f32) -> f32 {
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    // SAFETY: vectors of 512 bits, of which every pattern is one of bf16.
    let [a, b] = [a, b].map(|x| unsafe { std::mem::transmute::<__m512, __m512bh>(_mm512_set1_ps(x)) });
    let mut sums = [_mm512_set1_ps(1.0); ACCUMULATORS / 16];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, b);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

dispatch! {
    fn multiply_adds(a: f32, b: f32) -> f32 {
        let mut x = [1f32; ACCUMULATORS];
        for _ in 0..ROUNDS {
            for x in &mut x {
                *x = mul_add::<FMA>(*x, a, b);
            }
        }
        x.iter().sum()
    }
}

/// The best rate of [`matmul`] on a large product, in FLOP/s.
pub fn matmul_flops(pool: &Pool, precision: Precision) -> f64 {
    const SIDE: usize = 1536;
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let mut c = vec![0f32; SIDE * SIDE];
    let seconds = best(|| {
        let dst = MatMut::new(&mut c, SIDE, SIDE);
        matmul(pool, precision, dst, Write::Store, 1.0, Mat::new(&a, SIDE, SIDE), Mat::new(&b, SIDE, SIDE));
    });
    (2 * SIDE * SIDE * SIDE) as f64 / seconds
}

/// Memory bandwidth over all threads in bytes/s, by STREAM's triad a = b + s c on arrays far larger
/// than the caches: two reads and a write per element, counted as three transfers.
pub fn triad_bytes(pool: &Pool) -> f64 {
    let (mut a, b, c) = (array(0.0), array(1.0), array(2.0));
    let seconds = best(|| {
        let shared = SharedMut::new(&mut a);
        pool.run(ARRAY / PART, |i| {
            let at = i * PART;
            // SAFETY: each task has its own part.
            let a = unsafe { shared.slice(at, PART) };
            triad(a, &b[at..at + PART], &c[at..at + PART]);
        });
    });
    (3 * size_of::<f32>() * ARRAY) as f64 / seconds
}

/// Read bandwidth over all threads in bytes/s: the wall of a matrix-vector product.
pub fn read_bytes(pool: &Pool) -> f64 {
    let a = array(1.0);
    let seconds = best(|| {
        pool.run(ARRAY / PART, |i| {
            let part = &a[i * PART..(i + 1) * PART];
            black_box(crate::matvec::dot(part, part));
        });
    });
    (size_of::<f32>() * ARRAY) as f64 / seconds
}

/// In the pages that weights have.
fn array(value: f32) -> Block {
    let mut values = Block::zeros(ARRAY);
    values.fill(value);
    values
}

/// 128 MiB per array.
const ARRAY: usize = 1 << 25;
/// 512 KiB per task.
const PART: usize = 1 << 17;

dispatch! {
    fn triad(a: &mut [f32], b: &[f32], c: &[f32]) {
        for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
            *a = mul_add::<FMA>(0.5, *c, *b);
        }
    }
}

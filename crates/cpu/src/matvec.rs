//! Matrix times vector, at the speed at which memory delivers the matrix: the product of generation.

use crate::pool::{Pool, SharedMut};
use crate::simd::{dispatch, mul_add};

/// Values of the matrix per task: 256 KiB keeps the start of a task below 1% of it.
const VALUES_PER_TASK: usize = 1 << 16;

/// `w [O, C], x [C] -> y [O]`.
pub fn matvec(pool: &Pool, w: &[f32], x: &[f32], y: &mut [f32]) {
    let (rows, cols) = (y.len(), x.len());
    assert!(w.len() == rows * cols, "matvec: w has {} values, expected [{rows}, {cols}]", w.len());
    let per_task = (VALUES_PER_TASK / cols.max(1)).max(1);
    let out = SharedMut::new(y);
    pool.run(rows.div_ceil(per_task), |task| {
        let first = task * per_task;
        let count = per_task.min(rows - first);
        // SAFETY: each task has its own rows.
        let y = unsafe { out.slice(first, count) };
        dot_rows(&w[first * cols..(first + count) * cols], x, y);
    });
}

dispatch! {
    /// `w [rows, C], x [C] -> y [rows]`.
    fn dot_rows(w: &[f32], x: &[f32], y: &mut [f32]) {
        for (y, w) in y.iter_mut().zip(w.chunks_exact(x.len().max(1))) {
            *y = dot_body::<FMA>(w, x);
        }
    }
}

dispatch! {
    /// `a [n] · b [n]`, summed in an order that depends on n alone.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_body::<FMA>(a, b)
    }
}

/// 64 interleaved sums: four vectors of 16 lanes hide the latency of the multiply-add.
#[inline(always)]
fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for l in 0..LANES {
            lanes[l] = mul_add::<FMA>(a[l], b[l], lanes[l]);
        }
    }
    for ((sum, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = mul_add::<FMA>(*a, *b, *sum);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, same_bits, worst_difference};

    /// Oracle: f64 sums. 64 chains of C/64 multiply-adds of values in [-1, 1] and six halvings.
    #[test]
    fn agrees_with_the_definition() {
        for (rows, cols) in [(1, 1), (7, 63), (300, 768), (1025, 200)] {
            let (w, x) = (random(1, rows * cols), random(2, cols));
            let y = same_bits(|pool| {
                let mut y = vec![0.0; rows];
                matvec(pool, &w, &x, &mut y);
                y
            });
            let want: Vec<f32> = w
                .chunks(cols)
                .map(|w| w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32)
                .collect();
            let tolerance = 2.0 * (cols as f32).sqrt() * f32::EPSILON;
            assert!(worst_difference(&y, &want) <= tolerance);
        }
    }
}

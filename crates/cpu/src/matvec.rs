//! Matrix times vector, at the speed at which memory delivers the matrix: the products of generation. A matrix of weights
//! comes from the left ([`matvec`]), keys and values from the right ([`rows_times`]).

use crate::Write;
use crate::bf16::Bf16;
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::{dispatch, mul_add};

/// Values of the matrix per task: 256 KiB of f32 keep the start of a task below 1% of it.
const VALUES_PER_TASK: usize = 1 << 16;

/// What a matrix is made of.
pub trait Value: Copy + Sync {
    /// `w [rows, C], x [C] -> y [rows]`.
    fn dot_rows(w: &[Self], x: &[f32], y: &mut [f32]);
}

impl Value for f32 {
    fn dot_rows(w: &[f32], x: &[f32], y: &mut [f32]) {
        dot_rows(w, x, y);
    }
}

impl Value for Bf16 {
    fn dot_rows(w: &[Bf16], x: &[f32], y: &mut [f32]) {
        dot_rows_of_bf16(w, x, y);
    }
}

/// `w [O, C], x [C] -> y [O]`, in f32 whatever `w` is kept in.
pub fn matvec<V: Value>(pool: &Pool, w: &[V], x: &[f32], y: &mut [f32]) {
    let (rows, cols) = (y.len(), x.len());
    assert!(w.len() == rows * cols, "matvec: w has {} values, expected [{rows}, {cols}]", w.len());
    if cols == 0 {
        return y.fill(0.0);
    }
    // A multiple of four, where there are so many, is shared out evenly among two or four threads.
    let tasks = match rows * cols / VALUES_PER_TASK {
        few @ 0..4 => few.max(1),
        many => many / 4 * 4,
    };
    let per_task = rows.div_ceil(tasks).max(1);
    let out = SharedMut::new(y);
    pool.run(rows.div_ceil(per_task), |task| {
        let first = task * per_task;
        let count = per_task.min(rows - first);
        // SAFETY: each task has its own rows.
        let y = unsafe { out.slice(first, count) };
        V::dot_rows(&w[first * cols..(first + count) * cols], x, y);
    });
}

dispatch! {
    /// `w [rows, C], x [C] -> y [rows]`.
    fn dot_rows(w: &[f32], x: &[f32], y: &mut [f32]) {
        for (y, w) in y.iter_mut().zip(w.chunks_exact(x.len().max(1))) {
            *y = dot_body::<FMA, f32>(w, x, |w| w);
        }
    }
}

dispatch! {
    /// `w [rows, C], x [C] -> y [rows]`.
    fn dot_rows_of_bf16(w: &[Bf16], x: &[f32], y: &mut [f32]) {
        for (y, w) in y.iter_mut().zip(w.chunks_exact(x.len().max(1))) {
            *y = dot_body::<FMA, Bf16>(w, x, Bf16::get);
        }
    }
}

dispatch! {
    /// `a [n] · b [n]`, summed in an order that depends on n alone.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_body::<FMA, f32>(a, b, |a| a)
    }
}

/// Rows of a left operand up to which a product is made row by row: the right one, which comes from memory, is then read
/// once for each, the first time for all. Other products pack it, which for a single row took two to seven times as long.
/// In the presets at most two queries share a key/value head; more rows than that were not measured.
pub(crate) const FEW_ROWS: usize = 4;

/// A matrix in memory: its values, from element (0, 0) on, and the distance of its rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

/// Whether [`rows_times`] has a way for a right operand with such distances of rows and columns.
pub(crate) fn has_runs(row: usize, col: usize) -> bool {
    row == 1 || col == 1
}

/// `x [m, k] · y [k, n] -> out [m, n]`, row by row, in f32 and in an order that depends on k and the strides alone; `y` is
/// to have rows or columns whose values lie side by side.
pub(crate) fn rows_times(
    x: Strided<'_>,
    y: Strided<'_>,
    [m, n, k]: [usize; 3],
    write: Write,
    out: &mut [f32],
) {
    for (i, out) in out.chunks_exact_mut(n.max(1)).take(m).enumerate() {
        let x = Strided { values: &x.values[(i * x.row).min(x.values.len())..], ..x };
        if write == Write::Store {
            out.fill(0.0);
        }
        if y.col == 1 {
            add_scaled_rows(x, k, y, out);
        } else if x.col == 1 {
            add_dots(&x.values[..k], y, out);
        } else {
            with_scratch(k, |run| {
                run.iter_mut().enumerate().for_each(|(p, to)| *to = x.values[p * x.col]);
                add_dots(run, y, out);
            });
        }
    }
}

dispatch! {
    /// `out [n]` += x [k] · y [k, n], whose rows are runs.
    fn add_scaled_rows(x: Strided<'_>, k: usize, y: Strided<'_>, out: &mut [f32]) {
        /// 8 KiB: what the first-level cache holds beside four rows.
        const COLUMNS: usize = 2048;
        let factor = |p: usize| x.values[p * x.col];
        for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
            let cols = out.len();
            let row = |p: usize| &y.values[p * y.row + block * COLUMNS..][..cols];
            for p in (0..k / 4).map(|quarter| 4 * quarter) {
                let [a, b, c, d] = [row(p), row(p + 1), row(p + 2), row(p + 3)];
                let [fa, fb, fc, fd] = [factor(p), factor(p + 1), factor(p + 2), factor(p + 3)];
                for j in 0..cols {
                    let sum = mul_add::<FMA>(fa, a[j], out[j]);
                    let sum = mul_add::<FMA>(fb, b[j], sum);
                    let sum = mul_add::<FMA>(fc, c[j], sum);
                    out[j] = mul_add::<FMA>(fd, d[j], sum);
                }
            }
            for p in k / 4 * 4..k {
                let (row, factor) = (row(p), factor(p));
                for (sum, y) in out.iter_mut().zip(row) {
                    *sum = mul_add::<FMA>(factor, *y, *sum);
                }
            }
        }
    }
}

dispatch! {
    /// `out [n]` += x [k] · y [k, n], whose columns are runs.
    fn add_dots(x: &[f32], y: Strided<'_>, out: &mut [f32]) {
        for (j, out) in out.iter_mut().enumerate() {
            *out += dot_body::<FMA, f32>(&y.values[j * y.col..][..x.len()], x, |y| y);
        }
    }
}

/// 64 interleaved sums: four vectors of 16 lanes hide the latency of the multiply-add.
#[inline(always)]
fn dot_body<const FMA: bool, V: Copy>(a: &[V], b: &[f32], get: impl Fn(V) -> f32) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0f32; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for l in 0..LANES {
            lanes[l] = mul_add::<FMA>(get(a[l]), b[l], lanes[l]);
        }
    }
    for ((sum, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = mul_add::<FMA>(get(*a), *b, *sum);
    }
    let lanes: [f32; 32] = halved(&lanes);
    let lanes: [f32; 16] = halved(&lanes);
    let lanes: [f32; 8] = halved(&lanes);
    let lanes: [f32; 4] = halved(&lanes);
    let [a, b] = halved(&lanes);
    a + b
}

/// The sums of the first half with the second. Arrays of their own stay in registers, where one that shrinks goes through
/// memory.
#[inline(always)]
fn halved<const HALF: usize>(lanes: &[f32]) -> [f32; HALF] {
    std::array::from_fn(|l| lanes[l] + lanes[l + HALF])
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

    /// Oracle: f64 sums. k products of values in [-1, 1] sum up to some sqrt(k)/3, and k roundings of half a
    /// unit in the last place of that add up to some k/6 units; a product left out is some 0.3. More columns than a block
    /// has, numbers of rows that are no multiple of four, each layout of either operand.
    #[test]
    fn a_few_rows_agree_with_the_definition() {
        for [m, n, k] in
            [[1, 1, 1], [1, 512, 128], [1, 128, 513], [4, 70, 7], [2, 4100, 6], [3, 5, 4100], [1, 8, 0]]
        {
            let (xs, ys) = (random(5, m * k), random(6, k * n));
            for ((x_row, x_col), (y_row, y_col)) in
                [((k, 1), (n, 1)), ((k, 1), (1, k)), ((1, m), (n, 1)), ((1, m), (1, k))]
            {
                let want = |i: usize, j: usize| {
                    let of = |p: usize| {
                        f64::from(xs[i * x_row + p * x_col]) * f64::from(ys[p * y_row + j * y_col])
                    };
                    (0..k).map(of).sum::<f64>()
                };
                let x = Strided { values: &xs, row: x_row, col: x_col };
                let y = Strided { values: &ys, row: y_row, col: y_col };
                for (write, before) in [(Write::Store, 0.0), (Write::Accumulate, 1.5)] {
                    let mut out = vec![if write == Write::Store { f32::NAN } else { 1.5 }; m * n];
                    rows_times(x, y, [m, n, k], write, &mut out);
                    for (at, got) in out.iter().enumerate() {
                        let want = want(at / n, at % n) + before;
                        let tolerance = f64::from(f32::EPSILON) * (k + 2) as f64;
                        assert!(
                            (f64::from(*got) - want).abs() <= tolerance,
                            "{m} {n} {k}: {got}, expected {want}"
                        );
                    }
                }
            }
        }
    }

    /// Oracle: the same product of the matrix that the crate `half` rounds, to the bit.
    #[test]
    fn a_matrix_in_bf16_is_one_of_rounded_values() {
        for (rows, cols) in [(1, 1), (7, 63), (300, 768), (1025, 200)] {
            let (w, x) = (random(3, rows * cols), random(4, cols));
            let rounded: Vec<f32> = w.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
            let of = |pool: &Pool, w: &[f32]| {
                let mut y = vec![0.0; rows];
                matvec(pool, w, &x, &mut y);
                y
            };
            let got = same_bits(|pool| {
                let mut y = vec![0.0; rows];
                matvec(pool, &crate::bf16::round_all(pool, &w), &x, &mut y);
                y
            });
            assert_eq!(got, of(&Pool::new(1), &rounded));
            assert_ne!(got, of(&Pool::new(1), &w));
        }
    }
}

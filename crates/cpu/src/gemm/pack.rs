//! Copies of operands in the order in which the micro-kernels read them.

use super::kernel::{Kernels, UPPER};
use super::{Block, DEPTH, MOST_COLS, MOST_SIDE};
use crate::simd::dispatch;

/// `out [k, rows]` from `from [rows, k]`, both by strides: the rows of a tile, 6 at most, side by side.
///
/// # Safety
/// `from` must lie in live memory.
pub(super) unsafe fn left(from: Block, rows: usize, k: usize, out: &mut [f32]) {
    let (at, row_stride, col_stride) = from;
    let out = &mut out[..rows * k];
    // SAFETY: the caller's, for all that follows.
    unsafe {
        // By moves of a known length where the rows lie side by side.
        match (row_stride, rows) {
            (1, 6) => runs::<6>(at, col_stride, out),
            (1, 5) => runs::<5>(at, col_stride, out),
            (1, 4) => runs::<4>(at, col_stride, out),
            _ => {
                for (p, out) in out.chunks_exact_mut(rows).enumerate() {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = *at.add(i * row_stride + p * col_stride);
                    }
                }
            }
        }
    }
}

/// Runs of `N` values, one after the other, from runs that begin `stride` values apart.
///
/// # Safety
/// They must lie in live memory.
unsafe fn runs<const N: usize>(from: *const f32, stride: usize, out: &mut [f32]) {
    for (p, out) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        // SAFETY: the caller's; an array needs no more alignment than its values.
        *out = unsafe { *from.wrapping_add(p * stride).cast() };
    }
}

/// `out [k, width]` from `from [k, cols]`, zeros from column `cols` on.
///
/// # Safety
/// `from` must lie in live memory.
pub(super) unsafe fn right(
    kernels: &Kernels,
    from: Block,
    k: usize,
    cols: usize,
    width: usize,
    out: &mut [f32],
) {
    let (at, row_stride, col_stride) = from;
    let out = &mut out[..width * k];
    if col_stride == 1 && cols == width && k > 0 {
        // SAFETY: the caller's: `k` runs of `cols` values, `row_stride` from one to the next.
        let from = unsafe { std::slice::from_raw_parts(at, (k - 1) * row_stride + cols) };
        return rows(from, row_stride, width, out);
    }
    // SAFETY: the caller's, for all that follows.
    unsafe {
        // What is not made of whole squares: below them and beside them.
        let side = kernels.lanes;
        let (deep, wide) = if row_stride == 1 { (k / side * side, cols / side * side) } else { (0, 0) };
        for j in (0..wide).step_by(side) {
            for p in (0..deep).step_by(side) {
                let to = out[p * width + j..].as_mut_ptr();
                (kernels.square)(at.add(p + j * col_stride), col_stride, to, width);
            }
        }
        for (p, out) in out.chunks_exact_mut(width).enumerate() {
            let done = if p < deep { wide } else { 0 };
            for (j, out) in out.iter_mut().enumerate().skip(done) {
                *out = if j < cols { *at.add(p * row_stride + j * col_stride) } else { 0.0 };
            }
        }
    }
}

dispatch! {
    /// Rows of `width` values, one after the other, from rows that begin `stride` values apart; the widths of full
    /// tiles by moves of a known length.
    fn rows(from: &[f32], stride: usize, width: usize, out: &mut [f32]) {
        let _ = FMA;
        match width {
            64 => {
                for (p, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                    *out = *from[p * stride..].first_chunk().expect("a row is as wide as the tile");
                }
            }
            16 => {
                for (p, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                    *out = *from[p * stride..].first_chunk().expect("a row is as wide as the tile");
                }
            }
            _ => {
                for (p, out) in out.chunks_exact_mut(width).enumerate() {
                    out.copy_from_slice(&from[p * stride..][..width]);
                }
            }
        }
    }
}

/// bf16 of `x`, to nearest with ties to even, as the upper half of the bits; a NaN stays one.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | 0x0040_0000 } else { up }) & UPPER
}

/// Two values as a pair of bf16, whose bits are those of the result.
#[inline(always)]
fn pair(even: f32, odd: f32) -> f32 {
    f32::from_bits(rounded(even) >> 16 | rounded(odd))
}

dispatch! {
    /// Pairs of neighbours: of `from [k]`, in place of an odd last one's neighbour zero.
    fn pairs_along(from: &[f32], out: &mut [f32]) {
        let _ = FMA;
        let (whole, rest) = from.as_chunks::<2>();
        for (out, [even, odd]) in out.iter_mut().zip(whole) {
            *out = pair(*even, *odd);
        }
        if let [last] = rest {
            out[whole.len()] = pair(*last, 0.0);
        }
    }
}

dispatch! {
    /// Pairs of a value of one row with the one below it.
    fn pairs_across(even: &[f32], odd: &[f32], out: &mut [f32]) {
        let _ = FMA;
        for ((out, even), odd) in out.iter_mut().zip(even).zip(odd) {
            *out = pair(*even, *odd);
        }
    }
}

/// Pairs of bf16 from `from [rows, k]`: `out [rows, pairs]` where the values of a row lie side by side, else
/// `out [pairs, rows]`, of at most [`MOST_COLS`] rows.
///
/// # Safety
/// `from` must lie in live memory.
pub(super) unsafe fn left_pairs(kernels: &Kernels, from: Block, rows: usize, k: usize, out: &mut [f32]) {
    let (at, row_stride, col_stride) = from;
    // SAFETY: the caller's.
    unsafe {
        if col_stride != 1 {
            return right_pairs(kernels, (at, col_stride, row_stride), k, rows, rows, out);
        }
        let pairs = k.div_ceil(2);
        for (i, out) in out[..rows * pairs].chunks_exact_mut(pairs.max(1)).enumerate() {
            pairs_along(std::slice::from_raw_parts(at.add(i * row_stride), k), out);
        }
    }
}

/// As [`right`], in pairs of bf16: `out [pairs, width]`, at most [`MOST_COLS`] wide.
///
/// # Safety
/// `from` must lie in live memory.
pub(super) unsafe fn right_pairs(
    kernels: &Kernels,
    from: Block,
    k: usize,
    cols: usize,
    width: usize,
    out: &mut [f32],
) {
    let (at, row_stride, col_stride) = from;
    let pairs = k.div_ceil(2);
    let out = &mut out[..width * pairs];
    // SAFETY: the caller's, for all that follows.
    unsafe {
        if col_stride == 1 && cols > 0 {
            let row = |p: usize| std::slice::from_raw_parts(at.add(p * row_stride), cols);
            const NOTHING: [f32; MOST_COLS] = [0.0; MOST_COLS];
            for (p, out) in out.chunks_exact_mut(width).enumerate() {
                let odd = if 2 * p + 1 < k { row(2 * p + 1) } else { &NOTHING[..cols] };
                pairs_across(row(2 * p), odd, out);
                out[cols..].fill(0.0);
            }
            return;
        }
        // Columns whose values lie side by side: pairs of as many as a square has, then squares of them transposed.
        let side = kernels.lanes;
        let in_squares = row_stride == 1 && pairs >= side;
        let (deep, wide) = if in_squares { (pairs / side * side, cols / side * side) } else { (0, 0) };
        let mut columns = [0f32; MOST_SIDE * DEPTH];
        for j in (0..wide).step_by(side) {
            for (i, column) in columns.chunks_exact_mut(deep.max(1)).take(side).enumerate() {
                let values = (2 * deep).min(k);
                pairs_along(std::slice::from_raw_parts(at.add((j + i) * col_stride), values), column);
            }
            for p in (0..deep).step_by(side) {
                (kernels.square)(columns[p..].as_ptr(), deep, out[p * width + j..].as_mut_ptr(), width);
            }
        }
        let get = |p: usize, j: usize| {
            if p < k && j < cols { *at.add(p * row_stride + j * col_stride) } else { 0.0 }
        };
        for (p, out) in out.chunks_exact_mut(width).enumerate() {
            let done = if p < deep { wide } else { 0 };
            for (j, out) in out.iter_mut().enumerate().skip(done) {
                *out = pair(get(2 * p, j), get(2 * p + 1, j));
            }
        }
    }
}

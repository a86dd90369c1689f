//! Copies of operands in the order in which the micro-kernels read them.

use super::kernel::{Kernels, prefetch};
use super::{Block, DEPTH, MOST_COLS, MOST_SIDE};
use crate::bf16::rounded;
use crate::simd::dispatch;

/// Values in a line of a cache.
const LINE: usize = 16;

/// Strips of the left operand, `strips` rows each and 6 at most, one after the other: `out [k, rows]` of each from
/// `from [all their rows, k]`.
///
/// # Safety
/// `from` must lie in live memory.
pub(super) unsafe fn left(
    from: Block,
    strips: impl ExactSizeIterator<Item = usize> + Clone,
    k: usize,
    out: &mut [f32],
) {
    let (mut at, row_stride, col_stride) = from;
    let rows = strips.clone().next().unwrap_or(0);
    let are_equal = strips.clone().all(|other| other == rows);
    // SAFETY: the caller's, for all that follows.
    unsafe {
        if row_stride == 1 && are_equal && runs_of(rows, at, col_stride, strips.len(), k, out) {
            return;
        }
        let mut rest = out;
        for rows in strips {
            let (out, after) = rest.split_at_mut(rows * k);
            if row_stride != 1 || !runs_of(rows, at, col_stride, 1, k, out) {
                for (p, out) in out.chunks_exact_mut(rows).enumerate() {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = *at.add(i * row_stride + p * col_stride);
                    }
                }
            }
            (rest, at) = (after, at.wrapping_add(rows * row_stride));
        }
    }
}

/// [`runs`] by moves of a known length; -> whether there is one for so many rows
///
/// # Safety
/// As for [`runs`].
unsafe fn runs_of(
    rows: usize,
    from: *const f32,
    stride: usize,
    count: usize,
    k: usize,
    out: &mut [f32],
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        match rows {
            6 => runs::<6>(from, stride, count, k, out),
            5 => runs::<5>(from, stride, count, k, out),
            4 => runs::<4>(from, stride, count, k, out),
            _ => return false,
        }
    }
    true
}

/// Columns that are asked for ahead: they lie far apart, often in other pages, where no prefetcher of a processor follows.
const COLUMNS_AHEAD: usize = 16;

/// `count` strips of `N` rows that lie side by side, from columns `stride` apart: `out [count, k, N]`.
///
/// # Safety
/// They must lie in live memory.
unsafe fn runs<const N: usize>(from: *const f32, stride: usize, count: usize, k: usize, out: &mut [f32]) {
    let out = out[..count * k * N].as_mut_ptr();
    for p in 0..k {
        let column = from.wrapping_add(p.wrapping_mul(stride));
        let ahead = column.wrapping_add(COLUMNS_AHEAD.wrapping_mul(stride));
        for line in 0..=count * N / LINE {
            prefetch(ahead.wrapping_add(line * LINE));
        }
        for strip in 0..count {
            // SAFETY: the caller's, and `out` has a place for each; an array needs no more alignment than its values.
            unsafe { *out.add((strip * k + p) * N).cast::<[f32; N]>() = *column.add(strip * N).cast() };
        }
    }
}

/// `out [cols, rows]` from `from [rows, cols]`, whose rows begin `stride` and `out_stride` values apart.
///
/// # Safety
/// Both must lie in live memory.
pub(super) unsafe fn transposed(
    kernels: &Kernels,
    from: *const f32,
    stride: usize,
    [rows, cols]: [usize; 2],
    out: *mut f32,
    out_stride: usize,
) {
    // What is not made of whole squares: below them and beside them.
    let side = kernels.lanes;
    let (high, wide) = (rows / side * side, cols / side * side);
    // SAFETY: the caller's, for all that follows.
    unsafe {
        for i in (0..high).step_by(side) {
            for j in (0..wide).step_by(side) {
                (kernels.square)(from.add(i * stride + j), stride, out.add(j * out_stride + i), out_stride);
            }
        }
        for i in 0..rows {
            for j in if i < high { wide } else { 0 }..cols {
                *out.add(j * out_stride + i) = *from.add(i * stride + j);
            }
        }
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
        if row_stride == 1 {
            transposed(kernels, at, col_stride, [cols, k], out.as_mut_ptr(), width);
            out.chunks_exact_mut(width).for_each(|out| out[cols..].fill(0.0));
            return;
        }
        for (p, out) in out.chunks_exact_mut(width).enumerate() {
            for (j, out) in out.iter_mut().enumerate() {
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

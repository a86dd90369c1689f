//! Copies of operands in the order in which the micro-kernels read them.

use super::Block;
use super::kernel::Kernels;
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

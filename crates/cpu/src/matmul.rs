//! f32 matrix products.
//!
//! On macOS products go to Accelerate ([`crate::cblas`]). Elsewhere the product of a block is the library
//! `gemm` (AVX-512, AVX2, NEON micro-kernels, picked at run time), single-threaded; the pool runs one
//! block of the output per task. Measured on Zen 4 (peak 112 GFLOP/s per core) against `faer` 0.24 on the
//! shapes of `benches/kernels.rs`: the two are within 3% of one another at 95 to 108 GFLOP/s per core,
//! and `gemm` is a tenth of the code to build.
//!
//! Bits and threads: an element of the output is a chain of multiply-adds over K, cut where the
//! library's depth block ends. That cut depends on K alone as long as a block is more than 64 wide
//! ([`MIN_PIECE`]), so how the output is divided does not show in the result. This is a property of
//! the library, not a promise of it: `same_bits_for_any_number_of_threads` holds it to it.

use crate::Write;
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::dispatch;

/// A matrix `[rows, cols]` in borrowed memory: element (i, j) is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `data` `[rows, cols]`, row-major and dense.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with any strides.
    ///
    /// # Panics
    /// When the last element lies outside `data`.
    pub fn strided(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Mat<'a> {
        check_bounds(data.len(), rows, cols, row_stride, col_stride);
        Mat { data, rows, cols, row_stride, col_stride }
    }

    /// The transpose `[cols, rows]`: the same memory with its strides exchanged.
    pub fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// A matrix `[rows, cols]` to be written, with strides like [`Mat`].
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `data` `[rows, cols]`, row-major and dense.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatMut<'a> {
        MatMut::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with strides that give each element its own place.
    ///
    /// # Panics
    /// When the last element lies outside `data`, or two elements may share a place.
    pub fn strided(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> MatMut<'a> {
        check_bounds(data.len(), rows, cols, row_stride, col_stride);
        let apart = rows <= 1
            || cols <= 1
            || row_stride > (cols - 1) * col_stride && col_stride > 0
            || col_stride > (rows - 1) * row_stride && row_stride > 0;
        assert!(
            apart,
            "matmul: destination [{rows}, {cols}] with strides ({row_stride}, {col_stride}) overlaps itself"
        );
        MatMut { data, rows, cols, row_stride, col_stride }
    }
}

fn check_bounds(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1) * row_stride + (cols - 1) * col_stride;
        assert!(
            last < len,
            "matmul: [{rows}, {cols}] with strides ({row_stride}, {col_stride}) reaches element {last} of {len}"
        );
    }
}

/// Pieces of the output are at least this long on the side that is divided (see the module's head).
const MIN_PIECE: usize = 128;

/// A piece of this many rows or columns repacks its other operand at a cost of about 1%, so longer
/// outputs are cut into more pieces than threads, which evens out threads of unequal speed.
const AMPLE_PIECE: usize = 1024;

/// Whether products go to the system's BLAS (see [`crate::cblas`]).
const BLAS: bool = cfg!(any(target_os = "macos", feature = "openblas"));

/// `dst [M, N] = alpha * lhs [M, K] · rhs [K, N]`, or `+=` with [`Write::Accumulate`].
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(pool: &Pool, dst: MatMut<'_>, write: Write, alpha: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    let (m, n, k) = (dst.rows, dst.cols, lhs.cols);
    assert!(
        lhs.rows == m && rhs.rows == k && rhs.cols == n,
        "matmul: lhs [{}, {}] · rhs [{}, {}] does not give dst [{m}, {n}]",
        lhs.rows,
        lhs.cols,
        rhs.rows,
        rhs.cols
    );
    // dW = dY · Xᵀ: both operands run along K, and the library would gather each packed panel from
    // as many rows as it is wide. Transposing one of them first, in tiles, is cheaper.
    if !BLAS
        && rhs.row_stride == 1
        && rhs.col_stride > 1
        && lhs.col_stride == 1
        && n >= MIN_PIECE
        && m >= MIN_PIECE
        && k >= MIN_PIECE
    {
        return with_scratch(k * n, |packed| {
            transpose(pool, rhs, packed);
            divided(pool, dst, write, alpha, lhs, Mat::new(packed, k, n));
        });
    }
    divided(pool, dst, write, alpha, lhs, rhs);
}

fn divided(pool: &Pool, dst: MatMut<'_>, write: Write, alpha: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    let (m, n, k) = (dst.rows, dst.cols, lhs.cols);
    let by_rows = m >= n;
    let long = if by_rows { m } else { n };
    let pieces = match pool.threads() {
        // BLAS cuts a product itself, and where is none of our business: the same call always.
        _ if BLAS => 1,
        1 => 1,
        threads => (threads * (long / (threads * AMPLE_PIECE)).clamp(1, 4)).min(long / MIN_PIECE).max(1),
    };
    // Pieces end on multiples of a micro-kernel's side, and none is shorter than the others' share.
    let unit = if by_rows { 12 } else { 64 };
    let cut = |i: usize| if i == pieces { long } else { long / unit * i / pieces * unit };
    let (row_stride, col_stride) = (dst.row_stride, dst.col_stride);
    let out = SharedMut::new(dst.data);
    pool.run(pieces, |i| {
        let (start, len) = (cut(i), cut(i + 1) - cut(i));
        let (i0, j0, rows, cols) = if by_rows { (start, 0, len, n) } else { (0, start, m, len) };
        // SAFETY: `Mat` and `MatMut` checked that every element is in bounds, the block lies within
        // them, blocks of different tasks share no element, and `dst` is borrowed exclusively.
        unsafe {
            product(
                [rows, cols, k],
                (out.at(i0 * row_stride + j0 * col_stride), row_stride, col_stride),
                write,
                alpha,
                (lhs.data.as_ptr().wrapping_add(i0 * lhs.row_stride), lhs.row_stride, lhs.col_stride),
                (rhs.data.as_ptr().wrapping_add(j0 * rhs.col_stride), rhs.row_stride, rhs.col_stride),
            );
        }
    });
}

/// `out [K, N]` row-major from `from [K, N]` whose rows run along memory's second axis.
fn transpose(pool: &Pool, from: Mat<'_>, out: &mut [f32]) {
    const STRIP: usize = 64;
    let (k, n) = (from.rows, from.cols);
    let shared = SharedMut::new(out);
    pool.run(k.div_ceil(STRIP), |i| {
        let k0 = i * STRIP;
        let rows = STRIP.min(k - k0);
        // SAFETY: each task has its own rows of `out`.
        let out = unsafe { shared.slice(k0 * n, rows * n) };
        transpose_strip(&from.data[k0..], from.col_stride, n, rows, out);
    });
}

dispatch! {
    /// `out [rows, n]` from `x [n, rows]` with row stride `stride`.
    fn transpose_strip(x: &[f32], stride: usize, n: usize, rows: usize, out: &mut [f32]) {
        let _ = FMA;
        const TILE: usize = 16;
        let mut tile = [[0f32; TILE]; TILE];
        let mut j = 0;
        while j < n {
            let wide = TILE.min(n - j);
            let mut i = 0;
            while i < rows {
                let high = TILE.min(rows - i);
                if wide == TILE && high == TILE {
                    for jj in 0..TILE {
                        let row = &x[(j + jj) * stride + i..][..TILE];
                        for ii in 0..TILE {
                            tile[ii][jj] = row[ii];
                        }
                    }
                    for ii in 0..TILE {
                        out[(i + ii) * n + j..][..TILE].copy_from_slice(&tile[ii]);
                    }
                } else {
                    for ii in 0..high {
                        for jj in 0..wide {
                            out[(i + ii) * n + j + jj] = x[(j + jj) * stride + i + ii];
                        }
                    }
                }
                i += high;
            }
            j += wide;
        }
    }
}

/// A strided block in memory: address, row stride, column stride.
pub(crate) type Block = (*const f32, usize, usize);
/// A strided block to be written.
pub(crate) type BlockMut = (*mut f32, usize, usize);

/// One block's product: `dst [m, n] (+)= alpha * lhs [m, k] · rhs [k, n]`. The only place where a
/// library is called, which works on the calling thread, but for BLAS, which may use threads of its own.
///
/// # Safety
/// Every element of the three blocks must be in bounds of live memory, the elements of `dst` must be
/// distinct, and nothing else may access them during the call.
pub(crate) unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: BlockMut,
    write: Write,
    alpha: f32,
    lhs: Block,
    rhs: Block,
) {
    #[cfg(any(target_os = "macos", feature = "openblas"))]
    // SAFETY: passed on from this function's contract.
    if m > 0 && n > 0 && k > 0 && unsafe { crate::cblas::product([m, n, k], dst, write, alpha, lhs, rhs) } {
        return;
    }
    // SAFETY: passed on from this function's contract.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.0,
            dst.2 as isize,
            dst.1 as isize,
            write == Write::Accumulate,
            lhs.0,
            lhs.2 as isize,
            lhs.1 as isize,
            rhs.0,
            rhs.2 as isize,
            rhs.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, worst_difference};

    /// The definition, in f64.
    fn slow(dst: &mut [f32], write: Write, alpha: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
        for i in 0..lhs.rows {
            for j in 0..rhs.cols {
                let sum: f64 = (0..lhs.cols)
                    .map(|p| {
                        f64::from(lhs.data[i * lhs.row_stride + p * lhs.col_stride])
                            * f64::from(rhs.data[p * rhs.row_stride + j * rhs.col_stride])
                    })
                    .sum();
                let old = if write == Write::Accumulate { f64::from(dst[i * rhs.cols + j]) } else { 0.0 };
                dst[i * rhs.cols + j] = (old + f64::from(alpha) * sum) as f32;
            }
        }
    }

    /// The four combinations of transposed operands.
    fn forms<'a>(a: &'a [f32], b: &'a [f32], m: usize, n: usize, k: usize) -> [(Mat<'a>, Mat<'a>); 4] {
        [
            (Mat::new(a, m, k), Mat::new(b, k, n)),
            (Mat::new(a, k, m).t(), Mat::new(b, k, n)),
            (Mat::new(a, m, k), Mat::new(b, n, k).t()),
            (Mat::new(a, k, m).t(), Mat::new(b, n, k).t()),
        ]
    }

    /// Oracle: f64 sums. Values lie in [-1, 1], so a chain of K multiply-adds is off by at most about
    /// K * K/2 * eps / sqrt(K) in the worst likely case; sqrt(K) * K^(1/2) * 2^-23 = K * 2^-23 bounds it.
    #[test]
    fn agrees_with_the_definition() {
        for (m, n, k) in
            [(1, 1, 1), (1, 70, 33), (70, 1, 33), (5, 7, 2), (33, 130, 65), (200, 131, 600), (130, 257, 96)]
        {
            let (a, b) = (random(1, m * k), random(2, k * n));
            for write in [Write::Store, Write::Accumulate] {
                for (lhs, rhs) in forms(&a, &b, m, n, k) {
                    let mut fast = random(3, m * n);
                    let mut want = fast.clone();
                    matmul(&Pool::new(2), MatMut::new(&mut fast, m, n), write, 0.5, lhs, rhs);
                    slow(&mut want, write, 0.5, lhs, rhs);
                    let tolerance = (k + 1) as f32 * f32::EPSILON;
                    let off = worst_difference(&fast, &want);
                    assert!(off <= tolerance, "[{m}, {k}] · [{k}, {n}]: {off} > {tolerance}");
                }
            }
        }
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        for (m, n, k) in [
            (768, 512, 768),
            (300, 640, 1100),
            (192, 192, 2048),
            (2048, 96, 192),
            (97, 31, 40),
            (200, 8, 700),
            (8, 300, 513),
            (3000, 1, 70),
        ] {
            let (a, b) = (random(1, m * k), random(2, k * n));
            for (lhs, rhs) in forms(&a, &b, m, n, k) {
                let runs: Vec<Vec<f32>> = [1, 2, 3, 7]
                    .map(|threads| {
                        let mut dst = vec![0.25; m * n];
                        matmul(
                            &Pool::new(threads),
                            MatMut::new(&mut dst, m, n),
                            Write::Accumulate,
                            1.0,
                            lhs,
                            rhs,
                        );
                        dst
                    })
                    .to_vec();
                for run in &runs[1..] {
                    assert!(run == &runs[0], "[{m}, {k}] · [{k}, {n}] depends on the number of threads");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not give dst")]
    fn shapes_that_do_not_fit() {
        let x = [0.0; 6];
        matmul(
            &Pool::new(1),
            MatMut::new(&mut [0.0; 4], 2, 2),
            Write::Store,
            1.0,
            Mat::new(&x, 2, 3),
            Mat::new(&x, 2, 3),
        );
    }
}

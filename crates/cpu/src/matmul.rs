//! f32 matrix products, divided among threads.
//!
//! On macOS products go to Accelerate ([`crate::cblas`]), elsewhere to kernels of our own (`gemm`). The pool runs one
//! block of the output per task; how it is divided does not show in the result. Of a product that is symmetric because
//! its operands are, half is computed and mirrored: with the same bits, as element (j, i) is the same chain of
//! multiply-adds as (i, j).

use crate::gemm::{self, Block, BlockMut};
use crate::pool::{Pool, SharedMut};
use crate::{Precision, Write};

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

    /// Whether the product with `rhs` is known to be symmetric: with its own transpose, or of equal symmetric matrices.
    fn is_mirrored_by(&self, rhs: &Mat<'_>) -> bool {
        if self.rows != rhs.cols || self.data.as_ptr() != rhs.data.as_ptr() {
            return false;
        }
        let (ours, theirs) = ((self.row_stride, self.col_stride), (rhs.row_stride, rhs.col_stride));
        ours == (theirs.1, theirs.0)
            || ours == theirs && self.rows == self.cols && gemm::is_symmetric(self.data, self.rows, ours)
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
        let apart = rows == 0
            || cols == 0
            || (rows == 1 || row_stride > 0)
                && (cols == 1 || col_stride > 0)
                && (rows == 1
                    || cols == 1
                    || row_stride > (cols - 1) * col_stride
                    || col_stride > (rows - 1) * row_stride);
        assert!(
            apart,
            "matmul: destination [{rows}, {cols}] with strides ({row_stride}, {col_stride}) overlaps itself"
        );
        MatMut { data, rows, cols, row_stride, col_stride }
    }
}

fn check_bounds(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) {
    if rows > 0 && cols > 0 {
        let along = |count: usize, stride: usize| (count - 1).checked_mul(stride);
        let last = along(rows, row_stride).zip(along(cols, col_stride)).and_then(|(i, j)| i.checked_add(j));
        assert!(
            last.is_some_and(|last| last < len),
            "matmul: [{rows}, {cols}] with strides ({row_stride}, {col_stride}) reaches beyond {len} elements"
        );
    }
}

/// An output is divided into pieces of about this length at least: shorter ones repack too much for their arithmetic.
const MIN_PIECE: usize = 128;

/// A piece of this many rows or columns repacks its other operand at a cost of about 1%, so longer
/// outputs are cut into more pieces than threads, which evens out threads of unequal speed.
const AMPLE_PIECE: usize = 1024;

/// A symmetric product of fewer rows is computed whole: the mirror would save little.
const LEAST_MIRRORED: usize = 2 * MIRROR_UNIT;
/// Pieces of a symmetric product end on multiples of the widest tile.
const MIRROR_UNIT: usize = 64;

/// Whether products go to the system's BLAS (see [`crate::cblas`]).
const BLAS: bool = cfg!(any(target_os = "macos", feature = "openblas"));

/// `dst [M, N] = alpha * lhs [M, K] · rhs [K, N]`, or `+=` with [`Write::Accumulate`].
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(
    pool: &Pool,
    precision: Precision,
    dst: MatMut<'_>,
    write: Write,
    alpha: f32,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
) {
    let [m, n, k] = sizes(&dst, &lhs, &rhs);
    if m == 0 || n == 0 {
        return;
    }
    let is_dense = dst.col_stride == 1 && dst.row_stride >= n;
    let is_blas = BLAS && precision == Precision::F32;
    if !is_blas && is_dense && write == Write::Store && m >= LEAST_MIRRORED && lhs.is_mirrored_by(&rhs) {
        return mirrored(pool, precision, dst, alpha, lhs, rhs);
    }
    let by_rows = m >= n;
    let long = if by_rows { m } else { n };
    let pieces = match pool.threads() {
        // BLAS cuts a product itself, and where is none of our business: the same call always.
        _ if is_blas => 1,
        1 => 1,
        threads => (threads * (long / (threads * AMPLE_PIECE)).clamp(1, 4)).min(long / MIN_PIECE).max(1),
    };
    // Equal but for ending on multiples of a tile's side.
    let unit = if by_rows { 6 } else { 64 };
    let cut = |i: usize| (i * long / pieces).next_multiple_of(unit).min(long);
    let (row_stride, col_stride) = (dst.row_stride, dst.col_stride);
    let out = SharedMut::new(dst.data);
    pool.run(pieces, |i| {
        let (start, len) = (cut(i), cut(i + 1) - cut(i));
        let (i0, j0, rows, cols) = if by_rows { (start, 0, len, n) } else { (0, start, m, len) };
        // SAFETY: `Mat` and `MatMut` checked that every element is in bounds, the block lies within
        // them, blocks of different tasks share no element, and `dst` is borrowed exclusively.
        unsafe {
            product(
                precision,
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

/// As [`matmul`], on the calling thread.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn matmul_here(
    precision: Precision,
    dst: MatMut<'_>,
    write: Write,
    alpha: f32,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
) {
    let sizes = sizes(&dst, &lhs, &rhs);
    let to = (dst.data.as_mut_ptr(), dst.row_stride, dst.col_stride);
    let [lhs, rhs] = [lhs, rhs].map(|of| (of.data.as_ptr(), of.row_stride, of.col_stride));
    // SAFETY: `Mat` and `MatMut` checked that every element is in bounds, and `dst` is borrowed exclusively.
    unsafe { product(precision, sizes, to, write, alpha, lhs, rhs) }
}

/// M, N and K of a product whose shapes fit.
fn sizes(dst: &MatMut<'_>, lhs: &Mat<'_>, rhs: &Mat<'_>) -> [usize; 3] {
    let [m, n, k] = [dst.rows, dst.cols, lhs.cols];
    assert!(
        lhs.rows == m && rhs.rows == k && rhs.cols == n,
        "matmul: lhs [{}, {}] · rhs [{}, {}] does not give dst [{m}, {n}]",
        lhs.rows,
        lhs.cols,
        rhs.rows,
        rhs.cols
    );
    [m, n, k]
}

/// A symmetric product: what lies above the diagonal is computed, then copied below it.
fn mirrored(pool: &Pool, precision: Precision, dst: MatMut<'_>, alpha: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    let (m, k) = (dst.rows, lhs.cols);
    // Rows for each thread, so that all have about as much above the diagonal: with a share s of it above row r of m,
    // (1 - r / m)² = 1 - s.
    let pieces = pool.threads().min(m / MIRROR_UNIT);
    let cut = |i: usize| {
        let row = m as f64 * (1.0 - (1.0 - i as f64 / pieces as f64).sqrt());
        if i == pieces { m } else { (row / MIRROR_UNIT as f64).round() as usize * MIRROR_UNIT }
    };
    let stride = dst.row_stride;
    let out = SharedMut::new(dst.data);
    pool.run(pieces, |i| {
        let (start, end) = (cut(i), cut(i + 1));
        // SAFETY: as for a block in `matmul`; rows of different tasks share no element.
        unsafe {
            gemm::product_above_diagonal(
                precision,
                [end - start, m - start, k],
                (out.at(start * stride + start), stride, 1),
                alpha,
                (lhs.data.as_ptr().wrapping_add(start * lhs.row_stride), lhs.row_stride, lhs.col_stride),
                (rhs.data.as_ptr().wrapping_add(start * rhs.col_stride), rhs.row_stride, rhs.col_stride),
            );
        }
    });
    gemm::mirror(dst.data, m, stride);
}

/// One block's product: `dst [m, n] (+)= alpha * lhs [m, k] · rhs [k, n]`, on the calling thread, but for BLAS, which
/// may use threads of its own.
///
/// # Safety
/// Every element of the three blocks must be in bounds of live memory, and the elements of `dst` distinct. During the
/// call nothing may write between the first and the last element of `lhs` or of `rhs`, and nothing else may access
/// those of `dst`.
pub(crate) unsafe fn product(
    precision: Precision,
    [m, n, k]: [usize; 3],
    dst: BlockMut,
    write: Write,
    alpha: f32,
    lhs: Block,
    rhs: Block,
) {
    #[cfg(any(target_os = "macos", feature = "openblas"))]
    if precision == Precision::F32
        && m > 0
        && n > 0
        && k > 0
        // SAFETY: passed on from this function's contract.
        && unsafe { crate::cblas::product([m, n, k], dst, write, alpha, lhs, rhs) }
    {
        return;
    }
    // SAFETY: passed on from this function's contract.
    unsafe { gemm::product(precision, [m, n, k], dst, write, alpha, lhs, rhs) }
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

    /// Oracle: f64 sums of operands that the crate `half` rounds. Values lie in [-1, 1], and products of bf16 are exact in
    /// f32, so a chain of K multiply-adds is off by at most about K * K/2 * eps / sqrt(K) in the worst likely case;
    /// sqrt(K) * K^(1/2) * 2^-23 = K * 2^-23 bounds it.
    #[test]
    fn agrees_with_the_definition() {
        for (m, n, k) in
            [(1, 1, 1), (1, 70, 33), (70, 1, 33), (5, 7, 2), (33, 130, 65), (200, 131, 600), (130, 257, 96)]
        {
            let (a, b) = (random(1, m * k), random(2, k * n));
            let rounded = [&a, &b].map(|x| x.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect());
            let of: [(Precision, [Vec<f32>; 2]); 2] =
                [(Precision::F32, [a.clone(), b.clone()]), (Precision::Bf16, rounded)];
            for (write, (precision, [c, d])) in [Write::Store, Write::Accumulate]
                .into_iter()
                .flat_map(|write| of.iter().map(move |of| (write, of)))
            {
                for ((lhs, rhs), (c, d)) in forms(&a, &b, m, n, k).into_iter().zip(forms(c, d, m, n, k)) {
                    let mut fast = random(3, m * n);
                    let mut want = fast.clone();
                    matmul(&Pool::new(2), *precision, MatMut::new(&mut fast, m, n), write, 0.5, lhs, rhs);
                    slow(&mut want, write, 0.5, c, d);
                    let tolerance = (k + 1) as f32 * f32::EPSILON;
                    let off = worst_difference(&fast, &want);
                    assert!(off <= tolerance, "{precision:?} [{m}, {k}] · [{k}, {n}]: {off} > {tolerance}");
                }
            }
        }
    }

    /// Rounding to bf16 where it is not a matter of the nearest one: ties, what overflows, what is no number. Oracle: the
    /// crate `half`.
    #[test]
    fn rounds_as_bf16_is_defined() {
        let odd =
            [0x3f80_8000u32, 0x3f81_8000, 0x3f80_7fff, 0x7f7f_ffff, 0xff7f_8000, 0x7f80_0000, 0x7f80_0001]
                .into_iter()
                .chain([0xffff_ffff, 0x0080_0000, 0x8000_0000, 0x7f7f_7fff, 0xbf80_8000])
                .map(f32::from_bits);
        for x in odd {
            let mut got = [0.0];
            let (x_alone, one) = ([x], [1.0]);
            let (lhs, rhs) = (Mat::new(&x_alone, 1, 1), Mat::new(&one, 1, 1));
            matmul(&Pool::new(1), Precision::Bf16, MatMut::new(&mut got, 1, 1), Write::Store, 1.0, lhs, rhs);
            let want = half::bf16::from_f32(x).to_f32();
            assert!(got[0] == want || got[0].is_nan() && want.is_nan(), "{x}: {} for {want}", got[0]);
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
                for precision in [Precision::F32, Precision::Bf16] {
                    let runs: Vec<Vec<f32>> = [1, 2, 3, 7]
                        .map(|threads| {
                            let mut dst = vec![0.25; m * n];
                            matmul(
                                &Pool::new(threads),
                                precision,
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
    }

    /// Oracle: the same product of operands that are not known to be the same.
    #[test]
    fn symmetric_products_have_the_bits_of_any_other() {
        for (precision, (m, k)) in [Precision::F32, Precision::Bf16].into_iter().flat_map(|precision| {
            [(128, 40), (200, 333), (257, 600), (129, 1)].map(|sizes| (precision, sizes))
        }) {
            let x = random(1, m * k);
            let y = x.clone();
            let product = |threads, lhs: Mat<'_>, rhs: Mat<'_>| {
                let mut dst = vec![7.0; m * m];
                matmul(
                    &Pool::new(threads),
                    precision,
                    MatMut::new(&mut dst, m, m),
                    Write::Store,
                    0.5,
                    lhs,
                    rhs,
                );
                dst
            };
            let wide = product(1, Mat::new(&x, m, k), Mat::new(&y, m, k).t());
            let tall = product(1, Mat::new(&x, k, m).t(), Mat::new(&y, k, m));
            let again = wide.clone();
            let square = product(1, Mat::new(&wide, m, m), Mat::new(&again, m, m));
            for threads in [1, 2, 3, 7] {
                assert!(product(threads, Mat::new(&x, m, k), Mat::new(&x, m, k).t()) == wide, "{m} {k}");
                assert!(product(threads, Mat::new(&x, k, m).t(), Mat::new(&x, k, m)) == tall, "{m} {k}");
                assert!(product(threads, Mat::new(&wide, m, m), Mat::new(&wide, m, m)) == square, "{m} {k}");
            }
            // One value off the diagonal makes it any product again: in a square that is compared as a whole, and in one
            // that the diagonal crosses.
            for (i, j) in [(40, 3), (m - 1, m - 2)] {
                let mut odd = wide.clone();
                odd[i * m + j] += 1.0;
                let copy = odd.clone();
                let whole = product(1, Mat::new(&odd, m, m), Mat::new(&copy, m, m));
                assert!(product(2, Mat::new(&odd, m, m), Mat::new(&odd, m, m)) == whole, "{m} {k}");
            }
        }
    }

    #[test]
    fn an_empty_output_is_none_for_any_number_of_threads() {
        let x = random(1, 3000);
        for threads in [1, 2] {
            let (lhs, rhs) = (Mat::new(&[], 0, 3), Mat::new(&x, 3, 1000));
            matmul(
                &Pool::new(threads),
                Precision::F32,
                MatMut::new(&mut [], 0, 1000),
                Write::Store,
                1.0,
                lhs,
                rhs,
            );
            // With nothing to add up there are zeros.
            let mut dst = vec![1.0; 300 * 200];
            let (lhs, rhs) = (Mat::new(&[], 0, 300).t(), Mat::new(&[], 0, 200));
            matmul(
                &Pool::new(threads),
                Precision::F32,
                MatMut::new(&mut dst, 300, 200),
                Write::Store,
                1.0,
                lhs,
                rhs,
            );
            assert!(dst.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    #[should_panic(expected = "overlaps itself")]
    fn a_destination_all_in_one_place() {
        MatMut::strided(&mut [0.0], 1, 1000, 1000, 0);
    }

    #[test]
    #[should_panic(expected = "reaches beyond 4 elements")]
    fn strides_that_wrap_around() {
        Mat::strided(&[0.0; 4], 4, 1, usize::MAX / 3 * 2 + 1, 1);
    }

    #[test]
    #[should_panic(expected = "does not give dst")]
    fn shapes_that_do_not_fit() {
        let x = [0.0; 6];
        matmul(
            &Pool::new(1),
            Precision::F32,
            MatMut::new(&mut [0.0; 4], 2, 2),
            Write::Store,
            1.0,
            Mat::new(&x, 2, 3),
            Mat::new(&x, 2, 3),
        );
    }
}

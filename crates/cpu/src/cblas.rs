//! Matrix products through the C interface of BLAS: Accelerate on macOS, whose products run on the
//! matrix unit of the chip, which no compiler offers.
//!
//! With the feature `openblas` the same code calls OpenBLAS on Linux, which is how it is tested where
//! there is no Mac. Source of the interface: the BLAS Technical Forum Standard, 2001, appendix B.
//!
//! BLAS knows matrices whose elements lie next to each other along one axis. What does not is left to
//! the kernels of other machines, by [`product`] returning false.

use std::ffi::c_int;

use crate::Write;
use crate::gemm::{Block, BlockMut};

const ROW_MAJOR: c_int = 101;
const NO_TRANS: c_int = 111;
const TRANS: c_int = 112;

#[cfg_attr(target_os = "macos", link(name = "Accelerate", kind = "framework"))]
#[cfg_attr(not(target_os = "macos"), link(name = "openblas"))]
unsafe extern "C" {
    fn cblas_sgemm(
        order: c_int,
        trans_a: c_int,
        trans_b: c_int,
        m: c_int,
        n: c_int,
        k: c_int,
        alpha: f32,
        a: *const f32,
        lda: c_int,
        b: *const f32,
        ldb: c_int,
        beta: f32,
        c: *mut f32,
        ldc: c_int,
    );
}

/// How a matrix `[rows, cols]` is told to BLAS: whether it is stored transposed, and the distance of
/// its lines. `None` when its elements lie apart along both axes or an extent is beyond BLAS.
fn stored(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<(c_int, c_int)> {
    // The stride along an axis of one element is never used, and a line must be at least as long as its
    // elements.
    let (trans, stride, len) = if col_stride == 1 || cols == 1 && row_stride != 1 {
        (NO_TRANS, if rows == 1 { cols } else { row_stride }, cols)
    } else if row_stride == 1 || rows == 1 {
        (TRANS, if cols == 1 { rows } else { col_stride }, rows)
    } else {
        return None;
    };
    if stride < len {
        return None;
    }
    Some((trans, c_int::try_from(stride).ok()?))
}

/// `dst [m, n] (+)= alpha * lhs [m, k] · rhs [k, n]`; false, and nothing done, when BLAS cannot.
///
/// # Safety
/// As [`crate::matmul::product`].
pub(crate) unsafe fn product(
    [m, n, k]: [usize; 3],
    dst: BlockMut,
    write: Write,
    alpha: f32,
    lhs: Block,
    rhs: Block,
) -> bool {
    // dst's rows are written along memory; if its columns are, the transposed product is the same.
    if dst.2 != 1 && dst.1 == 1 {
        let t = |(data, row_stride, col_stride): Block| (data, col_stride, row_stride);
        // SAFETY: the same elements under transposed names.
        return unsafe { product([n, m, k], (dst.0, dst.2, dst.1), write, alpha, t(rhs), t(lhs)) };
    }
    let size = |extent: usize| c_int::try_from(extent).ok();
    let (Some((NO_TRANS, ldc)), Some((trans_a, lda)), Some((trans_b, ldb)), Some(m), Some(n), Some(k)) = (
        stored(m, n, dst.1, dst.2),
        stored(m, k, lhs.1, lhs.2),
        stored(k, n, rhs.1, rhs.2),
        size(m),
        size(n),
        size(k),
    ) else {
        return false;
    };
    let beta = match write {
        // BLAS does not read what beta 0 replaces.
        Write::Store => 0.0,
        Write::Accumulate => 1.0,
    };
    // SAFETY: `stored` describes the elements that the caller vouches for, line by line.
    unsafe {
        cblas_sgemm(ROW_MAJOR, trans_a, trans_b, m, n, k, alpha, lhs.0, lda, rhs.0, ldb, beta, dst.0, ldc);
    }
    true
}

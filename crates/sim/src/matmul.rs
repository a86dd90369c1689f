//! `matmul`: operands are rounded to f16 (they are f16 values), products and sums are f32, the
//! result is rounded once and checked against the cliff of rule ANE-057.

use mil::TensorType;
use rayon::prelude::*;

use crate::interpreter::Machine;
use crate::tensor::{Data, Value};
use crate::walk::{Walk, broadcast_strides};

/// A matrix somewhere in memory.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    /// Distance of two elements of one column.
    pub(crate) row_stride: usize,
    /// Distance of two elements of one row.
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, or stored as `[columns, rows]` when `transposed`.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, transposed: bool) -> Self {
        let (row_stride, column_stride) = if transposed { (1, rows) } else { (columns, 1) };
        Matrix { data: &data[..rows * columns], row_stride, column_stride }
    }

    fn rows_from(self, row: usize) -> Self {
        Matrix { data: &self.data[row * self.row_stride..], ..self }
    }

    /// Whether `[rows, columns]` lies inside its memory.
    fn holds(self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// x `[.., m, k]` times y `[.., k, n]`, either stored transposed, leading axes broadcast
/// -> `[.., m, n]`
pub(crate) fn matmul(
    machine: &Machine,
    ty: &TensorType,
    args: &[&Value],
    transpose_x: bool,
    transpose_y: bool,
) -> Data<'static> {
    let (x, y) = (args[0], args[1]);
    let mut out = machine.pool.take(ty.numel());
    if out.is_empty() {
        return Data::float(out);
    }
    let leading = |shape: &[usize]| shape.len() - 2;
    let batch = &ty.shape[..leading(&ty.shape)];
    let (m, n) = (ty.shape[batch.len()], ty.shape[batch.len() + 1]);
    let k = x.shape()[leading(x.shape()) + usize::from(!transpose_x)];
    let walk = Walk::new(batch, [x, y].map(|v| broadcast_strides(&v.shape()[..leading(v.shape())], batch)));
    let (xs, ys) = (x.floats(), y.floats());
    out.par_chunks_mut(m * n).enumerate().for_each(|(index, out)| {
        let [x_at, y_at] = walk.offsets(index);
        let x = Matrix::new(&xs[x_at * m * k..], m, k, transpose_x);
        let y = Matrix::new(&ys[y_at * k * n..], k, n, transpose_y);
        multiply(machine, ty, out, n, k, x, y);
    });
    Data::float(out)
}

/// Multiplications that one task does at least, and rows that it works on at least: y is laid out
/// anew for every task.
const TASK_WORK: usize = 1 << 22;
const TASK_ROWS: usize = 96;

/// x `[m, k]` times y `[k, n]` -> out `[m, n]`, rounded to the element type of `ty`.
///
/// Rows are cut into tasks by the sizes alone, and each task adds up its elements in the same
/// order every time, so the result does not depend on the number of threads.
pub(crate) fn multiply(
    machine: &Machine,
    ty: &TensorType,
    out: &mut [f32],
    n: usize,
    k: usize,
    x: Matrix,
    y: Matrix,
) {
    let rows = TASK_WORK.div_ceil((n * k).max(1)).max(TASK_ROWS);
    out.par_chunks_mut(rows * n).enumerate().for_each(|(task, out)| {
        let x = x.rows_from(task * rows);
        if machine.profile.round_products && ty.dtype == mil::DType::F16 {
            rounded_products(machine, out, n, k, x, y);
        } else {
            wide_product(out, n, k, x, y);
        }
        machine.profile.finish_product(ty.dtype, out);
    });
}

/// x `[m, k]` times y `[k, n]` -> out `[m, n]` in f32.
fn wide_product(out: &mut [f32], n: usize, k: usize, x: Matrix, y: Matrix) {
    let m = out.len() / n;
    if k == 0 {
        return out.fill(0.0);
    }
    assert!(out.len() == m * n && x.holds(m, k) && y.holds(k, n), "matrices lie in their memory");
    // SAFETY: every pointer is read or written at offsets of its matrix's elements only, and these
    // lie inside the slices, as was just asserted; `out` is borrowed mutably and overlaps neither.
    // Strides fit isize because they do not exceed a slice's length.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.data.as_ptr(),
            x.column_stride as isize,
            x.row_stride as isize,
            y.data.as_ptr(),
            y.column_stride as isize,
            y.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The same with every product rounded to f16 before it is added.
fn rounded_products(machine: &Machine, out: &mut [f32], n: usize, k: usize, x: Matrix, y: Matrix) {
    let mut products = vec![0.0; n];
    for (i, row) in out.chunks_mut(n).enumerate() {
        row.fill(0.0);
        for l in 0..k {
            let factor = x.data[i * x.row_stride + l * x.column_stride];
            for (j, product) in products.iter_mut().enumerate() {
                *product = factor * y.data[l * y.row_stride + j * y.column_stride];
            }
            machine.profile.finish(mil::DType::F16, &mut products);
            row.iter_mut().zip(&products).for_each(|(o, p)| *o += p);
        }
    }
}

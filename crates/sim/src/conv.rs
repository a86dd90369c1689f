//! `conv`: the patches that the kernel sees become columns, and the weight times these columns is
//! a matrix product with the arithmetic of `matmul`.

use mil::ops::conv::window;
use mil::{Op, TensorType};

use crate::interpreter::Machine;
use crate::matmul::{Matrix, multiply};
use crate::tensor::{Data, Value};
use crate::walk::chunks;

/// x `[B, C, H, W]`, weight `[O, C/groups, KH, KW]` -> `[B, O, OH, OW]`
pub(crate) fn conv(m: &Machine, op: &Op, ty: &TensorType, args: &[&Value]) -> Data<'static> {
    let Op::Conv { strides, dilations, groups, .. } = op else { unreachable!("called for conv only") };
    let (x, weight) = (args[0], args[1]);
    let windows = window(op, x.shape(), weight.shape()).expect("inference has checked it");
    let [(out_height, top, _), (out_width, left, _)] = windows;
    let [_, channels, height, width] = *x.shape() else { unreachable!("inference wants four axes") };
    let [outputs, group_channels, kernel_height, kernel_width] = *weight.shape() else {
        unreachable!("inference wants four axes")
    };
    let groups = *groups as usize;
    let group_outputs = outputs / groups;
    let k = group_channels * kernel_height * kernel_width;
    let n = out_height * out_width;
    let (xs, weights) = (x.floats(), weight.floats());
    let mut out = m.pool.take(ty.numel());
    if out.is_empty() {
        return Data::float(out);
    }
    let mut columns = m.pool.take(k * n);
    for (index, out) in out.chunks_mut(group_outputs * n).enumerate() {
        let (image, group) = (index / groups, index % groups);
        let first = (image * channels + group * group_channels) * height * width;
        let patch = &xs[first..][..group_channels * height * width];
        // Row (c, i, j) of the columns holds, for each place, what kernel element (i, j) sees of
        // channel c.
        chunks(&mut columns, n, |start, rows| {
            for (row, places) in rows.chunks_mut(n).enumerate() {
                let row = start / n + row;
                let (c, i, j) = (
                    row / (kernel_height * kernel_width),
                    row / kernel_width % kernel_height,
                    row % kernel_width,
                );
                let plane = &patch[c * height * width..][..height * width];
                for (place, value) in places.iter_mut().enumerate() {
                    let y = place / out_width * strides[0] as usize + i * dilations[0] as usize;
                    let x = place % out_width * strides[1] as usize + j * dilations[1] as usize;
                    let inside = (top..top + height).contains(&y) && (left..left + width).contains(&x);
                    *value = if inside { plane[(y - top) * width + x - left] } else { 0.0 };
                }
            }
        });
        let kernels = &weights[group * group_outputs * k..];
        let kernels = Matrix::new(kernels, group_outputs, k, false);
        let places = Matrix::new(&columns, k, n, false);
        multiply(m, ty, out, n, k, kernels, places);
    }
    m.pool.put(columns);
    Data::float(out)
}

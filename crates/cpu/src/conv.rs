//! Two-dimensional convolution, as a matrix product over gathered patches. It serves programs with
//! baked weights; training uses matrix products directly.

use mil::Op;
use mil::ops::conv::window;

use crate::matmul::{Mat, MatMut, matmul};
use crate::pool::{Pool, with_scratch};
use crate::{Precision, Write};

/// x `[B, C, H, W]`, weight `[O, C/groups, KH, KW]` -> y `[B, O, OH, OW]`.
#[derive(Debug, Clone)]
pub(crate) struct Conv {
    x: [usize; 4],
    weight: [usize; 4],
    /// Extent, zeros before it, step and spacing along height and width.
    sides: [(usize, usize, usize, usize); 2],
    groups: usize,
}

impl Conv {
    pub(crate) fn new(op: &Op, x: &[usize], weight: &[usize]) -> mil::Result<Conv> {
        let Op::Conv { strides, dilations, groups, .. } = op else { unreachable!("called for conv only") };
        let window = window(op, x, weight)?;
        let four = |shape: &[usize]| [shape[0], shape[1], shape[2], shape[3]];
        let side = |i: usize| (window[i].0, window[i].1, strides[i] as usize, dilations[i] as usize);
        Ok(Conv { x: four(x), weight: four(weight), sides: [side(0), side(1)], groups: *groups as usize })
    }

    pub(crate) fn flops(&self) -> f64 {
        let outputs = self.x[0] * self.weight[0] * self.sides[0].0 * self.sides[1].0;
        2.0 * (outputs * self.weight[1]) as f64 * (self.weight[2] * self.weight[3]) as f64
    }

    pub(crate) fn forward(
        &self,
        pool: &Pool,
        precision: Precision,
        x: &[f32],
        weight: &[f32],
        y: &mut [f32],
    ) {
        let [batch, _, height, width] = self.x;
        let [out, per_group, kh, kw] = self.weight;
        let [(oh, top, sh, dh), (ow, left, sw, dw)] = self.sides;
        let (rows, cols, out_per_group) = (per_group * kh * kw, oh * ow, out / self.groups);
        with_scratch(rows * cols, |patches| {
            for image in 0..batch {
                for group in 0..self.groups {
                    for row in 0..rows {
                        let (channel, ky, kx) = (row / (kh * kw), row / kw % kh, row % kw);
                        let plane = &x[(image * self.x[1] + group * per_group + channel) * height * width..];
                        for col in 0..cols {
                            let (iy, ix) = ((col / ow) * sh + ky * dh, (col % ow) * sw + kx * dw);
                            let inside =
                                (top..top + height).contains(&iy) && (left..left + width).contains(&ix);
                            patches[row * cols + col] =
                                if inside { plane[(iy - top) * width + ix - left] } else { 0.0 };
                        }
                    }
                    let y = &mut y[(image * out + group * out_per_group) * cols..][..out_per_group * cols];
                    let weight = &weight[group * out_per_group * rows..][..out_per_group * rows];
                    matmul(
                        pool,
                        precision,
                        MatMut::new(y, out_per_group, cols),
                        Write::Store,
                        1.0,
                        Mat::new(weight, out_per_group, rows),
                        Mat::new(patches, rows, cols),
                    );
                }
            }
        });
    }
}

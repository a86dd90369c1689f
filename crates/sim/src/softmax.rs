//! `softmax`: exp(x - largest) / sum, computed wide inside, the result rounded once.

use mil::TensorType;
use rayon::prelude::*;

use crate::elementwise::maximum;
use crate::interpreter::Machine;
use crate::tensor::{Data, Value};
use crate::walk::chunks;

/// Along `axis` of x `[outer, extent, inner]` -> the same shape
pub(crate) fn softmax(m: &Machine, ty: &TensorType, x: &Value, axis: i32) -> Data<'static> {
    let axis = if axis < 0 { axis + ty.rank() as i32 } else { axis } as usize;
    let extent = ty.shape[axis];
    let inner: usize = ty.shape[axis + 1..].iter().product();
    let xs = x.floats();
    let mut out = m.pool.take(ty.numel());
    if out.is_empty() {
        return Data::float(out);
    }
    if inner == 1 {
        chunks(&mut out, extent, |start, rows| {
            let xs = &xs[start..];
            for (row, x) in rows.chunks_mut(extent).zip(xs.chunks(extent)) {
                let largest = x.iter().copied().fold(f32::NEG_INFINITY, maximum);
                let mut sum = 0.0_f64;
                for (o, x) in row.iter_mut().zip(x) {
                    *o = exp(x - largest);
                    sum += f64::from(*o);
                }
                let share = (1.0 / sum) as f32;
                row.iter_mut().for_each(|o| *o *= share);
            }
            m.profile.finish(ty.dtype, rows);
        });
    } else {
        // Row by row of the inner axes, so that memory is read in order.
        out.par_chunks_mut(extent * inner).zip(xs.par_chunks(extent * inner)).for_each(|(out, x)| {
            let mut largest = vec![f32::NEG_INFINITY; inner];
            for row in x.chunks(inner) {
                largest.iter_mut().zip(row).for_each(|(l, x)| *l = maximum(*l, *x));
            }
            let mut sums = vec![0.0_f64; inner];
            for (row, x) in out.chunks_mut(inner).zip(x.chunks(inner)) {
                for (at, (o, x)) in row.iter_mut().zip(x).enumerate() {
                    *o = exp(x - largest[at]);
                    sums[at] += f64::from(*o);
                }
            }
            let shares: Vec<f32> = sums.iter().map(|sum| (1.0 / sum) as f32).collect();
            for row in out.chunks_mut(inner) {
                row.iter_mut().zip(&shares).for_each(|(o, s)| *o *= s);
                m.profile.finish(ty.dtype, row);
            }
        });
    }
    Data::float(out)
}

/// e to the power of x. A causal mask hides half of the scores, and for each of those the library would
/// take its slow way for results that underflow.
fn exp(x: f32) -> f32 {
    /// Below the logarithm of half of f32's smallest subnormal, -103.97, all is 0.
    const UNDERFLOW: f32 = -104.0;
    if x < UNDERFLOW { 0.0 } else { x.exp() }
}

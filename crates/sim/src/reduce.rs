//! `reduce_sum`, `reduce_mean`, `reduce_max`: elements are taken in row-major order.
//!
//! Where a profile says that the engine accumulates narrowly, every partial sum is rounded to f16;
//! otherwise sums are f64 and are rounded once.

use mil::ops::reduce::reduced_axes;
use mil::{DType, Op, TensorType};

use crate::elementwise::maximum;
use crate::interpreter::Machine;
use crate::tensor::{Data, Value};
use crate::walk::{Walk, chunks, strides};

/// Where the elements of a reduction lie.
struct Plan {
    /// First element for each result.
    kept: Walk<1>,
    /// From there to each of those that are reduced, in row-major order.
    reduced: Vec<usize>,
}

impl Plan {
    fn new(op: &Op, shape: &[usize]) -> Self {
        let (axes, _) = reduced_axes(op, shape.len()).expect("inference has checked it");
        let all = strides(shape);
        let along = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
            (0..shape.len())
                .filter(|axis| axes.contains(axis) == reduced)
                .map(|axis| (shape[axis], all[axis]))
                .unzip()
        };
        let (kept, kept_strides) = along(false);
        let (extents, reduced_strides) = along(true);
        let reduced = Walk::new(&extents, [reduced_strides]);
        Plan {
            kept: Walk::new(&kept, [kept_strides]),
            reduced: (0..extents.iter().product()).map(|index| reduced.offsets(index)[0]).collect(),
        }
    }

    /// Folds every result: `step(sum, element)` takes one element into a sum, and `round` is called
    /// on sums after each step.
    fn fold<T: Copy + Send + Sync>(
        &self,
        x: &[f32],
        out: &mut [T],
        empty: T,
        step: impl Fn(T, f32) -> T + Sync,
        round: impl Fn(&mut [T]) + Sync,
    ) {
        let [stride] = self.kept.inner();
        chunks(out, 1, |start, chunk| {
            chunk.fill(empty);
            self.kept.runs(start, chunk, |run, [first]| {
                if stride == 1 {
                    // Neighbouring results have neighbouring elements: all sums of the run at once.
                    for offset in &self.reduced {
                        for (sum, x) in run.iter_mut().zip(&x[first + offset..]) {
                            *sum = step(*sum, *x);
                        }
                        round(run);
                    }
                } else {
                    for (i, sum) in run.iter_mut().enumerate() {
                        for offset in &self.reduced {
                            *sum = step(*sum, x[first + i * stride + offset]);
                            round(std::slice::from_mut(sum));
                        }
                    }
                }
            });
        });
    }
}

/// x with some axes reduced to one element -> `ty`
pub(crate) fn reduce(m: &Machine, op: &Op, ty: &TensorType, x: &Value) -> Data<'static> {
    let plan = Plan::new(op, x.shape());
    let mut out = m.pool.take(ty.numel());
    let xs = x.floats();
    let count = plan.reduced.len();
    let mean = matches!(op, Op::ReduceMean { .. });
    match op {
        Op::ReduceMax { .. } => plan.fold(xs, &mut out, f32::NEG_INFINITY, maximum, |_| ()),
        _ if ty.dtype == DType::F16 && m.profile.narrow_reduce => {
            let round = |sums: &mut [f32]| m.profile.finish(DType::F16, sums);
            plan.fold(xs, &mut out, 0.0, |sum, x| sum + x, round);
            if mean {
                out.iter_mut().for_each(|sum| *sum /= count as f32);
                round(&mut out);
            }
        }
        _ => {
            let mut sums = vec![0.0_f64; out.len()];
            plan.fold(xs, &mut sums, 0.0, |sum, x| sum + f64::from(x), |_| ());
            let divisor = if mean { count as f64 } else { 1.0 };
            chunks(&mut out, 1, |start, chunk| {
                for (o, sum) in chunk.iter_mut().zip(&sums[start..]) {
                    *o = (sum / divisor) as f32;
                }
                m.profile.finish(ty.dtype, chunk);
            });
        }
    }
    Data::float(out)
}

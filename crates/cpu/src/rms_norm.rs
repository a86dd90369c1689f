//! Root-mean-square normalisation over channels, and its gradient.

use crate::Write;
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::{dispatch, mul_add};

/// The shape of a norm: `x [G, D, N]`, normalised over D for each of G groups. A layer's norm has one
/// group of D = C channels; QK-norm has a group per head. `weight [D]` is shared by the groups.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// G, the number of groups of rows.
    pub groups: usize,
    /// D, the rows of one group.
    pub rows: usize,
    /// N, the columns.
    pub cols: usize,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// Columns per task. A strip of 768 rows is 384 KiB and stays in a 1 MiB second-level cache between
/// the pass that squares and the pass that scales.
const STRIP: usize = 128;

/// Rows that are squared and added to one another before they join the total: two short sums err
/// less than a long one.
const ROWS_PER_SUM: usize = 32;

impl RmsNorm {
    fn check(&self, x: &[f32], weight: Option<&[f32]>, what: &str) {
        let [g, d, n] = [self.groups, self.rows, self.cols];
        assert!(x.len() == g * d * n, "rms_norm: {what} has {} values, expected [{g}, {d}, {n}]", x.len());
        if let Some(w) = weight {
            assert!(w.len() == d, "rms_norm: weight has {} values, expected [{d}]", w.len());
        }
    }

    /// Tasks: (group, strip of columns).
    fn strips(&self) -> usize {
        self.cols.div_ceil(STRIP)
    }

    /// `x [G, D, N], weight [D] -> y [G, D, N]`: y = x * rsqrt(mean over D of x^2 + eps) * weight.
    pub fn forward(&self, pool: &Pool, x: &[f32], weight: Option<&[f32]>, y: &mut [f32]) {
        self.check(x, weight, "x");
        self.check(y, weight, "y");
        let out = SharedMut::new(y);
        pool.run(self.groups * self.strips(), |task| {
            let (group, col) = (task / self.strips(), task % self.strips() * STRIP);
            let width = STRIP.min(self.cols - col);
            let base = group * self.rows * self.cols + col;
            let mut scale = [0f32; STRIP];
            let scale = &mut scale[..width];
            self.reciprocal_rms(&x[base..], scale);
            for d in 0..self.rows {
                let at = base + d * self.cols;
                // SAFETY: this strip of this row belongs to this task alone.
                let y = unsafe { out.slice(at, width) };
                scale_row(&x[at..][..width], scale, weight.map_or(1.0, |w| w[d]), y);
            }
        });
    }

    /// `dy [G, D, N] -> dx [G, D, N]` and, where there is a weight, `dweight [D]`. The norm is
    /// recomputed from `x`: one more pass over a strip that the gradient reads anyway.
    ///
    /// With r = rsqrt(mean x^2 + eps) and g = dy * weight:
    /// dx = r g - x r^3 mean(g x), dweight = sum over G and N of dy x r.
    pub fn backward(
        &self,
        pool: &Pool,
        x: &[f32],
        weight: Option<&[f32]>,
        dy: &[f32],
        (dx, dx_write): (&mut [f32], Write),
        dweight: Option<(&mut [f32], Write)>,
    ) {
        self.check(x, weight, "x");
        self.check(dy, weight, "dy");
        self.check(dx, weight, "dx");
        let tasks = self.groups * self.strips();
        let out = SharedMut::new(dx);
        // A row of partial sums per task; the tasks follow from the shape, so their sum has one order.
        let want_dweight = dweight.is_some();
        with_scratch(if want_dweight { tasks * self.rows } else { 0 }, |partial| {
            let partial_rows = SharedMut::new(partial);
            pool.run(tasks, |task| {
                let (group, col) = (task / self.strips(), task % self.strips() * STRIP);
                let width = STRIP.min(self.cols - col);
                let base = group * self.rows * self.cols + col;
                let (mut r, mut dot) = ([0f32; STRIP], [0f32; STRIP]);
                let (r, dot) = (&mut r[..width], &mut dot[..width]);
                self.reciprocal_rms(&x[base..], r);
                self.dot(&x[base..], &dy[base..], weight, dot);
                // dot becomes r^3 mean(g x).
                for (dot, r) in dot.iter_mut().zip(&*r) {
                    *dot *= r * r * r / self.rows as f32;
                }
                for d in 0..self.rows {
                    let at = base + d * self.cols;
                    let (x, dy) = (&x[at..][..width], &dy[at..][..width]);
                    // SAFETY: this strip of this row belongs to this task alone.
                    let dx = unsafe { out.slice(at, width) };
                    dx_row(x, dy, weight.map_or(1.0, |w| w[d]), r, dot, dx_write, dx);
                    if want_dweight {
                        // SAFETY: row `task` of the partial sums belongs to this task alone.
                        let partial = unsafe { partial_rows.slice(task * self.rows + d, 1) };
                        partial[0] = dot3(x, dy, r);
                    }
                }
            });
            if let Some((dweight, write)) = dweight {
                assert!(
                    dweight.len() == self.rows,
                    "rms_norm: dweight has {} values, expected [{}]",
                    dweight.len(),
                    self.rows
                );
                if write == Write::Store {
                    dweight.fill(0.0);
                }
                for row in partial.chunks_exact(self.rows) {
                    for (sum, part) in dweight.iter_mut().zip(row) {
                        *sum += part;
                    }
                }
            }
        });
    }

    /// `x [D, N] from the strip's first element -> r [width]`.
    fn reciprocal_rms(&self, x: &[f32], r: &mut [f32]) {
        r.fill(0.0);
        let mut sum = [0f32; STRIP];
        let sum = &mut sum[..r.len()];
        for d0 in (0..self.rows).step_by(ROWS_PER_SUM) {
            sum.fill(0.0);
            for d in d0..(d0 + ROWS_PER_SUM).min(self.rows) {
                add_squares(&x[d * self.cols..][..r.len()], sum);
            }
            r.iter_mut().zip(&*sum).for_each(|(total, part)| *total += part);
        }
        for r in r {
            *r = 1.0 / (*r / self.rows as f32 + self.eps).sqrt();
        }
    }

    /// `x, dy [D, N] from the strip's first element -> dot [width] = sum over D of weight x dy`.
    fn dot(&self, x: &[f32], dy: &[f32], weight: Option<&[f32]>, dot: &mut [f32]) {
        dot.fill(0.0);
        let mut sum = [0f32; STRIP];
        let sum = &mut sum[..dot.len()];
        for d0 in (0..self.rows).step_by(ROWS_PER_SUM) {
            sum.fill(0.0);
            for d in d0..(d0 + ROWS_PER_SUM).min(self.rows) {
                let at = d * self.cols;
                add_products(
                    &x[at..][..dot.len()],
                    &dy[at..][..dot.len()],
                    weight.map_or(1.0, |w| w[d]),
                    sum,
                );
            }
            dot.iter_mut().zip(&*sum).for_each(|(total, part)| *total += part);
        }
    }
}

dispatch! {
    fn add_squares(x: &[f32], sum: &mut [f32]) {
        for (s, x) in sum.iter_mut().zip(x) {
            *s = mul_add::<FMA>(*x, *x, *s);
        }
    }
}

dispatch! {
    fn add_products(x: &[f32], dy: &[f32], w: f32, sum: &mut [f32]) {
        for ((s, x), dy) in sum.iter_mut().zip(x).zip(dy) {
            *s = mul_add::<FMA>(*x * w, *dy, *s);
        }
    }
}

dispatch! {
    fn scale_row(x: &[f32], scale: &[f32], w: f32, y: &mut [f32]) {
        let _ = FMA;
        for ((y, x), s) in y.iter_mut().zip(x).zip(scale) {
            *y = x * s * w;
        }
    }
}

dispatch! {
    fn dx_row(x: &[f32], dy: &[f32], w: f32, r: &[f32], dot: &[f32], write: Write, dx: &mut [f32]) {
        let value = |x: f32, dy: f32, r: f32, dot: f32| mul_add::<FMA>(dy * w, r, -(x * dot));
        let each = dx.iter_mut().zip(x).zip(dy).zip(r).zip(dot);
        match write {
            Write::Store => each.for_each(|((((dx, x), dy), r), dot)| *dx = value(*x, *dy, *r, *dot)),
            Write::Accumulate => each.for_each(|((((dx, x), dy), r), dot)| *dx += value(*x, *dy, *r, *dot)),
        }
    }
}

dispatch! {
    /// `sum of x * dy * r`, in 16 interleaved sums.
    fn dot3(x: &[f32], dy: &[f32], r: &[f32]) -> f32 {
        let mut lanes = [0f32; 16];
        let whole = x.len() / 16 * 16;
        for i in (0..whole).step_by(16) {
            let (x, dy, r) = (&x[i..i + 16], &dy[i..i + 16], &r[i..i + 16]);
            for l in 0..16 {
                lanes[l] = mul_add::<FMA>(x[l] * r[l], dy[l], lanes[l]);
            }
        }
        for i in whole..x.len() {
            lanes[0] = mul_add::<FMA>(x[i] * r[i], dy[i], lanes[0]);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, same_bits, worst_difference};

    const EPS: f32 = 1e-5;

    /// The definition in f64: y, and for an upstream dy the gradients dx and dweight.
    fn slow(s: RmsNorm, x: &[f32], w: Option<&[f32]>, dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let [g, d, n] = [s.groups, s.rows, s.cols];
        let (mut y, mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0f64; d]);
        for group in 0..g {
            for col in 0..n {
                let at = |row: usize| (group * d + row) * n + col;
                let x_at = |row| f64::from(x[at(row)]);
                let w_at = |row: usize| w.map_or(1.0, |w| f64::from(w[row]));
                let mean = (0..d).map(|r| x_at(r) * x_at(r)).sum::<f64>() / d as f64;
                let r = 1.0 / (mean + f64::from(s.eps)).sqrt();
                let mean_gx =
                    (0..d).map(|i| f64::from(dy[at(i)]) * w_at(i) * x_at(i)).sum::<f64>() / d as f64;
                for i in 0..d {
                    y[at(i)] = (x_at(i) * r * w_at(i)) as f32;
                    dx[at(i)] = (r * f64::from(dy[at(i)]) * w_at(i) - x_at(i) * r * r * r * mean_gx) as f32;
                    dw[i] += f64::from(dy[at(i)]) * x_at(i) * r;
                }
            }
        }
        (y, dx, dw.into_iter().map(|v| v as f32).collect())
    }

    /// Oracle: the definition in f64. Tolerances for |x|, |w|, |dy| <= 1, where r is about 1.7: y is a
    /// product of 3 numbers, each off by a few eps (the sum of D squares by sqrt(D) eps at most, here
    /// 14 eps); dx adds two such terms; dweight adds G*N of them with partial sums up to sqrt(G*N).
    #[test]
    fn agrees_with_the_definition() {
        for (groups, rows, cols, weighted) in [(1, 200, 300, true), (1, 33, 7, false), (4, 64, 130, true)] {
            let s = RmsNorm { groups, rows, cols, eps: EPS };
            let len = groups * rows * cols;
            let (x, dy, w) = (random(1, len), random(2, len), random(3, rows));
            let w = weighted.then_some(&w[..]);
            let (y_want, dx_want, dw_want) = slow(s, &x, w, &dy);

            let y = same_bits(|pool| {
                let mut y = vec![f32::NAN; len];
                s.forward(pool, &x, w, &mut y);
                y
            });
            assert!(worst_difference(&y, &y_want) <= 32.0 * f32::EPSILON);

            for write in [Write::Store, Write::Accumulate] {
                let held = if write == Write::Store { 0.0 } else { 1.0 };
                let both = same_bits(|pool| {
                    let (mut dx, mut dw) = (vec![1.0; len], vec![1.0; rows]);
                    s.backward(pool, &x, w, &dy, (&mut dx, write), Some((&mut dw, write)));
                    dx.iter().chain(&dw).map(|v| v - held).collect()
                });
                assert!(worst_difference(&both[..len], &dx_want) <= 64.0 * f32::EPSILON);
                let tolerance = 32.0 * ((groups * cols) as f32).sqrt() * f32::EPSILON;
                assert!(worst_difference(&both[len..], &dw_want) <= tolerance);
            }
        }
    }
}

//! Sum, mean and maximum over one axis.

use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::dispatch;

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The sum divided by the axis' length.
    Mean,
    /// The largest value; NaN if any is NaN.
    Max,
}

/// Columns per task where the reduced axis is not the last.
const STRIP: usize = 256;

/// Values whose sum is carried in f32 before it joins an f64 total.
const PART: usize = 4096;

/// Rows of a strip that are added in f32 before they join the total of their column.
const ROWS_PER_SUM: usize = 32;

/// `x [A, R, B] -> y [A, B]`, reduced over R. Tasks follow from the shape alone.
pub fn reduce(pool: &Pool, what: Reduction, x: &[f32], [a, r, b]: [usize; 3], y: &mut [f32]) {
    assert!(x.len() == a * r * b, "reduce: x has {} values, expected [{a}, {r}, {b}]", x.len());
    assert!(y.len() == a * b, "reduce: y has {} values, expected [{a}, {b}]", y.len());
    assert!(r > 0, "reduce: the axis is empty");
    if b == 1 {
        rows(pool, what, x, r, y)
    } else {
        columns(pool, what, x, [a, r, b], y)
    }
    if what == Reduction::Mean {
        y.iter_mut().for_each(|y| *y /= r as f32);
    }
}

/// `x [A, R] -> y [A]`: every row in parts of [`PART`], the parts of all rows being the tasks' work.
fn rows(pool: &Pool, what: Reduction, x: &[f32], r: usize, y: &mut [f32]) {
    let parts = r.div_ceil(PART);
    // Short rows share a task.
    let per_task = (PART / r).max(1);
    with_scratch(y.len() * parts, |partial| {
        let total = partial.len();
        let shared = SharedMut::new(partial);
        pool.run(total.div_ceil(per_task), |task| {
            for i in task * per_task..total.min((task + 1) * per_task) {
                let (row, start) = (i / parts, i % parts * PART);
                let values = &x[row * r + start..row * r + r.min(start + PART)];
                // SAFETY: value `i` belongs to this task alone.
                let out = unsafe { shared.slice(i, 1) };
                out[0] = if what == Reduction::Max { max_of(values) } else { sum_of(values) };
            }
        });
        for (y, parts) in y.iter_mut().zip(partial.chunks_exact(parts)) {
            *y = match what {
                Reduction::Max => max_of(parts),
                _ => parts.iter().map(|&p| f64::from(p)).sum::<f64>() as f32,
            };
        }
    });
}

/// `x [A, R, B] -> y [A, B]`, a strip of columns per task.
fn columns(pool: &Pool, what: Reduction, x: &[f32], [a, r, b]: [usize; 3], y: &mut [f32]) {
    let strips = b.div_ceil(STRIP);
    let shared = SharedMut::new(y);
    pool.run(a * strips, |task| {
        let (block, col) = (task / strips, task % strips * STRIP);
        let width = STRIP.min(b - col);
        // SAFETY: this strip of this row belongs to this task alone.
        let y = unsafe { shared.slice(block * b + col, width) };
        let first = block * r * b + col;
        if what == Reduction::Max {
            y.fill(f32::NEG_INFINITY);
            for row in 0..r {
                max_into(&x[first + row * b..][..width], y);
            }
            return;
        }
        y.fill(0.0);
        let mut part = [0f32; STRIP];
        let part = &mut part[..width];
        for row in (0..r).step_by(ROWS_PER_SUM) {
            part.fill(0.0);
            for row in row..r.min(row + ROWS_PER_SUM) {
                add_into(&x[first + row * b..][..width], part);
            }
            add_into(part, y);
        }
    });
}

dispatch! {
    fn add_into(x: &[f32], sum: &mut [f32]) {
        let _ = FMA;
        for (s, x) in sum.iter_mut().zip(x) {
            *s += x;
        }
    }
}

dispatch! {
    fn max_into(x: &[f32], max: &mut [f32]) {
        let _ = FMA;
        for (m, x) in max.iter_mut().zip(x) {
            *m = if *x > *m || x.is_nan() { *x } else { *m };
        }
    }
}

dispatch! {
    fn sum_of(x: &[f32]) -> f32 {
        let _ = FMA;
        let mut lanes = [0f32; 64];
        let blocks = x.chunks_exact(64);
        let rest: f32 = blocks.remainder().iter().sum();
        for block in blocks {
            for l in 0..64 {
                lanes[l] += block[l];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

dispatch! {
    fn max_of(x: &[f32]) -> f32 {
        let _ = FMA;
        let larger = |m: f32, x: f32| if x > m || x.is_nan() { x } else { m };
        let mut lanes = [f32::NEG_INFINITY; 64];
        let blocks = x.chunks_exact(64);
        let rest = blocks.remainder().iter().fold(f32::NEG_INFINITY, |m, x| larger(m, *x));
        for block in blocks {
            for l in 0..64 {
                lanes[l] = larger(lanes[l], block[l]);
            }
        }
        lanes.iter().fold(rest, |m, x| larger(m, *x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, same_bits, worst_difference};

    /// Oracle: f64. A sum of R values in [-1, 1] in chains of at most R/32 + 32 additions is off by
    /// about sqrt(R) eps * sqrt(R); a maximum is exact.
    #[test]
    fn agrees_with_the_definition() {
        for [a, r, b] in [[1, 1, 1], [3, 5000, 1], [1, 100_000, 1], [40, 70, 1], [2, 300, 257], [5, 3, 2]] {
            let x = random(1, a * r * b);
            for what in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
                let y = same_bits(|pool| {
                    let mut y = vec![f32::NAN; a * b];
                    reduce(pool, what, &x, [a, r, b], &mut y);
                    y
                });
                let want: Vec<f32> = (0..a * b)
                    .map(|i| {
                        let values = (0..r).map(|j| f64::from(x[(i / b * r + j) * b + i % b]));
                        let value = match what {
                            Reduction::Sum => values.sum(),
                            Reduction::Mean => values.sum::<f64>() / r as f64,
                            Reduction::Max => values.fold(f64::NEG_INFINITY, f64::max),
                        };
                        value as f32
                    })
                    .collect();
                let tolerance = match what {
                    Reduction::Sum => r as f32 * f32::EPSILON,
                    Reduction::Mean => 2.0 * f32::EPSILON,
                    Reduction::Max => 0.0,
                };
                assert!(worst_difference(&y, &want) <= tolerance, "{what:?} of [{a}, {r}, {b}]");
            }
        }
    }

    #[test]
    fn a_nan_is_not_lost() {
        for shape in [[1, 200, 1], [1, 20, 10]] {
            let mut x = random(1, 200);
            x[70] = f32::NAN;
            let mut y = vec![0.0; shape[2]];
            reduce(&Pool::new(1), Reduction::Max, &x, shape, &mut y);
            assert!(y.iter().any(|y| y.is_nan()));
        }
    }
}

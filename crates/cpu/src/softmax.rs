//! Softmax along one axis, for programs that spell attention out (decoding does).

use crate::pool::{Pool, SharedMut};

/// `x [A, R, B] -> y [A, R, B]`: exp(x - max) / sum over R.
pub fn softmax(pool: &Pool, x: &[f32], [a, r, b]: [usize; 3], y: &mut [f32]) {
    assert!(
        x.len() == a * r * b && y.len() == x.len(),
        "softmax: x and y have {} and {} values, expected [{a}, {r}, {b}]",
        x.len(),
        y.len()
    );
    let out = SharedMut::new(y);
    pool.run(a, |outer| {
        let x = &x[outer * r * b..][..r * b];
        // SAFETY: each task has its own outer index.
        let y = unsafe { out.slice(outer * r * b, r * b) };
        for column in 0..b {
            let at = |row: usize| row * b + column;
            let max = (0..r).map(|row| x[at(row)]).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0_f64;
            for row in 0..r {
                let e = (x[at(row)] - max).exp();
                y[at(row)] = e;
                sum += f64::from(e);
            }
            let scale = (1.0 / sum) as f32;
            (0..r).for_each(|row| y[at(row)] *= scale);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand, exp(ln k) = k.
    #[test]
    fn rows_and_columns() {
        let x: Vec<f32> = [1.0_f32, 3.0, 2.0, 2.0].iter().map(|v| v.ln()).collect();
        let mut y = vec![0.0; 4];
        softmax(&Pool::new(1), &x, [2, 2, 1], &mut y);
        let close = |y: &[f32], want: [f32; 4]| y.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&y, [0.25, 0.75, 0.5, 0.5]), "{y:?}");
        softmax(&Pool::new(2), &x, [1, 2, 2], &mut y);
        assert!(close(&y, [1.0 / 3.0, 0.6, 2.0 / 3.0, 0.4]), "{y:?}");
    }
}

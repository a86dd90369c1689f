//! Rotary position embedding.

use crate::pool::{Pool, SharedMut};
use crate::simd::{dispatch, mul_add};

/// Which two rows of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Row i with row i + D/2: Hugging Face's `rotate_half`.
    Half,
    /// Row 2i with row 2i + 1: the original Llama's order.
    Interleaved,
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// By the position's angle.
    Forward,
    /// Back by it: the inverse, and (a rotation being orthogonal) the gradient.
    Inverse,
}

/// cos and sin of every pair's angle at every position: `[D/2, S]` each.
#[derive(Clone, Debug)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    seq: usize,
}

impl RopeTables {
    /// Tables for heads of `head_dim` rows at positions `offset .. offset + seq`: the angle of pair i
    /// at position p is p * theta^(-2i / D). Computed in f64, since p times a rounded frequency would
    /// be off by 1e-4 at position 2048.
    pub fn new(head_dim: usize, seq: usize, offset: usize, theta: f64) -> RopeTables {
        assert!(head_dim.is_multiple_of(2), "rope: head_dim {head_dim} is odd, rows turn in pairs");
        let half = head_dim / 2;
        let angles = (0..half * seq).map(|i| {
            let (pair, position) = (i / seq, offset + i % seq);
            position as f64 * theta.powf(-2.0 * pair as f64 / head_dim as f64)
        });
        let (sin, cos) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        RopeTables { cos, sin, half, seq }
    }

    /// Tables given from outside: `cos, sin [D/2, S]`.
    pub fn from_parts(cos: Vec<f32>, sin: Vec<f32>, seq: usize) -> RopeTables {
        assert!(
            seq > 0 && cos.len() == sin.len() && cos.len().is_multiple_of(seq),
            "rope: tables of {} and {} values for {seq} positions",
            cos.len(),
            sin.len()
        );
        RopeTables { half: cos.len() / seq, cos, sin, seq }
    }
}

/// `x [H*D, N] -> y [H*D, N]`, N = `cols` a multiple of S: column n is at the tables' position n mod S.
pub fn rope(
    pool: &Pool,
    tables: &RopeTables,
    pairing: Pairing,
    turn: Turn,
    cols: usize,
    x: &[f32],
    y: &mut [f32],
) {
    assert!(x.len() == y.len(), "rope: x has {} values, y {}", x.len(), y.len());
    rotate(pool, tables, pairing, turn, cols, Some(x), y);
}

/// [`rope`] on the spot: `x [H*D, N]`.
pub fn rope_in_place(
    pool: &Pool,
    tables: &RopeTables,
    pairing: Pairing,
    turn: Turn,
    cols: usize,
    x: &mut [f32],
) {
    rotate(pool, tables, pairing, turn, cols, None, x);
}

/// Values of one row of each pair that a task turns: it moves 64 KiB.
const VALUES_PER_TASK: usize = 8 * 512;

fn rotate(
    pool: &Pool,
    t: &RopeTables,
    pairing: Pairing,
    turn: Turn,
    cols: usize,
    from: Option<&[f32]>,
    y: &mut [f32],
) {
    let head = 2 * t.half * cols;
    assert!(
        cols.is_multiple_of(t.seq) && y.len().is_multiple_of(head),
        "rope: {} values in rows of {cols}, expected heads of {} rows and columns in sequences of {}",
        y.len(),
        2 * t.half,
        t.seq
    );
    let pairs = y.len() / head * t.half;
    let out = SharedMut::new(y);
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    // All of one token is a single task: to wake a thread would take longer.
    let per_task = (VALUES_PER_TASK / cols.max(1)).max(1);
    pool.run(pairs.div_ceil(per_task), |task| {
        for index in task * per_task..pairs.min((task + 1) * per_task) {
            let (h, pair) = (index / t.half, index % t.half);
            let (r0, r1) = match pairing {
                Pairing::Half => (pair, pair + t.half),
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (at0, at1) = (h * head + r0 * cols, h * head + r1 * cols);
            // SAFETY: the rows of a pair are distinct, and each pair belongs to one task.
            let (y0, y1) = unsafe { (out.slice(at0, cols), out.slice(at1, cols)) };
            if let Some(x) = from {
                y0.copy_from_slice(&x[at0..at0 + cols]);
                y1.copy_from_slice(&x[at1..at1 + cols]);
            }
            let angle = pair * t.seq..(pair + 1) * t.seq;
            rotate_rows(&t.cos[angle.clone()], &t.sin[angle], sign, y0, y1);
        }
    });
}

dispatch! {
    /// `cos, sin [S]; y0, y1 [B, S]`, turned on the spot.
    fn rotate_rows(cos: &[f32], sin: &[f32], sign: f32, y0: &mut [f32], y1: &mut [f32]) {
        for (y0, y1) in y0.chunks_exact_mut(cos.len()).zip(y1.chunks_exact_mut(cos.len())) {
            for (((y0, y1), c), s) in y0.iter_mut().zip(y1).zip(cos).zip(sin) {
                let (a, b, s) = (*y0, *y1, s * sign);
                *y0 = mul_add::<FMA>(a, *c, -(b * s));
                *y1 = mul_add::<FMA>(b, *c, a * s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, same_bits, worst_difference};

    const THETA: f64 = 10_000.0;

    /// The formula, value by value in f64.
    fn slow(
        x: &[f32],
        heads: usize,
        d: usize,
        seq: usize,
        cols: usize,
        offset: usize,
        pairing: Pairing,
    ) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        for h in 0..heads {
            for pair in 0..d / 2 {
                for n in 0..cols {
                    let angle = (offset + n % seq) as f64 / THETA.powf(2.0 * pair as f64 / d as f64);
                    let (i, j) = if pairing == Pairing::Half {
                        (pair, pair + d / 2)
                    } else {
                        (2 * pair, 2 * pair + 1)
                    };
                    let (i, j) = ((h * d + i) * cols + n, (h * d + j) * cols + n);
                    let (a, b) = (f64::from(x[i]), f64::from(x[j]));
                    y[i] = (a * angle.cos() - b * angle.sin()) as f32;
                    y[j] = (b * angle.cos() + a * angle.sin()) as f32;
                }
            }
        }
        y
    }

    /// Oracle: the formula in f64. Each value is two products of numbers within [-1, 1], so a few
    /// roundings of at most eps each; turning back doubles that.
    #[test]
    fn agrees_with_the_formula_and_turns_back() {
        let (heads, d, seq, batch, offset) = (3, 10, 37, 2, 5);
        let cols = seq * batch;
        let x = random(1, heads * d * cols);
        let tables = RopeTables::new(d, seq, offset, THETA);
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let y = same_bits(|pool| {
                let mut y = vec![0.0; x.len()];
                rope(pool, &tables, pairing, Turn::Forward, cols, &x, &mut y);
                y
            });
            assert!(
                worst_difference(&y, &slow(&x, heads, d, seq, cols, offset, pairing)) <= 4.0 * f32::EPSILON
            );
            let mut back = y.clone();
            rope_in_place(&Pool::new(2), &tables, pairing, Turn::Inverse, cols, &mut back);
            assert!(worst_difference(&back, &x) <= 8.0 * f32::EPSILON);
        }
    }
}

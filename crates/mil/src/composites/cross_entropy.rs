//! Classifier, softcap and cross-entropy, for one tile of the vocabulary.
//!
//! * `cross_entropy_stats(h, w, hi, lo)` gives, per token, the largest logit, the sum of
//!   exp(logit - largest) and the target's logit, `[1, 1, 1, N]` each. The host joins the tiles in
//!   f32 ([`Statistics`]), so that the loss that people read never saw f16's coarse steps.
//! * `cross_entropy_grad(h, w, hi, lo, lse_hi, lse_lo, log_scale)` gives dh and dw of
//!   exp(log_scale) times the sum over tokens of the loss.
//! * `cross_entropy` is both at once when the vocabulary is one tile.
//!
//! h is `[1, C, 1, N]`, w `[1, 1, V, C]`. A target enters as two small rows, id div 512 and id mod
//! 512, which f16 holds exactly up to a vocabulary of 2^20; hi = -1 says that the target lies in
//! another tile. The scale enters inside the exponential, so that a probability of 1/V does not
//! fall below f16, and the target's own term uses exp(log_scale) as the device computes it, so
//! that the two cancel exactly where the model is certain.

use crate::ops::{Example, Op, t};
use crate::{Builder, Constant, Error, Result, TensorType, ValueId};

/// Targets enter as id div this and id mod this; f16 counts exactly to 2,048.
pub const TARGET_BASE: usize = 512;

/// Statistics of one token's logits over one or more vocabulary tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// The largest logit.
    pub max: f32,
    /// Σ exp(logit - max).
    pub sum_exp: f32,
    /// The target's logit, 0 where it lies in none of these tiles.
    pub target: f32,
}

impl Statistics {
    /// Those of two tiles together.
    pub fn join(self, other: Statistics) -> Statistics {
        let max = self.max.max(other.max);
        let sum_exp = self.sum_exp * (self.max - max).exp() + other.sum_exp * (other.max - max).exp();
        Statistics { max, sum_exp, target: self.target + other.target }
    }

    /// log Σ exp(logit).
    pub fn log_sum_exp(self) -> f32 {
        self.max + self.sum_exp.ln()
    }

    /// The loss in nats.
    pub fn nll(self) -> f32 {
        self.log_sum_exp() - self.target
    }
}

/// The two rows in which the target `id` of a tile that begins at `first` and holds `len` ids
/// enters a program.
pub fn target_rows(id: u32, first: usize, len: usize) -> (f32, f32) {
    match (id as usize).checked_sub(first) {
        Some(at) if at < len => ((at / TARGET_BASE) as f32, (at % TARGET_BASE) as f32),
        _ => (-1.0, 0.0),
    }
}

fn softcap_of(op: &Op) -> f32 {
    match *op {
        Op::CrossEntropyStats { softcap }
        | Op::CrossEntropyGrad { softcap }
        | Op::CrossEntropy { softcap } => softcap,
        _ => unreachable!("called for the cross-entropy family only"),
    }
}

pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let names = op.kind().expect("a composite").operands;
    let (h, w) = (args[0], args[1]);
    if h.rank() != 4 || h.shape[0] != 1 || h.shape[2] != 1 || !h.dtype.is_float() {
        return Err(Error::op(op.name(), format!("h is {h}, expected a float [1, C, 1, N]")));
    }
    if w.rank() != 4 || w.shape[..2] != [1, 1] || w.shape[3] != h.shape[1] || w.dtype != h.dtype {
        return Err(Error::op(
            op.name(),
            format!("w is {w}, expected [1, 1, V, {}] of the type of h", h.shape[1]),
        ));
    }
    let row = TensorType::new(h.dtype, &[1, 1, 1, h.shape[3]]);
    for (name, arg) in names.iter().zip(args).skip(2) {
        let expected =
            if *name == "log_scale" { TensorType::new(h.dtype, &[1, 1, 1, 1]) } else { row.clone() };
        if **arg != expected {
            return Err(Error::op(op.name(), format!("{name} is {arg}, expected {expected}")));
        }
    }
    let softcap = softcap_of(op);
    if softcap.is_nan() || softcap < 0.0 {
        return Err(Error::op(
            op.name(),
            format!("softcap is {softcap}, expected 0 (none) or a positive number"),
        ));
    }
    let stats = vec![row; 3];
    let grads = vec![h.clone(), w.clone()];
    Ok(match op {
        Op::CrossEntropyStats { .. } => stats,
        Op::CrossEntropyGrad { .. } => grads,
        _ => [stats, grads].concat(),
    })
}

/// What both halves need of a tile.
struct Tile {
    /// Logits after the cap, `[1, 1, V, N]`.
    z: ValueId,
    /// tanh(logit / softcap), when there is a cap.
    bend: Option<ValueId>,
    /// 1 at the target, 0 elsewhere, `[1, 1, V, N]`.
    one_hot: ValueId,
}

/// Logits after the cap, softcap * tanh(logit / softcap), and that tanh; a cap of 0 leaves them. The
/// loss and whoever decodes share it, so that both speak of one model.
///
/// # Errors
/// As [`Builder::push`].
pub fn capped(b: &mut Builder, logits: ValueId, softcap: f32) -> Result<(ValueId, Option<ValueId>)> {
    if softcap == 0.0 {
        return Ok((logits, None));
    }
    let shrunk = b.scale(logits, 1.0 / softcap)?;
    let bend = b.push1(Op::Tanh, &[shrunk])?;
    Ok((b.scale(bend, softcap)?, Some(bend)))
}

fn tile(b: &mut Builder, softcap: f32, args: &[ValueId]) -> Result<Tile> {
    let (h, w, hi, lo) = (args[0], args[1], args[2], args[3]);
    let (channels, n, vocab) = (b.shape(h)[1], b.shape(h)[3], b.shape(w)[2]);
    let h = b.reshape(h, &[1, 1, channels, n])?;
    let logits = b.matmul(w, h, false, false)?;
    let (z, bend) = capped(b, logits, softcap)?;
    let digits = |digit: fn(usize) -> usize| (0..vocab).map(move |id| digit(id) as f32);
    let high = Constant::float(b.element(), &[1, 1, vocab, 1], digits(|id| id / TARGET_BASE));
    let low = Constant::float(b.element(), &[1, 1, vocab, 1], digits(|id| id % TARGET_BASE));
    let (high, low) = (b.constant(high), b.constant(low));
    // logical_and exists on no engine (facts, section 2): one choice within another instead. Where a
    // logit is infinite so that this zero is NaN, the loss is lost already.
    let zero = b.zeros_like(z)?;
    let one = b.scalar(1.0);
    let one = b.add(zero, one)?;
    let same_high = b.push1(Op::Equal, &[high, hi])?;
    let same_low = b.push1(Op::Equal, &[low, lo])?;
    let same_low = b.select(same_low, one, zero)?;
    let one_hot = b.select(same_high, same_low, zero)?;
    Ok(Tile { z, bend, one_hot })
}

fn stats(b: &mut Builder, tile: &Tile) -> Result<[ValueId; 3]> {
    let max = b.push1(Op::ReduceMax { axes: vec![2], keep_dims: true }, &[tile.z])?;
    let below = b.sub(tile.z, max)?;
    let e = b.exp(below)?;
    let sum_exp = b.wide_sum(e, 2)?;
    let hit = b.mul(tile.one_hot, tile.z)?;
    let target = b.wide_sum(hit, 2)?;
    Ok([max, sum_exp, target])
}

/// dh and dw; `lse` are rows that are subtracted from the logits one after another, the coarse
/// one first so that the difference is small when the fine one comes.
fn grads(
    b: &mut Builder,
    softcap: f32,
    tile: &Tile,
    args: &[ValueId],
    lse: [ValueId; 2],
    log_scale: ValueId,
) -> Result<[ValueId; 2]> {
    let (h, w) = (args[0], args[1]);
    let (channels, n) = (b.shape(h)[1], b.shape(h)[3]);
    let coarse = b.sub(tile.z, lse[0])?;
    let shift = b.sub(log_scale, lse[1])?;
    let log_p = b.add(coarse, shift)?;
    let p = b.exp(log_p)?;
    let scale = b.exp(log_scale)?;
    let hit = b.mul(tile.one_hot, scale)?;
    let mut dz = b.sub(p, hit)?;
    if let Some(bend) = tile.bend {
        debug_assert!(softcap > 0.0, "a bend comes from a cap");
        // d cap tanh(l / cap) / dl = 1 - tanh²
        let square = b.mul(bend, bend)?;
        let one = b.scalar(1.0);
        let slope = b.sub(one, square)?;
        dz = b.mul(dz, slope)?;
    }
    let columns = b.reshape(h, &[1, 1, channels, n])?;
    let dw = b.matmul(dz, columns, false, true)?;
    let dh = b.matmul(w, dz, true, false)?;
    let dh = b.reshape(dh, &[1, channels, 1, n])?;
    Ok([dh, dw])
}

pub(super) fn decompose(b: &mut Builder, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let softcap = softcap_of(op);
    let tile = tile(b, softcap, args)?;
    match op {
        Op::CrossEntropyStats { .. } => Ok(stats(b, &tile)?.into()),
        Op::CrossEntropyGrad { .. } => {
            Ok(grads(b, softcap, &tile, args, [args[4], args[5]], args[6])?.into())
        }
        _ => {
            let stats = stats(b, &tile)?;
            let fine = b.push1(Op::Log { epsilon: 0.0 }, &[stats[1]])?;
            let grads = grads(b, softcap, &tile, args, [stats[0], fine], args[4])?;
            Ok([&stats[..], &grads[..]].concat())
        }
    }
}

pub(super) fn examples() -> Vec<Example> {
    let (channels, n, vocab) = (4, 3, 7);
    let row = || t(&[1, 1, 1, n]);
    let base = || vec![t(&[1, channels, 1, n]), t(&[1, 1, vocab, channels]), row(), row()];
    let with = |more: Vec<TensorType>| [base(), more].concat();
    let domain = (-1.0, 1.0);
    [0.0, 2.0]
        .into_iter()
        .flat_map(|softcap| {
            [
                Example { op: Op::CrossEntropyStats { softcap }, operands: base(), domain },
                Example {
                    op: Op::CrossEntropyGrad { softcap },
                    operands: with(vec![row(), row(), t(&[1, 1, 1, 1])]),
                    domain,
                },
                Example { op: Op::CrossEntropy { softcap }, operands: with(vec![t(&[1, 1, 1, 1])]), domain },
            ]
        })
        .collect()
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let row = t(&[1, 1, 1, 3]);
    let (h, w) = (t(&[1, 4, 1, 3]), t(&[1, 1, 7, 4]));
    let narrow = t(&[1, 1, 7, 5]);
    let scale = t(&[1, 1, 1, 1]);
    vec![
        (Op::CrossEntropyStats { softcap: 0.0 }, vec![h.clone(), narrow, row.clone(), row.clone()], "w is"),
        (
            Op::CrossEntropyGrad { softcap: 0.0 },
            vec![h.clone(), w.clone(), row.clone(), row.clone(), row.clone(), row.clone(), row.clone()],
            "log_scale is",
        ),
        (Op::CrossEntropy { softcap: -1.0 }, vec![h, w, row.clone(), row, scale], "softcap is"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definition, log Σ exp over all logits at once.
    #[test]
    fn statistics_of_tiles_join() {
        let logits = [0.3_f32, -2.0, 5.0, 4.5];
        let of = |part: &[f32], target: f32| {
            let max = part.iter().copied().fold(f32::MIN, f32::max);
            Statistics { max, sum_exp: part.iter().map(|z| (z - max).exp()).sum(), target }
        };
        let joined = of(&logits[..2], 0.0).join(of(&logits[2..], 4.5));
        let expected = logits.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln() - 4.5;
        assert!((f64::from(joined.nll()) - expected).abs() < 1e-6, "{joined:?} against {expected}");
    }

    #[test]
    fn a_target_is_split_into_exact_digits_of_its_tile() {
        assert_eq!(target_rows(1_030, 0, 2_048), (2.0, 6.0));
        assert_eq!(target_rows(2_050, 2_048, 2_048), (0.0, 2.0));
        assert_eq!(target_rows(2_050, 0, 2_048), (-1.0, 0.0));
        assert_eq!(target_rows(10, 2_048, 2_048), (-1.0, 0.0));
    }
}

//! The programs after the last layer: norm, classifier, loss, and their gradients.
//!
//! When the whole vocabulary fits one tile, one program does it all. Otherwise (an axis has hard
//! limits, and 151,936 exceeds all of them) the classifier's rows are dealt out to tiles: a first
//! pass gives each tile's statistics, the host joins them in f32, a second pass gives gradients.
//! Both passes use the same program for all tiles of one size.

use mil::{Builder, Element, Op, Program, Result};

use crate::ModelConfig;

/// Norm, classifier, loss and gradients in one: `x`, `norm`, `w`, `hi`, `lo`, `log_scale` to `max`,
/// `sum_exp`, `target`, `d_x`, `d_norm`, `d_w`.
pub(crate) fn fused(config: &ModelConfig, n: usize, element: Element) -> Result<Program> {
    let (c, v, eps) = (config.width, config.vocab_size, config.norm_eps);
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, c, 1, n])?;
    let gain = b.input("norm", &[1, c, 1, 1])?;
    let w = b.input("w", &[1, 1, v, c])?;
    let hi = b.input("hi", &[1, 1, 1, n])?;
    let lo = b.input("lo", &[1, 1, 1, n])?;
    let log_scale = b.input("log_scale", &[1, 1, 1, 1])?;
    let h = b.push1(Op::RmsNorm { axis: 1, eps }, &[x, gain])?;
    let out = b.push(Op::CrossEntropy { softcap: config.softcap }, &[h, w, hi, lo, log_scale])?;
    let grads = b.push(Op::RmsNormGrad { axis: 1, eps }, &[x, gain, out[3]])?;
    let outputs = [
        ("max", out[0]),
        ("sum_exp", out[1]),
        ("target", out[2]),
        ("d_x", grads[0]),
        ("d_norm", grads[1]),
        ("d_w", out[4]),
    ];
    for (name, value) in outputs {
        b.output(name, value)?;
    }
    b.finish()
}

/// `x`, `norm` to `h`.
pub(crate) fn norm(config: &ModelConfig, n: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, n])?;
    let gain = b.input("norm", &[1, config.width, 1, 1])?;
    let h = b.push1(Op::RmsNorm { axis: 1, eps: config.norm_eps }, &[x, gain])?;
    b.output("h", h)?;
    b.finish()
}

/// `h`, `w` (`rows` of the classifier), `hi`, `lo` to `max`, `sum_exp`, `target`.
pub(crate) fn stats(config: &ModelConfig, n: usize, rows: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let h = b.input("h", &[1, config.width, 1, n])?;
    let w = b.input("w", &[1, 1, rows, config.width])?;
    let hi = b.input("hi", &[1, 1, 1, n])?;
    let lo = b.input("lo", &[1, 1, 1, n])?;
    let out = b.push(Op::CrossEntropyStats { softcap: config.softcap }, &[h, w, hi, lo])?;
    for (name, value) in ["max", "sum_exp", "target"].into_iter().zip(out) {
        b.output(name, value)?;
    }
    b.finish()
}

/// `h`, `w`, `hi`, `lo`, `lse_hi`, `lse_lo`, `log_scale` to `d_h` (this tile's share) and `d_w`.
pub(crate) fn grad(config: &ModelConfig, n: usize, rows: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let mut inputs =
        vec![b.input("h", &[1, config.width, 1, n])?, b.input("w", &[1, 1, rows, config.width])?];
    for name in ["hi", "lo", "lse_hi", "lse_lo"] {
        inputs.push(b.input(name, &[1, 1, 1, n])?);
    }
    inputs.push(b.input("log_scale", &[1, 1, 1, 1])?);
    let out = b.push(Op::CrossEntropyGrad { softcap: config.softcap }, &inputs)?;
    b.output("d_h", out[0])?;
    b.output("d_w", out[1])?;
    b.finish()
}

/// `x`, `norm` and each tile's share `d_h0`, `d_h1`, … to `d_x` and `d_norm`.
pub(crate) fn norm_grad(config: &ModelConfig, n: usize, tiles: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, n])?;
    let gain = b.input("norm", &[1, config.width, 1, 1])?;
    let mut d_h = b.input("d_h0", &[1, config.width, 1, n])?;
    for tile in 1..tiles {
        let share = b.input(&format!("d_h{tile}"), &[1, config.width, 1, n])?;
        d_h = b.add(d_h, share)?;
    }
    let grads = b.push(Op::RmsNormGrad { axis: 1, eps: config.norm_eps }, &[x, gain, d_h])?;
    b.output("d_x", grads[0])?;
    b.output("d_norm", grads[1])?;
    b.finish()
}

/// Row ranges of the classifier's tiles, none longer than `max_rows`, all but the last equal.
pub(crate) fn tiles(vocab: usize, max_rows: usize) -> Vec<std::ops::Range<usize>> {
    let count = vocab.div_ceil(max_rows);
    let rows = vocab.div_ceil(count);
    (0..count).map(|tile| tile * rows..((tile + 1) * rows).min(vocab)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_vocabulary_once() {
        for (vocab, max_rows) in [(131, 131), (131, 50), (151_936, 16_384), (8_192, 2_048)] {
            let tiles = tiles(vocab, max_rows);
            assert_eq!(tiles[0].start, 0);
            assert_eq!(tiles.last().unwrap().end, vocab);
            assert!(tiles.windows(2).all(|w| w[0].end == w[1].start));
            assert!(tiles.iter().all(|t| t.len() <= max_rows && !t.is_empty()));
        }
    }
}

//! What comes after the last layer: norm, classifier, loss, and their gradients.
//!
//! When the whole vocabulary fits one tile, one program does it all. Otherwise (an axis has hard
//! limits, and 151,936 exceeds all of them) the classifier's rows are dealt out to tiles: a first
//! pass gives each tile's statistics, the host joins them in f32, a second pass gives gradients.
//! Both passes use the same program for all tiles of one size.

use std::collections::HashMap;
use std::ops::Range;

use device::{Buffer, Device, Executable, Invocation, Mode};
use mil::composites::cross_entropy::{Statistics, target_rows};
use mil::{Builder, Element, Op, Program, ValueId};

use crate::layer::norm;
use crate::storage::{Part, bind_all};
use crate::{Defect, ModelConfig, Result};

/// One vocabulary tile: its rows of the classifier, and what it says of each token.
struct HeadTile {
    rows: Range<usize>,
    hi: Buffer,
    lo: Buffer,
    stats: [Buffer; 3],
    run_stats: Invocation,
    /// As [`Layer::backward`]; empty when one program does it all.
    run_grad: Vec<Invocation>,
}

/// Everything after the last layer, bound to its buffers.
pub(crate) struct Head {
    run_norm: Invocation,
    tiles: Vec<HeadTile>,
    /// Loss and gradients in one program, when the vocabulary is one tile.
    fused: Vec<Invocation>,
    run_norm_grad: Vec<Invocation>,
    pub(crate) log_scale: Buffer,
    lse: [Buffer; 2],
}

impl Head {
    /// Compiles the programs and binds them.
    ///
    /// * `last_norm`: its gain, if there is one
    /// * `stream`, `d_stream`: `[1, C, 1, N]`, the last layer's result and its gradient
    pub(crate) fn new(
        config: &ModelConfig,
        device: &dyn Device,
        n: usize,
        tile_rows: &[Range<usize>],
        classifier: &[Part],
        last_norm: Option<&Part>,
        stream: &Buffer,
        d_stream: &Buffer,
        modes: &[Mode],
    ) -> Result<Head> {
        let element = device.element();
        let row = || device.alloc(&[1, 1, 1, n]);
        let h = device.alloc(stream.shape())?;
        let gain: Vec<_> = last_norm.iter().map(|gain| ("norm", gain.weight_buffer(), Mode::Store)).collect();
        let d_gain = |mode: Mode| last_norm.iter().map(move |gain| ("d_norm", gain.sum_buffer(), mode));
        let log_scale = device.alloc(&[1, 1, 1, 1])?;
        let lse = [row()?, row()?];
        let mut compiled: HashMap<(&str, Option<usize>), Executable> = HashMap::new();
        for HeadProgram { name, rows, program, .. } in programs(config, n, tile_rows, element)? {
            compiled.insert((name, rows), device.compile(name, &program)?);
        }
        let mut normed = gain.clone();
        normed.extend([("x", stream.clone(), Mode::Store), ("h", h.clone(), Mode::Store)]);
        let run_norm = bind_all(&compiled[&("head_norm", None)], &normed)?;
        let tiled = tile_rows.len() > 1;
        let mut tiles = Vec::new();
        let mut shares = Vec::new();
        for (rows, part) in tile_rows.iter().zip(classifier) {
            let (hi, lo, stats) = (row()?, row()?, [row()?, row()?, row()?]);
            let mut inputs = vec![
                ("h", h.clone(), Mode::Store),
                ("w", part.weight_buffer(), Mode::Store),
                ("hi", hi.clone(), Mode::Store),
                ("lo", lo.clone(), Mode::Store),
            ];
            let outputs = ["max", "sum_exp", "target"]
                .into_iter()
                .zip(&stats)
                .map(|(p, b)| (p, b.clone(), Mode::Store));
            let run_stats = bind_all(
                &compiled[&("head_stats", Some(rows.len()))],
                &inputs.iter().cloned().chain(outputs).collect::<Vec<_>>(),
            )?;
            let mut run_grad = Vec::new();
            if tiled {
                let share = device.alloc(stream.shape())?;
                inputs.extend([
                    ("lse_hi", lse[0].clone(), Mode::Store),
                    ("lse_lo", lse[1].clone(), Mode::Store),
                    ("log_scale", log_scale.clone(), Mode::Store),
                    ("d_h", share.clone(), Mode::Store),
                ]);
                for mode in modes {
                    let mut bound = inputs.clone();
                    bound.push(("d_w", part.sum_buffer(), *mode));
                    run_grad.push(bind_all(&compiled[&("head_grad", Some(rows.len()))], &bound)?);
                }
                shares.push(share);
            }
            tiles.push(HeadTile { rows: rows.clone(), hi, lo, stats, run_stats, run_grad });
        }
        let mut x = gain;
        x.extend([("x", stream.clone(), Mode::Store), ("d_x", d_stream.clone(), Mode::Store)]);
        let (mut fused, mut run_norm_grad) = (Vec::new(), Vec::new());
        if tiled {
            let executable = &compiled[&("head_norm_grad", None)];
            let names: Vec<String> = (0..shares.len()).map(|tile| format!("d_h{tile}")).collect();
            for mode in modes {
                let mut bound = x.clone();
                bound.extend(d_gain(*mode));
                bound.extend(
                    names
                        .iter()
                        .zip(&shares)
                        .map(|(name, share)| (name.as_str(), share.clone(), Mode::Store)),
                );
                run_norm_grad.push(bind_all(executable, &bound)?);
            }
        } else {
            let executable = &compiled[&("head", None)];
            let tile = &tiles[0];
            for mode in modes {
                let mut bound = x.clone();
                bound.extend(d_gain(*mode));
                bound.extend([
                    ("w", classifier[0].weight_buffer(), Mode::Store),
                    ("hi", tile.hi.clone(), Mode::Store),
                    ("lo", tile.lo.clone(), Mode::Store),
                    ("log_scale", log_scale.clone(), Mode::Store),
                    ("max", tile.stats[0].clone(), Mode::Store),
                    ("sum_exp", tile.stats[1].clone(), Mode::Store),
                    ("target", tile.stats[2].clone(), Mode::Store),
                    ("d_w", classifier[0].sum_buffer(), *mode),
                ]);
                fused.push(bind_all(executable, &bound)?);
            }
        }
        Ok(Head { run_norm, tiles, fused, run_norm_grad, log_scale, lse })
    }

    /// Deals each target out to the tile that holds it, `targets` [N].
    fn write_targets(&self, targets: &[u32]) -> Result<()> {
        for tile in &self.tiles {
            let (hi, lo): (Vec<f32>, Vec<f32>) =
                targets.iter().map(|id| target_rows(*id, tile.rows.start, tile.rows.len())).unzip();
            tile.hi.write_f32(&hi)?;
            tile.lo.write_f32(&lo)?;
        }
        Ok(())
    }

    /// Joins what the tiles say about each target.
    fn join_statistics(&self) -> Result<Vec<Statistics>> {
        let n = self.lse[0].numel();
        let mut joined: Vec<Option<Statistics>> = vec![None; n];
        let mut rows = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
        for tile in &self.tiles {
            for (row, buffer) in rows.iter_mut().zip(&tile.stats) {
                buffer.read_f32(row)?;
            }
            for (at, total) in joined.iter_mut().enumerate() {
                let tile = Statistics { max: rows[0][at], sum_exp: rows[1][at], target: rows[2][at] };
                *total = Some(total.map_or(tile, |total| total.join(tile)));
            }
        }
        Ok(joined.into_iter().map(|s| s.expect("there is at least one tile")).collect())
    }

    /// Norm and classifier: what the whole vocabulary says of each target [N].
    pub(crate) fn statistics(&self, targets: &[u32]) -> Result<Vec<Statistics>> {
        self.write_targets(targets)?;
        self.run_norm.run()?;
        for tile in &self.tiles {
            tile.run_stats.run()?;
        }
        self.join_statistics()
    }

    /// Loss of each target [N]; gradients of the last stream, the last norm and the classifier go to
    /// their buffers, stored or accumulated as the bindings of number `mode` do.
    pub(crate) fn backward(&self, targets: &[u32], element: Element, mode: usize) -> Result<Vec<f32>> {
        let statistics = if self.fused.is_empty() {
            let statistics = self.statistics(targets)?;
            // The log-sum-exp in two rows: what the device's element holds of it, and the rest.
            let (coarse, fine): (Vec<f32>, Vec<f32>) = statistics
                .iter()
                .map(|s| {
                    let lse = s.log_sum_exp();
                    let coarse = element.round(lse);
                    (coarse, lse - coarse)
                })
                .unzip();
            self.lse[0].write_f32(&coarse)?;
            self.lse[1].write_f32(&fine)?;
            for tile in &self.tiles {
                tile.run_grad[mode].run()?;
            }
            self.run_norm_grad[mode].run()?;
            statistics
        } else {
            self.write_targets(targets)?;
            self.fused[mode].run()?;
            self.join_statistics()?
        };
        Ok(statistics.into_iter().map(Statistics::nll).collect())
    }
}

/// The port of the last norm's gain, if it has one.
pub(crate) fn gain(b: &mut Builder, config: &ModelConfig) -> mil::Result<Option<ValueId>> {
    config.norm_gain.then(|| b.input("norm", &[1, config.width, 1, 1])).transpose()
}

/// The gradient of [`norm`] as outputs `d_x` and, where there is a gain, `d_norm`.
fn norm_outputs(
    b: &mut Builder,
    config: &ModelConfig,
    x: ValueId,
    gain: Option<ValueId>,
    d_h: ValueId,
) -> mil::Result<()> {
    let given = gain.unwrap_or_else(|| b.full(&[1, config.width, 1, 1], 1.0));
    let grads = b.push(Op::RmsNormGrad { axis: 1, eps: config.norm_eps }, &[x, given, d_h])?;
    b.output("d_x", grads[0])?;
    gain.map_or(Ok(()), |_| b.output("d_norm", grads[1]))
}

/// Norm, classifier, loss and gradients in one: `x`, `norm`, `w`, `hi`, `lo`, `log_scale` to `max`,
/// `sum_exp`, `target`, `d_x`, `d_norm`, `d_w`; here and below without `norm` and `d_norm` where norms have no
/// gains.
fn fused_program(config: &ModelConfig, n: usize, element: Element) -> mil::Result<Program> {
    let (c, v) = (config.width, config.vocab_size);
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, c, 1, n])?;
    let gain = gain(&mut b, config)?;
    let w = b.input("w", &[1, 1, v, c])?;
    let hi = b.input("hi", &[1, 1, 1, n])?;
    let lo = b.input("lo", &[1, 1, 1, n])?;
    let log_scale = b.input("log_scale", &[1, 1, 1, 1])?;
    let h = norm(&mut b, config, 1, x, gain)?;
    let out = b.push(Op::CrossEntropy { softcap: config.softcap }, &[h, w, hi, lo, log_scale])?;
    for (name, value) in [("max", out[0]), ("sum_exp", out[1]), ("target", out[2])] {
        b.output(name, value)?;
    }
    norm_outputs(&mut b, config, x, gain, out[3])?;
    b.output("d_w", out[4])?;
    Defect::plant_all(&config.defects, b.finish()?)
}

/// `x`, `norm` to `h`.
fn norm_program(config: &ModelConfig, n: usize, element: Element) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, n])?;
    let gain = gain(&mut b, config)?;
    let h = norm(&mut b, config, 1, x, gain)?;
    b.output("h", h)?;
    b.finish()
}

/// `h`, `w` (`rows` of the classifier), `hi`, `lo` to `max`, `sum_exp`, `target`.
fn stats(config: &ModelConfig, n: usize, rows: usize, element: Element) -> mil::Result<Program> {
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
fn grad(config: &ModelConfig, n: usize, rows: usize, element: Element) -> mil::Result<Program> {
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
fn norm_grad(config: &ModelConfig, n: usize, tiles: usize, element: Element) -> mil::Result<Program> {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, config.width, 1, n])?;
    let gain = gain(&mut b, config)?;
    let mut d_h = b.input("d_h0", &[1, config.width, 1, n])?;
    for tile in 1..tiles {
        let share = b.input(&format!("d_h{tile}"), &[1, config.width, 1, n])?;
        d_h = b.add(d_h, share)?;
    }
    norm_outputs(&mut b, config, x, gain, d_h)?;
    Defect::plant_all(&config.defects, b.finish()?)
}

/// Rows that a tile may have in f16, so that the sum of exponentials of equal logits stays below the cliff
/// of matrix products at 32,752, and a product's dimension within what M1 to M3 take (rule ANE-075).
pub(crate) const F16_MAX_TILE: usize = 16_384;

/// Rows that a tile may have on `device`: its longest axis, and in f16 at most [`F16_MAX_TILE`].
pub(crate) fn longest_tile(device: &dyn Device) -> usize {
    device.limits().max_axis.min(longest_tile_in(device.element())).max(1)
}

/// As [`longest_tile`], as far as it does not depend on the device.
pub(crate) fn longest_tile_in(element: Element) -> usize {
    match element {
        Element::F16 => F16_MAX_TILE,
        Element::F32 => usize::MAX,
    }
}

/// A program of the head.
pub(crate) struct HeadProgram {
    /// The name that it is compiled under.
    pub(crate) name: &'static str,
    /// The rows of the tile that it is for; `None` where it is for all of them.
    pub(crate) rows: Option<usize>,
    pub(crate) program: Program,
    /// How often [`Head::backward`] runs it for one batch. Evaluation runs `head_norm` once and `head_stats`
    /// for each tile.
    pub(crate) training_runs: usize,
}

/// The programs of the head over `n` targets, in the order in which they run, with the classifier in the tiles
/// `tile_rows`. The last tile is shorter where rows do not divide evenly, and then has programs of its own.
pub(crate) fn programs(
    config: &ModelConfig,
    n: usize,
    tile_rows: &[Range<usize>],
    element: Element,
) -> mil::Result<Vec<HeadProgram>> {
    // Rows, and how many tiles have as many.
    let mut sizes: Vec<(usize, usize)> = Vec::new();
    for rows in tile_rows.iter().map(Range::len) {
        match sizes.iter_mut().find(|(size, _)| *size == rows) {
            Some((_, count)) => *count += 1,
            None => sizes.push((rows, 1)),
        }
    }
    let mut all = Vec::new();
    let mut add = |name, rows, program, training_runs| {
        all.push(HeadProgram { name, rows, program, training_runs });
    };
    // One tile is trained by one program.
    let tiled = tile_rows.len() > 1;
    add("head_norm", None, norm_program(config, n, element)?, usize::from(tiled));
    for (rows, count) in &sizes {
        let runs = if tiled { *count } else { 0 };
        add("head_stats", Some(*rows), stats(config, n, *rows, element)?, runs);
    }
    if !tiled {
        add("head", None, fused_program(config, n, element)?, 1);
        return Ok(all);
    }
    for (rows, count) in &sizes {
        add("head_grad", Some(*rows), grad(config, n, *rows, element)?, *count);
    }
    add("head_norm_grad", None, norm_grad(config, n, tile_rows.len(), element)?, 1);
    Ok(all)
}

/// Row ranges of the classifier's tiles, none longer than `max_rows`, all but the last equal.
pub(crate) fn tiles(vocab: usize, max_rows: usize) -> Vec<Range<usize>> {
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

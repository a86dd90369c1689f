//! Classifier and cross-entropy in one: logits exist for one block of tokens at a time.
//!
//! Within a block of tokens the vocabulary is cut into chunks. A task computes a chunk's logits,
//! caps them and takes their maximum and sum of exponentials while they are in its cache; a second
//! round turns logits into their gradients and multiplies them into the chunk's rows of dW.
//!
//! A vocabulary larger than one program can hold comes in tiles: [`CrossEntropy::stats`] for each,
//! [`mil::composites::cross_entropy::Statistics::join`] over them, then [`CrossEntropy::backward_tile`] for each.

use crate::math::{exp_nonpositive as exp, log, tanh};
use crate::matmul::{Mat, MatMut, matmul};
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::dispatch;
use crate::{Precision, Write};

/// The target of a token that counts for nothing: no loss, no gradient.
pub const NO_TARGET: i32 = -1;

/// Memory for one block's logits. 16 MiB are 512 tokens of an 8,192-token vocabulary; a narrower block
/// re-reads the classifier's weights (25 MB at width 768) and their gradients too often.
const LOGIT_BYTES: usize = 16 << 20;

/// Tokens per block: at least one micro-kernel's width, at most what fills a product's depth.
const MIN_TOKENS: usize = 64;
/// See [`MIN_TOKENS`].
const MAX_TOKENS: usize = 512;

/// Vocabulary rows per task: long enough that packing the block's activations again costs 3%.
const MAX_CHUNK: usize = 512;

/// The shape of a classifier with its loss: `h [C, N], w [V, C]`, V possibly a tile of a larger
/// vocabulary that begins at id `first`.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// C, the channels.
    pub channels: usize,
    /// N, the tokens.
    pub tokens: usize,
    /// V, the rows of `w`.
    pub vocab: usize,
    /// The id of `w`'s first row; 0 unless this is a tile.
    pub first: usize,
    /// Logits become cap * tanh(logit / cap).
    pub softcap: Option<f32>,
    /// Multiplies every token's gradient, e.g. loss scale / tokens.
    pub grad_scale: f32,
    /// Of the three products.
    pub precision: Precision,
}

/// Where gradients go: `dh [C, N]` and `dw [V, C]`, each stored or accumulated.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[C, N]`
    pub dh: (&'a mut [f32], Write),
    /// `[V, C]`
    pub dw: Option<(&'a mut [f32], Write)>,
}

/// What a tile knows of each token's softmax: `[N]` each.
#[derive(Debug)]
pub struct Stats<'a> {
    /// The largest logit.
    pub max: &'a mut [f32],
    /// Sum of exp(logit - max).
    pub sum_exp: &'a mut [f32],
    /// The target's logit, 0 where the target is not in this tile.
    pub target_logit: &'a mut [f32],
}

impl CrossEntropy {
    /// `h [C, N], w [V, C], targets [N] ->` each token's statistics over the vocabulary, whose
    /// `max + ln(sum_exp) - target_logit` is the loss in nats, and the gradients where wanted.
    /// With p = softmax(z): dz = (p - onehot) * grad_scale * dz/draw.
    pub fn forward_backward(
        &self,
        pool: &Pool,
        h: &[f32],
        w: &[f32],
        targets: &[i32],
        mut out: Stats<'_>,
        mut gradients: Option<Gradients<'_>>,
    ) {
        self.check(h, w, targets);
        self.check_stats(&out);
        self.check_gradients(gradients.as_ref());
        self.blocks(|n0, tokens, logits| {
            let mut stats = BlockStats::default();
            let targets = &targets[n0..n0 + tokens];
            self.logits(pool, h, w, n0, tokens, logits);
            self.block_stats(pool, targets, tokens, logits, &mut stats);
            stats.copy_to(&mut out, n0, tokens);
            if let Some(gradients) = &mut gradients {
                self.block_backward(pool, h, w, targets, &stats.lse, n0, tokens, logits, gradients);
            }
        });
    }

    /// `h [C, N], w [V, C], targets [N] ->` each token's statistics over this tile. Targets are ids of
    /// the whole vocabulary.
    pub fn stats(&self, pool: &Pool, h: &[f32], w: &[f32], targets: &[i32], mut out: Stats<'_>) {
        self.check(h, w, targets);
        self.check_stats(&out);
        self.blocks(|n0, tokens, logits| {
            let mut stats = BlockStats::default();
            self.logits(pool, h, w, n0, tokens, logits);
            self.block_stats(pool, &targets[n0..n0 + tokens], tokens, logits, &mut stats);
            stats.copy_to(&mut out, n0, tokens);
        });
    }

    /// `h [C, N], w [V, C], targets [N], lse [N]` over the whole vocabulary `->` this tile's gradients.
    /// Logits are recomputed.
    pub fn backward_tile(
        &self,
        pool: &Pool,
        h: &[f32],
        w: &[f32],
        targets: &[i32],
        lse: &[f32],
        mut gradients: Gradients<'_>,
    ) {
        self.check(h, w, targets);
        assert!(
            lse.len() == self.tokens,
            "cross_entropy: lse has {} values, expected [{}]",
            lse.len(),
            self.tokens
        );
        self.check_gradients(Some(&gradients));
        self.blocks(|n0, tokens, logits| {
            let block = n0..n0 + tokens;
            self.logits(pool, h, w, n0, tokens, logits);
            self.cap(pool, tokens, logits);
            self.block_backward(
                pool,
                h,
                w,
                &targets[block.clone()],
                &lse[block],
                n0,
                tokens,
                logits,
                &mut gradients,
            );
        });
    }

    fn check(&self, h: &[f32], w: &[f32], targets: &[i32]) {
        let [c, n, v] = [self.channels, self.tokens, self.vocab];
        assert!(
            h.len() == c * n && w.len() == v * c && targets.len() == n,
            "cross_entropy: h, w, targets have {}, {}, {} values, expected [{c}, {n}], [{v}, {c}], [{n}]",
            h.len(),
            w.len(),
            targets.len()
        );
    }

    fn check_stats(&self, out: &Stats<'_>) {
        let n = self.tokens;
        assert!(
            out.max.len() == n && out.sum_exp.len() == n && out.target_logit.len() == n,
            "cross_entropy: statistics of {}, {}, {} values, expected [{n}] each",
            out.max.len(),
            out.sum_exp.len(),
            out.target_logit.len()
        );
    }

    fn check_gradients(&self, gradients: Option<&Gradients<'_>>) {
        let Some(g) = gradients else { return };
        let [c, n, v] = [self.channels, self.tokens, self.vocab];
        assert!(g.dh.0.len() == c * n, "cross_entropy: dh has {} values, expected [{c}, {n}]", g.dh.0.len());
        if let Some((dw, _)) = &g.dw {
            assert!(dw.len() == v * c, "cross_entropy: dw has {} values, expected [{v}, {c}]", dw.len());
        }
    }

    /// Calls `each(first token, tokens, logits [V, tokens])` for every block of tokens.
    fn blocks(&self, mut each: impl FnMut(usize, usize, &mut [f32])) {
        let fits = LOGIT_BYTES / (size_of::<f32>() * self.vocab.max(1));
        let width = (fits / MIN_TOKENS * MIN_TOKENS).clamp(MIN_TOKENS, MAX_TOKENS).min(self.tokens.max(1));
        with_scratch(self.vocab * width, |logits| {
            for n0 in (0..self.tokens).step_by(width) {
                let tokens = width.min(self.tokens - n0);
                each(n0, tokens, &mut logits[..self.vocab * tokens]);
            }
        });
    }

    /// Vocabulary rows per task, from V alone: about 16 tasks for a small vocabulary.
    fn chunk(&self) -> usize {
        self.vocab.div_ceil(16).next_multiple_of(64).min(MAX_CHUNK)
    }

    fn chunks(&self) -> usize {
        self.vocab.div_ceil(self.chunk())
    }

    /// Chunk `i` of `logits [V, tokens]`: its first row and its values.
    ///
    /// # Safety
    /// As [`SharedMut::slice`]: one task per chunk.
    unsafe fn chunk_of<'a>(&self, logits: SharedMut, i: usize, tokens: usize) -> (usize, &'a mut [f32]) {
        let v0 = i * self.chunk();
        let rows = self.chunk().min(self.vocab - v0);
        // SAFETY: chunks are disjoint, and the caller gives each to one task.
        (v0, unsafe { logits.slice(v0 * tokens, rows * tokens) })
    }

    /// `logits [V, tokens] = w · h[.., n0..n0 + tokens]`.
    fn logits(&self, pool: &Pool, h: &[f32], w: &[f32], n0: usize, tokens: usize, logits: &mut [f32]) {
        let h = Mat::strided(&h[n0..], self.channels, tokens, self.tokens, 1);
        matmul(
            pool,
            self.precision,
            MatMut::new(logits, self.vocab, tokens),
            Write::Store,
            1.0,
            Mat::new(w, self.vocab, self.channels),
            h,
        );
    }

    /// Caps `logits [V, tokens]` on the spot.
    fn cap(&self, pool: &Pool, tokens: usize, logits: &mut [f32]) {
        let Some(cap) = self.softcap else { return };
        let shared = SharedMut::new(logits);
        pool.run(self.chunks(), |i| {
            // SAFETY: each task takes its own chunk.
            let (_, z) = unsafe { self.chunk_of(shared, i, tokens) };
            cap_values(z, cap);
        });
    }

    /// Caps `logits [V, tokens]` and fills the statistics of the block.
    fn block_stats(
        &self,
        pool: &Pool,
        targets: &[i32],
        tokens: usize,
        logits: &mut [f32],
        stats: &mut BlockStats,
    ) {
        let chunks = self.chunks();
        let shared = SharedMut::new(logits);
        with_scratch(2 * chunks * tokens, |parts| {
            let parts_shared = SharedMut::new(parts);
            pool.run(chunks, |i| {
                // SAFETY: each task takes its own chunk and its own rows of `parts`.
                let ((_, z), part) = unsafe {
                    (self.chunk_of(shared, i, tokens), parts_shared.slice(2 * i * tokens, 2 * tokens))
                };
                if let Some(cap) = self.softcap {
                    cap_values(z, cap);
                }
                let (max, sum) = part.split_at_mut(tokens);
                max_and_sum(z, max, sum);
            });
            // Chunks join in their order, whoever computed them.
            let max = &mut stats.max[..tokens];
            max.fill(f32::NEG_INFINITY);
            for part in parts.chunks_exact(2 * tokens) {
                max.iter_mut().zip(&part[..tokens]).for_each(|(m, p)| *m = m.max(*p));
            }
            let sum = &mut stats.sum[..tokens];
            sum.fill(0.0);
            for part in parts.chunks_exact(2 * tokens) {
                add_rescaled(&part[..tokens], &part[tokens..], max, sum);
            }
        });
        for t in 0..tokens {
            stats.lse[t] = stats.max[t] + log::<false>(stats.sum[t]);
            let row = targets[t].wrapping_sub(self.first as i32);
            let here = targets[t] != NO_TARGET && (0..self.vocab as i32).contains(&row);
            stats.target[t] = if here { logits[row as usize * tokens + t] } else { 0.0 };
        }
    }

    /// Capped `logits [V, tokens]` become their gradients, and those go into dh and dw.
    fn block_backward(
        &self,
        pool: &Pool,
        h: &[f32],
        w: &[f32],
        targets: &[i32],
        lse: &[f32],
        n0: usize,
        tokens: usize,
        logits: &mut [f32],
        gradients: &mut Gradients<'_>,
    ) {
        let mut scale = [0f32; MAX_TOKENS];
        for (scale, target) in scale.iter_mut().zip(targets) {
            *scale = if *target == NO_TARGET { 0.0 } else { self.grad_scale };
        }
        let (lse, scale) = (&lse[..tokens], &scale[..tokens]);
        let shared = SharedMut::new(logits);
        pool.run(self.chunks(), |i| {
            // SAFETY: each task takes its own chunk.
            let (v0, z) = unsafe { self.chunk_of(shared, i, tokens) };
            // The target's entry needs the logit that the next line overwrites.
            let rows = z.len() / tokens;
            let mut target_logit = [0f32; MAX_TOKENS];
            let row_of = |t: usize| {
                let row = i64::from(targets[t]) - (self.first + v0) as i64;
                (targets[t] != NO_TARGET && (0..rows as i64).contains(&row)).then_some(row as usize)
            };
            for t in 0..tokens {
                if let Some(row) = row_of(t) {
                    target_logit[t] = z[row * tokens + t];
                }
            }
            logit_gradient(z, lse, scale, self.softcap);
            for t in 0..tokens {
                if let Some(row) = row_of(t) {
                    let through_cap = self.softcap.map_or(1.0, |cap| 1.0 - (target_logit[t] / cap).powi(2));
                    z[row * tokens + t] -= self.grad_scale * through_cap;
                }
            }
        });
        if let Some((dw, write)) = &mut gradients.dw {
            // The blocks of tokens after the first add to what the first one stored.
            let write = if n0 == 0 { *write } else { Write::Accumulate };
            matmul(
                pool,
                self.precision,
                MatMut::new(dw, self.vocab, self.channels),
                write,
                1.0,
                Mat::new(logits, self.vocab, tokens),
                Mat::strided(&h[n0..], self.channels, tokens, self.tokens, 1).t(),
            );
        }
        let (dh, write) = &mut gradients.dh;
        matmul(
            pool,
            self.precision,
            MatMut::strided(&mut dh[n0..], self.channels, tokens, self.tokens, 1),
            *write,
            1.0,
            Mat::new(w, self.vocab, self.channels).t(),
            Mat::new(logits, self.vocab, tokens),
        );
    }
}

impl BlockStats {
    /// Puts the block that begins at token `n0` into its place.
    fn copy_to(&self, out: &mut Stats<'_>, n0: usize, tokens: usize) {
        out.max[n0..n0 + tokens].copy_from_slice(&self.max[..tokens]);
        out.sum_exp[n0..n0 + tokens].copy_from_slice(&self.sum[..tokens]);
        out.target_logit[n0..n0 + tokens].copy_from_slice(&self.target[..tokens]);
    }
}

/// One block's statistics: `[tokens]` each, of which a block uses the first ones.
struct BlockStats {
    max: [f32; MAX_TOKENS],
    sum: [f32; MAX_TOKENS],
    lse: [f32; MAX_TOKENS],
    target: [f32; MAX_TOKENS],
}

impl Default for BlockStats {
    fn default() -> Self {
        let zero = [0.0; MAX_TOKENS];
        BlockStats { max: zero, sum: zero, lse: zero, target: zero }
    }
}

dispatch! {
    fn cap_values(z: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        for z in z {
            *z = cap * tanh::<FMA>(*z * inverse);
        }
    }
}

/// Rows that are exponentiated while they are in the first-level cache.
const ROWS: usize = 8;

dispatch! {
    /// `z [rows, tokens] -> max [tokens]` of each column and `sum [tokens]` of exp(z - max).
    fn max_and_sum(z: &[f32], max: &mut [f32], sum: &mut [f32]) {
        let tokens = max.len();
        max.fill(f32::NEG_INFINITY);
        for row in z.chunks_exact(tokens) {
            for (m, z) in max.iter_mut().zip(row) {
                *m = if *z > *m { *z } else { *m };
            }
        }
        sum.fill(0.0);
        let mut part = [0f32; MAX_TOKENS];
        let part = &mut part[..tokens];
        for rows in z.chunks(tokens * ROWS) {
            part.fill(0.0);
            for row in rows.chunks_exact(tokens) {
                for ((p, z), m) in part.iter_mut().zip(row).zip(&*max) {
                    *p += exp::<FMA>(*z - m);
                }
            }
            for (s, p) in sum.iter_mut().zip(&*part) {
                *s += p;
            }
        }
    }
}

dispatch! {
    /// `total += sum * exp(from - to)`, `[tokens]` each.
    fn add_rescaled(from: &[f32], sum: &[f32], to: &[f32], total: &mut [f32]) {
        for (((total, from), sum), to) in total.iter_mut().zip(from).zip(sum).zip(to) {
            *total += sum * exp::<FMA>(*from - *to);
        }
    }
}

dispatch! {
    /// `z [rows, tokens]` becomes exp(z - lse) * scale, times the cap's derivative 1 - (z / cap)^2.
    fn logit_gradient(z: &mut [f32], lse: &[f32], scale: &[f32], softcap: Option<f32>) {
        let tokens = lse.len();
        match softcap {
            None => {
                for row in z.chunks_exact_mut(tokens) {
                    for ((z, lse), scale) in row.iter_mut().zip(lse).zip(scale) {
                        *z = exp::<FMA>(*z - lse) * scale;
                    }
                }
            }
            Some(cap) => {
                let inverse = 1.0 / cap;
                for row in z.chunks_exact_mut(tokens) {
                    for ((z, lse), scale) in row.iter_mut().zip(lse).zip(scale) {
                        let u = *z * inverse;
                        *z = exp::<FMA>(*z - lse) * scale * (1.0 - u * u);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mil::composites::cross_entropy::Statistics;

    use crate::reference::{random, same_bits, worst_difference};

    /// The definition in f64: loss, dh, dw.
    fn slow(s: CrossEntropy, h: &[f32], w: &[f32], targets: &[i32]) -> [Vec<f32>; 3] {
        let [c, n, v] = [s.channels, s.tokens, s.vocab];
        let (mut loss, mut dh, mut dw) = (vec![0.0; n], vec![0f64; c * n], vec![0f64; v * c]);
        for t in (0..n).filter(|&t| targets[t] != NO_TARGET) {
            let raw: Vec<f64> = (0..v)
                .map(|o| (0..c).map(|i| f64::from(w[o * c + i]) * f64::from(h[i * n + t])).sum())
                .collect();
            let cap = |x: f64| s.softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh());
            let z: Vec<f64> = raw.iter().map(|&x| cap(x)).collect();
            let total: f64 = z.iter().map(|z| z.exp()).sum();
            let target = targets[t] as usize;
            loss[t] = (total.ln() - z[target]) as f32;
            for o in 0..v {
                let through_cap = s.softcap.map_or(1.0, |cap| 1.0 - (z[o] / f64::from(cap)).powi(2));
                let onehot = f64::from(u8::from(o == target));
                let dz = (z[o].exp() / total - onehot) * f64::from(s.grad_scale) * through_cap;
                for i in 0..c {
                    dh[i * n + t] += dz * f64::from(w[o * c + i]);
                    dw[o * c + i] += dz * f64::from(h[i * n + t]);
                }
            }
        }
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        [loss, narrow(dh), narrow(dw)]
    }

    fn shapes() -> Vec<CrossEntropy> {
        let base = CrossEntropy {
            channels: 24,
            tokens: 130,
            vocab: 300,
            first: 0,
            softcap: None,
            grad_scale: 0.5,
            precision: Precision::F32,
        };
        vec![
            base,
            CrossEntropy { softcap: Some(3.0), ..base },
            CrossEntropy { tokens: 1100, vocab: 65, softcap: Some(15.0), ..base },
            CrossEntropy { tokens: 3, vocab: 2, channels: 1, ..base },
        ]
    }

    fn inputs(s: CrossEntropy) -> (Vec<f32>, Vec<f32>, Vec<i32>) {
        let targets =
            (0..s.tokens).map(|t| if t % 7 == 3 { NO_TARGET } else { (t * 31 % s.vocab) as i32 }).collect();
        (random(1, s.channels * s.tokens), random(2, s.vocab * s.channels), targets)
    }

    /// Logits: sums of C products within [-1, 1], off by about sqrt(C) eps; the loss adds the rounding
    /// of numbers up to C. dz carries the logit's absolute error relatively; dh sums V of them with
    /// total weight 2 * grad_scale, dw sums N of them of size <= grad_scale.
    fn tolerances(s: CrossEntropy) -> [f32; 3] {
        let eps = f32::EPSILON;
        let logit = 2.0 * (s.channels as f32).sqrt() * eps + 8.0 * eps;
        [logit + 8.0 * eps, 2.0 * logit, logit * (s.tokens as f32).sqrt()]
    }

    #[test]
    fn agrees_with_the_definition() {
        for s in shapes() {
            let (h, w, targets) = inputs(s);
            let want = slow(s, &h, &w, &targets);
            for write in [Write::Store, Write::Accumulate] {
                let held = if write == Write::Accumulate { 0.25 } else { 0.0 };
                let got = same_bits(|pool| {
                    let (mut loss, mut dh, mut dw) =
                        (vec![0.0; s.tokens], vec![0.25; h.len()], vec![0.25; w.len()]);
                    let gradients = Gradients { dh: (&mut dh, write), dw: Some((&mut dw, write)) };
                    let [mut max, mut sum, mut target] =
                        [vec![0.0; s.tokens], vec![0.0; s.tokens], vec![0.0; s.tokens]];
                    let stats = Stats { max: &mut max, sum_exp: &mut sum, target_logit: &mut target };
                    s.forward_backward(pool, &h, &w, &targets, stats, Some(gradients));
                    for t in (0..s.tokens).filter(|&t| targets[t] != NO_TARGET) {
                        loss[t] = max[t] + sum[t].ln() - target[t];
                    }
                    [loss, dh.iter().map(|x| x - held).collect(), dw.iter().map(|x| x - held).collect()]
                        .concat()
                });
                let (loss, rest) = got.split_at(s.tokens);
                let (dh, dw) = rest.split_at(h.len());
                for ((name, got), (want, tolerance)) in
                    [("loss", loss), ("dh", dh), ("dw", dw)].into_iter().zip(want.iter().zip(tolerances(s)))
                {
                    let off = worst_difference(got, want);
                    assert!(off <= tolerance, "{s:?}: {name} is off by {off} > {tolerance}");
                }
            }
        }
    }

    /// Oracle: the same loss and gradients without tiles; twice the tolerance, both sides being f32.
    #[test]
    fn tiles_add_up() {
        for s in shapes().into_iter().filter(|s| s.vocab > 60) {
            let (h, w, targets) = inputs(s);
            let pool = Pool::new(2);
            let n = s.tokens;
            let [loss_want, dh_want, dw_want] = slow(s, &h, &w, &targets);
            let cut = s.vocab / 3;
            let tiles = [(0, cut), (cut, s.vocab - cut)];
            let tile = |(first, vocab): (usize, usize)| CrossEntropy { first, vocab, ..s };
            let rows = |(first, vocab): (usize, usize)| first * s.channels..(first + vocab) * s.channels;
            let mut joined: Vec<Option<Statistics>> = vec![None; n];
            for t in tiles {
                let [mut max, mut sum_exp, mut target] = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
                let stats = Stats { max: &mut max, sum_exp: &mut sum_exp, target_logit: &mut target };
                tile(t).stats(&pool, &h, &w[rows(t)], &targets, stats);
                for (at, total) in joined.iter_mut().enumerate() {
                    let tile = Statistics { max: max[at], sum_exp: sum_exp[at], target: target[at] };
                    *total = Some(total.map_or(tile, |total| total.join(tile)));
                }
            }
            let joined: Vec<Statistics> = joined.into_iter().flatten().collect();
            let lse: Vec<f32> = joined.iter().map(|s| s.log_sum_exp()).collect();
            for t in (0..n).filter(|&t| targets[t] != NO_TARGET) {
                assert!((joined[t].nll() - loss_want[t]).abs() <= 2.0 * tolerances(s)[0]);
            }
            let (mut dh, mut dw) = (vec![0.0; h.len()], vec![0.0; w.len()]);
            for t in tiles {
                let gradients = Gradients {
                    dh: (&mut dh, Write::Accumulate),
                    dw: Some((&mut dw[rows(t)], Write::Store)),
                };
                tile(t).backward_tile(&pool, &h, &w[rows(t)], &targets, &lse, gradients);
            }
            assert!(worst_difference(&dh, &dh_want) <= 2.0 * tolerances(s)[1]);
            assert!(worst_difference(&dw, &dw_want) <= 2.0 * tolerances(s)[2]);
        }
    }
}

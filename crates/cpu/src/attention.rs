//! Scaled dot-product attention: causal or full, windowed, with grouped key and value heads.
//!
//! Flash-style: a block of queries meets all its keys at once, so that a softmax sees complete
//! columns and nothing is rescaled; memory is one block's scores `[keys, BLOCK]` (512 KiB at 2,048
//! keys), never S x S. Scores are held transposed, keys down and queries across: every step of the
//! softmax then runs along queries, without a horizontal reduction, and both products that follow
//! read the block in its own order. Blocks of keys that no query of the block sees are not computed.

use std::ops::Range;

use crate::math::{exp, log};
use crate::matmul::product;
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::{dispatch, mul_add};
use crate::{Precision, Write};

/// Queries per block of the forward pass: the width of the product's micro-kernel. Wider blocks
/// compute more of the masked triangle, narrower ones starve the product.
const BLOCK: usize = 64;

/// The shape of an attention: `q [H*D, N], k, v [KV*D, N] -> o [H*D, N]`, N = B * S.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// B, the sequences side by side.
    pub batch: usize,
    /// S, the columns of one sequence.
    pub seq: usize,
    /// H, the query heads.
    pub heads: usize,
    /// KV, the key and value heads; query head h reads head h / (H / KV).
    pub kv_heads: usize,
    /// D, the rows of a head.
    pub head_dim: usize,
    /// Multiplies the scores, usually 1 / sqrt(D).
    pub scale: f32,
    /// Query i sees keys j <= i only.
    pub causal: bool,
    /// Query i sees keys j > i - window only; the window counts i itself. Needs `causal`.
    pub window: Option<usize>,
}

/// What one block of queries of one sequence sees.
struct BlockView {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Attention {
    fn cols(&self) -> usize {
        self.batch * self.seq
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32]) {
        let n = self.cols();
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "attention: {} query heads cannot share {} key heads evenly",
            self.heads,
            self.kv_heads
        );
        assert!(self.causal || self.window.is_none(), "attention: a window needs causal attention");
        assert!(self.window != Some(0), "attention: a window of 0 sees nothing");
        let (q_len, kv_len) = (self.heads * self.head_dim * n, self.kv_heads * self.head_dim * n);
        assert!(
            q.len() == q_len && k.len() == kv_len && v.len() == kv_len,
            "attention: q, k, v have {}, {}, {} values, expected {q_len}, {kv_len}, {kv_len}",
            q.len(),
            k.len(),
            v.len()
        );
    }

    /// The block that begins at query `start`.
    fn view(&self, start: usize, block: usize) -> BlockView {
        let queries = start..(start + block).min(self.seq);
        let last = if self.causal { queries.end } else { self.seq };
        let first = self.window.map_or(0, |w| (start + 1).saturating_sub(w));
        BlockView { keys: first..last, queries }
    }

    /// The most keys that a block sees.
    fn most_keys(&self, block: usize) -> usize {
        self.window.map_or(self.seq, |w| (w + block).min(self.seq))
    }

    /// `q [H*D, N], k, v [KV*D, N] -> o [H*D, N]`, and optionally `lse [H, N]`, the logarithm of each
    /// query's sum of exponentials, which spares [`Attention::backward`] two passes.
    pub fn forward(
        &self,
        pool: &Pool,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        o: &mut [f32],
        lse: Option<&mut [f32]>,
    ) {
        self.check(q, k, v);
        let (n, d) = (self.cols(), self.head_dim);
        assert!(o.len() == q.len(), "attention: o has {} values, expected {}", o.len(), q.len());
        let o = SharedMut::new(o);
        let lse = lse.map(|lse| {
            assert!(
                lse.len() == self.heads * n,
                "attention: lse has {} values, expected {}",
                lse.len(),
                self.heads * n
            );
            SharedMut::new(lse)
        });
        let blocks = self.seq.div_ceil(BLOCK);
        // One task per (sequence, head, block), the longest blocks of a causal mask first.
        pool.run(self.batch * self.heads * blocks, |task| {
            let (pair, block) =
                (task % (self.batch * self.heads), blocks - 1 - task / (self.batch * self.heads));
            let (b, h) = (pair / self.heads, pair % self.heads);
            let view = self.view(block * BLOCK, BLOCK);
            let (keys, wide) = (view.keys.len(), view.queries.len());
            let q_at = h * d * n + b * self.seq + view.queries.start;
            let kv_at = h / self.group() * d * n + b * self.seq + view.keys.start;
            with_scratch(keys * BLOCK, |p| {
                let p = &mut p[..keys * wide];
                self.scores(&k[kv_at..], &q[q_at..], keys, wide, self.scale, p);
                let (mut max, mut sum) = ([0f32; BLOCK], [0f32; BLOCK]);
                self.mask(&view, f32::NEG_INFINITY, p);
                softmax_columns(p, &mut max[..wide], &mut sum[..wide]);
                let o_at = q_at;
                // o [D, wide] = v [D, keys] · p [keys, wide].
                // SAFETY: the blocks of v and o lie within [.., N] tensors whose sizes `check` and the
                // assertion above compared; only this task writes this head's columns of o.
                unsafe {
                    product(
                        Precision::F32,
                        [d, wide, keys],
                        (o.at(o_at), n, 1),
                        Write::Store,
                        1.0,
                        (v[kv_at..].as_ptr(), n, 1),
                        (p.as_ptr(), wide, 1),
                    );
                }
                if let Some(lse) = lse {
                    // SAFETY: only this task writes this head's columns of lse.
                    let lse = unsafe { lse.slice(h * n + b * self.seq + view.queries.start, wide) };
                    for ((l, m), s) in lse.iter_mut().zip(max).zip(sum) {
                        *l = m + log::<false>(s);
                    }
                }
            });
        });
    }

    /// `dout [H*D, N] -> dq [H*D, N], dk, dv [KV*D, N]`, all stored. Probabilities are recomputed,
    /// from `lse [H, N]` where the forward pass kept it. With P the probabilities of one query:
    /// dV = P dO, dP = V·dO, dS = P (dP - sum of P dP), dQ = scale K dS, dK = scale Q dS.
    ///
    /// A task is one (sequence, key head); it adds up its queries' heads and blocks in order.
    pub fn backward(
        &self,
        pool: &Pool,
        [q, k, v]: [&[f32]; 3],
        dout: &[f32],
        lse: Option<&[f32]>,
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        self.check(q, k, v);
        let (n, d) = (self.cols(), self.head_dim);
        assert!(
            dout.len() == q.len() && dq.len() == q.len() && dk.len() == k.len() && dv.len() == v.len(),
            "attention: dout, dq, dk, dv have {}, {}, {}, {} values, expected {}, {}, {}, {}",
            dout.len(),
            dq.len(),
            dk.len(),
            dv.len(),
            q.len(),
            q.len(),
            k.len(),
            v.len()
        );
        let [dq, dk, dv] = [dq, dk, dv].map(SharedMut::new);
        let most = self.most_keys(BLOCK) * BLOCK;
        pool.run(self.batch * self.kv_heads, |task| {
            let (b, kv) = (task / self.kv_heads, task % self.kv_heads);
            for row in kv * d..(kv + 1) * d {
                // SAFETY: only this task writes this head's rows in this sequence's columns.
                unsafe {
                    dk.slice(row * n + b * self.seq, self.seq).fill(0.0);
                    dv.slice(row * n + b * self.seq, self.seq).fill(0.0);
                }
            }
            with_scratch(2 * most, |scratch| {
                let (p, dp) = scratch.split_at_mut(most);
                for h in kv * self.group()..(kv + 1) * self.group() {
                    for start in (0..self.seq).step_by(BLOCK) {
                        let view = self.view(start, BLOCK);
                        let (keys, wide) = (view.keys.len(), view.queries.len());
                        let q_at = h * d * n + b * self.seq + view.queries.start;
                        let kv_at = kv * d * n + b * self.seq + view.keys.start;
                        let (p, dp) = (&mut p[..keys * wide], &mut dp[..keys * wide]);
                        self.scores(&k[kv_at..], &q[q_at..], keys, wide, self.scale, p);
                        self.mask(&view, f32::NEG_INFINITY, p);
                        match lse {
                            Some(lse) => {
                                exp_columns(p, &lse[h * n + b * self.seq + view.queries.start..][..wide]);
                            }
                            None => {
                                let (mut max, mut sum) = ([0f32; BLOCK], [0f32; BLOCK]);
                                softmax_columns(p, &mut max[..wide], &mut sum[..wide]);
                            }
                        }
                        self.scores(&v[kv_at..], &dout[q_at..], keys, wide, 1.0, dp);
                        // SAFETY: blocks of tensors whose sizes were compared above; this task alone
                        // writes the columns of this sequence in this head of dq, dk and dv.
                        unsafe {
                            // dv [D, keys] += dout [D, wide] · pᵀ [wide, keys].
                            product(
                                Precision::F32,
                                [d, keys, wide],
                                (dv.at(kv_at), n, 1),
                                Write::Accumulate,
                                1.0,
                                (dout[q_at..].as_ptr(), n, 1),
                                (p.as_ptr(), 1, wide),
                            );
                        }
                        softmax_gradient(p, dp, wide);
                        // SAFETY: as above.
                        unsafe {
                            // dk [D, keys] += scale q [D, wide] · dsᵀ [wide, keys].
                            product(
                                Precision::F32,
                                [d, keys, wide],
                                (dk.at(kv_at), n, 1),
                                Write::Accumulate,
                                self.scale,
                                (q[q_at..].as_ptr(), n, 1),
                                (dp.as_ptr(), 1, wide),
                            );
                            // dq [D, wide] = scale k [D, keys] · ds [keys, wide].
                            product(
                                Precision::F32,
                                [d, wide, keys],
                                (dq.at(q_at), n, 1),
                                Write::Store,
                                self.scale,
                                (k[kv_at..].as_ptr(), n, 1),
                                (dp.as_ptr(), wide, 1),
                            );
                        }
                    }
                }
            });
        });
    }

    /// `k [D, keys], q [D, wide]` in rows of N `-> s [keys, wide] = alpha * kᵀ · q`.
    fn scores(&self, k: &[f32], q: &[f32], keys: usize, wide: usize, alpha: f32, s: &mut [f32]) {
        let (n, d) = (self.cols(), self.head_dim);
        let last = (d - 1) * n;
        assert!(
            last + keys <= k.len() && last + wide <= q.len() && keys * wide <= s.len(),
            "attention: a block of {keys} keys and {wide} queries leaves its tensors"
        );
        // SAFETY: in bounds by the assertion; `s` is exclusive.
        unsafe {
            product(
                Precision::F32,
                [keys, wide, d],
                (s.as_mut_ptr(), wide, 1),
                Write::Store,
                alpha,
                (k.as_ptr(), 1, n),
                (q.as_ptr(), n, 1),
            );
        }
    }

    /// Puts `value` where a query of the block does not see a key: `s [keys, wide]`.
    fn mask(&self, view: &BlockView, value: f32, s: &mut [f32]) {
        if !self.causal {
            return;
        }
        let wide = view.queries.len();
        for (j, row) in view.keys.clone().zip(s.chunks_exact_mut(wide)) {
            // Queries before j do not see it, nor do those at j + window and after.
            let first = j.saturating_sub(view.queries.start).min(wide);
            row[..first].fill(value);
            if let Some(w) = self.window {
                let end = (j + w).saturating_sub(view.queries.start).min(wide);
                row[end..].fill(value);
            }
        }
    }

    /// One new query against a cache: `q [H*D], k, v [KV*D, capacity]` of which the first `len`
    /// columns are filled (the new one included) `-> o [H*D]`. Uses `heads`, `kv_heads`, `head_dim`,
    /// `scale` and `window`; the query is the last position, so `causal` hides nothing.
    pub fn decode(
        &self,
        pool: &Pool,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        capacity: usize,
        len: usize,
        o: &mut [f32],
    ) {
        let d = self.head_dim;
        assert!(
            0 < len && len <= capacity && k.len() == self.kv_heads * d * capacity && v.len() == k.len(),
            "attention: a cache of {} and {} values does not hold {len} of {capacity} columns",
            k.len(),
            v.len()
        );
        assert!(
            q.len() == self.heads * d && o.len() == q.len(),
            "attention: q has {} values, o {}",
            q.len(),
            o.len()
        );
        let first = self.window.map_or(0, |w| len.saturating_sub(w));
        let o = SharedMut::new(o);
        pool.run(self.heads, |h| {
            let base = h / self.group() * d * capacity;
            // SAFETY: a head's rows of o belong to its task.
            let o = unsafe { o.slice(h * d, d) };
            with_scratch(len - first, |p| {
                p.fill(0.0);
                for (i, q) in q[h * d..(h + 1) * d].iter().enumerate() {
                    axpy(q * self.scale, &k[base + i * capacity..][first..len], p);
                }
                softmax_row(p);
                for (i, o) in o.iter_mut().enumerate() {
                    *o = crate::matvec::dot(&v[base + i * capacity..][first..len], p);
                }
            });
        });
    }
}

dispatch! {
    fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(a, *x, *y);
        }
    }
}

dispatch! {
    /// `p [n]` becomes its softmax.
    fn softmax_row(p: &mut [f32]) {
        let max = p.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
        for p in p.iter_mut() {
            *p = exp::<FMA>(*p - max);
        }
        let sum: f32 = p.iter().sum();
        for p in p {
            *p /= sum;
        }
    }
}

/// Rows whose exponentials are added to one another before they join the total.
const ROWS_PER_SUM: usize = 32;

dispatch! {
    /// `s [keys, wide]` becomes the softmax of each column; `max, sum [wide]` hold what it took.
    fn softmax_columns(s: &mut [f32], max: &mut [f32], sum: &mut [f32]) {
        let wide = max.len();
        max.fill(f32::NEG_INFINITY);
        for row in s.chunks_exact(wide) {
            for (m, x) in max.iter_mut().zip(row) {
                *m = if *x > *m { *x } else { *m };
            }
        }
        sum.fill(0.0);
        let mut part = [0f32; BLOCK];
        let part = &mut part[..wide];
        for rows in s.chunks_mut(wide * ROWS_PER_SUM) {
            part.fill(0.0);
            for row in rows.chunks_exact_mut(wide) {
                for ((x, m), p) in row.iter_mut().zip(&*max).zip(&mut *part) {
                    *x = exp::<FMA>(*x - m);
                    *p += *x;
                }
            }
            for (total, p) in sum.iter_mut().zip(&*part) {
                *total += p;
            }
        }
        let mut scale = [0f32; BLOCK];
        for (scale, sum) in scale.iter_mut().zip(&*sum) {
            *scale = 1.0 / sum;
        }
        for row in s.chunks_exact_mut(wide) {
            for (x, scale) in row.iter_mut().zip(&scale) {
                *x *= scale;
            }
        }
    }
}

dispatch! {
    /// `s [keys, wide]` becomes exp(s - lse), `lse [wide]`.
    fn exp_columns(s: &mut [f32], lse: &[f32]) {
        for row in s.chunks_exact_mut(lse.len()) {
            for (x, lse) in row.iter_mut().zip(lse) {
                *x = exp::<FMA>(*x - lse);
            }
        }
    }
}

dispatch! {
    /// `p, dp [keys, wide]`: dp becomes p (dp - sum over keys of p dp).
    fn softmax_gradient(p: &[f32], dp: &mut [f32], wide: usize) {
        let (mut delta, mut part) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (delta, part) = (&mut delta[..wide], &mut part[..wide]);
        for (p, dp) in p.chunks(wide * ROWS_PER_SUM).zip(dp.chunks(wide * ROWS_PER_SUM)) {
            part.fill(0.0);
            for (p, dp) in p.chunks_exact(wide).zip(dp.chunks_exact(wide)) {
                for ((sum, p), dp) in part.iter_mut().zip(p).zip(dp) {
                    *sum = mul_add::<FMA>(*p, *dp, *sum);
                }
            }
            for (total, p) in delta.iter_mut().zip(&*part) {
                *total += p;
            }
        }
        for (p, dp) in p.chunks_exact(wide).zip(dp.chunks_exact_mut(wide)) {
            for ((dp, p), delta) in dp.iter_mut().zip(p).zip(&*delta) {
                *dp = p * (*dp - delta);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{random, same_bits, worst_difference};

    /// The definition in f64, with the whole S x S matrix: o, dq, dk, dv.
    fn slow(s: Attention, [q, k, v]: [&[f32]; 3], dout: &[f32]) -> [Vec<f32>; 4] {
        let (n, d) = (s.cols(), s.head_dim);
        let at = |x: &[f32], h: usize, i: usize, col: usize| f64::from(x[(h * d + i) * n + col]);
        let [mut o, mut dq, mut dk, mut dv] = [q.len(), q.len(), k.len(), v.len()].map(|len| vec![0f64; len]);
        for (b, h) in (0..s.batch).flat_map(|b| (0..s.heads).map(move |h| (b, h))) {
            let kv = h / s.group();
            for i in 0..s.seq {
                let col = b * s.seq + i;
                let sees = |j: usize| (!s.causal || j <= i) && s.window.is_none_or(|w| j + w > i);
                let keys: Vec<usize> = (0..s.seq).filter(|&j| sees(j)).collect();
                let key = |j: usize| b * s.seq + j;
                let score = |j| {
                    (0..d).map(|r| at(q, h, r, col) * at(k, kv, r, key(j))).sum::<f64>() * f64::from(s.scale)
                };
                let e: Vec<f64> = keys.iter().map(|&j| score(j).exp()).collect();
                let p: Vec<f64> = e.iter().map(|x| x / e.iter().sum::<f64>()).collect();
                let dp: Vec<f64> = keys
                    .iter()
                    .map(|&j| (0..d).map(|r| at(dout, h, r, col) * at(v, kv, r, key(j))).sum())
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for ((&j, p), dp) in keys.iter().zip(&p).zip(&dp) {
                    let ds = p * (dp - delta) * f64::from(s.scale);
                    for r in 0..d {
                        let (query, key) = ((h * d + r) * n + col, (kv * d + r) * n + key(j));
                        o[query] += p * f64::from(v[key]);
                        dv[key] += p * f64::from(dout[query]);
                        dq[query] += ds * f64::from(k[key]);
                        dk[key] += ds * f64::from(q[query]);
                    }
                }
            }
        }
        [o, dq, dk, dv].map(|x| x.into_iter().map(|x| x as f32).collect())
    }

    /// Scores are sums of D products within [-1, 1]: an error of about sqrt(D) eps, which exp passes
    /// on to P relatively. o averages |v| <= 1 with those weights; the gradients add up to `queries`
    /// terms P * dP with |dP| <= D, errors that grow like their square root.
    fn tolerance(s: Attention) -> (f32, f32) {
        let eps = f32::EPSILON;
        let forward = 4.0 * (s.head_dim as f32).sqrt() * eps + 8.0 * eps;
        let terms = (s.group() * s.seq.min(s.window.unwrap_or(s.seq))) as f32;
        (forward, forward * (s.head_dim as f32).sqrt() * terms.sqrt())
    }

    fn shapes() -> Vec<Attention> {
        let base = Attention {
            batch: 2,
            seq: 150,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            causal: true,
            window: None,
        };
        vec![
            base,
            Attention { seq: 64, kv_heads: 4, batch: 1, ..base },
            Attention { window: Some(20), ..base },
            Attention { window: Some(1), seq: 70, ..base },
            Attention { window: Some(100), ..base },
            Attention { causal: false, kv_heads: 1, ..base },
            Attention { seq: 1, ..base },
            Attention { seq: 200, head_dim: 80, batch: 1, scale: 0.11, ..base },
        ]
    }

    #[test]
    fn agrees_with_the_definition() {
        for s in shapes() {
            let (n, d) = (s.cols(), s.head_dim);
            let [q, dout] = [1, 2].map(|seed| random(seed, s.heads * d * n));
            let [k, v] = [3, 4].map(|seed| random(seed, s.kv_heads * d * n));
            let [o_want, dq_want, dk_want, dv_want] = slow(s, [&q, &k, &v], &dout);
            let (forward, backward) = tolerance(s);
            let mut lse = vec![0.0; s.heads * n];
            s.forward(&Pool::new(1), &q, &k, &v, &mut vec![0.0; q.len()], Some(&mut lse));
            let o = same_bits(|pool| {
                let mut o = vec![f32::NAN; q.len()];
                s.forward(pool, &q, &k, &v, &mut o, None);
                o
            });
            let off = worst_difference(&o, &o_want);
            assert!(off <= forward, "{s:?}: o is off by {off} > {forward}");
            for lse in [None, Some(&lse[..])] {
                let grads = same_bits(|pool| {
                    let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| vec![f32::NAN; len]);
                    s.backward(pool, [&q, &k, &v], &dout, lse, [&mut dq, &mut dk, &mut dv]);
                    [dq, dk, dv].concat()
                });
                let want = [&dq_want[..], &dk_want, &dv_want].concat();
                let off = worst_difference(&grads, &want);
                assert!(off <= backward, "{s:?}: gradients are off by {off} > {backward}");
            }
        }
    }

    /// Oracle: the forward pass on the whole sequence, whose last column a decode step must equal.
    #[test]
    fn decode_equals_the_last_column() {
        for s in shapes().into_iter().filter(|s| s.causal) {
            let s = Attention { batch: 1, ..s };
            let (n, d) = (s.seq, s.head_dim);
            let q = random(1, s.heads * d * n);
            let [k, v] = [3, 4].map(|seed| random(seed, s.kv_heads * d * n));
            let mut o = vec![0.0; q.len()];
            s.forward(&Pool::new(1), &q, &k, &v, &mut o, None);
            let capacity = n + 3;
            let cache =
                |x: &[f32]| x.chunks(n).flat_map(|row| [row, &[f32::NAN; 3]].concat()).collect::<Vec<_>>();
            let last = |x: &[f32]| x.chunks(n).map(|row| row[n - 1]).collect::<Vec<_>>();
            let one = same_bits(|pool| {
                let mut one = vec![0.0; s.heads * d];
                s.decode(pool, &last(&q), &cache(&k), &cache(&v), capacity, n, &mut one);
                one
            });
            assert!(worst_difference(&one, &last(&o)) <= 2.0 * tolerance(s).0);
        }
    }
}

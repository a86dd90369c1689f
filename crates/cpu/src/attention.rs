//! Scaled dot-product attention: causal or full, windowed, with grouped key and value heads.
//!
//! Flash-style: a block of queries meets all its keys at once, so that a softmax sees complete
//! columns and nothing is rescaled; a block's scores are `[keys, BLOCK]` (512 KiB at 2,048 keys),
//! never S x S. Scores are held transposed, keys down and queries across: every step of the softmax
//! then runs along queries, without a horizontal reduction. Blocks of keys that no query of the block
//! sees are not computed.
//!
//! Products read their left operand by rows. What would be read by columns is transposed first: keys
//! (all of them in the forward pass, a head's in the gradient) and in the gradient values, once for all
//! blocks of queries; and the sums dK and dV are kept as `[S, D]`, so that P and dS are left operands
//! as they lie. The gradient also transposes a block's own `[D, BLOCK]` of queries and of dO, which
//! costs one part in as many as the block sees keys.

use std::ops::Range;

use crate::gemm::transpose;
use crate::math::exp_nonpositive as exp;
use crate::matmul::{Mat, MatMut, matmul_here, product};
use crate::pool::{Pool, SharedMut, with_scratch, with_scratches};
use crate::simd::{dispatch, mul_add};
use crate::{Precision, Write};

/// Queries per block of the forward pass: the width of the product's micro-kernel. Wider blocks
/// compute more of the masked triangle, narrower ones starve the product.
const BLOCK: usize = 64;

/// A key's row of a block of scores; of the last block in a sequence only the first columns count.
type Row = [f32; BLOCK];

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

    /// `q [H*D, N], k, v [KV*D, N] -> o [H*D, N]`. Sums are divided last: values above the largest f32
    /// divided by the number of keys may overflow.
    pub fn forward(&self, pool: &Pool, q: &[f32], k: &[f32], v: &[f32], o: &mut [f32]) {
        self.check(q, k, v);
        let (n, d) = (self.cols(), self.head_dim);
        assert!(o.len() == q.len(), "attention: o has {} values, expected {}", o.len(), q.len());
        let o = SharedMut::new(o);
        let (pairs, blocks) = (self.batch * self.heads, self.seq.div_ceil(BLOCK));
        // Keys as [B, KV, S, D].
        with_scratch(k.len(), |keys_first| {
            let shared = SharedMut::new(keys_first);
            pool.run(self.batch * self.kv_heads, |task| {
                let (b, kv) = (task / self.kv_heads, task % self.kv_heads);
                // SAFETY: a task's own part.
                let to = unsafe { shared.slice(task * self.seq * d, self.seq * d) };
                transpose(&k[kv * d * n + b * self.seq..], n, [d, self.seq], to, d);
            });
            let keys_first = &*keys_first;
            // One task per (sequence, head, block), the longest blocks of a causal mask first.
            pool.run(pairs * blocks, |task| {
                let (pair, block) = (task % pairs, blocks - 1 - task / pairs);
                let (b, h) = (pair / self.heads, pair % self.heads);
                let view = self.view(block * BLOCK, BLOCK);
                let (keys, wide) = (view.keys.len(), view.queries.len());
                let q_at = h * d * n + b * self.seq + view.queries.start;
                let kv_at = h / self.group() * d * n + b * self.seq + view.keys.start;
                let head = (b * self.kv_heads + h / self.group()) * self.seq * d;
                with_scratch(keys * BLOCK, |p| {
                    self.scores(&keys_first[head + view.keys.start * d..], &q[q_at..], &view, self.scale, p);
                    self.mask(&view, f32::NEG_INFINITY, p);
                    let mut sum = [0f32; BLOCK];
                    exp_of_columns(p.as_chunks_mut().0, &mut sum);
                    // o [D, wide] = v [D, keys] · exp(s - max) [keys, wide].
                    // SAFETY: the blocks of v and o lie within [.., N] tensors whose sizes `check` and the
                    // assertion above compared; only this task accesses this head's columns of o.
                    unsafe {
                        product(
                            Precision::F32,
                            [d, wide, keys],
                            (o.at(q_at), n, 1),
                            Write::Store,
                            1.0,
                            (v[kv_at..].as_ptr(), n, 1),
                            (p.as_ptr(), BLOCK, 1),
                        );
                        for row in 0..d {
                            let o = o.slice(q_at + row * n, wide);
                            o.iter_mut().zip(&sum).for_each(|(o, sum)| *o /= sum);
                        }
                    }
                });
            });
        });
    }

    /// `dout [H*D, N] -> dq [H*D, N], dk, dv [KV*D, N]`, all stored. Probabilities are recomputed.
    /// With P those of one query:
    /// dV = P dO, dP = V·dO, dS = P (dP - sum of P dP), dQ = scale K dS, dK = scale Q dS.
    ///
    /// A task is one (sequence, key head); it adds up its queries' heads and blocks in order.
    pub fn backward(&self, pool: &Pool, [q, k, v]: [&[f32]; 3], dout: &[f32], [dq, dk, dv]: [&mut [f32]; 3]) {
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
        let (most, head) = (self.most_keys(BLOCK) * BLOCK, self.seq * d);
        pool.run(self.batch * self.kv_heads, |task| {
            let (b, kv) = (task / self.kv_heads, task % self.kv_heads);
            let lens = [most, most, head, head, head, head, BLOCK * d, BLOCK * d];
            with_scratches(lens, |[p, dp, kt, vt, dkt, dvt, qt, dot]| {
                let first = kv * d * n + b * self.seq;
                transpose(&k[first..], n, [d, self.seq], kt, d);
                transpose(&v[first..], n, [d, self.seq], vt, d);
                dkt.fill(0.0);
                dvt.fill(0.0);
                for h in kv * self.group()..(kv + 1) * self.group() {
                    for start in (0..self.seq).step_by(BLOCK) {
                        let view = self.view(start, BLOCK);
                        let (keys, wide) = (view.keys.len(), view.queries.len());
                        let (p, dp) = (&mut p[..keys * BLOCK], &mut dp[..keys * BLOCK]);
                        let q_at = h * d * n + b * self.seq + view.queries.start;
                        let key_at = view.keys.start * d;
                        transpose(&q[q_at..], n, [d, wide], qt, d);
                        transpose(&dout[q_at..], n, [d, wide], dot, d);
                        self.scores(&kt[key_at..], &q[q_at..], &view, self.scale, p);
                        self.mask(&view, f32::NEG_INFINITY, p);
                        let rows = p.as_chunks_mut().0;
                        let mut sum = [0f32; BLOCK];
                        exp_of_columns(rows, &mut sum);
                        // What is still to be divided by the sums is p: here through dout, below with ds.
                        for (row, sum) in dot.chunks_exact_mut(d).zip(&sum[..wide]) {
                            row.iter_mut().for_each(|x| *x /= sum);
                        }
                        self.scores(&vt[key_at..], &dout[q_at..], &view, 1.0, dp);
                        // dvᵀ [keys, D] += (sum p) [keys, wide] · (dout / sum)ᵀ [wide, D].
                        let by_key = [keys, d, wide];
                        add_product(by_key, &mut dvt[key_at..], 1.0, p, dot);
                        softmax_gradient(p.as_chunks().0, &sum, dp.as_chunks_mut().0);
                        // dkᵀ [keys, D] += scale ds [keys, wide] · qᵀ [wide, D].
                        add_product(by_key, &mut dkt[key_at..], self.scale, dp, qt);
                        // dq [D, wide] = scale k [D, keys] · ds [keys, wide].
                        // SAFETY: blocks of tensors whose sizes were compared above; this task alone
                        // writes the columns of this sequence in this head of dq.
                        unsafe {
                            product(
                                Precision::F32,
                                [d, wide, keys],
                                (dq.at(q_at), n, 1),
                                Write::Store,
                                self.scale,
                                (k[first + view.keys.start..].as_ptr(), n, 1),
                                (dp.as_ptr(), BLOCK, 1),
                            );
                        }
                    }
                }
                for (sum, to) in [(dkt, dk), (dvt, dv)] {
                    let by_row = &mut *kt;
                    transpose(sum, d, [self.seq, d], by_row, self.seq);
                    // Row by row, since between them lie what other tasks write.
                    for (row, by_row) in by_row.chunks_exact(self.seq.max(1)).enumerate() {
                        // SAFETY: only this task accesses this head's rows in this sequence's columns.
                        unsafe { to.slice(first + row * n, self.seq) }.copy_from_slice(by_row);
                    }
                }
            });
        });
    }

    /// `kt [keys, D], q [D, wide]`, q in rows of N, `-> s [keys, BLOCK] = alpha * kt · q`, its first `wide` columns.
    fn scores(&self, kt: &[f32], q: &[f32], view: &BlockView, alpha: f32, s: &mut [f32]) {
        let (keys, wide) = (view.keys.len(), view.queries.len());
        matmul_here(
            Precision::F32,
            MatMut::strided(s, keys, wide, BLOCK, 1),
            Write::Store,
            alpha,
            Mat::new(kt, keys, self.head_dim),
            Mat::strided(q, self.head_dim, wide, self.cols(), 1),
        );
    }

    /// Puts `value` where a query of the block does not see a key: `s [keys, BLOCK]`.
    fn mask(&self, view: &BlockView, value: f32, s: &mut [f32]) {
        if !self.causal {
            return;
        }
        let wide = view.queries.len();
        for (j, row) in view.keys.clone().zip(s.as_chunks_mut::<BLOCK>().0) {
            // Queries before j do not see it, nor do those at j + window and after.
            let first = j.saturating_sub(view.queries.start).min(wide);
            row[..first].fill(value);
            if let Some(w) = self.window {
                let end = (j + w).saturating_sub(view.queries.start).min(wide);
                row[end..wide].fill(value);
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

/// `sum [keys, D] += alpha * s [keys, wide] · x [wide, D]`, s in rows of BLOCK.
fn add_product([keys, d, wide]: [usize; 3], sum: &mut [f32], alpha: f32, s: &[f32], x: &[f32]) {
    matmul_here(
        Precision::F32,
        MatMut::new(sum, keys, d),
        Write::Accumulate,
        alpha,
        Mat::strided(s, keys, wide, BLOCK, 1),
        Mat::new(x, wide, d),
    );
}

/// Rows whose exponentials are added to one another before they join the total.
const ROWS_PER_SUM: usize = 32;

/// The largest of each column of `s [keys, BLOCK]`.
#[inline(always)]
fn max_of_columns(s: &[Row]) -> Row {
    let mut max = [f32::NEG_INFINITY; BLOCK];
    for row in s {
        for i in 0..BLOCK {
            max[i] = if row[i] > max[i] { row[i] } else { max[i] };
        }
    }
    max
}

dispatch! {
    /// `s [keys, BLOCK]` becomes exp(s - max) with the largest of each column, `sum` what that adds up to.
    fn exp_of_columns(s: &mut [Row], sum: &mut Row) {
        let max = max_of_columns(s);
        let mut total = [0f32; BLOCK];
        for rows in s.chunks_mut(ROWS_PER_SUM) {
            let mut part = [0f32; BLOCK];
            for row in rows {
                for i in 0..BLOCK {
                    row[i] = exp::<FMA>(row[i] - max[i]);
                    part[i] += row[i];
                }
            }
            for i in 0..BLOCK {
                total[i] += part[i];
            }
        }
        *sum = total;
    }
}

dispatch! {
    /// `e, dp [keys, BLOCK]`, p = e / `sum` by columns: dp becomes p (dp - sum over keys of p dp).
    fn softmax_gradient(e: &[Row], sum: &Row, dp: &mut [Row]) {
        let mut delta = [0f32; BLOCK];
        for (e, dp) in e.chunks(ROWS_PER_SUM).zip(dp.chunks(ROWS_PER_SUM)) {
            let mut part = [0f32; BLOCK];
            for (e, dp) in e.iter().zip(dp) {
                for i in 0..BLOCK {
                    part[i] = mul_add::<FMA>(e[i], dp[i], part[i]);
                }
            }
            for i in 0..BLOCK {
                delta[i] += part[i];
            }
        }
        let factor = sum.map(|sum| 1.0 / sum);
        for i in 0..BLOCK {
            delta[i] *= factor[i];
        }
        for (e, dp) in e.iter().zip(dp) {
            for i in 0..BLOCK {
                dp[i] = e[i] * factor[i] * (dp[i] - delta[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::reference::{random, same_bits, worst_difference};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Oracle: the definition in f64, for shapes that nobody chose.
        #[test]
        fn agrees_with_the_definition_in_any_shape(
            (batch, seq, kv_heads, group) in (1..3usize, 1..150usize, 1..3usize, 1..4usize),
            head_dim in 1..40usize,
            window in proptest::option::of(1..160usize),
            causal: bool,
        ) {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let window = window.filter(|_| causal);
            compare(Attention { batch, seq, heads: kv_heads * group, kv_heads, head_dim, scale, causal, window });
        }
    }

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

    /// Scores are scale times sums of D products within [-1, 1], of about sqrt(D): an error of about sqrt(D) eps, or that
    /// times their own size where they are larger than 1, which exp passes on to P relatively. o averages |v| <= 1 with
    /// those weights; the gradients add up to `queries` terms P * dP with |dP| <= D, times the scale, errors that grow
    /// like their square root.
    fn tolerance(s: Attention) -> (f32, f32) {
        let (eps, root) = (f32::EPSILON, (s.head_dim as f32).sqrt());
        let forward = 4.0 * root * eps * (s.scale * root).max(1.0) + 8.0 * eps;
        let terms = (s.group() * s.seq.min(s.window.unwrap_or(s.seq))) as f32;
        (forward, forward * root * terms.sqrt() * s.scale.max(1.0))
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
            // A block of one query with many keys, and heads that no vector divides or that are wider than a tile.
            Attention { seq: 65, head_dim: 1, ..base },
            Attention { seq: 65, head_dim: 17, kv_heads: 1, ..base },
            Attention { seq: 130, head_dim: 130, heads: 2, batch: 1, scale: 0.09, window: Some(70), ..base },
            // Most scores far below the largest: beyond where exponentials become 0.
            Attention { scale: 30.0, batch: 1, ..base },
        ]
    }

    #[test]
    fn agrees_with_the_definition() {
        shapes().into_iter().for_each(compare);
    }

    /// With the definition, forward and backward, for any number of threads.
    fn compare(s: Attention) {
        let (n, d) = (s.cols(), s.head_dim);
        let [q, dout] = [1, 2].map(|seed| random(seed, s.heads * d * n));
        let [k, v] = [3, 4].map(|seed| random(seed, s.kv_heads * d * n));
        let [o_want, dq_want, dk_want, dv_want] = slow(s, [&q, &k, &v], &dout);
        let (forward, backward) = tolerance(s);
        let o = same_bits(|pool| {
            poison();
            let mut o = vec![f32::NAN; q.len()];
            s.forward(pool, &q, &k, &v, &mut o);
            o
        });
        let off = worst_difference(&o, &o_want);
        assert!(off <= forward, "{s:?}: o is off by {off} > {forward}");
        let grads = same_bits(|pool| {
            poison();
            let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| vec![f32::NAN; len]);
            s.backward(pool, [&q, &k, &v], &dout, [&mut dq, &mut dk, &mut dv]);
            [dq, dk, dv].concat()
        });
        let want = [&dq_want[..], &dk_want, &dv_want].concat();
        let off = worst_difference(&grads, &want);
        assert!(off <= backward, "{s:?}: gradients are off by {off} > {backward}");
    }

    /// Leaves what is no number in this thread's scratch, so that whoever uses it without writing it first is seen.
    fn poison() {
        with_scratch(1 << 18, |a| {
            a.fill(f32::NAN);
            with_scratch(1 << 16, |b| b.fill(f32::NAN));
        });
    }

    #[test]
    fn nothing_is_no_fault() {
        let none = Attention { seq: 0, ..shapes()[0] };
        none.forward(&Pool::new(1), &[], &[], &[], &mut []);
        none.backward(&Pool::new(1), [&[], &[], &[]], &[], [&mut [], &mut [], &mut []]);
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
            s.forward(&Pool::new(1), &q, &k, &v, &mut o);
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

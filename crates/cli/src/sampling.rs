//! Choosing the next token from logits. Pure: the same logits, settings and seed choose the same.

use data::random::Stream;

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    /// Logits are divided by it; 0 takes the largest.
    pub(crate) temperature: f64,
    /// Only the largest this many may be chosen; 0 means all.
    pub(crate) top_k: usize,
}

/// Chooses tokens one after another.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: Stream,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, seed: u64) -> Self {
        Sampler { sampling, random: Stream::new(data::random::key(&[seed])) }
    }

    /// A token id; logits `[V]`. Of equal logits the smaller id counts as the larger. Logits that
    /// are no numbers are never chosen.
    ///
    /// # Panics
    /// When there are no logits.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "a vocabulary has tokens");
        let mut order: Vec<usize> = (0..logits.len()).filter(|id| !logits[*id].is_nan()).collect();
        let larger_first = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let Some(largest) = order.iter().copied().min_by(larger_first) else {
            return 0;
        };
        if self.sampling.temperature == 0.0 || !logits[largest].is_finite() {
            return largest as u32;
        }
        let k = self.sampling.top_k;
        if k > 0 && k < order.len() {
            order.select_nth_unstable_by(k - 1, larger_first);
            order.truncate(k);
        }
        // In the order of ids, so that sums do not depend on how the selection left them.
        order.sort_unstable();
        let weight = |id: usize| (f64::from(logits[id] - logits[largest]) / self.sampling.temperature).exp();
        let total: f64 = order.iter().map(|id| weight(*id)).sum();
        let mut draw = uniform(&mut self.random) * total;
        for id in &order {
            draw -= weight(*id);
            if draw < 0.0 {
                return *id as u32;
            }
        }
        // Rounding may leave a trifle of the sum.
        largest as u32
    }
}

/// Uniform on [0, 1), 53 random bits.
fn uniform(random: &mut Stream) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(temperature: f64, top_k: usize, seed: u64, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { temperature, top_k }, seed);
        (0..count).map(|_| sampler.choose(logits)).collect()
    }

    #[test]
    fn zero_temperature_takes_the_largest_and_the_first_of_equals() {
        assert_eq!(draws(0.0, 0, 1, &[0.0, 3.0, -1.0, 3.0], 3), [1, 1, 1]);
        assert_eq!(draws(0.8, 1, 1, &[0.0, 3.0, -1.0, 3.0], 3), [1, 1, 1]);
    }

    #[test]
    fn a_seed_decides_everything() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        assert_eq!(draws(1.0, 50, 7, &logits, 64), draws(1.0, 50, 7, &logits, 64));
        assert_ne!(draws(1.0, 50, 7, &logits, 64), draws(1.0, 50, 8, &logits, 64));
    }

    /// Oracle: softmax by hand. Each of 40,000 draws hits a token of probability p with a standard
    /// deviation of sqrt(p (1 - p)); five of those are allowed around the share.
    #[test]
    fn shares_follow_the_softmax_of_what_is_left() {
        let logits = [2.0_f32, 1.0, 0.0, -1.0, 0.5];
        for (temperature, top_k, allowed) in
            [(1.0, 0, vec![0, 1, 2, 3, 4]), (0.5, 0, vec![0, 1, 2, 3, 4]), (2.0, 3, vec![0, 1, 4])]
        {
            let count = 40_000;
            let drawn = draws(temperature, top_k, 3, &logits, count);
            let weight = |id: usize| (f64::from(logits[id]) / temperature).exp();
            let total: f64 = allowed.iter().map(|id| weight(*id)).sum();
            for id in 0..logits.len() {
                let p = if allowed.contains(&id) { weight(id) / total } else { 0.0 };
                let share = drawn.iter().filter(|d| **d == id as u32).count() as f64 / count as f64;
                let tolerance = 5.0 * (p * (1.0 - p) / count as f64).sqrt();
                assert!((share - p).abs() <= tolerance, "{id}: {share} against {p}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_never_chosen() {
        assert_eq!(draws(1.0, 0, 1, &[f32::NAN, f32::NEG_INFINITY, 0.0], 20), [2; 20]);
        assert_eq!(draws(1.0, 0, 1, &[0.0, f32::INFINITY], 5), [1; 5]);
        assert_eq!(draws(1.0, 0, 1, &[f32::NAN], 1), [0]);
    }
}

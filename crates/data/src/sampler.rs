//! Which window of the tokens comes when: a shuffled order that is a pure function of the window's number.
//!
//! A window is T + 1 adjacent tokens; windows lie at stride T, so that within an epoch every token but the first is a target
//! at most once. With `n` tokens (all arithmetic on u64, wrapping; [`splitmix64`] and [`key`] as in [`crate::random`]):
//!
//! ```text
//! W      = max(1, floor(n / T) - 1)                windows per epoch
//! P      = min(T, n - W*T)                         possible phases
//! epoch  = i div W,   k = i mod W
//! e_key  = key([seed, epoch])                      = splitmix64(splitmix64(seed) ^ epoch)
//! phase  = splitmix64(e_key ^ 0x7068617365) mod P  "phase" in ASCII
//! j      = permute(k)
//! offset = phase + j*T
//!
//! permute: a Feistel network on 2h bits, h = max(1, ceil(bits(W - 1) / 2)), applied until the result is below W
//!   (left, right) = (k >> h, k mod 2^h)
//!   4 rounds r = 0..3: (left, right) = (right, left ^ (splitmix64(right ^ splitmix64(e_key + r)) mod 2^h))
//!   result = left << h | right
//! ```
//!
//! A permutation needs no memory, and resuming needs nothing but the number of the next window.

use crate::random::{key, permute, splitmix64};
use crate::{Error, Result, TokenShard};

/// "phase" in ASCII: parts the phase's random number from the round keys.
const PHASE: u64 = 0x70_6861_7365;

/// The order of windows over a shard; see the module's page for the definition.
///
/// ```
/// use data::WindowSampler;
/// let sampler = WindowSampler::new(1000, 64, 7)?;
/// assert_eq!(sampler.windows_per_epoch(), 14);
/// let offset = sampler.offset(123_456); // of any window, at once
/// assert!(offset + 64 + 1 <= 1000);
/// # Ok::<(), data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSampler {
    seq_len: usize,
    seed: u64,
    windows: u64,
    phases: u64,
}

impl WindowSampler {
    /// For `n_tokens` tokens and windows of `seq_len` + 1. Fewer tokens than one window are an error.
    ///
    /// # Panics
    /// When `seq_len` is 0.
    pub fn new(n_tokens: usize, seq_len: usize, seed: u64) -> Result<WindowSampler> {
        assert!(seq_len > 0, "a window has at least one target");
        if n_tokens < seq_len + 1 {
            return Err(Error::TooShort { tokens: n_tokens, seq_len });
        }
        let windows = (n_tokens / seq_len).saturating_sub(1).max(1);
        let phases = seq_len.min(n_tokens - windows * seq_len);
        Ok(WindowSampler { seq_len, seed, windows: windows as u64, phases: phases as u64 })
    }

    /// T: targets per window.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Windows after which every part of the tokens has been seen once.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Where window `i` begins; it ends before `offset + T + 1`, which is at most the number of tokens.
    pub fn offset(&self, i: u64) -> usize {
        let epoch_key = key(&[self.seed, i / self.windows]);
        let phase = splitmix64(epoch_key ^ PHASE) % self.phases;
        let window = permute(i % self.windows, self.windows, epoch_key);
        (phase + window * self.seq_len as u64) as usize
    }

    /// Windows `first`, `first + 1`, … as rows of a batch: `inputs [B, T]` are the first T tokens of each, `targets
    /// [B, T]` the last T.
    ///
    /// # Panics
    /// When the two slices are not of one length B*T, or the shard is not the one that the sampler was made for.
    pub fn batch(&self, shard: &TokenShard, first: u64, inputs: &mut [u32], targets: &mut [u32]) {
        assert_eq!(inputs.len(), targets.len(), "inputs and targets are of one length");
        assert_eq!(
            inputs.len() % self.seq_len,
            0,
            "{} inputs are whole windows of {}",
            inputs.len(),
            self.seq_len
        );
        let rows = inputs.chunks_exact_mut(self.seq_len).zip(targets.chunks_exact_mut(self.seq_len));
        for (i, (input, target)) in (first..).zip(rows) {
            let offset = self.offset(i);
            shard.read(offset, input);
            shard.read(offset + 1, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_stay_inside_and_share_no_target_within_an_epoch(
            seq_len in 1..40usize, extra in 1..400usize, seed: u64, epoch in 0..5u64
        ) {
            let n = seq_len + extra;
            let sampler = WindowSampler::new(n, seq_len, seed).expect("enough tokens");
            let w = sampler.windows_per_epoch();
            let mut offsets: Vec<usize> = (epoch * w..(epoch + 1) * w).map(|i| sampler.offset(i)).collect();
            offsets.sort_unstable();
            prop_assert!(offsets.windows(2).all(|o| o[1] - o[0] == seq_len));
            prop_assert!(offsets.last().is_some_and(|o| o + seq_len < n));
            // What an epoch leaves out is less than two windows.
            prop_assert!(n - 1 - offsets.len() * seq_len < 2 * seq_len);
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = |seed, epoch: u64| {
            let s = WindowSampler::new(100_000, 64, seed).expect("enough tokens");
            let w = s.windows_per_epoch();
            (epoch * w..(epoch + 1) * w).map(|i| s.offset(i)).collect::<Vec<_>>()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(order(1, 3), order(1, 3));
        // Neighbours in time are far apart in the text: for a random order the mean distance is a third of the range.
        let first = order(1, 0);
        let mean = first.windows(2).map(|o| o[0].abs_diff(o[1])).sum::<usize>() / first.len();
        assert!((28_000..39_000).contains(&mean), "{mean}");
    }

    #[test]
    fn the_definition_is_fixed() {
        // Oracle: tests/oracle/data_check.py computes these offsets from the definition on the module's page.
        let sampler = WindowSampler::new(10_000, 128, 42).expect("enough tokens");
        let offsets: Vec<usize> =
            [0, 1, 2, 76, 77, 1_000_000].into_iter().map(|i| sampler.offset(i)).collect();
        assert_eq!(offsets, [6855, 5703, 1863, 2631, 3284, 3322]);
    }

    #[test]
    fn too_few_tokens_are_named() {
        let error = WindowSampler::new(64, 64, 0).expect_err("65 are needed").to_string();
        assert!(error.contains("64 tokens are too few for windows of 64 + 1"), "{error}");
        assert_eq!(WindowSampler::new(65, 64, 0).expect("just enough").offset(9), 0);
    }
}

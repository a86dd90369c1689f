//! The one source of randomness in this room: SplitMix64, in its streaming and its stateless form.
//!
//! Constants from Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014) as implemented in
//! the JDK: increment 0x9E3779B97F4A7C15, multipliers 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, shifts 30, 27, 31.

/// The golden-ratio increment of SplitMix64.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// One SplitMix64 output: adds the increment to `x` and mixes. Wrapping 64-bit arithmetic.
///
/// ```
/// assert_eq!(data::random::splitmix64(0), 0xE220A8397B1DCDAF);
/// ```
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(INCREMENT);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Folds several numbers into one key: `key = splitmix64(key ^ part)`, starting from 0.
pub fn key(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |key, part| splitmix64(key ^ part))
}

/// Four rounds make a Feistel network with good round functions a strong pseudo-random permutation (Luby, Rackoff 1988).
const ROUNDS: u64 = 4;

/// Where a permutation of 0..n that depends on `epoch_key` sends `k`. The Feistel network (in full on the page of
/// [`crate::sampler`]) covers less than 4n values, so fewer than four applications are expected.
pub fn permute(k: u64, n: u64, epoch_key: u64) -> u64 {
    let half = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half) - 1;
    let mut value = k;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..ROUNDS {
            let mixed = splitmix64(right ^ splitmix64(epoch_key.wrapping_add(round))) & mask;
            (left, right) = (right, left ^ mixed);
        }
        value = left << half | right;
        if value < n {
            return value;
        }
    }
}

/// A stream of numbers from one key.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream that belongs to `key`.
    pub fn new(key: u64) -> Self {
        Stream(key)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let out = splitmix64(self.0);
        self.0 = self.0.wrapping_add(INCREMENT);
        out
    }

    /// A number below `n`, each with exactly the same probability (multiply and reject, Lemire 2019).
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a number below 0 was asked for");
        let threshold = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_epoch_is_a_permutation_of_its_windows(n in 1..3000u64, epoch_key: u64) {
            let mut seen: Vec<u64> = (0..n).map(|k| permute(k, n, epoch_key)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }
}

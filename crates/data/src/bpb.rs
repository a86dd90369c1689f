//! Bits per byte: the loss per byte of text, which does not depend on the tokenizer.
//!
//! `val_bpb = sum(nats where n > 0) / (ln 2 * sum(n))`, n being the bytes of the target token (0 for special tokens, whose
//! loss does not count). The definition is autoresearch's; sums are f64.

use std::ops::AddAssign;

/// The sums behind a figure of bits per byte; parts of an evaluation add up with `+=`.
///
/// ```
/// use data::BitsPerByte;
/// let mut sum = BitsPerByte::default();
/// sum.add(2.0f64.ln(), 1); // one bit for one byte
/// sum.add(5.0, 0); // a special token: not counted
/// assert_eq!(sum.value(), Some(1.0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BitsPerByte {
    /// Sum of the cross-entropies of the targets that have bytes, in nats.
    pub nats: f64,
    /// Sum of those targets' bytes.
    pub bytes: u64,
    /// Number of those targets.
    pub tokens: u64,
}

impl BitsPerByte {
    /// Adds one target: its cross-entropy in nats and its bytes.
    pub fn add(&mut self, nats: f64, bytes: u32) {
        if bytes > 0 {
            self.nats += nats;
            self.bytes += u64::from(bytes);
            self.tokens += 1;
        }
    }

    /// Adds targets: `nats [N]`, `targets [N]`, `byte_table [V]` from [`crate::Tokenizer::byte_table`].
    ///
    /// # Panics
    /// When the lengths differ or a target is not in the table.
    pub fn add_targets(&mut self, nats: &[f32], targets: &[u32], byte_table: &[u32]) {
        assert_eq!(nats.len(), targets.len(), "one cross-entropy per target");
        for (nats, target) in nats.iter().zip(targets) {
            self.add(f64::from(*nats), byte_table[*target as usize]);
        }
    }

    /// Bits per byte; `None` before any byte was added.
    pub fn value(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / (std::f64::consts::LN_2 * self.bytes as f64))
    }

    /// Mean cross-entropy of the counted targets in nats; `None` before any was added.
    pub fn nats_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }
}

impl AddAssign for BitsPerByte {
    fn add_assign(&mut self, other: BitsPerByte) {
        self.nats += other.nats;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_by_hand() {
        // (1.5 + 0.5) nats over (3 + 1) bytes = 0.5 / ln 2 bits per byte; the special token (id 2) does not count.
        let mut sum = BitsPerByte::default();
        sum.add_targets(&[1.5, 9.0, 0.5], &[0, 2, 1], &[3, 1, 0]);
        assert_eq!((sum.bytes, sum.tokens), (4, 2));
        assert_eq!(sum.value(), Some(0.5 / std::f64::consts::LN_2));
        assert_eq!(sum.nats_per_token(), Some(1.0));
        let mut twice = sum;
        twice += sum;
        assert_eq!(twice.value(), sum.value());
        assert_eq!(BitsPerByte::default().value(), None);
    }
}

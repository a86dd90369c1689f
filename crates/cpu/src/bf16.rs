//! Numbers of 8 bits of precision with the exponents of f32: its upper half.

use device::memory::{Block, Plain};

use crate::pool::Pool;
use crate::simd::dispatch;

/// A number in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

// SAFETY: zero has no bit set; two bytes, and nothing to drop.
unsafe impl Plain for Bf16 {}

impl Bf16 {
    /// To nearest with ties to even; a NaN stays one.
    #[inline(always)]
    pub fn new(x: f32) -> Bf16 {
        Bf16((rounded(x) >> 16) as u16)
    }

    /// The same number in f32.
    #[inline(always)]
    pub fn get(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// The bits that an f32 has in common with a bf16.
pub(crate) const UPPER: u32 = 0xffff_0000;

/// bf16 of `x`, to nearest with ties to even, as the upper half of the bits; a NaN stays one.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | 0x0040_0000 } else { up }) & UPPER
}

/// All of `values` in bf16.
pub fn round_all(pool: &Pool, values: &[f32]) -> Block<Bf16> {
    /// 256 KiB of f32.
    const PER_TASK: usize = 1 << 16;
    let mut all = Block::zeros(values.len());
    let parts: Vec<_> = all.chunks_mut(PER_TASK).map(std::sync::Mutex::new).collect();
    pool.run(parts.len(), |task| {
        // Each task locks its own.
        let mut part = parts[task].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        round_part(&values[task * PER_TASK..], &mut part);
    });
    drop(parts);
    all
}

dispatch! {
    fn round_part(values: &[f32], out: &mut [Bf16]) {
        let _ = FMA;
        for (out, x) in out.iter_mut().zip(values) {
            *out = Bf16::new(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::random;

    /// Oracle: the crate `half`.
    #[test]
    fn rounds_as_bf16_is_defined() {
        let hard = [
            f32::NAN,
            f32::INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-40,
            -0.0,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
        ];
        let mut values = random(1, 70_000);
        values.extend(hard);
        for threads in [1, 2] {
            let got = round_all(&Pool::new(threads), &values);
            for (got, x) in got.iter().zip(&values) {
                let want = half::bf16::from_f32(*x);
                assert_eq!(
                    (got.0, got.get().to_bits()),
                    (want.to_bits(), u32::from(want.to_bits()) << 16),
                    "{x}"
                );
            }
        }
    }
}

//! Arithmetic between halves in a device's memory and singles on the host.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that are converted at once where a sum goes through the cache.
const CHUNK: usize = 4096;

/// Adds `halves` to `sums`, of equal length.
pub(crate) fn add_halves(halves: &[f16], sums: &mut [f32]) {
    let mut converted = [0.0; CHUNK];
    for (halves, sums) in halves.chunks(CHUNK).zip(sums.chunks_mut(CHUNK)) {
        let converted = &mut converted[..halves.len()];
        halves.convert_to_f32_slice(converted);
        for (sum, value) in sums.iter_mut().zip(converted) {
            *sum += *value;
        }
    }
}

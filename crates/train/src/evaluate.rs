//! Validation: bits per byte over windows of the validation tokens.
//!
//! The windows do not overlap and lie at equal distances over the whole shard, the same at every
//! validation of every run on that shard. The loss comes from [`Stack::evaluate`], the one forward
//! pass that there is, softcap included.

use std::time::Instant;

use data::{BitsPerByte, TokenShard};
use model::Stack;
use serde::Serialize;

use crate::{Error, Result};

/// The result of a validation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Bits per byte.
    pub val_bpb: f64,
    /// Standard error of `val_bpb` that comes from the choice of windows; 0 for a single window.
    pub val_bpb_se: f64,
    /// Mean loss of a token in nats.
    pub val_loss: f64,
    /// Windows.
    pub windows: usize,
    /// Bytes of text in them.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Where `count` windows of `seq_len` targets begin in `tokens` tokens: at equal distances,
/// multiples of `seq_len`. As many as there are when `count` is 0 or too large.
pub fn window_starts(tokens: usize, seq_len: usize, count: usize) -> Vec<usize> {
    let all = tokens.saturating_sub(1) / seq_len;
    let count = if count == 0 { all } else { count.min(all) };
    (0..count).map(|i| i * all / count * seq_len).collect()
}

/// Measures a model on `count` windows of a shard (0 for all of them).
///
/// * `byte_table` `[V]`: bytes of each token
///
/// # Errors
/// [`Error::SequenceTooLong`] when the shard holds no window, [`Error::Model`].
pub fn evaluate(
    stack: &mut Stack,
    shard: &TokenShard,
    byte_table: &[u32],
    count: usize,
) -> Result<Evaluation> {
    let begun = Instant::now();
    let (batch, seq_len) = (stack.batch(), stack.config().seq_len);
    let starts = window_starts(shard.len(), seq_len, count);
    if starts.is_empty() {
        return Err(Error::SequenceTooLong { path: shard.path().to_owned(), tokens: shard.len(), seq_len });
    }
    let (mut ids, mut targets) = (vec![0; batch * seq_len], vec![0; batch * seq_len]);
    let mut windows = Vec::with_capacity(starts.len());
    for group in starts.chunks(batch) {
        let rows = ids.chunks_exact_mut(seq_len).zip(targets.chunks_exact_mut(seq_len));
        // A last group that is not full goes in with its first window repeated, uncounted.
        let filled = group.iter().chain(std::iter::repeat(&group[0]));
        for ((ids, targets), start) in rows.zip(filled) {
            shard.read(*start, ids);
            shard.read(start + 1, targets);
        }
        let report = stack.evaluate(&ids, &targets)?;
        let rows = report.nll.chunks_exact(seq_len).zip(targets.chunks_exact(seq_len));
        windows.extend(rows.take(group.len()).map(|(nll, targets)| {
            let mut sum = BitsPerByte::default();
            sum.add_targets(nll, targets, byte_table);
            sum
        }));
    }
    Ok(summarise(&windows, begun.elapsed().as_secs_f64()))
}

fn summarise(windows: &[BitsPerByte], seconds: f64) -> Evaluation {
    let mut sum = BitsPerByte::default();
    windows.iter().for_each(|window| sum += *window);
    let (bytes, n) = (sum.bytes.max(1) as f64, windows.len() as f64);
    // A ratio of sums: its standard error is that of the residuals nats - ratio * bytes (Cochran
    // 1977, Sampling Techniques, 6.4).
    let ratio = sum.nats / bytes;
    let residuals: f64 = windows.iter().map(|w| (w.nats - ratio * w.bytes as f64).powi(2)).sum();
    let error = if windows.len() > 1 { (residuals * n / (n - 1.0)).sqrt() / bytes } else { 0.0 };
    Evaluation {
        val_bpb: ratio / std::f64::consts::LN_2,
        val_bpb_se: error / std::f64::consts::LN_2,
        val_loss: sum.nats_per_token().unwrap_or(0.0),
        windows: windows.len(),
        bytes: sum.bytes,
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_evenly_and_never_overlap() {
        assert_eq!(window_starts(101, 10, 0), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(window_starts(101, 10, 4), [0, 20, 50, 70]);
        assert_eq!(window_starts(101, 10, 99).len(), 10);
        assert_eq!(window_starts(100, 10, 0).len(), 9, "the last target must exist");
        assert_eq!(window_starts(11, 10, 5), [0]);
        assert!(window_starts(10, 10, 5).is_empty());
        for count in 1..60 {
            let starts = window_starts(1000, 17, count);
            assert!(starts.windows(2).all(|w| w[1] >= w[0] + 17) && starts.iter().all(|s| s + 17 < 1000));
        }
    }

    /// Oracle: by hand. Two windows of 4 bytes with 2 and 4 nats: the ratio is 6/8, residuals are -1
    /// and 1, so the error is sqrt(2 * 2/1) / 8.
    #[test]
    fn value_and_standard_error_by_hand() {
        let window = |nats, bytes| BitsPerByte { nats, bytes, tokens: 2 };
        let result = summarise(&[window(2.0, 4), window(4.0, 4)], 0.0);
        let ln2 = std::f64::consts::LN_2;
        assert_eq!(result.val_bpb, 0.75 / ln2);
        assert_eq!(result.val_bpb_se, 0.25 / ln2);
        assert_eq!(result.val_loss, 1.5);
        assert_eq!(summarise(&[window(2.0, 4)], 0.0).val_bpb_se, 0.0);
        // Windows of the same ratio have no error, however long they are.
        assert_eq!(summarise(&[window(1.0, 2), window(4.0, 8)], 0.0).val_bpb_se, 0.0);
    }
}

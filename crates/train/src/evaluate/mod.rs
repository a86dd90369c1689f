//! Validation: bits per byte of the validation tokens, by one of several [`Protocol`]s.
//!
//! The loss comes from [`Stack::evaluate`], the one forward pass that there is, softcap included. Which targets are
//! measured depends on the shard and the protocol only, so it is the same at every validation of every run.

mod protocol;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use data::{BitsPerByte, ByteCount, Dataset, DocumentIndex, Split, TokenShard, Vocabulary};
use model::Stack;
use serde::Serialize;

use crate::Result;
use protocol::Row;
pub use protocol::{ANE_WINDOWS, AUTORESEARCH_BATCH, AUTORESEARCH_TOKENS, Protocol};

/// The result of a validation, with all that it takes to say what was counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Bits per byte.
    pub val_bpb: f64,
    /// Standard error of `val_bpb` that comes from the choice of documents; `None` for a single one.
    pub val_bpb_se: Option<f64>,
    /// Mean loss of a token in nats.
    pub val_loss: f64,
    /// How it was counted: the name of a [`Protocol`].
    pub protocol: &'static str,
    /// Windows, or packed rows.
    pub windows: usize,
    /// Targets in each, T.
    pub window: usize,
    /// Tokens from one window to the next; `None` where that varies, and for packed rows.
    pub stride: Option<usize>,
    /// Targets that were counted, special tokens included.
    pub tokens: u64,
    /// Bytes of text in them.
    pub bytes: u64,
    /// Of them, those that a model with a shortened vocabulary has no row for: they share the probability of one row.
    pub unseen_tokens: u64,
    /// How bytes of a token were counted: `raw` or `compat`.
    pub byte_count: ByteCount,
    /// Documents that they are of.
    pub documents: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Validation tokens, and how many bytes each token stands for.
#[derive(Debug, Clone)]
pub struct ValidationData {
    shard: Arc<TokenShard>,
    documents: DocumentIndex,
    byte_count: ByteCount,
    byte_table: Vec<u32>,
    vocabulary: Option<Arc<Vocabulary>>,
}

impl ValidationData {
    /// The validation tokens of a data set.
    pub fn new(dataset: &Dataset, byte_count: ByteCount) -> ValidationData {
        ValidationData {
            shard: Arc::clone(&dataset.valid),
            documents: dataset.documents(Split::Valid),
            byte_count,
            byte_table: dataset.tokenizer.byte_table(byte_count),
            vocabulary: dataset.vocabulary.clone(),
        }
    }
}

/// Measures a model. `progress` is told how many windows of how many are done.
///
/// # Errors
/// [`Error::SequenceTooLong`](crate::Error::SequenceTooLong) when the shard holds no window,
/// [`Error::Protocol`](crate::Error::Protocol), [`Error::Model`](crate::Error::Model).
pub fn evaluate(
    stack: &mut Stack,
    data: &ValidationData,
    protocol: Protocol,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let mut go_on = |done, all| {
        progress(done, all);
        true
    };
    Ok(evaluate_while(stack, data, protocol, &mut go_on)?.expect("nobody stops it"))
}

/// As [`evaluate`], as long as `go_on`, which is told how many windows of how many are done, says so; else `None`.
pub(crate) fn evaluate_while(
    stack: &mut Stack,
    data: &ValidationData,
    protocol: Protocol,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Evaluation>> {
    let begun = Instant::now();
    let (batch, seq_len) = (stack.batch(), stack.config().seq_len);
    let mut rows = protocol.rows(&data.shard, &data.documents, seq_len)?;
    let windows = rows.len();
    let (mut ids, mut targets) = (vec![0; batch * seq_len], vec![0; batch * seq_len]);
    let mut documents: HashMap<u64, BitsPerByte> = HashMap::new();
    let (mut tokens, mut unseen, mut done) = (0, 0, 0);
    while done < windows {
        if !go_on(done, windows) {
            return Ok(None);
        }
        let group: Vec<Row> = rows.by_ref().take(batch).collect();
        let places = ids.chunks_exact_mut(seq_len).zip(targets.chunks_exact_mut(seq_len));
        // A last group that is not full goes in with its first row repeated, uncounted.
        for ((ids, targets), row) in places.zip(group.iter().chain(std::iter::repeat(&group[0]))) {
            ids.copy_from_slice(&row.tokens[..seq_len]);
            targets.copy_from_slice(&row.tokens[1..]);
        }
        if let Some(vocabulary) = &data.vocabulary {
            ids.iter_mut().chain(&mut targets).for_each(|id| *id = vocabulary.row(*id));
        }
        let report = stack.evaluate(&ids, &targets)?;
        for (row, nll) in group.iter().zip(report.nll.chunks_exact(seq_len)) {
            for at in row.counted.clone() {
                let (target, mut nats) = (row.tokens[at + 1], f64::from(nll[at]));
                if let Some(vocabulary) = &data.vocabulary {
                    nats = vocabulary.loss_of(target, nats);
                    unseen += u64::from(Some(vocabulary.row(target)) == vocabulary.unseen_row());
                }
                documents.entry(row.documents[at]).or_default().add(nats, data.byte_table[target as usize]);
            }
            tokens += row.counted.len() as u64;
        }
        done += group.len();
    }
    go_on(done, windows);
    // In the order of documents, so that the sums are always the same.
    let mut documents: Vec<(u64, BitsPerByte)> = documents.into_iter().collect();
    documents.sort_unstable_by_key(|(number, _)| *number);
    let documents: Vec<BitsPerByte> = documents.into_iter().map(|(_, sum)| sum).collect();
    let (ratio, error, sum) = ratio_and_error(&documents);
    Ok(Some(Evaluation {
        val_bpb: ratio / std::f64::consts::LN_2,
        val_bpb_se: error.map(|error| error / std::f64::consts::LN_2),
        val_loss: sum.nats_per_token().unwrap_or(0.0),
        protocol: protocol.name(),
        windows,
        window: seq_len,
        stride: protocol.stride(data.shard.len(), seq_len),
        tokens,
        unseen_tokens: unseen,
        bytes: sum.bytes,
        byte_count: data.byte_count,
        documents: documents.len(),
        seconds: begun.elapsed().as_secs_f64(),
    }))
}

/// Nats per byte, and its standard error: that of a ratio of sums, whose residuals are nats - ratio * bytes (Cochran
/// 1977, Sampling Techniques, 6.4), over documents, within which losses hang together.
fn ratio_and_error(documents: &[BitsPerByte]) -> (f64, Option<f64>, BitsPerByte) {
    let mut sum = BitsPerByte::default();
    documents.iter().for_each(|document| sum += *document);
    let (bytes, n) = (sum.bytes.max(1) as f64, documents.len() as f64);
    let ratio = sum.nats / bytes;
    let residuals: f64 = documents.iter().map(|d| (d.nats - ratio * d.bytes as f64).powi(2)).sum();
    let error = (documents.len() > 1).then(|| (residuals * n / (n - 1.0)).sqrt() / bytes);
    (ratio, error, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand. Two documents of 4 bytes with 2 and 4 nats: the ratio is 6/8, residuals are -1
    /// and 1, so the error is sqrt(2 * 2/1) / 8.
    #[test]
    fn value_and_standard_error_by_hand() {
        let document = |nats, bytes| BitsPerByte { nats, bytes, tokens: 2 };
        let (ratio, error, sum) = ratio_and_error(&[document(2.0, 4), document(4.0, 4)]);
        assert_eq!((ratio, error, sum.nats_per_token()), (0.75, Some(0.25), Some(1.5)));
        assert_eq!(ratio_and_error(&[document(2.0, 4)]).1, None);
        // Documents of the same ratio have no error, however long they are.
        assert_eq!(ratio_and_error(&[document(1.0, 2), document(4.0, 8)]).1, Some(0.0));
    }
}

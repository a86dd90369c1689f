//! Which targets of the validation tokens are measured, and what each of them may look back on.

use std::fmt;
use std::ops::Range;

use data::{DocumentIndex, Packer, TokenShard};

use crate::{Error, Result};

/// autoresearch measures on this many tokens: 40 times 2^19.
pub const AUTORESEARCH_TOKENS: u64 = 40 * 524_288;
/// autoresearch's batch size while measuring; tokens beyond whole batches are left out.
pub const AUTORESEARCH_BATCH: u64 = 128;
/// autoresearch-ANE measures on this many windows.
pub const ANE_WINDOWS: usize = 20;

/// A way of counting bits per byte. T is the model's sequence length.
///
/// Figures of different protocols, or of one with another T, are of different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Every target of the shard once, in windows of T side by side; the last one reaches back to be full, and only its
    /// new targets count.
    Full,
    /// This many windows of T at equal distances, all their targets.
    Windows {
        /// How many; as many as there are when there are fewer.
        count: usize,
    },
    /// Every target of the shard once, in windows of T that move on by `stride`: all but the first few targets look back
    /// on at least T - `stride` tokens. Only the targets that a window adds count.
    Sliding {
        /// Tokens from one window to the next, 1 to T.
        stride: usize,
    },
    /// Karpathy's autoresearch: rows that documents are packed into by best fit, in their order, as many whole batches as
    /// `tokens` has, from the beginning again when the shard ends.
    Autoresearch {
        /// Targets to measure; [`AUTORESEARCH_TOKENS`], in its MLX port 3 times 2^19.
        tokens: u64,
        /// Rows in a batch, which decides only where the last whole batch ends.
        batch: u64,
    },
    /// autoresearch-ANE: [`ANE_WINDOWS`] windows of T, the i-th at i * floor(tokens / 20), wherever documents begin (at 0
    /// where the shard is too short for it). Its published figures are also without the softcap that it trains with.
    AneWindows,
}

impl Protocol {
    /// `count` windows, or everything for 0: as configurations say it.
    pub fn windows(count: usize) -> Protocol {
        if count == 0 { Protocol::Full } else { Protocol::Windows { count } }
    }

    /// Its name on the command line and in results.
    pub fn name(&self) -> &'static str {
        match self {
            Protocol::Full => "full",
            Protocol::Windows { .. } => "windows",
            Protocol::Sliding { .. } => "sliding",
            Protocol::Autoresearch { .. } => "autoresearch",
            Protocol::AneWindows => "ane-windows",
        }
    }

    /// Tokens from one window to the next, where that is always the same.
    pub(super) fn stride(&self, tokens: usize, seq_len: usize) -> Option<usize> {
        match self {
            Protocol::Full => Some(seq_len),
            Protocol::Sliding { stride } => Some(*stride),
            Protocol::AneWindows => Some(tokens / ANE_WINDOWS),
            Protocol::Windows { .. } | Protocol::Autoresearch { .. } => None,
        }
    }

    /// The rows that it measures, in order.
    ///
    /// # Errors
    /// [`Error::SequenceTooLong`] when the shard holds no window; [`Error::Protocol`] when the protocol's own numbers
    /// leave nothing to measure.
    pub(super) fn rows<'a>(
        &self,
        shard: &'a TokenShard,
        documents: &'a DocumentIndex,
        seq_len: usize,
    ) -> Result<Rows<'a>> {
        let tokens = shard.len();
        if tokens < seq_len + 1 {
            return Err(Error::SequenceTooLong { path: shard.path().to_owned(), tokens, seq_len });
        }
        let fail = |problem: String| Err(Error::Protocol { protocol: self.name(), problem });
        let source = match *self {
            Protocol::Full => Source::Windows(covering(tokens, seq_len, seq_len)),
            Protocol::Sliding { stride } if stride == 0 || stride > seq_len => {
                return fail(format!("a stride of {stride} is not within 1 to {seq_len}, the window"));
            }
            Protocol::Sliding { stride } => Source::Windows(covering(tokens, seq_len, stride)),
            Protocol::Windows { count } => {
                let starts = spread(tokens, seq_len, count);
                Source::Windows(starts.into_iter().map(|start| (start, 0)).collect())
            }
            Protocol::AneWindows => {
                let starts = (0..ANE_WINDOWS).map(|i| i * (tokens / ANE_WINDOWS));
                let inside = |start| if start + seq_len + 1 > tokens { 0 } else { start };
                Source::Windows(starts.map(|start| (inside(start), 0)).collect())
            }
            Protocol::Autoresearch { tokens, batch } => {
                let rows = tokens.checked_div(batch * seq_len as u64).unwrap_or(0) * batch;
                if rows == 0 {
                    let problem = format!("{tokens} tokens are less than one batch of {batch} x {seq_len}");
                    return fail(problem);
                }
                Source::Packed { packer: Packer::new(documents.clone(), seq_len, None)?, rows }
            }
        };
        Ok(Rows { shard, documents, seq_len, source, next: 0 })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Windows that move on by `stride` and cover every target once: where each begins and which of its targets is the first
/// that counts.
fn covering(tokens: usize, seq_len: usize, stride: usize) -> Vec<(usize, usize)> {
    let targets = tokens - 1;
    let mut windows = vec![(0, 0)];
    let mut covered = seq_len;
    while covered < targets {
        // The last one reaches back, since a window is always full.
        let end = (covered + stride).min(targets);
        let start = end - seq_len;
        windows.push((start, covered - start));
        covered = end;
    }
    windows
}

/// Where `count` windows of `seq_len` targets begin in `tokens` tokens: at equal distances, multiples of `seq_len`. As
/// many as there are when `count` is too large.
fn spread(tokens: usize, seq_len: usize, count: usize) -> Vec<usize> {
    let all = (tokens - 1) / seq_len;
    let count = count.min(all);
    (0..count).map(|i| i * all / count * seq_len).collect()
}

/// What a protocol measures, row by row.
pub(super) struct Rows<'a> {
    shard: &'a TokenShard,
    documents: &'a DocumentIndex,
    seq_len: usize,
    source: Source,
    next: usize,
}

enum Source {
    /// Where each window begins and which of its targets is the first that counts.
    Windows(Vec<(usize, usize)>),
    Packed {
        packer: Packer,
        rows: u64,
    },
}

/// One row: T inputs, T targets.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    /// `[T + 1]`.
    pub(super) tokens: Vec<u32>,
    /// The targets that count.
    pub(super) counted: Range<usize>,
    /// Which document each target belongs to, `[T]`.
    pub(super) documents: Vec<u64>,
}

impl Rows<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match &self.source {
            Source::Windows(windows) => windows.len(),
            Source::Packed { rows, .. } => *rows as usize,
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.next == self.len() {
            return None;
        }
        let mut tokens = vec![0; self.seq_len + 1];
        let (first, documents) = match &mut self.source {
            Source::Windows(windows) => {
                let (start, first) = windows[self.next];
                self.shard.read(start, &mut tokens);
                let mut document = self.documents.at(start + 1);
                let mut of_target = Vec::with_capacity(self.seq_len);
                for position in start + 1..=start + self.seq_len {
                    let ends = self.documents.start(document) + self.documents.tokens(document);
                    document += u64::from(position == ends);
                    of_target.push(document);
                }
                (first, of_target)
            }
            Source::Packed { packer, .. } => {
                let placed = packer.next_row(self.shard, &mut tokens);
                let of_token = placed.iter().flat_map(|p| std::iter::repeat_n(p.document, p.tokens));
                (0, of_token.skip(1).collect())
            }
        };
        self.next += 1;
        Some(Row { tokens, counted: first..self.seq_len, documents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 9;

    /// Tokens that are their own position modulo 8, documents of 7 tokens that begin with BOS.
    fn shard(tokens: usize) -> (tempfile::TempDir, TokenShard, DocumentIndex) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.bin");
        let id = |at: usize| if at.is_multiple_of(7) { BOS as u16 } else { (at % 8) as u16 };
        let bytes: Vec<u8> = (0..tokens).flat_map(|at| id(at).to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        let shard = TokenShard::open_raw_u16(&path, 10).unwrap();
        let index = DocumentIndex::new(&shard, BOS, &[]);
        (dir, shard, index)
    }

    /// Every target that counts, by its position in the shard, with how far it can look back.
    fn counted(protocol: Protocol, tokens: usize, seq_len: usize) -> Vec<(usize, usize)> {
        let (_dir, shard, index) = shard(tokens);
        let windows = match protocol.rows(&shard, &index, seq_len).unwrap().source {
            Source::Windows(windows) => windows,
            Source::Packed { .. } => panic!("{protocol} has windows"),
        };
        let targets = |(start, first): (usize, usize)| (first..seq_len).map(move |t| (start + t + 1, t + 1));
        windows.into_iter().flat_map(targets).collect()
    }

    #[test]
    fn full_and_sliding_count_every_target_once() {
        for tokens in [11, 12, 20, 21, 22, 57, 101] {
            for stride in 1..=10 {
                let found = counted(Protocol::Sliding { stride }, tokens, 10);
                let positions: Vec<usize> = found.iter().map(|(position, _)| *position).collect();
                assert_eq!(positions, (1..tokens).collect::<Vec<_>>(), "{tokens} {stride}");
                // Targets beyond the first window look back on at least T - stride tokens, and itself.
                let shortest = found[10..].iter().map(|(_, back)| *back).min().unwrap_or(10);
                assert!(shortest > 10 - stride, "{tokens} {stride}: {shortest}");
            }
            assert_eq!(
                counted(Protocol::Full, tokens, 10),
                counted(Protocol::Sliding { stride: 10 }, tokens, 10)
            );
        }
    }

    #[test]
    fn windows_lie_evenly_and_never_overlap() {
        assert_eq!(spread(101, 10, 4), [0, 20, 50, 70]);
        assert_eq!(spread(101, 10, 99).len(), 10);
        assert_eq!(spread(100, 10, 99).len(), 9, "the last target must exist");
        assert_eq!(spread(11, 10, 5), [0]);
        for count in 1..60 {
            let starts = spread(1000, 17, count);
            assert!(starts.windows(2).all(|w| w[1] >= w[0] + 17) && starts.iter().all(|s| s + 17 < 1000));
        }
    }

    /// Oracle: by hand, from the definition in autoresearch-ANE's train.m.
    #[test]
    fn ane_windows_begin_at_twentieths_and_wrap_to_the_beginning() {
        let starts = |tokens, seq_len| -> Vec<usize> {
            let found = counted(Protocol::AneWindows, tokens, seq_len);
            found.chunks(seq_len).map(|window| window[0].0 - 1).collect()
        };
        assert_eq!(starts(1000, 10), (0..20).map(|i| i * 50).collect::<Vec<_>>());
        // 119 / 20 = 5: the window at 95 ends with token 115, all fit. With T = 30, those from 90 on do not.
        assert_eq!(starts(119, 10)[19], 95);
        assert_eq!(starts(119, 30)[17..], [85, 0, 0]);
    }

    #[test]
    fn each_target_knows_its_document() {
        let (_dir, shard, index) = shard(101);
        for protocol in [
            Protocol::Full,
            Protocol::Sliding { stride: 3 },
            Protocol::Windows { count: 4 },
            Protocol::AneWindows,
        ] {
            for (i, row) in protocol.rows(&shard, &index, 10).unwrap().enumerate() {
                // Positions are told by the ids: documents begin at BOS.
                let begins: Vec<u64> = (0..10).map(|t| u64::from(row.tokens[t + 1] == BOS)).collect();
                for t in 1..10 {
                    assert_eq!(row.documents[t], row.documents[t - 1] + begins[t], "{protocol} {i}");
                }
            }
        }
        let full: Vec<u64> = Protocol::Full
            .rows(&shard, &index, 10)
            .unwrap()
            .flat_map(|row| row.documents[row.counted].to_vec())
            .collect();
        assert_eq!(full, (1..101).map(|position| position / 7).collect::<Vec<u64>>());
    }

    #[test]
    fn autoresearch_takes_whole_batches_of_packed_rows() {
        let (_dir, shard, index) = shard(101);
        // 100 tokens in batches of 3 x 9 are 3 batches.
        let protocol = Protocol::Autoresearch { tokens: 100, batch: 3 };
        let rows: Vec<Row> = protocol.rows(&shard, &index, 9).unwrap().collect();
        assert_eq!(rows.len(), 9);
        for row in rows {
            assert_eq!((row.tokens[0], row.counted), (BOS, 0..9));
            assert_eq!(row.documents.len(), 9);
        }
        let error = Protocol::Autoresearch { tokens: 26, batch: 3 }.rows(&shard, &index, 9);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("26 tokens are less than one batch of 3 x 9"), "{error}");
    }

    #[test]
    fn what_leaves_nothing_to_measure_is_said() {
        let (_dir, shard, index) = shard(10);
        let error = Protocol::Full.rows(&shard, &index, 10).err().unwrap().to_string();
        assert!(error.contains("10 tokens"), "{error}");
        let error = Protocol::Sliding { stride: 6 }.rows(&shard, &index, 5).err().unwrap().to_string();
        assert!(error.contains("a stride of 6 is not within 1 to 5"), "{error}");
    }
}

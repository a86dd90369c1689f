//! Whole documents into rows: the BOS-aligned best-fit packing of autoresearch.
//!
//! A row has T + 1 tokens and begins with the BOS of a document. Rows are filled from a buffer of documents:
//!
//! 1. while fewer than [`BUFFER_DOCUMENTS`] are in it, the next batch is appended: up to [`BATCH_DOCUMENTS`] documents
//!    in their order, never reaching over the end of a group (see [`DocumentIndex`]); after the last document comes the
//!    first one again;
//! 2. of the buffered documents, the longest that fits whole into what is left of the row goes there (of several the
//!    one that was buffered first), and leaves the buffer;
//! 3. when none fits, the shortest (of several the first) leaves the buffer, its first tokens fill the row, and the
//!    rest of it is dropped.
//!
//! Nothing is padded, and documents of a row may attend across one another. These are the constants and the order of
//! Karpathy's autoresearch, to the token. With a seed each epoch takes the documents in a random order instead (groups
//! then mean nothing): for text that nobody has shuffled.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::random::{key, permute};
use crate::{DocumentIndex, Error, Result, TokenShard};

/// Documents that the buffer holds at least whenever one is chosen (autoresearch).
pub const BUFFER_DOCUMENTS: usize = 1000;
/// Documents in a batch that refills it (autoresearch).
pub const BATCH_DOCUMENTS: u64 = 128;
/// "pack" in ASCII: parts the order of documents from the order of windows.
const PACK: u64 = 0x7061_636b;

/// The rows of one shard, one after another, endlessly.
#[derive(Clone, Debug)]
pub struct Packer {
    index: Arc<DocumentIndex>,
    row_tokens: usize,
    /// The seed of a random order.
    seed: Option<u64>,
    /// Documents ever taken into the buffer.
    taken: u64,
    /// Numbers of the buffered documents, and their lengths.
    buffer: Vec<u64>,
    lengths: Vec<u32>,
    placed: Vec<Placed>,
}

/// A document, or its beginning, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which document.
    pub document: u64,
    /// Where in the row it begins.
    pub at: usize,
    /// How many of its tokens are there.
    pub tokens: usize,
}

/// All that has to be kept of a [`Packer`] to go on after any row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackerState {
    /// Documents ever taken into the buffer.
    pub taken: u64,
    /// Numbers of the documents in it, in their order there.
    pub buffer: Vec<u64>,
}

impl Packer {
    /// Rows of `seq_len` + 1 tokens; documents in their own order, or in a random one for each epoch from a seed.
    ///
    /// # Errors
    /// [`Error::TooShort`] when there is no document.
    pub fn new(index: DocumentIndex, seq_len: usize, seed: Option<u64>) -> Result<Packer> {
        if index.is_empty() {
            return Err(Error::TooShort { tokens: 0, seq_len });
        }
        let (buffer, lengths, placed) = (Vec::new(), Vec::new(), Vec::new());
        let index = Arc::new(index);
        Ok(Packer { index, row_tokens: seq_len + 1, seed, taken: 0, buffer, lengths, placed })
    }

    /// The documents.
    pub fn index(&self) -> &DocumentIndex {
        &self.index
    }

    /// What the next row depends on.
    pub fn state(&self) -> PackerState {
        PackerState { taken: self.taken, buffer: self.buffer.clone() }
    }

    /// Goes on where a packer of the same shard, length and seed was.
    ///
    /// # Errors
    /// [`Error::Resume`] when the state names a document that the shard does not have.
    pub fn restore(&mut self, state: PackerState) -> Result<()> {
        let documents = self.index.len();
        if let Some(number) = state.buffer.iter().find(|number| **number >= documents) {
            let why = format!("document {number} is to be packed next, the training tokens have {documents}");
            return Err(Error::Resume { why });
        }
        self.lengths = state.buffer.iter().map(|number| length(&self.index, *number)).collect();
        (self.taken, self.buffer) = (state.taken, state.buffer);
        Ok(())
    }

    /// Fills the next row, `[T + 1]` ids of `shard`, and says what lies where in it.
    ///
    /// # Panics
    /// When `row` has another length, or the shard is not the one of the index.
    pub fn next_row(&mut self, shard: &TokenShard, row: &mut [u32]) -> &[Placed] {
        assert_eq!(row.len(), self.row_tokens, "a row has T + 1 tokens");
        self.placed.clear();
        let mut at = 0;
        while at < row.len() {
            while self.buffer.len() < BUFFER_DOCUMENTS {
                self.refill();
            }
            let chosen = choose(&self.lengths, row.len() - at);
            let document = self.buffer.remove(chosen);
            let tokens = (self.lengths.remove(chosen) as usize).min(row.len() - at);
            shard.read(self.index.start(document), &mut row[at..at + tokens]);
            self.placed.push(Placed { document, at, tokens });
            at += tokens;
        }
        &self.placed
    }

    fn refill(&mut self) {
        let documents = self.index.len();
        let (epoch, first) = (self.taken / documents, self.taken % documents);
        let group_end = if self.seed.is_some() { documents } else { self.index.group_end(first) };
        for place in first..group_end.min(first + BATCH_DOCUMENTS) {
            let number = match self.seed {
                None => place,
                Some(seed) => permute(place, documents, key(&[seed ^ PACK, epoch])),
            };
            self.buffer.push(number);
            self.lengths.push(length(&self.index, number));
            self.taken += 1;
        }
    }
}

/// Longer documents fit into no row anyway.
fn length(index: &DocumentIndex, number: u64) -> u32 {
    u32::try_from(index.tokens(number)).unwrap_or(u32::MAX)
}

/// Where the longest of at most `room` tokens is; when there is none, where the shortest is. The first of several.
fn choose(lengths: &[u32], room: usize) -> usize {
    let mut longest: Option<(usize, u32)> = None;
    let mut shortest = (0, u32::MAX);
    for (at, &tokens) in lengths.iter().enumerate() {
        if tokens as usize <= room && longest.is_none_or(|(_, most)| tokens > most) {
            longest = Some((at, tokens));
        }
        if tokens < shortest.1 {
            shortest = (at, tokens);
        }
    }
    longest.unwrap_or(shortest).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOS: u32 = 999;

    /// A shard whose documents have these lengths; every token but BOS tells its document and place.
    fn shard(lengths: &[usize]) -> (tempfile::TempDir, TokenShard) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ids.bin");
        let mut ids = Vec::new();
        for (document, length) in lengths.iter().enumerate() {
            ids.push(BOS as u16);
            ids.extend((1..*length).map(|at| ((document * 31 + at) % 900) as u16));
        }
        std::fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
            .expect("writes");
        let shard = TokenShard::open_raw_u16(&path, 1000).expect("opens");
        (dir, shard)
    }

    fn packer(shard: &TokenShard, groups: &[u64], seq_len: usize, seed: Option<u64>) -> Packer {
        Packer::new(DocumentIndex::new(shard, BOS, groups), seq_len, seed).expect("has documents")
    }

    /// The definition on the module's page, as plainly as it can be written: documents as lists.
    fn plain_rows(shard: &TokenShard, groups: &[u64], row_tokens: usize, rows: usize) -> Vec<Vec<u32>> {
        let documents: Vec<Vec<u32>> = shard.documents(BOS).collect();
        let mut batches = Vec::new();
        let mut from = 0;
        for size in groups.iter().map(|size| *size as usize) {
            batches.extend(documents[from..from + size].chunks(128).map(<[_]>::to_vec));
            from += size;
        }
        let mut batches = batches.iter().cycle();
        let mut buffer: Vec<Vec<u32>> = Vec::new();
        let mut found = Vec::new();
        for _ in 0..rows {
            let mut row = Vec::new();
            while row.len() < row_tokens {
                while buffer.len() < 1000 {
                    buffer.extend(batches.next().expect("endless").iter().cloned());
                }
                let room = row_tokens - row.len();
                let fitting = buffer.iter().map(Vec::len).filter(|n| *n <= room).max();
                let wanted = fitting.unwrap_or_else(|| buffer.iter().map(Vec::len).min().expect("not empty"));
                let at = buffer.iter().position(|d| d.len() == wanted).expect("it was there");
                let document = buffer.remove(at);
                row.extend(&document[..wanted.min(room)]);
            }
            found.push(row);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn rows_are_those_of_the_definition(
            lengths in proptest::collection::vec(1..90usize, 1..700), cut in 1..400u64, seq_len in 1..150usize
        ) {
            let (_dir, shard) = shard(&lengths);
            let n = lengths.len() as u64;
            let groups: Vec<u64> = if cut < n { vec![cut, n - cut] } else { vec![n] };
            let mut packer = packer(&shard, &groups, seq_len, None);
            for expected in plain_rows(&shard, &groups, seq_len + 1, 60) {
                let mut row = vec![0; seq_len + 1];
                packer.next_row(&shard, &mut row);
                prop_assert_eq!(row, expected);
            }
        }

        #[test]
        fn a_row_is_full_of_beginnings_of_documents_and_resuming_goes_on(
            lengths in proptest::collection::vec(1..90usize, 1..300), seq_len in 1..150usize,
            seed in proptest::option::of(any::<u64>()), stop in 0..40usize
        ) {
            let (_dir, shard) = shard(&lengths);
            let mut first = packer(&shard, &[], seq_len, seed);
            let mut second = packer(&shard, &[], seq_len, seed);
            let (mut row, mut again) = (vec![0; seq_len + 1], vec![0; seq_len + 1]);
            for i in 0..60 {
                let placed = first.next_row(&shard, &mut row).to_vec();
                prop_assert_eq!(row[0], BOS);
                prop_assert_eq!(placed.iter().map(|p| p.tokens).sum::<usize>(), row.len());
                for p in placed {
                    let mut document = vec![0; p.tokens];
                    shard.read(first.index().start(p.document), &mut document);
                    prop_assert_eq!(&row[p.at..p.at + p.tokens], &document[..]);
                    let whole = p.tokens == first.index().tokens(p.document);
                    prop_assert!(whole || p.at + p.tokens == row.len());
                }
                if i == stop {
                    let kept = serde_json::to_string(&first.state()).expect("writes");
                    second.restore(serde_json::from_str(&kept).expect("reads")).expect("belongs to it");
                }
                if i > stop {
                    second.next_row(&shard, &mut again);
                    prop_assert_eq!(&again, &row);
                }
            }
        }
    }

    #[test]
    fn a_seed_shuffles_each_epoch_and_leaves_nothing_out() {
        let (_dir, shard) = shard(&[10; 1500]);
        let order = |seed| {
            let mut packer = packer(&shard, &[], 9, seed);
            let mut row = [0; 10];
            (0..3000).map(|_| packer.next_row(&shard, &mut row)[0].document).collect::<Vec<_>>()
        };
        assert_eq!(order(None), (0..1500).chain(0..1500).collect::<Vec<_>>());
        let shuffled = order(Some(1));
        let mut sorted = shuffled[..1500].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1500).collect::<Vec<_>>());
        assert_ne!(shuffled[..1500], shuffled[1500..]);
        assert_ne!(shuffled, order(Some(2)));
    }

    #[test]
    fn another_shards_state_is_refused() {
        let (_dir, shard) = shard(&[10; 5]);
        let state = PackerState { taken: 9, buffer: vec![1, 7] };
        let error = packer(&shard, &[], 9, None).restore(state).expect_err("five documents").to_string();
        assert!(error.contains("document 7") && error.contains("have 5"), "{error}");
    }
}

//! Batches for training, made on a thread of their own while the model works on the one before.
//!
//! What a batch holds depends on its number only ([`Packing::Windows`]) or on the documents in a buffer
//! ([`Packing::BestFit`]); either way a [`Position`] is all that it takes to go on, at once, after any batch.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};

use crate::{Dataset, Error, Packer, PackerState, Result, Split, TokenShard, Vocabulary, WindowSampler};

/// Batches that are made ahead. Making one takes microseconds, unless its tokens come from a disk that sleeps.
const AHEAD: usize = 4;

/// How tokens become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Windows of adjacent tokens in a random order, as the family of llama2.c takes them: see [`crate::sampler`].
    #[default]
    Windows,
    /// Rows that begin with a document, as autoresearch packs them: see [`crate::packing`].
    BestFit,
}

/// Where a loader is in its sequence of batches. Part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Rows that came before.
    pub next_window: u64,
    /// With [`Packing::BestFit`], the documents that wait to be packed; `None` at the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packer: Option<PackerState>,
}

/// One batch of B rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `[B, T]`: the first T tokens of each row, by their rows in the data set's vocabulary.
    pub inputs: Vec<u32>,
    /// `[B, T]`: the last T.
    pub targets: Vec<u32>,
    /// Where the loader is after it.
    pub after: Position,
}

/// What makes rows; cheap to copy.
#[derive(Clone, Debug)]
enum Rows {
    Windows(WindowSampler),
    BestFit(Packer),
}

/// The batches of one run.
///
/// ```
/// # use data::{Loader, Packing, PrepareOptions, Source, prepare};
/// # let cache = tempfile::tempdir().unwrap();
/// let source = Source::Stories { seed: 1, train_bytes: 200_000, valid_bytes: 20_000 };
/// let dataset = prepare(&PrepareOptions::new(source, cache.path()), &|_| ())?;
/// let (rows, seq_len) = (4, 64); // B and T
/// let mut loader = Loader::new(&dataset, Packing::BestFit, Some(7), rows, seq_len)?;
/// let first = loader.next_batch();
/// assert_eq!(first.inputs[0], dataset.tokenizer.bos_id());
/// let second = loader.next_batch();
/// loader.seek(first.after)?;
/// assert_eq!(loader.next_batch(), second);
/// # Ok::<(), data::Error>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    shard: Arc<TokenShard>,
    vocabulary: Option<Arc<Vocabulary>>,
    /// At the beginning of the sequence.
    start: Rows,
    rows: usize,
    seq_len: usize,
    ahead: Option<Ahead>,
}

/// The thread and what it has made.
#[derive(Debug)]
struct Ahead {
    batches: Receiver<Batch>,
    maker: JoinHandle<()>,
}

impl Loader {
    /// Batches of `rows` (B) rows with `seq_len` (T) targets each from the training tokens of a data set, from the first one.
    ///
    /// * `seed`: of the order; with [`Packing::BestFit`], `None` leaves documents in the order of the text.
    ///
    /// # Errors
    /// [`Error::TooShort`] when the data has too few tokens.
    ///
    /// # Panics
    /// When `rows` or `seq_len` is 0.
    pub fn new(
        dataset: &Dataset,
        packing: Packing,
        seed: Option<u64>,
        rows: usize,
        seq_len: usize,
    ) -> Result<Loader> {
        assert!(rows > 0, "a batch has at least one row");
        let shard = Arc::clone(&dataset.train);
        let sampler = WindowSampler::new(shard.len(), seq_len, seed.unwrap_or(0))?;
        let start = match packing {
            Packing::Windows => Rows::Windows(sampler),
            Packing::BestFit => Rows::BestFit(Packer::new(dataset.documents(Split::Train), seq_len, seed)?),
        };
        let mut loader =
            Loader { shard, vocabulary: dataset.vocabulary.clone(), start, rows, seq_len, ahead: None };
        loader.seek(Position::default())?;
        Ok(loader)
    }

    /// The next batch; waits only when none has been made ahead.
    pub fn next_batch(&mut self) -> Batch {
        let ahead = self.ahead.as_ref().expect("a thread runs from new() on");
        match ahead.batches.recv() {
            Ok(batch) => batch,
            // It never ends by itself, so it panicked, and so do we, with its message.
            Err(_) => match self.ahead.take().map(|ahead| ahead.maker.join()) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => unreachable!("the maker of batches ends when nobody takes them"),
            },
        }
    }

    /// Goes on after a batch whose [`Batch::after`] this is; from the beginning with the default.
    ///
    /// # Errors
    /// [`Error::Resume`] when it is of another packing or of other data.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let mut start = self.start.clone();
        match (&mut start, &position.packer) {
            (Rows::Windows(_), None) => {}
            (Rows::Windows(_), Some(_)) => {
                return Err(Error::Resume { why: "it was packed by best fit, and now by windows".into() });
            }
            (Rows::BestFit(packer), Some(state)) => packer.restore(state.clone())?,
            (Rows::BestFit(_), None) if position.next_window == 0 => {}
            (Rows::BestFit(_), None) => {
                return Err(Error::Resume { why: "it was packed by windows, and now by best fit".into() });
            }
        }
        self.stop();
        let (shard, rows, seq_len) = (Arc::clone(&self.shard), self.rows, self.seq_len);
        let vocabulary = self.vocabulary.clone();
        let (sender, batches) = sync_channel(AHEAD);
        let make = move || {
            let mut next = position.next_window;
            loop {
                let mut batch = start.batch(&shard, &mut next, rows, seq_len);
                if let Some(vocabulary) = &vocabulary {
                    let ids = batch.inputs.iter_mut().chain(&mut batch.targets);
                    ids.for_each(|id| *id = vocabulary.row(*id));
                }
                if sender.send(batch).is_err() {
                    return;
                }
            }
        };
        let maker = thread::Builder::new().name("batches".into()).spawn(make);
        let maker = maker.map_err(|source| Error::Thread { source })?;
        self.ahead = Some(Ahead { batches, maker });
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(Ahead { batches, maker }) = self.ahead.take() {
            drop(batches);
            // A panic of batches that nobody wants is nobody's trouble.
            let _ = maker.join();
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Rows {
    fn batch(&mut self, shard: &TokenShard, next: &mut u64, rows: usize, seq_len: usize) -> Batch {
        let (mut inputs, mut targets) = (vec![0; rows * seq_len], vec![0; rows * seq_len]);
        match self {
            Rows::Windows(sampler) => sampler.batch(shard, *next, &mut inputs, &mut targets),
            Rows::BestFit(packer) => {
                let mut row = vec![0; seq_len + 1];
                let both = inputs.chunks_exact_mut(seq_len).zip(targets.chunks_exact_mut(seq_len));
                for (input, target) in both {
                    packer.next_row(shard, &mut row);
                    input.copy_from_slice(&row[..seq_len]);
                    target.copy_from_slice(&row[1..]);
                }
            }
        }
        *next += rows as u64;
        let packer = match self {
            Rows::Windows(_) => None,
            Rows::BestFit(packer) => Some(packer.state()),
        };
        Batch { inputs, targets, after: Position { next_window: *next, packer } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PrepareOptions, Source, prepare};

    fn dataset() -> (tempfile::TempDir, Dataset) {
        let cache = tempfile::tempdir().expect("a folder");
        let source = Source::Stories { seed: 1, train_bytes: 60_000, valid_bytes: 2_000 };
        let dataset = prepare(&PrepareOptions::new(source, cache.path()), &|_| ()).expect("prepares");
        (cache, dataset)
    }

    #[test]
    fn any_position_goes_on_with_the_same_batches() {
        let (_cache, dataset) = dataset();
        for (packing, seed) in
            [(Packing::Windows, Some(3)), (Packing::BestFit, Some(3)), (Packing::BestFit, None)]
        {
            let new = || Loader::new(&dataset, packing, seed, 3, 50).expect("enough tokens");
            let mut straight = new();
            let batches: Vec<Batch> = (0..40).map(|_| straight.next_batch()).collect();
            for stop in [0, 1, 7, 38] {
                let kept = serde_json::to_string(&batches[stop].after).expect("writes");
                let mut resumed = new();
                resumed.next_batch();
                resumed.seek(serde_json::from_str(&kept).expect("reads")).expect("belongs to it");
                let rest: Vec<Batch> = (stop + 1..40).map(|_| resumed.next_batch()).collect();
                assert_eq!(rest, batches[stop + 1..], "{packing:?} after {stop}");
            }
        }
    }

    #[test]
    fn windows_are_those_of_the_sampler() {
        let (_cache, dataset) = dataset();
        let mut loader = Loader::new(&dataset, Packing::Windows, Some(9), 2, 32).expect("enough tokens");
        let sampler = WindowSampler::new(dataset.train.len(), 32, 9).expect("enough tokens");
        for first in [0, 2, 4] {
            let (mut inputs, mut targets) = (vec![0; 64], vec![0; 64]);
            sampler.batch(&dataset.train, first, &mut inputs, &mut targets);
            let batch = loader.next_batch();
            assert_eq!((batch.inputs, batch.targets, batch.after.next_window), (inputs, targets, first + 2));
        }
    }

    #[test]
    fn one_packing_does_not_go_on_for_the_other() {
        let (_cache, dataset) = dataset();
        let mut windows = Loader::new(&dataset, Packing::Windows, Some(1), 1, 32).expect("enough tokens");
        let mut packed = Loader::new(&dataset, Packing::BestFit, Some(1), 1, 32).expect("enough tokens");
        let error = windows.seek(packed.next_batch().after).expect_err("packed").to_string();
        assert!(error.contains("packed by best fit, and now by windows"), "{error}");
        let error = packed.seek(windows.next_batch().after).expect_err("windows").to_string();
        assert!(error.contains("packed by windows, and now by best fit"), "{error}");
        // It goes on as if nothing had been asked.
        windows.next_batch();
    }
}

//! Text in, token windows out: corpora, the built-in stories, tokenizers, token shards, the order of training windows,
//! and the metric in bits per byte.
//!
//! What this room refuses: it knows no model, no device and no optimiser. It never repairs text on the way: bytes that are not
//! UTF-8 are an error, or passed over and counted where that is asked for, never a replacement character. And it never
//! takes a half-written file for a whole one.
//!
//! ```
//! use data::{PrepareOptions, Source, WindowSampler, prepare};
//! # let cache = tempfile::tempdir().unwrap();
//! # let cache_dir = cache.path();
//! let source = Source::Stories { seed: 1, train_bytes: 200_000, valid_bytes: 20_000 };
//! let dataset = prepare(&PrepareOptions::new(source, cache_dir), &|_| ())?;
//!
//! let (rows, seq_len) = (4, 64); // B and T
//! let sampler = WindowSampler::new(dataset.train.len(), seq_len, 7)?;
//! let (mut inputs, mut targets) = (vec![0; rows * seq_len], vec![0; rows * seq_len]);
//! sampler.batch(&dataset.train, 0, &mut inputs, &mut targets);
//! assert_eq!(inputs[1..seq_len], targets[..seq_len - 1]);
//! println!("{}", dataset.tokenizer.decode(&inputs[..seq_len]));
//! # Ok::<(), data::Error>(())
//! ```

pub mod bpb;
pub mod corpus;
pub mod documents;
mod error;
pub mod hub;
pub mod inspect;
pub mod loader;
pub mod packing;
pub mod prepare;
pub mod random;
pub mod sampler;
pub mod shard;
pub mod stdin;
pub mod stories;
pub mod tokenizer;
pub mod vocabulary;
mod whole;

pub use bpb::BitsPerByte;
pub use corpus::{Corpus, Document, ReadOptions, ReadReport, Source};
pub use documents::DocumentIndex;
pub use error::{Error, Result};
pub use hub::{HubOptions, HubSource};
pub use loader::{Loader, Packing, Position};
pub use packing::{Packer, PackerState};
pub use prepare::{Dataset, DatasetInfo, PrepareOptions, Progress, SplitInfo, TokenizerChoice, prepare};
pub use sampler::WindowSampler;
pub use shard::{ShardWriter, TokenShard};
pub use tokenizer::{ByteCount, Tokenizer};
pub use vocabulary::Vocabulary;

/// Which part of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What a model is trained on.
    Train,
    /// What is held out to measure it.
    Valid,
}

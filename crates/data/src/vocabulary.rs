//! A vocabulary without the tokens that never occur in training.
//!
//! A classifier over 32,000 or 151,936 tokens is most of a small model's work, and a small corpus uses a few thousand of
//! them. A [`Vocabulary`] numbers the tokens that do occur anew, in the order of their ids; the model has a row for each
//! of these, and one more that stands for all the others. Nothing of it shows outside: tokens in files, tokenizers and
//! weights keep their ids.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, TokenShard, whole};

/// Which tokens have a row of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Ids of the tokens with a row, ascending.
    kept: Vec<u32>,
    /// The row of each id.
    rows: Vec<u32>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Ids of the tokenizer.
    vocab_size: usize,
    /// Those with a row of their own, ascending.
    kept: Vec<u32>,
}

impl Vocabulary {
    /// The tokens that occur in a shard, and `bos`, with which every text begins.
    pub fn of_shard(shard: &TokenShard, bos: u32) -> Vocabulary {
        let mut occurs = vec![false; shard.vocab_size()];
        occurs[bos as usize] = true;
        shard.tokens().for_each(|id| occurs[id as usize] = true);
        let kept = (0..).zip(&occurs).filter_map(|(id, occurs)| occurs.then_some(id)).collect();
        Vocabulary::new(shard.vocab_size(), kept)
    }

    fn new(vocab_size: usize, kept: Vec<u32>) -> Vocabulary {
        let mut rows = vec![kept.len() as u32; vocab_size];
        for (row, id) in (0..).zip(&kept) {
            rows[*id as usize] = row;
        }
        Vocabulary { kept, rows }
    }

    /// Ids of the tokenizer, V.
    pub fn vocab_size(&self) -> usize {
        self.rows.len()
    }

    /// Rows of the model, R: one for each token that occurs, and one for all others where there are any.
    pub fn rows(&self) -> usize {
        self.kept.len() + usize::from(self.unseen() > 0)
    }

    /// Tokens that share the last row.
    pub fn unseen(&self) -> usize {
        self.rows.len() - self.kept.len()
    }

    /// The row that several tokens share.
    pub fn unseen_row(&self) -> Option<u32> {
        (self.unseen() > 0).then_some(self.kept.len() as u32)
    }

    /// The row of a token.
    ///
    /// # Panics
    /// When the tokenizer has no such id.
    pub fn row(&self, id: u32) -> u32 {
        self.rows[id as usize]
    }

    /// The token of a row; `None` for the one that several share.
    pub fn id(&self, row: u32) -> Option<u32> {
        self.kept.get(row as usize).copied()
    }

    /// What a loss in nats is for the token itself. A token without a row of its own shares the probability of its row
    /// evenly with the others there, so that all V tokens together still have probability 1.
    pub fn loss_of(&self, id: u32, nats: f64) -> f64 {
        if self.unseen_row() == Some(self.row(id)) { nats + (self.unseen() as f64).ln() } else { nats }
    }

    /// A matrix `[R, width]` as one of `[V, width]`; tokens without a row of their own get the shared one.
    ///
    /// # Panics
    /// When `matrix` is not of R rows.
    pub fn expand(&self, matrix: &[f32]) -> Vec<f32> {
        assert!(matrix.len().is_multiple_of(self.rows()), "a matrix of {} rows", self.rows());
        let width = matrix.len() / self.rows();
        let row = |row: u32| &matrix[row as usize * width..][..width];
        self.rows.iter().flat_map(|of_id| row(*of_id)).copied().collect()
    }

    /// The rows `[R, width]` of a matrix that [`Vocabulary::expand`] made.
    ///
    /// # Panics
    /// When `matrix` is not of V rows.
    pub fn gather(&self, matrix: &[f32]) -> Vec<f32> {
        assert!(matrix.len().is_multiple_of(self.vocab_size()), "a matrix of {} rows", self.vocab_size());
        let width = matrix.len() / self.vocab_size();
        let shared = self.unseen_row().and_then(|row| self.rows.iter().position(|of_id| *of_id == row));
        let ids = self.kept.iter().map(|id| *id as usize).chain(shared);
        ids.flat_map(|id| &matrix[id * width..][..width]).copied().collect()
    }

    /// Reads a file that [`Vocabulary::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] when it is no such file.
    pub fn load(path: &Path) -> Result<Vocabulary> {
        let json = std::fs::read_to_string(path).map_err(Error::io(path, "read the vocabulary"))?;
        let fail = |why: String| Error::Tokenizer { path: path.to_owned(), why };
        let File { vocab_size, kept } = serde_json::from_str(&json)
            .map_err(|e| fail(format!("it does not describe a vocabulary ({e})")))?;
        let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || kept.last().is_none_or(|id| *id as usize >= vocab_size) {
            return Err(fail(format!("`kept` is not an ascending list of ids below {vocab_size}")));
        }
        Ok(Vocabulary::new(vocab_size, kept))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = File { vocab_size: self.vocab_size(), kept: self.kept.clone() };
        whole::write(path, serde_json::to_string(&file).expect("numbers can be written").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(ids: &[u16], vocab_size: usize) -> (tempfile::TempDir, TokenShard) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ids.bin");
        std::fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
            .expect("writes");
        let shard = TokenShard::open_raw_u16(&path, vocab_size).expect("opens");
        (dir, shard)
    }

    #[test]
    fn tokens_that_occur_have_rows_and_the_others_share_one() {
        let (dir, shard) = shard(&[5, 2, 5, 7], 10);
        let vocabulary = Vocabulary::of_shard(&shard, 8);
        assert_eq!((vocabulary.vocab_size(), vocabulary.rows(), vocabulary.unseen()), (10, 5, 6));
        assert_eq!((0..10).map(|id| vocabulary.row(id)).collect::<Vec<_>>(), [4, 4, 0, 4, 4, 1, 4, 2, 3, 4]);
        assert_eq!(
            (0..5).map(|row| vocabulary.id(row)).collect::<Vec<_>>(),
            [Some(2), Some(5), Some(7), Some(8), None]
        );
        let matrix: Vec<f32> = (0..10).map(|value| value as f32).collect();
        let expanded = vocabulary.expand(&matrix);
        assert_eq!(expanded[..6], [8.0, 9.0, 8.0, 9.0, 0.0, 1.0]);
        assert_eq!(vocabulary.gather(&expanded), matrix);
        let path = dir.path().join("vocabulary.json");
        vocabulary.save(&path).expect("writes");
        assert_eq!(Vocabulary::load(&path).expect("reads"), vocabulary);
    }

    /// Oracle: probabilities of all tokens add up to 1.
    #[test]
    fn losses_are_those_of_a_distribution_over_all_tokens() {
        let (_dir, shard) = shard(&[0, 3], 7);
        let vocabulary = Vocabulary::of_shard(&shard, 1);
        let of_row = [0.5f64, 0.2, 0.1, 0.2];
        let total: f64 =
            (0..7).map(|id| (-vocabulary.loss_of(id, -of_row[vocabulary.row(id) as usize].ln())).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
    }

    #[test]
    fn a_text_with_every_token_has_no_shared_row() {
        let (_dir, shard) = shard(&[0, 1, 2], 3);
        let vocabulary = Vocabulary::of_shard(&shard, 0);
        assert_eq!((vocabulary.rows(), vocabulary.unseen_row()), (3, None));
        assert_eq!(vocabulary.gather(&vocabulary.expand(&[1.0, 2.0, 3.0])), [1.0, 2.0, 3.0]);
        assert_eq!(vocabulary.loss_of(2, 0.5), 0.5);
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("vocabulary.json");
        for (json, wanted) in [
            ("{", "does not describe a vocabulary"),
            (r#"{"vocab_size": 5, "kept": [1, 1]}"#, "ascending list of ids below 5"),
            (r#"{"vocab_size": 5, "kept": [1, 5]}"#, "ascending list of ids below 5"),
            (r#"{"vocab_size": 5, "kept": []}"#, "ascending list of ids below 5"),
        ] {
            std::fs::write(&path, json).expect("writes");
            let error = Vocabulary::load(&path).expect_err(json).to_string();
            assert!(error.contains("vocabulary.json") && error.contains(wanted), "{error}");
        }
    }
}

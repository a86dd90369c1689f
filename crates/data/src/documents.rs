//! Where the documents of a token shard begin, and in which groups they came.

use crate::TokenShard;

/// The documents of a shard: each begins with the token BOS and ends before the next one.
///
/// They keep the order of the text. A *group* is what the text's reader handed over at once: a row group of a
/// Parquet file, or a whole file of another kind. [`crate::packing`] needs to know, since autoresearch's batches of
/// documents never reach over the end of a row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentIndex {
    /// Where each document begins, and the number of tokens at the end.
    starts: Vec<u64>,
    /// The number of each group's first document, and the number of documents at the end.
    groups: Vec<u64>,
}

impl DocumentIndex {
    /// Looks for `bos` in the ids of a shard. Tokens before the first one are a document too.
    ///
    /// * `groups`: documents in each group; what is left over, or everything when it is empty, is one more group.
    pub fn new(shard: &TokenShard, bos: u32, groups: &[u64]) -> DocumentIndex {
        let mut starts = Vec::new();
        const AT_ONCE: usize = 1 << 16;
        let mut ids = vec![0; AT_ONCE.min(shard.len())];
        for from in (0..shard.len()).step_by(AT_ONCE) {
            let ids = &mut ids[..AT_ONCE.min(shard.len() - from)];
            shard.read(from, ids);
            let found = ids.iter().enumerate().filter(|(_, id)| **id == bos);
            starts.extend(found.map(|(at, _)| (from + at) as u64));
        }
        if !shard.is_empty() && starts.first() != Some(&0) {
            starts.insert(0, 0);
        }
        let documents = starts.len() as u64;
        starts.push(shard.len() as u64);
        let mut ends = vec![0];
        for size in groups {
            let end = ends[ends.len() - 1] + size;
            if *size > 0 && end <= documents {
                ends.push(end);
            }
        }
        if ends[ends.len() - 1] < documents {
            ends.push(documents);
        }
        DocumentIndex { starts, groups: ends }
    }

    /// Number of documents.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// True when there is no document.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where document `number` begins.
    ///
    /// # Panics
    /// When there is no such document.
    pub fn start(&self, number: u64) -> usize {
        assert!(number < self.len(), "document {number} of {}", self.len());
        self.starts[number as usize] as usize
    }

    /// Tokens of document `number`, its BOS included.
    ///
    /// # Panics
    /// When there is no such document.
    pub fn tokens(&self, number: u64) -> usize {
        self.starts[number as usize + 1] as usize - self.start(number)
    }

    /// The document that the token at `position` belongs to.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn at(&self, position: usize) -> u64 {
        assert!((position as u64) < self.starts[self.starts.len() - 1], "token {position} is in the shard");
        self.starts.partition_point(|start| *start <= position as u64) as u64 - 1
    }

    /// The first document after the group that document `number` is in.
    ///
    /// # Panics
    /// When there is no such document.
    pub fn group_end(&self, number: u64) -> u64 {
        self.groups[self.groups.partition_point(|end| *end <= number)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(ids: &[u16]) -> (tempfile::TempDir, TokenShard) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ids.bin");
        std::fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
            .expect("writes");
        let shard = TokenShard::open_raw_u16(&path, 100).expect("opens");
        (dir, shard)
    }

    #[test]
    fn documents_begin_at_bos() {
        let (_dir, shard) = shard(&[9, 1, 2, 9, 3, 9, 9, 4]);
        let index = DocumentIndex::new(&shard, 9, &[1, 0, 2]);
        assert_eq!((0..index.len()).map(|i| index.start(i)).collect::<Vec<_>>(), [0, 3, 5, 6]);
        assert_eq!((0..index.len()).map(|i| index.tokens(i)).collect::<Vec<_>>(), [3, 2, 1, 2]);
        assert_eq!((0..8).map(|at| index.at(at)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 2, 3, 3]);
        assert_eq!((0..4).map(|i| index.group_end(i)).collect::<Vec<_>>(), [1, 3, 3, 4]);
    }

    #[test]
    fn tokens_before_the_first_bos_are_a_document() {
        let (_dir, shard) = shard(&[1, 2, 9, 3]);
        let index = DocumentIndex::new(&shard, 9, &[]);
        assert_eq!((index.len(), index.start(0), index.tokens(0), index.group_end(0)), (2, 0, 2, 2));
    }
}

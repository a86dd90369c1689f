//! Encoding text with a byte-level tokenizer: pieces, whole tokens, merges, and the memory of pieces seen.

use super::PieceMap;
use super::merges::{Merges, Pair, ids, splits};
use super::split::pieces;

/// The byte-level tokenizers of this crate, ready to encode.
pub(super) struct ByteLevel {
    /// `None` splits as [`PATTERN`](super::PATTERN) does, by hand.
    pattern: Option<fancy_regex::Regex>,
    byte_ids: [u32; 256],
    /// The pieces that are taken whole.
    whole: PieceMap<u32>,
    merges: Merges,
}

impl ByteLevel {
    /// Ids as tiktoken gives them to `tokens`, the bytes of each rank: a piece that is a token is that token; else the
    /// adjacent pair merges whose bytes together are the token of the lowest rank, whether or not it was learned from
    /// that pair.
    ///
    /// Every byte must be a token.
    pub(super) fn ranked(tokens: &[Option<Vec<u8>>], pattern: Option<fancy_regex::Regex>) -> ByteLevel {
        let ids = ids(tokens);
        let merges = splits(tokens).into_iter().map(|(pair, token)| (pair, token, token));
        ByteLevel {
            pattern,
            byte_ids: std::array::from_fn(|byte| ids[&[byte as u8][..]]),
            whole: ids.into_iter().collect(),
            merges: Merges::from_priorities(merges),
        }
    }

    /// Only the learned pairs merge, split by [`PATTERN`](super::PATTERN): what files say that were written before ids followed tiktoken.
    pub(super) fn learned(merges: &[Pair]) -> ByteLevel {
        ByteLevel {
            pattern: None,
            byte_ids: std::array::from_fn(|byte| byte as u32),
            whole: PieceMap::default(),
            merges: Merges::learned(merges),
        }
    }

    /// Appends the ids of a text.
    pub(super) fn encode(&self, text: &str, memory: &mut Memory, out: &mut Vec<u32>) {
        match &self.pattern {
            None => pieces(text).for_each(|piece| self.encode_piece(piece.as_bytes(), memory, out)),
            Some(pattern) => {
                let mut end = 0;
                for found in pattern.find_iter(text) {
                    // The one failure is the backtracking limit, on a run that long; what is left is then one piece.
                    let Ok(found) = found else { break };
                    self.encode_piece(found.as_str().as_bytes(), memory, out);
                    end = found.end();
                }
                if end < text.len() {
                    self.encode_piece(&text.as_bytes()[end..], memory, out);
                }
            }
        }
    }

    /// Appends the ids of any bytes: text where they are UTF-8, and between that single bytes.
    pub(super) fn encode_bytes(&self, bytes: &[u8], memory: &mut Memory, out: &mut Vec<u32>) {
        for chunk in bytes.utf8_chunks() {
            self.encode(chunk.valid(), memory, out);
            out.extend(chunk.invalid().iter().map(|byte| self.byte_ids[*byte as usize]));
        }
    }

    fn encode_piece(&self, piece: &[u8], memory: &mut Memory, out: &mut Vec<u32>) {
        if let Some(id) = self.whole.get(piece) {
            out.push(*id);
        } else if let Some((start, end)) = memory.places.get(piece) {
            out.extend_from_slice(&memory.ids[*start as usize..*end as usize]);
        } else {
            let from = out.len();
            out.extend(piece.iter().map(|byte| self.byte_ids[*byte as usize]));
            self.merges.apply(out, from);
            memory.remember(piece, &out[from..]);
        }
    }
}

/// The ids of pieces that one tokenizer has encoded before.
#[derive(Default)]
pub(super) struct Memory {
    places: PieceMap<(u32, u32)>,
    ids: Vec<u32>,
}

impl Memory {
    /// A longer piece is unlikely to come again.
    const PIECE_BYTES: usize = 48;
    /// Bounds the memory: about 40 bytes each, up to 100 if they are long.
    const PIECES: usize = 100_000;

    fn remember(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() <= Self::PIECE_BYTES && self.places.len() < Self::PIECES {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
            self.places.get_or_insert(piece, (start, self.ids.len() as u32));
        }
    }
}

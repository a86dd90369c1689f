//! Encoding text with a byte-level tokenizer: pieces, whole tokens, merges, and the memory of pieces seen.

use super::merges::{FastMap, Merges, Pair, ids, splits};
use super::split::pieces;

/// The byte-level tokenizers of this crate, ready to encode.
pub(super) struct ByteLevel {
    /// `None` splits as [`PATTERN`](super::PATTERN) does, by hand.
    pattern: Option<fancy_regex::Regex>,
    byte_ids: [u32; 256],
    /// The pieces that are taken whole.
    whole: Whole,
    merges: Merges,
}

/// The ids of short byte strings.
#[derive(Default)]
struct Whole {
    packed: FastMap<u128, u32>,
    longer: FastMap<Box<[u8]>, u32>,
}

/// Up to 15 bytes and their number in one word.
fn pack(bytes: &[u8]) -> Option<u128> {
    if bytes.len() > 15 {
        return None;
    }
    let mut packed = [0; 16];
    packed[..bytes.len()].copy_from_slice(bytes);
    packed[15] = bytes.len() as u8;
    Some(u128::from_le_bytes(packed))
}

impl ByteLevel {
    /// Ids as tiktoken gives them to `tokens`, the bytes of each rank: a piece that is a token is that token; else the
    /// adjacent pair merges whose bytes together are the token of the lowest rank, whether or not it was learned from
    /// that pair.
    ///
    /// Every byte must be a token.
    pub(super) fn ranked(tokens: &[Option<Vec<u8>>], pattern: Option<fancy_regex::Regex>) -> ByteLevel {
        let mut whole = Whole::default();
        let ids = ids(tokens);
        for (bytes, id) in &ids {
            match pack(bytes) {
                Some(packed) => drop(whole.packed.insert(packed, *id)),
                None => drop(whole.longer.insert((*bytes).into(), *id)),
            }
        }
        let merges = splits(tokens).into_iter().map(|(pair, token)| (pair, token, token));
        ByteLevel {
            pattern,
            byte_ids: std::array::from_fn(|byte| ids[&[byte as u8][..]]),
            whole,
            merges: Merges::from_priorities(merges),
        }
    }

    /// Only the learned pairs merge, split by [`PATTERN`](super::PATTERN): what files say that were written before ids followed tiktoken.
    pub(super) fn learned(merges: &[Pair]) -> ByteLevel {
        ByteLevel {
            pattern: None,
            byte_ids: std::array::from_fn(|byte| byte as u32),
            whole: Whole::default(),
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
        let Some(packed) = pack(piece) else {
            match self.whole.longer.get(piece) {
                Some(id) => out.push(*id),
                None => self.merge(piece, out),
            }
            return;
        };
        if let Some(id) = self.whole.packed.get(&packed) {
            out.push(*id);
        } else if let Some((start, end)) = memory.places.get(&packed) {
            out.extend_from_slice(&memory.ids[*start as usize..*end as usize]);
        } else {
            let from = out.len();
            self.merge(piece, out);
            memory.remember(packed, &out[from..]);
        }
    }

    fn merge(&self, piece: &[u8], out: &mut Vec<u32>) {
        let from = out.len();
        out.extend(piece.iter().map(|byte| self.byte_ids[*byte as usize]));
        self.merges.apply(out, from);
    }
}

/// The ids of short pieces that one tokenizer has encoded before.
#[derive(Default)]
pub(super) struct Memory {
    places: FastMap<u128, (u32, u32)>,
    ids: Vec<u32>,
}

impl Memory {
    /// Bounds the memory: about 40 bytes each.
    const PIECES: usize = 100_000;

    fn remember(&mut self, piece: u128, ids: &[u32]) {
        if self.places.len() < Self::PIECES {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
            self.places.insert(piece, (start, self.ids.len() as u32));
        }
    }
}

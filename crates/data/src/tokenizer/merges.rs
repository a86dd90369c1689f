//! Applying merges: which adjacent pairs of tokens become one, and in which order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Two adjacent token ids.
pub type Pair = (u32, u32);

/// A map with a hash that is fast on short keys; the order of its entries means nothing anywhere in this room.
pub(super) type FastMap<K, V> = HashMap<K, V, ahash::RandomState>;

/// What a pair of tokens becomes, and which pair goes first: the one of the lowest priority, of several the leftmost.
#[derive(Clone, Debug)]
pub(super) struct Merges(FastMap<u64, u64>);

const fn key((left, right): Pair) -> u64 {
    (left as u64) << 32 | right as u64
}

/// A merge in one word: the priority in the upper half, the resulting token in the lower.
type Merge = u64;
const NO_MERGE: Merge = u64::MAX;

impl Merges {
    /// From the merges in the order in which they were learned; merge `i` gives token 256 + i. Only these pairs merge.
    pub(super) fn learned(merges: &[Pair]) -> Self {
        Merges::from_priorities((256..).zip(merges).map(|(token, pair)| (*pair, token, token)))
    }

    /// From (pair, priority, resulting token). Every priority and token is below `u32::MAX`.
    pub(super) fn from_priorities(merges: impl IntoIterator<Item = (Pair, u32, u32)>) -> Self {
        let packed = |(pair, priority, token): (Pair, u32, u32)| {
            (key(pair), u64::from(priority) << 32 | u64::from(token))
        };
        Merges(merges.into_iter().map(packed).collect())
    }

    fn get(&self, left: u32, right: u32) -> Merge {
        self.0.get(&key((left, right))).copied().unwrap_or(NO_MERGE)
    }

    /// Merges `tokens[from..]` in place until no adjacent pair merges. O(n log n) in its length.
    pub(super) fn apply(&self, tokens: &mut Vec<u32>, from: usize) {
        if tokens.len() - from <= SHORT {
            self.apply_short(tokens, from)
        } else {
            self.apply_long(tokens, from)
        }
    }

    /// By a search over all pairs before each merge, which is faster than a heap for so few.
    fn apply_short(&self, tokens: &mut Vec<u32>, from: usize) {
        let piece = &mut tokens[from..];
        let mut length = piece.len();
        // `merges[i]` is that of tokens i and i + 1; behind the last pair stands one that never merges.
        let mut merges = [NO_MERGE; SHORT];
        for i in 1..length {
            merges[i - 1] = self.get(piece[i - 1], piece[i]);
        }
        while length > 1 {
            let (mut at, mut best) = (0, NO_MERGE >> 32);
            for (i, merge) in merges[..length - 1].iter().enumerate() {
                if merge >> 32 < best {
                    (at, best) = (i, merge >> 32);
                }
            }
            if best == NO_MERGE >> 32 {
                break;
            }
            piece[at] = merges[at] as u32;
            piece.copy_within(at + 2..length, at + 1);
            merges.copy_within(at + 1..length, at);
            length -= 1;
            merges[at] = if at + 1 < length { self.get(piece[at], piece[at + 1]) } else { NO_MERGE };
            if at > 0 {
                merges[at - 1] = self.get(piece[at - 1], piece[at]);
            }
        }
        tokens.truncate(from + length);
    }

    fn apply_long(&self, tokens: &mut Vec<u32>, from: usize) {
        // A list of tokens linked by `next` and `previous`; a merge keeps the left slot and empties the right one.
        const NONE: usize = usize::MAX;
        let piece = &mut tokens[from..];
        let mut next: Vec<usize> = (1..=piece.len()).collect();
        let mut previous: Vec<usize> = (0..piece.len()).map(|i| i.wrapping_sub(1)).collect();
        if let Some(last) = next.last_mut() {
            *last = NONE;
        }
        let candidate = |piece: &[u32], left: usize, right: usize| {
            let pair = (piece[left], piece[right]);
            let merge = self.get(pair.0, pair.1);
            (merge != NO_MERGE).then_some(Reverse((merge >> 32, left, pair, merge as u32)))
        };
        let mut heap: BinaryHeap<_> =
            (1..piece.len()).filter_map(|right| candidate(piece, right - 1, right)).collect();
        while let Some(Reverse((_, left, pair, merged))) = heap.pop() {
            let right = next[left];
            if right == NONE || (piece[left], piece[right]) != pair {
                continue;
            }
            piece[left] = merged;
            piece[right] = EMPTY;
            next[left] = next[right];
            if next[left] != NONE {
                previous[next[left]] = left;
                heap.extend(candidate(piece, left, next[left]));
            }
            if previous[left] != NONE {
                heap.extend(candidate(piece, previous[left], left));
            }
        }
        let mut to = from;
        for i in from..tokens.len() {
            if tokens[i] != EMPTY {
                tokens[to] = tokens[i];
                to += 1;
            }
        }
        tokens.truncate(to);
    }
}

/// Pieces up to this length are merged without a heap.
const SHORT: usize = 48;
/// No token has this id.
const EMPTY: u32 = u32::MAX;

/// Every split of every token of `tokens` into two tokens, with the index of the whole: what tiktoken merges. `None` is
/// an id that nothing has; of two tokens with the same bytes the later counts.
///
/// In the order of the results, and of several splits of one token that with the shortest left part first.
pub(super) fn splits(tokens: &[Option<Vec<u8>>]) -> Vec<(Pair, u32)> {
    let ids = ids(tokens);
    let mut splits = Vec::new();
    for (bytes, token) in tokens.iter().zip(0..) {
        let Some(bytes) = bytes.as_deref().filter(|bytes| ids[*bytes] == token) else { continue };
        splits.extend((1..bytes.len()).filter_map(|at| {
            let (left, right) = bytes.split_at(at);
            Some(((*ids.get(left)?, *ids.get(right)?), token))
        }));
    }
    splits
}

/// The pair from which each token behind the 256 bytes is made when only the tokens before it merge. `None` if some token
/// is not made from two, or the bytes are not the first ids in their order: training learns no such vocabulary.
pub(super) fn recovered(tokens: &[Option<Vec<u8>>]) -> Option<Vec<Pair>> {
    let in_order = |(byte, token): (u8, &Option<Vec<u8>>)| token.as_deref() == Some(&[byte]);
    if tokens.len() < 256 || !(0..=255).zip(tokens).all(in_order) {
        return None;
    }
    let results: FastMap<Pair, u32> = splits(tokens).into_iter().collect();
    let pair_of = |(id, bytes): (u32, &Option<Vec<u8>>)| {
        let mut parts: Vec<u32> = bytes.as_ref()?.iter().map(|b| u32::from(*b)).collect();
        while let Some((result, at)) = (parts.windows(2).enumerate())
            .filter_map(|(at, pair)| Some((*results.get(&(pair[0], pair[1]))?, at)))
            .filter(|(result, _)| *result < id)
            .min()
        {
            parts[at] = result;
            parts.remove(at + 1);
        }
        <[u32; 2]>::try_from(parts).ok().map(|[left, right]| (left, right))
    };
    (256..).zip(&tokens[256..]).map(pair_of).collect()
}

/// The id of each token's bytes.
pub(super) fn ids(tokens: &[Option<Vec<u8>>]) -> FastMap<&[u8], u32> {
    tokens.iter().zip(0..).filter_map(|(bytes, id)| Some((bytes.as_deref()?, id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow twin: looks for the first merge over all tokens, again and again.
    fn apply_slowly(merges: &Merges, tokens: &mut Vec<u32>) {
        while let Some((_, at, merge)) = (1..tokens.len())
            .map(|i| (i - 1, merges.get(tokens[i - 1], tokens[i])))
            .filter(|(_, merge)| *merge != NO_MERGE)
            .map(|(at, merge)| (merge >> 32, at, merge))
            .min()
        {
            tokens[at] = merge as u32;
            tokens.remove(at + 1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn short_and_long_pieces_merge_as_a_full_search_does(
            // (pair, priority, token) over few tokens, so that chains and ties of priority are common.
            merges in proptest::collection::vec(((0..6u32, 0..6u32), 0..4u32, 2..6u32), 0..20),
            piece in proptest::collection::vec(0..3u32, 0..SHORT),
        ) {
            let merges = Merges::from_priorities(merges);
            let mut expected = piece.clone();
            apply_slowly(&merges, &mut expected);
            let (mut short, mut long) = (vec![7, 7], vec![7, 7]);
            short.extend(&piece);
            long.extend(&piece);
            merges.apply_short(&mut short, 2);
            merges.apply_long(&mut long, 2);
            prop_assert_eq!(&short[2..], &expected);
            prop_assert_eq!(&long[2..], &expected);
        }
    }

    #[test]
    fn a_long_piece_takes_no_quadratic_time() {
        let doublings: Vec<Pair> = std::iter::once((97, 97)).chain((256..261).map(|t| (t, t))).collect();
        let mut tokens = vec![97; 1_000_000];
        Merges::learned(&doublings).apply(&mut tokens, 0);
        assert_eq!(tokens, vec![261; 1_000_000 / 64]);
    }
}

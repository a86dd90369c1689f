//! Byte-pair encoding: learning the merges from counted pieces.
//!
//! Token ids 0 to 255 are the bytes, 256 + i is what merge i gives.

use super::PieceMap;
use super::merges::{FastMap, Pair};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Pieces of text and how often each occurs.
pub type Words = PieceMap<u64>;

/// Learns up to `merges` merges from the pieces of a text and how often each occurs.
///
/// Each step merges the pair with the highest count, of several the smallest by ids, everywhere from left to right; it
/// stops early when no pair is left. Exactly what the crate `rustbpe` does, with one exception that has not been seen
/// in practice: a pair whose bytes are those of an existing token is passed over, since a tokenizer file names tokens
/// by their bytes. The result does not depend on the order of the pieces.
///
/// ```
/// let words = [("abab", 3), ("b", 9)].into_iter().collect();
/// assert_eq!(data::tokenizer::bpe::train(&words, 10), [(97, 98), (256, 256)]);
/// ```
pub fn train(words: &Words, merges: usize) -> Vec<Pair> {
    let mut sorted: Vec<(Vec<u8>, u64)> = words.iter().map(|(w, n)| (w, *n)).collect();
    sorted.sort_unstable();
    let mut tokens: Vec<Vec<u32>> =
        sorted.iter().map(|(w, _)| w.iter().map(|b| u32::from(*b)).collect()).collect();
    let weights: Vec<i64> = sorted.iter().map(|(_, n)| *n as i64).collect();

    let mut counts: FastMap<Pair, i64> = FastMap::default();
    // The words in which a pair has occurred; some may have lost it since, and some stand there twice.
    let mut places: FastMap<Pair, Vec<u32>> = FastMap::default();
    for (i, word) in tokens.iter().enumerate() {
        for pair in word.windows(2) {
            let pair = (pair[0], pair[1]);
            *counts.entry(pair).or_default() += weights[i];
            places.entry(pair).or_default().push(i as u32);
        }
    }
    // A pair's count only falls once the pair exists, so an outdated entry is too high and is put back when it comes up.
    let mut heap: BinaryHeap<(i64, Reverse<Pair>)> = counts.iter().map(|(p, n)| (*n, Reverse(*p))).collect();

    let mut bytes_of: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
    let mut known: FastMap<Vec<u8>, ()> = FastMap::default();
    let mut learned = Vec::with_capacity(merges);
    while learned.len() < merges
        && let Some((count, Reverse(pair))) = heap.pop()
    {
        let current = counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            if current > 0 {
                heap.push((current, Reverse(pair)));
            }
            continue;
        }
        let bytes = [&bytes_of[pair.0 as usize][..], &bytes_of[pair.1 as usize][..]].concat();
        if count <= 0 || known.insert(bytes.clone(), ()).is_some() {
            continue;
        }
        let new = bytes_of.len() as u32;
        bytes_of.push(bytes);
        learned.push(pair);

        let mut fresh: FastMap<Pair, Vec<u32>> = FastMap::default();
        let mut within = places.remove(&pair).unwrap_or_default();
        within.dedup();
        for i in within {
            let weight = weights[i as usize];
            merge_everywhere(&mut tokens[i as usize], pair, new, |changed, by| {
                *counts.entry(changed).or_default() += by * weight;
                if by > 0 {
                    fresh.entry(changed).or_default().push(i);
                }
            });
        }
        counts.remove(&pair);
        for (changed, at) in fresh {
            if let Some(count) = counts.get(&changed).filter(|n| **n > 0) {
                heap.push((*count, Reverse(changed)));
                places.insert(changed, at);
            }
        }
    }
    learned
}

/// Replaces `pair` by `new` from left to right and reports by how much each neighbouring pair's count changes.
fn merge_everywhere(word: &mut Vec<u32>, pair: Pair, new: u32, mut change: impl FnMut(Pair, i64)) {
    let (mut from, mut to) = (0, 0);
    while from < word.len() {
        if from + 1 < word.len() && (word[from], word[from + 1]) == pair {
            if to > 0 {
                change((word[to - 1], pair.0), -1);
                change((word[to - 1], new), 1);
            }
            if let Some(&right) = word.get(from + 2) {
                change((pair.1, right), -1);
                change((new, right), 1);
            }
            change(pair, -1);
            word[to] = new;
            from += 2;
        } else {
            word[to] = word[from];
            from += 1;
        }
        to += 1;
    }
    word.truncate(to);
}

/// Counts the pieces of many texts.
#[derive(Clone, Debug, Default)]
pub struct WordCounts(pub Words);

impl WordCounts {
    /// Adds the pieces of a text.
    pub fn add(&mut self, text: &str) {
        for piece in super::pieces(text) {
            *self.0.get_or_insert(piece.as_bytes(), 0) += 1;
        }
    }

    /// The pieces of these texts, counted on all cores.
    pub fn of<S: AsRef<str> + Sync>(texts: &[S]) -> WordCounts {
        // A few large parts: adding two counts costs as much as there are different pieces in the smaller.
        let part = texts.len().div_ceil(rayon::current_num_threads()).max(1);
        let count = |texts: &[S]| {
            let mut counts = WordCounts::default();
            texts.iter().for_each(|text| counts.add(text.as_ref()));
            counts
        };
        texts.par_chunks(part).map(count).reduce(WordCounts::default, WordCounts::merge)
    }

    /// The sum of both; sums do not depend on who counted what.
    pub fn merge(self, other: WordCounts) -> WordCounts {
        let (mut large, small) = if self.0.len() >= other.0.len() { (self, other) } else { (other, self) };
        for (word, count) in small.0.iter() {
            *large.0.get_or_insert(&word, 0) += count;
        }
        large
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// The slow twin: counts every pair anew before every merge.
    fn train_slowly(words: &Words, merges: usize) -> Vec<Pair> {
        let mut tokens: Vec<(Vec<u32>, i64)> =
            words.iter().map(|(w, n)| (w.into_iter().map(u32::from).collect(), *n as i64)).collect();
        let mut learned = Vec::new();
        while learned.len() < merges {
            let mut counts: HashMap<Pair, i64> = HashMap::new();
            for (word, n) in &tokens {
                for pair in word.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += n;
                }
            }
            let Some((pair, _)) = counts.into_iter().min_by_key(|(pair, n)| (-n, *pair)) else {
                break;
            };
            let new = 256 + learned.len() as u32;
            for (word, _) in &mut tokens {
                merge_everywhere(word, pair, new, |_, _| {});
            }
            learned.push(pair);
        }
        learned
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn incremental_training_equals_counting_anew(
            words in proptest::collection::hash_map("[abc]{1,9}", 1..6u64, 1..12), merges in 0..30usize
        ) {
            let words: Words = words.into_iter().collect();
            prop_assert_eq!(train(&words, merges), train_slowly(&words, merges));
        }
    }
}

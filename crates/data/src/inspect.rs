//! What a corpus, a file of tokens or a tokenizer holds, in numbers: for people who look before they train.

use std::collections::HashMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{DocumentIndex, TokenShard, Tokenizer};

/// Characters of a document that a sample shows.
pub const SAMPLE_CHARS: usize = 300;

/// How many things have a length from one power of two to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Lengths(
    /// Number k counts lengths from 2^k up to, not with, 2^(k+1); length 0 counts with 1.
    pub Vec<u64>,
);

impl Lengths {
    fn add(&mut self, length: u64) {
        let bucket = length.max(1).ilog2() as usize;
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        self.0[bucket] += 1;
    }
}

/// Documents that are there more than once, to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Documents that another one before them equals.
    pub documents: u64,
    /// How often the most frequent document is there; 1 when none is there twice.
    pub most: u64,
    /// The beginning of that one; empty when none is there twice.
    pub example: String,
}

/// A token and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// Its id.
    pub id: u32,
    /// Its text; one whose bytes are no UTF-8 alone is spelled `<0xE2><0x80>`; empty for a special token.
    pub text: String,
    /// How often.
    pub count: u64,
}

/// What is told of tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenProfile {
    /// Tokens, one BOS for each document included.
    pub tokens: u64,
    /// Bytes of text for each token.
    pub bytes_per_token: f64,
    /// Tokens of the vocabulary that do not occur.
    pub absent: u64,
    /// The tokens that occur most often, most frequent first.
    pub most_frequent: Vec<TokenCount>,
    /// Of those that occur, the ones that do least often, least frequent first.
    pub least_frequent: Vec<TokenCount>,
}

fn spelled(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().map(|byte| format!("<0x{byte:02X}>")).collect())
}

/// What is told of documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// Documents.
    pub documents: u64,
    /// Their characters.
    pub characters: u64,
    /// Their bytes in UTF-8.
    pub bytes: u64,
    /// Their lengths, in bytes.
    pub lengths: Lengths,
    /// Those that are there twice.
    pub duplicates: Duplicates,
    /// Beginnings of documents, from all over the text.
    pub samples: Vec<String>,
    /// Where a tokenizer is known.
    pub tokens: Option<TokenProfile>,
}

/// Takes documents one after another; memory grows by some 30 bytes with each, and by nothing else.
#[derive(Debug)]
pub struct Profiler {
    profile: Profile,
    samples: usize,
    /// Every how many documents one is kept as a sample, and those that were.
    every: u64,
    kept: Vec<String>,
    copies: HashMap<u128, u32>,
    counts: Vec<u64>,
}

impl Profiler {
    /// * `samples`: how many to show
    /// * `vocab_size`: of the tokenizer whose ids [`Profiler::add`] is given; 0 for none
    pub fn new(samples: usize, vocab_size: usize) -> Profiler {
        let (profile, kept, copies) = (Profile::default(), Vec::new(), HashMap::new());
        Profiler { profile, samples, every: 1, kept, copies, counts: vec![0; vocab_size] }
    }

    /// Adds a document and its ids, which are empty where no tokenizer is known.
    pub fn add(&mut self, text: &str, ids: &[u32]) {
        let profile = &mut self.profile;
        let sample = || match text.char_indices().nth(SAMPLE_CHARS) {
            Some((end, _)) => format!("{} …", &text[..end]),
            None => text.to_owned(),
        };
        if self.samples > 0 && profile.documents.is_multiple_of(self.every) {
            self.kept.push(sample());
            if self.kept.len() > 4 * self.samples {
                let mut number = 0;
                self.kept.retain(|_| {
                    number += 1;
                    number % 2 == 1
                });
                self.every *= 2;
            }
        }
        profile.documents += 1;
        profile.characters += text.chars().count() as u64;
        profile.bytes += text.len() as u64;
        profile.lengths.add(text.len() as u64);
        let mut hash = [0; 16];
        hash.copy_from_slice(&Sha256::digest(text)[..16]);
        let copies = self.copies.entry(u128::from_le_bytes(hash)).or_default();
        *copies += 1;
        if *copies > 1 {
            profile.duplicates.documents += 1;
            if u64::from(*copies) > profile.duplicates.most {
                profile.duplicates.most = u64::from(*copies);
                profile.duplicates.example = sample();
            }
        }
        for id in ids {
            self.counts[*id as usize] += 1;
        }
    }

    /// What was found, with the `top` most and least frequent tokens.
    pub fn finish(self, tokenizer: Option<&Tokenizer>, top: usize) -> Profile {
        let mut profile = self.profile;
        profile.duplicates.most = profile.duplicates.most.max(u64::from(profile.documents > 0));
        let of = self.kept.len();
        let wanted = self.samples.min(of);
        profile.samples = (0..wanted).map(|i| self.kept[i * of / wanted].clone()).collect();
        profile.tokens = tokenizer.map(|tokenizer| {
            let tokens: u64 = self.counts.iter().sum();
            let mut found: Vec<(u64, u32)> =
                (0..).zip(&self.counts).filter(|(_, n)| **n > 0).map(|(id, n)| (*n, id)).collect();
            found.sort_unstable_by_key(|(count, id)| (std::cmp::Reverse(*count), *id));
            let show = |(count, id): &(u64, u32)| TokenCount {
                id: *id,
                text: spelled(tokenizer.decode_bytes(&[*id])),
                count: *count,
            };
            TokenProfile {
                tokens,
                bytes_per_token: profile.bytes as f64 / tokens.max(1) as f64,
                absent: (self.counts.len() - found.len()) as u64,
                most_frequent: found.iter().take(top).map(show).collect(),
                least_frequent: found.iter().rev().take(top).map(show).collect(),
            }
        });
        profile
    }
}

/// What a file of tokens holds.
pub fn tokens(
    shard: &TokenShard,
    documents: &DocumentIndex,
    tokenizer: &Tokenizer,
    samples: usize,
    top: usize,
    progress: &dyn Fn(u64),
) -> Profile {
    let mut profiler = Profiler::new(samples, shard.vocab_size());
    let mut ids = Vec::new();
    for number in 0..documents.len() {
        ids.resize(documents.tokens(number), 0);
        shard.read(documents.start(number), &mut ids);
        profiler.add(&String::from_utf8_lossy(&tokenizer.decode_bytes(&ids)), &ids);
        progress(profiler.profile.bytes);
    }
    profiler.finish(Some(tokenizer), top)
}

/// What is told of a tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenizerProfile {
    /// Ids.
    pub vocab_size: usize,
    /// Of them, those that stand for no text.
    pub special: usize,
    /// The one that begins a document.
    pub bos_id: u32,
    /// Lengths of the others in bytes.
    pub lengths: Lengths,
    /// The longest tokens, longest first; `count` is their bytes.
    pub longest: Vec<TokenCount>,
    /// What ids mean, in 64 digits.
    pub hash: String,
}

/// What a tokenizer is, with its `top` longest tokens.
pub fn tokenizer(tokenizer: &Tokenizer, top: usize) -> TokenizerProfile {
    let vocab_size = tokenizer.vocab_size();
    let mut lengths = Lengths::default();
    let mut by_length: Vec<(u32, u32)> =
        (0..vocab_size as u32).map(|id| (tokenizer.token_bytes(id), id)).filter(|(n, _)| *n > 0).collect();
    by_length.iter().for_each(|(bytes, _)| lengths.add(u64::from(*bytes)));
    by_length.sort_unstable_by_key(|(bytes, id)| (std::cmp::Reverse(*bytes), *id));
    let longest = by_length.iter().take(top).map(|(bytes, id)| TokenCount {
        id: *id,
        text: spelled(tokenizer.decode_bytes(&[*id])),
        count: u64::from(*bytes),
    });
    TokenizerProfile {
        vocab_size,
        special: vocab_size - by_length.len(),
        bos_id: tokenizer.bos_id(),
        lengths,
        longest: longest.collect(),
        hash: tokenizer.hash().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: counted by hand.
    #[test]
    fn documents_are_counted() {
        let mut profiler = Profiler::new(2, 0);
        for text in ["né", "abcd", "né", "x", "né"] {
            profiler.add(text, &[]);
        }
        let profile = profiler.finish(None, 5);
        assert_eq!((profile.documents, profile.characters, profile.bytes), (5, 11, 14));
        // One byte; three of 3 bytes ("né"); one of 4.
        assert_eq!(profile.lengths, Lengths(vec![1, 3, 1]));
        let duplicates = Duplicates { documents: 2, most: 3, example: "né".into() };
        assert_eq!(profile.duplicates, duplicates);
        assert_eq!(profile.samples, ["né", "né"], "the first and the third");
        assert_eq!(profile.tokens, None);
    }

    #[test]
    fn tokens_are_counted_and_ranked() {
        let tokenizer = Tokenizer::train(["ab ab ab"], 256 + 4 + 1).expect("one merge is possible");
        let mut profiler = Profiler::new(0, tokenizer.vocab_size());
        for text in ["ababc", "c", "é"] {
            profiler.add(text, &tokenizer.encode_document(text));
        }
        let found = profiler.finish(Some(&tokenizer), 2).tokens.expect("there is a tokenizer");
        // BOS ab ab c, BOS c, BOS and two bytes.
        assert_eq!((found.tokens, found.absent), (9, 261 - 5));
        assert_eq!(found.bytes_per_token, 8.0 / 9.0);
        let named = |counts: &[TokenCount]| -> Vec<(String, u64)> {
            counts.iter().map(|t| (t.text.clone(), t.count)).collect()
        };
        assert_eq!(named(&found.most_frequent), [("".into(), 3), ("c".into(), 2)]);
        assert_eq!(named(&found.least_frequent), [("<0xC3>".into(), 1), ("<0xA9>".into(), 1)]);
    }

    #[test]
    fn samples_are_spread_over_any_number_of_documents() {
        let mut profiler = Profiler::new(3, 0);
        (0..10_000).for_each(|i| profiler.add(&i.to_string(), &[]));
        let samples: Vec<u64> =
            profiler.finish(None, 0).samples.iter().map(|s| s.parse().expect("a number")).collect();
        assert_eq!((samples.len(), samples[0]), (3, 0));
        assert!((2500..4200).contains(&samples[1]) && (5500..7500).contains(&samples[2]), "{samples:?}");
    }

    #[test]
    fn a_tokenizer_is_described() {
        let of = Tokenizer::train(["abc abc abc"], 256 + 4 + 2).expect("two merges are possible");
        let found = tokenizer(&of, 1);
        assert_eq!((found.vocab_size, found.special, found.lengths), (262, 4, Lengths(vec![256, 2])));
        assert_eq!((found.longest[0].text.as_str(), found.longest[0].count), ("abc", 3));
    }
}

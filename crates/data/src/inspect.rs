//! What a corpus, a file of tokens or a tokenizer holds, in numbers: for people who look before they train.

use std::collections::{HashMap, HashSet};

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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Duplicates {
    /// Documents that another one before them equals.
    pub documents: u64,
    /// Their share of all documents, from 0 to 1.
    pub share: f64,
    /// How often the most frequent document is there; 1 when none is there twice.
    pub most: u64,
    /// The beginning of that one; empty when none is there twice.
    pub example: String,
}

/// A token and how often it occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenCount {
    /// Its id.
    pub id: u32,
    /// Its text, or the name of a special token; one whose bytes are no UTF-8 alone is spelled `<0xE2><0x80>`.
    pub text: String,
    /// Whether it stands for no text.
    pub special: bool,
    /// How often.
    pub count: u64,
    /// Its share of all tokens, from 0 to 1.
    pub share: f64,
}

/// What is told of tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenProfile {
    /// Tokens, one BOS for each document included.
    pub tokens: u64,
    /// Bytes of text for each token.
    pub bytes_per_token: f64,
    /// Lengths of the documents in tokens.
    pub lengths: Lengths,
    /// Tokens of the vocabulary that do not occur.
    pub absent: u64,
    /// The tokens that occur most often, most frequent first.
    pub most_frequent: Vec<TokenCount>,
    /// Of those that occur, the ones that do least often, least frequent first.
    pub least_frequent: Vec<TokenCount>,
}

/// What tokens are called.
struct Names<'t> {
    tokenizer: &'t Tokenizer,
    special: HashMap<u32, String>,
}

impl Names<'_> {
    fn of(tokenizer: &Tokenizer) -> Names<'_> {
        Names { tokenizer, special: tokenizer.special_tokens().into_iter().collect() }
    }

    /// The text of a token, and whether it is a special one.
    fn name(&self, id: u32) -> (String, bool) {
        if let Some(name) = self.special.get(&id) {
            return (name.clone(), true);
        }
        let spelled = |bytes: &[u8]| bytes.iter().map(|byte| format!("<0x{byte:02X}>")).collect();
        let text = String::from_utf8(self.tokenizer.decode_bytes(&[id]));
        (text.unwrap_or_else(|error| spelled(error.as_bytes())), false)
    }
}

/// What is told of documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// Documents.
    pub documents: u64,
    /// Their characters; bytes that are no UTF-8, as of a document that was cut, count as U+FFFD.
    pub characters: u64,
    /// Their bytes.
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

/// The first 128 bits of a document's SHA-256.
type Hash = [u8; 16];

/// Takes documents one after another. Memory grows with the number of different ones alone: by a hash of 16 bytes each,
/// in a table that is at least seven sixteenths full.
#[derive(Debug)]
pub struct Profiler {
    profile: Profile,
    samples: usize,
    /// Every how many documents one is kept as a sample, and those that were.
    every: u64,
    kept: Vec<String>,
    seen: HashSet<Hash>,
    /// How often those are there that are there twice.
    copies: HashMap<Hash, u64>,
    token_lengths: Lengths,
    counts: Vec<u64>,
}

impl Profiler {
    /// * `samples`: how many to show
    /// * `vocab_size`: of the tokenizer whose ids [`Profiler::add`] is given; 0 for none
    pub fn new(samples: usize, vocab_size: usize) -> Profiler {
        Profiler {
            profile: Profile::default(),
            samples,
            every: 1,
            kept: Vec::new(),
            seen: HashSet::new(),
            copies: HashMap::new(),
            token_lengths: Lengths::default(),
            counts: vec![0; vocab_size],
        }
    }

    /// Adds a document, as the bytes of its text, and its ids, which are empty where no tokenizer is known.
    ///
    /// # Panics
    /// When an id is not below the vocabulary size.
    pub fn add(&mut self, bytes: &[u8], ids: &[u32]) {
        let text = String::from_utf8_lossy(bytes);
        let profile = &mut self.profile;
        let sample = || match text.char_indices().nth(SAMPLE_CHARS) {
            Some((end, _)) => format!("{} …", &text[..end]),
            None => text.clone().into_owned(),
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
        profile.bytes += bytes.len() as u64;
        profile.lengths.add(bytes.len() as u64);
        let mut hash = Hash::default();
        hash.copy_from_slice(&Sha256::digest(bytes)[..16]);
        if !self.seen.insert(hash) {
            let copies = self.copies.entry(hash).or_insert(1);
            *copies += 1;
            profile.duplicates.documents += 1;
            if *copies > profile.duplicates.most {
                profile.duplicates.most = *copies;
                profile.duplicates.example = sample();
            }
        }
        if !ids.is_empty() {
            self.token_lengths.add(ids.len() as u64);
        }
        for id in ids {
            self.counts[*id as usize] += 1;
        }
    }

    /// Adds the documents of a file of tokens. `progress` is told the bytes of all documents so far, and an estimate of
    /// how many there will be.
    ///
    /// # Panics
    /// When an id is not below the vocabulary size, which [`TokenShard::verify`] makes sure of.
    pub fn add_shard(
        &mut self,
        shard: &TokenShard,
        documents: &DocumentIndex,
        tokenizer: &Tokenizer,
        progress: &dyn Fn(u64, u64),
    ) {
        let (mut ids, before) = (Vec::new(), self.profile.bytes);
        for number in 0..documents.len() {
            let (start, tokens) = (documents.start(number), documents.tokens(number));
            ids.resize(tokens, 0);
            shard.read(start, &mut ids);
            self.add(&tokenizer.decode_bytes(&ids), &ids);
            let share = (start + tokens) as f64 / shard.len() as f64;
            let bytes = self.profile.bytes;
            progress(bytes, before + ((bytes - before) as f64 / share) as u64);
        }
    }

    /// What was found, with the `top` most and least frequent tokens.
    pub fn finish(self, tokenizer: Option<&Tokenizer>, top: usize) -> Profile {
        let mut profile = self.profile;
        let again = &mut profile.duplicates;
        again.most = again.most.max(u64::from(profile.documents > 0));
        again.share = again.documents as f64 / profile.documents.max(1) as f64;
        let of = self.kept.len();
        let wanted = self.samples.min(of);
        profile.samples = (0..wanted).map(|i| self.kept[i * of / wanted].clone()).collect();
        profile.tokens = tokenizer.map(|tokenizer| {
            let tokens: u64 = self.counts.iter().sum();
            let mut found: Vec<(u64, u32)> =
                (0..).zip(&self.counts).filter(|(_, n)| **n > 0).map(|(id, n)| (*n, id)).collect();
            found.sort_unstable_by_key(|(count, id)| (std::cmp::Reverse(*count), *id));
            let names = Names::of(tokenizer);
            let show = |&(count, id): &(u64, u32)| {
                let (text, special) = names.name(id);
                TokenCount { id, text, special, count, share: count as f64 / tokens as f64 }
            };
            TokenProfile {
                tokens,
                bytes_per_token: profile.bytes as f64 / tokens.max(1) as f64,
                lengths: self.token_lengths,
                absent: (self.counts.len() - found.len()) as u64,
                most_frequent: found.iter().take(top).map(show).collect(),
                least_frequent: found.iter().rev().take(top).map(show).collect(),
            }
        });
        profile
    }
}

/// A special token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// A token and its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenLength {
    /// Its id.
    pub id: u32,
    /// Its text, spelled as in [`TokenCount::text`].
    pub text: String,
    /// How many bytes.
    pub bytes: u32,
}

/// What is told of a tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenizerProfile {
    /// Ids.
    pub vocab_size: usize,
    /// Of them, those that stand for no text.
    pub special: Vec<SpecialToken>,
    /// The one that begins a document.
    pub bos_id: u32,
    /// [`Tokenizer::merges`].
    pub merges: Option<usize>,
    /// Lengths of the others in bytes.
    pub lengths: Lengths,
    /// The longest tokens, longest first.
    pub longest: Vec<TokenLength>,
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
    let names = Names::of(tokenizer);
    let longest = by_length.iter().take(top);
    TokenizerProfile {
        vocab_size,
        special: tokenizer.special_tokens().into_iter().map(|(id, name)| SpecialToken { id, name }).collect(),
        bos_id: tokenizer.bos_id(),
        merges: tokenizer.merges(),
        lengths,
        longest: longest.map(|&(bytes, id)| TokenLength { id, text: names.name(id).0, bytes }).collect(),
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
            profiler.add(text.as_bytes(), &[]);
        }
        let profile = profiler.finish(None, 5);
        assert_eq!((profile.documents, profile.characters, profile.bytes), (5, 11, 14));
        // One byte; three of 3 bytes ("né"); one of 4.
        assert_eq!(profile.lengths, Lengths(vec![1, 3, 1]));
        let duplicates = Duplicates { documents: 2, share: 2.0 / 5.0, most: 3, example: "né".into() };
        assert_eq!(profile.duplicates, duplicates);
        assert_eq!(profile.samples, ["né", "né"], "the first and the third");
        assert_eq!(profile.tokens, None);
    }

    #[test]
    fn tokens_are_counted_and_ranked() {
        let tokenizer = Tokenizer::train(["ab ab ab"], 256 + 4 + 1).expect("one merge is possible");
        let mut profiler = Profiler::new(0, tokenizer.vocab_size());
        for text in ["ababc", "c", "é"] {
            profiler.add(text.as_bytes(), &tokenizer.encode_document(text));
        }
        let found = profiler.finish(Some(&tokenizer), 2).tokens.expect("there is a tokenizer");
        // BOS ab ab c, BOS c, BOS and two bytes.
        assert_eq!((found.tokens, found.absent), (9, 261 - 5));
        assert_eq!(found.bytes_per_token, 8.0 / 9.0);
        let named = |counts: &[TokenCount]| -> Vec<(String, u64)> {
            counts.iter().map(|t| (t.text.clone(), t.count)).collect()
        };
        assert_eq!(named(&found.most_frequent), [("<|reserved_0|>".into(), 3), ("c".into(), 2)]);
        assert_eq!(found.most_frequent[0].share, 3.0 / 9.0);
        assert!(found.most_frequent[0].special && !found.most_frequent[1].special);
        // Four, two and three tokens.
        assert_eq!(found.lengths, Lengths(vec![0, 2, 1]));
        assert_eq!(named(&found.least_frequent), [("<0xC3>".into(), 1), ("<0xA9>".into(), 1)]);
    }

    /// Oracle: counted by hand. A document may end in the middle of a character.
    #[test]
    fn bytes_that_are_no_text_are_counted_as_they_are() {
        let mut profiler = Profiler::new(0, 0);
        for bytes in [&b"a\xC3"[..], b"a\xC3", b"a\xC4"] {
            profiler.add(bytes, &[]);
        }
        let profile = profiler.finish(None, 0);
        assert_eq!((profile.bytes, profile.characters), (6, 6));
        assert_eq!((profile.duplicates.documents, profile.duplicates.most), (1, 2), "the third differs");
    }

    #[test]
    fn samples_are_spread_over_any_number_of_documents() {
        let mut profiler = Profiler::new(3, 0);
        (0..10_000).for_each(|i| profiler.add(i.to_string().as_bytes(), &[]));
        let samples: Vec<u64> =
            profiler.finish(None, 0).samples.iter().map(|s| s.parse().expect("a number")).collect();
        assert_eq!((samples.len(), samples[0]), (3, 0));
        assert!((2500..4200).contains(&samples[1]) && (5500..7500).contains(&samples[2]), "{samples:?}");
    }

    #[test]
    fn a_tokenizer_is_described() {
        let of = Tokenizer::train(["abc abc abc"], 256 + 4 + 2).expect("two merges are possible");
        let found = tokenizer(&of, 1);
        assert_eq!((found.vocab_size, found.merges, found.lengths), (262, Some(2), Lengths(vec![256, 2])));
        assert_eq!(found.special.iter().map(|token| token.id).collect::<Vec<_>>(), [258, 259, 260, 261]);
        assert!(found.special.iter().any(|token| token.id == found.bos_id));
        assert_eq!((found.longest[0].text.as_str(), found.longest[0].bytes), ("abc", 3));
    }
}

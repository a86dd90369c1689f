//! Byte-level BPE tokenizers: training, encoding, and the Hugging Face `tokenizer.json` file.
//!
//! A tokenizer that was trained here, a rank file of tiktoken, and a vocabulary of Llama's form run on this crate's own
//! merges, and so does a `tokenizer.json` that says the same. Any other `tokenizer.json` is run by the crate `tokenizers`.
//!
//! Vocabulary of our own tokenizers: ids 0 to 255 are the bytes, then the merges in the order learned, then the special
//! tokens [`SPECIAL_TOKENS`], of which the first begins every document.

pub mod bpe;
mod encode;
mod file;
mod llama;
mod llama2c;
mod merges;
mod piece_map;
mod ranks;
mod split;

pub use merges::Pair;
pub use piece_map::PieceMap;
pub use split::{PATTERN, Pieces, pieces};

use crate::{Error, Result};
use bpe::WordCounts;
use encode::{ByteLevel, Memory};
use file::{Rule, Spec};
use llama::Llama;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Mutex;

/// The special tokens of our own tokenizers, as in autoresearch; the first is BOS.
pub const SPECIAL_TOKENS: [&str; 4] =
    ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"];

/// Tokenizer training reads this many characters of a document (autoresearch).
pub const TRAIN_DOCUMENT_CHARS: usize = 10_000;

/// Tokens that other tokenizers put in front of a document, in the order in which they are looked for.
const BEGIN_TOKENS: [&str; 8] = [
    SPECIAL_TOKENS[0],
    "<|bos|>",
    "<s>",
    "<bos>",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "[CLS]",
];

/// What to give instead of a file that is none of these.
const FORMS: &str = "give a tokenizer.json, llama2.c's tokenizer.bin, or a rank file of tiktoken";

/// How the bytes of a token are counted for val_bpb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteCount {
    /// The token's own bytes.
    #[default]
    Raw,
    /// The bytes of the token decoded alone, where each invalid part becomes U+FFFD (3 bytes), as autoresearch counted
    /// at first; for comparison with its figures.
    Compat,
}

/// A tokenizer.
///
/// ```
/// use data::Tokenizer;
/// let tokenizer = Tokenizer::train(["the cat and the hat and the bat"], 256 + 8 + 4)?;
/// let ids = tokenizer.encode_document("the cat");
/// assert_eq!(ids[0], tokenizer.bos_id());
/// assert_eq!(tokenizer.decode(&ids), "the cat");
/// assert_eq!(tokenizer.token_bytes(tokenizer.bos_id()), 0);
/// # Ok::<(), data::Error>(())
/// ```
pub struct Tokenizer {
    engine: Engine,
    /// The bytes of each token; `None` for special tokens and for ids that nothing has.
    bytes: Vec<Option<Vec<u8>>>,
    bos_id: u32,
    hash: String,
    /// The file as read or as it would be written.
    json: String,
    /// Pieces that have been encoded, for whoever encodes next; one memory for each thread that does at a time.
    memories: Mutex<Vec<Memory>>,
}

enum Engine {
    Own(Box<ByteLevel>),
    Llama(Llama),
    Foreign(Box<tokenizers::Tokenizer>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer {{ vocab_size: {}, hash: {} }}", self.vocab_size(), self.hash)
    }
}

impl Tokenizer {
    /// Trains on texts, each cut to [`TRAIN_DOCUMENT_CHARS`] characters, to a vocabulary of exactly `vocab_size`
    /// (bytes and special tokens included). For large corpora see [`Tokenizer::from_counts`].
    pub fn train<'t>(texts: impl IntoIterator<Item = &'t str>, vocab_size: usize) -> Result<Tokenizer> {
        let mut counts = WordCounts::default();
        texts.into_iter().for_each(|text| counts.add(first_chars(text, TRAIN_DOCUMENT_CHARS)));
        Tokenizer::from_counts(&counts, vocab_size, true)
    }

    /// Trains on counted pieces. When they run out of pairs before the vocabulary is full, that is an error if `exact`
    /// and else gives a smaller vocabulary.
    pub fn from_counts(counts: &WordCounts, vocab_size: usize, exact: bool) -> Result<Tokenizer> {
        let least = 256 + SPECIAL_TOKENS.len();
        let Some(merges) = vocab_size.checked_sub(least) else {
            let why = format!("256 bytes and {} special tokens need at least {least}", SPECIAL_TOKENS.len());
            return Err(Error::Vocabulary { asked: vocab_size, why });
        };
        let learned = bpe::train(&counts.0, merges);
        if exact && learned.len() < merges {
            let possible = least + learned.len();
            let why = format!(
                "the training text is too small: it gives {} merges, {merges} are needed; ask for at most {possible} or use more text",
                learned.len()
            );
            return Err(Error::Vocabulary { asked: vocab_size, why });
        }
        Ok(Tokenizer::from_spec(Spec::from_merges(&learned), Rule::Ranks).expect("our own pattern is known"))
    }

    /// A byte-level tokenizer. The error is that of the pattern, or that nothing begins a document.
    fn from_spec(spec: Spec, rule: Rule) -> Result<Tokenizer, String> {
        let json =
            serde_json::to_string_pretty(&file::write(&spec, &rule)).expect("a JSON value can be written");
        let pattern = if spec.pattern == PATTERN {
            None
        } else {
            Some(fancy_regex::Regex::new(&spec.pattern).map_err(|e| format!("its split pattern: {e}"))?)
        };
        let bos_id = begin_token(|token| Some(spec.specials.iter().find(|(_, name)| name == token)?.0))?;
        let hash = spec_hash(&spec, &rule);
        let engine = match &rule {
            Rule::Ranks => ByteLevel::ranked(&spec.tokens, pattern),
            Rule::Learned(merges) => ByteLevel::learned(merges),
        };
        let mut bytes = spec.tokens;
        let size = spec.specials.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        bytes.resize(bytes.len().max(size), None);
        Ok(Tokenizer {
            engine: Engine::Own(Box::new(engine)),
            bytes,
            bos_id,
            hash,
            json,
            memories: Mutex::default(),
        })
    }

    /// Reads a tokenizer, whose form its content tells: a `tokenizer.json`, ours or another's; llama2.c's
    /// `tokenizer.bin`; or a rank file of tiktoken.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let content = std::fs::read(path).map_err(Error::io(path, "read the tokenizer"))?;
        Tokenizer::from_content(content).map_err(|why| Error::Tokenizer { path: path.to_path_buf(), why })
    }

    fn from_content(content: Vec<u8>) -> Result<Tokenizer, String> {
        match content[..] {
            [] => return Err(format!("it is empty; {FORMS}")),
            // The first two bytes of Python's pickle protocols 2 to 5, which is how nanochat keeps its tokenizer.
            [0x80, 2..=5, ..] => {
                return Err(
                    "it is a Python pickle, which only Python can read; write its ranks from Python as a \
                    rank file: for each token of the Encoding's `_mergeable_ranks` a line with \
                    base64.b64encode(token), a blank and the rank"
                        .into(),
                );
            }
            // The length of the longest token, below 2^24.
            [_, _, _, 0, ..] => {
                let json = llama2c::to_json(&content).map_err(|why| format!("as a tokenizer.bin: {why}"))?;
                return Tokenizer::from_json(pretty(&json));
            }
            _ => {}
        }
        let text = String::from_utf8(content)
            .map_err(|e| format!("it is not text ({}) and of no known form; {FORMS}", e.utf8_error()))?;
        if ranks::is_rank_file(&text) {
            return Tokenizer::from_spec(ranks::read(&text)?, Rule::Ranks);
        }
        Tokenizer::from_json(text)
    }

    fn from_json(json: String) -> Result<Tokenizer, String> {
        let value: serde_json::Value = serde_json::from_str(&json)
            .map_err(|e| format!("it is not a tokenizer.json ({e}) and of no other known form; {FORMS}"))?;
        if let Some((spec, rule)) = file::read(&value) {
            return Tokenizer::from_spec(spec, rule);
        }
        let llama = llama::read(&value).map(|(names, merges)| Llama::new(&names, &merges));
        let mut foreign = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| format!("the crate tokenizers cannot read it: {e}"))?;
        // Text never means a special token, whoever wrote it.
        foreign.set_encode_special_tokens(true);
        let bytes = file::foreign_bytes(&foreign);
        let bos_id = begin_token(|token| foreign.token_to_id(token))?;
        let hash = hex(&Sha256::digest(json.as_bytes()));
        let engine = llama.map_or_else(|| Engine::Foreign(Box::new(foreign)), Engine::Llama);
        Ok(Tokenizer { engine, bytes, bos_id, hash, json, memories: Mutex::default() })
    }

    /// Writes the `tokenizer.json` (through a temporary file, so that it appears whole or not at all).
    pub fn save(&self, path: &Path) -> Result<()> {
        crate::whole::write(path, self.json.as_bytes())
    }

    /// The ids of a text. What looks like a special token in the text is ordinary text.
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        Encoder::new(self).encode_into(text, &mut ids);
        ids
    }

    /// The ids of any bytes: where they are UTF-8 those of the text, and between that each byte's own token, so that
    /// [`Tokenizer::decode_bytes`] gives the bytes back (behind a space if the tokenizer is of Llama's form).
    ///
    /// # Errors
    /// For bytes that are not UTF-8 with another's `tokenizer.json`: it takes nothing but text.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>, std::str::Utf8Error> {
        let mut ids = Vec::new();
        let mut encoder = Encoder::new(self);
        match &self.engine {
            Engine::Own(engine) => engine.encode_bytes(bytes, &mut encoder.memory, &mut ids),
            Engine::Llama(engine) => engine.encode_bytes(bytes, &mut ids),
            Engine::Foreign(_) => encoder.encode_into(std::str::from_utf8(bytes)?, &mut ids),
        }
        Ok(ids)
    }

    /// The ids of a document: [`Tokenizer::bos_id`] and those of its text.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.bos_id];
        Encoder::new(self).encode_into(text, &mut ids);
        ids
    }

    /// Each text as by [`Tokenizer::encode_document`], on all cores; the result does not depend on their number.
    pub fn encode_documents<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        // Small enough to spread evenly.
        texts
            .par_chunks(64)
            .flat_map_iter(|chunk| {
                let mut encoder = Encoder::new(self);
                chunk.iter().map(move |text| {
                    let mut ids = vec![self.bos_id];
                    encoder.encode_into(text.as_ref(), &mut ids);
                    ids
                })
            })
            .collect()
    }

    /// The text of ids. Special tokens say nothing; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.engine {
            Engine::Own(_) => String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned(),
            Engine::Llama(_) => {
                let text = String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned();
                // Encoding has put a space there.
                text.strip_prefix(' ').map_or(text.clone(), str::to_owned)
            }
            // Some decoders do more than join the tokens (a leading space goes away). An unknown id says nothing.
            Engine::Foreign(foreign) => foreign.decode(ids, true).unwrap_or_default(),
        }
    }

    /// The bytes of ids, for printing token by token: a character may be spread over several tokens.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|id| self.bytes.get(*id as usize)?.as_deref()).flatten().copied().collect()
    }

    /// Length of a token in bytes, counted raw; 0 for special tokens and unknown ids.
    pub fn token_bytes(&self, id: u32) -> u32 {
        self.bytes.get(id as usize).and_then(Option::as_ref).map_or(0, |b| b.len() as u32)
    }

    /// The length of every token in bytes, indexed by id; 0 for special tokens.
    pub fn byte_table(&self, count: ByteCount) -> Vec<u32> {
        let length = |bytes: &Vec<u8>| match count {
            ByteCount::Raw => bytes.len() as u32,
            ByteCount::Compat => String::from_utf8_lossy(bytes).len() as u32,
        };
        self.bytes.iter().map(|bytes| bytes.as_ref().map_or(0, length)).collect()
    }

    /// Number of ids, special tokens included; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Id and name of each token that stands for no text, in the order of their ids.
    pub fn special_tokens(&self) -> Vec<(u32, String)> {
        let file = self.file();
        let added = file["added_tokens"].as_array().into_iter().flatten();
        let mut found: Vec<(u32, String)> = added
            .filter_map(|token| Some((token["id"].as_u64()? as u32, token["content"].as_str()?.to_owned())))
            .filter(|(id, _)| self.token_bytes(*id) == 0)
            .collect();
        found.sort_unstable();
        found
    }

    /// How many merges there are; `None` for a model that does not merge. Of a byte-level vocabulary those that made its
    /// tokens, one each, although its file lists every way to split one; of others what their file lists.
    pub fn merges(&self) -> Option<usize> {
        match self.engine {
            Engine::Own(_) => Some(self.bytes.iter().flatten().filter(|bytes| bytes.len() > 1).count()),
            _ => self.file()["model"]["merges"].as_array().map(Vec::len),
        }
    }

    fn file(&self) -> serde_json::Value {
        serde_json::from_str(&self.json).expect("it was read or written as JSON")
    }

    /// The token that begins every document.
    pub fn bos_id(&self) -> u32 {
        self.bos_id
    }

    /// 64 hexadecimal digits that stand for what ids mean: SHA-256 of the split pattern, the special tokens and the
    /// learned merges, or the tokens where no merges were learned; for another's `tokenizer.json` of the file.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// Encodes several texts and remembers the pieces it has seen.
struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    memory: Memory,
}

impl<'t> Encoder<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        let memory = tokenizer.memories.lock().expect("nobody panics holding it").pop();
        Encoder { tokenizer, memory: memory.unwrap_or_default() }
    }

    fn encode_into(&mut self, text: &str, ids: &mut Vec<u32>) {
        match &self.tokenizer.engine {
            Engine::Own(engine) => engine.encode(text, &mut self.memory, ids),
            Engine::Llama(engine) => engine.encode(text, ids),
            Engine::Foreign(foreign) => {
                let encoding = foreign.encode_fast(text, false);
                // The one failure is an unknown token without a token for it, which byte-level and byte-fallback
                // models do not have; a model that drops such text does so in `tokenizers` as well.
                ids.extend(encoding.iter().flat_map(|e| e.get_ids()));
            }
        }
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.tokenizer.memories.lock().expect("nobody panics holding it").push(memory);
    }
}

fn pretty(json: &serde_json::Value) -> String {
    serde_json::to_string_pretty(json).expect("a JSON value can be written")
}

/// SHA-256 of what ids mean: of our own vocabularies the pattern, the special tokens and the learned pairs; where ranks
/// were not learned from pairs, or pattern or special tokens are others, these and the bytes of the tokens.
fn spec_hash(spec: &Spec, rule: &Rule) -> String {
    let mut hasher = Sha256::new();
    let pairs = match rule {
        Rule::Learned(pairs) => Some(pairs.clone()),
        // From these pairs alone the same ids follow, so that it does not matter how a file says it.
        Rule::Ranks => merges::recovered(&spec.tokens).filter(|pairs| Spec::from_merges(pairs) == *spec),
    };
    if let Some(pairs) = pairs {
        for text in std::iter::once(PATTERN).chain(SPECIAL_TOKENS) {
            hasher.update(text.as_bytes());
            hasher.update([0]);
        }
        for (left, right) in pairs {
            hasher.update(left.to_le_bytes());
            hasher.update(right.to_le_bytes());
        }
        return hex(&hasher.finalize());
    }
    for text in ["ranks", &spec.pattern] {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    for (id, name) in &spec.specials {
        hasher.update(id.to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update([0]);
    }
    for bytes in &spec.tokens {
        hasher.update(bytes.as_ref().map_or(u32::MAX, |b| b.len() as u32).to_le_bytes());
        hasher.update(bytes.as_deref().unwrap_or_default());
    }
    hex(&hasher.finalize())
}

/// The id of the token that begins a document, given the ids of special tokens.
fn begin_token(id: impl Fn(&str) -> Option<u32>) -> Result<u32, String> {
    (BEGIN_TOKENS.iter().find_map(|token| id(token)))
        .ok_or_else(|| format!("no token begins a document; one of {} is needed", BEGIN_TOKENS.join(" ")))
}

/// The first `n` characters of a text.
pub(crate) fn first_chars(text: &str, n: usize) -> &str {
    // A text of at most n bytes has at most n characters.
    if text.len() <= n { text } else { text.char_indices().nth(n).map_or(text, |(at, _)| &text[..at]) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;

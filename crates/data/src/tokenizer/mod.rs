//! Byte-level BPE tokenizers: training, encoding, and the Hugging Face `tokenizer.json` file.
//!
//! A tokenizer that was trained here (or a file that says the same) runs on this crate's own splitter and merges.
//! Any other `tokenizer.json` is run by the crate `tokenizers`.
//!
//! Vocabulary of our own tokenizers: ids 0 to 255 are the bytes, then the merges in the order learned, then the special
//! tokens [`SPECIAL_TOKENS`], of which the first begins every document.

pub mod bpe;
mod file;
mod split;

pub use split::{PATTERN, Pieces, pieces};

use crate::{Error, Result};
use bpe::{Merges, Pair, WordCounts};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

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
}

enum Engine {
    Own(Merges),
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
        Ok(Tokenizer::from_merges(&learned))
    }

    /// Our own tokenizer with these merges; merge `i` may use ids below 256 + i.
    fn from_merges(merges: &[Pair]) -> Tokenizer {
        let mut bytes: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
        for &(left, right) in merges {
            bytes.push([&bytes[left as usize][..], &bytes[right as usize][..]].concat());
        }
        let json = file::write(&bytes, merges);
        let bos_id = bytes.len() as u32;
        let mut bytes: Vec<_> = bytes.into_iter().map(Some).collect();
        bytes.resize(bytes.len() + SPECIAL_TOKENS.len(), None);
        // The pattern and the special tokens are part of what ids mean, so they are part of the hash.
        let mut hasher = Sha256::new();
        for text in std::iter::once(PATTERN).chain(SPECIAL_TOKENS) {
            hasher.update(text.as_bytes());
            hasher.update([0]);
        }
        for &(left, right) in merges {
            hasher.update(left.to_le_bytes());
            hasher.update(right.to_le_bytes());
        }
        Tokenizer {
            engine: Engine::Own(Merges::new(merges)),
            bytes,
            bos_id,
            hash: hex(&hasher.finalize()),
            json,
        }
    }

    /// Reads a `tokenizer.json`, ours or another's.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let json = std::fs::read_to_string(path).map_err(Error::io(path, "read the tokenizer"))?;
        Tokenizer::from_json(json).map_err(|why| Error::Tokenizer { path: path.to_path_buf(), why })
    }

    fn from_json(json: String) -> Result<Tokenizer, String> {
        let value: serde_json::Value = serde_json::from_str(&json).map_err(|e| {
            format!(
                "it is not a tokenizer.json ({e}); give a file written by `tokenizers` or by this program"
            )
        })?;
        if let Some(merges) = file::own_merges(&value) {
            return Ok(Tokenizer::from_merges(&merges));
        }
        let mut foreign = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| format!("the crate tokenizers cannot read it: {e}"))?;
        // Text never means a special token, whoever wrote it.
        foreign.set_encode_special_tokens(true);
        let bytes = file::foreign_bytes(&foreign);
        let bos_id = BEGIN_TOKENS.iter().find_map(|token| foreign.token_to_id(token)).ok_or_else(|| {
            format!("no token begins a document; one of {} is needed", BEGIN_TOKENS.join(" "))
        })?;
        let hash = hex(&Sha256::digest(json.as_bytes()));
        Ok(Tokenizer { engine: Engine::Foreign(Box::new(foreign)), bytes, bos_id, hash, json })
    }

    /// Writes the `tokenizer.json` (through a temporary file, so that it appears whole or not at all).
    pub fn save(&self, path: &Path) -> Result<()> {
        crate::whole::write(path, self.json.as_bytes())
    }

    /// The ids of a text. What looks like a special token in the text is ordinary text.
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        Encoder::new(self).encode(text)
    }

    /// The ids of a document: [`Tokenizer::bos_id`] and those of its text.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.bos_id];
        Encoder::new(self).encode_into(text, &mut ids);
        ids
    }

    /// Each text as by [`Tokenizer::encode_document`], on all cores; the result does not depend on their number.
    pub fn encode_documents<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Vec<Vec<u32>> {
        // A chunk shares one memory of encoded words; large enough to fill it, small enough to spread evenly.
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

    /// The token that begins every document.
    pub fn bos_id(&self) -> u32 {
        self.bos_id
    }

    /// 64 hexadecimal digits that stand for what ids mean: SHA-256 of the split pattern, special tokens and merges; for
    /// another's tokenizer of its file.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// Encodes several texts and remembers the words it has seen.
struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    seen: HashMap<String, Vec<u32>>,
}

impl<'t> Encoder<'t> {
    /// A piece longer than this is unlikely to come again.
    const REMEMBERED_BYTES: usize = 32;
    /// Bounds the memory: about 100 bytes each.
    const REMEMBERED_WORDS: usize = 100_000;

    fn new(tokenizer: &'t Tokenizer) -> Self {
        Encoder { tokenizer, seen: HashMap::new() }
    }

    fn encode(&mut self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids);
        ids
    }

    fn encode_into(&mut self, text: &str, ids: &mut Vec<u32>) {
        let merges = match &self.tokenizer.engine {
            Engine::Own(merges) => merges,
            Engine::Foreign(foreign) => {
                let encoding = foreign.encode_fast(text, false);
                // The one failure is an unknown token without a token for it, which byte-level and byte-fallback
                // models do not have; a model that drops such text does so in `tokenizers` as well.
                ids.extend(encoding.iter().flat_map(|e| e.get_ids()));
                return;
            }
        };
        for piece in pieces(text) {
            if let Some(known) = self.seen.get(piece) {
                ids.extend(known);
                continue;
            }
            let start = ids.len();
            merges.encode(piece.as_bytes(), ids);
            if piece.len() <= Self::REMEMBERED_BYTES && self.seen.len() < Self::REMEMBERED_WORDS {
                self.seen.insert(piece.to_string(), ids[start..].to_vec());
            }
        }
    }
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
mod tests {
    use super::*;
    use crate::{Split, stories::Stories};
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn texts() -> Vec<String> {
        Stories::new(1, Split::Train).take(400).map(|s| s.text).collect()
    }

    fn tokenizer() -> &'static Tokenizer {
        static TRAINED: OnceLock<Tokenizer> = OnceLock::new();
        TRAINED.get_or_init(|| {
            let texts = texts();
            Tokenizer::train(texts.iter().map(String::as_str), 1024).expect("400 stories give 764 merges")
        })
    }

    fn crate_tokenizers() -> tokenizers::Tokenizer {
        let mut theirs = tokenizers::Tokenizer::from_bytes(&tokenizer().json).expect("the file loads");
        theirs.set_encode_special_tokens(true);
        theirs
    }

    #[test]
    fn ids_agree_with_the_crate_tokenizers() {
        // Oracle: the crate `tokenizers` running our own file.
        let theirs = crate_tokenizers();
        for text in texts().iter().take(50).map(String::as_str).chain([
            "<|reserved_0|> naïve  \n\n x",
            "",
            "日本語 12345",
        ]) {
            assert_eq!(
                tokenizer().encode_ordinary(text),
                theirs.encode(text, false).expect("encodes").get_ids(),
                "{text:?}"
            );
        }
        assert_eq!(theirs.get_vocab_size(true), tokenizer().vocab_size());
        assert_eq!(theirs.token_to_id(SPECIAL_TOKENS[0]), Some(tokenizer().bos_id()));
    }

    #[test]
    fn special_tokens_come_last_and_weigh_nothing() {
        let t = tokenizer();
        assert_eq!((t.vocab_size(), t.bos_id()), (1024, 1020));
        assert_eq!(t.byte_table(ByteCount::Raw)[1020..], [0, 0, 0, 0]);
        assert!(t.encode_ordinary("<|reserved_0|>").iter().all(|id| *id < 1020));
        // A lone continuation byte is 1 byte raw, and decoded alone it is U+FFFD, 3 bytes.
        assert_eq!((t.token_bytes(0x80), t.byte_table(ByteCount::Compat)[0x80]), (1, 3));
    }

    #[test]
    fn a_saved_file_loads_to_the_same_tokenizer() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokenizer.json");
        tokenizer().save(&path).expect("saves");
        let loaded = Tokenizer::load(&path).expect("loads");
        assert!(matches!(loaded.engine, Engine::Own(_)));
        assert_eq!(loaded.hash(), tokenizer().hash());
        assert_eq!(loaded.json, tokenizer().json);
    }

    #[test]
    fn a_file_of_another_shape_runs_on_the_crate_tokenizers() {
        // A byte-level file with a different pre-tokenizer (GPT-2's) and the usual begin token.
        let mut value: serde_json::Value = serde_json::from_str(&tokenizer().json).expect("our file is JSON");
        value["pre_tokenizer"] = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let other = Tokenizer::from_json(value.to_string()).expect("loads");
        assert!(matches!(other.engine, Engine::Foreign(_)));
        assert_ne!(other.hash(), tokenizer().hash());
        assert_eq!(other.byte_table(ByteCount::Raw), tokenizer().byte_table(ByteCount::Raw));
        let text = "Lily's dog ran <|reserved_1|> away.";
        let ids = other.encode_document(text);
        assert_eq!(ids[0], other.bos_id());
        assert!(ids[1..].iter().all(|id| *id < 1020));
        assert_eq!(other.decode(&ids), text);
        assert_eq!(other.decode_bytes(&ids), text.as_bytes());
    }

    #[test]
    fn impossible_vocabularies_say_what_is_possible() {
        let error = Tokenizer::train(["abab"], 1000).expect_err("two merges are possible").to_string();
        assert!(error.contains("at most 262") && error.contains("2 merges"), "{error}");
        let error = Tokenizer::train(["abab"], 100).expect_err("less than the bytes").to_string();
        assert!(error.contains("at least 260"), "{error}");
        let counts = WordCounts(HashMap::from([("abab".into(), 1)]));
        assert_eq!(Tokenizer::from_counts(&counts, 1000, false).expect("a smaller one").vocab_size(), 262);
    }

    #[test]
    fn encoding_many_documents_equals_encoding_each() {
        let texts = texts();
        let each: Vec<_> = texts.iter().map(|t| tokenizer().encode_document(t)).collect();
        assert_eq!(tokenizer().encode_documents(&texts), each);
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("t.json");
        std::fs::write(&path, "{\"model\": 3}").expect("writes");
        let error = Tokenizer::load(&path).expect_err("not a tokenizer").to_string();
        assert!(error.contains("t.json"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn decoding_gives_the_text_back(text in any::<String>()) {
            let ids = tokenizer().encode_ordinary(&text);
            prop_assert_eq!(tokenizer().decode(&ids), text.as_str());
            prop_assert_eq!(ids.iter().map(|id| tokenizer().token_bytes(*id) as usize).sum::<usize>(), text.len());
        }
    }
}

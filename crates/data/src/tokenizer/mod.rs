//! Byte-level BPE tokenizers: training, encoding, and the Hugging Face `tokenizer.json` file.
//!
//! A tokenizer that was trained here (or a file that says the same) runs on this crate's own splitter and merges.
//! Any other `tokenizer.json` is run by the crate `tokenizers`.
//!
//! Vocabulary of our own tokenizers: ids 0 to 255 are the bytes, then the merges in the order learned, then the special
//! tokens [`SPECIAL_TOKENS`], of which the first begins every document.

pub mod bpe;
mod encode;
mod file;
mod merges;
mod split;

pub use merges::Pair;
pub use split::{PATTERN, Pieces, pieces};

use crate::{Error, Result};
use bpe::WordCounts;
use encode::{ByteLevel, Memory};
use file::{Rule, Spec};
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

/// How the bytes of a token are counted for val_bpb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
        // What ids mean: the pattern, the special tokens, and the tokens or merges.
        let mut hasher = Sha256::new();
        let engine = match &rule {
            Rule::Ranks => {
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
                ByteLevel::ranked(&spec.tokens, pattern)
            }
            Rule::Learned(merges) => {
                for text in std::iter::once(PATTERN).chain(SPECIAL_TOKENS) {
                    hasher.update(text.as_bytes());
                    hasher.update([0]);
                }
                for (left, right) in merges {
                    hasher.update(left.to_le_bytes());
                    hasher.update(right.to_le_bytes());
                }
                ByteLevel::learned(merges)
            }
        };
        let mut bytes = spec.tokens;
        let size = spec.specials.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        bytes.resize(bytes.len().max(size), None);
        Ok(Tokenizer {
            engine: Engine::Own(Box::new(engine)),
            bytes,
            bos_id,
            hash: hex(&hasher.finalize()),
            json,
            memories: Mutex::default(),
        })
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
        if let Some((spec, rule)) = file::read(&value) {
            return Tokenizer::from_spec(spec, rule);
        }
        let mut foreign = tokenizers::Tokenizer::from_bytes(&json)
            .map_err(|e| format!("the crate tokenizers cannot read it: {e}"))?;
        // Text never means a special token, whoever wrote it.
        foreign.set_encode_special_tokens(true);
        let bytes = file::foreign_bytes(&foreign);
        let bos_id = begin_token(|token| foreign.token_to_id(token))?;
        let hash = hex(&Sha256::digest(json.as_bytes()));
        Ok(Tokenizer {
            engine: Engine::Foreign(Box::new(foreign)),
            bytes,
            bos_id,
            hash,
            json,
            memories: Mutex::default(),
        })
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
    /// [`Tokenizer::decode_bytes`] gives the bytes back.
    ///
    /// # Errors
    /// For bytes that are not UTF-8 with another's `tokenizer.json`: it takes nothing but text.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>, std::str::Utf8Error> {
        let mut ids = Vec::new();
        let mut encoder = Encoder::new(self);
        match &self.engine {
            Engine::Own(engine) => engine.encode_bytes(bytes, &mut encoder.memory, &mut ids),
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
        let counts = WordCounts([("abab".to_string(), 1)].into_iter().collect());
        assert_eq!(Tokenizer::from_counts(&counts, 1000, false).expect("a smaller one").vocab_size(), 262);
    }

    #[test]
    fn ids_do_not_depend_on_chunks_or_threads() {
        let texts = texts();
        let each: Vec<_> = texts.iter().map(|t| tokenizer().encode_document(t)).collect();
        for (threads, chunk) in [(1, 400), (2, 400), (3, 1), (8, 65), (16, 7)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            let ids =
                pool.install(|| texts.chunks(chunk).flat_map(|c| tokenizer().encode_documents(c)).collect());
            assert!(each == Vec::<Vec<u32>>::clone(&ids), "{threads} threads, {chunk} documents at a time");
        }
    }

    #[test]
    fn counts_do_not_depend_on_who_counted() {
        let texts = texts();
        let mut one = WordCounts::default();
        texts.iter().for_each(|text| one.add(text));
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            assert!(pool.install(|| WordCounts::of(&texts)).0 == one.0, "{threads} threads");
        }
    }

    /// A tokenizer with these tokens behind the bytes, in this order.
    fn with_tokens(tokens: &[&str]) -> Tokenizer {
        let tokens = (0..=255).map(|b| vec![b]).chain(tokens.iter().map(|t| t.as_bytes().to_vec()));
        let spec = Spec::own(tokens.map(Some).collect());
        Tokenizer::from_spec(spec, Rule::Ranks).expect("our own pattern is known")
    }

    #[test]
    fn ids_are_those_of_tiktoken_and_not_of_the_learned_pairs() {
        // By hand, after tiktoken's rule. Any two neighbours that together are a token merge: where abc was learned
        // from ab and c, z|a|bc would be left.
        let t = with_tokens(&["bc", "ab", "abc"]);
        assert_eq!(t.encode_ordinary("zabc"), [122, 258]);
        // A piece that is a token is that token, though no pair leads to it.
        let t = with_tokens(&["bc", "abcd"]);
        assert_eq!(t.encode_ordinary("abcd"), [257]);
        assert_eq!(t.encode_ordinary("abcde"), [97, 256, 100, 101]);
        assert!(crate_encodes(&t, "abcd") == [257] && crate_encodes(&t, "abcde") == [97, 256, 100, 101]);
    }

    fn crate_encodes(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let theirs = tokenizers::Tokenizer::from_bytes(&tokenizer.json).expect("the file loads");
        theirs.encode(text, false).expect("encodes").get_ids().to_vec()
    }

    #[test]
    fn a_file_with_only_the_learned_pairs_means_what_it_did() {
        // bc, then ab, then abc from ab + c: the piece `zabc` becomes z|a|bc, which has no learned pair left.
        let merges: Vec<Pair> = vec![(98, 99), (97, 98), (257, 99)];
        let old = file::write(&Spec::from_merges(&merges), &Rule::Learned(merges.clone())).to_string();
        let old = Tokenizer::from_json(old).expect("loads");
        assert!(matches!(old.engine, Engine::Own(_)));
        let new = Tokenizer::from_spec(Spec::from_merges(&merges), Rule::Ranks).expect("our own pattern");
        for (tokenizer, ids) in [(&old, vec![122, 97, 256]), (&new, vec![122, 258])] {
            assert_eq!(tokenizer.encode_ordinary("zabc"), ids);
            assert_eq!(crate_encodes(tokenizer, "zabc"), ids);
        }
        // Both mean something else, so they have other hashes; the old one keeps the one that runs have recorded.
        // SHA-256 as then, by Python's hashlib: pattern and special tokens with a zero behind each, pairs as u32.
        assert_eq!(old.hash(), "bbec15818b04baa5aa8a89e5bb8ddda4f4404b19c82c573f776bdf19dcc37625");
        assert_ne!(old.hash(), new.hash());
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

        #[test]
        fn decoding_gives_any_bytes_back(
            parts in proptest::collection::vec(prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)], 0..4)
        ) {
            let bytes = parts.concat();
            let ids = tokenizer().encode_bytes(&bytes).expect("our own tokenizer takes any bytes");
            prop_assert_eq!(tokenizer().decode_bytes(&ids), &bytes[..]);
            if let Ok(text) = std::str::from_utf8(&bytes) {
                prop_assert_eq!(ids, tokenizer().encode_ordinary(text));
            }
        }

        #[test]
        fn the_file_gives_the_same_ids_in_the_crate_tokenizers(
            // Few letters, so that tokens overlap with themselves and have many splits.
            words in proptest::collection::hash_map("[ab]{1,9}", 1..6u64, 1..12), text in "[ab]{0,40}"
        ) {
            let counts = WordCounts(words.into_iter().collect());
            let ours = Tokenizer::from_counts(&counts, 300, false).expect("a smaller vocabulary will do");
            prop_assert_eq!(ours.encode_ordinary(&text), crate_encodes(&ours, &text));
        }
    }
}

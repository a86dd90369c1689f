//! Tokenizers of Llama's form: merges over whole characters, with a space put before the text, `▁` for a space, and bytes
//! for what has no token. SentencePiece calls this BPE with byte fallback.

use super::merges::{FastMap, Merges, Pair};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The special tokens, ids 0, 1 and 2; the second begins a document.
pub(super) const SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// The first token that is text; before it come the special tokens and the bytes.
pub(super) const FIRST_TEXT: usize = 3 + 256;

/// How the token of a byte is named.
pub(super) fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The `tokenizer.json` of these tokens and merges, as Llama 2's is written, except that `tokenizers` puts no `<s>` in
/// front by itself.
pub(super) fn write(names: &[String], merges: &[Pair]) -> Value {
    let added: Vec<Value> = (0..)
        .zip(SPECIALS)
        .map(|(id, content): (usize, _)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let vocab: serde_json::Map<String, Value> =
        names.iter().cloned().zip((0..names.len()).map(Value::from)).collect();
    let merges: Vec<Value> =
        merges.iter().map(|(left, right)| json!([names[*left as usize], names[*right as usize]])).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": SPECIALS[0], "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

/// Tokens and merges of a file that means exactly what [`write`] writes; `None` for every other file.
pub(super) fn read(file: &Value) -> Option<(Vec<String>, Vec<Pair>)> {
    let vocab = file["model"]["vocab"].as_object()?;
    let mut names = vec![None; vocab.len()];
    let mut ids: HashMap<&str, u32> = HashMap::new();
    for (name, id) in vocab {
        *names.get_mut(id.as_u64()? as usize)? = Some(name.clone());
        ids.insert(name, id.as_u64()? as u32);
    }
    let names: Vec<String> = names.into_iter().collect::<Option<_>>()?;
    let expected = SPECIALS.map(String::from).into_iter().chain((0..=255).map(byte_name));
    if names.len() < FIRST_TEXT || !names.iter().zip(expected).all(|(name, expected)| *name == expected) {
        return None;
    }
    let merges = file["model"]["merges"].as_array()?.iter();
    let pairs =
        merges.map(|pair| Some((*ids.get(pair.get(0)?.as_str()?)?, *ids.get(pair.get(1)?.as_str()?)?)));
    let pairs = pairs.collect::<Option<Vec<Pair>>>()?;
    let results_known = pairs.iter().all(|pair| result(&names, &ids, *pair).is_some());
    (results_known && write(&names, &pairs) == *file).then_some((names, pairs))
}

/// What a pair of tokens becomes.
fn result(names: &[String], ids: &HashMap<&str, u32>, (left, right): Pair) -> Option<u32> {
    ids.get(&*(names[left as usize].clone() + &names[right as usize])).copied()
}

/// A tokenizer of this form, ready to encode.
pub(super) struct Llama {
    characters: FastMap<char, u32>,
    merges: Merges,
}

impl Llama {
    /// Of the tokens' names and the merges, first the one that goes first.
    pub(super) fn new(names: &[String], merges: &[Pair]) -> Llama {
        let ids: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
        let single = |(name, id): (&String, u32)| {
            let mut chars = name.chars();
            Some((chars.next().filter(|_| chars.next().is_none())?, id))
        };
        let merges = merges.iter().zip(0..);
        Llama {
            characters: names.iter().zip(0..).filter_map(single).collect(),
            merges: Merges::from_priorities(
                merges.filter_map(|(pair, priority)| Some((*pair, priority, result(names, &ids, *pair)?))),
            ),
        }
    }

    /// Appends the ids of a text.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        self.encode_bytes(text.as_bytes(), out);
    }

    /// Appends the ids of any bytes; those that are no UTF-8 are their own tokens.
    pub(super) fn encode_bytes(&self, bytes: &[u8], out: &mut Vec<u32>) {
        if bytes.is_empty() {
            return;
        }
        let from = out.len();
        self.push(' ', out);
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.push(c, out));
            out.extend(chunk.invalid().iter().map(|byte| u32::from(*byte) + 3));
        }
        self.merges.apply(out, from);
    }

    fn push(&self, c: char, out: &mut Vec<u32>) {
        let c = if c == ' ' { '▁' } else { c };
        match self.characters.get(&c) {
            Some(id) => out.push(*id),
            None => out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| u32::from(byte) + 3)),
        }
    }
}

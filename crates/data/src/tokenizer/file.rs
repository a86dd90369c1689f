//! The Hugging Face `tokenizer.json`: writing ours, recognising it again, and the bytes of other people's tokens.

use super::bpe::Pair;
use super::{PATTERN, SPECIAL_TOKENS};
use serde_json::{Value, json};
use std::collections::HashMap;

/// How the byte-level alphabet of GPT-2 writes each byte as a printable character: printable Latin-1 bytes stand for
/// themselves, the other 68 are the characters from U+0100 on, in order.
fn byte_chars() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        }
    })
}

fn pre_tokenizer() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

/// The file of a tokenizer of ours; `bytes` are the bytes of every token before the special ones.
pub(super) fn write(bytes: &[Vec<u8>], merges: &[Pair]) -> String {
    let chars = byte_chars();
    let names: Vec<String> = bytes.iter().map(|b| b.iter().map(|b| chars[*b as usize]).collect()).collect();
    let added: Vec<Value> = (names.len()..)
        .zip(SPECIAL_TOKENS)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let merges: Vec<Value> =
        merges.iter().map(|(left, right)| json!([names[*left as usize], names[*right as usize]])).collect();
    let vocab: serde_json::Map<String, Value> =
        names.iter().cloned().zip((0..names.len()).map(Value::from)).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer(), "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    });
    serde_json::to_string_pretty(&file).expect("a JSON value can be written")
}

/// The merges of a file that means exactly what [`write`] writes; `None` for every other file.
pub(super) fn own_merges(file: &Value) -> Option<Vec<Pair>> {
    let model = &file["model"];
    let vocab = model["vocab"].as_object()?;
    let merges = model["merges"].as_array()?;
    let ids: HashMap<&str, u32> =
        vocab.iter().map(|(name, id)| Some((name.as_str(), id.as_u64()? as u32))).collect::<Option<_>>()?;
    let mut pairs = Vec::new();
    let mut bytes: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
    for merge in merges {
        // Older versions of `tokenizers` write "left right" instead of ["left", "right"].
        let (left, right) = match merge {
            Value::String(both) => both.split_once(' ')?,
            both => (both.get(0)?.as_str()?, both.get(1)?.as_str()?),
        };
        let pair = (*ids.get(left)?, *ids.get(right)?);
        let (left, right) = (bytes.get(pair.0 as usize)?, bytes.get(pair.1 as usize)?);
        bytes.push([&left[..], &right[..]].concat());
        pairs.push(pair);
    }
    // Whatever the file's details, what counts is that writing these merges gives the same file.
    let same: Value = serde_json::from_str(&write(&bytes, &pairs)).ok()?;
    let relevant = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor"];
    let model_relevant = [
        "type",
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
        "vocab",
    ];
    (relevant.iter().all(|k| file[*k] == same[*k])
        && model_relevant.iter().all(|k| model[*k] == same["model"][*k])
        && model["ignore_merges"].as_bool() != Some(true))
    .then_some(pairs)
}

/// The bytes of each token of another's tokenizer, by id. Byte-level tokens are written in the alphabet above;
/// SentencePiece-like ones have `▁` for a space and `<0xNN>` for a byte.
pub(super) fn foreign_bytes(tokenizer: &tokenizers::Tokenizer) -> Vec<Option<Vec<u8>>> {
    let byte_level = serde_json::to_value(tokenizer.get_decoder())
        .is_ok_and(|decoder| decoder.to_string().contains("\"ByteLevel\""));
    let byte_of: HashMap<char, u8> = byte_chars().into_iter().zip(0..=255).collect();
    let added = tokenizer.get_added_tokens_decoder();
    let vocab = tokenizer.get_vocab(true);
    let size = vocab.values().max().map_or(0, |id| *id as usize + 1);
    let mut bytes = vec![None; size];
    for (name, id) in vocab {
        bytes[id as usize] = match added.get(&id) {
            Some(token) if token.special => None,
            Some(_) => Some(name.into_bytes()),
            None if byte_level => Some(name.chars().filter_map(|c| byte_of.get(&c).copied()).collect()),
            None => Some(
                match name
                    .strip_prefix("<0x")
                    .and_then(|n| n.strip_suffix('>'))
                    .map(|n| u8::from_str_radix(n, 16))
                {
                    Some(Ok(byte)) => vec![byte],
                    _ => name.replace('▁', " ").into_bytes(),
                },
            ),
        };
    }
    bytes
}

//! The Hugging Face `tokenizer.json`: writing ours, recognising it again, and the bytes of other people's tokens.

use super::merges::{Pair, splits};
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

/// A byte-level tokenizer, apart from the rule by which pieces become tokens.
#[derive(Debug, PartialEq)]
pub(super) struct Spec {
    /// The bytes of each token; `None` for ids that no ordinary token has.
    pub(super) tokens: Vec<Option<Vec<u8>>>,
    /// The regular expression that cuts text into pieces.
    pub(super) pattern: String,
    /// Special tokens by id.
    pub(super) specials: Vec<(u32, String)>,
}

impl Spec {
    /// Our own: [`PATTERN`], and [`SPECIAL_TOKENS`] behind the others.
    pub(super) fn own(tokens: Vec<Option<Vec<u8>>>) -> Spec {
        let specials = (tokens.len() as u32..).zip(SPECIAL_TOKENS.map(String::from)).collect();
        Spec { tokens, pattern: PATTERN.into(), specials }
    }

    /// That of these learned merges.
    pub(super) fn from_merges(merges: &[Pair]) -> Spec {
        let mut bytes: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
        for &(left, right) in merges {
            bytes.push([&bytes[left as usize][..], &bytes[right as usize][..]].concat());
        }
        Spec::own(bytes.into_iter().map(Some).collect())
    }
}

/// Which pairs a file lists as merges.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// Every split of every token, by rank, and pieces that are tokens are taken whole: tiktoken's ids.
    Ranks,
    /// The learned pairs alone, as files did before they followed tiktoken.
    Learned(Vec<Pair>),
}

/// The value of a `tokenizer.json` that says this.
pub(super) fn write(spec: &Spec, rule: &Rule) -> Value {
    let chars = byte_chars();
    let names: Vec<Option<String>> = (spec.tokens.iter())
        .map(|bytes| Some(bytes.as_ref()?.iter().map(|b| chars[*b as usize]).collect()))
        .collect();
    let added: Vec<Value> = (spec.specials.iter())
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let mut vocab: serde_json::Map<String, Value> =
        names.iter().zip(0..).filter_map(|(name, id)| Some((name.clone()?, Value::from(id)))).collect();
    // `tokenizers` numbers added tokens from the vocabulary's size on, whatever the file says, unless the vocabulary
    // has them.
    let in_order = names.iter().all(Option::is_some)
        && spec.specials.iter().zip(names.len()..).all(|((id, _), expected)| *id as usize == expected);
    if !in_order {
        vocab.extend(spec.specials.iter().map(|(id, content)| (content.clone(), Value::from(*id))));
    }
    let pairs = match rule {
        Rule::Ranks => splits(&spec.tokens).into_iter().map(|(pair, _)| pair).collect(),
        Rule::Learned(pairs) => pairs.clone(),
    };
    let merges: Vec<Value> =
        pairs.iter().map(|(left, right)| json!([names[*left as usize], names[*right as usize]])).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": spec.pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": *rule == Rule::Ranks, "vocab": vocab, "merges": merges},
    })
}

/// What a file says that means exactly what [`write`] writes; `None` for every other file.
pub(super) fn read(file: &Value) -> Option<(Spec, Rule)> {
    let model = &file["model"];
    let byte_of: HashMap<char, u8> = byte_chars().into_iter().zip(0..=255).collect();
    let specials: Vec<(u32, String)> = (file["added_tokens"].as_array()?.iter())
        .map(|token| Some((token["id"].as_u64()? as u32, token["content"].as_str()?.to_owned())))
        .collect::<Option<_>>()?;
    let mut tokens = Vec::new();
    let mut ids: HashMap<&str, u32> = HashMap::new();
    for (name, id) in model["vocab"].as_object()? {
        let id = id.as_u64().filter(|id| *id < MOST_TOKENS)? as u32;
        if specials.iter().any(|(special, content)| *special == id && content == name) {
            continue;
        }
        let bytes = name.chars().map(|c| byte_of.get(&c).copied()).collect::<Option<Vec<u8>>>()?;
        if tokens.len() <= id as usize {
            tokens.resize(id as usize + 1, None);
        }
        tokens[id as usize] = Some(bytes);
        ids.insert(name, id);
    }
    let every_byte = (0..=255u8).all(|byte| tokens.contains(&Some(vec![byte])));
    let pattern = file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].as_str()?.to_owned();
    let spec = Spec { tokens, pattern, specials };
    let rule = if model["ignore_merges"].as_bool() == Some(true) {
        Rule::Ranks
    } else {
        let pairs = model["merges"].as_array()?.iter().map(|merge| {
            // Older versions of `tokenizers` write "left right" instead of ["left", "right"].
            let (left, right) = match merge {
                Value::String(both) => both.split_once(' ')?,
                both => (both.get(0)?.as_str()?, both.get(1)?.as_str()?),
            };
            Some((*ids.get(left)?, *ids.get(right)?))
        });
        let pairs: Vec<Pair> = pairs.collect::<Option<_>>()?;
        // In the order learned: each gives the next id, from ids below it.
        let learned = (256..).zip(&pairs).all(|(new, (left, right))| *left < new && *right < new);
        if !learned || Spec::from_merges(&pairs) != spec {
            return None;
        }
        Rule::Learned(pairs)
    };
    // Whatever the file's details, what counts is that writing this again gives the same file.
    let same = write(&spec, &rule);
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
    let merges_too = rule != Rule::Ranks || model["merges"] == same["model"]["merges"];
    (every_byte
        && merges_too
        && relevant.iter().all(|k| file[*k] == same[*k])
        && model_relevant.iter().all(|k| model[*k] == same["model"][*k]))
    .then_some((spec, rule))
}

/// Ids from here on are taken for nonsense; the largest vocabularies have a few hundred thousand tokens.
const MOST_TOKENS: u64 = 1 << 24;

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

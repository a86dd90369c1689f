//! llama2.c's `tokenizer.bin`: the pieces and scores of a SentencePiece model.
//!
//! An i32 with the length of the longest token, then for each token an f32 score, an i32 length, and that many bytes,
//! all little-endian. Tokens 0, 1 and 2 are `<unk>`, `<s>` (BOS) and `</s>`, 3 to 258 are the bytes `<0x00>` to
//! `<0xFF>`; the others are text, in which SentencePiece's `▁` has become a space.

use super::llama::{self, FIRST_TEXT, byte_name};
use super::merges::{Pair, splits};

/// The `tokenizer.json` that says what a `tokenizer.bin` says.
///
/// The order of merges is that of the scores, highest first. Two things are as in SentencePiece rather than in llama2.c,
/// so that `tokenizers` agrees: text never becomes a special token or a byte token by being spelled like it, and a `▁`
/// in the text is a space.
pub(super) fn to_json(file: &[u8]) -> Result<serde_json::Value, String> {
    let records = records(file)?;
    let mut names = Vec::with_capacity(records.len());
    for (id, record) in records.iter().enumerate() {
        names.push(name(id, &record.bytes)?);
    }
    let text = |(id, record): (usize, &Record)| (id >= FIRST_TEXT).then(|| record.bytes.clone());
    let tokens: Vec<Option<Vec<u8>>> = records.iter().enumerate().map(text).collect();
    let mut seen = std::collections::HashMap::new();
    for (id, name) in names.iter().enumerate() {
        if let Some(before) = seen.insert(name, id) {
            return Err(format!(
                "tokens {before} and {id} are both {name:?}; write the file again from its model"
            ));
        }
    }
    let mut merges = splits(&tokens);
    // Stable, so that of equal scores the earlier token goes first.
    let score = |token: u32| records[token as usize].score;
    merges.sort_by(|(_, a), (_, b)| score(*b).total_cmp(&score(*a)));
    let pairs: Vec<Pair> = merges.into_iter().map(|(pair, _)| pair).collect();
    Ok(llama::write(&names, &pairs))
}

struct Record {
    score: f32,
    bytes: Vec<u8>,
}

/// The name of a token in `tokenizer.json`.
fn name(id: usize, bytes: &[u8]) -> Result<String, String> {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let not_llama = "only vocabularies of Llama's form can be used";
    match id {
        // llama2.c's export writes line breaks around these two.
        0..3 => {
            let expected = llama::SPECIALS[id];
            let same = shown().trim() == expected;
            same.then(|| expected.to_owned())
                .ok_or_else(|| format!("token {id} is {:?}, expected {expected:?}; {not_llama}", shown()))
        }
        3..FIRST_TEXT => {
            let expected = byte_name((id - 3) as u8);
            (bytes == expected.as_bytes())
                .then_some(expected.clone())
                .ok_or_else(|| format!("token {id} is {:?}, expected {expected:?}; {not_llama}", shown()))
        }
        _ => match std::str::from_utf8(bytes) {
            Ok("") => Err(format!("token {id} is empty; {not_llama}")),
            Ok(text) => Ok(text.replace(' ', "▁")),
            Err(_) => Err(format!("token {id}, {:?}, is not UTF-8; {not_llama}", shown())),
        },
    }
}

fn records(file: &[u8]) -> Result<Vec<Record>, String> {
    const REMEDY: &str = "download or write the file again";
    let mut at = 0;
    let mut next = |what: &dyn Fn() -> String, length: usize| {
        let end = at + length;
        let bytes = file.get(at..end).ok_or_else(|| {
            format!("the file ends at byte {} within {} (bytes {at} to {end}); {REMEDY}", file.len(), what())
        })?;
        at = end;
        Ok::<_, String>((bytes, end == file.len()))
    };
    let four = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).expect("four bytes were asked for");
    let (bytes, mut ended) = next(&|| "the longest token's length".into(), 4)?;
    let longest = i32::from_le_bytes(four(bytes));
    let mut records: Vec<Record> = Vec::new();
    while !ended {
        let id = records.len();
        let score = f32::from_le_bytes(four(next(&|| format!("the score of token {id}"), 4)?.0));
        if score.is_nan() {
            return Err(format!("the score of token {id} is not a number; {REMEDY}"));
        }
        let length = i32::from_le_bytes(four(next(&|| format!("the length of token {id}"), 4)?.0));
        if !(0..=longest).contains(&length) {
            return Err(format!(
                "token {id} has {length} bytes, but the longest should have {longest}; {REMEDY}"
            ));
        }
        let (bytes, end) = next(&|| format!("token {id}"), length as usize)?;
        records.push(Record { score, bytes: bytes.to_vec() });
        ended = end;
    }
    if records.len() < FIRST_TEXT {
        let few = records.len();
        return Err(format!(
            "it has {few} tokens, fewer than the {FIRST_TEXT} of special tokens and bytes; {REMEDY}"
        ));
    }
    Ok(records)
}

//! Our side of `tests/oracle/tokenizer_forms.py`, which starts it:
//! `cargo run -p anneal-data --example encode_with -- TOKENIZER TEXTS.json EXPORT.json IDS.json`.
//!
//! Loads a tokenizer of any form, writes it as a `tokenizer.json`, and writes the ids of each text of a JSON list.

use data::Tokenizer;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [tokenizer, texts, export, ids] = &args[..] else {
        return Err("usage: encode_with TOKENIZER TEXTS.json EXPORT.json IDS.json".into());
    };
    let tokenizer = Tokenizer::load(tokenizer)?;
    tokenizer.save(export)?;
    let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts)?)?;
    let encoded: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_ordinary(text)).collect();
    let decoded: Vec<String> = encoded.iter().map(|ids| tokenizer.decode(ids)).collect();
    let result = serde_json::json!({
        "ids": encoded, "decoded": decoded, "vocab_size": tokenizer.vocab_size(), "bos_id": tokenizer.bos_id(),
    });
    std::fs::write(ids, result.to_string())?;
    Ok(())
}

//! Writes what `tests/oracle/data_check.py` compares with other implementations:
//! `cargo run --release -p anneal-data --example encode_dump -- OUT_DIR [FILE …]`.
//!
//! For the built-in stories and each file or folder of text: `NAME.json` with the documents, their ids, the vocabulary size and the
//! byte table; `NAME.tokenizer.json`; and once `sampler.json` with window offsets.

use data::tokenizer::bpe::WordCounts;
use data::tokenizer::{ByteCount, TRAIN_DOCUMENT_CHARS};
use data::{Corpus, Source, Split, Tokenizer, WindowSampler};
use serde_json::json;
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let out = args.next().ok_or("usage: encode_dump OUT_DIR [FILE …]")?;
    std::fs::create_dir_all(&out)?;
    let stories = Source::Stories { seed: 1, train_bytes: 300_000, valid_bytes: 0 };
    dump(&out, "stories", &stories, 1500)?;
    for file in args {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // A folder is taken for a corpus of the usual size.
        let vocab_size = if file.is_dir() { 8192 } else { 3000 };
        dump(&out, &name, &Source::Path(file), vocab_size)?;
    }
    let mut cases = Vec::new();
    for (n_tokens, seq_len, seed) in
        [(10_000, 128, 42u64), (65, 64, 0), (150, 64, 9), (3_000_000, 256, u64::MAX)]
    {
        let sampler = WindowSampler::new(n_tokens, seq_len, seed)?;
        let numbers: Vec<u64> = (0..200).chain([1_000_000, 1 << 40]).collect();
        let offsets: Vec<usize> = numbers.iter().map(|i| sampler.offset(*i)).collect();
        cases.push(json!({"n_tokens": n_tokens, "seq_len": seq_len, "seed": seed, "numbers": numbers, "offsets": offsets}));
    }
    std::fs::write(out.join("sampler.json"), json!(cases).to_string())?;
    Ok(())
}

fn dump(out: &Path, name: &str, source: &Source, vocab_size: usize) -> Result<(), Box<dyn Error>> {
    let corpus = Corpus::open(source)?;
    let texts = corpus.documents(Split::Train).map(|d| d.map(|d| d.text)).collect::<Result<Vec<_>, _>>()?;
    let mut counts = WordCounts::default();
    for text in &texts {
        // Cut as for every training, so that the check can do the same to what it trains on.
        counts.add(&text.chars().take(TRAIN_DOCUMENT_CHARS).collect::<String>());
    }
    let tokenizer = Tokenizer::from_counts(&counts, vocab_size, false)?;
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_ordinary(text)).collect();
    tokenizer.save(&out.join(format!("{name}.tokenizer.json")))?;
    let dump = json!({
        "vocab_size": tokenizer.vocab_size(), "bos_id": tokenizer.bos_id(), "texts": texts, "ids": ids,
        "raw": tokenizer.byte_table(ByteCount::Raw), "compat": tokenizer.byte_table(ByteCount::Compat),
    });
    std::fs::write(out.join(format!("{name}.json")), dump.to_string())?;
    println!("{name}: {} texts, {} tokens", texts.len(), ids.iter().map(Vec::len).sum::<usize>());
    Ok(())
}

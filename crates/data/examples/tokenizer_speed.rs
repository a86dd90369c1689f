//! Our side of `tests/oracle/tokenizer_speed.py`, which starts it:
//! `cargo run --release -p anneal-data --example tokenizer_speed -- OUT_DIR VOCAB FOLDER`.
//!
//! Reads the documents into memory, then does what each line of standard input says and answers with the seconds it
//! took: `train`, `encode`, or `write`, which puts `tokenizer.json` and the ids (u32, little-endian, documents one after
//! another) into OUT_DIR.

use data::tokenizer::TRAIN_DOCUMENT_CHARS;
use data::tokenizer::bpe::WordCounts;
use data::{Corpus, Source, Split, Tokenizer};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let out = PathBuf::from(args.next().ok_or("usage: tokenizer_speed OUT_DIR VOCAB FOLDER")?);
    let vocab_size: usize = args.next().ok_or("no VOCAB")?.to_string_lossy().parse()?;
    let corpus = Corpus::open(&Source::Path(args.next().ok_or("no FOLDER")?.into()))?;
    let texts: Vec<String> =
        corpus.documents(Split::Train).map(|d| d.map(|d| d.text)).collect::<Result<_, _>>()?;
    let cut: Vec<&str> = texts
        .iter()
        .map(|text| text.char_indices().nth(TRAIN_DOCUMENT_CHARS).map_or(&text[..], |(end, _)| &text[..end]))
        .collect();
    let train = || Tokenizer::from_counts(&WordCounts::of(&cut), vocab_size, true);
    let json = out.join("tokenizer.json");
    train()?.save(&json)?;
    println!("{} documents", texts.len());
    for line in std::io::stdin().lines() {
        // A fresh one each time, which remembers no piece.
        let tokenizer = Tokenizer::load(&json)?;
        let begun = Instant::now();
        match line?.as_str() {
            "train" => drop(train()?),
            "encode" => drop(tokenizer.encode_documents(&texts)),
            "write" => {
                let ids = tokenizer.encode_documents(&texts);
                let bytes: Vec<u8> =
                    ids.iter().flat_map(|ids| &ids[1..]).flat_map(|id| id.to_le_bytes()).collect();
                std::fs::write(out.join("ids"), bytes)?;
            }
            other => return Err(format!("unknown order {other:?}").into()),
        }
        println!("{}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

//! Prepares a source and prints what came of it and how long it took:
//! `cargo run --release -p anneal-data --example prepare -- SOURCE CACHE_DIR [VOCAB]`.

use data::{PrepareOptions, TokenizerChoice, prepare};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, cache, rest @ ..] = args.as_slice() else {
        return Err("usage: prepare SOURCE CACHE_DIR [VOCAB]".into());
    };
    let mut options = PrepareOptions::new(source.parse()?, cache);
    if let Some(vocab) = rest.first() {
        options.tokenizer = TokenizerChoice::Train { vocab_size: Some(vocab.parse()?) };
    }
    let start = Instant::now();
    let dataset =
        prepare(&options, &|progress| eprintln!("{:7.3} s {progress:?}", start.elapsed().as_secs_f64()))?;
    println!("{:.3} s {:#?}", start.elapsed().as_secs_f64(), dataset.info);
    Ok(())
}

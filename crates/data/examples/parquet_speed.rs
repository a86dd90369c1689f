//! Reads every document of a folder of Parquet files, for `tests/oracle/parquet_speed.py`:
//! `cargo run --release -p anneal-data --example parquet_speed -- FOLDER`.
//!
//! For each line on standard input it reads them all once more and answers with seconds, documents, bytes and a sum of
//! the bytes, so that nothing is left out.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Instant;

use data::{Corpus, Source, Split};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: parquet_speed FOLDER")?);
    let corpus = Corpus::open(&Source::Path(folder))?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        let (mut documents, mut bytes, mut sum) = (0_u64, 0_u64, 0_u64);
        for split in [Split::Train, Split::Valid] {
            for document in corpus.documents(split) {
                let text = document?.text;
                documents += 1;
                bytes += text.len() as u64;
                sum += u64::from(text.as_bytes()[text.len() / 2]);
            }
        }
        println!("{:.6} {documents} {bytes} {sum}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

//! How many tokens a second the loader hands out: `cargo run --release -p anneal-data --example loader_speed -- DATASET_DIR`.
//!
//! Batches of 4 rows with 256 and with 2,048 targets, by windows and packed, for two seconds each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use data::{Dataset, Loader, Packing};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: loader_speed DATASET_DIR")?);
    let dataset = Dataset::open(&dir)?;
    for seq_len in [256, 2048] {
        for packing in [Packing::Windows, Packing::BestFit] {
            let mut loader = Loader::new(&dataset, packing, Some(1), 4, seq_len)?;
            let (begun, mut tokens) = (Instant::now(), 0);
            while begun.elapsed() < Duration::from_secs(2) {
                tokens += loader.next_batch().targets.len();
            }
            let rate = tokens as f64 / begun.elapsed().as_secs_f64() / 1e6;
            println!("{packing:?}, T = {seq_len}: {rate:.1} million tokens a second");
        }
    }
    Ok(())
}

//! Writes packed rows for `tests/oracle/metric_check.py`:
//! `cargo run -p anneal-data --example pack_dump -- DATASET_DIR SPLIT SEQ_LEN ROWS OUT`.
//!
//! OUT is ROWS rows of SEQ_LEN + 1 ids, little-endian u32. Every hundredth row is made by a packer that was restored
//! from the state before it.

use std::error::Error;
use std::io::{BufWriter, Write};
use std::path::Path;

use data::{Dataset, Packer, Split};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, split, seq_len, rows, out] = args.as_slice() else {
        return Err("usage: pack_dump DATASET_DIR train|valid SEQ_LEN ROWS OUT".into());
    };
    let dataset = Dataset::open(Path::new(dir))?;
    let (split, shard) = match split.as_str() {
        "train" => (Split::Train, &dataset.train),
        "valid" => (Split::Valid, &dataset.valid),
        other => return Err(format!("{other}: expected train or valid").into()),
    };
    let seq_len: usize = seq_len.parse()?;
    let mut packer = Packer::new(dataset.documents(split), seq_len, None)?;
    let mut file = BufWriter::new(std::fs::File::create(out)?);
    let mut row = vec![0; seq_len + 1];
    for number in 0..rows.parse::<usize>()? {
        if number % 100 == 99 {
            let state = packer.state();
            packer = Packer::new(dataset.documents(split), seq_len, None)?;
            packer.restore(state)?;
        }
        packer.next_row(shard, &mut row);
        for id in &row {
            file.write_all(&id.to_le_bytes())?;
        }
    }
    Ok(file.flush()?)
}

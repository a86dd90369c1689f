//! Prints built-in stories with the information they carry: `cargo run -p anneal-data --example stories -- [SEED] [COUNT]`.

use data::{Split, stories::Stories};

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let (seed, count) = (args.next().unwrap_or(1), args.next().unwrap_or(3));
    let (mut bits, mut bytes) = (0.0, 0);
    for story in Stories::new(seed, Split::Train).take(count as usize) {
        println!("{}\n[{:.1} bits]\n", story.text, -story.log2_probability);
        bits -= story.log2_probability;
        bytes += story.text.len();
    }
    println!("{count} stories, {bytes} bytes, {:.4} bits per byte", bits / bytes as f64);
}

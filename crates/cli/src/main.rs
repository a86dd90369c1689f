//! The `anneal` command.
fn main() {}

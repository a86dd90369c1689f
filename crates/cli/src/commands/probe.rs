//! The child's side of trying programs on an engine: a request on standard input, a line of JSON back.

use std::io::{Read, Write};
use std::process::ExitCode;

use crate::Result;

pub(crate) fn run(out: &mut dyn Write) -> Result {
    let mut request = String::new();
    std::io::stdin().read_to_string(&mut request)?;
    writeln!(out, "{}", ane::answer(&request))?;
    Ok(ExitCode::SUCCESS)
}

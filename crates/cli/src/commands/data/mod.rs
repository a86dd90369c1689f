//! `anneal data`: text and tokenizers.

mod inspect;
mod prepare;
mod screen;
mod tokenizer;

use std::io::IsTerminal;

pub(crate) use inspect::inspect;
pub(crate) use prepare::prepare;
pub(crate) use tokenizer::tokenizer;

use crate::{Result, cache};

/// The source that somebody named; standard input, for `-`, becomes a file in the cache.
pub(crate) fn text_source(source: &str) -> Result<String> {
    if source != "-" {
        return Ok(source.to_owned());
    }
    if std::io::stdin().is_terminal() {
        return Err(
            "- reads text from standard input, which is a terminal; pipe text into it, or name a file".into(),
        );
    }
    Ok(data::stdin::spool(std::io::stdin(), &cache::dir()?)?.display().to_string())
}

//! `anneal data tokenizer`: what a tokenizer is, and how it divides a text.

use std::io::Write;
use std::process::ExitCode;

use data::Tokenizer;
use serde_json::json;
use train::run_dir;

use crate::Result;
use crate::args::TokenizerArgs;

pub(crate) fn tokenizer(args: &TokenizerArgs, out: &mut dyn Write) -> Result {
    let path = if args.path.is_dir() { args.path.join(run_dir::TOKENIZER) } else { args.path.clone() };
    let tokenizer = Tokenizer::load(&path)?;
    if let Some(file) = &args.export {
        tokenizer.save(file)?;
    }
    let shown = |id: u32| String::from_utf8_lossy(&tokenizer.decode_bytes(&[id])).into_owned();
    let ids: Vec<u32> = args.text.as_deref().map_or_else(Vec::new, |text| tokenizer.encode_ordinary(text));
    let longest = (0..tokenizer.vocab_size() as u32).max_by_key(|id| tokenizer.token_bytes(*id)).map(shown);
    let longest = longest.unwrap_or_default();
    if args.json {
        let tokens: Vec<String> = ids.iter().map(|id| shown(*id)).collect();
        let object = json!({
            "path": path, "vocab_size": tokenizer.vocab_size(), "bos_id": tokenizer.bos_id(),
            "hash": tokenizer.hash(), "longest": longest, "ids": ids, "tokens": tokens,
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "vocabulary  {} tokens; {} begins a document", tokenizer.vocab_size(), tokenizer.bos_id())?;
    writeln!(out, "longest     {longest:?}")?;
    writeln!(out, "hash        {}", tokenizer.hash())?;
    if let Some(text) = &args.text {
        let divided: Vec<String> = ids.iter().map(|id| shown(*id)).collect();
        writeln!(out, "text        {} bytes in {} tokens: {}", text.len(), ids.len(), divided.join("|"))?;
    }
    Ok(ExitCode::SUCCESS)
}

//! `anneal data prepare`: from a source to token files.

use std::cell::RefCell;
use std::io::Write;
use std::process::ExitCode;

use data::hub::CLIMBMIX_MOST_SHARDS;
use data::{HubSource, PrepareOptions, ReadOptions, Source, TokenizerChoice};
use serde_json::json;

use super::text_source;
use crate::args::PrepareArgs;
use crate::progress::{Progress, Style};
use crate::{Result, cache};

pub(crate) fn prepare(args: &PrepareArgs, out: &mut dyn Write) -> Result {
    let mut source: Source = text_source(&args.source)?.parse()?;
    if let Some(wanted) = args.shards {
        match &mut source {
            Source::Hub(HubSource::Climbmix { shards }) if (1..=CLIMBMIX_MOST_SHARDS).contains(&wanted) => {
                *shards = wanted;
            }
            Source::Hub(HubSource::Climbmix { .. }) => {
                return Err(format!("--shards {wanted}: expected 1 to {CLIMBMIX_MOST_SHARDS}").into());
            }
            _ => return Err(format!("--shards belongs to climbmix, not to {source}").into()),
        }
    }
    let mut options = PrepareOptions::new(source, cache::dir()?);
    options.hub.jobs = args.jobs;
    options.read = ReadOptions { column: args.column.clone(), lenient: args.lenient };
    if let Some(endpoint) = &args.endpoint {
        options.hub.endpoint = endpoint.clone();
    }
    options.tokenizer = match &args.tokenizer {
        Some(path) => TokenizerChoice::File(path.clone()),
        None => TokenizerChoice::Train { vocab_size: args.vocab },
    };
    let progress = RefCell::new(Progress::new(Style::choose(false, args.json), String::new()));
    let dataset = data::prepare(&options, &|p| progress.borrow_mut().preparing(&p));
    progress.borrow().finish();
    let dataset = dataset?;
    let vocab_size = dataset.tokenizer.vocab_size();
    if args.json {
        let mut object = serde_json::to_value(&dataset.info)?;
        object["dir"] = json!(dataset.dir);
        object["vocab_size"] = vocab_size.into();
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{}", dataset.dir.display())?;
    for (name, split) in [("train", &dataset.info.train), ("valid", &dataset.info.valid)] {
        writeln!(
            out,
            "{name}  {} documents, {} bytes, {} tokens ({:.2} bytes each)",
            split.documents,
            split.bytes,
            split.tokens,
            split.bytes as f64 / split.tokens.max(1) as f64
        )?;
    }
    writeln!(out, "vocabulary of {vocab_size}; {}", dataset.info.split_rule)?;
    for line in dataset.info.passed_over.lines() {
        writeln!(out, "{line}")?;
    }
    if let Some(bound) = dataset.info.bound_bits_per_byte {
        writeln!(out, "no model can do better than {bound:.4} bits per byte on this validation text")?;
    }
    Ok(ExitCode::SUCCESS)
}

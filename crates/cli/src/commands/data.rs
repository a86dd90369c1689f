//! `anneal data`: text and tokenizers.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use data::hub::CLIMBMIX_MOST_SHARDS;
use data::{Corpus, HubSource, PrepareOptions, ReadOptions, Source, Split, Tokenizer, TokenizerChoice};
use serde_json::json;
use train::run_dir;

use crate::args::{InspectArgs, PrepareArgs, TokenizerArgs};
use crate::progress::{Progress, Style};
use crate::{Result, cache, units};

/// Characters of a document that are shown.
const SAMPLE_CHARS: usize = 300;

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

pub(crate) fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result {
    let source: Source = args.source.parse()?;
    let corpus = Corpus::open(&source)?;
    let mut object = json!({ "source": source.to_string(), "split_rule": corpus.split_rule() });
    let mut sample = None;
    for (name, split) in [("train", Split::Train), ("valid", Split::Valid)] {
        let (mut documents, mut bytes, mut longest) = (0_u64, 0_u64, 0_u64);
        for document in corpus.documents(split) {
            let text = document?.text;
            documents += 1;
            bytes += text.len() as u64;
            longest = longest.max(text.len() as u64);
            sample.get_or_insert(text);
        }
        object[name] = json!({ "documents": documents, "bytes": bytes, "longest_bytes": longest });
        if !args.json {
            let (bytes, longest) = (units::bytes(bytes), units::bytes(longest));
            writeln!(out, "{name}  {documents} documents, {bytes}; the longest has {longest}")?;
        }
    }
    let sample = sample.unwrap_or_default();
    let shown: String = sample.chars().take(SAMPLE_CHARS).collect();
    if args.json {
        object["sample"] = shown.into();
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let more = if shown.len() < sample.len() { " …" } else { "" };
    writeln!(out, "{}\n\nThe first document begins:\n\n{shown}{more}", corpus.split_rule())?;
    Ok(ExitCode::SUCCESS)
}

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

//! `anneal data inspect`: what a corpus, a file of tokens or a tokenizer holds.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use data::inspect::{Profile, Profiler};
use data::{Corpus, Dataset, DocumentIndex, HubOptions, ReadOptions, Source, Split, TokenShard, Tokenizer};
use serde_json::{Value, json};
use train::run_dir;

use super::screen::Screen;
use super::text_source;
use crate::args::InspectArgs;
use crate::progress::{Progress, Style};
use crate::{Result, cache};

/// Documents that are encoded at a time, at most …
const BATCH: usize = 512;
/// … and their bytes, but for the last of them.
const BATCH_BYTES: usize = 16 << 20;
/// A file that may be a tokenizer, by its size; the largest in use have some 30 MB.
const TOKENIZER_BYTES: u64 = 64 << 20;
/// What else can be looked at, beside the sources that the error names.
const ALSO: &str = "`data inspect` also takes a prepared data set's folder, a .tokens file, a tokenizer (tokenizer.json, \
                    llama2.c's tokenizer.bin, tiktoken ranks) and a run's folder";

/// Is told the bytes of text so far, and about how many there will be.
type Told<'t> = &'t dyn Fn(u64, u64);

/// What was found, for people and for programs.
struct Found {
    about: Vec<(&'static str, Value)>,
    parts: Vec<(&'static str, Profile)>,
}

pub(crate) fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result {
    let path = Path::new(&args.source);
    if let Some(tokenizer) = tokenizer(path)? {
        return show_tokenizer(args, &tokenizer, out);
    }
    let progress = RefCell::new(Progress::new(Style::choose(false, args.json), String::new()));
    let told = |bytes, total| progress.borrow_mut().preparing(&data::Progress::Counting { bytes, total });
    let found = find(args, path, &told);
    progress.borrow().finish();
    let found = found?;
    if args.json {
        let kind =
            if found.about.iter().any(|(key, _)| *key == "tokenizer_hash") { "tokens" } else { "text" };
        let mut object = json!({ "source": args.source, "kind": kind });
        for (key, value) in found.about {
            object[key] = value;
        }
        for (name, profile) in &found.parts {
            object[*name] = serde_json::to_value(profile)?;
        }
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut facts = Vec::new();
    for (key, value) in found.about {
        let lines = match value {
            Value::Array(lines) => lines,
            line => vec![line],
        };
        for line in lines.iter().filter_map(Value::as_str) {
            facts.push((key.replace('_', " "), line.to_owned()));
        }
    }
    Screen::of_stdout().parts(&found.parts, &facts, out)?;
    Ok(ExitCode::SUCCESS)
}

fn show_tokenizer(args: &InspectArgs, tokenizer: &Tokenizer, out: &mut dyn Write) -> Result {
    let found = data::inspect::tokenizer(tokenizer, args.top);
    if args.json {
        let mut object = serde_json::to_value(&found)?;
        object["source"] = json!(args.source);
        object["kind"] = json!("tokenizer");
        writeln!(out, "{object}")?;
    } else {
        Screen::of_stdout().tokenizer(&found, args.top, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokenizer that `path` names, if it is one: the folder of a run, a file named as one, or a `.bin` file, or one
/// of no known kind, whose content is that of one.
fn tokenizer(path: &Path) -> Result<Option<Tokenizer>> {
    let inside = path.join(run_dir::TOKENIZER);
    if path.is_dir() {
        // Text or token ids may lie beside their tokenizer; a run says what it is by its config.
        let run = path.join(run_dir::CONFIG).is_file();
        let data = || path.join("dataset.json").is_file() || Corpus::open(&Source::Path(path.into())).is_ok();
        let is = inside.is_file() && (run || !data());
        return Ok(if is { Some(Tokenizer::load(&inside)?) } else { None });
    }
    let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
    if !metadata.is_file() {
        return Ok(None);
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let named = path.file_name().is_some_and(|name| name == "tokenizer.bin");
    match ending {
        _ if named => Ok(Some(Tokenizer::load(path)?)),
        "tiktoken" => Ok(Some(Tokenizer::load(path)?)),
        "json" => match Tokenizer::load(path) {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(error) => Err(format!(
                "{error}; a .json file is taken for a tokenizer, text in lines of JSON is read from .jsonl"
            )
            .into()),
        },
        "txt" | "md" | "jsonl" | "ndjson" | "parquet" | "tokens" | "gz" | "gzip" | "zst" | "zstd" => Ok(None),
        _ if metadata.len() > TOKENIZER_BYTES => Ok(None),
        _ => Ok(Tokenizer::load(path).ok()),
    }
}

fn find(args: &InspectArgs, path: &Path, progress: Told<'_>) -> Result<Found> {
    if path.join("dataset.json").is_file() {
        let Dataset { tokenizer, train, valid, info, .. } = Dataset::open(path)?;
        let about = vec![("prepared_from", json!(info.source)), ("split_rule", json!(info.split_rule))];
        return Ok(token_files(
            args,
            about,
            &tokenizer,
            vec![("train", vec![train]), ("valid", vec![valid])],
            progress,
        ));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if path.is_file() && (["tokens", "bin"].contains(&ending) || TokenShard::has_header(path)) {
        let tokenizer = tokenizer_of(path, args.tokenizer.as_deref())?;
        let shard = Arc::new(TokenShard::open_ids(path, &tokenizer)?);
        return Ok(token_files(args, Vec::new(), &tokenizer, vec![("tokens", vec![shard])], progress));
    }
    let corpus = corpus(args)?;
    if corpus.holds_token_ids() {
        let tokenizer = tokenizer_of(&path.join("ids.bin"), args.tokenizer.as_deref())
            .map_err(|_| data::Error::NoTokenizer { path: path.to_owned() })?;
        let open = |files: &[PathBuf]| {
            let open = |file: &PathBuf| TokenShard::open_ids(file, &tokenizer).map(Arc::new);
            files.iter().map(open).collect::<data::Result<Vec<_>>>()
        };
        let files = |split| corpus.token_files(split).map(open).transpose();
        let parts = match (files(Split::Train)?.unwrap_or_default(), files(Split::Valid)?) {
            (train, Some(valid)) => vec![("train", train), ("valid", valid)],
            (all, None) => vec![("tokens", all)],
        };
        return Ok(token_files(args, Vec::new(), &tokenizer, parts, progress));
    }
    text(args, &corpus, progress)
}

/// The tokenizer that was named, or the one beside the file.
fn tokenizer_of(path: &Path, given: Option<&Path>) -> Result<Tokenizer> {
    let beside = path.with_file_name(run_dir::TOKENIZER);
    match given {
        Some(file) => Ok(Tokenizer::load(file)?),
        None if beside.is_file() => Ok(Tokenizer::load(&beside)?),
        None => Err(Box::new(data::Error::NoTokenizer { path: path.to_owned() })),
    }
}

fn token_files(
    args: &InspectArgs,
    mut about: Vec<(&'static str, Value)>,
    tokenizer: &Tokenizer,
    parts: Vec<(&'static str, Vec<Arc<TokenShard>>)>,
    progress: Told<'_>,
) -> Found {
    about.push(("tokenizer_hash", json!(tokenizer.hash())));
    let profile = |shards: Vec<Arc<TokenShard>>| {
        let mut profiler = Profiler::new(args.samples, tokenizer.vocab_size());
        for shard in shards {
            let documents = DocumentIndex::new(&shard, tokenizer.bos_id(), &[]);
            profiler.add_shard(&shard, &documents, tokenizer, progress);
        }
        profiler.finish(Some(tokenizer), args.top)
    };
    Found { about, parts: parts.into_iter().map(|(name, shards)| (name, profile(shards))).collect() }
}

/// The text that was named.
fn corpus(args: &InspectArgs) -> Result<Corpus> {
    let source: Source = text_source(&args.source)?.parse()?;
    let options = ReadOptions { column: args.column.clone(), lenient: args.lenient };
    match &source {
        // To look is no reason to download.
        Source::Hub(hub) => {
            let offline = HubOptions { offline: true, ..HubOptions::from_env() };
            let files = data::hub::fetch(hub, &offline, &cache::dir()?, &|_| ())
                .map_err(|error| format!("{error}; `anneal data prepare {source}` downloads it"))?;
            Ok(Corpus::of_hub(hub, &files, &options)?)
        }
        source => match Corpus::open_with(source, &options) {
            Err(error @ data::Error::Source { .. }) => Err(format!("{error}; {ALSO}").into()),
            corpus => Ok(corpus?),
        },
    }
}

/// What a source of text holds.
fn text(args: &InspectArgs, corpus: &Corpus, progress: Told<'_>) -> Result<Found> {
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
    let mut passed_over = data::ReadReport { others: corpus.others().clone(), ..Default::default() };
    let mut parts = Vec::new();
    for (name, split) in [("train", Split::Train), ("valid", Split::Valid)] {
        let mut profiler = Profiler::new(args.samples, tokenizer.as_ref().map_or(0, Tokenizer::vocab_size));
        let mut documents = corpus.documents(split);
        let mut bytes = 0;
        loop {
            let (mut batch, mut batch_bytes) = (Vec::new(), 0);
            while batch.len() < BATCH && batch_bytes < BATCH_BYTES {
                let Some(document) = documents.next() else { break };
                let text = document?.text;
                batch_bytes += text.len();
                batch.push(text);
            }
            if batch.is_empty() {
                break;
            }
            let ids =
                tokenizer.as_ref().map_or_else(Vec::new, |tokenizer| tokenizer.encode_documents(&batch));
            for (at, text) in batch.iter().enumerate() {
                profiler.add(text.as_bytes(), ids.get(at).map_or(&[], Vec::as_slice));
            }
            bytes += batch_bytes as u64;
            progress(bytes, documents.estimate(bytes));
        }
        if split == Split::Train || !corpus.shares_files() {
            passed_over = passed_over.and(documents.report());
        }
        parts.push((name, profiler.finish(tokenizer.as_ref(), args.top)));
    }
    let about = vec![("split_rule", json!(corpus.split_rule())), ("passed_over", json!(passed_over.lines()))];
    Ok(Found { about, parts })
}

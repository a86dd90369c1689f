//! `anneal data inspect`: what a corpus, a file of tokens or a tokenizer holds.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use data::inspect::{Lengths, Profile, Profiler, TokenCount, TokenProfile};
use data::{Corpus, Dataset, DocumentIndex, HubOptions, ReadOptions, Source, Split, TokenShard, Tokenizer};
use serde_json::{Value, json};
use train::run_dir;

use super::text_source;
use crate::args::InspectArgs;
use crate::progress::{Progress, Style};
use crate::table::Table;
use crate::{Result, cache};

/// Columns where there is no terminal to ask.
const COLUMNS: usize = 80;
/// Documents that are encoded at a time.
const BATCH: usize = 512;
/// Eighths of a block.
const BLOCKS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// What was found in one part of a source.
struct Part {
    name: &'static str,
    profile: Profile,
}

pub(crate) fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result {
    let path = Path::new(&args.source);
    if let Some(file) = tokenizer_file(path) {
        return show_tokenizer(args, &Tokenizer::load(&file)?, out);
    }
    let progress = RefCell::new(Progress::new(Style::choose(false, args.json), String::new()));
    let told = |bytes| progress.borrow_mut().preparing(&data::Progress::Counting { bytes });
    let (about, parts) = match token_file(path, args.tokenizer.as_deref())? {
        Some(parts) => parts.profile(args, &told)?,
        None => {
            let tokenizer = args.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
            corpus(args, tokenizer.as_ref(), &told)?
        }
    };
    progress.borrow().finish();
    if args.json {
        let mut object = json!({ "source": args.source });
        for (key, value) in about {
            object[key] = value;
        }
        for part in &parts {
            object[part.name] = serde_json::to_value(&part.profile)?;
        }
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let width =
        terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0)).clamp(40, 120);
    write!(out, "{}", counts(&parts))?;
    for (key, value) in about.iter().filter(|(key, _)| *key != "passed_over") {
        writeln!(out, "{:<10}  {}", key.replace('_', " "), value.as_str().unwrap_or_default())?;
    }
    for (_, value) in about.iter().filter(|(key, _)| *key == "passed_over") {
        for line in value.as_array().into_iter().flatten() {
            writeln!(out, "{}", line.as_str().unwrap_or_default())?;
        }
    }
    for Part { name, profile } in &parts {
        if profile.documents == 0 {
            continue;
        }
        writeln!(out, "\nBytes of a document, {name}\n")?;
        write!(out, "{}", histogram(&profile.lengths, width))?;
        let again = &profile.duplicates;
        if again.documents > 0 {
            let share = again.documents as f64 / profile.documents as f64 * 100.0;
            writeln!(
                out,
                "\n{} documents ({share:.1}%) equal an earlier one; the most frequent is there {} times:\n",
                again.documents, again.most
            )?;
            writeln!(out, "  {}", shortened(&again.example, width - 2))?;
        }
    }
    for Part { name, profile } in &parts {
        if let Some(tokens) = profile.tokens.as_ref().filter(|tokens| tokens.tokens > 0) {
            writeln!(out, "\nTokens, {name}\n\n{}", token_table(tokens).text().trim_end())?;
        }
    }
    for Part { name, profile } in parts.iter().filter(|part| !part.profile.samples.is_empty()) {
        writeln!(out, "\nSamples, {name}")?;
        for sample in &profile.samples {
            writeln!(out, "\n{}", indented(sample))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokenizer that `path` names, if it is one: a file, or the folder of a run.
fn tokenizer_file(path: &Path) -> Option<std::path::PathBuf> {
    let inside = path.join(run_dir::TOKENIZER);
    if path.is_dir() && inside.is_file() && !path.join("dataset.json").exists() {
        return Some(inside);
    }
    let name = path.file_name()?.to_str()?;
    let is = name == "tokenizer.bin" || name.ends_with(".json") || name.ends_with(".tiktoken");
    (is && path.is_file()).then(|| path.to_owned())
}

/// Files of tokens and what they are read with.
struct TokenFiles {
    about: Vec<(&'static str, Value)>,
    tokenizer: Tokenizer,
    parts: Vec<(&'static str, std::sync::Arc<TokenShard>, Vec<u64>)>,
}

/// `None` when `path` is no file of tokens.
fn token_file(path: &Path, given: Option<&Path>) -> Result<Option<TokenFiles>> {
    if path.join("dataset.json").is_file() {
        let Dataset { tokenizer, train, valid, info, .. } = Dataset::open(path)?;
        let about = vec![("prepared_from", json!(info.source)), ("split_rule", json!(info.split_rule))];
        let parts = vec![("train", train, info.train.groups), ("valid", valid, info.valid.groups)];
        return Ok(Some(TokenFiles { about, tokenizer, parts }));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !path.is_file() || !["tokens", "bin"].contains(&ending) {
        return Ok(None);
    }
    let beside = path.with_file_name(run_dir::TOKENIZER);
    let tokenizer = match given {
        Some(file) => Tokenizer::load(file)?,
        None if beside.is_file() => Tokenizer::load(&beside)?,
        None => return Err(Box::new(data::Error::NoTokenizer { path: path.to_owned() })),
    };
    let shard = match ending {
        "tokens" => TokenShard::open_for(path, &tokenizer)?,
        _ => TokenShard::open_raw_u16(path, tokenizer.vocab_size())?,
    };
    Ok(Some(TokenFiles { about: Vec::new(), tokenizer, parts: vec![("tokens", shard.into(), Vec::new())] }))
}

type Found = (Vec<(&'static str, Value)>, Vec<Part>);

impl TokenFiles {
    fn profile(self, args: &InspectArgs, progress: &dyn Fn(u64)) -> Result<Found> {
        let TokenFiles { mut about, tokenizer, parts } = self;
        about.push(("tokenizer_hash", json!(tokenizer.hash())));
        let profile = |(name, shard, groups): (&'static str, std::sync::Arc<TokenShard>, Vec<u64>)| {
            let documents = DocumentIndex::new(&shard, tokenizer.bos_id(), &groups);
            let profile =
                data::inspect::tokens(&shard, &documents, &tokenizer, args.samples, args.top, progress);
            Part { name, profile }
        };
        Ok((about, parts.into_iter().map(profile).collect()))
    }
}

/// What a source of text holds.
fn corpus(args: &InspectArgs, tokenizer: Option<&Tokenizer>, progress: &dyn Fn(u64)) -> Result<Found> {
    let source: Source = text_source(&args.source)?.parse()?;
    let options = ReadOptions { column: args.column.clone(), lenient: args.lenient };
    let corpus = match &source {
        // To look is no reason to download.
        Source::Hub(hub) => {
            let offline = HubOptions { offline: true, ..HubOptions::from_env() };
            let files = data::hub::fetch(hub, &offline, &cache::dir()?, &|_| ())
                .map_err(|error| format!("{error}; `anneal data prepare {source}` downloads it"))?;
            Corpus::of_hub(hub, &files, &options)?
        }
        source => Corpus::open_with(source, &options)?,
    };
    let mut about = vec![("split_rule", json!(corpus.split_rule()))];
    let mut passed_over = data::ReadReport::default();
    let mut parts = Vec::new();
    let mut bytes = 0;
    for (name, split) in [("train", Split::Train), ("valid", Split::Valid)] {
        let mut profiler = Profiler::new(args.samples, tokenizer.map_or(0, Tokenizer::vocab_size));
        let mut documents = corpus.documents(split);
        loop {
            let batch: Vec<String> =
                documents.by_ref().take(BATCH).map(|d| Ok(d?.text)).collect::<Result<_, data::Error>>()?;
            if batch.is_empty() {
                break;
            }
            let ids = tokenizer.map_or_else(Vec::new, |tokenizer| tokenizer.encode_documents(&batch));
            for (at, text) in batch.iter().enumerate() {
                profiler.add(text, ids.get(at).map_or(&[], Vec::as_slice));
                bytes += text.len() as u64;
            }
            progress(bytes);
        }
        if split == Split::Train || !corpus.shares_files() {
            passed_over = passed_over.and(documents.report());
        }
        parts.push(Part { name, profile: profiler.finish(tokenizer, args.top) });
    }
    about.push(("passed_over", json!(passed_over.lines())));
    Ok((about, parts))
}

/// A line for each part.
fn counts(parts: &[Part]) -> String {
    let with_tokens = parts.iter().any(|part| part.profile.tokens.is_some());
    let mut head = vec!["", "documents", "characters", "bytes"];
    if with_tokens {
        head.extend(["tokens", "bytes/token", "absent"]);
    }
    let mut table = Table::new(1, &head);
    for Part { name, profile } in parts {
        let mut row = vec![(*name).to_owned()];
        row.extend([profile.documents, profile.characters, profile.bytes].map(grouped));
        if with_tokens {
            let tokens = profile.tokens.clone().unwrap_or_default();
            row.extend([
                grouped(tokens.tokens),
                format!("{:.3}", tokens.bytes_per_token),
                grouped(tokens.absent),
            ]);
        }
        table.row(row);
    }
    table.text()
}

fn token_table(tokens: &TokenProfile) -> Table {
    let mut table =
        Table::new(1, &["most frequent", "id", "times", "share", "", "least frequent", "id", "times"]);
    let share = |token: &TokenCount| format!("{:.2}%", token.count as f64 / tokens.tokens as f64 * 100.0);
    let rows = tokens.most_frequent.len().max(tokens.least_frequent.len());
    for at in 0..rows {
        let mut row = match tokens.most_frequent.get(at) {
            Some(token) => {
                vec![escaped(&token.text), token.id.to_string(), grouped(token.count), share(token)]
            }
            None => vec![String::new(); 4],
        };
        row.push(String::new());
        row.extend(match tokens.least_frequent.get(at) {
            Some(token) => vec![escaped(&token.text), token.id.to_string(), grouped(token.count)],
            None => vec![String::new(); 3],
        });
        table.row(row);
    }
    table
}

fn show_tokenizer(args: &InspectArgs, tokenizer: &Tokenizer, out: &mut dyn Write) -> Result {
    let found = data::inspect::tokenizer(tokenizer, args.top);
    if args.json {
        writeln!(out, "{}", serde_json::to_value(&found)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let width =
        terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0)).clamp(40, 120);
    writeln!(
        out,
        "vocabulary  {} tokens, {} of them special; {} begins a document",
        grouped(found.vocab_size as u64),
        found.special,
        found.bos_id
    )?;
    writeln!(out, "hash        {}", found.hash)?;
    writeln!(out, "\nBytes of a token\n\n{}", histogram(&found.lengths, width).trim_end())?;
    let mut table = Table::new(1, &["longest", "id", "bytes"]);
    for token in &found.longest {
        table.row(vec![
            shortened(&escaped(&token.text), width / 2),
            token.id.to_string(),
            token.count.to_string(),
        ]);
    }
    writeln!(out, "\n{}", table.text().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// A bar for each power of two that occurs, and those between.
fn histogram(lengths: &Lengths, width: usize) -> String {
    let first = lengths.0.iter().position(|count| *count > 0).unwrap_or(0);
    let most = lengths.0.iter().copied().max().unwrap_or(0).max(1);
    let all: u64 = lengths.0.iter().sum();
    let mut table = Table::new(0, &["from", "to", "number", "share"]);
    for (bucket, count) in lengths.0.iter().enumerate().skip(first) {
        let (from, to) = (1_u64 << bucket, (1_u64 << bucket) * 2 - 1);
        let share = *count as f64 / all.max(1) as f64 * 100.0;
        table.row(vec![grouped(from), grouped(to), grouped(*count), format!("{share:.1}%")]);
    }
    let text = table.text();
    let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let room = width.saturating_sub(columns + 2).max(8);
    let bars = std::iter::once(String::new())
        .chain(lengths.0.iter().skip(first).map(|count| bar(*count as f64 / most as f64, room)));
    text.lines()
        .zip(bars)
        .map(|(line, bar)| format!("{line:<columns$}  {bar}").trim_end().to_owned() + "\n")
        .collect()
}

/// A bar of `share` of `room` columns; what is there at all shows.
fn bar(share: f64, room: usize) -> String {
    let mut eighths = (share * room as f64 * 8.0).round() as usize;
    if share > 0.0 {
        eighths = eighths.max(1);
    }
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(BLOCKS[eighths % 8]);
    }
    bar
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A token so that spaces and line ends show.
fn escaped(text: &str) -> String {
    if text.is_empty() { "(special)".into() } else { format!("{text:?}") }
}

fn shortened(text: &str, most: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(2)).collect::<String>() + " …"
}

fn indented(text: &str) -> String {
    text.trim().lines().map(|line| format!("  {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_aligned_and_as_wide_as_asked() {
        let text = histogram(&Lengths(vec![0, 0, 1, 0, 4000]), 40);
        let expected = "from  to  number   share\n\
                        \u{20}  4   7       1    0.0%  ▏\n\
                        \u{20}  8  15       0    0.0%\n\
                        \u{20} 16  31   4,000  100.0%  ██████████████\n";
        assert_eq!(text, expected);
        assert_eq!([0.0, 0.5, 1.0].map(|share| bar(share, 3)), ["", "█▌", "███"]);
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}

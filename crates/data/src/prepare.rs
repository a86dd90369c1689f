//! From a source to a data set that training can map: tokenizer, training shard, validation shard, cached on disk.
//!
//! A data set is a folder `<cache>/datasets/<name>-<key>` with `tokenizer.json`, `train.tokens`, `valid.tokens` and
//! `dataset.json`. The key is a hash of everything that the contents depend on (names, sizes and modification times of
//! the files, or the stories' seed, size and grammar; vocabulary; tokenizer), so a second run finds it at once and a
//! changed file makes a new one. The folder is built under a temporary name and renamed when it is whole and synced; of
//! two processes that build the same one at once, the later finds the earlier's and throws its own away.

use crate::corpus::{Corpus, Document, Kind, ReadOptions, ReadReport, Source, TEXT_TRAIN_SHARE};
use crate::hub::{self, HubOptions, LocalFile};
use crate::tokenizer::bpe::WordCounts;
use crate::tokenizer::{ByteCount, TRAIN_DOCUMENT_CHARS, first_chars};
use crate::{
    DocumentIndex, Error, Result, ShardWriter, Split, TokenShard, Tokenizer, Vocabulary, stories, whole,
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Changes whenever the contents of a prepared folder would change for the same inputs.
const FORMAT: u32 = 4;
/// Bytes of text held in memory at a time.
const BATCH_BYTES: usize = 8 << 20;
/// Token ids held in memory at a time.
const TOKENS_AT_ONCE: usize = 1 << 20;
/// Vocabulary for the stories, and for other corpora below [`SMALL_BYTES`].
pub const SMALL_VOCAB: usize = 2048;
/// Vocabulary for other corpora (autoresearch's).
pub const LARGE_VOCAB: usize = 8192;
/// A corpus with fewer training bytes gets the smaller vocabulary: 8,192 tokens would be too rare to be learned.
pub const SMALL_BYTES: u64 = 4_000_000;
/// autoresearch takes no further document for its tokenizer when it has this many characters.
pub const TOKENIZER_CHARS: u64 = 1_000_000_000;

/// What to prepare and where to keep it.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Where the text comes from.
    pub source: Source,
    /// The tokenizer.
    pub tokenizer: TokenizerChoice,
    /// A tokenizer is trained on documents until these are so many characters, the last one included (as autoresearch
    /// does it; its number is [`TOKENIZER_CHARS`]).
    pub tokenizer_chars: u64,
    /// The cache; `datasets/` inside it is created when needed.
    pub cache_dir: PathBuf,
    /// How public data sets are downloaded.
    pub hub: HubOptions,
    /// How files are read.
    pub read: ReadOptions,
}

/// Which tokenizer to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// Train one: with this vocabulary size exactly (an error when the text cannot give it), or with the default one
    /// ([`SMALL_VOCAB`] or [`LARGE_VOCAB`], smaller when the text gives less).
    Train {
        /// Vocabulary size, bytes and special tokens included.
        vocab_size: Option<usize>,
    },
    /// Use this `tokenizer.json`.
    File(PathBuf),
}

impl PrepareOptions {
    /// The defaults for a source: a trained tokenizer of the default size.
    pub fn new(source: Source, cache_dir: impl Into<PathBuf>) -> Self {
        let tokenizer = TokenizerChoice::Train { vocab_size: None };
        PrepareOptions {
            source,
            tokenizer,
            tokenizer_chars: TOKENIZER_CHARS,
            cache_dir: cache_dir.into(),
            hub: HubOptions::from_env(),
            read: ReadOptions::default(),
        }
    }
}

/// How far a preparation is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Files of a public data set come from the network.
    Downloading {
        /// Bytes that are here.
        bytes: u64,
        /// All bytes, estimated as long as not every file's size is known.
        total: u64,
        /// Files that are whole.
        done: usize,
        /// Files that were missing.
        files: usize,
    },
    /// A download failed, and is tried again.
    Retrying(String),
    /// The data set was in the cache.
    Cached,
    /// A cached data set could not be used and is prepared again, and why.
    Rebuilding(String),
    /// Counting words for the tokenizer; bytes of text read so far.
    Counting {
        /// Bytes of text so far.
        bytes: u64,
        /// All bytes, estimated.
        total: u64,
    },
    /// Learning merges, from this many different words.
    Merging {
        /// Different words.
        words: usize,
    },
    /// Writing tokens of one split.
    Encoding {
        /// The split.
        split: Split,
        /// Bytes of text so far.
        bytes: u64,
        /// All bytes, estimated.
        total: u64,
        /// Tokens so far.
        tokens: u64,
    },
}

/// A prepared data set.
#[derive(Debug)]
pub struct Dataset {
    /// Its folder.
    pub dir: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The training tokens: every document with BOS in front, in order.
    pub train: Arc<TokenShard>,
    /// The validation tokens, likewise.
    pub valid: Arc<TokenShard>,
    /// What was counted.
    pub info: DatasetInfo,
    /// The tokens that a model of this data has rows for; `None` for all.
    pub vocabulary: Option<Arc<Vocabulary>>,
}

/// The contents of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// The source as the user named it.
    pub source: String,
    /// How validation was held out.
    pub split_rule: String,
    /// The tokenizer's hash.
    pub tokenizer_hash: String,
    /// What was passed over.
    #[serde(default)]
    pub passed_over: ReadReport,
    /// The training split.
    pub train: SplitInfo,
    /// The validation split.
    pub valid: SplitInfo,
    /// For the stories: `-log2 P(validation text) / bytes` of exactly the validation text, the best that any model can
    /// reach on it up to luck. Bits per byte.
    pub bound_bits_per_byte: Option<f64>,
}

/// The size of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// Documents.
    pub documents: u64,
    /// Bytes of text in UTF-8.
    pub bytes: u64,
    /// Tokens, one BOS per document included.
    pub tokens: u64,
    /// Documents in each group (see [`DocumentIndex`]), in order.
    #[serde(default)]
    pub groups: Vec<u64>,
}

/// Prepares a data set, or finds it in the cache. `progress` is called often and should return quickly.
///
/// ```no_run
/// use data::{PrepareOptions, Source, prepare};
/// let dataset = prepare(&PrepareOptions::new(Source::stories(1), "/tmp/cache"), &|_| ())?;
/// println!("{} tokens, bound {:?}", dataset.train.len(), dataset.info.bound_bits_per_byte);
/// # Ok::<(), data::Error>(())
/// ```
///
/// # Errors
/// [`Error::Cache`] when the cache cannot be written; what is wrong with the text or the tokenizer.
pub fn prepare(options: &PrepareOptions, progress: &dyn Fn(Progress)) -> Result<Dataset> {
    // Not the whole cache directory: a person's own text may lie in it.
    let folder = options.cache_dir.join("datasets");
    let downloads = options.cache_dir.join("downloads");
    prepare_in_cache(options, &folder, progress)
        .map_err(|error| error.in_cache(&options.cache_dir, &[&folder, &downloads]))
}

fn prepare_in_cache(options: &PrepareOptions, folder: &Path, progress: &dyn Fn(Progress)) -> Result<Dataset> {
    let (corpus, downloaded) = match &options.source {
        Source::Hub(source) => {
            let files = hub::fetch(source, &options.hub, &options.cache_dir, progress)?;
            (Corpus::of_hub(source, &files, &options.read)?, files)
        }
        source => (Corpus::open_with(source, &options.read)?, Vec::new()),
    };
    let given = match &options.tokenizer {
        TokenizerChoice::File(path) => Some(Tokenizer::load(path)?),
        TokenizerChoice::Train { .. } => None,
    };
    let key = cache_key(&corpus, &downloaded, options, given.as_ref())?;
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let dir = folder.join(format!("{}-{}", folder_name(&options.source), &key[..16]));
    if dir.exists() {
        match Dataset::open(&dir) {
            Ok(mut dataset) => {
                // What lies beside the data may be something else today.
                dataset.info.passed_over.others = corpus.others().clone();
                progress(Progress::Cached);
                return Ok(dataset);
            }
            Err(why) => progress(Progress::Rebuilding(why.to_string())),
        }
    }
    remove_abandoned(folder);
    let building = Building(whole::temporary(&dir));
    fs::create_dir(&building.0).map_err(Error::io(&building.0, "create the folder"))?;
    build(&corpus, options, given, &building.0, progress)?;
    for _ in 0..3 {
        if fs::rename(&building.0, &dir).is_ok() {
            whole::sync_folder(&dir);
            break;
        }
        // Somebody else's stands there: theirs is as good as ours, unless it is the one that could not be used.
        if let Ok(dataset) = Dataset::open(&dir) {
            return Ok(dataset);
        }
        let broken = whole::temporary(&dir);
        if fs::rename(&dir, &broken).is_ok() {
            let _ = fs::remove_dir_all(&broken);
        }
    }
    Dataset::open(&dir)
}

impl Dataset {
    /// Leaves out of the model's vocabulary what does not occur in the training tokens.
    pub fn compact_vocabulary(&mut self) {
        self.vocabulary = Some(Arc::new(Vocabulary::of_shard(&self.train, self.tokenizer.bos_id())));
    }

    /// Rows of a model's embedding and classifier for this data.
    pub fn vocab_rows(&self) -> usize {
        self.vocabulary.as_ref().map_or(self.tokenizer.vocab_size(), |vocabulary| vocabulary.rows())
    }

    /// Where the documents of a split are in its tokens.
    pub fn documents(&self, split: Split) -> DocumentIndex {
        let (shard, info) = match split {
            Split::Train => (&self.train, &self.info.train),
            Split::Valid => (&self.valid, &self.info.valid),
        };
        DocumentIndex::new(shard, self.tokenizer.bos_id(), &info.groups)
    }

    /// Opens a prepared folder; checks that its parts belong together, not every byte (see [`TokenShard::verify`]).
    pub fn open(dir: &Path) -> Result<Dataset> {
        let path = dir.join("dataset.json");
        let json = fs::read_to_string(&path).map_err(Error::io(&path, "read it"))?;
        let info: DatasetInfo = serde_json::from_str(&json).map_err(|e| Error::Source {
            path: path.clone(),
            why: format!("it does not describe a prepared data set ({e}); prepare it again"),
        })?;
        let tokenizer = Tokenizer::load(&dir.join("tokenizer.json"))?;
        let open = |name: &str, split: &SplitInfo| -> Result<TokenShard> {
            let shard = TokenShard::open_for(&dir.join(name), &tokenizer)?;
            if shard.len() as u64 != split.tokens {
                return Err(Error::Shard {
                    path: shard.path().to_path_buf(),
                    field: "count",
                    found: shard.len().to_string(),
                    expected: format!("{} (dataset.json)", split.tokens),
                    remedy: "prepare the data again".into(),
                });
            }
            // A flipped bit would be trained on in silence; the checksum costs a fraction of a second.
            shard.verify()?;
            Ok(shard)
        };
        let train = Arc::new(open("train.tokens", &info.train)?);
        let valid = Arc::new(open("valid.tokens", &info.valid)?);
        Ok(Dataset { dir: dir.to_path_buf(), tokenizer, train, valid, info, vocabulary: None })
    }
}

/// Removes the folder under construction when it is not renamed, whatever happens.
struct Building(PathBuf);

impl Drop for Building {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what killed processes left behind; nothing takes a day to build.
fn remove_abandoned(folder: &Path) {
    let day = Duration::from_secs(24 * 3600);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if name.starts_with('.') && name.ends_with(".tmp") && age.is_some_and(|age| age > day) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Letters, digits and dashes of the source's last part, for people who look into the cache.
fn folder_name(source: &Source) -> String {
    let name = match source {
        Source::Stories { .. } => "stories".into(),
        Source::Hub(source) => source.id().rsplit('/').next().unwrap_or_default().into(),
        Source::Path(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.split('.').next().unwrap_or_default().to_owned()
        }
    };
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').take(40).collect();
    if name.is_empty() { "data".into() } else { name }
}

fn cache_key(
    corpus: &Corpus,
    downloaded: &[LocalFile],
    options: &PrepareOptions,
    given: Option<&Tokenizer>,
) -> Result<String> {
    let mut hash = Sha256::new();
    // Every part ends with a zero byte, which occurs in none, so that no two lists of parts look alike.
    let mut part = |text: &str| {
        hash.update(text.as_bytes());
        hash.update([0]);
    };
    part(&format!("format {FORMAT}"));
    match corpus.source() {
        Source::Stories { seed, train_bytes, valid_bytes } => {
            part(&format!("stories {seed} {train_bytes} {valid_bytes}"));
            part(stories::GRAMMAR);
        }
        Source::Hub(source) => {
            part(&source.to_string());
            downloaded.iter().for_each(|file| part(&format!("{} {} {}", file.name, file.etag, file.size)));
            part(&corpus.split_rule());
        }
        Source::Path(_) => {
            for file in corpus.files() {
                let about = fs::metadata(file).map_err(Error::io(file, "look at it"))?;
                let modified = about.modified().map_err(Error::io(file, "ask when it was changed"))?;
                let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
                let whole = fs::canonicalize(file).map_err(Error::io(file, "find its full path"))?;
                part(&whole.to_string_lossy());
                part(&format!("{} {modified}", about.len()));
            }
            part(&corpus.split_rule());
        }
    }
    part(&format!("{:?}", options.read));
    match (&options.tokenizer, given) {
        (_, Some(tokenizer)) => part(tokenizer.hash()),
        (choice, None) => part(&format!("{choice:?} {}", options.tokenizer_chars)),
    }
    Ok(crate::tokenizer::hex(&hash.finalize()))
}

fn build(
    corpus: &Corpus,
    options: &PrepareOptions,
    given: Option<Tokenizer>,
    dir: &Path,
    progress: &dyn Fn(Progress),
) -> Result<()> {
    let tokenizer = match given {
        Some(tokenizer) => tokenizer,
        None if corpus.kind() == Kind::TokenIds => {
            let file = corpus.files().next().unwrap_or(Path::new("")).to_owned();
            return Err(Error::NoTokenizer { path: file });
        }
        None => train_tokenizer(corpus, options, progress)?,
    };
    tokenizer.save(&dir.join("tokenizer.json"))?;
    let mut info = DatasetInfo {
        source: options.source.to_string(),
        split_rule: corpus.split_rule(),
        tokenizer_hash: tokenizer.hash().into(),
        passed_over: ReadReport { others: corpus.others().clone(), ..ReadReport::default() },
        train: SplitInfo::default(),
        valid: SplitInfo::default(),
        bound_bits_per_byte: None,
    };
    let mut log2_probability = 0.0;
    for (split, name) in [(Split::Train, "train.tokens"), (Split::Valid, "valid.tokens")] {
        let mut writer = ShardWriter::create(&dir.join(name), &tokenizer)?;
        let mut size = SplitInfo::default();
        if corpus.kind() == Kind::TokenIds {
            size = token_files(corpus, split, &tokenizer, &mut writer, progress)?;
        }
        let report = batches(corpus, split, |batch, total| {
            for (document, ids) in batch.iter().zip(tokenizer.encode_documents(&batch)) {
                size.tokens += ids.len() as u64;
                size.bytes += document.text.len() as u64;
                match size.groups.last_mut() {
                    Some(documents) if !document.begins_group => *documents += 1,
                    _ => size.groups.push(1),
                }
                writer.push(&ids)?;
            }
            size.documents += batch.len() as u64;
            progress(Progress::Encoding { split, bytes: size.bytes, total, tokens: size.tokens });
            if split == Split::Valid && matches!(options.source, Source::Stories { .. }) {
                // From the text alone, by the recogniser: the bound is that of the text which stands in the shard.
                let log2: Option<Vec<f64>> =
                    batch.par_iter().map(|story| stories::log2_probability(&story.text)).collect();
                log2_probability += log2.expect("the grammar says its own stories").iter().sum::<f64>();
            }
            Ok(true)
        })?;
        if split == Split::Train || !corpus.shares_files() {
            info.passed_over = info.passed_over.and(report.clone());
        }
        if size.documents == 0 {
            return Err(nothing_left(corpus, split, &report));
        }
        writer.finish()?;
        match split {
            Split::Train => info.train = size,
            Split::Valid => info.valid = size,
        }
    }
    if let Source::Stories { .. } = options.source {
        info.bound_bits_per_byte = Some(-log2_probability / info.valid.bytes as f64);
    }
    let json = serde_json::to_string_pretty(&info).expect("numbers and strings can be written");
    whole::write(&dir.join("dataset.json"), json.as_bytes())
}

fn train_tokenizer(
    corpus: &Corpus,
    options: &PrepareOptions,
    progress: &dyn Fn(Progress),
) -> Result<Tokenizer> {
    let TokenizerChoice::Train { vocab_size } = options.tokenizer else {
        unreachable!("a tokenizer is trained only when none is given")
    };
    let (mut counts, mut chars, mut bytes) = (WordCounts::default(), 0u64, 0u64);
    let report = batches(corpus, Split::Train, |batch, total| {
        let mut texts: Vec<&str> = Vec::new();
        for Document { text, .. } in &batch {
            bytes += text.len() as u64;
            if chars < options.tokenizer_chars {
                let text = first_chars(text, TRAIN_DOCUMENT_CHARS);
                chars += text.chars().count() as u64;
                texts.push(text);
            }
        }
        let count = |texts: &[&str]| {
            let mut counts = WordCounts::default();
            texts.iter().for_each(|text| counts.add(text));
            counts
        };
        // A few large parts: merging the counts costs as much as there are different words in each.
        let parts = texts.len().div_ceil(rayon::current_num_threads()).max(1);
        let new = texts.par_chunks(parts).map(count).reduce(WordCounts::default, WordCounts::merge);
        counts = std::mem::take(&mut counts).merge(new);
        progress(Progress::Counting { bytes, total });
        Ok(chars < options.tokenizer_chars)
    })?;
    progress(Progress::Merging { words: counts.0.len() });
    let small = matches!(options.source, Source::Stories { .. }) || bytes < SMALL_BYTES;
    let default = if small { SMALL_VOCAB } else { LARGE_VOCAB };
    if counts.0.is_empty() {
        return Err(nothing_left(corpus, Split::Train, &report));
    }
    Tokenizer::from_counts(&counts, vocab_size.unwrap_or(default), vocab_size.is_some())
}

/// A split without a document, and what was passed over on the way to that.
fn nothing_left(corpus: &Corpus, split: Split, report: &ReadReport) -> Error {
    let (what, repair) = match split {
        Split::Train if corpus.shares_files() => (
            "there is no document to train on",
            "give a source with more text in it: of a single document nothing is left to train on",
        ),
        Split::Train => ("there is no document to train on", "give a source with text in it"),
        Split::Valid => (
            "nothing is left to validate on",
            "add text, or a file named valid.txt, valid.jsonl or valid.parquet",
        ),
    };
    let report = ReadReport { others: corpus.others().clone(), ..report.clone() };
    let passed_over: String = report.lines().iter().map(|line| format!("; {line}")).collect();
    let why = format!("{what} ({}); {repair}{passed_over}", corpus.split_rule());
    Error::NoText { path: corpus.source().to_string().into(), why }
}

/// Hands a split's texts to `take` in batches of about [`BATCH_BYTES`], each with an estimate of the bytes of all of them,
/// until it says false. Says what was passed over.
fn batches(
    corpus: &Corpus,
    split: Split,
    mut take: impl FnMut(Vec<Document>, u64) -> Result<bool>,
) -> Result<ReadReport> {
    if corpus.kind() == Kind::TokenIds {
        return Ok(ReadReport::default());
    }
    if let Source::Stories { seed, train_bytes, valid_bytes } = *corpus.source() {
        let bytes = if split == Split::Train { train_bytes } else { valid_bytes };
        return story_batches(seed, split, bytes, take).map(|()| ReadReport::default());
    }
    let (mut batch, mut bytes, mut all) = (Vec::new(), 0, 0);
    let mut documents = corpus.documents(split);
    while let Some(document) = documents.next() {
        let document = document?;
        bytes += document.text.len();
        batch.push(document);
        if bytes >= BATCH_BYTES {
            all += std::mem::take(&mut bytes) as u64;
            if !take(std::mem::take(&mut batch), documents.estimate(all))? {
                return Ok(documents.report());
            }
        }
    }
    if !batch.is_empty() {
        take(batch, all + bytes as u64)?;
    }
    Ok(documents.report())
}

/// Copies the ids of a split's files, every one of them checked, and counts what they stand for. Each file is a group.
fn token_files(
    corpus: &Corpus,
    split: Split,
    tokenizer: &Tokenizer,
    writer: &mut ShardWriter,
    progress: &dyn Fn(Progress),
) -> Result<SplitInfo> {
    let (bos, bytes_of) = (tokenizer.bos_id(), tokenizer.byte_table(ByteCount::Raw));
    let mut size = SplitInfo::default();
    let files = corpus.token_files(split).or(corpus.token_files(Split::Train)).unwrap_or_default();
    for file in files {
        let shard = TokenShard::open_ids(file, tokenizer)?;
        let cut = corpus.token_files(Split::Valid).is_none().then(|| {
            let from = (shard.len() as f64 * TEXT_TRAIN_SHARE) as usize;
            (from..shard.len()).find(|at| shard.token(*at) == bos).unwrap_or(from)
        });
        let (from, to) = match (cut, split) {
            (None, _) => (0, shard.len()),
            (Some(cut), Split::Train) => (0, cut),
            (Some(cut), Split::Valid) => (cut, shard.len()),
        };
        let mut documents = 0;
        let mut ids = vec![0; TOKENS_AT_ONCE];
        for at in (from..to).step_by(TOKENS_AT_ONCE) {
            let ids = &mut ids[..TOKENS_AT_ONCE.min(to - at)];
            shard.read(at, ids);
            // Tokens before the first BOS are a document too.
            documents += ids.iter().filter(|id| **id == bos).count() as u64;
            documents += u64::from(at == from && ids[0] != bos);
            size.bytes += ids.iter().map(|id| u64::from(bytes_of[*id as usize])).sum::<u64>();
            size.tokens += ids.len() as u64;
            writer.push(ids)?;
            let total = (size.bytes as f64 / (at + ids.len() - from) as f64 * (to - from) as f64) as u64;
            progress(Progress::Encoding { split, bytes: size.bytes, total, tokens: size.tokens });
        }
        size.documents += documents;
        size.groups.push(documents);
    }
    Ok(size)
}

/// The fast twin of [`Corpus::documents`] for stories: tells many at once, on all cores.
fn story_batches(
    seed: u64,
    split: Split,
    bytes: u64,
    mut take: impl FnMut(Vec<Document>, u64) -> Result<bool>,
) -> Result<()> {
    const STORIES: u64 = 4096;
    let stream = stories::Stories::new(seed, split);
    let (mut left, mut next) = (bytes, 0);
    while left > 0 {
        // A short stream (validation) need not tell thousands of stories; few have less than 300 bytes.
        let count = STORIES.min(left.div_ceil(300));
        let told: Vec<String> = (next..next + count).into_par_iter().map(|i| stream.story(i).text).collect();
        next += count;
        let mut batch = Vec::new();
        for text in told {
            if left > 0 {
                let begins_group = left == bytes;
                left = left.saturating_sub(text.len() as u64);
                batch.push(Document { text, begins_group });
            }
        }
        if !take(batch, bytes)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_told_at_once_are_the_stories_told_one_by_one() {
        let source = Source::Stories { seed: 3, train_bytes: 200_000, valid_bytes: 10_000 };
        let corpus = Corpus::open(&source).expect("opens");
        for split in [Split::Train, Split::Valid] {
            let mut fast = Vec::new();
            batches(&corpus, split, |batch, _| {
                fast.extend(batch);
                Ok(true)
            })
            .expect("tells");
            let slow: Vec<Document> = corpus.documents(split).map(|d| d.expect("a story")).collect();
            assert_eq!(fast, slow);
        }
    }
}

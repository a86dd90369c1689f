//! Preparing a data set: what is in it, when the cache answers, and that nothing half-done is ever taken for whole.

use data::{Dataset, PrepareOptions, Progress, Source, TokenizerChoice, prepare, stories};
use std::cell::RefCell;
use std::fs;
use std::path::Path;

fn small_stories(cache: &Path) -> PrepareOptions {
    PrepareOptions::new(Source::Stories { seed: 5, train_bytes: 400_000, valid_bytes: 30_000 }, cache)
}

/// Prepares and says whether the cache answered.
fn run(options: &PrepareOptions) -> (Dataset, bool) {
    let seen = RefCell::new(Vec::new());
    let dataset = prepare(options, &|p| seen.borrow_mut().push(p)).expect("prepares");
    let cached = seen.borrow().first() == Some(&Progress::Cached);
    (dataset, cached)
}

#[test]
fn stories_are_prepared_once_and_found_again() {
    let cache = tempfile::tempdir().expect("a folder");
    let options = small_stories(cache.path());
    let (first, cached) = run(&options);
    assert!(!cached);
    first.train.verify().expect("is sound");
    first.valid.verify().expect("is sound");
    assert_eq!(first.tokenizer.vocab_size(), 2048);
    assert!(first.info.train.bytes >= 400_000 && first.info.valid.bytes >= 30_000);

    // Oracle for the bound: the recogniser on the text that the validation shard decodes to.
    let (mut bits, mut bytes) = (0.0, 0);
    for document in first.valid.documents(first.tokenizer.bos_id()) {
        let text = first.tokenizer.decode(&document);
        bits -= stories::log2_probability(&text).expect("a story");
        bytes += text.len();
    }
    assert_eq!(bytes as u64, first.info.valid.bytes);
    let bound = first.info.bound_bits_per_byte.expect("stories have one");
    // The same terms in the same order up to the division.
    assert!((bound - bits / bytes as f64).abs() < 1e-12, "{bound}");

    let (again, cached) = run(&options);
    assert!(cached);
    assert_eq!(again.info, first.info);
    assert_eq!(again.tokenizer.hash(), first.tokenizer.hash());

    let mut other = options.clone();
    other.source = Source::Stories { seed: 6, train_bytes: 400_000, valid_bytes: 30_000 };
    assert!(!run(&other).1, "another seed is another data set");
    other.tokenizer = TokenizerChoice::File(first.dir.join("tokenizer.json"));
    let (given, cached) = run(&other);
    assert!(!cached && given.tokenizer.hash() == first.tokenizer.hash());
}

#[test]
fn the_number_of_threads_does_not_change_the_files() {
    let with_threads = |threads| {
        let cache = tempfile::tempdir().expect("a folder");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let options = small_stories(cache.path());
        let dir = pool.install(|| prepare(&options, &|_| ())).expect("prepares").dir;
        ["tokenizer.json", "train.tokens", "valid.tokens", "dataset.json"]
            .map(|f| fs::read(dir.join(f)).expect("reads"))
    };
    assert_eq!(with_threads(1), with_threads(5));
}

#[test]
fn a_damaged_data_set_is_prepared_again() {
    let cache = tempfile::tempdir().expect("a folder");
    let options = small_stories(cache.path());
    let (first, _) = run(&options);
    let shard = first.train.path().to_path_buf();
    let info = first.info.clone();
    drop(first);
    let bytes = fs::read(&shard).expect("reads");
    fs::write(&shard, &bytes[..bytes.len() - 10]).expect("writes");
    let reasons = RefCell::new(Vec::new());
    let again = prepare(&options, &|p| {
        if let Progress::Rebuilding(why) = p {
            reasons.borrow_mut().push(why);
        }
    })
    .expect("prepares");
    assert!(
        reasons.borrow().len() == 1 && reasons.borrow()[0].contains("train.tokens, length"),
        "{reasons:?}"
    );
    assert_eq!(again.info, info);
    assert_eq!(fs::read(&shard).expect("reads"), bytes);
    let entries: Vec<_> = fs::read_dir(cache.path().join("datasets")).expect("lists").collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}

#[test]
fn preparing_at_once_ends_in_one_whole_data_set() {
    let cache = tempfile::tempdir().expect("a folder");
    let options = small_stories(cache.path());
    let hashes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope
                    .spawn(|| prepare(&options, &|_| ()).expect("prepares").train.verify().expect("is sound"))
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(hashes.len(), 4);
    let entries: Vec<_> = fs::read_dir(cache.path().join("datasets")).expect("lists").collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}

#[test]
fn a_changed_file_makes_a_new_data_set_and_a_small_text_a_small_vocabulary() {
    let cache = tempfile::tempdir().expect("a folder");
    let text = cache.path().join("t.txt");
    fs::write(&text, "the cat sat on the mat\n\n".repeat(40)).expect("writes");
    let mut options = PrepareOptions::new(Source::Path(text.clone()), cache.path());
    let (first, _) = run(&options);
    assert!(first.tokenizer.vocab_size() < 300, "{}", first.tokenizer.vocab_size());
    assert_eq!(first.info.bound_bits_per_byte, None);
    assert!(run(&options).1);
    fs::write(&text, "the cat sat on the hat\n\n".repeat(41)).expect("writes");
    assert!(!run(&options).1);
    options.tokenizer = TokenizerChoice::Train { vocab_size: Some(5000) };
    let error = prepare(&options, &|_| ()).expect_err("too large").to_string();
    assert!(error.contains("vocabulary of 5000") && error.contains("ask for at most"), "{error}");
}

//! What a source yields, what is held out of it, and that every broken file gives one clear error.

use data::{Corpus, Error, PrepareOptions, Result, Source, Split, TokenizerChoice, prepare};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn read(path: &Path, split: Split) -> Result<Vec<String>> {
    Corpus::open(&Source::Path(path.into()))?.documents(split).map(|d| d.map(|d| d.text)).collect()
}

fn both(path: &Path) -> (Vec<String>, Vec<String>) {
    (read(path, Split::Train).expect("reads"), read(path, Split::Valid).expect("reads"))
}

/// The error of reading everything.
fn failure(path: &Path) -> Error {
    read(path, Split::Train).and_then(|_| read(path, Split::Valid)).expect_err("the file is broken")
}

/// A Parquet file with one column of strings, in row groups of `group` rows.
fn write_parquet(path: &Path, column: &str, rows: &[Option<&str>], group: usize) {
    let schema = parse_message_type(&format!("message m {{ OPTIONAL BYTE_ARRAY {column} (UTF8); }}"))
        .expect("a schema");
    let file = File::create(path).expect("creates");
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).expect("a writer");
    for rows in rows.chunks(group) {
        let mut row_group = writer.next_row_group().expect("a row group");
        let mut writer = row_group.next_column().expect("a column").expect("one column");
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
        writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).expect("writes");
        writer.close().expect("closes");
        row_group.close().expect("closes");
    }
    writer.close().expect("closes");
}

fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("document {i}")).collect()
}

#[test]
fn parquet_rows_come_in_order_over_row_groups_and_nulls() {
    let dir = tempfile::tempdir().expect("a folder");
    let texts = numbered(250);
    let mut rows: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).collect();
    rows.insert(7, None);
    rows.insert(120, Some(""));
    let path = dir.path().join("a.parquet");
    write_parquet(&path, "text", &rows, 70);
    let (train, valid) = both(&path);
    assert_eq!(valid, ["document 0", "document 100", "document 200"]);
    assert_eq!(train.len(), 247);
    assert_eq!(
        (&train[0][..], &train[99][..], &train[246][..]),
        ("document 1", "document 101", "document 249")
    );
}

#[test]
fn json_lines_and_every_hundredth_document() {
    let dir = tempfile::tempdir().expect("a folder");
    let lines: String = numbered(101).iter().map(|t| format!("{{\"id\": 1, \"text\": {t:?}}}\n\n")).collect();
    fs::write(dir.path().join("a.jsonl"), lines).expect("writes");
    fs::write(dir.path().join("README.md"), "not data").expect("writes");
    let (train, valid) = both(dir.path());
    assert_eq!(valid, ["document 0", "document 100"]);
    assert_eq!(train.len(), 99);
}

#[test]
fn validation_files_are_held_out_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in [
        "b.txt",
        "a.txt",
        "valley.txt",
        "val_1.txt",
        "Validation.txt",
        "test.txt",
        ".hidden.txt",
        "notes.csv",
    ] {
        fs::write(dir.path().join(name), name).expect("writes");
    }
    let (train, valid) = both(dir.path());
    assert_eq!(train, ["a.txt", "b.txt", "valley.txt"]);
    assert_eq!(valid, ["Validation.txt", "val_1.txt"]);
}

#[test]
fn the_pinned_shard_is_validation() {
    let dir = tempfile::tempdir().expect("a folder");
    for number in [0, 6542, 1] {
        let text = format!("shard {number}");
        write_parquet(&dir.path().join(format!("shard_{number:05}.parquet")), "text", &[Some(&text)], 10);
    }
    let (train, valid) = both(dir.path());
    assert_eq!(train, ["shard 0", "shard 1"]);
    assert_eq!(valid, ["shard 6542"]);
}

#[test]
fn a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("book.txt");
    let paragraph = "Ein längerer Absatz — mit Umlauten.\n".repeat(20) + "\n";
    let book = format!("\u{FEFF}{}", paragraph.repeat(300));
    fs::write(&path, &book).expect("writes");
    let (train, valid) = both(&path);
    assert!(train.len() > 10 && !valid.is_empty());
    assert_eq!(format!("\u{FEFF}{}{}", train.concat(), valid.concat()), book);
    assert!(train.iter().all(|d| d.len() <= 16 << 10 && d.ends_with("\n\n")));
    let share = valid.concat().len() as f64 / book.len() as f64;
    assert!((0.04..=0.05).contains(&share), "{share}");

    // One line of characters of several bytes: every cut must fall between two of them.
    let line = "größe".repeat(30_000);
    fs::write(&path, &line).expect("writes");
    let (train, valid) = both(&path);
    assert!(train.len() > 5);
    assert_eq!(train.concat() + &valid.concat(), line);

    fs::write(&path, "one\r\n\r\ntwo").expect("writes");
    assert_eq!(both(&path).0.concat() + &both(&path).1.concat(), "one\r\n\r\ntwo");
}

#[test]
fn each_broken_file_is_named_with_place_value_and_repair() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("empty.txt"), "").expect("writes");
    fs::write(path("latin1.txt"), b"one line\nna\xefve\n").expect("writes");
    fs::write(path("cut.jsonl"), "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"c").expect("writes");
    fs::write(path("field.jsonl"), "{\"content\": \"a\"}\n").expect("writes");
    fs::write(path("bytes.jsonl"), b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").expect("writes");
    fs::write(path("a.csv"), "a,b").expect("writes");
    fs::write(path("a.txt.gz"), "a,b").expect("writes");
    fs::create_dir(path("folder")).expect("creates");
    let texts = numbered(200);
    let rows: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).collect();
    write_parquet(&path("whole.parquet"), "text", &rows, 100);
    write_parquet(&path("content.parquet"), "content", &rows, 100);
    let whole = fs::read(path("whole.parquet")).expect("reads");
    fs::write(path("truncated.parquet"), &whole[..whole.len() * 6 / 10]).expect("writes");
    for (name, wanted) in [
        ("empty.txt", &["empty (0 bytes)", "give a file"][..]),
        ("latin1.txt", &["line 2", "0xef", "byte offset 11", "iconv"]),
        ("cut.jsonl", &["line 3", "byte offset 28", "EOF", "field `text`"]),
        ("field.jsonl", &["line 1", "missing field `text`"]),
        ("bytes.jsonl", &["line 2", "byte offset 24", "0xff"]),
        ("a.csv", &[".csv are not read", "give `stories`"]),
        ("a.txt.gz", &["unpack it"]),
        ("folder", &["holds no such file", "subfolders"]),
        ("missing", &["there is no such file"]),
        ("content.parquet", &["no column `text`", "`content` (BYTE_ARRAY)", "rename"]),
        ("truncated.parquet", &["footer", "not a whole Parquet file"]),
    ] {
        let error = failure(&path(name)).to_string();
        assert!(error.contains(name), "{error}");
        wanted.iter().for_each(|part| assert!(error.contains(part), "{part:?} in {error}"));
    }
    assert!(
        "stories:x"
            .parse::<Source>()
            .expect_err("no number")
            .to_string()
            .contains("\"x\" is not a whole number")
    );
}

#[test]
fn a_text_column_of_numbers_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("n.parquet");
    let schema = parse_message_type("message m { REQUIRED INT64 text; }").expect("a schema");
    let file = File::create(&path).expect("creates");
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    let mut column = group.next_column().expect("a column").expect("one column");
    column.typed::<Int64Type>().write_batch(&[1, 2], None, None).expect("writes");
    column.close().expect("closes");
    group.close().expect("closes");
    writer.close().expect("closes");
    let error = failure(&path).to_string();
    assert!(error.contains("`text` (INT64)") && error.contains("one string per row"), "{error}");
}

#[test]
fn a_source_without_documents_cannot_be_prepared() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("none.parquet");
    write_parquet(&path, "text", &[], 10);
    assert_no_documents(&path);
}

fn assert_no_documents(path: &Path) {
    let cache = tempfile::tempdir().expect("a folder");
    let options = PrepareOptions {
        tokenizer: TokenizerChoice::Train { vocab_size: Some(300) },
        ..PrepareOptions::new(Source::Path(path.into()), cache.path())
    };
    let error = prepare(&options, &|_| ()).expect_err("there is no text").to_string();
    assert!(
        error.contains(&path.display().to_string()) && error.contains("no document to train on"),
        "{error}"
    );
    let left = fs::read_dir(cache.path().join("datasets")).expect("lists").count();
    assert_eq!(left, 0, "a failed preparation leaves nothing");
}

/// The shared test data: `ANNEAL_SHARED`, or `shared` beside the repository. `None` (with a printed reason) when absent.
fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let dir = std::env::var_os("ANNEAL_SHARED").map_or(beside, PathBuf::from).join("data");
    if !dir.is_dir() {
        println!(
            "skipped: {} does not exist; set ANNEAL_SHARED to the folder that holds data/",
            dir.display()
        );
        return None;
    }
    Some(dir)
}

#[test]
fn the_shared_broken_files_each_give_one_clear_error() {
    let Some(shared) = shared() else { return };
    for (name, wanted) in [
        ("empty.txt", &["empty (0 bytes)"][..]),
        ("invalid_utf8.txt", &["line 2", "byte offset 63", "0xff"]),
        ("truncated.parquet", &["footer", "113636 bytes"]),
        ("wrong_column.parquet", &["no column `text`", "`content`"]),
        ("bad_line3.jsonl", &["line 3"]),
    ] {
        let error = failure(&shared.join("broken").join(name)).to_string();
        println!("{error}");
        assert!(error.contains(name), "{error}");
        wanted.iter().for_each(|part| assert!(error.contains(part), "{part:?} in {error}"));
    }
    assert_no_documents(&shared.join("broken/zero_documents.parquet"));
}

#[test]
fn the_shared_corpora_have_the_documents_that_their_readme_counts() {
    let Some(shared) = shared() else { return };
    let count = |name: &str, split| {
        let source = Source::Path(shared.join(name));
        let corpus = Corpus::open(&source).expect("opens");
        corpus
            .documents(split)
            .map(|d| d.expect("reads").text.len())
            .fold((0, 0), |(n, bytes), len| (n + 1, bytes + len))
    };
    assert_eq!(count("classics", Split::Valid), (519, 2_555_623));
    assert_eq!(count("classics", Split::Train), (9467, 48_135_356));
    let sum = |name| {
        let (a, b) = (count(name, Split::Train), count(name, Split::Valid));
        (a.0 + b.0, a.1 + b.1)
    };
    assert_eq!(sum("sample/stories.jsonl"), (200, 993_960));
    assert_eq!(sum("sample/sample.parquet"), (100, 478_849));
    assert_eq!(sum("shakespeare.txt").1, 1_115_394);
}

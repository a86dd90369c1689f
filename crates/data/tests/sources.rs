//! What a source yields, what is held out of it, and that every broken file gives one clear error.

use data::tokenizer::bpe::WordCounts;
use data::{
    Corpus, Error, PrepareOptions, ReadOptions, Result, ShardWriter, Source, Split, Tokenizer,
    TokenizerChoice, prepare,
};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::{self, File};
use std::io::Write;
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

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).and_then(|()| packer.finish()).expect("packs")
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
    fs::create_dir(dir.path().join("more")).expect("creates");
    let corpus = Corpus::open(&Source::Path(dir.path().into())).expect("opens");
    let others = corpus.others();
    assert_eq!(
        (others.count, &others.some[..]),
        (3, &["more/", "notes.csv", "test.txt"].map(String::from)[..])
    );
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
fn compressed_text_is_text_whatever_the_file_is_called() {
    let dir = tempfile::tempdir().expect("a folder");
    let texts = numbered(250);
    let lines: String =
        texts.iter().map(|text| format!("{{\"text\": {text:?}, \"more\": [1, {{}}]}}\n")).collect();
    let halves = lines.split_at(lines.len() / 2);
    // Two members in one file, as `cat a.gz b.gz` makes.
    let gz = [gzip(halves.0.as_bytes()), gzip(halves.1.as_bytes())].concat();
    let zst = zstd::encode_all(lines.as_bytes(), 3).expect("packs");
    for (name, bytes) in [
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.jsonl.gz", gz.clone()),
        ("a.jsonl.zst", zst.clone()),
        ("wrong.jsonl", gz),
        ("silent", zst.clone()),
        ("silent.zst", zst),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("writes");
        let (train, valid) = both(&path);
        assert_eq!((train.len(), valid.len()), (247, 3), "{name}");
        assert_eq!(train[..3], ["document 1", "document 2", "document 3"], "{name}");
    }
    // Text that is not compressed ends with the part held out; compressed, its length is not known before.
    let text: String =
        (0..20_000).map(|i| if i % 30 == 0 { "\n".into() } else { format!("line {i}\n") }).collect();
    let plain = dir.path().join("b.txt");
    fs::write(&plain, &text).expect("writes");
    let packed = dir.path().join("b.md.gz");
    fs::write(&packed, gzip(text.as_bytes())).expect("writes");
    let (train, valid) = both(&packed);
    assert_eq!(valid.len(), 1, "the first document");
    assert_eq!(valid.concat() + &train.concat(), text);
    assert_eq!(both(&plain).0.concat() + &both(&plain).1.concat(), text);
}

#[test]
fn another_column_is_read_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let parquet = dir.path().join("a.parquet");
    write_parquet(&parquet, "story", &[Some("one"), Some("two")], 10);
    let lines = dir.path().join("a.jsonl");
    fs::write(&lines, "{\"story\": \"one\"}\n{\"text\": \"no\", \"story\": \"two\"}\n").expect("writes");
    for path in [parquet, lines] {
        let error = failure(&path).to_string();
        assert!(error.contains("`text`"), "{error}");
        let options = ReadOptions { column: "story".into(), lenient: false };
        let corpus = Corpus::open_with(&Source::Path(path), &options).expect("opens");
        let train: Vec<_> = corpus.documents(Split::Train).map(|d| d.expect("reads").text).collect();
        assert_eq!(train, ["two"]);
    }
}

#[test]
fn leniency_passes_over_what_cannot_be_read_and_counts_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    fs::write(
        path("a.jsonl"),
        b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n\n{\"text\": \"b\"}\n{\"x\"\n{\"text\": \"\"}\n[]\n",
    )
    .expect("writes");
    let text = "a line of text\n".repeat(20_000);
    let zst = zstd::encode_all(text.as_bytes(), 3).expect("packs");
    fs::write(path("b.txt.zst"), &zst[..zst.len() * 9 / 10]).expect("writes");
    let texts = numbered(200);
    let rows: Vec<Option<&str>> = texts.iter().map(|t| (t != "document 7").then_some(t.as_str())).collect();
    write_parquet(&path("c.parquet"), "text", &rows, 50);
    let mut bytes = fs::read(path("c.parquet")).expect("reads");
    // The header of the first row group's page.
    bytes[4..20].fill(0xff);
    fs::write(path("c.parquet"), bytes).expect("writes");
    fs::write(path("d.txt"), "good\n\n".repeat(20_000) + "\u{0}" + &"good\n\n".repeat(20_000))
        .expect("writes");

    let options = ReadOptions { lenient: true, ..ReadOptions::default() };
    let report = |name: &str| {
        let corpus = Corpus::open_with(&Source::Path(path(name)), &options).expect("opens");
        let mut documents = corpus.documents(Split::Train);
        let read = documents.by_ref().inspect(|document| assert!(document.is_ok(), "lenient")).count();
        let report = documents.report();
        let skipped: Vec<(String, u64, String)> =
            report.skipped.into_iter().map(|s| (s.why, s.count, s.first)).collect();
        (read, report.empty, skipped)
    };
    let (read, empty, skipped) = report("a.jsonl");
    assert_eq!((read, empty), (1, 2), "a is held out; a blank line and an empty text");
    assert_eq!(skipped[0].0, "not valid UTF-8");
    assert_eq!((skipped[1].0.as_str(), skipped[1].1), ("no JSON object with the field", 2));
    assert!(skipped[1].2.contains("line 5"), "{skipped:?}");
    let (read, _, skipped) = report("b.txt.zst");
    assert!(
        read > 0 && skipped[0].0.contains("compressed") && skipped[0].2.contains("b.txt.zst"),
        "{skipped:?}"
    );
    let (read, empty, skipped) = report("c.parquet");
    assert!(read >= 100 && empty <= 1, "other row groups are read: {read}");
    assert!(skipped[0].0.contains("Parquet") && skipped[0].2.contains("row group"), "{skipped:?}");
    fs::create_dir(path("mixed")).expect("creates");
    for (name, text) in
        [("a", &b"gut"[..]), ("b", b"gr\xf6\xdfer"), ("c", b"\xff\xfeg\0"), ("d", b"gr\xc3\xb6\xc3\x9fer")]
    {
        fs::write(path(&format!("mixed/{name}.txt")), text).expect("writes");
    }
    let (read, _, skipped) = report("mixed");
    assert_eq!((read, skipped.len()), (1, 2), "a is held out, d is read");
    assert!(skipped[0].2.contains("b.txt") && skipped[1].2.contains("c.txt: it is utf-16le"), "{skipped:?}");
    let (read, _, skipped) = report("d.txt");
    assert!(read > 15, "{read}");
    assert_eq!((skipped[0].0.as_str(), skipped[0].1), ("not text", 1));

    // Where nothing is left, there is nothing to be lenient with.
    fs::write(path("e.jsonl"), "x\ny\n").expect("writes");
    let mut prepare_options = PrepareOptions::new(Source::Path(path("e.jsonl")), dir.path().join("cache"));
    prepare_options.read = options.clone();
    let error = prepare(&prepare_options, &|_| ()).expect_err("nothing is left").to_string();
    assert!(error.contains("there is no document to train on"), "{error}");
    assert!(error.contains("passed over 2 parts") && error.contains("line 1"), "{error}");
    // What was passed over is kept with the data.
    prepare_options.source = Source::Path(path("b.txt.zst"));
    let dataset = prepare(&prepare_options, &|_| ()).expect("prepares");
    assert_eq!(dataset.info.passed_over.skipped[0].count, 1);
}

#[test]
fn files_of_token_ids_become_shards() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokenizer = Tokenizer::train(["ab ab ab"], 256 + 4 + 1).expect("one merge is possible");
    let file = dir.path().join("tokenizer.json");
    tokenizer.save(&file).expect("saves");
    let bos = tokenizer.bos_id() as u16;
    let write = |name: &str, ids: &[u16]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
        fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()).expect("writes");
        path
    };
    let prepared = |path: PathBuf| {
        let mut options = PrepareOptions::new(Source::Path(path), dir.path().join("cache"));
        options.tokenizer = TokenizerChoice::File(file.clone());
        prepare(&options, &|_| ())
    };
    let document = [bos, 97, 98, 256, 32];
    write("two/train_00.bin", &document.repeat(3));
    write("two/train_01.bin", &document.repeat(2));
    let folder = write("two/val.bin", &document).parent().expect("a folder").to_owned();
    let dataset = prepared(folder).expect("prepares");
    assert_eq!((dataset.train.len(), dataset.valid.len()), (25, 5));
    assert_eq!((dataset.info.train.documents, &dataset.info.train.groups[..]), (5, &[3, 2][..]));
    assert_eq!(dataset.info.train.bytes, 5 * (1 + 1 + 2 + 1), "the bytes of the tokens");
    assert_eq!(dataset.tokenizer.decode(&dataset.valid.tokens().collect::<Vec<_>>()), "abab ");

    // A single file is parted at a document after 95%.
    let dataset = prepared(write("one.bin", &document.repeat(100))).expect("prepares");
    assert_eq!((dataset.train.len(), dataset.valid.len()), (475, 25));

    // What this program has prepared, and the same of another vocabulary.
    let other = Tokenizer::train(["ba ba ba"], 256 + 4 + 1).expect("one merge is possible");
    for (name, wanted) in [("ours", None), ("other", Some("tokenizer hash"))] {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).expect("creates");
        for split in ["train", "valid"] {
            let by = if wanted.is_none() { &tokenizer } else { &other };
            let mut writer =
                ShardWriter::create(&folder.join(format!("{split}.tokens")), by).expect("creates");
            writer.push(&[u32::from(bos), 97, 98]).and_then(|()| writer.finish()).expect("writes");
        }
        match (prepared(folder), wanted) {
            (Ok(dataset), None) => assert_eq!((dataset.train.len(), dataset.valid.len()), (3, 3)),
            (Err(error), Some(wanted)) => {
                let error = error.to_string();
                assert!(error.contains("train.tokens") && error.contains(wanted), "{error}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        }
    }

    let error = prepared(write("large.bin", &[bos, 97, 999])).expect_err("no such token").to_string();
    assert!(error.contains("large.bin") && error.contains("999 at position 2"), "{error}");
    fs::write(dir.path().join("odd.bin"), [1, 0, 2]).expect("writes");
    let error = prepared(dir.path().join("odd.bin")).expect_err("an odd length").to_string();
    assert!(error.contains("odd.bin") && error.contains("3 bytes"), "{error}");
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
    let text = "a line of text\n".repeat(20_000);
    let zst = zstd::encode_all(text.as_bytes(), 3).expect("packs");
    fs::write(path("cut.txt.zst"), &zst[..zst.len() / 2]).expect("writes");
    let gz = gzip(text.as_bytes());
    fs::write(path("cut.txt.gz"), &gz[..gz.len() / 2]).expect("writes");
    let utf16: Vec<u8> = "\u{feff}some text".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(path("utf16.txt"), utf16).expect("writes");
    fs::write(path("picture.txt"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").expect("writes");
    fs::write(path("zeros.txt"), b"line\nab\0c\n").expect("writes");
    fs::write(path("ids.bin"), [1, 0, 2, 0]).expect("writes");
    fs::write(path("a.zip"), b"PK\x03\x04").expect("writes");
    fs::create_dir(path("folder")).expect("creates");
    fs::create_dir(path("mixed")).expect("creates");
    fs::write(path("mixed/a.txt"), "größer").expect("writes");
    fs::write(path("mixed/b_latin1.txt"), b"gr\xf6\xdfer").expect("writes");
    fs::write(path("mixed/c.txt"), "größer").expect("writes");
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
        ("cut.txt.zst", &["zstd data is broken after", "good bytes of text", "--lenient"]),
        ("cut.txt.gz", &["gzip data is broken after", "good bytes of text"]),
        ("utf16.txt", &["utf-16le, not UTF-8", "iconv -f utf-16le -t utf-8"]),
        ("picture.txt", &["line 1", "binary file"]),
        ("zeros.txt", &["line 2", "byte offset 7", "binary file"]),
        ("ids.bin", &["token ids", "--tokenizer FILE"]),
        ("a.zip", &[".zip are not read", "unpack it"]),
        ("folder", &["holds no such file", "subfolders"]),
        ("mixed", &["b_latin1.txt, line 1", "0xf6 at byte offset 2", "iconv"]),
        ("missing", &["there is no such file"]),
        ("content.parquet", &["no column `text`", "`content` (BYTE_ARRAY)", "--column NAME"]),
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

/// Oracle: autoresearch's loop, by hand: documents are taken, each cut to 10,000 characters, until those taken have so many.
#[test]
fn a_tokenizer_learns_from_whole_documents_until_there_are_enough_characters() {
    let dir = tempfile::tempdir().expect("a folder");
    // Documents of 12,000 characters, each of a word of its own; the first is held out.
    let texts = ["öl ", "ab ", "cd ", "éf ", "gh "].map(|word| word.repeat(4000));
    let lines: String = texts.iter().map(|text| format!("{{\"text\": {text:?}}}\n")).collect();
    fs::write(dir.path().join("a.jsonl"), lines).expect("writes");
    let source = Source::Path(dir.path().join("a.jsonl"));
    for (chars, taken) in [(1, 1), (9_999, 1), (10_000, 1), (10_001, 2), (25_000, 3), (1_000_000, 4)] {
        let mut options = PrepareOptions::new(source.clone(), dir.path().join("cache"));
        options.tokenizer_chars = chars;
        let found = prepare(&options, &|_| ()).expect("prepares").tokenizer;
        let mut counts = WordCounts::default();
        texts[1..=taken].iter().for_each(|text| counts.add(&text.chars().take(10_000).collect::<String>()));
        let expected = Tokenizer::from_counts(&counts, data::prepare::SMALL_VOCAB, false).expect("trains");
        assert_eq!(found.hash(), expected.hash(), "{chars}");
    }
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

//! Text from a stream that comes once, as a file that can be read again.
//!
//! Preparing data reads it more than once, and a run that is resumed reads it another day. So what comes is written to
//! `<cache>/stdin/<hash>.<kind>.zst`, compressed, under a name made of its contents, and that file is the source.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::corpus::kind::PARQUET;
use crate::corpus::{Compression, Kind, unpacked};
use crate::{Error, Result, whole};

/// Little is gained by more, and text may come faster than higher levels compress.
const ZSTD_LEVEL: i32 = 1;
/// How much is looked at to tell what it is.
const LOOK: u64 = 64 << 10;

/// Keeps all that `reader` gives (text, JSON lines or a Parquet file, text also compressed), in constant memory; the
/// file's path. The same contents always give the same file.
///
/// # Errors
/// [`Error::NoText`] when nothing comes; [`Error::Cache`] when the cache cannot be written.
pub fn spool(reader: impl Read + Send + 'static, cache_dir: &Path) -> Result<PathBuf> {
    let folder = cache_dir.join("stdin");
    spool_in(Box::new(BufReader::new(reader)), &folder).map_err(|error| error.in_cache(cache_dir, &[&folder]))
}

fn spool_in(mut reader: Box<dyn BufRead + Send>, folder: &Path) -> Result<PathBuf> {
    let stdin = Path::new("standard input");
    let reading = || Error::io(stdin, "read it");
    fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let mut first = look(&mut reader).map_err(reading())?;
    if first.is_empty() {
        let why = "nothing came from it; pipe text into it, or give a file".into();
        return Err(Error::NoText { path: stdin.into(), why });
    }
    let compression = Compression::of(&first);
    if compression != Compression::None {
        reader = Box::new(std::io::Cursor::new(first).chain(reader));
        reader = unpacked(reader, compression).map_err(reading())?;
        first = look(&mut reader).map_err(reading())?;
    }
    let ending = match Kind::of_text(&first) {
        _ if first.starts_with(PARQUET) => "parquet",
        Kind::JsonLines => "jsonl.zst",
        _ => "txt.zst",
    };
    let temporary = Temporary(whole::temporary(&folder.join("new")));
    let path = &temporary.0;
    let writing = || Error::io(path, "write it");
    let file = File::create(path).map_err(Error::io(path, "create it"))?;
    // Parquet is read from its end, and is compressed anyway.
    let mut out: Box<dyn Write> = match ending {
        "parquet" => Box::new(file.try_clone().map_err(writing())?),
        _ => {
            let out = file.try_clone().map_err(writing())?;
            Box::new(zstd::Encoder::new(out, ZSTD_LEVEL).map_err(writing())?.auto_finish())
        }
    };
    let mut sum = Sha256::new();
    let mut piece = first;
    while !piece.is_empty() {
        sum.update(&piece);
        out.write_all(&piece).map_err(writing())?;
        piece.clear();
        (&mut reader).take(LOOK).read_to_end(&mut piece).map_err(reading())?;
    }
    out.flush().map_err(writing())?;
    drop(out);
    let hash = crate::tokenizer::hex(&sum.finalize());
    let kept = folder.join(format!("{}.{ending}", &hash[..16]));
    // Its modification time is part of what was prepared from it.
    if !kept.exists() {
        whole::commit(file, path, &kept)?;
    }
    Ok(kept)
}

fn look(reader: &mut dyn BufRead) -> std::io::Result<Vec<u8>> {
    let mut first = Vec::new();
    reader.take(LOOK).read_to_end(&mut first)?;
    Ok(first)
}

/// Goes when it has not got its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::corpus::{Corpus, Source};
    use proptest::prelude::*;
    use std::io::Cursor;

    fn texts(path: &Path) -> Vec<String> {
        let corpus = Corpus::open(&Source::Path(path.into())).expect("opens");
        let of = |split| corpus.documents(split).map(|d| d.expect("reads").text).collect::<Vec<_>>();
        [of(Split::Valid), of(Split::Train)].concat()
    }

    #[test]
    fn what_comes_is_kept_by_its_contents() {
        let cache = tempfile::tempdir().expect("a folder");
        let text = "one line\n".repeat(5000);
        let packed = zstd::encode_all(text.as_bytes(), 3).expect("packs");
        let plain = spool(Cursor::new(text.clone()), cache.path()).expect("keeps");
        let unpacked = spool(Cursor::new(packed), cache.path()).expect("keeps");
        assert_eq!(plain, unpacked);
        assert!(plain.to_string_lossy().ends_with(".txt.zst"));
        assert_eq!(texts(&plain).concat(), text);
        let lines = "\n{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
        let lines = spool(Cursor::new(lines), cache.path()).expect("keeps");
        assert!(lines.to_string_lossy().ends_with(".jsonl.zst"));
        assert_eq!(texts(&lines), ["a", "b"]);
        assert_eq!(fs::read_dir(cache.path().join("stdin")).expect("lists").count(), 2);
        let error = spool(Cursor::new(""), cache.path()).expect_err("nothing came").to_string();
        assert!(error.contains("nothing came"), "{error}");
    }

    /// A first document that is longer than what is looked at.
    #[test]
    fn json_lines_of_long_documents_are_no_text() {
        let cache = tempfile::tempdir().expect("a folder");
        let long = "é".repeat(100_000);
        let lines = format!("{{\"id\": 1, \"text\": \"{long}\"}}\n{{\"text\": \"b\"}}\n");
        let kept = spool(Cursor::new(lines), cache.path()).expect("keeps");
        assert!(kept.to_string_lossy().ends_with(".jsonl.zst"), "{kept:?}");
        assert_eq!(texts(&kept), [long, "b".into()]);
    }

    /// Gives as many bytes at a time as it is told.
    struct Dripping(Cursor<Vec<u8>>, std::iter::Cycle<std::vec::IntoIter<usize>>);

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let most = self.1.next().unwrap_or(1).min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn tokens_do_not_depend_on_how_a_stream_comes(
            documents in proptest::collection::vec("[a-c é日\\n]{1,400}", 2..60), packing in 0..3u8, lines: bool,
            sizes in proptest::collection::vec(1..9000usize, 1..9),
        ) {
            let of = |text: &String| if lines { format!("{}\n", serde_json::json!({ "text": text })) } else { text.clone() };
            let plain: String = documents.iter().map(of).collect();
            let bytes = match packing {
                0 => plain.clone().into_bytes(),
                1 => zstd::encode_all(plain.as_bytes(), 1).expect("packs"),
                _ => {
                    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    packer.write_all(plain.as_bytes()).and_then(|()| packer.finish()).expect("packs")
                }
            };
            let cache = tempfile::tempdir().expect("a folder");
            let whole = spool(Cursor::new(plain), cache.path()).expect("keeps");
            let dripped = spool(Dripping(Cursor::new(bytes), sizes.into_iter().cycle()), cache.path()).expect("keeps");
            // One name stands for one contents, so that the same data set is made of it.
            prop_assert_eq!(&dripped, &whole);
            let found = texts(&dripped);
            if lines {
                prop_assert_eq!(found, documents);
            } else {
                prop_assert_eq!(found.concat(), documents.concat());
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_leaves_nothing() {
        struct Breaking(u32);
        impl Read for Breaking {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0 += 1;
                if self.0 > 40 {
                    return Err(std::io::Error::other("gone"));
                }
                buffer.fill(b'a');
                Ok(buffer.len())
            }
        }
        let cache = tempfile::tempdir().expect("a folder");
        let error = spool(Breaking(0), cache.path()).expect_err("it breaks").to_string();
        assert!(error.contains("standard input") && error.contains("gone"), "{error}");
        assert_eq!(fs::read_dir(cache.path().join("stdin")).expect("lists").count(), 0);
    }
}

//! Token shards: ids on disk, memory-mapped.
//!
//! A shard is a header of [`HEADER_BYTES`] bytes and then the ids; everything is little-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0–7 | magic `ANNEALTK` |
//! | 8–11 | version, u32: 1 |
//! | 12–15 | element width in bytes, u32: 2 (u16) when the vocabulary fits, else 4 (u32) |
//! | 16–23 | vocabulary size, u64: every id is below it |
//! | 24–31 | count of ids, u64 |
//! | 32–63 | the tokenizer's hash ([`Tokenizer::hash`]), 32 bytes |
//! | 64–95 | SHA-256 of the ids' bytes |
//! | 96–127 | SHA-256 of bytes 0 to 95 |
//!
//! Opening checks the header and the length, which costs nothing; [`TokenShard::verify`] reads every byte. Headerless
//! u16 files (llama2.c, maderix/ANE) are opened with the vocabulary size that they lack.

use crate::{Error, Result, Tokenizer, whole};
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Size of the header.
pub const HEADER_BYTES: usize = 128;
/// What a shard begins with.
pub const MAGIC: [u8; 8] = *b"ANNEALTK";
const VERSION: u32 = 1;
/// Length of the part of the header that its own checksum covers.
const SUMMED_BYTES: usize = 96;

/// A memory-mapped sequence of token ids.
#[derive(Debug)]
pub struct TokenShard {
    path: PathBuf,
    map: Mmap,
    /// Where the ids begin: [`HEADER_BYTES`], or 0 in a headerless file.
    start: usize,
    width: usize,
    vocab_size: usize,
    count: usize,
    /// `None` in a headerless file.
    hashes: Option<Hashes>,
}

#[derive(Debug)]
struct Hashes {
    tokenizer: String,
    payload: [u8; 32],
}

impl TokenShard {
    /// Opens a shard and checks header and length. The ids themselves are checked by [`TokenShard::verify`].
    pub fn open(path: &Path) -> Result<TokenShard> {
        let map = map(path)?;
        let wrong = |field, found: String, expected: String, remedy: &str| {
            Err(Error::Shard { path: path.to_path_buf(), field, found, expected, remedy: remedy.into() })
        };
        const AGAIN: &str = "the file was cut off or damaged; prepare the data again";
        let Some(header) = map.first_chunk::<HEADER_BYTES>() else {
            return wrong(
                "length",
                format!("{} bytes", map.len()),
                format!("at least {HEADER_BYTES} (the header)"),
                AGAIN,
            );
        };
        if header[..8] != MAGIC {
            let found = format!("{:?}", String::from_utf8_lossy(&header[..8]));
            let expected = format!("{:?}", String::from_utf8_lossy(&MAGIC));
            return wrong(
                "magic",
                found,
                expected,
                "this is no token shard; a headerless u16 file must be opened as such, with its vocabulary size",
            );
        }
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(8) != VERSION {
            return wrong(
                "version",
                u32_at(8).to_string(),
                VERSION.to_string(),
                "prepare the data again with this program",
            );
        }
        let sum = Sha256::digest(&header[..SUMMED_BYTES]);
        if header[SUMMED_BYTES..] != sum[..] {
            return wrong(
                "header checksum",
                crate::tokenizer::hex(&header[SUMMED_BYTES..]),
                crate::tokenizer::hex(&sum),
                AGAIN,
            );
        }
        let (width, vocab_size, count) = (u32_at(12) as usize, u64_at(16) as usize, u64_at(24) as usize);
        if width != 2 && width != 4 {
            return wrong("element width", width.to_string(), "2 or 4".into(), AGAIN);
        }
        let expected = count.checked_mul(width).and_then(|n| n.checked_add(HEADER_BYTES));
        if expected != Some(map.len()) {
            let needed = format!("{HEADER_BYTES} + {count} x {width} = {}", expected.unwrap_or(usize::MAX));
            return wrong("length", format!("{} bytes", map.len()), needed, AGAIN);
        }
        let hashes = Hashes {
            tokenizer: crate::tokenizer::hex(&header[32..64]),
            payload: header[64..96].try_into().expect("32 bytes"),
        };
        Ok(TokenShard {
            path: path.to_path_buf(),
            map,
            start: HEADER_BYTES,
            width,
            vocab_size,
            count,
            hashes: Some(hashes),
        })
    }

    /// Opens a shard that must have been written with this tokenizer.
    pub fn open_for(path: &Path, tokenizer: &Tokenizer) -> Result<TokenShard> {
        let shard = TokenShard::open(path)?;
        let remedy = "use the tokenizer.json that lies beside the shard, or prepare the data again";
        let wrong = |field, found: String, expected: String| {
            Err(Error::Shard { path: path.to_path_buf(), field, found, expected, remedy: remedy.into() })
        };
        if shard.vocab_size != tokenizer.vocab_size() {
            return wrong(
                "vocabulary size",
                shard.vocab_size.to_string(),
                tokenizer.vocab_size().to_string(),
            );
        }
        match shard.tokenizer_hash() {
            Some(hash) if hash != tokenizer.hash() => {
                wrong("tokenizer hash", hash.into(), tokenizer.hash().into())
            }
            _ => Ok(shard),
        }
    }

    /// Opens a headerless file of u16 ids and checks that each is below `vocab_size`.
    pub fn open_raw_u16(path: &Path, vocab_size: usize) -> Result<TokenShard> {
        let map = map(path)?;
        if map.len() % 2 != 0 || map.is_empty() {
            return Err(Error::Shard {
                path: path.to_path_buf(),
                field: "length",
                found: format!("{} bytes", map.len()),
                expected: "an even number above 0 (u16 ids without a header)".into(),
                remedy: "check that the file is whole and holds u16 ids".into(),
            });
        }
        let count = map.len() / 2;
        let shard =
            TokenShard { path: path.to_path_buf(), map, start: 0, width: 2, vocab_size, count, hashes: None };
        shard.verify()?;
        Ok(shard)
    }

    /// Opens a file of this tokenizer's ids and verifies it: a shard, which is called `.tokens` or begins with [`MAGIC`],
    /// or one without a header.
    ///
    /// # Errors
    /// [`Error::Shard`] for a file of another tokenizer, as far as it shows, and for a damaged one; [`Error::Io`].
    pub fn open_ids(path: &Path, tokenizer: &Tokenizer) -> Result<TokenShard> {
        if path.extension().is_none_or(|ending| ending != "tokens") && !TokenShard::has_header(path) {
            return TokenShard::open_raw_u16(path, tokenizer.vocab_size());
        }
        let shard = TokenShard::open_for(path, tokenizer)?;
        shard.verify()?;
        Ok(shard)
    }

    /// Whether a file begins as a shard does, whatever its name.
    pub fn has_header(path: &Path) -> bool {
        let mut first = [0; MAGIC.len()];
        File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == MAGIC
    }

    /// Reads everything: the checksum of the ids, and that each is below the vocabulary size. It reads the file in
    /// pieces and not through the map, whose pages would count as this process's memory until somebody needs them.
    pub fn verify(&self) -> Result<()> {
        const PIECE: usize = 1 << 20;
        let io = |doing| Error::io(&self.path, doing);
        let mut file = File::open(&self.path).map_err(io("open it"))?;
        file.seek(SeekFrom::Start(self.start as u64)).map_err(io("read it"))?;
        let (mut sum, mut outside, mut at) = (Sha256::new(), None, 0);
        let mut piece = vec![0; PIECE.min(self.count * self.width)];
        while at < self.count {
            let ids = (piece.len() / self.width).min(self.count - at);
            let piece = &mut piece[..ids * self.width];
            file.read_exact(piece).map_err(io("read it"))?;
            if self.hashes.is_some() {
                sum.update(&*piece);
            }
            if outside.is_none() {
                let too_large = |id: &[u8]| id_of(id) as usize >= self.vocab_size;
                outside = piece.chunks_exact(self.width).position(too_large).map(|i| at + i);
            }
            at += ids;
        }
        let sum: [u8; 32] = sum.finalize().into();
        if let Some(hashes) = self.hashes.as_ref().filter(|hashes| hashes.payload != sum) {
            return Err(Error::Shard {
                path: self.path.clone(),
                field: "checksum of the ids",
                found: crate::tokenizer::hex(&sum),
                expected: crate::tokenizer::hex(&hashes.payload),
                remedy: "the file was damaged after it was written; prepare the data again".into(),
            });
        }
        match outside {
            None => Ok(()),
            Some(i) => Err(Error::Shard {
                path: self.path.clone(),
                field: "token id",
                found: format!("{} at position {i}", self.token(i)),
                expected: format!("less than the vocabulary size {}", self.vocab_size),
                remedy: "open it with the vocabulary it was written with".into(),
            }),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is no id.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The hash of the tokenizer that wrote the ids; `None` in a headerless file.
    pub fn tokenizer_hash(&self) -> Option<&str> {
        self.hashes.as_ref().map(|h| h.tokenizer.as_str())
    }

    /// Id number `i`.
    ///
    /// # Panics
    /// When `i` is not below [`TokenShard::len`].
    pub fn token(&self, i: usize) -> u32 {
        let at = self.start + i * self.width;
        id_of(&self.map[at..at + self.width])
    }

    /// Copies the ids from `start` on into `out`.
    ///
    /// # Panics
    /// When `start + out.len()` exceeds [`TokenShard::len`].
    pub fn read(&self, start: usize, out: &mut [u32]) {
        let from = self.start + start * self.width;
        let bytes = &self.map[from..from + out.len() * self.width];
        if self.width == 2 {
            for (id, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *id = u32::from(u16::from_le_bytes([b[0], b[1]]));
            }
        } else {
            for (id, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *id = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }

    /// All ids in order.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.count).map(|i| self.token(i))
    }

    /// The documents: each begins with `bos` and ends before the next one (the first also begins at the start).
    pub fn documents(&self, bos: u32) -> impl Iterator<Item = Vec<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at == self.count {
                return None;
            }
            let end = (at + 1..self.count).find(|i| self.token(*i) == bos).unwrap_or(self.count);
            let mut document = vec![0; end - at];
            self.read(at, &mut document);
            at = end;
            Some(document)
        })
    }
}

/// The id in the two or four bytes of an element.
fn id_of(bytes: &[u8]) -> u32 {
    match *bytes {
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("the width is 2 or 4"),
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path, "open it"))?;
    // SAFETY: the map is read-only, and shards are never written in place: they appear by rename and are replaced by
    // rename. Should another program truncate one, reading it ends this process with a bus error, as for any mapped file.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map it into memory"))
}

/// Writes a shard under a temporary name; [`ShardWriter::finish`] gives it its own. Dropping it unfinished leaves nothing.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
    width: usize,
    vocab_size: usize,
    tokenizer_hash: [u8; 32],
    count: u64,
    sum: Sha256,
    buffer: Vec<u8>,
}

impl ShardWriter {
    /// Begins a shard of this tokenizer's ids.
    pub fn create(path: &Path, tokenizer: &Tokenizer) -> Result<ShardWriter> {
        let mut tokenizer_hash = [0; 32];
        for (byte, digits) in tokenizer_hash.iter_mut().zip(tokenizer.hash().as_bytes().chunks_exact(2)) {
            let digit =
                |d: u8| (d as char).to_digit(16).expect("a hash consists of hexadecimal digits") as u8;
            *byte = digit(digits[0]) << 4 | digit(digits[1]);
        }
        let temporary = whole::temporary(path);
        let file = File::create(&temporary).map_err(Error::io(&temporary, "create it"))?;
        let mut writer = ShardWriter {
            path: path.to_path_buf(),
            temporary,
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            width: if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 },
            vocab_size: tokenizer.vocab_size(),
            tokenizer_hash,
            count: 0,
            sum: Sha256::new(),
            buffer: vec![0; HEADER_BYTES],
        };
        // The header follows when its contents are known; until then the file does not even have the magic.
        writer.flush_buffer()?;
        Ok(writer)
    }

    /// Appends ids.
    ///
    /// # Panics
    /// When an id is not below the tokenizer's vocabulary size, which no encoder returns.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.buffer.clear();
        for id in ids {
            assert!(
                (*id as usize) < self.vocab_size,
                "id {id} is below the vocabulary size {}",
                self.vocab_size
            );
            self.buffer.extend_from_slice(&id.to_le_bytes()[..self.width]);
        }
        self.sum.update(&self.buffer);
        self.count += ids.len() as u64;
        self.flush_buffer()
    }

    fn flush_buffer(&mut self) -> Result<()> {
        let out = self.out.as_mut().expect("the writer is open until finish()");
        out.write_all(&self.buffer).map_err(Error::io(&self.temporary, "write it"))
    }

    /// Writes the header, syncs, renames, and opens the finished shard.
    pub fn finish(mut self) -> Result<TokenShard> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.width as u32).to_le_bytes());
        header.extend_from_slice(&(self.vocab_size as u64).to_le_bytes());
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&self.tokenizer_hash);
        header.extend_from_slice(&std::mem::take(&mut self.sum).finalize());
        header.extend_from_slice(&Sha256::digest(&header));
        let out = self.out.take().expect("the writer is open until finish()");
        let mut file =
            out.into_inner().map_err(|e| Error::io(&self.temporary, "write it")(e.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(&self.temporary, "write it"))?;
        file.write_all(&header).map_err(Error::io(&self.temporary, "write it"))?;
        whole::commit(file, &self.temporary, &self.path)?;
        TokenShard::open(&self.path)
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // After finish() nothing has this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["ab ab ab"], 256 + 4 + 1).expect("one merge is possible")
    }

    fn write(path: &Path, ids: &[u32]) -> TokenShard {
        let mut writer = ShardWriter::create(path, &tokenizer()).expect("creates");
        ids.chunks(3).for_each(|part| writer.push(part).expect("writes"));
        writer.finish().expect("finishes")
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.tokens");
        let ids = [257, 1, 2, 257, 3, 256, 257];
        let shard = write(&path, &ids);
        shard.verify().expect("is sound");
        assert_eq!(shard.tokens().collect::<Vec<_>>(), ids);
        assert_eq!(shard.len(), 7);
        let mut some = [0; 3];
        shard.read(2, &mut some);
        assert_eq!(some, ids[2..5]);
        assert_eq!(shard.documents(257).collect::<Vec<_>>(), [vec![257, 1, 2], vec![257, 3, 256], vec![257]]);
        assert_eq!(
            TokenShard::open_for(&path, &tokenizer()).expect("opens").tokenizer_hash(),
            Some(tokenizer().hash())
        );
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_unfinished_shard_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut writer = ShardWriter::create(&dir.path().join("a.tokens"), &tokenizer()).expect("creates");
        writer.push(&[1, 2]).expect("writes");
        drop(writer);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn a_vocabulary_beyond_16_bits_is_stored_in_32() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut vocab: serde_json::Map<_, _> = (0..70_000).map(|i| (format!("w{i}"), i.into())).collect();
        vocab.insert("<s>".into(), 70_000.into());
        let file = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"},
        });
        let path = dir.path().join("tokenizer.json");
        fs::write(&path, file.to_string()).expect("writes");
        let tokenizer = Tokenizer::load(&path).expect("loads");
        let ids = tokenizer.encode_document("w69999");
        assert_eq!(ids, [70_000, 69_999]);
        let mut writer = ShardWriter::create(&dir.path().join("a.tokens"), &tokenizer).expect("creates");
        writer.push(&ids).expect("writes");
        let shard = writer.finish().expect("finishes");
        shard.verify().expect("is sound");
        let mut read = [0; 2];
        shard.read(0, &mut read);
        assert_eq!((read, shard.tokens().collect::<Vec<_>>()), ([70_000, 69_999], ids));
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.tokens");
        write(&path, &[1, 2, 3, 4]);
        let good = fs::read(&path).expect("reads");
        let error_of = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("writes");
            TokenShard::open(&path).and_then(|s| s.verify()).expect_err("is damaged").to_string()
        };
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        for (bytes, wanted) in [
            (changed(0), "magic: found \"@NNEALTK\", expected \"ANNEALTK\""),
            (changed(8), "version: found 0, expected 1"),
            (changed(16), "header checksum"),
            (changed(HEADER_BYTES + 2), "checksum of the ids"),
            (good[..good.len() - 1].to_vec(), "length: found 135 bytes, expected 128 + 4 x 2 = 136"),
            (good[..100].to_vec(), "length: found 100 bytes, expected at least 128"),
            (Vec::new(), "length: found 0 bytes"),
        ] {
            let error = error_of(&bytes);
            assert!(error.contains("a.tokens") && error.contains(wanted), "{error}");
        }
        fs::write(&path, &good).expect("writes");
        let other = Tokenizer::train(["ba ba ba"], 256 + 4 + 1).expect("one merge");
        let error = TokenShard::open_for(&path, &other).expect_err("another tokenizer").to_string();
        assert!(error.contains("tokenizer hash") && error.contains(other.hash()), "{error}");
        let larger = Tokenizer::train(["ba ba ba c d"], 256 + 4 + 2).expect("two merges");
        let error = TokenShard::open_for(&path, &larger).expect_err("another vocabulary").to_string();
        assert!(error.contains("vocabulary size: found 261, expected 262"), "{error}");
    }

    #[test]
    fn ids_are_opened_with_or_without_a_header() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.bin");
        write(&path, &[1, 2, 3, 4]);
        let ids = |path| TokenShard::open_ids(path, &tokenizer()).map(|s| s.tokens().collect::<Vec<_>>());
        assert_eq!(ids(&path).expect("a shard"), [1, 2, 3, 4]);
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, &whole[HEADER_BYTES..]).expect("writes");
        assert_eq!(ids(&path).expect("ids alone"), [1, 2, 3, 4]);
        let mut damaged = whole.clone();
        damaged[HEADER_BYTES] ^= 1;
        fs::write(&path, damaged).expect("writes");
        assert!(ids(&path).expect_err("damaged").to_string().contains("checksum of the ids"));
        let named = dir.path().join("a.tokens");
        fs::write(&named, &whole[1..]).expect("writes");
        assert!(ids(&named).expect_err("no header").to_string().contains("a.tokens, magic"));
        fs::write(&path, whole).expect("writes");
        let other = Tokenizer::train(["ba ba ba"], 256 + 4 + 1).expect("one merge");
        let error = TokenShard::open_ids(&path, &other).expect_err("another vocabulary").to_string();
        assert!(error.contains("tokenizer hash"), "{error}");
    }

    #[test]
    fn headerless_files_need_a_vocabulary_that_holds_their_ids() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("data.bin");
        fs::write(&path, [1, 0, 255, 1, 7, 0]).expect("writes");
        let shard = TokenShard::open_raw_u16(&path, 512).expect("opens");
        assert_eq!(shard.tokens().collect::<Vec<_>>(), [1, 511, 7]);
        let error = TokenShard::open_raw_u16(&path, 500).expect_err("too large an id").to_string();
        assert!(error.contains("found 511 at position 1"), "{error}");
        fs::write(&path, [1, 0, 255]).expect("writes");
        assert!(
            TokenShard::open_raw_u16(&path, 500).expect_err("odd length").to_string().contains("3 bytes")
        );
    }
}

//! The bytes of a file, unpacked where they are compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// The first bytes of a gzip file (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The first bytes of a Zstandard frame (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The window that a Zstandard file may ask for: `zstd --ultra --long=31` at most.
const ZSTD_WINDOW_LOG: u32 = 31;

/// How a file is compressed; told by its first bytes, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// From a file's first bytes.
    pub(crate) fn of(first: &[u8]) -> Compression {
        match first {
            _ if first.starts_with(&GZIP) => Compression::Gzip,
            _ if first.starts_with(&ZSTD) => Compression::Zstd,
            _ => Compression::None,
        }
    }

    pub(super) fn of_file(path: &Path) -> Result<Compression> {
        let mut first = Vec::new();
        let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
        file.by_ref().take(4).read_to_end(&mut first).map_err(Error::io(path, "read it"))?;
        Ok(Compression::of(&first))
    }

    fn name(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// `reader` without its compression.
pub(crate) fn unpacked(
    reader: Box<dyn BufRead + Send>,
    compression: Compression,
) -> io::Result<Box<dyn BufRead + Send>> {
    Ok(match compression {
        Compression::None => reader,
        Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(reader))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(BufReader::new(decoder))
        }
    })
}

/// A file that tells how many of its bytes have been taken.
struct Counted {
    file: File,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// A file that is being read.
pub(super) struct Input {
    pub(super) path: PathBuf,
    compression: Compression,
    reader: Box<dyn BufRead + Send>,
    /// Bytes of text handed out.
    read: u64,
    /// Bytes of the file that were taken, packed as they are.
    taken: Arc<AtomicU64>,
}

impl Input {
    /// * `span`: the bytes to read, of a file that is not compressed
    pub(super) fn open(path: &Path, span: Option<(u64, u64)>) -> Result<Input> {
        let compression = Compression::of_file(path)?;
        let mut file = File::open(path).map_err(Error::io(path, "open it"))?;
        let (from, to) = span.unwrap_or((0, u64::MAX));
        file.seek(SeekFrom::Start(from)).map_err(Error::io(path, "read it"))?;
        let taken = Arc::default();
        let file = Counted { file, taken: Arc::clone(&taken) };
        let reader = Box::new(BufReader::with_capacity(128 << 10, file).take(to - from));
        let reader = unpacked(reader, compression).map_err(Error::io(path, "unpack it"))?;
        Ok(Input { path: path.to_owned(), compression, reader, read: 0, taken })
    }

    /// Bytes of the file that were taken so far, up to a buffer more than were needed.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The next line with its end, or at most `room` bytes of it, after what `bytes` holds; how many came.
    pub(super) fn read_line(&mut self, room: u64, bytes: &mut Vec<u8>) -> Result<usize> {
        let read = (&mut self.reader).take(room).read_until(b'\n', bytes);
        self.counted(read)
    }

    /// At most `room` bytes after what `bytes` holds; how many came. Fewer only at the end.
    pub(super) fn read_some(&mut self, room: u64, bytes: &mut Vec<u8>) -> Result<usize> {
        let read = (&mut self.reader).take(room).read_to_end(bytes);
        self.counted(read)
    }

    /// Puts bytes back that came first.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) {
        self.read -= bytes.len() as u64;
        let rest = std::mem::replace(&mut self.reader, Box::new(io::empty()));
        self.reader = Box::new(io::Cursor::new(bytes).chain(rest));
    }

    fn counted(&mut self, read: io::Result<usize>) -> Result<usize> {
        match read {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) if self.compression == Compression::None => {
                Err(Error::io(&self.path, "read it")(error))
            }
            Err(error) => Err(Error::Compressed {
                path: self.path.clone(),
                kind: self.compression.name(),
                good: self.read,
                why: error.to_string(),
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn of_reader(reader: Box<dyn BufRead + Send>) -> Input {
        let taken = Arc::default();
        Input { path: "a reader".into(), compression: Compression::None, reader, read: 0, taken }
    }
}

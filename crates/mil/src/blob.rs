//! The weight blob file: the constants that are too large for text.
//!
//! Little-endian. A header of 64 bytes (number of blobs, version 2), then for each blob a
//! descriptor of 64 bytes and its payload:
//!
//! | at | size | descriptor field |
//! | --- | --- | --- |
//! | 0 | u32 | [`MAGIC`] |
//! | 4 | u32 | [`DataType`] |
//! | 8 | u64 | payload bytes |
//! | 16 | u64 | where the payload begins, from the start of the file: right behind the descriptor |
//! | 24 | 40 bytes | zero |
//!
//! Text refers to a blob by the position of its *descriptor*, 64 for the first (rule ANE-007:
//! another value reads garbage in silence). The layout is that of coremltools,
//! `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`; `StorageWriter.cpp` there aligns every descriptor
//! to 64 bytes, ANEForge lets it follow the payload at once, and engines load both. [`Writer`]
//! aligns, [`File`] reads both. Every field is filled (rule ANE-008).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::f16;

use crate::{Error, Result};

/// The first field of a descriptor.
pub const MAGIC: u32 = 0xDEAD_BEEF;
/// Bytes of the header and of a descriptor, and the alignment of descriptors.
pub const BLOCK_BYTES: usize = 64;
/// The only version of the format that Apple's reader takes.
pub const VERSION: u32 = 2;

/// What a payload holds. Codes as in coremltools, `mlmodel/src/MILBlob/Blob/BlobDataType.hpp`;
/// those missing here hold what no program of ours reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DataType {
    /// IEEE 754 half precision.
    Float16 = 1,
    /// IEEE 754 single precision.
    Float32 = 2,
    /// Unsigned bytes.
    UInt8 = 3,
    /// Signed bytes.
    Int8 = 4,
    /// Signed 32-bit integers.
    Int32 = 14,
}

impl DataType {
    /// All of them.
    pub const ALL: [DataType; 5] =
        [DataType::Float16, DataType::Float32, DataType::UInt8, DataType::Int8, DataType::Int32];

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DataType::UInt8 | DataType::Int8 => 1,
            DataType::Float16 => 2,
            DataType::Float32 | DataType::Int32 => 4,
        }
    }

    /// MIL's name of it.
    pub fn mil_name(self) -> &'static str {
        match self {
            DataType::Float16 => "fp16",
            DataType::Float32 => "fp32",
            DataType::UInt8 => "uint8",
            DataType::Int8 => "int8",
            DataType::Int32 => "int32",
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        DataType::ALL.into_iter().find(|ty| *ty as u32 == code)
    }
}

/// Collects blobs and lays them out.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// A file without blobs.
    pub fn new() -> Self {
        Writer { bytes: vec![0; BLOCK_BYTES], count: 0 }
    }

    /// The number of blobs so far.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Appends a blob; the result is the offset by which text refers to it.
    pub fn add(&mut self, ty: DataType, payload: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let offset = self.bytes.len();
        let mut descriptor = [0; BLOCK_BYTES];
        descriptor[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        descriptor[4..8].copy_from_slice(&(ty as u32).to_le_bytes());
        descriptor[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        descriptor[16..24].copy_from_slice(&((offset + BLOCK_BYTES) as u64).to_le_bytes());
        self.bytes.extend_from_slice(&descriptor);
        self.bytes.extend_from_slice(payload);
        self.count += 1;
        offset as u64
    }

    /// Appends half-precision floats, each rounded to nearest even.
    pub fn add_f16(&mut self, values: &[f32]) -> u64 {
        let payload: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        self.add(DataType::Float16, &payload)
    }

    /// Appends single-precision floats.
    pub fn add_f32(&mut self, values: &[f32]) -> u64 {
        let payload: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(DataType::Float32, &payload)
    }

    /// Appends signed bytes.
    pub fn add_i8(&mut self, values: &[i8]) -> u64 {
        let payload: Vec<u8> = values.iter().map(|v| v.to_le_bytes()[0]).collect();
        self.add(DataType::Int8, &payload)
    }

    /// The finished file.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[0..4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes
    }

    /// Writes the finished file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Blob`] with what the system said.
    pub fn write_to(self, path: &Path) -> Result<()> {
        write_whole(path, &self.finish())
    }
}

/// Writes `bytes` beside `path`, syncs them, and renames: a reader sees the old file or the new.
///
/// # Errors
/// [`Error::Blob`] with what the system said.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |what: &str, error: std::io::Error| Error::Blob {
        file: path.display().to_string(),
        offset: 0,
        problem: format!("{what}: {error}"),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary: PathBuf = path.with_file_name(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // The half-written file helps nobody; that it may not exist is no second error.
        let _ = fs::remove_file(&temporary);
        failed("cannot write it", error)
    })
}

/// One blob of a [`File`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blob<'a> {
    /// The position of its descriptor, by which text refers to it.
    pub offset: u64,
    /// What its payload holds.
    pub ty: DataType,
    /// Its elements, little-endian.
    pub payload: &'a [u8],
}

impl Blob<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.payload.len() / self.ty.bytes()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The elements as floats; integers as floats of their value.
    pub fn to_floats(&self) -> Vec<f32> {
        match self.ty {
            DataType::Float16 => self.words::<2>().map(|w| f16::from_le_bytes(w).to_f32()).collect(),
            DataType::Float32 => self.words::<4>().map(f32::from_le_bytes).collect(),
            _ => self.to_ints().unwrap_or_default().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The elements as integers; `None` when they are floats.
    pub fn to_ints(&self) -> Option<Vec<i32>> {
        match self.ty {
            DataType::Float16 | DataType::Float32 => None,
            DataType::UInt8 => Some(self.payload.iter().map(|v| i32::from(*v)).collect()),
            DataType::Int8 => Some(self.payload.iter().map(|v| i32::from(i8::from_le_bytes([*v]))).collect()),
            DataType::Int32 => Some(self.words::<4>().map(i32::from_le_bytes).collect()),
        }
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.payload.chunks_exact(N).map(|chunk| chunk.try_into().expect("chunks have N bytes"))
    }
}

/// A blob file that is being read.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

impl<'a> File<'a> {
    /// Checks the header; `name` is what errors call the file.
    ///
    /// # Errors
    /// [`Error::Blob`] when it is no blob file.
    pub fn new(name: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let file = File { name, bytes };
        if bytes.len() < BLOCK_BYTES {
            return Err(file.error(0, format!("{} bytes, expected a header of {BLOCK_BYTES}", bytes.len())));
        }
        // The number of blobs is not checked: some writers always say 1 (facts, section 3).
        match file.u32(4) {
            VERSION => Ok(file),
            version => Err(file.error(4, format!("version is {version}, expected {VERSION}"))),
        }
    }

    /// The blob whose descriptor stands at `offset`.
    ///
    /// # Errors
    /// [`Error::Blob`] naming the field that is wrong.
    pub fn blob(&self, offset: u64) -> Result<Blob<'a>> {
        let total = self.bytes.len();
        let at = usize::try_from(offset)
            .ok()
            .filter(|at| at.checked_add(BLOCK_BYTES).is_some_and(|end| end <= total))
            .ok_or_else(|| {
                self.error(offset, format!("a descriptor of {BLOCK_BYTES} bytes does not fit into {total}"))
            })?;
        let magic = self.u32(at);
        if at < BLOCK_BYTES || magic != MAGIC {
            return Err(self.error(
                offset,
                format!(
                    "magic is {magic:#010x}, expected {MAGIC:#010x}; an offset is the position \
                     of a descriptor, {BLOCK_BYTES} for the first"
                ),
            ));
        }
        let code = self.u32(at + 4);
        let ty = DataType::from_code(code).ok_or_else(|| {
            let known: Vec<String> =
                DataType::ALL.iter().map(|ty| format!("{} ({})", *ty as u32, ty.mil_name())).collect();
            self.error(offset + 4, format!("type is {code}, expected one of {}", known.join(", ")))
        })?;
        let (size, payload) = (self.u64(at + 8), self.u64(at + 16));
        let expected = offset + BLOCK_BYTES as u64;
        if payload != expected {
            return Err(self.error(
                offset + 16,
                format!("payload offset is {payload}, expected {expected}, right behind the descriptor"),
            ));
        }
        let start = at + BLOCK_BYTES;
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .filter(|end| *end <= total)
            .ok_or_else(|| {
                self.error(
                    offset + 8,
                    format!(
                        "payload size is {size}, expected at most the {} bytes that follow",
                        total - start
                    ),
                )
            })?;
        if !(end - start).is_multiple_of(ty.bytes()) {
            return Err(self.error(
                offset + 8,
                format!(
                    "payload size is {size}, expected a multiple of {} for {}",
                    ty.bytes(),
                    ty.mil_name()
                ),
            ));
        }
        Ok(Blob { offset, ty, payload: &self.bytes[start..end] })
    }

    /// Every blob in order, whether descriptors are aligned or follow the payloads at once.
    ///
    /// # Errors
    /// As [`File::blob`].
    pub fn blobs(&self) -> Result<Vec<Blob<'a>>> {
        let mut blobs = Vec::new();
        let mut at = BLOCK_BYTES;
        while at < self.bytes.len() {
            let aligned = at.next_multiple_of(BLOCK_BYTES);
            let follows = at + 4 <= self.bytes.len() && self.u32(at) == MAGIC;
            if !follows {
                // Only padding may stand between a payload and the next descriptor.
                let gap = &self.bytes[at..aligned.min(self.bytes.len())];
                if let Some(stray) = gap.iter().position(|b| *b != 0) {
                    return Err(
                        self.error((at + stray) as u64, "neither a descriptor nor the zeros before one")
                    );
                }
                at = aligned;
                if at >= self.bytes.len() {
                    break;
                }
            }
            let blob = self.blob(at as u64)?;
            at += BLOCK_BYTES + blob.payload.len();
            blobs.push(blob);
        }
        Ok(blobs)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn error(&self, offset: u64, problem: impl Into<String>) -> Error {
        Error::Blob { file: self.name.to_owned(), offset, problem: problem.into() }
    }
}

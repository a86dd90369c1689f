//! Named f32 tensors in a safetensors file, written in one pass that also takes the checksum.
//!
//! The format is a length (u64), a JSON header of that length, and the tensors' bytes; see
//! <https://github.com/huggingface/safetensors>. Reading is the library's part. Its writer makes
//! files that only their owner may read, and a checksum would have to read them again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

const _: () =
    assert!(cfg!(target_endian = "little"), "tensors are written as they lie in memory, little-endian");

/// A tensor to be written.
pub(crate) struct Entry<'a> {
    pub(crate) name: String,
    pub(crate) shape: &'a [usize],
    /// Row-major.
    pub(crate) values: &'a [f32],
}

/// Size and checksum of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSum {
    pub(crate) bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub(crate) sha256: String,
}

impl FileSum {
    pub(crate) fn of(bytes: &[u8]) -> FileSum {
        FileSum { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Takes the checksum of what passes through.
struct Summing<W> {
    inner: W,
    sum: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.sum.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes `entries` to a new file at `path` and syncs it. `needed` is what an error for a full disk
/// names.
pub(crate) fn write(path: &Path, entries: &[Entry<'_>], needed: u64) -> Result<FileSum> {
    let mut header = Map::new();
    // transformers refuses files without this mark of the framework that they are laid out for.
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for entry in entries {
        let end = at + 4 * entry.values.len();
        let about = json!({ "dtype": "F32", "shape": entry.shape, "data_offsets": [at, end] });
        header.insert(entry.name.clone(), about);
        at = end;
    }
    let mut header = serde_json::to_vec(&header).expect("names and numbers can be written");
    // The tensors begin at a multiple of 8, as the format asks.
    header.resize(header.len().next_multiple_of(8), b' ');
    let fill = |out: &mut Summing<BufWriter<File>>| -> std::io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for entry in entries {
            out.write_all(bytemuck::cast_slice(entry.values))?;
        }
        out.flush()?;
        out.inner.get_ref().sync_all()
    };
    let file = File::create(path).map_err(Error::writing(path, "create it", needed))?;
    let mut out = Summing { inner: BufWriter::with_capacity(1 << 20, file), sum: Sha256::new(), bytes: 0 };
    fill(&mut out).map_err(Error::writing(path, "write it", needed))?;
    Ok(FileSum { bytes: out.bytes, sha256: hex(&out.sum.finalize()) })
}

/// The tensors of a file, each of which must be there with one of these numbers of elements, in the order of
/// `names`.
pub(crate) fn read(path: &Path, bytes: &[u8], names: &[(String, Vec<usize>)]) -> Result<Vec<Vec<f32>>> {
    let fail = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
    let file =
        SafeTensors::deserialize(bytes).map_err(|e| fail(format!("it is no safetensors file: {e}")))?;
    names
        .iter()
        .map(|(name, numels)| {
            let tensor = file.tensor(name).map_err(|_| fail(format!("tensor {name} is missing")))?;
            if tensor.dtype() != Dtype::F32 || !numels.contains(&(tensor.data().len() / 4)) {
                let (shape, dtype) = (tensor.shape(), tensor.dtype());
                let numel = numels.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
                return Err(fail(format!(
                    "tensor {name} is {dtype:?} {shape:?}, expected {numel} elements of F32"
                )));
            }
            Ok(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Parameter, presets};

    /// Oracle: `model`'s own reader, and the library's view of the header.
    #[test]
    fn a_weight_file_is_what_model_reads() {
        let config = presets::by_name("odd").unwrap();
        let parameters = Parameter::all(&config);
        let weights: Vec<Vec<f32>> =
            parameters.iter().map(|p| model::initial_values(&config, p, 3)).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let entries: Vec<Entry<'_>> = parameters
            .iter()
            .zip(&weights)
            .map(|(p, values)| Entry { name: p.name.clone(), shape: &p.shape, values })
            .collect();
        let sum = write(&path, &entries, 0).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(sum, FileSum::of(&bytes));
        assert_eq!(model::weights::from_bytes(&config, &bytes, &path).unwrap(), weights);
        let names: Vec<(String, Vec<usize>)> =
            parameters.iter().map(|p| (p.name.clone(), vec![p.numel()])).collect();
        assert_eq!(read(&path, &bytes, &names).unwrap(), weights);
        let missing = read(&path, &bytes, &[("nobody".into(), vec![1])]).unwrap_err().to_string();
        assert!(missing.contains("weights.safetensors: tensor nobody is missing"), "{missing}");
        let short = read(&path, &bytes, &[("model.norm.weight".into(), vec![41])]).unwrap_err().to_string();
        assert!(short.contains("F32 [40], expected 41"), "{short}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_with_what_was_needed() {
        let values = vec![1.0; 1 << 19];
        let entry = Entry { name: "x".into(), shape: &[1 << 19], values: &values };
        let error = write(Path::new("/dev/full"), &[entry], 12_345).unwrap_err();
        assert!(matches!(error, Error::DiskFull { bytes: 12_345, .. }), "{error}");
    }
}

//! Core ML packages: a program as a `.mlpackage`, which Apple's tools open.
//!
//! A package is a directory:
//!
//! | file | content |
//! | --- | --- |
//! | [`MANIFEST`] | what is in it, and which file is the model |
//! | [`MODEL`] | the [specification](spec), a protobuf message: ports and statements |
//! | [`WEIGHTS`] | the constants of [`INLINE_MAX`] elements and more, in the [blob](crate::blob) format; missing when there is none |
//!
//! Statements and names are exactly those of [text](crate::text): composites expanded, every
//! attribute a constant of its own. So what is found out about a package, for example by loading it
//! with coremltools, whose type inference is Apple's, holds for the text that the engine's compilers
//! get. The layout is that of coremltools 9.0, `models/utils.py` and `converters/mil/backend/mil`.
//!
//! The same program gives the same bytes: maps are sorted, and the identifiers in the manifest are
//! digests of what they stand for.
//!
//! ```
//! use mil::text::Header;
//! use mil::{Builder, Element, mlpackage};
//!
//! let mut b = Builder::new(Element::F16);
//! let x = b.input("x", &[1, 64, 1, 32])?;
//! let half = b.scale(x, 0.5)?;
//! b.output("half", half)?;
//! let package = mlpackage::write(&b.finish()?, Header::Ios18)?;
//! let model = package.model()?;
//! assert_eq!(model.specification_version, 9);
//! assert_eq!(model.description.unwrap().output[0].name, "half");
//! # Ok::<(), mil::Error>(())
//! ```

use prost::Message;

use crate::text::Header;
use crate::{Error, Program, Result};

mod convert;
mod directory;
mod manifest;
pub mod spec;

pub use directory::{read_model, write_to_dir};

/// The manifest's place in a package.
pub const MANIFEST: &str = "Manifest.json";
/// The model's place in a package.
pub const MODEL: &str = "Data/com.apple.CoreML/model.mlmodel";
/// The place of large constants in a package.
pub const WEIGHTS: &str = "Data/com.apple.CoreML/weights/weight.bin";
/// What the name of a package ends with.
pub const EXTENSION: &str = "mlpackage";
/// Float constants of up to this many elements stand in the specification, larger ones in
/// [`WEIGHTS`]; the bound is coremltools' (`should_use_weight_file` in `backend/mil/load.py`).
pub const INLINE_MAX: usize = 9;
/// The entry of a model's metadata by which a package of ours is known; its value is the version
/// that wrote it.
pub const WRITTEN_BY: &str = "anneal.version";

/// Specification version and op set of a generation of the language.
///
/// [`Header::Ios18`] is the op set that the text says too (`main<ios18>`), so the check of a package
/// is a check of that text; it needs macOS 15. [`Header::Ios16`] is the oldest with ports in half
/// precision, for macOS 13. The op sets between add nothing that our ops need.
pub fn opset(header: Header) -> (i32, &'static str) {
    match header {
        Header::Ios16 => (7, "CoreML6"),
        Header::Ios18 => (9, "CoreML8"),
    }
}

/// A package in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The encoded [`spec::Model`].
    model: Vec<u8>,
    /// The blob file, when there are large constants.
    weights: Option<Vec<u8>>,
}

impl Package {
    /// Its files: where each lies in the package, and what it holds.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let manifest = manifest::write(&self.model, self.weights.as_deref());
        let mut files = vec![(MODEL, self.model.clone())];
        files.extend(self.weights.iter().map(|bytes| (WEIGHTS, bytes.clone())));
        files.push((MANIFEST, manifest.into_bytes()));
        files
    }

    /// The specification, decoded.
    ///
    /// # Errors
    /// None for a package that [`write()`] made.
    pub fn model(&self) -> Result<spec::Model> {
        decode(MODEL, &self.model)
    }

    /// The blob file of large constants.
    pub fn weights(&self) -> Option<&[u8]> {
        self.weights.as_deref()
    }
}

/// `program` as a package of the generation `header`. Composites are expanded.
///
/// # Errors
/// [`Error::Program`] when a name is no MIL identifier or a port is of a kind that Core ML has not;
/// [`Error::Op`] when a composite does not decompose.
pub fn write(program: &Program, header: Header) -> Result<Package> {
    convert::check_ports(program)?;
    let (model, weights) = convert::program(&program.expand_all()?, header)?;
    Ok(Package { model: model.encode_to_vec(), weights })
}

fn decode(file: &str, bytes: &[u8]) -> Result<spec::Model> {
    spec::Model::decode(bytes).map_err(|error| Error::Package {
        file: file.to_owned(),
        problem: format!("it is no Core ML specification: {error}"),
    })
}

//! Apple's text form of MIL, written and read.
//!
//! [`write()`] gives what the compilers on every Apple route take: composites expanded, every
//! attribute a named constant (rule ANE-034), floats in C's hexadecimal form, large constants in
//! [blob files](crate::blob). [`parse`] reads it back to an equal [`Program`], and reads the text
//! of other writers: other headers and orders, literals as arguments, decimals, scalars spelled as
//! tensors of rank 0.
//!
//! What text does not carry: [scopes](crate::Scope), and the `inout` pairs of ports, for which MIL
//! has no form between an input and an output. A program with such pairs reads back without them.
//!
//! ```
//! use mil::text::{self, ParseOptions, WriteOptions};
//! use mil::{Builder, Element};
//!
//! let mut b = Builder::new(Element::F16);
//! let x = b.input("x", &[1, 64, 1, 32])?;
//! let half = b.scale(x, 0.5)?;
//! b.output("y", half)?;
//! let program = b.finish()?;
//!
//! let written = text::write(&program, &WriteOptions::default())?;
//! assert!(written.text.contains("fp16 t0 = const()[name = string(\"t0\"), val = fp16(0x1p-1)];"));
//! let options = ParseOptions { blobs: Some(&written), ..ParseOptions::default() };
//! assert_eq!(text::parse(&written.text, &options)?, program);
//! # Ok::<(), mil::Error>(())
//! ```

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Element, Error, Program, Result, blob};

mod lex;
mod number;
mod read;
mod syntax;
mod write;

/// What text calls the folder in which it lies.
pub const MODEL_PATH: &str = "@model_path/";
/// The text's own name in that folder.
pub const FILE_NAME: &str = "model.mil";

/// Which generation of the language is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Header {
    /// `program(1.3)`, `main<ios18>`; a scalar is `fp16`.
    #[default]
    Ios18,
    /// `program(1.0)`, `main<ios16>`; a scalar is `tensor<fp16, []>`. For compilers on M1 that do
    /// not take the newer form (rule ANE-009).
    Ios16,
}

/// Where constants that are too large for text go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFiles {
    /// All into the file at this path behind [`MODEL_PATH`].
    One(String),
    /// Each into a file of its own in this folder behind [`MODEL_PATH`], named after the constant
    /// (rule ANE-009). Empty means beside the text.
    OneEach(String),
}

/// How [`write()`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Which generation of the language.
    pub header: Header,
    /// Float constants of up to this many elements stand in the text; integers and truth values
    /// always do.
    pub inline_max: usize,
    /// Where the others go.
    pub weights: WeightFiles,
    /// What the text says that it was made with. Compilers were seen to take versions that are
    /// not the host's (facts, section 2).
    pub build_info: Vec<(String, String)>,
}

impl Default for WriteOptions {
    /// For `ane-inmem`: the modern header, weights in `weights/weights.bin`.
    fn default() -> Self {
        let versions = [
            ("coremlc-component-MIL", "3510.2.1"),
            ("coremlc-version", "3505.4.1"),
            ("coremltools-component-milinternal", ""),
            ("coremltools-version", "9.0"),
        ];
        WriteOptions {
            header: Header::Ios18,
            inline_max: 16,
            weights: WeightFiles::One("weights/weights.bin".to_owned()),
            build_info: versions.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }
}

impl WriteOptions {
    /// For `ane`: as ANEForge writes, with the weights beside the text.
    pub fn ane() -> Self {
        WriteOptions { weights: WeightFiles::One("weights.bin".to_owned()), ..Self::default() }
    }

    /// For `ane-inmem` on M1: the older header and one file for each matrix.
    pub fn legacy() -> Self {
        WriteOptions {
            header: Header::Ios16,
            weights: WeightFiles::OneEach("weights".to_owned()),
            build_info: vec![("coremlc-version".to_owned(), "3505.4.1".to_owned())],
            ..Self::default()
        }
    }
}

/// A blob file that goes with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// As the text names it, [`MODEL_PATH`] included; also the key of `ane-inmem`'s weight
    /// dictionary.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A program as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The MIL text.
    pub text: String,
    /// The blob files that it refers to; none when every constant is small.
    pub weights: Vec<WeightFile>,
}

/// Where a text's blob files come from.
pub trait BlobSource {
    /// The content of the file that text calls `path`.
    ///
    /// # Errors
    /// [`Error::Blob`] when there is none.
    fn read(&self, path: &str) -> Result<Cow<'_, [u8]>>;
}

impl BlobSource for Written {
    fn read(&self, path: &str) -> Result<Cow<'_, [u8]>> {
        match self.weights.iter().find(|file| file.path == path) {
            Some(file) => Ok(Cow::Borrowed(&file.bytes)),
            None => Err(blob_error(path, "the program was written without it")),
        }
    }
}

/// The folder that [`MODEL_PATH`] stands for.
#[derive(Debug, Clone)]
pub struct ModelFolder(
    /// Its path.
    pub PathBuf,
);

impl BlobSource for ModelFolder {
    fn read(&self, path: &str) -> Result<Cow<'_, [u8]>> {
        let inside = Path::new(path.strip_prefix(MODEL_PATH).unwrap_or(path));
        if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(blob_error(path, "it lies outside the model's folder"));
        }
        match fs::read(self.0.join(inside)) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => Err(blob_error(path, &format!("cannot read it: {error}"))),
        }
    }
}

fn blob_error(path: &str, problem: &str) -> Error {
    Error::Blob { file: path.to_owned(), offset: 0, problem: problem.to_owned() }
}

/// How [`parse`] reads.
#[derive(Clone, Copy)]
pub struct ParseOptions<'a> {
    /// What errors call the text.
    pub file: &'a str,
    /// Blob files; without them a text that refers to some is an error.
    pub blobs: Option<&'a dyn BlobSource>,
    /// The element type of the program; `None` means fp16 unless all its floats are fp32.
    pub element: Option<Element>,
}

impl std::fmt::Debug for ParseOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParseOptions")
            .field("file", &self.file)
            .field("blobs", &self.blobs.is_some())
            .field("element", &self.element)
            .finish()
    }
}

impl Default for ParseOptions<'_> {
    fn default() -> Self {
        ParseOptions { file: "<text>", blobs: None, element: None }
    }
}

/// `program` as MIL text and blob files. Composites are expanded.
///
/// # Errors
/// [`Error::Program`] when a name is no MIL identifier, or a constant is NaN, for which MIL has no
/// spelling; [`Error::Op`] when a composite does not decompose.
pub fn write(program: &Program, options: &WriteOptions) -> Result<Written> {
    write::program(&program.expand_all()?, options)
}

/// The program in `text`: the first function of it.
///
/// Constants that serve only as attributes become part of their ops; constants that serve as
/// operands keep their place and name.
///
/// # Errors
/// [`Error::Text`] with the place of what cannot be read.
pub fn parse(text: &str, options: &ParseOptions<'_>) -> Result<Program> {
    let source = lex::Source { file: options.file, text };
    let function = syntax::parse(&source)?;
    read::program(source, &function, options)
}

/// Writes `program` into the folder `dir`: [`FILE_NAME`] and the blob files. The result is the
/// path of the text, which appears last, by rename.
///
/// # Errors
/// As [`write()`]; [`Error::Blob`] with the file that the system did not let us write.
pub fn write_to_dir(program: &Program, dir: &Path, options: &WriteOptions) -> Result<PathBuf> {
    let written = write(program, options)?;
    let make = |path: &Path| {
        fs::create_dir_all(path).map_err(|error| {
            blob_error(&path.display().to_string(), &format!("cannot make the folder: {error}"))
        })
    };
    make(dir)?;
    for file in &written.weights {
        let path = dir.join(file.path.strip_prefix(MODEL_PATH).unwrap_or(&file.path));
        make(path.parent().unwrap_or(dir))?;
        blob::write_whole(&path, &file.bytes)?;
    }
    let path = dir.join(FILE_NAME);
    blob::write_whole(&path, written.text.as_bytes())?;
    Ok(path)
}

/// The program in the text file `path`, its blob files relative to the text.
///
/// # Errors
/// As [`parse`].
pub fn read_file(path: &Path) -> Result<Program> {
    let (text, folder) = open(path)?;
    parse(&text, &ParseOptions { file: &path.display().to_string(), blobs: Some(&folder), element: None })
}

/// As [`read_file`], and the text with the blob files that it refers to, as they stand.
///
/// # Errors
/// As [`parse`].
pub fn read_written(path: &Path) -> Result<(Program, Written)> {
    let (text, folder) = open(path)?;
    let kept = Kept { folder, files: RefCell::default() };
    let options = ParseOptions { file: &path.display().to_string(), blobs: Some(&kept), element: None };
    let program = parse(&text, &options)?;
    Ok((program, Written { text, weights: kept.files.into_inner() }))
}

/// The text in the file `path`, and the folder that it lies in.
fn open(path: &Path) -> Result<(String, ModelFolder)> {
    let text = fs::read_to_string(path).map_err(|error| Error::Text {
        file: path.display().to_string(),
        line: 1,
        column: 1,
        problem: format!("cannot read it: {error}"),
    })?;
    Ok((text, ModelFolder(path.parent().unwrap_or(Path::new("")).to_owned())))
}

/// A folder of which every file that was read is kept; the parser reads each once.
struct Kept {
    folder: ModelFolder,
    files: RefCell<Vec<WeightFile>>,
}

impl BlobSource for Kept {
    fn read(&self, path: &str) -> Result<Cow<'_, [u8]>> {
        let bytes = self.folder.read(path)?;
        self.files.borrow_mut().push(WeightFile { path: path.to_owned(), bytes: bytes.to_vec() });
        Ok(bytes)
    }
}

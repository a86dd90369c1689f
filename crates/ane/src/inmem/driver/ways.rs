//! What this system's framework does, found out by trying; and what child processes try.

use std::path::{Path, PathBuf};

use half::f16;
use mil::lint::Chip;
use mil::text::{self, WeightFile, WriteOptions, Written};
use mil::{Builder, Element, PortKind, Program};
use serde::{Deserialize, Serialize};

use super::framework::Framework;
use super::model::{Model, Request as Run};
use super::surface::IoSurface;
use crate::CallError;
use crate::child::{self, plain};
use crate::explain::explain;
use crate::inmem::{Packing, SurfaceLimits};

/// What was found out about a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ways {
    /// Runs tell how long the engine took. Requests with statistics were taken by some systems (ANEgpt,
    /// ane-infer) and by others not.
    pub(super) times: bool,
}

/// What a child is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Where the framework is.
    pub(super) library: PathBuf,
    /// What to do.
    pub(super) task: Task,
}

/// What a child does; all answer nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Run a small program.
    Works,
    /// Run it with statistics.
    Times,
    /// Run one whose results are joined, as those of most packed programs are.
    Joins,
    /// Compile and load the program in `dir`, as [`text::write_to_dir`] leaves it, without running it.
    Compile {
        /// The folder.
        dir: PathBuf,
        /// With statistics.
        times: bool,
    },
}

/// The child's side.
///
/// # Errors
/// What failed.
pub(crate) fn answer(request: &Request) -> Result<serde_json::Value, String> {
    let framework = Framework::load(&request.library).map_err(|error| error.to_string())?;
    carry_out(&framework, &request.task).map(plain)
}

/// Does what a child is asked.
///
/// # Errors
/// What failed.
pub(super) fn carry_out(framework: &Framework, task: &Task) -> Result<(), String> {
    match task {
        Task::Works => run_small(framework, &plain_product(), false),
        Task::Times => run_small(framework, &plain_product(), true),
        Task::Joins => run_small(framework, &joined_products(), false),
        Task::Compile { dir, times } => {
            let written = read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            Model::new(framework, &written, *times).map(drop).map_err(|error| explain(&error))
        }
    }
}

impl Task {
    /// As a request to a child.
    pub(super) fn request(self, library: &Path) -> child::Request {
        child::Request::InMem(Request { library: library.to_owned(), task: self })
    }
}

/// The text and the blob files in a folder.
fn read_dir(dir: &Path) -> std::io::Result<Written> {
    let mut weights = Vec::new();
    let folder = dir.join("weights");
    if folder.exists() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = format!("{}weights/{}", text::MODEL_PATH, entry.file_name().to_string_lossy());
            weights.push(WeightFile { path, bytes: std::fs::read(entry.path())? });
        }
    }
    Ok(Written { text: std::fs::read_to_string(dir.join(text::FILE_NAME))?, weights })
}

/// A small program, and what it makes of whole numbers, which halves hold exactly.
struct Small {
    program: mil::Result<Program>,
    /// Elements of each input and each output.
    numel: (Vec<usize>, Vec<usize>),
    /// Element `i` of each output, if element `i` of input 0 is `x(i)` and all of input 1 are `w`.
    expected: fn(i: usize, w: f32) -> Vec<f32>,
}

/// Element `i` of the first input.
fn x(i: usize) -> f32 {
    (i % 7) as f32 - 3.0
}

/// y = x w + x on 48 KiB, the smallest surface that every source accepts, so that nothing is joined.
fn plain_product() -> Small {
    let shape = [1, 64, 1, 384];
    let build = || {
        let mut b = Builder::new(Element::F16);
        let (x, w) = (b.input("x", &shape)?, b.input("w", &shape)?);
        let product = b.mul(x, w)?;
        let sum = b.add(product, x)?;
        b.output("y", sum)?;
        b.finish()
    };
    let numel = 64 * 384;
    Small { program: build(), numel: (vec![numel; 2], vec![numel]), expected: |i, w| vec![x(i) * w + x(i)] }
}

/// y = x w + x and z = 2 w with x [1, 96, 1, 80] and w [1, 96, 1, 1]: several bands beside one another, a column
/// that is padded, and results that are joined.
fn joined_products() -> Small {
    let build = || {
        let mut b = Builder::new(Element::F16);
        let (x, w) = (b.input("x", &[1, 96, 1, 80])?, b.input("w", &[1, 96, 1, 1])?);
        let product = b.mul(x, w)?;
        let sum = b.add(product, x)?;
        b.output("y", sum)?;
        let twice = b.scale(w, 2.0)?;
        b.output("z", twice)?;
        b.finish()
    };
    Small {
        program: build(),
        numel: (vec![96 * 80, 96], vec![96 * 80, 96]),
        expected: |i, w| vec![x(i) * w + x(i), 2.0 * w],
    }
}

/// Runs a small program twice, with another factor the second time.
fn run_small(framework: &Framework, small: &Small, times: bool) -> Result<(), String> {
    let told = |error: CallError| explain(&error);
    let program = small.program.as_ref().map_err(|error| error.to_string())?;
    // Inputs of this size fit every chip.
    let packing = Packing::new(program, SurfaceLimits::of(Chip::M1)).map_err(|error| error.to_string())?;
    let written =
        text::write(packing.program(), &WriteOptions::default()).map_err(|error| error.to_string())?;
    let model = Model::new(framework, &written, times).map_err(told)?;
    let surface = |kind| IoSurface::new(framework, packing.surface(kind).bytes()).map_err(told);
    let (input, output) = (surface(PortKind::Input)?, surface(PortKind::Output)?);
    let run = Run::new(framework, input, output, times).map_err(told)?;
    let ports = |kind| packing.ports().iter().filter(move |port| port.kind == kind);
    for factor in [2.0, 5.0] {
        let first: Vec<f32> = (0..small.numel.0[0]).map(x).collect();
        let second = vec![factor; small.numel.0[1]];
        run.input
            .write(|halves| {
                for (port, values) in ports(PortKind::Input).zip([&first, &second]) {
                    port.place.write(values, halves);
                }
            })
            .map_err(told)?;
        // So that an old result is not taken for a new one.
        run.output.write(|halves| halves.fill(f16::from_f32(-1000.0))).map_err(told)?;
        {
            let _lane = framework.lane();
            model.evaluate(&run).map_err(told)?;
        }
        for (at, (port, numel)) in ports(PortKind::Output).zip(&small.numel.1).enumerate() {
            let mut found = vec![0.0; *numel];
            run.output.read(|halves| port.place.read(halves, &mut found)).map_err(told)?;
            if found.iter().enumerate().any(|(i, found)| *found != (small.expected)(i, factor)[at]) {
                return Err("it computes a small product wrongly".to_owned());
            }
        }
    }
    if times && run.hardware_time().is_none() {
        return Err("runs do not tell how long they took".to_owned());
    }
    Ok(())
}

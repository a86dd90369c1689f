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
    /// Compile and load the program in this folder, as [`text::write_to_dir`] leaves it, without running it.
    Compile(PathBuf),
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
        Task::Works => run_small(framework, small(1), false),
        Task::Times => run_small(framework, small(1), true),
        Task::Joins => run_small(framework, small(2), false),
        Task::Compile(dir) => {
            let written = read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            Model::new(framework, &written, false).map(drop).map_err(|error| explain(&error))
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

/// Its shape: 48 KiB, the smallest surface that every source accepts, so that nothing is joined.
const SHAPE: [usize; 4] = [1, 64, 1, 384];
const NUMEL: usize = 64 * 384;

/// x w + x, so many times.
fn small(outputs: usize) -> mil::Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &SHAPE)?;
    let w = b.input("w", &SHAPE)?;
    for output in 0..outputs {
        let product = b.mul(x, w)?;
        let sum = b.add(product, x)?;
        b.output(&format!("y{output}"), sum)?;
    }
    b.finish()
}

/// Runs a small program twice, with other factors the second time: small whole numbers, exact in f16.
fn run_small(framework: &Framework, program: mil::Result<Program>, times: bool) -> Result<(), String> {
    let told = |error: CallError| explain(&error);
    let packing = program
        .map_err(|error| error.to_string())
        // Two inputs of this size fit every chip.
        .and_then(|program| {
            Packing::new(&program, SurfaceLimits::of(Chip::M1)).map_err(|error| error.to_string())
        })?;
    let written =
        text::write(packing.program(), &WriteOptions::default()).map_err(|error| error.to_string())?;
    let model = Model::new(framework, &written, times).map_err(told)?;
    let surface = |kind| IoSurface::new(framework, packing.surface(kind).bytes()).map_err(told);
    let (input, output) = (surface(PortKind::Input)?, surface(PortKind::Output)?);
    let run = Run::new(framework, input, output, times).map_err(told)?;
    for factor in [2.0, 5.0] {
        let x: Vec<f32> = (0..NUMEL).map(|i| (i % 7) as f32 - 3.0).collect();
        run.input
            .write(|halves| {
                for (port, values) in packing.ports().iter().zip([&x, &vec![factor; NUMEL]]) {
                    port.place.write(values, halves);
                }
            })
            .map_err(told)?;
        // So that an old result is not taken for a new one.
        run.output.write(|halves| halves.fill(f16::from_f32(-1000.0))).map_err(told)?;
        model.evaluate(&run).map_err(told)?;
        for port in packing.ports().iter().filter(|port| port.kind == PortKind::Output) {
            let mut found = vec![0.0; NUMEL];
            run.output.read(|halves| port.place.read(halves, &mut found)).map_err(told)?;
            if found.iter().zip(&x).any(|(found, x)| *found != x * (factor + 1.0)) {
                return Err("it computes a small product wrongly".to_owned());
            }
        }
    }
    if times && run.hardware_time().is_none() {
        return Err("runs do not tell how long they took".to_owned());
    }
    Ok(())
}

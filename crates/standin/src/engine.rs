//! From MIL text to results: what a compiler and an engine do, under a profile.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use mil::lint::Route;
use mil::{DType, Op, PortKind, Program};
use sim::{Interpreter, Profile as Arithmetic};

use crate::profile::Profile;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The Neural Engine.
    Ane,
    /// The GPU.
    Gpu,
    /// The CPU.
    Bnns,
}

impl Backend {
    /// As the compiler's `analytics.mil` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Ane => "ane",
            Backend::Gpu => "mps_graph",
            Backend::Bnns => "bnns",
        }
    }

    /// The backend of this name.
    pub fn by_name(name: &str) -> Option<Backend> {
        [Backend::Ane, Backend::Gpu, Backend::Bnns].into_iter().find(|backend| backend.name() == name)
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// By which buffers are bound.
    pub name: String,
    /// Which way it faces.
    pub kind: PortKind,
    /// Its elements, halves each.
    pub numel: usize,
}

/// A program that can run.
pub struct Loaded {
    interpreter: Interpreter,
    ports: Vec<Port>,
}

/// Reads the text at `path` and its blob files, and checks what this profile's compiler for `backend` checks.
///
/// # Errors
/// The compiler's answer, in its words as far as they are known.
pub fn compile(path: &Path, backend: Backend, profile: &Profile) -> Result<Program, String> {
    let program = mil::text::read_file(path).map_err(|error| format!("InvalidMILProgram: {error}"))?;
    // ANE-072: the in-memory route takes fp32, which the program casts.
    let taken = |dtype| dtype == DType::F16 || (dtype == DType::F32 && profile.route == Route::AneInMem);
    if let Some(port) = program.ports().find(|port| !taken(port.ty.dtype)) {
        return Err(format!(
            "ANECCompile() FAILED: port {} is {}, which the boundary does not take",
            port.name, port.ty
        ));
    }
    if backend != Backend::Ane {
        return Ok(program);
    }
    let findings = program.lint(profile.chip, profile.route);
    let refused = findings.iter().find(|finding| profile.refuses.contains(&finding.rule));
    if let Some(finding) = refused {
        return Err(format!("ANECCompile() FAILED: {finding}"));
    }
    let statements = program.stmts().iter().filter(|stmt| !matches!(stmt.op, Op::Const(_))).count();
    match profile.max_statements {
        Some(most) if statements > most => {
            Err(format!("ANECCompile() FAILED: {statements} statements, this compiler takes {most}"))
        }
        _ => Ok(program),
    }
}

impl Loaded {
    /// Prepares a compiled program.
    ///
    /// # Errors
    /// When an axis is longer than the chip takes.
    pub fn new(program: &Program, backend: Backend, profile: &Profile) -> Result<Loaded, String> {
        let arithmetic = match backend {
            Backend::Ane => profile.arithmetic.clone(),
            Backend::Gpu | Backend::Bnns => Arithmetic::exact(),
        };
        let interpreter = Interpreter::new(program, &arithmetic).map_err(|error| error.to_string())?;
        let ports = program
            .ports()
            .map(|port| Port { name: port.name.to_owned(), kind: port.kind, numel: port.ty.numel() })
            .collect();
        Ok(Loaded { interpreter, ports })
    }

    /// The ports, inputs first.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Runs on halves, in the order of the input ports; the results are in the order of the output ports.
    ///
    /// # Errors
    /// When an input has the wrong length.
    pub fn run(&self, inputs: &[&[f16]]) -> Result<Vec<Vec<f16>>, String> {
        let wide: Vec<Vec<f32>> = inputs.iter().map(|halves| halves.to_f32_vec()).collect();
        let slices: Vec<&[f32]> = wide.iter().map(Vec::as_slice).collect();
        let outputs = self.interpreter.run(&slices).map_err(|error| error.to_string())?;
        let narrow = |values: Vec<f32>| {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(&values);
            halves
        };
        Ok(outputs.into_iter().map(narrow).collect())
    }
}

//! What the catalogue says about a program in the form in which a route takes it.

use mil::lint::{Chip, Finding, Place, Plan, Route, Severity, Slot};
use mil::text::{self, WriteOptions, Written};
use mil::{DType, Program};

use crate::inmem::{Packing, SurfaceLimits};

/// How text is written for a route.
pub(crate) fn write_options(route: Route) -> WriteOptions {
    match route {
        Route::Ane => WriteOptions::ane(),
        Route::AneInMem => WriteOptions::default(),
    }
}

/// What is about to happen with `program`, which is packed where the route wants it, written as `written`.
pub(crate) fn plan<'a>(
    program: &Program,
    written: &'a Written,
    route: Route,
    (compiled, loaded): (usize, usize),
) -> Plan<'a> {
    let slots = |kind| -> Vec<Slot> {
        let ports = program.ports().filter(|port| port.kind == kind);
        ports
            .map(|port| Slot {
                port: port.name.to_owned(),
                shape: port.ty.shape.clone(),
                bytes: port.ty.numel() * element_bytes(port.ty.dtype),
            })
            .collect()
    };
    let (inputs, outputs) = (slots(mil::PortKind::Input), slots(mil::PortKind::Output));
    Plan { route, inputs, outputs, written, compiled, loaded }
}

/// Bytes of one element in a surface.
fn element_bytes(dtype: DType) -> usize {
    match dtype {
        DType::I8 | DType::Bool => 1,
        DType::F16 | DType::Str => 2,
        DType::F32 | DType::I32 => 4,
    }
}

/// What the catalogue says about `program` on `chip`, in the form in which `route` takes it: packed into
/// surfaces on [`Route::AneInMem`]. A program that has no such form, or that MIL's text cannot hold, is a finding
/// without a rule of the catalogue.
pub fn findings(program: &Program, chip: Chip, route: Route) -> Vec<Finding> {
    let none = |rule, problem: String, remedy| {
        vec![Finding { rule, severity: Severity::Error, place: Place::Program, message: problem, remedy }]
    };
    let packed = match route {
        Route::Ane => None,
        Route::AneInMem => match Packing::new(program, SurfaceLimits::of(chip)) {
            Ok(packing) => Some(packing),
            Err(error) => {
                let remedy = "cut it finer, or take fewer sequences or a smaller vocabulary tile at a time";
                return none("PACKING", error.to_string(), remedy);
            }
        },
    };
    let program = packed.as_ref().map_or(program, Packing::program);
    match text::write(program, &write_options(route)) {
        Ok(written) => lint(program, &written, chip, route, (0, 0)),
        Err(error) => none("TEXT", error.to_string(), "write it with what the route's generation of MIL has"),
    }
}

/// What the catalogue says about a program in its final form, worst first, when `counts` programs were compiled and
/// are loaded.
pub fn lint(
    program: &Program,
    written: &Written,
    chip: Chip,
    route: Route,
    counts: (usize, usize),
) -> Vec<Finding> {
    let mut findings = program.lint(chip, route);
    findings.extend(plan(program, written, route, counts).lint(chip));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The worst finding, if it is an error.
///
/// # Errors
/// What it says.
pub(crate) fn refuse_errors(chip: Chip, findings: &[Finding]) -> Result<(), String> {
    match findings.first() {
        Some(finding) if finding.severity == Severity::Error => {
            Err(format!("{chip:?} does not take it: {finding}"))
        }
        _ => Ok(()),
    }
}

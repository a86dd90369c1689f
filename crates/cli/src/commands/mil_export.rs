//! `anneal mil export`: programs as Core ML packages.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use mil::text::{self, Header};
use mil::{Element, PortKind, Program, Segment, mlpackage};
use model::Taps;
use serde_json::{Value, json};

use super::mil::{config, only_wanted};
use crate::Result;
use crate::args::{MilExportArgs, OpsetName};
use crate::units;

/// A package that was written.
struct Written {
    segment: Segment,
    path: PathBuf,
    bytes: u64,
}

pub(crate) fn run(args: &MilExportArgs, out: &mut dyn Write) -> Result {
    let header = match args.opset {
        OpsetName::Ios16 => Header::Ios16,
        OpsetName::Ios18 => Header::Ios18,
    };
    let mut written = Vec::new();
    for (path, segment) in programs(args)? {
        let bytes = mlpackage::write_to_dir(&segment.program, &path, header)?;
        written.push(Written { segment, path, bytes });
    }
    if args.json {
        let packages: Vec<Value> = written.iter().map(object).collect();
        let (specification_version, opset) = mlpackage::opset(header);
        let report =
            json!({ "specification_version": specification_version, "opset": opset, "packages": packages });
        writeln!(out, "{report}")?;
    } else {
        for package in &written {
            writeln!(out, "{}  {}", package.path.display(), units::bytes(package.bytes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What to write, and where.
fn programs(args: &MilExportArgs) -> Result<Vec<(PathBuf, Segment)>> {
    let Some(preset) = &args.preset else {
        let file = args.file.as_ref().ok_or("give a file of MIL text, or --preset")?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(args.out.clone(), Segment { name, program: text::read_file(file)? })]);
    };
    let (config, layer) = (config(preset, &args.layer)?, &args.layer);
    let all = model::programs(&config, layer.cut, Taps::Keep, layer.batch, Element::F16)?;
    let place =
        |segment: Segment| (args.out.join(format!("{}.{}", segment.name, mlpackage::EXTENSION)), segment);
    Ok(only_wanted(all, layer)?.into_iter().map(place).collect())
}

fn object(written: &Written) -> Value {
    let Written { segment, path, bytes } = written;
    json!({
        "program": segment.name, "path": path, "bytes": bytes,
        "inputs": ports(&segment.program, PortKind::Input),
        "outputs": ports(&segment.program, PortKind::Output),
    })
}

fn ports(program: &Program, kind: PortKind) -> Vec<Value> {
    let port =
        |p: mil::Port<'_>| json!({ "name": p.name, "dtype": p.ty.dtype.mil_name(), "shape": p.ty.shape });
    program.ports().filter(|p| p.kind == kind).map(port).collect()
}

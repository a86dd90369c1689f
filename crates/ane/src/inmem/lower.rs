//! The packed program: every port cut out of one input, every result joined to one output.

use std::collections::HashMap;

use mil::{Builder, Element, Op, Program, Result, ValueId};

use super::layout::{Place, Surface};

/// The name of the packed program's input: neutral, and before that of its output in ASCII, the order in which
/// one project found slots to be taken (Orion, rules ANE-024, ANE-025).
const INPUT: &str = "a0";
/// The name of its output.
const OUTPUT: &str = "z0";

/// The surfaces of a program; their places are in the order of its ports.
pub(super) struct Sides<'a> {
    pub(super) input: &'a Surface,
    pub(super) output: &'a Surface,
}

/// `program` in primitive ops, with the ports that `sides` describes in one input and one output.
pub(super) fn lower(program: &Program, sides: Sides<'_>) -> Result<Program> {
    let program = &program.expand_all()?;
    let mut b = Builder::new(Element::F16);
    let surface = b.input(INPUT, &sides.input.shape())?;
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for (id, place) in program.inputs().iter().zip(&sides.input.places) {
        map.insert(*id, take(&mut b, surface, place, &program.ty(*id).shape)?);
    }
    for stmt in program.stmts() {
        let args: Vec<ValueId> = stmt.args.iter().map(|arg| map[arg]).collect();
        let results = match power(&stmt.op) {
            Some(exponent) => {
                let exponent = b.scalar(exponent);
                b.push(Op::Pow, &[args[0], exponent])?
            }
            None => b.push(stmt.op.clone(), &args)?,
        };
        map.extend(stmt.results.iter().copied().zip(results));
    }
    let results: Vec<ValueId> = program.outputs().iter().map(|id| map[id]).collect();
    let joined = fill(&mut b, sides.output, &results)?;
    b.output(OUTPUT, joined)?;
    b.finish()
}

/// The exponent of a root that is the same as a power: on an M4 roots of what a reduction gave did not compile
/// (rustane, rule ANE-038), and kernels that trained there write `pow`. A root with an epsilon stays, as a sum of
/// its own would be rounded once more.
fn power(op: &Op) -> Option<f32> {
    match op {
        Op::Rsqrt { epsilon } if *epsilon == 0.0 => Some(-0.5),
        Op::Sqrt => Some(0.5),
        _ => None,
    }
}

/// The tensor of `shape` at `place`: surface `[1, channels, 1, columns]` -> `shape`.
fn take(b: &mut Builder, surface: ValueId, place: &Place, shape: &[usize]) -> Result<ValueId> {
    let size = [1, place.rows, 1, place.width()];
    let mut x = surface;
    if b.shape(surface) != size {
        x = b.slice(x, &[0, place.first_row, 0, place.first_column], &size)?;
    }
    if place.columns < place.width() {
        // Only a tensor whose elements are no multiple of 16 has padding to cut off.
        x = b.slice(x, &[0; 4], &[1, place.rows, 1, place.columns])?;
    }
    b.reshape(x, shape)
}

/// `results`, each at its place, with zeros between them: any shapes -> `[1, channels, 1, columns]`.
fn fill(b: &mut Builder, surface: &Surface, results: &[ValueId]) -> Result<ValueId> {
    let mut placed: Vec<(&Place, ValueId)> = surface.places.iter().zip(results.iter().copied()).collect();
    placed.sort_by_key(|(place, _)| (place.first_column, place.first_row));
    let mut bands = Vec::new();
    let mut column = 0;
    for band in placed.chunk_by(|(a, _), (b, _)| a.first_column == b.first_column) {
        let width = band[0].0.width();
        assert_eq!(band[0].0.first_column, column, "bands stand side by side");
        let (mut parts, mut row) = (Vec::new(), 0);
        for (place, value) in band {
            assert_eq!((place.first_row, place.width()), (row, width), "a band is filled from its top");
            let plane = b.reshape(*value, &[1, place.rows, 1, place.columns])?;
            let padding = zeros(b, place.rows, width - place.columns);
            let padded: Vec<ValueId> = std::iter::once(plane).chain(padding).collect();
            parts.push(join(b, &padded, 3)?);
            row += place.rows;
        }
        parts.extend(zeros(b, surface.channels - row, width));
        bands.push(join(b, &parts, 1)?);
        column += width;
    }
    bands.extend(zeros(b, surface.channels, surface.columns - column));
    join(b, &bands, 3)
}

/// `[1, rows, 1, columns]` of zeros, if that is anything at all.
fn zeros(b: &mut Builder, rows: usize, columns: usize) -> Option<ValueId> {
    (rows * columns > 0).then(|| b.full(&[1, rows, 1, columns], 0.0))
}

/// Tensors joined along `axis`; one alone stays as it is.
///
/// The one place that needs `concat`, about which the projects in the field disagree (rule ANE-021): every
/// training kernel that ran on an M4 Max uses it on axes 1 and 3 (maderix/ANE, autoresearch-ANE, rustane);
/// Orion saw it refused on an M4 Max with macOS 15, rustane's report from an M3 Ultra too, ane-train on M1.
/// Where a compile shows that it is refused, another way to join goes here: a sum of products with matrices
/// that shift, or one program per result.
fn join(b: &mut Builder, parts: &[ValueId], axis: usize) -> Result<ValueId> {
    match parts {
        [part] => Ok(*part),
        _ => b.concat(parts, axis),
    }
}

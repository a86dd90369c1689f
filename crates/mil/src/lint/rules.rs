//! The catalogue. A rule is one entry of [`RULES`]; its check stands below.

use super::Chip::{M1, M2, M3};
use super::Route::{Ane, AneInMem};
use super::Severity::{Error, Info, Warning};
use super::{Check, Chip, Place, Rule, Subject};
use crate::ops::{Kind, movement, reduce};
use crate::{DType, Op, PortKind, REDUCE_SUM_MAX};

/// The most axes that a tensor may have.
const MAX_RANK: usize = 5;
/// The longest axis of any chip.
const MAX_AXIS: usize = 65_536;
/// The longest height, width, contraction or transposed axis of M1 to M3.
const MAX_AXIS_M3: usize = 16_384;
/// What a last axis is a multiple of.
const LAST_AXIS_STEP: usize = 16;
/// What a contraction is a multiple of on M1.
const CONTRACTION_STEP: usize = 32;
/// Names after which M1 computed zeros; those of ops come on top.
const SUSPECT_NAMES: [&str; 10] = ["var", "diff", "mean", "std", "eps", "x", "y", "c", "C", "const"];

const EVERY_CHIP: &[Chip] = &Chip::ALL;

/// Every rule, in the order of its id.
pub const RULES: &[Rule] = &[
    Rule {
        id: "ANE-RANK",
        statement: "a tensor has at most 5 axes",
        remedy: "reshape it to fewer axes",
        source: "ANEForge, all chips; rank 3 and 4 are what every project uses",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(rank),
    },
    Rule {
        id: "ANE-AXIS",
        statement: "an axis has at most 65,536 elements, height and width at most 16,384 on M1 to M3",
        remedy: "cut it into tiles, or move the long axis to the channels",
        source: "ANEForge, measured on M1, M2, M5; ane-train saw [1, 16385] hang on M1",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(axis),
    },
    Rule {
        id: "ANE-004",
        statement: "a process loads about 128 programs and, in memory, compiles about 119; then it fails",
        remedy: "keep to 100 programs, one for each shape, and unload what is no longer needed",
        source: "ANEForge: 128 loaded, a release frees a place; maderix, Orion: 119 compiles",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("a program does not know how many are loaded; the drivers count"),
    },
    Rule {
        id: "ANE-010",
        statement: "a bundle that another process compiled may be refused",
        remedy: "compile in the process that runs",
        source: "ANEForge: \"Must re-compile the E5 bundle\"; mil_infer opens bundles",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about processes; the driver tries once and remembers"),
    },
    Rule {
        id: "ANE-014",
        statement: "events and buffers are bound before an operation is encoded",
        remedy: "bind before the first run, or reset the stream and prepare the operation first",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about the order of calls, which the driver's types keep"),
    },
    Rule {
        id: "ANE-017",
        statement: "a burst of failing compiles can wedge the compiler's service",
        remedy: "wait 15 s after a refusal",
        source: "ANEForge",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about several compiles; the driver waits"),
    },
    Rule {
        id: "ANE-019",
        statement: "a run that failed leaves its outputs as they were",
        remedy: "test the result of every run",
        source: "autoresearch-ANE ignores it and would train on stale values",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about what a run answers; the drivers make it an error"),
    },
    Rule {
        id: "ANE-029",
        statement: "a surface has at least 64 columns and 49,152 bytes",
        remedy: "pad it",
        source: "Orion: 49,152 bytes, ane crate: 64 columns, ane-train: 2,048 bytes; ANEForge runs [1, 4]",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about surfaces, which a program does not know"),
    },
    Rule {
        id: "ANE-030",
        statement: "the last axis of a port is a multiple of 16",
        remedy: "pad it to a multiple of 16 (64 where surfaces are packed)",
        source: "rustane, M4 Max: silent corruption on the in-memory route; ANEForge's ports need it not",
        routes: &[(Ane, Info), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(last_axis),
    },
    Rule {
        id: "ANE-031",
        statement: "the contraction of a matmul is a multiple of 32",
        remedy: "pad the contraction with zeros",
        source: "ane-train, M1: 16, 48, 80, 112 give zeros",
        routes: &[(AneInMem, Error)],
        chips: &[M1],
        check: Check::Program(contraction),
    },
    Rule {
        id: "ANE-034",
        statement: "the flags of a matmul are named constants",
        remedy: "write them as constants of their own",
        source: "Orion, M4 Max; ANEForge's text has them in the call",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("text writes every attribute as a named constant"),
    },
    Rule {
        id: "ANE-036",
        statement: "the return tuple names values that the function computes",
        remedy: "return the name of a statement's result",
        source: "Orion, M4 Max: InvalidMILProgram; that a folded constant is such a name is inferred",
        routes: &[(Ane, Warning), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(dead_return),
    },
    Rule {
        id: "ANE-040",
        statement: "reductions, reshape, transpose, slice and concat do not work",
        remedy: "take the route ane, on which they do on the same chip",
        source: "ane-train, M1; ANEForge has all of them on M1 through e5rt",
        routes: &[(AneInMem, Error)],
        chips: &[M1],
        check: Check::Program(moved_or_reduced),
    },
    Rule {
        id: "ANE-043",
        statement: "names that look reserved give zeros",
        remedy: "give it a neutral name, such as t0",
        source: "ane-train, M1; harmless on M4 (maderix, Orion)",
        routes: &[(AneInMem, Warning)],
        chips: &[M1],
        check: Check::Program(names),
    },
    Rule {
        id: "ANE-044",
        statement: "the engine's own attention op ignores its mask",
        remedy: "matmul, add the mask, softmax, matmul",
        source: "maderix, Orion, ANEgpt",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("no op of this crate is written as an attention op; ours is decomposed"),
    },
    Rule {
        id: "ANE-052",
        statement: "a transpose that feeds a matmul has at most 4 axes",
        remedy: "reshape to four axes first",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(transposed_matmul),
    },
    Rule {
        id: "ANE-054",
        statement: "a slice that begins inside the last axis turns magnitudes above 4,094 into infinity",
        remedy: "slice another axis, or keep the values below 4,094",
        source: "ANEForge, M1, M1 Max, M2 Pro; exact on M4, M5",
        routes: &[(Ane, Warning)],
        chips: &[M1, M2],
        check: Check::Program(last_axis_slice),
    },
    Rule {
        id: "ANE-058",
        statement: "reduce_sum and reduce_mean accumulate in fp16",
        remedy: "multiply by a matrix of ones, which accumulates wide (Builder::wide_sum)",
        source: "ANEForge: noticeable beyond 256 elements",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(long_sum),
    },
    Rule {
        id: "ANE-071",
        statement: "a program computes something, and no output is an input",
        remedy: "multiply by 1",
        source: "ANEForge: a program without an op does not compile",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(idle),
    },
    Rule {
        id: "ANE-072",
        statement: "ports hold fp16",
        remedy: "build the program for Element::F16, and cast inside where another type is needed",
        source: "ANEForge: fp32, int32, bool refused; in memory fp32 runs, about 37 % slower (maderix)",
        routes: &[(Ane, Error), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(port_types),
    },
    Rule {
        id: "ANE-073",
        statement: "log and rsqrt need `epsilon`, gelu needs `mode`",
        remedy: "always write them",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("attributes are fields of an op, and text writes every one of them"),
    },
    Rule {
        id: "ANE-074",
        statement: "a transposed axis has at most 16,384 elements",
        remedy: "transpose tiles of it",
        source: "ANEForge's op catalogue; its target table says 2^23 - 1 and more",
        routes: &[(Ane, Warning)],
        chips: &[M1, M2, M3],
        check: Check::Program(long_transpose),
    },
    Rule {
        id: "ANE-075",
        statement: "no dimension of a matmul is longer than 16,384",
        remedy: "cut the vocabulary into tiles",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: &[M1, M2, M3],
        check: Check::Program(wide_matmul),
    },
];

type Findings = Vec<(Place, String)>;

fn rank(s: &Subject<'_>) -> Findings {
    s.values()
        .filter(|id| s.ty(*id).rank() > MAX_RANK)
        .map(|id| (s.place_of(id), format!("{} has {} axes", s.ty(id), s.ty(id).rank())))
        .collect()
}

fn axis(s: &Subject<'_>) -> Findings {
    let mut findings = Vec::new();
    for id in s.values() {
        let ty = s.ty(id);
        for (axis, extent) in ty.shape.iter().enumerate() {
            // Axes from the end: width, height, channels, batch.
            let plane = ty.rank() - axis <= 2;
            let limit = if plane && s.chip <= M3 { MAX_AXIS_M3 } else { MAX_AXIS };
            if *extent > limit {
                let message =
                    format!("axis {axis} of {ty} has {extent} elements, {:?} takes {limit}", s.chip);
                findings.push((s.place_of(id), message));
            }
        }
    }
    findings
}

fn last_axis(s: &Subject<'_>) -> Findings {
    s.program
        .ports()
        .filter_map(|port| {
            let last = *port.ty.shape.last()?;
            let message = format!("the last axis of {} is no multiple of {LAST_AXIS_STEP}", port.ty);
            (!last.is_multiple_of(LAST_AXIS_STEP)).then(|| (Place::Port(port.name.to_owned()), message))
        })
        .collect()
}

/// Rows, contraction and columns of the matmul at `index`; `None` when it is something else.
fn matmul_extents(s: &Subject<'_>, index: usize) -> Option<[(&'static str, usize); 3]> {
    let stmt = &s.program.stmts()[index];
    let Op::Matmul { transpose_x, .. } = stmt.op else {
        return None;
    };
    let x = &s.ty(stmt.args[0]).shape;
    let z = &s.ty(stmt.results[0]).shape;
    let contraction = x[x.len() - if transpose_x { 2 } else { 1 }];
    Some([("rows", z[z.len() - 2]), ("contraction", contraction), ("columns", z[z.len() - 1])])
}

fn contraction(s: &Subject<'_>) -> Findings {
    s.statements()
        .filter_map(|(index, _)| {
            let [_, (_, contraction), _] = matmul_extents(s, index)?;
            let message = format!("a contraction of {contraction} is no multiple of {CONTRACTION_STEP}");
            (!contraction.is_multiple_of(CONTRACTION_STEP)).then(|| (s.place(index), message))
        })
        .collect()
}

fn dead_return(s: &Subject<'_>) -> Findings {
    s.program
        .outputs()
        .iter()
        .filter(|id| s.producer(**id).is_some_and(|stmt| matches!(stmt.op, Op::Const(_))))
        .map(|id| {
            let name = &s.program.value(*id).name;
            (Place::Port(name.clone()), format!("`{name}` is a constant, which compilers fold away"))
        })
        .collect()
}

fn moved_or_reduced(s: &Subject<'_>) -> Findings {
    s.statements()
        .filter(|(_, stmt)| {
            matches!(
                stmt.op,
                Op::ReduceSum { .. }
                    | Op::ReduceMean { .. }
                    | Op::ReduceMax { .. }
                    | Op::Reshape { .. }
                    | Op::Transpose { .. }
                    | Op::SliceBySize { .. }
                    | Op::Concat { .. }
                    | Op::Split { .. }
            )
        })
        .map(|(index, stmt)| (s.place(index), format!("{} gives zeros or is refused", stmt.op.name())))
        .collect()
}

fn names(s: &Subject<'_>) -> Findings {
    s.values()
        .filter_map(|id| {
            let name = &s.program.value(id).name;
            let suspect = SUSPECT_NAMES.contains(&name.as_str()) || Kind::by_name(name).is_some();
            suspect.then(|| (s.place_of(id), format!("a value is called `{name}`")))
        })
        .collect()
}

fn transposed_matmul(s: &Subject<'_>) -> Findings {
    let rank_5 = |id| s.ty(id).rank() >= MAX_RANK;
    s.statements()
        .filter(|(_, stmt)| matches!(stmt.op, Op::Matmul { .. }))
        .filter_map(|(index, stmt)| {
            let transposed = stmt.args.iter().find(|arg| {
                rank_5(**arg) && s.producer(**arg).is_some_and(|p| matches!(p.op, Op::Transpose { .. }))
            })?;
            let (name, ty) = (&s.program.value(*transposed).name, s.ty(*transposed));
            Some((s.place(index), format!("its operand `{name}`, {ty}, is transposed")))
        })
        .collect()
}

fn last_axis_slice(s: &Subject<'_>) -> Findings {
    let begins_inside = |stmt: &crate::Stmt| {
        let x = &s.ty(stmt.args[0]).shape;
        match &stmt.op {
            Op::SliceBySize { .. } => {
                let first = movement::slice_box(&stmt.op, x).ok()?.last()?.0;
                (first > 0).then_some(first)
            }
            Op::Split { num_splits, axis } if *num_splits > 1 => {
                let last = *axis == -1 || usize::try_from(*axis) == Ok(x.len() - 1);
                last.then(|| x[x.len() - 1] / *num_splits as usize)
            }
            _ => None,
        }
    };
    s.statements()
        .filter(|(_, stmt)| !stmt.args.is_empty())
        .filter_map(|(index, stmt)| {
            let first = begins_inside(stmt)?;
            Some((s.place(index), format!("it begins at {first} of the last axis of {}", s.ty(stmt.args[0]))))
        })
        .collect()
}

fn long_sum(s: &Subject<'_>) -> Findings {
    s.statements()
        .filter(|(_, stmt)| matches!(stmt.op, Op::ReduceSum { .. } | Op::ReduceMean { .. }))
        .filter_map(|(index, stmt)| {
            let x = s.ty(stmt.args[0]);
            let (axes, _) = reduce::reduced_axes(&stmt.op, x.rank()).ok()?;
            let count: usize = axes.iter().map(|axis| x.shape[*axis]).product();
            let message = format!("it adds up {count} elements of {x}, more than {REDUCE_SUM_MAX}");
            (count > REDUCE_SUM_MAX).then(|| (s.place(index), message))
        })
        .collect()
}

fn idle(s: &Subject<'_>) -> Findings {
    let mut findings: Findings = s
        .program
        .outputs()
        .iter()
        .filter(|id| s.program.inputs().contains(id))
        .map(|id| {
            let name = s.program.value(*id).name.clone();
            let message = format!("the output `{name}` is an input");
            (Place::Port(name), message)
        })
        .collect();
    if s.program.stmts().iter().all(|stmt| matches!(stmt.op, Op::Const(_))) {
        findings.push((Place::Program, "it has no op".to_owned()));
    }
    findings
}

fn port_types(s: &Subject<'_>) -> Findings {
    s.program
        .ports()
        .filter(|port| port.ty.dtype != DType::F16)
        .map(|port| {
            let way = if port.kind == PortKind::Input { "input" } else { "output" };
            (Place::Port(port.name.to_owned()), format!("the {way} is {}", port.ty))
        })
        .collect()
}

fn long_transpose(s: &Subject<'_>) -> Findings {
    s.statements()
        .filter(|(_, stmt)| matches!(stmt.op, Op::Transpose { .. }))
        .filter_map(|(index, stmt)| {
            let x = s.ty(stmt.args[0]);
            let extent = x.shape.iter().max().filter(|extent| **extent > MAX_AXIS_M3)?;
            Some((s.place(index), format!("an axis of {x} has {extent} elements")))
        })
        .collect()
}

fn wide_matmul(s: &Subject<'_>) -> Findings {
    s.statements()
        .filter_map(|(index, _)| {
            let extents = matmul_extents(s, index)?;
            let (what, extent) = extents.into_iter().max_by_key(|(_, extent)| *extent)?;
            (extent > MAX_AXIS_M3).then(|| (s.place(index), format!("its {what} are {extent}")))
        })
        .collect()
}

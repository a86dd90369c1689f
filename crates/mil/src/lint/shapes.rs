//! Rules about axes: how many, how long, multiples of what.

use super::Route::{Ane, AneInMem};
use super::Severity::{Error, Info, Warning};
use super::{Check, Chip, EVERY_CHIP, Findings, M1_M3, M1_ONLY, M3_ON, M4_ON, Place, Rule, Subject};
use crate::{DType, Op, PortKind, ValueId};

/// The most axes that a tensor may have.
pub(super) const MAX_RANK: usize = 5;
/// The longest axis of any chip.
const MAX_AXIS: usize = 65_536;
/// The longest height, width, contraction or transposed axis of M1 to M3.
const MAX_AXIS_M3: usize = 16_384;
/// What a last axis is a multiple of.
const LAST_AXIS_STEP: usize = 16;
/// What a contraction is a multiple of on M1.
const CONTRACTION_STEP: usize = 32;
/// Positions of an attention from which a set of kernels no longer compiled.
const MAX_POSITIONS: usize = 1_152;
/// Where a layer became five times slower.
const SLOW_WIDTH: usize = 5_120;
/// Layers in one program whose compile took minutes.
const MANY_LAYERS: usize = 8;
/// Images at once up to which im2col compiled on M1.
const MAX_BATCH: usize = 128;

/// In the order of their ids.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "ANE-RANK",
        statement: "a tensor has at most 5 axes",
        symptom: "the compile fails",
        remedy: "reshape it to fewer axes",
        source: "ANEForge, all chips; rank 3 and 4 are what every project uses",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(rank),
    },
    Rule {
        id: "ANE-AXIS",
        statement: "an axis has at most 65,536 elements, height and width at most 16,384 on M1 to M3",
        symptom: "the compile fails; on M1 it may hang",
        remedy: "cut it into tiles, or move the long axis to the channels",
        source: "ANEForge, measured on M1, M2, M5; ane-train saw [1, 16385] hang on M1",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(axis),
    },
    Rule {
        id: "ANE-030",
        statement: "the last axis of a port is a multiple of 16",
        symptom: "elements change places, in silence",
        remedy: "pad it to a multiple of 16 (64 where surfaces are packed)",
        source: "rustane, M4 Max: silent corruption on the in-memory route; ANEForge's ports need it not",
        routes: &[(Ane, Info), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(last_axis),
    },
    Rule {
        id: "ANE-031",
        statement: "the contraction of a matmul is a multiple of 32",
        symptom: "zeros",
        remedy: "pad the contraction with zeros",
        source: "ane-train, M1: 16, 48, 80, 112 give zeros; ANEForge shows no such limit through e5rt",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(contraction),
    },
    Rule {
        id: "ANE-051",
        statement: "wide rows are not joined",
        symptom: "a reshape to [1, n] that feeds a concat crashes the compiler near 100,352 columns",
        remedy: "stack rows at their natural width; one program for each gradient",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("such a row is longer than ANE-AXIS allows"),
    },
    Rule {
        id: "ANE-063",
        statement: "shapes are numbers",
        symptom: "symbols parse and do not compile",
        remedy: "one program for each shape",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("a shape of a program is a list of numbers"),
    },
    Rule {
        id: "ANE-065",
        statement: "an attention has fewer than 1,152 positions",
        symptom: "a set of ten kernels compiled at 1,024 and not at 1,152; the cause is not established",
        remedy: "cut the layer finer, or take the route ane",
        source: "autoresearch-ANE, M4 Max",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Softmax { .. } = stmt.op else { return None };
                let last = *s.ty(stmt.args[0]).shape.last()?;
                (last >= MAX_POSITIONS).then(|| format!("it is over {last} positions"))
            })
        }),
    },
    Rule {
        id: "ANE-066",
        statement: "layers are narrower than 5,120",
        symptom: "a layer takes 4.7 times as long",
        remedy: "stay at 4,096",
        source: "rustane, M4 Max, M5 Max",
        routes: &[(AneInMem, Info)],
        chips: M4_ON,
        check: Check::Program(|s| {
            // The width is an axis of both sides of a layer's square products. A vocabulary or the inner width of a
            // feed-forward block is as long in models that are narrow, on one axis besides the tokens.
            s.each_matmul(|[(_, rows), (_, contraction), (_, columns)]| {
                let other = rows.max(columns);
                (contraction.min(other) >= SLOW_WIDTH)
                    .then(|| format!("its contraction is {contraction}, and {other} come of it"))
            })
        }),
    },
    Rule {
        id: "ANE-068",
        statement: "a program holds few layers",
        symptom: "compile time grows faster than the program: 162 s for eight layers, 0.5 s for six shared ones",
        remedy: "one program for each shape of layer",
        source: "ANEForge",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            let layers =
                s.program.stmts().iter().filter(|stmt| matches!(stmt.op, Op::Softmax { .. })).count();
            let told = (Place::Program, format!("it holds {layers} attentions"));
            if layers >= MANY_LAYERS { vec![told] } else { Vec::new() }
        }),
    },
    Rule {
        id: "ANE-069",
        statement: "a batch has at most 128 images",
        symptom: "im2col of about a thousand at once hangs the compiler",
        remedy: "take 128 at a time",
        source: "ANEForge, M1",
        routes: &[(Ane, Warning)],
        chips: M1_ONLY,
        check: Check::Program(im2col),
    },
    Rule {
        id: "ANE-071",
        statement: "a program computes something, and no output is an input",
        symptom: "the compile fails",
        remedy: "multiply by 1",
        source: "ANEForge: a program without an op does not compile",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(idle),
    },
    Rule {
        id: "ANE-072",
        statement: "ports hold fp16",
        symptom: "fp32, int32, bf16 and bool are refused",
        remedy: "build the program for Element::F16, and cast inside where another type is needed",
        source: "ANEForge, where int8 passes; in memory fp32 runs, about 37 % slower (maderix/ANE)",
        routes: &[(Ane, Error), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(port_types),
    },
    Rule {
        id: "ANE-074",
        statement: "a transposed axis has at most 16,384 elements",
        symptom: "the compile fails",
        remedy: "transpose tiles of it",
        source: "ANEForge's op catalogue; its target table says 2^23 - 1 and more",
        routes: &[(Ane, Warning)],
        chips: M1_M3,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Transpose { .. } = stmt.op else { return None };
                let x = s.ty(stmt.args[0]);
                let extent = x.shape.iter().max().filter(|extent| **extent > MAX_AXIS_M3)?;
                Some(format!("an axis of {x} has {extent} elements"))
            })
        }),
    },
    Rule {
        id: "ANE-075",
        statement: "no dimension of a matmul is longer than 16,384",
        symptom: "the compile fails",
        remedy: "cut the vocabulary into tiles",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: M1_M3,
        check: Check::Program(|s| {
            s.each_matmul(|extents| {
                let (what, extent) = extents.into_iter().max_by_key(|(_, extent)| *extent)?;
                (extent > MAX_AXIS_M3).then(|| format!("its {what} are {extent}"))
            })
        }),
    },
];

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
            let limit = if plane && s.chip <= Chip::M3 { MAX_AXIS_M3 } else { MAX_AXIS };
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

fn contraction(s: &Subject<'_>) -> Findings {
    s.each_matmul(|[_, (_, contraction), _]| {
        (!contraction.is_multiple_of(CONTRACTION_STEP))
            .then(|| format!("a contraction of {contraction} is no multiple of {CONTRACTION_STEP}"))
    })
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

/// Products of columns: slices of one tensor that are joined, and laid out anew at most.
fn im2col(s: &Subject<'_>) -> Findings {
    let columns = |mut id| {
        loop {
            let producer = s.producer(id)?;
            match producer.op {
                Op::Reshape { .. } | Op::Transpose { .. } => id = producer.args[0],
                Op::Concat { .. } => {
                    let slice_of = |arg: &ValueId| {
                        let producer = s.producer(*arg)?;
                        matches!(producer.op, Op::SliceBySize { .. }).then(|| producer.args[0])
                    };
                    let first = producer.args.first().and_then(slice_of)?;
                    let alike = producer.args.iter().all(|arg| slice_of(arg) == Some(first));
                    return (alike && producer.args.len() > 1).then(|| s.ty(id).shape[0]);
                }
                _ => return None,
            }
        }
    };
    s.each(|stmt| {
        let Op::Matmul { .. } = stmt.op else { return None };
        let batch = stmt.args.iter().filter_map(|arg| columns(*arg)).find(|batch| *batch > MAX_BATCH)?;
        Some(format!("it multiplies the columns of {batch} images"))
    })
}

fn port_types(s: &Subject<'_>) -> Findings {
    let taken = |dtype| dtype == DType::F16 || (dtype == DType::I8 && s.route == Ane);
    s.program
        .ports()
        .filter(|port| !taken(port.ty.dtype))
        .map(|port| {
            let way = if port.kind == PortKind::Input { "input" } else { "output" };
            (Place::Port(port.name.to_owned()), format!("the {way} is {}", port.ty))
        })
        .collect()
}

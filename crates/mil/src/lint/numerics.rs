//! Rules about values: what compiles and computes something else.

use super::Route::{Ane, AneInMem};
use super::Severity::{Error, Info, Warning};
use super::{Check, EVERY_CHIP, Findings, M1_M2, M1_ONLY, Rule, Subject};
use crate::ops::{movement, reduce};
use crate::{Op, REDUCE_SUM_MAX, Stmt, ValueId};

/// The smallest positive half is 2^-24; a sum with less is a sum with nothing.
const SMALLEST_HALF: f32 = 5.960_464_5e-8;

/// In the order of their ids.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "ANE-039",
        statement: "the result of sqrt is neither broadcast nor divided nor a divisor",
        symptom: "only channel 0 is filled; a quotient is inverted, or the compile fails",
        remedy: "keep sqrt in a program of its own",
        source: "ane-train, M1",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(sqrt_used),
    },
    Rule {
        id: "ANE-041",
        statement: "a column is not broadcast along the last axis",
        symptom: "[1, C, S] with [1, C, 1] gives zeros; so does [1, 1, C] with [1, S, C] when the small one is first",
        remedy: "lay it out so that [1, 1, S] is broadcast, the large operand first",
        source: "ane-train, M1",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(broadcast_column),
    },
    Rule {
        id: "ANE-042",
        statement: "a scalar that a program computes or reads is not broadcast",
        symptom: "wrong values",
        remedy: "make it a constant",
        source: "ane-train, M1: [1, 1, 1]",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(broadcast_scalar),
    },
    Rule {
        id: "ANE-043",
        statement: "names that look reserved give zeros",
        symptom: "zeros, or the program fails",
        remedy: "give it a neutral name, such as t0",
        source: "ane-train, M1; harmless on M4 (maderix/ANE, Orion)",
        routes: &[(AneInMem, Warning)],
        chips: M1_ONLY,
        check: Check::Program(names),
    },
    Rule {
        id: "ANE-054",
        statement: "a slice that begins inside the last axis turns magnitudes above 4,094 into infinity",
        symptom: "infinity",
        remedy: "slice another axis, or keep the values below 4,094",
        source: "ANEForge, M1, M1 Max, M2 Pro; exact on M4, M5",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: M1_M2,
        check: Check::Program(last_axis_slice),
    },
    Rule {
        id: "ANE-055",
        statement: "slices of the last axis are not joined",
        symptom: "elements change places",
        remedy: "transpose first, or slice and join another axis",
        source: "ANEForge, M1 and M2",
        routes: &[(Ane, Error)],
        chips: M1_M2,
        check: Check::Program(joined_slices),
    },
    Rule {
        id: "ANE-056",
        statement: "activations of a product with int8 weights have magnitudes up to 4,094",
        symptom: "they saturate",
        remedy: "scale the activations, or keep fp16 weights",
        source: "ANEForge, M1 Max, M2 Pro, M5 Pro",
        routes: &[(Ane, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(quantized_product),
    },
    Rule {
        id: "ANE-057",
        statement: "results of a product beyond about 32,752 are infinite",
        symptom: "infinity at half of fp16's range, whatever the contraction",
        remedy: "scale before the product; bound the loss scale",
        source: "ANEForge, probe value 32,759, M1 to M5",
        routes: &[(Ane, Warning)],
        chips: EVERY_CHIP,
        check: Check::Always(
            "values decide; sim has the cliff, and loss scales and vocabulary tiles are bounded by it",
        ),
    },
    Rule {
        id: "ANE-058",
        statement: "reduce_sum and reduce_mean accumulate in fp16",
        symptom: "sums stop growing: 4,096 ones are 2,048",
        remedy: "multiply by a matrix of ones, which accumulates wide (Builder::wide_sum)",
        source: "ANEForge: noticeable beyond 256 elements",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(long_sum),
    },
    Rule {
        id: "ANE-059",
        statement: "softplus, round, floor and ceil are not what they seem",
        symptom: "softplus is 0 from 11.09 on, round is wrong from 1,024 on, a factor after floor, ceil or round is dropped",
        remedy: "write softplus as a maximum and a logarithm; multiply by a tensor of full shape",
        source: "ANEForge, M5",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("there are no such ops here; the parser refuses them by name"),
    },
    Rule {
        id: "ANE-060",
        statement: "NaN does not stay NaN, and infinity may become finite",
        symptom: "log(inf) is 0, inf times x is -52,416",
        remedy: "test for finite values on the host",
        source: "ANEForge",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Always("values decide; the trainer tests losses, norms and gradients on the host"),
    },
    Rule {
        id: "ANE-061",
        statement: "an epsilon below the smallest half is nothing",
        symptom: "a division by zero that an epsilon was to prevent",
        remedy: "use at least 6e-8, and 1e-4 for Adam on the engine",
        source: "ane-train, M1",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(lost_epsilon),
    },
    Rule {
        id: "ANE-062",
        statement: "a mask is finite",
        symptom: "infinity before a softmax becomes NaN",
        remedy: "add -65,504 or less in magnitude, not -inf",
        source: "autoresearch-ANE, maderix/ANE, M4",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(infinite_constant),
    },
    Rule {
        id: "ANE-077",
        statement: "int8 for all weights, channel by channel, is faithful in small models only",
        symptom: "0.6B generates as before, 8B does not",
        remedy: "keep deep models in fp16",
        source: "ANEForge",
        routes: &[(Ane, Info)],
        chips: EVERY_CHIP,
        check: Check::Always("it is about models; nothing here quantizes weights by itself"),
    },
];

fn sqrt_used(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        if !is_binary(&stmt.op) {
            return None;
        }
        let mut roots = stmt.args.iter().filter(|arg| {
            s.producer(**arg).is_some_and(|producer| matches!(producer.op, Op::Sqrt | Op::Rsqrt { .. }))
        });
        let divided = matches!(stmt.op, Op::RealDiv);
        let is_broadcast = |root: &ValueId| s.ty(*root).shape != s.ty(stmt.results[0]).shape;
        let root = roots.find(|root| divided || is_broadcast(root))?;
        Some(format!("an operand is the root `{}`", s.program.value(*root).name))
    })
}

fn is_binary(op: &Op) -> bool {
    matches!(op, Op::Add | Op::Sub | Op::Mul | Op::RealDiv | Op::Maximum | Op::Minimum | Op::Pow)
}

fn broadcast_column(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        if !is_binary(&stmt.op) {
            return None;
        }
        let result = s.ty(stmt.results[0]);
        let last = *result.shape.last()?;
        stmt.args.iter().enumerate().find_map(|(at, arg)| {
            let ty = s.ty(*arg);
            if ty.numel() == 1 || ty.shape == result.shape {
                return None;
            }
            let column = ty.shape.last() == Some(&1) && last > 1;
            let small_first = at == 0;
            (column || small_first).then(|| format!("{ty} is broadcast to {result}"))
        })
    })
}

fn broadcast_scalar(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        if !is_binary(&stmt.op) || s.ty(stmt.results[0]).numel() == 1 {
            return None;
        }
        let scalar = stmt.args.iter().find(|arg| s.ty(**arg).numel() == 1 && !s.is_constant(**arg))?;
        Some(format!("`{}` has one element", s.program.value(*scalar).name))
    })
}

/// Names after which M1 computed zeros; those of ops come on top.
const SUSPECT_NAMES: [&str; 10] = ["var", "diff", "mean", "std", "eps", "x", "y", "c", "C", "const"];

fn names(s: &Subject<'_>) -> Findings {
    s.values()
        .filter_map(|id| {
            let name = &s.program.value(id).name;
            let suspect = SUSPECT_NAMES.contains(&name.as_str()) || crate::ops::Kind::by_name(name).is_some();
            suspect.then(|| (s.place_of(id), format!("a value is called `{name}`")))
        })
        .collect()
}

/// Where a slice or the second part of a split begins in the last axis, if that is inside.
fn begins_inside(s: &Subject<'_>, stmt: &Stmt) -> Option<usize> {
    let x = &s.ty(*stmt.args.first()?).shape;
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
}

fn last_axis_slice(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let first = begins_inside(s, stmt)?;
        Some(format!("it begins at {first} of the last axis of {}", s.ty(stmt.args[0])))
    })
}

fn joined_slices(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let Op::Concat { .. } = stmt.op else { return None };
        let is_slice = |arg: &&ValueId| {
            s.producer(**arg).is_some_and(|producer| match &producer.op {
                Op::SliceBySize { .. } => {
                    let (from, to) = (s.ty(producer.args[0]), s.ty(**arg));
                    from.shape.last() != to.shape.last()
                }
                Op::Split { .. } => begins_inside(s, producer).is_some(),
                _ => false,
            })
        };
        let count = stmt.args.iter().filter(is_slice).count();
        (count > 1).then(|| format!("{count} of its operands are slices of a last axis"))
    })
}

fn quantized_product(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let Op::Matmul { .. } = stmt.op else { return None };
        let quantized = stmt.args.iter().find(|arg| s.is_quantized(**arg))?;
        Some(format!("its operand `{}` is int8", s.program.value(*quantized).name))
    })
}

fn long_sum(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        if !matches!(stmt.op, Op::ReduceSum { .. } | Op::ReduceMean { .. }) {
            return None;
        }
        let x = s.ty(stmt.args[0]);
        let (axes, _) = reduce::reduced_axes(&stmt.op, x.rank()).ok()?;
        let count: usize = axes.iter().map(|axis| x.shape[*axis]).product();
        (count > REDUCE_SUM_MAX)
            .then(|| format!("it adds up {count} elements of {x}, more than {REDUCE_SUM_MAX}"))
    })
}

/// Attributes are rounded to the program's type when it is built, so an epsilon that is too small is zero here.
fn lost_epsilon(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let (Op::Rsqrt { epsilon } | Op::Log { epsilon }) = stmt.op else { return None };
        let kept_away = s.producer(stmt.args[0]).is_some_and(|producer| {
            matches!(producer.op, Op::Add | Op::Maximum | Op::Exp | Op::Sigmoid | Op::Softmax { .. })
        });
        (epsilon < SMALLEST_HALF && !kept_away)
            .then(|| format!("its epsilon is {epsilon:e}, and nothing is added to its operand before"))
    })
}

fn infinite_constant(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let Op::Const(constant) = &stmt.op else { return None };
        let value = constant.as_floats()?.iter().find(|value| !value.is_finite())?;
        Some(format!("it holds {value}"))
    })
}

//! Rules about ops and the forms in which they stand together: what compilers refuse.

use super::Route::{Ane, AneInMem};
use super::Severity::{Error, Warning};
use super::shapes::MAX_RANK;
use super::{Check, Chip, EVERY_CHIP, Findings, M1_ONLY, M3_ON, M3_ONLY, M4_ON, Place, Rule, Subject};
use crate::{DType, Op, Stmt, ValueId};

/// Input channels of a convolution that were refused.
const MAX_INPUT_CHANNELS: usize = 32_000;
/// The widest kernel of M1; and of M4 and M5.
const KERNEL_WIDTHS: (usize, usize) = (13, 15);

/// In the order of their ids.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "ANE-021",
        statement: "concat may not be there",
        symptom: "ANECCompile() FAILED",
        remedy: "try it at the start; take the route ane where it is refused",
        source: "refused: Orion, M4 Max with macOS 15, rustane's report from an M3 Ultra, ane-train, M1; in every \
                 training kernel on axes 1 and 3: maderix/ANE, autoresearch-ANE, rustane, M4 Max; through e5rt \
                 native on M1 to M5 (ANEForge, of which one page says exactly two operands)",
        routes: &[(AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            let joins = |stmt: &Stmt| matches!(stmt.op, Op::Concat { .. });
            let count = s.program.stmts().iter().filter(|stmt| joins(stmt)).count();
            let told = (Place::Program, format!("it has {count} of them"));
            if count > 0 { vec![told] } else { Vec::new() }
        }),
    },
    Rule {
        id: "ANE-032",
        statement: "of two inputs that are multiplied, the first slot holds the first operand",
        symptom: "zeros or exchanged operands",
        remedy: "write matmul(w, x) with the weight in slot 0 and the activation in slot 1",
        source: "ane-train, M1; consistent with Orion's order by name",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(exchanged_operands),
    },
    Rule {
        id: "ANE-033",
        statement: "no operand of a matmul is a constant",
        symptom: "InvalidMILProgram",
        remedy: "make it an input",
        source: "ane-train, M1; on M4 it runs (maderix/ANE's classifier), and through e5rt (ANEForge)",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Matmul { .. } = stmt.op else { return None };
                let constant = stmt.args.iter().find(|arg| s.is_constant(**arg))?;
                Some(format!("its operand `{}` is a constant", s.program.value(*constant).name))
            })
        }),
    },
    Rule {
        id: "ANE-035",
        statement: "a convolution has no bias",
        symptom: "the compile fails",
        remedy: "add it afterwards",
        source: "Orion's README; its own compiler fuses one, and the ane crate writes one",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("the op conv here has no bias"),
    },
    Rule {
        id: "ANE-036",
        statement: "the return tuple names values that the function computes",
        symptom: "InvalidMILProgram",
        remedy: "return the name of a statement's result",
        source: "Orion, M4 Max: InvalidMILProgram; that a folded constant is such a name is inferred",
        routes: &[(Ane, Warning), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(dead_return),
    },
    Rule {
        id: "ANE-037",
        statement: "gelu is not there",
        symptom: "ANECCompile() FAILED",
        remedy: "write it with tanh",
        source: "Orion, M4 Max; native through e5rt (ANEForge; 0.08 wrong on M1)",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| matches!(stmt.op, Op::Gelu { .. }).then(|| "the compiler takes none".to_owned()))
        }),
    },
    Rule {
        id: "ANE-038",
        statement: "roots of what a reduction gave may not compile",
        symptom: "the compile fails",
        remedy: "write pow(v, -0.5)",
        source: "rustane, M4: rsqrt and sqrt after a reduce; ANEForge has rsqrt on M1 to M5 through e5rt",
        routes: &[(AneInMem, Warning)],
        chips: M3_ON,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let (Op::Sqrt | Op::Rsqrt { .. }) = stmt.op else { return None };
                let reduced = s.reduction_behind(stmt.args[0])?;
                Some(format!("it depends on `{}`, a reduction", s.program.value(reduced).name))
            })
        }),
    },
    Rule {
        id: "ANE-038-M1",
        statement: "rsqrt and pow are not there",
        symptom: "the compile fails",
        remedy: "take the route ane, on which both work on the same chip",
        source: "ane-train, M1; native through e5rt (ANEForge)",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(|s| {
            s.each(|stmt| {
                matches!(stmt.op, Op::Rsqrt { .. } | Op::Pow).then(|| "the compiler takes none".to_owned())
            })
        }),
    },
    Rule {
        id: "ANE-040",
        statement: "reductions, reshape, transpose, slice and concat do not work",
        symptom: "zeros, or the compile fails",
        remedy: "take the route ane, on which they do on the same chip",
        source: "ane-train, M1; ANEForge has all of them on M1 through e5rt",
        routes: &[(AneInMem, Error)],
        chips: M1_ONLY,
        check: Check::Program(moved_or_reduced),
    },
    Rule {
        id: "ANE-044",
        statement: "the engine's own attention op ignores its mask",
        symptom: "positions see what comes after them",
        remedy: "matmul, add the mask, softmax, matmul",
        source: "maderix/ANE, Orion, ANEgpt; ANEForge's layer honours one that all heads share",
        routes: &[(AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("no op of this crate is written as an attention op; ours is decomposed"),
    },
    Rule {
        id: "ANE-045",
        statement: "the engine's own fused attention is right for fewer than 512 queries or keys only",
        symptom: "garbage beyond: a cosine of 0.67 to what is right",
        remedy: "decompose it",
        source: "ANEForge, M5",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("no op of this crate is written as an attention op; ours is decomposed"),
    },
    Rule {
        id: "ANE-046",
        statement: "a convolution has fewer than 32,000 input channels",
        symptom: "the compile fails; 32,000 output channels are fine",
        remedy: "write a matmul, or cut the vocabulary into tiles",
        source: "maderix/ANE, M4; ANEgpt, M5",
        routes: &[(AneInMem, Error)],
        chips: M3_ON,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Conv { .. } = stmt.op else { return None };
                let channels = *s.ty(stmt.args[0]).shape.get(1)?;
                (channels >= MAX_INPUT_CHANNELS).then(|| format!("it has {channels} input channels"))
            })
        }),
    },
    Rule {
        id: "ANE-047",
        statement: "a convolution's kernel is at most 13 wide, 15 on M4 and M5",
        symptom: "the compile fails; any height is fine",
        remedy: "move width to the channels (space_to_depth)",
        source: "ANEForge, M1, M4, M5; M2 and M3 are taken for M1",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Conv { .. } = stmt.op else { return None };
                let width = *s.ty(stmt.args[1]).shape.last()?;
                let limit = if s.chip >= Chip::M4 { KERNEL_WIDTHS.1 } else { KERNEL_WIDTHS.0 };
                (width > limit).then(|| format!("its kernel is {width} wide, {:?} takes {limit}", s.chip))
            })
        }),
    },
    Rule {
        id: "ANE-048",
        statement: "a convolution's weight is a constant",
        symptom: "the compile fails",
        remedy: "write a matmul",
        source: "ANEForge's page of capabilities: an input at batch 1 is taken; its page of gradients: on no backend; \
                 ane-train, M1: small sizes only",
        routes: &[(Ane, Warning), (AneInMem, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                runtime_weight(s, stmt).map(|name| format!("its weight `{name}` is computed or an input"))
            })
        }),
    },
    Rule {
        id: "ANE-048-BATCH",
        statement: "a convolution whose weight is no constant has batch 1 and one group",
        symptom: "the compile fails",
        remedy: "write a matmul",
        source: "ANEForge, both pages",
        routes: &[(Ane, Error), (AneInMem, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Conv { groups, .. } = stmt.op else { return None };
                runtime_weight(s, stmt)?;
                let batch = *s.ty(stmt.args[0]).shape.first()?;
                (batch > 1 || groups > 1).then(|| format!("its batch is {batch}, its groups are {groups}"))
            })
        }),
    },
    Rule {
        id: "ANE-049",
        statement: "what a reduction gave is not multiplied by zero",
        symptom: "ANECCompile() FAILED, though either part alone compiles",
        remedy: "make zeros as t - t",
        source: "ANEForge, M5",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Mul = stmt.op else { return None };
                let zero = stmt.args.iter().any(|arg| {
                    matches!(s.producer(*arg).map(|p| &p.op), Some(Op::Const(c)) if c.splat() == Some(0.0))
                });
                let reduced = stmt.args.iter().find(|arg| s.producer(**arg).is_some_and(is_reduction))?;
                zero.then(|| format!("it takes `{}` times zero", s.program.value(*reduced).name))
            })
        }),
    },
    Rule {
        id: "ANE-050",
        statement: "square and a nonlinearity are not fused at widths whose rest by 128 is above 64",
        symptom: "the compile fails",
        remedy: "write mul(x, x)",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let is_table = matches!(
                    stmt.op,
                    Op::Exp
                        | Op::Tanh
                        | Op::Sigmoid
                        | Op::Silu
                        | Op::Relu
                        | Op::Erf
                        | Op::Gelu { .. }
                        | Op::Sqrt
                );
                let arg = *stmt.args.first()?;
                let squared = s.producer(arg).is_some_and(|producer| matches!(producer.op, Op::Square));
                let width = *s.ty(arg).shape.last()?;
                (is_table && squared && width % 128 > 64)
                    .then(|| format!("it takes a square of width {width}"))
            })
        }),
    },
    Rule {
        id: "ANE-052",
        statement: "a transpose that feeds a matmul has at most 4 axes",
        symptom: "the compile fails",
        remedy: "reshape to four axes first",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(transposed_matmul),
    },
    Rule {
        id: "ANE-053",
        statement: "a constant that is dequantized has its final shape",
        symptom: "a reshape of it is not routable; a blockwise one cannot be a weight",
        remedy: "give it its final rank, or add 0 first",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Reshape { .. } = stmt.op else { return None };
                let arg = *stmt.args.first()?;
                s.is_quantized(arg).then(|| format!("it reshapes `{}`", s.program.value(arg).name))
            })
        }),
    },
    Rule {
        id: "ANE-064",
        statement: "layer_norm with gain and bias is narrower than 1,024 in four axes",
        symptom: "the compile fails",
        remedy: "apply gain and bias in two axes",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("there is no layer_norm here; norms are written out"),
    },
    Rule {
        id: "ANE-067",
        statement: "some ops are of later chips",
        symptom: "sin, cos, argmin, dropout and random need M3, topk and sort M2",
        remedy: "a polynomial, or the host",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("there are no such ops here; the parser refuses them by name"),
    },
    Rule {
        id: "ANE-073",
        statement: "log and rsqrt need `epsilon`, gelu needs `mode`",
        symptom: "the compile fails",
        remedy: "always write them",
        source: "ANEForge",
        routes: &[(Ane, Error)],
        chips: EVERY_CHIP,
        check: Check::Always("attributes are fields of an op, and text writes every one of them"),
    },
    Rule {
        id: "ANE-079",
        statement: "pairs are not sliced apart, negated and joined",
        symptom: "the compile fails",
        remedy: "rotate by a matrix that exchanges the two of a pair",
        source: "autoresearch-ANE: compiles on M4 Max; rustane's report from an M3 Ultra: refused",
        routes: &[(AneInMem, Error)],
        chips: M3_ONLY,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Concat { .. } = stmt.op else { return None };
                let of_pairs = |arg: &&ValueId| {
                    let last = |id: ValueId| s.ty(id).shape.last().copied();
                    s.sliced_from(**arg).is_some_and(|x| last(x) == Some(2) && last(**arg) == Some(1))
                };
                let count = stmt.args.iter().filter(of_pairs).count();
                (count > 1).then(|| format!("{count} of its operands are slices of pairs"))
            })
        }),
    },
    Rule {
        id: "ANE-CAST",
        statement: "a program does more than cast",
        symptom: "the compile fails",
        remedy: "multiply by 1 as well",
        source: "ANEForge, M5",
        routes: &[(Ane, Error)],
        chips: M4_ON,
        check: Check::Program(|s| {
            let casts = |stmt: &Stmt| matches!(stmt.op, Op::Cast { .. });
            let ops: Vec<&Stmt> =
                s.program.stmts().iter().filter(|stmt| !matches!(stmt.op, Op::Const(_))).collect();
            let only = !ops.is_empty() && ops.iter().all(|stmt| casts(stmt));
            if only { vec![(Place::Program, "all that it does is to cast".to_owned())] } else { Vec::new() }
        }),
    },
    Rule {
        id: "ANE-INT32",
        statement: "nothing is cast to int32",
        symptom: "the compile fails",
        remedy: "compare, and select",
        source: "ANEForge, M1",
        routes: &[(Ane, Error)],
        chips: M1_ONLY,
        check: Check::Program(|s| {
            s.each(|stmt| {
                matches!(stmt.op, Op::Cast { dtype: DType::I32 }).then(|| "it casts to int32".to_owned())
            })
        }),
    },
    Rule {
        id: "ANE-SELECT",
        statement: "the operands of select have one shape",
        symptom: "the declared shape of the result may be wrong",
        remedy: "broadcast them first",
        source: "the type inference of coremltools looks at a and b and not at cond; ANEForge broadcasts all three",
        routes: &[(Ane, Warning)],
        chips: EVERY_CHIP,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let Op::Select = stmt.op else { return None };
                let shape = &s.ty(stmt.results[0]).shape;
                let other = stmt.args.iter().find(|arg| s.ty(**arg).shape != *shape)?;
                Some(format!("`{}` is {}", s.program.value(*other).name, s.ty(*other)))
            })
        }),
    },
    Rule {
        id: "ANE-SQRT",
        statement: "sqrt stands alone",
        symptom: "it is wrong where it is fused with what follows",
        remedy: "write pow(v, 0.5), or rsqrt and a product",
        source: "ane-train, M1",
        routes: &[(AneInMem, Warning)],
        chips: M1_ONLY,
        check: Check::Program(|s| {
            s.each(|stmt| {
                let arg = stmt
                    .args
                    .iter()
                    .find(|arg| s.producer(**arg).is_some_and(|producer| matches!(producer.op, Op::Sqrt)))?;
                Some(format!("it takes the root `{}`", s.program.value(*arg).name))
            })
        }),
    },
];

fn is_reduction(stmt: &Stmt) -> bool {
    matches!(stmt.op, Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. })
}

impl Subject<'_> {
    /// The reduction that `id` depends on by elementwise ops alone.
    fn reduction_behind(&self, id: ValueId) -> Option<ValueId> {
        let (mut waiting, mut seen) = (vec![id], vec![false; self.producers.len()]);
        while let Some(id) = waiting.pop() {
            let Some(producer) = self.producer(id).filter(|_| !seen[id.index()]) else { continue };
            seen[id.index()] = true;
            if is_reduction(producer) {
                return Some(id);
            }
            if matches!(
                producer.op,
                Op::Add | Op::Sub | Op::Mul | Op::RealDiv | Op::Maximum | Op::Minimum | Op::Abs | Op::Square
            ) {
                waiting.extend(&producer.args);
            }
        }
        None
    }

    /// What `id` is a slice of, by products with constants at most.
    fn sliced_from(&self, id: ValueId) -> Option<ValueId> {
        let producer = self.producer(id)?;
        match producer.op {
            Op::SliceBySize { .. } | Op::Split { .. } => Some(producer.args[0]),
            Op::Mul | Op::Sub => producer.args.iter().find_map(|arg| self.sliced_from(*arg)),
            _ => None,
        }
    }
}

/// The name of a convolution's weight that is no constant.
fn runtime_weight<'a>(s: &'a Subject<'_>, stmt: &Stmt) -> Option<&'a str> {
    let Op::Conv { .. } = stmt.op else { return None };
    let weight = *stmt.args.get(1)?;
    (!s.is_constant(weight)).then(|| s.program.value(weight).name.as_str())
}

fn exchanged_operands(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let Op::Matmul { .. } = stmt.op else { return None };
        let slot = |arg: ValueId| s.program.inputs().iter().position(|input| *input == arg);
        let (first, second) = (slot(stmt.args[0])?, slot(stmt.args[1])?);
        (first > second).then(|| format!("its operands are in the slots {first} and {second}"))
    })
}

fn dead_return(s: &Subject<'_>) -> Findings {
    s.program
        .outputs()
        .iter()
        .filter(|id| s.is_constant(**id))
        .map(|id| {
            let name = &s.program.value(*id).name;
            (Place::Port(name.clone()), format!("`{name}` is a constant, which compilers fold away"))
        })
        .collect()
}

fn moved_or_reduced(s: &Subject<'_>) -> Findings {
    s.each(|stmt| {
        let moves = matches!(
            stmt.op,
            Op::Reshape { .. }
                | Op::Transpose { .. }
                | Op::SliceBySize { .. }
                | Op::Concat { .. }
                | Op::Split { .. }
        );
        (moves || is_reduction(stmt)).then(|| format!("{} gives zeros or is refused", stmt.op.name()))
    })
}

fn transposed_matmul(s: &Subject<'_>) -> Findings {
    let rank_5 = |id| s.ty(id).rank() >= MAX_RANK;
    s.each(|stmt| {
        let Op::Matmul { .. } = stmt.op else { return None };
        let transposed = stmt.args.iter().find(|arg| {
            rank_5(**arg) && s.producer(**arg).is_some_and(|p| matches!(p.op, Op::Transpose { .. }))
        })?;
        let (name, ty) = (&s.program.value(*transposed).name, s.ty(*transposed));
        Some(format!("its operand `{name}`, {ty}, is transposed"))
    })
}

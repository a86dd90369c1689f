//! The ops.
//!
//! The list below is the one declaration of every op: its name in MIL, its operands and its
//! attributes in order. Text in both directions, the builder and the tests that walk
//! [`KINDS`] follow from it. Shape rules, gradients and examples stand together in one file for
//! each family (`elementwise.rs`, `matmul.rs`, …); the `sim` and `cpu` crates have files of the
//! same names for the arithmetic. Composites are declared here too and live in
//! [`crate::composites`].

use crate::attr::Attr;
use crate::{AttrValue, Builder, Constant, DType, Element, Error, Result, TensorType, ValueId};

pub mod conv;
pub mod elementwise;
pub mod matmul;
pub mod movement;
pub mod quantize;
pub mod reduce;
pub mod softmax;

/// What a test needs to exercise an op: operand types and a range of values on which it is smooth.
#[derive(Debug, Clone)]
pub struct Example {
    /// With attributes filled in.
    pub op: Op,
    /// The operands' types, in `F32`.
    pub operands: Vec<TensorType>,
    /// Operand values are drawn from here; a test that differentiates keeps its distance from the
    /// ends.
    pub domain: (f32, f32),
}

/// Whether an op can be differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// By a rule of its own.
    Rule,
    /// Not at all, and why.
    None(&'static str),
}

/// What is known of an op without its attributes.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// MIL's name, or ours for a composite.
    pub name: &'static str,
    /// What it computes.
    pub doc: &'static str,
    /// Names of the operands in order.
    pub operands: &'static [&'static str],
    /// Whether the last operand name stands for a list of any length.
    pub variadic: bool,
    /// Names of the attributes in order.
    pub attrs: &'static [&'static str],
    /// Whether it is ours and has a decomposition.
    pub composite: bool,
}

macro_rules! ops {
    ($(
        $(#[doc = $doc:literal])*
        $variant:ident $({ $($(#[$fmeta:meta])* $field:ident : $fty:ty $(= $default:expr)?),* $(,)? })?
        = $class:ident $name:literal ($($operand:literal),*) $($variadic:ident)?;
    )*) => {
        /// An op with its attributes.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            /// A tensor known when the program is built (MIL `const`).
            Const(Constant),
            $($(#[doc = $doc])* $variant $({ $($(#[$fmeta])* $field: $fty),* })?,)*
        }

        /// Every op but `const`, in groups.
        pub const KINDS: &[Kind] = &[$(Kind {
            name: $name,
            doc: concat!($($doc),*),
            operands: &[$($operand),*],
            variadic: ops!(@variadic $($variadic)?),
            attrs: &[$($(stringify!($field)),*)?],
            composite: ops!(@composite $class),
        }),*];

        impl Op {
            /// MIL's name.
            pub fn name(&self) -> &'static str {
                match self {
                    Op::Const(_) => "const",
                    $(Op::$variant { .. } => $name,)*
                }
            }

            /// Its entry in [`KINDS`]; `None` for `const`.
            pub fn kind(&self) -> Option<&'static Kind> {
                Kind::by_name(self.name())
            }

            /// Whether it is ours and has a decomposition into primitive ops.
            pub fn is_composite(&self) -> bool {
                match self {
                    Op::Const(_) => false,
                    $(Op::$variant { .. } => ops!(@composite $class),)*
                }
            }

            /// Its attributes, by name, in order.
            pub fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
                match self {
                    Op::Const(_) => Vec::new(),
                    $(Op::$variant $({ $($field),* })? => vec![$($((stringify!($field), Attr::to_value($field))),*)?],)*
                }
            }

            /// The op called `name` with the attributes that `lookup` gives; an attribute that
            /// is missing takes its default where MIL has one.
            ///
            /// # Errors
            /// [`Error::Op`] naming the attribute that is missing or of the wrong kind,
            /// [`Error::Program`] when there is no such op.
            pub fn from_attrs(name: &str, lookup: &mut dyn FnMut(&str) -> Option<AttrValue>) -> Result<Op> {
                match name {
                    $($name => Ok(Op::$variant $({ $($field: {
                        let default: Option<$fty> = ops!(@default $($default)?);
                        match lookup(stringify!($field)) {
                            Some(value) => Attr::from_value(&value).ok_or_else(|| {
                                Error::op($name, format!("attribute `{}` cannot be {value:?}", stringify!($field)))
                            })?,
                            None => default.ok_or_else(|| {
                                Error::op($name, format!("attribute `{}` is missing", stringify!($field)))
                            })?,
                        }
                    }),* })?),)*
                    _ => Err(Error::program(format!("there is no op called `{name}` here"))),
                }
            }
        }
    };
    (@composite primitive) => { false };
    (@composite composite) => { true };
    (@variadic list) => { true };
    (@variadic) => { false };
    (@default $default:expr) => { Some($default) };
    (@default) => { None };
}

ops! {
    // Elementwise with two operands; shapes broadcast as in NumPy.
    /// x + y
    Add = primitive "add" ("x", "y");
    /// x - y
    Sub = primitive "sub" ("x", "y");
    /// x * y
    Mul = primitive "mul" ("x", "y");
    /// x / y
    RealDiv = primitive "real_div" ("x", "y");
    /// The larger of x and y.
    Maximum = primitive "maximum" ("x", "y");
    /// The smaller of x and y.
    Minimum = primitive "minimum" ("x", "y");
    /// x to the power of y, for x > 0.
    Pow = primitive "pow" ("x", "y");
    /// Whether x = y.
    Equal = primitive "equal" ("x", "y");
    /// Whether x and y differ.
    NotEqual = primitive "not_equal" ("x", "y");
    /// Whether x > y.
    Greater = primitive "greater" ("x", "y");
    /// Whether x >= y.
    GreaterEqual = primitive "greater_equal" ("x", "y");
    /// Whether x < y.
    Less = primitive "less" ("x", "y");
    /// Whether x <= y.
    LessEqual = primitive "less_equal" ("x", "y");
    /// a where cond holds, else b.
    Select = primitive "select" ("cond", "a", "b");

    // Elementwise with one operand.
    /// e to the power of x.
    Exp = primitive "exp" ("x");
    /// Natural logarithm of x + epsilon.
    Log {
        /// Added first; MIL demands it.
        epsilon: f32 = 1e-45
    } = primitive "log" ("x");
    /// Square root.
    Sqrt = primitive "sqrt" ("x");
    /// 1 / sqrt(x + epsilon).
    Rsqrt {
        /// Added first; MIL demands it.
        epsilon: f32 = 1e-12
    } = primitive "rsqrt" ("x");
    /// Hyperbolic tangent.
    Tanh = primitive "tanh" ("x");
    /// 1 / (1 + exp(-x)).
    Sigmoid = primitive "sigmoid" ("x");
    /// x * sigmoid(x).
    Silu = primitive "silu" ("x");
    /// max(x, 0), with gradient 0 at 0.
    Relu = primitive "relu" ("x");
    /// Magnitude, with gradient 0 at 0.
    Abs = primitive "abs" ("x");
    /// Error function.
    Erf = primitive "erf" ("x");
    /// Gaussian error linear unit, exact or by the tanh or sigmoid formula.
    Gelu {
        /// Which formula.
        mode: elementwise::GeluMode = elementwise::GeluMode::Exact
    } = primitive "gelu" ("x");
    /// x * x.
    Square = primitive "square" ("x");
    /// x in another element type.
    Cast {
        /// The type of the result.
        dtype: DType
    } = primitive "cast" ("x");
    /// input / scale, rounded to nearest even and kept within -128 and 127.
    Quantize {
        /// The type of the result: int8.
        output_dtype: DType
    } = primitive "quantize" ("input", "scale");
    /// input * scale: what `quantize` made of it, in floats.
    Dequantize = primitive "dequantize" ("input", "scale");

    // Products.
    /// Matrix product over the last two axes; leading axes broadcast.
    Matmul {
        /// Whether x is `[.., k, m]` instead of `[.., m, k]`.
        transpose_x: bool = false,
        /// Whether y is `[.., n, k]` instead of `[.., k, n]`.
        transpose_y: bool = false,
    } = primitive "matmul" ("x", "y");
    /// Two-dimensional convolution of x `[B, C, H, W]` with weight `[O, C/groups, KH, KW]`.
    Conv {
        /// Step along height and width.
        strides: Vec<i32> = vec![1, 1],
        /// How `pad` is found.
        pad_type: conv::PadType = conv::PadType::Valid,
        /// Top, bottom, left, right; read when `pad_type` is `custom`.
        pad: Vec<i32> = vec![0, 0, 0, 0],
        /// Distance between the kernel's elements.
        dilations: Vec<i32> = vec![1, 1],
        /// Blocks of channels that do not see one another.
        groups: i32 = 1,
    } = primitive "conv" ("x", "weight");

    // Along axes.
    /// exp(x) / sum(exp(x)) along one axis, in the stable form.
    Softmax {
        /// Counted from the end when negative.
        axis: i32 = -1
    } = primitive "softmax" ("x");
    /// Sum along axes.
    ReduceSum {
        /// Counted from the end when negative.
        axes: Vec<i32>,
        /// Whether a reduced axis stays with extent 1.
        keep_dims: bool = false,
    } = primitive "reduce_sum" ("x");
    /// Mean along axes.
    ReduceMean {
        /// Counted from the end when negative.
        axes: Vec<i32>,
        /// Whether a reduced axis stays with extent 1.
        keep_dims: bool = false,
    } = primitive "reduce_mean" ("x");
    /// Largest value along axes.
    ReduceMax {
        /// Counted from the end when negative.
        axes: Vec<i32>,
        /// Whether a reduced axis stays with extent 1.
        keep_dims: bool = false,
    } = primitive "reduce_max" ("x");

    // Movement.
    /// The same elements in another shape.
    Reshape {
        /// One entry may be -1 and is inferred.
        shape: Vec<i32>
    } = primitive "reshape" ("x");
    /// Axes in another order.
    Transpose {
        /// Result axis i is operand axis `perm[i]`.
        perm: Vec<i32>
    } = primitive "transpose" ("x");
    /// A box cut out of x.
    SliceBySize {
        /// Its first index on each axis.
        begin: Vec<i32>,
        /// Its extent on each axis; -1 means to the end.
        size: Vec<i32>,
    } = primitive "slice_by_size" ("x");
    /// Tensors joined along one axis.
    Concat {
        /// Counted from the end when negative.
        axis: i32,
        /// Whether elements alternate instead of following one another; only `false` is supported.
        interleave: bool = false,
    } = primitive "concat" ("values") list;
    /// One tensor cut into equal parts along one axis.
    Split {
        /// How many parts.
        num_splits: i32,
        /// Counted from the end when negative.
        axis: i32,
    } = primitive "split" ("x");

    // Composites.
    /// x / sqrt(mean(x²) + eps) * w, the mean along one axis.
    RmsNorm {
        /// Counted from 0.
        axis: i32,
        /// Added to the mean of squares.
        eps: f32,
    } = composite "rms_norm" ("x", "w");
    /// Gradients of `rms_norm`: dx and dw.
    RmsNormGrad {
        /// As in `rms_norm`.
        axis: i32,
        /// As in `rms_norm`.
        eps: f32,
    } = composite "rms_norm_grad" ("x", "w", "dy");
    /// Rotary position embedding, half-split pairs, of x `[1, H*D, 1, N]` by angles whose cosines
    /// and sines are `[1, 1, D/2, N]`.
    Rope {
        /// Rotates backwards: the gradient.
        inverse: bool
    } = composite "rope" ("x", "cos", "sin");
    /// Causal attention of q `[1, H*D, 1, B*S]` over k and v `[1, KV*D, 1, B*S]`, within each
    /// sequence.
    Attention {
        /// Query heads, H.
        heads: i32,
        /// Key/value heads, KV; query head h reads key/value head h / (H / KV).
        kv_heads: i32,
        /// Tokens in a sequence, S.
        seq: i32,
        /// Each query sees this many keys, itself included; 0 sees all before it.
        window: i32,
        /// Scores are multiplied by it before softmax.
        scale: f32,
    } = composite "attention" ("q", "k", "v");
    /// Gradients of `attention`: dq, dk, dv, from its operands, its result o and the gradient of o.
    AttentionGrad {
        /// As in `attention`.
        heads: i32,
        /// As in `attention`.
        kv_heads: i32,
        /// As in `attention`.
        seq: i32,
        /// As in `attention`.
        window: i32,
        /// As in `attention`.
        scale: f32,
    } = composite "attention_grad" ("q", "k", "v", "o", "do");
    /// Classifier and loss statistics for one vocabulary tile: per token the largest logit, the
    /// sum of exp(logit - largest) and the target's logit, from h `[1, C, 1, N]`, w `[1, 1, V, C]`
    /// and the target's id div 512 and id mod 512, `[1, 1, 1, N]` each (hi = -1: not in this tile).
    CrossEntropyStats {
        /// Logits become `softcap * tanh(logit / softcap)`; 0 leaves them.
        softcap: f32
    } = composite "cross_entropy_stats" ("h", "w", "hi", "lo");
    /// Gradients of the loss for one vocabulary tile, dh and dw, times exp(log_scale): the
    /// operands of `cross_entropy_stats`, then the log-sum-exp over all tiles in two rows whose
    /// sum it is, and log_scale `[1, 1, 1, 1]`.
    CrossEntropyGrad {
        /// As in `cross_entropy_stats`.
        softcap: f32
    } = composite "cross_entropy_grad" ("h", "w", "hi", "lo", "lse_hi", "lse_lo", "log_scale");
    /// `cross_entropy_stats` and `cross_entropy_grad` in one, for a vocabulary of one tile: the
    /// three statistics, then dh and dw.
    CrossEntropy {
        /// As in `cross_entropy_stats`.
        softcap: f32
    } = composite "cross_entropy" ("h", "w", "hi", "lo", "log_scale");
}

impl Kind {
    /// The entry called `name`.
    pub fn by_name(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

impl Op {
    /// The types of the results of this op on operands of types `args`.
    ///
    /// # Errors
    /// [`Error::Op`] naming the operand, its shape and what was expected.
    pub fn infer(&self, element: Element, args: &[&TensorType]) -> Result<Vec<TensorType>> {
        if let Some(kind) = self.kind() {
            let enough = if kind.variadic {
                args.len() >= kind.operands.len()
            } else {
                args.len() == kind.operands.len()
            };
            if !enough {
                return Err(Error::op(
                    self.name(),
                    format!("takes the operands ({}), was given {}", kind.operands.join(", "), args.len()),
                ));
            }
        }
        let _ = element;
        match self {
            Op::Const(constant) => Ok(vec![constant.ty.clone()]),
            Op::Matmul { .. } => matmul::infer(self, args),
            Op::Conv { .. } => conv::infer(self, args),
            Op::Softmax { .. } => softmax::infer(self, args),
            Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => reduce::infer(self, args),
            Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::SliceBySize { .. }
            | Op::Concat { .. }
            | Op::Split { .. } => movement::infer(self, args),
            Op::Quantize { .. } | Op::Dequantize => quantize::infer(self, args),
            op if op.is_composite() => crate::composites::infer(op, args),
            _ => elementwise::infer(self, args),
        }
    }

    /// The op with its float attributes rounded to `element`, as text and engine hold them. Those
    /// of composites stay: their decomposition says what becomes of them.
    pub(crate) fn rounded(self, element: Element) -> Op {
        match self {
            Op::Log { epsilon } => Op::Log { epsilon: element.round(epsilon) },
            Op::Rsqrt { epsilon } => Op::Rsqrt { epsilon: element.round(epsilon) },
            op => op,
        }
    }

    /// Whether it can be differentiated, and if not, why.
    pub fn gradient(&self) -> Gradient {
        match self {
            Op::Const(_) => Gradient::None("a constant has no operands"),
            Op::Conv { .. } => conv::GRADIENT,
            Op::Quantize { .. } | Op::Dequantize => quantize::GRADIENT,
            op if op.is_composite() => crate::composites::gradient(op),
            op => elementwise::gradient(op).unwrap_or(Gradient::Rule),
        }
    }

    /// Gradients of the operands from those of the results, `None` where there is none to speak
    /// of (a condition, a mask).
    ///
    /// * `args`, `results`: the statement's values in the program that is being differentiated
    /// * `douts`: for each result its gradient, `None` where nothing depends on it
    ///
    /// # Errors
    /// [`Error::Gradient`] when the op has none.
    pub fn backward(
        &self,
        b: &mut Builder,
        args: &[ValueId],
        results: &[ValueId],
        douts: &[Option<ValueId>],
    ) -> Result<Vec<Option<ValueId>>> {
        if let Gradient::None(reason) = self.gradient() {
            return Err(Error::Gradient { op: self.name(), reason: reason.to_owned() });
        }
        if let Op::Split { axis, .. } = *self {
            return movement::split_backward(self, b, axis, results, douts);
        }
        // Every other op with a gradient has one result.
        let Some(dy) = douts[0] else { return Ok(vec![None; args.len()]) };
        match self {
            Op::Matmul { .. } => matmul::backward(self, b, args, dy),
            Op::Softmax { .. } => softmax::backward(self, b, results[0], dy),
            Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => {
                reduce::backward(self, b, args[0], results[0], dy)
            }
            Op::Reshape { .. } | Op::Transpose { .. } | Op::SliceBySize { .. } | Op::Concat { .. } => {
                movement::backward(self, b, args, dy)
            }
            op if op.is_composite() => crate::composites::backward(op, b, args, results[0], dy),
            _ => elementwise::backward(self, b, args, results[0], dy),
        }
    }
}

/// At least one example of every op in [`KINDS`].
pub fn examples() -> Vec<Example> {
    let mut examples = elementwise::examples();
    examples.extend(matmul::examples());
    examples.extend(conv::examples());
    examples.extend(softmax::examples());
    examples.extend(reduce::examples());
    examples.extend(movement::examples());
    examples.extend(quantize::examples());
    examples.extend(crate::composites::examples());
    examples
}

/// At least one misuse of every op in [`KINDS`], with a part of the message that it must give.
pub fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let mut misuses = elementwise::misuses();
    misuses.extend(matmul::misuses());
    misuses.extend(conv::misuses());
    misuses.extend(softmax::misuses());
    misuses.extend(reduce::misuses());
    misuses.extend(movement::misuses());
    misuses.extend(quantize::misuses());
    misuses.extend(crate::composites::misuses());
    misuses
}

/// `axis` of a tensor of `rank` axes, counted from 0.
pub(crate) fn resolve_axis(op: &Op, axis: i32, rank: usize) -> Result<usize> {
    let resolved = if axis < 0 { axis + rank as i32 } else { axis };
    if (0..rank as i32).contains(&resolved) {
        Ok(resolved as usize)
    } else {
        Err(Error::op(
            op.name(),
            format!("axis {axis} of a tensor of rank {rank}; it must lie in {}..{rank}", -(rank as i32)),
        ))
    }
}

/// An `F32` operand type, for examples.
pub(crate) fn t(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

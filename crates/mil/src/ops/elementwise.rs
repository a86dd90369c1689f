//! Elementwise ops: one result element from the operand elements at the same place, shapes
//! broadcast as in NumPy.

use super::{Example, Gradient, Op, t};
use crate::attr::word_attr;
use crate::{Builder, DType, Error, Result, TensorType, ValueId};

word_attr! {
    /// The formula of `gelu`.
    GeluMode {
        /// x/2 * (1 + erf(x / sqrt(2)))
        Exact = "EXACT",
        /// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))
        TanhApproximation = "TANH_APPROXIMATION",
        /// x * sigmoid(1.702 x)
        SigmoidApproximation = "SIGMOID_APPROXIMATION",
    }
}

/// The shape that `a` and `b` broadcast to, `None` when they do not.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (extent(a, i), extent(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

fn is_comparison(op: &Op) -> bool {
    matches!(op, Op::Equal | Op::NotEqual | Op::Greater | Op::GreaterEqual | Op::Less | Op::LessEqual)
}

/// Elementwise ops: the broadcast shape; the operands' type, or `bool` for a comparison.
pub(super) fn infer(op: &Op, args: &[&TensorType]) -> Result<Vec<TensorType>> {
    let names = op.kind().expect("not a constant").operands;
    let values = if matches!(op, Op::Select) { &args[1..] } else { args };
    if matches!(op, Op::Select) && args[0].dtype != DType::Bool {
        return Err(Error::op(op.name(), format!("cond is {}, expected bool", args[0])));
    }
    let dtype = values[0].dtype;
    if let Some(other) = values.iter().find(|ty| ty.dtype != dtype) {
        return Err(Error::op(op.name(), format!("operands of different types: {} and {other}", values[0])));
    }
    if dtype == DType::I8 && !matches!(op, Op::Cast { .. }) {
        let name = names[names.len() - 1];
        return Err(Error::op(
            op.name(),
            format!("{name} is {}; only dequantize computes with int8", values[0]),
        ));
    }
    let numeric_only = !matches!(op, Op::Select | Op::Equal | Op::NotEqual | Op::Cast { .. });
    let float_only = numeric_only && args.len() == 1 && !matches!(op, Op::Abs | Op::Relu | Op::Square);
    if dtype == DType::Str || (numeric_only && dtype == DType::Bool) || (float_only && !dtype.is_float()) {
        return Err(Error::op(
            op.name(),
            format!("{} is {}, which it does not compute", names[names.len() - 1], values[0]),
        ));
    }
    let mut shape = args[0].shape.clone();
    for (name, arg) in names.iter().zip(args).skip(1) {
        shape = broadcast(&shape, &arg.shape).ok_or_else(|| {
            Error::op(
                op.name(),
                format!(
                    "{name} is {:?}, which does not broadcast with {shape:?}; each axis must be equal or 1",
                    arg.shape
                ),
            )
        })?;
    }
    let dtype = match op {
        Op::Cast { dtype: DType::Str } => {
            return Err(Error::op("cast", "cannot give a string"));
        }
        Op::Cast { dtype: DType::I8 } => {
            return Err(Error::op("cast", "cannot give int8; quantize does"));
        }
        Op::Cast { dtype } => *dtype,
        op if is_comparison(op) => DType::Bool,
        _ => dtype,
    };
    Ok(vec![TensorType { dtype, shape }])
}

pub(super) fn gradient(op: &Op) -> Option<Gradient> {
    match op {
        op if is_comparison(op) => Some(Gradient::None("a truth value does not vary smoothly")),
        _ => None,
    }
}

pub(super) fn backward(
    op: &Op,
    b: &mut Builder,
    args: &[ValueId],
    y: ValueId,
    dy: ValueId,
) -> Result<Vec<Option<ValueId>>> {
    let x = args[0];
    // Each arm gives the gradients before they are summed back to the operands' shapes.
    let grads: Vec<Option<ValueId>> = match op {
        Op::Add => vec![Some(dy), Some(dy)],
        Op::Sub => vec![Some(dy), Some(b.scale(dy, -1.0)?)],
        Op::Mul => vec![Some(b.mul(dy, args[1])?), Some(b.mul(dy, x)?)],
        Op::RealDiv => {
            let dx = b.real_div(dy, args[1])?;
            let dxy = b.mul(dx, y)?;
            vec![Some(dx), Some(b.scale(dxy, -1.0)?)]
        }
        Op::Maximum | Op::Minimum => {
            // Ties go to x, as the comparison says.
            let first = if matches!(op, Op::Maximum) {
                b.push1(Op::GreaterEqual, &[x, args[1]])?
            } else {
                b.push1(Op::LessEqual, &[x, args[1]])?
            };
            let zero = b.zeros_like(dy)?;
            vec![Some(b.select(first, dy, zero)?), Some(b.select(first, zero, dy)?)]
        }
        Op::Pow => {
            // d/dx = y/x * x^y; d/dy = ln(x) * x^y
            let g = b.mul(dy, y)?;
            let ratio = b.real_div(args[1], x)?;
            let log = b.push1(Op::Log { epsilon: 0.0 }, &[x])?;
            vec![Some(b.mul(g, ratio)?), Some(b.mul(g, log)?)]
        }
        Op::Select => {
            let zero = b.zeros_like(dy)?;
            vec![None, Some(b.select(x, dy, zero)?), Some(b.select(x, zero, dy)?)]
        }
        Op::Exp => vec![Some(b.mul(dy, y)?)],
        Op::Log { epsilon } => {
            let eps = b.scalar(*epsilon);
            let shifted = b.add(x, eps)?;
            vec![Some(b.real_div(dy, shifted)?)]
        }
        Op::Sqrt => {
            let half = b.scale(dy, 0.5)?;
            vec![Some(b.real_div(half, y)?)]
        }
        Op::Rsqrt { .. } => {
            // y = u^(-1/2) with u = x + eps, so dy/dx = -y³/2.
            let y2 = b.mul(y, y)?;
            let y3 = b.mul(y2, y)?;
            let g = b.mul(dy, y3)?;
            vec![Some(b.scale(g, -0.5)?)]
        }
        Op::Tanh => {
            let y2 = b.mul(y, y)?;
            let one = b.scalar(1.0);
            let slope = b.sub(one, y2)?;
            vec![Some(b.mul(dy, slope)?)]
        }
        Op::Sigmoid => {
            let one = b.scalar(1.0);
            let rest = b.sub(one, y)?;
            let slope = b.mul(y, rest)?;
            vec![Some(b.mul(dy, slope)?)]
        }
        Op::Silu => {
            // s + x s (1 - s) = s + y (1 - s)
            let s = b.push1(Op::Sigmoid, &[x])?;
            let one = b.scalar(1.0);
            let rest = b.sub(one, s)?;
            let bend = b.mul(y, rest)?;
            let slope = b.add(s, bend)?;
            vec![Some(b.mul(dy, slope)?)]
        }
        Op::Relu => {
            let zero = b.scalar(0.0);
            let positive = b.push1(Op::Greater, &[x, zero])?;
            let off = b.zeros_like(dy)?;
            vec![Some(b.select(positive, dy, off)?)]
        }
        Op::Abs => {
            let zero = b.scalar(0.0);
            let positive = b.push1(Op::Greater, &[x, zero])?;
            let negative = b.push1(Op::Less, &[x, zero])?;
            let minus = b.scale(dy, -1.0)?;
            let off = b.zeros_like(dy)?;
            let below = b.select(negative, minus, off)?;
            vec![Some(b.select(positive, dy, below)?)]
        }
        Op::Square => {
            let twice = b.scale(x, 2.0)?;
            vec![Some(b.mul(dy, twice)?)]
        }
        Op::Erf => {
            // 2/sqrt(pi) * exp(-x²)
            let x2 = b.mul(x, x)?;
            let minus = b.scale(x2, -1.0)?;
            let bell = b.exp(minus)?;
            let slope = b.scale(bell, std::f32::consts::FRAC_2_SQRT_PI)?;
            vec![Some(b.mul(dy, slope)?)]
        }
        Op::Gelu { mode } => {
            let slope = gelu_slope(b, *mode, x)?;
            vec![Some(b.mul(dy, slope)?)]
        }
        Op::Cast { .. } => {
            let dtype = b.ty(x).dtype;
            if !dtype.is_float() || !b.ty(y).dtype.is_float() {
                return Ok(vec![None]);
            }
            vec![Some(b.push1(Op::Cast { dtype }, &[dy])?)]
        }
        _ => unreachable!("elementwise ops with a gradient are listed above; {} is not", op.name()),
    };
    args.iter()
        .zip(grads)
        .map(|(arg, grad)| match grad {
            Some(grad) if b.ty(*arg).dtype.is_float() => {
                let shape = b.ty(*arg).shape.clone();
                b.sum_to(grad, &shape).map(Some)
            }
            _ => Ok(None),
        })
        .collect()
}

/// The derivative of `gelu` at x, same shape.
fn gelu_slope(b: &mut Builder, mode: GeluMode, x: ValueId) -> Result<ValueId> {
    use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    let one = b.scalar(1.0);
    match mode {
        GeluMode::Exact => {
            // Φ(x) + x φ(x)
            let u = b.scale(x, FRAC_1_SQRT_2)?;
            let erf = b.push1(Op::Erf, &[u])?;
            let above = b.add(erf, one)?;
            let cdf = b.scale(above, 0.5)?;
            let u2 = b.mul(u, u)?;
            let minus = b.scale(u2, -1.0)?;
            let bell = b.exp(minus)?;
            let density = b.scale(bell, 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI)?;
            let bend = b.mul(x, density)?;
            b.add(cdf, bend)
        }
        GeluMode::TanhApproximation => {
            // t = tanh(k (x + c x³)): (1 + t)/2 + x/2 (1 - t²) k (1 + 3 c x²)
            let k = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
            let x2 = b.mul(x, x)?;
            let cx2 = b.scale(x2, 0.044715)?;
            let factor = b.add(cx2, one)?;
            let inner = b.mul(x, factor)?;
            let scaled = b.scale(inner, k)?;
            let t = b.push1(Op::Tanh, &[scaled])?;
            let above = b.add(t, one)?;
            let first = b.scale(above, 0.5)?;
            let t2 = b.mul(t, t)?;
            let rest = b.sub(one, t2)?;
            let cx2x3 = b.scale(x2, 3.0 * 0.044715)?;
            let slope = b.add(cx2x3, one)?;
            let g = b.mul(rest, slope)?;
            let gx = b.mul(g, x)?;
            let second = b.scale(gx, 0.5 * k)?;
            b.add(first, second)
        }
        GeluMode::SigmoidApproximation => {
            // s = sigmoid(a x): s + a x s (1 - s)
            let ax = b.scale(x, 1.702)?;
            let s = b.push1(Op::Sigmoid, &[ax])?;
            let rest = b.sub(one, s)?;
            let bend = b.mul(s, rest)?;
            let bent = b.mul(ax, bend)?;
            b.add(s, bent)
        }
    }
}

pub(super) fn examples() -> Vec<Example> {
    let two = |op: Op, domain| Example { op, operands: vec![t(&[2, 3, 4]), t(&[3, 1])], domain };
    let one = |op: Op, domain| Example { op, operands: vec![t(&[2, 5])], domain };
    let wide = (-2.0, 2.0);
    let positive = (0.3, 2.0);
    let mut condition = t(&[3, 4]);
    condition.dtype = DType::Bool;
    vec![
        two(Op::Add, wide),
        two(Op::Sub, wide),
        two(Op::Mul, wide),
        two(Op::RealDiv, positive),
        two(Op::Maximum, wide),
        two(Op::Minimum, wide),
        two(Op::Pow, positive),
        two(Op::Equal, wide),
        two(Op::NotEqual, wide),
        two(Op::Greater, wide),
        two(Op::GreaterEqual, wide),
        two(Op::Less, wide),
        two(Op::LessEqual, wide),
        Example { op: Op::Select, operands: vec![condition, t(&[3, 4]), t(&[1, 4])], domain: wide },
        one(Op::Exp, wide),
        one(Op::Log { epsilon: 1e-3 }, positive),
        one(Op::Sqrt, positive),
        one(Op::Rsqrt { epsilon: 1e-3 }, positive),
        one(Op::Tanh, wide),
        one(Op::Sigmoid, wide),
        one(Op::Silu, wide),
        one(Op::Relu, wide),
        one(Op::Abs, wide),
        one(Op::Erf, wide),
        one(Op::Gelu { mode: GeluMode::Exact }, wide),
        one(Op::Gelu { mode: GeluMode::TanhApproximation }, wide),
        one(Op::Gelu { mode: GeluMode::SigmoidApproximation }, wide),
        one(Op::Square, wide),
        one(Op::Cast { dtype: DType::F16 }, wide),
        one(Op::Cast { dtype: DType::F32 }, wide),
    ]
}

pub(super) fn misuses() -> Vec<(Op, Vec<TensorType>, &'static str)> {
    let (a, c) = (t(&[2, 3]), t(&[2, 4]));
    let text = TensorType::scalar(DType::Str);
    let mut misuses: Vec<_> = [
        Op::Add,
        Op::Sub,
        Op::Mul,
        Op::RealDiv,
        Op::Maximum,
        Op::Minimum,
        Op::Pow,
        Op::Equal,
        Op::NotEqual,
        Op::Greater,
        Op::GreaterEqual,
        Op::Less,
        Op::LessEqual,
    ]
    .into_iter()
    .map(|op| (op, vec![a.clone(), c.clone()], "does not broadcast"))
    .collect();
    misuses.push((Op::Select, vec![a.clone(), a.clone(), a.clone()], "expected bool"));
    misuses.extend(
        [
            Op::Exp,
            Op::Log { epsilon: 0.0 },
            Op::Sqrt,
            Op::Rsqrt { epsilon: 0.0 },
            Op::Tanh,
            Op::Sigmoid,
            Op::Silu,
            Op::Relu,
            Op::Abs,
            Op::Erf,
            Op::Gelu { mode: GeluMode::Exact },
            Op::Square,
            Op::Cast { dtype: DType::F16 },
        ]
        .into_iter()
        .map(|op| (op, vec![text.clone()], "does not compute")),
    );
    misuses
}

//! Elementwise ops: one result element from the operand elements at the same place, shapes
//! broadcast as in NumPy.
//!
//! Float arithmetic is f32's and is rounded afterwards. Integers wrap; `real_div` of integers
//! drops the fraction, and by 0 gives 0.

use mil::DType;
use mil::TensorType;
use mil::ops::elementwise::GeluMode;

use crate::interpreter::Machine;
use crate::tensor::{Data, Value};
use crate::walk::{Walk, broadcast_strides, chunks};

/// `out[i] = f(x[i], y[i])`, where an operand with stride 0 gives the same element everywhere.
fn zip<X: Copy, Y: Copy, R>(
    out: &mut [R],
    (x, x_stride): (&[X], usize),
    (y, y_stride): (&[Y], usize),
    f: &impl Fn(X, Y) -> R,
) {
    let n = out.len();
    match (x_stride, y_stride) {
        (0, 0) => out.iter_mut().for_each(|o| *o = f(x[0], y[0])),
        (0, _) => {
            let x = x[0];
            out.iter_mut().zip(&y[..n]).for_each(|(o, y)| *o = f(x, *y));
        }
        (_, 0) => {
            let y = y[0];
            out.iter_mut().zip(&x[..n]).for_each(|(o, x)| *o = f(*x, y));
        }
        _ => out.iter_mut().zip(x[..n].iter().zip(&y[..n])).for_each(|(o, (x, y))| *o = f(*x, *y)),
    }
}

/// Fills `out`, of shape `shape`, with `f` of two broadcast operands, then calls `finish` on every
/// chunk while it is at hand.
fn zip_broadcast<X: Copy + Sync, Y: Copy + Sync, R: Send>(
    out: &mut [R],
    shape: &[usize],
    (x, x_shape): (&[X], &[usize]),
    (y, y_shape): (&[Y], &[usize]),
    f: impl Fn(X, Y) -> R + Sync,
    finish: impl Fn(&mut [R]) + Sync,
) {
    let walk = Walk::new(shape, [broadcast_strides(x_shape, shape), broadcast_strides(y_shape, shape)]);
    let [x_stride, y_stride] = walk.inner();
    chunks(out, 1, |start, chunk| {
        walk.runs(start, chunk, |run, [x_at, y_at]| {
            zip(run, (&x[x_at..], x_stride), (&y[y_at..], y_stride), &f);
        });
        finish(chunk);
    });
}

/// `float(x, y)` or `int(x, y)`, shapes broadcast.
pub(crate) fn binary(
    m: &Machine,
    ty: &TensorType,
    args: &[&Value],
    float: impl Fn(f32, f32) -> f32 + Sync,
    int: impl Fn(i32, i32) -> i32 + Sync,
) -> Data<'static> {
    let (x, y) = (args[0], args[1]);
    match (&x.data, &y.data) {
        (Data::Int(a), Data::Int(b)) => {
            let mut out = vec![0; ty.numel()];
            zip_broadcast(&mut out, &ty.shape, (a, x.shape()), (b, y.shape()), int, |_| ());
            Data::int(out)
        }
        _ => {
            let mut out = m.pool.take(ty.numel());
            let (x, y) = ((x.floats(), x.shape()), (y.floats(), y.shape()));
            zip_broadcast(&mut out, &ty.shape, x, y, float, |chunk| {
                m.profile.finish(ty.dtype, chunk);
            });
            Data::float(out)
        }
    }
}

/// Whether a relation holds, shapes broadcast; a number has an order, truth values only equality.
pub(crate) fn compare(
    ty: &TensorType,
    args: &[&Value],
    float: impl Fn(f32, f32) -> bool + Sync,
    int: impl Fn(i32, i32) -> bool + Sync,
) -> Data<'static> {
    let (x, y) = (args[0], args[1]);
    let mut out = vec![false; ty.numel()];
    let shape = &ty.shape;
    match (&x.data, &y.data) {
        (Data::Int(a), Data::Int(b)) => {
            zip_broadcast(&mut out, shape, (a, x.shape()), (b, y.shape()), int, |_| ());
        }
        (Data::Bool(a), Data::Bool(b)) => {
            let f = |a: bool, b: bool| int(i32::from(a), i32::from(b));
            zip_broadcast(&mut out, shape, (a, x.shape()), (b, y.shape()), f, |_| ());
        }
        _ => {
            let (x, y) = ((x.floats(), x.shape()), (y.floats(), y.shape()));
            zip_broadcast(&mut out, shape, x, y, float, |_| ());
        }
    }
    Data::bool(out)
}

/// a where cond holds, else b, shapes broadcast.
pub(crate) fn select(m: &Machine, ty: &TensorType, args: &[&Value]) -> Data<'static> {
    let Data::Bool(cond) = &args[0].data else { panic!("type inference lets only a bool decide") };
    let walk = Walk::new(&ty.shape, [0, 1, 2].map(|i| broadcast_strides(args[i].shape(), &ty.shape)));
    fn pick<T: Copy + Send + Sync>(out: &mut [T], walk: &Walk<3>, cond: &[bool], a: &[T], b: &[T]) {
        let [cond_stride, a_stride, b_stride] = walk.inner();
        chunks(out, 1, |start, chunk| {
            walk.runs(start, chunk, |run, [cond_at, a_at, b_at]| {
                let (cond, a, b) = (&cond[cond_at..], &a[a_at..], &b[b_at..]);
                match (cond_stride, a_stride, b_stride) {
                    (1, 1, 1) => {
                        let operands = cond.iter().zip(a.iter().zip(b));
                        for (o, (c, (a, b))) in run.iter_mut().zip(operands) {
                            *o = if *c { *a } else { *b };
                        }
                    }
                    (1, 1, 0) => zip(run, (cond, 1), (a, 1), &|c, a| if c { a } else { b[0] }),
                    (1, 0, 1) => zip(run, (cond, 1), (b, 1), &|c, b| if c { a[0] } else { b }),
                    (1, 0, 0) => zip(run, (cond, 1), (a, 0), &|c, a| if c { a } else { b[0] }),
                    // The condition is the same along the run.
                    _ if cond[0] => zip(run, (a, a_stride), (b, 0), &|a, _| a),
                    _ => zip(run, (b, b_stride), (a, 0), &|b, _| b),
                }
            });
        });
    }
    match (&args[1].data, &args[2].data) {
        (Data::Int(a), Data::Int(b)) => {
            let mut out = vec![0; ty.numel()];
            pick(&mut out, &walk, cond, a, b);
            Data::int(out)
        }
        (Data::Bool(a), Data::Bool(b)) => {
            let mut out = vec![false; ty.numel()];
            pick(&mut out, &walk, cond, a, b);
            Data::bool(out)
        }
        _ => {
            let mut out = m.pool.take(ty.numel());
            pick(&mut out, &walk, cond, args[1].floats(), args[2].floats());
            Data::float(out)
        }
    }
}

/// `out[i] = f(x[i])`.
fn map<X: Copy + Sync, R: Send>(
    out: &mut [R],
    x: &[X],
    f: impl Fn(X) -> R + Sync,
    finish: impl Fn(&mut [R]) + Sync,
) {
    chunks(out, 1, |start, chunk| {
        for (o, x) in chunk.iter_mut().zip(&x[start..]) {
            *o = f(*x);
        }
        finish(chunk);
    });
}

/// `f(x)` of floats.
pub(crate) fn unary(m: &Machine, ty: &TensorType, x: &Value, f: impl Fn(f32) -> f32 + Sync) -> Data<'static> {
    let mut out = m.pool.take(ty.numel());
    map(&mut out, x.floats(), f, |chunk| {
        m.profile.finish(ty.dtype, chunk);
    });
    Data::float(out)
}

/// `float(x)` or `int(x)`.
pub(crate) fn unary_numeric(
    m: &Machine,
    ty: &TensorType,
    x: &Value,
    float: impl Fn(f32) -> f32 + Sync,
    int: impl Fn(i32) -> i32 + Sync,
) -> Data<'static> {
    match &x.data {
        Data::Int(values) => {
            let mut out = vec![0; ty.numel()];
            map(&mut out, values, int, |_| ());
            Data::int(out)
        }
        _ => unary(m, ty, x, float),
    }
}

/// x in the element type of `ty`: a float becomes an integer towards 0 (NaN becomes 0), and a
/// truth value where it is not 0; a truth value becomes 0 or 1.
pub(crate) fn cast(m: &Machine, ty: &TensorType, x: &Value) -> Data<'static> {
    let n = ty.numel();
    match (&x.data, ty.dtype) {
        (Data::Float(x), DType::F16 | DType::F32) => {
            let mut out = m.pool.take(n);
            map(&mut out, x, |v| v, |chunk| m.profile.finish(ty.dtype, chunk));
            Data::float(out)
        }
        (Data::Float(x), DType::I32) => Data::int(x.iter().map(|v| *v as i32).collect()),
        (Data::Float(x), DType::Bool) => Data::bool(x.iter().map(|v| *v != 0.0).collect()),
        (Data::Int(x), DType::F16 | DType::F32) => {
            let mut out: Vec<f32> = x.iter().map(|v| *v as f32).collect();
            m.profile.finish(ty.dtype, &mut out);
            Data::float(out)
        }
        (Data::Int(x), DType::I32) => Data::Int(x.clone()),
        (_, DType::I8) => panic!("type inference quantizes and casts nothing to int8"),
        (Data::Int(x), DType::Bool) => Data::bool(x.iter().map(|v| *v != 0).collect()),
        (Data::Bool(x), DType::F16 | DType::F32) => {
            Data::float(x.iter().map(|v| f32::from(u8::from(*v))).collect())
        }
        (Data::Bool(x), DType::I32) => Data::int(x.iter().map(|v| i32::from(*v)).collect()),
        (Data::Bool(x), DType::Bool) => Data::Bool(x.clone()),
        (Data::Str(_), _) | (_, DType::Str) => panic!("type inference casts no strings"),
    }
}

/// x / scale, rounded to nearest even, within int8.
pub(crate) fn quantize(args: &[&Value]) -> Data<'static> {
    let (x, scale) = (args[0].floats(), args[1].floats()[0]);
    let whole = |v: &f32| (v / scale).round_ties_even().clamp(f32::from(i8::MIN), f32::from(i8::MAX));
    Data::int(x.iter().map(|v| whole(v) as i32).collect())
}

/// x * scale.
pub(crate) fn dequantize(m: &Machine, ty: &TensorType, args: &[&Value]) -> Data<'static> {
    let Data::Int(x) = &args[0].data else { panic!("type inference dequantizes int8 only") };
    let scale = args[1].floats()[0];
    let mut out: Vec<f32> = x.iter().map(|v| *v as f32 * scale).collect();
    m.profile.finish(ty.dtype, &mut out);
    Data::float(out)
}

// Formulas that f32 does not have by name.

/// The larger; NaN if either is.
pub(crate) fn maximum(x: f32, y: f32) -> f32 {
    if x > y || x.is_nan() { x } else { y }
}

/// The smaller; NaN if either is.
pub(crate) fn minimum(x: f32, y: f32) -> f32 {
    if x < y || x.is_nan() { x } else { y }
}

pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

pub(crate) fn gelu(mode: GeluMode, x: f32) -> f32 {
    use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    match mode {
        GeluMode::Exact => 0.5 * x * libm::erfcf(-x * FRAC_1_SQRT_2),
        GeluMode::TanhApproximation => {
            let inner = FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        GeluMode::SigmoidApproximation => x * sigmoid(1.702 * x),
    }
}

pub(crate) fn int_div(x: i32, y: i32) -> i32 {
    if y == 0 { 0 } else { x.wrapping_div(y) }
}

/// x to the power of y, rounded once: x^-0.5 and [`rsqrt`] are two spellings of one number.
pub(crate) fn pow(x: f32, y: f32) -> f32 {
    f64::from(x).powf(f64::from(y)) as f32
}

/// 1 / sqrt(x), rounded once.
pub(crate) fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// x to the power of y; 0 for a negative y, unless x is 1 or -1.
pub(crate) fn int_pow(x: i32, y: i32) -> i32 {
    match u32::try_from(y) {
        Ok(y) => x.wrapping_pow(y),
        Err(_) if x.abs() == 1 => x.wrapping_pow(y.unsigned_abs()),
        Err(_) => 0,
    }
}

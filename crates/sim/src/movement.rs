//! Ops that move elements and compute nothing: `reshape`, `transpose`, `slice_by_size`, `concat`,
//! `split`. A reshape is free: its result shares the operand's memory.

use mil::{DType, Op, TensorType};

use crate::interpreter::Machine;
use crate::profile::limit_magnitude;
use crate::tensor::{Data, Value};
use crate::walk::{Walk, chunks, strides};

fn resolve(axis: i32, rank: usize) -> usize {
    if axis < 0 { (axis + rank as i32) as usize } else { axis as usize }
}

/// The same elements in the shape of the result.
pub(crate) fn reshape<'a>(x: &Value<'a>) -> Data<'a> {
    x.data.clone()
}

/// Elements of `x` in the order in which a box of `shape`, `first` elements in, is walked with
/// `strides`.
fn gather(m: &Machine, x: &Value, shape: &[usize], first: usize, strides: Vec<usize>) -> Data<'static> {
    fn fill<T: Copy + Send + Sync>(out: &mut [T], x: &[T], walk: &Walk<1>) {
        let [stride] = walk.inner();
        chunks(out, 1, |start, chunk| {
            walk.runs(start, chunk, |run, [at]| match stride {
                1 => run.copy_from_slice(&x[at..at + run.len()]),
                _ => {
                    for (i, o) in run.iter_mut().enumerate() {
                        *o = x[at + i * stride];
                    }
                }
            });
        });
    }
    let walk = Walk::new(shape, [strides]);
    let n = shape.iter().product();
    match &x.data {
        Data::Float(x) => {
            let mut out = m.pool.take(n);
            fill(&mut out, &x[first..], &walk);
            Data::float(out)
        }
        Data::Int(x) => {
            let mut out = vec![0; n];
            fill(&mut out, &x[first..], &walk);
            Data::int(out)
        }
        Data::Bool(x) => {
            let mut out = vec![false; n];
            fill(&mut out, &x[first..], &walk);
            Data::bool(out)
        }
        Data::Str(text) => Data::Str(text.clone()),
    }
}

/// Result axis i is axis `perm[i]` of x.
pub(crate) fn transpose(m: &Machine, ty: &TensorType, x: &Value, perm: &[i32]) -> Data<'static> {
    let all = strides(x.shape());
    let order = perm.iter().map(|a| all[resolve(*a, all.len())]).collect();
    gather(m, x, &ty.shape, 0, order)
}

/// The box of `slice_by_size`. With an offset on the last axis some chips lose large values (rule
/// ANE-054).
pub(crate) fn slice_by_size(m: &Machine, op: &Op, ty: &TensorType, x: &Value) -> Data<'static> {
    let bounds = mil::ops::movement::slice_box(op, x.shape()).expect("inference has checked it");
    let all = strides(x.shape());
    let first = bounds.iter().zip(&all).map(|((begin, _), stride)| begin * stride).sum();
    let width_offset = bounds.last().is_some_and(|(begin, _)| *begin > 0);
    match (gather(m, x, &ty.shape, first, all), m.profile.width_offset_limit) {
        (Data::Float(values), Some(limit)) if ty.dtype == DType::F16 && width_offset => {
            let mut values = Data::Float(values).into_numbers();
            limit_magnitude(&mut values, limit);
            Data::float(values)
        }
        (data, _) => data,
    }
}

/// `args` one after another along `axis`.
pub(crate) fn concat(m: &Machine, ty: &TensorType, args: &[&Value], axis: i32) -> Data<'static> {
    /// Every operand is `[outer, part]`, the result `[outer, Σ part]`.
    fn join<T: Copy>(out: &mut [T], outer: usize, parts: &[&[T]]) {
        let mut at = 0;
        for row in 0..outer {
            for part in parts {
                let len = part.len() / outer;
                out[at..at + len].copy_from_slice(&part[row * len..][..len]);
                at += len;
            }
        }
    }
    let outer = ty.shape[..resolve(axis, ty.rank())].iter().product();
    let n = ty.numel();
    match ty.dtype {
        DType::F16 | DType::F32 => {
            let mut out = m.pool.take(n);
            let parts: Vec<&[f32]> = args.iter().map(|arg| arg.floats()).collect();
            join(&mut out, outer, &parts);
            Data::float(out)
        }
        DType::I32 | DType::I8 => {
            let mut out = vec![0; n];
            let parts = args.iter().map(|arg| match &arg.data {
                Data::Int(values) => &values[..],
                _ => panic!("type inference joins values of one type"),
            });
            join(&mut out, outer, &parts.collect::<Vec<_>>());
            Data::int(out)
        }
        DType::Bool => {
            let mut out = vec![false; n];
            let parts = args.iter().map(|arg| match &arg.data {
                Data::Bool(values) => &values[..],
                _ => panic!("type inference joins values of one type"),
            });
            join(&mut out, outer, &parts.collect::<Vec<_>>());
            Data::bool(out)
        }
        DType::Str => panic!("a string is a constant of one element, and nothing joins it"),
    }
}

/// Equal parts of x along `axis`, each of type `ty`.
pub(crate) fn split(m: &Machine, ty: &TensorType, x: &Value, parts: usize, axis: i32) -> Vec<Data<'static>> {
    let all = strides(x.shape());
    let axis = resolve(axis, ty.rank());
    (0..parts)
        .map(|part| {
            let first = part * ty.shape[axis] * all[axis];
            gather(m, x, &ty.shape, first, all.clone())
        })
        .collect()
}

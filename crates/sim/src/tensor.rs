//! Values while a program runs.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mil::{ConstData, Constant, Element, TensorType};

/// Row-major floats: the caller's memory, or shared by all values that are reshapes of one another.
/// A value of type `fp16` holds only what f16 represents.
#[derive(Clone)]
pub(crate) enum Floats<'a> {
    Borrowed(&'a [f32]),
    Shared(Arc<Vec<f32>>),
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Floats::Borrowed(values) => values,
            Floats::Shared(values) => values,
        }
    }
}

/// The elements of a value, row-major.
#[derive(Clone)]
pub(crate) enum Data<'a> {
    Float(Floats<'a>),
    Int(Arc<Vec<i32>>),
    Bool(Arc<Vec<bool>>),
    Str(Arc<str>),
}

impl<'a> Data<'a> {
    pub(crate) fn float(values: Vec<f32>) -> Self {
        Data::Float(Floats::Shared(Arc::new(values)))
    }

    pub(crate) fn int(values: Vec<i32>) -> Self {
        Data::Int(Arc::new(values))
    }

    pub(crate) fn bool(values: Vec<bool>) -> Self {
        Data::Bool(Arc::new(values))
    }

    /// The elements of a constant; one of type `fp16` is rounded if its maker did not do so.
    pub(crate) fn constant(constant: &Constant) -> Self {
        match &constant.data {
            ConstData::Float(values) => {
                let mut values = values.to_vec();
                if constant.ty.dtype == mil::DType::F16 {
                    Element::F16.round_all(&mut values);
                }
                Data::float(values)
            }
            ConstData::Affine(affine) => Data::float(affine.values.to_vec()),
            ConstData::Int(values) => Data::int(values.to_vec()),
            ConstData::Bool(values) => Data::bool(values.to_vec()),
            ConstData::Str(text) => Data::Str(text.clone()),
        }
    }

    /// As numbers, for callers outside; nothing for a string.
    pub(crate) fn into_numbers(self) -> Vec<f32> {
        match self {
            Data::Float(Floats::Shared(values)) => {
                Arc::try_unwrap(values).unwrap_or_else(|shared| shared.to_vec())
            }
            Data::Float(Floats::Borrowed(values)) => values.to_vec(),
            Data::Int(values) => values.iter().map(|v| *v as f32).collect(),
            Data::Bool(values) => values.iter().map(|v| f32::from(u8::from(*v))).collect(),
            Data::Str(_) => Vec::new(),
        }
    }
}

/// A typed tensor.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    pub(crate) ty: &'a TensorType,
    pub(crate) data: Data<'a>,
}

impl Value<'_> {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// The elements of a float tensor.
    pub(crate) fn floats(&self) -> &[f32] {
        match &self.data {
            Data::Float(values) => values,
            _ => panic!("type inference lets only floats come here, this is {}", self.ty),
        }
    }
}

/// Memory of values that nobody needs any more, by length, so that a program which runs again and
/// again asks the system for none.
#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<usize, Shelf>>);

/// Vectors of one length.
#[derive(Default)]
struct Shelf {
    free: Vec<Vec<f32>>,
    /// How many were taken and not put back. No more than that are kept when they come back: others were not
    /// made here, and would pile up run by run.
    taken: usize,
}

impl Pool {
    fn shelves(&self) -> MutexGuard<'_, HashMap<usize, Shelf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vector of `len` elements of any value.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let kept = {
            let mut shelves = self.shelves();
            let shelf = shelves.entry(len).or_default();
            shelf.taken += 1;
            shelf.free.pop()
        };
        kept.unwrap_or_else(|| vec![0.0; len])
    }

    pub(crate) fn put(&self, values: Vec<f32>) {
        let mut shelves = self.shelves();
        let shelf = shelves.entry(values.len()).or_default();
        if shelf.taken > 0 {
            shelf.taken -= 1;
            shelf.free.push(values);
        }
    }

    /// Elements that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.shelves().values().flat_map(|shelf| &shelf.free).map(Vec::len).sum()
    }

    /// Takes the memory of `data` back if nothing else holds it.
    pub(crate) fn recycle(&self, data: Data<'_>) {
        if let Data::Float(Floats::Shared(values)) = data
            && let Ok(values) = Arc::try_unwrap(values)
        {
            self.put(values);
        }
    }
}

//! Building a program, with every type inferred and checked on the way.

use std::collections::{HashMap, HashSet};

use crate::ops::Op;
use crate::ops::conv::PadType;
use crate::program::{Program, Scope, Stmt, ValueId, ValueInfo};
use crate::{ConstData, Constant, DType, Element, Error, Result, TensorType};

/// More elements than this are not added up by `reduce_sum` in our own programs, because the
/// engine accumulates it in f16 (rule ANE-058: noticeable beyond 256 elements); a product with
/// ones accumulates wide.
pub const REDUCE_SUM_MAX: usize = 256;

/// Builds one [`Program`].
///
/// Values get names of their own (`t0`, `t1`, …: neutral, lower-case, never an op's name, since
/// some compilers mistake those, rule ANE-043); [`Builder::name`] gives one that people and ports
/// know it by.
#[derive(Debug)]
pub struct Builder {
    element: Element,
    values: Vec<ValueInfo>,
    /// Whether the name was made up by the builder.
    auto_named: Vec<bool>,
    names: HashSet<String>,
    reserved: HashSet<String>,
    next_name: usize,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    inouts: Vec<(ValueId, ValueId)>,
    stmts: Vec<Stmt>,
    scope: Scope,
    scalars: HashMap<u32, ValueId>,
}

impl Builder {
    /// An empty program for `element`.
    pub fn new(element: Element) -> Self {
        Builder {
            element,
            values: Vec::new(),
            auto_named: Vec::new(),
            names: HashSet::new(),
            reserved: HashSet::new(),
            next_name: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            inouts: Vec::new(),
            stmts: Vec::new(),
            scope: Scope::default(),
            scalars: HashMap::new(),
        }
    }

    /// Goes on building a finished program: more statements, more outputs.
    pub fn from_program(program: Program) -> Self {
        let Program { element, values, inputs, outputs, inouts, stmts } = program;
        Builder {
            element,
            auto_named: vec![false; values.len()],
            names: values.iter().map(|v| v.name.clone()).collect(),
            values,
            inputs,
            outputs,
            inouts,
            stmts,
            ..Builder::new(element)
        }
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(|at| ValueId(at as u32))
    }

    /// The float type that is being built for.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// The shape of a value.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.values[id.index()].ty.shape
    }

    // Ports.

    /// Declares an input port of the program's float type.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Result<ValueId> {
        self.typed_input(name, TensorType::new(self.element.dtype(), shape))
    }

    /// Declares an input port of any type.
    ///
    /// # Errors
    /// When the name is taken, or the tensor has no elements or more than memory can.
    pub fn typed_input(&mut self, name: &str, ty: TensorType) -> Result<ValueId> {
        if self.names.contains(name) {
            return Err(Error::program(format!("input `{name}`: the name is taken")));
        }
        extents(&ty).map_err(|problem| Error::program(format!("input `{name}` is {ty}: {problem}")))?;
        let id = self.value(Some(name), ty);
        self.inputs.push(id);
        Ok(id)
    }

    /// Makes `value` the output port `name`.
    ///
    /// A value that already has a name people know it by (an input, another output) gets a copy,
    /// a product with 1: a program whose output is its input cannot be compiled (rule ANE-071).
    ///
    /// # Errors
    /// When the name is taken by another value, or the value is not a float.
    pub fn output(&mut self, name: &str, value: ValueId) -> Result<()> {
        let mut value = value;
        let is_port = self.inputs.contains(&value) || self.outputs.contains(&value);
        let named = self.values[value.index()].name == name;
        if is_port && named && !self.inputs.contains(&value) {
            return Err(Error::program(format!("output `{name}` is declared twice")));
        }
        if is_port || (!named && !self.auto_named[value.index()]) {
            value = self.scale(value, 1.0)?;
        }
        self.name(value, name)?;
        self.outputs.push(value);
        Ok(())
    }

    /// Declares that the buffer of input `input` may also be that of output `output`.
    ///
    /// # Errors
    /// When there are no such ports, or their types differ.
    pub fn inout(&mut self, input: &str, output: &str) -> Result<()> {
        let find = |ids: &[ValueId], name: &str| {
            ids.iter()
                .copied()
                .find(|id| self.values[id.index()].name == name)
                .ok_or_else(|| Error::program(format!("inout: there is no port `{name}`")))
        };
        let pair = (find(&self.inputs, input)?, find(&self.outputs, output)?);
        if self.ty(pair.0) != self.ty(pair.1) {
            return Err(Error::program(format!(
                "inout: `{input}` is {}, `{output}` is {}; they must be equal",
                self.ty(pair.0),
                self.ty(pair.1)
            )));
        }
        self.inouts.push(pair);
        Ok(())
    }

    /// Takes the output port `name` back: its value stays, under a name that nobody knows it by.
    ///
    /// # Errors
    /// When there is no such output.
    pub fn withdraw(&mut self, name: &str) -> Result<ValueId> {
        let Some(at) = self.outputs.iter().position(|id| self.values[id.index()].name == name) else {
            return Err(Error::program(format!("withdraw: there is no output `{name}`")));
        };
        let value = self.outputs.remove(at);
        let fresh = self.fresh_name();
        self.name(value, &fresh)?;
        self.auto_named[value.index()] = true;
        Ok(value)
    }

    // Names and scopes.

    /// Gives `value` the name that it keeps in text and as a port.
    ///
    /// # Errors
    /// When another value has it.
    pub fn name(&mut self, value: ValueId, name: &str) -> Result<ValueId> {
        let old = &self.values[value.index()].name;
        if old != name {
            if self.names.contains(name) {
                return Err(Error::program(format!("the name `{name}` is taken")));
            }
            self.names.remove(old);
            self.names.insert(name.to_owned());
            self.values[value.index()].name = name.to_owned();
        }
        self.auto_named[value.index()] = false;
        Ok(value)
    }

    /// Names `value` unless it or the name is already spoken for.
    pub(crate) fn name_unless_named(&mut self, value: ValueId, name: &str) {
        if self.auto_named[value.index()] && !self.names.contains(name) {
            self.name(value, name).expect("the name is free");
        }
    }

    /// Keeps the builder from making up `name`.
    pub(crate) fn reserve_name(&mut self, name: &str) {
        self.reserved.insert(name.to_owned());
    }

    /// Statements built by `build` belong to the part of the model called `name`.
    pub fn in_scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let inner = Scope { name: name.into(), backward: self.scope.backward };
        let outer = std::mem::replace(&mut self.scope, inner);
        let result = build(self);
        self.scope = outer;
        result
    }

    /// As [`Builder::in_scope`], for statements that belong to the backward pass.
    pub fn in_backward_scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let inner = Scope { name: name.into(), backward: true };
        let outer = std::mem::replace(&mut self.scope, inner);
        let result = build(self);
        self.scope = outer;
        result
    }

    pub(crate) fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    // Statements.

    /// Applies `op` to `args`.
    ///
    /// # Errors
    /// [`Error::Op`] when the op does not accept them.
    pub fn push(&mut self, op: Op, args: &[ValueId]) -> Result<Vec<ValueId>> {
        let types: Vec<&TensorType> = args.iter().map(|a| self.ty(*a)).collect();
        let op = op.rounded(self.element);
        for ty in &types {
            extents(ty).map_err(|problem| Error::op(op.name(), format!("an operand is {ty}: {problem}")))?;
        }
        let inferred = op.infer(self.element, &types)?;
        // A constant is there already; who reads it is told.
        for ty in inferred.iter().filter(|_| !matches!(op, Op::Const(_))) {
            extents(ty).map_err(|problem| Error::op(op.name(), format!("the result is {ty}: {problem}")))?;
        }
        let results: Vec<ValueId> = inferred.into_iter().map(|ty| self.value(None, ty)).collect();
        self.stmts.push(Stmt {
            op,
            args: args.to_vec(),
            results: results.clone(),
            scope: self.scope.clone(),
        });
        Ok(results)
    }

    /// Applies an op with one result.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn push1(&mut self, op: Op, args: &[ValueId]) -> Result<ValueId> {
        Ok(self.push(op, args)?[0])
    }

    fn fresh_name(&mut self) -> String {
        loop {
            let name = format!("t{}", self.next_name);
            self.next_name += 1;
            if !self.names.contains(&name) && !self.reserved.contains(&name) {
                return name;
            }
        }
    }

    fn value(&mut self, name: Option<&str>, ty: TensorType) -> ValueId {
        let auto = name.is_none();
        let name = name.map_or_else(|| self.fresh_name(), str::to_owned);
        self.names.insert(name.clone());
        self.values.push(ValueInfo { name, ty });
        self.auto_named.push(auto);
        ValueId(self.values.len() as u32 - 1)
    }

    // Constants.

    /// A tensor known now.
    pub fn constant(&mut self, constant: Constant) -> ValueId {
        self.push1(Op::Const(constant), &[]).expect("a constant is always well-typed")
    }

    /// A scalar of the program's float type; the same one for the same value.
    pub fn scalar(&mut self, value: f32) -> ValueId {
        let value = self.element.round(value);
        if let Some(id) = self.scalars.get(&value.to_bits()) {
            return *id;
        }
        let id = self.constant(Constant::float(self.element, &[], [value]));
        self.scalars.insert(value.to_bits(), id);
        id
    }

    /// A tensor of `shape` with the same value everywhere.
    pub fn full(&mut self, shape: &[usize], value: f32) -> ValueId {
        let count = shape.iter().product();
        self.constant(Constant::float(self.element, shape, std::iter::repeat_n(value, count)))
    }

    /// Whether `value` is a constant of nothing but ones.
    pub(crate) fn is_ones(&self, value: ValueId) -> bool {
        let made = self.stmts.iter().find(|stmt| stmt.results.contains(&value));
        match made.map(|stmt| &stmt.op) {
            Some(Op::Const(Constant { data: ConstData::Float(values), .. })) => {
                values.iter().all(|value| *value == 1.0)
            }
            _ => false,
        }
    }

    /// An integer tensor of rank 1.
    pub fn ints(&mut self, values: &[i32]) -> ValueId {
        let ty = TensorType::new(DType::I32, &[values.len()]);
        self.constant(Constant { ty, data: ConstData::Int(values.into()) })
    }

    // The ops that composites, gradients and layers use most.

    /// `x + y`, shapes broadcast.
    pub fn add(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.push1(Op::Add, &[x, y])
    }

    /// `x - y`, shapes broadcast.
    pub fn sub(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.push1(Op::Sub, &[x, y])
    }

    /// `x * y`, shapes broadcast.
    pub fn mul(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.push1(Op::Mul, &[x, y])
    }

    /// `x / y`, shapes broadcast.
    pub fn real_div(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.push1(Op::RealDiv, &[x, y])
    }

    /// `x * factor`.
    pub fn scale(&mut self, x: ValueId, factor: f32) -> Result<ValueId> {
        let factor = self.scalar(factor);
        self.mul(x, factor)
    }

    /// e to the power of x.
    pub fn exp(&mut self, x: ValueId) -> Result<ValueId> {
        self.push1(Op::Exp, &[x])
    }

    /// Zeros of the type and shape of `x`, as `x - x`: a full tensor that need not be stored. An infinite
    /// element gives NaN.
    pub fn zeros_like(&mut self, x: ValueId) -> Result<ValueId> {
        self.sub(x, x)
    }

    /// `a` where `cond` holds, else `b`. Shapes broadcast, but a program for Apple's routes gives all
    /// three the same: coremltools infers the result from `a` and `b` alone, and Espresso was seen to
    /// refuse a narrower one (`PropagateInputTensorShapes … select: Incompatible Shape`, M4, onnxsim).
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push1(Op::Select, &[cond, a, b])
    }

    /// Matrix product, see [`Op::Matmul`].
    pub fn matmul(
        &mut self,
        x: ValueId,
        y: ValueId,
        transpose_x: bool,
        transpose_y: bool,
    ) -> Result<ValueId> {
        self.push1(Op::Matmul { transpose_x, transpose_y }, &[x, y])
    }

    /// A product with a matrix as a 1x1 convolution: x `[B, I, H, W]`, weight `[O, I, 1, 1]` -> `[B, O, H, W]`.
    ///
    /// # Errors
    /// [`Error::Op`](crate::Error::Op) when the shapes do not fit.
    pub fn pointwise_conv(&mut self, x: ValueId, weight: ValueId) -> Result<ValueId> {
        let conv = Op::Conv {
            strides: vec![1, 1],
            pad_type: PadType::Valid,
            pad: vec![0; 4],
            dilations: vec![1, 1],
            groups: 1,
        };
        self.push1(conv, &[x, weight])
    }

    /// The same elements in `shape`; nothing when it has that shape already.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.push1(Op::Reshape { shape: ints(shape) }, &[x])
    }

    /// Axes in another order: result axis i is axis `perm[i]` of x.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        self.push1(Op::Transpose { perm: ints(perm) }, &[x])
    }

    /// The box of `size` that begins at `begin`.
    pub fn slice(&mut self, x: ValueId, begin: &[usize], size: &[usize]) -> Result<ValueId> {
        self.push1(Op::SliceBySize { begin: ints(begin), size: ints(size) }, &[x])
    }

    /// Tensors joined along `axis`.
    pub fn concat(&mut self, values: &[ValueId], axis: usize) -> Result<ValueId> {
        self.push1(Op::Concat { axis: axis as i32, interleave: false }, values)
    }

    /// The sum along `axis`, which stays with extent 1, accurate on every device: `reduce_sum` up
    /// to [`REDUCE_SUM_MAX`] elements, a product with ones beyond.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn wide_sum(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        self.weighted_sum(x, axis, 1.0)
    }

    /// The sum along `axis` of `x * weight`, the axis stays with extent 1. See
    /// [`Builder::wide_sum`]; the weight goes into the product with ones, so that the sum itself
    /// stays in range.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn weighted_sum(&mut self, x: ValueId, axis: usize, weight: f32) -> Result<ValueId> {
        let shape = self.shape(x).to_vec();
        let extent = shape[axis];
        if extent <= REDUCE_SUM_MAX && weight == 1.0 {
            return self.push1(Op::ReduceSum { axes: vec![axis as i32], keep_dims: true }, &[x]);
        }
        let outer: usize = shape[..axis].iter().product();
        let inner: usize = shape[axis + 1..].iter().product();
        let sum = if inner == 1 {
            // Rows times a column of ones: [1, 1, outer, extent] x [1, 1, extent, 1].
            let rows = self.reshape(x, &[1, 1, outer, extent])?;
            let ones = self.full(&[1, 1, extent, 1], weight);
            self.matmul(rows, ones, false, false)?
        } else {
            // A row of ones times columns: [1, 1, 1, extent] x [1, outer, extent, inner].
            let columns = self.reshape(x, &[1, outer, extent, inner])?;
            let ones = self.full(&[1, 1, 1, extent], weight);
            self.matmul(ones, columns, false, false)?
        };
        let mut kept = shape;
        kept[axis] = 1;
        self.reshape(sum, &kept)
    }

    /// Sums `x` back to `shape`, from which it was broadcast.
    ///
    /// # Errors
    /// As [`Builder::push`].
    pub fn sum_to(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        let mut x = x;
        let extra = self.shape(x).len() - shape.len();
        for axis in (0..self.shape(x).len()).rev() {
            let wanted = if axis < extra { 1 } else { shape[axis - extra] };
            if self.shape(x)[axis] != wanted {
                x = self.wide_sum(x, axis)?;
            }
        }
        self.reshape(x, shape)
    }

    /// The finished program, without statements that no output needs.
    ///
    /// # Errors
    /// When it has no output.
    pub fn finish(self) -> Result<Program> {
        if self.outputs.is_empty() {
            return Err(Error::program("it has no output"));
        }
        let program = Program {
            element: self.element,
            values: self.values,
            inputs: self.inputs,
            outputs: self.outputs,
            inouts: self.inouts,
            stmts: self.stmts,
        };
        let program = program.without_dead_code();
        debug_assert_eq!(program.verify(), Ok(()));
        Ok(program)
    }
}

fn ints(values: &[usize]) -> Vec<i32> {
    values.iter().map(|v| i32::try_from(*v).expect("an axis is shorter than 2^31")).collect()
}

/// Whether a tensor has elements at all, and no more of them than memory can hold: shape rules and
/// kernels divide by extents and multiply them.
pub(crate) fn extents(ty: &TensorType) -> std::result::Result<(), &'static str> {
    if ty.shape.contains(&0) {
        return Err("an axis of no elements");
    }
    let bytes = ty.shape.iter().try_fold(size_of::<f32>(), |bytes, extent| bytes.checked_mul(*extent));
    match bytes {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err("more elements than memory can hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_was_withdrawn_may_be_built_upon() {
        let mut b = Builder::new(Element::F32);
        let x = b.input("x", &[2, 3]).unwrap();
        let share = b.exp(x).unwrap();
        b.output("d_x", share).unwrap();
        let share = b.withdraw("d_x").unwrap();
        let sum = b.add(share, x).unwrap();
        b.output("d_x", sum).unwrap();
        let program = b.finish().unwrap();
        program.verify().unwrap();
        assert_eq!(program.outputs().len(), 1);
        let ops: Vec<&str> = program.stmts().iter().map(|stmt| stmt.op.name()).collect();
        assert_eq!(ops, ["exp", "add"]);
        let error = Builder::new(Element::F32).withdraw("y").unwrap_err().to_string();
        assert!(error.contains("there is no output `y`"), "{error}");
    }
}

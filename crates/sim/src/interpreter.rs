//! Walking a program.

use std::collections::BTreeMap;
use std::sync::Arc;

use mil::{DType, Element, Op, Program, Stmt, TensorType, ValueId};

use crate::profile::Profile;
use crate::tensor::{Data, Floats, Pool, Value};
use crate::{conv, elementwise, matmul, movement, reduce, softmax};

/// Why a program cannot be interpreted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The program is not sound.
    #[error(transparent)]
    Program(#[from] mil::Error),
    /// A tensor is larger than the chip of the profile allows.
    #[error("{op}: `{value}` is {ty}; axis {axis} has {extent} elements, {profile} allows {limit}")]
    Axis {
        /// The op that makes the value, or `input`.
        op: &'static str,
        /// The value's name.
        value: String,
        /// Its type.
        ty: TensorType,
        /// The axis, counted from 0.
        axis: usize,
        /// Its extent.
        extent: usize,
        /// The profile's name.
        profile: &'static str,
        /// The longest that the axis may be.
        limit: usize,
    },
    /// Inputs that do not fit the ports.
    #[error("input `{port}`: {problem}")]
    Input {
        /// The port's name.
        port: String,
        /// What was given, what was expected.
        problem: String,
    },
}

/// What the arithmetic needs beside its operands.
pub(crate) struct Machine<'m> {
    pub(crate) profile: &'m Profile,
    pub(crate) pool: &'m Pool,
}

/// A program prepared to run under a profile: composites expanded, constants laid out, and the last
/// use of every value known.
pub struct Interpreter {
    program: Program,
    profile: Profile,
    /// By value; `None` for what a run computes.
    constants: Vec<Option<Data<'static>>>,
    /// By statement, the values that nothing needs after it.
    last_uses: Vec<Vec<ValueId>>,
    pool: Arc<Pool>,
}

impl Interpreter {
    /// Prepares `program`, which may contain composites.
    ///
    /// # Errors
    /// [`Error::Program`] when it is not sound, [`Error::Axis`] when a tensor is larger than the
    /// profile's chip allows.
    pub fn new(program: &Program, profile: &Profile) -> Result<Self, Error> {
        Interpreter::with_pool(program, profile, Arc::default())
    }

    pub(crate) fn with_pool(program: &Program, profile: &Profile, pool: Arc<Pool>) -> Result<Self, Error> {
        let program = program.expand_all()?;
        program.verify()?;
        check_axes(&program, profile)?;
        let mut constants: Vec<Option<Data<'static>>> = vec![None; program.values().len()];
        for stmt in program.stmts() {
            if let Op::Const(constant) = &stmt.op {
                constants[stmt.results[0].index()] = Some(Data::constant(constant));
            }
        }
        let last_uses = last_uses(&program);
        Ok(Interpreter { program, profile: profile.clone(), constants, last_uses, pool })
    }

    /// The program as it runs: primitive ops only.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The arithmetic that it runs with.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Runs on `inputs`, row-major and in the order of the program's input ports, and returns the
    /// outputs in the order of its output ports. Values of an `fp16` port are rounded first; ports
    /// of integers and truth values take and give numbers.
    ///
    /// # Errors
    /// [`Error::Input`] when the number of inputs or the length of one is wrong.
    pub fn run(&self, inputs: &[&[f32]]) -> Result<Vec<Vec<f32>>, Error> {
        let ports = self.program.inputs();
        if inputs.len() != ports.len() {
            let names: Vec<&str> = ports.iter().map(|id| self.name(*id)).collect();
            return Err(Error::Input {
                port: names.join(", "),
                problem: format!("{} inputs were given", inputs.len()),
            });
        }
        let mut values = Vec::with_capacity(inputs.len());
        for (id, input) in ports.iter().zip(inputs) {
            let ty = self.program.ty(*id);
            if input.len() != ty.numel() {
                return Err(Error::Input {
                    port: self.name(*id).to_owned(),
                    problem: format!(
                        "it is {ty}, which has {} elements; {} were given",
                        ty.numel(),
                        input.len()
                    ),
                });
            }
            values.push(match ty.dtype {
                DType::F16 => {
                    // The pool gets it back when it was read for the last time.
                    let mut rounded = self.pool.take(input.len());
                    rounded.copy_from_slice(input);
                    Element::F16.round_all(&mut rounded);
                    Data::float(rounded)
                }
                DType::F32 => Data::Float(Floats::Borrowed(input)),
                DType::I32 => Data::int(input.iter().map(|v| *v as i32).collect()),
                // Towards zero and within its range, as `as` does.
                DType::I8 => Data::int(input.iter().map(|v| i32::from(*v as i8)).collect()),
                DType::Bool => Data::bool(input.iter().map(|v| *v != 0.0).collect()),
                DType::Str => {
                    return Err(Error::Input {
                        port: self.name(*id).to_owned(),
                        problem: "a string cannot be given".to_owned(),
                    });
                }
            });
        }
        let outputs = self.execute(values);
        Ok(outputs.into_iter().map(Data::into_numbers).collect())
    }

    fn name(&self, id: ValueId) -> &str {
        &self.program.value(id).name
    }

    /// Runs on inputs that fit the ports.
    pub(crate) fn execute<'a>(&'a self, inputs: Vec<Data<'a>>) -> Vec<Data<'a>> {
        // Inside a task of the thread pool, so that no op has to enter it from outside.
        let mut outputs = Vec::new();
        rayon::scope(|_| outputs = self.walk(inputs));
        outputs
    }

    fn walk<'a>(&'a self, inputs: Vec<Data<'a>>) -> Vec<Data<'a>> {
        let program = &self.program;
        let machine = Machine { profile: &self.profile, pool: &self.pool };
        let mut values: Vec<Option<Value<'a>>> = vec![None; program.values().len()];
        let constants = self.constants.iter().enumerate();
        for (index, constant) in constants.filter_map(|(i, c)| Some((i, c.as_ref()?))) {
            values[index] = Some(Value { ty: &program.values()[index].ty, data: constant.clone() });
        }
        for (id, data) in program.inputs().iter().zip(inputs) {
            values[id.index()] = Some(Value { ty: program.ty(*id), data });
        }
        for (stmt, last_uses) in program.stmts().iter().zip(&self.last_uses) {
            if !matches!(stmt.op, Op::Const(_)) {
                let args: Vec<&Value<'a>> = stmt
                    .args
                    .iter()
                    .map(|id| values[id.index()].as_ref().expect("computed and still needed"))
                    .collect();
                let ty = program.ty(stmt.results[0]);
                let results = evaluate(&machine, &stmt.op, ty, &args);
                for (id, data) in stmt.results.iter().zip(results) {
                    values[id.index()] = Some(Value { ty: program.ty(*id), data });
                }
            }
            for id in last_uses {
                if let Some(value) = values[id.index()].take() {
                    self.pool.recycle(value.data);
                }
            }
        }
        let outputs = program.outputs().iter();
        outputs.map(|id| values[id.index()].take().expect("outputs are kept").data).collect()
    }
}

/// What each op means. Every op is listed, so that one without semantics does not compile.
///
/// * `ty`: the type of the (first) result
fn evaluate<'a>(m: &Machine, op: &Op, ty: &TensorType, args: &[&Value<'a>]) -> Vec<Data<'a>> {
    use elementwise::{binary, compare, unary, unary_numeric};
    let x = args.first().copied();
    let x = || x.expect("every op but const has an operand");
    let result = match op {
        Op::Const(_) => unreachable!("constants are prepared before a run"),

        Op::Add => binary(m, ty, args, |x, y| x + y, i32::wrapping_add),
        Op::Sub => binary(m, ty, args, |x, y| x - y, i32::wrapping_sub),
        Op::Mul => binary(m, ty, args, |x, y| x * y, i32::wrapping_mul),
        Op::RealDiv => binary(m, ty, args, |x, y| x / y, elementwise::int_div),
        Op::Maximum => binary(m, ty, args, elementwise::maximum, i32::max),
        Op::Minimum => binary(m, ty, args, elementwise::minimum, i32::min),
        Op::Pow => binary(m, ty, args, elementwise::pow, elementwise::int_pow),
        Op::Equal => compare(ty, args, |x, y| x == y, |x, y| x == y),
        Op::NotEqual => compare(ty, args, |x, y| x != y, |x, y| x != y),
        Op::Greater => compare(ty, args, |x, y| x > y, |x, y| x > y),
        Op::GreaterEqual => compare(ty, args, |x, y| x >= y, |x, y| x >= y),
        Op::Less => compare(ty, args, |x, y| x < y, |x, y| x < y),
        Op::LessEqual => compare(ty, args, |x, y| x <= y, |x, y| x <= y),
        Op::Select => elementwise::select(m, ty, args),

        Op::Exp => unary(m, ty, x(), f32::exp),
        Op::Log { epsilon } => {
            let epsilon = attribute(ty, *epsilon);
            unary(m, ty, x(), |x| (x + epsilon).ln())
        }
        Op::Sqrt => unary(m, ty, x(), f32::sqrt),
        Op::Rsqrt { epsilon } => {
            let epsilon = attribute(ty, *epsilon);
            unary(m, ty, x(), |x| elementwise::rsqrt(x + epsilon))
        }
        Op::Tanh => unary(m, ty, x(), f32::tanh),
        Op::Sigmoid => unary(m, ty, x(), elementwise::sigmoid),
        Op::Silu => unary(m, ty, x(), elementwise::silu),
        Op::Relu => unary_numeric(m, ty, x(), elementwise::relu, |x| x.max(0)),
        Op::Abs => unary_numeric(m, ty, x(), f32::abs, i32::wrapping_abs),
        Op::Erf => unary(m, ty, x(), libm::erff),
        Op::Gelu { mode } => unary(m, ty, x(), |x| elementwise::gelu(*mode, x)),
        Op::Square => unary_numeric(m, ty, x(), |x| x * x, |x| x.wrapping_mul(x)),
        Op::Cast { .. } => elementwise::cast(m, ty, x()),
        Op::Quantize { .. } => elementwise::quantize(args),
        Op::Dequantize => elementwise::dequantize(m, ty, args),

        Op::Matmul { transpose_x, transpose_y } => matmul::matmul(m, ty, args, *transpose_x, *transpose_y),
        Op::Conv { .. } => conv::conv(m, op, ty, args),

        Op::Softmax { axis } => softmax::softmax(m, ty, x(), *axis),
        Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => reduce::reduce(m, op, ty, x()),

        Op::Reshape { .. } => movement::reshape(x()),
        Op::Transpose { perm } => movement::transpose(m, ty, x(), perm),
        Op::SliceBySize { .. } => movement::slice_by_size(m, op, ty, x()),
        Op::Concat { axis, .. } => movement::concat(m, ty, args, *axis),
        Op::Split { num_splits, axis } => {
            return movement::split(m, ty, x(), *num_splits as usize, *axis);
        }

        Op::RmsNorm { .. }
        | Op::RmsNormGrad { .. }
        | Op::Rope { .. }
        | Op::Attention { .. }
        | Op::AttentionGrad { .. }
        | Op::CrossEntropyStats { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::CrossEntropy { .. } => unreachable!("{} is expanded before a run", op.name()),
    };
    vec![result]
}

/// A float attribute as a program of `ty`'s element type holds it.
fn attribute(ty: &TensorType, value: f32) -> f32 {
    match ty.dtype {
        DType::F16 => Element::F16.round(value),
        _ => value,
    }
}

/// For each statement the values that are read there for the last time, or never.
fn last_uses(program: &Program) -> Vec<Vec<ValueId>> {
    let mut needed = vec![false; program.values().len()];
    program.outputs().iter().for_each(|id| needed[id.index()] = true);
    let ending = |stmt: &Stmt| -> Vec<ValueId> {
        let mut ending = Vec::new();
        for id in stmt.args.iter().chain(&stmt.results) {
            if !std::mem::replace(&mut needed[id.index()], true) {
                ending.push(*id);
            }
        }
        ending
    };
    let mut uses: Vec<Vec<ValueId>> = program.stmts().iter().rev().map(ending).collect();
    uses.reverse();
    uses
}

fn check_axes(program: &Program, profile: &Profile) -> Result<(), Error> {
    let inputs = program.inputs().iter().map(|id| ("input", *id));
    let results = program.stmts().iter().flat_map(|stmt| {
        let name = stmt.op.name();
        stmt.results.iter().map(move |id| (name, *id))
    });
    for (op, id) in inputs.chain(results) {
        let info = program.value(id);
        for (axis, extent) in info.ty.shape.iter().copied().enumerate() {
            let limit = profile.axis_limit(info.ty.rank(), axis);
            if extent > limit {
                return Err(Error::Axis {
                    op,
                    value: info.name.clone(),
                    ty: info.ty.clone(),
                    axis,
                    extent,
                    profile: profile.name,
                    limit,
                });
            }
        }
    }
    Ok(())
}

/// Runs `program` once on `inputs` by port name and returns its outputs by port name.
///
/// # Errors
/// As [`Interpreter::new`] and [`Interpreter::run`]; [`Error::Input`] when an input is missing or
/// no port has its name.
pub fn run(
    program: &Program,
    profile: &Profile,
    inputs: &[(&str, &[f32])],
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let interpreter = Interpreter::new(program, profile)?;
    let program = interpreter.program();
    let wrong =
        |port: &str, problem: &str| Error::Input { port: port.to_owned(), problem: problem.to_owned() };
    if let Some((name, _)) = inputs.iter().find(|(name, _)| program.input(name).is_none()) {
        return Err(wrong(name, "the program has no such port"));
    }
    let mut ordered = Vec::new();
    for id in program.inputs() {
        let name = interpreter.name(*id);
        let given = inputs.iter().find(|(given, _)| *given == name);
        ordered.push(given.ok_or_else(|| wrong(name, "it is not given"))?.1);
    }
    let outputs = interpreter.run(&ordered)?;
    let names = program.outputs().iter().map(|id| interpreter.name(*id).to_owned());
    Ok(names.zip(outputs).collect())
}

#[cfg(test)]
mod tests {
    use mil::{Builder, DType};

    use super::*;

    /// A program that runs ten thousand times must not take ten thousand times the memory: inputs, results of other
    /// types and outputs come and go.
    #[test]
    fn runs_keep_no_memory() {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 64]).unwrap();
        let w = b.input("w", &[1, 128]).unwrap();
        let whole = b.push1(Op::Cast { dtype: DType::I32 }, &[x]).unwrap();
        let half = b.push1(Op::Cast { dtype: DType::F16 }, &[whole]).unwrap();
        let sum = b.add(x, half).unwrap();
        let both = b.concat(&[sum, half], 1).unwrap();
        let y = b.mul(both, w).unwrap();
        b.output("y", y).unwrap();
        let interpreter = Interpreter::new(&b.finish().unwrap(), &Profile::m4()).unwrap();
        let run = || interpreter.run(&[&[1.5; 64], &[2.0; 128]]).unwrap();
        run();
        run();
        let kept = interpreter.pool.kept();
        for _ in 0..20 {
            run();
        }
        assert_eq!(interpreter.pool.kept(), kept);
    }
}

//! From a program to a list of steps over planned memory.
//!
//! * Constants are tables; a scalar constant is a number inside a pass.
//! * `reshape`, `transpose`, `slice_by_size` and `split` are views. Matrix products take strides, so
//!   a transpose in front of one costs nothing; other kernels get a dense copy of a strided view.
//! * Elementwise statements run in fused passes ([`groups`]).
//! * Composites run their own kernels.
//! * A value that is an output port is computed in the port's buffer. Every other value gets a
//!   place in one arena, shared by values that are not alive at the same time.
//!
//! A plan holds no memory of its own but constants; [`Plan::run`] is given the rest.

mod arena;
mod emit;
pub(crate) mod groups;
pub(crate) mod memory;
mod pass;
pub(crate) mod view;

use std::collections::HashMap;

use mil::{DType, Op, Program, Stmt, ValueId};

use crate::pool::Pool;
use crate::{Precision, Write};
use groups::Groups;
use memory::{Memory, Storage, StorageId};
use view::View;

/// A kernel with its views and shapes, waiting for memory.
type Kernel = Box<dyn Fn(&Pool, &Memory) + Send + Sync>;

/// One kernel call.
pub(crate) struct Step {
    /// The op, or the ops of a fused pass.
    pub(crate) label: String,
    /// Floating-point operations of matrix products; 0 for everything else.
    pub(crate) flops: f64,
    pub(crate) reads: Vec<StorageId>,
    pub(crate) writes: Vec<StorageId>,
    /// Which of `reads` it reads in bf16.
    pub(crate) reads_rounded: Option<StorageId>,
    pub(crate) run: Kernel,
}

/// A program made ready for the host's cores.
pub(crate) struct Plan {
    pub(crate) storages: Vec<Storage>,
    pub(crate) steps: Vec<Step>,
    /// Elements of the arena.
    pub(crate) arena_len: usize,
    /// For each output port whether a step also reads its buffer.
    pub(crate) output_is_read: Vec<bool>,
    /// For each input port whether a step wants it in bf16.
    pub(crate) input_is_rounded: Vec<bool>,
}

/// What planning knows while it goes through the program.
pub(crate) struct Planner<'a> {
    program: &'a Program,
    precision: Precision,
    producers: Vec<Option<usize>>,
    groups: Groups,
    storages: Vec<Storage>,
    steps: Vec<Step>,
    input_is_rounded: Vec<bool>,
    /// Views of the values computed so far.
    views: Vec<Option<View>>,
    emitted: Vec<bool>,
    /// For a value, the output port in whose buffer it is to be computed.
    homes: HashMap<ValueId, usize>,
    /// Statements that read a value, and outputs that are it.
    uses: Vec<Vec<usize>>,
}

impl Step {
    /// The bytes that it moves at the least.
    pub(crate) fn bytes(&self, memory: &Memory) -> f64 {
        let read = self.reads.iter().map(|id| match memory.rounded(*id) {
            Some(values) if self.reads_rounded == Some(*id) => size_of_val(values),
            _ => memory.len(*id) * size_of::<f32>(),
        });
        let written = self.writes.iter().map(|id| match memory.mode(*id) {
            Write::Store => memory.len(*id),
            Write::Accumulate => 2 * memory.len(*id),
        });
        (read.sum::<usize>() + written.sum::<usize>() * size_of::<f32>()) as f64
    }
}

impl Plan {
    /// Plans `program`, with matrix products in `precision`.
    ///
    /// # Errors
    /// What the planner cannot carry out, naming the op.
    pub(crate) fn new(program: &Program, precision: Precision) -> Result<Plan, String> {
        if let Some(stmt) = program.stmts().iter().find(|stmt| !in_f32(program, stmt)) {
            let (result, op) = (program.value(stmt.results[0]), stmt.op.name());
            return Err(format!(
                "`{}` = {op} is {}; the kernels here compute in f32, so of other numbers they only cast, \
                 compare, choose and move: cast to fp32 first, or run it on sim",
                result.name, result.ty
            ));
        }
        let mut planner = Planner::new(program, precision);
        for index in 0..program.stmts().len() {
            planner.emit_statement(index)?;
        }
        planner.emit_outputs();
        let Planner { mut storages, steps, input_is_rounded, .. } = planner;
        let arena_len = arena::place(&mut storages, &steps);
        let output_is_read = (0..program.outputs().len())
            .map(|port| {
                let is_it = |id: &StorageId| matches!(storages[id.0], Storage::Output(at) if at == port);
                steps.iter().any(|step| step.reads.iter().any(is_it))
            })
            .collect();
        Ok(Plan { storages, steps, arena_len, output_is_read, input_is_rounded })
    }

    /// Runs all steps; `step` is called around each, for whoever measures.
    pub(crate) fn run(&self, pool: &Pool, memory: &Memory, mut step: impl FnMut(usize, &mut dyn FnMut())) {
        for (index, planned) in self.steps.iter().enumerate() {
            step(index, &mut || (planned.run)(pool, memory));
        }
    }
}

impl<'a> Planner<'a> {
    fn new(program: &'a Program, precision: Precision) -> Planner<'a> {
        let count = program.values().len();
        let mut uses = vec![Vec::new(); count];
        for (index, stmt) in program.stmts().iter().enumerate() {
            stmt.args.iter().for_each(|arg| uses[arg.index()].push(index));
        }
        let mut planner = Planner {
            program,
            precision,
            producers: program.producers(),
            groups: Groups::of(program),
            storages: Vec::new(),
            steps: Vec::new(),
            input_is_rounded: vec![false; program.inputs().len()],
            views: vec![None; count],
            emitted: vec![false; program.stmts().len()],
            homes: HashMap::new(),
            uses,
        };
        for (port, id) in program.inputs().iter().enumerate() {
            let storage = planner.add(Storage::Input(port));
            planner.views[id.index()] = Some(View::dense(storage, &program.ty(*id).shape));
        }
        // A value reaches its port through any number of reshapes, which move nothing.
        for (port, id) in program.outputs().iter().enumerate() {
            let mut at = *id;
            while let Some(producer) = planner.producers[at.index()]
                && matches!(program.stmts()[producer].op, Op::Reshape { .. })
            {
                at = program.stmts()[producer].args[0];
            }
            let is_computed = planner.producers[at.index()].is_some_and(|p| computes(&program.stmts()[p].op));
            if is_computed {
                planner.homes.entry(at).or_insert(port);
            }
        }
        planner
    }

    fn add(&mut self, storage: Storage) -> StorageId {
        self.storages.push(storage);
        StorageId(self.storages.len() - 1)
    }

    fn temp(&mut self, len: usize) -> StorageId {
        self.add(Storage::Temp { offset: 0, len })
    }

    /// Where `value` is to be computed: its port's buffer or a new place in the arena; sets its view.
    fn place(&mut self, value: ValueId) -> StorageId {
        let shape = self.program.ty(value).shape.clone();
        let storage = match self.homes.get(&value) {
            Some(port) => self.add(Storage::Output(*port)),
            None => self.temp(shape.iter().product()),
        };
        self.views[value.index()] = Some(View::dense(storage, &shape));
        storage
    }

    fn step(
        &mut self,
        label: impl Into<String>,
        flops: f64,
        reads: &[StorageId],
        writes: &[StorageId],
        run: impl Fn(&Pool, &Memory) + Send + Sync + 'static,
    ) {
        let (mut reads, writes) = (reads.to_vec(), writes.to_vec());
        reads.sort_unstable();
        reads.dedup();
        debug_assert!(writes.iter().all(|w| !reads.contains(w)), "a step does not write what it reads");
        self.steps.push(Step {
            label: label.into(),
            flops,
            reads,
            writes,
            reads_rounded: None,
            run: Box::new(run),
        });
    }

    /// The view of a value, computing it first where that has not happened yet.
    fn view(&mut self, value: ValueId) -> Result<View, String> {
        if self.views[value.index()].is_none() {
            let producer = self.producers[value.index()].expect("inputs have views from the start");
            self.emit_statement(producer)?;
        }
        Ok(self.views[value.index()].clone().expect("a statement sets the views of its results"))
    }

    /// The whole value, dense and at the start of a storage: what most kernels need.
    fn dense(&mut self, value: ValueId) -> Result<StorageId, String> {
        let view = self.view(value)?;
        if self.is_whole(&view) {
            return Ok(view.storage);
        }
        let storage = self.copied(&view);
        self.views[value.index()] = Some(View::dense(storage, &view.shape));
        Ok(storage)
    }

    /// Whether a view is all of its storage in order.
    fn is_whole(&self, view: &View) -> bool {
        view.is_dense() && view.offset == 0 && view.numel() == self.len(view.storage)
    }

    /// Elements of a storage.
    fn len(&self, storage: StorageId) -> usize {
        match &self.storages[storage.0] {
            Storage::Input(port) => self.program.ty(self.program.inputs()[*port]).numel(),
            Storage::Output(port) => self.program.ty(self.program.outputs()[*port]).numel(),
            Storage::Const(values) => values.len(),
            Storage::Temp { len, .. } => *len,
        }
    }

    /// A dense copy of a view in a place of its own.
    fn copied(&mut self, view: &View) -> StorageId {
        let storage = self.temp(view.numel());
        self.copy(view.clone(), View::dense(storage, &view.shape));
        storage
    }

    /// A scalar constant's value.
    fn scalar(&self, value: ValueId) -> Option<f32> {
        let producer = self.producers[value.index()]?;
        match &self.program.stmts()[producer].op {
            Op::Const(constant) if constant.ty.numel() == 1 => constant.as_floats().map(|values| values[0]),
            _ => None,
        }
    }

    /// Outputs that were not computed in their port's buffer: inputs, constants, views, and values
    /// that are two ports at once.
    fn emit_outputs(&mut self) {
        for (port, id) in self.program.outputs().iter().enumerate() {
            let view = self.views[id.index()].clone().expect("every statement has been planned");
            let at_home = matches!(self.storages[view.storage.0], Storage::Output(at) if at == port)
                && self.is_whole(&view);
            if !at_home {
                let storage = self.add(Storage::Output(port));
                self.copy(view.clone(), View::dense(storage, &view.shape));
            }
        }
    }
}

/// Whether kernels that compute in f32 give what the statement says: its results are floats of that
/// size, or truth values, or what it takes is only moved or converted.
fn in_f32(program: &Program, stmt: &Stmt) -> bool {
    let converts = matches!(
        stmt.op,
        Op::Const(_)
            | Op::Cast { .. }
            | Op::Quantize { .. }
            | Op::Select
            | Op::Maximum
            | Op::Minimum
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::SliceBySize { .. }
            | Op::Concat { .. }
            | Op::Split { .. }
    );
    converts || stmt.results.iter().all(|id| !matches!(program.ty(*id).dtype, DType::F16 | DType::I32))
}

/// Whether an op's results get memory of their own, so that they can be computed in a port's buffer.
fn computes(op: &Op) -> bool {
    !matches!(
        op,
        Op::Const(_) | Op::Reshape { .. } | Op::Transpose { .. } | Op::SliceBySize { .. } | Op::Split { .. }
    )
}

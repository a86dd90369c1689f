//! Counting what a program does.

use std::collections::BTreeMap;

use super::sram;
use crate::{DType, Op, Program, Result, Stmt, TensorType};

/// What all statements of one op together do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OpCost {
    /// Statements.
    pub count: usize,
    /// Floating-point operations: 2 for each multiplication and addition of a product, 1 for each element
    /// that any other op computes.
    pub flops: f64,
    /// Bytes of operands and results, wherever they lie.
    pub bytes: f64,
}

/// What one run of a program does, counted on its primitive ops.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cost {
    /// Operations of matrix products, 2 * m * k * n each.
    pub product_flops: f64,
    /// Operations of convolutions.
    pub conv_flops: f64,
    /// Elements that go through a softmax.
    pub softmax_elements: f64,
    /// Elements that any other op computes or reduces; views and constants have none.
    pub other_elements: f64,
    /// Bytes of input ports that are not weights.
    pub bytes_in: f64,
    /// Bytes of weights and baked constants, which are streamed once for a run.
    pub bytes_weights: f64,
    /// Bytes of output ports.
    pub bytes_out: f64,
    /// Bytes of intermediate values that are written to memory and read back because they do not fit the
    /// engine's own.
    pub bytes_spilled: f64,
    /// The most that is alive at once between two statements, in bytes; weights do not count.
    pub peak_bytes: f64,
    /// By the name of the op.
    pub ops: BTreeMap<&'static str, OpCost>,
}

impl Cost {
    /// All operations: products, and one for each element of the rest.
    pub fn flops(&self) -> f64 {
        self.ops.values().map(|op| op.flops).sum()
    }

    /// Bytes of activations that cross the engine's memory: ports and what is spilled.
    pub fn bytes_activations(&self) -> f64 {
        self.bytes_in + self.bytes_out + self.bytes_spilled
    }
}

/// Bytes that a tensor of this type takes.
pub(super) fn bytes(ty: &TensorType) -> usize {
    let each = match ty.dtype {
        DType::F16 => 2,
        DType::F32 | DType::I32 => 4,
        DType::I8 | DType::Bool => 1,
        DType::Str => 0,
    };
    ty.numel() * each
}

/// Whether a statement computes nothing and has no memory of its own: another shape, or a slice whose
/// elements lie side by side in what it is cut from, which is an offset.
pub(super) fn is_view(program: &Program, stmt: &Stmt) -> bool {
    match &stmt.op {
        Op::Reshape { .. } => true,
        Op::SliceBySize { .. } => {
            let whole = &program.ty(stmt.args[0]).shape;
            let part = &program.ty(stmt.results[0]).shape;
            let cut = whole.iter().zip(part).position(|(whole, part)| whole != part);
            let cut = cut.unwrap_or(0);
            whole[..cut].iter().all(|extent| *extent == 1) && whole[cut + 1..] == part[cut + 1..]
        }
        _ => false,
    }
}

/// Operations of a product and of a convolution, elements of a softmax and of anything else.
#[derive(Default)]
struct Work {
    product: f64,
    conv: f64,
    softmax: f64,
    other: f64,
}

fn work(program: &Program, stmt: &Stmt) -> Work {
    if is_view(program, stmt) {
        return Work::default();
    }
    let shape = |at: usize| &program.ty(stmt.args[at]).shape;
    let result = program.ty(stmt.results[0]).numel() as f64;
    match &stmt.op {
        Op::Const(_) => Work::default(),
        Op::Matmul { transpose_x, .. } => {
            let x = shape(0);
            let k = x[x.len() - if *transpose_x { 2 } else { 1 }];
            Work { product: 2.0 * result * k as f64, ..Work::default() }
        }
        Op::Conv { .. } => {
            // The weight is [O, C/groups, KH, KW].
            let taps: usize = shape(1)[1..].iter().product();
            Work { conv: 2.0 * result * taps as f64, ..Work::default() }
        }
        Op::Softmax { .. } => Work { softmax: result, ..Work::default() },
        Op::ReduceSum { .. } | Op::ReduceMean { .. } | Op::ReduceMax { .. } => {
            Work { other: program.ty(stmt.args[0]).numel() as f64, ..Work::default() }
        }
        _ => {
            let all: usize = stmt.results.iter().map(|id| program.ty(*id).numel()).sum();
            Work { other: all as f64, ..Work::default() }
        }
    }
}

impl Program {
    /// What one run does, with every composite expanded.
    ///
    /// * `is_weight(port)`: whether an input port carries weights, which are streamed, or activations, which
    ///   stay in the engine's own memory as long as there is room
    ///
    /// # Errors
    /// [`crate::Error::Op`] when a composite does not decompose: a bug of the composite.
    pub fn cost(&self, is_weight: impl Fn(&str) -> bool) -> Result<Cost> {
        let program = self.expand_all()?;
        let mut cost = Cost::default();
        for port in program.inputs() {
            let info = program.value(*port);
            let size = bytes(&info.ty) as f64;
            if is_weight(&info.name) {
                cost.bytes_weights += size;
            } else {
                cost.bytes_in += size;
            }
        }
        cost.bytes_out = program.outputs().iter().map(|id| bytes(program.ty(*id)) as f64).sum();
        for stmt in program.stmts() {
            let size =
                |ids: &[crate::ValueId]| -> f64 { ids.iter().map(|id| bytes(program.ty(*id)) as f64).sum() };
            if matches!(stmt.op, Op::Const(_)) {
                cost.bytes_weights += size(&stmt.results);
                continue;
            }
            let work = work(&program, stmt);
            cost.product_flops += work.product;
            cost.conv_flops += work.conv;
            cost.softmax_elements += work.softmax;
            cost.other_elements += work.other;
            let op = cost.ops.entry(stmt.op.name()).or_default();
            op.count += 1;
            op.flops += work.product + work.conv + work.softmax + work.other;
            op.bytes += if is_view(&program, stmt) { 0.0 } else { size(&stmt.args) + size(&stmt.results) };
        }
        let memory = sram::walk(&program, &is_weight);
        cost.bytes_spilled = memory.spilled as f64;
        cost.peak_bytes = memory.peak as f64;
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Builder, Element};

    /// Oracle: counted by hand. w [8, 4] times x [4, 6], softmax over 48 elements, their sum along an axis,
    /// and a scale of 6.
    #[test]
    fn a_small_program_is_counted_as_by_hand() {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 4, 1, 6]).unwrap();
        let w = b.input("w", &[1, 1, 8, 4]).unwrap();
        let x = b.reshape(x, &[1, 1, 4, 6]).unwrap();
        let y = b.matmul(w, x, false, false).unwrap();
        let p = b.push1(crate::Op::Softmax { axis: 2 }, &[y]).unwrap();
        let s = b.push1(crate::Op::ReduceMax { axes: vec![2], keep_dims: true }, &[p]).unwrap();
        let s = b.scale(s, 2.0).unwrap();
        b.output("s", s).unwrap();
        let cost = b.finish().unwrap().cost(|port| port == "w").unwrap();
        assert_eq!(cost.product_flops, 2.0 * 8.0 * 4.0 * 6.0);
        assert_eq!((cost.softmax_elements, cost.other_elements), (48.0, 48.0 + 6.0));
        // x, then w and the constants (2, and the axes of the reduction are none), then s; two bytes each.
        assert_eq!((cost.bytes_in, cost.bytes_weights, cost.bytes_out), (48.0, 64.0 + 2.0, 12.0));
        assert_eq!(cost.bytes_spilled, 0.0);
        // x and the product; the softmax takes its operand's place.
        assert_eq!(cost.peak_bytes, 48.0 + 96.0);
        assert_eq!(cost.flops(), 384.0 + 48.0 + 48.0 + 6.0);
        assert_eq!(cost.ops["matmul"].count, 1);
    }

    /// Oracle: row-major order. Channels of one image lie side by side, columns and channels of two do not.
    #[test]
    fn only_a_slice_in_one_piece_is_a_view() {
        let moved = |shape: &[usize], size: &[usize]| {
            let mut b = Builder::new(Element::F16);
            let x = b.input("x", shape).unwrap();
            let part = b.slice(x, &[0; 4], size).unwrap();
            let y = b.scale(part, 2.0).unwrap();
            b.output("y", y).unwrap();
            let cost = b.finish().unwrap().cost(|_| false).unwrap();
            cost.other_elements - size.iter().product::<usize>() as f64
        };
        assert_eq!(moved(&[1, 8, 1, 16], &[1, 2, 1, 16]), 0.0);
        assert_eq!(moved(&[1, 8, 1, 16], &[1, 8, 1, 4]), 32.0);
        assert_eq!(moved(&[2, 8, 1, 16], &[2, 2, 1, 16]), 64.0);
        assert_eq!(moved(&[1, 8, 1, 16], &[1, 2, 1, 4]), 8.0);
    }

    #[test]
    fn a_convolution_counts_its_kernel_and_groups() {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 8, 1, 10]).unwrap();
        let w = b.input("w", &[4, 4, 1, 3]).unwrap();
        let op = crate::Op::Conv {
            strides: vec![1, 1],
            pad_type: crate::ops::conv::PadType::Valid,
            pad: vec![0; 4],
            dilations: vec![1, 1],
            groups: 2,
        };
        let y = b.push1(op, &[x, w]).unwrap();
        b.output("y", y).unwrap();
        let cost = b.finish().unwrap().cost(|port| port == "w").unwrap();
        assert_eq!(cost.conv_flops, 2.0 * (4.0 * 8.0) * (4.0 * 3.0));
    }
}

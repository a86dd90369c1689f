//! Fused elementwise passes: a chain of elementwise ops over blocks that stay in the nearest cache.
//!
//! A pass is a list of [`mil::Op`]s in registers of [`LANES`] values. Operands from memory are full
//! `[R, N]`, one value for each row `[R]`, or one row for all `[N]`; numbers are registers that are
//! filled once for each task.

use mil::ops::elementwise::GeluMode;
use mil::{DType, Element, Op};

use crate::Write;
use crate::math;
use crate::pool::{Pool, SharedMut, with_scratch};
use crate::simd::dispatch;

/// Values of a register: 2 KiB, so that a pass of ten registers stays in a 32 KiB first-level cache.
pub const LANES: usize = 512;

/// Values of one task: large enough that starting it costs nothing, small enough to share evenly.
const TASK: usize = 1 << 15;

/// How an operand in memory is spread over the pass's `[R, N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// `[R, N]`: an element of its own for each.
    Full,
    /// `[R]`: one value for each row.
    Row,
    /// `[N]`: one row for all.
    Column,
}

/// Where an instruction finds an operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// A number.
    Number(f32),
    /// Operand `i` of the pass.
    Memory(usize),
    /// The result of instruction `i`.
    Result(usize),
}

/// One op of a pass.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// An elementwise op.
    pub op: Op,
    /// As many as the op has operands.
    pub sources: Vec<Source>,
}

/// A fused pass over `[R, N]`.
#[derive(Debug, Clone)]
pub struct Pass {
    /// R.
    pub rows: usize,
    /// N.
    pub cols: usize,
    /// How each operand in memory is spread.
    pub operands: Vec<Spread>,
    /// In order; each reads numbers, memory, and results of earlier ones.
    pub code: Vec<Instruction>,
    /// The instructions whose results leave, one for each output.
    pub outputs: Vec<usize>,
}

/// A source resolved to where a block's values are.
#[derive(Debug, Clone, Copy)]
enum Place {
    Register(usize),
    Slice(usize),
}

impl Pass {
    /// Runs the pass.
    ///
    /// * `operands`: memory as [`Pass::operands`] says
    /// * `outputs`: `[R, N]` each, stored or accumulated
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn run(&self, pool: &Pool, operands: &[&[f32]], outputs: Vec<(&mut [f32], Write)>) {
        let (r, n) = (self.rows, self.cols);
        for (values, spread) in operands.iter().zip(&self.operands) {
            let expected = match spread {
                Spread::Full => r * n,
                Spread::Row => r,
                Spread::Column => n,
            };
            assert!(
                values.len() == expected,
                "elementwise: a {spread:?} operand of [{r}, {n}] has {} values",
                values.len()
            );
        }
        assert!(outputs.iter().all(|(out, _)| out.len() == r * n), "elementwise: outputs are not [{r}, {n}]");
        // Registers: numbers first, then operands that have one value for a row, then results.
        let mut numbers = Vec::new();
        let rows: Vec<usize> = (0..operands.len()).filter(|at| self.operands[*at] == Spread::Row).collect();
        for source in self.code.iter().flat_map(|i| &i.sources) {
            if let Source::Number(value) = source {
                numbers.push(*value);
            }
        }
        let first_row = numbers.len();
        let first_result = first_row + rows.len();
        let mut next_number = 0;
        let code: Vec<(&Op, Vec<Place>)> = self
            .code
            .iter()
            .map(|instruction| {
                let place = |source: &Source| match source {
                    Source::Number(_) => {
                        next_number += 1;
                        Place::Register(next_number - 1)
                    }
                    Source::Memory(at) => match rows.iter().position(|row| row == at) {
                        Some(row) => Place::Register(first_row + row),
                        None => Place::Slice(*at),
                    },
                    Source::Result(at) => Place::Register(first_result + at),
                };
                (&instruction.op, instruction.sources.iter().map(place).collect())
            })
            .collect();
        let shared: Vec<(SharedMut, Write)> =
            outputs.into_iter().map(|(out, write)| (SharedMut::new(out), write)).collect();
        // Blocks lie within a row; a task takes several.
        let blocks_per_row = n.div_ceil(LANES);
        let blocks = r * blocks_per_row;
        let per_task = (TASK / n.clamp(1, LANES)).max(1);
        pool.run(blocks.div_ceil(per_task), |task| {
            with_scratch((first_result + code.len()) * LANES, |registers| {
                for (at, number) in numbers.iter().enumerate() {
                    registers[at * LANES..][..LANES].fill(*number);
                }
                let mut slices: Vec<&[f32]> = vec![&[]; operands.len()];
                for block in task * per_task..((task + 1) * per_task).min(blocks) {
                    let (row, col) = (block / blocks_per_row, block % blocks_per_row * LANES);
                    let len = LANES.min(n - col);
                    for (register, at) in rows.iter().enumerate() {
                        registers[(first_row + register) * LANES..][..len].fill(operands[*at][row]);
                    }
                    for (at, spread) in self.operands.iter().enumerate() {
                        slices[at] = match spread {
                            Spread::Full => &operands[at][row * n + col..][..len],
                            Spread::Column => &operands[at][col..][..len],
                            Spread::Row => &[],
                        };
                    }
                    for (at, (op, places)) in code.iter().enumerate() {
                        let (before, result) = registers.split_at_mut((first_result + at) * LANES);
                        let get = |i: usize| match places.get(i) {
                            Some(Place::Register(register)) => &before[register * LANES..][..len],
                            Some(Place::Slice(slice)) => slices[*slice],
                            None => &[],
                        };
                        apply(op, get(0), get(1), get(2), &mut result[..len]);
                    }
                    for ((out, write), result) in shared.iter().zip(&self.outputs) {
                        // SAFETY: each block is one task's alone.
                        let out = unsafe { out.slice(row * n + col, len) };
                        let result = &registers[(first_result + result) * LANES..][..len];
                        match write {
                            Write::Store => out.copy_from_slice(result),
                            Write::Accumulate => {
                                out.iter_mut().zip(result).for_each(|(sum, value)| *sum += value)
                            }
                        }
                    }
                }
            });
        });
    }
}

/// 1 for true: how truth values are held in memory of floats.
fn truth(value: bool) -> f32 {
    f32::from(u8::from(value))
}

dispatch! {
    /// One op over a block; `a`, `b`, `c` are its operands, empty beyond their number.
    fn apply(op: &Op, a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) {
        macro_rules! one {
            ($f:expr) => {{
                let f = $f;
                for (out, a) in out.iter_mut().zip(a) {
                    *out = f(*a);
                }
            }};
        }
        macro_rules! two {
            ($f:expr) => {{
                let f = $f;
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = f(*a, *b);
                }
            }};
        }
        match op {
            Op::Add => two!(|a: f32, b: f32| a + b),
            Op::Sub => two!(|a: f32, b: f32| a - b),
            Op::Mul => two!(|a: f32, b: f32| a * b),
            Op::RealDiv => two!(|a: f32, b: f32| a / b),
            Op::Maximum => two!(|a: f32, b: f32| if a > b || a.is_nan() { a } else { b }),
            Op::Minimum => two!(|a: f32, b: f32| if a < b || a.is_nan() { a } else { b }),
            Op::Pow => two!(f32::powf),
            Op::Equal => two!(|a: f32, b: f32| truth(a == b)),
            Op::NotEqual => two!(|a: f32, b: f32| truth(a != b)),
            Op::Greater => two!(|a: f32, b: f32| truth(a > b)),
            Op::GreaterEqual => two!(|a: f32, b: f32| truth(a >= b)),
            Op::Less => two!(|a: f32, b: f32| truth(a < b)),
            Op::LessEqual => two!(|a: f32, b: f32| truth(a <= b)),
            Op::Select => {
                for (((out, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
                    *out = if *a != 0.0 { *b } else { *c };
                }
            }
            Op::Exp => one!(math::exp::<FMA>),
            Op::Log { epsilon } => one!(|a| math::log::<FMA>(a + epsilon)),
            Op::Sqrt => one!(f32::sqrt),
            Op::Rsqrt { epsilon } => one!(|a: f32| 1.0 / (a + epsilon).sqrt()),
            Op::Tanh => one!(math::tanh::<FMA>),
            Op::Sigmoid => one!(math::sigmoid::<FMA>),
            Op::Silu => one!(math::silu::<FMA>),
            Op::Relu => one!(|a: f32| if a < 0.0 { 0.0 } else { a }),
            Op::Abs => one!(f32::abs),
            Op::Erf => one!(math::erf::<FMA>),
            Op::Gelu { mode: GeluMode::Exact } => one!(math::gelu_erf::<FMA>),
            Op::Gelu { mode: GeluMode::TanhApproximation } => one!(math::gelu_tanh::<FMA>),
            Op::Gelu { mode: GeluMode::SigmoidApproximation } => one!(|a: f32| a * math::sigmoid::<FMA>(1.702 * a)),
            Op::Square => one!(|a: f32| a * a),
            Op::Cast { dtype: DType::F16 } => one!(|a| Element::F16.round(a)),
            Op::Cast { dtype: DType::I32 } => one!(f32::trunc),
            Op::Cast { dtype: DType::Bool } => one!(|a: f32| truth(a != 0.0)),
            Op::Cast { .. } => one!(|a| a),
            Op::Quantize { .. } => {
                two!(|a: f32, scale: f32| {
                    let whole = (a / scale).round_ties_even().clamp(f32::from(i8::MIN), f32::from(i8::MAX));
                    // An int8 holds no NaN; converted, it is 0.
                    if whole.is_nan() { 0.0 } else { whole }
                })
            }
            Op::Dequantize => two!(|a: f32, scale: f32| a * scale),
            _ => unreachable!("{} is not elementwise", op.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: (row + x) * column + 0.5, by hand.
    #[test]
    fn operands_spread_as_they_say() {
        let pass = Pass {
            rows: 2,
            cols: 3,
            operands: vec![Spread::Row, Spread::Full, Spread::Column],
            code: vec![
                Instruction { op: Op::Add, sources: vec![Source::Memory(0), Source::Memory(1)] },
                Instruction { op: Op::Mul, sources: vec![Source::Result(0), Source::Memory(2)] },
                Instruction { op: Op::Add, sources: vec![Source::Result(1), Source::Number(0.5)] },
            ],
            outputs: vec![2, 0],
        };
        let (mut a, mut b) = (vec![1.0; 6], vec![0.0; 6]);
        let x: Vec<f32> = (0..6).map(|v| v as f32).collect();
        let operands: [&[f32]; 3] = [&[10.0, 20.0], &x, &[1.0, 2.0, 3.0]];
        pass.run(&Pool::new(2), &operands, vec![(&mut a, Write::Accumulate), (&mut b, Write::Store)]);
        assert_eq!(b, [10.0, 11.0, 12.0, 23.0, 24.0, 25.0]);
        assert_eq!(a, [11.5, 23.5, 37.5, 24.5, 49.5, 76.5]);
    }
}

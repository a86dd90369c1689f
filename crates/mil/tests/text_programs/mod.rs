//! Random programs, for tests that say something about all programs.

use mil::ops::conv::PadType;
use mil::ops::elementwise::GeluMode;
use mil::{Builder, Constant, DType, Element, Op, Program, TensorType, ValueId};

/// A program that `choices` steer: the same choices give the same program.
pub(crate) fn program(element: Element, choices: &[u32]) -> Program {
    let mut choices = Choices { choices, next: 0 };
    let mut b = Builder::new(element);
    let mut pool = Vec::new();
    for index in 0..1 + choices.below(3) {
        let rank = 1 + choices.below(5);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + choices.below(5)).collect();
        pool.push(b.input(&format!("in{index}"), &shape).expect("the name is free"));
    }
    while !choices.is_over() {
        let x = pool[choices.below(pool.len())];
        let y = pool[choices.below(pool.len())];
        // What does not type-check is left out; what does joins the pool.
        if let Ok(results) = step(&mut b, &mut choices, x, y) {
            pool.extend(results);
        }
    }
    let last = *pool.last().expect("there is an input");
    b.output("out", last).expect("the name is free");
    let middle = pool[pool.len() / 2];
    if middle != last {
        b.output("other", middle).expect("the name is free");
    }
    b.finish().expect("it has an output")
}

struct Choices<'c> {
    choices: &'c [u32],
    next: usize,
}

impl Choices<'_> {
    fn is_over(&self) -> bool {
        self.next >= self.choices.len()
    }

    fn any(&mut self) -> u32 {
        self.next += 1;
        self.choices.get(self.next - 1).copied().unwrap_or(0)
    }

    fn below(&mut self, end: usize) -> usize {
        self.any() as usize % end
    }

    /// Any float but NaN: subnormals, zeros of both signs and infinities included.
    fn float(&mut self) -> f32 {
        let value = match self.below(3) {
            0 => f32::from_bits(self.any()),
            1 => half_from_bits(self.any() as u16),
            _ => self.below(100) as f32 / 8.0 - 6.0,
        };
        if value.is_nan() { 0.1 } else { value }
    }
}

/// Computed from the definition, so that no rounding of the crate under test is trusted.
fn half_from_bits(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        31 => sign * f32::INFINITY,
        0 => sign * mantissa * 2_f32.powi(-24),
        _ => sign * (1024.0 + mantissa) * 2_f32.powi(exponent - 25),
    }
}

fn step(b: &mut Builder, c: &mut Choices<'_>, x: ValueId, y: ValueId) -> mil::Result<Vec<ValueId>> {
    let rank = b.shape(x).len();
    let axis = c.below(rank.max(1)) as i32 - if c.below(2) == 0 { 0 } else { rank as i32 };
    let op = match c.below(22) {
        0 => Op::Add,
        1 => Op::Mul,
        2 => Op::Maximum,
        3 => {
            let cond = b.push1(Op::Greater, &[x, y])?;
            return b.push(Op::Select, &[cond, x, y]);
        }
        4 => {
            return b.push(Op::Rsqrt { epsilon: c.float().abs() }, &[x]);
        }
        5 => return b.push(Op::Log { epsilon: c.float() }, &[x]),
        6 => {
            return b.push(Op::Gelu { mode: GeluMode::TanhApproximation }, &[x]);
        }
        7 => return b.push(Op::Softmax { axis }, &[x]),
        8 => {
            return b.push(Op::ReduceSum { axes: vec![axis], keep_dims: c.below(2) == 0 }, &[x]);
        }
        9 => {
            return b.push(Op::ReduceMax { axes: vec![axis], keep_dims: true }, &[x]);
        }
        10 => return b.push(Op::Reshape { shape: vec![-1] }, &[x]),
        11 => {
            let mut perm: Vec<i32> = (0..rank as i32).collect();
            perm.rotate_left(c.below(rank.max(1)));
            return b.push(Op::Transpose { perm }, &[x]);
        }
        12 => {
            let begin: Vec<i32> = b.shape(x).to_vec().iter().map(|e| c.below(*e) as i32).collect();
            return b.push(Op::SliceBySize { size: vec![-1; begin.len()], begin }, &[x]);
        }
        13 => {
            return b.push(Op::Concat { axis, interleave: false }, &[x, y, x]);
        }
        14 => {
            return b.push(Op::Split { num_splits: 2, axis }, &[x]);
        }
        15 => Op::Matmul { transpose_x: c.below(2) == 0, transpose_y: c.below(2) == 0 },
        16 => {
            let shape: Vec<usize> = (0..c.below(4)).map(|_| 1 + c.below(5)).collect();
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| c.float()).collect();
            return Ok(vec![b.constant(Constant::float(b.element(), &shape, values))]);
        }
        17 => return Ok(vec![b.scalar(c.float())]),
        18 => {
            let pad = (0..4).map(|_| c.below(3) as i32).collect();
            let (strides, dilations) = (vec![1 + c.below(2) as i32, 1], vec![1, 1]);
            return b
                .push(Op::Conv { strides, pad_type: PadType::Custom, pad, dilations, groups: 1 }, &[x, y]);
        }
        19 => {
            // There and back again, so that the pool stays of one float type.
            let whole = b.push1(Op::Cast { dtype: DType::I32 }, &[x])?;
            let dtype = b.element().dtype();
            return b.push(Op::Cast { dtype }, &[whole]);
        }
        20 => {
            let values: Vec<bool> = (0..b.ty(x).numel()).map(|_| c.below(2) == 0).collect();
            let ty = TensorType::new(DType::Bool, b.shape(x));
            let mask = b.constant(Constant { ty, data: mil::ConstData::Bool(values.into()) });
            return b.push(Op::Select, &[mask, x, x]);
        }
        _ => return b.push(Op::Sigmoid, &[x]),
    };
    b.push(op, &[x, y])
}

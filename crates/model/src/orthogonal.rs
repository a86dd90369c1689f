//! The orthogonal factor of a matrix by products alone: what Muon turns a gradient into.
//!
//! With X = U S Vᵀ, five steps X <- a X + (b A + c A²) X, where A = X Xᵀ (XᵀX from the right for a tall X), bring all
//! singular values near 1 and leave U and V: the result is near U Vᵀ. The coefficients are those of Polar Express
//! (Amsel et al. 2025, arXiv 2505.16932), computed there for singular values in [1e-3, 1].
//!
//! Being nothing but products it is a MIL program, and runs on whatever device trains.
//!
//! In f16 the range needs care. An X of unit Frobenius norm has entries near 1/sqrt(rows * columns) and a Gram matrix
//! with entries near 1/rows off the diagonal far below that, where f16 has few bits left; a Gram matrix that is scaled
//! by all of `rows` would overflow when squared if one singular value is all there is. So X enters times √s with a
//! power of four s near √rows (rows being the smaller extent): the Gram matrix s A has entries of at most s (64 for
//! the widest models), its square of at most s², and typical ones of both are normal numbers of f16.

use std::collections::HashMap;
use std::sync::Arc;

use device::{Binding, Buffer, Device, Invocation, Mode};
use mil::{Builder, Element, Program, ValueId};
use rayon::prelude::*;

use crate::Result;

/// (a, b, c) of each step (Polar Express, as autoresearch uses them).
pub const COEFFICIENTS: [[f32; 3]; 5] = [
    [8.156_554, -22.483_293, 15.878_77],
    [4.042_93, -2.808_917_5, 0.500_017_8],
    [3.891_667_8, -2.772_484_2, 0.506_064_8],
    [3.285_753_7, -2.368_129_5, 0.464_490_24],
    [2.346_541_3, -1.709_782_8, 0.423_235_5],
];
/// The Frobenius norm is brought to 1 over this, so that no singular value exceeds 1 by rounding (autoresearch).
pub const MARGIN: f64 = 1.02;
/// Added to the norm, for a matrix of zeros (autoresearch).
const NORM_EPS: f64 = 1e-6;
/// Elements that one task sums.
const CHUNK: usize = 1 << 14;

/// √s: the power of two whose square is the power of four nearest to the root of the smaller extent.
fn root_of_scale(rows: usize, columns: usize) -> f32 {
    let root = (rows.min(columns) as f64).sqrt();
    2.0_f64.powi((root.log2() / 2.0).round() as i32) as f32
}

/// The program for matrices of this shape.
///
/// | port | shape | |
/// | --- | --- | --- |
/// | `x` | `[1, 1, rows, columns]` | in: a matrix with a Frobenius norm of at most √s |
/// | `y` | `[1, 1, rows, columns]` | out: its orthogonal factor, times √s |
///
/// # Errors
/// When an extent is zero.
pub fn program(rows: usize, columns: usize, element: Element) -> Result<Program> {
    let mut b = Builder::new(element);
    let mut x = b.input("x", &[1, 1, rows, columns])?;
    let s = root_of_scale(rows, columns).powi(2);
    let wide = rows <= columns;
    for coefficients in COEFFICIENTS {
        x = step(&mut b, x, coefficients, s, wide)?;
    }
    b.output("y", x)?;
    Ok(b.finish()?)
}

fn step(b: &mut Builder, x: ValueId, [a, b1, c]: [f32; 3], s: f32, wide: bool) -> mil::Result<ValueId> {
    // s A, and s² A².
    let gram = b.matmul(x, x, !wide, wide)?;
    let square = b.matmul(gram, gram, false, false)?;
    let linear = b.scale(gram, b1 / s)?;
    let square = b.scale(square, c / (s * s))?;
    let polynomial = b.add(linear, square)?;
    let bent =
        if wide { b.matmul(polynomial, x, false, false)? } else { b.matmul(x, polynomial, false, false)? };
    let kept = b.scale(x, a)?;
    b.add(kept, bent)
}

/// Orthogonal factors of matrices on a device; the programs are compiled once for each shape.
pub struct Orthogonalizer {
    device: Arc<dyn Device>,
    margin: f64,
    shapes: HashMap<(usize, usize), Bound>,
}

struct Bound {
    invocation: Invocation,
    x: Buffer,
    y: Buffer,
}

impl Orthogonalizer {
    /// For matrices of these shapes, each `[rows, columns]`.
    ///
    /// * `margin` the Frobenius norm is brought to 1 over this before the program runs, which is the same for all: 1 or
    ///   more, such as [`MARGIN`]
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device does not take a program.
    pub fn new(
        device: Arc<dyn Device>,
        margin: f64,
        shapes: impl IntoIterator<Item = [usize; 2]>,
    ) -> Result<Self> {
        let mut bound = HashMap::new();
        for [rows, columns] in shapes {
            if bound.contains_key(&(rows, columns)) {
                continue;
            }
            let program = program(rows, columns, device.element())?;
            let executable = device.compile(&format!("orthogonalize_{rows}x{columns}"), &program)?;
            let shape = [1, 1, rows, columns];
            let (x, y) = (device.alloc(&shape)?, device.alloc(&shape)?);
            let bind = |port, buffer| Binding { port, buffer, mode: Mode::Store };
            let invocation = executable.bind(&[bind("x", &x), bind("y", &y)])?;
            bound.insert((rows, columns), Bound { invocation, x, y });
        }
        Ok(Orthogonalizer { device, margin, shapes: bound })
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Replaces `matrix`, row-major `[rows, columns]`, by its orthogonal factor. A matrix of zeros stays one.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    ///
    /// # Panics
    /// When the shape is none of those that it was made for.
    pub fn run(&mut self, rows: usize, columns: usize, matrix: &mut [f32]) -> Result<()> {
        let bound = self.shapes.get(&(rows, columns)).expect("made for this shape");
        let root = root_of_scale(rows, columns);
        let factor = f64::from(root) / (self.margin * frobenius(matrix) + NORM_EPS);
        matrix.par_chunks_mut(CHUNK).for_each(|chunk| {
            chunk.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
        });
        bound.x.write_f32(matrix)?;
        bound.invocation.run()?;
        bound.y.read_f32(matrix)?;
        let factor = 1.0 / root;
        matrix.par_chunks_mut(CHUNK).for_each(|chunk| {
            chunk.iter_mut().for_each(|value| *value *= factor);
        });
        Ok(())
    }
}

/// The root of the sum of squares: f64, over chunks in a fixed order.
pub fn frobenius(values: &[f32]) -> f64 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let parts: Vec<f64> =
        values.par_chunks(CHUNK).map(|chunk| chunk.iter().map(square).sum::<f64>()).collect();
    parts.iter().sum::<f64>().sqrt()
}

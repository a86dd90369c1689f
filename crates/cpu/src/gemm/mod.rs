//! Products of blocks, on the calling thread: cache blocks, packing and micro-kernels of our own.
//!
//! The order of loops, from the outside: columns of the output, as many as [`RIGHT_FLOATS`] has room for; K by pieces of
//! [`DEPTH`]; rows by tiles; columns by tiles, of 6 rows and 64 columns with AVX-512. So a block of the right operand is
//! packed once, in panels as wide as a tile, stays in the second-level cache, and streams past a strip of the left operand
//! that the first level holds. In bf16 both operands are packed, since that is where their values are rounded, and all
//! that follows counts pairs of them along K. In f32, what would cost more to pack than it saves is read where it is: the left operand by rows, by
//! columns that lie close or are read by few tiles, and the right one for few rows. Tiles are evened out, since
//! one of a row or two has too few sums to keep the multiply-adds busy.
//!
//! Bits: an element of the output is one chain of multiply-adds along each piece of K, and the pieces are added in order.
//! Where K is cut depends on K alone, so how the output is divided, or which operand is called the left one, does not
//! show in the result. (Of two NaNs it may be the one or the other: their payloads carry nothing.)
//!
//! On a core of an Intel Xeon at 2.5 GHz with a peak of 150 GFLOP/s, a micro-kernel makes 145 to 149 of them on packed
//! operands in the second-level cache. Whole products are 0.97 (attention's scores) to 1.37 times as fast as the library
//! `gemm`, 1.08 in the middle of the shapes of `benches/products.rs` (28 November 2026, in alternation).

mod kernel;
mod pack;

use self::kernel::{Call, Kernel, Kernels};
use crate::pool::with_scratch;
use crate::{Precision, Write};
use std::ops::Range;

/// A strided block in memory: address, row stride, column stride.
pub(crate) type Block = (*const f32, usize, usize);
/// A strided block to be written.
pub(crate) type BlockMut = (*mut f32, usize, usize);

/// The longest piece of K, in f32 or pairs of bf16: a strip of the left operand has 6 KiB, and C is read and written once
/// for 256 steps.
const DEPTH: usize = 256;
/// Of the right operand, how many values or pairs are packed at once: half of a second-level cache of a megabyte.
const RIGHT_FLOATS: usize = 1 << 17;
/// Rows of the right operand that lie further apart than this, in values, are packed: they share too few sets of the
/// first-level cache. So are columns of the left one.
const NEAR: usize = 64;
/// The longest vector.
const MOST_SIDE: usize = 16;
/// The widest tile: of four of them.
const MOST_COLS: usize = 4 * MOST_SIDE;
/// The largest tile.
const MOST_TILE: usize = 6 * MOST_COLS;
/// The largest square that is transposed.
const MOST_SQUARE: usize = MOST_SIDE * MOST_SIDE;

/// `dst [m, n] (+)= alpha * lhs [m, k] · rhs [k, n]`.
///
/// # Safety
/// As [`crate::matmul::product`].
pub(crate) unsafe fn product(
    precision: Precision,
    [m, n, k]: [usize; 3],
    dst: BlockMut,
    write: Write,
    alpha: f32,
    lhs: Block,
    rhs: Block,
) {
    let kernels = Kernels::of_machine(precision);
    // SAFETY: passed on from this function's contract.
    unsafe { Product { kernels, m, n, k, dst, write, alpha, lhs, rhs, part: Part::Whole }.run() }
}

/// The same for the tiles of `dst` with an element on the diagonal or above it, whose rows lie one after the other;
/// elements of other tiles are left as they are.
///
/// # Safety
/// As for [`product`].
pub(crate) unsafe fn product_above_diagonal(
    precision: Precision,
    [m, n, k]: [usize; 3],
    dst: BlockMut,
    alpha: f32,
    lhs: Block,
    rhs: Block,
) {
    assert!(dst.2 == 1, "the diagonal of a product is that of its rows");
    let (kernels, write, part) = (Kernels::of_machine(precision), Write::Store, Part::AboveDiagonal);
    // SAFETY: passed on from this function's contract.
    unsafe { Product { kernels, m, n, k, dst, write, alpha, lhs, rhs, part }.by_blocks() }
}

/// Whether a matrix `[side, side]` is the same as its transpose, bit by bit. Costs some 1/side of a product.
pub(crate) fn is_symmetric(values: &[f32], side: usize, strides: (usize, usize)) -> bool {
    let stride = match strides {
        (stride, 1) | (1, stride) if stride >= side => stride,
        _ => return false,
    };
    assert!(side == 0 || (side - 1) * stride + side <= values.len(), "a matrix must lie in its values");
    let kernels = Kernels::of_machine(Precision::F32);
    let unit = kernels.lanes;
    let mut square = [0f32; MOST_SQUARE];
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits();
    by_squares(side, unit, |i, j, is_whole| {
        if !is_whole {
            return (i..(i + unit).min(side)).all(|i| {
                (j..(j + unit).min(side)).all(|j| same(values[i * stride + j], values[j * stride + i]))
            });
        }
        // SAFETY: a square above the diagonal and room for it.
        unsafe { (kernels.square)(values[i * stride + j..].as_ptr(), stride, square.as_mut_ptr(), unit) };
        (0..unit).all(|row| {
            let below = &values[(j + row) * stride + i..][..unit];
            // All of a row at once, without a branch for each value.
            below.iter().zip(&square[row * unit..]).fold(true, |all, (&a, &b)| all & same(a, b))
        })
    })
}

/// `to [cols, rows]` from `from [rows, cols]`, whose rows begin `stride` and `to_stride` values apart.
pub(crate) fn transpose(
    from: &[f32],
    stride: usize,
    [rows, cols]: [usize; 2],
    to: &mut [f32],
    to_stride: usize,
) {
    let fits = |len: usize, stride: usize, rows: usize, cols: usize| {
        let end = rows.saturating_sub(1).checked_mul(stride).and_then(|last| last.checked_add(cols));
        rows == 0 || cols == 0 || cols <= stride && end.is_some_and(|end| end <= len)
    };
    assert!(
        fits(from.len(), stride, rows, cols) && fits(to.len(), to_stride, cols, rows),
        "transpose: [{rows}, {cols}] by {stride} of {} values does not fit or not into {} by {to_stride}",
        from.len(),
        to.len()
    );
    let kernels = Kernels::of_machine(Precision::F32);
    // SAFETY: in bounds by the assertion; rows of `to` do not overlap.
    unsafe { pack::transposed(kernels, from.as_ptr(), stride, [rows, cols], to.as_mut_ptr(), to_stride) };
}

/// Copies what is above the diagonal of `dst [side, side]` below it, transposed.
pub(crate) fn mirror(dst: &mut [f32], side: usize, stride: usize) {
    assert!(side <= stride, "rows overlap");
    assert!(side == 0 || (side - 1) * stride + side <= dst.len(), "a matrix must lie in its values");
    let kernels = Kernels::of_machine(Precision::F32);
    let unit = kernels.lanes;
    by_squares(side, unit, |i, j, is_whole| {
        if is_whole {
            let base = dst.as_mut_ptr();
            // SAFETY: two squares within the matrix, on different sides of the diagonal.
            unsafe { (kernels.square)(base.add(i * stride + j), stride, base.add(j * stride + i), stride) };
        } else {
            for i in i..(i + unit).min(side) {
                for j in j.max(i + 1)..(j + unit).min(side) {
                    dst[j * stride + i] = dst[i * stride + j];
                }
            }
        }
        true
    });
}

/// Calls `visit` with the first row and column of each square of a matrix on its diagonal or above it, and with whether
/// the square is wholly above it and as large as a unit, until it answers with no; -> whether it never did
fn by_squares(side: usize, unit: usize, mut visit: impl FnMut(usize, usize, bool) -> bool) -> bool {
    (0..side).step_by(unit).all(|i| (i..side).step_by(unit).all(|j| visit(i, j, i != j && j + unit <= side)))
}

/// What is computed of a product.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Whole,
    /// Tiles with an element on the diagonal or above it.
    AboveDiagonal,
}

/// A product, and the micro-kernels that it is made by.
struct Product<'a> {
    kernels: &'a Kernels,
    m: usize,
    n: usize,
    k: usize,
    dst: BlockMut,
    write: Write,
    alpha: f32,
    lhs: Block,
    rhs: Block,
    part: Part,
}

impl Product<'_> {
    /// # Safety
    /// As for [`product`]; the machine must have the kernels' instruction set.
    unsafe fn run(self) {
        // Vectors run along the columns of the output: along those that lie side by side, else along the longer side.
        let (_, row_stride, col_stride) = self.dst;
        let across = col_stride == 1 && self.n >= self.kernels.lanes;
        let down = row_stride == 1 && self.m >= self.kernels.lanes;
        // SAFETY: passed on from this function's contract; the transpose has the same elements.
        unsafe {
            if !across && (down || self.m > self.n) {
                self.transposed().by_blocks()
            } else {
                self.by_blocks()
            }
        }
    }

    /// `dstᵀ = alpha * rhsᵀ · lhsᵀ`
    fn transposed(self) -> Self {
        let t = |(at, row_stride, col_stride): Block| (at, col_stride, row_stride);
        Product {
            m: self.n,
            n: self.m,
            dst: (self.dst.0, self.dst.2, self.dst.1),
            lhs: t(self.rhs),
            rhs: t(self.lhs),
            ..self
        }
    }

    /// # Safety
    /// As for [`Product::run`].
    unsafe fn by_blocks(&self) {
        let Product { kernels, m, n, k, lhs, rhs, .. } = *self;
        if m == 0 || n == 0 {
            return;
        }
        let tile_cols = kernels.lanes * kernels.most_vectors();
        let is_f32 = kernels.per_step == 1;
        let steps = k.div_ceil(kernels.per_step);
        let depths = pieces(steps, DEPTH);
        let deepest = steps.div_ceil(depths);
        // Tiles side by side, in all and in a block.
        let tiles = n.div_ceil(tile_cols);
        let blocks = pieces(tiles, RIGHT_FLOATS / deepest.max(1) / tile_cols);
        let columns_apart = lhs.1 == 1 && lhs.2 > NEAR && tiles > 2;
        let pack_left = !is_f32 || lhs.2 != 1 && (lhs.1 != 1 || columns_apart);
        let pack_right = !is_f32 || rhs.2 != 1 || (rhs.1 > NEAR && m > 2 * kernels.most_rows());
        let left_floats = if pack_left { self.strips_packed() * kernels.most_rows() * deepest } else { 0 };
        let right_floats = if pack_right { tiles.div_ceil(blocks) } else { 1 } * tile_cols * deepest;
        with_scratch(right_floats + left_floats, |scratch| {
            // The right one first: scratch is aligned as its vectors are to be.
            let (right, left) = scratch.split_at_mut(right_floats);
            for block in 0..blocks {
                let columns =
                    tiles * block / blocks * tile_cols..(tiles * (block + 1) / blocks * tile_cols).min(n);
                for depth in 0..depths {
                    let along = depth * steps / depths..(depth + 1) * steps / depths;
                    // SAFETY: passed on from this function's contract.
                    unsafe {
                        let packed = Packed {
                            left: pack_left.then_some(&mut *left),
                            right: self.right(columns.clone(), along.clone(), pack_right, right),
                        };
                        self.by_tiles(columns.clone(), along, packed);
                    }
                }
            }
        });
    }

    /// How many strips of the left operand are packed at once. Of one that lies by columns as many as make three vectors,
    /// with AVX-512 as many lines of the cache, so that each is read once; in bf16, where pairs are made of two columns
    /// side by side, whole vectors.
    fn strips_packed(&self) -> usize {
        let is_across = self.lhs.2 != 1 && (self.lhs.1 == 1 || self.kernels.per_step > 1);
        if is_across { 3 * self.kernels.lanes / self.kernels.most_rows() } else { 1 }
    }

    /// The values along K of the steps `along`.
    fn values(&self, along: &Range<usize>) -> Range<usize> {
        let of = |step: usize| (step * self.kernels.per_step).min(self.k);
        of(along.start)..of(along.end)
    }

    /// Packs what is to be packed of a block of the right operand, some steps along K: all of it, or the columns of the
    /// last tile when it is no full one, since a kernel reads as many as it is wide.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn right<'s>(
        &self,
        columns: Range<usize>,
        along: Range<usize>,
        all: bool,
        scratch: &'s mut [f32],
    ) -> Right<'s> {
        let tile_cols = self.kernels.lanes * self.kernels.most_vectors();
        let values = self.values(&along);
        let pack = if self.kernels.per_step == 1 { pack::right } else { pack::right_pairs };
        let last = columns.end - columns.len() % tile_cols;
        let first = if all { columns.start } else { last };
        for j in (first..columns.end).step_by(tile_cols) {
            let cols = tile_cols.min(columns.end - j);
            let width = cols.next_multiple_of(self.kernels.lanes);
            let (at, row_stride, col_stride) = self.rhs;
            // SAFETY: the block lies within the right operand.
            unsafe {
                let from =
                    (at.wrapping_add(values.start * row_stride + j * col_stride), row_stride, col_stride);
                let out = &mut scratch[(j - first) * along.len()..];
                pack(self.kernels, from, values.len(), cols, width, out);
            }
        }
        Right { panels: scratch, first }
    }

    /// One block: all rows, some columns, some steps along K.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn by_tiles(&self, columns: Range<usize>, along: Range<usize>, mut packed: Packed<'_>) {
        let Product { kernels, m, dst, lhs, rhs, .. } = *self;
        let tile_cols = kernels.lanes * kernels.most_vectors();
        let (k, values) = (along.len(), self.values(&along));
        let accumulate = self.write == Write::Accumulate || along.start > 0;
        let by_rows = lhs.2 == 1;
        let strips = pieces(m, kernels.most_rows());
        // The longer ones first, so that neighbours are as long as one another.
        let row_of = |strip: usize| strip.min(strips) * (m / strips) + strip.min(m % strips);
        for strip in 0..strips {
            let (top, bottom) = (row_of(strip), row_of(strip + 1));
            let rows = bottom - top;
            // With K = 0 there is nothing there, and nothing is read.
            let at = |row: usize| (lhs.0.wrapping_add(row * lhs.1 + values.start * lhs.2), lhs.1, lhs.2);
            let (a, a_stride) = match &mut packed.left {
                Some(left) => {
                    let first = strip - strip % self.strips_packed();
                    let (first_row, end) = (row_of(first), row_of(first + self.strips_packed()));
                    if strip == first {
                        // SAFETY: the strips lie within the left operand.
                        unsafe {
                            if kernels.per_step == 1 {
                                let last = strips.min(first + self.strips_packed());
                                let each = (first..last).map(|strip| row_of(strip + 1) - row_of(strip));
                                pack::left(at(top), each, k, left);
                            } else {
                                pack::left_pairs(kernels, at(top), end - top, values.len(), left);
                            }
                        }
                    }
                    let left = left.as_ptr();
                    match kernels.per_step {
                        1 => (left.wrapping_add((top - first_row) * k), rows),
                        // By rows there is but one strip.
                        _ if by_rows => (left, k),
                        _ => (left.wrapping_add(top - first_row), end - first_row),
                    }
                }
                None => (at(top).0, if by_rows { lhs.1 } else { lhs.2 }),
            };
            let first = match self.part {
                Part::Whole => columns.start,
                Part::AboveDiagonal => columns.start.max(top / tile_cols * tile_cols),
            };
            for j in (first..columns.end).step_by(tile_cols) {
                let cols = tile_cols.min(columns.end - j);
                let vectors = cols.div_ceil(kernels.lanes);
                let width = vectors * kernels.lanes;
                // SAFETY: addresses are of elements of the three blocks, or of what was packed; the kernel reads and
                // writes whole vectors only where there are as many columns.
                unsafe {
                    let (b, b_stride) = match packed.right.panel(j, k) {
                        Some(panel) => (panel.as_ptr(), width),
                        None => (rhs.0.wrapping_add(values.start * rhs.1 + j), rhs.1),
                    };
                    let c = dst.0.add(top * dst.1 + j * dst.2);
                    let (c_stride, alpha) = (dst.1, self.alpha);
                    let call = Call { k, a, a_stride, b, b_stride, c, c_stride, alpha, accumulate };
                    let kernel = kernels.get(rows, vectors, by_rows);
                    if dst.2 == 1 && cols == width {
                        kernel(&call);
                    } else {
                        through_copy(kernel, call, [rows, cols], width, dst.2);
                    }
                }
            }
        }
    }
}

/// Room for a strip of the left operand, when it is to be packed, and what was packed of the right one.
struct Packed<'s> {
    left: Option<&'s mut [f32]>,
    right: Right<'s>,
}

/// Panels of the right operand, from column `first` on.
struct Right<'s> {
    panels: &'s [f32],
    first: usize,
}

impl Right<'_> {
    /// The panel that begins with column `j`, `k` deep, when it was packed.
    fn panel(&self, j: usize, k: usize) -> Option<&[f32]> {
        Some(&self.panels[j.checked_sub(self.first)? * k..])
    }
}

/// Into how many equal pieces `whole` is cut when none may be longer than `most`: piece `i` begins at
/// `i * whole / pieces`.
fn pieces(whole: usize, most: usize) -> usize {
    whole.div_ceil(most.max(1)).max(1)
}

/// A tile whose columns do not lie side by side, or are fewer than the kernel's.
///
/// # Safety
/// As for the kernel, but with `rows` and `cols` of the output at `call.c` with strides `call.c_stride` and
/// `col_stride`.
unsafe fn through_copy(
    kernel: Kernel,
    call: Call,
    [rows, cols]: [usize; 2],
    width: usize,
    col_stride: usize,
) {
    let mut copy = [0f32; MOST_TILE];
    // SAFETY: the caller's.
    unsafe {
        if call.accumulate {
            for i in 0..rows {
                for j in 0..cols {
                    copy[i * width + j] = *call.c.add(i * call.c_stride + j * col_stride);
                }
            }
        }
        kernel(&Call { c: copy.as_mut_ptr(), c_stride: width, ..call });
        for i in 0..rows {
            for j in 0..cols {
                *call.c.add(i * call.c_stride + j * col_stride) = copy[i * width + j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the elements of a matrix `[rows, cols]` lie.
    #[derive(Clone, Copy, Debug)]
    enum Layout {
        Rows,
        Columns,
        /// Every third value, rows further apart than they are long.
        Apart,
    }

    impl Layout {
        fn strides(self, [rows, cols]: [usize; 2]) -> (usize, usize) {
            match self {
                Layout::Rows => (cols + 5, 1),
                Layout::Columns => (1, rows + 3),
                Layout::Apart => (3 * cols + 1, 3),
            }
        }
    }

    /// Never read as an element, never to be written.
    const ELSEWHERE: f32 = 1e30;

    struct Matrix {
        values: Vec<f32>,
        sizes: [usize; 2],
        strides: (usize, usize),
    }

    impl Matrix {
        /// Whole numbers from -8 to 8, so that sums of up to a thousand products are exact in f32.
        fn new(seed: usize, sizes: [usize; 2], layout: Layout) -> Matrix {
            let strides = layout.strides(sizes);
            let [rows, cols] = sizes;
            let len = if rows * cols == 0 { 0 } else { (rows - 1) * strides.0 + (cols - 1) * strides.1 + 1 };
            let mut matrix = Matrix { values: vec![ELSEWHERE; len], sizes, strides };
            for i in 0..rows {
                for j in 0..cols {
                    let at = i * strides.0 + j * strides.1;
                    matrix.values[at] = ((seed + 7 * i + 13 * j + i * j) * 31 % 17) as f32 - 8.0;
                }
            }
            matrix
        }

        fn get(&self, i: usize, j: usize) -> i64 {
            self.values[i * self.strides.0 + j * self.strides.1] as i64
        }

        fn block(&self) -> Block {
            (self.values.as_ptr(), self.strides.0, self.strides.1)
        }
    }

    fn layout() -> impl Strategy<Value = Layout> {
        prop_oneof![Just(Layout::Rows), Just(Layout::Columns), Just(Layout::Apart)]
    }

    /// A size: mostly around the sides of tiles.
    fn size(most: usize) -> impl Strategy<Value = usize> {
        prop_oneof![0..=20usize, 60..=70usize, 0..=most]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Oracle: whole numbers, in i64. Every kernel, every layout of every block; what lies between elements stays.
        #[test]
        fn is_exact(
            (m, n, k) in (size(200), size(200), size(600)),
            (lhs, rhs, dst) in (layout(), layout(), layout()),
            accumulate: bool,
        ) {
            for kernels in Kernels::all() {
                let (a, b) = (Matrix::new(1, [m, k], lhs), Matrix::new(2, [k, n], rhs));
                let (mut c, old) = (Matrix::new(3, [m, n], dst), Matrix::new(3, [m, n], dst));
                let write = if accumulate { Write::Accumulate } else { Write::Store };
                let to = (c.values.as_mut_ptr(), c.strides.0, c.strides.1);
                let product =
                    Product { kernels, m, n, k, dst: to, write, alpha: 2.0, lhs: a.block(), rhs: b.block(), part: Part::Whole };
                // SAFETY: the blocks are those of the three matrices.
                unsafe { product.run() };
                for i in 0..m {
                    for j in 0..n {
                        let sum: i64 = (0..k).map(|p| a.get(i, p) * b.get(p, j)).sum();
                        let before = if accumulate { old.get(i, j) } else { 0 };
                        prop_assert_eq!(c.get(i, j), before + 2 * sum, "({}, {}) with {}", i, j, kernels.describe());
                    }
                }
                let touched = c.values.iter().filter(|&&x| x != ELSEWHERE).count();
                prop_assert_eq!(touched, m * n, "values between the elements were written");
                prop_assert_eq!(c.sizes, [m, n]);
            }
        }
    }

    #[test]
    fn transposes_what_is_asked_for_and_nothing_else() {
        for (rows, cols) in [(1, 1), (3, 40), (16, 16), (17, 33), (64, 5), (50, 100)] {
            let (stride, to_stride) = (cols + 3, rows + 2);
            let from: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            let mut to = vec![ELSEWHERE; cols * to_stride];
            transpose(&from, stride, [rows, cols], &mut to, to_stride);
            for (at, &value) in to.iter().enumerate() {
                let (j, i) = (at / to_stride, at % to_stride);
                assert_eq!(
                    value,
                    if i < rows { from[i * stride + j] } else { ELSEWHERE },
                    "[{rows}, {cols}]"
                );
            }
        }
    }

    /// A left operand whose columns are packed by several strips at once: equally long ones, and others.
    #[test]
    fn is_exact_with_strips_packed_together() {
        for (kernels, m) in
            Kernels::all().into_iter().flat_map(|all| [130, 144, 145, 200, 240, 256].map(|m| (all, m)))
        {
            let (n, k) = (200, 300);
            let (a, b) = (Matrix::new(1, [m, k], Layout::Columns), Matrix::new(2, [k, n], Layout::Rows));
            let mut c = Matrix::new(3, [m, n], Layout::Rows);
            let (dst, write, lhs, rhs) =
                ((c.values.as_mut_ptr(), c.strides.0, 1), Write::Store, a.block(), b.block());
            // SAFETY: the blocks are those of the three matrices.
            unsafe {
                Product { kernels, m, n, k, dst, write, alpha: 1.0, lhs, rhs, part: Part::Whole }.run()
            };
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let sum: i64 = (0..k).map(|p| a.get(i, p) * b.get(p, j)).sum();
                assert_eq!(c.get(i, j), sum, "({i}, {j}) of {m} rows with {}", kernels.describe());
            }
        }
    }

    /// Blocks of a long product: several of columns, several pieces of K.
    #[test]
    fn is_exact_over_many_blocks() {
        let (m, n, k) = (13, 1500, 1001);
        for kernels in Kernels::all() {
            let (a, b) = (Matrix::new(1, [m, k], Layout::Rows), Matrix::new(2, [k, n], Layout::Columns));
            let mut c = Matrix::new(3, [m, n], Layout::Rows);
            let (dst, write, lhs, rhs) =
                ((c.values.as_mut_ptr(), c.strides.0, c.strides.1), Write::Store, a.block(), b.block());
            // SAFETY: the blocks are those of the three matrices.
            unsafe {
                Product { kernels, m, n, k, dst, write, alpha: 1.0, lhs, rhs, part: Part::Whole }.run()
            };
            for i in 0..m {
                for j in 0..n {
                    let sum: i64 = (0..k).map(|p| a.get(i, p) * b.get(p, j)).sum();
                    assert_eq!(c.get(i, j), sum, "({i}, {j}) with {}", kernels.describe());
                }
            }
        }
    }

    /// Sides that no tile divides, and a corner of one: what is on the diagonal and above it is that of the whole product,
    /// and nothing is written beyond the matrix.
    #[test]
    fn is_exact_above_the_diagonal() {
        for (kernels, side) in
            Kernels::all().into_iter().flat_map(|all| [5, 47, 49, 97, 200].map(|side| (all, side)))
        {
            for (layout, k) in
                [(Layout::Rows, 41), (Layout::Columns, 41), (Layout::Columns, 530), (Layout::Apart, 7)]
            {
                let (a, b) = (Matrix::new(1, [side, k], layout), Matrix::new(2, [k, side], layout));
                let mut c = Matrix::new(3, [side, side], Layout::Rows);
                let (dst, write) = ((c.values.as_mut_ptr(), c.strides.0, 1), Write::Store);
                let (m, n, lhs, rhs, part) = (side, side, a.block(), b.block(), Part::AboveDiagonal);
                // SAFETY: the blocks are those of the three matrices.
                unsafe { Product { kernels, m, n, k, dst, write, alpha: 1.0, lhs, rhs, part }.by_blocks() };
                for (i, j) in (0..side).flat_map(|i| (i..side).map(move |j| (i, j))) {
                    let sum: i64 = (0..k).map(|p| a.get(i, p) * b.get(p, j)).sum();
                    assert_eq!(c.get(i, j), sum, "({i}, {j}) of {side}, {layout:?}, {}", kernels.describe());
                }
                let touched = c.values.iter().filter(|&&x| x != ELSEWHERE).count();
                assert_eq!(touched, side * side, "values between the elements were written");
            }
        }
    }

    /// What is no number must not reach other elements: not from the padding, not from the next row, not from the other
    /// half of a pair.
    #[test]
    fn a_nan_stays_in_its_row_and_column() {
        let (m, n) = (9, 21);
        let layouts = [Layout::Rows, Layout::Columns, Layout::Apart];
        for (kernels, layout) in
            Kernels::all().into_iter().flat_map(|all| layouts.map(|layout| (all, layout)))
        {
            for k in [40, 41] {
                let (mut a, mut b) = (Matrix::new(1, [m, k], layout), Matrix::new(2, [k, n], layout));
                let place = |of: &Matrix, i: usize, j: usize| i * of.strides.0 + j * of.strides.1;
                for (i, p) in (0..m).flat_map(|i| (0..k).map(move |p| (i, p))) {
                    let at = place(&a, i, p);
                    a.values[at] = 1.0;
                }
                for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
                    let at = place(&b, p, j);
                    b.values[at] = 1.0;
                }
                let (nan, infinity) = (place(&a, 4, 7), place(&b, k - 1, 20));
                (a.values[nan], b.values[infinity]) = (f32::NAN, f32::INFINITY);
                let mut c = vec![0f32; m * n];
                let (dst, write, lhs, rhs) = ((c.as_mut_ptr(), n, 1), Write::Store, a.block(), b.block());
                // SAFETY: the blocks are those of the three matrices.
                unsafe {
                    Product { kernels, m, n, k, dst, write, alpha: 1.0, lhs, rhs, part: Part::Whole }.run()
                };
                for (at, &value) in c.iter().enumerate() {
                    match (at / n, at % n) {
                        (4, _) => assert!(value.is_nan()),
                        (_, 20) => assert_eq!(value, f32::INFINITY),
                        _ => assert_eq!(value, k as f32, "{layout:?}, {}", kernels.describe()),
                    }
                }
            }
        }
    }
}

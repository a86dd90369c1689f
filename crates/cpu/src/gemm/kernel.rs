//! The micro-kernels: a tile of the output in registers, for each instruction set and precision.
//!
//! A tile is R rows of V vectors. For every step along K a kernel loads V vectors of the right operand and, for each
//! row, spreads one value of the left one over a vector: R V multiply-adds for R + V loads. With AVX-512 six rows of
//! four vectors fill 24 of the 32 registers: a core that issues two multiply-adds and two loads in a cycle needs 12
//! cycles for the ones and 5 for the others. Twelve rows of two vectors need 7, and were slower wherever two threads
//! share a core. With AVX2 six rows of two vectors fill 12 of 16 registers.
//!
//! A step along K is one f32 of an operand, or a pair of bf16 in as many bytes: the even position of K in the lower half,
//! the odd one in the upper. AVX512-BF16 multiplies both and adds them to a sum in one instruction. Elsewhere a pair is
//! taken apart, which is exact, and multiplied by two multiply-adds in the order that is documented for that
//! instruction, the upper half first; the two were not compared on a machine that has it. That is somewhat slower than
//! f32. What is taken apart needs registers, so that those tiles are smaller.
//!
//! Two things made up a quarter of the time when they were missing: a right operand that lies at a multiple of 64 bytes,
//! so that no vector straddles two cache lines, and its prefetch, as it streams from the second-level cache.

use std::array;

use crate::Precision;
use crate::bf16::UPPER;
#[cfg(target_arch = "x86_64")]
use crate::simd::{self, Level};

/// What one call of a micro-kernel does: `c [R, V * lanes] = alpha * a [R, k] · b [k, V * lanes]`, or `+=`. Where the
/// operands are pairs of bf16, `k` counts pairs, and what `a` and `b` point at are their bits.
///
/// Value (i, p) of the left operand is at `a + i * a_stride + p` for a kernel that reads by rows, at
/// `a + i + p * a_stride` for one that reads by columns; row p of the right operand begins at `b + p * b_stride`, row
/// i of the output at `c + i * c_stride`.
pub(super) struct Call {
    pub(super) k: usize,
    pub(super) a: *const f32,
    pub(super) a_stride: usize,
    pub(super) b: *const f32,
    pub(super) b_stride: usize,
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

/// A micro-kernel.
///
/// # Safety
/// Everything that [`Call`] names must be in bounds of live memory, nothing else may access `c`, and the machine must
/// have the kernel's instruction set.
pub(super) type Kernel = unsafe fn(&Call);

/// Transposes a square: `to [lanes, lanes]` from `from`, with the distance of their rows.
///
/// # Safety
/// Both squares must lie in live memory, and the machine must have the instruction set.
pub(super) type Square = unsafe fn(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

/// The micro-kernels of an instruction set and a precision.
pub(super) struct Kernels {
    /// Values of the output in a vector.
    pub(super) lanes: usize,
    /// Values of an operand in a step along K: an f32, or two bf16.
    pub(super) per_step: usize,
    /// The transposition of a square of vectors.
    pub(super) square: Square,
    /// By vectors in a row, then by rows, both from one on.
    by_rows: &'static [&'static [Kernel]],
    by_columns: &'static [&'static [Kernel]],
}

impl Kernels {
    /// Those of this machine.
    pub(super) fn of_machine(precision: Precision) -> &'static Kernels {
        #[cfg(target_arch = "x86_64")]
        match (simd::level(), precision) {
            (Level::Avx512, Precision::F32) => return &avx512::F32,
            (Level::Avx512, Precision::Bf16) if simd::has_bf16() => return &avx512::BF16,
            (Level::Avx512, Precision::Bf16) => return &avx512::BF16_APART,
            (Level::Avx2, Precision::F32) => return &avx2::F32,
            (Level::Avx2, Precision::Bf16) => return &avx2::BF16_APART,
            (Level::Baseline, _) => {}
        }
        match precision {
            Precision::F32 => &portable::F32,
            Precision::Bf16 => &portable::BF16_APART,
        }
    }

    /// All that this machine can run.
    #[cfg(test)]
    pub(super) fn all() -> Vec<&'static Kernels> {
        #[allow(unused_mut)]
        let mut all = vec![&portable::F32, &portable::BF16_APART];
        #[cfg(target_arch = "x86_64")]
        {
            if simd::level() >= Level::Avx2 {
                all.extend([&avx2::F32, &avx2::BF16_APART]);
            }
            if simd::level() >= Level::Avx512 {
                all.extend([&avx512::F32, &avx512::BF16_APART]);
                all.extend(simd::has_bf16().then_some(&avx512::BF16));
            }
        }
        all
    }

    /// For who reads of a failed test.
    #[cfg(test)]
    pub(super) fn describe(&self) -> String {
        let Kernels { lanes, per_step, .. } = self;
        format!("{lanes} lanes, {per_step} to a step, tiles of {} vectors", self.most_vectors())
    }

    /// The most vectors in a row of a tile.
    pub(super) fn most_vectors(&self) -> usize {
        self.by_rows.len()
    }

    /// The most rows of a tile.
    pub(super) fn most_rows(&self) -> usize {
        self.by_rows[0].len()
    }

    /// The kernel of a tile of `rows` of `vectors`, both from 1.
    pub(super) fn get(&self, rows: usize, vectors: usize, by_rows: bool) -> Kernel {
        (if by_rows { self.by_rows } else { self.by_columns })[vectors - 1][rows - 1]
    }
}

/// Asks for the cache line at `at`, in bounds or not.
#[inline(always)]
pub(super) fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches nothing that a program can see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The same pointer, of which the compiler no longer knows where it came from. It would compute the rows' addresses one
/// from the other, at the cost of an addition each.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "it follows no pointer")]
fn opaque(pointer: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let pointer = {
        let mut pointer = pointer;
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
        }
        pointer
    };
    pointer
}

/// Rows of a tile that one pointer reaches: at none, one, two and three strides.
const REACH: usize = 4;

/// The body of the kernels and their table. Where it is used there are `LANES`, `AHEAD`, `square` and the operations on
/// vectors; `$add(left, right, sum)` adds the products of a step.
macro_rules! micro_kernels {
    (@tiles $tile:ident [$($rows:literal)*] $vectors:literal $by_rows:literal) => {
        &[$($tile::<$rows, $vectors, $by_rows>),*]
    };
    ($table:ident, $tile:ident: $rows:tt of [$($vectors:literal)*], $per_step:literal by $add:ident $(with $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $tile<const R: usize, const V: usize, const BY_ROWS: bool>(call: &Call) {
            const { assert!(R <= 2 * REACH) };
            let Call { k, a, a_stride, mut b, b_stride, c, c_stride, alpha, accumulate } = *call;
            // SAFETY: the caller's, for all that follows.
            unsafe {
                for i in 0..R {
                    for v in 0..V {
                        prefetch(c.add(i * c_stride + v * LANES));
                    }
                }
                let mut sums = [[zero(); V]; R];
                let mut a: [*const f32; 2] =
                    array::from_fn(|half| if BY_ROWS { a.wrapping_add((REACH * half).wrapping_mul(a_stride)) } else { a });
                for _ in 0..k {
                    let right: [_; V] = array::from_fn(|v| load(b.add(v * LANES)));
                    for v in 0..V {
                        prefetch(b.wrapping_add(AHEAD.wrapping_mul(b_stride).wrapping_add(v * LANES)));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let left =
                            if BY_ROWS { a[i / REACH].add(i % REACH * a_stride) } else { a[0].add(i) };
                        let left = spread(*left);
                        for v in 0..V {
                            sums[v] = $add(left, right[v], sums[v]);
                        }
                    }
                    b = b.wrapping_add(b_stride);
                    a = a.map(|a| opaque(a.wrapping_add(if BY_ROWS { 1 } else { a_stride })));
                }
                let alpha = spread(alpha);
                for (i, sums) in sums.into_iter().enumerate() {
                    for (v, sum) in sums.into_iter().enumerate() {
                        let at = c.add(i * c_stride + v * LANES);
                        let old = if accumulate { load(at) } else { zero() };
                        store(at, multiply_add(alpha, sum, old));
                    }
                }
            }
        }

        pub(super) static $table: Kernels = Kernels {
            lanes: LANES,
            per_step: $per_step,
            square,
            by_rows: &[$(micro_kernels! { @tiles $tile $rows $vectors true }),*],
            by_columns: &[$(micro_kernels! { @tiles $tile $rows $vectors false }),*],
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Call, Kernels, REACH, UPPER, array, opaque, prefetch};
    use std::arch::x86_64::{
        __m512, __m512bh, _mm512_and_si512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512,
        _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps as multiply_add, _mm512_loadu_ps as load,
        _mm512_set1_epi32, _mm512_set1_ps as spread, _mm512_setzero_ps as zero, _mm512_shuffle_f32x4,
        _mm512_slli_epi32, _mm512_storeu_ps as store, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    const LANES: usize = 16;
    /// Rows of the right operand that are asked for ahead: 6 take some 70 cycles, a miss of the first-level cache 14.
    const AHEAD: usize = 6;

    micro_kernels! { F32, tile: [1 2 3 4 5 6] of [1 2 3 4], 1 by multiply_add with "avx512f,avx2,fma" }
    micro_kernels! { BF16, bf16_tile: [1 2 3 4 5 6] of [1 2 3 4], 2 by multiply_add_pairs with "avx512f,avx512bf16,avx2,fma" }
    micro_kernels! { BF16_APART, apart_tile: [1 2 3 4 5 6] of [1 2 3], 2 by multiply_add_apart with "avx512f,avx2,fma" }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn multiply_add_pairs(left: __m512, right: __m512, sum: __m512) -> __m512 {
        // SAFETY: vectors of 512 bits, of which every pattern is one of bf16.
        let [left, right] =
            [left, right].map(|pairs| unsafe { std::mem::transmute::<__m512, __m512bh>(pairs) });
        _mm512_dpbf16_ps(sum, left, right)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn multiply_add_apart(left: __m512, right: __m512, sum: __m512) -> __m512 {
        let sum = multiply_add(upper(left), upper(right), sum);
        multiply_add(lower(left), lower(right), sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn upper(pairs: __m512) -> __m512 {
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(UPPER as i32)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn lower(pairs: __m512) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pairs)))
    }

    /// By halves: pairs of rows interleaved by values, then by pairs of values, then quarters of vectors by quarters.
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        let rows: [__m512; 16] = array::from_fn(|i| unsafe { load(from.add(i * from_stride)) });
        let pairs: [__m512; 16] = array::from_fn(|i| {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
        });
        // fours[4 g + c]: of rows 4 g to 4 g + 3, columns c, c + 4, c + 8, c + 12, a quarter each.
        let fours: [__m512; 16] = array::from_fn(|i| {
            let first = (i & !3) + i / 2 % 2;
            let (a, b) = (_mm512_castps_pd(pairs[first]), _mm512_castps_pd(pairs[first + 2]));
            _mm512_castpd_ps(if i % 2 == 0 { _mm512_unpacklo_pd(a, b) } else { _mm512_unpackhi_pd(a, b) })
        });
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        for c in 0..4 {
            let (a, b) = (
                [
                    _mm512_shuffle_f32x4::<EVEN>(fours[c], fours[4 + c]),
                    _mm512_shuffle_f32x4::<ODD>(fours[c], fours[4 + c]),
                ],
                [
                    _mm512_shuffle_f32x4::<EVEN>(fours[8 + c], fours[12 + c]),
                    _mm512_shuffle_f32x4::<ODD>(fours[8 + c], fours[12 + c]),
                ],
            );
            for odd in 0..2 {
                // SAFETY: the caller's.
                unsafe {
                    let at = to.add((4 * odd + c) * to_stride);
                    store(at, _mm512_shuffle_f32x4::<EVEN>(a[odd], b[odd]));
                    store(at.add(8 * to_stride), _mm512_shuffle_f32x4::<ODD>(a[odd], b[odd]));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Call, Kernels, REACH, UPPER, array, opaque, prefetch};
    use std::arch::x86_64::{
        __m256, _mm256_and_si256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps_si256,
        _mm256_castsi256_ps, _mm256_fmadd_ps as multiply_add, _mm256_loadu_ps as load,
        _mm256_permute2f128_ps, _mm256_set1_epi32, _mm256_set1_ps as spread, _mm256_setzero_ps as zero,
        _mm256_slli_epi32, _mm256_storeu_ps as store, _mm256_unpackhi_pd, _mm256_unpackhi_ps,
        _mm256_unpacklo_pd, _mm256_unpacklo_ps,
    };

    const LANES: usize = 8;
    const AHEAD: usize = 8;

    micro_kernels! { F32, tile: [1 2 3 4 5 6] of [1 2], 1 by multiply_add with "avx2,fma" }
    micro_kernels! { BF16_APART, apart_tile: [1 2 3 4] of [1 2], 2 by multiply_add_apart with "avx2,fma" }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_add_apart(left: __m256, right: __m256, sum: __m256) -> __m256 {
        let sum = multiply_add(upper(left), upper(right), sum);
        multiply_add(lower(left), lower(right), sum)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn upper(pairs: __m256) -> __m256 {
        _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), _mm256_set1_epi32(UPPER as i32)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn lower(pairs: __m256) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)))
    }

    /// As with AVX-512, by halves of vectors in the end.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        let rows: [__m256; 8] = array::from_fn(|i| unsafe { load(from.add(i * from_stride)) });
        let pairs: [__m256; 8] = array::from_fn(|i| {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
        });
        // fours[4 g + c]: of rows 4 g to 4 g + 3, columns c and c + 4.
        let fours: [__m256; 8] = array::from_fn(|i| {
            let first = (i & !3) + i / 2 % 2;
            let (a, b) = (_mm256_castps_pd(pairs[first]), _mm256_castps_pd(pairs[first + 2]));
            _mm256_castpd_ps(if i % 2 == 0 { _mm256_unpacklo_pd(a, b) } else { _mm256_unpackhi_pd(a, b) })
        });
        for c in 0..4 {
            // SAFETY: the caller's.
            unsafe {
                store(to.add(c * to_stride), _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]));
                store(to.add((4 + c) * to_stride), _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]));
            }
        }
    }
}

/// Plain arrays, which LLVM makes SSE2 of, or NEON.
mod portable {
    use super::{Call, Kernels, REACH, UPPER, array, opaque, prefetch};

    const LANES: usize = 4;
    const AHEAD: usize = 8;

    #[inline(always)]
    fn zero() -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    fn spread(value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller's; an array needs no more alignment than its values.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: [f32; LANES]) {
        // SAFETY: as for `load`.
        unsafe { *to.cast() = value }
    }

    #[inline(always)]
    fn multiply_add(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| crate::simd::mul_add::<{ cfg!(target_arch = "aarch64") }>(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn multiply_add_apart(left: [f32; LANES], right: [f32; LANES], sum: [f32; LANES]) -> [f32; LANES] {
        let upper = |pairs: [f32; LANES]| pairs.map(|pair| f32::from_bits(pair.to_bits() & UPPER));
        let lower = |pairs: [f32; LANES]| pairs.map(|pair| f32::from_bits(pair.to_bits() << 16));
        let sum = multiply_add(upper(left), upper(right), sum);
        multiply_add(lower(left), lower(right), sum)
    }

    // 24 of NEON's 32 registers, 12 of SSE2's 16.
    #[cfg(target_arch = "aarch64")]
    micro_kernels! { F32, tile: [1 2 3 4 5 6] of [1 2 3 4], 1 by multiply_add }
    #[cfg(not(target_arch = "aarch64"))]
    micro_kernels! { F32, tile: [1 2 3 4 5 6] of [1 2], 1 by multiply_add }
    #[cfg(target_arch = "aarch64")]
    micro_kernels! { BF16_APART, apart_tile: [1 2 3 4 5 6] of [1 2 3], 2 by multiply_add_apart }
    #[cfg(not(target_arch = "aarch64"))]
    micro_kernels! { BF16_APART, apart_tile: [1 2 3 4] of [1 2], 2 by multiply_add_apart }

    unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let rows: [[f32; LANES]; LANES] = array::from_fn(|i| load(from.add(i * from_stride)));
            for j in 0..LANES {
                store(to.add(j * to_stride), array::from_fn(|i| rows[i][j]));
            }
        }
    }
}

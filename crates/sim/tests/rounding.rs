//! What the profiles do to f16 values. Expected values follow from the definition of f16: 11
//! significant bits, so steps are 2 from 2,048, 8 from 8,192, 16 from 16,384, 32 from 32,768.

mod common;

use common::{normal, rng};
use mil::{Builder, Element, Op, Program, ValueId};
use sim::Profile;

/// y = build(x) in f16, or in f32.
fn program(
    element: Element,
    shape: &[usize],
    build: impl FnOnce(&mut Builder, ValueId) -> mil::Result<ValueId>,
) -> Program {
    let mut b = Builder::new(element);
    let x = b.input("x", shape).unwrap();
    let y = build(&mut b, x).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

fn apply(program: &Program, profile: &Profile, x: &[f32]) -> Vec<f32> {
    sim::run(program, profile, &[("x", x)]).unwrap().remove("y").unwrap()
}

fn sum(shape: &[usize], axis: usize) -> Program {
    program(Element::F16, shape, |b, x| {
        b.push1(Op::ReduceSum { axes: vec![axis as i32], keep_dims: false }, &[x])
    })
}

fn ones_product(extent: usize) -> Program {
    program(Element::F16, &[1, 1, 1, extent], |b, x| {
        let ones = b.full(&[1, 1, extent, 1], 1.0);
        b.matmul(x, ones, false, false)
    })
}

/// Oracle: 2,048 + 1 is a tie that goes to the even 2,048, so an f16 sum of ones never passes it.
#[test]
fn reduce_sum_sticks_where_a_product_with_ones_does_not() {
    let ones = [1.0; 4096];
    for (shape, axis) in [(vec![1, 4096], 1), (vec![4096, 1], 0), (vec![1, 4096, 1], 1)] {
        assert_eq!(apply(&sum(&shape, axis), &Profile::m4(), &ones), [2_048.0]);
        assert_eq!(apply(&sum(&shape, axis), &Profile::exact(), &ones), [4_096.0]);
    }
    assert_eq!(apply(&ones_product(4096), &Profile::m4(), &ones), [4_096.0]);
    // The same with rows, where many sums run side by side.
    let rows = apply(&sum(&[4096, 3], 0), &Profile::m4(), &[1.0; 3 * 4096]);
    assert_eq!(rows, [2_048.0; 3]);
}

/// Oracle: adding 0.25 to 1,024 leaves it, because a step there is 1; the wide sum is 1,152.
#[test]
fn small_values_vanish_next_to_a_large_f16_sum() {
    let mut x = vec![0.25; 513];
    x[0] = 1_024.0;
    assert_eq!(apply(&sum(&[513], 0), &Profile::m4(), &x), [1_024.0]);
    assert_eq!(apply(&ones_product(513), &Profile::m4(), &x), [1_152.0]);
    let mean = program(Element::F16, &[513], |b, x| {
        b.push1(Op::ReduceMean { axes: vec![0], keep_dims: false }, &[x])
    });
    let expected = |sum: f32| Element::F16.round(sum / 513.0);
    assert_eq!(apply(&mean, &Profile::m4(), &x), [expected(1_024.0)]);
    assert_eq!(apply(&mean, &Profile::exact(), &x), [expected(1_152.0)]);
}

/// The published probes: a dot product of 16,384 ones is exact, and 1 survives next to 16,000
/// inside the sum.
#[test]
fn products_accumulate_wide() {
    assert_eq!(apply(&ones_product(16_384), &Profile::m1(), &[1.0; 16_384]), [16_384.0]);
    let x = [16_000.0, 1.0, -16_000.0];
    assert_eq!(apply(&ones_product(3), &Profile::m4(), &x), [1.0]);
}

/// Oracle: 32,759 rounds to 32,752 and 32,760 to 32,768 (a tie to even), which lies beyond the
/// cliff; 32,759 is the last finite integer of the published probe.
#[test]
fn products_beyond_the_cliff_are_infinite() {
    let product = ones_product(2);
    let of = |profile: &Profile, rest: f32| apply(&product, profile, &[32_736.0, rest])[0];
    for name in ["m1", "m2", "m3", "m4", "m5"] {
        let profile = Profile::by_name(name).unwrap();
        assert_eq!(of(&profile, 16.0), sim::PRODUCT_LIMIT);
        assert_eq!(of(&profile, 23.0), sim::PRODUCT_LIMIT);
        assert_eq!(of(&profile, 24.0), f32::INFINITY);
        assert_eq!(apply(&product, &profile, &[-32_736.0, -24.0]), [f32::NEG_INFINITY]);
    }
    assert_eq!(of(&Profile::exact(), 24.0), 32_768.0);
    // Only products: an addition reaches to the end of f16.
    let twice = program(Element::F16, &[1], |b, x| b.add(x, x));
    assert_eq!(apply(&twice, &Profile::m4(), &[32_000.0]), [64_000.0]);
    let conv = program(Element::F16, &[1, 2, 1, 1], |b, x| {
        let weight = b.full(&[1, 2, 1, 1], 1.0);
        let op = mil::ops::examples().into_iter().find(|e| e.op.name() == "conv").unwrap().op;
        b.push1(op, &[x, weight])
    });
    assert_eq!(apply(&conv, &Profile::m4(), &[32_736.0, 24.0]), [f32::INFINITY]);
}

#[test]
fn products_are_rounded_when_the_switch_says_so() {
    // (1 + 2^-10)² = 1 + 2^-9 + 2^-20; the last term is lost in f16, and cancels to it otherwise.
    let step = 2.0_f32.powi(-10);
    let square = program(Element::F16, &[1, 2], |b, x| b.matmul(x, x, false, true));
    let dot = program(Element::F16, &[1, 2], |b, x| {
        let y = b.constant(mil::Constant::float(Element::F16, &[2, 1], [1.0 + step, -(1.0 + 2.0 * step)]));
        b.matmul(x, y, false, false)
    });
    let mut rounding = Profile::m4();
    rounding.round_products = true;
    let x = [1.0 + step, 1.0];
    assert_eq!(apply(&dot, &Profile::m4(), &x), [2.0_f32.powi(-20)]);
    assert_eq!(apply(&dot, &rounding, &x), [0.0]);
    // Where every product is exact the two agree, whatever the layout.
    let x = [3.0, -5.0];
    assert_eq!(apply(&square, &rounding, &x), apply(&square, &Profile::m4(), &x));
}

#[test]
fn subnormals_are_kept_or_flushed() {
    let half = program(Element::F16, &[3], |b, x| b.scale(x, 0.5));
    let x = [2.0 * sim::SMALLEST_NORMAL, sim::SMALLEST_NORMAL, -2.0_f32.powi(-20)];
    let kept = [sim::SMALLEST_NORMAL, sim::SMALLEST_NORMAL / 2.0, -2.0_f32.powi(-21)];
    assert_eq!(apply(&half, &Profile::m4(), &x), kept);
    let mut flushing = Profile::m4();
    flushing.flush_subnormals = true;
    assert_eq!(apply(&half, &flushing, &x), [sim::SMALLEST_NORMAL, 0.0, 0.0]);
}

#[test]
fn nan_is_propagated_unless_the_switch_is_off() {
    let zero_by_zero = program(Element::F16, &[1], |b, x| b.real_div(x, x));
    assert!(apply(&zero_by_zero, &Profile::m4(), &[0.0])[0].is_nan());
    let mut silent = Profile::m4();
    silent.propagate_nan = false;
    assert_eq!(apply(&zero_by_zero, &silent, &[0.0]), [0.0]);
    for op in [Op::Maximum, Op::Minimum, Op::Add] {
        for x in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let both = program(Element::F16, &[2], |b, x| {
                let (a, c) = (b.slice(x, &[0], &[1])?, b.slice(x, &[1], &[1])?);
                b.push1(op.clone(), &[a, c])
            });
            assert!(apply(&both, &Profile::m4(), &x)[0].is_nan(), "{op:?}");
        }
    }
}

/// Rule ANE-054: on M1 and M2 only, on the last axis only, with an offset only.
#[test]
fn slices_off_the_left_edge_lose_large_values_on_m1_and_m2() {
    let slice = |begin: [usize; 2], size: [usize; 2]| {
        program(Element::F16, &[2, 3], move |b, x| b.slice(x, &begin, &size))
    };
    let x = [1.0, 4_092.0, 4_096.0, 5_000.0, -6_000.0, 7.0];
    let shifted = slice([0, 1], [2, 2]);
    let (plus, minus) = (f32::INFINITY, f32::NEG_INFINITY);
    for profile in [Profile::m1(), Profile::m2()] {
        assert_eq!(apply(&shifted, &profile, &x), [4_092.0, plus, minus, 7.0]);
        assert_eq!(apply(&slice([1, 0], [1, 2]), &profile, &x), [5_000.0, -6_000.0]);
    }
    for profile in [Profile::m4(), Profile::m5(), Profile::exact()] {
        assert_eq!(apply(&shifted, &profile, &x), [4_092.0, 4_096.0, -6_000.0, 7.0]);
    }
}

/// Oracle: f64 arithmetic rounded once.
#[test]
fn every_result_is_the_wide_one_rounded_once() {
    let x = normal(&mut rng(3), 5_000, 2.0);
    let x: Vec<f32> = x.iter().map(|v| Element::F16.round(*v)).collect();
    let y = program(Element::F16, &[5_000], |b, x| {
        let third = b.scale(x, 0.3)?;
        b.mul(third, x)
    });
    let factor = f64::from(Element::F16.round(0.3));
    let round = |v: f64| f64::from(half::f16::from_f64(v).to_f32());
    for (y, x) in apply(&y, &Profile::m4(), &x).iter().zip(&x) {
        let x = f64::from(*x);
        assert_eq!(f64::from(*y), round(round(x * factor) * x));
    }
}

#[test]
fn casts_are_towards_zero_and_epsilons_are_of_the_programs_type() {
    let to = |dtype| {
        program(Element::F32, &[5], move |b, x| {
            let cast = b.push1(Op::Cast { dtype }, &[x])?;
            b.push1(Op::Cast { dtype: mil::DType::F32 }, &[cast])
        })
    };
    let x = [1.9, -1.9, 0.0, 3e9, f32::NAN];
    let exact = Profile::exact();
    assert_eq!(apply(&to(mil::DType::I32), &exact, &x), [1.0, -1.0, 0.0, 2_147_483_648.0, 0.0]);
    assert_eq!(apply(&to(mil::DType::Bool), &exact, &x), [1.0, 1.0, 0.0, 1.0, 1.0]);
    assert_eq!(apply(&to(mil::DType::F16), &exact, &[0.1; 5]), [Element::F16.round(0.1); 5]);
    // 1e-8 is below f16's smallest, 6e-8 (rule ANE-061).
    let rsqrt = |element| program(element, &[1], |b, x| b.push1(Op::Rsqrt { epsilon: 1e-8 }, &[x]));
    assert_eq!(apply(&rsqrt(Element::F16), &exact, &[0.0]), [f32::INFINITY]);
    assert!((apply(&rsqrt(Element::F32), &exact, &[0.0])[0] - 1e4).abs() < 0.01);
}

/// Oracle: by hand. 0.5, 1.5 and 2.5 steps go to the even neighbour; what lies beyond int8 stays at its ends; the
/// way back is a product.
#[test]
fn int8_is_rounded_to_even_and_kept_in_its_range() {
    let through = |element, scale: f32| {
        program(element, &[8], move |b, x| {
            let scale = b.scalar(scale);
            let whole = b.push1(Op::Quantize { output_dtype: mil::DType::I8 }, &[x, scale])?;
            b.push1(Op::Dequantize, &[whole, scale])
        })
    };
    let x = [0.125, 0.375, 0.625, -0.125, -0.375, 31.75, 31.875, -40.0];
    let expected = [0.0, 0.5, 0.5, 0.0, -0.5, 31.75, 31.75, -32.0];
    for element in [Element::F16, Element::F32] {
        assert_eq!(apply(&through(element, 0.25), &Profile::m4(), &x), expected);
    }
    // What is no number is 0, as an int8 has no other way to say it; infinities are the ends.
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0, 2.0, 3.0, 4.0];
    let kept = apply(&through(Element::F32, 0.25), &Profile::exact(), &odd);
    assert_eq!(kept, [0.0, 31.75, -32.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    // 0.1 in f16 is 0.0999756; seven of them are 0.69983, of which the nearest half is 0.7001953 - 2^-11.
    let tenth = half::f16::from_f32(0.1).to_f32();
    let seven = apply(&through(Element::F16, 0.1), &Profile::m4(), &[0.7; 8])[0];
    assert_eq!(seven, half::f16::from_f32(7.0 * tenth).to_f32());
}

//! Shape rules of random operands: what inference promises the interpreter gives, and what does
//! not fit is an error, never a panic.

use mil::{AttrValue, Builder, ConstData, Constant, DType, Element, Op, Program, TensorType};
use proptest::prelude::*;
use sim::Profile;

/// A program of one op, if it is one.
fn build(op: Op, operands: &[Vec<usize>]) -> mil::Result<Program> {
    let mut b = Builder::new(Element::F32);
    let mut args = Vec::new();
    for (i, shape) in operands.iter().enumerate() {
        args.push(b.input(&format!("x{i}"), shape)?);
    }
    let results = b.push(op, &args)?;
    for (i, result) in results.iter().enumerate() {
        b.output(&format!("y{i}"), *result)?;
    }
    b.finish()
}

/// Elements 0, 1, 2, … in every operand; each result by name order, its shape as inferred.
fn execute(op: Op, operands: &[Vec<usize>]) -> Option<Vec<(Vec<usize>, Vec<f32>)>> {
    let program = build(op, operands).ok()?;
    let values: Vec<Vec<f32>> =
        operands.iter().map(|shape| (0..shape.iter().product()).map(|i: usize| i as f32).collect()).collect();
    let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let interpreter = sim::Interpreter::new(&program, &Profile::exact()).expect("it was inferred");
    let outputs = interpreter.run(&slices).expect("inputs fit");
    let results = program.outputs().iter().map(|id| program.ty(*id).shape.clone());
    let results: Vec<_> = results.zip(outputs).collect();
    for (shape, values) in &results {
        assert_eq!(shape.iter().product::<usize>(), values.len());
    }
    Some(results)
}

/// The index of element `at` of `shape`, axis by axis.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = at % shape[axis];
        at /= shape[axis];
    }
    index
}

fn ravel(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (i, extent)| at * extent + i)
}

fn shape(max_rank: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..5, 0..=max_rank)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Oracle: NumPy's rule, element by element.
    #[test]
    fn broadcasting(full in shape(4), ones in prop::collection::vec(any::<[bool; 2]>(), 4), cut in 0_usize..4) {
        let of = |side: usize| -> Vec<usize> {
            full.iter().zip(&ones).map(|(e, one)| if one[side] { 1 } else { *e }).collect()
        };
        let (x, mut y) = (of(0), of(1));
        y.drain(..cut.min(y.len()));
        let results = execute(Op::Sub, &[x.clone(), y.clone()]).expect("they broadcast");
        let (out, values) = &results[0];
        for (at, value) in values.iter().enumerate() {
            let index = unravel(at, out);
            let read = |from: &[usize]| {
                let tail = &index[index.len() - from.len()..];
                let at: Vec<usize> = tail.iter().zip(from).map(|(i, e)| if *e == 1 { 0 } else { *i }).collect();
                ravel(&at, from) as f32
            };
            prop_assert_eq!(*value, read(&x) - read(&y));
        }
    }

    /// Oracle: three loops.
    #[test]
    fn products(
        (m, k, n) in (1_usize..6, 1_usize..6, 1_usize..6),
        (bx, by) in (1_usize..3, 1_usize..3),
        tx in any::<bool>(),
        ty in any::<bool>(),
    ) {
        let x = if tx { vec![bx, k, m] } else { vec![bx, m, k] };
        let y = if ty { vec![by, n, k] } else { vec![by, k, n] };
        let op = Op::Matmul { transpose_x: tx, transpose_y: ty };
        let fits = bx == by || bx == 1 || by == 1;
        let results = execute(op, &[x.clone(), y.clone()]);
        prop_assert_eq!(results.is_some(), fits);
        if let Some(results) = results {
            let (out, values) = &results[0];
            prop_assert_eq!(out, &vec![bx.max(by), m, n]);
            for (at, value) in values.iter().enumerate() {
                let [b, i, j] = unravel(at, out)[..] else { unreachable!("three axes") };
                let sum: usize = (0..k).map(|l| {
                    let x_at = if tx { [b % bx, l, i] } else { [b % bx, i, l] };
                    let y_at = if ty { [b % by, j, l] } else { [b % by, l, j] };
                    ravel(&x_at, &x) * ravel(&y_at, &y)
                }).sum();
                prop_assert_eq!(*value, sum as f32);
            }
        }
    }

    #[test]
    fn reshapes(from in shape(4), to in prop::collection::vec(-1_i32..6, 0..4)) {
        let count: usize = from.iter().product();
        let known: i32 = to.iter().filter(|v| **v != -1).product();
        let holes = to.iter().filter(|v| **v == -1).count();
        let fits = match holes {
            0 => known as usize == count,
            1 => known > 0 && count.is_multiple_of(known as usize),
            _ => false,
        };
        let results = execute(Op::Reshape { shape: to.clone() }, &[from]);
        prop_assert_eq!(results.is_some(), fits, "{:?}", to);
        if let Some(results) = results {
            let in_order = (0..count).all(|i| results[0].1[i] == i as f32);
            prop_assert!(in_order);
        }
    }

    #[test]
    fn transposes(x in shape(4), seed in prop::collection::vec(-5_i32..5, 0..5)) {
        let rank = x.len() as i32;
        let resolved: Vec<i32> = seed.iter().map(|a| if *a < 0 { a + rank } else { *a }).collect();
        let mut sorted = resolved.clone();
        sorted.sort_unstable();
        let fits = sorted == (0..rank).collect::<Vec<_>>();
        let results = execute(Op::Transpose { perm: seed }, std::slice::from_ref(&x));
        prop_assert_eq!(results.is_some(), fits);
    }

    /// Oracle: the index of the result, permuted back.
    #[test]
    fn transposes_that_fit(x in prop::collection::vec(1_usize..5, 4), order in Just(vec![0_usize, 1, 2, 3]).prop_shuffle()) {
        let perm = order.iter().map(|a| *a as i32).collect();
        let results = execute(Op::Transpose { perm }, std::slice::from_ref(&x)).expect("an order of its axes");
        let (out, values) = &results[0];
        for (at, value) in values.iter().enumerate() {
            let index = unravel(at, out);
            let mut from = vec![0; 4];
            order.iter().zip(index).for_each(|(axis, i)| from[*axis] = i);
            prop_assert_eq!(*value, ravel(&from, &x) as f32);
        }
    }

    #[test]
    fn slices(x in prop::collection::vec(1_usize..5, 1..4), begin in prop::collection::vec(-1_i32..5, 1..4), size in prop::collection::vec(-2_i32..5, 1..4)) {
        let fits = begin.len() == x.len() && size.len() == x.len() && (0..x.len()).all(|i| {
            let size = if size[i] == -1 { x[i] as i32 - begin[i] } else { size[i] };
            begin[i] >= 0 && size >= 1 && begin[i] + size <= x[i] as i32
        });
        let op = Op::SliceBySize { begin: begin.clone(), size };
        let results = execute(op, std::slice::from_ref(&x));
        prop_assert_eq!(results.is_some(), fits);
        if let Some(results) = results {
            let (out, values) = &results[0];
            for (at, value) in values.iter().enumerate() {
                let index: Vec<usize> = unravel(at, out).iter().zip(&begin).map(|(i, b)| i + *b as usize).collect();
                prop_assert_eq!(*value, ravel(&index, &x) as f32);
            }
        }
    }

    /// What is joined and split again is as it was.
    #[test]
    fn joins_and_splits(x in prop::collection::vec(1_usize..4, 1..4), parts in 1_usize..4, axis in -4_i32..4) {
        let rank = x.len() as i32;
        let operands = vec![x.clone(); parts];
        let joined = execute(Op::Concat { axis, interleave: false }, &operands);
        prop_assert_eq!(joined.is_some(), (-rank..rank).contains(&axis));
        let Some(joined) = joined else { return Ok(()) };
        let split = execute(Op::Split { num_splits: parts as i32, axis }, &[joined[0].0.clone()]).expect("equal parts");
        for part in &split {
            prop_assert_eq!(&part.0, &x);
        }
        // Elements of the joined tensor, read through the split's positions, count up in each part.
        for (_, positions) in &split {
            let values: Vec<f32> = positions.iter().map(|p| joined[0].1[*p as usize]).collect();
            let in_order = values.iter().enumerate().all(|(i, v)| *v == i as f32);
            prop_assert!(in_order, "{:?}", values);
        }
    }

    /// Anything at all: no op panics, whatever its attributes and operands.
    #[test]
    fn nothing_panics(
        which in any::<prop::sample::Index>(),
        own_operands in any::<bool>(),
        operands in prop::collection::vec((shape(5), 0_usize..5), 0..8),
        numbers in prop::collection::vec(-3_i32..9, 1..5),
    ) {
        let examples = mil::ops::examples();
        let example = &examples[which.index(examples.len())];
        let kind = example.op.kind().expect("no constant");
        let attrs = example.op.attrs();
        let mut next = numbers.iter().copied().cycle();
        // The same op with random numbers for its whole ones.
        let scrambled = Op::from_attrs(kind.name, &mut |name| {
            let (_, value) = attrs.iter().find(|(known, _)| *known == name)?;
            Some(match value {
                AttrValue::Int(_) => AttrValue::Int(next.next()?),
                AttrValue::Ints(old) if numbers[0] % 2 == 0 => {
                    AttrValue::Ints(next.by_ref().take(old.len()).collect())
                }
                AttrValue::Ints(_) => AttrValue::Ints(numbers.clone()),
                other => other.clone(),
            })
        })
        .expect("attributes of the right kinds");
        let types: Vec<TensorType> = if own_operands {
            example.operands.clone()
        } else {
            let random = operands.iter();
            random.map(|(shape, dtype)| TensorType::new(DType::ALL[*dtype], shape)).collect()
        };
        for op in [&example.op, &scrambled] {
            let _ = op.infer(Element::F32, &types.iter().collect::<Vec<_>>());
            // What is a program of floats also runs.
            let shapes: Vec<Vec<usize>> = types.iter().map(|ty| ty.shape.clone()).collect();
            execute(op.clone(), &shapes);
        }
    }
}

/// Integers and truth values move and compute as floats do.
#[test]
fn integers_and_truth_values_are_values_too() {
    let mut b = Builder::new(Element::F32);
    let x = b.input("x", &[4]).unwrap();
    let ints = b.ints(&[7, -7, 2, 0]);
    let two = b.ints(&[2, 2, 2, 0]);
    let ops = [Op::Add, Op::Sub, Op::Mul, Op::RealDiv, Op::Maximum, Op::Minimum, Op::Pow];
    for op in ops {
        let name = op.name();
        let y = b.push1(op, &[ints, two]).unwrap();
        let turned = b.push1(Op::Reshape { shape: vec![2, 2] }, &[y]).unwrap();
        let turned = b.push1(Op::Transpose { perm: vec![1, 0] }, &[turned]).unwrap();
        let y = b.push1(Op::Cast { dtype: DType::F32 }, &[turned]).unwrap();
        b.output(name, y).unwrap();
    }
    let text = Constant { ty: TensorType::scalar(DType::Str), data: ConstData::Str("unused".into()) };
    b.constant(text);
    let truth = b.push1(Op::Greater, &[ints, two]).unwrap();
    let parts = b.push(Op::Split { num_splits: 2, axis: 0 }, &[truth]).unwrap();
    let joined = b.push1(Op::Concat { axis: 0, interleave: false }, &[parts[1], parts[0]]).unwrap();
    let chosen = b.select(joined, ints, two).unwrap();
    let chosen = b.push1(Op::Cast { dtype: DType::F32 }, &[chosen]).unwrap();
    let sum = b.add(chosen, x).unwrap();
    b.output("chosen", sum).unwrap();
    let program = b.finish().unwrap();
    let outputs = sim::run(&program, &Profile::exact(), &[("x", &[0.5; 4])]).unwrap();
    // Transposed: elements 0, 2, 1, 3.
    assert_eq!(outputs["add"], [9.0, 4.0, -5.0, 0.0]);
    assert_eq!(outputs["sub"], [5.0, 0.0, -9.0, 0.0]);
    assert_eq!(outputs["mul"], [14.0, 4.0, -14.0, 0.0]);
    assert_eq!(outputs["real_div"], [3.0, 1.0, -3.0, 0.0]);
    assert_eq!(outputs["maximum"], [7.0, 2.0, 2.0, 0.0]);
    assert_eq!(outputs["minimum"], [2.0, 2.0, -7.0, 0.0]);
    assert_eq!(outputs["pow"], [49.0, 4.0, 49.0, 1.0]);
    // 7 > 2, -7 > 2, 2 > 2, 0 > 0; then the halves swap places.
    assert_eq!(outputs["chosen"], [2.5, 2.5, 2.5, 0.5]);
}

//! What f16 costs the composites, at the sizes of a model: f16 on an M4 against f64, or against the
//! same program in f32 (`gradients.rs` and `torch_ops.rs` show that f32 is right). A unit is
//! 2^-11, the largest relative error of one rounding.

mod common;

use common::{Outputs, distance, largest, normal, program_of, rng, run};
use mil::composites::cross_entropy::TARGET_BASE;
use mil::{DType, Element, Op, TensorType};
use rand::RngExt;
use sim::Profile;

const UNIT: f32 = 1.0 / 2048.0;

fn t(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// Values that f16 holds, so that both runs see the same.
fn exact(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| Element::F16.round(v)).collect()
}

fn named(values: Vec<Vec<f32>>) -> Vec<(String, Vec<f32>)> {
    let named = values.into_iter().enumerate();
    named.map(|(i, v)| (format!("x{i}"), v)).collect()
}

/// Outputs in f32 and in f16.
fn both(op: &Op, operands: &[TensorType], inputs: Vec<Vec<f32>>) -> (Outputs, Outputs) {
    let inputs = named(inputs);
    let of = |element| run(&program_of(element, op, operands), &Profile::m4(), &inputs);
    (of(Element::F32), of(Element::F16))
}

/// Largest error in units of the largest element.
fn units(expected: &[f32], actual: &[f32]) -> f32 {
    distance(expected, actual) / largest(expected) / UNIT
}

/// y = x r w rounds r three times (the mean, the root, its factor; the mean counts half), then two
/// products: 4.5 units. At rms 0.02 the mean of squares, scaled by 3/16, is 7.5e-5, and f16's
/// smallest step of 6e-8 is 0.8 units of it. So 6 units of each element.
#[test]
fn rms_norm_is_accurate_from_0_02_to_50() {
    let (c, n, eps) = (768, 48, 1e-5_f64);
    let op = Op::RmsNorm { axis: 1, eps: eps as f32 };
    let mut rng = rng(1);
    for rms in [0.02, 1.0, 50.0] {
        let x = exact(normal(&mut rng, c * n, rms));
        let w: Vec<f32> = normal(&mut rng, c, 0.3).iter().map(|v| 1.0 + v).collect();
        let w = exact(w);
        let operands = [t(&[1, c, 1, n]), t(&[1, c, 1, 1])];
        let (_, half) = both(&op, &operands, vec![x.clone(), w.clone()]);
        let mut worst = 0.0_f64;
        for column in 0..n {
            let square = |i: usize| f64::from(x[i * n + column]).powi(2);
            let mean = (0..c).map(square).sum::<f64>() / c as f64;
            for i in 0..c {
                let at = i * n + column;
                let expected = f64::from(x[at]) / (mean + eps).sqrt() * f64::from(w[i]);
                let error = (f64::from(half["y0"][at]) - expected).abs();
                // Subnormal results have a step of 6e-8, whatever their size.
                let allowed = 6.0 * f64::from(UNIT) * expected.abs() + 3e-8;
                worst = worst.max(error / allowed);
            }
        }
        println!("rms {rms}: {:.0} % of the bound", 100.0 * worst);
        assert!(worst <= 1.0, "rms {rms}: {worst}");
        assert!(worst > 0.2, "the bound is far too wide");
    }
}

/// dx = r (g - u mean(g u)): eight roundings, of which the last four of full size; dw sums 48
/// terms in f16, whose partial sums grow to sqrt(48) terms.
#[test]
fn rms_norm_gradients_are_accurate_from_0_02_to_50() {
    let (c, n) = (768, 48);
    let op = Op::RmsNormGrad { axis: 1, eps: 1e-5 };
    let mut rng = rng(2);
    for rms in [0.02, 1.0, 50.0] {
        let x = exact(normal(&mut rng, c * n, rms));
        let w = exact(normal(&mut rng, c, 0.3).iter().map(|v| 1.0 + v).collect());
        let dy = exact(normal(&mut rng, c * n, 1.0));
        let operands = [t(&[1, c, 1, n]), t(&[1, c, 1, 1]), t(&[1, c, 1, n])];
        let (wide, half) = both(&op, &operands, vec![x, w, dy]);
        let (dx, dw) = (units(&wide["y0"], &half["y0"]), units(&wide["y1"], &half["y1"]));
        println!("rms {rms}: dx {dx:.1} units, dw {dw:.1} units");
        assert!(dx <= 6.0 && dw <= 6.0, "rms {rms}: dx {dx}, dw {dw}");
    }
}

/// Scores of up to 5 are rounded twice, which moves probabilities by 2 * 5 units of themselves; an
/// output is a weighted mean, in which such errors average out: 4 units of the largest output. A
/// gradient of scores is a difference of two such, through one more product: 8 units.
#[test]
fn attention_is_accurate_over_long_sequences() {
    let (heads, kv_heads, d, seq) = (4, 2, 64, 256);
    let scale = 1.0 / (d as f32).sqrt();
    let mut rng = rng(3);
    let mut draw = |channels: usize| exact(normal(&mut rng, channels * seq, 1.0));
    let (q, k, v) = (draw(heads * d), draw(kv_heads * d), draw(kv_heads * d));
    let d_o = draw(heads * d);
    let (h, kv) = (t(&[1, heads * d, 1, seq]), t(&[1, kv_heads * d, 1, seq]));
    let (heads, kv_heads, seq) = (heads as i32, kv_heads as i32, seq as i32);
    let op = Op::Attention { heads, kv_heads, seq, window: 0, scale };
    let operands = vec![h.clone(), kv.clone(), kv];
    let (wide, half) = both(&op, &operands, vec![q.clone(), k.clone(), v.clone()]);
    let error = units(&wide["y0"], &half["y0"]);
    println!("o {error:.1} units");
    assert!(error <= 4.0, "o {error}");
    // Each direction with its own forward result, as in training.
    let op = Op::AttentionGrad { heads, kv_heads, seq, window: 0, scale };
    let operands = [operands, vec![h.clone(), h]].concat();
    let grads = |element, o: &Vec<f32>| {
        let inputs = named(vec![q.clone(), k.clone(), v.clone(), o.clone(), d_o.clone()]);
        run(&program_of(element, &op, &operands), &Profile::m4(), &inputs)
    };
    let wide = grads(Element::F32, &wide["y0"]);
    let half = grads(Element::F16, &half["y0"]);
    for (name, key) in [("dq", "y0"), ("dk", "y1"), ("dv", "y2")] {
        let error = units(&wide[key], &half[key]);
        println!("{name} {error:.1} units");
        assert!(error <= 8.0, "{name} {error}");
    }
}

/// With a vocabulary of 8,192 and the loss scaled by 256/512, a probability of 1/V times the scale
/// is 6e-5, the edge of f16's normal range. Logits of up to 5 lose 2.5 units each, as much as their
/// exponentials; dh and dw are sums of such terms, and what is exact is the target's. A cap rounds a
/// logit four times instead of once, 1/15 included.
#[test]
fn cross_entropy_keeps_the_gradients_of_rare_tokens() {
    let (c, n, vocab) = (64, 64, 8_192);
    let mut rng = rng(4);
    let h = exact(normal(&mut rng, c * n, 1.0));
    let w = exact(normal(&mut rng, vocab * c, 1.0 / (c as f32).sqrt()));
    let targets: Vec<usize> = (0..n).map(|_| rng.random_range(0..vocab)).collect();
    let digits = |f: fn(usize) -> usize| -> Vec<f32> { targets.iter().map(|id| f(*id) as f32).collect() };
    let (hi, lo) = (digits(|id| id / TARGET_BASE), digits(|id| id % TARGET_BASE));
    let log_scale = exact(vec![(256.0_f32 / 512.0).ln()]);
    let row = t(&[1, 1, 1, n]);
    let operands = [t(&[1, c, 1, n]), t(&[1, 1, vocab, c]), row.clone(), row, t(&[1, 1, 1, 1])];
    for softcap in [0.0, 15.0] {
        let inputs = vec![h.clone(), w.clone(), hi.clone(), lo.clone(), log_scale.clone()];
        let (wide, half) = both(&Op::CrossEntropy { softcap }, &operands, inputs);
        for (name, key, allowed) in [
            ("max", "y0", if softcap > 0.0 { 4.0 } else { 1.0 }),
            ("sum_exp", "y1", 8.0),
            ("target", "y2", if softcap > 0.0 { 4.0 } else { 1.0 }),
            ("dh", "y3", 4.0),
            ("dw", "y4", 4.0),
        ] {
            let error = units(&wide[key], &half[key]);
            println!("softcap {softcap}: {name} {error:.1} units");
            assert!(error <= allowed, "softcap {softcap}: {name} {error}");
        }
        // Rows of tokens that are nobody's target, on their own scale.
        let rare = (0..vocab).filter(|id| !targets.contains(id));
        let (mut count, mut zeros, mut square, mut of) = (0, 0, 0.0_f64, 0.0_f64);
        for id in rare {
            let span = id * c..(id + 1) * c;
            let (wide, half) = (&wide["y4"][span.clone()], &half["y4"][span]);
            count += 1;
            zeros += usize::from(half.iter().all(|g| *g == 0.0));
            for (a, b) in wide.iter().zip(half) {
                square += f64::from(a - b).powi(2);
                of += f64::from(*a).powi(2);
            }
        }
        let relative = (square / of).sqrt();
        println!("softcap {softcap}: {count} rare rows, {zeros} vanish, error {relative:.1e}");
        assert_eq!(zeros, 0);
        // Probabilities are off by 2^-11 times the logit and by steps of 6e-8 / 6e-5 = 1e-3.
        assert!(relative < 5e-3, "softcap {softcap}: {relative}");
    }
}

/// An outlier far beyond the square root of f16's range neither overflows nor silences its column.
/// Oracle: the formula in f64; tolerance: a handful of roundings to 2^-11.
#[test]
fn rms_norm_survives_outliers() {
    let c = 1024;
    let mut b = mil::Builder::new(mil::Element::F16);
    let x = b.input("x", &[1, c, 1, 1]).unwrap();
    let w = b.input("w", &[1, c, 1, 1]).unwrap();
    let y = b.push1(mil::Op::RmsNorm { axis: 1, eps: 1e-5 }, &[x, w]).unwrap();
    b.output("y", y).unwrap();
    let program = b.finish().unwrap();
    for outlier in [510.0_f32, 2_000.0, 60_000.0] {
        let mut x = vec![1.0_f32; c];
        x[3] = outlier;
        let outputs = sim::run(&program, &sim::Profile::m1(), &[("x", &x), ("w", &vec![1.0; c])]).unwrap();
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / c as f64;
        for at in [0, 3] {
            let expected = f64::from(x[at]) / mean.sqrt();
            let error = (f64::from(outputs["y"][at]) - expected).abs() / expected;
            // A value that is 1/outlier of the largest is a coarse f16 once divided by it.
            let tolerance = if at == 3 { 8.0 * 2f64.powi(-11) } else { 2f64.powi(-5) };
            assert!(error < tolerance, "outlier {outlier}: y[{at}] is off by {error:.1e}");
        }
    }
}

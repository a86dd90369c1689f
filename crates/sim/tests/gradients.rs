//! Gradients against finite differences, in f32.
//!
//! With L = Σ c y for random c, the derivative along one element is estimated by central
//! differences of step h and h/2 and Richardson's rule, (4 D(h/2) - D(h)) / 3, whose error is of
//! order h⁴ times the fifth derivative: with h = 1/64 below 1e-5 for every op on its example's
//! domain. Outputs carry f32's rounding, 6e-8 of about a hundred terms of size 1 to 10, which the
//! division by h enlarges to at most about 3e-4. Allowed is 1e-3 of the largest element plus 1e-3; a
//! gradient off by one hundredth of its size fails (`a_wrong_gradient_is_noticed`).

mod common;

use common::{distance, largest, normal, program_of, rng, run, spread};
use mil::composites::cross_entropy::{Statistics, TARGET_BASE};
use mil::ops::{Gradient, examples};
use mil::{Builder, DType, Element, Op, Program, differentiate, gradient_name};
use rand::RngExt;
use sim::{Interpreter, Profile};

const STEP: f32 = 1.0 / 64.0;

type Inputs = Vec<(String, Vec<f32>)>;

fn allowed(gradient: &[f32]) -> f32 {
    1e-3 * largest(gradient) + 1e-3
}

/// Derivatives of `loss` along every element of input `at`.
fn differences(inputs: &Inputs, at: usize, loss: impl Fn(&Inputs) -> f64) -> Vec<f32> {
    let mut moved = inputs.clone();
    (0..inputs[at].1.len())
        .map(|i| {
            let centre = inputs[at].1[i];
            let mut slope = |step: f32| {
                let (above, below) = (centre + step, centre - step);
                moved[at].1[i] = above;
                let high = loss(&moved);
                moved[at].1[i] = below;
                let low = loss(&moved);
                moved[at].1[i] = centre;
                (high - low) / f64::from(above - below)
            };
            ((4.0 * slope(STEP / 2.0) - slope(STEP)) / 3.0) as f32
        })
        .collect()
}

/// Σ c y over all outputs of `program`, in f64.
fn functional<'a>(program: &Program, coefficients: &'a [(String, Vec<f32>)]) -> impl Fn(&Inputs) -> f64 + 'a {
    let interpreter = Interpreter::new(program, &Profile::exact()).expect("it is sound");
    move |inputs| {
        let slices: Vec<&[f32]> = inputs.iter().map(|(_, v)| v.as_slice()).collect();
        let outputs = interpreter.run(&slices).expect("inputs fit");
        let pairs = outputs.iter().zip(coefficients);
        pairs.flat_map(|(y, (_, c))| y.iter().zip(c)).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum()
    }
}

#[test]
fn every_rule_agrees_with_finite_differences() {
    let mut checked = 0;
    for (seed, example) in examples().iter().enumerate() {
        let op = &example.op;
        if op.gradient() != Gradient::Rule {
            continue;
        }
        let mut rng = rng(1_000 + seed as u64);
        let total = example.operands.iter().map(|ty| ty.numel()).sum();
        let mut values = spread(&mut rng, total, (example.domain.0 + 0.02, example.domain.1 - 0.02));
        let inputs: Inputs = example
            .operands
            .iter()
            .enumerate()
            .map(|(i, ty)| {
                let mut values: Vec<f32> = values.drain(..ty.numel()).collect();
                if ty.dtype == DType::Bool {
                    values.iter_mut().for_each(|v| *v = f32::from(u8::from(rng.random::<bool>())));
                }
                (format!("x{i}"), values)
            })
            .collect();
        let program = program_of(Element::F32, op, &example.operands);
        let coefficients: Inputs = program
            .outputs()
            .iter()
            .map(|id| {
                let info = program.value(*id);
                let c = normal(&mut rng, info.ty.numel(), 1.0);
                (gradient_name(&info.name), c)
            })
            .collect();
        let loss = functional(&program, &coefficients);
        for (at, (name, _)) in inputs.iter().enumerate() {
            let whole = match differentiate(&program, &[name]) {
                Ok(whole) => whole,
                // A condition, and the angles of a rotation: results do not vary with them, or are
                // not meant to be differentiated by them.
                Err(_)
                    if matches!(op, Op::Select | Op::Rope { .. })
                        && at != usize::from(matches!(op, Op::Select)) =>
                {
                    continue;
                }
                Err(error) => panic!("{op:?} by {name}: {error}"),
            };
            let all = [inputs.clone(), coefficients.clone()].concat();
            let actual = &run(&whole, &Profile::exact(), &all)[&gradient_name(name)];
            let expected = if matches!(op, Op::Cast { dtype: DType::F16 }) {
                // A staircase has no slope; what counts is that the gradient passes.
                let c = &coefficients[0].1;
                c.iter().map(|c| Element::F16.round(*c)).collect()
            } else {
                differences(&inputs, at, &loss)
            };
            let error = distance(actual, &expected);
            let bound = allowed(&expected);
            assert!(error <= bound, "{op:?} by {name}: {error} > {bound}\n{actual:?}\n{expected:?}");
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} gradients were checked");
}

#[test]
fn a_wrong_gradient_is_noticed() {
    let expected = [3.0, -8.0, 0.5];
    let wrong = expected.map(|g| 1.01 * g);
    assert!(distance(&wrong, &expected) > allowed(&expected));
}

/// The operands of the cross-entropy family for random targets, and what finite differences need.
struct Head {
    channels: usize,
    vocab: usize,
    n: usize,
    targets: Vec<usize>,
    inputs: Inputs,
}

impl Head {
    fn new(seed: u64) -> Self {
        let (channels, vocab, n) = (5, 1_100, 4);
        let mut rng = rng(seed);
        let targets: Vec<usize> = (0..n).map(|_| rng.random_range(0..vocab)).collect();
        let digit = |f: fn(usize) -> usize| targets.iter().map(|t| f(*t) as f32).collect();
        let inputs = vec![
            ("h".to_owned(), normal(&mut rng, channels * n, 1.0)),
            ("w".to_owned(), normal(&mut rng, vocab * channels, 0.7)),
            ("hi".to_owned(), digit(|t| t / TARGET_BASE)),
            ("lo".to_owned(), digit(|t| t % TARGET_BASE)),
        ];
        Head { channels, vocab, n, targets, inputs }
    }

    /// One of the three ops over ids `first..first + len`, with outputs named as in the docs.
    fn program(&self, op: Op, len: usize) -> Program {
        let mut b = Builder::new(Element::F32);
        let kind = op.kind().expect("not a constant");
        let args: Vec<_> = kind
            .operands
            .iter()
            .map(|name| {
                let shape = match *name {
                    "h" => vec![1, self.channels, 1, self.n],
                    "w" => vec![1, 1, len, self.channels],
                    "log_scale" => vec![1; 4],
                    _ => vec![1, 1, 1, self.n],
                };
                b.input(name, &shape).expect("a new name")
            })
            .collect();
        let names: &[&str] = match op {
            Op::CrossEntropyStats { .. } => &["max", "sum_exp", "target"],
            Op::CrossEntropyGrad { .. } => &["dh", "dw"],
            _ => &["max", "sum_exp", "target", "dh", "dw"],
        };
        let results = b.push(op, &args).expect("shapes fit");
        for (name, result) in names.iter().zip(results) {
            b.output(name, result).expect("a new name");
        }
        b.finish().expect("it has outputs")
    }

    fn losses(outputs: &common::Outputs) -> Vec<Statistics> {
        let columns = outputs["max"].iter().zip(&outputs["sum_exp"]);
        columns
            .zip(&outputs["target"])
            .map(|((max, sum_exp), target)| Statistics { max: *max, sum_exp: *sum_exp, target: *target })
            .collect()
    }
}

/// Oracle: finite differences of Σ nll from `cross_entropy_stats`, times exp(log_scale).
#[test]
fn cross_entropy_grad_is_the_gradient_of_the_statistics() {
    for softcap in [0.0, 2.5] {
        let head = Head::new(7);
        let stats = head.program(Op::CrossEntropyStats { softcap }, head.vocab);
        let exact = Profile::exact();
        let loss = |inputs: &Inputs| -> f64 {
            let statistics = Head::losses(&run(&stats, &exact, inputs));
            statistics.iter().map(|s| f64::from(s.nll())).sum()
        };
        let scale = 3.0_f32;
        let statistics = Head::losses(&run(&stats, &exact, &head.inputs));
        let lse: Vec<f32> = statistics.iter().map(|s| s.log_sum_exp()).collect();
        // Any split into two rows will do; the coarse one as f16 would hold it.
        let coarse: Vec<f32> = lse.iter().map(|v| Element::F16.round(*v)).collect();
        let fine = lse.iter().zip(&coarse).map(|(a, b)| a - b).collect();
        let more = vec![
            ("lse_hi".to_owned(), coarse),
            ("lse_lo".to_owned(), fine),
            ("log_scale".to_owned(), vec![scale.ln()]),
        ];
        let grad = head.program(Op::CrossEntropyGrad { softcap }, head.vocab);
        let actual = run(&grad, &exact, &[head.inputs.clone(), more].concat());
        // All of dh, and of dw the rows of the targets and a few more: the rest is alike.
        let expected = differences(&head.inputs, 0, loss);
        let expected: Vec<f32> = expected.iter().map(|g| g * scale).collect();
        let error = distance(&actual["dh"], &expected);
        assert!(error <= allowed(&expected), "dh: {error}");
        for id in head.targets.iter().copied().chain([0, 511, 512, 1_099]) {
            let row = id * head.channels..(id + 1) * head.channels;
            for at in row {
                let mut moved = head.inputs.clone();
                let mut slope = |step: f32| {
                    moved[1].1[at] = head.inputs[1].1[at] + step;
                    let high = loss(&moved);
                    moved[1].1[at] = head.inputs[1].1[at] - step;
                    (high - loss(&moved)) / f64::from(2.0 * step)
                };
                let expected = (4.0 * slope(STEP / 2.0) - slope(STEP)) / 3.0 * f64::from(scale);
                let error = (f64::from(actual["dw"][at]) - expected).abs();
                assert!(error <= 1e-3 * expected.abs() + 1e-3, "dw {at}: {error}");
            }
        }
    }
}

/// `cross_entropy` is the two others in one, and two tiles joined are one. Oracle: the parts; the
/// order of additions differs, so f32 agrees to a few of its steps (1e-5 of the largest).
#[test]
fn tiles_and_the_combined_op_agree() {
    let softcap = 15.0;
    let head = Head::new(8);
    let exact = Profile::exact();
    let log_scale = ("log_scale".to_owned(), vec![0.7_f32]);
    let combined = head.program(Op::CrossEntropy { softcap }, head.vocab);
    let whole = run(&combined, &exact, &[head.inputs.clone(), vec![log_scale.clone()]].concat());
    let cut = 600;
    let tiles = [(0, cut), (cut, head.vocab - cut)].map(|(first, len)| {
        let (hi, lo): (Vec<f32>, Vec<f32>) = head
            .targets
            .iter()
            .map(|t| mil::composites::cross_entropy::target_rows(*t as u32, first, len))
            .unzip();
        let w = &head.inputs[1].1[first * head.channels..(first + len) * head.channels];
        let inputs: Inputs = vec![
            head.inputs[0].clone(),
            ("w".to_owned(), w.to_vec()),
            ("hi".to_owned(), hi),
            ("lo".to_owned(), lo),
        ];
        (len, inputs)
    });
    let statistics = tiles.clone().map(|(len, inputs)| {
        let stats = head.program(Op::CrossEntropyStats { softcap }, len);
        Head::losses(&run(&stats, &exact, &inputs))
    });
    let joined: Vec<Statistics> = statistics[0].iter().zip(&statistics[1]).map(|(a, b)| a.join(*b)).collect();
    for (joined, whole) in joined.iter().zip(Head::losses(&whole)) {
        assert!((joined.nll() - whole.nll()).abs() <= 1e-5 * whole.nll());
        assert_eq!(joined.target, whole.target);
    }
    let lse: Vec<f32> = joined.iter().map(|s| s.log_sum_exp()).collect();
    let mut dh = vec![0.0; head.channels * head.n];
    let mut dw = Vec::new();
    for (len, inputs) in tiles {
        let more = vec![
            ("lse_hi".to_owned(), lse.clone()),
            ("lse_lo".to_owned(), vec![0.0; head.n]),
            log_scale.clone(),
        ];
        let grad = head.program(Op::CrossEntropyGrad { softcap }, len);
        let outputs = run(&grad, &exact, &[inputs, more].concat());
        dh.iter_mut().zip(&outputs["dh"]).for_each(|(sum, g)| *sum += g);
        dw.extend_from_slice(&outputs["dw"]);
    }
    for (name, tiled) in [("dh", &dh), ("dw", &dw)] {
        let error = distance(tiled, &whole[name]);
        assert!(error <= 1e-5 * largest(&whole[name]), "{name}: {error}");
    }
}

//! The kernels on the shapes of `gpt-48m` (6 layers, width 768, 6 heads of 128, feed-forward 2,048,
//! vocabulary 8,192) with one sequence of 512.
//!
//! `cargo bench -p anneal-cpu` first prints what the machine can do at most and what one step of
//! that model would cost by its kernels, then runs criterion. Criterion's "elements" are floating
//! point operations (or bytes, where the name ends so). Baselines named `naive` are the plain loops
//! that a kernel replaces; results are compared before the clock runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use cpu::attention::Attention;
use cpu::cross_entropy::{CrossEntropy, Gradients, Stats};
use cpu::elementwise::{Instruction, Pass, Source, Spread};
use cpu::matmul::{Mat, MatMut, matmul};
use cpu::matvec::matvec;
use cpu::rms_norm::RmsNorm;
use cpu::rope::{Pairing, RopeTables, Turn, rope_in_place};
use cpu::{Pool, Precision, Write, probe};
use criterion::{Criterion, Throughput};
use mil::Op;

const LAYERS: usize = 6;
const C: usize = 768;
const H: usize = 6;
const D: usize = 128;
const F: usize = 2048;
const V: usize = 8192;
const S: usize = 512;

/// `len` values in [-0.5, 0.5).
fn values(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9u32;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// A kernel with its work: floating-point operations, or bytes moved where memory is its limit.
struct Kernel {
    name: &'static str,
    /// How often a step runs it.
    per_step: usize,
    work: Work,
    run: Box<dyn FnMut(&Pool)>,
}

#[derive(Clone, Copy)]
enum Work {
    Flops(usize),
    Bytes(usize),
}

/// Products `y [O, N] = w x`, `dx [C, N] = wᵀ dy`, `dw [O, C] += dy xᵀ`.
fn products(name: [&'static str; 3], out: usize, channels: usize, per_layer: usize) -> Vec<Kernel> {
    let kernel = |name, run| Kernel {
        name,
        per_step: per_layer * LAYERS,
        work: Work::Flops(2 * out * channels * S),
        run,
    };
    let (w, x, dy) = (values(out * channels), values(channels * S), values(out * S));
    let (w2, dy2, x2) = (w.clone(), dy.clone(), x.clone());
    let (mut y, mut dx, mut dw) = (vec![0.0; out * S], vec![0.0; channels * S], vec![0.0; out * channels]);
    let forward = move |pool: &Pool| {
        matmul(
            pool,
            Precision::F32,
            MatMut::new(&mut y, out, S),
            Write::Store,
            1.0,
            Mat::new(&w, out, channels),
            Mat::new(&x, channels, S),
        );
    };
    let input_gradient = move |pool: &Pool| {
        let lhs = Mat::new(&w2, out, channels).t();
        matmul(
            pool,
            Precision::F32,
            MatMut::new(&mut dx, channels, S),
            Write::Store,
            1.0,
            lhs,
            Mat::new(&dy, out, S),
        );
    };
    let weight_gradient = move |pool: &Pool| {
        let rhs = Mat::new(&x2, channels, S).t();
        matmul(
            pool,
            Precision::F32,
            MatMut::new(&mut dw, out, channels),
            Write::Accumulate,
            1.0,
            Mat::new(&dy2, out, S),
            rhs,
        );
    };
    vec![
        kernel(name[0], Box::new(forward)),
        kernel(name[1], Box::new(input_gradient)),
        kernel(name[2], Box::new(weight_gradient)),
    ]
}

/// Every kernel of a step without recomputation, and how often it runs.
fn step() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    kernels.extend(products(["qkvo y", "qkvo dx", "qkvo dw"], C, C, 4));
    kernels.extend(products(["gate, up y", "gate, up dx", "gate, up dw"], F, C, 2));
    kernels.extend(products(["down y", "down dx", "down dw"], C, F, 1));

    let attention = gpt_attention();
    // Causal half of S x S for each product; two forward, five backward.
    let product = 2 * H * D * S * S / 2;
    let [q, k, v, dout] = [(); 4].map(|()| values(C * S));
    let mut o = vec![0.0; C * S];
    let qkv = [q.clone(), k.clone(), v.clone()];
    let forward = move |pool: &Pool| attention.forward(pool, &q, &k, &v, &mut o);
    kernels.push(Kernel {
        name: "attention",
        per_step: LAYERS,
        work: Work::Flops(2 * product),
        run: Box::new(forward),
    });
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; C * S]);
    let backward = move |pool: &Pool| {
        let [q, k, v] = &qkv;
        attention.backward(pool, [q, k, v], &dout, [&mut dq, &mut dk, &mut dv]);
    };
    let work = Work::Flops(5 * product);
    kernels.push(Kernel { name: "attention gradient", per_step: LAYERS, work, run: Box::new(backward) });

    let norm = RmsNorm { groups: 1, rows: C, cols: S, eps: 1e-5 };
    let (x, w, dy) = (values(C * S), values(C), values(C * S));
    let (x2, w2) = (x.clone(), w.clone());
    let (mut y, mut dx, mut dw) = (vec![0.0; C * S], vec![0.0; C * S], vec![0.0; C]);
    let run = Box::new(move |pool: &Pool| norm.forward(pool, &x, Some(&w), &mut y));
    kernels.push(Kernel { name: "rms_norm", per_step: 2 * LAYERS + 1, work: Work::Bytes(8 * C * S), run });
    let run = Box::new(move |pool: &Pool| {
        norm.backward(pool, &x2, Some(&w2), &dy, (&mut dx, Write::Store), Some((&mut dw, Write::Accumulate)));
    });
    kernels.push(Kernel {
        name: "rms_norm gradient",
        per_step: 2 * LAYERS + 1,
        work: Work::Bytes(12 * C * S),
        run,
    });

    let tables = RopeTables::new(D, S, 0, 10_000.0);
    let mut x = values(C * S);
    let run =
        Box::new(move |pool: &Pool| rope_in_place(pool, &tables, Pairing::Half, Turn::Forward, S, &mut x));
    kernels.push(Kernel { name: "rope", per_step: 4 * LAYERS, work: Work::Bytes(8 * C * S), run });

    let pass = silu_mul();
    let (gate, up, mut y) = (values(F * S), values(F * S), vec![0.0; F * S]);
    let run = Box::new(move |pool: &Pool| pass.run(pool, &[&gate, &up], vec![(&mut y, Write::Store)]));
    kernels.push(Kernel { name: "silu gate", per_step: LAYERS, work: Work::Bytes(12 * F * S), run });
    let pass = silu_mul_gradient();
    let (gate, up, dy) = (values(F * S), values(F * S), values(F * S));
    let (mut dg, mut du) = (vec![0.0; F * S], vec![0.0; F * S]);
    let run = Box::new(move |pool: &Pool| {
        pass.run(pool, &[&gate, &up, &dy], vec![(&mut dg, Write::Store), (&mut du, Write::Store)]);
    });
    kernels.push(Kernel { name: "silu gate gradient", per_step: LAYERS, work: Work::Bytes(20 * F * S), run });

    let pass = residual();
    let (a, b, mut y) = (values(C * S), values(C * S), vec![0.0; C * S]);
    let run = Box::new(move |pool: &Pool| pass.run(pool, &[&a, &b], vec![(&mut y, Write::Store)]));
    kernels.push(Kernel { name: "residual", per_step: 4 * LAYERS, work: Work::Bytes(12 * C * S), run });

    let head = CrossEntropy {
        channels: C,
        tokens: S,
        vocab: V,
        first: 0,
        softcap: None,
        grad_scale: 1.0 / S as f32,
        precision: Precision::F32,
    };
    let (h, w) = (values(C * S), values(V * C));
    let targets: Vec<i32> = (0..S).map(|t| (t * 37 % V) as i32).collect();
    let [mut max, mut sum_exp, mut target_logit] = [(); 3].map(|()| vec![0.0; S]);
    let (mut dh, mut dw) = (vec![0.0; C * S], vec![0.0; V * C]);
    let run = Box::new(move |pool: &Pool| {
        let gradients = Gradients { dh: (&mut dh, Write::Store), dw: Some((&mut dw, Write::Accumulate)) };
        let stats = Stats { max: &mut max, sum_exp: &mut sum_exp, target_logit: &mut target_logit };
        head.forward_backward(pool, &h, &w, &targets, stats, Some(gradients));
    });
    kernels.push(Kernel {
        name: "classifier + loss",
        per_step: 1,
        work: Work::Flops(3 * 2 * V * C * S),
        run,
    });
    kernels
}

fn gpt_attention() -> Attention {
    Attention {
        batch: 1,
        seq: S,
        heads: H,
        kv_heads: H,
        head_dim: D,
        scale: (D as f32).powf(-0.5),
        causal: true,
        window: None,
    }
}

fn flat(operands: usize, code: Vec<Instruction>, outputs: Vec<usize>, len: usize) -> Pass {
    Pass { rows: 1, cols: len, operands: vec![Spread::Full; operands], code, outputs }
}

fn op(op: Op, sources: &[Source]) -> Instruction {
    Instruction { op, sources: sources.to_vec() }
}

/// y = silu(gate) up
fn silu_mul() -> Pass {
    use Source::{Memory, Result};
    flat(2, vec![op(Op::Silu, &[Memory(0)]), op(Op::Mul, &[Result(0), Memory(1)])], vec![1], F * S)
}

/// With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s.
fn silu_mul_gradient() -> Pass {
    use Source::{Memory, Number, Result};
    let code = vec![
        op(Op::Sigmoid, &[Memory(0)]),
        op(Op::Sub, &[Number(1.0), Result(0)]),
        op(Op::Mul, &[Memory(0), Result(1)]),
        op(Op::Add, &[Result(2), Number(1.0)]),
        op(Op::Mul, &[Result(3), Result(0)]),
        op(Op::Mul, &[Memory(1), Memory(2)]),
        op(Op::Mul, &[Result(4), Result(5)]),
        op(Op::Mul, &[Memory(0), Result(0)]),
        op(Op::Mul, &[Result(7), Memory(2)]),
    ];
    flat(3, code, vec![6, 8], F * S)
}

fn residual() -> Pass {
    flat(2, vec![op(Op::Add, &[Source::Memory(0), Source::Memory(1)])], vec![0], C * S)
}

/// The plain triple loop, `y [O, N] = w [O, C] x [C, N]`, ordered so that it vectorises.
fn naive_matmul(w: &[f32], x: &[f32], out: usize, channels: usize, n: usize, y: &mut [f32]) {
    y.fill(0.0);
    for o in 0..out {
        for c in 0..channels {
            let w = w[o * channels + c];
            for (y, x) in y[o * n..(o + 1) * n].iter_mut().zip(&x[c * n..(c + 1) * n]) {
                *y += w * x;
            }
        }
    }
}

/// gate / (1 + e^-gate) up with the C library's exponential.
fn naive_silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
        *y = g / (1.0 + (-g).exp()) * u;
    }
}

fn assert_close(name: &str, fast: &[f32], naive: &[f32], tolerance: f32) {
    let worst = fast.iter().zip(naive).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{name}: off by {worst} from its baseline, tolerance {tolerance}");
}

/// The median of repeated runs over some 0.3 s, in seconds: a shared machine has slow moments.
fn median(mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_millis(300) || times.len() < 5 {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The machine's walls, then a step's cost by kernel.
fn summary(pool: &Pool) {
    let peak = probe::peak_flops(pool, Precision::F32) / 1e9;
    println!("{} threads, {:?}", pool.threads(), cpu::simd::level());
    println!("peak            {peak:8.1} GFLOP/s");
    println!("matmul 1536^3   {:8.1} GFLOP/s", probe::matmul_flops(pool, Precision::F32) / 1e9);
    println!("triad           {:8.1} GB/s", probe::triad_bytes(pool) / 1e9);
    println!("read            {:8.1} GB/s", probe::read_bytes(pool) / 1e9);
    println!(
        "\n{:22} {:>5} {:>10} {:>10} {:>16} {:>8}",
        "kernel", "calls", "ms each", "ms step", "rate", "of peak"
    );
    let (mut total, mut product_seconds, mut product_flops) = (0.0, 0.0, 0.0);
    for mut kernel in step() {
        let seconds = median(|| (kernel.run)(pool));
        let in_step = seconds * kernel.per_step as f64;
        total += in_step;
        let (rate, share) = match kernel.work {
            Work::Flops(flops) => {
                product_seconds += in_step;
                product_flops += (flops * kernel.per_step) as f64;
                let rate = flops as f64 / seconds / 1e9;
                (format!("{rate:.1} GFLOP/s"), format!("{:.0}%", 100.0 * rate / peak))
            }
            Work::Bytes(bytes) => (format!("{:.1} GB/s", bytes as f64 / seconds / 1e9), String::new()),
        };
        let (each, in_step) = (seconds * 1e3, in_step * 1e3);
        println!("{:22} {:5} {each:10.3} {in_step:10.1} {rate:>16} {share:>8}", kernel.name, kernel.per_step);
    }
    println!(
        "products {:.1} GFLOP at {:.1} GFLOP/s; forward + backward {:.0} ms, {:.0} tokens/s before the optimiser\n",
        product_flops / 1e9,
        product_flops / product_seconds / 1e9,
        total * 1e3,
        S as f64 / total
    );
}

fn benches(criterion: &mut Criterion, pool: &Pool) {
    let mut group = criterion.benchmark_group("gpt-48m");
    for mut kernel in step() {
        let work = match kernel.work {
            Work::Flops(flops) => Throughput::Elements(flops as u64),
            Work::Bytes(bytes) => Throughput::Bytes(bytes as u64),
        };
        group.throughput(work).bench_function(kernel.name, |b| b.iter(|| (kernel.run)(pool)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("baselines");
    let (w, x) = (values(C * C), values(C * S));
    let (mut fast, mut naive) = (vec![0.0; C * S], vec![0.0; C * S]);
    matmul(
        pool,
        Precision::F32,
        MatMut::new(&mut fast, C, S),
        Write::Store,
        1.0,
        Mat::new(&w, C, C),
        Mat::new(&x, C, S),
    );
    naive_matmul(&w, &x, C, C, S, &mut naive);
    // Two f32 sums of 768 products below 1/4, each off by about sqrt(768) eps.
    assert_close("matmul", &fast, &naive, 56.0 * f32::EPSILON * 4.0);
    group.throughput(Throughput::Elements((2 * C * C * S) as u64));
    group.bench_function("qkvo y naive", |b| b.iter(|| naive_matmul(black_box(&w), &x, C, C, S, &mut naive)));

    let (gate, up) = (values(F * S), values(F * S));
    let (mut fast, mut naive) = (vec![0.0; F * S], vec![0.0; F * S]);
    silu_mul().run(pool, &[&gate, &up], vec![(&mut fast, Write::Store)]);
    naive_silu_mul(&gate, &up, &mut naive);
    // A few roundings of values below 1/4.
    assert_close("silu gate", &fast, &naive, 4.0 * f32::EPSILON);
    group.throughput(Throughput::Bytes((12 * F * S) as u64));
    group.bench_function("silu gate naive", |b| b.iter(|| naive_silu_mul(black_box(&gate), &up, &mut naive)));
    group.finish();

    let mut group = criterion.benchmark_group("generation");
    let (w, x, mut y) = (values(V * C), values(C), vec![0.0; V]);
    group.throughput(Throughput::Bytes((4 * V * C) as u64));
    group.bench_function("classifier row", |b| b.iter(|| matvec(pool, &w, &x, &mut y)));
    let attention = gpt_attention();
    let (q, k, v, mut o) = (values(C), values(C * 2048), values(C * 2048), vec![0.0; C]);
    group.throughput(Throughput::Bytes((8 * C * 2048) as u64));
    group.bench_function("attention over 2048", |b| {
        b.iter(|| attention.decode(pool, &q, &k, &v, 2048, 2048, &mut o))
    });
    group.finish();
}

fn main() {
    let pool = Pool::new(0);
    // `cargo test --benches` passes --test: run each kernel once, measure nothing.
    if !std::env::args().any(|arg| arg == "--test") {
        summary(&pool);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    benches(&mut criterion, &pool);
    criterion.final_summary();
}

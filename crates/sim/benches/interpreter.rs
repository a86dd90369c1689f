//! Speed of the interpreter at sizes of real layers: `cargo bench -p anneal-sim`.
//!
//! Throughput of a matrix product is in floating-point operations (2 for each multiplication and
//! addition), that of elementwise chains in elements of one tensor, whatever the chain's length.
//! The baseline of the product is the library that it calls, on one thread, without rounding.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mil::{Builder, Element, Op, Program};
use sim::{Interpreter, Profile};

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect()
}

/// w `[1, 1, M, K]` times x `[1, 1, K, N]`
fn product(element: Element, m: usize, k: usize, n: usize) -> Program {
    let mut b = Builder::new(element);
    let w = b.input("w", &[1, 1, m, k]).expect("a new name");
    let x = b.input("x", &[1, 1, k, n]).expect("a new name");
    let y = b.matmul(w, x, false, false).expect("shapes fit");
    b.output("y", y).expect("a new name");
    b.finish().expect("it has an output")
}

fn matmul(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    let sizes = [
        ("linear", 768, 768, 1024),
        ("ffn", 2048, 768, 1024),
        ("dw", 768, 1024, 768),
        ("small", 288, 288, 256),
    ];
    for (name, m, k, n) in sizes {
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        let (w, x) = (values(m * k), values(k * n));
        for element in [Element::F16, Element::F32] {
            let program = product(element, m, k, n);
            let interpreter = Interpreter::new(&program, &Profile::m4()).expect("it is sound");
            let y = interpreter.run(&[&w, &x]).expect("inputs fit");
            let first: f64 = (0..k).map(|l| f64::from(w[l]) * f64::from(x[l * n])).sum();
            let error = (f64::from(y[0][0]) - first).abs();
            assert!(error < 0.01 * (k as f64).sqrt(), "{name}: {error}");
            group.bench_function(format!("{name}/{element:?}"), |b| {
                b.iter(|| interpreter.run(&[&w, &x]).expect("inputs fit"));
            });
        }
        let mut y = vec![0.0_f32; m * n];
        group.bench_function(format!("{name}/gemm, one thread"), |b| {
            b.iter(|| {
                // SAFETY: the three slices hold m * n, m * k and k * n elements, row-major.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        y.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        w.as_ptr(),
                        1,
                        k as isize,
                        x.as_ptr(),
                        1,
                        n as isize,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            });
        });
    }
    group.finish();
}

fn chain(build: impl Fn(&mut Builder, [mil::ValueId; 3]) -> mil::Result<mil::ValueId>) -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, 2048, 1, 512]).expect("a new name");
    let row = b.input("row", &[1, 1, 1, 512]).expect("a new name");
    let column = b.input("column", &[1, 2048, 1, 1]).expect("a new name");
    let y = build(&mut b, [x, row, column]).expect("shapes fit");
    b.output("y", y).expect("a new name");
    b.finish().expect("it has an output")
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    let n = 2048 * 512;
    group.throughput(Throughput::Elements(n as u64));
    let (x, row, column) = (values(n), values(512), values(2048));
    let chains = [
        ("one add", chain(|b, [x, ..]| b.add(x, x))),
        (
            "ten additions and products",
            chain(|b, [x, row, column]| {
                let mut y = x;
                for _ in 0..5 {
                    y = b.mul(y, column)?;
                    y = b.add(y, row)?;
                }
                Ok(y)
            }),
        ),
        ("silu", chain(|b, [x, ..]| b.push1(Op::Silu, &[x]))),
        ("tanh", chain(|b, [x, ..]| b.push1(Op::Tanh, &[x]))),
        ("softmax, last axis", chain(|b, [x, ..]| b.push1(Op::Softmax { axis: -1 }, &[x]))),
        (
            "one hot",
            chain(|b, [_, row, column]| {
                let same = b.push1(Op::Equal, &[column, row])?;
                let (one, zero) = (b.scalar(1.0), b.scalar(0.0));
                b.select(same, one, zero)
            }),
        ),
    ];
    for (name, program) in &chains {
        let interpreter = Interpreter::new(program, &Profile::m4()).expect("it is sound");
        let inputs: Vec<&[f32]> = program
            .inputs()
            .iter()
            .map(|id| match program.value(*id).name.as_str() {
                "x" => &x[..],
                "row" => &row,
                _ => &column,
            })
            .collect();
        let y = interpreter.run(&inputs).expect("inputs fit");
        assert!(y[0].iter().all(|v| v.is_finite()), "{name}");
        group.bench_function(*name, |b| b.iter(|| interpreter.run(&inputs)));
    }
    group.finish();
}

criterion_group!(benches, matmul, elementwise);
criterion_main!(benches);

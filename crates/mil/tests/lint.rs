//! Each rule of the linter has a program that breaks it and one that does not. Oracle: the numbers
//! in the statement of the rule.

use mil::lint::{Check, Chip, Finding, Place, Plan, Route, Severity, Slot, rules};
use mil::ops::conv::PadType;
use mil::ops::elementwise::GeluMode;
use mil::text::{self, ParseOptions, WriteOptions, Written};
use mil::{Builder, Element, Op, Program, ValueId};

fn build(make: impl FnOnce(&mut Builder) -> mil::Result<ValueId>) -> Program {
    let mut b = Builder::new(Element::F16);
    let result = make(&mut b).expect("it type-checks");
    b.output("result", result).expect("the name is free");
    b.finish().expect("it has an output")
}

/// `relu` of an input called `name`.
fn relu(name: &str, shape: &[usize]) -> Program {
    build(|b| {
        let x = b.input(name, shape)?;
        b.push1(Op::Relu, &[x])
    })
}

fn matmul(m: usize, k: usize, n: usize) -> Program {
    build(|b| {
        let a = b.input("a", &[1, 1, m, k])?;
        let w = b.input("w", &[1, 1, n, k])?;
        b.matmul(a, w, false, true)
    })
}

fn slice(shape: &[usize], begin: &[usize], size: &[usize]) -> Program {
    build(|b| {
        let a = b.input("a", shape)?;
        b.slice(a, begin, size)
    })
}

fn transpose(shape: &[usize], perm: &[usize]) -> Program {
    build(|b| {
        let a = b.input("a", shape)?;
        b.transpose(a, perm)
    })
}

fn transposed_matmul(shape: &[usize], perm: &[usize]) -> Program {
    build(|b| {
        let a = b.input("a", shape)?;
        let w = b.input("w", shape)?;
        let a = b.transpose(a, perm)?;
        b.matmul(a, w, false, false)
    })
}

fn sum(count: usize) -> Program {
    build(|b| {
        let a = b.input("a", &[1, 4, 1, count])?;
        b.push1(Op::ReduceSum { axes: vec![3], keep_dims: true }, &[a])
    })
}

fn with_element(element: Element) -> Program {
    relu("a", &[1, 16]).with_element(element).expect("relu takes every float")
}

fn constant_output() -> Program {
    let mut b = Builder::new(Element::F16);
    let a = b.input("a", &[1, 16]).unwrap();
    let y = b.push1(Op::Relu, &[a]).unwrap();
    b.output("result", y).unwrap();
    let one = b.full(&[1, 16], 1.0);
    b.output("one", one).unwrap();
    b.finish().unwrap()
}

fn parse(text: &str) -> Program {
    text::parse(text, &ParseOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A program of two inputs of `shape` and what `make` makes of them.
fn of_two(
    shapes: [&[usize]; 2],
    make: impl FnOnce(&mut Builder, ValueId, ValueId) -> mil::Result<ValueId>,
) -> Program {
    build(|b| {
        let a = b.input("a", shapes[0])?;
        let w = b.input("w", shapes[1])?;
        make(b, a, w)
    })
}

fn of_one(shape: &[usize], make: impl FnOnce(&mut Builder, ValueId) -> mil::Result<ValueId>) -> Program {
    build(|b| {
        let a = b.input("a", shape)?;
        make(b, a)
    })
}

fn conv(x: &[usize], weight: &[usize], groups: i32, constant: bool) -> Program {
    of_one(x, |b, a| {
        let w = if constant { b.full(weight, 0.5) } else { b.input("w", weight)? };
        let op = Op::Conv {
            strides: vec![1, 1],
            pad_type: PadType::Valid,
            pad: vec![0; 4],
            dilations: vec![1, 1],
            groups,
        };
        b.push1(op, &[a, w])
    })
}

/// Two neighbours of each of `batch` images as columns, times a matrix.
fn im2col(batch: usize) -> Program {
    build(|b| {
        let a = b.input("a", &[batch, 16, 1, 64])?;
        let w = b.input("w", &[1, 1, 16, 32])?;
        let mut parts = Vec::new();
        for begin in [0, 32] {
            let op = Op::SliceBySize { begin: vec![0, 0, 0, begin], size: vec![batch as i32, 16, 1, 32] };
            parts.push(b.push1(op, &[a])?);
        }
        let columns = b.push1(Op::Concat { axis: 1, interleave: false }, &parts)?;
        let columns = b.reshape(columns, &[batch, 1, 32, 32])?;
        b.matmul(w, columns, false, false)
    })
}

/// An int8 port.
fn relu_of_int8() -> Program {
    parse(
        "program(1.3) { func main<ios18>(tensor<int8, [1, 16]> a) {
            fp16 s = const()[name = string(\"s\"), val = fp16(0.5)];
            tensor<fp16, [1, 16]> b = dequantize(input = a, scale = s)[name = string(\"b\")];
        } -> (b); }",
    )
}

/// int8 with a scale for each row, as others write it.
fn quantized_rows(b: &mut Builder, shape: &[usize]) -> ValueId {
    let values = vec![1; shape.iter().product()];
    let axis = shape.len() - 2;
    let scales: Vec<f32> = (1..=shape[axis]).map(|row| row as f32).collect();
    b.constant(mil::Constant::affine(Element::F16, shape, &values, axis, &scales, &[0]))
}

/// A constant that is kept as int8.
fn quantized(b: &mut Builder, shape: &[usize]) -> ValueId {
    let values: Vec<i8> = (0..shape.iter().product::<usize>()).map(|at| at as u8 as i8).collect();
    b.constant(mil::Constant::quantized(Element::F16, shape, &values, 0.25))
}

/// A softmax of each of `count` rows of an input.
fn softmaxes(count: usize, positions: usize) -> Program {
    of_one(&[1, 16, 1, positions], |b, a| {
        let mut x = a;
        for _ in 0..count {
            x = b.push1(Op::Softmax { axis: -1 }, &[x])?;
        }
        Ok(x)
    })
}

/// The root of a sum of squares: by a reduction, or by a product with ones.
fn norm(reduced: bool) -> Program {
    of_one(&[1, 512, 1, 16], |b, a| {
        let squares = b.mul(a, a)?;
        let sum = if reduced {
            b.push1(Op::ReduceSum { axes: vec![1], keep_dims: true }, &[squares])?
        } else {
            b.wide_sum(squares, 1)?
        };
        let mean = b.scale(sum, 1.0 / 512.0)?;
        b.push1(Op::Rsqrt { epsilon: 1e-5 }, &[mean])
    })
}

/// Two slices of an axis, joined the other way round; `negated` as a rotation does it.
fn rotated(shape: &[usize], axis: usize, negated: bool) -> Program {
    of_one(shape, |b, a| {
        let mut size = shape.to_vec();
        size[axis] /= 2;
        let mut begin = vec![0; shape.len()];
        let first = b.slice(a, &begin, &size)?;
        begin[axis] = size[axis];
        let mut second = b.slice(a, &begin, &size)?;
        if negated {
            second = b.scale(second, -1.0)?;
        }
        b.concat(&[second, first], axis)
    })
}

struct Case {
    rule: &'static str,
    chip: Chip,
    route: Route,
    severity: Severity,
    broken: Program,
    kept: Program,
}

fn cases() -> Vec<Case> {
    use Chip::{M1, M2, M3, M4, M5};
    use Route::{Ane, AneInMem};
    use Severity::{Error, Info, Warning};
    let case = |rule, chip, route, severity, broken, kept| Case { rule, chip, route, severity, broken, kept };
    let square = &[1, 1, 16, 16, 16];
    vec![
        case("ANE-RANK", M4, Ane, Error, relu("a", &[1, 1, 1, 1, 1, 16]), relu("a", &[1, 1, 1, 1, 16])),
        case("ANE-AXIS", M4, Ane, Error, relu("a", &[1, 1, 1, 65_552]), relu("a", &[1, 1, 1, 65_536])),
        case("ANE-AXIS", M3, Ane, Error, relu("a", &[1, 1, 16_400, 16]), relu("a", &[1, 65_536, 16_384, 16])),
        case("ANE-030", M4, AneInMem, Error, relu("a", &[1, 64, 1, 24]), relu("a", &[1, 64, 1, 32])),
        case("ANE-030", M4, Ane, Info, relu("a", &[1, 64, 1, 24]), relu("a", &[1, 64, 1, 32])),
        case("ANE-031", M1, AneInMem, Error, matmul(16, 48, 16), matmul(16, 64, 16)),
        case("ANE-021", M4, AneInMem, Warning, rotated(&[1, 64, 1, 64], 1, false), relu("a", &[1, 16])),
        case(
            "ANE-032",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 64, 64], &[1, 64, 64]], |b, a, w| b.matmul(w, a, false, false)),
            of_two([&[1, 64, 64], &[1, 64, 64]], |b, a, w| b.matmul(a, w, false, false)),
        ),
        case(
            "ANE-033",
            M1,
            AneInMem,
            Error,
            of_one(&[1, 64, 64], |b, a| {
                let ones = b.full(&[1, 64, 64], 1.0);
                b.matmul(ones, a, false, false)
            }),
            of_two([&[1, 64, 64], &[1, 64, 64]], |b, a, w| b.matmul(a, w, false, false)),
        ),
        case(
            "ANE-037",
            M4,
            AneInMem,
            Error,
            of_one(&[1, 16], |b, a| b.push1(Op::Gelu { mode: GeluMode::Exact }, &[a])),
            of_one(&[1, 16], |b, a| b.push1(Op::Tanh, &[a])),
        ),
        case("ANE-038", M4, AneInMem, Warning, norm(true), norm(false)),
        case(
            "ANE-038-M1",
            M1,
            AneInMem,
            Error,
            norm(false),
            of_one(&[1, 16], |b, a| b.push1(Op::Sqrt, &[a])),
        ),
        case(
            "ANE-039",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 64, 16], &[1, 64, 16]], |b, a, w| {
                let root = b.push1(Op::Sqrt, &[w])?;
                b.real_div(a, root)
            }),
            of_two([&[1, 64, 16], &[1, 64, 16]], |b, a, w| {
                let root = b.push1(Op::Sqrt, &[w])?;
                b.add(a, root)
            }),
        ),
        case(
            "ANE-039",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 64, 16], &[1, 64, 16]], |b, a, w| {
                let roots = [b.push1(Op::Sqrt, &[a])?, b.push1(Op::Sqrt, &[w])?];
                b.real_div(roots[0], roots[1])
            }),
            of_two([&[1, 64, 16], &[1, 64, 16]], |b, a, w| {
                let roots = [b.push1(Op::Sqrt, &[a])?, b.push1(Op::Sqrt, &[w])?];
                b.add(roots[0], roots[1])
            }),
        ),
        case(
            "ANE-041",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 64, 16], &[1, 64, 1]], |b, a, w| b.mul(a, w)),
            of_two([&[1, 64, 16], &[1, 1, 16]], |b, a, w| b.mul(a, w)),
        ),
        case(
            "ANE-041",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 1, 16], &[1, 64, 16]], |b, a, w| b.mul(a, w)),
            of_two([&[1, 64, 16], &[1, 64, 16]], |b, a, w| b.mul(a, w)),
        ),
        case(
            "ANE-042",
            M1,
            AneInMem,
            Error,
            of_two([&[1, 64, 16], &[1, 1, 1]], |b, a, w| b.mul(a, w)),
            of_one(&[1, 64, 16], |b, a| b.scale(a, 2.0)),
        ),
        case(
            "ANE-046",
            M4,
            AneInMem,
            Error,
            conv(&[1, 32_000, 1, 16], &[16, 32_000, 1, 1], 1, true),
            conv(&[1, 16, 1, 16], &[32_000, 16, 1, 1], 1, true),
        ),
        case(
            "ANE-047",
            M1,
            Ane,
            Error,
            conv(&[1, 16, 16, 32], &[16, 16, 1, 14], 1, true),
            conv(&[1, 16, 32, 32], &[16, 16, 15, 13], 1, true),
        ),
        case(
            "ANE-047",
            M5,
            Ane,
            Error,
            conv(&[1, 16, 16, 32], &[16, 16, 1, 16], 1, true),
            conv(&[1, 16, 16, 32], &[16, 16, 1, 15], 1, true),
        ),
        case(
            "ANE-048",
            M4,
            Ane,
            Warning,
            conv(&[1, 16, 1, 16], &[16, 16, 1, 1], 1, false),
            conv(&[1, 16, 1, 16], &[16, 16, 1, 1], 1, true),
        ),
        case(
            "ANE-048-BATCH",
            M4,
            Ane,
            Error,
            conv(&[2, 16, 1, 16], &[16, 16, 1, 1], 1, false),
            conv(&[1, 16, 1, 16], &[16, 16, 1, 1], 1, false),
        ),
        case(
            "ANE-048-BATCH",
            M4,
            AneInMem,
            Error,
            conv(&[1, 16, 1, 16], &[16, 8, 1, 1], 2, false),
            conv(&[2, 16, 1, 16], &[16, 8, 1, 1], 2, true),
        ),
        case(
            "ANE-049",
            M5,
            Ane,
            Error,
            of_one(&[1, 16, 1, 64], |b, a| {
                let max = b.push1(Op::ReduceMax { axes: vec![3], keep_dims: true }, &[a])?;
                b.scale(max, 0.0)
            }),
            of_one(&[1, 16, 1, 64], |b, a| {
                let max = b.push1(Op::ReduceMax { axes: vec![3], keep_dims: true }, &[a])?;
                b.sub(max, max)
            }),
        ),
        case(
            "ANE-050",
            M4,
            Ane,
            Error,
            of_one(&[1, 16, 1, 96], |b, a| {
                let square = b.push1(Op::Square, &[a])?;
                b.push1(Op::Tanh, &[square])
            }),
            of_one(&[1, 16, 1, 96], |b, a| {
                let square = b.mul(a, a)?;
                b.push1(Op::Tanh, &[square])
            }),
        ),
        case(
            "ANE-055",
            M1,
            Ane,
            Error,
            rotated(&[1, 64, 1, 64], 3, false),
            rotated(&[1, 64, 1, 64], 1, false),
        ),
        case(
            "ANE-053",
            M4,
            Ane,
            Error,
            of_one(&[1, 1, 16, 16], |b, a| {
                let flat = quantized(b, &[16, 16]);
                let w = b.reshape(flat, &[1, 1, 16, 16])?;
                b.matmul(w, a, false, false)
            }),
            of_one(&[1, 1, 16, 16], |b, a| {
                let w = quantized(b, &[1, 1, 16, 16]);
                b.matmul(w, a, false, false)
            }),
        ),
        case(
            "ANE-056",
            M5,
            Ane,
            Warning,
            of_one(&[1, 1, 16, 16], |b, a| {
                let w = quantized_rows(b, &[1, 1, 16, 16]);
                b.matmul(w, a, false, false)
            }),
            of_one(&[1, 1, 16, 16], |b, a| {
                let w = b.full(&[1, 1, 16, 16], 0.5);
                b.matmul(w, a, false, false)
            }),
        ),
        case(
            "ANE-061",
            M4,
            Ane,
            Warning,
            of_one(&[1, 16], |b, a| b.push1(Op::Rsqrt { epsilon: 1e-12 }, &[a])),
            of_one(&[1, 16], |b, a| b.push1(Op::Rsqrt { epsilon: 1e-7 }, &[a])),
        ),
        case(
            "ANE-062",
            M4,
            AneInMem,
            Warning,
            of_one(&[1, 16], |b, a| {
                let mask = b.full(&[1, 16], f32::NEG_INFINITY);
                b.add(a, mask)
            }),
            of_one(&[1, 16], |b, a| {
                let mask = b.full(&[1, 16], -65_504.0);
                b.add(a, mask)
            }),
        ),
        case("ANE-065", M4, AneInMem, Warning, softmaxes(1, 1_152), softmaxes(1, 1_024)),
        case("ANE-066", M4, AneInMem, Info, matmul(5_120, 5_120, 16), matmul(768, 8_192, 16)),
        case("ANE-068", M4, Ane, Warning, softmaxes(8, 64), softmaxes(7, 64)),
        case("ANE-069", M1, Ane, Warning, im2col(129), im2col(128)),
        case(
            "ANE-079",
            M3,
            AneInMem,
            Error,
            rotated(&[1, 16, 32, 2], 3, true),
            rotated(&[1, 16, 32, 2], 1, true),
        ),
        case(
            "ANE-CAST",
            M5,
            Ane,
            Error,
            of_one(&[1, 16], |b, a| b.push1(Op::Cast { dtype: mil::DType::F16 }, &[a])),
            of_one(&[1, 16], |b, a| {
                let cast = b.push1(Op::Cast { dtype: mil::DType::F16 }, &[a])?;
                b.scale(cast, 1.0)
            }),
        ),
        case(
            "ANE-INT32",
            M1,
            Ane,
            Error,
            of_one(&[1, 16], |b, a| {
                let whole = b.push1(Op::Cast { dtype: mil::DType::I32 }, &[a])?;
                b.push1(Op::Cast { dtype: mil::DType::F16 }, &[whole])
            }),
            of_one(&[1, 16], |b, a| b.push1(Op::Cast { dtype: mil::DType::F16 }, &[a])),
        ),
        case(
            "ANE-SELECT",
            M4,
            Ane,
            Warning,
            of_two([&[1, 16], &[1, 16]], |b, a, w| {
                let more = b.push1(Op::Greater, &[a, w])?;
                let zero = b.scalar(0.0);
                b.select(more, a, zero)
            }),
            of_two([&[1, 16], &[1, 16]], |b, a, w| {
                let more = b.push1(Op::Greater, &[a, w])?;
                b.select(more, a, w)
            }),
        ),
        case(
            "ANE-SQRT",
            M1,
            AneInMem,
            Warning,
            of_one(&[1, 16], |b, a| {
                let root = b.push1(Op::Sqrt, &[a])?;
                b.scale(root, 2.0)
            }),
            of_one(&[1, 16], |b, a| {
                let twice = b.scale(a, 2.0)?;
                b.push1(Op::Sqrt, &[twice])
            }),
        ),
        case("ANE-036", M4, AneInMem, Error, constant_output(), relu("a", &[1, 16])),
        case("ANE-040", M1, AneInMem, Error, transpose(&[1, 16, 1, 32], &[0, 2, 1, 3]), relu("a", &[1, 16])),
        case("ANE-043", M1, AneInMem, Warning, relu("mean", &[1, 16]), relu("a", &[1, 16])),
        case("ANE-043", M1, AneInMem, Warning, relu("softmax", &[1, 16]), relu("softmax_1", &[1, 16])),
        case(
            "ANE-052",
            M4,
            Ane,
            Error,
            transposed_matmul(square, &[0, 1, 2, 4, 3]),
            transposed_matmul(&square[1..], &[0, 1, 3, 2]),
        ),
        case(
            "ANE-054",
            M2,
            Ane,
            Warning,
            slice(&[1, 64], &[0, 16], &[1, 32]),
            slice(&[64, 64], &[16, 0], &[32, 32]),
        ),
        case("ANE-058", M4, Ane, Warning, sum(257), sum(256)),
        case(
            "ANE-071",
            M4,
            Ane,
            Error,
            parse("program(1.3) { func main<ios18>(tensor<fp16, [16]> a) { } -> (a); }"),
            relu("a", &[16]),
        ),
        case("ANE-072", M4, Ane, Error, with_element(Element::F32), with_element(Element::F16)),
        case("ANE-072", M4, AneInMem, Warning, relu_of_int8(), with_element(Element::F16)),
        case("ANE-072", M4, Ane, Error, with_element(Element::F32), relu_of_int8()),
        case("ANE-072", M4, AneInMem, Warning, with_element(Element::F32), with_element(Element::F16)),
        case(
            "ANE-074",
            M1,
            Ane,
            Warning,
            transpose(&[1, 16_400, 1, 16], &[0, 2, 1, 3]),
            transpose(&[1, 16_384, 1, 16], &[0, 2, 1, 3]),
        ),
        case("ANE-075", M3, Ane, Error, matmul(16_400, 64, 16), matmul(16_384, 64, 16)),
        case("ANE-075", M3, Ane, Error, matmul(16, 16_400, 16), matmul(16, 16_384, 16)),
    ]
}

/// One slot: name, columns of a surface of 64 channels, bytes.
type SlotOf = (&'static str, usize, usize);

struct PlanCase {
    rule: &'static str,
    chip: Chip,
    route: Route,
    severity: Severity,
    broken: Planned,
    kept: Planned,
}

/// What a plan is made of.
#[derive(Clone)]
struct Planned {
    inputs: Vec<SlotOf>,
    outputs: Vec<SlotOf>,
    written: Written,
    compiled: usize,
    loaded: usize,
}

impl Planned {
    fn lint(&self, chip: Chip, route: Route) -> Vec<Finding> {
        let slots = |slots: &[SlotOf]| -> Vec<Slot> {
            let slot = |(port, columns, bytes): &SlotOf| Slot {
                port: (*port).to_owned(),
                shape: vec![1, 64, 1, *columns],
                bytes: *bytes,
            };
            slots.iter().map(slot).collect()
        };
        let plan = Plan {
            route,
            inputs: slots(&self.inputs),
            outputs: slots(&self.outputs),
            written: &self.written,
            compiled: self.compiled,
            loaded: self.loaded,
        };
        plan.lint(chip)
    }

    fn with(&self, change: impl FnOnce(&mut Planned)) -> Planned {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }
}

fn plan_cases() -> Vec<PlanCase> {
    use Chip::{M1, M4};
    use Route::{Ane, AneInMem};
    use Severity::{Error, Warning};
    // Two constants of 32 elements in one blob file, and a product.
    let program = of_one(&[1, 64, 1, 64], |b, a| {
        let parts = [1.0, 2.0].map(|first| {
            let values = (0..64).map(|i| first + i as f32 / 64.0);
            b.constant(mil::Constant::float(Element::F16, &[1, 64, 1, 1], values))
        });
        let scaled = b.mul(a, parts[0])?;
        let moved = b.add(scaled, parts[1])?;
        b.matmul(moved, a, false, true)
    });
    let written = text::write(&program, &WriteOptions::default()).expect("it can be written");
    let legacy = text::write(&program, &WriteOptions::legacy()).expect("it can be written");
    assert_eq!((written.weights.len(), legacy.weights.len()), (1, 2));
    let packed = Planned {
        inputs: vec![("a0", 384, 49_152)],
        outputs: vec![("z0", 384, 49_152)],
        written,
        compiled: 99,
        loaded: 99,
    };
    let changed = |change: fn(&mut Written)| packed.with(|plan| change(&mut plan.written));
    let inputs = |slots: &[SlotOf]| packed.with(|plan| plan.inputs = slots.to_vec());
    let outputs = |slots: &[SlotOf]| packed.with(|plan| plan.outputs = slots.to_vec());
    let case =
        |rule, chip, route, severity, broken, kept| PlanCase { rule, chip, route, severity, broken, kept };
    let sound = || packed.clone();
    let (one, two) = (49_152, 98_304);
    vec![
        case("ANE-004", M4, AneInMem, Error, packed.with(|plan| plan.compiled = 100), sound()),
        case("ANE-004", M4, Ane, Error, packed.with(|plan| plan.loaded = 128), sound()),
        case(
            "ANE-007",
            M4,
            Ane,
            Error,
            changed(|written| written.text = written.text.replacen("uint64(64)", "uint64(128)", 1)),
            sound(),
        ),
        case("ANE-008", M4, AneInMem, Error, changed(|written| written.weights[0].bytes[72] = 0), sound()),
        case("ANE-009", M1, AneInMem, Error, sound(), packed.with(|plan| plan.written = legacy.clone())),
        case("ANE-022", M4, AneInMem, Warning, outputs(&[("y0", 384, one), ("z0", 384, two)]), sound()),
        case(
            "ANE-023",
            M4,
            AneInMem,
            Warning,
            inputs(&[("a0", 384, one), ("b0", 384, two)]),
            inputs(&[("a0", 384, two), ("b0", 384, two)]),
        ),
        case("ANE-024", M4, AneInMem, Warning, outputs(&[("z0", 384, one), ("y0", 384, one)]), sound()),
        case(
            "ANE-025",
            M4,
            AneInMem,
            Warning,
            inputs(&[("b0", 384, one), ("a0", 384, one)]),
            inputs(&[("a0", 384, one), ("b0", 384, one)]),
        ),
        case(
            "ANE-026",
            M1,
            AneInMem,
            Error,
            inputs(&[("a0", 384, two), ("b0", 384, one)]),
            inputs(&[("a0", 384, one), ("b0", 384, two)]),
        ),
        case(
            "ANE-026",
            M1,
            AneInMem,
            Error,
            outputs(&[("y0", 384, one), ("z0", 384, two)]),
            outputs(&[("y0", 384, two), ("z0", 384, one)]),
        ),
        case("ANE-027", M4, AneInMem, Warning, inputs(&[("a0", 384, one), ("b0", 384, one)]), sound()),
        case(
            "ANE-028",
            M1,
            AneInMem,
            Warning,
            packed.with(|plan| {
                plan.inputs = vec![("a0", 384, one), ("b0", 384, 8 * one)];
                plan.outputs = vec![("y0", 384, one), ("z0", 384, one)];
            }),
            packed.with(|plan| plan.inputs = vec![("a0", 384, one), ("b0", 384, 8 * one)]),
        ),
        case("ANE-029", M4, AneInMem, Error, inputs(&[("a0", 383, 49_024)]), sound()),
        case("ANE-029", M4, AneInMem, Error, inputs(&[("a0", 48, one)]), inputs(&[("a0", 64, one)])),
        case(
            "ANE-034",
            M4,
            AneInMem,
            Error,
            changed(|written| {
                let matmul = written.text.find("= matmul(").expect("it has one");
                let (before, after) = written.text.split_at(matmul);
                let flag = after.split_once("transpose_x = ").expect("it is written").1;
                let name = flag.split([',', ')']).next().expect("it has a name").to_owned();
                let after = after.replacen(&format!("transpose_x = {name}"), "transpose_x = bool(false)", 1);
                written.text = format!("{before}{after}");
            }),
            sound(),
        ),
        case("ANE-INPUTS", M1, AneInMem, Error, inputs(&[("a0", 384, one), ("b0", 384, one)]), sound()),
    ]
}

#[test]
fn each_rule_finds_the_plan_that_breaks_it_and_nothing_else() {
    for case in plan_cases() {
        let found = |plan: &Planned| -> Vec<Finding> {
            let findings = plan.lint(case.chip, case.route).into_iter();
            findings.filter(|finding| finding.rule == case.rule).collect()
        };
        let broken = found(&case.broken);
        assert!(!broken.is_empty(), "{} does not find its example", case.rule);
        assert!(broken.iter().all(|f| f.severity == case.severity), "{broken:?}");
        assert!(found(&case.kept).is_empty(), "{}: {:?}", case.rule, found(&case.kept));
    }
}

#[test]
fn each_rule_finds_what_breaks_it_and_nothing_else() {
    for case in cases() {
        let found = |program: &Program| -> Vec<_> {
            program.lint(case.chip, case.route).into_iter().filter(|f| f.rule == case.rule).collect()
        };
        let broken = found(&case.broken);
        assert!(!broken.is_empty(), "{} does not find its example", case.rule);
        assert!(broken.iter().all(|f| f.severity == case.severity), "{broken:?}");
        assert!(found(&case.kept).is_empty(), "{}: {:?}", case.rule, found(&case.kept));
    }
}

#[test]
fn every_rule_that_looks_at_something_has_a_case() {
    let (cases, plans) = (cases(), plan_cases());
    for rule in rules() {
        let has_case = cases.iter().any(|case| case.rule == rule.id);
        assert_eq!(has_case, matches!(rule.check, Check::Program(_)), "{}", rule.id);
        let has_plan = plans.iter().any(|case| case.rule == rule.id);
        assert_eq!(has_plan, matches!(rule.check, Check::Plan(_)), "{}", rule.id);
        for text in [rule.statement, rule.symptom, rule.remedy, rule.source] {
            assert!(!text.is_empty(), "{}", rule.id);
        }
        assert!(!rule.routes.is_empty() && !rule.chips.is_empty(), "{}", rule.id);
        assert!(rules().filter(|other| other.id == rule.id).count() == 1, "{}", rule.id);
    }
}

#[test]
fn rules_keep_to_their_chips_and_routes() {
    let rules = |program: &Program, chip, route| -> Vec<&str> {
        program.lint(chip, route).into_iter().map(|f| f.rule).collect()
    };
    let late_slice = slice(&[1, 64], &[0, 16], &[1, 32]);
    assert_eq!(rules(&late_slice, Chip::M1, Route::Ane), ["ANE-054"]);
    assert!(rules(&late_slice, Chip::M4, Route::Ane).is_empty());
    assert!(rules(&matmul(16, 48, 16), Chip::M4, Route::AneInMem).is_empty());
    let tall = relu("a", &[1, 1, 16_400, 16]);
    assert_eq!(rules(&tall, Chip::M3, Route::Ane), ["ANE-AXIS", "ANE-AXIS"]);
    assert!(rules(&tall, Chip::M5, Route::Ane).is_empty());
}

/// Parts of a split begin inside the axis, as a slice does.
#[test]
fn a_split_of_the_last_axis_is_a_late_slice() {
    let split = |axis| {
        build(|b| {
            let a = b.input("a", &[1, 64, 1, 64])?;
            let parts = b.push(Op::Split { num_splits: 2, axis }, &[a])?;
            b.add(parts[0], parts[1])
        })
    };
    for (axis, count) in [(3, 1), (-1, 1), (1, 0)] {
        assert_eq!(split(axis).lint(Chip::M2, Route::Ane).len(), count, "axis {axis}");
    }
}

/// What stands inside a composite counts: rms_norm over 512 channels adds them up by a product.
#[test]
fn composites_are_looked_into() {
    let norm = build(|b| {
        let a = b.input("a", &[1, 512, 1, 24])?;
        let w = b.input("w", &[1, 512, 1, 16])?;
        let w = b.slice(w, &[0; 4], &[1, 512, 1, 1])?;
        b.push1(Op::RmsNorm { axis: 1, eps: 1e-5 }, &[a, w])
    });
    let findings = norm.lint(Chip::M4, Route::AneInMem);
    // Its root depends on the largest magnitude of a column.
    assert!(findings.iter().all(|f| ["ANE-030", "ANE-038"].contains(&f.rule)), "{findings:?}");
    let wide = norm.lint(Chip::M4, Route::Ane);
    assert!(wide.iter().all(|f| f.severity == Severity::Info), "{wide:?}");
}

#[test]
fn a_finding_reads_as_a_sentence() {
    let findings = sum(512).lint(Chip::M4, Route::AneInMem);
    assert_eq!(findings[0].place, Place::Port("result".to_owned()));
    assert_eq!(
        findings[0].to_string(),
        "error ANE-030: port `result`: the last axis of tensor<fp16, [1, 4, 1, 1]> is no multiple of 16; \
         pad it to a multiple of 16 (64 where surfaces are packed)"
    );
    assert_eq!(
        findings[1].to_string(),
        "warning ANE-058: statement 0, `result` = reduce_sum: it adds up 512 elements of \
         tensor<fp16, [1, 4, 1, 512]>, more than 256; multiply by a matrix of ones, which \
         accumulates wide (Builder::wide_sum)"
    );
}

/// What others write and no [`Program`] can hold: rule, statements, and what the parser says.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "ANE-035",
        "tensor<fp16, [1, 8, 1, 64]> y = conv(x = x, weight = x, bias = x);",
        "takes no argument `bias`",
    ),
    (
        "ANE-044",
        "tensor<fp16, [1, 16, 1, 64]> y = scaled_dot_product_attention(query = x, key = x, value = x, attn_mask = x);",
        "unknown",
    ),
    (
        "ANE-045",
        "tensor<fp16, [1, 16, 1, 64]> y = scaled_dot_product_attention(query = x, key = x, value = x);",
        "unknown",
    ),
    ("ANE-059", "tensor<fp16, [1, 16, 1, 64]> y = softplus(x = x);", "unknown"),
    ("ANE-059", "tensor<fp16, [1, 16, 1, 64]> y = round(x = x);", "unknown"),
    ("ANE-059", "tensor<fp16, [1, 16, 1, 64]> y = floor(x = x);", "unknown"),
    ("ANE-059", "tensor<fp16, [1, 16, 1, 64]> y = ceil(x = x);", "unknown"),
    ("ANE-063", "tensor<fp16, [1, ?, 1, 64]> y = relu(x = x);", "ANE-063"),
    (
        "ANE-064",
        "tensor<fp16, [1, 16, 1, 64]> y = layer_norm(x = x, axes = [3], epsilon = fp16(0.1));",
        "unknown",
    ),
    ("ANE-067", "tensor<fp16, [1, 16, 1, 64]> y = sin(x = x);", "unknown"),
    ("ANE-067", "tensor<fp16, [1, 16, 1, 64]> y = cos(x = x);", "unknown"),
    ("ANE-067", "tensor<fp16, [1, 16, 1, 64]> y = topk(x = x, k = 3);", "unknown"),
    ("ANE-067", "tensor<fp16, [1, 16, 1, 64]> y = argsort(x = x);", "unknown"),
    (
        "ANE-067",
        "tensor<fp16, [1, 16, 1, 1]> y = reduce_argmin(x = x, axis = 3, keep_dims = true);",
        "unknown",
    ),
    ("ANE-067", "tensor<fp16, [1, 16, 1, 64]> y = random_normal(shape = [1, 16, 1, 64]);", "unknown"),
];

/// Rules that the writer of text keeps, whatever it is given.
const WRITTEN: [&str; 1] = ["ANE-073"];
/// Rules that another one says more sharply.
const IMPLIED: [(&str, &str); 1] = [("ANE-051", "ANE-AXIS")];
/// Rules about values and whole models. `sim` computes what the first two say (its tests of rounding); nothing here
/// quantizes a model by itself.
const ABOUT_VALUES: [&str; 3] = ["ANE-057", "ANE-060", "ANE-077"];

/// A rule that looks at nothing has its reason shown.
#[test]
fn every_rule_that_looks_at_nothing_is_kept_otherwise() {
    for (rule, statements, told) in REFUSED {
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<fp16, [1, 16, 1, 64]> x) {{ {statements} }} -> (y); }}"
        );
        let error = text::parse(&text, &ParseOptions::default()).expect_err("it is refused").to_string();
        assert!(error.contains(told), "{rule}: {error}");
    }
    // 2 x 50,176 columns make a row of 100,352.
    let row = of_one(&[1, 2, 1, 50_176], |b, a| {
        let row = b.reshape(a, &[1, 100_352])?;
        b.concat(&[row, row], 0)
    });
    let found = |program: &Program| program.lint(Chip::M5, Route::Ane).iter().any(|f| f.rule == IMPLIED[0].1);
    assert!(found(&row));
    let stacked = of_one(&[1, 2, 1, 50_176], |b, a| b.concat(&[a, a], 2));
    assert!(!found(&stacked));

    let looked_at_nowhere = rules().filter(|rule| matches!(rule.check, Check::Always(_)));
    for rule in looked_at_nowhere {
        let kept = REFUSED.iter().any(|(id, ..)| *id == rule.id)
            || WRITTEN.contains(&rule.id)
            || IMPLIED.iter().any(|(id, _)| *id == rule.id)
            || ABOUT_VALUES.contains(&rule.id);
        assert!(kept, "{}: nothing shows it", rule.id);
    }
}

/// Rules that no program can break, because text and builder keep them.
#[test]
fn what_always_holds_does() {
    let text = |body: &str| {
        format!("program(1.3) {{ func main<ios18>(tensor<fp16, [16]> x) {{ {body} }} -> (y); }}")
    };
    let refused = |body: &str| {
        text::parse(&text(body), &ParseOptions::default()).expect_err("it is refused").to_string()
    };
    assert!(refused("tensor<fp16, [16]> z = relu(x = x);").contains("ANE-036"));
    for op in ["log", "rsqrt", "gelu"] {
        let program = parse(&text(&format!("tensor<fp16, [16]> y = {op}(x = x);")));
        let written = text::write(&program, &text::WriteOptions::default()).expect("it can be written");
        let attribute = if op == "gelu" { "mode = c0" } else { "epsilon = c0" };
        assert!(written.text.contains(attribute), "{}", written.text);
    }
}

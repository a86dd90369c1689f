//! Each rule of the linter has a program that breaks it and one that does not. Oracle: the numbers
//! in the statement of the rule.

use mil::lint::{Check, Chip, Place, RULES, Route, Severity};
use mil::text::{self, ParseOptions};
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

struct Case {
    rule: &'static str,
    chip: Chip,
    route: Route,
    severity: Severity,
    broken: Program,
    kept: Program,
}

fn cases() -> Vec<Case> {
    use Chip::{M1, M2, M3, M4};
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
fn every_rule_that_looks_at_programs_has_a_case() {
    let cases = cases();
    for rule in RULES {
        let has_case = cases.iter().any(|case| case.rule == rule.id);
        assert_eq!(has_case, matches!(rule.check, Check::Program(_)), "{}", rule.id);
        assert!(!rule.routes.is_empty() && !rule.chips.is_empty(), "{}", rule.id);
        assert!(RULES.iter().filter(|other| other.id == rule.id).count() == 1, "{}", rule.id);
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
    assert!(findings.iter().all(|f| f.rule == "ANE-030"), "{findings:?}");
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
    let attention = "tensor<fp16, [16]> y = scaled_dot_product_attention(query = x, key = x, value = x);";
    assert!(refused(attention).contains("unknown"));
    for op in ["log", "rsqrt", "gelu"] {
        let program = parse(&text(&format!("tensor<fp16, [16]> y = {op}(x = x);")));
        let written = text::write(&program, &text::WriteOptions::default()).expect("it can be written");
        let attribute = if op == "gelu" { "mode = c0" } else { "epsilon = c0" };
        assert!(written.text.contains(attribute), "{}", written.text);
    }
}

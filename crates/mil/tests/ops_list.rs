//! What must hold for every op, walked over the list of ops: `cargo test -p anneal-mil`.

use std::collections::HashSet;

use mil::ops::{KINDS, examples, misuses};
use mil::{Builder, Constant, Element, Error, Op, TensorType};

/// The result types of a program of one statement in `element`.
fn build(element: Element, op: &Op, operands: &[TensorType]) -> mil::Result<Vec<TensorType>> {
    let mut b = Builder::new(element);
    let mut args = Vec::new();
    for (i, ty) in operands.iter().enumerate() {
        let dtype = if ty.dtype.is_float() { element.dtype() } else { ty.dtype };
        args.push(b.typed_input(&format!("x{i}"), TensorType::new(dtype, &ty.shape))?);
    }
    let results = b.push(op.clone(), &args)?;
    Ok(results.iter().map(|id| b.ty(*id).clone()).collect())
}

#[test]
fn every_op_has_an_example_that_builds_in_both_element_types() {
    let mut seen = HashSet::new();
    for example in examples() {
        seen.insert(example.op.name());
        for element in [Element::F16, Element::F32] {
            if let Err(error) = build(element, &example.op, &example.operands) {
                panic!("{:?} in {element:?}: {error}", example.op);
            }
        }
    }
    for kind in KINDS {
        assert!(seen.contains(kind.name), "{} has no example", kind.name);
    }
}

#[test]
fn every_op_has_a_misuse_and_each_is_refused_with_its_reason() {
    let mut seen = HashSet::new();
    for (op, operands, fragment) in misuses() {
        seen.insert(op.name());
        match build(Element::F32, &op, &operands) {
            Err(Error::Op { op: name, problem }) => {
                assert_eq!(name, op.name());
                assert!(problem.contains(fragment), "{op:?} says `{problem}`, expected `{fragment}` in it");
            }
            other => panic!("{op:?} on {operands:?} gave {other:?}"),
        }
    }
    for kind in KINDS {
        assert!(seen.contains(kind.name), "{} has no misuse", kind.name);
    }
}

#[test]
fn every_op_refuses_a_wrong_number_of_operands() {
    for example in examples() {
        let kind = example.op.kind().expect("examples are no constants");
        let fewer = &example.operands[1..];
        let more = [&example.operands[..], &example.operands[..1]].concat();
        if !kind.variadic || fewer.is_empty() {
            let error = build(Element::F32, &example.op, fewer).expect_err(kind.name);
            assert!(error.to_string().contains("takes the operands"), "{error}");
        }
        if !kind.variadic {
            let error = build(Element::F32, &example.op, &more).expect_err(kind.name);
            assert!(error.to_string().contains("takes the operands"), "{error}");
        }
    }
}

#[test]
fn attributes_go_to_their_names_and_back() {
    for example in examples() {
        let attrs = example.op.attrs();
        let kind = example.op.kind().expect("examples are no constants");
        let names: Vec<&str> = attrs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, kind.attrs);
        let mut lookup = |name: &str| {
            let found = attrs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let again = Op::from_attrs(kind.name, &mut lookup);
        assert_eq!(again.as_ref(), Ok(&example.op));
    }
}

#[test]
fn every_op_says_what_it_computes_in_words_of_its_own() {
    let mut docs = HashSet::new();
    for kind in KINDS {
        assert!(!kind.doc.trim().is_empty(), "{} has no doc", kind.name);
        assert!(docs.insert(kind.doc), "{} has another op's doc", kind.name);
    }
}

#[test]
fn composites_expand_into_primitive_ops_with_results_of_the_same_types() {
    for example in examples().iter().filter(|e| e.op.is_composite()) {
        for element in [Element::F16, Element::F32] {
            let mut b = Builder::new(element);
            let mut args = Vec::new();
            for (i, ty) in example.operands.iter().enumerate() {
                args.push(b.input(&format!("x{i}"), &ty.shape).expect("a new name"));
            }
            let results = b.push(example.op.clone(), &args).expect("examples build");
            for (i, result) in results.iter().enumerate() {
                b.output(&format!("y{i}"), *result).expect("a new name");
            }
            let whole = b.finish().expect("it has outputs");
            let expanded = whole.expand_all().expect("decompositions build");
            expanded.verify().expect("decompositions are sound");
            assert!(expanded.stmts().iter().all(|s| !s.op.is_composite()));
            let ports = |p: &mil::Program| -> Vec<(String, TensorType)> {
                p.ports().map(|p| (p.name.to_owned(), p.ty.clone())).collect()
            };
            assert_eq!(ports(&whole), ports(&expanded), "{:?}", example.op);
        }
    }
}

/// The f16 rules: no sum over more than 256 elements except as a product, at a model's sizes.
#[test]
fn decompositions_add_up_no_more_than_256_elements_in_f16() {
    let mut b = Builder::new(Element::F16);
    let (c, n, v) = (768, 512, 2048);
    let x = b.input("x", &[1, c, 1, n]).unwrap();
    let w = b.input("w", &[1, c, 1, 1]).unwrap();
    let dy = b.input("dy", &[1, c, 1, n]).unwrap();
    let table = b.input("table", &[1, 1, v, c]).unwrap();
    let hi = b.input("hi", &[1, 1, 1, n]).unwrap();
    let lo = b.input("lo", &[1, 1, 1, n]).unwrap();
    let log_scale = b.input("log_scale", &[1, 1, 1, 1]).unwrap();
    let norm = Op::RmsNormGrad { axis: 1, eps: 1e-5 };
    let attention = Op::AttentionGrad { heads: 12, kv_heads: 12, seq: n as i32, window: 0, scale: 0.125 };
    let head = Op::CrossEntropy { softcap: 15.0 };
    let mut results = b.push(norm, &[x, w, dy]).unwrap();
    results.extend(b.push(attention, &[x, x, x, x, dy]).unwrap());
    results.extend(b.push(head, &[x, table, hi, lo, log_scale]).unwrap());
    for (i, result) in results.into_iter().enumerate() {
        b.output(&format!("y{i}"), result).unwrap();
    }
    let program = b.finish().unwrap().expand_all().unwrap();
    for stmt in program.stmts() {
        if let Op::ReduceSum { axes, .. } | Op::ReduceMean { axes, .. } = &stmt.op {
            let shape = &program.ty(stmt.args[0]).shape;
            let count: usize = axes.iter().map(|a| shape[*a as usize]).product();
            assert!(count <= mil::REDUCE_SUM_MAX, "{:?} of {shape:?}", stmt.op);
        }
    }
}

/// What has no elements, or more than memory can hold, reaches no shape rule and no kernel.
#[test]
fn tensors_of_no_size_or_any_size_are_refused() {
    let mut b = Builder::new(Element::F16);
    for (shape, reason) in [(&[1, 0, 1, 8][..], "no elements"), (&[1 << 40, 1 << 40], "more elements")] {
        let error = b.input("x", shape).unwrap_err().to_string();
        assert!(error.contains("input `x` is tensor<fp16") && error.contains(reason), "{error}");
    }
    let none = b.constant(Constant::float(Element::F16, &[0], []));
    let error = b.add(none, none).unwrap_err().to_string();
    assert!(error.contains("add: an operand is tensor<fp16, [0]>: an axis of no elements"), "{error}");
    let column = b.input("column", &[1 << 40, 1]).unwrap();
    let error = b.matmul(column, column, false, true).unwrap_err().to_string();
    assert!(error.contains("matmul: the result is") && error.contains("more elements"), "{error}");
}

/// What gradients and decompositions choose between has one shape, which is all that coremltools infers and
/// Espresso takes (see [`Builder::select`]).
#[test]
fn selects_that_we_write_have_operands_of_one_shape() {
    let mut seen = 0;
    for example in examples() {
        let mut b = Builder::new(Element::F32);
        let ports: Vec<String> = (0..example.operands.len()).map(|at| format!("x{at}")).collect();
        let args: Vec<_> = ports
            .iter()
            .zip(&example.operands)
            .map(|(p, ty)| b.typed_input(p, ty.clone()).unwrap())
            .collect();
        let results = b.push(example.op.clone(), &args).unwrap();
        for (at, result) in results.iter().enumerate() {
            b.output(&format!("y{at}"), *result).unwrap();
        }
        let whole = b.finish().unwrap();
        let wrt: Vec<&str> = whole
            .ports()
            .filter(|p| p.kind == mil::PortKind::Input && p.ty.dtype.is_float())
            .map(|p| p.name)
            .collect();
        // An op without a gradient still has a decomposition.
        let program = mil::differentiate(&whole, &wrt).unwrap_or(whole.clone()).expand_all().unwrap();
        for stmt in program.stmts().iter().filter(|s| s.op == Op::Select && example.op != Op::Select) {
            let shapes: Vec<&[usize]> = stmt.args.iter().map(|id| &program.ty(*id).shape[..]).collect();
            assert!(shapes.windows(2).all(|w| w[0] == w[1]), "{:?}: {shapes:?}", example.op);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} selects");
}

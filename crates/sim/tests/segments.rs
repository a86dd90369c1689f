//! Differentiation and cutting: a program that was cut and runs piece by piece gives the same bits
//! as the whole, wherever it is cut and whether values are kept or computed again.

mod common;

use common::{Outputs, normal, rng};
use mil::{Builder, Element, Op, Program, Segment, ValueId, differentiate, gradient_name, partition};
use proptest::prelude::*;
use sim::Profile;

const CHANNELS: usize = 8;
const TOKENS: usize = 10;

/// x + w2 silu(w1 attention(norm(x))) and once more without attention; scopes tell the parts apart.
fn two_layers(element: Element) -> Program {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, CHANNELS, 1, TOKENS]).unwrap();
    let linear = |b: &mut Builder, name: &str, x: ValueId, outputs: usize| {
        let inputs = b.shape(x)[1];
        let w = b.input(name, &[1, 1, outputs, inputs]).unwrap();
        let x = b.reshape(x, &[1, 1, inputs, TOKENS]).unwrap();
        let y = b.matmul(w, x, false, false).unwrap();
        b.reshape(y, &[1, outputs, 1, TOKENS]).unwrap()
    };
    let norm = |b: &mut Builder, name: &str, x: ValueId| {
        let w = b.input(name, &[1, CHANNELS, 1, 1]).unwrap();
        b.push1(Op::RmsNorm { axis: 1, eps: 1e-5 }, &[x, w]).unwrap()
    };
    let mut stream = x;
    for layer in 0..2 {
        let mixed = b.in_scope("attn", |b| {
            let u = norm(b, &format!("norm_attn{layer}"), stream);
            let q = linear(b, &format!("wq{layer}"), u, CHANNELS);
            let k = linear(b, &format!("wk{layer}"), u, CHANNELS / 2);
            let v = linear(b, &format!("wv{layer}"), u, CHANNELS / 2);
            let op = Op::Attention { heads: 4, kv_heads: 2, seq: 5, window: 0, scale: 0.7 };
            let o = b.push1(op, &[q, k, v]).unwrap();
            b.add(stream, o).unwrap()
        });
        stream = b.in_scope("ffn", |b| {
            let u = norm(b, &format!("norm_ffn{layer}"), mixed);
            let hidden = linear(b, &format!("w1{layer}"), u, 2 * CHANNELS);
            let hidden = b.push1(Op::Silu, &[hidden]).unwrap();
            let out = linear(b, &format!("w2{layer}"), hidden, CHANNELS);
            b.add(mixed, out).unwrap()
        });
    }
    b.output("y", stream).unwrap();
    b.finish().unwrap()
}

/// Forward and backward by every input.
fn whole(element: Element) -> Program {
    let forward = two_layers(element);
    let names: Vec<&str> = forward.ports().filter(|p| p.name != "y").map(|p| p.name).collect();
    differentiate(&forward, &names).unwrap()
}

fn inputs_of(program: &Program) -> Vec<(String, Vec<f32>)> {
    let mut rng = rng(11);
    let ports = program.inputs().iter().map(|id| program.value(*id));
    ports.map(|info| (info.name.clone(), normal(&mut rng, info.ty.numel(), 0.6))).collect()
}

/// Runs segments one after another; what one gives, later ones may read.
fn run_all(segments: &[Segment], inputs: &[(String, Vec<f32>)], profile: &Profile) -> Outputs {
    let mut known: Outputs = inputs.iter().cloned().collect();
    for segment in segments {
        let mut ports = Vec::new();
        for id in segment.program.inputs() {
            let name = segment.program.value(*id).name.clone();
            let values = known.get(&name);
            let values = values.unwrap_or_else(|| panic!("`{name}` is not there yet"));
            ports.push((name, values.clone()));
        }
        known.extend(common::run(&segment.program, profile, &ports));
    }
    known
}

fn assert_same(whole: &Outputs, cut: &Outputs) {
    for (name, expected) in whole {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(expected) == bits(&cut[name]), "{name} differs");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Borders anywhere in the order of statements, composites expanded or not.
    #[test]
    fn any_cut_gives_the_same_bits(
        cuts in prop::collection::btree_set(1_usize..400, 0..6),
        again in any::<u64>(),
        expand in any::<bool>(),
        half in any::<bool>(),
    ) {
        let element = if half { Element::F16 } else { Element::F32 };
        let mut program = whole(element);
        if expand {
            program = program.expand_all().unwrap();
        }
        let inputs = inputs_of(&program);
        let profile = Profile::m4();
        let expected = common::run(&program, &profile, &inputs);
        // A segment must give something: borders are kept where statements lie between them.
        let count = program.stmts().len();
        let borders: Vec<usize> = cuts.into_iter().map(|c| c % count).collect();
        let position = |stmt: &mil::Stmt| {
            let at = program.stmts().iter().position(|s| s.results == stmt.results).unwrap();
            borders.iter().filter(|border| at >= **border).count()
        };
        // Segments that hold nothing but constants are merged away.
        let mut used: Vec<usize> = program
            .stmts()
            .iter()
            .filter(|s| !matches!(s.op, Op::Const(_)))
            .map(&position)
            .collect();
        used.sort_unstable();
        used.dedup();
        let segment_of = |stmt: &mil::Stmt| {
            used.iter().position(|u| *u >= position(stmt)).unwrap_or(used.len() - 1)
        };
        let names: Vec<String> = (0..used.len()).map(|i| format!("part{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let recompute = |stmt: &mil::Stmt, _, to: usize| {
            let seed = stmt.results[0].index() as u64 * 31 + to as u64;
            again.rotate_left((seed % 64) as u32) & 3 == 0
        };
        // With recomputation a value may cross no border any more; such a segment is refused, and
        // then keeping everything must do.
        let segments = partition(&program, &names, segment_of, recompute)
            .or_else(|_| partition(&program, &names, segment_of, |_, _, _| false))
            .unwrap();
        for segment in &segments {
            segment.program.verify().unwrap();
        }
        assert_same(&expected, &run_all(&segments, &inputs, &profile));
    }
}

/// The cut that training uses: forward and backward, activations kept or computed again.
#[test]
fn keeping_and_recomputing_activations_agree() {
    let program = whole(Element::F16);
    let inputs = inputs_of(&program);
    let profile = Profile::m4();
    let expected = common::run(&program, &profile, &inputs);
    let mut ports = Vec::new();
    for again in [false, true] {
        let segments = partition(
            &program,
            &["forward", "backward"],
            |stmt| usize::from(stmt.scope.backward),
            |_, _, _| again,
        )
        .unwrap();
        assert_same(&expected, &run_all(&segments, &inputs, &profile));
        ports.push(segments[1].program.inputs().len());
    }
    assert!(ports[1] < ports[0], "recomputing reads fewer values: {ports:?}");
    assert!(expected.contains_key(&gradient_name("wq1")));
}

#[test]
fn a_pair_of_ports_stays_one_in_its_segment_or_is_refused() {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[4]).unwrap();
    let state = b.input("state", &[4]).unwrap();
    let y = b.scale(x, 2.0).unwrap();
    let next = b.add(state, y).unwrap();
    b.output("next", next).unwrap();
    b.output("y", y).unwrap();
    b.inout("state", "next").unwrap();
    let program = b.finish().unwrap();
    let by_op = |stmt: &mil::Stmt| usize::from(stmt.op.name() == "add");
    let segments = partition(&program, &["first", "second"], by_op, |_, _, _| false).unwrap();
    assert!(segments[0].program.inouts().is_empty());
    let second = &segments[1].program;
    let names: Vec<_> =
        second.inouts().iter().map(|(i, o)| (&*second.value(*i).name, &*second.value(*o).name)).collect();
    assert_eq!(names, [("state", "next")]);

    let mut b = Builder::new(Element::F16);
    let state = b.input("state", &[4]).unwrap();
    let half = b.scale(state, 0.5).unwrap();
    let next = b.add(half, half).unwrap();
    b.output("next", next).unwrap();
    b.inout("state", "next").unwrap();
    let error = partition(&b.finish().unwrap(), &["first", "second"], by_op, |_, _, _| false).unwrap_err();
    assert!(error.to_string().contains("`state` and `next` are one port, and segment `second`"), "{error}");

    // Overwritten in the first segment, read in the second.
    let mut b = Builder::new(Element::F16);
    let state = b.input("state", &[4]).unwrap();
    let next = b.scale(state, 0.5).unwrap();
    let sum = b.add(state, next).unwrap();
    b.output("next", next).unwrap();
    b.output("sum", sum).unwrap();
    b.inout("state", "next").unwrap();
    let error = partition(&b.finish().unwrap(), &["first", "second"], by_op, |_, _, _| false).unwrap_err();
    assert!(
        error.to_string().contains("overwrites `state` by `next`, and the later segment `second`"),
        "{error}"
    );
}

//! Programs packed into one input and one output surface. Oracles: `sim` on the program as it was, bit for
//! bit; `half`'s conversion of single numbers; and what the facts say of surfaces.

use std::collections::BTreeMap;

use ane::{MIN_BYTES, MIN_COLUMNS, PackError, Packing, STEP, Surface, SurfaceLimits};
use half::f16;
use mil::lint::{Chip, Route, Severity};
use mil::text::{self, ParseOptions, WriteOptions};
use mil::{Builder, DType, Element, Op, PortKind, Program, TensorType};
use model::{Cut, ModelConfig, Taps, presets};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim::Profile;

type Tensors = BTreeMap<String, Vec<f32>>;

/// Values that f16 holds, for every input of `program`.
fn inputs_of(program: &Program, seed: u64) -> Tensors {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let inputs = program.inputs().iter().map(|id| program.value(*id));
    inputs
        .map(|info| {
            let values = (0..info.ty.numel()).map(|_| Element::F16.round(rng.random_range(-1.0..1.0)));
            (info.name.clone(), values.collect())
        })
        .collect()
}

fn run(program: &Program, inputs: &Tensors) -> Tensors {
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, v)| (name.as_str(), v.as_slice())).collect();
    sim::run(program, &Profile::m4(), &inputs).unwrap()
}

/// Stages `inputs`, runs the packed program, and reads what the original's outputs are.
fn run_packed(packing: &Packing, inputs: &Tensors) -> Tensors {
    let mut a0 = vec![0_u8; packing.surface(PortKind::Input).bytes()];
    for (port, values) in inputs {
        packing.write(port, values, &mut a0).unwrap();
    }
    let a0: Vec<f32> = bytemuck::cast_slice::<u8, f16>(&a0).iter().map(|half| half.to_f32()).collect();
    let z0 = run(packing.program(), &BTreeMap::from([("a0".to_owned(), a0)])).remove("z0").unwrap();
    let z0: Vec<f16> = z0.into_iter().map(f16::from_f32).collect();
    let outputs = packing.ports().iter().filter(|port| port.kind == PortKind::Output);
    outputs
        .map(|port| {
            let mut values = vec![0.0; port.shape.iter().product()];
            packing.read(&port.name, bytemuck::cast_slice(&z0), &mut values).unwrap();
            (port.name.clone(), values)
        })
        .collect()
}

/// Fails unless the packed program gives the bits of the original.
fn assert_same(what: &str, program: &Program, limits: SurfaceLimits, seed: u64) {
    let packing = Packing::new(program, limits).unwrap_or_else(|error| panic!("{what}: {error}"));
    packing.program().verify().unwrap();
    check_surfaces(&packing, limits);
    // The compiler is handed text: nothing may be lost on the way.
    let written = text::write(packing.program(), &WriteOptions::ane()).unwrap();
    let parse =
        ParseOptions { blobs: Some(&written), element: Some(Element::F16), ..ParseOptions::default() };
    let parsed = text::parse(&written.text, &parse).unwrap();
    assert!(parsed == packing.program().expand_all().unwrap(), "{what}: text");
    let inputs = inputs_of(program, seed);
    let (expected, packed) = (run(program, &inputs), run_packed(&packing, &inputs));
    assert_eq!(expected.len(), packed.len(), "{what}");
    for (name, expected) in expected {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let differ = expected.iter().zip(&packed[&name]).position(|pair| !same(pair));
        assert_eq!(differ, None, "{what}: element of `{name}` that differs");
    }
}

/// What every surface must be: large enough, within the limits, in steps of 16 columns; every port in it
/// whole, and alone in its place.
fn check_surfaces(packing: &Packing, limits: SurfaceLimits) {
    for kind in [PortKind::Input, PortKind::Output] {
        let surface: &Surface = packing.surface(kind);
        let port = match kind {
            PortKind::Input => packing.program().input("a0"),
            PortKind::Output => packing.program().output("z0"),
        };
        assert_eq!(port, Some(&TensorType::new(DType::F16, &surface.shape())));
        assert!(surface.bytes() >= MIN_BYTES && surface.columns >= MIN_COLUMNS, "{surface:?}");
        assert!(surface.columns.is_multiple_of(MIN_COLUMNS), "{surface:?}");
        assert!(surface.channels <= limits.channels && surface.columns <= limits.columns, "{surface:?}");
        let mut taken = vec![false; surface.numel()];
        let mut used = 0;
        for port in packing.ports().iter().filter(|port| port.kind == kind) {
            let place = port.place;
            assert_eq!(place.rows * place.columns, port.shape.iter().product::<usize>(), "{port:?}");
            assert_eq!(place.stride, surface.columns, "{port:?}");
            assert!(
                place.first_column.is_multiple_of(STEP) && place.width().is_multiple_of(STEP),
                "{port:?}"
            );
            assert!(place.columns <= place.width(), "{port:?}");
            assert!(place.first_row + place.rows <= surface.channels, "{port:?}");
            assert!(place.first_column + place.width() <= surface.columns, "{port:?}");
            used += place.rows * place.columns;
            for row in place.first_row..place.first_row + place.rows {
                let start = row * place.stride + place.first_column;
                let cells = &mut taken[start..start + place.width()];
                assert!(cells.iter().all(|cell| !cell), "{port:?} overlaps another");
                cells.fill(true);
            }
        }
        assert_eq!(surface.used(), used);
    }
    // What is cut out of the surface begins and ends at multiples of 16 too, unless all of it is one tensor.
    let a0 = packing.program().inputs()[0];
    let channels = packing.surface(PortKind::Input).channels;
    for stmt in packing.program().stmts().iter().filter(|stmt| stmt.args.contains(&a0)) {
        if let Op::SliceBySize { begin, size } = &stmt.op {
            let is_whole = begin.iter().all(|first| *first == 0) && size[1] as usize == channels;
            let is_step = |columns: i32| columns % STEP as i32 == 0;
            assert!(is_step(begin[3]) && (is_step(size[3]) || is_whole), "{:?}", stmt.op);
        }
    }
}

fn shorter(preset: &str, seq_len: usize) -> ModelConfig {
    ModelConfig { seq_len, ..presets::by_name(preset).unwrap() }
}

#[test]
fn every_program_of_a_model_gives_the_same_bits_packed() {
    // One has layers of several kinds with everything that a model can have, the last a vocabulary of several tiles.
    let configs = [
        shorter("tiny", 32),
        shorter("odd", 21),
        shorter("odd-all", 21),
        ModelConfig { vocab_size: 17_000, ..shorter("odd", 16) },
    ];
    for config in configs {
        for cut in Cut::ALL {
            for taps in [Taps::Keep, Taps::Recompute] {
                let programs = model::programs(&config, cut, taps, 2, Element::F16).unwrap();
                // The programs of head and decoding do not depend on cut and taps.
                let layers = programs.iter().position(|segment| segment.name == "head_norm").unwrap();
                let is_first = cut == Cut::Whole && taps == Taps::Keep;
                let count = if is_first { programs.len() } else { layers };
                for (at, segment) in programs[..count].iter().enumerate() {
                    let what = format!("{}, {} {taps:?}, width {}", segment.name, cut.name(), config.width);
                    let chip = if at % 2 == 0 { Chip::M4 } else { Chip::M3 };
                    assert_same(&what, &segment.program, SurfaceLimits::of(chip), at as u64);
                }
            }
        }
    }
}

/// Every preset at the lengths that runs train keeps the rules of the route.
#[test]
fn every_preset_finds_its_surfaces() {
    for preset in presets::NAMES {
        for (seq_len, batch) in [(512, 1), (512, 4), (1024, 1), (2048, 1)] {
            let config = shorter(preset, seq_len);
            for cut in Cut::ALL {
                for segment in model::programs(&config, cut, Taps::Keep, batch, Element::F16).unwrap() {
                    for chip in [Chip::M3, Chip::M4] {
                        let what = format!("{preset}, {batch} x {seq_len}, {}, {chip:?}", segment.name);
                        let findings = ane::findings(&segment.program, chip, Route::AneInMem);
                        let refused = findings.iter().find(|f| f.severity == Severity::Error);
                        assert!(refused.is_none(), "{what}: {}", refused.unwrap());
                    }
                }
            }
        }
    }
}

/// Shapes of ports: ranks 1 to 4, extents convenient and not.
fn shapes() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let extent = prop::sample::select(vec![1_usize, 2, 3, 5, 7, 16, 21, 24, 32, 48, 64]);
    let shape = prop::collection::vec(extent, 1..=4)
        .prop_filter("memory", |shape| shape.iter().product::<usize>() <= 40_000);
    prop::collection::vec(shape, 1..=6)
}

/// A program that mixes all its inputs: each result depends on an element of every input, and every element of
/// an input reaches a result, in another shape.
fn mixing(shapes: &[Vec<usize>], choices: u64) -> Program {
    let mut b = Builder::new(Element::F16);
    let inputs: Vec<_> =
        shapes.iter().enumerate().map(|(at, shape)| b.input(&format!("in{at}"), shape).unwrap()).collect();
    let peaks: Vec<_> = inputs
        .iter()
        .map(|x| {
            let axes = (0..b.shape(*x).len() as i32).collect();
            let peak = b.push1(Op::ReduceMax { axes, keep_dims: true }, &[*x]).unwrap();
            b.reshape(peak, &[1]).unwrap()
        })
        .collect();
    for (at, x) in inputs.iter().enumerate() {
        let choice = choices.rotate_right(3 * at as u32) & 7;
        let mut y = *x;
        for peak in &peaks {
            y = b.add(y, *peak).unwrap();
        }
        let shape = b.shape(y).to_vec();
        let y = match choice {
            0 | 1 => y,
            2 | 3 => b.transpose(y, &(0..shape.len()).rev().collect::<Vec<_>>()).unwrap(),
            4 => b.reshape(y, &[1, shape.iter().product(), 1, 1]).unwrap(),
            5 => b.reshape(y, &[shape.iter().product()]).unwrap(),
            _ => {
                let last = shape[shape.len() - 1];
                b.reshape(y, &[1, shape.iter().product::<usize>() / last, 1, last]).unwrap()
            }
        };
        b.output(&format!("out{at}"), y).unwrap();
        if choice % 2 == 1 {
            b.output(&format!("peak{at}"), peaks[at]).unwrap();
        }
    }
    b.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_program_gives_the_same_bits_packed(
        shapes in shapes(),
        choices in any::<u64>(),
        seed in any::<u64>(),
    ) {
        assert_same("any", &mixing(&shapes, choices), SurfaceLimits::of(Chip::M4), seed);
    }

    /// Larger tensors and narrower limits than anyone would execute here.
    #[test]
    fn any_layout_keeps_the_rules(
        shapes in prop::collection::vec((1_usize..3000, 1_usize..3000, any::<bool>()), 1..12),
        columns in prop::sample::select(vec![1024_usize, 16_384, 65_536]),
    ) {
        let mut b = Builder::new(Element::F16);
        for (at, (rows, columns, is_weight)) in shapes.into_iter().enumerate() {
            let shape = if is_weight { [1, 1, rows, columns] } else { [1, rows, 1, columns] };
            let x = b.input(&format!("in{at}"), &shape).unwrap();
            let y = b.push1(Op::Relu, &[x]).unwrap();
            b.output(&format!("out{at}"), y).unwrap();
        }
        let program = b.finish().unwrap();
        let limits = SurfaceLimits { channels: 65_536, columns };
        match Packing::new(&program, limits) {
            Ok(packing) => check_surfaces(&packing, limits),
            // Twelve tensors of nine million elements do not fit into 65,536 x 1,024.
            Err(error) => prop_assert!(columns == 1024 && matches!(error, PackError::NoRoom { .. }), "{error}"),
        }
    }

    /// What is written is read again, rounded once, and nothing beside it changes.
    #[test]
    fn staging_goes_there_and_back(shapes in shapes(), which in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let program = mixing(&shapes, seed);
        let packing = Packing::new(&program, SurfaceLimits::of(Chip::M4)).unwrap();
        let port = &packing.ports()[which.index(packing.ports().len())];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let numel = port.shape.iter().product();
        let values: Vec<f32> = (0..numel).map(|_| rng.random_range(-70_000.0..70_000.0)).collect();
        let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let before = f16::from_f32(0.25);
        let mut surface = vec![before; packing.surface(port.kind).numel()];
        packing.write(&port.name, &values, bytemuck::cast_slice_mut(&mut surface)).unwrap();

        let mut read = vec![f16::ZERO; numel];
        packing.read(&port.name, bytemuck::cast_slice(&surface), &mut read).unwrap();
        prop_assert_eq!(&read, &halves);
        let mut sums = vec![1.0; numel];
        packing.add_to_f32(&port.name, bytemuck::cast_slice(&surface), &mut sums).unwrap();
        let expected: Vec<f32> = halves.iter().map(|half| 1.0 + half.to_f32()).collect();
        prop_assert_eq!(&sums, &expected);

        // Every element of the tensor is in one cell of its rectangle, and the other cells are as before.
        let place = port.place;
        for row in 0..place.rows {
            let start = (place.first_row + row) * place.stride + place.first_column;
            for column in 0..place.columns {
                prop_assert_eq!(surface[start + column], halves[row * place.columns + column]);
                surface[start + column] = before;
            }
        }
        prop_assert!(surface.iter().all(|half| *half == before));

        // Halves are copied as they are.
        packing.write(&port.name, &halves, bytemuck::cast_slice_mut(&mut surface)).unwrap();
        let mut read = vec![0.0_f32; numel];
        packing.read(&port.name, bytemuck::cast_slice(&surface), &mut read).unwrap();
        prop_assert_eq!(read, halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>());
    }
}

fn two_ports(dtype: DType, shape: &[usize]) -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.typed_input("x0", TensorType::new(dtype, shape)).unwrap();
    let x = if dtype == DType::F16 { x } else { b.push1(Op::Cast { dtype: DType::F16 }, &[x]).unwrap() };
    let y = b.push1(Op::Relu, &[x]).unwrap();
    b.output("y0", y).unwrap();
    b.finish().unwrap()
}

#[test]
fn what_cannot_be_packed_says_why() {
    let m3 = SurfaceLimits::of(Chip::M3);
    let message = |program: &Program, limits| Packing::new(program, limits).unwrap_err().to_string();
    assert!(message(&two_ports(DType::F32, &[1, 64]), m3).contains("`x0`: it is tensor<fp32, [1, 64]>"));
    assert!(message(&two_ports(DType::F16, &[]), m3).contains("give it the shape [1]"));
    let single = two_ports(DType::F16, &[1, 64]).with_element(Element::F32).unwrap();
    assert!(message(&single, m3).contains("built for fp32"));
    let large = two_ports(DType::F16, &[1, 16, 64, 1024]);
    let error = message(&large, SurfaceLimits { channels: 1024, columns: 512 });
    let expected = "the input ports hold 1048576 elements, the largest is `x0` with [1, 16, 64, 1024]; no surface \
                    of at most 1024 channels by 512 columns takes them; cut the program finer";
    assert!(error.starts_with(expected), "{error}");
    assert!(Packing::new(&large, SurfaceLimits { channels: 1024, columns: 1024 }).is_ok());
    let mut b = Builder::new(Element::F16);
    let one = b.scalar(1.0);
    let two = b.add(one, one).unwrap();
    b.output("y0", two).unwrap();
    let problem = message(&b.finish().unwrap(), m3);
    assert!(problem.contains("give it the shape [1]"), "{problem}");
    let mut b = Builder::new(Element::F16);
    let ones = b.full(&[1, 64], 1.0);
    let two = b.add(ones, ones).unwrap();
    b.output("y0", two).unwrap();
    assert!(message(&b.finish().unwrap(), m3).contains("no input port"));
}

#[test]
fn what_cannot_be_staged_says_why() {
    let packing =
        Packing::new(&two_ports(DType::F16, &[1, 768, 1, 64]), SurfaceLimits::of(Chip::M4)).unwrap();
    let bytes = packing.surface(PortKind::Input).bytes();
    assert_eq!(bytes, 768 * 64 * 2, "a plane alone is its own surface");
    let mut memory = vec![f16::ZERO; bytes / 2 + 1];
    let surface: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let values = vec![0.5_f32; 768 * 64];
    assert_eq!(packing.write("x0", &values, &mut surface[..bytes]), Ok(()));
    let mut message = |port: &str, values: &[f32], range: std::ops::Range<usize>| {
        packing.write(port, values, &mut surface[range]).unwrap_err().to_string()
    };
    assert_eq!(message("x1", &values, 0..bytes), "there is no port `x1`; the program has x0, y0");
    assert!(message("x0", &values[1..], 0..bytes).contains("it takes 49152 elements, was given 49151"));
    let size = message("x0", &values, 0..bytes + 2);
    assert!(
        size.contains("its surface has 98304 bytes, was given 98306 at an address that is even"),
        "{size}"
    );
    assert!(message("x0", &values, 1..bytes + 1).contains("that is odd"));
}

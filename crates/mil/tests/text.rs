//! Text that we write reads back to an equal program, and is exactly what Apple's syntax asks for.
//! Oracles: the program that was written, and texts written by hand after the forms that the
//! projects in the field compile.

mod text_programs;

use mil::text::{self, Header, ParseOptions, WeightFiles, WriteOptions};
use mil::{Builder, Constant, DType, Element, Error, Op, Program, ops};
use proptest::prelude::*;

const ELEMENTS: [Element; 2] = [Element::F16, Element::F32];

/// What `program` reads back as; the element type is told, since text does not always show it.
fn returned(program: &Program, options: &WriteOptions) -> Program {
    let written = text::write(program, options).expect("it can be written");
    let parse =
        ParseOptions { blobs: Some(&written), element: Some(program.element()), ..ParseOptions::default() };
    text::parse(&written.text, &parse).unwrap_or_else(|error| panic!("{error}\n{}", written.text))
}

fn every_way_of_writing() -> Vec<WriteOptions> {
    let all_in_files = WriteOptions { inline_max: 1, ..WriteOptions::ane() };
    vec![WriteOptions::default(), WriteOptions::legacy(), all_in_files]
}

fn wrap(example: &ops::Example, element: Element) -> Program {
    let mut b = Builder::new(Element::F32);
    let operands: Vec<_> = example
        .operands
        .iter()
        .enumerate()
        .map(|(i, ty)| match ty.rank() {
            // Scales are constants.
            0 => b.scalar(0.5),
            _ => b.typed_input(&format!("operand_{i}"), ty.clone()).expect("free"),
        })
        .collect();
    let results = b.push(example.op.clone(), &operands).expect("an example type-checks");
    for (i, result) in results.into_iter().enumerate() {
        b.output(&format!("result_{i}"), result).expect("free");
    }
    b.finish().and_then(|p| p.with_element(element)).expect("an example type-checks")
}

#[test]
fn every_op_reads_back_from_its_own_text() {
    for example in ops::examples() {
        for element in ELEMENTS {
            let program = wrap(&example, element);
            let expected = program.expand_all().expect("a composite decomposes");
            for options in every_way_of_writing() {
                let quantizes = ["quantize", "dequantize"].contains(&example.op.name());
                if quantizes && options.header == Header::Ios16 {
                    let told = text::write(&program, &options).unwrap_err().to_string();
                    assert!(told.contains("iOS 17"), "{told}");
                    continue;
                }
                assert_eq!(returned(&program, &options), expected, "{:?}", example.op);
            }
        }
    }
}

#[test]
fn the_element_type_shows_in_the_text() {
    for example in ops::examples() {
        // A cast has both float types; the text alone cannot tell which one is meant.
        if matches!(example.op, Op::Cast { .. }) {
            continue;
        }
        for element in ELEMENTS {
            let written =
                text::write(&wrap(&example, element), &WriteOptions::default()).expect("it can be written");
            let options = ParseOptions { blobs: Some(&written), ..ParseOptions::default() };
            let program = text::parse(&written.text, &options).expect("it is ours");
            assert_eq!(program.element(), element, "{:?}", example.op);
        }
    }
}

proptest! {
    #[test]
    fn random_programs_read_back(
        half in any::<bool>(),
        choices in prop::collection::vec(any::<u32>(), 1..120),
    ) {
        let element = if half { Element::F16 } else { Element::F32 };
        let program = text_programs::program(element, &choices);
        for options in every_way_of_writing() {
            prop_assert_eq!(&returned(&program, &options), &program);
        }
    }
}

fn choices(seed: u32, count: u32) -> Vec<u32> {
    (seed..seed + count).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(13)).collect()
}

/// The property above says little if the programs are dull.
#[test]
fn random_programs_are_varied() {
    let mut names = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let program = text_programs::program(Element::F16, &choices(seed * 1_000, 100));
        names.extend(program.stmts().iter().map(|stmt| stmt.op.name()));
    }
    assert!(names.len() >= 18, "only {names:?}");
}

#[test]
fn the_same_program_gives_the_same_text() {
    let choices = choices(7, 200);
    let write = || {
        let program = text_programs::program(Element::F16, &choices);
        text::write(&program, &WriteOptions::default()).expect("it can be written")
    };
    assert_eq!(write(), write());
}

// The exact text.

fn linear() -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, 64, 1, 32]).unwrap();
    let w = b.input("w", &[1, 1, 16, 64]).unwrap();
    let x = b.reshape(x, &[1, 1, 64, 32]).unwrap();
    let y = b.matmul(w, x, false, false).unwrap();
    let y = b.push1(Op::Rsqrt { epsilon: 0.1 }, &[y]).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

#[test]
fn golden_of_a_linear_layer() {
    let written = text::write(&linear(), &WriteOptions::default()).unwrap();
    let expected = r#"program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]
{
    func main<ios18>(tensor<fp16, [1, 64, 1, 32]> x, tensor<fp16, [1, 1, 16, 64]> w) {
        tensor<int32, [4]> c0 = const()[name = string("c0"), val = tensor<int32, [4]>([1, 1, 64, 32])];
        tensor<fp16, [1, 1, 64, 32]> t0 = reshape(shape = c0, x = x)[name = string("t0")];
        bool c1 = const()[name = string("c1"), val = bool(false)];
        tensor<fp16, [1, 1, 16, 32]> t1 = matmul(transpose_x = c1, transpose_y = c1, x = w, y = t0)[name = string("t1")];
        fp16 c2 = const()[name = string("c2"), val = fp16(0x1.998p-4)];
        tensor<fp16, [1, 1, 16, 32]> y = rsqrt(epsilon = c2, x = t1)[name = string("y")];
    } -> (y);
}
"#;
    assert_eq!(written.text, expected);
    assert!(written.weights.is_empty());
}

/// A name that looks like one the writer makes up, constants of every kind, several results.
fn constants() -> Program {
    let mut b = Builder::new(Element::F32);
    let c0 = b.input("c0", &[2, 2]).unwrap();
    let table = b.constant(Constant::float(Element::F32, &[2, 2], [-0.0, 0.1, f32::NEG_INFINITY, 1e-45]));
    let sum = b.add(c0, table).unwrap();
    let large = b.full(&[2, 20], 3.0);
    let wide = b.matmul(sum, large, false, false).unwrap();
    let halves = b.push(Op::Split { num_splits: 2, axis: 1 }, &[wide]).unwrap();
    let joined = b.concat(&halves, 0).unwrap();
    let whole = b.push1(Op::Cast { dtype: DType::I32 }, &[joined]).unwrap();
    let back = b.push1(Op::Cast { dtype: DType::F32 }, &[whole]).unwrap();
    b.output("result", back).unwrap();
    b.finish().unwrap()
}

#[test]
fn golden_of_constants_in_the_older_form() {
    let written = text::write(&constants(), &WriteOptions::legacy()).unwrap();
    let expected = r#"program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios16>(tensor<fp32, [2, 2]> c0) {
        tensor<fp32, [2, 2]> t0 = const()[name = tensor<string, []>("t0"), val = tensor<fp32, [2, 2]>([[-0x0p+0, 0x1.99999ap-4], [-inf, 0x1p-149]])];
        tensor<fp32, [2, 2]> t1 = add(x = c0, y = t0)[name = tensor<string, []>("t1")];
        tensor<fp32, [2, 20]> t2 = const()[name = tensor<string, []>("t2"), val = tensor<fp32, [2, 20]>(BLOBFILE(path = tensor<string, []>("@model_path/weights/t2.bin"), offset = tensor<uint64, []>(64)))];
        tensor<bool, []> c1 = const()[name = tensor<string, []>("c1"), val = tensor<bool, []>(false)];
        tensor<fp32, [2, 20]> t3 = matmul(transpose_x = c1, transpose_y = c1, x = t1, y = t2)[name = tensor<string, []>("t3")];
        tensor<int32, []> c2 = const()[name = tensor<string, []>("c2"), val = tensor<int32, []>(2)];
        tensor<int32, []> c3 = const()[name = tensor<string, []>("c3"), val = tensor<int32, []>(1)];
        tensor<fp32, [2, 10]> t4, tensor<fp32, [2, 10]> t5 = split(axis = c3, num_splits = c2, x = t3)[name = tensor<string, []>("t4")];
        tensor<int32, []> c4 = const()[name = tensor<string, []>("c4"), val = tensor<int32, []>(0)];
        tensor<fp32, [4, 10]> t6 = concat(axis = c4, interleave = c1, values = (t4, t5))[name = tensor<string, []>("t6")];
        tensor<string, []> c5 = const()[name = tensor<string, []>("c5"), val = tensor<string, []>("int32")];
        tensor<int32, [4, 10]> t7 = cast(dtype = c5, x = t6)[name = tensor<string, []>("t7")];
        tensor<string, []> c6 = const()[name = tensor<string, []>("c6"), val = tensor<string, []>("fp32")];
        tensor<fp32, [4, 10]> result = cast(dtype = c6, x = t7)[name = tensor<string, []>("result")];
    } -> (result);
}
"#;
    assert_eq!(written.text, expected);
    assert_eq!(written.weights.len(), 1);
    assert_eq!(written.weights[0].path, "@model_path/weights/t2.bin");
}

#[test]
fn constants_share_one_file_or_have_one_each() {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[4, 20]).unwrap();
    let first = b.full(&[4, 20], 0.1);
    let second = b.full(&[4, 20], 2.0);
    let sum = b.add(x, first).unwrap();
    let sum = b.add(sum, second).unwrap();
    b.output("y", sum).unwrap();
    let program = b.finish().unwrap();

    let one = text::write(&program, &WriteOptions::ane()).unwrap();
    assert_eq!(one.weights.len(), 1);
    // 64 bytes of header, then 64 of descriptor, 160 of payload, 32 to the next multiple of 64.
    assert!(one.text.contains(r#"string("@model_path/weights.bin"), offset = uint64(64))"#));
    assert!(one.text.contains(r#"string("@model_path/weights.bin"), offset = uint64(320))"#));

    let each = WriteOptions {
        weights: WeightFiles::OneEach(String::new()),
        header: Header::Ios18,
        ..WriteOptions::default()
    };
    let each = text::write(&program, &each).unwrap();
    let paths: Vec<&str> = each.weights.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["@model_path/t0.bin", "@model_path/t1.bin"]);
    for file in &each.weights {
        assert_eq!(file.bytes.len(), 64 + 64 + 160);
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let write = |name: &str, value: f32| {
        let mut b = Builder::new(Element::F16);
        let x = b.input(name, &[2]).unwrap();
        let y = b.scale(x, value).unwrap();
        b.output("y", y).unwrap();
        text::write(&b.finish().unwrap(), &WriteOptions::default())
    };
    assert!(write("x", 0.5).is_ok());
    for name in ["layer.0", "", "0x", "größe", "true", "const"] {
        let error = write(name, 0.5).unwrap_err();
        assert!(error.to_string().contains("cannot stand in MIL text"), "{name}: {error}");
    }
    let error = write("x", f32::NAN).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}

#[test]
fn inout_pairs_are_what_text_loses() {
    let mut b = Builder::new(Element::F16);
    let state = b.input("state", &[4]).unwrap();
    let next = b.scale(state, 0.5).unwrap();
    b.output("next", next).unwrap();
    b.inout("state", "next").unwrap();
    let program = b.finish().unwrap();
    let back = returned(&program, &WriteOptions::default());
    assert!(back.inouts().is_empty());
    assert_eq!(back.stmts().len(), program.stmts().len());
}

#[test]
fn a_folder_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    for options in every_way_of_writing() {
        let dir = folder.path().join(format!("{:?}", options.header)).join(options.inline_max.to_string());
        let path = text::write_to_dir(&constants(), &dir, &options).unwrap();
        assert_eq!(text::read_file(&path).unwrap(), constants());
        let left_over = std::fs::read_dir(&dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
        assert_eq!(left_over.count(), 0);
    }
}

#[test]
fn a_text_cannot_read_files_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let written = text::write(&constants(), &WriteOptions::default()).unwrap();
    for path in ["../secret.bin", "/etc/passwd", "@model_path/../secret.bin"] {
        let text = written.text.replace("@model_path/weights/weights.bin", path);
        let file = folder.path().join("model.mil");
        std::fs::write(&file, text).unwrap();
        let error = text::read_file(&file).unwrap_err();
        assert!(matches!(&error, Error::Text { problem, .. } if problem.contains("outside")), "{error}");
    }
    let missing = text::read_file(&folder.path().join("none.mil")).unwrap_err();
    assert!(missing.to_string().contains("none.mil"), "{missing}");
}

/// What Core ML refuses is not written: a scale that is computed, none, or not finite.
#[test]
fn a_scale_is_a_constant_and_a_divisor() {
    let written = |scale: Option<f32>| {
        let mut b = Builder::new(Element::F16);
        let x = b.input("a", &[1, 16]).unwrap();
        let scale = match scale {
            Some(scale) => b.scalar(scale),
            None => {
                let parts = b.push1(Op::ReduceMax { axes: vec![0, 1], keep_dims: false }, &[x]).unwrap();
                b.push1(Op::Abs, &[parts]).unwrap()
            }
        };
        let whole = b.push1(Op::Quantize { output_dtype: DType::I8 }, &[x, scale]).unwrap();
        let y = b.push1(Op::Dequantize, &[whole, scale]).unwrap();
        b.output("y", y).unwrap();
        text::write(&b.finish().unwrap(), &WriteOptions::default())
    };
    assert!(written(Some(0.5)).is_ok());
    let problem = |scale| written(scale).unwrap_err().to_string();
    assert!(problem(None).contains("its scale is computed"), "{}", problem(None));
    assert!(problem(Some(0.0)).contains("its scale is 0"));
    assert!(problem(Some(f32::INFINITY)).contains("its scale is inf"));
    assert!(problem(Some(f32::NAN)).contains("its scale is NaN"));
}

/// int8 values of any kind are of a later generation than ios16.
#[test]
fn ios16_has_no_int8_values() {
    let mut b = Builder::new(Element::F16);
    let ty = mil::TensorType::new(DType::I8, &[1, 16]);
    let whole = b.constant(mil::Constant { ty, data: mil::ConstData::Int((0..16).collect()) });
    let half = b.push1(Op::Cast { dtype: DType::F16 }, &[whole]).unwrap();
    let x = b.input("a", &[1, 16]).unwrap();
    let y = b.add(x, half).unwrap();
    b.output("y", y).unwrap();
    let program = b.finish().unwrap();
    assert!(text::write(&program, &WriteOptions::default()).is_ok());
    let told = text::write(&program, &WriteOptions::legacy()).unwrap_err().to_string();
    assert!(told.contains("iOS 17"), "{told}");
}

/// Scales and zero points of an axis go there and back too. Oracle: by hand.
#[test]
fn a_scale_for_each_channel_goes_there_and_back() {
    use mil::{ConstData, Constant};
    let mut b = Builder::new(Element::F16);
    let x = b.input("a", &[2, 3]).unwrap();
    let values = [-128, 0, 127, 1, 2, 3];
    let weight = Constant::affine(Element::F16, &[2, 3], &values, 1, &[0.5, 0.25, 2.0], &[1, 0, -128]);
    assert_eq!(weight.as_floats().unwrap(), [-64.5, 0.0, 510.0, 0.0, 0.5, 262.0]);
    let weight = b.constant(weight);
    let y = b.add(x, weight).unwrap();
    b.output("y", y).unwrap();
    let program = b.finish().unwrap();
    for options in every_way_of_writing() {
        let read = returned(&program, &options);
        assert_eq!(read.stmts()[0].op, program.stmts()[0].op);
        let Op::Const(constant) = &read.stmts()[0].op else { panic!("{read:?}") };
        let ConstData::Affine(affine) = &constant.data else { panic!("{constant:?}") };
        assert_eq!(
            (affine.axis, &affine.scales[..], &affine.zero_points[..]),
            (1, &[0.5, 0.25, 2.0][..], &[1, 0, -128][..])
        );
    }
}

/// A constant that is kept as int8 stays one: in the text and in a blob file, in both generations.
#[test]
fn a_quantized_constant_goes_there_and_back() {
    use mil::{Builder, ConstData, Constant};
    for count in [6, 512] {
        let mut b = Builder::new(Element::F16);
        let x = b.input("a", &[1, count / 2, 1, 16]).unwrap();
        let values: Vec<i8> = (0..count).map(|at| (at * 37 % 255) as u8 as i8).collect();
        let weight = Constant::quantized(Element::F16, &[2, count / 2, 1, 1], &values, 0.125);
        let weight = b.constant(weight);
        let y = b.pointwise_conv(x, weight).unwrap();
        b.output("y", y).unwrap();
        let program = b.finish().unwrap();
        for options in [WriteOptions::default(), WriteOptions::legacy()] {
            let written = text::write(&program, &options).unwrap();
            assert!(written.text.contains("constexpr_affine_dequantize()[axis = "), "{}", written.text);
            assert_eq!(written.weights.len(), usize::from(count > 16), "{}", written.text);
            let parse = ParseOptions { blobs: Some(&written), ..ParseOptions::default() };
            let read = text::parse(&written.text, &parse).unwrap();
            assert_eq!(read.stmts()[0].op, program.stmts()[0].op);
            let mil::Op::Const(constant) = &read.stmts()[0].op else { panic!("{:?}", read.stmts()[0]) };
            let ConstData::Affine(affine) = &constant.data else { panic!("{constant:?}") };
            // Oracle: the product, by hand: element 3 is 111 / 8.
            assert_eq!((affine.quantized[3], affine.values[3]), (111, 13.875));
        }
    }
}

//! Packages: what they hold, that the same program gives the same bytes, and what they replace.
//! That Apple's own reader understands them, field by field, is shown by `tests/oracle/mlpackage_check.py`;
//! here the oracles are the program that was written and its text.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mil::mlpackage::spec::{ArrayDataType, DataType, Elements, Model, Operation, Storage};
use mil::mlpackage::{self, INLINE_MAX, MANIFEST, MODEL, WEIGHTS, WRITTEN_BY, write_to_dir};
use mil::text::{self, Header, WriteOptions};
use mil::{Builder, Constant, DType, Element, Op, Program, TensorType, blob, ops};
use prost::Message;

/// x `[1, 4, 1, 8]` times a stored column, joined with x, and its sum along channels.
fn program(element: Element, scale: f32) -> Program {
    let mut b = Builder::new(element);
    let x = b.input("x", &[1, 4, 1, 8]).unwrap();
    let column = (0..32).map(|at| scale * at as f32);
    let column = b.constant(Constant::float(element, &[1, 4, 1, 8], column));
    let y = b.mul(x, column).unwrap();
    let y = b.scale(y, 0.1).unwrap();
    let joined = b.concat(&[x, y], 1).unwrap();
    let sum = b.push1(Op::ReduceSum { axes: vec![1], keep_dims: true }, &[joined]).unwrap();
    b.output("joined", joined).unwrap();
    b.output("sum", sum).unwrap();
    b.finish().unwrap()
}

fn operations(model: &Model) -> &[Operation] {
    let function = &model.ml_program.as_ref().expect("a program").functions["main"];
    &function.block_specializations[&function.opset].operations
}

#[test]
fn ports_ops_and_opset_stand_in_the_specification() {
    for (header, version, opset) in [(Header::Ios18, 9, "CoreML8"), (Header::Ios16, 7, "CoreML6")] {
        let model = mlpackage::write(&program(Element::F16, 1.0), header).unwrap().model().unwrap();
        assert_eq!(model.specification_version, version);
        assert_eq!(model.ml_program.as_ref().unwrap().functions["main"].opset, opset);
        let kinds: Vec<&str> = operations(&model).iter().map(|op| op.ty.as_str()).collect();
        let kinds: Vec<&str> = kinds.into_iter().filter(|kind| *kind != "const").collect();
        assert_eq!(kinds, ["mul", "mul", "concat", "reduce_sum"]);
        let description = model.description.as_ref().unwrap();
        let ports = |features: &[mlpackage::spec::FeatureDescription]| -> Vec<(String, Vec<i64>, i32)> {
            let array = |f: &mlpackage::spec::FeatureDescription| {
                let array = f.ty.clone().unwrap().multi_array.unwrap();
                (f.name.clone(), array.shape, array.data_type)
            };
            features.iter().map(array).collect()
        };
        let half = ArrayDataType::Float16 as i32;
        assert_eq!(ports(&description.input), [("x".to_owned(), vec![1, 4, 1, 8], half)]);
        assert_eq!(
            ports(&description.output),
            [("joined".to_owned(), vec![1, 8, 1, 8], half), ("sum".to_owned(), vec![1, 1, 1, 8], half)]
        );
        let concat = operations(&model).iter().find(|op| op.ty == "concat").unwrap();
        let names: Vec<&String> = concat.inputs.keys().collect();
        assert_eq!(names, ["axis", "interleave", "values"]);
        assert_eq!(concat.inputs["values"].arguments.len(), 2);
    }
}

#[test]
fn names_are_those_of_the_text() {
    for element in [Element::F16, Element::F32] {
        let program = program(element, 1.0);
        let model = mlpackage::write(&program, Header::Ios18).unwrap().model().unwrap();
        let text = text::write(&program, &WriteOptions::default()).unwrap().text;
        for op in operations(&model) {
            let name = &op.outputs[0].name;
            assert!(text.contains(&format!(" {name} = {}(", op.ty)), "{name} = {} in\n{text}", op.ty);
        }
    }
}

#[test]
fn constants_are_in_the_specification_up_to_a_size_and_beyond_it_in_the_blob_file() {
    for element in [Element::F16, Element::F32] {
        let package = mlpackage::write(&program(element, 1.5), Header::Ios18).unwrap();
        let weights = blob::File::new("weights", package.weights().expect("a large constant")).unwrap();
        let model = package.model().unwrap();
        let (mut stored, mut inline) = (0, 0);
        for op in operations(&model).iter().filter(|op| op.ty == "const") {
            let value = &op.attributes["val"];
            let ty = value.ty.clone().unwrap().tensor.unwrap();
            assert_eq!(ty.rank as usize, ty.dimensions.len());
            match value.storage.as_ref().expect("a value") {
                Storage::BlobFile(at) => {
                    assert_eq!(at.file_name, "@model_path/weights/weight.bin");
                    let found = weights.blob(at.offset).unwrap().to_floats();
                    assert_eq!(found, (0..32).map(|at| 1.5 * at as f32).collect::<Vec<_>>());
                    stored += 1;
                }
                Storage::Immediate(value) => {
                    let elements = value.tensor.clone().unwrap().elements.unwrap();
                    match (elements, element) {
                        // 0.1 in half precision is 0x2e66.
                        (Elements::Bytes(bytes), Element::F16) => assert_eq!(bytes.values, [0x66, 0x2e]),
                        (Elements::Floats(floats), Element::F32) => assert_eq!(floats.values, [0.1]),
                        (Elements::Ints(_), _) => assert_eq!(ty.data_type, DataType::Int32 as i32),
                        (Elements::Bools(_), _) => assert_eq!(ty.data_type, DataType::Bool as i32),
                        other => panic!("{other:?}"),
                    }
                    inline += 1;
                }
            }
        }
        assert_eq!(stored, 1);
        assert!(inline >= 4, "{inline}");
    }
    let of_size = |size: usize| {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[size]).unwrap();
        let c = b.full(&[size], 2.0);
        let y = b.mul(x, c).unwrap();
        b.output("y", y).unwrap();
        mlpackage::write(&b.finish().unwrap(), Header::Ios18).unwrap().weights().is_some()
    };
    assert!(!of_size(INLINE_MAX) && of_size(INLINE_MAX + 1));
}

/// Every op, in both element types and both generations: what prost wrote prost reads, to the same bytes, and a
/// reader that is given less than all of it says so.
#[test]
fn every_op_survives_the_wire() {
    for example in ops::examples() {
        let mut b = Builder::new(Element::F32);
        let mut operands = Vec::new();
        for (at, ty) in example.operands.iter().enumerate() {
            if ty.rank() == 0 {
                // A package has no port for one number.
                operands.push(b.scalar(0.5));
                continue;
            }
            let port = b.input(&format!("x{at}"), &ty.shape).unwrap();
            operands.push(match ty.dtype {
                DType::Bool => b.push1(Op::Greater, &[port, port]).unwrap(),
                DType::I8 => {
                    let scale = b.scalar(0.5);
                    b.push1(Op::Quantize { output_dtype: DType::I8 }, &[port, scale]).unwrap()
                }
                _ => port,
            });
        }
        for (at, result) in b.push(example.op.clone(), &operands).unwrap().into_iter().enumerate() {
            let result = b.push1(Op::Cast { dtype: DType::F32 }, &[result]).unwrap();
            b.output(&format!("y{at}"), result).unwrap();
        }
        let program = b.finish().unwrap();
        for element in [Element::F16, Element::F32] {
            for header in [Header::Ios16, Header::Ios18] {
                let program = program.with_element(element).unwrap();
                if header == Header::Ios16 && ["quantize", "dequantize"].contains(&example.op.name()) {
                    let told = mlpackage::write(&program, header).unwrap_err().to_string();
                    assert!(told.contains("iOS 17"), "{told}");
                    continue;
                }
                let package = mlpackage::write(&program, header).unwrap();
                let model = package.model().unwrap();
                let files = package.files();
                assert_eq!(files[0], (MODEL, model.encode_to_vec()), "{:?}", example.op);
                assert!(Model::decode(&files[0].1[..files[0].1.len() - 1]).is_err());
                let expanded = program.expand_all().unwrap();
                let written = operations(&model).iter().filter(|op| op.ty != "const").count();
                let ops = expanded.stmts().iter().filter(|s| !matches!(s.op, Op::Const(_))).count();
                assert_eq!(written, ops, "{:?}", example.op);
            }
        }
    }
}

#[test]
fn the_same_program_gives_the_same_bytes_and_another_one_others() {
    let files = |scale| mlpackage::write(&program(Element::F16, scale), Header::Ios18).unwrap().files();
    assert_eq!(files(1.0), files(1.0));
    let keys = |scale| -> BTreeSet<String> {
        let files = files(scale);
        let (_, manifest) = files.iter().find(|(path, _)| *path == MANIFEST).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let entries = manifest["itemInfoEntries"].as_object().unwrap();
        let root = manifest["rootModelIdentifier"].as_str().unwrap();
        assert_eq!(entries[root]["path"], "com.apple.CoreML/model.mlmodel");
        entries.keys().cloned().collect()
    };
    // Only the weights differ.
    let (one, two) = (keys(1.0), keys(2.0));
    assert_eq!((one.len(), two.len(), one.intersection(&two).count()), (2, 2, 1));
}

#[test]
fn what_a_port_cannot_be_is_an_error() {
    let refused = |program: Program, parts: &[&str]| {
        let error = mlpackage::write(&program, Header::Ios18).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let with_input = |ty: TensorType| {
        let mut b = Builder::new(Element::F16);
        let x = b.typed_input("x", ty).unwrap();
        let y = b.push1(Op::Cast { dtype: DType::F32 }, &[x]).unwrap();
        b.output("y", y).unwrap();
        b.finish().unwrap()
    };
    refused(with_input(TensorType::new(DType::Bool, &[4])), &["port `x`", "bool", "cast"]);
    refused(with_input(TensorType::scalar(DType::F16)), &["port `x`", "rank 0", "reshape"]);
    refused(with_input(TensorType::new(DType::F16, &[1; 6])), &["port `x`", "rank 6", "1 to 5"]);
    let through = "program(1.3)\n{\n func main<ios18>(tensor<fp16, [4]> x) {\n } -> (x);\n}\n";
    refused(
        text::parse(through, &text::ParseOptions::default()).unwrap(),
        &["port `x`", "one port of a name"],
    );
}

fn model_of(path: &Path) -> Vec<u8> {
    fs::read(path.join(MODEL)).unwrap()
}

#[test]
fn a_package_appears_whole_and_replaces_one_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some/layer.mlpackage");
    let bytes = write_to_dir(&program(Element::F16, 1.0), &path, Header::Ios18).unwrap();
    let sizes = [MANIFEST, MODEL, WEIGHTS].map(|file| fs::metadata(path.join(file)).unwrap().len());
    assert_eq!(bytes, sizes.iter().sum::<u64>());
    let model = mlpackage::read_model(&path).unwrap();
    assert!(model.description.unwrap().metadata.unwrap().user_defined.contains_key(WRITTEN_BY));

    // Another program without large constants: nothing of the first is left.
    let mut b = Builder::new(Element::F16);
    let x = b.input("x", &[1, 4]).unwrap();
    let y = b.scale(x, 2.0).unwrap();
    b.output("y", y).unwrap();
    let small = b.finish().unwrap();
    let first = model_of(&path);
    write_to_dir(&small, &path, Header::Ios18).unwrap();
    assert!(model_of(&path) != first && !path.join(WEIGHTS).exists());
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(manifest["itemInfoEntries"].as_object().unwrap().len(), 1);
    let beside: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["layer.mlpackage"]);
}

#[test]
fn what_is_not_ours_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, parts: &[&str]| {
        let error = write_to_dir(&program(Element::F16, 1.0), path, Header::Ios18).unwrap_err().to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name) && parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(&dir.path().join("layer"), &["end with .mlpackage"]);

    let file = dir.path().join("file.mlpackage");
    fs::write(&file, "precious").unwrap();
    refused(&file, &["no folder", "move it away"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");

    // A package of ours into which somebody put something.
    let guest = dir.path().join("guest.mlpackage");
    write_to_dir(&program(Element::F16, 1.0), &guest, Header::Ios18).unwrap();
    fs::write(guest.join("notes.txt"), "precious").unwrap();
    let before = model_of(&guest);
    refused(&guest, &["notes.txt", "move it away"]);
    assert_eq!(model_of(&guest), before);

    // A package that another tool wrote: the same files, without our entry in the metadata.
    let other = dir.path().join("other.mlpackage");
    write_to_dir(&program(Element::F16, 1.0), &other, Header::Ios18).unwrap();
    let mut model = mlpackage::read_model(&other).unwrap();
    model.description.as_mut().unwrap().metadata = None;
    fs::write(other.join(MODEL), model.encode_to_vec()).unwrap();
    refused(&other, &["not written by anneal"]);
    fs::write(other.join(MODEL), "no protobuf").unwrap();
    refused(&other, &["not written by anneal"]);
    let error = mlpackage::read_model(&other).unwrap_err().to_string();
    assert!(error.contains("model.mlmodel") && error.contains("no Core ML specification"), "{error}");

    // An empty folder holds nothing that could be lost.
    let empty = dir.path().join("empty.mlpackage");
    fs::create_dir(&empty).unwrap();
    write_to_dir(&program(Element::F16, 1.0), &empty, Header::Ios18).unwrap();
    assert!(empty.join(MANIFEST).is_file());
}

//! From a program in primitive ops to the messages of a specification.

use std::collections::{BTreeMap, HashSet};

use half::f16;

use super::spec::{self, ArrayDataType, DataType, Elements, Storage};
use super::{INLINE_MAX, WRITTEN_BY, opset};
use crate::explicit::{self, Passed, Statement};
use crate::text::{Header, MODEL_PATH};
use crate::{ConstData, Constant, DType, Error, Port, PortKind, Program, Result, TensorType, blob};

/// The function that Core ML runs.
const MAIN: &str = "main";
/// The axes that an `MLMultiArray` may have.
const RANKS: std::ops::RangeInclusive<usize> = 1..=5;

/// The specification of `program`, whose ports were checked, and the blob file of its large constants if
/// it has any.
pub(super) fn program(program: &Program, header: Header) -> Result<(spec::Model, Option<Vec<u8>>)> {
    let mut weights = blob::Writer::new();
    let operations = explicit::statements(program, header)?
        .iter()
        .map(|statement| operation(program, statement, &mut weights))
        .collect();
    let named = |id: &crate::ValueId| {
        let info = program.value(*id);
        named_type(&info.name, &info.ty)
    };
    let block = spec::Block {
        outputs: program.outputs().iter().map(|id| program.value(*id).name.clone()).collect(),
        operations,
    };
    let (specification_version, opset) = opset(header);
    let function = spec::Function {
        inputs: program.inputs().iter().map(named).collect(),
        opset: opset.to_owned(),
        block_specializations: [(opset.to_owned(), block)].into(),
    };
    let features =
        |kind| program.ports().filter(|port| port.kind == kind).map(|port| feature(&port)).collect();
    let model = spec::Model {
        specification_version,
        description: Some(spec::ModelDescription {
            input: features(PortKind::Input),
            output: features(PortKind::Output),
            metadata: Some(spec::Metadata {
                user_defined: [(WRITTEN_BY.to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
            }),
        }),
        ml_program: Some(spec::Program { version: 1, functions: [(MAIN.to_owned(), function)].into() }),
    };
    Ok((model, (weights.count() > 0).then(|| weights.finish())))
}

// Ports.

/// What Core ML cannot have at its border.
pub(super) fn check_ports(program: &Program) -> Result<()> {
    let mut names = HashSet::new();
    for Port { name, ty, kind } in program.ports() {
        let wrong = |problem: String| Err(Error::program(format!("port `{name}`: {problem}")));
        if !names.insert(name) {
            return wrong(
                "a package has one port of a name; let an op stand between input and output".into(),
            );
        }
        if array_type(ty.dtype).is_none() {
            let found = ty.dtype.mil_name();
            return wrong(format!("a package has no ports of {found}; cast to fp16, fp32 or int32 inside"));
        }
        // A result of rank 0 is a number; there is no parameter like it.
        if !RANKS.contains(&ty.rank()) && (kind == PortKind::Input || ty.rank() > 0) {
            let (from, to, rank) = (RANKS.start(), RANKS.end(), ty.rank());
            return wrong(format!("rank {rank}; a port of a package has {from} to {to} axes: reshape it"));
        }
    }
    Ok(())
}

fn array_type(dtype: DType) -> Option<ArrayDataType> {
    match dtype {
        DType::F16 => Some(ArrayDataType::Float16),
        DType::F32 => Some(ArrayDataType::Float32),
        DType::I32 => Some(ArrayDataType::Int32),
        DType::I8 | DType::Bool | DType::Str => None,
    }
}

fn feature(port: &Port<'_>) -> spec::FeatureDescription {
    let data_type = array_type(port.ty.dtype).expect("checked before") as i32;
    let shape = port.ty.shape.iter().map(|extent| *extent as i64).collect();
    let multi_array = Some(spec::ArrayFeatureType { shape, data_type });
    spec::FeatureDescription { name: port.name.to_owned(), ty: Some(spec::FeatureType { multi_array }) }
}

// Statements.

fn operation(program: &Program, statement: &Statement<'_>, weights: &mut blob::Writer) -> spec::Operation {
    match statement {
        Statement::Const { name, constant } if matches!(constant.data, ConstData::Affine(_)) => {
            quantized(name, constant, weights)
        }
        Statement::Const { name, constant } => spec::Operation {
            ty: "const".to_owned(),
            inputs: BTreeMap::new(),
            outputs: vec![named_type(name, &constant.ty)],
            attributes: [attribute_name(name), ("val".to_owned(), value(constant, weights))].into(),
        },
        Statement::Op { kind, arguments, results } => {
            let inputs = arguments.iter().map(|argument| {
                let names = match &argument.value {
                    Passed::One(name) => std::slice::from_ref(name),
                    Passed::List(names) => names,
                };
                let arguments = names.iter().map(|name| spec::Binding { name: Some(name.clone()) }).collect();
                (argument.name.to_owned(), spec::Argument { arguments })
            });
            let infos = results.iter().map(|id| program.value(*id));
            spec::Operation {
                ty: kind.name.to_owned(),
                inputs: inputs.collect(),
                outputs: infos.map(|info| named_type(&info.name, &info.ty)).collect(),
                attributes: [attribute_name(&program.value(results[0]).name)].into(),
            }
        }
    }
}

/// A constant that is kept as int8; all that it is made of is an attribute.
fn quantized(name: &str, constant: &Constant, weights: &mut blob::Writer) -> spec::Operation {
    let ConstData::Affine(affine) = &constant.data else { unreachable!("asked before") };
    let data = TensorType::new(DType::I8, &constant.ty.shape);
    let bytes = |values: Vec<u8>| Elements::Bytes(spec::RepeatedBytes { values });
    let stored = if affine.quantized.len() > INLINE_MAX {
        spec::Value { ty: Some(value_type(&data)), storage: Some(in_file(weights.add_i8(&affine.quantized))) }
    } else {
        immediate(&data, bytes(affine.quantized.iter().map(|q| *q as u8).collect()))
    };
    let one_or_a_list = |dtype, count| match count {
        1 => TensorType::scalar(dtype),
        _ => TensorType::new(dtype, &[count]),
    };
    let scale = Constant {
        ty: one_or_a_list(constant.ty.dtype, affine.scales.len()),
        data: ConstData::Float(affine.scales.clone()),
    };
    let zero_ty = one_or_a_list(DType::I8, affine.zero_points.len());
    let zeros = affine.zero_points.iter().map(|zero| *zero as u8).collect();
    let axis = Elements::Ints(spec::RepeatedInts { values: vec![affine.axis as i32] });
    spec::Operation {
        ty: "constexpr_affine_dequantize".to_owned(),
        inputs: BTreeMap::new(),
        outputs: vec![named_type(name, &constant.ty)],
        attributes: [
            attribute_name(name),
            ("quantized_data".to_owned(), stored),
            ("zero_point".to_owned(), immediate(&zero_ty, bytes(zeros))),
            ("scale".to_owned(), value(&scale, weights)),
            ("axis".to_owned(), immediate(&TensorType::scalar(DType::I32), axis)),
        ]
        .into(),
    }
}

/// A value in the file of the weights.
fn in_file(offset: u64) -> Storage {
    let file_name = format!("{MODEL_PATH}weights/weight.bin");
    Storage::BlobFile(spec::BlobFileValue { file_name, offset })
}

fn attribute_name(name: &str) -> (String, spec::Value) {
    let elements = Elements::Strings(spec::RepeatedStrings { values: vec![name.to_owned()] });
    ("name".to_owned(), immediate(&TensorType::scalar(DType::Str), elements))
}

// Types and constants.

fn named_type(name: &str, ty: &TensorType) -> spec::NamedValueType {
    spec::NamedValueType { name: name.to_owned(), ty: Some(value_type(ty)) }
}

fn value_type(ty: &TensorType) -> spec::ValueType {
    let data_type = match ty.dtype {
        DType::F16 => DataType::Float16,
        DType::F32 => DataType::Float32,
        DType::I32 => DataType::Int32,
        DType::I8 => DataType::Int8,
        DType::Bool => DataType::Bool,
        DType::Str => DataType::String,
    };
    let axis =
        |extent: &usize| spec::Dimension { constant: Some(spec::ConstantDimension { size: *extent as u64 }) };
    let tensor = spec::TensorType {
        data_type: data_type as i32,
        rank: ty.rank() as i64,
        dimensions: ty.shape.iter().map(axis).collect(),
    };
    spec::ValueType { tensor: Some(tensor) }
}

fn immediate(ty: &TensorType, elements: Elements) -> spec::Value {
    let tensor = Some(spec::TensorValue { elements: Some(elements) });
    let storage = Some(Storage::Immediate(spec::ImmediateValue { tensor }));
    spec::Value { ty: Some(value_type(ty)), storage }
}

fn value(constant: &Constant, weights: &mut blob::Writer) -> spec::Value {
    let half = constant.ty.dtype == DType::F16;
    let elements = match &constant.data {
        ConstData::Float(values) if values.len() > INLINE_MAX => {
            let offset = if half { weights.add_f16(values) } else { weights.add_f32(values) };
            return spec::Value { ty: Some(value_type(&constant.ty)), storage: Some(in_file(offset)) };
        }
        ConstData::Float(values) if half => {
            let values = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
            Elements::Bytes(spec::RepeatedBytes { values })
        }
        ConstData::Float(values) => Elements::Floats(spec::RepeatedFloats { values: values.to_vec() }),
        ConstData::Affine(_) => unreachable!("it has an operation of its own"),
        // coremltools holds small integers as bytes.
        ConstData::Int(values) if constant.ty.dtype == DType::I8 => {
            Elements::Bytes(spec::RepeatedBytes { values: values.iter().map(|v| *v as u8).collect() })
        }
        ConstData::Int(values) => Elements::Ints(spec::RepeatedInts { values: values.to_vec() }),
        ConstData::Bool(values) => Elements::Bools(spec::RepeatedBools { values: values.to_vec() }),
        ConstData::Str(text) => Elements::Strings(spec::RepeatedStrings { values: vec![text.to_string()] }),
    };
    immediate(&constant.ty, elements)
}

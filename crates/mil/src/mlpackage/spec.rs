//! The messages of a Core ML specification, as far as a program in MIL needs them.
//!
//! Field numbers and codes are those of the public format, `mlmodel/format/*.proto` of coremltools:
//! `Model.proto`, `FeatureTypes.proto` and `MIL.proto`. What our programs cannot contain (blocks
//! within ops, lists, dictionaries, symbolic extents) is left out; a reader skips it. Maps are kept
//! sorted by key, so that the same message is always the same bytes.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

/// `Model`: what `model.mlmodel` holds.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    /// Which generation of the format: 7 came with iOS 16 and macOS 13, 9 with iOS 18 and macOS 15.
    #[prost(int32, tag = "1")]
    pub specification_version: i32,
    /// The ports.
    #[prost(message, optional, tag = "2")]
    pub description: Option<ModelDescription>,
    /// The program; the other kinds of model are left out.
    #[prost(message, optional, tag = "502")]
    pub ml_program: Option<Program>,
}

/// `ModelDescription`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelDescription {
    /// Input ports.
    #[prost(message, repeated, tag = "1")]
    pub input: Vec<FeatureDescription>,
    /// Output ports.
    #[prost(message, repeated, tag = "10")]
    pub output: Vec<FeatureDescription>,
    /// Who wrote it.
    #[prost(message, optional, tag = "100")]
    pub metadata: Option<Metadata>,
}

/// `Metadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// Free entries.
    #[prost(btree_map = "string, string", tag = "100")]
    pub user_defined: BTreeMap<String, String>,
}

/// `FeatureDescription`: a port.
#[derive(Clone, PartialEq, Message)]
pub struct FeatureDescription {
    /// By which it is bound.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it takes.
    #[prost(message, optional, tag = "3")]
    pub ty: Option<FeatureType>,
}

/// `FeatureType`, which for us is always an array.
#[derive(Clone, PartialEq, Message)]
pub struct FeatureType {
    /// An `MLMultiArray`.
    #[prost(message, optional, tag = "5")]
    pub multi_array: Option<ArrayFeatureType>,
}

/// `ArrayFeatureType`.
#[derive(Clone, PartialEq, Message)]
pub struct ArrayFeatureType {
    /// Outermost axis first.
    #[prost(int64, repeated, tag = "1")]
    pub shape: Vec<i64>,
    /// What each element is.
    #[prost(enumeration = "ArrayDataType", tag = "2")]
    pub data_type: i32,
}

/// `ArrayFeatureType.ArrayDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ArrayDataType {
    /// No type.
    Invalid = 0,
    /// Half precision; since specification version 7.
    Float16 = 65_552,
    /// Single precision.
    Float32 = 65_568,
    /// Signed 32-bit integers.
    Int32 = 131_104,
}

/// `MILSpec.Program`.
#[derive(Clone, PartialEq, Message)]
pub struct Program {
    /// Of the messages; there is only 1.
    #[prost(int64, tag = "1")]
    pub version: i64,
    /// By name; a package of ours has `main`.
    #[prost(btree_map = "string, message", tag = "2")]
    pub functions: BTreeMap<String, Function>,
}

/// `MILSpec.Function`.
#[derive(Clone, PartialEq, Message)]
pub struct Function {
    /// Parameters.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<NamedValueType>,
    /// The op set that its ops belong to: a key of `block_specializations`.
    #[prost(string, tag = "2")]
    pub opset: String,
    /// The body for each op set.
    #[prost(btree_map = "string, message", tag = "3")]
    pub block_specializations: BTreeMap<String, Block>,
}

/// `MILSpec.Block`.
#[derive(Clone, PartialEq, Message)]
pub struct Block {
    /// Names of the values that it returns.
    #[prost(string, repeated, tag = "2")]
    pub outputs: Vec<String>,
    /// Statements in order.
    #[prost(message, repeated, tag = "3")]
    pub operations: Vec<Operation>,
}

/// `MILSpec.Operation`: a statement.
#[derive(Clone, PartialEq, Message)]
pub struct Operation {
    /// The op's name.
    #[prost(string, tag = "1")]
    pub ty: String,
    /// Arguments by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub inputs: BTreeMap<String, Argument>,
    /// Results.
    #[prost(message, repeated, tag = "3")]
    pub outputs: Vec<NamedValueType>,
    /// `name`, and for a constant `val`.
    #[prost(btree_map = "string, message", tag = "5")]
    pub attributes: BTreeMap<String, Value>,
}

/// `MILSpec.Argument`: one binding, or several for a list.
#[derive(Clone, PartialEq, Message)]
pub struct Argument {
    /// What is passed.
    #[prost(message, repeated, tag = "1")]
    pub arguments: Vec<Binding>,
}

/// `MILSpec.Argument.Binding`, which for us is always a name.
#[derive(Clone, PartialEq, Message)]
pub struct Binding {
    /// Of the value that is passed. Optional because the format has it in a `oneof`.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
}

/// `MILSpec.NamedValueType`.
#[derive(Clone, PartialEq, Message)]
pub struct NamedValueType {
    /// Of a value.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub ty: Option<ValueType>,
}

/// `MILSpec.ValueType`, which for us is always a tensor; a scalar is one of rank 0.
#[derive(Clone, PartialEq, Message)]
pub struct ValueType {
    /// The tensor's type.
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorType>,
}

/// `MILSpec.TensorType`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    /// What each element is.
    #[prost(enumeration = "DataType", tag = "1")]
    pub data_type: i32,
    /// The number of axes.
    #[prost(int64, tag = "2")]
    pub rank: i64,
    /// The axes, outermost first.
    #[prost(message, repeated, tag = "3")]
    pub dimensions: Vec<Dimension>,
}

/// `MILSpec.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DataType {
    /// No type.
    Unused = 0,
    /// Truth values.
    Bool = 1,
    /// Text.
    String = 2,
    /// Half precision.
    Float16 = 10,
    /// Single precision.
    Float32 = 11,
    /// Signed 8-bit integers.
    Int8 = 21,
    /// Signed 32-bit integers.
    Int32 = 23,
}

/// `MILSpec.Dimension`, which for us is always constant.
#[derive(Clone, PartialEq, Message)]
pub struct Dimension {
    /// The extent.
    #[prost(message, optional, tag = "1")]
    pub constant: Option<ConstantDimension>,
}

/// `MILSpec.Dimension.ConstantDimension`.
#[derive(Clone, PartialEq, Message)]
pub struct ConstantDimension {
    /// The extent.
    #[prost(uint64, tag = "1")]
    pub size: u64,
}

/// `MILSpec.Value`: something known when the program is written.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub ty: Option<ValueType>,
    /// Where its elements are.
    #[prost(oneof = "Storage", tags = "3, 5")]
    pub storage: Option<Storage>,
}

/// Where the elements of a [`Value`] are.
#[derive(Clone, PartialEq, Oneof)]
pub enum Storage {
    /// Here.
    #[prost(message, tag = "3")]
    Immediate(ImmediateValue),
    /// In a [blob file](crate::blob).
    #[prost(message, tag = "5")]
    BlobFile(BlobFileValue),
}

/// `MILSpec.Value.ImmediateValue`, which for us is always a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct ImmediateValue {
    /// Its elements.
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorValue>,
}

/// `MILSpec.Value.BlobFileValue`.
#[derive(Clone, PartialEq, Message)]
pub struct BlobFileValue {
    /// As text names it, `@model_path` included.
    #[prost(string, tag = "1")]
    pub file_name: String,
    /// Of the blob's descriptor.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// `MILSpec.TensorValue`: elements, row-major.
#[derive(Clone, PartialEq, Message)]
pub struct TensorValue {
    /// The elements.
    #[prost(oneof = "Elements", tags = "1, 2, 3, 4, 7")]
    pub elements: Option<Elements>,
}

/// The elements of a [`TensorValue`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Elements {
    /// `fp32`.
    #[prost(message, tag = "1")]
    Floats(RepeatedFloats),
    /// `int32`.
    #[prost(message, tag = "2")]
    Ints(RepeatedInts),
    /// `bool`.
    #[prost(message, tag = "3")]
    Bools(RepeatedBools),
    /// `string`.
    #[prost(message, tag = "4")]
    Strings(RepeatedStrings),
    /// `fp16`, for which the format has no list of its own: little-endian.
    #[prost(message, tag = "7")]
    Bytes(RepeatedBytes),
}

/// `MILSpec.TensorValue.RepeatedFloats`.
#[derive(Clone, PartialEq, Message)]
pub struct RepeatedFloats {
    /// The elements.
    #[prost(float, repeated, tag = "1")]
    pub values: Vec<f32>,
}

/// `MILSpec.TensorValue.RepeatedInts`.
#[derive(Clone, PartialEq, Message)]
pub struct RepeatedInts {
    /// The elements.
    #[prost(int32, repeated, tag = "1")]
    pub values: Vec<i32>,
}

/// `MILSpec.TensorValue.RepeatedBools`.
#[derive(Clone, PartialEq, Message)]
pub struct RepeatedBools {
    /// The elements.
    #[prost(bool, repeated, tag = "1")]
    pub values: Vec<bool>,
}

/// `MILSpec.TensorValue.RepeatedStrings`.
#[derive(Clone, PartialEq, Message)]
pub struct RepeatedStrings {
    /// The elements.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// `MILSpec.TensorValue.RepeatedBytes`.
#[derive(Clone, PartialEq, Message)]
pub struct RepeatedBytes {
    /// The elements, one after another.
    #[prost(bytes = "vec", tag = "1")]
    pub values: Vec<u8>,
}

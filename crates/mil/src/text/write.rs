//! From a program in primitive ops to text.

use std::fmt::Write as _;

use super::number::hex_float;
use super::{Header, MODEL_PATH, WeightFile, WeightFiles, WriteOptions, Written};
use crate::explicit::{self, Passed, Statement};
use crate::{ConstData, Constant, DType, Error, Program, Result, TensorType, ValueId, blob};

pub(super) fn program(program: &Program, options: &WriteOptions) -> Result<Written> {
    let mut writer =
        Writer { program, options, one_file: blob::Writer::new(), weights: Vec::new(), lines: String::new() };
    for statement in explicit::statements(program, options.header)? {
        writer.statement(&statement)?;
    }
    Ok(writer.finish())
}

/// What a constant that is kept as int8 is in MIL.
const AFFINE: &str = "constexpr_affine_dequantize";

struct Writer<'p> {
    program: &'p Program,
    options: &'p WriteOptions,
    one_file: blob::Writer,
    weights: Vec<WeightFile>,
    lines: String,
}

impl Writer<'_> {
    // Spelling.

    fn ty(&self, ty: &TensorType) -> String {
        if ty.shape.is_empty() {
            return self.scalar_type(ty.dtype.mil_name());
        }
        ty.to_string()
    }

    fn scalar_type(&self, name: &str) -> String {
        match self.options.header {
            Header::Ios18 => name.to_owned(),
            Header::Ios16 => format!("tensor<{name}, []>"),
        }
    }

    fn string(&self, text: &str) -> String {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}(\"{escaped}\")", self.scalar_type("string"))
    }

    fn name(&self, id: ValueId) -> &str {
        &self.program.value(id).name
    }

    /// `TYPE NAME = OP(ARGUMENTS)[name = string("NAME")…];`
    fn line(&mut self, declared: &str, name: &str, op: &str, arguments: &str, attributes: &str) {
        let name = self.string(name);
        writeln!(self.lines, "        {declared} = {op}({arguments})[name = {name}{attributes}];")
            .expect("a String takes everything");
    }

    // Statements.

    fn statement(&mut self, statement: &Statement<'_>) -> Result<()> {
        match statement {
            Statement::Const { name, constant } if matches!(constant.data, ConstData::Affine(_)) => {
                self.quantized(name, constant);
            }
            Statement::Const { name, constant } => {
                let value = self.constant(name, constant)?;
                let declared = format!("{} {name}", self.ty(&constant.ty));
                self.line(&declared, name, "const", "", &format!(", val = {value}"));
            }
            Statement::Op { kind, arguments, results } => {
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|argument| match &argument.value {
                        Passed::One(value) => format!("{} = {value}", argument.name),
                        Passed::List(values) => format!("{} = ({})", argument.name, values.join(", ")),
                    })
                    .collect();
                let declared: Vec<String> = results
                    .iter()
                    .map(|id| format!("{} {}", self.ty(self.program.ty(*id)), self.name(*id)))
                    .collect();
                let name = self.name(results[0]).to_owned();
                self.line(&declared.join(", "), &name, kind.name, &arguments.join(", "), "");
            }
        }
        Ok(())
    }

    // Constants.

    /// The value of a constant called `name`: in the text, or as a reference to a blob file.
    fn constant(&mut self, name: &str, constant: &Constant) -> Result<String> {
        match &constant.data {
            ConstData::Float(values) if values.len() > self.options.inline_max => {
                let (path, offset) = self.floats_blob(name, constant.ty.dtype, values);
                Ok(format!(
                    "{}(BLOBFILE(path = {}, offset = {}({offset})))",
                    self.ty(&constant.ty),
                    self.string(&path),
                    self.scalar_type("uint64"),
                ))
            }
            _ => self.inline(name, constant),
        }
    }

    /// A constant that is kept as int8; all that it is made of is an attribute.
    fn quantized(&mut self, name: &str, constant: &Constant) {
        let ConstData::Affine(affine) = &constant.data else { return };
        let data = TensorType::new(DType::I8, &constant.ty.shape);
        let data_ty = self.ty(&data);
        let values = if affine.quantized.len() > self.options.inline_max {
            let (path, offset) = self.blob(name, |file| file.add_i8(&affine.quantized));
            let (path, uint64) = (self.string(&path), self.scalar_type("uint64"));
            format!("BLOBFILE(path = {path}, offset = {uint64}({offset}))")
        } else {
            let elements: Vec<String> = affine.quantized.iter().map(i8::to_string).collect();
            match &elements[..] {
                [element] if data.shape.is_empty() => element.clone(),
                elements => nested(&data.shape, elements),
            }
        };
        let scales: Vec<String> = affine.scales.iter().map(|scale| hex_float(*scale)).collect();
        let zeros: Vec<String> = affine.zero_points.iter().map(i8::to_string).collect();
        let scale = self.one_or_a_list(constant.ty.dtype, &scales);
        let zero = self.one_or_a_list(DType::I8, &zeros);
        let axis = format!("{}({})", self.scalar_type("int32"), affine.axis);
        let declared = format!("{} {name}", self.ty(&constant.ty));
        let named = self.string(name);
        writeln!(
            self.lines,
            "        {declared} = {AFFINE}()[axis = {axis}, name = {named}, quantized_data = {data_ty}({values}), \
             scale = {scale}, zero_point = {zero}];"
        )
        .expect("a String takes everything");
    }

    fn one_or_a_list(&self, dtype: DType, elements: &[String]) -> String {
        match elements {
            [element] => format!("{}({element})", self.scalar_type(dtype.mil_name())),
            _ => {
                let shape = [elements.len()];
                format!("{}({})", self.ty(&TensorType::new(dtype, &shape)), nested(&shape, elements))
            }
        }
    }

    fn floats_blob(&mut self, name: &str, dtype: DType, values: &[f32]) -> (String, u64) {
        self.blob(name, |file| match dtype {
            DType::F32 => file.add_f32(values),
            _ => file.add_f16(values),
        })
    }

    fn blob(&mut self, name: &str, add: impl FnOnce(&mut blob::Writer) -> u64) -> (String, u64) {
        match &self.options.weights {
            WeightFiles::One(path) => (format!("{MODEL_PATH}{path}"), add(&mut self.one_file)),
            WeightFiles::OneEach(folder) => {
                let slash = if folder.is_empty() { "" } else { "/" };
                let path = format!("{MODEL_PATH}{folder}{slash}{name}.bin");
                let mut file = blob::Writer::new();
                let offset = add(&mut file);
                self.weights.push(WeightFile { path: path.clone(), bytes: file.finish() });
                (path, offset)
            }
        }
    }

    fn inline(&self, name: &str, constant: &Constant) -> Result<String> {
        let elements: Vec<String> = match &constant.data {
            ConstData::Float(values) => {
                if values.iter().any(|v| v.is_nan()) {
                    return Err(Error::program(format!(
                        "the constant `{name}` holds NaN, for which MIL text has no spelling"
                    )));
                }
                values.iter().map(|v| hex_float(*v)).collect()
            }
            ConstData::Affine(_) => unreachable!("it has a statement of its own"),
            ConstData::Int(values) => values.iter().map(i32::to_string).collect(),
            ConstData::Bool(values) => values.iter().map(bool::to_string).collect(),
            ConstData::Str(text) => return Ok(self.string(text)),
        };
        let ty = self.ty(&constant.ty);
        match (&constant.ty.shape[..], &elements[..]) {
            ([], [element]) => Ok(format!("{ty}({element})")),
            (shape, elements) => Ok(format!("{ty}({})", nested(shape, elements))),
        }
    }

    fn finish(mut self) -> Written {
        if let WeightFiles::One(path) = &self.options.weights
            && self.one_file.count() > 0
        {
            let path = format!("{MODEL_PATH}{path}");
            self.weights.push(WeightFile { path, bytes: self.one_file.clone().finish() });
        }
        let (version, system, string) = match self.options.header {
            Header::Ios18 => ("1.3", "ios18", "string"),
            Header::Ios16 => ("1.0", "ios16", "tensor<string, []>"),
        };
        let info: Vec<String> =
            self.options.build_info.iter().map(|(k, v)| format!("{{{k:?}, {v:?}}}")).collect();
        let declare = |id: &ValueId| format!("{} {}", self.ty(self.program.ty(*id)), self.name(*id));
        let inputs: Vec<String> = self.program.inputs().iter().map(declare).collect();
        let outputs: Vec<&str> = self.program.outputs().iter().map(|id| self.name(*id)).collect();
        let text = format!(
            "program({version})\n\
             [buildInfo = dict<{string}, {string}>({{{}}})]\n\
             {{\n    func main<{system}>({}) {{\n{}    }} -> ({});\n}}\n",
            info.join(", "),
            inputs.join(", "),
            self.lines,
            outputs.join(", "),
        );
        Written { text, weights: self.weights }
    }
}

/// Row-major elements as a list of lists, as deep as the shape has axes.
fn nested(shape: &[usize], elements: &[String]) -> String {
    let [_, inner @ ..] = shape else {
        return elements.join(", ");
    };
    let parts: Vec<String> = match inner {
        [] => elements.to_vec(),
        _ => {
            let size = inner.iter().product::<usize>().max(1);
            elements.chunks(size).map(|part| nested(inner, part)).collect()
        }
    };
    format!("[{}]", parts.join(", "))
}

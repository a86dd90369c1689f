//! The form that Apple's compilers read: every argument of an op is the name of a value, and an
//! attribute is a constant like any other (rule ANE-034).
//!
//! Text and packages are written from this one form, so a value has the same name in both.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::ops::Kind;
use crate::text::Header;
use crate::{
    AttrValue, ConstData, Constant, DType, Element, Error, Op, Program, Result, TensorType, ValueId,
};

/// Words that have a meaning of their own where a name may stand.
const RESERVED: [&str; 9] =
    ["true", "false", "inf", "infinity", "nan", "tensor", "const", "func", "BLOBFILE"];

/// A statement of a program in which attributes are constants.
pub(crate) enum Statement<'p> {
    /// A tensor known when the program is built: of the program, or an attribute.
    Const { name: String, constant: Cow<'p, Constant> },
    /// An op; its arguments are sorted by name, as Apple's own printer sorts them.
    Op { kind: &'static Kind, arguments: Vec<Argument>, results: &'p [ValueId] },
}

/// An argument of an op.
pub(crate) struct Argument {
    /// As the op calls it.
    pub(crate) name: &'static str,
    /// What is passed for it.
    pub(crate) value: Passed,
}

/// What is passed for an argument: names of values.
pub(crate) enum Passed {
    One(String),
    List(Vec<String>),
}

/// The statements of `program`, which holds no composites, with a constant for every attribute,
/// shared by type and value and declared before its first use.
///
/// # Errors
/// [`Error::Program`] when a name is no MIL identifier; [`Error::Op`] when the generation `header` lacks an op.
pub(crate) fn statements(program: &Program, header: Header) -> Result<Vec<Statement<'_>>> {
    let mut maker = Maker {
        program,
        names: program.values().iter().map(|v| v.name.as_str()).collect(),
        next_name: 0,
        attributes: HashMap::new(),
        statements: Vec::new(),
    };
    for info in program.values() {
        check_name(&info.name)?;
    }
    let scales = constant_scales(program);
    for stmt in program.stmts() {
        let int8 = |id: &ValueId| program.ty(*id).dtype == DType::I8;
        if header == Header::Ios16 && stmt.args.iter().chain(&stmt.results).any(int8) {
            let problem = "int8 values came with iOS 17, macOS 14; write the program for ios18";
            return Err(Error::op(stmt.op.name(), problem));
        }
        if let Op::Const(constant) = &stmt.op {
            let name = maker.name(stmt.results[0]);
            maker.statements.push(Statement::Const { name, constant: Cow::Borrowed(constant) });
            continue;
        }
        let kind = stmt.op.kind().expect("every op but a constant has a kind");
        if matches!(stmt.op, Op::Quantize { .. } | Op::Dequantize) {
            let scale = scales.get(&stmt.args[1]).copied();
            if !scale.is_some_and(|scale| scale.is_finite() && scale != 0.0) {
                let found = scale.map_or("computed".to_owned(), |scale| scale.to_string());
                let problem = format!("its scale is {found}; Core ML takes a constant, finite and not 0");
                return Err(Error::op(kind.name, problem));
            }
        }
        let mut arguments = Vec::new();
        if kind.variadic {
            let values = stmt.args.iter().map(|id| maker.name(*id)).collect();
            arguments.push(Argument { name: kind.operands[0], value: Passed::List(values) });
        } else {
            let operands = kind.operands.iter().zip(&stmt.args);
            arguments
                .extend(operands.map(|(name, id)| Argument { name, value: Passed::One(maker.name(*id)) }));
        }
        for (name, value) in stmt.op.attrs() {
            arguments.push(Argument { name, value: Passed::One(maker.attribute(value)) });
        }
        arguments.sort_by_key(|argument| argument.name);
        maker.statements.push(Statement::Op { kind, arguments, results: &stmt.results });
    }
    Ok(maker.statements)
}

/// The constants of one float.
fn constant_scales(program: &Program) -> HashMap<ValueId, f32> {
    let of = |stmt: &crate::Stmt| match &stmt.op {
        Op::Const(constant) => Some((stmt.results[0], *constant.as_floats()?.first()?)),
        _ => None,
    };
    program.stmts().iter().filter_map(of).collect()
}

fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let identifier = first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if identifier && !RESERVED.contains(&name) {
        return Ok(());
    }
    Err(Error::program(format!(
        "the name `{name}` cannot stand in MIL text; use letters, digits and `_`, and no reserved word"
    )))
}

/// Attributes are shared by type and value; floats by their bits, so that -0 stays -0.
#[derive(PartialEq, Eq, Hash)]
enum AttrKey {
    Bool(bool),
    Int(i32),
    Float(u32),
    Str(String),
    Ints(Vec<i32>),
}

struct Maker<'p> {
    program: &'p Program,
    names: HashSet<&'p str>,
    next_name: usize,
    attributes: HashMap<AttrKey, String>,
    statements: Vec<Statement<'p>>,
}

impl Maker<'_> {
    fn name(&self, id: ValueId) -> String {
        self.program.value(id).name.clone()
    }

    /// The name of the constant that holds an attribute; declared here when it is new.
    fn attribute(&mut self, value: AttrValue) -> String {
        let (key, constant) = constant_of(self.program.element(), value);
        if let Some(name) = self.attributes.get(&key) {
            return name.clone();
        }
        let name = self.fresh_name();
        self.statements.push(Statement::Const { name: name.clone(), constant: Cow::Owned(constant) });
        self.attributes.insert(key, name.clone());
        name
    }

    fn fresh_name(&mut self) -> String {
        loop {
            let name = format!("c{}", self.next_name);
            self.next_name += 1;
            if !self.names.contains(name.as_str()) {
                return name;
            }
        }
    }
}

fn constant_of(element: Element, value: AttrValue) -> (AttrKey, Constant) {
    let scalar = |dtype, data| Constant { ty: TensorType::scalar(dtype), data };
    match value {
        AttrValue::Bool(v) => (AttrKey::Bool(v), scalar(DType::Bool, ConstData::Bool([v].into()))),
        AttrValue::Int(v) => (AttrKey::Int(v), scalar(DType::I32, ConstData::Int([v].into()))),
        AttrValue::Float(v) => {
            let v = element.round(v);
            (AttrKey::Float(v.to_bits()), Constant::float(element, &[], [v]))
        }
        AttrValue::Str(v) => {
            let data = ConstData::Str(v.as_str().into());
            (AttrKey::Str(v), scalar(DType::Str, data))
        }
        AttrValue::Ints(v) => {
            let ty = TensorType::new(DType::I32, &[v.len()]);
            let data = ConstData::Int(v.as_slice().into());
            (AttrKey::Ints(v), Constant { ty, data })
        }
    }
}

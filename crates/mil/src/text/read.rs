//! From the tree of a text to a [`Program`].

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::ParseOptions;
use super::lex::Source;
use super::number;
use super::syntax::{Argument, Atom, Body, Declared, Function, Literal, Statement, Type, Value};
use crate::builder::extents;
use crate::ops::Kind;
use crate::program::Scope;
use crate::{
    AttrValue, ConstData, Constant, DType, Element, Error, Op, Program, Result, Stmt, TensorType, ValueId,
    ValueInfo, blob,
};

/// Integer types that text may use where an attribute is an integer.
const INTEGERS: [&str; 8] = ["int32", "int8", "uint8", "int16", "uint16", "uint32", "int64", "uint64"];

/// Statements whose result is known without running anything.
fn is_constant(statement: &Statement<'_>) -> bool {
    matches!(statement.op, "const" | "constexpr_affine_dequantize")
}

pub(super) fn program<'t>(
    source: Source<'t>,
    function: &Function<'t>,
    options: &ParseOptions<'_>,
) -> Result<Program> {
    let mut reader = Reader {
        source,
        blobs: Blobs { source: options.blobs, files: HashMap::new() },
        operands: operand_names(function),
        known: HashMap::new(),
        taken: HashSet::new(),
        next_name: 0,
        program: Program {
            element: options.element.unwrap_or_else(|| element_of(function)),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            inouts: Vec::new(),
            stmts: Vec::new(),
        },
    };
    let declared = function.inputs.iter().chain(function.statements.iter().flat_map(|s| &s.results));
    for declared in declared {
        if !reader.taken.insert(declared.name) {
            return Err(source.error(
                declared.at,
                format!("`{}` is declared twice; names are unique in a function", declared.name),
            ));
        }
    }
    for input in &function.inputs {
        let ty = reader.value_type(&input.ty)?;
        if ty.dtype == DType::Str {
            return Err(source.error(input.at, "a port cannot hold a string"));
        }
        let id = reader.value(input.name, ty);
        reader.known.insert(input.name, Known::Value(id));
        reader.program.inputs.push(id);
    }
    for statement in &function.statements {
        if is_constant(statement) {
            reader.constant_statement(statement)?;
        } else {
            reader.statement(statement)?;
        }
    }
    if function.outputs.is_empty() {
        return Err(source.error(function.at, "the function returns nothing"));
    }
    for (name, at) in &function.outputs {
        let id = match reader.known.get(name) {
            Some(Known::Value(id) | Known::Constant(_, Some(id))) => *id,
            _ => {
                let problem = format!("`{name}` is returned but never computed (rule ANE-036)");
                return Err(source.error(*at, problem));
            }
        };
        if reader.program.outputs.contains(&id) {
            return Err(source.error(*at, format!("`{name}` is returned twice")));
        }
        reader.program.outputs.push(id);
    }
    let program = reader.program;
    program.verify().map_err(|error| source.error(function.at, error.to_string()))?;
    Ok(program)
}

/// What a name stands for.
enum Known<'f, 't> {
    Value(ValueId),
    /// A constant; it is a value too when an op takes it as an operand.
    Constant(&'f Statement<'t>, Option<ValueId>),
}

struct Reader<'f, 't, 'o> {
    source: Source<'t>,
    blobs: Blobs<'o>,
    /// Names that stand where an op takes an operand, or are returned.
    operands: HashSet<&'t str>,
    known: HashMap<&'t str, Known<'f, 't>>,
    taken: HashSet<&'t str>,
    next_name: usize,
    program: Program,
}

/// Names that the function reads as values rather than as attributes.
fn operand_names<'t>(function: &Function<'t>) -> HashSet<&'t str> {
    let mut names: HashSet<&str> = function.outputs.iter().map(|(name, _)| *name).collect();
    for statement in function.statements.iter().filter(|s| !is_constant(s)) {
        let Some(kind) = Kind::by_name(statement.op) else {
            continue;
        };
        for argument in statement.arguments.iter().filter(|a| kind.operands.contains(&a.name)) {
            match &argument.value {
                Value::Name(name, _) => {
                    names.insert(name);
                }
                Value::Tuple(values) => names.extend(values.iter().filter_map(|v| match v {
                    Value::Name(name, _) => Some(*name),
                    _ => None,
                })),
                Value::Literal(_) => {}
            }
        }
    }
    names
}

/// `fp16` unless every float that the function declares is `fp32`.
fn element_of(function: &Function<'_>) -> Element {
    let declared = || {
        let results = function.statements.iter().flat_map(|s| &s.results);
        function.inputs.iter().chain(results).map(|d| d.ty.element)
    };
    match declared().any(|ty| ty == "fp32") && !declared().any(|ty| ty == "fp16") {
        true => Element::F32,
        false => Element::F16,
    }
}

impl<'f, 't> Reader<'f, 't, '_> {
    fn value(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.program.values.push(ValueInfo { name: name.to_owned(), ty });
        ValueId(self.program.values.len() as u32 - 1)
    }

    fn push(&mut self, op: Op, args: Vec<ValueId>, results: Vec<ValueId>) {
        self.program.stmts.push(Stmt { op, args, results, scope: Scope::default() });
    }

    // Types.

    /// The type of something that a program computes with.
    fn value_type(&self, ty: &Type<'_>) -> Result<TensorType> {
        let Some(dtype) = DType::from_mil_name(ty.element) else {
            let known: Vec<&str> = DType::ALL.iter().map(|d| d.mil_name()).collect();
            return Err(self.source.error(
                ty.at,
                format!("values of type `{}` are not supported, only {}", ty.element, known.join(", ")),
            ));
        };
        let found = TensorType::new(dtype, &ty.shape);
        match extents(&found) {
            Ok(()) => Ok(found),
            Err(problem) => Err(self.source.error(ty.at, format!("{found}: {problem}"))),
        }
    }

    // Constants.

    fn constant_statement(&mut self, statement: &'f Statement<'t>) -> Result<()> {
        let [declared] = &statement.results[..] else {
            let problem = format!("{} has one result", statement.op);
            return Err(self.source.error(statement.at, problem));
        };
        let id = if self.operands.contains(declared.name) {
            let constant = if statement.op == "const" {
                self.constant(self.const_value(statement)?, Some(declared))?
            } else {
                self.dequantized(statement, declared)?
            };
            let id = self.value(declared.name, constant.ty.clone());
            self.push(Op::Const(constant), Vec::new(), vec![id]);
            Some(id)
        } else {
            None
        };
        self.known.insert(declared.name, Known::Constant(statement, id));
        Ok(())
    }

    /// The `val` of a `const`.
    fn const_value<'s>(&self, statement: &'s Statement<'t>) -> Result<&'s Literal<'t>> {
        match statement.argument("val").map(|a| &a.value) {
            Some(Value::Literal(literal)) => Ok(literal),
            Some(_) => Err(self.source.error(statement.at, "const: `val` must be a literal")),
            None => Err(self.source.error(statement.at, "const: `val` is missing")),
        }
    }

    /// `literal` as a constant tensor; its type is its own, that of the declaration, or what its
    /// spelling says.
    fn constant(&mut self, literal: &Literal<'t>, declared: Option<&Declared<'t>>) -> Result<Constant> {
        let own = literal.ty.as_ref().map(|ty| self.value_type(ty)).transpose()?;
        let outer = declared.map(|d| self.value_type(&d.ty)).transpose()?;
        if let (Some(own), Some(outer)) = (&own, &outer)
            && own != outer
        {
            let problem = format!("the value is {own}, the name is declared {outer}");
            return Err(self.source.error(literal.at, problem));
        }
        let ty = match own.or(outer) {
            Some(ty) => ty,
            None => self.spelled_type(literal)?,
        };
        let data = match ty.dtype {
            DType::F16 | DType::F32 => ConstData::Float(self.floats(literal, &ty)?.into()),
            DType::I32 | DType::I8 => {
                ConstData::Int(self.ints(literal, ty.dtype.mil_name(), ty.numel())?.into())
            }
            DType::Bool => ConstData::Bool(self.bools(literal, ty.numel())?.into()),
            DType::Str => ConstData::Str(self.text(literal)?.into()),
        };
        Ok(Constant { ty, data })
    }

    /// The type of a bare literal: a float of the program's type where it looks like one.
    fn spelled_type(&self, literal: &Literal<'t>) -> Result<TensorType> {
        let atoms = self.atoms(literal, None)?;
        let dtype = match atoms.first() {
            Some((Atom::Bool(_), _)) => DType::Bool,
            Some((Atom::Text(_), _)) => DType::Str,
            Some((Atom::Number(_), _)) => {
                let float = |atom: &Atom<'_>| matches!(atom, Atom::Number(spelling) if number::is_float_spelling(spelling));
                match atoms.iter().any(|(atom, _)| float(atom)) {
                    true => self.program.element.dtype(),
                    false => DType::I32,
                }
            }
            None => {
                return Err(self.source.error(literal.at, "an empty list without a type"));
            }
        };
        let Body::Atoms { list, .. } = literal.body else {
            return Err(self.source.error(literal.at, "BLOBFILE needs a type around it"));
        };
        let shape: &[usize] = if list { &[atoms.len()] } else { &[] };
        Ok(TensorType::new(dtype, shape))
    }

    /// The elements that are spelled out, `count` of them.
    fn atoms<'l>(&self, literal: &'l Literal<'t>, count: Option<usize>) -> Result<&'l [(Atom<'t>, usize)]> {
        match &literal.body {
            Body::Blob { .. } => {
                Err(self.source.error(literal.at, "a BLOBFILE cannot hold this, only numbers"))
            }
            Body::Atoms { atoms, .. } => match count {
                Some(count) if count != atoms.len() => {
                    let problem = format!("{} elements are listed, expected {count}", atoms.len());
                    Err(self.source.error(literal.at, problem))
                }
                _ => Ok(atoms),
            },
        }
    }

    fn floats(&mut self, literal: &Literal<'t>, ty: &TensorType) -> Result<Vec<f32>> {
        if let Body::Blob { path, offset } = &literal.body {
            let name = ty.dtype.mil_name();
            return self.blob(literal.at, path, *offset, name, ty.numel(), |b| b.to_floats());
        }
        let spelled = |(atom, at): &(Atom<'t>, usize)| match atom {
            Atom::Number(spelling) => {
                number::parse_float(spelling, ty.dtype).map_err(|problem| self.source.error(*at, problem))
            }
            _ => Err(self.source.error(*at, format!("expected a number for {ty}"))),
        };
        self.atoms(literal, Some(ty.numel()))?.iter().map(spelled).collect()
    }

    fn ints(&mut self, literal: &Literal<'t>, name: &str, count: usize) -> Result<Vec<i32>> {
        if let Body::Blob { path, offset } = &literal.body {
            return self.blob(literal.at, path, *offset, name, count, |b| b.to_ints().unwrap_or_default());
        }
        let range = match name {
            "int8" => i32::from(i8::MIN)..=i32::from(i8::MAX),
            "int16" => i32::from(i16::MIN)..=i32::from(i16::MAX),
            "uint8" => 0..=i32::from(u8::MAX),
            "uint16" => 0..=i32::from(u16::MAX),
            // Larger ones are refused by their spelling.
            "uint32" | "uint64" => 0..=i32::MAX,
            _ => i32::MIN..=i32::MAX,
        };
        let spelled = |(atom, at): &(Atom<'t>, usize)| match atom {
            Atom::Number(spelling) => {
                let value = number::parse_int(spelling).map_err(|problem| self.source.error(*at, problem))?;
                if !range.contains(&value) {
                    return Err(self.source.error(*at, format!("{value} is no {name}")));
                }
                Ok(value)
            }
            _ => Err(self.source.error(*at, format!("expected an integer for {name}"))),
        };
        self.atoms(literal, Some(count))?.iter().map(spelled).collect()
    }

    fn bools(&self, literal: &Literal<'t>, count: usize) -> Result<Vec<bool>> {
        let spelled = |(atom, at): &(Atom<'t>, usize)| match atom {
            Atom::Bool(value) => Ok(*value),
            Atom::Number("0") => Ok(false),
            Atom::Number("1") => Ok(true),
            _ => Err(self.source.error(*at, "expected `true` or `false`")),
        };
        self.atoms(literal, Some(count))?.iter().map(spelled).collect()
    }

    fn text(&self, literal: &Literal<'t>) -> Result<String> {
        match self.atoms(literal, Some(1))? {
            [(Atom::Text(text), _)] => Ok(text.clone()),
            _ => Err(self.source.error(literal.at, "expected a string")),
        }
    }

    /// The blob at `offset` of `path`, which must hold `count` elements of the type `name`.
    fn blob<T>(
        &mut self,
        at: usize,
        path: &str,
        offset: u64,
        name: &str,
        count: usize,
        read: impl FnOnce(&blob::Blob<'_>) -> Vec<T>,
    ) -> Result<Vec<T>> {
        let bytes = self.blobs.file(path).map_err(|problem| self.source.error(at, problem))?;
        let found = blob::File::new(path, bytes)
            .and_then(|file| file.blob(offset))
            .map_err(|error| self.source.error(at, error.to_string()))?;
        if found.ty.mil_name() != name || found.len() != count {
            let problem = format!(
                "blob file {path}, byte {offset}: {} elements of {}, expected {count} of {name}",
                found.len(),
                found.ty.mil_name()
            );
            return Err(self.source.error(at, problem));
        }
        Ok(read(&found))
    }

    /// `constexpr_affine_dequantize`: (quantized_data - zero_point) * scale, along `axis`.
    fn dequantized(&mut self, statement: &'f Statement<'t>, declared: &Declared<'t>) -> Result<Constant> {
        let source = self.source;
        let argument = |name: &str| match statement.argument(name).map(|a| &a.value) {
            Some(Value::Literal(literal)) => Ok(Some(literal)),
            None => Ok(None),
            Some(_) => {
                let problem = format!("{}: `{name}` must be a literal", statement.op);
                Err(source.error(statement.at, problem))
            }
        };
        let missing =
            |name: &str| source.error(statement.at, format!("{}: `{name}` is missing", statement.op));
        let data = argument("quantized_data")?.ok_or_else(|| missing("quantized_data"))?;
        let scale = argument("scale")?.ok_or_else(|| missing("scale"))?;
        let axis = match argument("axis")? {
            Some(axis) => self.ints(axis, "int32", 1)?[0],
            None => 0,
        };
        let ty = self.value_type(&declared.ty)?;
        let fits = |literal: &Literal<'t>| {
            literal.ty.as_ref().is_some_and(|t| matches!(t.element, "int8" | "uint8") && t.shape == ty.shape)
        };
        if !ty.dtype.is_float() || !fits(data) {
            let problem =
                format!("{}: the result is {ty}, the data must be int8 or uint8 of its shape", statement.op);
            return Err(source.error(data.at, problem));
        }
        let axis = usize::try_from(axis).ok().filter(|axis| *axis < ty.rank()).ok_or_else(|| {
            let problem = format!("{}: axis {axis} of {ty}; it must be one of its axes", statement.op);
            source.error(statement.at, problem)
        })?;
        let channels = ty.shape[axis];
        let per_channel = |literal: &Literal<'t>| {
            let numel = literal.ty.as_ref().map_or(1, Type::numel);
            if numel == 1 || numel == channels {
                return Ok(numel);
            }
            let problem = format!("{}: {numel} entries for {channels} channels", statement.op);
            Err(source.error(literal.at, problem))
        };
        let element_name = data.ty.as_ref().map_or("int8", |t| t.element);
        let scale_ty = TensorType::new(ty.dtype, &[per_channel(scale)?]);
        let scales = self.floats(scale, &scale_ty)?;
        let zeros = match argument("zero_point")? {
            Some(zero) => self.ints(zero, element_name, per_channel(zero)?)?,
            None => vec![0],
        };
        let data = self.ints(data, element_name, ty.numel())?;
        let element = if ty.dtype == DType::F16 { Element::F16 } else { Element::F32 };
        if let Some(wrong) = scales.iter().find(|scale| !element.round(**scale).is_finite()) {
            let problem = format!("{}: the scale {wrong} is no finite {}", statement.op, ty.dtype.mil_name());
            return Err(source.error(scale.at, problem));
        }
        // Within int8 or uint8, as they were read.
        let offset = if element_name == "uint8" { 128 } else { 0 };
        let [quantized, zeros] =
            [data, zeros].map(|values| values.iter().map(|q| (q - offset) as i8).collect::<Vec<i8>>());
        Ok(Constant::affine(element, &ty.shape, &quantized, axis, &scales, &zeros))
    }

    // Statements.

    fn statement(&mut self, statement: &'f Statement<'t>) -> Result<()> {
        let source = self.source;
        let Some(kind) = Kind::by_name(statement.op).filter(|kind| !kind.composite) else {
            return Err(source.error(statement.at, format!("the op `{}` is unknown", statement.op)));
        };
        let is_known = |name: &str| kind.operands.contains(&name) || kind.attrs.contains(&name);
        if let Some(stray) = statement.arguments.iter().find(|a| !is_known(a.name)) {
            let names = [kind.operands, kind.attrs].concat().join(", ");
            let problem = format!("{} takes no argument `{}`, only {names}", kind.name, stray.name);
            return Err(source.error(stray.at, problem));
        }
        let args = self.operand_ids(statement, kind)?;
        let op = self.op(statement, kind)?;
        let wrong = |error: Error| source.error(statement.at, error.to_string());
        // Asked before inference, which makes as many types as the op has results.
        if let Op::Split { num_splits, .. } = op
            && usize::try_from(num_splits) != Ok(statement.results.len())
        {
            let problem = format!("split: {} names for {num_splits} parts", statement.results.len());
            return Err(source.error(statement.at, problem));
        }
        let types: Vec<&TensorType> = args.iter().map(|id| self.program.ty(*id)).collect();
        let inferred = op.infer(self.program.element, &types).map_err(wrong)?;
        if inferred.len() != statement.results.len() {
            let problem = format!(
                "{} gives {} results, {} are named",
                kind.name,
                inferred.len(),
                statement.results.len()
            );
            return Err(source.error(statement.at, problem));
        }
        let mut results = Vec::new();
        for (declared, ty) in statement.results.iter().zip(inferred) {
            if self.value_type(&declared.ty)? != ty {
                let problem = format!(
                    "{}: `{}` is declared {}, the op gives {ty}",
                    kind.name,
                    declared.name,
                    self.value_type(&declared.ty)?
                );
                return Err(source.error(declared.ty.at, problem));
            }
            let id = self.value(declared.name, ty);
            self.known.insert(declared.name, Known::Value(id));
            results.push(id);
        }
        self.push(op, args, results);
        Ok(())
    }

    /// The operands in the order of the op's list.
    fn operand_ids(&mut self, statement: &Statement<'t>, kind: &Kind) -> Result<Vec<ValueId>> {
        let mut ids = Vec::new();
        for name in kind.operands {
            let Some(argument) = statement.argument(name) else {
                let problem = format!("{}: operand `{name}` is missing", kind.name);
                return Err(self.source.error(statement.at, problem));
            };
            match &argument.value {
                Value::Tuple(values) if kind.variadic => {
                    for value in values {
                        ids.push(self.operand(argument, value)?);
                    }
                }
                value => ids.push(self.operand(argument, value)?),
            }
        }
        Ok(ids)
    }

    fn operand(&mut self, argument: &Argument<'t>, value: &Value<'t>) -> Result<ValueId> {
        match value {
            Value::Name(name, at) => match self.known.get(name) {
                Some(Known::Value(id) | Known::Constant(_, Some(id))) => Ok(*id),
                _ => {
                    let problem = format!("`{name}` is not declared before it is read");
                    Err(self.source.error(*at, problem))
                }
            },
            Value::Literal(literal) => {
                // MIL allows it; here every operand is a value of its own.
                let constant = self.constant(literal, None)?;
                let name = self.fresh_name();
                let id = self.value(&name, constant.ty.clone());
                self.push(Op::Const(constant), Vec::new(), vec![id]);
                Ok(id)
            }
            Value::Tuple(_) => {
                let problem = format!("`{}` takes one value, not several", argument.name);
                Err(self.source.error(argument.at, problem))
            }
        }
    }

    fn fresh_name(&mut self) -> String {
        loop {
            let name = format!("k{}", self.next_name);
            self.next_name += 1;
            if !self.taken.contains(name.as_str()) {
                return name;
            }
        }
    }

    /// The op with its attributes.
    fn op(&mut self, statement: &Statement<'t>, kind: &'static Kind) -> Result<Op> {
        let mut attrs: Vec<(&str, AttrValue)> = Vec::new();
        for argument in statement.arguments.iter().filter(|a| kind.attrs.contains(&a.name)) {
            attrs.push((argument.name, self.attribute(argument)?));
        }
        let mut lookup = |name: &str| attrs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        Op::from_attrs(kind.name, &mut lookup)
            .map(|op| op.rounded(self.program.element))
            .map_err(|error| self.source.error(statement.at, error.to_string()))
    }

    fn attribute(&mut self, argument: &Argument<'t>) -> Result<AttrValue> {
        let source = self.source;
        let unknown = |at: usize, problem: String| Err(source.error(at, problem));
        match &argument.value {
            Value::Literal(literal) => self.attribute_value(literal, None),
            Value::Name(name, at) => match self.known.get(name) {
                Some(Known::Constant(statement, _)) if statement.op == "const" => {
                    let literal = self.const_value(statement)?;
                    let declared = statement.results.first().map(|d| d.ty.clone());
                    self.attribute_value(literal, declared.as_ref())
                }
                Some(_) => {
                    unknown(*at, format!("`{}` must be a constant, `{name}` is computed", argument.name))
                }
                None => unknown(*at, format!("`{name}` is not declared before it is read")),
            },
            Value::Tuple(_) => {
                unknown(argument.at, format!("`{}` takes one value, not several", argument.name))
            }
        }
    }

    fn attribute_value(&mut self, literal: &Literal<'t>, declared: Option<&Type<'t>>) -> Result<AttrValue> {
        let Some(ty) = literal.ty.as_ref().or(declared).cloned() else {
            let ty = self.spelled_type(literal)?;
            let element = ty.dtype.mil_name();
            return self.typed_attribute(literal, &Type { element, shape: ty.shape, at: literal.at });
        };
        self.typed_attribute(literal, &ty)
    }

    fn typed_attribute(&mut self, literal: &Literal<'t>, ty: &Type<'_>) -> Result<AttrValue> {
        let one = |count: usize| match count {
            1 => Ok(()),
            _ => Err(self.source.error(literal.at, format!("{count} elements where one is meant"))),
        };
        match ty.element {
            "bool" => {
                one(ty.numel())?;
                Ok(AttrValue::Bool(self.bools(literal, 1)?[0]))
            }
            "string" => Ok(AttrValue::Str(self.text(literal)?)),
            "fp16" | "fp32" => {
                one(ty.numel())?;
                let dtype = if ty.element == "fp16" { DType::F16 } else { DType::F32 };
                Ok(AttrValue::Float(self.floats(literal, &TensorType::scalar(dtype))?[0]))
            }
            name if INTEGERS.contains(&name) => {
                let values = self.ints(literal, name, ty.numel())?;
                Ok(match &values[..] {
                    [value] if ty.shape.is_empty() => AttrValue::Int(*value),
                    _ => AttrValue::Ints(values),
                })
            }
            name => Err(self.source.error(ty.at, format!("attributes of type `{name}` are not supported"))),
        }
    }
}

/// Blob files that were read, each once.
struct Blobs<'o> {
    source: Option<&'o dyn super::BlobSource>,
    files: HashMap<String, Cow<'o, [u8]>>,
}

impl Blobs<'_> {
    fn file(&mut self, path: &str) -> std::result::Result<&[u8], String> {
        let Some(source) = self.source else {
            return Err(format!(
                "the weights in {path} are not at hand: the text is read without its blob files"
            ));
        };
        if !self.files.contains_key(path) {
            let bytes = source.read(path).map_err(|error| error.to_string())?;
            self.files.insert(path.to_owned(), bytes);
        }
        Ok(&self.files[path])
    }
}

//! A program: typed values in SSA form, between named ports.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::{Builder, Element, Error, Op, Result, TensorType};

/// A value of one program: an index into its table of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The position in [`Program::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Name and type of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueInfo {
    /// Unique in its program; ports are known by it.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
}

/// Which part of the model a statement belongs to. Scopes steer the cut ([`crate::partition`]);
/// they are not part of what a program means, are not written to text and do not take part in
/// comparison.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Scope {
    /// Set by [`Builder::in_scope`]; empty outside.
    pub name: Arc<str>,
    /// Whether differentiation made the statement.
    pub backward: bool,
}

/// One op applied to operands.
#[derive(Debug, Clone)]
pub struct Stmt {
    /// What is computed, with its attributes.
    pub op: Op,
    /// Operands in the order of the op's operand list.
    pub args: Vec<ValueId>,
    /// One for most ops.
    pub results: Vec<ValueId>,
    /// For the cut only.
    pub scope: Scope,
}

/// Which way a port faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// Read by the program.
    Input,
    /// Written by the program.
    Output,
}

/// A named opening of a program.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// By which buffers are bound.
    pub name: &'a str,
    /// Element type and shape.
    pub ty: &'a TensorType,
    /// Which way it faces.
    pub kind: PortKind,
}

/// What [`Program::rewrite`] asks about each op and its operands, which are values of the new program.
pub type Replace<'a> = &'a mut dyn FnMut(&mut Builder, &Op, &[ValueId]) -> Result<Option<Vec<ValueId>>>;

/// A program: ports, and statements in an order in which every operand comes before its use.
///
/// Two programs are equal when they have the same ports, names and statements; scopes and unused
/// entries of the value table do not count.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) element: Element,
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) inouts: Vec<(ValueId, ValueId)>,
    pub(crate) stmts: Vec<Stmt>,
}

impl Program {
    /// The float type that it is built for.
    pub fn element(&self) -> Element {
        self.element
    }

    /// All values, indexed by [`ValueId::index`].
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }

    /// Name and type of a value.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// Input ports in declaration order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Output ports in declaration order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Pairs (input, output) that may share one buffer.
    pub fn inouts(&self) -> &[(ValueId, ValueId)] {
        &self.inouts
    }

    /// The statements in order.
    pub fn stmts(&self) -> &[Stmt] {
        &self.stmts
    }

    /// Every port, inputs first.
    pub fn ports(&self) -> impl Iterator<Item = Port<'_>> {
        let port = |kind| {
            move |id: &ValueId| {
                let info = self.value(*id);
                Port { name: &info.name, ty: &info.ty, kind }
            }
        };
        self.inputs.iter().map(port(PortKind::Input)).chain(self.outputs.iter().map(port(PortKind::Output)))
    }

    /// The type of the input port `name`.
    pub fn input(&self, name: &str) -> Option<&TensorType> {
        self.ports().find(|p| p.kind == PortKind::Input && p.name == name).map(|p| p.ty)
    }

    /// The type of the output port `name`.
    pub fn output(&self, name: &str) -> Option<&TensorType> {
        self.ports().find(|p| p.kind == PortKind::Output && p.name == name).map(|p| p.ty)
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(|i| ValueId(i as u32))
    }

    /// For each value the index of the statement that makes it; `None` for inputs.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (index, stmt) in self.stmts.iter().enumerate() {
            for result in &stmt.results {
                producers[result.index()] = Some(index);
            }
        }
        producers
    }

    /// The same program for another element type: floats change type, constants are rounded.
    ///
    /// # Errors
    /// [`Error::Op`] when an op does not accept its operands in the new type.
    pub fn with_element(&self, element: Element) -> Result<Program> {
        self.replay(element, &mut |_, _, _| Ok(None))
    }

    /// The program with those composites replaced by their decompositions for which `expand` says
    /// so, again and again until none of them is left.
    ///
    /// # Errors
    /// [`Error::Op`] when a decomposition does not type-check: a bug of the composite.
    pub fn expand(&self, mut expand: impl FnMut(&Op) -> bool) -> Result<Program> {
        let mut program = self.clone();
        loop {
            program = program.rewrite(&mut |b, op, args| match op.is_composite() && expand(op) {
                true => crate::composites::decompose(b, op, args).map(Some),
                false => Ok(None),
            })?;
            if !program.stmts.iter().any(|s| s.op.is_composite() && expand(&s.op)) {
                return Ok(program);
            }
        }
    }

    /// The program with other statements in place of some: for each, `replace` is given its op and operands
    /// and builds something with the same results, or returns `None` to keep it. Names and scopes stay.
    ///
    /// # Errors
    /// What `replace` returns, and [`Error::Op`] when a later op does not accept what it built.
    pub fn rewrite(&self, replace: Replace<'_>) -> Result<Program> {
        self.replay(self.element, replace)
    }

    /// The program in primitive ops only: what text, `sim` and every Apple route see.
    ///
    /// # Errors
    /// As [`Program::expand`].
    pub fn expand_all(&self) -> Result<Program> {
        self.expand(|_| true)
    }

    /// The program without the statements that no output needs.
    pub fn without_dead_code(&self) -> Program {
        let mut live: HashSet<ValueId> = self.outputs.iter().copied().collect();
        let mut keep = vec![false; self.stmts.len()];
        for (index, stmt) in self.stmts.iter().enumerate().rev() {
            if stmt.results.iter().any(|r| live.contains(r)) {
                keep[index] = true;
                live.extend(stmt.args.iter().copied());
            }
        }
        let mut program = self.clone();
        let mut index = 0;
        program.stmts.retain(|_| {
            index += 1;
            keep[index - 1]
        });
        program.renumbered()
    }

    /// Checks every rule again: single assignment, operands before use, unique names, types as
    /// inferred, live outputs. The builder keeps these by construction; a reader of foreign text
    /// and a pass call it.
    ///
    /// # Errors
    /// The first rule that is broken, with the value or op that breaks it.
    pub fn verify(&self) -> Result<()> {
        let mut names = HashMap::new();
        for (index, info) in self.values.iter().enumerate() {
            if let Some(other) = names.insert(info.name.as_str(), index) {
                return Err(Error::program(format!(
                    "two values are called `{}` (numbers {other} and {index}); names are unique in a program",
                    info.name
                )));
            }
        }
        let mut known: HashSet<ValueId> = self.inputs.iter().copied().collect();
        for stmt in &self.stmts {
            for arg in &stmt.args {
                if !known.contains(arg) {
                    return Err(Error::program(format!(
                        "{} reads `{}` before it is computed",
                        stmt.op.name(),
                        self.value(*arg).name
                    )));
                }
            }
            let args: Vec<&TensorType> = stmt.args.iter().map(|a| self.ty(*a)).collect();
            let inferred = stmt.op.infer(self.element, &args)?;
            if inferred.len() != stmt.results.len() {
                return Err(Error::op(
                    stmt.op.name(),
                    format!("gives {} results, the program names {}", inferred.len(), stmt.results.len()),
                ));
            }
            for (ty, result) in inferred.iter().zip(&stmt.results) {
                if ty != self.ty(*result) {
                    return Err(Error::op(
                        stmt.op.name(),
                        format!(
                            "`{}` is declared {}, the op gives {ty}",
                            self.value(*result).name,
                            self.ty(*result)
                        ),
                    ));
                }
                if !known.insert(*result) {
                    return Err(Error::program(format!("`{}` is assigned twice", self.value(*result).name)));
                }
            }
        }
        match self.outputs.iter().find(|o| !known.contains(o)) {
            Some(dead) => {
                Err(Error::program(format!("output `{}` is never computed", self.value(*dead).name)))
            }
            None => Ok(()),
        }
    }

    /// Builds the program anew, statement by statement, for `element` and with what `replace` gives.
    /// Names and scopes stay.
    fn replay(&self, element: Element, replace: Replace<'_>) -> Result<Program> {
        let mut b = Builder::new(element);
        let mut map: Vec<Option<ValueId>> = vec![None; self.values.len()];
        self.values.iter().for_each(|info| b.reserve_name(&info.name));
        for id in &self.inputs {
            let info = self.value(*id);
            let dtype = if info.ty.dtype.is_float() && element != self.element {
                element.dtype()
            } else {
                info.ty.dtype
            };
            map[id.index()] = Some(b.typed_input(&info.name, TensorType::new(dtype, &info.ty.shape))?);
        }
        for stmt in &self.stmts {
            let args: Vec<ValueId> =
                stmt.args.iter().map(|a| map[a.index()].expect("operands come before their use")).collect();
            b.set_scope(stmt.scope.clone());
            let results = match (replace(&mut b, &stmt.op, &args)?, &stmt.op) {
                (Some(results), _) => results,
                (None, Op::Const(constant)) if element != self.element => {
                    b.push(Op::Const(constant.with_element(element)), &args)?
                }
                (None, op) => b.push(op.clone(), &args)?,
            };
            for (old, new) in stmt.results.iter().zip(results) {
                map[old.index()] = Some(new);
                b.name_unless_named(new, &self.value(*old).name);
            }
        }
        b.set_scope(Scope::default());
        for id in &self.outputs {
            b.output(&self.value(*id).name, map[id.index()].expect("outputs are computed"))?;
        }
        for (input, output) in &self.inouts {
            b.inout(&self.value(*input).name, &self.value(*output).name)?;
        }
        b.finish()
    }

    /// Values numbered in order of appearance and unused entries dropped: the canonical form.
    pub(crate) fn renumbered(&self) -> Program {
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        let mut values = Vec::new();
        let mut number = |id: ValueId, values: &mut Vec<ValueInfo>| {
            *map.entry(id).or_insert_with(|| {
                values.push(self.value(id).clone());
                ValueId(values.len() as u32 - 1)
            })
        };
        let inputs = self.inputs.iter().map(|id| number(*id, &mut values)).collect();
        let stmts = self
            .stmts
            .iter()
            .map(|stmt| Stmt {
                op: stmt.op.clone(),
                args: stmt.args.iter().map(|id| number(*id, &mut values)).collect(),
                results: stmt.results.iter().map(|id| number(*id, &mut values)).collect(),
                scope: stmt.scope.clone(),
            })
            .collect();
        let outputs = self.outputs.iter().map(|id| number(*id, &mut values)).collect();
        let inouts =
            self.inouts.iter().map(|(i, o)| (number(*i, &mut values), number(*o, &mut values))).collect();
        Program { element: self.element, values, inputs, outputs, inouts, stmts }
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.renumbered(), other.renumbered());
        a.element == b.element
            && a.values == b.values
            && a.inputs == b.inputs
            && a.outputs == b.outputs
            && a.inouts == b.inouts
            && a.stmts.len() == b.stmts.len()
            && a.stmts
                .iter()
                .zip(&b.stmts)
                .all(|(s, t)| s.op == t.op && s.args == t.args && s.results == t.results)
    }
}

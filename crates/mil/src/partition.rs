//! Cutting a program into segments that run one after another.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{Builder, Error, Op, Program, Result, Stmt, ValueId};

/// One piece of a cut program. A value that crosses a border is an output port of the piece that
/// computes it and an input port of those that read it, under the value's own name.
#[derive(Debug, Clone)]
pub struct Segment {
    /// As the cut calls it.
    pub name: String,
    /// The piece.
    pub program: Program,
}

/// Cuts `program` into the segments called `names`, in that order.
///
/// * `segment_of(statement)`: the index of the segment that a statement belongs to. A statement may
///   only read what its own or an earlier segment computes. Constants belong wherever they are
///   read.
/// * `recompute(statement, from, to)`: whether the segment `to` computes the statement again
///   instead of reading its result from the segment `from` through a port.
///
/// # Errors
/// [`Error::Program`] when a statement reads what a later segment computes, a segment is empty, or
/// the ports of an `inout` pair come into two segments, or a later one reads what the pair overwrites.
pub fn partition(
    program: &Program,
    names: &[&str],
    segment_of: impl Fn(&Stmt) -> usize,
    recompute: impl Fn(&Stmt, usize, usize) -> bool,
) -> Result<Vec<Segment>> {
    let producers = program.producers();
    let home: Vec<usize> = program.stmts().iter().map(&segment_of).collect();
    if let Some(at) = home.iter().position(|segment| *segment >= names.len()) {
        return Err(Error::program(format!(
            "the cut puts {} into segment {} of {}",
            program.stmts()[at].op.name(),
            home[at],
            names.len()
        )));
    }
    // For each segment the statements that it holds, its own and those that it computes again,
    // and the values that it reads through ports.
    let mut members: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); names.len()];
    let mut imports: Vec<BTreeSet<ValueId>> = vec![BTreeSet::new(); names.len()];
    for (index, stmt) in program.stmts().iter().enumerate() {
        if !matches!(stmt.op, Op::Const(_)) {
            members[home[index]].insert(index);
        }
    }
    for segment in 0..names.len() {
        let mut open: Vec<usize> = members[segment].iter().copied().collect();
        while let Some(index) = open.pop() {
            for arg in &program.stmts()[index].args {
                let Some(producer) = producers[arg.index()] else {
                    imports[segment].insert(*arg);
                    continue;
                };
                if members[segment].contains(&producer) {
                    continue;
                }
                let made = &program.stmts()[producer];
                if home[producer] > segment && !matches!(made.op, Op::Const(_)) {
                    return Err(Error::program(format!(
                        "segment `{}` reads `{}`, which the later segment `{}` computes",
                        names[segment],
                        program.value(*arg).name,
                        names[home[producer]]
                    )));
                }
                if matches!(made.op, Op::Const(_)) || recompute(made, home[producer], segment) {
                    members[segment].insert(producer);
                    open.push(producer);
                } else {
                    imports[segment].insert(*arg);
                }
            }
        }
    }
    let read_elsewhere: HashSet<ValueId> = imports.iter().flatten().copied().collect();
    names
        .iter()
        .enumerate()
        .map(|(segment, name)| {
            let mut b = Builder::new(program.element());
            let mut map: HashMap<ValueId, ValueId> = HashMap::new();
            for info in program.values() {
                b.reserve_name(&info.name);
            }
            // Ports keep the order of the whole program: its inputs, then values as computed.
            let order = program.inputs().iter().chain(program.stmts().iter().flat_map(|s| &s.results));
            for id in order.filter(|id| imports[segment].contains(id)) {
                let info = program.value(*id);
                map.insert(*id, b.typed_input(&info.name, info.ty.clone())?);
            }
            let mut outputs = Vec::new();
            for index in &members[segment] {
                let stmt = &program.stmts()[*index];
                let args: Vec<ValueId> = stmt.args.iter().map(|a| map[a]).collect();
                b.set_scope(stmt.scope.clone());
                let results = b.push(stmt.op.clone(), &args)?;
                for (old, new) in stmt.results.iter().zip(results) {
                    map.insert(*old, b.name(new, &program.value(*old).name)?);
                    let leaves = program.outputs().contains(old) || read_elsewhere.contains(old);
                    if home[*index] == segment && leaves {
                        outputs.push((*old, new));
                    }
                }
            }
            if outputs.is_empty() {
                return Err(Error::program(format!("segment `{name}` computes nothing that anyone reads")));
            }
            for (old, new) in &outputs {
                b.output(&program.value(*old).name, *new)?;
            }
            for (input, output) in program.inouts() {
                let reads = imports[segment].contains(input);
                if !outputs.iter().any(|(old, _)| old == output) {
                    continue;
                }
                let old = *input;
                let (input, output) = (&program.value(*input).name, &program.value(*output).name);
                if !reads {
                    return Err(Error::program(format!(
                        "`{input}` and `{output}` are one port, and segment `{name}` has only the second"
                    )));
                }
                // It would find the new value where the whole program reads the old one.
                if let Some(later) = (segment + 1..names.len()).find(|later| imports[*later].contains(&old)) {
                    return Err(Error::program(format!(
                        "segment `{name}` overwrites `{input}` by `{output}`, and the later segment `{}` reads it",
                        names[later]
                    )));
                }
                b.inout(input, output)?;
            }
            Ok(Segment { name: (*name).to_owned(), program: b.finish()? })
        })
        .collect()
}

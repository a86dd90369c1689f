//! A group of elementwise statements as one [`Pass`].

use std::collections::HashMap;

use mil::ValueId;

use super::Planner;
use super::view::View;
use crate::Write;
use crate::elementwise::{Instruction, Pass, Source, Spread};

impl Planner<'_> {
    /// Plans the pass of a group, and before it whatever the group reads from outside.
    pub(super) fn emit_group(&mut self, group: usize) -> Result<(), String> {
        let program = self.program;
        let members = self.groups.members[group].clone();
        members.iter().for_each(|index| self.emitted[*index] = true);
        let shape = program.ty(program.stmts()[members[0]].results[0]).shape.clone();
        let results: HashMap<ValueId, usize> =
            members.iter().enumerate().map(|(at, index)| (program.stmts()[*index].results[0], at)).collect();
        // What comes from outside, once each: numbers stay numbers.
        let mut outside: Vec<ValueId> = Vec::new();
        let mut code = Vec::new();
        for index in &members {
            let stmt = &program.stmts()[*index];
            let mut sources = Vec::new();
            for arg in &stmt.args {
                sources.push(if let Some(at) = results.get(arg) {
                    Source::Result(*at)
                } else if let Some(number) = self.scalar(*arg) {
                    Source::Number(number)
                } else {
                    let at = outside.iter().position(|other| other == arg).unwrap_or_else(|| {
                        outside.push(*arg);
                        outside.len() - 1
                    });
                    Source::Memory(at)
                });
            }
            code.push(Instruction { op: stmt.op.clone(), sources });
        }
        let shapes: Vec<Vec<usize>> = outside.iter().map(|value| program.ty(*value).shape.clone()).collect();
        let (rows, cols, spreads) = spread(&shape, &shapes);
        let mut storages = Vec::new();
        let mut operands = Vec::new();
        for (value, spread) in outside.iter().zip(spreads) {
            match spread {
                Some(spread) => {
                    storages.push(self.dense(*value)?);
                    operands.push(spread);
                }
                // An operand that repeats in a way the pass does not know is spread out first.
                None => {
                    let view = self.view(*value)?.broadcast(&shape);
                    storages.push(self.copied(&view));
                    operands.push(Spread::Full);
                }
            }
        }
        // What leaves: outputs of the program, and whatever a statement outside reads.
        let leaving: Vec<(usize, ValueId)> = members
            .iter()
            .enumerate()
            .map(|(at, index)| (at, program.stmts()[*index].results[0]))
            .filter(|(_, value)| {
                program.outputs().contains(value)
                    || self.uses[value.index()].iter().any(|u| !members.contains(u))
            })
            .collect();
        let targets: Vec<_> = leaving.iter().map(|(_, value)| self.place(*value)).collect();
        for (_, value) in &leaving {
            debug_assert!(self.views[value.index()].as_ref().is_some_and(View::is_dense));
        }
        let names: Vec<&str> = members.iter().map(|index| program.stmts()[*index].op.name()).collect();
        let pass = Pass { rows, cols, operands, code, outputs: leaving.iter().map(|(at, _)| *at).collect() };
        let (reads, writes) = (storages.clone(), targets.clone());
        self.step(names.join("+"), 0.0, &reads, &writes, move |pool, memory| {
            // SAFETY: declared above.
            unsafe {
                let operands: Vec<&[f32]> = storages.iter().map(|id| memory.read(*id)).collect();
                let outputs: Vec<(&mut [f32], Write)> =
                    targets.iter().map(|id| (memory.write(*id), memory.mode(*id))).collect();
                pass.run(pool, &operands, outputs);
            }
        });
        Ok(())
    }
}

/// The rows and columns into which `shape` falls so that as many operands as possible are full, one
/// value for each row, or one row for all; for each operand which of these, `None` where none fits.
fn spread(shape: &[usize], operands: &[Vec<usize>]) -> (usize, usize, Vec<Option<Spread>>) {
    let padded: Vec<Vec<usize>> = operands
        .iter()
        .map(|operand| [vec![1; shape.len() - operand.len()], operand.clone()].concat())
        .collect();
    let at = |split: usize| -> Vec<Option<Spread>> {
        let of = |operand: &Vec<usize>| {
            let same = |range: std::ops::Range<usize>| operand[range.clone()] == shape[range];
            let ones = |range: std::ops::Range<usize>| operand[range].iter().all(|extent| *extent == 1);
            let (outer, inner) = (0..split, split..shape.len());
            if same(0..shape.len()) {
                Some(Spread::Full)
            } else if same(outer.clone()) && ones(inner.clone()) {
                Some(Spread::Row)
            } else if ones(outer) && same(inner) {
                Some(Spread::Column)
            } else {
                None
            }
        };
        padded.iter().map(of).collect()
    };
    // Ties go to the longest rows.
    let best = (0..=shape.len())
        .min_by_key(|split| (at(*split).iter().filter(|s| s.is_none()).count(), *split))
        .expect("there is at least the split in front of all axes");
    (shape[..best].iter().product(), shape[best..].iter().product(), at(best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_found() {
        let shape = [1, 6, 1, 10];
        let of =
            |operands: &[&[usize]]| spread(&shape, &operands.iter().map(|s| s.to_vec()).collect::<Vec<_>>());
        assert_eq!(of(&[&[1, 6, 1, 10]]), (1, 60, vec![Some(Spread::Full)]));
        let both = of(&[&[1, 6, 1, 1], &[1, 1, 1, 10], &[6, 1, 10]]);
        assert_eq!(both, (6, 10, vec![Some(Spread::Row), Some(Spread::Column), Some(Spread::Full)]));
        let heads = spread(&[2, 3, 4, 5], &[vec![1, 3, 1, 1], vec![2, 3, 4, 5]]);
        assert_eq!(heads.2, [None, Some(Spread::Full)]);
    }
}

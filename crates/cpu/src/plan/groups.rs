//! Which elementwise statements run together in one pass.
//!
//! A statement joins the group of one of its operands when the result has the group's shape and no
//! operand from outside depends on the group: the pass then can run once all outside operands are
//! there. Members whose results nobody outside needs never reach memory.

use std::collections::HashSet;

use mil::{Op, Program};

/// The partition of a program's elementwise statements.
pub(crate) struct Groups {
    /// For each statement the group that it belongs to.
    pub(crate) of: Vec<Option<usize>>,
    /// For each group its statements in order.
    pub(crate) members: Vec<Vec<usize>>,
}

/// Longest group: bounds the registers of a pass.
const MAX_MEMBERS: usize = 24;

pub(crate) fn is_elementwise(op: &Op) -> bool {
    use Op::*;
    matches!(
        op,
        Add | Sub
            | Mul
            | RealDiv
            | Maximum
            | Minimum
            | Pow
            | Equal
            | NotEqual
            | Greater
            | GreaterEqual
            | Less
            | LessEqual
            | Select
            | Exp
            | Log { .. }
            | Sqrt
            | Rsqrt { .. }
            | Tanh
            | Sigmoid
            | Silu
            | Relu
            | Abs
            | Erf
            | Gelu { .. }
            | Square
            | Cast { .. }
            | Quantize { .. }
            | Dequantize
    )
}

impl Groups {
    pub(crate) fn of(program: &Program) -> Groups {
        let producers = program.producers();
        let stmts = program.stmts();
        let mut groups = Groups { of: vec![None; stmts.len()], members: Vec::new() };
        // For each statement, and for each group, the groups that it depends on.
        let mut after: Vec<HashSet<usize>> = vec![HashSet::new(); stmts.len()];
        let mut group_after: Vec<HashSet<usize>> = Vec::new();
        for (index, stmt) in stmts.iter().enumerate() {
            let sources: Vec<usize> = stmt.args.iter().filter_map(|a| producers[a.index()]).collect();
            for source in &sources {
                let of_source = after[*source].clone();
                after[index].extend(of_source);
                after[index].extend(groups.of[*source]);
            }
            if !is_elementwise(&stmt.op) {
                continue;
            }
            let shape = &program.ty(stmt.results[0]).shape;
            let fits = |group: usize| {
                let first = groups.members[group][0];
                let same_shape = program.ty(stmts[first].results[0]).shape == *shape;
                let outside = sources.iter().filter(|s| groups.of[**s] != Some(group));
                let mut open: Vec<usize> =
                    outside.flat_map(|s| after[*s].iter().copied().chain(groups.of[*s])).collect();
                let mut seen = HashSet::new();
                while let Some(dependency) = open.pop() {
                    if seen.insert(dependency) {
                        open.extend(&group_after[dependency]);
                    }
                }
                same_shape && groups.members[group].len() < MAX_MEMBERS && !seen.contains(&group)
            };
            let mut candidates: Vec<usize> = sources.iter().filter_map(|s| groups.of[*s]).collect();
            candidates.sort_unstable();
            let group = candidates.into_iter().rev().find(|g| fits(*g)).unwrap_or_else(|| {
                groups.members.push(Vec::new());
                group_after.push(HashSet::new());
                groups.members.len() - 1
            });
            groups.members[group].push(index);
            groups.of[index] = Some(group);
            let outside = after[index].iter().copied().filter(|g| *g != group).collect::<Vec<_>>();
            group_after[group].extend(outside);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mil::{Builder, Element};

    /// a = exp(x); m = a matmul a; b = a + m: b depends on a's group through the product, so it
    /// must not join it.
    #[test]
    fn a_group_does_not_wait_for_itself() {
        let mut b = Builder::new(Element::F32);
        let x = b.input("x", &[4, 4]).unwrap();
        let a = b.exp(x).unwrap();
        let c = b.mul(a, x).unwrap();
        let m = b.matmul(a, c, false, false).unwrap();
        let sum = b.add(a, m).unwrap();
        b.output("sum", sum).unwrap();
        let program = b.finish().unwrap();
        let groups = Groups::of(&program);
        assert_eq!(groups.of, [Some(0), Some(0), None, Some(1)]);
    }
}

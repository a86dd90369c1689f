//! What stays in the engine's own memory between two statements, and what does not fit.

use std::collections::HashMap;

use super::cost::{bytes, is_view};
use crate::{Op, Program, Stmt, ValueId};

/// The engine's own memory, about 32 MB (maderix/ANE and Orion find speed falling beyond it).
const CAPACITY: usize = 32 << 20;

/// What a walk over a program found.
pub(super) struct Memory {
    /// Bytes written and read back because they did not fit.
    pub(super) spilled: usize,
    /// The most that was alive at once.
    pub(super) peak: usize,
}

/// A value with memory of its own: no view, no weight, no constant.
struct Tenant {
    size: usize,
    /// The statements that read or write it, in order.
    uses: Vec<usize>,
    resident: bool,
    /// Whether memory holds it: a port, or something spilled before.
    saved: bool,
    /// Whether an output port shows it.
    is_output: bool,
}

impl Tenant {
    /// Whether it is written by one statement and read by none.
    fn streams_out(&self) -> bool {
        self.is_output && self.uses.len() == 1
    }

    /// When it is next needed after statement `at`.
    fn next_use(&self, at: usize) -> Option<usize> {
        self.uses.iter().copied().find(|use_at| *use_at > at)
    }
}

/// Runs over the statements in order. A value is alive from the statement that makes it, or first reads
/// it, to the last that reads it. When there is no room, what is needed last goes first (Belady's rule,
/// the best that a compiler could do in this order); a statement whose own operands and results do not
/// fit streams the rest. Weights and constants are streamed and take no room, and so is a result that
/// nothing but an output port waits for.
pub(super) fn walk(program: &Program, is_weight: &dyn Fn(&str) -> bool) -> Memory {
    walk_within(program, is_weight, CAPACITY)
}

fn walk_within(program: &Program, is_weight: &dyn Fn(&str) -> bool, capacity: usize) -> Memory {
    let roots = roots(program);
    let mut tenants = tenants(program, &roots, is_weight);
    let mut memory = Memory { spilled: 0, peak: 0 };
    for (at, stmt) in program.stmts().iter().enumerate() {
        if is_view(program, stmt) {
            continue;
        }
        let mut needed: Vec<ValueId> =
            stmt.args.iter().chain(&stmt.results).map(|id| roots[id.index()]).collect();
        needed.retain(|id| tenants.get(id).is_some_and(|tenant| !tenant.streams_out()));
        needed.sort_unstable();
        needed.dedup();
        for id in &needed {
            let tenant = tenants.get_mut(id).expect("kept above");
            let comes_back = !tenant.resident && tenant.uses[0] < at;
            if comes_back {
                memory.spilled += tenant.size;
            }
            tenant.resident = true;
        }
        let reused = reused(stmt, at, &roots, &tenants);
        let held: usize = tenants.values().filter(|t| t.resident).map(|t| t.size).sum();
        let mut held = held - reused;
        // What is alive, whether it is here or was sent away.
        let alive: usize = tenants
            .values()
            .filter(|t| t.uses[0] <= at && t.uses.last().is_some_and(|last| *last >= at) && !t.streams_out())
            .map(|t| t.size)
            .sum();
        memory.peak = memory.peak.max(alive - reused);
        while held > capacity {
            let farthest = tenants
                .iter_mut()
                .filter(|(id, tenant)| tenant.resident && !needed.contains(id))
                .max_by_key(|(id, tenant)| (tenant.next_use(at), **id));
            let Some((_, tenant)) = farthest else {
                memory.spilled += held - capacity;
                break;
            };
            tenant.resident = false;
            held -= tenant.size;
            if !tenant.saved {
                memory.spilled += tenant.size;
                tenant.saved = true;
            }
        }
        for tenant in tenants.values_mut().filter(|t| t.resident) {
            tenant.resident = tenant.next_use(at).is_some();
        }
    }
    memory
}

/// Bytes that the result of an elementwise op or a softmax takes over from an operand that nobody reads
/// again.
fn reused(stmt: &Stmt, at: usize, roots: &[ValueId], tenants: &HashMap<ValueId, Tenant>) -> usize {
    let moves = matches!(
        stmt.op,
        Op::Matmul { .. }
            | Op::Conv { .. }
            | Op::Transpose { .. }
            | Op::SliceBySize { .. }
            | Op::Concat { .. }
            | Op::Split { .. }
    );
    let Some(result) = tenants.get(&stmt.results[0]).filter(|tenant| !moves && !tenant.streams_out()) else {
        return 0;
    };
    let dies = |id: &ValueId| {
        tenants.get(&roots[id.index()]).is_some_and(|t| t.size == result.size && t.next_use(at).is_none())
    };
    if stmt.args.iter().any(dies) { result.size } else { 0 }
}

/// For each value the one whose memory it is a view of, itself for most. What is cut out of an input port
/// is loaded by itself.
fn roots(program: &Program) -> Vec<ValueId> {
    let mut roots: Vec<ValueId> = (0..program.values().len()).map(|at| ValueId(at as u32)).collect();
    for stmt in program.stmts().iter().filter(|stmt| is_view(program, stmt)) {
        let root = roots[stmt.args[0].index()];
        let cut_from_port = matches!(stmt.op, Op::SliceBySize { .. }) && program.inputs().contains(&root);
        if !cut_from_port {
            roots[stmt.results[0].index()] = root;
        }
    }
    roots
}

fn tenants(
    program: &Program,
    roots: &[ValueId],
    is_weight: &dyn Fn(&str) -> bool,
) -> HashMap<ValueId, Tenant> {
    let mut tenants: HashMap<ValueId, Tenant> = HashMap::new();
    let mut streamed = vec![false; program.values().len()];
    let mut port = vec![false; program.values().len()];
    for id in program.inputs() {
        streamed[id.index()] = is_weight(&program.value(*id).name);
        port[id.index()] = true;
    }
    for (at, stmt) in program.stmts().iter().enumerate() {
        if matches!(stmt.op, Op::Const(_)) {
            streamed[stmt.results[0].index()] = true;
            continue;
        }
        if is_view(program, stmt) {
            let (view, source) = (stmt.results[0].index(), roots[stmt.args[0].index()].index());
            (streamed[view], port[view]) = (streamed[source], port[source]);
            continue;
        }
        for id in stmt.args.iter().chain(&stmt.results) {
            let root = roots[id.index()];
            if streamed[root.index()] {
                continue;
            }
            let is_output = program.outputs().iter().any(|id| roots[id.index()] == root);
            let tenant = tenants.entry(root).or_insert(Tenant {
                size: bytes(program.ty(root)),
                uses: Vec::new(),
                resident: false,
                saved: is_output || port[root.index()],
                is_output,
            });
            tenant.uses.push(at);
        }
    }
    tenants
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Element};

    /// a = x + x; p = a a; c = p - x; d = c + a, of 50 elements. At the third statement x, a and p are
    /// alive, and c takes the place of p (or of x).
    fn chain() -> Program {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 1, 1, 50]).unwrap();
        let a = b.add(x, x).unwrap();
        let square = b.mul(a, a).unwrap();
        let c = b.sub(square, x).unwrap();
        let d = b.add(c, a).unwrap();
        b.output("d", d).unwrap();
        b.finish().unwrap()
    }

    #[test]
    fn what_fits_is_not_spilled() {
        let memory = walk_within(&chain(), &|_| false, 300);
        assert_eq!((memory.spilled, memory.peak), (0, 300));
    }

    /// Room for two of three values of 100 bytes. The second statement makes p and keeps a; x, a port that
    /// memory holds, goes and comes back for the third. That sends a away, which the fourth reads.
    #[test]
    fn what_is_needed_last_goes_first_and_comes_back() {
        let memory = walk_within(&chain(), &|_| false, 200);
        assert_eq!((memory.spilled, memory.peak), (100 + 100 + 100, 300));
    }

    #[test]
    fn a_statement_that_does_not_fit_by_itself_streams_the_rest() {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 1, 1, 50]).unwrap();
        let x = b.reshape(x, &[1, 1, 5, 10]).unwrap();
        let y = b.transpose(x, &[0, 1, 3, 2]).unwrap();
        let y = b.add(y, y).unwrap();
        b.output("y", y).unwrap();
        assert_eq!(walk_within(&b.finish().unwrap(), &|_| false, 150).spilled, 50);
    }
}

//! Reverse-mode differentiation of a program.

use std::collections::HashMap;

use crate::program::Scope;
use crate::{Builder, Error, Op, Program, Result, ValueId};

/// The name of the gradient of the port `name`: of an input as an output, of an output as an
/// input.
pub fn gradient_name(name: &str) -> String {
    format!("d_{name}")
}

/// [`differentiate_through`] all outputs of `forward`.
///
/// # Errors
/// As there.
pub fn differentiate(forward: &Program, wrt: &[&str]) -> Result<Program> {
    let outputs: Vec<&str> = forward.outputs().iter().map(|id| forward.value(*id).name.as_str()).collect();
    differentiate_through(forward, &outputs, wrt)
}

/// The program that computes `forward` and its gradients together.
///
/// It has the inputs of `forward` and, for each output y named in `through`, an input `d_y`; the
/// outputs of `forward` and, for each input x named in `wrt`, an output `d_x` = Σ over those y of
/// (dy/dx)ᵀ d_y. Outputs that are not in `through` are watched only. Forward
/// statements come first and keep their scopes; backward statements carry the scope of the
/// statement that they differentiate, with [`Scope::backward`] set, so that a cut can tell them
/// apart.
///
/// # Errors
/// [`Error::Gradient`] when the way from an output to an input leads through an op that has none;
/// [`Error::Program`] when a name in `through` is no output, one in `wrt` no input, or no output
/// depends on it.
pub fn differentiate_through(forward: &Program, through: &[&str], wrt: &[&str]) -> Result<Program> {
    let mut b = Builder::new(forward.element());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for info in forward.values() {
        b.reserve_name(&info.name);
    }
    for id in forward.inputs() {
        let info = forward.value(*id);
        map.insert(*id, b.typed_input(&info.name, info.ty.clone())?);
    }
    let wanted = wrt
        .iter()
        .map(|name| {
            forward
                .inputs()
                .iter()
                .copied()
                .find(|id| forward.value(*id).name == *name)
                .ok_or_else(|| Error::program(format!("gradient asked of `{name}`, which is no input")))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut grads: HashMap<ValueId, ValueId> = HashMap::new();
    for name in through {
        let Some(id) = forward.outputs().iter().copied().find(|id| forward.value(*id).name == *name) else {
            return Err(Error::program(format!("gradient asked through `{name}`, which is no output")));
        };
        grads.insert(id, b.typed_input(&gradient_name(name), forward.ty(id).clone())?);
    }
    for stmt in forward.stmts() {
        let args: Vec<ValueId> = stmt.args.iter().map(|a| map[a]).collect();
        b.set_scope(stmt.scope.clone());
        let results = b.push(stmt.op.clone(), &args)?;
        for (old, new) in stmt.results.iter().zip(results) {
            b.name(new, &forward.value(*old).name)?;
            map.insert(*old, new);
        }
    }
    // Only what lies on a way from a wanted input to an output is differentiated.
    let mut varies: Vec<bool> = vec![false; forward.values().len()];
    wanted.iter().for_each(|id| varies[id.index()] = true);
    for stmt in forward.stmts() {
        if stmt.args.iter().any(|a| varies[a.index()]) {
            stmt.results.iter().for_each(|r| varies[r.index()] = true);
        }
    }
    for stmt in forward.stmts().iter().rev() {
        let reached = stmt.results.iter().any(|r| grads.contains_key(r));
        if !reached || matches!(stmt.op, Op::Const(_)) || !stmt.args.iter().any(|a| varies[a.index()]) {
            continue;
        }
        b.set_scope(Scope { name: stmt.scope.name.clone(), backward: true });
        let args: Vec<ValueId> = stmt.args.iter().map(|a| map[a]).collect();
        let results: Vec<ValueId> = stmt.results.iter().map(|r| map[r]).collect();
        let douts: Vec<Option<ValueId>> = stmt.results.iter().map(|r| grads.get(r).copied()).collect();
        let dargs = stmt.op.backward(&mut b, &args, &results, &douts)?;
        for (at, (arg, darg)) in stmt.args.iter().zip(dargs).enumerate() {
            let is_missing = darg.is_none() && varies[arg.index()] && forward.ty(*arg).dtype.is_float();
            // A cast to whole numbers is flat almost everywhere; every other missing gradient is one
            // that somebody asked for and would not get.
            if is_missing && !matches!(stmt.op, Op::Cast { .. }) {
                let names = stmt.op.kind().map_or(&[][..], |kind| kind.operands);
                let reason =
                    format!("it has none with respect to its operand `{}`", names.get(at).unwrap_or(&"?"));
                return Err(Error::Gradient { op: stmt.op.name(), reason });
            }
            let Some(darg) = darg.filter(|_| varies[arg.index()]) else { continue };
            let total = match grads.get(arg) {
                Some(so_far) => b.add(*so_far, darg)?,
                None => darg,
            };
            grads.insert(*arg, total);
        }
    }
    b.set_scope(Scope::default());
    for id in forward.outputs() {
        b.output(&forward.value(*id).name, map[id])?;
    }
    for (id, name) in wanted.iter().zip(wrt) {
        let grad = grads.get(id).ok_or_else(|| {
            Error::program(format!("gradient asked of `{name}`, on which no output depends"))
        })?;
        b.output(&gradient_name(name), *grad)?;
    }
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    #[test]
    fn a_gradient_that_would_be_left_out_is_refused() {
        let mut b = Builder::new(Element::F32);
        let x = b.input("x", &[1, 8, 1, 3]).unwrap();
        let (cos, sin) = (b.input("cos", &[1, 1, 2, 3]).unwrap(), b.input("sin", &[1, 1, 2, 3]).unwrap());
        let y = b.push1(Op::Rope { inverse: false }, &[x, cos, sin]).unwrap();
        b.output("y", y).unwrap();
        let program = b.finish().unwrap();
        assert!(differentiate(&program, &["x"]).is_ok());
        let error = differentiate(&program, &["x", "cos"]).unwrap_err().to_string();
        assert!(error.contains("gradient of rope: it has none with respect to its operand `cos`"), "{error}");
    }
}

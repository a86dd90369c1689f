//! How bindings are carried out, found out by trying.
//!
//! A layer's program is compiled once, and every layer binds it to buffers of its own. Whether Espresso
//! makes several operations of one program function, and whether it takes new buffers for one that has run,
//! no source shows for sure; so a small program is tried when the device is opened.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use mil::text::{self, WriteOptions};
use mil::{Builder, Element, Program};
use serde::{Deserialize, Serialize};

use super::bundles;
use super::espresso::{
    Backend, BufferObject, CallError, Compiled, Direction, Espresso, OpenOrder, Operation,
};
use crate::explain::explain;

/// What was found out about a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Several operations of one program function run side by side, each on its own buffers.
    pub own_operations: bool,
    /// An operation that has run takes other buffers.
    pub rebinds: bool,
    /// A bundle opens again in another process, with the arguments in this order.
    pub reopens: Option<OpenOrder>,
}

/// Ports of the program that is tried.
const PORTS: [(Direction, &str); 3] =
    [(Direction::Input, "a0"), (Direction::Input, "b0"), (Direction::Output, "z0")];
/// Its shape: 64 columns, the smallest that every source accepts.
const SHAPE: [usize; 4] = [1, 64, 1, 64];
const NUMEL: usize = 64 * 64;

/// z0 = a0 * b0 + a0.
fn program() -> mil::Result<Program> {
    let mut b = Builder::new(Element::F16);
    let x = b.input("a0", &SHAPE)?;
    let w = b.input("b0", &SHAPE)?;
    let product = b.mul(x, w)?;
    let sum = b.add(product, x)?;
    b.output("z0", sum)?;
    b.finish()
}

/// Buffers for one run, filled so that every result is a small whole number, exact in f16.
struct Buffers {
    all: [Arc<BufferObject>; 3],
    factor: usize,
}

impl Buffers {
    fn new(espresso: &Espresso, factor: usize) -> Result<Buffers, CallError> {
        let alloc = || Ok(Arc::new(BufferObject::alloc(espresso, NUMEL * 2)?));
        let all = [alloc()?, alloc()?, alloc()?];
        let x: Vec<f32> = (0..NUMEL).map(|i| (i % 7) as f32 - 3.0).collect();
        for (buffer, values) in all.iter().zip([x, vec![factor as f32; NUMEL], vec![0.0; NUMEL]]) {
            let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            // SAFETY: the buffer holds NUMEL halves, is aligned for them, and nothing runs on it now.
            unsafe { std::ptr::copy_nonoverlapping(halves.as_ptr(), buffer.data().cast::<f16>(), NUMEL) };
        }
        Ok(Buffers { all, factor })
    }

    /// Whether the output is right; it is spoilt afterwards, so that an old result is not taken for a new one.
    fn take_result(&self) -> bool {
        let mut values = vec![0.0; NUMEL];
        // SAFETY: as in `new`.
        let halves = unsafe { std::slice::from_raw_parts_mut(self.all[2].data().cast::<f16>(), NUMEL) };
        halves.convert_to_f32_slice(&mut values);
        halves.fill(f16::from_f32(-1000.0));
        let expected = |i: usize| ((i % 7) as f32 - 3.0) * (self.factor + 1) as f32;
        values.iter().enumerate().all(|(i, value)| *value == expected(i))
    }
}

/// Compiles the small program in `dir`, runs it, and tries what else can be done with it.
///
/// # Errors
/// What failed when the program does not even run once.
pub(crate) fn probe(espresso: &Espresso, backend: Backend, dir: &Path) -> Result<Ways, String> {
    let told = |error: CallError| explain(&error);
    let mil = program()
        .and_then(|program| text::write_to_dir(&program, dir, &WriteOptions::ane()))
        .map_err(|error| error.to_string())?;
    let compiled = Arc::new(Compiled::compile(espresso, backend, &mil, &bundles::dir(dir)).map_err(told)?);
    let (first, second) =
        (Buffers::new(espresso, 2).map_err(told)?, Buffers::new(espresso, 5).map_err(told)?);
    let mut operation = Operation::load(&compiled, &PORTS).map_err(told)?;
    operation.bind(&first.all).map_err(told)?;
    operation.execute().map_err(told)?;
    if !first.take_result() {
        return Err(format!("{} computes a small product wrongly", backend.name()));
    }
    let own_operations = runs_beside(&compiled, &mut operation, &first, &second).unwrap_or(false);
    let rebinds = runs_rebound(&mut operation, &first, &second).unwrap_or(false);
    Ok(Ways { own_operations, rebinds, reopens: None })
}

/// Whether a second operation of the same function runs, and the first one still does.
fn runs_beside(
    compiled: &Arc<Compiled>,
    operation: &mut Operation,
    first: &Buffers,
    second: &Buffers,
) -> Result<bool, CallError> {
    let mut other = Operation::load(compiled, &PORTS)?;
    other.bind(&second.all)?;
    other.execute()?;
    operation.execute()?;
    Ok(first.take_result() && second.take_result())
}

/// Whether the operation runs on other buffers, and again on the first ones.
fn runs_rebound(operation: &mut Operation, first: &Buffers, second: &Buffers) -> Result<bool, CallError> {
    for buffers in [second, first] {
        if !operation.bind(&buffers.all)? {
            return Ok(false);
        }
        operation.execute()?;
        if !buffers.take_result() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the bundle that [`probe`] left in `dir` opens and runs in this process.
///
/// # Errors
/// What failed, for each order of arguments.
pub(crate) fn probe_bundle(espresso: &Espresso, dir: &Path) -> Result<OpenOrder, String> {
    let mut problems = Vec::new();
    let bundles = bundles::found_in(&bundles::dir(dir));
    for bundle in &bundles {
        for order in OpenOrder::ALL {
            let run = || -> Result<bool, CallError> {
                let Some(compiled) = Compiled::open(espresso, bundle, order)? else {
                    return Ok(false);
                };
                let mut operation = Operation::load(&Arc::new(compiled), &PORTS)?;
                let buffers = Buffers::new(espresso, 3)?;
                operation.bind(&buffers.all)?;
                operation.execute()?;
                Ok(buffers.take_result())
            };
            match run() {
                Ok(true) => return Ok(order),
                Ok(false) => problems.push("it does not compute what it did".to_owned()),
                Err(error) => problems.push(explain(&error)),
            }
        }
    }
    if bundles.is_empty() {
        problems.push("the compiler left no bundle".to_owned());
    }
    Err(problems.join("; "))
}

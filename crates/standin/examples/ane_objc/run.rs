//! One run: which surface meets which port, what is checked, and what is got wrong.

use std::time::Instant;

use half::f16;
use mil::{DType, Program, TensorType, ValueId};
use standin::fault::RunFault;
use standin::inmem::{Answer, InMem, Silent, Slots};

use crate::foundation::Refusal;
use crate::objects::{INVALID, Object, Objects, event, objects, violation};

/// What calls answer that need a loaded model.
pub(crate) const NOT_LOADED: &str = "the model is not loaded";
/// Surfaces that are too small, of different sizes, or too many.
const INFERENCE_ERROR: isize = 0x1d;
/// Wrong indices of inputs, outputs or functions.
const WRONG_INDICES: isize = 0x2;
/// A surface that cannot be mapped.
const NOT_MAPPED: isize = 13;
/// Indices of functions that a program of one function ignores (ANEgpt).
const IGNORED_PROCEDURES: usize = 15;
/// Rows begin at multiples of this many elements (rustane: other lengths corrupt).
const ROW_ELEMENTS: usize = 16;

/// A surface and the port that it meets.
struct Bound {
    surface: usize,
    bytes: usize,
    port: TensorType,
    /// The port's place among the program's inputs or outputs.
    index: usize,
}

/// Runs the request of the key `request` on the model of the key `model`.
pub(crate) fn evaluate(model: usize, request: usize) -> Result<(), Refusal> {
    let mut objects = objects();
    let (profile, faults) = {
        let state = standin::state();
        (state.profile.clone(), state.faults.clone())
    };
    objects.runs += 1;
    let fault = faults.of_run(objects.runs);

    let Object::Request(found) = objects.live(request, "request", "evaluate")? else {
        unreachable!("`live` looks at the kind")
    };
    let (inputs, outputs) = (found.inputs.clone(), found.outputs.clone());
    let (stats, procedure) = (found.stats, found.procedure);
    let model_name = objects.name(model);
    let Object::Model(found) = objects.live(model, "model", "evaluate")? else {
        unreachable!("`live` looks at the kind")
    };
    let mask = found.perf_stats_mask;
    let Some(loaded) = found.loaded() else {
        violation(&format!("evaluate: {model_name} is not loaded"));
        return Err(Refusal::new(INVALID, NOT_LOADED));
    };
    let silent = loaded.silent;
    let program = loaded.interpreter.program().clone();

    if procedure > IGNORED_PROCEDURES {
        return Err(Refusal::new(WRONG_INDICES, format!("error 0x2: there is no procedure {procedure}")));
    }
    let inmem = &profile.inmem;
    let inputs = bind(&mut objects, &inputs, &program, program.inputs(), inmem)?;
    let outputs = bind(&mut objects, &outputs, &program, program.outputs(), inmem)?;
    let zeros = check(&inputs, &outputs, inmem)?;
    if fault == Some(RunFault::Error) {
        return Err(inference_error("as planted"));
    }

    let began = Instant::now();
    let mut values = vec![Vec::new(); inputs.len()];
    for input in &inputs {
        let name = objects.name(input.surface);
        if let Some(Object::Surface(surface)) = objects.known(input.surface) {
            let mut read = elements(surface.read_by_engine(&name), &input.port);
            if silent == Some(Silent::Displaced) {
                displace(&mut read, &input.port);
            }
            values[input.index] = read;
        }
    }
    let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let Some(Object::Model(found)) = objects.known(model) else { unreachable!("it was found above") };
    let loaded = found.loaded().expect("it was loaded above, and the objects were held since");
    let mut results = loaded.interpreter.run(&slices).map_err(|error| inference_error(&error.to_string()))?;
    for output in &outputs {
        let result = &mut results[output.index];
        if silent == Some(Silent::Displaced) {
            displace(result, &output.port);
        }
        if zeros || silent == Some(Silent::Zeros) || fault == Some(RunFault::Zero) {
            result.fill(0.0);
        }
        if fault == Some(RunFault::Nan) {
            result.fill(f32::NAN);
        }
        let name = objects.name(output.surface);
        if let Some(Object::Surface(surface)) = objects.known(output.surface) {
            surface.write_by_engine(&name, |memory| put(memory, result, &output.port));
        }
    }
    event(&format!("run {model_name} with {}", objects.name(request)));
    let elapsed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
    if let (Some(Object::Stats { hw_execution_ns }), true) =
        (stats.and_then(|stats| objects.known(stats)), mask != 0)
    {
        *hw_execution_ns = elapsed;
    }
    Ok(())
}

fn inference_error(why: &str) -> Refusal {
    let text = "ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error";
    Refusal::new(INFERENCE_ERROR, format!("{text}: {why}"))
}

/// Finds the surfaces of one side of a request and the ports that their slots mean, in the order of slots.
fn bind(
    objects: &mut Objects,
    slots: &[(usize, usize)],
    program: &Program,
    ports: &[ValueId],
    inmem: &InMem,
) -> Result<Vec<Bound>, Refusal> {
    let mut order: Vec<usize> = (0..ports.len()).collect();
    if inmem.slots == Slots::ByName {
        order.sort_by_key(|index| &program.value(ports[*index]).name);
    }
    let mut sorted = slots.to_vec();
    sorted.sort_by_key(|(slot, _)| *slot);
    if sorted.len() != ports.len() || sorted.iter().enumerate().any(|(at, (slot, _))| *slot != at) {
        let given: Vec<usize> = slots.iter().map(|(slot, _)| *slot).collect();
        let text = format!("error 0x2: indices {given:?} for {} ports", ports.len());
        return Err(Refusal::new(WRONG_INDICES, text));
    }
    let mut bound = Vec::with_capacity(ports.len());
    for ((_, object), index) in sorted.into_iter().zip(order) {
        let surface = match objects.live(object, "surface_object", "evaluate")? {
            Object::Wrapper { surface } => *surface,
            _ => unreachable!("`live` looks at the kind"),
        };
        let bytes = match objects.live(surface, "surface", "evaluate") {
            Ok(Object::Surface(surface)) => surface.bytes(),
            _ => return Err(Refusal::new(NOT_MAPPED, "error 13: surface mapping failed")),
        };
        bound.push(Bound { surface, bytes, port: program.ty(ports[index]).clone(), index });
    }
    Ok(bound)
}

/// What the profile says about surfaces; whether the results are zeros.
fn check(inputs: &[Bound], outputs: &[Bound], inmem: &InMem) -> Result<bool, Refusal> {
    let mut zeros = false;
    if inmem.one_input && inputs.len() > 1 {
        return Err(inference_error(&format!("{} inputs (ANE-027)", inputs.len())));
    }
    for (side, rule) in [(inputs, "ANE-023"), (outputs, "ANE-022")] {
        if inmem.uniform_sizes && side.iter().any(|bound| bound.bytes != side[0].bytes) {
            return Err(inference_error(&format!("surfaces of different sizes ({rule})")));
        }
    }
    if inmem.sorted_by_size {
        zeros |= !inputs.is_sorted_by_key(|bound| bound.bytes);
        zeros |= !outputs.iter().rev().is_sorted_by_key(|bound| bound.bytes);
    }
    for bound in inputs.iter().chain(outputs) {
        if let Some((least, answer)) = inmem.min_surface.filter(|(least, _)| bound.bytes < *least) {
            if answer == Answer::InferenceError {
                return Err(inference_error(&format!("{} bytes, at least {least} (ANE-029)", bound.bytes)));
            }
            zeros = true;
        }
        let columns = bound.port.shape.last().copied().unwrap_or(1);
        if columns < inmem.min_columns {
            let least = inmem.min_columns;
            return Err(inference_error(&format!("{columns} columns, at least {least} (ANE-029)")));
        }
        if bound.bytes < bound.port.numel() * element_bytes(&bound.port) {
            let (bytes, port) = (bound.bytes, &bound.port);
            return Err(inference_error(&format!("{bytes} bytes do not hold {port}")));
        }
    }
    Ok(zeros)
}

/// Bytes of an element at the boundary, which takes halves and singles only.
fn element_bytes(port: &TensorType) -> usize {
    if port.dtype == DType::F16 { 2 } else { 4 }
}

/// The elements at the front of a surface, row-major and without gaps.
fn elements(memory: &[u8], port: &TensorType) -> Vec<f32> {
    let memory = &memory[..port.numel() * element_bytes(port)];
    if port.dtype == DType::F16 {
        memory.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
    } else {
        memory.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// Writes elements as [`elements`] reads them.
fn put(memory: &mut [u8], values: &[f32], port: &TensorType) {
    if port.dtype == DType::F16 {
        for (bytes, value) in memory.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            *bytes = f16::from_f32(*value).to_le_bytes();
        }
    } else {
        for (bytes, value) in memory.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
    }
}

/// Takes each element from where it would lie if rows began at multiples of [`ROW_ELEMENTS`]. What exactly
/// the hardware does with such rows is not known, only that it is wrong.
fn displace(values: &mut Vec<f32>, port: &TensorType) {
    let columns = port.shape.last().copied().unwrap_or(1);
    let stride = columns.next_multiple_of(ROW_ELEMENTS);
    if stride != columns {
        let place = |at: usize| (at / columns * stride + at % columns) % values.len();
        *values = (0..values.len()).map(|at| values[place(at)]).collect();
    }
}

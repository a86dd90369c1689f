//! The host's cores as a device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::memory::Block;
use device::{
    Bound, Buffer, Counters, Device, Error, Executable, HostBuffer, Limits, Mode, RawExecutable,
    RawInvocation, Result, Telemetry, Ticket,
};
use mil::{Element, Program};

use crate::bf16::round_all;
use crate::plan::Plan;
use crate::plan::memory::{Entry, Memory, Storage};
use crate::pool::Pool;
use crate::{Precision, Write};

/// Time and work of one step of a program, summed over runs.
#[derive(Debug, Clone, PartialEq)]
pub struct StepProfile {
    /// The program's name.
    pub program: String,
    /// Its place among the program's steps.
    pub index: usize,
    /// The op, or the ops of a fused pass.
    pub label: String,
    /// How often it ran.
    pub runs: u64,
    /// Time in all runs.
    pub time: Duration,
    /// Floating-point operations of matrix products in all runs.
    pub flops: f64,
    /// Bytes that all runs move at the least: every operand read once, every result written once, and read where it is
    /// added to.
    pub bytes: f64,
}

/// What a device's threads can do at most, measured: see [`crate::probe`].
#[derive(Debug, Clone, Copy)]
pub struct Walls {
    /// Multiply-adds on registers in the device's precision, in FLOP/s.
    pub flops: f64,
    /// Traffic with memory by STREAM's triad, in bytes/s.
    pub bytes: f64,
}

#[derive(Default)]
struct Lane {
    /// Grows to the largest arena that a plan needs; runs use it one after another.
    arena: Block,
    /// By program and step, while profiling.
    profile: Option<HashMap<(String, usize), StepProfile>>,
}

/// What the device's executables and invocations share.
struct Shared {
    pool: Pool,
    counters: Arc<Counters>,
    lane: Mutex<Lane>,
}

/// Runs programs of `f32` on a fixed pool of threads.
pub struct CpuDevice {
    limits: Limits,
    precision: Precision,
    shared: Arc<Shared>,
}

impl CpuDevice {
    /// A device of `threads` threads; 0 means one for each available core. Results do not depend on
    /// the number.
    pub fn new(threads: usize) -> Self {
        CpuDevice::with_precision(threads, Precision::F32)
    }

    /// The same, with the operands of matrix products rounded to `precision`. Attention's products stay in f32: between
    /// them stands a softmax, and rounding anew what each reads would cost what it saves. A matrix times a vector is bound
    /// by the memory that the matrix is read from: one that is a program's input is rounded once after each time that it
    /// was written, beside the f32, and read in that form; the vector stays in f32. So do up to four rows with each of a batch
    /// of matrices, as those of a single token with keys and values.
    pub fn with_precision(threads: usize, precision: Precision) -> Self {
        let limits =
            Limits { max_axis: usize::MAX, max_programs: None, accumulate: true, inout: false, int8: false };
        let shared = Shared { pool: Pool::new(threads), counters: Arc::default(), lane: Mutex::default() };
        CpuDevice { limits, precision, shared: Arc::new(shared) }
    }

    /// What matrix products round their operands to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The pool that its kernels run on, for host work between runs.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Begins to measure every step of every run.
    pub fn start_profile(&self) {
        self.shared.lane().profile = Some(HashMap::new());
    }

    /// Ends the measurement; what took longest comes first.
    pub fn take_profile(&self) -> Vec<StepProfile> {
        let mut steps: Vec<StepProfile> =
            self.shared.lane().profile.take().unwrap_or_default().into_values().collect();
        steps.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.label.cmp(&b.label)));
        steps
    }

    /// Measures the walls of this machine for the device's threads; takes a second.
    pub fn walls(&self) -> Walls {
        let pool = &self.shared.pool;
        Walls {
            flops: crate::probe::peak_flops(pool, self.precision),
            bytes: crate::probe::triad_bytes(pool),
        }
    }
}

impl Shared {
    fn lane(&self) -> std::sync::MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &str {
        self.precision.device_name()
    }

    fn describe(&self) -> String {
        let threads = self.shared.pool.threads();
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 if crate::simd::has_bf16() => "bf16",
            Precision::Bf16 => "bf16 made of f32",
        };
        format!(
            "cpu ({threads} thread{}, {:?}, {precision})",
            if threads == 1 { "" } else { "s" },
            crate::simd::level()
        )
    }

    fn element(&self) -> Element {
        Element::F32
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn compile(&self, name: &str, program: &Program) -> Result<Executable> {
        let start = Instant::now();
        let fail = |problem: String| Error::Compile {
            device: self.name().to_owned(),
            program: name.to_owned(),
            problem,
        };
        if program.element() != Element::F32 {
            return Err(fail("it is built for f16; this device computes in f32".to_owned()));
        }
        let plan = Plan::new(program, self.precision).map_err(fail)?;
        self.shared.counters.compiled();
        let program = Arc::new(program.clone());
        let raw = CpuExecutable {
            device: self.precision.device_name(),
            name: name.into(),
            plan: Arc::new(plan),
            program: program.clone(),
            shared: self.shared.clone(),
        };
        Ok(Executable::new(self, name, program, start.elapsed(), Box::new(raw)))
    }

    fn alloc(&self, shape: &[usize]) -> Result<Buffer> {
        HostBuffer::alloc(self.name(), Element::F32, shape, self.shared.counters.clone())
    }

    fn telemetry(&self) -> Telemetry {
        self.shared.counters.snapshot()
    }
}

struct CpuExecutable {
    device: &'static str,
    name: Arc<str>,
    plan: Arc<Plan>,
    program: Arc<Program>,
    shared: Arc<Shared>,
}

impl RawExecutable for CpuExecutable {
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>> {
        for (port, (_, mode)) in bound.outputs.iter().enumerate() {
            if *mode == Mode::Accumulate && self.plan.output_is_read[port] {
                return Err(Error::Bind {
                    device: self.device.to_owned(),
                    program: self.name.to_string(),
                    port: self.program.value(self.program.outputs()[port]).name.clone(),
                    problem: "the program also reads this value, so its buffer cannot accumulate".to_owned(),
                });
            }
        }
        Ok(Box::new(CpuInvocation {
            name: self.name.clone(),
            plan: self.plan.clone(),
            bound,
            shared: self.shared.clone(),
        }))
    }
}

struct CpuInvocation {
    name: Arc<str>,
    plan: Arc<Plan>,
    bound: Bound,
    shared: Arc<Shared>,
}

fn host(buffer: &Buffer) -> &HostBuffer {
    buffer.downcast().expect("Executable::bind lets only buffers of this device come here")
}

impl RawInvocation for CpuInvocation {
    fn submit(&self) -> Result<Ticket> {
        let start = Instant::now();
        let mut lane = self.shared.lane();
        let Lane { arena, profile } = &mut *lane;
        if arena.len() < self.plan.arena_len {
            *arena = Block::zeros(self.plan.arena_len);
        }
        // One guard for each buffer, however many ports it is bound to.
        let mut readers = Vec::new();
        let inputs = &self.bound.inputs;
        let mut input_runs: Vec<Entry> = Vec::new();
        for (at, buffer) in inputs.iter().enumerate() {
            if let Some(same) = inputs[..at].iter().position(|other| other.is(buffer)) {
                input_runs.push(input_runs[same].clone());
                continue;
            }
            let guard = host(buffer).read();
            let is_rounded =
                inputs.iter().zip(&self.plan.input_is_rounded).any(|(other, is)| *is && other.is(buffer));
            let rounded = is_rounded.then(|| guard.form(|values| round_all(&self.shared.pool, values)));
            let (base, len) = (guard.as_ptr().cast_mut(), guard.len());
            input_runs.push(Entry { base, len, mode: Write::Store, rounded });
            readers.push(guard);
        }
        let mut writers: Vec<_> = self.bound.outputs.iter().map(|(buffer, _)| host(buffer).write()).collect();
        let output_runs: Vec<(*mut f32, usize)> =
            writers.iter_mut().map(|guard| (guard.as_mut_ptr(), guard.len())).collect();
        let base = arena.as_mut_ptr();
        let entry = |(base, len), mode| Entry { base, len, mode, rounded: None };
        let memory = Memory::new(self.plan.storages.iter().map(|storage| match storage {
            Storage::Input(port) => input_runs[*port].clone(),
            Storage::Output(port) => {
                let write = match self.bound.outputs[*port].1 {
                    Mode::Store => Write::Store,
                    Mode::Accumulate => Write::Accumulate,
                };
                entry(output_runs[*port], write)
            }
            Storage::Const(values) => entry((values.as_ptr().cast_mut(), values.len()), Write::Store),
            // In bounds: the arena holds `arena_len` elements, and `place` put the run inside them.
            Storage::Temp { offset, len } => entry((base.wrapping_add(*offset), *len), Write::Store),
        }));
        self.plan.run(&self.shared.pool, &memory, |index, run| {
            let Some(profile) = profile else { return run() };
            let start = Instant::now();
            run();
            let step = &self.plan.steps[index];
            let entry = profile.entry((self.name.to_string(), index)).or_insert_with(|| StepProfile {
                program: self.name.to_string(),
                index,
                label: step.label.clone(),
                runs: 0,
                time: Duration::ZERO,
                flops: 0.0,
                bytes: 0.0,
            });
            entry.runs += 1;
            entry.time += start.elapsed();
            entry.flops += step.flops;
            entry.bytes += step.bytes(&memory);
        });
        self.shared.counters.ran(start.elapsed());
        Ok(Ticket::done())
    }
}

#[cfg(test)]
mod tests {
    use device::Binding;
    use mil::Builder;

    use super::*;
    use crate::reference::random;

    /// Oracle: the device that computes in f32, given what the crate `half` rounds. The matrix is written between runs, and
    /// bound to two ports of which one is not read by a product.
    #[test]
    fn a_matrix_times_a_vector_sees_what_was_written_last() {
        let (rows, cols) = (300, 40);
        let mut b = Builder::new(Element::F32);
        let (w, x, also) = (
            b.input("w", &[1, 1, rows, cols]).unwrap(),
            b.input("x", &[1, 1, cols, 1]).unwrap(),
            b.input("also", &[1, 1, rows, cols]).unwrap(),
        );
        let y = b.matmul(w, x, false, false).unwrap();
        let z = b.scale(also, 2.0).unwrap();
        b.output("y", y).unwrap();
        b.output("z", z).unwrap();
        let program = b.finish().unwrap();
        let devices = [CpuDevice::new(2), CpuDevice::with_precision(2, Precision::Bf16)];
        let bound = devices.map(|device| {
            let [w, z] = [(); 2].map(|()| device.alloc(&[1, 1, rows, cols]).unwrap());
            let x = device.alloc(&[1, 1, cols, 1]).unwrap();
            let y = device.alloc(&[1, 1, rows, 1]).unwrap();
            let ports = [("w", &w), ("also", &w), ("x", &x), ("y", &y), ("z", &z)];
            let bindings = ports.map(|(port, buffer)| Binding::new(port, buffer));
            let run = device.compile("matvec", &program).unwrap().bind(&bindings).unwrap();
            (run, w, x, y, z)
        });
        for seed in 0..3 {
            let (values, vector) = (random(seed, rows * cols), random(seed + 9, cols));
            let rounded: Vec<f32> = values.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            let [want, got] =
                [(&bound[0], &rounded), (&bound[1], &values)].map(|((run, w, x, y, _), values)| {
                    w.write_f32(values).unwrap();
                    x.write_f32(&vector).unwrap();
                    run.run().unwrap();
                    y.to_vec()
                });
            assert_eq!(got, want);
            let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
            assert_eq!(bound[1].4.to_vec(), doubled, "what is no product is not rounded");
        }
    }
}

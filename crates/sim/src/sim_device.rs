//! The interpreter as an ordinary device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use device::{
    Bound, Buffer, Counters, Device, Error, Executable, HostBuffer, Limits, RawExecutable, RawInvocation,
    Result, Telemetry, Ticket,
};
use mil::{Element, Program};

use crate::interpreter::Interpreter;
use crate::profile::Profile;
use crate::tensor::{Data, Floats, Pool};

/// What the device's executables and invocations share.
struct Shared {
    counters: Arc<Counters>,
    pool: Arc<Pool>,
    /// Held during a run: runs happen one after another, in the order in which they come.
    lane: Mutex<()>,
}

/// Runs programs with the arithmetic of a [`Profile`].
///
/// It neither accumulates into buffers nor shares them between an input and an output, because the
/// engine does not: who trains here takes the engine's path. A run is over when `submit` returns;
/// it must not be submitted from inside a task of the thread pool that it uses itself.
pub struct SimDevice {
    /// `sim:` and the profile, in f32 with `:f32` behind.
    name: String,
    profile: Profile,
    element: Element,
    limits: Limits,
    shared: Arc<Shared>,
}

impl SimDevice {
    /// A device of f16, as the engine is.
    pub fn new(profile: Profile) -> Self {
        SimDevice::with_element(profile, Element::F16)
    }

    /// A device of either element type; in f32 a profile bends nothing but its axis limits hold.
    pub fn with_element(profile: Profile, element: Element) -> Self {
        let limits = Limits {
            max_axis: profile.max_axis,
            max_programs: None,
            accumulate: false,
            inout: false,
            int8: false,
        };
        let shared = Shared { counters: Arc::default(), pool: Arc::default(), lane: Mutex::default() };
        let name = match element {
            Element::F16 => format!("sim:{}", profile.name),
            Element::F32 => format!("sim:{}:f32", profile.name),
        };
        SimDevice { name, profile, element, limits, shared: Arc::new(shared) }
    }

    /// The arithmetic that it runs with.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Device for SimDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        let float = match self.element {
            Element::F16 => "f16",
            Element::F32 => "f32",
        };
        let threads = rayon::current_num_threads();
        format!("reference interpreter, profile {}, {float}, {threads} threads", self.profile.name)
    }

    fn element(&self) -> Element {
        self.element
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn compile(&self, name: &str, program: &Program) -> Result<Executable> {
        let start = Instant::now();
        let refuse =
            |problem: String| Error::Compile { device: self.name.clone(), program: name.to_owned(), problem };
        if program.element() != self.element {
            return Err(refuse(format!(
                "it is built for {:?}, this device computes {:?}; build it for Device::element()",
                program.element(),
                self.element
            )));
        }
        if let Some(port) = program.ports().find(|port| port.ty.dtype != self.element.dtype()) {
            return Err(refuse(format!(
                "port `{}` is {}; ports are {} (rule ANE-072)",
                port.name,
                port.ty,
                self.element.dtype().mil_name()
            )));
        }
        let interpreter = Interpreter::with_pool(program, &self.profile, self.shared.pool.clone())
            .map_err(|error| refuse(error.to_string()))?;
        self.shared.counters.compiled();
        let raw = SimExecutable { interpreter: Arc::new(interpreter), shared: self.shared.clone() };
        Ok(Executable::new(self, name, Arc::new(program.clone()), start.elapsed(), Box::new(raw)))
    }

    fn alloc(&self, shape: &[usize]) -> Result<Buffer> {
        HostBuffer::alloc(&self.name, self.element, shape, self.shared.counters.clone())
    }

    fn telemetry(&self) -> Telemetry {
        self.shared.counters.snapshot()
    }
}

struct SimExecutable {
    interpreter: Arc<Interpreter>,
    shared: Arc<Shared>,
}

impl RawExecutable for SimExecutable {
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>> {
        Ok(Box::new(SimInvocation {
            interpreter: self.interpreter.clone(),
            shared: self.shared.clone(),
            bound,
        }))
    }
}

struct SimInvocation {
    interpreter: Arc<Interpreter>,
    shared: Arc<Shared>,
    bound: Bound,
}

impl RawInvocation for SimInvocation {
    fn submit(&self) -> Result<Ticket> {
        let _lane = self.shared.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        fn host(buffer: &Buffer) -> &HostBuffer {
            buffer.downcast().expect("Executable::bind lets only buffers of this device come here")
        }
        // A buffer that stands at several ports is locked once: a second lock of the same thread
        // could wait for a writer that waits for the first.
        let inputs = &self.bound.inputs;
        let first_port: Vec<usize> = inputs
            .iter()
            .map(|buffer| {
                let same = inputs.iter().position(|other| other.is(buffer));
                same.expect("it is itself among them")
            })
            .collect();
        let guards: Vec<_> = inputs
            .iter()
            .enumerate()
            .map(|(port, buffer)| (first_port[port] == port).then(|| host(buffer).read()))
            .collect();
        let values = first_port
            .iter()
            .map(|port| guards[*port].as_ref().expect("the first port is locked"))
            .map(|guard| Data::Float(Floats::Borrowed(guard)))
            .collect();
        let outputs = self.interpreter.execute(values);
        for ((buffer, _), output) in self.bound.outputs.iter().zip(outputs) {
            let memory = output.into_numbers();
            host(buffer).write().copy_from_slice(&memory);
            self.shared.pool.put(memory);
        }
        self.shared.counters.ran(start.elapsed());
        Ok(Ticket::done())
    }
}

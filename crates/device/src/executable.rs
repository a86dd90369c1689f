//! Programs made ready, and programs bound to buffers.

use std::sync::Arc;
use std::time::Duration;

use mil::{PortKind, Program};

use crate::{Buffer, Error, Result};

/// What an output port does to its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Replaces what it holds.
    #[default]
    Store,
    /// Adds to it.
    Accumulate,
}

/// One port and its buffer.
#[derive(Debug, Clone)]
pub struct Binding<'a> {
    /// The port's name.
    pub port: &'a str,
    /// Of the port's shape.
    pub buffer: &'a Buffer,
    /// Read for output ports only.
    pub mode: Mode,
}

impl<'a> Binding<'a> {
    /// Reads an input from `buffer`, or replaces it by an output.
    pub fn new(port: &'a str, buffer: &'a Buffer) -> Self {
        Binding { port, buffer, mode: Mode::Store }
    }

    /// Adds an output to `buffer`.
    pub fn accumulate(port: &'a str, buffer: &'a Buffer) -> Self {
        Binding { port, buffer, mode: Mode::Accumulate }
    }
}

/// A checked binding: buffers in the order of the program's ports.
#[derive(Debug, Clone)]
pub struct Bound {
    /// One for each input port.
    pub inputs: Vec<Buffer>,
    /// One for each output port, and what is done to it.
    pub outputs: Vec<(Buffer, Mode)>,
}

/// What a device implements for [`Executable`].
pub trait RawExecutable: Send + Sync {
    /// Joins the program to buffers that have been checked against its ports.
    ///
    /// # Errors
    /// [`Error::Bind`] when the device cannot carry the binding out.
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>>;
}

/// What a device implements for [`Invocation`].
pub trait RawInvocation: Send + Sync {
    /// Starts a run. Runs submitted to one device happen in order.
    ///
    /// Not to be called from inside a task of a work-stealing pool: a device that waits for its own
    /// threads could there be handed another submit, and wait for itself.
    ///
    /// # Errors
    /// [`Error::Run`] when it could not be started; a device that finishes before it returns
    /// reports its failure here too.
    fn submit(&self) -> Result<Ticket>;
}

/// A program made ready to run on one device.
pub struct Executable {
    device: String,
    name: String,
    program: Arc<Program>,
    limits: crate::Limits,
    compile_time: Duration,
    raw: Box<dyn RawExecutable>,
}

impl Executable {
    /// Wraps what a device made of `program`.
    pub fn new(
        device: &dyn crate::Device,
        name: &str,
        program: Arc<Program>,
        compile_time: Duration,
        raw: Box<dyn RawExecutable>,
    ) -> Self {
        Executable {
            device: device.name().to_owned(),
            name: name.to_owned(),
            program,
            limits: device.limits().clone(),
            compile_time,
            raw,
        }
    }

    /// The program as it was given.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The name it was compiled under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long compiling and loading took.
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Joins the program to buffers. Cheap in name and number: how a device carries it out is its
    /// own affair.
    ///
    /// A buffer may be bound to several input ports and to several invocations. A buffer that an
    /// output writes must not be bound to another port of the same invocation, except to the
    /// input with which the program declares it `inout`.
    ///
    /// # Errors
    /// [`Error::Bind`] naming the port that is missing, unknown, bound twice, of another shape,
    /// of another device, or shared against the rules; or an accumulating output on a device that has none.
    pub fn bind(&self, bindings: &[Binding<'_>]) -> Result<Invocation> {
        let fail = |port: &str, problem: String| {
            Err(Error::Bind {
                device: self.device.clone(),
                program: self.name.clone(),
                port: port.to_owned(),
                problem,
            })
        };
        let ports: Vec<_> = self.program.ports().collect();
        for (at, binding) in bindings.iter().enumerate() {
            let Some(port) = ports.iter().find(|port| port.name == binding.port) else {
                let known: Vec<&str> = ports.iter().map(|port| port.name).collect();
                return fail(
                    binding.port,
                    format!("there is no such port; the program has {}", known.join(", ")),
                );
            };
            if bindings[..at].iter().any(|other| other.port == binding.port) {
                return fail(binding.port, "it is bound twice".to_owned());
            }
            if binding.buffer.device() != self.device {
                return fail(
                    binding.port,
                    format!("its buffer is of the device {}; allocate it here", binding.buffer.device()),
                );
            }
            if binding.buffer.shape() != port.ty.shape {
                return fail(
                    binding.port,
                    format!("the port is {:?}, the buffer {:?}", port.ty.shape, binding.buffer.shape()),
                );
            }
            if binding.mode == Mode::Accumulate {
                if port.kind == PortKind::Input {
                    return fail(binding.port, "an input cannot accumulate".to_owned());
                }
                if !self.limits.accumulate {
                    return fail(
                        binding.port,
                        "this device cannot accumulate; store and use add_to_f32".to_owned(),
                    );
                }
            }
        }
        let mut bound = Bound { inputs: Vec::new(), outputs: Vec::new() };
        for port in &ports {
            let Some(binding) = bindings.iter().find(|binding| binding.port == port.name) else {
                return fail(
                    port.name,
                    format!("it is not bound; it needs a buffer of shape {:?}", port.ty.shape),
                );
            };
            match port.kind {
                PortKind::Input => bound.inputs.push(binding.buffer.clone()),
                PortKind::Output => bound.outputs.push((binding.buffer.clone(), binding.mode)),
            }
        }
        let (input_ids, output_ids) = (self.program.inputs(), self.program.outputs());
        for (at, (buffer, _)) in bound.outputs.iter().enumerate() {
            let name = &self.program.value(output_ids[at]).name;
            if bound.outputs[..at].iter().any(|(other, _)| other.is(buffer)) {
                return fail(name, "its buffer is also that of another output".to_owned());
            }
            for (input, id) in bound.inputs.iter().zip(input_ids) {
                let allowed = self.limits.inout && self.program.inouts().contains(&(*id, output_ids[at]));
                if input.is(buffer) && !allowed {
                    return fail(
                        name,
                        format!(
                            "its buffer is also that of input `{}`, and the program does not declare the pair inout",
                            self.program.value(*id).name
                        ),
                    );
                }
            }
        }
        Ok(Invocation { raw: self.raw.bind(bound)? })
    }
}

/// A program bound to buffers, to be run again and again.
pub struct Invocation {
    raw: Box<dyn RawInvocation>,
}

impl Invocation {
    /// Starts a run.
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn submit(&self) -> Result<Ticket> {
        self.raw.submit()
    }

    /// Runs and waits.
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn run(&self) -> Result<()> {
        self.submit()?.wait()
    }
}

/// A run that was started.
#[must_use = "outputs are ready only after wait()"]
pub struct Ticket(Option<Box<dyn FnOnce() -> Result<()> + Send>>);

impl Ticket {
    /// Of a run that is already over.
    pub fn done() -> Self {
        Ticket(None)
    }

    /// Of a run whose end `wait` waits for.
    pub fn pending(wait: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Ticket(Some(Box::new(wait)))
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// [`Error::Run`] when it failed.
    pub fn wait(self) -> Result<()> {
        self.0.map_or(Ok(()), |wait| wait())
    }
}

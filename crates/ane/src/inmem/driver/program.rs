//! Loaded programs and their bindings: a request and two surfaces for each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use device::{Bound, Buffer, Error, RawExecutable, RawInvocation, Result, Ticket};
use mil::PortKind;

use super::buffer::{Books, InMemBuffer};
use super::framework::Framework;
use super::model::{Model, Request};
use super::surface::IoSurface;
use super::ways::Ways;
use crate::CallError;
use crate::explain::explain;
use crate::inmem::{Packing, Place};

/// What all programs of a device share.
pub(super) struct Shared {
    pub(super) framework: Framework,
    pub(super) books: Arc<Books>,
    pub(super) ways: Ways,
}

/// A program on the engine.
pub(super) struct Loaded {
    pub(super) shared: Arc<Shared>,
    pub(super) name: Arc<str>,
    pub(super) packing: Packing,
    pub(super) model: Arc<Model>,
}

impl Loaded {
    fn surface(&self, kind: PortKind) -> Result<Arc<IoSurface>> {
        let surface = self.packing.surface(kind);
        IoSurface::new(&self.shared.framework, surface.bytes()).map_err(|error| Error::Alloc {
            device: self.shared.books.device.to_string(),
            shape: surface.shape().to_vec(),
            bytes: surface.bytes(),
            problem: explain(&error),
        })
    }

    /// The buffers of one side, and where their tensors lie.
    fn placed(&self, kind: PortKind, buffers: impl Iterator<Item = Buffer>) -> Vec<(Buffer, Place)> {
        let ports = self.packing.ports().iter().filter(|port| port.kind == kind);
        buffers.zip(ports.map(|port| port.place)).collect()
    }
}

impl RawExecutable for Loaded {
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>> {
        let (input, output) = (self.surface(PortKind::Input)?, self.surface(PortKind::Output)?);
        let request = Request::new(&self.shared.framework, input, output, self.shared.ways.times);
        let request = request.map_err(|error| Error::Bind {
            device: self.shared.books.device.to_string(),
            program: self.name.to_string(),
            port: "all".to_owned(),
            problem: explain(&error),
        })?;
        let inputs = self.placed(PortKind::Input, bound.inputs.into_iter());
        let outputs = bound.outputs.into_iter().map(|(buffer, _)| buffer);
        let outputs = self.placed(PortKind::Output, outputs);
        Ok(Box::new(InMemInvocation {
            // The surface is zeroed, as new buffers are.
            staged: Mutex::new(vec![0; inputs.len()]),
            shared: self.shared.clone(),
            name: self.name.clone(),
            request,
            model: self.model.clone(),
            inputs,
            outputs,
        }))
    }
}

struct InMemInvocation {
    shared: Arc<Shared>,
    name: Arc<str>,
    /// Unloaded, if nobody else has it, before surfaces and request are released (ANEgpt).
    model: Arc<Model>,
    request: Request,
    inputs: Vec<(Buffer, Place)>,
    outputs: Vec<(Buffer, Place)>,
    /// Which version of each input its surface holds.
    staged: Mutex<Vec<u64>>,
}

fn inmem(buffer: &Buffer) -> &InMemBuffer {
    buffer.downcast().expect("Executable::bind lets only buffers of this device come here")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InMemInvocation {
    /// Brings the input surface up to date.
    fn stage(&self) -> std::result::Result<(), CallError> {
        let mut staged = lock(&self.staged);
        let stale: Vec<usize> =
            (0..self.inputs.len()).filter(|at| inmem(&self.inputs[*at].0).version() != staged[*at]).collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.request.input.write(|halves| {
            for at in stale {
                let (buffer, place) = &self.inputs[at];
                staged[at] = inmem(buffer).copy_to(*place, halves)?;
            }
            Ok(())
        })?
    }

    fn run(&self) -> std::result::Result<(), CallError> {
        self.stage()?;
        let begun = Instant::now();
        self.model.evaluate(&self.request)?;
        let time = begun.elapsed();
        for (buffer, place) in &self.outputs {
            inmem(buffer).is_now_at(&self.request.output, *place);
        }
        self.shared.books.counters.ran(time);
        if let Some(time) = self.request.hardware_time() {
            self.shared.books.counters.engine_ran(time);
        }
        Ok(())
    }
}

impl RawInvocation for InMemInvocation {
    fn submit(&self) -> Result<Ticket> {
        let _lane = self.shared.framework.lane();
        self.run().map_err(|error| Error::Run {
            device: self.shared.books.device.to_string(),
            program: self.name.to_string(),
            problem: explain(&error),
        })?;
        Ok(Ticket::done())
    }
}

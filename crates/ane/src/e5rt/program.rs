//! Loaded programs and their bindings.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use device::{Bound, Buffer, Counters, Error, RawExecutable, RawInvocation, Result, Ticket};

use super::buffer::E5rtBuffer;
use super::espresso::{BufferObject, CallError, Compiled, Direction, Espresso, Operation};
use super::ways::Ways;
use crate::explain::explain;

/// What all programs of a device share.
pub(crate) struct Shared {
    pub(crate) device: Arc<str>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ways: Ways,
    /// Operations on the device.
    pub(crate) loaded: AtomicUsize,
    pub(crate) max_operations: usize,
    /// Runs happen one at a time, in the order in which they are submitted.
    pub(crate) lane: Mutex<()>,
}

/// A port of a program.
#[derive(Debug, Clone)]
pub(crate) struct PortSpec {
    pub(crate) direction: Direction,
    pub(crate) name: String,
    pub(crate) numel: usize,
}

impl PortSpec {
    /// As operations are loaded with.
    pub(crate) fn names(ports: &[PortSpec]) -> Vec<(Direction, &str)> {
        ports.iter().map(|port| (port.direction, &*port.name)).collect()
    }
}

/// Counts an operation as long as it lives.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Place {
        shared.loaded.fetch_add(1, Ordering::Relaxed);
        Place(shared.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.loaded.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A compiled program with the operation that all bindings share which have none of their own.
pub(crate) struct Loaded {
    inner: Arc<Inner>,
    compiled: Arc<Compiled>,
}

struct Inner {
    shared: Arc<Shared>,
    espresso: Espresso,
    name: String,
    ports: Vec<PortSpec>,
    lane: Mutex<Lane>,
    bindings: AtomicUsize,
    _place: Place,
}

/// The shared operation.
struct Lane {
    operation: Operation,
    /// The binding whose buffers it has now.
    bound_for: Option<usize>,
    /// Where bindings are copied to and from, when an operation cannot be bound anew.
    own_buffers: Option<Vec<Arc<E5rtBuffer>>>,
}

impl Loaded {
    pub(crate) fn new(
        shared: Arc<Shared>,
        espresso: Espresso,
        name: &str,
        ports: Vec<PortSpec>,
        compiled: Arc<Compiled>,
        operation: Operation,
    ) -> Loaded {
        let place = Place::take(&shared);
        let lane = Lane { operation, bound_for: None, own_buffers: None };
        let inner = Inner {
            shared,
            espresso,
            name: name.to_owned(),
            ports,
            lane: Mutex::new(lane),
            bindings: AtomicUsize::new(0),
            _place: place,
        };
        Loaded { inner: Arc::new(inner), compiled }
    }

    /// An operation for this binding alone; `None` when no further one is to be had.
    fn own_operation(&self, objects: &[Arc<BufferObject>]) -> Option<Own> {
        let shared = &self.inner.shared;
        if !shared.ways.own_operations || shared.loaded.load(Ordering::Relaxed) >= shared.max_operations {
            return None;
        }
        // A refusal here is the device's limit, which may be lower than is known; the shared operation serves.
        let mut operation = Operation::load(&self.compiled, &PortSpec::names(&self.inner.ports)).ok()?;
        operation.bind(objects).ok()?;
        Some(Own { operation, _place: Place::take(shared) })
    }
}

impl RawExecutable for Loaded {
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>> {
        let inputs = bound.inputs.into_iter();
        let buffers: Vec<Buffer> =
            inputs.chain(bound.outputs.into_iter().map(|(buffer, _)| buffer)).collect();
        let objects: Vec<Arc<BufferObject>> = buffers.iter().map(|b| e5rt(b).object().clone()).collect();
        let number = self.inner.bindings.fetch_add(1, Ordering::Relaxed);
        // The first binding takes the shared operation, which nobody may ever share.
        let first = number == 0 && self.inner.shared.ways.rebinds;
        let way = match if first { None } else { self.own_operation(&objects) } {
            Some(own) => Way::Own(Mutex::new(own)),
            None if self.inner.shared.ways.rebinds => Way::Rebound { number, objects },
            None => Way::Copied,
        };
        Ok(Box::new(E5rtInvocation { inner: self.inner.clone(), buffers, way }))
    }
}

struct Own {
    operation: Operation,
    _place: Place,
}

/// How a binding is carried out.
enum Way {
    /// By an operation of its own.
    Own(Mutex<Own>),
    /// By the shared operation, bound to these when it has others.
    Rebound { number: usize, objects: Vec<Arc<BufferObject>> },
    /// By the shared operation on buffers of its own.
    Copied,
}

struct E5rtInvocation {
    inner: Arc<Inner>,
    /// In the order of the ports.
    buffers: Vec<Buffer>,
    way: Way,
}

fn e5rt(buffer: &Buffer) -> &E5rtBuffer {
    buffer.downcast().expect("Executable::bind lets only buffers of this device come here")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl E5rtInvocation {
    /// Runs `execute` while nobody else touches the buffers. A buffer that stands at several ports is
    /// locked once.
    fn alone(
        &self,
        execute: impl FnOnce() -> std::result::Result<(), CallError>,
    ) -> std::result::Result<(), CallError> {
        let mut reading = Vec::new();
        let mut writing = Vec::new();
        for (at, buffer) in self.buffers.iter().enumerate() {
            let same = |other: &(usize, &Buffer)| other.1.is(buffer);
            if self.buffers.iter().enumerate().find(same).is_some_and(|(first, _)| first < at) {
                continue;
            }
            let is_written = self
                .inner
                .ports
                .iter()
                .zip(&self.buffers)
                .any(|(port, other)| port.direction == Direction::Output && other.is(buffer));
            if is_written {
                writing.push(e5rt(buffer).writing())
            } else {
                reading.push(e5rt(buffer).reading())
            }
        }
        execute()
    }

    fn run(&self) -> std::result::Result<(), CallError> {
        match &self.way {
            Way::Own(own) => self.alone(|| lock(own).operation.execute()),
            Way::Rebound { number, objects } => {
                let mut lane = lock(&self.inner.lane);
                if lane.bound_for != Some(*number) {
                    lane.bound_for = None;
                    if !lane.operation.bind(objects)? {
                        let message = Some("the operation cannot be bound anew".to_owned());
                        return Err(CallError { call: "e5rt_execution_stream_reset", code: 0, message });
                    }
                    lane.bound_for = Some(*number);
                }
                self.alone(|| lane.operation.execute())
            }
            Way::Copied => self.run_with_copies(),
        }
    }

    fn run_with_copies(&self) -> std::result::Result<(), CallError> {
        let mut lane = lock(&self.inner.lane);
        let ports = &self.inner.ports;
        if lane.own_buffers.is_none() {
            let alloc = |port: &PortSpec| {
                let object = BufferObject::alloc(&self.inner.espresso, port.numel * 2)?;
                let (device, counters) = (&self.inner.shared.device, &self.inner.shared.counters);
                Ok(Arc::new(E5rtBuffer::new(device.clone(), &[port.numel], object, counters.clone())))
            };
            let own = ports.iter().map(alloc).collect::<std::result::Result<Vec<_>, CallError>>()?;
            let objects: Vec<_> = own.iter().map(|buffer| buffer.object().clone()).collect();
            lane.operation.bind(&objects)?;
            lane.own_buffers = Some(own);
        }
        let lane = &mut *lane;
        let own = lane.own_buffers.as_ref().expect("made above");
        let counters = &self.inner.shared.counters;
        let copy = |direction: Direction| {
            let begun = Instant::now();
            let mut bytes = 0;
            for ((port, own), buffer) in ports.iter().zip(own).zip(&self.buffers) {
                if port.direction == direction {
                    match direction {
                        Direction::Input => own.copy_from(e5rt(buffer)),
                        Direction::Output => e5rt(buffer).copy_from(own),
                    }
                    bytes += port.numel * 2;
                }
            }
            (bytes, begun.elapsed())
        };
        let (bytes, time) = copy(Direction::Input);
        counters.wrote(bytes, time);
        lane.operation.execute()?;
        let (bytes, time) = copy(Direction::Output);
        counters.read(bytes, time);
        Ok(())
    }
}

impl RawInvocation for E5rtInvocation {
    fn submit(&self) -> Result<Ticket> {
        let shared = &self.inner.shared;
        let _lane = lock(&shared.lane);
        let begun = Instant::now();
        self.run().map_err(|error| Error::Run {
            device: shared.device.to_string(),
            program: self.inner.name.clone(),
            problem: explain(&error),
        })?;
        shared.counters.ran(begun.elapsed());
        Ok(Ticket::done())
    }
}

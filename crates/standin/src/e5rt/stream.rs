//! Streams, runs and events.

use std::ffi::{c_char, c_int, c_void};

use half::f16;
use mil::PortKind;

use super::{Answer, Encoded, Failure, Object, RUN_FAILED, Raw, State, export, invalid, put, string};
use crate::fault::RunFault;

export! {
    /// A stream, out-pointer first.
    fn e5rt_execution_stream_create(out: *mut Raw) show |_| String::new();
    // SAFETY: the caller's promise.
    |state| unsafe { state.create(out, Object::Stream { encoded: Vec::new() }) }
}

export! {
    /// Puts an operation into a stream; every port must be bound.
    fn e5rt_execution_stream_encode_operation(stream: Raw, operation: Raw)
    show |s| format!("{}, {}", s.show(stream), s.show(operation));
    |state| {
        state.object(stream, "stream")?;
        let Object::Operation { loaded, bound, encoded, .. } = state.object(operation, "operation")? else {
            unreachable!()
        };
        let unbound = loaded.ports().iter().zip(&*bound).find(|(_, buffer)| buffer.is_none());
        if let Some(name) = unbound.map(|(port, _)| port.name.clone()) {
            state.trace.violation(&format!("port {name} is not bound when its operation is encoded"));
            return invalid(format!("port {name} is not bound"));
        }
        if *encoded == Encoded::Now {
            return invalid("Op is encoded already");
        }
        *encoded = Encoded::Now;
        if let Object::Stream { encoded } = state.object(stream, "stream")? {
            encoded.push(operation as usize);
        }
        Ok(())
    }
}

export! {
    /// Takes everything out of a stream; refused on a fresh one.
    fn e5rt_execution_stream_reset(stream: Raw) show |s| s.show(stream);
    |state| {
        let Object::Stream { encoded } = state.object(stream, "stream")? else { unreachable!() };
        if encoded.is_empty() {
            return invalid("Stream has nothing to reset");
        }
        encoded.clear();
        Ok(())
    }
}

impl State {
    fn run(&mut self, operation: usize) -> Answer {
        self.runs += 1;
        let number = self.runs;
        let entry = self.by_key(operation);
        let Object::Operation { loaded, bound, .. } = &entry.object else { unreachable!() };
        let (loaded, bound) = (loaded.clone(), bound.clone());
        let keys: Vec<usize> = bound.into_iter().flatten().collect();
        if let Some(gone) = keys.iter().find(|key| !self.is_live(**key)) {
            let shown = self.show(*gone as Raw);
            self.trace.violation(&format!("a run uses {shown}, which was released"));
        }
        let fault = self.faults.of_run(number);
        if fault == Some(RunFault::Error) {
            let message =
                "ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error";
            return Err(Failure { code: RUN_FAILED, message: message.to_owned() });
        }
        let mut inputs = Vec::new();
        for (port, key) in loaded.ports().iter().zip(&keys).filter(|(port, _)| port.kind == PortKind::Input) {
            let Object::Buffer { memory, .. } = &self.objects[key].object else { unreachable!() };
            inputs.push(&halves(memory)[..port.numel]);
        }
        let outputs = loaded.run(&inputs).map_err(|message| Failure { code: RUN_FAILED, message })?;
        let ports = loaded.ports().iter().zip(&keys).filter(|(port, _)| port.kind == PortKind::Output);
        for ((port, key), mut values) in ports.zip(outputs) {
            match fault {
                Some(RunFault::Zero) => values.fill(f16::ZERO),
                Some(RunFault::Nan) => values.fill(f16::NAN),
                _ => {}
            }
            let Object::Buffer { memory, .. } = &mut self.by_key(*key).object else { unreachable!() };
            halves_mut(memory)[..port.numel].copy_from_slice(&values);
        }
        Ok(())
    }
}

/// Memory as halves.
fn halves(memory: &[u64]) -> &[f16] {
    // SAFETY: every bit pattern is a half, whose alignment is less.
    let (before, halves, after) = unsafe { memory.align_to::<f16>() };
    debug_assert!(before.is_empty() && after.is_empty());
    halves
}

fn halves_mut(memory: &mut [u64]) -> &mut [f16] {
    // SAFETY: as above.
    unsafe { memory.align_to_mut::<f16>() }.1
}

export! {
    /// Runs everything in a stream, in order, and waits.
    fn e5rt_execution_stream_execute_sync(stream: Raw) show |s| s.show(stream);
    |state| {
        state.encoded(stream)?.into_iter().try_for_each(|operation| state.run(operation))
    }
}

impl State {
    /// What a stream has to execute.
    fn encoded(&mut self, stream: Raw) -> Answer<Vec<usize>> {
        let Object::Stream { encoded } = self.object(stream, "stream")? else { unreachable!() };
        if encoded.is_empty() {
            return invalid("Stream has nothing to execute");
        }
        Ok(encoded.clone())
    }

    /// Completion events advance only under `submit_async` (ANEForge).
    fn signal(&mut self, operation: usize) {
        for entry in self.objects.values_mut() {
            if let Object::Event { signaled, completes } = &mut entry.object
                && *completes == Some(operation)
            {
                *signaled += 1;
            }
        }
    }
}

/// A block of C, as far as its caller needs to know it.
#[repr(C)]
pub struct Block {
    _isa: *const c_void,
    _flags: c_int,
    _reserved: c_int,
    invoke: unsafe extern "C" fn(*const Block) -> i64,
}

/// Runs everything in a stream, in order, and signals events; then it calls `block`, whose code it answers. Here
/// all of that has happened when it returns, which a caller that waits for its event cannot tell from later.
///
/// # Safety
/// `stream` as for the other functions. `block` is a block that takes nothing and answers a code; null crashes, as
/// it does in `objc_retain`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn e5rt_execution_stream_submit_async(stream: Raw, block: *const Block) -> i64 {
    if block.is_null() {
        std::process::abort();
    }
    let code = super::call(
        "e5rt_execution_stream_submit_async",
        |s| s.show(stream),
        |state| {
            state.encoded(stream)?.into_iter().try_for_each(|operation| {
                state.run(operation)?;
                state.signal(operation);
                Ok(())
            })
        },
    );
    if code != 0 {
        return code;
    }
    // Outside of the call: a block may call again.
    // SAFETY: the caller's promise.
    unsafe { ((*block).invoke)(block) }
}

export! {
    /// How urgent runs are; without effect on the engine (ANEgpt).
    fn e5rt_execution_stream_set_quality_of_service(stream: Raw, value: u64)
    show |s| format!("{}, {value}", s.show(stream));
    |state| state.object(stream, "stream").map(drop)
}

export! {
    /// How urgent runs are on the engine.
    fn e5rt_execution_stream_set_ane_execution_priority(stream: Raw, value: u64)
    show |s| format!("{}, {value}", s.show(stream));
    |state| state.object(stream, "stream").map(drop)
}

export! {
    /// The older name of `submit_async`.
    fn e5rt_execution_stream_async_submit(stream: Raw) show |s| s.show(stream);
    |state| {
        state.object(stream, "stream")?;
        invalid("Use submit_async")
    }
}

export! {
    /// Ends a stream.
    fn e5rt_execution_stream_release(stream: *mut Raw) show |s| s.show_at(stream);
    // SAFETY: the caller's promise.
    |state| unsafe { state.release(stream, "stream", |_, _| None) }
}

export! {
    /// An event, out-pointer first; it needs a name.
    fn e5rt_async_event_create(out: *mut Raw, name: *const c_char, initial: u32) show |_| format!("{initial}");
    |state| {
        if name.is_null() {
            return invalid("eventName is NULL");
        }
        // SAFETY: the caller's promise.
        unsafe { string(name) }?;
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::Event { signaled: u64::from(initial), completes: None }) }
    }
}

export! {
    /// Ends an event.
    fn e5rt_async_event_release(event: *mut Raw) show |s| s.show_at(event);
    // SAFETY: the caller's promise.
    |state| unsafe { state.release(event, "event", |_, _| None) }
}

export! {
    /// Its value: how often it was signalled, and what it began with.
    fn e5rt_async_event_get_last_signaled_value(event: Raw, out: *mut u64) show |s| s.show(event);
    |state| {
        let Object::Event { signaled, .. } = *state.object(event, "event")? else { unreachable!() };
        // SAFETY: the caller's promise.
        unsafe { put(out, signaled) }
    }
}

export! {
    /// Waits for an event. Nothing runs beside this call, so one that was not signalled never will be: a wait
    /// without end there, an error here.
    fn e5rt_async_event_sync_wait(event: Raw) show |s| s.show(event);
    |state| {
        let Object::Event { signaled, .. } = *state.object(event, "event")? else { unreachable!() };
        if signaled == 0 {
            state.trace.violation("an event is waited for that nothing signals");
            return invalid("the event was never signaled");
        }
        Ok(())
    }
}

export! {
    /// Which value an event is to reach. Who would wait for it is not documented.
    fn e5rt_async_event_set_active_future_value(event: Raw, value: u64)
    show |s| format!("{}, {value}", s.show(event));
    |state| state.object(event, "event").map(drop)
}

impl State {
    /// Events are bound before an operation is encoded (ANE-014).
    fn bind_event(&mut self, operation: Raw) -> Answer {
        let Object::Operation { encoded, .. } = *self.object(operation, "operation")? else { unreachable!() };
        if encoded == Encoded::Now {
            self.trace.violation("an event is bound after its operation was encoded");
            return invalid("bind state is frozen: the op is encoded");
        }
        Ok(())
    }
}

export! {
    /// Says when an operation is done.
    fn e5rt_execution_stream_operation_bind_completion_event(operation: Raw, event: Raw)
    show |s| format!("{}, {}", s.show(operation), s.show(event));
    |state| {
        state.object(event, "event")?;
        state.bind_event(operation)?;
        if let Object::Event { completes, .. } = state.object(event, "event")? {
            *completes = Some(operation as usize);
        }
        Ok(())
    }
}

export! {
    /// What an operation waits for. Runs happen in the order of encoding whatever this says (ANE-070).
    fn e5rt_execution_stream_operation_bind_dependent_events(operation: Raw, events: *mut Raw, count: u64)
    show |s| format!("{}, {count}", s.show(operation));
    |state| {
        for index in 0..count as usize {
            if events.is_null() {
                return invalid("events is NULL");
            }
            // SAFETY: the caller's promise.
            let event = unsafe { *events.add(index) };
            state.object(event, "event")?;
        }
        state.bind_event(operation)
    }
}

//! Operations: programs on the device, and their ports.

use std::ffi::c_char;
use std::sync::Arc;

use mil::PortKind;

use super::compiler::{ANALYTICS, PROGRAM};
use super::{Answer, Encoded, Object, Raw, State, export, invalid, put, refused, string};
use crate::engine::{Backend, Loaded};

impl State {
    /// Loads the program behind options of operations.
    fn load(&mut self, options: Raw) -> Answer<Arc<Loaded>> {
        let Object::OpOptions { function, operations } = *self.object(options, "op_options")? else {
            unreachable!()
        };
        if operations > 0 && !self.profile.many_operations {
            return refused("ANE model load has failed: the program function is in use");
        }
        let loaded = self.all_live().filter(|(_, object)| matches!(object, Object::Operation { .. })).count();
        let limit = self.faults.loaded_limit.unwrap_or(self.profile.loaded_limit);
        if loaded >= limit || self.faults.load_refuse {
            return refused(format!("ANE model load has failed: {loaded} programs are loaded"));
        }
        let Object::Function { library } = self.by_key(function).object else { unreachable!() };
        let Object::Library { bundle, compiler } = &self.by_key(library).object else { unreachable!() };
        let (bundle, compiler) = (bundle.clone(), *compiler);
        if let Some(compiler) = compiler
            && let Object::Compiler { made_operation, .. } = &mut self.by_key(compiler).object
        {
            *made_operation = true;
        }
        self.may_load(&bundle)?;
        let analytics = std::fs::read_to_string(bundle.join(ANALYTICS)).unwrap_or_default();
        let backend = analytics.split('"').nth(1).and_then(Backend::by_name);
        let program = mil::text::read_file(&bundle.join(PROGRAM));
        let (Some(backend), Ok(program)) = (backend, program) else {
            return refused("ANE model load has failed: the bundle is damaged");
        };
        match Loaded::new(&program, backend, &self.profile) {
            Ok(loaded) => Ok(Arc::new(loaded)),
            Err(problem) => refused(problem),
        }
    }

    fn port(&mut self, operation: Raw, name: *const c_char, kind: PortKind, out: *mut Raw) -> Answer {
        // SAFETY: the exported functions' promise.
        let name = unsafe { string(name) }?;
        let Object::Operation { loaded, .. } = self.object(operation, "operation")? else { unreachable!() };
        let found = loaded.ports().iter().position(|port| port.name == name && port.kind == kind);
        let Some(index) = found else {
            return invalid(format!("there is no {kind:?} port {name}"));
        };
        // SAFETY: the exported functions' promise.
        unsafe { self.create(out, Object::Port { operation: operation as usize, index }) }
    }

    fn names(&mut self, operation: Raw, kind: PortKind) -> Answer<Vec<*const c_char>> {
        let Object::Operation { loaded, .. } = self.object(operation, "operation")? else { unreachable!() };
        let names = loaded.ports().iter().filter(|port| port.kind == kind).map(|port| port.name.clone());
        // Espresso keeps them as long as the operation; here they are kept for good.
        Ok(names
            .map(|name| std::ffi::CString::new(name).unwrap_or_default().into_raw().cast_const())
            .collect())
    }
}

export! {
    /// Loads a program onto the device, out-pointer first.
    fn e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options(out: *mut Raw, options: Raw)
    show |s| s.show(options);
    |state| {
        let loaded = state.load(options)?;
        let bound = vec![None; loaded.ports().len()];
        let object = Object::Operation { options: options as usize, loaded, bound, encoded: Encoded::Never };
        // SAFETY: the caller's promise.
        unsafe { state.create(out, object) }?;
        if let Object::OpOptions { operations, .. } = state.object(options, "op_options")? {
            *operations += 1;
        }
        Ok(())
    }
}

export! {
    /// The input of this name, out-pointer last.
    fn e5rt_execution_stream_operation_retain_input_port(operation: Raw, name: *const c_char, out: *mut Raw)
    show |s| s.show(operation);
    |state| state.port(operation, name, PortKind::Input, out)
}

export! {
    /// The output of this name, out-pointer last.
    fn e5rt_execution_stream_operation_retain_output_port(operation: Raw, name: *const c_char, out: *mut Raw)
    show |s| s.show(operation);
    |state| state.port(operation, name, PortKind::Output, out)
}

export! {
    /// State parameters; texts that this library reads have none.
    fn e5rt_execution_stream_operation_retain_inout_port(operation: Raw, name: *const c_char, out: *mut Raw)
    show |s| s.show(operation);
    |state| {
        state.object(operation, "operation")?;
        // SAFETY: the caller's promise.
        let name = unsafe { string(name) }?;
        invalid(format!("there is no inout port {name} for {out:p}"))
    }
}

export! {
    /// How many inputs it has.
    fn e5rt_execution_stream_operation_get_num_inputs(operation: Raw, out: *mut u64) show |s| s.show(operation);
    |state| {
        let count = state.names(operation, PortKind::Input)?.len() as u64;
        // SAFETY: the caller's promise.
        unsafe { put(out, count) }
    }
}

export! {
    /// How many outputs it has.
    fn e5rt_execution_stream_operation_get_num_outputs(operation: Raw, out: *mut u64) show |s| s.show(operation);
    |state| {
        let count = state.names(operation, PortKind::Output)?.len() as u64;
        // SAFETY: the caller's promise.
        unsafe { put(out, count) }
    }
}

/// Writes as many names as there is room for.
///
/// # Safety
/// `out` has room for `count` pointers.
unsafe fn put_names(names: &[*const c_char], count: u64, out: *mut *const c_char) -> Answer {
    if count != names.len() as u64 {
        return invalid(format!("{count} names of {}", names.len()));
    }
    for (index, name) in names.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { put(out.add(index), *name) }?;
    }
    Ok(())
}

export! {
    /// The names of its inputs.
    fn e5rt_execution_stream_operation_get_input_names(operation: Raw, count: u64, names: *mut *const c_char)
    show |s| s.show(operation);
    |state| {
        let found = state.names(operation, PortKind::Input)?;
        // SAFETY: the caller's promise.
        unsafe { put_names(&found, count, names) }
    }
}

export! {
    /// The names of its outputs.
    fn e5rt_execution_stream_operation_get_output_names(operation: Raw, count: u64, names: *mut *const c_char)
    show |s| s.show(operation);
    |state| {
        let found = state.names(operation, PortKind::Output)?;
        // SAFETY: the caller's promise.
        unsafe { put_names(&found, count, names) }
    }
}

export! {
    /// Makes an operation that was encoded ready to be bound and encoded again.
    fn e5rt_execution_stream_operation_prepare_op_for_encode(operation: Raw) show |s| s.show(operation);
    |state| {
        let rebinds = state.profile.rebinds;
        let in_stream = state.all_live().any(|(_, object)| {
            matches!(object, Object::Stream { encoded } if encoded.contains(&(operation as usize)))
        });
        let Object::Operation { encoded, .. } = state.object(operation, "operation")? else { unreachable!() };
        match *encoded {
            Encoded::Never => {
                invalid("Op has not been encoded and hence cannot be reset to 'ReadyForEncode'")
            }
            _ if in_stream => invalid("Op is still in a stream; reset the stream first"),
            _ if !rebinds => invalid("Op cannot be reset to 'ReadyForEncode'"),
            _ => {
                *encoded = Encoded::Before;
                Ok(())
            }
        }
    }
}

export! {
    /// Takes a program off the device.
    fn e5rt_execution_stream_operation_release(operation: *mut Raw) show |s| s.show_at(operation);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(operation, "operation", |state, key| {
            let wrong = |(_, object): (usize, &Object)| match object {
                Object::Stream { encoded } if encoded.contains(&key) => Some("before the stream it is in".to_owned()),
                Object::Port { operation, .. } if *operation == key => Some("before its ports".to_owned()),
                _ => None,
            };
            state.all_live().find_map(wrong)
        })
    }
}

export! {
    /// Binds memory to a port; frozen once the operation is encoded (ANE-014).
    fn e5rt_io_port_bind_buffer_object(port: Raw, buffer: Raw)
    show |s| format!("{}, {}", s.show(port), s.show(buffer));
    |state| {
        let Object::Buffer { bytes, .. } = *state.object(buffer, "buffer")? else { unreachable!() };
        let Object::Port { operation, index } = *state.object(port, "port")? else { unreachable!() };
        if !state.is_live(operation) {
            state.trace.violation("a port of an operation that was released is bound");
            return invalid("the operation is gone");
        }
        let Object::Operation { loaded, bound, encoded, .. } = &mut state.by_key(operation).object else {
            unreachable!()
        };
        let needed = loaded.ports()[index].numel * 2;
        let name = loaded.ports()[index].name.clone();
        if *encoded == Encoded::Now {
            state.trace.violation(&format!("port {name} is bound after its operation was encoded"));
            return invalid("bind state is frozen: the op is encoded");
        }
        if bytes < needed {
            state.trace.violation(&format!("port {name} of {needed} bytes is bound to a buffer of {bytes}"));
            return invalid(format!("buffer of {bytes} bytes for a port of {needed}"));
        }
        bound[index] = Some(buffer as usize);
        Ok(())
    }
}

export! {
    /// Ends a port; its buffer goes first, if nobody else has it (ANEForge's order).
    fn e5rt_io_port_release(port: *mut Raw) show |s| s.show_at(port);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(port, "port", |state, key| {
            let Object::Port { operation, .. } = state.objects[&key].object else { unreachable!() };
            let in_stream = state.all_live().any(|(_, object)| {
                matches!(object, Object::Stream { encoded } if encoded.contains(&operation))
            });
            in_stream.then(|| "before the stream that its operation is in".to_owned())
        })
    }
}

export! {
    /// What a port holds, out-pointer last.
    fn e5rt_io_port_retain_tensor_desc(port: Raw, out: *mut Raw) show |s| s.show(port);
    |state| {
        let Object::Port { operation, index } = *state.object(port, "port")? else { unreachable!() };
        let Object::Operation { loaded, .. } = &state.by_key(operation).object else { unreachable!() };
        let numel = loaded.ports()[index].numel;
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::TensorDesc { numel }) }
    }
}

export! {
    /// Its elements.
    fn e5rt_tensor_desc_get_num_elements(desc: Raw, out: *mut u64) show |s| s.show(desc);
    |state| {
        let Object::TensorDesc { numel } = *state.object(desc, "tensor_desc")? else { unreachable!() };
        // SAFETY: the caller's promise.
        unsafe { put(out, numel as u64) }
    }
}

export! {
    /// Its bytes.
    fn e5rt_tensor_desc_get_size(desc: Raw, out: *mut u64) show |s| s.show(desc);
    |state| {
        let Object::TensorDesc { numel } = *state.object(desc, "tensor_desc")? else { unreachable!() };
        // SAFETY: the caller's promise.
        unsafe { put(out, numel as u64 * 2) }
    }
}

export! {
    /// Ends a description.
    fn e5rt_tensor_desc_release(desc: *mut Raw) show |s| s.show_at(desc);
    // SAFETY: the caller's promise.
    |state| unsafe { state.release(desc, "tensor_desc", |_, _| None) }
}

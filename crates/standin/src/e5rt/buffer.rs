//! Memory.

use std::ffi::c_void;

use super::{Object, Raw, SPOILT, export, invalid, put};

/// The kinds of memory: 0 host, 1 presumably the engine's, 2 an IOSurface.
const KINDS: u32 = 3;
/// What sizes are a multiple of, and the smallest.
const STEP: usize = 64;

export! {
    /// Memory, out-pointer first. It is not zeroed: it holds halves that are no numbers.
    fn e5rt_buffer_object_alloc(out: *mut Raw, bytes: u64, kind: u32) show |_| format!("{bytes} bytes, {kind}");
    |state| {
        if kind >= KINDS {
            return invalid("Invalid BufferType @ AllocMemory");
        }
        let bytes = bytes as usize;
        if bytes < STEP || !bytes.is_multiple_of(STEP) {
            state.trace.violation(&format!("a buffer of {bytes} bytes, no multiple of {STEP}"));
        }
        let mut memory = Vec::new();
        if memory.try_reserve_exact(bytes.div_ceil(8)).is_err() {
            return invalid(format!("no memory for {bytes} bytes @ AllocMemory"));
        }
        memory.resize(bytes.div_ceil(8), SPOILT);
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::Buffer { memory, bytes }) }
    }
}

export! {
    /// Where it is, out-pointer last.
    fn e5rt_buffer_object_get_data_ptr(buffer: Raw, out: *mut *mut c_void) show |s| s.show(buffer);
    |state| {
        let Object::Buffer { memory, .. } = state.object(buffer, "buffer")? else { unreachable!() };
        let data = memory.as_mut_ptr().cast::<c_void>();
        // SAFETY: the caller's promise.
        unsafe { put(out, data) }
    }
}

export! {
    /// Its size, out-pointer last.
    fn e5rt_buffer_object_get_size(buffer: Raw, out: *mut u64) show |s| s.show(buffer);
    |state| {
        let Object::Buffer { bytes, .. } = *state.object(buffer, "buffer")? else { unreachable!() };
        // SAFETY: the caller's promise.
        unsafe { put(out, bytes as u64) }
    }
}

export! {
    /// Gives memory back, which a stream must not use any more.
    fn e5rt_buffer_object_release(buffer: *mut Raw) show |s| s.show_at(buffer);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(buffer, "buffer", |state, key| {
            let streams = state.all_live().filter_map(|(_, object)| match object {
                Object::Stream { encoded } => Some(encoded),
                _ => None,
            });
            let bound = |operation: &usize| {
                matches!(&state.objects[operation].object, Object::Operation { bound, .. } if bound.contains(&Some(key)))
            };
            streams.flatten().any(bound).then(|| "while a stream uses it".to_owned())
        })
    }
}

//! Compiled libraries, their functions, and options of operations.

use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use super::compiler::PROCESS;
use super::{Answer, Failure, INVALID, Object, REFUSED, Raw, State, export, invalid, put, string};
use crate::profile::Reopening;

/// The only function that our texts have.
const MAIN: &std::ffi::CStr = c"main";

export! {
    /// A bundle from disk. Which argument is the path depends on whom one asks.
    fn e5rt_program_library_create(first: *mut c_void, second: *mut c_void) show |_| String::new();
    |state| {
        let (path, out) = match state.profile.reopening {
            Reopening::OutFirst => (second, first),
            Reopening::PathFirst | Reopening::Refused => (first, second),
        };
        // SAFETY: in the right order this is a C string; in the wrong one it is the out-pointer, whose null
        // reads as an empty string.
        let path = PathBuf::from(unsafe { string(path.cast::<c_char>()) }?);
        let bundle = composite(&path)?;
        // SAFETY: the path was one, so the other is the out-pointer.
        unsafe { state.create(out.cast::<Raw>(), Object::Library { bundle, compiler: None }) }
    }
}

/// The one bundle inside a composite bundle.
fn composite(path: &Path) -> Answer<PathBuf> {
    let is_bundle = |path: &PathBuf| path.extension().is_some_and(|e| e == "bundle") && path.is_dir();
    let entries = std::fs::read_dir(path).ok().filter(|_| is_bundle(&path.to_owned()));
    let inner = entries.and_then(|entries| entries.flatten().map(|e| e.path()).find(is_bundle));
    inner.ok_or_else(|| Failure {
        code: INVALID,
        message: "Invalid E5 path specified. @ GetE5PathFromCompositeBundle".to_owned(),
    })
}

impl State {
    /// Whether this process may load a bundle.
    pub(super) fn may_load(&self, bundle: &Path) -> Answer {
        let process = std::fs::read_to_string(bundle.join(PROCESS)).unwrap_or_default();
        if process == std::process::id().to_string() || self.profile.reopening != Reopening::Refused {
            return Ok(());
        }
        let message =
            "ANE model load has failed for on-device compiled macho. Must re-compile the E5 bundle.";
        Err(Failure { code: REFUSED, message: message.to_owned() })
    }
}

export! {
    /// The function of this name, out-pointer last.
    fn e5rt_program_library_retain_program_function(library: Raw, name: *const c_char, out: *mut Raw)
    show |s| s.show(library);
    |state| {
        state.object(library, "library")?;
        // SAFETY: the caller's promise.
        let name = unsafe { string(name) }?;
        if name.as_bytes() != MAIN.to_bytes() {
            return invalid(format!("there is no function {name}"));
        }
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::Function { library: library as usize }) }
    }
}

export! {
    /// How many functions it has.
    fn e5rt_program_library_get_num_functions(library: Raw, out: *mut u64) show |s| s.show(library);
    |state| {
        state.object(library, "library")?;
        // SAFETY: the caller's promise.
        unsafe { put(out, 1) }
    }
}

export! {
    /// Their names.
    fn e5rt_program_library_get_function_names(library: Raw, count: u64, names: *mut *const c_char)
    show |s| s.show(library);
    |state| {
        state.object(library, "library")?;
        if count != 1 {
            return invalid(format!("{count} names of 1"));
        }
        // SAFETY: the caller's promise.
        unsafe { put(names, MAIN.as_ptr()) }
    }
}

export! {
    /// Options for operations of a function, out-pointer first.
    fn e5rt_precompiled_compute_op_create_options_create_with_program_function(out: *mut Raw, function: Raw)
    show |s| s.show(function);
    |state| {
        state.object(function, "function")?;
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::OpOptions { function: function as usize, operations: 0 }) }
    }
}

export! {
    /// What the operation is called.
    fn e5rt_precompiled_compute_op_create_options_set_operation_name(options: Raw, name: *const c_char)
    show |s| s.show(options);
    |state| {
        state.object(options, "op_options")?;
        // SAFETY: the caller's promise.
        unsafe { string(name) }.map(drop)
    }
}

export! {
    /// Whether the operation brings memory for what lies between.
    fn e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers(options: Raw, value: c_int)
    show |s| format!("{}, {value}", s.show(options));
    |state| state.object(options, "op_options").map(drop)
}

export! {
    /// Ends options; operations that were made with them need them no longer only when they are gone
    /// themselves (ANEForge's order).
    fn e5rt_precompiled_compute_op_create_options_release(options: *mut Raw) show |s| s.show_at(options);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(options, "op_options", |state, key| {
            let used = |(_, object): (usize, &Object)| matches!(object, Object::Operation { options, .. } if *options == key);
            state.all_live().any(used).then(|| "before its operations".to_owned())
        })
    }
}

export! {
    /// Ends a function.
    fn e5rt_program_function_release(function: *mut Raw) show |s| s.show_at(function);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(function, "function", |state, key| {
            let used = |(_, object): (usize, &Object)| matches!(object, Object::OpOptions { function, .. } if *function == key);
            state.all_live().any(used).then(|| "before the options made of it".to_owned())
        })
    }
}

export! {
    /// Ends a library.
    fn e5rt_program_library_release(library: *mut Raw) show |s| s.show_at(library);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(library, "library", |state, key| {
            let used = |(_, object): (usize, &Object)| matches!(object, Object::Function { library } if *library == key);
            state.all_live().any(used).then(|| "before its functions".to_owned())
        })
    }
}

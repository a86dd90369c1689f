//! The symbols of Espresso that the driver calls, declared once: name, arguments, whether the driver
//! can do without.
//!
//! Signatures and argument orders are those of ANEForge's working calls and of the crate mil_infer, which
//! agree: every `create` and `alloc` takes its out-pointer first, `compile`, `retain` and `get` take it
//! last, every `release` takes a pointer to the handle. Every function answers an `int64_t`, 0 for success.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// A handle of Espresso's.
pub(crate) type Raw = *mut c_void;
/// What every call answers: 0 for success.
pub(crate) type Code = i64;
/// Releases a handle, given where it stands.
pub(crate) type Release = unsafe extern "C" fn(*mut Raw) -> Code;

/// Where Espresso lies. It is in the system's shared cache: no file stands at this path, and yet it loads.
pub const ESPRESSO: &str = "/System/Library/PrivateFrameworks/Espresso.framework/Espresso";

macro_rules! symbols {
    (
        required { $($required:ident: fn($($required_arg:ty),* $(,)?);)* }
        optional { $($optional:ident: fn($($optional_arg:ty),* $(,)?);)* }
    ) => {
        /// The functions of one loaded library.
        #[derive(Clone)]
        pub(crate) struct Symbols {
            $(pub(crate) $required: unsafe extern "C" fn($($required_arg),*) -> Code,)*
            $(pub(crate) $optional: Option<unsafe extern "C" fn($($optional_arg),*) -> Code>,)*
            /// What the last call that failed had to say: a C string that Espresso keeps. Apple's own
            /// frameworks print it; `e5rt_error_code_get_string` answers a C++ string and is not called.
            pub(crate) e5rt_get_last_error_message: Option<unsafe extern "C" fn() -> *const c_char>,
        }

        impl Symbols {
            /// Finds every symbol; the error lists those that are missing.
            fn find(library: &Library) -> Result<Symbols, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(
                    // SAFETY: the type is what the named sources call this symbol with.
                    let $required = unsafe {
                        symbol::<unsafe extern "C" fn($($required_arg),*) -> Code>(library, stringify!($required))
                    };
                    if $required.is_none() {
                        missing.push(stringify!($required));
                    }
                )*
                if !missing.is_empty() {
                    return Err(missing);
                }
                Ok(Symbols {
                    $($required: $required.expect("none is missing"),)*
                    $(
                        // SAFETY: as above.
                        $optional: unsafe {
                            symbol::<unsafe extern "C" fn($($optional_arg),*) -> Code>(library, stringify!($optional))
                        },
                    )*
                    // SAFETY: as above.
                    e5rt_get_last_error_message: unsafe { symbol(library, "e5rt_get_last_error_message") },
                })
            }
        }
    };
}

symbols! {
    required {
        // From MIL text to a library of functions.
        e5rt_e5_compiler_config_options_create: fn(*mut Raw);
        e5rt_e5_compiler_config_options_set_cache_bundle_location: fn(Raw, *const c_char);
        e5rt_e5_compiler_config_options_release: fn(*mut Raw);
        e5rt_e5_compiler_create_with_config: fn(*mut Raw, Raw);
        e5rt_e5_compiler_release: fn(*mut Raw);
        e5rt_e5_compiler_options_create: fn(*mut Raw);
        e5rt_e5_compiler_options_set_compute_device_types_mask: fn(Raw, u64);
        e5rt_e5_compiler_options_set_force_recompilation: fn(Raw, c_int);
        e5rt_e5_compiler_options_set_segmenter: fn(Raw, *const c_char);
        e5rt_e5_compiler_options_release: fn(*mut Raw);
        e5rt_e5_compiler_compile: fn(Raw, *const c_char, Raw, *mut Raw);
        e5rt_program_library_retain_program_function: fn(Raw, *const c_char, *mut Raw);
        e5rt_program_library_release: fn(*mut Raw);
        e5rt_program_function_release: fn(*mut Raw);
        // From a function to an operation on the device.
        e5rt_precompiled_compute_op_create_options_create_with_program_function: fn(*mut Raw, Raw);
        e5rt_precompiled_compute_op_create_options_set_operation_name: fn(Raw, *const c_char);
        e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers: fn(Raw, c_int);
        e5rt_precompiled_compute_op_create_options_release: fn(*mut Raw);
        e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options: fn(*mut Raw, Raw);
        e5rt_execution_stream_operation_release: fn(*mut Raw);
        // Ports and memory.
        e5rt_execution_stream_operation_retain_input_port: fn(Raw, *const c_char, *mut Raw);
        e5rt_execution_stream_operation_retain_output_port: fn(Raw, *const c_char, *mut Raw);
        e5rt_io_port_bind_buffer_object: fn(Raw, Raw);
        e5rt_io_port_release: fn(*mut Raw);
        e5rt_buffer_object_alloc: fn(*mut Raw, u64, u32);
        e5rt_buffer_object_get_data_ptr: fn(Raw, *mut *mut c_void);
        e5rt_buffer_object_release: fn(*mut Raw);
        // Running.
        e5rt_execution_stream_create: fn(*mut Raw);
        e5rt_execution_stream_encode_operation: fn(Raw, Raw);
        e5rt_execution_stream_execute_sync: fn(Raw);
        e5rt_execution_stream_release: fn(*mut Raw);
    }
    optional {
        // Binding an encoded operation anew.
        e5rt_execution_stream_reset: fn(Raw);
        e5rt_execution_stream_operation_prepare_op_for_encode: fn(Raw);
        // A bundle from disk: mil_infer gives the path first, ANEForge the out-pointer, so its type says
        // no more than two pointers.
        e5rt_program_library_create: fn(*mut c_void, *mut c_void);
        // What ports a loaded operation has.
        e5rt_execution_stream_operation_get_num_inputs: fn(Raw, *mut u64);
        e5rt_execution_stream_operation_get_num_outputs: fn(Raw, *mut u64);
        e5rt_execution_stream_operation_get_input_names: fn(Raw, u64, *mut *const c_char);
        e5rt_execution_stream_operation_get_output_names: fn(Raw, u64, *mut *const c_char);
        e5rt_io_port_retain_tensor_desc: fn(Raw, *mut Raw);
        e5rt_tensor_desc_get_num_elements: fn(Raw, *mut u64);
        e5rt_tensor_desc_release: fn(*mut Raw);
    }
}

/// The symbol by its plain name, else with a leading underscore, as ANEForge looks them up.
///
/// # Safety
/// `F` must be the type of that function.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Option<F> {
    [format!("{name}\0"), format!("_{name}\0")].iter().find_map(|name| {
        // SAFETY: the caller's promise.
        unsafe { library.get::<F>(name.as_bytes()) }.ok().map(|symbol| *symbol)
    })
}

/// Why Espresso cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The library is not there.
    #[error("{path} cannot be loaded: {problem}")]
    Library {
        /// Where it was looked for.
        path: String,
        /// What the loader said.
        problem: String,
    },
    /// It is there, but is not what was expected.
    #[error("{path} lacks {}: this version of the system is not one that the driver knows", .missing.join(", "))]
    Symbols {
        /// Where it was found.
        path: String,
        /// What it does not export.
        missing: Vec<&'static str>,
    },
}

impl Symbols {
    /// Loads the library at `path` and finds its symbols. It stays loaded: frameworks are not made to be
    /// unloaded, and handles keep pointers into it.
    pub(crate) fn load(path: &Path) -> Result<Symbols, LoadError> {
        let shown = path.display().to_string();
        // SAFETY: the initialisers are those of a system framework, or of a library that the caller chose.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| LoadError::Library { path: shown.clone(), problem: error.to_string() })?;
        let found = Symbols::find(&library).map_err(|missing| LoadError::Symbols { path: shown, missing });
        std::mem::forget(library);
        found
    }

    /// Which of the functions that the driver can do without are missing, and what it does then.
    pub(crate) fn without(&self) -> Vec<&'static str> {
        let rebinds = self.e5rt_execution_stream_reset.is_some()
            && self.e5rt_execution_stream_operation_prepare_op_for_encode.is_some();
        let introspects = self.e5rt_execution_stream_operation_get_num_inputs.is_some()
            && self.e5rt_execution_stream_operation_get_num_outputs.is_some()
            && self.e5rt_execution_stream_operation_get_input_names.is_some()
            && self.e5rt_execution_stream_operation_get_output_names.is_some();
        let reopens = self.e5rt_program_library_create.is_some();
        [
            (rebinds, "no call to bind an operation anew: bindings beyond the limit are copied"),
            (introspects, "no introspection: ports are not checked after loading"),
            (reopens, "no call to open a compiled bundle: every start compiles"),
        ]
        .into_iter()
        .filter_map(|(there, without)| (!there).then_some(without))
        .collect()
    }
}

/// Whether the library at `path` is there and has what the driver needs.
///
/// # Errors
/// [`LoadError`] with what is missing.
pub fn check_library(path: &Path) -> Result<(), LoadError> {
    Symbols::load(path).map(drop)
}

/// A name that Espresso gave, which it keeps.
///
/// # Safety
/// `name` is null or a C string that outlives the call.
pub(crate) unsafe fn owned_name(name: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

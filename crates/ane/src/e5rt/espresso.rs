//! Espresso's calls as safe Rust: an owned type for each handle, an error for each code that is not 0.
//!
//! Handles release themselves. The order that ANEForge's working code keeps (stream, then buffers and
//! ports, then the operation, its options, the function, the library) is the order of the fields in the
//! types that own them.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::symbols::{Code, LoadError, Raw, Release, Symbols, owned_name};

/// Espresso is not safe to call from two threads at once, and has one lane for runs whatever is asked
/// of it (ANEForge); so one call at a time, in the whole process.
static LANE: Mutex<()> = Mutex::new(());

fn lane() -> MutexGuard<'static, ()> {
    LANE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} answered {}{}", shown(*.code), .message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
pub struct CallError {
    /// The function's name.
    pub call: &'static str,
    /// What it answered.
    pub code: i64,
    /// What Espresso said about it, where it can be asked.
    pub message: Option<String>,
}

/// A code as people look it up: large ones are known by their hexadecimal form.
fn shown(code: i64) -> String {
    // Codes of the kernel are 32 bits with the highest one set.
    if code.unsigned_abs() < 16 { code.to_string() } else { format!("{code} ({:#x})", code as u32) }
}

type Result<T> = std::result::Result<T, CallError>;

/// The loaded library.
#[derive(Clone)]
pub(crate) struct Espresso {
    symbols: Arc<Symbols>,
}

/// Calls a required function of `$espresso` in the lane.
macro_rules! call {
    ($espresso:expr, $name:ident ( $($arg:expr),* $(,)? )) => {
        // SAFETY: handles are live, since they are borrowed from their owners; pointers to out-values and
        // C strings outlive the call; the signatures are those of `symbols!`.
        $espresso.checked(stringify!($name), |symbols| unsafe { (symbols.$name)($($arg),*) })
    };
}

/// As `call!`, for a function that may be missing: `Ok(None)` then.
macro_rules! call_optional {
    ($espresso:expr, $name:ident ( $($arg:expr),* $(,)? )) => {
        match $espresso.symbols.$name {
            // SAFETY: as for `call!`.
            Some(function) => $espresso.checked(stringify!($name), |_| unsafe { function($($arg),*) }).map(Some),
            None => Ok(None),
        }
    };
}

impl Espresso {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) fn load(path: &Path) -> std::result::Result<Espresso, LoadError> {
        Ok(Espresso { symbols: Arc::new(Symbols::load(path)?) })
    }

    #[cfg(test)]
    pub(crate) fn with_symbols(symbols: Symbols) -> Espresso {
        Espresso { symbols: Arc::new(symbols) }
    }

    /// What it can do without, and does.
    pub(crate) fn without(&self) -> Vec<&'static str> {
        self.symbols.without()
    }

    fn checked(&self, call: &'static str, function: impl FnOnce(&Symbols) -> Code) -> Result<()> {
        let _lane = lane();
        let code = function(&self.symbols);
        if code == 0 {
            return Ok(());
        }
        let message = self.symbols.e5rt_get_last_error_message.and_then(|last| {
            // SAFETY: it takes nothing and answers null or a C string that stays until the next call, which
            // the lane keeps away.
            unsafe { owned_name(last()) }
        });
        Err(CallError { call, code, message: message.filter(|m| !m.is_empty()) })
    }

    fn own(&self, raw: Raw, call: &'static str, release: Release) -> Result<Handle> {
        if raw.is_null() {
            // A success without a handle: never seen, but not to be dereferenced.
            return Err(CallError { call, code: 0, message: Some("it gave no handle".to_owned()) });
        }
        Ok(Handle { raw, release })
    }
}

/// A handle that is released when it is dropped.
struct Handle {
    raw: Raw,
    release: Release,
}

// SAFETY: a handle is a pointer that only Espresso follows, in calls that the lane makes one at a time.
unsafe impl Send for Handle {}
// SAFETY: as above; `Handle` itself has no interior.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        let _lane = lane();
        // SAFETY: the handle is live: it was given to us once and this is its only release. A refusal leaves
        // nothing that could be done: the handle is not used again either way.
        let _ = unsafe { (self.release)(&raw mut self.raw) };
    }
}

/// Calls a function that creates: out-pointer first. `own` names its release.
macro_rules! create {
    ($espresso:expr, $name:ident ( $($arg:expr),* ) , $release:ident) => {{
        let mut raw: Raw = std::ptr::null_mut();
        call!($espresso, $name(&raw mut raw $(, $arg)*))?;
        $espresso.own(raw, stringify!($name), $espresso.symbols.$release)
    }};
}

/// Calls a function that answers a handle through its last argument.
macro_rules! retain {
    ($espresso:expr, $name:ident ( $($arg:expr),* ) , $release:ident) => {{
        let mut raw: Raw = std::ptr::null_mut();
        call!($espresso, $name($($arg,)* &raw mut raw))?;
        $espresso.own(raw, stringify!($name), $espresso.symbols.$release)
    }};
}

/// Which engine shall run a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The Neural Engine, and nothing else.
    Ane,
    /// The GPU, through MPSGraph.
    Gpu,
    /// The CPU, through BNNS.
    Bnns,
}

impl Backend {
    /// All of them.
    pub const ALL: [Backend; 3] = [Backend::Ane, Backend::Gpu, Backend::Bnns];

    /// The device's name.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Ane => "ane",
            Backend::Gpu => "gpu",
            Backend::Bnns => "bnns",
        }
    }

    /// The device mask: 0x1 BNNS, 0x2 MPSGraph, 0x4 the engine (ANEForge, measured).
    fn mask(self) -> u64 {
        match self {
            Backend::Bnns => 0x1,
            Backend::Gpu => 0x2,
            Backend::Ane => 0x4,
        }
    }
}

fn c_string(text: &str) -> CString {
    // Names are MIL identifiers and paths of ours; neither has a zero byte.
    CString::new(text.replace('\0', "")).expect("zero bytes are gone")
}

/// A compiled program: the library, and its function `main`.
pub(crate) struct Compiled {
    espresso: Espresso,
    // Released from top to bottom.
    op_options: Handle,
    _function: Handle,
    _library: Handle,
    // Espresso may ask for these until the first operation was made (ANEForge), so they stay as long as
    // the library.
    _compiler: Option<[Handle; 3]>,
}

impl Compiled {
    /// Compiles the MIL text at `mil_path` into a bundle below `bundle_dir`, which must be this program's
    /// own: bundles in one directory overwrite one another.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub(crate) fn compile(
        espresso: &Espresso,
        backend: Backend,
        mil_path: &Path,
        bundle_dir: &Path,
    ) -> Result<Compiled> {
        let bundle_dir = c_string(&bundle_dir.to_string_lossy());
        let mil_path = c_string(&mil_path.to_string_lossy());
        let config = create!(
            espresso,
            e5rt_e5_compiler_config_options_create(),
            e5rt_e5_compiler_config_options_release
        )?;
        call!(
            espresso,
            e5rt_e5_compiler_config_options_set_cache_bundle_location(config.raw, bundle_dir.as_ptr())
        )?;
        let compiler =
            create!(espresso, e5rt_e5_compiler_create_with_config(config.raw), e5rt_e5_compiler_release)?;
        let options = create!(espresso, e5rt_e5_compiler_options_create(), e5rt_e5_compiler_options_release)?;
        call!(espresso, e5rt_e5_compiler_options_set_compute_device_types_mask(options.raw, backend.mask()))?;
        call!(espresso, e5rt_e5_compiler_options_set_force_recompilation(options.raw, 1))?;
        call!(espresso, e5rt_e5_compiler_options_set_segmenter(options.raw, c"graph".as_ptr()))?;
        let library = retain!(
            espresso,
            e5rt_e5_compiler_compile(compiler.raw, mil_path.as_ptr(), options.raw),
            e5rt_program_library_release
        )?;
        Compiled::of_library(espresso, library, Some([options, compiler, config]))
    }

    /// Opens a bundle that was compiled before; `None` when this Espresso cannot. Sources disagree about
    /// the order of the arguments: mil_infer gives the path first, ANEForge the out-pointer.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub(crate) fn open(espresso: &Espresso, bundle: &Path, order: OpenOrder) -> Result<Option<Compiled>> {
        // Its own memory, because the wrong order may write to it.
        let mut path = c_string(&bundle.to_string_lossy()).into_bytes_with_nul();
        path.resize(path.len().max(size_of::<Raw>()), 0);
        let path = path.as_mut_ptr().cast::<c_void>();
        let mut raw: Raw = std::ptr::null_mut();
        let out = (&raw mut raw).cast::<c_void>();
        let (first, second) = match order {
            OpenOrder::PathFirst => (path, out),
            OpenOrder::OutFirst => (out, path),
        };
        if call_optional!(espresso, e5rt_program_library_create(first, second))?.is_none() {
            return Ok(None);
        }
        let library = espresso.own(
            raw,
            "e5rt_program_library_create",
            espresso.symbols.e5rt_program_library_release,
        )?;
        Compiled::of_library(espresso, library, None).map(Some)
    }

    fn of_library(espresso: &Espresso, library: Handle, compiler: Option<[Handle; 3]>) -> Result<Compiled> {
        let function = retain!(
            espresso,
            e5rt_program_library_retain_program_function(library.raw, c"main".as_ptr()),
            e5rt_program_function_release
        )?;
        let op_options = create!(
            espresso,
            e5rt_precompiled_compute_op_create_options_create_with_program_function(function.raw),
            e5rt_precompiled_compute_op_create_options_release
        )?;
        call!(
            espresso,
            e5rt_precompiled_compute_op_create_options_set_operation_name(op_options.raw, c"main".as_ptr())
        )?;
        call!(
            espresso,
            e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers(op_options.raw, 1)
        )?;
        Ok(Compiled {
            espresso: espresso.clone(),
            op_options,
            _function: function,
            _library: library,
            _compiler: compiler,
        })
    }
}

/// How a compiled bundle is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenOrder {
    /// `(path, out)`.
    PathFirst,
    /// `(out, path)`.
    OutFirst,
}

impl OpenOrder {
    /// Both.
    pub const ALL: [OpenOrder; 2] = [OpenOrder::OutFirst, OpenOrder::PathFirst];
}

/// Memory that the engine and the host share.
pub(crate) struct BufferObject {
    handle: Handle,
    data: *mut c_void,
    bytes: usize,
}

// SAFETY: `data` points to memory that lives as long as the handle; who reads and writes it when is the
// business of the callers of `data`.
unsafe impl Send for BufferObject {}
// SAFETY: as above.
unsafe impl Sync for BufferObject {}

impl BufferObject {
    /// The smallest buffer and the step of sizes, in bytes (ANEForge).
    const STEP: usize = 64;
    /// Plain host memory, the kind that ANEForge trains with.
    const HOST_MEMORY: u32 = 0;

    /// A zeroed buffer of at least `bytes`.
    ///
    /// # Errors
    /// [`CallError`] when there is no room.
    pub(crate) fn alloc(espresso: &Espresso, bytes: usize) -> Result<BufferObject> {
        let bytes = bytes.max(1).next_multiple_of(Self::STEP);
        let handle = create!(
            espresso,
            e5rt_buffer_object_alloc(bytes as u64, Self::HOST_MEMORY),
            e5rt_buffer_object_release
        )?;
        let mut data: *mut c_void = std::ptr::null_mut();
        call!(espresso, e5rt_buffer_object_get_data_ptr(handle.raw, &raw mut data))?;
        if data.is_null() || !data.cast::<u16>().is_aligned() {
            let message = Some(format!("it gave the pointer {data:p} for {bytes} bytes"));
            return Err(CallError { call: "e5rt_buffer_object_get_data_ptr", code: 0, message });
        }
        // SAFETY: the buffer was allocated with this many bytes, and nobody else knows of it yet.
        unsafe { data.cast::<u8>().write_bytes(0, bytes) };
        Ok(BufferObject { handle, data, bytes })
    }

    /// Its memory, valid for [`BufferObject::bytes`] bytes and as long as it lives.
    pub(crate) fn data(&self) -> *mut c_void {
        self.data
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Which way a port of an operation faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Input,
    Output,
}

struct PortHandle {
    // The buffer goes before the port, unless others still hold it.
    bound: Option<Arc<BufferObject>>,
    handle: Handle,
}

/// A program loaded onto the device, with its ports and its own stream.
pub(crate) struct Operation {
    espresso: Espresso,
    // Released from top to bottom.
    stream: Handle,
    ports: Vec<PortHandle>,
    operation: Handle,
    _compiled: Arc<Compiled>,
    encoded: bool,
}

impl Operation {
    /// Loads `compiled` onto the device once more, with the ports `ports`.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed; creating the operation is what fails when too many programs
    /// are loaded.
    pub(crate) fn load(compiled: &Arc<Compiled>, ports: &[(Direction, &str)]) -> Result<Operation> {
        let espresso = &compiled.espresso;
        let operation = create!(
            espresso,
            e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options(
                compiled.op_options.raw
            ),
            e5rt_execution_stream_operation_release
        )?;
        let ports = ports
            .iter()
            .map(|(direction, name)| {
                let name = c_string(name);
                let handle = match direction {
                    Direction::Input => retain!(
                        espresso,
                        e5rt_execution_stream_operation_retain_input_port(operation.raw, name.as_ptr()),
                        e5rt_io_port_release
                    ),
                    Direction::Output => retain!(
                        espresso,
                        e5rt_execution_stream_operation_retain_output_port(operation.raw, name.as_ptr()),
                        e5rt_io_port_release
                    ),
                }?;
                Ok(PortHandle { bound: None, handle })
            })
            .collect::<Result<Vec<_>>>()?;
        let stream = create!(espresso, e5rt_execution_stream_create(), e5rt_execution_stream_release)?;
        Ok(Operation {
            espresso: espresso.clone(),
            stream,
            ports,
            operation,
            _compiled: compiled.clone(),
            encoded: false,
        })
    }

    /// Binds every port, in the order of [`Operation::load`]. An operation that has run is taken out of its
    /// stream first; `Ok(false)` when this Espresso has no call for that.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub(crate) fn bind(&mut self, buffers: &[Arc<BufferObject>]) -> Result<bool> {
        assert_eq!(buffers.len(), self.ports.len(), "a buffer for each port");
        if self.encoded {
            // Binding is frozen once an operation is encoded (ANEForge). Both calls are refused before that.
            if self.espresso.symbols.e5rt_execution_stream_operation_prepare_op_for_encode.is_none()
                || call_optional!(self.espresso, e5rt_execution_stream_reset(self.stream.raw))?.is_none()
            {
                return Ok(false);
            }
            call_optional!(
                self.espresso,
                e5rt_execution_stream_operation_prepare_op_for_encode(self.operation.raw)
            )?;
            self.encoded = false;
        }
        for (port, buffer) in self.ports.iter_mut().zip(buffers) {
            call!(self.espresso, e5rt_io_port_bind_buffer_object(port.handle.raw, buffer.handle.raw))?;
            // The old buffer goes only now that the new one stands in its place.
            port.bound = Some(buffer.clone());
        }
        Ok(true)
    }

    /// Runs once; every port must be bound. The first run encodes.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed; what outputs hold then is not to be used.
    pub(crate) fn execute(&mut self) -> Result<()> {
        debug_assert!(self.ports.iter().all(|port| port.bound.is_some()), "bind comes before execute");
        if !self.encoded {
            call!(
                self.espresso,
                e5rt_execution_stream_encode_operation(self.stream.raw, self.operation.raw)
            )?;
            self.encoded = true;
        }
        call!(self.espresso, e5rt_execution_stream_execute_sync(self.stream.raw))
    }

    /// The names of the input and the output ports as the device sees them; `None` when this Espresso
    /// cannot be asked.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub(crate) fn port_names(&self) -> Result<Option<[Vec<String>; 2]>> {
        let symbols = &self.espresso.symbols;
        let (Some(num_inputs), Some(num_outputs), Some(input_names), Some(output_names)) = (
            symbols.e5rt_execution_stream_operation_get_num_inputs,
            symbols.e5rt_execution_stream_operation_get_num_outputs,
            symbols.e5rt_execution_stream_operation_get_input_names,
            symbols.e5rt_execution_stream_operation_get_output_names,
        ) else {
            return Ok(None);
        };
        let operation = self.operation.raw;
        let mut found = [Vec::new(), Vec::new()];
        let asked = [
            (
                "e5rt_execution_stream_operation_get_num_inputs",
                num_inputs,
                "e5rt_execution_stream_operation_get_input_names",
                input_names,
            ),
            (
                "e5rt_execution_stream_operation_get_num_outputs",
                num_outputs,
                "e5rt_execution_stream_operation_get_output_names",
                output_names,
            ),
        ];
        for (found, (count_call, count_function, names_call, names_function)) in found.iter_mut().zip(asked) {
            let mut count = 0;
            // SAFETY: the operation is live, the out-pointer outlives the call.
            self.espresso.checked(count_call, |_| unsafe { count_function(operation, &raw mut count) })?;
            if count > MAX_PORTS {
                let message = Some(format!("it answered {count} ports"));
                return Err(CallError { call: count_call, code: 0, message });
            }
            let mut names = vec![std::ptr::null(); count as usize];
            let out = names.as_mut_ptr();
            // SAFETY: the operation is live, `out` has room for `count` pointers.
            self.espresso.checked(names_call, |_| unsafe { names_function(operation, count, out) })?;
            // SAFETY: Espresso keeps the names as long as the operation.
            found.extend(names.into_iter().filter_map(|name| unsafe { owned_name(name) }));
        }
        Ok(Some(found))
    }

    /// The elements of each port in the order of [`Operation::load`]; `None` when this Espresso cannot be
    /// asked.
    ///
    /// # Errors
    /// [`CallError`] of the call that failed.
    pub(crate) fn port_elements(&self) -> Result<Option<Vec<u64>>> {
        let espresso = &self.espresso;
        let Some(release) = espresso.symbols.e5rt_tensor_desc_release else {
            return Ok(None);
        };
        let mut elements = Vec::with_capacity(self.ports.len());
        for port in &self.ports {
            let mut raw: Raw = std::ptr::null_mut();
            if call_optional!(espresso, e5rt_io_port_retain_tensor_desc(port.handle.raw, &raw mut raw))?
                .is_none()
            {
                return Ok(None);
            }
            let desc = espresso.own(raw, "e5rt_io_port_retain_tensor_desc", release)?;
            let mut count = 0;
            if call_optional!(espresso, e5rt_tensor_desc_get_num_elements(desc.raw, &raw mut count))?
                .is_none()
            {
                return Ok(None);
            }
            elements.push(count);
        }
        Ok(Some(elements))
    }
}

/// More ports than any program has: a larger answer means that the call was misunderstood.
const MAX_PORTS: u64 = 4096;

//! Drivers with one fault each: every fault must be noticed, by a wrong bit, an error, a violation or a leak.
//!
//! A fault stands between the driver and the library: one function of [`Symbols`] is replaced by one that does
//! what a faulty driver would have done. So the driver under test is the one that ships.
#![allow(
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn,
    reason = "every block passes on what the driver gave, changed as the fault's name says"
)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::time::Duration;

use device::{Binding, Buffer, Device};
use mil::lint::Chip;
use mil::{Builder, Constant, Element, PortKind, Program};
use standin::StandIn;

use super::E5rtDevice;
use super::espresso::{Backend, Espresso};
use super::symbols::{Code, Raw, Symbols};
use crate::Options;

thread_local! {
    /// The functions without faults.
    static SOUND: RefCell<Option<Symbols>> = const { RefCell::new(None) };
    /// Handles that a fault keeps for later.
    static KEPT: RefCell<Vec<Raw>> = const { RefCell::new(Vec::new()) };
    /// What a fault saw first.
    static FIRST: Cell<Raw> = const { Cell::new(std::ptr::null_mut()) };
    static PATH: RefCell<Option<CString>> = const { RefCell::new(None) };
    static LIBRARY: RefCell<PathBuf> = const { RefCell::new(PathBuf::new()) };
}

fn sound<T>(with: impl FnOnce(&Symbols) -> T) -> T {
    SOUND.with_borrow(|symbols| with(symbols.as_ref().expect("set before the driver runs")))
}

/// A program with two inputs of one shape, two outputs of one shape, and a constant that goes to a blob file:
/// a, b [1, 64, 1, 64] -> y = a - b c, z = a b, with c [1, 64, 1, 1]; `power` makes different ones.
fn program(power: usize) -> Program {
    let mut b = Builder::new(Element::F16);
    let shape = [1, 64, 1, 64];
    let x = b.input("a0", &shape).unwrap();
    let w = b.input("b0", &shape).unwrap();
    let gains: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 64.0).collect();
    let c = b.constant(Constant::float(Element::F16, &[1, 64, 1, 1], gains));
    let scaled = b.mul(w, c).unwrap();
    let mut y = b.sub(x, scaled).unwrap();
    for _ in 1..power {
        y = b.mul(y, x).unwrap();
    }
    let z = b.mul(x, w).unwrap();
    b.output("p0", y).unwrap();
    b.output("q0", z).unwrap();
    b.finish().unwrap()
}

fn value(seed: usize, at: usize) -> f32 {
    ((seed * 31 + at * 17) % 97) as f32 / 64.0 - 0.7
}

/// What two programs with three bindings each give, weights changing between runs.
fn work(device: &dyn Device) -> device::Result<Vec<Vec<f32>>> {
    let programs = [program(1), program(2)];
    let executables = [device.compile("first", &programs[0])?, device.compile("second", &programs[1])?];
    let mut bound = Vec::new();
    for binding in 0..3 {
        for (at, (program, executable)) in programs.iter().zip(&executables).enumerate() {
            let mut buffers = Vec::new();
            for port in program.ports() {
                let buffer = device.alloc(&port.ty.shape)?;
                assert!(buffer.to_vec().iter().all(|value| *value == 0.0), "new buffers are zero");
                buffers.push(buffer);
            }
            let ports = program.ports().zip(&buffers);
            let bindings: Vec<_> = ports.map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
            bound.push((executable.bind(&bindings)?, buffers, 2 * binding + at));
        }
    }
    let mut seen = Vec::new();
    for round in 0..2 {
        for (invocation, buffers, number) in &bound {
            let ports = programs[0].ports().zip(buffers).enumerate();
            for (at, (_, buffer)) in ports.filter(|(_, (port, _))| port.kind == PortKind::Input) {
                let seed = 100 * round + 10 * number + at;
                buffer.write_f32(&(0..buffer.numel()).map(|i| value(seed, i)).collect::<Vec<_>>())?;
            }
            invocation.run()?;
            seen.extend(buffers[2..].iter().map(Buffer::to_vec));
        }
    }
    Ok(seen)
}

/// Runs a driver with this fault and says what is noticed; `Ok` when nothing is.
fn noticed(profile: &str, plant: impl FnOnce(&mut Symbols)) -> Result<(), String> {
    let stand_in = StandIn::new(profile);
    let mut symbols = Symbols::load(&stand_in.path()).expect("the stand-in exports everything");
    SOUND.set(Some(symbols.clone()));
    KEPT.take();
    FIRST.set(std::ptr::null_mut());
    PATH.take();
    LIBRARY.set(stand_in.path());
    plant(&mut symbols);
    let folder = stand_in.folder().join("engine");
    let options = || Options {
        chip: Some(Chip::M4),
        system: "a stand-in".to_owned(),
        back_off: Duration::ZERO,
        ..Options::here(stand_in.path(), &folder)
    };
    let open = |symbols: &Symbols| {
        E5rtDevice::with_espresso(Backend::Ane, options(), Espresso::with_symbols(symbols.clone()))
            .map_err(|error| error.to_string())
    };
    let ways = {
        let device = open(&symbols)?;
        let seen = work(&device).map_err(|error| error.to_string())?;
        let expected = work(&sim::SimDevice::new(sim::Profile::m4())).expect("the interpreter takes it");
        if seen != expected {
            return Err("wrong bits".to_owned());
        }
        let telemetry = device.telemetry();
        if (telemetry.compiles, telemetry.dispatches) != (2, 12) {
            return Err(format!("{telemetry:?}"));
        }
        device.ways()
    };
    let expected = standin::profile::Profile::by_name(profile).expect("it is loaded");
    if (ways.own_operations, ways.rebinds) != (expected.many_operations, expected.rebinds) {
        return Err(format!("the ways are taken for {ways:?}"));
    }
    let operations =
        stand_in.calls("e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options");
    // The probe's, and one for each binding or each program.
    let wanted = if ways.own_operations { 2 + 6 } else { 1 + 2 };
    let runs = stand_in.calls("e5rt_execution_stream_execute_sync");
    let wanted_runs = 12 + if ways.own_operations { 5 } else { 3 };
    if (operations, runs) != (wanted, wanted_runs) {
        return Err(format!("{operations} operations and {runs} runs; {wanted} and {wanted_runs} expected"));
    }
    if !stand_in.violations().is_empty() {
        return Err(stand_in.violations());
    }
    if !stand_in.live().is_empty() {
        return Err(format!("leaks: {}", stand_in.live()));
    }
    stand_in.plant(&format!("execute-error@{}+", runs + 8));
    match open(&symbols).map(|device| work(&device).is_err()) {
        Ok(true) => Ok(()),
        _ => Err("a run that failed is taken for one that did not".to_owned()),
    }
}

type Plant = fn(&mut Symbols);

/// What a faulty driver would do, and under which profile it shows.
const FAULTS: &[(&str, &str, Plant)] = &[
    ("inputs are swapped", GENEROUS, |s| {
        unsafe extern "C" fn f(op: Raw, name: *const c_char, out: *mut Raw) -> Code {
            let name = other(name, c"a0", c"b0");
            sound(|s| unsafe {
                (s.e5rt_execution_stream_operation_retain_input_port)(op, name.as_ptr(), out)
            })
        }
        s.e5rt_execution_stream_operation_retain_input_port = f;
    }),
    ("outputs are swapped", GENEROUS, |s| {
        unsafe extern "C" fn f(op: Raw, name: *const c_char, out: *mut Raw) -> Code {
            let name = other(name, c"p0", c"q0");
            sound(|s| unsafe {
                (s.e5rt_execution_stream_operation_retain_output_port)(op, name.as_ptr(), out)
            })
        }
        s.e5rt_execution_stream_operation_retain_output_port = f;
    }),
    ("one output is taken for both", GENEROUS, |s| {
        unsafe extern "C" fn f(op: Raw, name: *const c_char, out: *mut Raw) -> Code {
            let name = unsafe { CStr::from_ptr(name) };
            let name = if name == c"q0" { c"p0" } else { name };
            sound(|s| unsafe {
                (s.e5rt_execution_stream_operation_retain_output_port)(op, name.as_ptr(), out)
            })
        }
        s.e5rt_execution_stream_operation_retain_output_port = f;
    }),
    ("a blob is read at its payload", GENEROUS, |s| {
        unsafe extern "C" fn f(compiler: Raw, path: *const c_char, options: Raw, out: *mut Raw) -> Code {
            let file = Path::new(unsafe { CStr::from_ptr(path) }.to_str().unwrap()).to_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace("offset = uint64(64)", "offset = uint64(128)")).unwrap();
            sound(|s| unsafe { (s.e5rt_e5_compiler_compile)(compiler, path, options, out) })
        }
        s.e5rt_e5_compiler_compile = f;
    }),
    ("blob files are not where the text is", GENEROUS, |s| {
        unsafe extern "C" fn f(compiler: Raw, path: *const c_char, options: Raw, out: *mut Raw) -> Code {
            let file = Path::new(unsafe { CStr::from_ptr(path) }.to_str().unwrap()).to_owned();
            let _ = std::fs::remove_file(file.with_file_name("weights.bin"));
            sound(|s| unsafe { (s.e5rt_e5_compiler_compile)(compiler, path, options, out) })
        }
        s.e5rt_e5_compiler_compile = f;
    }),
    ("every program is compiled from the first text", GENEROUS, |s| {
        unsafe extern "C" fn f(compiler: Raw, path: *const c_char, options: Raw, out: *mut Raw) -> Code {
            let path = unsafe { CStr::from_ptr(path) }.to_owned();
            if path.to_bytes().windows(6).any(|part| part == b"probe/") {
                return sound(|s| unsafe {
                    (s.e5rt_e5_compiler_compile)(compiler, path.as_ptr(), options, out)
                });
            }
            let first = PATH.with_borrow_mut(|first| first.get_or_insert(path).clone());
            sound(|s| unsafe { (s.e5rt_e5_compiler_compile)(compiler, first.as_ptr(), options, out) })
        }
        s.e5rt_e5_compiler_compile = f;
    }),
    ("all bundles go to one folder", GENEROUS, |s| {
        unsafe extern "C" fn f(config: Raw, dir: *const c_char) -> Code {
            let dir = unsafe { CStr::from_ptr(dir) }.to_owned();
            let first = PATH.with_borrow_mut(|first| first.get_or_insert(dir).clone());
            sound(|s| unsafe {
                (s.e5rt_e5_compiler_config_options_set_cache_bundle_location)(config, first.as_ptr())
            })
        }
        s.e5rt_e5_compiler_config_options_set_cache_bundle_location = f;
    }),
    ("the mask is that of the GPU", GENEROUS, |s| {
        unsafe extern "C" fn f(options: Raw, _mask: u64) -> Code {
            sound(|s| unsafe { (s.e5rt_e5_compiler_options_set_compute_device_types_mask)(options, 0x2) })
        }
        s.e5rt_e5_compiler_options_set_compute_device_types_mask = f;
    }),
    ("the mask lets the CPU take over", GENEROUS, |s| {
        unsafe extern "C" fn f(options: Raw, _mask: u64) -> Code {
            sound(|s| unsafe { (s.e5rt_e5_compiler_options_set_compute_device_types_mask)(options, 0x3) })
        }
        s.e5rt_e5_compiler_options_set_compute_device_types_mask = f;
    }),
    ("a wrong segmenter", GENEROUS, |s| {
        unsafe extern "C" fn f(options: Raw, _name: *const c_char) -> Code {
            sound(|s| unsafe { (s.e5rt_e5_compiler_options_set_segmenter)(options, c"tree".as_ptr()) })
        }
        s.e5rt_e5_compiler_options_set_segmenter = f;
    }),
    ("another function is asked for", GENEROUS, |s| {
        unsafe extern "C" fn f(library: Raw, _name: *const c_char, out: *mut Raw) -> Code {
            sound(|s| unsafe {
                (s.e5rt_program_library_retain_program_function)(library, c"Main".as_ptr(), out)
            })
        }
        s.e5rt_program_library_retain_program_function = f;
    }),
    ("the out-pointer of a create call goes last", GENEROUS, |s| {
        unsafe extern "C" fn f(out: *mut Raw, function: Raw) -> Code {
            sound(|s| unsafe {
                (s.e5rt_precompiled_compute_op_create_options_create_with_program_function)(
                    function.cast::<Raw>(),
                    out.cast::<c_void>(),
                )
            })
        }
        s.e5rt_precompiled_compute_op_create_options_create_with_program_function = f;
    }),
    ("weights are written to a copy", GENEROUS, |s| {
        unsafe extern "C" fn f(buffer: Raw, out: *mut *mut c_void) -> Code {
            let copy = Box::leak(vec![0_u64; 4096].into_boxed_slice());
            let code = sound(|s| unsafe { (s.e5rt_buffer_object_get_data_ptr)(buffer, out) });
            unsafe { *out = copy.as_mut_ptr().cast() };
            code
        }
        s.e5rt_buffer_object_get_data_ptr = f;
    }),
    ("all buffers are the first one's memory", GENEROUS, |s| {
        unsafe extern "C" fn f(buffer: Raw, out: *mut *mut c_void) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_buffer_object_get_data_ptr)(buffer, out) });
            if FIRST.get().is_null() {
                FIRST.set(unsafe { *out });
            }
            unsafe { *out = FIRST.get() };
            code
        }
        s.e5rt_buffer_object_get_data_ptr = f;
    }),
    ("buffers are half as large", GENEROUS, |s| {
        unsafe extern "C" fn f(out: *mut Raw, bytes: u64, kind: u32) -> Code {
            // What the driver would write past its end must not be there for the test's own sake.
            sound(|s| unsafe { (s.e5rt_buffer_object_alloc)(out, bytes, kind) });
            let whole = unsafe { *out };
            KEPT.with_borrow_mut(|kept| kept.push(whole));
            sound(|s| unsafe { (s.e5rt_buffer_object_alloc)(out, bytes / 2, kind) })
        }
        unsafe extern "C" fn data(_buffer: Raw, out: *mut *mut c_void) -> Code {
            let whole = KEPT.with_borrow(|kept| *kept.last().unwrap());
            sound(|s| unsafe { (s.e5rt_buffer_object_get_data_ptr)(whole, out) })
        }
        s.e5rt_buffer_object_alloc = f;
        s.e5rt_buffer_object_get_data_ptr = data;
    }),
    ("sizes are no multiple of 64", GENEROUS, |s| {
        unsafe extern "C" fn f(out: *mut Raw, bytes: u64, kind: u32) -> Code {
            sound(|s| unsafe { (s.e5rt_buffer_object_alloc)(out, bytes + 2, kind) })
        }
        s.e5rt_buffer_object_alloc = f;
    }),
    ("a kind of memory that there is not", GENEROUS, |s| {
        unsafe extern "C" fn f(out: *mut Raw, bytes: u64, _kind: u32) -> Code {
            sound(|s| unsafe { (s.e5rt_buffer_object_alloc)(out, bytes, 3) })
        }
        s.e5rt_buffer_object_alloc = f;
    }),
    ("a port is bound to the buffer of the one before", GENEROUS, |s| {
        unsafe extern "C" fn f(port: Raw, buffer: Raw) -> Code {
            let before = FIRST.replace(buffer);
            let buffer = if before.is_null() { buffer } else { before };
            sound(|s| unsafe { (s.e5rt_io_port_bind_buffer_object)(port, buffer) })
        }
        s.e5rt_io_port_bind_buffer_object = f;
    }),
    ("a port is left unbound", GENEROUS, |s| {
        unsafe extern "C" fn f(port: Raw, buffer: Raw) -> Code {
            if FIRST.get().is_null() {
                FIRST.set(port);
            }
            if FIRST.get() == port {
                return 0;
            }
            sound(|s| unsafe { (s.e5rt_io_port_bind_buffer_object)(port, buffer) })
        }
        s.e5rt_io_port_bind_buffer_object = f;
    }),
    ("a buffer is released as soon as it is bound", GENEROUS, |s| {
        unsafe extern "C" fn f(port: Raw, buffer: Raw) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_io_port_bind_buffer_object)(port, buffer) });
            let mut gone = buffer;
            sound(|s| unsafe { (s.e5rt_buffer_object_release)(&raw mut gone) });
            code
        }
        s.e5rt_io_port_bind_buffer_object = f;
    }),
    ("bindings are not told to an operation that has run", ANEFORGE, |s| {
        unsafe extern "C" fn f(_op: Raw) -> Code {
            0
        }
        s.e5rt_execution_stream_operation_prepare_op_for_encode = Some(f);
    }),
    ("a stream is not reset before it is filled anew", ANEFORGE, |s| {
        unsafe extern "C" fn f(_stream: Raw) -> Code {
            0
        }
        s.e5rt_execution_stream_reset = Some(f);
    }),
    ("an operation that has run keeps its first buffers", ANEFORGE, |s| {
        unsafe extern "C" fn f(port: Raw, buffer: Raw) -> Code {
            KEPT.with_borrow_mut(|kept| {
                if kept.contains(&port) {
                    return 0;
                }
                kept.push(port);
                sound(|s| unsafe { (s.e5rt_io_port_bind_buffer_object)(port, buffer) })
            })
        }
        s.e5rt_io_port_bind_buffer_object = f;
    }),
    ("a stream is left empty", GENEROUS, |s| {
        unsafe extern "C" fn f(_stream: Raw, _op: Raw) -> Code {
            0
        }
        s.e5rt_execution_stream_encode_operation = f;
    }),
    ("an operation is encoded twice", GENEROUS, |s| {
        unsafe extern "C" fn f(stream: Raw, op: Raw) -> Code {
            sound(|s| unsafe {
                (s.e5rt_execution_stream_encode_operation)(stream, op);
                (s.e5rt_execution_stream_encode_operation)(stream, op)
            })
        }
        s.e5rt_execution_stream_encode_operation = f;
    }),
    ("runs are left out", GENEROUS, |s| {
        unsafe extern "C" fn f(_stream: Raw) -> Code {
            0
        }
        s.e5rt_execution_stream_execute_sync = f;
    }),
    ("every run happens twice", GENEROUS, |s| {
        unsafe extern "C" fn f(stream: Raw) -> Code {
            sound(|s| unsafe {
                (s.e5rt_execution_stream_execute_sync)(stream);
                (s.e5rt_execution_stream_execute_sync)(stream)
            })
        }
        s.e5rt_execution_stream_execute_sync = f;
    }),
    ("the result of a run is ignored", GENEROUS, |s| {
        unsafe extern "C" fn f(stream: Raw) -> Code {
            sound(|s| unsafe { (s.e5rt_execution_stream_execute_sync)(stream) });
            0
        }
        s.e5rt_execution_stream_execute_sync = f;
    }),
    ("errors are looked up by a function that answers a C++ string", ANEFORGE, |s| {
        s.e5rt_get_last_error_message = Some(cxx_string);
    }),
    ("buffers are kept", GENEROUS, |s| s.e5rt_buffer_object_release = keep),
    ("ports are kept", GENEROUS, |s| s.e5rt_io_port_release = keep),
    ("operations are kept", GENEROUS, |s| s.e5rt_execution_stream_operation_release = keep),
    ("streams are kept", GENEROUS, |s| s.e5rt_execution_stream_release = keep),
    ("libraries are kept", GENEROUS, |s| s.e5rt_program_library_release = keep),
    ("options of the compiler are kept", GENEROUS, |s| s.e5rt_e5_compiler_options_release = keep),
    ("buffers are released twice", GENEROUS, |s| {
        unsafe extern "C" fn f(handle: *mut Raw) -> Code {
            let mut again = unsafe { *handle };
            sound(|s| unsafe {
                (s.e5rt_buffer_object_release)(handle);
                (s.e5rt_buffer_object_release)(&raw mut again)
            })
        }
        s.e5rt_buffer_object_release = f;
    }),
    ("a release is given the handle and not its place", GENEROUS, |s| {
        unsafe extern "C" fn f(handle: *mut Raw) -> Code {
            let place = unsafe { *handle }.cast::<Raw>();
            sound(|s| unsafe { (s.e5rt_io_port_release)(place) })
        }
        s.e5rt_io_port_release = f;
    }),
    ("an operation is released before its stream", GENEROUS, |s| {
        unsafe extern "C" fn f(handle: *mut Raw) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_execution_stream_operation_release)(handle) });
            late(|s| s.e5rt_execution_stream_release);
            code
        }
        s.e5rt_execution_stream_release = keep;
        s.e5rt_execution_stream_operation_release = f;
    }),
    ("a function is released before the options made of it", GENEROUS, |s| {
        unsafe extern "C" fn f(handle: *mut Raw) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_program_function_release)(handle) });
            late(|s| s.e5rt_precompiled_compute_op_create_options_release);
            code
        }
        s.e5rt_precompiled_compute_op_create_options_release = keep;
        s.e5rt_program_function_release = f;
    }),
    ("a library is released before its function", GENEROUS, |s| {
        unsafe extern "C" fn f(handle: *mut Raw) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_program_library_release)(handle) });
            late(|s| s.e5rt_program_function_release);
            code
        }
        s.e5rt_program_function_release = keep;
        s.e5rt_program_library_release = f;
    }),
    ("compilers are released before their library has an operation", GENEROUS, |s| {
        unsafe extern "C" fn f(compiler: Raw, path: *const c_char, options: Raw, out: *mut Raw) -> Code {
            let code = sound(|s| unsafe { (s.e5rt_e5_compiler_compile)(compiler, path, options, out) });
            let mut early = compiler;
            sound(|s| unsafe { (s.e5rt_e5_compiler_release)(&raw mut early) });
            code
        }
        unsafe extern "C" fn nothing(_handle: *mut Raw) -> Code {
            0
        }
        s.e5rt_e5_compiler_compile = f;
        s.e5rt_e5_compiler_release = nothing;
    }),
    ("intermediate buffers are set on what is no option", GENEROUS, |s| {
        unsafe extern "C" fn f(_options: Raw, value: c_int) -> Code {
            sound(|s| unsafe {
                (s.e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers)(
                    std::ptr::null_mut(),
                    value,
                )
            })
        }
        s.e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers = f;
    }),
];

const GENEROUS: &str = "hypothetical/generous";
const ANEFORGE: &str = "M5/ANEForge";

/// `one` for `two`, and the other way round.
fn other(name: *const c_char, one: &'static CStr, two: &'static CStr) -> CString {
    // SAFETY: the driver gives C strings.
    let name = unsafe { CStr::from_ptr(name) };
    match name {
        name if name == one => two.to_owned(),
        name if name == two => one.to_owned(),
        name => name.to_owned(),
    }
}

/// Does not release, and remembers.
unsafe extern "C" fn keep(handle: *mut Raw) -> Code {
    KEPT.with_borrow_mut(|kept| kept.push(unsafe { *handle }));
    0
}

/// Releases what was kept.
fn late(release: impl Fn(&Symbols) -> super::symbols::Release) {
    for mut raw in KEPT.take() {
        sound(|s| unsafe { release(s)(&raw mut raw) });
    }
}

/// What calling `e5rt_error_code_get_string` from C amounts to.
unsafe extern "C" fn cxx_string() -> *const c_char {
    let path = LIBRARY.with_borrow(Clone::clone);
    // SAFETY: the library is loaded already; the function takes a code.
    unsafe {
        let library = libloading::os::unix::Library::new(&path).unwrap();
        let f = library
            .get::<unsafe extern "C" fn(Code) -> *const c_char>(b"e5rt_error_code_get_string\0")
            .unwrap();
        let answer = f(1);
        std::mem::forget(library);
        answer
    }
}

#[test]
fn a_driver_without_faults_passes() {
    for profile in [GENEROUS, ANEFORGE] {
        assert_eq!(noticed(profile, |_| {}), Ok(()), "{profile}");
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    let mut told = HashMap::new();
    for (fault, profile, plant) in FAULTS {
        match noticed(profile, plant) {
            Ok(()) => panic!("nobody notices that {fault}"),
            Err(by) => {
                println!("{fault}: {}", by.lines().next().unwrap_or_default());
                told.insert(fault, by);
            }
        }
    }
    assert!(told.len() >= 25, "{} faults", told.len());
}

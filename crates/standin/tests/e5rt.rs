//! A stranger's driver: the calls in the order that ANEForge documents, and what happens out of order.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every call is one that the documentation of Espresso's interface describes"
)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use half::f16;
use mil::text::{self, WriteOptions};
use mil::{Builder, Element, Op, Program};
use sim::Profile;
use standin::StandIn;

type Raw = *mut c_void;

/// Calls a function by its name, as dlsym would: the arguments say what it is.
macro_rules! call {
    ($s:expr, $name:expr $(, $arg:expr => $ty:ty)*) => {
        unsafe {
            let f = $s.library().get::<unsafe extern "C" fn($($ty),*) -> i64>($name.as_bytes()).unwrap();
            f($($arg),*)
        }
    };
}

/// Creates: out-pointer first. The code and the handle.
macro_rules! create {
    ($s:expr, $name:expr $(, $arg:expr => $ty:ty)*) => {{
        let mut out: Raw = null_mut();
        let code = call!($s, $name, &raw mut out => *mut Raw $(, $arg => $ty)*);
        (code, out)
    }};
}

fn last_error(s: &StandIn) -> String {
    unsafe {
        let f = s
            .library()
            .get::<unsafe extern "C" fn() -> *const c_char>(b"e5rt_get_last_error_message")
            .unwrap();
        CStr::from_ptr(f()).to_string_lossy().into_owned()
    }
}

fn release(s: &StandIn, name: &str, mut handle: Raw) -> i64 {
    call!(s, name, &raw mut handle => *mut Raw)
}

/// Everything up to the library.
struct Compiled {
    config: Raw,
    compiler: Raw,
    options: Raw,
    library: Raw,
    code: i64,
    bundle: PathBuf,
}

fn compile(s: &StandIn, program: &Program, name: &str, mask: u64) -> Compiled {
    let dir = s.folder().join(name);
    let mil = text::write_to_dir(program, &dir, &WriteOptions::ane()).unwrap();
    let c = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    let (mil, place) = (c(&mil), c(&dir.join("cache")));
    let (_, config) = create!(s, "e5rt_e5_compiler_config_options_create");
    call!(s, "e5rt_e5_compiler_config_options_set_cache_bundle_location", config => Raw, place.as_ptr() => *const c_char);
    let (_, compiler) = create!(s, "e5rt_e5_compiler_create_with_config", config => Raw);
    let (_, options) = create!(s, "e5rt_e5_compiler_options_create");
    call!(s, "e5rt_e5_compiler_options_set_compute_device_types_mask", options => Raw, mask => u64);
    let mut library: Raw = null_mut();
    let code = call!(s, "e5rt_e5_compiler_compile", compiler => Raw, mil.as_ptr() => *const c_char,
        options => Raw, &raw mut library => *mut Raw);
    Compiled { config, compiler, options, library, code, bundle: dir.join("cache/main.bundle") }
}

/// A loaded operation and what it was made of.
struct Loaded {
    function: Raw,
    options: Raw,
    operation: Raw,
    code: i64,
}

fn load(s: &StandIn, library: Raw) -> Loaded {
    let mut function: Raw = null_mut();
    call!(s, "e5rt_program_library_retain_program_function", library => Raw, c"main".as_ptr() => *const c_char,
        &raw mut function => *mut Raw);
    let (_, options) = create!(s, "e5rt_precompiled_compute_op_create_options_create_with_program_function", function => Raw);
    let (code, operation) = operation(s, options);
    Loaded { function, options, operation, code }
}

fn operation(s: &StandIn, options: Raw) -> (i64, Raw) {
    create!(s, "e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options", options => Raw)
}

fn port(s: &StandIn, operation: Raw, way: &str, name: &CStr) -> (i64, Raw) {
    let mut out: Raw = null_mut();
    let function = format!("e5rt_execution_stream_operation_retain_{way}_port");
    let code = call!(s, function, operation => Raw, name.as_ptr() => *const c_char, &raw mut out => *mut Raw);
    (code, out)
}

/// A buffer of this many halves, and its memory.
fn buffer(s: &StandIn, halves: usize) -> (Raw, &'static mut [f16]) {
    let bytes = (2 * halves).next_multiple_of(64);
    let (code, buffer) = create!(s, "e5rt_buffer_object_alloc", bytes as u64 => u64, 0 => u32);
    assert_eq!(code, 0);
    let mut data: Raw = null_mut();
    assert_eq!(call!(s, "e5rt_buffer_object_get_data_ptr", buffer => Raw, &raw mut data => *mut Raw), 0);
    (buffer, unsafe { std::slice::from_raw_parts_mut(data.cast::<f16>(), halves) })
}

fn bind(s: &StandIn, port: Raw, buffer: Raw) -> i64 {
    call!(s, "e5rt_io_port_bind_buffer_object", port => Raw, buffer => Raw)
}

fn encode(s: &StandIn, stream: Raw, operation: Raw) -> i64 {
    call!(s, "e5rt_execution_stream_encode_operation", stream => Raw, operation => Raw)
}

fn execute(s: &StandIn, stream: Raw) -> i64 {
    call!(s, "e5rt_execution_stream_execute_sync", stream => Raw)
}

/// x [1, 32, 1, 64], w [1, 1, 32, 32] -> y = w x.
fn product() -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x0", &[1, 1, 32, 64]).unwrap();
    let w = b.input("w0", &[1, 1, 32, 32]).unwrap();
    let y = b.matmul(w, x, false, false).unwrap();
    b.output("y0", y).unwrap();
    b.finish().unwrap()
}

/// One input and one output of 64 x 64.
fn unary(body: impl FnOnce(&mut Builder, mil::ValueId) -> mil::ValueId) -> Program {
    let mut b = Builder::new(Element::F16);
    let x = b.input("x0", &[1, 64, 1, 64]).unwrap();
    let y = body(&mut b, x);
    b.output("y0", y).unwrap();
    b.finish().unwrap()
}

fn doubled() -> Program {
    unary(|b, x| b.add(x, x).unwrap())
}

/// Runs a program of one input and one output.
fn run(s: &StandIn, program: &Program, input: &[f16], mask: u64) -> Vec<f16> {
    let compiled = compile(s, program, "run", mask);
    assert_eq!(compiled.code, 0, "{}", last_error(s));
    let loaded = load(s, compiled.library);
    let (x, y) = (port(s, loaded.operation, "input", c"x0").1, port(s, loaded.operation, "output", c"y0").1);
    let (a, memory) = buffer(s, input.len());
    memory.copy_from_slice(input);
    let (b, result) = buffer(s, program.output("y0").unwrap().numel());
    let (_, stream) = create!(s, "e5rt_execution_stream_create");
    assert_eq!(
        (bind(s, x, a), bind(s, y, b), encode(s, stream, loaded.operation), execute(s, stream)),
        (0, 0, 0, 0)
    );
    result.to_vec()
}

/// Oracle: the interpreter, bit for bit. The order of releases is that of ANEForge's code.
#[test]
fn the_documented_sequence_computes_and_ends_clean() {
    let s = StandIn::new("M5/ANEForge");
    let compiled = compile(&s, &product(), "product", 0x4);
    let loaded = load(&s, compiled.library);
    for (function, handle) in [
        ("e5rt_e5_compiler_options_release", compiled.options),
        ("e5rt_e5_compiler_release", compiled.compiler),
        ("e5rt_e5_compiler_config_options_release", compiled.config),
    ] {
        assert_eq!(release(&s, function, handle), 0);
    }
    let x: Vec<f32> = (0..32 * 64).map(|i| (i % 13) as f32 / 8.0 - 0.7).collect();
    let w: Vec<f32> = (0..32 * 32).map(|i| (i % 7) as f32 / 16.0).collect();
    let mut held = Vec::new();
    for (way, name, values) in [("input", c"x0", &x[..]), ("input", c"w0", &w[..]), ("output", c"y0", &[])] {
        let (code, port) = port(&s, loaded.operation, way, name);
        assert_eq!(code, 0);
        let (buffer, memory) = buffer(&s, if values.is_empty() { 32 * 64 } else { values.len() });
        // Memory is not zeroed.
        assert!(memory[0].is_nan());
        memory.iter_mut().zip(values).for_each(|(half, value)| *half = f16::from_f32(*value));
        assert_eq!(bind(&s, port, buffer), 0);
        held.push((buffer, port, memory));
    }
    let (_, stream) = create!(s, "e5rt_execution_stream_create");
    assert_eq!((encode(&s, stream, loaded.operation), execute(&s, stream), execute(&s, stream)), (0, 0, 0));
    let expected = sim::run(&product(), &Profile::m5(), &[("x0", &x), ("w0", &w)]).unwrap();
    let found: Vec<f32> = held[2].2.iter().map(|half| half.to_f32()).collect();
    assert_eq!(found, expected["y0"]);

    assert_eq!(release(&s, "e5rt_execution_stream_release", stream), 0);
    for (buffer, port, memory) in held {
        assert_eq!(release(&s, "e5rt_buffer_object_release", buffer), 0);
        assert_eq!(release(&s, "e5rt_io_port_release", port), 0);
        // What was released holds nothing of use.
        assert!(memory.iter().all(|half| half.is_nan()));
    }
    for (function, handle) in [
        ("e5rt_execution_stream_operation_release", loaded.operation),
        ("e5rt_precompiled_compute_op_create_options_release", loaded.options),
        ("e5rt_program_function_release", loaded.function),
        ("e5rt_program_library_release", compiled.library),
    ] {
        assert_eq!(release(&s, function, handle), 0);
    }
    assert_eq!((s.violations().as_str(), s.live().as_str()), ("", ""));
    let trace = s.trace();
    assert!(trace.contains("e5rt_io_port_bind_buffer_object(port#8, buffer#9)"), "{trace}");
}

#[test]
fn swapped_arguments_fail_in_espressos_words() {
    let s = StandIn::new("M5/ANEForge");
    let compiled = compile(&s, &product(), "product", 0x4);
    let loaded = load(&s, compiled.library);
    let mut out: Raw = null_mut();
    let code = call!(s, "e5rt_precompiled_compute_op_create_options_create_with_program_function",
        loaded.function => *mut c_void, (&raw mut out).cast() => *mut c_void);
    assert!(code != 0 && out.is_null());
    assert_eq!(last_error(&s), "Cannot provide program function as nullptr. @ Create");
    assert_eq!(create!(s, "e5rt_buffer_object_alloc", 64 => u64, 3 => u32).0, 1);
    assert_eq!(last_error(&s), "Invalid BufferType @ AllocMemory");
    let event = create!(s, "e5rt_async_event_create", std::ptr::null() => *const c_char, 0 => u32);
    assert!(event.0 != 0 && last_error(&s) == "eventName is NULL");
    // A handle of another kind.
    assert_ne!(execute(&s, loaded.function), 0);
    assert!(s.violations().contains("function#5 is given where a stream is expected"), "{}", s.violations());
}

#[test]
fn an_operation_is_encoded_anew_in_one_order_only() {
    let s = StandIn::new("M5/ANEForge");
    let compiled = compile(&s, &doubled(), "doubled", 0x4);
    let operation = load(&s, compiled.library).operation;
    let (x, y) = (port(&s, operation, "input", c"x0").1, port(&s, operation, "output", c"y0").1);
    let (_, stream) = create!(s, "e5rt_execution_stream_create");
    let reset = || call!(s, "e5rt_execution_stream_reset", stream => Raw);
    let prepare = || call!(s, "e5rt_execution_stream_operation_prepare_op_for_encode", operation => Raw);
    assert_ne!(reset(), 0, "a fresh stream");
    assert_ne!(prepare(), 0, "a fresh operation");
    assert_eq!(last_error(&s), "Op has not been encoded and hence cannot be reset to 'ReadyForEncode'");
    assert_ne!(execute(&s, stream), 0, "an empty stream");
    assert_ne!(encode(&s, stream, operation), 0, "nothing is bound");
    let (a, first) = buffer(&s, 4096);
    let (b, second) = buffer(&s, 4096);
    let (c, result) = buffer(&s, 4096);
    first.fill(f16::from_f32(1.5));
    second.fill(f16::from_f32(-4.0));
    assert_eq!(
        (bind(&s, x, a), bind(&s, y, c), encode(&s, stream, operation), execute(&s, stream)),
        (0, 0, 0, 0)
    );
    assert!(result.iter().all(|half| half.to_f32() == 3.0));
    assert_ne!(bind(&s, x, b), 0, "it is encoded");
    assert_ne!(prepare(), 0, "it is still in the stream");
    assert_eq!(
        (reset(), prepare(), bind(&s, x, b), encode(&s, stream, operation), execute(&s, stream)),
        (0, 0, 0, 0, 0)
    );
    assert!(result.iter().all(|half| half.to_f32() == -8.0));
    assert!(
        s.violations().contains("port x0 is bound after its operation was encoded"),
        "{}",
        s.violations()
    );
    // One that cannot be bound anew.
    let s = StandIn::new("M4/mil_infer");
    let compiled = compile(&s, &doubled(), "doubled", 0x4);
    let operation = load(&s, compiled.library).operation;
    let (x, y) = (port(&s, operation, "input", c"x0").1, port(&s, operation, "output", c"y0").1);
    let (_, stream) = create!(s, "e5rt_execution_stream_create");
    let ((a, _), (b, _)) = (buffer(&s, 4096), buffer(&s, 4096));
    assert_eq!((bind(&s, x, a), bind(&s, y, b), encode(&s, stream, operation)), (0, 0, 0));
    assert_eq!(call!(s, "e5rt_execution_stream_reset", stream => Raw), 0);
    assert_ne!(call!(s, "e5rt_execution_stream_operation_prepare_op_for_encode", operation => Raw), 0);
}

#[test]
fn programs_are_limited_and_a_release_frees_a_place() {
    let s = StandIn::new("hypothetical/generous");
    let compiled = compile(&s, &doubled(), "doubled", 0x4);
    let first = load(&s, compiled.library);
    for loaded in 1..128 {
        assert_eq!(operation(&s, first.options).0, 0, "{loaded}");
    }
    assert_ne!(operation(&s, first.options).0, 0);
    assert_eq!(last_error(&s), "ANE model load has failed: 128 programs are loaded");
    assert_eq!(release(&s, "e5rt_execution_stream_operation_release", first.operation), 0);
    assert_eq!(operation(&s, first.options).0, 0);
    // The other profiles make one operation of a function.
    let s = StandIn::new("M5/ANEForge");
    let loaded = load(&s, compile(&s, &doubled(), "doubled", 0x4).library);
    assert_eq!((loaded.code, operation(&s, loaded.options).0), (0, 11));
}

#[test]
fn masks_choose_the_engine_and_the_bundle_says_which() {
    for (mask, backend) in
        [(0x1, "bnns"), (0x2, "mps_graph"), (0x3, "bnns"), (0x4, "ane"), (0x5, "ane"), (0x7, "ane")]
    {
        let s = StandIn::new("M5/ANEForge");
        let compiled = compile(&s, &doubled(), "doubled", mask);
        let told = std::fs::read_to_string(compiled.bundle.join("M5.bundle/analytics.mil")).unwrap();
        assert!(told.contains(&format!("SelectedBackend = string(\"{backend}\")")), "{mask:#x}: {told}");
    }
    // What the engine refuses goes to the CPU under 0x7 alone.
    let rank_6 = unary(|b, x| {
        let six = b.reshape(x, &[1, 1, 1, 64, 1, 64]).unwrap();
        let six = b.add(six, six).unwrap();
        b.reshape(six, &[1, 64, 1, 64]).unwrap()
    });
    let s = StandIn::new("M5/ANEForge");
    let refused = compile(&s, &rank_6, "refused", 0x4);
    assert!(refused.code == 11 && refused.library.is_null(), "{}", last_error(&s));
    assert!(last_error(&s).starts_with("ANECCompile() FAILED") && last_error(&s).contains("ANE-RANK"));
    assert_eq!(compile(&s, &rank_6, "other", 0x7).code, 0);
}

/// Rules ANE-054, ANE-057 and ANE-060: what is wrong is wrong in silence, and only where it was seen.
#[test]
fn silent_faults_are_those_of_the_profile() {
    let slice = unary(|b, x| b.slice(x, &[0, 0, 0, 16], &[1, 64, 1, 32]).unwrap());
    let large = [f16::from_f32(5000.0); 4096];
    for (profile, expected) in
        [("M1/ANEForge", f32::INFINITY), ("M2/ANEForge", f32::INFINITY), ("M5/ANEForge", 5000.0)]
    {
        let found = run(&StandIn::new(profile), &slice, &large, 0x4);
        assert!(found.iter().all(|half| half.to_f32() == expected), "{profile}: {}", found[0]);
        assert!(run(&StandIn::new(profile), &slice, &large, 0x1).iter().all(|half| half.to_f32() == 5000.0));
    }
    let mut b = Builder::new(Element::F16);
    let x = b.input("x0", &[1, 1, 64, 64]).unwrap();
    let square = b.matmul(x, x, false, false).unwrap();
    b.output("y0", square).unwrap();
    let square = b.finish().unwrap();
    // 64 * 25 * 25 = 40,000 is above half of what f16 holds.
    let found = run(&StandIn::new("M5/ANEForge"), &square, &[f16::from_f32(25.0); 4096], 0x4);
    assert!(found.iter().all(|half| *half == f16::INFINITY), "{}", found[0]);
    let tanh = unary(|b, x| b.push1(Op::Tanh, &[x]).unwrap());
    let nan = run(&StandIn::new("M5/ANEForge"), &tanh, &[f16::NAN; 4096], 0x4);
    assert!(nan.iter().all(|half| half.is_finite()), "{}", nan[0]);
    assert!(run(&StandIn::new("hypothetical/generous"), &tanh, &[f16::NAN; 4096], 0x4)[0].is_nan());
}

#[test]
fn bundles_open_as_the_profile_says() {
    let open = |profile: &str, other_process: bool, path_first: bool| -> i64 {
        let s = StandIn::new(profile);
        let compiled = compile(&s, &doubled(), "doubled", 0x4);
        if other_process {
            std::fs::write(compiled.bundle.join(format!("{}.bundle/process", &profile[..2])), "1").unwrap();
        }
        let path = CString::new(compiled.bundle.to_str().unwrap()).unwrap();
        let mut library: Raw = null_mut();
        let (path, out) = (path.as_ptr().cast_mut().cast::<c_void>(), (&raw mut library).cast::<c_void>());
        let (first, second) = if path_first { (path, out) } else { (out, path) };
        match call!(s, "e5rt_program_library_create", first => Raw, second => Raw) {
            0 => load(&s, library).code,
            code => {
                assert_eq!(last_error(&s), "Invalid E5 path specified. @ GetE5PathFromCompositeBundle");
                code
            }
        }
    };
    assert_eq!((open("M5/ANEForge", false, true), open("M5/ANEForge", true, true)), (0, 11));
    assert_eq!((open("M4/mil_infer", true, true), open("M4/mil_infer", true, false)), (0, 1));
}

#[test]
fn bad_luck_happens_when_it_is_planted() {
    let ones = [f16::ONE; 4096];
    let s = StandIn::new("M5/ANEForge");
    s.plant("silent-zero@1");
    assert!(run(&s, &doubled(), &ones, 0x4).iter().all(|half| *half == f16::ZERO));
    assert!(run(&s, &doubled(), &ones, 0x4).iter().all(|half| half.to_f32() == 2.0));
    s.plant("nan@3");
    assert!(run(&s, &doubled(), &ones, 0x4)[0].is_nan());
    s.plant("compile-refuse=doubled/");
    assert_eq!(compile(&s, &doubled(), "doubled", 0x4).code, 11);
    assert_eq!(compile(&s, &doubled(), "sound", 0x4).code, 0);
    s.plant("load-refuse");
    assert_eq!(load(&s, compile(&s, &doubled(), "sound", 0x4).library).code, 11);
}

/// A block of C, as compilers lay it out.
#[repr(C)]
struct Block {
    isa: Raw,
    flags: i32,
    reserved: i32,
    invoke: unsafe extern "C" fn(*mut Block) -> i64,
    descriptor: Raw,
    called: u32,
}

/// The block is called once, after the run; its code is the answer; only then do events advance.
#[test]
fn a_submitted_run_signals_its_event_and_calls_its_block() {
    unsafe extern "C" fn invoke(block: *mut Block) -> i64 {
        unsafe { (*block).called += 1 };
        5
    }
    let s = StandIn::new("M5/ANEForge");
    let operation = load(&s, compile(&s, &doubled(), "doubled", 0x4).library).operation;
    let (x, y) = (port(&s, operation, "input", c"x0").1, port(&s, operation, "output", c"y0").1);
    let ((a, memory), (b, result)) = (buffer(&s, 4096), buffer(&s, 4096));
    memory.fill(f16::from_f32(1.5));
    let (_, event) = create!(s, "e5rt_async_event_create", c"done".as_ptr() => *const c_char, 0 => u32);
    let bind_event =
        || call!(s, "e5rt_execution_stream_operation_bind_completion_event", operation => Raw, event => Raw);
    let signaled = || {
        let mut value = 9;
        call!(s, "e5rt_async_event_get_last_signaled_value", event => Raw, &raw mut value => *mut u64);
        value
    };
    let (_, stream) = create!(s, "e5rt_execution_stream_create");
    assert_eq!(
        (bind(&s, x, a), bind(&s, y, b), bind_event(), encode(&s, stream, operation), execute(&s, stream)),
        (0, 0, 0, 0, 0)
    );
    assert_eq!(signaled(), 0, "execute_sync signals nothing");
    assert_ne!(call!(s, "e5rt_async_event_sync_wait", event => Raw), 0);
    assert!(s.violations().contains("waited for that nothing signals"), "{}", s.violations());

    memory.fill(f16::from_f32(2.0));
    let mut block =
        Block { isa: null_mut(), flags: 0, reserved: 0, invoke, descriptor: null_mut(), called: 0 };
    let submit = |stream: Raw, block: *mut Block| call!(s, "e5rt_execution_stream_submit_async", stream => Raw, block => *mut Block);
    assert_eq!(submit(stream, &raw mut block), 5);
    assert_eq!((block.called, signaled(), result[0].to_f32()), (1, 1, 4.0));
    assert_eq!(call!(s, "e5rt_async_event_sync_wait", event => Raw), 0);
    // A run that fails calls nothing.
    s.plant("execute-error@3");
    assert_eq!((submit(stream, &raw mut block), block.called, signaled()), (13, 1, 1));
    let (_, empty) = create!(s, "e5rt_execution_stream_create");
    assert_eq!((submit(empty, &raw mut block), block.called), (1, 1));
}

/// Rule ANE-011. What a forked process is told, it says by how it ends.
#[cfg(unix)]
#[test]
fn a_forked_process_is_refused() {
    let s = StandIn::new("M5/ANEForge");
    assert_eq!(create!(s, "e5rt_execution_stream_create").0, 0);
    // SAFETY: no other thread has called this copy of the library, and the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let told = create!(s, "e5rt_execution_stream_create").0;
        // SAFETY: it takes a number and does not return.
        unsafe { libc::_exit(told as i32) }
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    let told = libc::WEXITSTATUS(status);
    assert_eq!((told, s.violations().as_str()), (1, ""), "the parent may go on");
}

/// Introspection tells what the text says.
#[test]
fn a_loaded_operation_names_its_ports() {
    let s = StandIn::new("M4/mil_infer");
    let operation = load(&s, compile(&s, &product(), "product", 0x4).library).operation;
    let mut count = 0;
    call!(s, "e5rt_execution_stream_operation_get_num_inputs", operation => Raw, &raw mut count => *mut u64);
    let mut names = [std::ptr::null::<c_char>(); 2];
    call!(s, "e5rt_execution_stream_operation_get_input_names", operation => Raw, count => u64,
        names.as_mut_ptr() => *mut *const c_char);
    let names = names.map(|name| unsafe { CStr::from_ptr(name) }.to_str().unwrap());
    assert_eq!((count, names), (2, ["x0", "w0"]));
    let (code, _) = port(&s, operation, "input", c"y0");
    assert!(code != 0 && last_error(&s) == "there is no Input port y0");
    let (_, w) = port(&s, operation, "input", c"w0");
    let mut desc: Raw = null_mut();
    call!(s, "e5rt_io_port_retain_tensor_desc", w => Raw, &raw mut desc => *mut Raw);
    let mut elements = 0;
    call!(s, "e5rt_tensor_desc_get_num_elements", desc => Raw, &raw mut elements => *mut u64);
    assert_eq!(elements, 32 * 32);
}

/// Text as ANEForge writes it: flags and numbers as arguments, its own header, everything in one line.
#[test]
fn text_of_other_writers_compiles() {
    let s = StandIn::new("M5/ANEForge");
    let dir = s.folder().join("foreign");
    std::fs::create_dir_all(&dir).unwrap();
    let mil = dir.join("model.mil");
    std::fs::write(
        &mil,
        "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3520.4.1\"}})]\n{\n\
         func main<ios18>(tensor<fp16, [1, 64, 1, 64]> x0) {\n\
         tensor<fp16, [1, 64, 1, 64]> y0 = mul(x = x0, y = fp16(0x1p+1))[name = string(\"y0\")];\n} -> (y0);\n}\n",
    )
    .unwrap();
    let program = text::read_file(&mil).unwrap();
    assert!(run(&s, &program, &[f16::from_f32(3.0); 4096], 0x4).iter().all(|half| half.to_f32() == 6.0));
}

//! Drivers with one fault each, and the driver that ships under every profile: on a library with the classes of
//! the real framework, on GCC's Objective-C runtime.
//!
//! A fault stands between the driver and the library: one of [`Calls`] is replaced by one that does what a faulty
//! driver would have done. Classes belong to the process, so each fault has a process of its own.
#![allow(
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn,
    reason = "every block passes on what the driver gave, changed as the fault's name says"
)]

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use device::{Binding, Buffer, Device};
use mil::lint::Chip;
use mil::{Builder, Constant, Element, Program};
use objc2::runtime::{AnyObject, Bool};
use standin::StandIn;

use super::InMemDevice;
use super::framework::{Calls, Classes, Framework, Id, Object, READ_ONLY, Sides, SurfaceRef, id};
use crate::Options;

/// What a child process is to do.
const CHILD: &str = "ANE_PLANTED";

/// The calls without faults.
static SOUND: OnceLock<Calls> = OnceLock::new();

thread_local! {
    /// What a fault saw first.
    static FIRST: Cell<usize> = const { Cell::new(0) };
    /// Calls so far.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn sound() -> &'static Calls {
    SOUND.get().expect("set before the driver runs")
}

fn count() -> usize {
    COUNT.replace(COUNT.get() + 1)
}

/// A program with two inputs, two outputs of different sizes, and a constant that goes to a blob file:
/// a, b [1, 64, 1, 128] -> p = a - b c [1, 64, 1, 128], q = the first half of a b [1, 64, 1, 64], with
/// c [1, 64, 1, 1]; `power` makes different ones.
fn program(power: usize) -> Program {
    let mut b = Builder::new(Element::F16);
    let shape = [1, 64, 1, 128];
    let x = b.input("a", &shape).unwrap();
    let w = b.input("b", &shape).unwrap();
    let gains: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 64.0).collect();
    let c = b.constant(Constant::float(Element::F16, &[1, 64, 1, 1], gains));
    let scaled = b.mul(w, c).unwrap();
    let mut y = b.sub(x, scaled).unwrap();
    for _ in 1..power {
        y = b.mul(y, x).unwrap();
    }
    let z = b.mul(x, w).unwrap();
    let half = b.slice(z, &[0; 4], &[1, 64, 1, 64]).unwrap();
    b.output("p", y).unwrap();
    b.output("q", half).unwrap();
    b.finish().unwrap()
}

fn values(seed: usize, numel: usize) -> Vec<f32> {
    (0..numel).map(|at| ((seed * 31 + at * 17) % 97) as f32 / 64.0 - 0.7).collect()
}

/// What two programs with two bindings each give, one of which reads what another has computed; inputs change
/// between runs, and one of them only once.
fn work(device: &dyn Device) -> device::Result<Vec<Vec<f32>>> {
    let programs = [program(1), program(2)];
    let executables = [device.compile("first", &programs[0])?, device.compile("second", &programs[1])?];
    let mut bound: Vec<(device::Invocation, Vec<Buffer>)> = Vec::new();
    for number in 0..4 {
        let mut buffers = Vec::new();
        for (at, port) in programs[0].ports().enumerate() {
            let passed_on = number == 3 && at == 0;
            let buffer = if passed_on { bound[2].1[2].clone() } else { device.alloc(&port.ty.shape)? };
            assert!(buffer.to_vec().iter().all(|value| *value == 0.0), "new buffers are zero");
            buffers.push(buffer);
        }
        let ports = programs[0].ports().zip(&buffers);
        let bindings: Vec<_> = ports.map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
        bound.push((executables[number % 2].bind(&bindings)?, buffers));
    }
    let mut seen = Vec::new();
    for round in 0..3 {
        for (number, (invocation, buffers)) in bound.iter().enumerate() {
            for at in 0..2 {
                let (is_result, is_constant) = (number == 3 && at == 0, at == 1 && round == 1);
                if !is_result && !is_constant {
                    let buffer = &buffers[at];
                    buffer.write_f32(&values(100 * round + 10 * number + at, buffer.numel()))?;
                }
            }
            invocation.run()?;
            seen.extend(buffers[2..].iter().map(Buffer::to_vec));
        }
    }
    let mut sums = vec![1.0; bound[0].1[2].numel()];
    bound[0].1[2].add_to_f32(&mut sums)?;
    seen.push(sums);
    Ok(seen)
}

fn options(stand_in: &StandIn) -> Options {
    Options {
        chip: Some(Chip::M4),
        system: "a stand-in".to_owned(),
        back_off: Duration::ZERO,
        ..Options::here(stand_in.path(), &stand_in.folder().join("engine"))
    }
}

/// Runs a driver with this fault and says what is noticed; `Ok` when nothing is.
fn noticed(profile: &str, plant: fn(&mut Calls)) -> Result<(), String> {
    let stand_in = StandIn::of_objective_c(profile);
    let mut whole = None;
    let framework = Framework::with_calls(&stand_in.path(), |calls| {
        whole = Some(calls.clone());
        plant(calls);
    });
    SOUND.get_or_init(|| whole.expect("copied above"));
    let open = || InMemDevice::with_framework(options(&stand_in), framework.clone());
    let trace = |what: &str| stand_in.trace().lines().filter(|line| line.contains(what)).count();
    {
        let device = open().map_err(|error| error.to_string())?;
        let before = (trace("compile model#"), trace("run model#"));
        let seen = work(&device).map_err(|error| error.to_string())?;
        let expected = work(&sim::SimDevice::new(sim::Profile::m4())).expect("the interpreter takes it");
        if seen != expected {
            return Err("wrong bits".to_owned());
        }
        let telemetry = device.telemetry();
        if (telemetry.compiles, telemetry.dispatches) != (2, 12) {
            return Err(format!("{telemetry:?}"));
        }
        // 12 first inputs and 8 second ones go in, each once; 12 pairs of outputs and a sum come out, and 3
        // outputs go on to another program.
        let (large, small) = (64 * 128 * 2, 64 * 64 * 2);
        let copied = (telemetry.bytes_written, telemetry.bytes_read);
        if copied != (20 * large, 12 * (large + small) + large + 3 * large) {
            return Err(format!("bytes in and out: {copied:?}"));
        }
        let after = (trace("compile model#"), trace("run model#"));
        if (after.0 - before.0, after.1 - before.1) != (2, 12) {
            return Err(format!("{before:?} compiles and runs became {after:?}"));
        }
    }
    for (what, told) in [("violations", stand_in.violations()), ("live objects", stand_in.live())] {
        if !told.is_empty() {
            return Err(format!("{what}: {told}"));
        }
    }
    let left: Vec<_> = std::fs::read_dir(framework.temporary_directory().expect("it is set"))
        .expect("the child's own folder")
        .map(|entry| entry.expect("as above").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !name.starts_with("anneal") && !name.starts_with("GNUstep"))
        .collect();
    if !left.is_empty() {
        return Err(format!("{left:?} are left in the temporary folder"));
    }
    stand_in.plant(&format!("execute-error@{}+", trace("run model#") + 8));
    match open().map(|device| work(&device).is_err()) {
        Ok(true) => {}
        _ => return Err("a run that failed is taken for one that did not".to_owned()),
    }
    stand_in.plant("load-refuse");
    match open().and_then(|device| work(&device)) {
        Err(error) if error.to_string().contains("0x50004") => Ok(()),
        other => Err(format!("a program that is not loaded: {:?}", other.map(|_| ()))),
    }
}

type Plant = fn(&mut Calls);

const MADERIX: &str = "M4/maderix";

unsafe fn surface_of(pairs: &AnyObject) -> Id {
    unsafe { objc2::msg_send![pairs, objectAtIndex: 0_usize] }
}

/// What a faulty driver would do, and under which profile it shows.
const FAULTS: &[(&str, &str, Plant)] = &[
    ("the text is a string", MADERIX, |c| {
        c.descriptor = |classes, text, weights| unsafe {
            let bytes: *const u8 = objc2::msg_send![text, bytes];
            let length: usize = objc2::msg_send![text, length];
            let string =
                classes.string(std::str::from_utf8(std::slice::from_raw_parts(bytes, length)).unwrap());
            (sound().descriptor)(classes, id(&string), weights)
        };
    }),
    ("the weights are nil", MADERIX, |c| {
        c.descriptor =
            |classes, text, _| unsafe { (sound().descriptor)(classes, text, std::ptr::null_mut()) };
    }),
    ("the weights are left out", MADERIX, |c| {
        c.descriptor = |classes, text, _| unsafe {
            let none = classes.dictionary([]);
            (sound().descriptor)(classes, text, id(&none))
        };
    }),
    ("the text is not written for the compiler", MADERIX, |c| {
        c.write_file =
            |path, bytes| if ends(path, "mil") { Ok(()) } else { (sound().write_file)(path, bytes) };
    }),
    ("the weights are not written for the compiler", MADERIX, |c| {
        c.write_file =
            |path, bytes| if ends(path, "bin") { Ok(()) } else { (sound().write_file)(path, bytes) };
    }),
    ("the weights begin at a wrong offset", MADERIX, |c| {
        c.write_file = |path, bytes| {
            let begin = if ends(path, "bin") { 2 } else { 0 };
            (sound().write_file)(path, &bytes[begin..])
        };
    }),
    ("the weights are cut short", MADERIX, |c| {
        c.write_file = |path, bytes| {
            let end = if ends(path, "bin") { bytes.len() - 2 } else { bytes.len() };
            (sound().write_file)(path, &bytes[..end])
        };
    }),
    ("the second program is compiled from the text of the first", MADERIX, |c| {
        c.write_file = |path, bytes| {
            if !ends(path, "mil") {
                return (sound().write_file)(path, bytes);
            }
            TEXT.with_borrow_mut(|first| {
                // The two programs of the work come last; the second one gets the text of the first.
                if count() != 3 {
                    *first = bytes.to_vec();
                }
                (sound().write_file)(path, first)
            })
        };
    }),
    ("a wrong folder is filled", MADERIX, |c| {
        c.hex = |model| unsafe {
            let own: Object = (sound().hex)(model)?;
            objc2::msg_send![&*own, stringByAppendingString: &*own]
        };
    }),
    ("nothing is compiled", MADERIX, |c| c.compile = |_, _, _| Bool::YES),
    ("everything is compiled twice", MADERIX, |c| {
        c.compile = |model, options, error| unsafe {
            (sound().compile)(model, options, error);
            (sound().compile)(model, options, error)
        };
    }),
    ("nothing is loaded", MADERIX, |c| c.load = |_, _, _| Bool::YES),
    ("the result of a load is ignored", MADERIX, |c| {
        c.load = |model, options, error| unsafe {
            (sound().load)(model, options, error);
            Bool::YES
        };
    }),
    ("everything is loaded twice", MADERIX, |c| {
        c.load = |model, options, error| unsafe {
            (sound().load)(model, options, error);
            (sound().load)(model, options, error)
        };
    }),
    ("runs are left out", MADERIX, |c| c.evaluate = |_, _, _, _| Bool::YES),
    ("every run happens twice", MADERIX, |c| {
        c.evaluate = |model, options, request, error| unsafe {
            (sound().evaluate)(model, options, request, error);
            (sound().evaluate)(model, options, request, error)
        };
    }),
    ("the result of a run is ignored", MADERIX, |c| {
        c.evaluate = |model, options, request, error| unsafe {
            (sound().evaluate)(model, options, request, error);
            Bool::YES
        };
    }),
    ("the first request serves for all", MADERIX, |c| {
        c.evaluate = |model, options, request, error| unsafe {
            // After the small programs, of which each has its request.
            if count() == 4 {
                FIRST.set(request as usize);
            }
            let first = FIRST.get() as Id;
            (sound().evaluate)(model, options, if first.is_null() { request } else { first }, error)
        };
    }),
    ("nothing is unloaded", MADERIX, |c| c.unload = |_, _| Bool::YES),
    ("everything is unloaded twice", MADERIX, |c| {
        c.unload = |model, error| unsafe {
            (sound().unload)(model, error);
            (sound().unload)(model, error)
        };
    }),
    ("models are kept", MADERIX, |c| {
        c.model = |classes, descriptor| unsafe {
            let model = (sound().model)(classes, descriptor)?;
            std::mem::forget(model.clone());
            Some(model)
        };
    }),
    ("requests are kept", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let request = (sound().request)(classes, sides, stats)?;
            std::mem::forget(request.clone());
            Some(request)
        };
    }),
    ("inputs and outputs are swapped", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let sides = Sides { inputs: sides.outputs, outputs: sides.inputs };
            (sound().request)(classes, sides, stats)
        };
    }),
    ("the input is the output too", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let sides = Sides { inputs: sides.inputs, outputs: sides.inputs };
            (sound().request)(classes, sides, stats)
        };
    }),
    ("indices begin at one", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let one = classes.array([id(&classes.number(1))]);
            let sides = Sides { inputs: (sides.inputs.0, &one), outputs: (sides.outputs.0, &one) };
            (sound().request)(classes, sides, stats)
        };
    }),
    ("there is no index", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let none = classes.array([]);
            let sides = Sides { inputs: (sides.inputs.0, &none), outputs: sides.outputs };
            (sound().request)(classes, sides, stats)
        };
    }),
    ("a number stands for a surface", MADERIX, |c| {
        c.request = |classes, sides, stats| unsafe {
            let bare = classes.array([surface_of(sides.inputs.1)]);
            let sides = Sides { inputs: (&bare, sides.inputs.1), outputs: sides.outputs };
            (sound().request)(classes, sides, stats)
        };
    }),
    ("surfaces are half as large", MADERIX, |c| {
        unsafe extern "C-unwind" fn smaller(properties: Id) -> SurfaceRef {
            let classes = classes();
            let keys: Id = objc2::msg_send![properties, allKeys];
            let count: usize = objc2::msg_send![keys, count];
            let entries: Vec<(Id, Object)> = (0..count)
                .map(|at| {
                    let key: Id = objc2::msg_send![keys, objectAtIndex: at];
                    let value: Id = objc2::msg_send![properties, objectForKey: key];
                    let value: usize = objc2::msg_send![value, unsignedIntegerValue];
                    (key, classes.number(if value > 1 { value / 2 } else { value }))
                })
                .collect();
            let halved = classes.dictionary(entries.iter().map(|(key, value)| (*key, id(value))));
            (sound().surface_create)(id(&halved))
        }
        c.surface_create = smaller;
    }),
    ("nothing is locked", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(_: SurfaceRef, _: u32, _: *mut u32) -> i32 {
            0
        }
        (c.surface_lock, c.surface_unlock) = (f, f);
    }),
    ("locks are not given back", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(_: SurfaceRef, _: u32, _: *mut u32) -> i32 {
            0
        }
        c.surface_unlock = f;
    }),
    ("locks for writing are locks for reading", MADERIX, |c| {
        unsafe extern "C-unwind" fn lock(surface: SurfaceRef, _: u32, seed: *mut u32) -> i32 {
            unsafe { (sound().surface_lock)(surface, READ_ONLY, seed) }
        }
        unsafe extern "C-unwind" fn unlock(surface: SurfaceRef, _: u32, seed: *mut u32) -> i32 {
            unsafe { (sound().surface_unlock)(surface, READ_ONLY, seed) }
        }
        (c.surface_lock, c.surface_unlock) = (lock, unlock);
    }),
    ("locks are given back with other options", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(surface: SurfaceRef, options: u32, seed: *mut u32) -> i32 {
            unsafe { (sound().surface_unlock)(surface, options ^ READ_ONLY, seed) }
        }
        c.surface_unlock = f;
    }),
    ("data goes to and comes from a copy", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(surface: SurfaceRef) -> *mut std::ffi::c_void {
            unsafe { (sound().surface_base_address)(surface) };
            Box::leak(vec![0_u64; 1 << 16].into_boxed_slice()).as_mut_ptr().cast()
        }
        c.surface_base_address = f;
    }),
    ("surfaces are not released", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(_: SurfaceRef) {}
        c.release = f;
    }),
    ("surfaces are released twice", MADERIX, |c| {
        unsafe extern "C-unwind" fn f(surface: SurfaceRef) {
            unsafe { (sound().release)(surface) };
            unsafe { (sound().release)(surface) };
        }
        c.release = f;
    }),
    ("all objects are of the first surface", MADERIX, |c| {
        c.surface_object = |classes, surface| unsafe {
            if FIRST.get() == 0 {
                FIRST.set(surface.0 as usize);
            }
            (sound().surface_object)(classes, SurfaceRef(FIRST.get() as *mut _))
        };
    }),
];

fn ends(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Classes for faults that make objects.
fn classes() -> Classes {
    Classes::find(&mut Vec::new()).expect("they were found before")
}

/// Runs this test again, in a process and a temporary folder of its own, to do `what`; `Err` with what it says
/// when it fails.
fn alone(test: &str, what: &str) -> Result<(), String> {
    let temporary = tempfile::tempdir().expect("the system has a temporary folder");
    let output = Command::new(std::env::current_exe().expect("a process knows its program"))
        .args(["--exact", &format!("inmem::driver::planted::{test}"), "--nocapture"])
        .env(CHILD, what)
        .envs(["TEMP", "TMP", "TMPDIR"].map(|name| (name, temporary.path())))
        .output()
        .expect("a test can run itself");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("running 1 test"), "{said}");
    let told = said.lines().find_map(|line| line.split_once("TOLD: ")).map(|(_, told)| told.to_owned());
    match (output.status.success(), told) {
        (true, None) => Ok(()),
        (true, Some(told)) => Err(told),
        // A process that ends in the middle is a fault that is noticed as well.
        (false, _) => Err(format!("{}: {said}", output.status)),
    }
}

#[test]
fn a_driver_without_faults_passes_under_every_profile_that_it_is_for() {
    if let Ok(profile) = std::env::var(CHILD) {
        if let Err(told) = noticed(&profile, |_| {}) {
            println!("TOLD: {}", told.replace('\n', " | "));
        }
        return;
    }
    let test = "a_driver_without_faults_passes_under_every_profile_that_it_is_for";
    for profile in ["M4/maderix", "M4/rustane", "M4/ane-crate", "M5/ANEgpt"] {
        assert_eq!(alone(test, profile), Ok(()), "{profile}");
    }
    // Those whose compiler joins nothing, and the chip whose compiler takes none of it.
    for (profile, wanted) in [
        ("M4/Orion", "(rule ANE-021), and packed programs need it; use --device ane"),
        ("M3/rustane", "(rule ANE-021), and packed programs need it; use --device ane"),
        ("M1/ane-train", "a small program does not run"),
    ] {
        let told = alone(test, profile).expect_err(profile);
        assert!(told.contains(wanted), "{profile}: {told}");
    }
}

#[test]
fn every_planted_fault_is_noticed() {
    if let Ok(number) = std::env::var(CHILD) {
        let (_, profile, plant) = FAULTS[number.parse::<usize>().expect("an index")];
        if let Err(told) = noticed(profile, plant) {
            println!("TOLD: {}", told.replace('\n', " | "));
        }
        return;
    }
    let mut unnoticed = Vec::new();
    for (number, (fault, ..)) in FAULTS.iter().enumerate() {
        match alone("every_planted_fault_is_noticed", &number.to_string()) {
            Ok(()) => unnoticed.push(fault),
            Err(told) => {
                let told: String = told.chars().take(300).collect();
                println!("{fault}: {told}");
            }
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices that {unnoticed:?}");
    assert!(FAULTS.len() >= 25);
}

/// The 120th compile of a process would fail without a word (rule ANE-004).
#[test]
fn a_process_compiles_no_more_than_it_may() {
    if std::env::var(CHILD).is_err() {
        assert_eq!(alone("a_process_compiles_no_more_than_it_may", "yes"), Ok(()));
        return;
    }
    let stand_in = StandIn::of_objective_c(MADERIX);
    let device = InMemDevice::open(options(&stand_in)).unwrap();
    let mut compiled = 0;
    let told = loop {
        let mut b = Builder::new(Element::F16);
        let x = b.input("x", &[1, 64, 1, 384]).unwrap();
        let y = b.scale(x, compiled as f32).unwrap();
        b.output("y", y).unwrap();
        match device.compile("small", &b.finish().unwrap()) {
            Ok(_) => compiled += 1,
            Err(error) => break error.to_string(),
        }
    };
    // Two for finding out what the framework does.
    assert_eq!(compiled, 98);
    assert!(told.contains("has compiled 100 programs") && told.contains("ANE-004"), "{told}");
}

#[test]
fn a_surface_that_cannot_be_read_is_an_error() {
    let test = "a_surface_that_cannot_be_read_is_an_error";
    if std::env::var(CHILD).is_err() {
        assert_eq!(alone(test, "yes"), Ok(()));
        return;
    }
    unsafe extern "C-unwind" fn busy(surface: SurfaceRef, options: u32, seed: *mut u32) -> i32 {
        if FIRST.get() == 1 {
            -536_870_187
        } else {
            unsafe { (sound().surface_lock)(surface, options, seed) }
        }
    }
    let stand_in = StandIn::of_objective_c(MADERIX);
    let framework = Framework::with_calls(&stand_in.path(), |calls| {
        SOUND.get_or_init(|| calls.clone());
        calls.surface_lock = busy;
    });
    let device = InMemDevice::with_framework(options(&stand_in), framework).unwrap();
    let program = program(1);
    let executable = device.compile("program", &program).unwrap();
    let buffers: Vec<Buffer> = program.ports().map(|port| device.alloc(&port.ty.shape).unwrap()).collect();
    let bindings: Vec<_> =
        program.ports().zip(&buffers).map(|(port, buffer)| Binding::new(port.name, buffer)).collect();
    let invocation = executable.bind(&bindings).unwrap();
    invocation.run().unwrap();
    FIRST.set(1);
    let told = buffers[2].read_f32(&mut vec![0.0; buffers[2].numel()]).unwrap_err().to_string();
    assert!(told.contains("IOSurfaceLock answered -536870187"), "{told}");
    FIRST.set(0);
    assert!(buffers[2].to_vec().iter().all(|value| *value == 0.0));
}

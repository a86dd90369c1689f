//! `_ANERequest`, `_ANEIOSurfaceObject` and `_ANEPerformanceStats`: what a run is given.

use objc2::msg_send;
use objc2::runtime::{AnyClass, Sel};
use objc2::sel;

use crate::foundation::{Id, Refusal, elements, is_kind, number};
use crate::objects::{self, INVALID, Object, alloc, autorelease, event, objects, violation};
use crate::surface::SurfaceRef;

/// What a request holds; it is fixed once the request is made (ANE-013).
pub(crate) struct Request {
    /// Slot and surface object of each input.
    pub(crate) inputs: Vec<(usize, usize)>,
    /// Slot and surface object of each output.
    pub(crate) outputs: Vec<(usize, usize)>,
    /// Where the duration goes.
    pub(crate) stats: Option<usize>,
    /// Which function of the program.
    pub(crate) procedure: usize,
}

impl Request {
    /// The objects that it retains.
    pub(crate) fn held(&self) -> Vec<usize> {
        let surfaces = self.inputs.iter().chain(&self.outputs).map(|(_, object)| *object);
        surfaces.chain(self.stats).collect()
    }
}

/// Defines the classes.
pub(crate) fn define() {
    objects::define(c"_ANEIOSurfaceObject", |class| {
        // SAFETY: the function has the method's types.
        unsafe {
            class.add_class_method(
                sel!(objectWithIOSurface:),
                with_surface as unsafe extern "C-unwind" fn(_, _, _) -> _,
            );
        }
    });
    objects::define(c"_ANERequest", |class| {
        // SAFETY: the function has the method's types.
        unsafe {
            class.add_class_method(
                sel!(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:),
                with_inputs as unsafe extern "C-unwind" fn(_, _, _, _, _, _, _, _, _) -> _,
            );
        }
    });
    objects::define(c"_ANEPerformanceStats", |class| {
        // SAFETY: the functions have the methods' types.
        unsafe {
            class.add_class_method(
                sel!(statsWithHardwareExecutionNS:),
                with_hw_execution as unsafe extern "C-unwind" fn(_, _, _) -> _,
            );
            class.add_method(
                sel!(hwExecutionTime),
                hw_execution_time as unsafe extern "C-unwind" fn(_, _) -> _,
            );
        }
    });
}

/// `+objectWithIOSurface:(IOSurfaceRef)surface` → object or nil. It retains the surface.
unsafe extern "C-unwind" fn with_surface(class: &'static AnyClass, _: Sel, surface: SurfaceRef) -> Id {
    let key = surface.0 as usize;
    if objects().live(key, "surface", "objectWithIOSurface").is_err() {
        return std::ptr::null_mut();
    }
    // SAFETY: the surface is live; the class is ours, and the reference is given to the pool.
    let new = unsafe {
        let _: Id = msg_send![key as Id, retain];
        autorelease(alloc(class))
    };
    let mut all = objects();
    let name = all.add(new, Object::Wrapper { surface: key });
    event(&format!("objectWithIOSurface {} -> {name}", all.name(key)));
    new
}

/// `+requestWithInputs:(NSArray *)inputs inputIndices:(NSArray *)slots outputs:(NSArray *)outputs
/// outputIndices:(NSArray *)slots weightsBuffer:(id)nil perfStats:(id)stats or nil
/// procedureIndex:(NSNumber *)function` → object or nil. A weights buffer changes nothing (ANE-006).
unsafe extern "C-unwind" fn with_inputs(
    class: &'static AnyClass,
    _: Sel,
    inputs: Id,
    input_slots: Id,
    outputs: Id,
    output_slots: Id,
    weights: Id,
    stats: Id,
    procedure: Id,
) -> Id {
    let request = || -> Result<Request, Refusal> {
        // SAFETY: arguments of messages are nil or objects; the class is checked first.
        let procedure = unsafe {
            if !is_kind(procedure, c"NSNumber") {
                violation("requestWithInputs: the procedure index is no NSNumber");
                return Err(Refusal::new(INVALID, "no procedure"));
            }
            number(procedure)
        };
        if !stats.is_null() {
            objects().live(stats as usize, "stats", "requestWithInputs")?;
        }
        // SAFETY: as above.
        unsafe {
            Ok(Request {
                inputs: paired(inputs, input_slots)?,
                outputs: paired(outputs, output_slots)?,
                stats: (!stats.is_null()).then_some(stats as usize),
                procedure,
            })
        }
    };
    let Ok(request) = request() else { return std::ptr::null_mut() };
    for key in request.held() {
        // SAFETY: they are live, as was checked when they were collected.
        let _: Id = unsafe { msg_send![key as Id, retain] };
    }
    // SAFETY: the class is ours, and the reference is given to the pool.
    let new = unsafe { autorelease(alloc(class)) };
    let mut all = objects();
    let show = |slots: &[(usize, usize)]| {
        let shown = slots.iter().map(|(slot, object)| format!("{slot}:{}", all.name(*object)));
        shown.collect::<Vec<_>>().join(" ")
    };
    let described = format!("[{}] -> [{}]", show(&request.inputs), show(&request.outputs));
    let name = all.add(new, Object::Request(request));
    let ignored = if weights.is_null() { "" } else { ", a weights buffer is ignored" };
    event(&format!("requestWithInputs {described}{ignored} -> {name}"));
    new
}

/// Slots and surface objects of one side of a request.
///
/// # Safety
/// The arguments are nil or objects.
unsafe fn paired(surfaces: Id, slots: Id) -> Result<Vec<(usize, usize)>, Refusal> {
    let wrong = |problem: &str| {
        violation(&format!("requestWithInputs: {problem}"));
        Refusal::new(INVALID, problem)
    };
    // SAFETY: the caller's promise; each class is checked before its messages are sent.
    unsafe {
        if !is_kind(surfaces, c"NSArray") || !is_kind(slots, c"NSArray") {
            return Err(wrong("surfaces and indices are NSArrays"));
        }
        let (surfaces, slots) = (elements(surfaces), elements(slots));
        if surfaces.len() != slots.len() {
            return Err(wrong(&format!("{} surfaces have {} indices", surfaces.len(), slots.len())));
        }
        let mut pairs = Vec::with_capacity(surfaces.len());
        for (surface, slot) in surfaces.into_iter().zip(slots) {
            if !is_kind(slot, c"NSNumber") {
                return Err(wrong("an index is no NSNumber"));
            }
            objects().live(surface as usize, "surface_object", "requestWithInputs")?;
            pairs.push((number(slot), surface as usize));
        }
        Ok(pairs)
    }
}

/// `+statsWithHardwareExecutionNS:(unsigned long long)ns` → object.
unsafe extern "C-unwind" fn with_hw_execution(class: &'static AnyClass, _: Sel, ns: u64) -> Id {
    // SAFETY: the class is ours, and the reference is given to the pool.
    let new = unsafe { autorelease(alloc(class)) };
    objects().add(new, Object::Stats { hw_execution_ns: ns });
    new
}

/// `-hwExecutionTime` → nanoseconds as `unsigned long long`.
unsafe extern "C-unwind" fn hw_execution_time(this: Id, _: Sel) -> u64 {
    match objects().live(this as usize, "stats", "hwExecutionTime") {
        Ok(Object::Stats { hw_execution_ns }) => *hw_execution_ns,
        _ => 0,
    }
}

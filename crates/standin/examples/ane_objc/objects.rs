//! Every object that was made, what is known of it, and what happens when its last reference goes.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use objc2::runtime::{AnyClass, ClassBuilder, Sel};
use objc2::{msg_send, sel};

use crate::foundation::{Id, Refusal, class};
use crate::model::Model;
use crate::request::Request;
use crate::surface::Surface;

/// What stands behind an object. Other objects are named by their keys, which are their addresses.
pub(crate) enum Object {
    Surface(Surface),
    /// An `_ANEIOSurfaceObject`.
    Wrapper {
        surface: usize,
    },
    Descriptor {
        hex: String,
        files: Vec<String>,
    },
    Model(Box<Model>),
    Request(Request),
    Stats {
        hw_execution_ns: u64,
    },
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Object::Surface(_) => "surface",
            Object::Wrapper { .. } => "surface_object",
            Object::Descriptor { .. } => "descriptor",
            Object::Model(_) => "model",
            Object::Request(_) => "request",
            Object::Stats { .. } => "stats",
        }
    }
}

struct Entry {
    number: usize,
    object: Object,
    released: bool,
}

/// Everything that this library knows in this process.
#[derive(Default)]
pub(crate) struct Objects {
    entries: HashMap<usize, Entry>,
    made: HashMap<&'static str, usize>,
    /// Compiles so far.
    pub(crate) compiles: usize,
    /// Loads so far.
    pub(crate) loads: u64,
    /// Programs that are loaded; one that is released without being unloaded keeps its place.
    pub(crate) loaded: usize,
    /// Runs so far.
    pub(crate) runs: u64,
    /// Surfaces asked for so far.
    pub(crate) surfaces: u64,
}

static OBJECTS: LazyLock<Mutex<Objects>> = LazyLock::new(Mutex::default);

/// All objects. No message that can end in `dealloc` may be sent while this is held.
pub(crate) fn objects() -> MutexGuard<'static, Objects> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a line to the trace.
pub(crate) fn event(text: &str) {
    standin::state().trace.event(text);
}

/// Notes what a driver must not do.
pub(crate) fn violation(text: &str) {
    standin::state().trace.violation(text);
}

impl Objects {
    /// Remembers a new object and answers its name.
    pub(crate) fn add(&mut self, id: Id, object: Object) -> String {
        let kind = object.kind();
        let made = self.made.entry(kind).or_default();
        *made += 1;
        let number = *made;
        self.entries.insert(id as usize, Entry { number, object, released: false });
        *standin::state().others.entry(kind).or_default() += 1;
        format!("{kind}#{number}")
    }

    /// An object as the trace tells it.
    pub(crate) fn name(&self, key: usize) -> String {
        match self.entries.get(&key) {
            Some(entry) => format!("{}#{}", entry.object.kind(), entry.number),
            None if key == 0 => "nil".to_owned(),
            None => "unknown".to_owned(),
        }
    }

    /// What is known of an object, released or not.
    pub(crate) fn known(&mut self, key: usize) -> Option<&mut Object> {
        self.entries.get_mut(&key).map(|entry| &mut entry.object)
    }

    /// The object that `call` uses; anything but a live one of that kind is a violation.
    pub(crate) fn live(&mut self, key: usize, kind: &str, call: &str) -> Result<&mut Object, Refusal> {
        let name = self.name(key);
        match self.entries.get_mut(&key) {
            Some(entry) if entry.released => {
                violation(&format!("{call}: {name} is used after its last release"));
                Err(Refusal::new(INVALID, format!("{name} was released")))
            }
            Some(entry) if entry.object.kind() == kind => Ok(&mut entry.object),
            _ => {
                violation(&format!("{call}: {name} is given where a {kind} is expected"));
                Err(Refusal::new(INVALID, format!("{name} is no {kind}")))
            }
        }
    }
}

/// The number of errors whose number nobody reported.
pub(crate) const INVALID: isize = 1;

/// Defines a class below `NSObject`, whose instances are remembered here.
///
/// # Panics
/// When the process has a class of that name.
pub(crate) fn define(name: &CStr, methods: impl FnOnce(&mut ClassBuilder)) -> &'static AnyClass {
    let mut builder = ClassBuilder::new(name, class(c"NSObject"))
        .unwrap_or_else(|| panic!("this process has no other class {name:?}"));
    methods(&mut builder);
    // SAFETY: `dealloc` takes nothing and answers nothing.
    unsafe { builder.add_method(sel!(dealloc), dealloc as unsafe extern "C-unwind" fn(_, _)) };
    builder.register()
}

/// A new object of a class of ours, with one reference.
///
/// # Safety
/// `class` was made by [`define`].
pub(crate) unsafe fn alloc(class: &AnyClass) -> Id {
    // SAFETY: the caller's promise.
    unsafe { msg_send![class, alloc] }
}

/// Leaves a reference to the pool, as methods do whose names do not begin with `new` or `init`.
///
/// # Safety
/// The caller has a reference to `object`.
pub(crate) unsafe fn autorelease(object: Id) -> Id {
    // SAFETY: the caller's promise.
    unsafe { msg_send![object, autorelease] }
}

/// The last reference is gone. The object is only marked: it never reaches `NSObject`'s `dealloc`, so that its
/// address stays its own.
unsafe extern "C-unwind" fn dealloc(this: Id, _: Sel) {
    let key = this as usize;
    let mut objects = objects();
    let name = objects.name(key);
    let Some(entry) = objects.entries.get_mut(&key) else { return };
    if std::mem::replace(&mut entry.released, true) {
        violation(&format!("release: {name} is released more often than it was retained"));
        return;
    }
    event(&format!("dealloc {name}"));
    if let Some(count) = standin::state().others.get_mut(entry.object.kind()) {
        *count -= 1;
    }
    let held: Vec<usize> = match &mut entry.object {
        Object::Surface(surface) => {
            if surface.is_locked() {
                violation(&format!("release: {name} is released while it is locked"));
            }
            surface.spoil();
            Vec::new()
        }
        Object::Wrapper { surface } => vec![*surface],
        Object::Request(request) => request.held(),
        Object::Model(model) => {
            if model.is_loaded() {
                violation(&format!("release: {name} is released while it is loaded; unload it first"));
            }
            Vec::new()
        }
        Object::Descriptor { .. } | Object::Stats { .. } => Vec::new(),
    };
    drop(objects);
    for key in held {
        // SAFETY: this object retained it, and objects of ours are never freed.
        unsafe {
            let () = msg_send![key as Id, release];
        }
    }
}

//! Classes, messages and functions of the frameworks, each with its types, in one table.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
#[cfg(not(target_vendor = "apple"))]
use objc_gnustep_shim as _;
use objc2::encode::{Encode, Encoding};
use objc2::msg_send;
use objc2::rc::{Allocated, Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, Bool};

use crate::CallError;
use crate::e5rt::LoadError;

/// Where macOS keeps the framework; it is in the loader's cache, and no file is there.
pub const NEURAL_ENGINE: &str =
    "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine";
/// Where what else is needed comes from, on a Mac.
const COMPANIONS: &[&str] = if cfg!(target_vendor = "apple") {
    &[
        "/System/Library/Frameworks/Foundation.framework/Foundation",
        "/System/Library/Frameworks/CoreFoundation.framework/CoreFoundation",
        "/System/Library/Frameworks/IOSurface.framework/IOSurface",
    ]
} else {
    &[]
};

/// The number that every project but one passes as quality of service; on M5 none changes anything
/// (ANEgpt, rule ANE-020).
const QOS: u32 = 21;
/// `kIOSurfaceLockReadOnly`.
pub(super) const READ_ONLY: u32 = 1;
/// `NSUTF8StringEncoding`.
const UTF8: usize = 4;

/// An object, or nil.
pub(super) type Id = *mut AnyObject;
/// An object of which we hold a reference.
pub(super) type Object = Retained<AnyObject>;

/// An `IOSurfaceRef`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SurfaceRef(pub(super) *mut c_void);

// SAFETY: a pointer to a structure that nobody sees, which is how the framework's method declares it (ane crate).
unsafe impl Encode for SurfaceRef {
    const ENCODING: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// What both sides of a request are.
pub(super) struct Sides<'a> {
    /// `NSArray` of surface objects, and of their numbers.
    pub(super) inputs: (&'a AnyObject, &'a AnyObject),
    /// The same.
    pub(super) outputs: (&'a AnyObject, &'a AnyObject),
}

/// Every call across the boundary, each of which can be replaced where faults are planted.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) surface_create: unsafe extern "C-unwind" fn(Id) -> SurfaceRef,
    pub(super) surface_lock: unsafe extern "C-unwind" fn(SurfaceRef, u32, *mut u32) -> c_int,
    pub(super) surface_unlock: unsafe extern "C-unwind" fn(SurfaceRef, u32, *mut u32) -> c_int,
    pub(super) surface_base_address: unsafe extern "C-unwind" fn(SurfaceRef) -> *mut c_void,
    pub(super) surface_alloc_size: unsafe extern "C-unwind" fn(SurfaceRef) -> usize,
    pub(super) release: unsafe extern "C-unwind" fn(SurfaceRef),
    pub(super) temporary_directory: unsafe extern "C-unwind" fn() -> Id,
    pub(super) descriptor: unsafe fn(&Classes, text: Id, weights: Id) -> Option<Object>,
    pub(super) model: unsafe fn(&Classes, descriptor: Id) -> Option<Object>,
    pub(super) hex: unsafe fn(model: Id) -> Option<Object>,
    pub(super) set_perf_stats_mask: unsafe fn(model: Id, mask: u32),
    pub(super) compile: unsafe fn(model: Id, options: Id, error: *mut Id) -> Bool,
    pub(super) load: unsafe fn(model: Id, options: Id, error: *mut Id) -> Bool,
    pub(super) evaluate: unsafe fn(model: Id, options: Id, request: Id, error: *mut Id) -> Bool,
    pub(super) unload: unsafe fn(model: Id, error: *mut Id) -> Bool,
    pub(super) surface_object: unsafe fn(&Classes, SurfaceRef) -> Option<Object>,
    pub(super) request: unsafe fn(&Classes, Sides<'_>, stats: Id) -> Option<Object>,
    pub(super) write_file: fn(&Path, &[u8]) -> std::io::Result<()>,
}

/// The classes.
pub(super) struct Classes {
    string: &'static AnyClass,
    data: &'static AnyClass,
    number: &'static AnyClass,
    array: &'static AnyClass,
    dictionary: &'static AnyClass,
    descriptor: &'static AnyClass,
    model: &'static AnyClass,
    request: &'static AnyClass,
    surface_object: &'static AnyClass,
    /// Statistics are a comfort.
    stats: Option<&'static AnyClass>,
}

/// The names under which the properties of a surface are asked for.
struct Keys {
    width: Id,
    height: Id,
    bytes_per_element: Id,
    bytes_per_row: Id,
    alloc_size: Id,
    pixel_format: Id,
}

/// The frameworks, loaded. Clones are the same.
#[derive(Clone)]
pub(super) struct Framework(Arc<Loaded>);

struct Loaded {
    calls: Calls,
    classes: Classes,
    keys: Keys,
    /// One compile, run or unload at a time, in the order in which they are asked for (rule ANE-012).
    lane: Mutex<()>,
}

// SAFETY: functions, classes and constant strings, which are of no thread.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

/// Says whether the framework of this route is here.
///
/// # Errors
/// [`LoadError`] with what is missing.
pub fn check_framework(path: &Path) -> Result<(), LoadError> {
    Framework::load(path).map(drop)
}

impl Framework {
    /// Loads the framework at `path`.
    ///
    /// # Errors
    /// [`LoadError`] with what is missing.
    pub(super) fn load(path: &Path) -> Result<Framework, LoadError> {
        let mut libraries = Vec::new();
        for path in std::iter::once(path).chain(COMPANIONS.iter().map(Path::new)) {
            // SAFETY: Apple's frameworks, or a library that the user named; loading defines classes.
            let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
            libraries.push(library.map_err(|error| LoadError::Library {
                path: path.display().to_string(),
                problem: error.to_string(),
            })?);
        }
        let mut missing = Vec::new();
        let found = Symbols(&libraries);
        let (calls, classes, keys) =
            (found.calls(&mut missing), Classes::find(&mut missing), found.keys(&mut missing));
        // Frameworks are not made to be unloaded: their classes stay.
        std::mem::forget(libraries);
        match (calls, classes, keys) {
            (Some(calls), Some(classes), Some(keys)) => {
                Ok(Framework(Arc::new(Loaded { calls, classes, keys, lane: Mutex::new(()) })))
            }
            _ => Err(LoadError::Symbols { path: path.display().to_string(), missing }),
        }
    }

    /// The same with other calls.
    #[cfg(all(test, not(target_vendor = "apple")))]
    pub(super) fn with_calls(path: &Path, change: impl FnOnce(&mut Calls)) -> Framework {
        let mut framework = Framework::load(path).expect("the stand-in has everything");
        change(&mut Arc::get_mut(&mut framework.0).expect("nobody else has it yet").calls);
        framework
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    pub(super) fn classes(&self) -> &Classes {
        &self.0.classes
    }

    /// Keeps other compiles, runs and unloads away while it is held.
    pub(super) fn lane(&self) -> MutexGuard<'_, ()> {
        self.0.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder in which compilers look for programs.
    ///
    /// # Errors
    /// When the system names none.
    pub(super) fn temporary_directory(&self) -> Result<PathBuf, CallError> {
        // SAFETY: it takes nothing and answers a string.
        let path = autoreleasepool(|_| text(unsafe { (self.calls().temporary_directory)() }));
        if path.is_empty() {
            let message = Some("it names no folder".to_owned());
            return Err(CallError { call: "NSTemporaryDirectory", code: 0, message });
        }
        Ok(PathBuf::from(path))
    }

    /// A surface of `bytes` bytes and nothing else; null when it cannot be had.
    pub(super) fn create_surface(&self, bytes: usize) -> SurfaceRef {
        let Keys { width, height, bytes_per_element, bytes_per_row, alloc_size, pixel_format } = self.0.keys;
        autoreleasepool(|_| {
            let entries = [
                (width, bytes),
                (height, 1),
                (bytes_per_element, 1),
                (bytes_per_row, bytes),
                (alloc_size, bytes),
                (pixel_format, 0),
            ]
            .map(|(key, value)| (key, self.classes().number(value)));
            let properties = self.classes().dictionary(entries.iter().map(|(key, value)| (*key, id(value))));
            // SAFETY: a dictionary of the framework's own keys; it is bridged to what the function takes.
            unsafe { (self.calls().surface_create)(id(&properties)) }
        })
    }
}

/// Writes a file whole or not at all. One that is there as it should be is left alone: another process may be
/// compiling from it now.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    mil::blob::write_whole(path, bytes).map_err(|error| std::io::Error::other(error.to_string()))
}

/// Calls something that answers BOOL and, through its last argument, an error.
///
/// # Errors
/// [`CallError`] with the error's number and text.
pub(super) fn outcome(call: &'static str, body: impl FnOnce(*mut Id) -> Bool) -> Result<(), CallError> {
    let mut error: Id = std::ptr::null_mut();
    if body(&raw mut error).as_bool() {
        return Ok(());
    }
    if error.is_null() {
        return Err(CallError { call, code: 0, message: None });
    }
    // SAFETY: what is not nil is an `NSError`, which the pool keeps.
    let (code, description): (isize, Id) = unsafe { (msg_send![error, code], msg_send![error, description]) };
    Err(CallError { call, code: code as i64, message: Some(text(description)) })
}

/// The object as functions take it.
pub(super) fn id(object: &Object) -> Id {
    Retained::as_ptr(object).cast_mut()
}

/// The text of a string; nothing for nil.
fn text(string: Id) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: callers give strings; the bytes live as long as the pool, and are copied.
    unsafe {
        let utf8: *const c_char = msg_send![string, UTF8String];
        if utf8.is_null() { String::new() } else { CStr::from_ptr(utf8).to_string_lossy().into_owned() }
    }
}

impl Classes {
    /// Those that the process has.
    pub(super) fn find(missing: &mut Vec<&'static str>) -> Option<Classes> {
        let mut find = |name: &'static CStr| {
            let class = AnyClass::get(name);
            if class.is_none() {
                missing.push(name.to_str().expect("the names below are ASCII"));
            }
            class
        };
        let [string, data, number, array, dictionary, descriptor, model, request, surface_object] = [
            c"NSString",
            c"NSData",
            c"NSNumber",
            c"NSMutableArray",
            c"NSMutableDictionary",
            c"_ANEInMemoryModelDescriptor",
            c"_ANEInMemoryModel",
            c"_ANERequest",
            c"_ANEIOSurfaceObject",
        ]
        .map(&mut find);
        Some(Classes {
            string: string?,
            data: data?,
            number: number?,
            array: array?,
            dictionary: dictionary?,
            descriptor: descriptor?,
            model: model?,
            request: request?,
            surface_object: surface_object?,
            stats: AnyClass::get(c"_ANEPerformanceStats"),
        })
    }

    /// An `NSString`.
    pub(super) fn string(&self, text: &str) -> Object {
        let bytes = text.as_ptr().cast::<c_void>();
        // SAFETY: Foundation's selectors with their types; the bytes are copied, and are UTF-8.
        unsafe {
            let new: Allocated<AnyObject> = msg_send![self.string, alloc];
            msg_send![new, initWithBytes: bytes, length: text.len(), encoding: UTF8]
        }
    }

    /// An `NSData` with a copy of `bytes`.
    pub(super) fn data(&self, bytes: &[u8]) -> Object {
        let start = bytes.as_ptr().cast::<c_void>();
        // SAFETY: as above.
        unsafe { msg_send![self.data, dataWithBytes: start, length: bytes.len()] }
    }

    /// An `NSNumber`.
    pub(super) fn number(&self, value: usize) -> Object {
        // SAFETY: as above.
        unsafe { msg_send![self.number, numberWithUnsignedInteger: value] }
    }

    /// An `NSArray`, which keeps `objects`.
    pub(super) fn array(&self, objects: impl IntoIterator<Item = Id>) -> Object {
        // SAFETY: as above; callers give objects.
        unsafe {
            let array: Object = msg_send![self.array, array];
            for object in objects {
                let () = msg_send![&*array, addObject: object];
            }
            array
        }
    }

    /// An `NSDictionary`, which keeps its keys and values.
    pub(super) fn dictionary(&self, entries: impl IntoIterator<Item = (Id, Id)>) -> Object {
        // SAFETY: as above.
        unsafe {
            let dictionary: Object = msg_send![self.dictionary, dictionary];
            for (key, value) in entries {
                let () = msg_send![&*dictionary, setObject: value, forKey: key];
            }
            dictionary
        }
    }

    /// An object that a run writes its duration to; `None` where the class is missing or another one.
    pub(super) fn stats(&self) -> Option<Object> {
        let class = self.stats?;
        let method = objc2::sel!(statsWithHardwareExecutionNS:);
        if class.class_method(method).is_none()
            || class.instance_method(objc2::sel!(hwExecutionTime)).is_none()
        {
            return None;
        }
        // SAFETY: the method is there, with a whole number as every dump of the class declares it.
        unsafe { msg_send![class, statsWithHardwareExecutionNS: 0_u64] }
    }
}

/// Nanoseconds that the engine took, as `stats` of [`Classes::stats`] has them.
pub(super) fn hardware_ns(stats: &AnyObject) -> u64 {
    // SAFETY: the method was looked for when the object was made.
    unsafe { msg_send![stats, hwExecutionTime] }
}

/// Where functions and constants are looked for.
struct Symbols<'a>(&'a [Library]);

impl Symbols<'_> {
    /// # Safety
    /// `T` is the type of the symbol of this name.
    unsafe fn find<T: Copy>(&self, name: &'static str, missing: &mut Vec<&'static str>) -> Option<T> {
        // SAFETY: the caller's promise.
        let found = self.0.iter().find_map(|library| unsafe { library.get::<T>(name) }.ok().map(|s| *s));
        if found.is_none() {
            missing.push(name);
        }
        found
    }

    fn calls(&self, missing: &mut Vec<&'static str>) -> Option<Calls> {
        // SAFETY: the types are those of IOSurface's, CoreFoundation's and Foundation's public headers.
        let (
            surface_create,
            surface_lock,
            surface_unlock,
            surface_base_address,
            surface_alloc_size,
            release,
            temporary_directory,
        ) = unsafe {
            (
                self.find("IOSurfaceCreate", missing),
                self.find("IOSurfaceLock", missing),
                self.find("IOSurfaceUnlock", missing),
                self.find("IOSurfaceGetBaseAddress", missing),
                self.find("IOSurfaceGetAllocSize", missing),
                self.find("CFRelease", missing),
                self.find("NSTemporaryDirectory", missing),
            )
        };
        Some(Calls {
            surface_create: surface_create?,
            surface_lock: surface_lock?,
            surface_unlock: surface_unlock?,
            surface_base_address: surface_base_address?,
            surface_alloc_size: surface_alloc_size?,
            release: release?,
            temporary_directory: temporary_directory?,
            descriptor: messages::descriptor,
            model: messages::model,
            hex: messages::hex,
            set_perf_stats_mask: messages::set_perf_stats_mask,
            compile: messages::compile,
            load: messages::load,
            evaluate: messages::evaluate,
            unload: messages::unload,
            surface_object: messages::surface_object,
            request: messages::request,
            write_file: write_whole,
        })
    }

    fn keys(&self, missing: &mut Vec<&'static str>) -> Option<Keys> {
        // SAFETY: constants of the type `CFStringRef`, which are set when the library is loaded.
        let mut key =
            |name: &'static str| unsafe { self.find::<*const Id>(name, missing).map(|constant| *constant) };
        let [width, height, bytes_per_element, bytes_per_row, alloc_size, pixel_format] = [
            "kIOSurfaceWidth",
            "kIOSurfaceHeight",
            "kIOSurfaceBytesPerElement",
            "kIOSurfaceBytesPerRow",
            "kIOSurfaceAllocSize",
            "kIOSurfacePixelFormat",
        ]
        .map(&mut key);
        Some(Keys {
            width: width?,
            height: height?,
            bytes_per_element: bytes_per_element?,
            bytes_per_row: bytes_per_row?,
            alloc_size: alloc_size?,
            pixel_format: pixel_format?,
        })
    }
}

/// The messages, with the argument types that the projects in the field send (facts, section 1.2).
#[allow(clippy::missing_safety_doc, reason = "each is as safe as its arguments are what their names say")]
mod messages {
    use super::*;

    pub(super) unsafe fn descriptor(classes: &Classes, text: Id, weights: Id) -> Option<Object> {
        let none: Id = std::ptr::null_mut();
        // SAFETY: the caller's promise; here and below.
        unsafe { msg_send![classes.descriptor, modelWithMILText: text, weights: weights, optionsPlist: none] }
    }

    pub(super) unsafe fn model(classes: &Classes, descriptor: Id) -> Option<Object> {
        // SAFETY: as above.
        unsafe { msg_send![classes.model, inMemoryModelWithDescriptor: descriptor] }
    }

    pub(super) unsafe fn hex(model: Id) -> Option<Object> {
        // SAFETY: as above.
        unsafe { msg_send![model, hexStringIdentifier] }
    }

    pub(super) unsafe fn set_perf_stats_mask(model: Id, mask: u32) {
        // SAFETY: as above.
        unsafe { msg_send![model, setPerfStatsMask: mask] }
    }

    pub(super) unsafe fn compile(model: Id, options: Id, error: *mut Id) -> Bool {
        // SAFETY: as above.
        unsafe { msg_send![model, compileWithQoS: QOS, options: options, error: error] }
    }

    pub(super) unsafe fn load(model: Id, options: Id, error: *mut Id) -> Bool {
        // SAFETY: as above.
        unsafe { msg_send![model, loadWithQoS: QOS, options: options, error: error] }
    }

    pub(super) unsafe fn evaluate(model: Id, options: Id, request: Id, error: *mut Id) -> Bool {
        // SAFETY: as above.
        unsafe { msg_send![model, evaluateWithQoS: QOS, options: options, request: request, error: error] }
    }

    pub(super) unsafe fn unload(model: Id, error: *mut Id) -> Bool {
        // SAFETY: as above.
        unsafe { msg_send![model, unloadWithQoS: QOS, error: error] }
    }

    pub(super) unsafe fn surface_object(classes: &Classes, surface: SurfaceRef) -> Option<Object> {
        // SAFETY: as above.
        unsafe { msg_send![classes.surface_object, objectWithIOSurface: surface] }
    }

    pub(super) unsafe fn request(classes: &Classes, sides: Sides<'_>, stats: Id) -> Option<Object> {
        let (none, procedure): (Id, Object) = (std::ptr::null_mut(), classes.number(0));
        // SAFETY: as above.
        unsafe {
            msg_send![
                classes.request,
                requestWithInputs: sides.inputs.0,
                inputIndices: sides.inputs.1,
                outputs: sides.outputs.0,
                outputIndices: sides.outputs.1,
                weightsBuffer: none,
                perfStats: stats,
                procedureIndex: &*procedure
            ]
        }
    }
}

/// The text of a string that may not be there.
pub(super) fn text_of(string: Option<Object>) -> Option<String> {
    string.map(|string| text(id(&string))).filter(|text| !text.is_empty())
}

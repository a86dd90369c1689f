//! A driver for `_ANEInMemoryModel`, as small as one can be.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

use half::f16;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use objc_gnustep_shim as _;
use objc2::encode::{Encode, Encoding};
use objc2::msg_send;
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyClass, AnyObject, Bool};

/// An object, or none.
pub(crate) type Id = *mut AnyObject;
/// An object that is kept.
pub(crate) type Object = Retained<AnyObject>;
/// How a call went; a refusal has an error with a number and a text, or none.
pub(crate) type Outcome = Result<(), Option<(isize, String)>>;
/// `kIOSurfaceLockReadOnly`.
pub(crate) const READ_ONLY: u32 = 1;

#[link(name = "gnustep-base")]
unsafe extern "C" {
    fn NSTemporaryDirectory() -> Id;
}

/// An `IOSurfaceRef`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct SurfaceRef(pub(crate) *mut c_void);

// SAFETY: a pointer, which real methods declare as one to an opaque structure.
unsafe impl Encode for SurfaceRef {
    const ENCODING: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// The library.
pub(crate) struct Driver {
    library: Library,
}

/// A surface with one reference of ours.
pub(crate) struct Surface<'d> {
    /// What functions take.
    pub(crate) raw: SurfaceRef,
    driver: &'d Driver,
}

/// A model with its folder; dropped, it is unloaded and the folder removed.
pub(crate) struct Kernel {
    /// The `_ANEInMemoryModel`.
    pub(crate) model: Object,
    /// Where its files are.
    pub(crate) dir: PathBuf,
    loaded: Cell<bool>,
}

pub(crate) fn class(name: &CStr) -> &'static AnyClass {
    AnyClass::get(name).unwrap_or_else(|| panic!("there is a class {name:?}"))
}

pub(crate) fn string(text: &str) -> Object {
    let bytes = text.as_ptr().cast::<c_void>();
    // SAFETY: Foundation's selectors with their types; 4 is UTF-8.
    unsafe {
        let new: Allocated<AnyObject> = msg_send![class(c"NSString"), alloc];
        msg_send![new, initWithBytes: bytes, length: text.len(), encoding: 4_usize]
    }
}

pub(crate) fn data(bytes: &[u8]) -> Object {
    let start = bytes.as_ptr().cast::<c_void>();
    // SAFETY: as above; the bytes are copied.
    unsafe { msg_send![class(c"NSData"), dataWithBytes: start, length: bytes.len()] }
}

pub(crate) fn number(value: usize) -> Object {
    // SAFETY: as above.
    unsafe { msg_send![class(c"NSNumber"), numberWithUnsignedInteger: value] }
}

pub(crate) fn array(objects: &[Id]) -> Object {
    // SAFETY: as above; a mutable array is an array.
    unsafe {
        let array: Object = msg_send![class(c"NSMutableArray"), array];
        for object in objects {
            let () = msg_send![&*array, addObject: *object];
        }
        array
    }
}

pub(crate) fn dictionary(entries: &[(Id, Id)]) -> Object {
    // SAFETY: as above.
    unsafe {
        let dictionary: Object = msg_send![class(c"NSMutableDictionary"), dictionary];
        for (key, value) in entries {
            let () = msg_send![&*dictionary, setObject: *value, forKey: *key];
        }
        dictionary
    }
}

pub(crate) fn id(object: &Object) -> Id {
    Retained::as_ptr(object).cast_mut()
}

pub(crate) fn text_of(string: &AnyObject) -> String {
    // SAFETY: `string` is an NSString; the text is copied while it lives.
    unsafe {
        let utf8: *const c_char = msg_send![string, UTF8String];
        CStr::from_ptr(utf8).to_string_lossy().into_owned()
    }
}

/// Calls something that answers BOOL and, through its last argument, an error.
pub(crate) fn outcome(call: impl FnOnce(*mut Id) -> Bool) -> Outcome {
    let mut error: Id = std::ptr::null_mut();
    if call(&mut error).as_bool() {
        assert!(error.is_null(), "a success has no error");
        return Ok(());
    }
    // SAFETY: the error is nil or an NSError.
    unsafe {
        Err((!error.is_null()).then(|| {
            let description: Object = msg_send![error, localizedDescription];
            (msg_send![error, code], text_of(&description))
        }))
    }
}

/// The weights dictionary of these files.
pub(crate) fn weights(files: &[(&str, Vec<u8>)]) -> Object {
    let entries: Vec<(Object, Object)> = files
        .iter()
        .map(|(path, bytes)| {
            let (offset, content) = (number(0), data(bytes));
            let (offset_key, data_key) = (string("offset"), string("data"));
            let entry = dictionary(&[(id(&offset_key), id(&offset)), (id(&data_key), id(&content))]);
            (string(path), entry)
        })
        .collect();
    dictionary(&entries.iter().map(|(key, value)| (id(key), id(value))).collect::<Vec<_>>())
}

/// Step 1: a descriptor, or nil.
pub(crate) fn descriptor(mil: Id, weights: Id) -> Option<Object> {
    let none: Id = std::ptr::null_mut();
    // SAFETY: the selector's types; what is wrong with the arguments is the test's affair.
    unsafe {
        msg_send![
            class(c"_ANEInMemoryModelDescriptor"), modelWithMILText: mil, weights: weights, optionsPlist: none
        ]
    }
}

/// Steps 1 to 3: a model whose folder nobody has filled.
pub(crate) fn model(text: &str, files: &[(&str, Vec<u8>)]) -> Kernel {
    let (mil, weights) = (data(text.as_bytes()), weights(files));
    let descriptor = descriptor(id(&mil), id(&weights)).expect("a descriptor of sound arguments");
    // SAFETY: the selectors' types.
    let (model, hex): (Object, Object) = unsafe {
        let model: Option<Object> =
            msg_send![class(c"_ANEInMemoryModel"), inMemoryModelWithDescriptor: &*descriptor];
        let model = model.expect("a model of a sound descriptor");
        let hex = msg_send![&*model, hexStringIdentifier];
        (model, hex)
    };
    // SAFETY: it takes nothing and answers a string.
    let temporary = text_of(unsafe { &*NSTemporaryDirectory() });
    let dir = PathBuf::from(temporary).join(text_of(&hex));
    Kernel { model, dir, loaded: Cell::new(false) }
}

/// Steps 1 to 4.
pub(crate) fn kernel(text: &str, files: &[(&str, Vec<u8>)]) -> Kernel {
    let kernel = model(text, files);
    kernel.fill(text, files);
    kernel
}

/// Steps 1 to 6.
pub(crate) fn ready(text: &str) -> Kernel {
    let kernel = kernel(text, &[]);
    kernel.compile().expect("it compiles");
    kernel.load().expect("it loads");
    kernel
}

impl Kernel {
    /// Step 4: what the compiler reads.
    pub(crate) fn fill(&self, text: &str, files: &[(&str, Vec<u8>)]) {
        std::fs::create_dir_all(self.dir.join("weights")).expect("the temporary folder takes files");
        std::fs::write(self.dir.join("model.mil"), text).expect("as above");
        for (path, bytes) in files {
            let path = path.strip_prefix("@model_path/").expect("keys begin so");
            std::fs::write(self.dir.join(path), bytes).expect("as above");
        }
    }

    /// Step 5.
    pub(crate) fn compile(&self) -> Outcome {
        let options = dictionary(&[]);
        // SAFETY: the selector's types.
        outcome(|error| unsafe {
            msg_send![&*self.model, compileWithQoS: 21_u32, options: &*options, error: error]
        })
    }

    /// Step 6.
    pub(crate) fn load(&self) -> Outcome {
        let options = dictionary(&[]);
        // SAFETY: the selector's types.
        let loaded = outcome(|error| unsafe {
            msg_send![&*self.model, loadWithQoS: 21_u32, options: &*options, error: error]
        });
        self.loaded.set(self.loaded.get() || loaded.is_ok());
        loaded
    }

    /// Step 9.
    pub(crate) fn evaluate(&self, request: &AnyObject) -> Outcome {
        let options = dictionary(&[]);
        // SAFETY: the selector's types.
        outcome(|error| unsafe {
            msg_send![&*self.model, evaluateWithQoS: 21_u32, options: &*options, request: request, error: error]
        })
    }

    /// Step 10.
    pub(crate) fn unload(&self) -> Outcome {
        self.loaded.set(false);
        // SAFETY: the selector's types.
        outcome(|error| unsafe { msg_send![&*self.model, unloadWithQoS: 21_u32, error: error] })
    }

    /// Leaves the model loaded when it is dropped.
    pub(crate) fn forget_to_unload(&self) {
        self.loaded.set(false);
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.loaded.get() {
            assert_eq!(self.unload(), Ok(()));
        }
        // It may never have been filled, or be shared with another kernel of the same text.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Step 8 with chosen slots.
pub(crate) fn request_at(
    inputs: &[(usize, &Surface<'_>)],
    outputs: &[(usize, &Surface<'_>)],
) -> Option<Object> {
    let none = std::ptr::null_mut();
    request_with(inputs, outputs, none, none, 0)
}

/// Step 8 with everything chosen.
pub(crate) fn request_with(
    inputs: &[(usize, &Surface<'_>)],
    outputs: &[(usize, &Surface<'_>)],
    weights: Id,
    stats: Id,
    procedure: usize,
) -> Option<Object> {
    let side = |bound: &[(usize, &Surface<'_>)]| {
        let surfaces: Vec<Object> = bound.iter().map(|(_, surface)| surface.object()).collect();
        let slots: Vec<Object> = bound.iter().map(|(slot, _)| number(*slot)).collect();
        (
            array(&surfaces.iter().map(id).collect::<Vec<_>>()),
            array(&slots.iter().map(id).collect::<Vec<_>>()),
        )
    };
    let ((inputs, input_slots), (outputs, output_slots)) = (side(inputs), side(outputs));
    let procedure = number(procedure);
    // SAFETY: the selector's types.
    unsafe {
        msg_send![
            class(c"_ANERequest"),
            requestWithInputs: &*inputs,
            inputIndices: &*input_slots,
            outputs: &*outputs,
            outputIndices: &*output_slots,
            weightsBuffer: weights,
            perfStats: stats,
            procedureIndex: &*procedure
        ]
    }
}

/// Step 8: slots from 0 on.
pub(crate) fn request(inputs: &[&Surface<'_>], outputs: &[&Surface<'_>]) -> Object {
    let inputs: Vec<_> = inputs.iter().copied().enumerate().collect();
    let outputs: Vec<_> = outputs.iter().copied().enumerate().collect();
    request_at(&inputs, &outputs).expect("a request of sound arguments")
}

impl Driver {
    /// Opens the library that was built beside this test.
    pub(crate) fn open() -> Driver {
        let built = standin::objective_c();
        // SAFETY: loading it defines classes, which nothing else in this process does.
        let library = unsafe { Library::open(Some(&built), RTLD_NOW | RTLD_LOCAL) }
            .unwrap_or_else(|error| panic!("{}: {error}", built.display()));
        Driver { library }
    }

    /// # Safety
    /// `T` is the type of the symbol of this name.
    unsafe fn symbol<T>(&self, name: &str) -> Symbol<T> {
        // SAFETY: the caller's promise.
        unsafe { self.library.get(name) }.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What one of the library's reports says.
    pub(crate) fn report(&self, name: &str) -> String {
        // SAFETY: the type that the library documents; the buffer has room for what it says it needs.
        unsafe {
            let report: Symbol<unsafe extern "C" fn(*mut c_char, usize) -> usize> = self.symbol(name);
            let mut text = vec![0_u8; report(std::ptr::null_mut(), 0) + 1];
            report(text.as_mut_ptr().cast(), text.len());
            text.pop();
            String::from_utf8(text).expect("reports are UTF-8")
        }
    }

    /// A surface of these properties, named as the framework's constants; `None` when it cannot be had.
    pub(crate) fn create(&self, properties: &[(&str, usize)]) -> Option<Surface<'_>> {
        // SAFETY: the symbols' types.
        let raw = unsafe {
            let entries: Vec<(Id, Object)> = properties
                .iter()
                .map(|(name, value)| (**self.symbol::<*const Id>(name), number(*value)))
                .collect();
            let properties =
                dictionary(&entries.iter().map(|(key, value)| (*key, id(value))).collect::<Vec<_>>());
            let create: Symbol<unsafe extern "C-unwind" fn(*const AnyObject) -> SurfaceRef> =
                self.symbol("IOSurfaceCreate");
            create(&*properties)
        };
        (!raw.0.is_null()).then(|| Surface { raw, driver: self })
    }

    /// A surface of so many bytes.
    pub(crate) fn surface(&self, bytes: usize) -> Surface<'_> {
        let properties = [
            ("kIOSurfaceWidth", bytes),
            ("kIOSurfaceHeight", 1),
            ("kIOSurfaceBytesPerElement", 1),
            ("kIOSurfaceBytesPerRow", bytes),
            ("kIOSurfaceAllocSize", bytes),
            ("kIOSurfacePixelFormat", 0),
        ];
        self.create(&properties).expect("a surface can be had")
    }

    /// A surface of so many bytes with halves at its front.
    pub(crate) fn filled(&self, bytes: usize, values: &[f32]) -> Surface<'_> {
        let surface = self.surface(bytes);
        surface.write(values);
        surface
    }

    /// Calls a function that takes a surface and answers a size.
    pub(crate) fn size(&self, function: &str, surface: &Surface<'_>) -> usize {
        // SAFETY: the functions that tests name have this type.
        unsafe {
            let function: Symbol<unsafe extern "C-unwind" fn(SurfaceRef) -> usize> = self.symbol(function);
            function(surface.raw)
        }
    }

    /// `CFRelease`.
    pub(crate) fn release(&self, raw: SurfaceRef) {
        // SAFETY: the symbol's type.
        unsafe {
            let release: Symbol<unsafe extern "C-unwind" fn(SurfaceRef)> = self.symbol("CFRelease");
            release(raw);
        }
    }

    /// `CFRetain`.
    pub(crate) fn retain(&self, raw: SurfaceRef) {
        // SAFETY: the symbol's type.
        unsafe {
            let retain: Symbol<unsafe extern "C-unwind" fn(SurfaceRef) -> SurfaceRef> =
                self.symbol("CFRetain");
            assert_eq!(retain(raw).0, raw.0);
        }
    }
}

impl Surface<'_> {
    fn locking(&self, function: &str, options: u32) -> c_int {
        // SAFETY: the type of both functions.
        unsafe {
            let function: Symbol<unsafe extern "C-unwind" fn(SurfaceRef, u32, *mut u32) -> c_int> =
                self.driver.symbol(function);
            function(self.raw, options, std::ptr::null_mut())
        }
    }

    pub(crate) fn lock(&self, options: u32) -> c_int {
        self.locking("IOSurfaceLock", options)
    }

    pub(crate) fn unlock(&self, options: u32) -> c_int {
        self.locking("IOSurfaceUnlock", options)
    }

    /// Where its memory begins.
    pub(crate) fn address(&self) -> *mut c_void {
        // SAFETY: the symbol's type.
        unsafe {
            let function: Symbol<unsafe extern "C-unwind" fn(SurfaceRef) -> *mut c_void> =
                self.driver.symbol("IOSurfaceGetBaseAddress");
            function(self.raw)
        }
    }

    /// Writes halves to the front, under a lock.
    pub(crate) fn write(&self, values: &[f32]) {
        assert_eq!(self.lock(0), 0);
        let front = self.address().cast::<f16>();
        for (index, value) in values.iter().enumerate() {
            // SAFETY: tests write no more than the surface holds.
            unsafe { front.add(index).write(f16::from_f32(*value)) };
        }
        assert_eq!(self.unlock(0), 0);
    }

    /// Reads halves from the front, under a lock.
    pub(crate) fn read(&self, count: usize) -> Vec<f32> {
        assert_eq!(self.lock(READ_ONLY), 0);
        let front = self.address().cast::<f16>();
        // SAFETY: tests read no more than the surface holds.
        let values = (0..count).map(|index| unsafe { front.add(index).read() }.to_f32()).collect();
        assert_eq!(self.unlock(READ_ONLY), 0);
        values
    }

    /// Step 7.
    pub(crate) fn object(&self) -> Object {
        // SAFETY: the selector's types.
        let object: Option<Object> =
            unsafe { msg_send![class(c"_ANEIOSurfaceObject"), objectWithIOSurface: self.raw] };
        object.expect("an object of a live surface")
    }
}

impl Drop for Surface<'_> {
    fn drop(&mut self) {
        self.driver.release(self.raw);
    }
}

//! IOSurfaces: memory that host and engine share, under locks.
//!
//! Writes cannot be caught, but their traces can: whenever nobody may have written since, the memory must
//! still have the fingerprint that it had.

use std::alloc::Layout;
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use objc2::encode::{Encode, Encoding};
use objc2::msg_send;
use objc2::runtime::{AnyClass, AnyObject};

use crate::foundation::{Id, is_kind, number, string, value};
use crate::objects::{self, Object, alloc, event, objects, violation};

/// An `IOSurfaceRef`, which is an object of the class `IOSurface`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct SurfaceRef(pub(crate) *mut c_void);

// SAFETY: a pointer, which real methods declare as one to an opaque structure.
unsafe impl Encode for SurfaceRef {
    const ENCODING: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// `kIOSurfaceLockReadOnly`.
const READ_ONLY: u32 = 1;
/// `kIOReturnSuccess`.
const SUCCESS: c_int = 0;
/// `kIOReturnBadArgument`.
const BAD_ARGUMENT: c_int = 0xe000_02c2_u32 as c_int;
/// A page of Apple Silicon, on which surfaces begin.
const PAGE: usize = 16_384;
/// What stands in the memory of a surface that was released: NaN in every element type.
const SPOILT: u8 = 0xff;
/// What stands in a new one, of which no documentation says that it is empty: halves of 85.3125.
const FRESH: u8 = 0x55;

/// One surface.
pub(crate) struct Surface {
    memory: usize,
    bytes: usize,
    layout: SurfaceLayout,
    /// The options of the locks that are held.
    locks: Vec<u32>,
    /// Whether one of them allows, or since the first of them allowed, to write.
    writable: bool,
    fingerprint: u64,
}

/// As the dictionary of its creation says.
#[derive(Clone, Copy)]
struct SurfaceLayout {
    width: usize,
    height: usize,
    bytes_per_element: usize,
    bytes_per_row: usize,
    pixel_format: u32,
}

impl Surface {
    /// Its memory.
    fn content(&self) -> &[u8] {
        // SAFETY: the memory has that many bytes and is never freed. A driver that writes it on another
        // thread at this moment is at fault, and gets what it deserves.
        unsafe { std::slice::from_raw_parts(self.memory as *const u8, self.bytes) }
    }

    /// As [`content`](Surface::content), to be written.
    fn content_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory as *mut u8, self.bytes) }
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether somebody holds a lock.
    pub(crate) fn is_locked(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Fills the memory of a surface that is gone.
    pub(crate) fn spoil(&mut self) {
        self.content_mut().fill(SPOILT);
    }

    /// What the engine sees; tells what the host did that it must not have done.
    pub(crate) fn read_by_engine(&self, name: &str) -> &[u8] {
        self.check_for_engine(name);
        self.content()
    }

    /// Lets the engine write.
    pub(crate) fn write_by_engine(&mut self, name: &str, write: impl FnOnce(&mut [u8])) {
        self.check_for_engine(name);
        write(self.content_mut());
        self.fingerprint = fingerprint(self.content());
    }

    fn check_for_engine(&self, name: &str) {
        if self.is_locked() {
            violation(&format!("evaluate: {name} is locked by the host"));
        } else {
            self.check_untouched(name);
        }
    }

    fn check_untouched(&self, name: &str) {
        if fingerprint(self.content()) != self.fingerprint {
            violation(&format!("{name} was written without a lock"));
        }
    }

    fn lock(&mut self, options: u32, name: &str) {
        if self.locks.is_empty() {
            self.check_untouched(name);
            self.fingerprint = fingerprint(self.content());
            self.writable = false;
        }
        self.writable |= options & READ_ONLY == 0;
        self.locks.push(options);
    }

    fn unlock(&mut self, options: u32, name: &str) -> c_int {
        let Some(latest) = self.locks.pop() else {
            violation(&format!("IOSurfaceUnlock: {name} is not locked"));
            return BAD_ARGUMENT;
        };
        if latest != options {
            violation(&format!(
                "IOSurfaceUnlock: {name} was locked with {latest} and is unlocked with {options}"
            ));
        }
        if self.locks.is_empty() {
            if !self.writable && fingerprint(self.content()) != self.fingerprint {
                violation(&format!("{name} was written under a lock for reading only"));
            }
            self.fingerprint = fingerprint(self.content());
        }
        SUCCESS
    }
}

/// A number that changes when any byte does; four lanes, so that it costs little beside a copy.
fn fingerprint(bytes: &[u8]) -> u64 {
    // An odd number with many ones, so that a product spreads each bit.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |lane: u64, word: u64| (lane ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let mut lanes = [1_u64, 2, 3, 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let lanes = rest.iter().fold(lanes, |[a, b, c, d], byte| [mix(a, u64::from(*byte)), b, c, d]);
    lanes.into_iter().fold(bytes.len() as u64, mix)
}

static CLASS: OnceLock<&'static AnyClass> = OnceLock::new();

/// Makes constants that hold the keys of the dictionary of a surface; what they say is their name without
/// the `k`.
macro_rules! keys {
    ($($name:ident = $text:literal),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            static $name: AtomicPtr<AnyObject> = AtomicPtr::new(std::ptr::null_mut());
        )*

        fn define_keys() {
            $(
                // SAFETY: the string is a live object; this reference keeps it for good.
                let key: Id = unsafe { msg_send![string($text), retain] };
                $name.store(key, Ordering::Release);
            )*
        }
    };
}

keys! {
    kIOSurfaceWidth = "IOSurfaceWidth",
    kIOSurfaceHeight = "IOSurfaceHeight",
    kIOSurfaceBytesPerElement = "IOSurfaceBytesPerElement",
    kIOSurfaceBytesPerRow = "IOSurfaceBytesPerRow",
    kIOSurfaceAllocSize = "IOSurfaceAllocSize",
    kIOSurfacePixelFormat = "IOSurfacePixelFormat",
}

/// Defines the class and the keys.
pub(crate) fn define() {
    objc2::rc::autoreleasepool(|_| define_keys());
    CLASS.get_or_init(|| objects::define(c"IOSurface", |_| {}));
}

/// The number under a key; `None` when there is none.
///
/// # Safety
/// `properties` is an `NSDictionary`.
unsafe fn property(properties: Id, key: &AtomicPtr<AnyObject>) -> Option<usize> {
    // SAFETY: the caller's promise; the keys were made when the library was loaded.
    unsafe {
        let found = value(properties, key.load(Ordering::Acquire));
        is_kind(found, c"NSNumber").then(|| number(found))
    }
}

/// The layout and size that a dictionary asks for. The ane crate gives the first four properties only.
///
/// # Safety
/// `properties` is nil or an object.
unsafe fn wanted(properties: Id) -> Result<(SurfaceLayout, usize), String> {
    // SAFETY: the class is checked first.
    unsafe {
        if !is_kind(properties, c"NSDictionary") {
            return Err("its properties are no dictionary".to_owned());
        }
        let needed = |name: &CStr, key| {
            property(properties, key).ok_or_else(|| format!("{} is missing", name.to_string_lossy()))
        };
        let width = needed(c"kIOSurfaceWidth", &kIOSurfaceWidth)?;
        let height = needed(c"kIOSurfaceHeight", &kIOSurfaceHeight)?;
        let bytes_per_element = property(properties, &kIOSurfaceBytesPerElement).unwrap_or(1);
        let bytes_per_row = property(properties, &kIOSurfaceBytesPerRow).unwrap_or(width * bytes_per_element);
        let bytes = property(properties, &kIOSurfaceAllocSize).unwrap_or(bytes_per_row * height);
        if bytes == 0 || bytes_per_row < width * bytes_per_element || bytes < bytes_per_row * height {
            return Err(format!(
                "{width} x {height} elements of {bytes_per_element} bytes do not fit into rows of \
                 {bytes_per_row} and {bytes} bytes in all"
            ));
        }
        let pixel_format = property(properties, &kIOSurfacePixelFormat).unwrap_or(0) as u32;
        Ok((SurfaceLayout { width, height, bytes_per_element, bytes_per_row, pixel_format }, bytes))
    }
}

/// A new surface with one reference; null when it cannot be had.
///
/// # Safety
/// `properties` is null or a dictionary.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn IOSurfaceCreate(properties: Id) -> SurfaceRef {
    let none = SurfaceRef(std::ptr::null_mut());
    let number = {
        let mut objects = objects();
        objects.surfaces += 1;
        objects.surfaces
    };
    // SAFETY: the caller's promise.
    let (layout, bytes) = match unsafe { wanted(properties) } {
        Ok(wanted) => wanted,
        Err(problem) => {
            event(&format!("IOSurfaceCreate -> null: {problem}"));
            return none;
        }
    };
    if standin::state().faults.of_surface(number) {
        event("IOSurfaceCreate -> null: as planted");
        return none;
    }
    let place =
        Layout::from_size_align(bytes, PAGE).expect("a page is a power of two, and sizes are in range");
    // SAFETY: the size is not zero.
    let memory = unsafe { std::alloc::alloc(place) } as usize;
    if memory == 0 {
        return none;
    }
    // SAFETY: the class is ours.
    let new = unsafe { alloc(CLASS.get().expect("the library was loaded")) };
    let mut surface = Surface { memory, bytes, layout, locks: Vec::new(), writable: false, fingerprint: 0 };
    surface.content_mut().fill(FRESH);
    surface.fingerprint = fingerprint(surface.content());
    let name = objects().add(new, Object::Surface(surface));
    event(&format!("IOSurfaceCreate {bytes} bytes -> {name}"));
    SurfaceRef(new.cast())
}

/// Does something with a live surface.
fn with<T>(surface: SurfaceRef, call: &str, fallback: T, body: impl FnOnce(&mut Surface, &str) -> T) -> T {
    let mut objects = objects();
    let name = objects.name(surface.0 as usize);
    match objects.live(surface.0 as usize, "surface", call) {
        Ok(Object::Surface(surface)) => body(surface, &name),
        _ => fallback,
    }
}

/// Lets the host at the memory; 0 is success.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceLock(surface: SurfaceRef, options: u32, seed: *mut u32) -> c_int {
    if !seed.is_null() {
        // SAFETY: a seed that is not null may be written.
        unsafe { *seed = 0 };
    }
    with(surface, "IOSurfaceLock", BAD_ARGUMENT, |surface, name| {
        event(&format!("lock {name} {options}"));
        surface.lock(options, name);
        SUCCESS
    })
}

/// Ends the latest lock; 0 is success.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceUnlock(surface: SurfaceRef, options: u32, _seed: *mut u32) -> c_int {
    with(surface, "IOSurfaceUnlock", BAD_ARGUMENT, |surface, name| {
        event(&format!("unlock {name} {options}"));
        surface.unlock(options, name)
    })
}

/// Where the memory begins.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetBaseAddress(surface: SurfaceRef) -> *mut c_void {
    with(surface, "IOSurfaceGetBaseAddress", std::ptr::null_mut(), |surface, name| {
        if !surface.is_locked() {
            violation(&format!("IOSurfaceGetBaseAddress: {name} is not locked"));
        }
        surface.memory as *mut c_void
    })
}

/// Its size in bytes.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetAllocSize(surface: SurfaceRef) -> usize {
    with(surface, "IOSurfaceGetAllocSize", 0, |surface, _| surface.bytes)
}

/// Elements in a row.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetWidth(surface: SurfaceRef) -> usize {
    with(surface, "IOSurfaceGetWidth", 0, |surface, _| surface.layout.width)
}

/// Rows.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetHeight(surface: SurfaceRef) -> usize {
    with(surface, "IOSurfaceGetHeight", 0, |surface, _| surface.layout.height)
}

/// Bytes of an element.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetBytesPerElement(surface: SurfaceRef) -> usize {
    with(surface, "IOSurfaceGetBytesPerElement", 0, |surface, _| surface.layout.bytes_per_element)
}

/// Bytes from one row to the next.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetBytesPerRow(surface: SurfaceRef) -> usize {
    with(surface, "IOSurfaceGetBytesPerRow", 0, |surface, _| surface.layout.bytes_per_row)
}

/// The four letters of its format; 0 for plain bytes.
#[unsafe(no_mangle)]
extern "C-unwind" fn IOSurfaceGetPixelFormat(surface: SurfaceRef) -> u32 {
    with(surface, "IOSurfaceGetPixelFormat", 0, |surface, _| surface.layout.pixel_format)
}

/// One reference more, to a surface or to any other object.
///
/// # Safety
/// `object` is an object.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn CFRetain(object: Id) -> Id {
    {
        let mut objects = objects();
        let kind = objects.name(object as usize);
        if kind.starts_with("surface#") && objects.live(object as usize, "surface", "CFRetain").is_err() {
            return object;
        }
    }
    // SAFETY: the caller's promise; an object of ours is never freed.
    unsafe { msg_send![object, retain] }
}

/// One reference less. Null, which the real function crashes on, is noted.
///
/// # Safety
/// `object` is null or an object to which the caller has a reference.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn CFRelease(object: Id) {
    if object.is_null() {
        violation("CFRelease: null");
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { msg_send![object, release] }
}

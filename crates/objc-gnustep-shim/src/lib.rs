//! What `objc2` asks of an Objective-C runtime and GCC's does not have.
//!
//! Off a Mac, code that speaks Objective-C through `objc2` can run on Debian's `gobjc` and GNUstep base
//! (packages `gobjc` and `libgnustep-base-dev`). That runtime is older than automatic reference counting: it
//! lacks the functions that compilers emit for it, and `object_getClass` is an inline function of its header.
//! They are here, in terms of the messages that they stand for. `use objc_gnustep_shim as _;` in a crate is
//! all that is needed to link them, the runtime and GNUstep base.
//!
//! What it cannot give: `objc2`'s `class!` (and with it `ClassType::class` and `define_class!`) refers to
//! class symbols of clang's ABI, which GCC's libraries do not export. Classes are looked up by name
//! (`AnyClass::get`) and defined with `ClassBuilder`.
//!
//! On Apple's systems this crate is empty.

#![cfg(not(target_vendor = "apple"))]

use std::ffi::c_void;

use objc2::msg_send;
use objc2::runtime::{AnyClass, AnyObject};

#[link(name = "gnustep-base")]
unsafe extern "C" {
    fn NSTemporaryDirectory() -> *mut AnyObject;
}

/// Classes are only looked up by name, so without a mention of one of its symbols a linker would leave
/// GNUstep base out.
#[used]
static GNUSTEP_BASE: unsafe extern "C" fn() -> *mut AnyObject = NSTemporaryDirectory;

/// `[object retain]`; null, to which `objc2` sends no messages, stays null.
///
/// # Safety
/// `object` is null or an object.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_retain(object: *mut AnyObject) -> *mut AnyObject {
    if object.is_null() {
        return object;
    }
    // SAFETY: the caller's promise.
    unsafe { msg_send![object, retain] }
}

/// `[object release]`; nothing for null.
///
/// # Safety
/// `object` is null or an object of which the caller holds a reference.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_release(object: *mut AnyObject) {
    if !object.is_null() {
        // SAFETY: the caller's promise.
        unsafe { msg_send![object, release] }
    }
}

/// `[object autorelease]`; null stays null.
///
/// # Safety
/// As [`objc_release`].
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_autorelease(object: *mut AnyObject) -> *mut AnyObject {
    if object.is_null() {
        return object;
    }
    // SAFETY: the caller's promise.
    unsafe { msg_send![object, autorelease] }
}

/// [`objc_autorelease`]: the shortcut past the pool that other runtimes take is only faster.
///
/// # Safety
/// As [`objc_release`].
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_autoreleaseReturnValue(object: *mut AnyObject) -> *mut AnyObject {
    // SAFETY: the caller's promise.
    unsafe { objc_autorelease(object) }
}

/// [`objc_retain`]: see [`objc_autoreleaseReturnValue`].
///
/// # Safety
/// As [`objc_retain`].
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_retainAutoreleasedReturnValue(object: *mut AnyObject) -> *mut AnyObject {
    // SAFETY: the caller's promise.
    unsafe { objc_retain(object) }
}

/// Opens a pool.
///
/// # Safety
/// The result goes to [`objc_autoreleasePoolPop`], on the same thread.
///
/// # Panics
/// When GNUstep base was not loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_autoreleasePoolPush() -> *mut c_void {
    let class = AnyClass::get(c"NSAutoreleasePool").expect("GNUstep base is linked, and has pools");
    // SAFETY: `new` takes nothing and answers an object.
    let pool: *mut AnyObject = unsafe { msg_send![class, new] };
    pool.cast()
}

/// Closes a pool, and those that were opened after it.
///
/// # Safety
/// `pool` is from [`objc_autoreleasePoolPush`] and was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn objc_autoreleasePoolPop(pool: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { objc_release(pool.cast()) }
}

/// The class of an object; null of null.
///
/// # Safety
/// `object` is null or an object.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn object_getClass(object: *const AnyObject) -> *const AnyClass {
    if object.is_null() {
        return std::ptr::null();
    }
    // SAFETY: an object of GCC's runtime begins with the pointer to its class.
    unsafe { *object.cast::<*const AnyClass>() }
}

//! The few messages to Foundation's classes that are needed here.

use std::ffi::{CStr, c_void};

use objc2::msg_send;
use objc2::runtime::{AnyClass, AnyObject, Bool};

/// An object, or nil.
pub(crate) type Id = *mut AnyObject;

#[link(name = "gnustep-base")]
unsafe extern "C" {
    fn NSTemporaryDirectory() -> Id;
    static NSLocalizedDescriptionKey: Id;
}

const UTF8: usize = 4;

/// The class of this name.
///
/// # Panics
/// When Foundation lacks it.
pub(crate) fn class(name: &CStr) -> &'static AnyClass {
    AnyClass::get(name).unwrap_or_else(|| panic!("GNUstep base has the class {name:?}"))
}

/// Whether `object` is one of this class, or of one that inherits from it.
///
/// # Safety
/// `object` is nil or an object.
pub(crate) unsafe fn is_kind(object: Id, name: &CStr) -> bool {
    // SAFETY: the caller's promise; `objc2` sends no messages to nil.
    unsafe { !object.is_null() && msg_send![object, isKindOfClass: class(name)] }
}

/// A new string, owned by the pool.
pub(crate) fn string(text: &str) -> Id {
    let bytes = text.as_ptr().cast::<c_void>();
    // SAFETY: the bytes are copied; `text` is UTF-8.
    unsafe {
        let new: Id = msg_send![class(c"NSString"), alloc];
        let new: Id = msg_send![new, initWithBytes: bytes, length: text.len(), encoding: UTF8];
        msg_send![new, autorelease]
    }
}

/// The text of a string.
///
/// # Safety
/// `string` is an `NSString`.
pub(crate) unsafe fn text(string: Id) -> String {
    // SAFETY: the caller's promise; the pointer is good as long as the pool, and copied from.
    unsafe {
        let utf8: *const std::ffi::c_char = msg_send![string, UTF8String];
        if utf8.is_null() { String::new() } else { CStr::from_ptr(utf8).to_string_lossy().into_owned() }
    }
}

/// The content of an `NSData`.
///
/// # Safety
/// `data` is an `NSData`.
pub(crate) unsafe fn bytes(data: Id) -> Vec<u8> {
    // SAFETY: the caller's promise; `bytes` answers a pointer to `length` bytes, null when there are none.
    unsafe {
        let length: usize = msg_send![data, length];
        let start: *const c_void = msg_send![data, bytes];
        if length == 0 { Vec::new() } else { std::slice::from_raw_parts(start.cast::<u8>(), length).to_vec() }
    }
}

/// The elements of an `NSArray`.
///
/// # Safety
/// `array` is an `NSArray`.
pub(crate) unsafe fn elements(array: Id) -> Vec<Id> {
    // SAFETY: the caller's promise; indices are below the count.
    unsafe {
        let count: usize = msg_send![array, count];
        (0..count).map(|index| msg_send![array, objectAtIndex: index]).collect()
    }
}

/// What an `NSDictionary` holds under a key; nil when there is nothing.
///
/// # Safety
/// `dictionary` is an `NSDictionary`, `key` an object.
pub(crate) unsafe fn value(dictionary: Id, key: Id) -> Id {
    // SAFETY: the caller's promise.
    unsafe { msg_send![dictionary, objectForKey: key] }
}

/// The whole number of an `NSNumber`.
///
/// # Safety
/// `number` is an `NSNumber`.
pub(crate) unsafe fn number(number: Id) -> usize {
    // SAFETY: the caller's promise.
    unsafe { msg_send![number, unsignedIntegerValue] }
}

/// The folder in which drivers and compiler meet.
pub(crate) fn temporary_directory() -> std::path::PathBuf {
    // SAFETY: it takes nothing and answers a string.
    unsafe { text(NSTemporaryDirectory()) }.into()
}

/// Why something was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The error's number.
    pub(crate) code: isize,
    /// What it says; without it there is no error object, only NO.
    pub(crate) text: Option<String>,
}

impl Refusal {
    /// With a text.
    pub(crate) fn new(code: isize, text: impl Into<String>) -> Refusal {
        Refusal { code, text: Some(text.into()) }
    }
}

/// YES, or NO and the error in `error` where the caller wants one.
///
/// # Safety
/// `error` is null or may be written.
pub(crate) unsafe fn answer(result: Result<(), Refusal>, error: *mut Id) -> Bool {
    let Err(refusal) = result else { return Bool::YES };
    if let (Some(text), false) = (refusal.text, error.is_null()) {
        let text = string(&text);
        // SAFETY: Foundation's own selectors with their types; `error` may be written.
        unsafe {
            let info: Id = msg_send![
                class(c"NSDictionary"), dictionaryWithObject: text, forKey: NSLocalizedDescriptionKey
            ];
            let domain = string("com.apple.appleneuralengine");
            *error = msg_send![
                class(c"NSError"), errorWithDomain: domain, code: refusal.code, userInfo: info
            ];
        }
    }
    Bool::NO
}

//! The functions that tests ask.

use std::ffi::{CStr, c_char};

use crate::e5rt::state;
use crate::fault::Faults;
use crate::profile::Profile;

/// Writes as much of `text` as fits, ended by a zero byte; answers how many bytes it has, without that.
///
/// # Safety
/// `buffer` is null or has room for `capacity` bytes.
unsafe fn give(text: &str, buffer: *mut c_char, capacity: usize) -> usize {
    if !buffer.is_null() && capacity > 0 {
        let length = text.len().min(capacity - 1);
        // SAFETY: the caller's promise; `length` and the zero byte fit.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), buffer, length);
            *buffer.add(length) = 0;
        }
    }
    text.len()
}

/// # Safety
/// `text` is null or a C string.
unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Chooses a profile; 1 when there is none of that name.
///
/// # Safety
/// `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn anneal_standin_set_profile(name: *const c_char) -> i64 {
    // SAFETY: the caller's promise.
    match Profile::by_name(&unsafe { string(name) }) {
        Some(profile) => {
            state().profile = profile;
            0
        }
        None => 1,
    }
}

/// Plants bad luck in place of what was planted before; 1 when it cannot be read.
///
/// # Safety
/// `list` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn anneal_standin_set_fault(list: *const c_char) -> i64 {
    // SAFETY: the caller's promise.
    match Faults::parse(&unsafe { string(list) }) {
        Ok(faults) => {
            state().faults = faults;
            0
        }
        Err(_) => 1,
    }
}

/// Every call, a line each.
///
/// # Safety
/// `buffer` is null or has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn anneal_standin_trace(buffer: *mut c_char, capacity: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { give(state().trace.lines(), buffer, capacity) }
}

/// What must not have been done, a line each.
///
/// # Safety
/// `buffer` is null or has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn anneal_standin_violations(buffer: *mut c_char, capacity: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { give(state().trace.violations(), buffer, capacity) }
}

/// Objects that were not released: a line for each kind.
///
/// # Safety
/// `buffer` is null or has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn anneal_standin_live(buffer: *mut c_char, capacity: usize) -> usize {
    let live = state().live();
    // SAFETY: the caller's promise.
    unsafe { give(&live, buffer, capacity) }
}

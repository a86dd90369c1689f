//! IOSurfaces: memory that engine and host share, under locks.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use half::f16;
use objc2::rc::autoreleasepool;

use super::framework::{Framework, Object, READ_ONLY, SurfaceRef};
use crate::CallError;

/// How often one is asked for: with many alive, the first time fails now and then (rustane, rule ANE-018).
const TRIES: u32 = 4;
/// How long to wait before it is asked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// A surface with one reference of ours, of as many bytes as it was asked for, zeroed.
pub(super) struct IoSurface {
    framework: Framework,
    raw: SurfaceRef,
    bytes: usize,
    /// One writer or several readers at a time: threads of the host, and runs.
    access: RwLock<()>,
}

// SAFETY: a reference to memory of the kernel's, of no thread; what is in it is behind `access`.
unsafe impl Send for IoSurface {}
// SAFETY: as above.
unsafe impl Sync for IoSurface {}

impl IoSurface {
    /// A surface of `bytes` bytes.
    ///
    /// # Errors
    /// When it cannot be had, or not locked.
    pub(super) fn new(framework: &Framework, bytes: usize) -> Result<Arc<IoSurface>, CallError> {
        let fail = |call, problem: String| Err(CallError { call, code: 0, message: Some(problem) });
        let mut raw = framework.create_surface(bytes);
        for _ in 1..TRIES {
            if raw.0.is_null() {
                std::thread::sleep(PAUSE);
                raw = framework.create_surface(bytes);
            }
        }
        if raw.0.is_null() {
            return fail("IOSurfaceCreate", format!("no surface of {bytes} bytes after {TRIES} tries"));
        }
        // From here on it is released by its owner.
        let surface = IoSurface { framework: framework.clone(), raw, bytes, access: RwLock::new(()) };
        // SAFETY: it is live.
        let found = unsafe { (framework.calls().surface_alloc_size)(raw) };
        if found < bytes {
            return fail("IOSurfaceCreate", format!("a surface of {found} bytes instead of {bytes}"));
        }
        surface.write(|halves| halves.fill(f16::ZERO))?;
        Ok(Arc::new(surface))
    }

    /// Keeps writers away while it is held.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody away while it is held.
    pub(super) fn writing(&self) -> RwLockWriteGuard<'_, ()> {
        self.access.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// As requests take it.
    ///
    /// # Errors
    /// When the framework makes none.
    pub(super) fn object(&self) -> Result<Object, CallError> {
        let make = self.framework.calls().surface_object;
        // SAFETY: the surface is live, and the object keeps it.
        autoreleasepool(|_| unsafe { make(self.framework.classes(), self.raw) }).ok_or(CallError {
            call: "objectWithIOSurface:",
            code: 0,
            message: None,
        })
    }

    /// Lets `read` at the content.
    ///
    /// # Errors
    /// When it cannot be locked.
    pub(super) fn read<T>(&self, read: impl FnOnce(&[f16]) -> T) -> Result<T, CallError> {
        let _reading = self.reading();
        // SAFETY: see `locked`; no writer is here.
        self.locked(READ_ONLY, |front| read(unsafe { std::slice::from_raw_parts(front, self.numel()) }))
    }

    /// Lets `write` at the content.
    ///
    /// # Errors
    /// When it cannot be locked.
    pub(super) fn write<T>(&self, write: impl FnOnce(&mut [f16]) -> T) -> Result<T, CallError> {
        let _writing = self.writing();
        // SAFETY: see `locked`; nobody else is here.
        self.locked(0, |front| write(unsafe { std::slice::from_raw_parts_mut(front, self.numel()) }))
    }

    fn numel(&self) -> usize {
        self.bytes / size_of::<f16>()
    }

    /// Calls `body` with the address of the memory, of [`numel`](Self::numel) halves, locked.
    fn locked<T>(&self, options: u32, body: impl FnOnce(*mut f16) -> T) -> Result<T, CallError> {
        let calls = self.framework.calls();
        // SAFETY: the surface is live; no seed is asked for.
        let code = unsafe { (calls.surface_lock)(self.raw, options, std::ptr::null_mut()) };
        if code != 0 {
            return Err(CallError { call: "IOSurfaceLock", code: code.into(), message: None });
        }
        // SAFETY: it is live and locked.
        let front = unsafe { (calls.surface_base_address)(self.raw) }.cast::<f16>();
        let done = if front.is_null() || !front.is_aligned() {
            let problem = format!("the memory begins at {front:?}");
            Err(CallError { call: "IOSurfaceGetBaseAddress", code: 0, message: Some(problem) })
        } else {
            Ok(body(front))
        };
        // SAFETY: it was locked with the same options.
        let code = unsafe { (calls.surface_unlock)(self.raw, options, std::ptr::null_mut()) };
        if code != 0 {
            return Err(CallError { call: "IOSurfaceUnlock", code: code.into(), message: None });
        }
        done
    }
}

impl Drop for IoSurface {
    fn drop(&mut self) {
        // SAFETY: the reference that creating it gave.
        unsafe { (self.framework.calls().release)(self.raw) };
    }
}

//! Tensors in memory that engine and host share, as packed halves.

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use device::{Counters, RawBuffer};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::espresso::BufferObject;
use crate::halves::add_halves;

/// Storage for one tensor, row-major, read and written by the engine in place.
pub(crate) struct E5rtBuffer {
    device: Arc<str>,
    shape: Vec<usize>,
    numel: usize,
    object: Arc<BufferObject>,
    /// Who may touch the memory: a run reads or writes it, so does the host.
    access: RwLock<()>,
    counters: Arc<Counters>,
}

impl E5rtBuffer {
    /// A tensor of `shape` in `object`, which is large enough for it.
    pub(crate) fn new(
        device: Arc<str>,
        shape: &[usize],
        object: BufferObject,
        counters: Arc<Counters>,
    ) -> Self {
        let numel = shape.iter().product();
        assert!(numel * size_of::<f16>() <= object.bytes(), "the memory holds the tensor");
        E5rtBuffer {
            device,
            shape: shape.to_vec(),
            numel,
            object: Arc::new(object),
            access: RwLock::new(()),
            counters,
        }
    }

    /// The memory itself, to be bound.
    pub(crate) fn object(&self) -> &Arc<BufferObject> {
        &self.object
    }

    /// Keeps writers away while it is held.
    pub(crate) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody away while it is held.
    pub(crate) fn writing(&self) -> RwLockWriteGuard<'_, ()> {
        self.access.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the elements of `from`; both have the same length.
    pub(crate) fn copy_from(&self, from: &E5rtBuffer) {
        assert_eq!(self.numel, from.numel, "buffers of one port have one length");
        let (_reading, _writing) = (from.reading(), self.writing());
        // SAFETY: both hold `numel` halves, are different objects, and the locks keep runs away.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.object.data().cast::<f16>(),
                self.object.data().cast::<f16>(),
                self.numel,
            );
        }
    }

    fn read<T>(&self, read: impl FnOnce(&[f16]) -> T) -> T {
        let _reading = self.reading();
        // SAFETY: the object holds `numel` halves (checked in `new`), aligned (checked when it was allocated)
        // and zeroed then; the lock keeps runs and writers away.
        read(unsafe { std::slice::from_raw_parts(self.object.data().cast::<f16>(), self.numel) })
    }

    fn bytes(&self) -> usize {
        self.numel * size_of::<f16>()
    }
}

impl RawBuffer for E5rtBuffer {
    fn device(&self) -> &str {
        &self.device
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn write_f32(&self, values: &[f32]) {
        let start = Instant::now();
        {
            let _writing = self.writing();
            // SAFETY: as in `read`; the lock keeps everybody else away.
            let halves =
                unsafe { std::slice::from_raw_parts_mut(self.object.data().cast::<f16>(), self.numel) };
            // Rounds to nearest even, with F16C or NEON where the processor has it.
            halves.convert_from_f32_slice(values);
        }
        self.counters.wrote(self.bytes(), start.elapsed());
    }

    fn read_f32(&self, values: &mut [f32]) -> device::Result<()> {
        let start = Instant::now();
        self.read(|halves| halves.convert_to_f32_slice(values));
        self.counters.read(self.bytes(), start.elapsed());
        Ok(())
    }

    fn add_to_f32(&self, sums: &mut [f32]) -> device::Result<()> {
        let start = Instant::now();
        self.read(|halves| add_halves(halves, sums));
        self.counters.read(self.bytes(), start.elapsed());
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

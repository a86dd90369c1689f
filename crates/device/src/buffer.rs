//! Buffers: storage that programs read and write.

use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use mil::Element;

use crate::memory::Block;
use crate::{Counters, Error, Result};

/// What a device implements for [`Buffer`]; lengths are checked before a call arrives here.
pub trait RawBuffer: Send + Sync {
    /// The device's name, for errors.
    fn device(&self) -> &str;
    /// The shape that it was allocated with.
    fn shape(&self) -> &[usize];
    /// Converts `values` into the buffer.
    fn write_f32(&self, values: &[f32]);
    /// Converts the buffer into `values`.
    ///
    /// # Errors
    /// [`Error::Read`] when the device does not let the host at it.
    fn read_f32(&self, values: &mut [f32]) -> Result<()>;
    /// Adds the buffer to `sums`.
    ///
    /// # Errors
    /// As [`RawBuffer::read_f32`].
    fn add_to_f32(&self, sums: &mut [f32]) -> Result<()>;
    /// Calls `update` on the buffer's own memory when it is `f32` in host memory; otherwise
    /// returns false without a call.
    fn map_f32(&self, update: &mut dyn FnMut(&mut [f32])) -> bool {
        let _ = update;
        false
    }
    /// The concrete buffer, for the device that made it.
    fn as_any(&self) -> &dyn Any;
}

/// Storage for one tensor in a device's element type. Clones are the same storage.
///
/// What a submitted run reads or writes must not be touched before its ticket is done.
#[derive(Clone)]
pub struct Buffer(Arc<dyn RawBuffer>);

impl Buffer {
    /// Wraps a device's buffer.
    pub fn new(raw: Arc<dyn RawBuffer>) -> Self {
        Buffer(raw)
    }

    /// The shape that it was allocated with.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The name of the device that made it.
    pub fn device(&self) -> &str {
        self.0.device()
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether `self` and `other` are the same storage.
    pub fn is(&self, other: &Buffer) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }

    fn check(&self, actual: usize) -> Result<()> {
        let expected = self.numel();
        if actual == expected {
            return Ok(());
        }
        Err(Error::Length {
            device: self.0.device().to_owned(),
            shape: self.shape().to_vec(),
            expected,
            actual,
        })
    }

    /// Converts `values` (row-major) into the buffer, rounding to nearest even.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    pub fn write_f32(&self, values: &[f32]) -> Result<()> {
        self.check(values.len())?;
        self.0.write_f32(values);
        Ok(())
    }

    /// Converts the buffer into `values` (row-major).
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ; [`Error::Read`].
    pub fn read_f32(&self, values: &mut [f32]) -> Result<()> {
        self.check(values.len())?;
        self.0.read_f32(values)
    }

    /// Adds the buffer to `sums` in f32.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ; [`Error::Read`].
    pub fn add_to_f32(&self, sums: &mut [f32]) -> Result<()> {
        self.check(sums.len())?;
        self.0.add_to_f32(sums)
    }

    /// The buffer's contents, row-major.
    ///
    /// # Panics
    /// When it cannot be read; [`Buffer::read_f32`] says why instead.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.numel()];
        if let Err(error) = self.0.read_f32(&mut values) {
            panic!("{error}");
        }
        values
    }

    /// Calls `update` on the buffer's own memory when that is `f32` in host memory, so that an
    /// optimiser can work in place; otherwise returns false without a call.
    pub fn map_f32(&self, update: &mut dyn FnMut(&mut [f32])) -> bool {
        self.0.map_f32(update)
    }

    /// The concrete buffer, for the device that made it.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.0.as_any().downcast_ref()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} {:?})", self.0.device(), self.shape())
    }
}

/// A buffer in ordinary memory, for devices that compute on the host. Elements are held as `f32`;
/// one of [`Element::F16`] holds only values that f16 represents.
pub struct HostBuffer {
    device: Arc<str>,
    element: Element,
    shape: Vec<usize>,
    data: RwLock<Block>,
    /// See [`Elements::form`].
    form: Mutex<Option<Form>>,
    counters: Arc<Counters>,
}

type Form = Arc<dyn Any + Send + Sync>;

impl HostBuffer {
    /// A zeroed buffer of the device called `device`.
    ///
    /// # Errors
    /// [`Error::Alloc`] when the system has no room for it.
    pub fn alloc(device: &str, element: Element, shape: &[usize], counters: Arc<Counters>) -> Result<Buffer> {
        let fail = |bytes: usize, problem: String| Error::Alloc {
            device: device.to_owned(),
            shape: shape.to_vec(),
            bytes,
            problem,
        };
        let Some(len) = shape.iter().try_fold(1_usize, |len, extent| len.checked_mul(*extent)) else {
            return Err(fail(usize::MAX, "it is larger than the address space".to_owned()));
        };
        let data =
            Block::try_zeros(len).map_err(|problem| fail(len.saturating_mul(size_of::<f32>()), problem))?;
        Ok(Buffer::new(Arc::new(HostBuffer {
            device: device.into(),
            element,
            shape: shape.to_vec(),
            data: RwLock::new(data),
            form: Mutex::default(),
            counters,
        })))
    }

    /// The elements, while a run reads them.
    pub fn read(&self) -> Elements<'_> {
        Elements { buffer: self, values: self.data.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The elements, while a run writes them.
    pub fn write(&self) -> RwLockWriteGuard<'_, Block> {
        let guard = self.data.write().unwrap_or_else(PoisonError::into_inner);
        *self.made() = None;
        guard
    }

    fn made(&self) -> MutexGuard<'_, Option<Form>> {
        self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element.bytes()
    }
}

/// The elements of a [`HostBuffer`] while they are read, which keeps writers out.
pub struct Elements<'a> {
    buffer: &'a HostBuffer,
    values: RwLockReadGuard<'a, Block>,
}

impl Elements<'_> {
    /// What the device makes of the elements, to read them in another form: made once, and kept until they are next
    /// written.
    ///
    /// # Panics
    /// When the same elements were made into another type.
    pub fn form<T: Any + Send + Sync>(&self, make: impl FnOnce(&[f32]) -> T) -> Arc<T> {
        let mut form = self.buffer.made();
        let made = form.get_or_insert_with(|| Arc::new(make(&self.values)));
        made.clone().downcast().expect("a device has one other form of a buffer")
    }
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl RawBuffer for HostBuffer {
    fn device(&self) -> &str {
        &self.device
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn write_f32(&self, values: &[f32]) {
        let start = Instant::now();
        let mut data = self.write();
        data.copy_from_slice(values);
        self.element.round_all(&mut data);
        self.counters.wrote(self.bytes(), start.elapsed());
    }

    fn read_f32(&self, values: &mut [f32]) -> Result<()> {
        let start = Instant::now();
        values.copy_from_slice(&self.read());
        self.counters.read(self.bytes(), start.elapsed());
        Ok(())
    }

    fn add_to_f32(&self, sums: &mut [f32]) -> Result<()> {
        let start = Instant::now();
        for (sum, value) in sums.iter_mut().zip(self.read().iter()) {
            *sum += value;
        }
        self.counters.read(self.bytes(), start.elapsed());
        Ok(())
    }

    fn map_f32(&self, update: &mut dyn FnMut(&mut [f32])) -> bool {
        if self.element != Element::F32 {
            return false;
        }
        update(&mut self.write());
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(element: Element) -> Buffer {
        HostBuffer::alloc("test", element, &[2, 2], Arc::default()).unwrap()
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error() {
        for shape in [&[usize::MAX / 8, 1][..], &[usize::MAX, 2], &[1 << 50, 1 << 6]] {
            let error =
                HostBuffer::alloc("test", Element::F32, shape, Arc::default()).unwrap_err().to_string();
            assert!(error.contains("test: no room for a buffer of shape"), "{error}");
        }
    }

    /// Oracle: the spacing of f16 near 1 is 2^-10, and ties go to even.
    #[test]
    fn f16_storage_rounds_to_nearest_even() {
        let half = buffer(Element::F16);
        let step = 2.0_f32.powi(-10);
        half.write_f32(&[1.0 + 0.5 * step, 1.0 + 1.5 * step, 70_000.0, 1e-8]).unwrap();
        assert_eq!(half.to_vec(), [1.0, 1.0 + 2.0 * step, f32::INFINITY, 0.0]);
    }

    #[test]
    fn a_wrong_length_is_an_error_that_names_both() {
        let error = buffer(Element::F32).write_f32(&[1.0]).unwrap_err().to_string();
        assert!(error.contains("holds 4 elements, was given 1"), "{error}");
    }

    #[test]
    fn a_form_is_made_once_for_what_was_written() {
        let buffer = buffer(Element::F32);
        let host = buffer.downcast::<HostBuffer>().unwrap();
        let form = |times: &mut usize| {
            let values = host.read();
            let make = |values: &[f32]| {
                *times += 1;
                values.iter().sum::<f32>()
            };
            *values.form(make)
        };
        let mut times = 0;
        assert_eq!([form(&mut times), form(&mut times)], [0.0, 0.0]);
        buffer.write_f32(&[1.0; 4]).unwrap();
        assert_eq!([form(&mut times), form(&mut times)], [4.0, 4.0]);
        buffer.map_f32(&mut |values| values.fill(2.0));
        assert_eq!([form(&mut times), form(&mut times)], [8.0, 8.0]);
        host.write()[0] = 0.0;
        assert_eq!(form(&mut times), 6.0);
        assert_eq!(times, 4);
    }

    #[test]
    fn only_f32_host_memory_is_mapped() {
        assert!(!buffer(Element::F16).map_f32(&mut |_| panic!("not to be called")));
        let single = buffer(Element::F32);
        assert!(single.map_f32(&mut |values| values.fill(2.0)));
        let mut sums = vec![1.0; 4];
        single.add_to_f32(&mut sums).unwrap();
        assert_eq!(sums, [3.0; 4]);
    }
}

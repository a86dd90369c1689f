//! Tensors that travel between surfaces.
//!
//! A program of this route sees one surface, so a tensor that several programs read lies in several surfaces. A
//! buffer knows where its latest values are: with the host, after a write, or in the surface of the program
//! that computed them last. Whoever reads them next has them copied from there, once for each change. So
//! weights that nobody changes stay where they are, and what programs compute is not kept by the host.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use device::{Counters, Error, RawBuffer, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::surface::IoSurface;
use crate::CallError;
use crate::explain::explain;
use crate::halves::add_halves;
use crate::inmem::Place;

/// What all buffers of a device share.
pub(super) struct Books {
    pub(super) device: Arc<str>,
    pub(super) counters: Arc<Counters>,
}

/// One tensor, row-major.
pub(super) struct InMemBuffer {
    books: Arc<Books>,
    shape: Vec<usize>,
    numel: usize,
    latest: Mutex<Latest>,
}

/// Where the latest values are.
struct Latest {
    /// How often they have changed.
    version: u64,
    at: At,
}

enum At {
    /// Nobody has written any: zeros.
    Zero,
    /// With the host.
    Host(Vec<f16>),
    /// Where a program has put them.
    Surface { surface: Arc<IoSurface>, place: Place },
}

impl InMemBuffer {
    /// A tensor of zeros.
    pub(super) fn new(books: Arc<Books>, shape: &[usize]) -> Self {
        let numel = shape.iter().product();
        let latest = Mutex::new(Latest { version: 0, at: At::Zero });
        InMemBuffer { books, shape: shape.to_vec(), numel, latest }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the values have changed; 0 while they are the zeros of the beginning.
    pub(super) fn version(&self) -> u64 {
        self.latest().version
    }

    /// Copies the values to `place` in `surface` and answers their version.
    ///
    /// # Errors
    /// When the surface that they are in cannot be locked.
    pub(super) fn copy_to(&self, place: Place, surface: &mut [f16]) -> std::result::Result<u64, CallError> {
        let begun = Instant::now();
        let latest = self.latest();
        match &latest.at {
            // As surfaces are when they are new: nothing to copy.
            At::Zero => return Ok(latest.version),
            At::Host(halves) => place.write(halves, surface),
            At::Surface { surface: other, place: from } => {
                other.read(|halves| from.copy(halves, place, surface))?;
                self.books.counters.read(self.bytes(), std::time::Duration::ZERO);
            }
        }
        self.books.counters.wrote(self.bytes(), begun.elapsed());
        Ok(latest.version)
    }

    /// From now on the values are those at `place` in `surface`.
    pub(super) fn is_now_at(&self, surface: &Arc<IoSurface>, place: Place) {
        let mut latest = self.latest();
        latest.version += 1;
        // The same surface every step: nothing to allocate, nothing to free.
        if !matches!(&latest.at, At::Surface { surface: at, .. } if Arc::ptr_eq(at, surface)) {
            latest.at = At::Surface { surface: surface.clone(), place };
        }
    }

    fn bytes(&self) -> usize {
        self.numel * size_of::<f16>()
    }

    /// Lets the host at values in a surface with `read`.
    fn read_surface(&self, surface: &IoSurface, begun: Instant, read: impl FnOnce(&[f16])) -> Result<()> {
        surface.read(read).map_err(|error| Error::Read {
            device: self.books.device.to_string(),
            shape: self.shape.clone(),
            problem: explain(&error),
        })?;
        self.books.counters.read(self.bytes(), begun.elapsed());
        Ok(())
    }
}

impl RawBuffer for InMemBuffer {
    fn device(&self) -> &str {
        &self.books.device
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Rounds once, here; the programs that read the values copy halves.
    fn write_f32(&self, values: &[f32]) {
        let begun = Instant::now();
        let mut latest = self.latest();
        latest.version += 1;
        if !matches!(latest.at, At::Host(_)) {
            latest.at = At::Host(vec![f16::ZERO; self.numel]);
        }
        if let At::Host(halves) = &mut latest.at {
            // To nearest even, with F16C or NEON where the processor has it.
            halves.convert_from_f32_slice(values);
        }
        // Nothing reaches the device before a program reads it.
        self.books.counters.wrote(0, begun.elapsed());
    }

    fn read_f32(&self, values: &mut [f32]) -> Result<()> {
        let begun = Instant::now();
        match &self.latest().at {
            At::Zero => values.fill(0.0),
            At::Host(halves) => halves.convert_to_f32_slice(values),
            At::Surface { surface, place } => {
                self.read_surface(surface, begun, |halves| place.read(halves, values))?;
            }
        }
        Ok(())
    }

    fn add_to_f32(&self, sums: &mut [f32]) -> Result<()> {
        let begun = Instant::now();
        match &self.latest().at {
            At::Zero => {}
            At::Host(halves) => add_halves(halves, sums),
            At::Surface { surface, place } => {
                self.read_surface(surface, begun, |halves| place.add_to_f32(halves, sums))?;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

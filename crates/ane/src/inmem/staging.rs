//! Copies between tensors and surfaces: whole rows, converted on the way.
//!
//! A tensor lies in its surface in the order of its elements, so that a row is one copy: rustane measured 56
//! to 90 GB/s for flat copies and 10 GB/s for elements that are interleaved one by one (M4 Max).

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::layout::Place;
use super::pack::{PackError, PackedPort, Packing};
use crate::halves::add_halves;

/// What a tensor outside a surface may hold: `f32`, which is rounded to nearest even (with F16C or NEON where
/// the processor has it), or `f16`.
pub trait Staged: Sized + sealed::Sealed {
    /// Converts `values` into a row of equal length.
    fn store(values: &[Self], row: &mut [f16]);
    /// Converts a row into `values` of equal length.
    fn load(row: &[f16], values: &mut [Self]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
}

impl Staged for f32 {
    fn store(values: &[f32], row: &mut [f16]) {
        row.convert_from_f32_slice(values);
    }

    fn load(row: &[f16], values: &mut [f32]) {
        row.convert_to_f32_slice(values);
    }
}

impl Staged for f16 {
    fn store(values: &[f16], row: &mut [f16]) {
        row.copy_from_slice(values);
    }

    fn load(row: &[f16], values: &mut [f16]) {
        values.copy_from_slice(row);
    }
}

impl Place {
    /// Each row of the tensor: where it begins in the surface.
    pub(super) fn row_starts(self) -> impl Iterator<Item = usize> {
        (self.first_row..self.first_row + self.rows).map(move |row| row * self.stride + self.first_column)
    }

    /// Elements of the tensor.
    pub(super) fn numel(self) -> usize {
        self.rows * self.columns
    }

    /// Copies `values`, as many as the tensor has elements, into `surface`.
    pub(super) fn write<T: Staged>(self, values: &[T], surface: &mut [f16]) {
        assert_eq!(values.len(), self.numel(), "a place takes its tensor");
        for (start, row) in self.row_starts().zip(values.chunks_exact(self.columns)) {
            T::store(row, &mut surface[start..start + self.columns]);
        }
    }

    /// Copies the tensor out of `surface`.
    pub(super) fn read<T: Staged>(self, surface: &[f16], values: &mut [T]) {
        assert_eq!(values.len(), self.numel(), "a place gives its tensor");
        for (start, row) in self.row_starts().zip(values.chunks_exact_mut(self.columns)) {
            T::load(&surface[start..start + self.columns], row);
        }
    }

    /// Adds the tensor in `surface` to `sums`.
    pub(super) fn add_to_f32(self, surface: &[f16], sums: &mut [f32]) {
        assert_eq!(sums.len(), self.numel(), "a place gives its tensor");
        for (start, sums) in self.row_starts().zip(sums.chunks_exact_mut(self.columns)) {
            add_halves(&surface[start..start + self.columns], sums);
        }
    }
}

impl Packing {
    /// Copies `values` (row-major, as many as the port has elements) to where `port` lies in `surface`, the
    /// memory of the side that it belongs to. Nothing else in the surface is touched.
    ///
    /// # Errors
    /// [`PackError::UnknownPort`]; [`PackError::Length`] and [`PackError::SurfaceBytes`] when something has
    /// another size.
    pub fn write<T: Staged>(&self, port: &str, values: &[T], surface: &mut [u8]) -> Result<(), PackError> {
        let place = self.checked(port, values.len(), surface)?.place;
        place.write(values, bytemuck::cast_slice_mut(surface));
        Ok(())
    }

    /// Copies what `port` holds in `surface` to `values` (row-major).
    ///
    /// # Errors
    /// As [`Packing::write`].
    pub fn read<T: Staged>(&self, port: &str, surface: &[u8], values: &mut [T]) -> Result<(), PackError> {
        let place = self.checked(port, values.len(), surface)?.place;
        place.read(bytemuck::cast_slice(surface), values);
        Ok(())
    }

    /// Adds what `port` holds in `surface` to `sums` (row-major).
    ///
    /// # Errors
    /// As [`Packing::write`].
    pub fn add_to_f32(&self, port: &str, surface: &[u8], sums: &mut [f32]) -> Result<(), PackError> {
        let place = self.checked(port, sums.len(), surface)?.place;
        place.add_to_f32(bytemuck::cast_slice(surface), sums);
        Ok(())
    }

    /// The port called `name`, when it has `numel` elements and `surface` is as large as its side's, at an
    /// address at which halves may lie.
    fn checked(&self, name: &str, numel: usize, surface: &[u8]) -> Result<&PackedPort, PackError> {
        let port = self.port(name)?;
        if port.shape.iter().product::<usize>() != numel {
            return Err(PackError::Length { port: name.to_owned(), shape: port.shape.clone(), found: numel });
        }
        let expected = self.surface(port.kind).bytes();
        let aligned = surface.as_ptr().cast::<f16>().is_aligned();
        if surface.len() != expected || !aligned {
            let (port, found) = (name.to_owned(), surface.len());
            return Err(PackError::SurfaceBytes { port, expected, found, aligned });
        }
        Ok(port)
    }
}

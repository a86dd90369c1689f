//! Copies between tensors and surfaces: whole rows, converted on the way.
//!
//! A tensor lies in its surface in the order of its elements, so that a row is one copy: rustane measured 56
//! to 90 GB/s for flat copies and 10 GB/s for elements that are interleaved one by one (M4 Max).

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::layout::Place;
use super::pack::{PackError, PackedPort, Packing};

/// Elements that are converted at once where a sum goes through the cache.
const CHUNK: usize = 4096;

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
    fn row_starts(self) -> impl Iterator<Item = usize> {
        (self.first_row..self.first_row + self.rows).map(move |row| row * self.stride + self.first_column)
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
        let port = self.checked(port, values.len(), surface)?;
        let halves: &mut [f16] = bytemuck::cast_slice_mut(surface);
        let columns = port.place.columns;
        for (start, row) in port.place.row_starts().zip(values.chunks_exact(columns)) {
            T::store(row, &mut halves[start..start + columns]);
        }
        Ok(())
    }

    /// Copies what `port` holds in `surface` to `values` (row-major).
    ///
    /// # Errors
    /// As [`Packing::write`].
    pub fn read<T: Staged>(&self, port: &str, surface: &[u8], values: &mut [T]) -> Result<(), PackError> {
        let port = self.checked(port, values.len(), surface)?;
        let halves: &[f16] = bytemuck::cast_slice(surface);
        let columns = port.place.columns;
        for (start, row) in port.place.row_starts().zip(values.chunks_exact_mut(columns)) {
            T::load(&halves[start..start + columns], row);
        }
        Ok(())
    }

    /// Adds what `port` holds in `surface` to `sums` (row-major).
    ///
    /// # Errors
    /// As [`Packing::write`].
    pub fn add_to_f32(&self, port: &str, surface: &[u8], sums: &mut [f32]) -> Result<(), PackError> {
        let port = self.checked(port, sums.len(), surface)?;
        let halves: &[f16] = bytemuck::cast_slice(surface);
        let columns = port.place.columns;
        let mut converted = [0.0; CHUNK];
        for (start, sums) in port.place.row_starts().zip(sums.chunks_exact_mut(columns)) {
            let row = &halves[start..start + columns];
            for (halves, sums) in row.chunks(CHUNK).zip(sums.chunks_mut(CHUNK)) {
                let converted = &mut converted[..halves.len()];
                halves.convert_to_f32_slice(converted);
                for (sum, value) in sums.iter_mut().zip(converted) {
                    *sum += *value;
                }
            }
        }
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

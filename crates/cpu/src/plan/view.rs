//! Views: how a value's elements lie in a storage.

use super::memory::StorageId;

/// Elements of a storage seen as a tensor; what `reshape`, `transpose`, `slice_by_size` and
/// broadcasting do costs nothing as long as a consumer takes strides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) storage: StorageId,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In elements; 0 repeats.
    pub(crate) strides: Vec<usize>,
}

/// Row-major strides of `shape`.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}

impl View {
    /// All of a storage, row-major.
    pub(crate) fn dense(storage: StorageId, shape: &[usize]) -> View {
        View { storage, offset: 0, shape: shape.to_vec(), strides: dense_strides(shape) }
    }

    /// Elements.
    pub(crate) fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements follow one another in row-major order.
    pub(crate) fn is_dense(&self) -> bool {
        let dense = dense_strides(&self.shape);
        (0..self.shape.len()).all(|i| self.shape[i] == 1 || self.strides[i] == dense[i])
    }

    /// Axes in another order.
    pub(crate) fn transposed(&self, perm: &[usize]) -> View {
        View {
            shape: perm.iter().map(|axis| self.shape[*axis]).collect(),
            strides: perm.iter().map(|axis| self.strides[*axis]).collect(),
            ..*self
        }
    }

    /// The box that begins at `begin`.
    pub(crate) fn sliced(&self, begin: &[usize], size: &[usize]) -> View {
        let skipped: usize = begin.iter().zip(&self.strides).map(|(b, s)| b * s).sum();
        View { offset: self.offset + skipped, shape: size.to_vec(), strides: self.strides.clone(), ..*self }
    }

    /// Repeated to `shape`, as NumPy broadcasts.
    pub(crate) fn broadcast(&self, shape: &[usize]) -> View {
        let extra = shape.len() - self.shape.len();
        let strides =
            (0..shape.len())
                .map(|axis| {
                    if axis < extra || self.shape[axis - extra] == 1 { 0 } else { self.strides[axis - extra] }
                })
                .collect();
        View { shape: shape.to_vec(), strides, ..*self }
    }
}

/// The axes of two stridings of one shape merged where both run on without a jump, ones dropped:
/// (extent, first stride, second stride), outermost first.
pub(crate) fn merged_axes(shape: &[usize], first: &[usize], second: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut axes: Vec<(usize, usize, usize)> = Vec::new();
    for axis in 0..shape.len() {
        let (extent, a, b) = (shape[axis], first[axis], second[axis]);
        if extent == 1 {
            continue;
        }
        match axes.last_mut() {
            Some((outer, outer_a, outer_b)) if *outer_a == a * extent && *outer_b == b * extent => {
                (*outer, *outer_a, *outer_b) = (*outer * extent, a, b);
            }
            _ => axes.push((extent, a, b)),
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transpose_is_dense_only_when_it_moves_ones() {
        let view = View::dense(StorageId(0), &[1, 3, 1, 5]);
        assert!(view.transposed(&[1, 0, 2, 3]).is_dense());
        assert!(!view.transposed(&[0, 3, 2, 1]).is_dense());
        assert!(!view.broadcast(&[2, 3, 1, 5]).is_dense());
    }

    #[test]
    fn axes_merge_where_both_run_on() {
        // [2, 3, 4] dense against the same with the last axis padded to 8.
        assert_eq!(merged_axes(&[2, 3, 4], &[12, 4, 1], &[24, 8, 1]), [(6, 4, 8), (4, 1, 1)]);
        assert_eq!(merged_axes(&[2, 1, 4], &[4, 4, 1], &[4, 9, 1]), [(8, 1, 1)]);
    }
}

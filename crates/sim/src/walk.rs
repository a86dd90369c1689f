//! Walking several tensors side by side, and cutting work into chunks that do not depend on the
//! number of threads.

use rayon::prelude::*;

/// Elements that one task works on: enough to pay for the task, few enough to stay in a core's
/// cache.
pub(crate) const CHUNK: usize = 1 << 14;

/// Calls `fill(start, chunk)` for every chunk of `out`, `start` being the position of its first
/// element; `out` is a whole number of `unit`s and no chunk cuts one.
pub(crate) fn chunks<T: Send>(out: &mut [T], unit: usize, fill: impl Fn(usize, &mut [T]) + Send + Sync) {
    if out.is_empty() {
        return;
    }
    let len = (CHUNK / unit).max(1) * unit;
    if out.len() <= len {
        return fill(0, out);
    }
    out.par_chunks_mut(len).enumerate().for_each(|(i, chunk)| fill(i * len, chunk));
}

/// Row-major strides of `shape`.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Strides with which a tensor of `from` is read where a result of `to` is written; 0 along axes
/// on which it is broadcast.
pub(crate) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut result = vec![0; to.len() - from.len()];
    result.extend(
        strides(from).into_iter().zip(from).map(|(stride, extent)| if *extent == 1 { 0 } else { stride }),
    );
    result
}

/// A shape, and for each of `K` tensors the stride along every axis. Axes that all tensors walk as
/// one are joined, so that the last axis is as long as it can be.
pub(crate) struct Walk<const K: usize> {
    extents: Vec<usize>,
    strides: Vec<[usize; K]>,
}

impl<const K: usize> Walk<K> {
    pub(crate) fn new(shape: &[usize], tensors: [Vec<usize>; K]) -> Self {
        let mut walk = Walk { extents: Vec::new(), strides: Vec::new() };
        for (axis, extent) in shape.iter().copied().enumerate() {
            if extent == 1 {
                continue;
            }
            let inner = std::array::from_fn(|k| tensors[k][axis]);
            match walk.strides.last_mut() {
                Some(outer) if (0..K).all(|k| outer[k] == inner[k] * extent) => {
                    *outer = inner;
                    *walk.extents.last_mut().expect("as many as strides") *= extent;
                }
                _ => {
                    walk.extents.push(extent);
                    walk.strides.push(inner);
                }
            }
        }
        if walk.extents.is_empty() {
            walk.extents.push(1);
            walk.strides.push([0; K]);
        }
        walk
    }

    /// Strides along the last axis.
    pub(crate) fn inner(&self) -> [usize; K] {
        *self.strides.last().expect("there is at least one axis")
    }

    /// Offsets of element `index`.
    pub(crate) fn offsets(&self, index: usize) -> [usize; K] {
        let mut rest = index;
        let mut offsets = [0; K];
        for (extent, strides) in self.extents.iter().zip(&self.strides).rev() {
            let at = rest % extent;
            rest /= extent;
            for k in 0..K {
                offsets[k] += at * strides[k];
            }
        }
        offsets
    }

    /// Cuts the elements `start..start + out.len()` into runs along the last axis and calls
    /// `visit(run, offsets)` for each.
    pub(crate) fn runs<T>(&self, start: usize, out: &mut [T], mut visit: impl FnMut(&mut [T], [usize; K])) {
        let inner = *self.extents.last().expect("there is at least one axis");
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let len = (inner - at % inner).min(rest.len());
            let (run, tail) = rest.split_at_mut(len);
            visit(run, self.offsets(at));
            at += len;
            rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_all_tensors_walk_as_one_are_joined() {
        let shape = [1, 6, 1, 5];
        let of = |from: &[usize]| {
            let walk = Walk::new(&shape, [strides(&shape), broadcast_strides(from, &shape)]);
            (walk.extents.clone(), walk.inner())
        };
        assert_eq!(of(&shape), (vec![30], [1, 1]));
        assert_eq!(of(&[]), (vec![30], [1, 0]));
        assert_eq!(of(&[1, 6, 1, 1]), (vec![6, 5], [1, 0]));
        assert_eq!(of(&[1, 1, 1, 5]), (vec![6, 5], [1, 1]));
    }

    #[test]
    fn runs_cover_a_range_once() {
        let shape = [2, 3, 4];
        let walk = Walk::new(&shape, [vec![1, 2, 6]]);
        let mut out = vec![0; 17];
        walk.runs(5, &mut out, |run, [offset]| {
            run.iter_mut().enumerate().for_each(|(i, o)| *o = offset + i * walk.inner()[0]);
        });
        let all: Vec<usize> = (0..24).map(|i| walk.offsets(i)[0]).collect();
        assert_eq!(out, all[5..22]);
    }
}

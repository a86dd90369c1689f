//! Where values live while a plan runs.

use std::sync::Arc;

use device::memory::Block;

use crate::Write;
use crate::bf16::Bf16;
use crate::pool::with_scratch;

/// A run of memory that a plan knows: an index into its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StorageId(pub(crate) usize);

/// What is behind a [`StorageId`].
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// The buffer bound to input port number i.
    Input(usize),
    /// The buffer bound to output port number i.
    Output(usize),
    /// Known when the plan was made.
    Const(Arc<[f32]>),
    /// A part of the arena, placed by liveness; `offset` is filled in at the end of planning.
    Temp { offset: usize, len: usize },
}

/// The table with addresses filled in, for one run.
pub(crate) struct Memory {
    runs: Vec<(*mut f32, usize)>,
    modes: Vec<Write>,
    /// By storage, in bf16 what the plan asks for in that form.
    rounded: Vec<Option<Arc<Block<Bf16>>>>,
}

/// A storage's place in a run.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) base: *mut f32,
    pub(crate) len: usize,
    pub(crate) mode: Write,
    pub(crate) rounded: Option<Arc<Block<Bf16>>>,
}

// SAFETY: a step's tasks share the table to look addresses up; who may read or write what is
// written comes from the plan (see `Memory::read`).
unsafe impl Sync for Memory {}

impl Memory {
    /// One entry for each storage.
    pub(crate) fn new(entries: impl Iterator<Item = Entry>) -> Memory {
        let mut memory = Memory { runs: Vec::new(), modes: Vec::new(), rounded: Vec::new() };
        for entry in entries {
            memory.runs.push((entry.base, entry.len));
            memory.modes.push(entry.mode);
            memory.rounded.push(entry.rounded);
        }
        memory
    }

    /// The storage's values in bf16, where it is an input that the plan asks for in that form.
    pub(crate) fn rounded(&self, id: StorageId) -> Option<&[Bf16]> {
        self.rounded[id.0].as_ref().map(|values| &***values)
    }

    /// How the storage is written: [`Write::Accumulate`] only for outputs that are bound so.
    pub(crate) fn mode(&self, id: StorageId) -> Write {
        self.modes[id.0]
    }

    /// How many values the storage has.
    pub(crate) fn len(&self, id: StorageId) -> usize {
        self.runs[id.0].1
    }

    /// The storage's values.
    ///
    /// # Safety
    /// The calling step must have declared `id` among its reads, so that the plan has kept every
    /// overlapping write out of it, and the memory behind the table must be live.
    pub(crate) unsafe fn read<'a>(&self, id: StorageId) -> &'a [f32] {
        let (base, len) = self.runs[id.0];
        // SAFETY: live by this function's contract; no overlapping write during the step.
        unsafe { std::slice::from_raw_parts(base, len) }
    }

    /// The storage, to be written.
    ///
    /// # Safety
    /// As [`Memory::read`], with `id` among the step's writes; to be called once in a step for each
    /// storage.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the plan, not by the table")]
    pub(crate) unsafe fn write<'a>(&self, id: StorageId) -> &'a mut [f32] {
        let (base, len) = self.runs[id.0];
        // SAFETY: live and exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }

    /// Has `compute` fill the storage, or a scratch block that is then added to it where the
    /// storage accumulates: for kernels that cannot add by themselves.
    ///
    /// # Safety
    /// As [`Memory::write`].
    pub(crate) unsafe fn put<R>(&self, id: StorageId, compute: impl FnOnce(&mut [f32]) -> R) -> R {
        // SAFETY: passed on.
        let out = unsafe { self.write(id) };
        match self.mode(id) {
            Write::Store => compute(out),
            Write::Accumulate => with_scratch(out.len(), |scratch| {
                let result = compute(scratch);
                out.iter_mut().zip(scratch).for_each(|(sum, share)| *sum += *share);
                result
            }),
        }
    }
}

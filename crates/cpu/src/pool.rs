//! A fixed pool of threads and their scratch memory.
//!
//! Kernels cut their work into tasks whose number and shape follow from the problem alone, never
//! from the number of threads; which thread runs which task is left to chance. So a result is the
//! same for any pool. Matrix products are cut by the number of threads, but where they are cut does not show.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A fixed set of threads: the caller and `threads - 1` workers that sleep between calls.
pub struct Pool {
    /// The workers beside the calling thread; none for a pool of one.
    workers: Option<rayon::ThreadPool>,
    threads: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's own included; 0 means one per available core.
    pub fn new(threads: usize) -> Pool {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let workers = (threads > 1).then(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|i| format!("cpu-{}", i + 1))
                .build()
                .unwrap_or_else(|e| panic!("cpu pool: cannot start {} threads: {e}", threads - 1))
        });
        Pool { workers, threads }
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` … `task(count - 1)`, each once, spread over the threads, and returns when all
    /// are done. Called from within a task of a worker it runs its tasks one after the other.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        match &self.workers {
            Some(workers) if count > 1 && workers.current_thread_index().is_none() => {
                let next = AtomicUsize::new(0);
                let work = || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count {
                            break;
                        }
                        task(i);
                    }
                };
                workers.in_place_scope(|scope| {
                    for _ in 1..self.threads.min(count) {
                        scope.spawn(|_| work());
                    }
                    work();
                });
            }
            _ => (0..count).for_each(task),
        }
    }
}

/// A cache line of floats: the unit in which scratch and arenas are allocated, so that it is aligned for the
/// widest vectors.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

thread_local! {
    /// Free scratch blocks of this thread. They grow to what was asked for and stay.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of this thread's scratch, 64-byte aligned. The contents are left over
/// from earlier users. Calls nest: each level has its own block, and a block is reused by the next
/// call at the same level, so steady state allocates nothing.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let lines = len.div_ceil(16);
    let mut block = FREE.with(|free| {
        let mut free = free.borrow_mut();
        // The smallest block that is large enough, else the largest one, which then grows.
        let fit = (0..free.len()).filter(|&i| free[i].len() >= lines).min_by_key(|&i| free[i].len());
        let pick = fit.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        pick.map(|i| free.swap_remove(i)).unwrap_or_default()
    });
    if block.len() < lines {
        block = Vec::new();
        block.resize(lines, Line([0.0; 16]));
    }
    // SAFETY: `Line` is exactly 16 floats without padding, and `block` holds at least `lines` of them.
    let floats = unsafe { std::slice::from_raw_parts_mut(block.as_mut_ptr().cast::<f32>(), len) };
    let result = f(floats);
    FREE.with(|free| free.borrow_mut().push(block));
    result
}

/// As [`with_scratch`], for several blocks, each of them aligned.
pub(crate) fn with_scratches<const N: usize, R>(lens: [usize; N], f: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let whole = |len: usize| len.next_multiple_of(16);
    with_scratch(lens.into_iter().map(whole).sum(), |mut rest| {
        f(lens.map(|len| {
            let (block, after) = std::mem::take(&mut rest).split_at_mut(whole(len));
            rest = after;
            &mut block[..len]
        }))
    })
}

/// A base pointer that tasks share, each to write its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut {
    base: *mut f32,
    len: usize,
}

// SAFETY: the pointer comes from an exclusive borrow that outlives the tasks, and `slice` puts the
// duty of disjointness on its callers.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(crate) fn new(data: &mut [f32]) -> SharedMut {
        SharedMut { base: data.as_mut_ptr(), len: data.len() }
    }

    /// `len` floats from `start`.
    ///
    /// # Safety
    /// No other live reference, in this task or another, may overlap the part, and the borrow that
    /// `new` was given must still be held by the caller.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(
            start + len <= self.len,
            "a task's part [{start}, {}) lies outside {} floats",
            start + len,
            self.len
        );
        // SAFETY: in bounds by the assertion; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }

    /// The address of element `start`, for a strided writer.
    pub(crate) fn at(self, start: usize) -> *mut f32 {
        assert!(start <= self.len, "a task starts at {start} of {} floats", self.len);
        self.base.wrapping_add(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let hits: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            pool.run(100, |i| {
                hits[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn scratch_nests_and_is_reused() {
        let first = with_scratch(100, |a| {
            a.fill(1.0);
            with_scratch(50, |b| b.fill(2.0));
            assert!(a.iter().all(|&v| v == 1.0));
            a.as_ptr() as usize
        });
        assert_eq!(first % 64, 0);
        let parts = with_scratches([5, 0, 17], |blocks| blocks.map(|b| (b.as_ptr() as usize % 64, b.len())));
        assert_eq!(parts, [(0, 5), (0, 0), (0, 17)]);
        assert_eq!(with_scratch(100, |a| a.as_ptr() as usize), first);
    }
}

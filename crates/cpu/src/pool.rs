//! A fixed pool of threads and their scratch memory.
//!
//! Kernels cut their work into tasks whose number and shape follow from the problem alone, never
//! from the number of threads; which thread runs which task is left to chance. So a result is the
//! same for any pool. Matrix products are cut by the number of threads, but where they are cut does not show.

use std::any::Any;
use std::cell::{RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use device::memory::Block;

/// A fixed set of threads: the caller and `threads - 1` workers that sleep between calls.
///
/// A token that is generated takes some hundred calls of 0.1 ms, of which waking a thread that sleeps is a good part: so
/// workers stay awake for a moment after each. Nobody waits for a worker that has not begun when the work is done, as
/// where several runs share the machine.
pub struct Pool {
    /// None for a pool of one.
    workers: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// Held by the one call that has the workers.
    turn: Mutex<()>,
}

/// How long a worker watches for the next call before it sleeps.
const AWAKE: Duration = Duration::from_micros(50);
/// Looks between two at the clock.
const LOOKS: usize = 64;

/// What a call gives to the workers. It borrows from the call, which ends when no worker is in it.
type Job = *const (dyn Fn() + Sync);

struct Shared {
    /// Number of the job in the upper half; [`OPEN`]; and how many workers are in it.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Workers that wait for `woken`.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    woken: Condvar,
    ends: AtomicBool,
    /// What a worker's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the call that holds the turn while no worker is in a job, and read by workers in it; what it
// points at is `Sync`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Set while workers may join the job.
const OPEN: u64 = 1 << 31;
/// One job further.
const NEXT: u64 = 1 << 32;

fn number(state: u64) -> u64 {
    state / NEXT
}

fn workers_in(state: u64) -> u64 {
    state % OPEN
}

impl Shared {
    /// Waits until there is another job than number `seen`; -> its number, or none when the pool ends.
    fn next(&self, seen: u64) -> Option<u64> {
        let is_new = || number(self.state.load(Ordering::SeqCst)) != seen || self.ends.load(Ordering::SeqCst);
        let begin = Instant::now();
        while !is_new() && begin.elapsed() < AWAKE {
            for _ in 0..LOOKS {
                if is_new() {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        if !is_new() {
            let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            // A call that does not see this has made its job known before, and is seen below.
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while !is_new() {
                bed = self.woken.wait(bed).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        (!self.ends.load(Ordering::SeqCst)).then(|| number(self.state.load(Ordering::SeqCst)))
    }

    /// Joins job number `seen`; false when it has been closed.
    fn join(&self, seen: u64) -> bool {
        let one_more = |state| (number(state) == seen && state & OPEN != 0).then_some(state + 1);
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, one_more).is_ok()
    }

    fn work(&self) {
        let mut seen = 0;
        while let Some(number) = self.next(seen) {
            seen = number;
            if !self.join(number) {
                continue;
            }
            // SAFETY: the call that wrote it waits until this worker has left.
            let job = unsafe { (*self.job.get()).map(|job| &*job) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job.inspect(|job| job()))) {
                // The first one goes to the caller.
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Wakes up to `most` workers.
    fn wake(&self, most: usize) {
        let asleep = self.asleep.load(Ordering::SeqCst);
        if asleep > 0 {
            let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            (0..most.min(asleep)).for_each(|_| self.woken.notify_one());
        }
    }
}

/// The end of a call, also of one that panics: no worker joins its job from here on, and none is left in it afterwards.
struct Closes<'a>(&'a Shared);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0_usize;
        while workers_in(self.0.state.load(Ordering::Acquire)) > 0 {
            looks += 1;
            // A task of another thread is at its end soon, unless the system has taken that thread's core away.
            if looks.is_multiple_of(LOOKS) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's own included; 0 means one per available core.
    pub fn new(threads: usize) -> Pool {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            woken: Condvar::new(),
            ends: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { workers: Vec::new(), shared, turn: Mutex::new(()) };
        for i in 1..threads {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new().name(format!("cpu-{i}")).spawn(move || shared.work());
            // The pool's end is that of those which have begun.
            pool.workers
                .push(worker.unwrap_or_else(|e| panic!("cpu pool: cannot start {threads} threads: {e}")));
        }
        pool
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` … `task(count - 1)`, each once, spread over the threads, and returns when all
    /// are done. Called from within a task, or while another call has the workers, it runs its tasks one after the other.
    ///
    /// # Panics
    /// When a task does; all others that have begun are done then.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        if count < 2 || self.workers.is_empty() {
            return (0..count).for_each(task);
        }
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..count).for_each(task),
        };
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
        let job: &(dyn Fn() + Sync) = &work;
        // SAFETY: only the lifetime changes. Workers use it between joining and leaving, and `Closes` waits for that.
        let job = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(job) };
        let shared = &*self.shared;
        // SAFETY: this call has the turn, and no worker is in a job: the call before waited for it.
        unsafe { *shared.job.get() = Some(job) };
        // Left over where the caller's own task panicked, too.
        *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let number = number(shared.state.load(Ordering::Relaxed)).wrapping_add(1);
        shared.state.store(number.wrapping_mul(NEXT) | OPEN, Ordering::SeqCst);
        {
            let _closes = Closes(shared);
            shared.wake(count - 1);
            work();
        }
        if let Some(panic) = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(turn);
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        {
            let _bed = self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.woken.notify_all();
        }
        for worker in self.workers.drain(..) {
            // It catches what tasks panic with.
            let _ = worker.join();
        }
    }
}

thread_local! {
    /// Free scratch blocks of this thread. They grow to what was asked for and stay.
    static FREE: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of this thread's scratch, aligned as a [`Block`]. The contents are left over
/// from earlier users. Calls nest: each level has its own block, and a block is reused by the next
/// call at the same level, so steady state allocates nothing.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut block = FREE.with(|free| {
        let mut free = free.borrow_mut();
        // The smallest block that is large enough, else the largest one, which then grows.
        let fit = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let pick = fit.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        pick.map(|i| free.swap_remove(i)).unwrap_or_default()
    });
    if block.len() < len {
        block = Block::zeros(len);
    }
    let result = f(&mut block[..len]);
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

    /// Calls follow one another at once and after pauses in which workers fall asleep; each task writes its own place.
    #[test]
    fn many_calls_in_a_row() {
        let pool = Pool::new(4);
        for call in 0..3000_usize {
            let count = call % 7;
            let sums: Vec<AtomicUsize> = (0..count).map(AtomicUsize::new).collect();
            pool.run(count, |i| {
                sums[i].fetch_add(call, Ordering::Relaxed);
            });
            assert!(sums.iter().enumerate().all(|(i, sum)| sum.load(Ordering::Relaxed) == i + call));
            if call % 500 == 0 {
                std::thread::sleep(4 * AWAKE);
            }
        }
    }

    /// Two tasks that wait for one another need two threads, and one of them sleeps.
    #[test]
    fn a_worker_that_sleeps_is_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            std::thread::sleep(4 * AWAKE);
            let here = AtomicUsize::new(0);
            let begin = Instant::now();
            pool.run(2, |_| {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 2 {
                    assert!(begin.elapsed() < Duration::from_secs(60), "nobody came");
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn calls_from_a_task_and_from_other_threads_are_done_in_full() {
        let pool = Pool::new(3);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, |_| {
                            pool.run(2, |_| {
                                done.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 3 * 200 * 5 * 2);
    }

    #[test]
    fn a_panic_in_any_task_arrives_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        for bad in [0, 1, 20, 39] {
            let all = catch_unwind(AssertUnwindSafe(|| {
                pool.run(40, |i| {
                    std::thread::sleep(Duration::from_micros(20));
                    assert!(i != bad, "task {i}");
                });
            }));
            let message = *all.expect_err("one panics").downcast::<String>().expect("assert's text");
            assert_eq!(message, format!("task {bad}"));
            let sum = AtomicUsize::new(0);
            pool.run(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
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

//! What a device counts while it works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Totals since the device was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Telemetry {
    /// Programs compiled.
    pub compiles: u64,
    /// Invocations run.
    pub dispatches: u64,
    /// Bytes converted or copied from host slices into buffers, in the device's element type.
    pub bytes_written: u64,
    /// Bytes converted or copied from buffers into host slices.
    pub bytes_read: u64,
    /// Nanoseconds in programs.
    pub run_ns: u64,
    /// Of them those that the engine itself worked, where it tells.
    pub engine_ns: u64,
    /// Nanoseconds in writes and reads.
    pub copy_ns: u64,
}

impl Telemetry {
    /// What happened since `earlier`.
    pub fn since(self, earlier: Telemetry) -> Telemetry {
        Telemetry {
            compiles: self.compiles - earlier.compiles,
            dispatches: self.dispatches - earlier.dispatches,
            bytes_written: self.bytes_written - earlier.bytes_written,
            bytes_read: self.bytes_read - earlier.bytes_read,
            run_ns: self.run_ns - earlier.run_ns,
            engine_ns: self.engine_ns - earlier.engine_ns,
            copy_ns: self.copy_ns - earlier.copy_ns,
        }
    }
}

/// The live counters of one device, shared by its buffers and executables.
#[derive(Debug, Default)]
pub struct Counters {
    compiles: AtomicU64,
    dispatches: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    run_ns: AtomicU64,
    engine_ns: AtomicU64,
    copy_ns: AtomicU64,
}

impl Counters {
    /// Counts one compiled program.
    pub fn compiled(&self) {
        self.compiles.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one run.
    pub fn ran(&self, time: Duration) {
        self.dispatches.fetch_add(1, Ordering::Relaxed);
        self.run_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds what the engine told of a run's time.
    pub fn engine_ran(&self, time: Duration) {
        self.engine_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts a copy from the host.
    pub fn wrote(&self, bytes: usize, time: Duration) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.copy_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts a copy to the host.
    pub fn read(&self, bytes: usize, time: Duration) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.copy_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// The totals at this moment.
    pub fn snapshot(&self) -> Telemetry {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Telemetry {
            compiles: get(&self.compiles),
            dispatches: get(&self.dispatches),
            bytes_written: get(&self.bytes_written),
            bytes_read: get(&self.bytes_read),
            run_ns: get(&self.run_ns),
            engine_ns: get(&self.engine_ns),
            copy_ns: get(&self.copy_ns),
        }
    }
}

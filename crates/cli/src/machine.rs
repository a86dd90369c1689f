//! What this machine can do and what this process uses.

use std::time::{Duration, Instant};

use device::{Binding, Device};
use mil::Builder;

/// Rows and columns of the matrices of [`matmul_peak`]: past the size where every library reaches
/// its best rate, small enough for a tenth of a second.
const PEAK_SIZE: usize = 1536;

/// The best rate at which `device` multiplied two square matrices, in floating-point operations
/// per second, after one run to warm up and about `time` of trying.
pub(crate) fn matmul_peak(device: &dyn Device, time: Duration) -> device::Result<f64> {
    let shape = [1, 1, PEAK_SIZE, PEAK_SIZE];
    let mut b = Builder::new(device.element());
    let program = (|| {
        let (x, w) = (b.input("x", &shape)?, b.input("w", &shape)?);
        let y = b.matmul(w, x, false, false)?;
        b.output("y", y)?;
        b.finish()
    })()
    .expect("a product of two square matrices type-checks");
    let buffers = [device.alloc(&shape)?, device.alloc(&shape)?, device.alloc(&shape)?];
    // Small different numbers: no zeros to skip, no subnormals, sums far from any limit.
    let values: Vec<f32> = (0..PEAK_SIZE * PEAK_SIZE).map(|i| (i % 13) as f32 / 64.0 - 0.1).collect();
    buffers[0].write_f32(&values)?;
    buffers[1].write_f32(&values)?;
    let product = device.compile("matmul_peak", &program)?.bind(&[
        Binding::new("x", &buffers[0]),
        Binding::new("w", &buffers[1]),
        Binding::new("y", &buffers[2]),
    ])?;
    product.run()?;
    let begin = Instant::now();
    let mut best = Duration::MAX;
    loop {
        let start = Instant::now();
        product.run()?;
        best = best.min(start.elapsed());
        if begin.elapsed() >= time {
            break;
        }
    }
    Ok(2.0 * (PEAK_SIZE as f64).powi(3) / best.as_secs_f64())
}

/// The most memory that this process has had at a time, in bytes; `None` where the system does not
/// tell.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    // On Linux getrusage also counts what the parent process had before it became this program.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        return Some(kib * 1024);
    }
    #[cfg(target_os = "macos")]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        // In bytes on macOS, unlike anywhere else.
        getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| usage.max_rss() as u64)
    }
    #[cfg(not(target_os = "macos"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_measured_and_memory_is_told() {
        let device = cpu::CpuDevice::new(1);
        let peak = matmul_peak(&device, Duration::ZERO).expect("it multiplies");
        assert!(peak > 1e8, "{peak}");
        if cfg!(any(target_os = "linux", target_os = "macos")) {
            // Three matrices of 9 MiB at least.
            assert!(peak_rss_bytes().expect("told here") > 27 << 20);
        }
    }
}

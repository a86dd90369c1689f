//! Two clocks, and what their difference tells: that the machine slept.

use std::time::{Duration, Instant, SystemTime};

/// What tells a run the time.
pub trait Clock: Send + Sync {
    /// Time that the machine was awake, since any instant. Budgets in time are measured by it.
    fn awake(&self) -> Duration;
    /// Time as the calendar has it, since any instant.
    fn wall(&self) -> Duration;
}

/// The machine's own clocks.
///
/// The first is Rust's [`Instant`], which stands still during sleep on Linux (`CLOCK_MONOTONIC`) and on macOS
/// (`CLOCK_UPTIME_RAW`; see "Underlying System calls" in the documentation of [`Instant`]). A process that is only
/// stopped, by Ctrl-Z, is not asleep to any clock.
#[derive(Debug, Clone, Copy)]
pub struct MachineClock {
    begun: Instant,
}

impl Default for MachineClock {
    fn default() -> Self {
        MachineClock { begun: Instant::now() }
    }
}

impl Clock for MachineClock {
    fn awake(&self) -> Duration {
        self.begun.elapsed()
    }

    fn wall(&self) -> Duration {
        SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
    }
}

/// What the wall clock may gain between two looks without a word. Clocks that are kept right gain less than a
/// second in half an hour (Linux slews by 500 parts in a million at most), and a shorter nap is no news.
pub const NAP: Duration = Duration::from_secs(30);

/// Notices that the wall clock went on while the other stood still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SleepWatch {
    awake: Duration,
    wall: Duration,
}

impl SleepWatch {
    pub(crate) fn new(clock: &dyn Clock) -> SleepWatch {
        SleepWatch { awake: clock.awake(), wall: clock.wall() }
    }

    /// How long the machine slept since the last look, if it did.
    pub(crate) fn look(&mut self, clock: &dyn Clock) -> Option<Duration> {
        let now = SleepWatch::new(clock);
        let before = std::mem::replace(self, now);
        let awake = now.awake.saturating_sub(before.awake);
        // Nothing when somebody set the clock back.
        let slept = now.wall.saturating_sub(before.wall).saturating_sub(awake);
        (slept >= NAP).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Hands(Mutex<(u64, u64)>);

    impl Clock for Hands {
        fn awake(&self) -> Duration {
            Duration::from_secs(self.0.lock().unwrap().0)
        }
        fn wall(&self) -> Duration {
            Duration::from_secs(self.0.lock().unwrap().1)
        }
    }

    #[test]
    fn only_what_the_wall_clock_gains_is_sleep() {
        let clock = Hands(Mutex::new((100, 5000)));
        let mut watch = SleepWatch::new(&clock);
        let mut after = |awake, wall| {
            let mut hands = clock.0.lock().unwrap();
            *hands = (hands.0 + awake, hands.1.checked_add_signed(wall).unwrap());
            drop(hands);
            watch.look(&clock)
        };
        assert_eq!(after(7200, 7200), None, "a long step");
        assert_eq!(after(10, 3610), Some(Duration::from_secs(3600)));
        assert_eq!(after(10, 10), None, "it is told once");
        assert_eq!(after(10, 39), None, "29 s are a nap");
        assert_eq!(after(10, -3000), None, "somebody set the clock back");
        assert_eq!(after(10, 70), Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_machine_is_awake_now() {
        let clock = MachineClock::default();
        let mut watch = SleepWatch::new(&clock);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(watch.look(&clock), None);
        assert!(clock.awake() >= Duration::from_millis(2));
    }
}

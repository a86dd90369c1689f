//! The factor on the learning rate, as a function of progress.

use serde::{Deserialize, Serialize};

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Along half a cosine.
    Cosine,
    /// Along a line.
    Linear,
    /// Not at first, then along a line: "warm-up, stable, decay".
    Wsd,
}

/// A schedule whose numbers are all shares of a run.
///
/// ```
/// use train::{Schedule, ScheduleKind};
/// let schedule =
///     Schedule { kind: ScheduleKind::Linear, warmup: 0.1, final_fraction: 0.1, ..Schedule::default() };
/// assert_eq!(schedule.multiplier(0.05), 0.5);
/// assert_eq!(schedule.multiplier(1.0), 0.1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// The rate rises in a line from 0 during this share of the run.
    pub warmup: f64,
    /// `wsd` only: the rate falls during this last share of the run.
    pub decay: f64,
    /// The factor at the end.
    pub final_fraction: f64,
    /// The progress at which it begins: 0, or where a run was given another length.
    pub origin: f64,
    /// The factor after the warm-up.
    pub start_fraction: f64,
}

impl Default for Schedule {
    /// A rate that falls to nothing over all of the run.
    fn default() -> Self {
        Schedule {
            kind: ScheduleKind::Linear,
            warmup: 0.0,
            decay: 0.0,
            final_fraction: 0.0,
            origin: 0.0,
            start_fraction: 1.0,
        }
    }
}

impl Schedule {
    /// The factor on the learning rate at `progress` in [0, 1] of the run.
    pub fn multiplier(&self, progress: f64) -> f64 {
        let progress = ((progress - self.origin) / (1.0 - self.origin)).max(0.0);
        if progress < self.warmup {
            return self.start_fraction * progress / self.warmup;
        }
        let begin = match self.kind {
            ScheduleKind::Cosine | ScheduleKind::Linear => self.warmup,
            ScheduleKind::Wsd => (1.0 - self.decay).max(self.warmup),
        };
        if progress <= begin {
            return self.start_fraction;
        }
        let fallen = ((progress - begin) / (1.0 - begin)).min(1.0);
        let shape = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos()),
            ScheduleKind::Linear | ScheduleKind::Wsd => 1.0 - fallen,
        };
        self.final_fraction + (self.start_fraction - self.final_fraction) * shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ScheduleKind; 3] = [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Wsd];

    fn schedule(kind: ScheduleKind, warmup: f64) -> Schedule {
        Schedule { kind, warmup, decay: 0.4, final_fraction: 0.1, ..Schedule::default() }
    }

    /// Oracle: the shapes' values by hand; a few roundings of f64 are allowed.
    #[test]
    fn edges_and_middles() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} against {b}");
        for kind in KINDS {
            let s = schedule(kind, 0.2);
            close(s.multiplier(0.0), 0.0);
            close(s.multiplier(0.1), 0.5);
            close(s.multiplier(0.2), 1.0);
            close(s.multiplier(1.0), 0.1);
        }
        close(schedule(ScheduleKind::Cosine, 0.2).multiplier(0.6), 0.55);
        close(schedule(ScheduleKind::Linear, 0.2).multiplier(0.6), 0.55);
        close(schedule(ScheduleKind::Wsd, 0.2).multiplier(0.6), 1.0);
        close(schedule(ScheduleKind::Wsd, 0.2).multiplier(0.8), 0.55);
    }

    #[test]
    fn without_warm_up_it_begins_at_the_top_and_never_rises() {
        for kind in KINDS {
            let s = schedule(kind, 0.0);
            assert_eq!(s.multiplier(0.0), 1.0);
            let values: Vec<f64> = (0..=1000).map(|i| s.multiplier(i as f64 / 1000.0)).collect();
            assert!(values.windows(2).all(|w| w[1] <= w[0]));
            assert!(values.iter().all(|v| (0.1..=1.0).contains(v)));
        }
    }

    #[test]
    fn a_decay_that_reaches_into_the_warm_up_begins_after_it() {
        let s = Schedule { kind: ScheduleKind::Wsd, warmup: 0.5, decay: 0.9, ..Schedule::default() };
        assert_eq!(s.multiplier(0.5), 1.0);
        assert_eq!(s.multiplier(0.75), 0.5);
    }
}

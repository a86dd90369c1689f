//! Going back: what a run does when its guard calls it ill.
//!
//! It goes back to the newest regular checkpoint from before the illness began (or to its beginning), takes a factor
//! off every learning rate, and goes on with data that it has not seen. All of that becomes true at once, when a
//! checkpoint of the run as it goes on gets its name (`step_000400-r1`): a run that is killed before falls ill once
//! more and does the same, one that is killed after goes on from there.
//!
//! Time cannot be taken back as steps and tokens can. With a budget in time the schedule goes back all the same, and
//! what is left of it is fitted into the time that is left: were it to go on where the clock stands, weights that were
//! well at a low rate would get that of an hour later.

use serde::{Deserialize, Serialize};

use crate::config::ScheduleConfig;
use crate::guard::{Illness, Verdict};
use crate::retention::Occasion;
use crate::session::Session;
use crate::{Budget, Error, Event, Result, Spent, StepMetrics, checkpoint};

/// A time that a run went back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The step after which it was ill.
    pub ill_at: u64,
    /// The step after which it went on.
    pub back_to: u64,
    /// The progress that the schedule had when it was ill.
    #[serde(default, skip_serializing_if = "crate::checkpoint::is_default")]
    pub progress: f64,
    /// With a budget in time, how the schedule was fitted into what was left of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted: Option<Fitted>,
}

/// A schedule that went back when its budget could not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// How many times as much of the schedule as before is left for each part of the budget that is.
    pub factor: f64,
    /// The budget, …
    pub budget: Budget,
    /// … and `schedule.origin` and …
    pub origin: f64,
    /// … `schedule.changed_after` of the schedule: a run that is given another one begins that as it is.
    pub changed_after: u64,
}

/// How often a run went back, and what came of it. Part of every checkpoint; it never goes back itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recoveries {
    /// In their order.
    pub all: Vec<Recovery>,
    /// The factor on every learning rate.
    pub lr_factor: f64,
    /// Steps that were done and taken back.
    pub discarded_steps: u64,
    /// Tokens that were seen in them.
    pub discarded_tokens: u64,
}

impl Default for Recoveries {
    /// None yet.
    fn default() -> Self {
        Recoveries { all: Vec::new(), lr_factor: 1.0, discarded_steps: 0, discarded_tokens: 0 }
    }
}

impl Recoveries {
    /// The run went back from `before`, at `progress` of its schedule, to `after`.
    pub(crate) fn add(
        &mut self,
        before: &Spent,
        after: &Spent,
        progress: f64,
        fitted: Option<Fitted>,
        lr_factor: f64,
    ) {
        self.all.push(Recovery { ill_at: before.steps, back_to: after.steps, progress, fitted });
        self.lr_factor *= lr_factor;
        self.discarded_steps += before.steps - after.steps;
        self.discarded_tokens += before.tokens - after.tokens;
    }

    /// The progress of the schedule when this share of the budget is spent.
    pub(crate) fn progress(&self, share: f64, budget: &Budget, schedule: &ScheduleConfig) -> f64 {
        let of_this = |fitted: &Fitted| {
            (fitted.budget, fitted.origin, fitted.changed_after)
                == (*budget, schedule.origin, schedule.changed_after)
        };
        let fitted = self.all.iter().filter_map(|recovery| recovery.fitted).filter(of_this);
        match fitted.map(|fitted| fitted.factor).reduce(|a, b| a * b) {
            Some(factor) => (1.0 - (1.0 - share) * factor).max(0.0),
            // To the bit.
            None => share,
        }
    }

    /// Whether the run has gone back from what it was when it had gone back `recoveries` times and done `step` steps.
    pub fn have_abandoned(&self, recoveries: usize, step: u64) -> bool {
        self.all.iter().skip(recoveries).any(|recovery| recovery.back_to < step)
    }

    /// The last step to go back to when the run, ill after `ill_at`, was well until `healthy_until` by its signals.
    /// When it is ill again before it got any further than the last time, neither in steps nor in its schedule, what it
    /// went back to was not well either.
    fn last_resort(&self, ill_at: u64, progress: f64, healthy_until: u64) -> u64 {
        match self.all.last() {
            Some(last) if ill_at <= last.ill_at && progress <= last.progress => {
                healthy_until.min(last.back_to.saturating_sub(1))
            }
            _ => healthy_until,
        }
    }
}

impl Session<'_> {
    /// Does what follows from the guard's judgement of a step; says whether the run went back.
    ///
    /// # Errors
    /// [`Error::GaveUp`]; what saving a checkpoint may give.
    pub(crate) fn heed(&mut self, metrics: &StepMetrics) -> Result<bool> {
        let Some(reading) = &metrics.guard else { return Ok(false) };
        let step = metrics.step;
        match (reading.verdict, &reading.news) {
            (Verdict::Ill(kind), why) if self.trainer.config().guard.recovers() => {
                let why = why.clone().unwrap_or_else(|| self.trainer.guard().why());
                self.go_back(kind, why)?;
                Ok(true)
            }
            (Verdict::Ill(kind) | Verdict::Warned(kind), Some(why)) => {
                self.event(Event::Warned { step, kind, why: why.clone() })?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn go_back(&mut self, kind: Illness, why: String) -> Result<()> {
        let step = self.trainer.spent().steps;
        let (progress, well) = (self.trainer.schedule_progress(), self.trainer.guard().healthy_until());
        let since = self.trainer.recoveries().last_resort(step, progress, well);
        let model = self.trainer.config().model.clone();
        let mut found = None;
        for path in self.run.checkpoints().regular_until(since, self.trainer.recoveries()) {
            match checkpoint::load(&path, &model, self.trainer.dataset().vocabulary.as_deref()) {
                Ok(checkpoint) => {
                    found = Some(checkpoint);
                    break;
                }
                Err(error) => self.event(Event::CheckpointSkipped { path, why: error.to_string() })?,
            }
        }
        let path = found.as_ref().map(|checkpoint| checkpoint.path.clone());
        self.saves = found.as_ref().map_or(0, |checkpoint| checkpoint.saves);
        self.trainer.go_back(found)?;
        // Before the checkpoint that makes it true: a kill in between only begins the schedule early.
        if self.trainer.begin_schedule_here() {
            self.run.replace_config(self.trainer.config())?;
        }
        (self.evaluated, self.saved) = (None, None);
        let recoveries = self.trainer.recoveries();
        let recovered = Event::Recovered {
            step,
            kind,
            why: why.clone(),
            since,
            back_to: self.trainer.spent().steps,
            checkpoint: path,
            lr_factor: recoveries.lr_factor,
            recoveries: recoveries.all.len(),
            discarded_steps: recoveries.discarded_steps,
        };
        // Said before it is true: twice is better than never.
        self.event(recovered)?;
        self.save(Occasion::Other)?;
        self.require_hope(&why)
    }

    /// # Errors
    /// [`Error::GaveUp`] when the run went back more often than it may.
    pub(crate) fn require_hope(&self, why: &str) -> Result<()> {
        let (config, recoveries) = (self.trainer.config(), self.trainer.recoveries());
        let Some(last) = recoveries.all.last() else { return Ok(()) };
        if !config.guard.recovers() || recoveries.all.len() as u64 <= config.guard.max_recoveries {
            return Ok(());
        }
        Err(Error::GaveUp {
            config: self.run.path().join(crate::run_dir::CONFIG),
            step: last.ill_at,
            why: why.to_owned(),
            max_recoveries: config.guard.max_recoveries,
            back_to: last.back_to,
            lr: config.optimizer.lr * recoveries.lr_factor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steps: u64) -> Spent {
        Spent { steps, tokens: 10 * steps, seconds: 0.0 }
    }

    #[test]
    fn what_was_left_is_known_as_abandoned() {
        let mut recoveries = Recoveries::default();
        recoveries.add(&at(900), &at(400), 0.0, None, 0.5);
        recoveries.add(&at(1500), &at(1000), 0.0, None, 0.5);
        recoveries.add(&at(1400), &at(300), 0.0, None, 0.5);
        let expected = (0.125, 500 + 500 + 1100, 10 * 2100);
        assert_eq!((recoveries.lr_factor, recoveries.discarded_steps, recoveries.discarded_tokens), expected);
        for (before, step, abandoned) in [
            (0, 300, false),
            (0, 301, true),
            (0, 401, true),
            (1, 300, false),
            (1, 500, true),
            (2, 1100, true),
            (3, 1100, false),
        ] {
            assert_eq!(recoveries.have_abandoned(before, step), abandoned, "{before}, {step}");
        }
    }

    #[test]
    fn who_is_ill_again_at_once_goes_further_back() {
        let mut recoveries = Recoveries::default();
        assert_eq!(recoveries.last_resort(900, 0.9, 500), 500);
        recoveries.add(&at(900), &at(400), 0.9, None, 0.5);
        assert_eq!(recoveries.last_resort(800, 0.8, 500), 399);
        assert_eq!(recoveries.last_resort(800, 0.8, 100), 100);
        assert_eq!(recoveries.last_resort(901, 0.901, 500), 500);
        // Fewer steps took it further: those of a schedule that was fitted into less time.
        assert_eq!(recoveries.last_resort(800, 0.95, 500), 500);
        recoveries.add(&at(800), &at(0), 0.8, None, 0.5);
        assert_eq!(recoveries.last_resort(800, 0.8, 500), 0);
    }

    /// Oracle: by hand. Half of the time is over when a run goes back to a quarter of its schedule: three quarters of it
    /// are left for the other half. It goes back there from the middle of that half, at 0.625.
    #[test]
    fn what_is_left_of_a_schedule_fits_what_is_left_of_the_time() {
        let mut config = crate::RunConfig::of_preset("tiny").unwrap();
        config.budget = "100s".parse().unwrap();
        let progress = |recoveries: &Recoveries, config: &crate::RunConfig, share| {
            recoveries.progress(share, &config.budget, &config.schedule)
        };
        let fitted =
            |factor| Some(Fitted { factor, budget: "100s".parse().unwrap(), origin: 0.0, changed_after: 0 });
        let mut recoveries = Recoveries::default();
        assert_eq!(progress(&recoveries, &config, 0.3), 0.3);
        recoveries.add(&at(50), &at(25), 0.5, fitted(0.75 / 0.5), 0.5);
        let close = |share, wanted: f64, recoveries: &Recoveries| {
            let found = progress(recoveries, &config, share);
            assert!((found - wanted).abs() < 1e-12, "{share}: {found}, expected {wanted}");
        };
        for (share, wanted) in [(0.5, 0.25), (0.75, 0.625), (1.0, 1.0), (0.0, 0.0)] {
            close(share, wanted, &recoveries);
        }
        recoveries.add(&at(70), &at(25), 0.625, fitted(0.75 / 0.375), 0.5);
        for (share, wanted) in [(0.75, 0.25), (0.875, 0.625), (1.0, 1.0)] {
            close(share, wanted, &recoveries);
        }
        // Another schedule is what it says.
        config.schedule.changed_after = 70;
        assert_eq!(progress(&recoveries, &config, 0.75), 0.75);
    }
}

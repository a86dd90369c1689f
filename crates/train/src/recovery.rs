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

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::config::ScheduleConfig;
use crate::guard::{Illness, Verdict};
use crate::retention::Occasion;
use crate::session::{Fallback, Session};
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
        // What a run ends with may be of a stretch that it has left before.
        self.discarded_steps = (self.discarded_steps + before.steps).saturating_sub(after.steps);
        self.discarded_tokens = (self.discarded_tokens + before.tokens).saturating_sub(after.tokens);
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

    /// Does what follows from the guard's last look at a run whose budget is spent; says whether the run went back.
    ///
    /// With a budget in time there is none left to do better in. A run that is ill then, or that was and did not get as
    /// far again, ends with the best that it had, of what was validated over the same windows; nothing is given up then.
    ///
    /// # Errors
    /// As [`Session::heed`]; as a validation.
    pub(crate) fn heed_the_end(
        &mut self,
        stop: &AtomicBool,
        fallback: &mut Option<Fallback>,
    ) -> Result<bool> {
        let (why, step, kind) = (self.trainer.guard().last_look(), self.trainer.spent().steps, Illness::Loss);
        if self.trainer.config().guard.recovers() {
            if !matches!(self.trainer.budget(), Budget::Time(_)) {
                return match why {
                    Some(why) => self.go_back(kind, why).map(|()| true),
                    None => Ok(false),
                };
            }
            let was_ill = why.is_some() || !self.trainer.recoveries().all.is_empty();
            if was_ill && self.end_with_the_best(why.as_deref(), stop, fallback)? {
                return Ok(true);
            }
        }
        if let Some(why) = why {
            self.event(Event::Warned { step, kind, why })?;
        }
        Ok(false)
    }

    /// Goes back to the best checkpoint if it is better than the present model by more than the error of that; whether
    /// it did.
    fn end_with_the_best(
        &mut self,
        why: Option<&str>,
        stop: &AtomicBool,
        fallback: &mut Option<Fallback>,
    ) -> Result<bool> {
        // Validation may take long, and is no reason to lose anything.
        self.save(Occasion::Other)?;
        let windows = self.trainer.config().eval.windows;
        let Some(now) = self.evaluate(windows, stop, fallback)? else { return Ok(false) };
        let worse = now.val_bpb - now.val_bpb_se.unwrap_or(0.0);
        for (best, path) in self.run.checkpoints().scored(now.windows) {
            if best >= worse {
                break;
            }
            let Some(checkpoint) = self.load(&path)? else { continue };
            let said = format!("the run ends with a val_bpb of {:.4}, and had {best:.4} before", now.val_bpb);
            let why = why.map_or(said.clone(), |why| format!("{why}; {said}"));
            self.go_on_from(Some(checkpoint), self.trainer.spent().steps, Illness::Loss, why)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// A checkpoint of the run, if it is whole.
    fn load(&mut self, path: &Path) -> Result<Option<Checkpoint>> {
        let model = &self.trainer.config().model;
        match checkpoint::load(path, model, self.trainer.dataset().vocabulary.as_deref()) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(error) => {
                let (path, why) = (path.to_owned(), error.to_string());
                self.event(Event::CheckpointSkipped { path, why })?;
                Ok(None)
            }
        }
    }

    fn go_back(&mut self, kind: Illness, why: String) -> Result<()> {
        let step = self.trainer.spent().steps;
        let (progress, well) = (self.trainer.schedule_progress(), self.trainer.guard().healthy_until());
        let since = self.trainer.recoveries().last_resort(step, progress, well);
        let mut found = None;
        for path in self.run.checkpoints().regular_until(since, self.trainer.recoveries()) {
            found = self.load(&path)?;
            if found.is_some() {
                break;
            }
        }
        self.go_on_from(found, since, kind, why.clone())?;
        self.require_hope(&why)
    }

    /// Goes back to a checkpoint, or to the beginning. The run was well until `since`.
    fn go_on_from(
        &mut self,
        found: Option<Checkpoint>,
        since: u64,
        kind: Illness,
        why: String,
    ) -> Result<()> {
        let step = self.trainer.spent().steps;
        let path = found.as_ref().map(|checkpoint| checkpoint.path.clone());
        self.saves = found.as_ref().map_or(0, |checkpoint| checkpoint.saves);
        let begins_schedule = self.trainer.go_back(found)?;
        (self.evaluated, self.saved) = (None, None);
        let recoveries = self.trainer.recoveries();
        let recovered = Event::Recovered {
            step,
            kind,
            why,
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
        // A kill before this is made good when the run is resumed: it then begins its schedule here, too.
        if begins_schedule {
            self.run.replace_config(self.trainer.config())?;
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::GaveUp`] when the run went back more often than it may.
    pub(crate) fn require_hope(&self, why: &str) -> Result<()> {
        let (config, recoveries) = (self.trainer.config(), self.trainer.recoveries());
        let Some(last) = recoveries.all.last() else { return Ok(()) };
        // A run whose time is over ended with the best that it had.
        let is_over = self.trainer.is_done() && matches!(self.trainer.budget(), Budget::Time(_));
        if is_over || !config.guard.recovers() || recoveries.all.len() as u64 <= config.guard.max_recoveries {
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

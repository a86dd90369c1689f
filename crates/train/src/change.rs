//! Another length for a run that has begun.
//!
//! A schedule is a function of progress, so a run whose budget changes has to be told what becomes of its rate. There
//! are three answers, and none is taken for granted.

use std::time::Duration;

use crate::check::Problem;
use crate::{Budget, Error, Recoveries, Result, RunConfig, Spent, Stretch};

/// What becomes of a run's length and rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The schedule becomes as long as the budget: the rate goes back to where it would be by now.
    Stretch(Budget),
    /// The schedule begins anew, warm-up included, and covers what is left of the budget.
    Restart(Budget),
    /// The rate falls in a line from where it is to nothing, until the end of this budget.
    DecayUntil(Budget),
    /// Likewise, over this much more, or a tenth of what is spent.
    DecayNow(Option<Budget>),
}

impl Change {
    /// Changes the configuration of a run that has spent so much and gone back like this; says what was done.
    ///
    /// # Errors
    /// [`Error::Value`] when nothing of the new budget would be left.
    pub(crate) fn apply(
        &self,
        config: &mut RunConfig,
        spent: &Spent,
        recoveries: &Recoveries,
    ) -> Result<String> {
        let refuse = |place: &str, key: &str, value: String, problem: String| {
            Err(Error::Value { place: place.into(), key: key.into(), value, problem })
        };
        let old = config.budget;
        let what = match *self {
            Change::Stretch(budget) | Change::Restart(budget) | Change::DecayUntil(budget)
                if budget.is_spent(spent) =>
            {
                let problem = format!(
                    "the run has already used {} steps, {} tokens and {:.0} s; give a longer budget, or end it with \
                     --decay-now",
                    spent.steps, spent.tokens, spent.seconds
                );
                return refuse("--budget", "budget", budget.to_string(), problem);
            }
            _ if !config.replay.is_empty() => {
                let problem =
                    "the run goes by the recorded progress of another one, and is as long as that".into();
                return refuse("config.toml", "replay", config.replay.clone(), problem);
            }
            Change::Stretch(budget) => {
                // A schedule that began later, after an earlier change, still began where it did.
                if config.schedule.origin > 0.0 {
                    config.schedule.origin *= budget.share(spent) / old.share(spent);
                }
                config.budget = budget;
                format!("budget {old} becomes {budget}; the schedule is stretched to it")
            }
            Change::Restart(budget) => {
                config.budget = budget;
                let schedule = &mut config.schedule;
                (schedule.origin, schedule.start_fraction) = (budget.share(spent), 1.0);
                schedule.ending = false;
                format!("budget {old} becomes {budget}; the schedule begins anew")
            }
            Change::DecayUntil(_) | Change::DecayNow(_) if spent.steps == 0 => {
                let problem =
                    "the run has no checkpoint yet but that of its beginning, so there is nothing to end \
                               gracefully"
                        .into();
                return refuse("--resume", "budget", old.to_string(), problem);
            }
            Change::DecayUntil(_) | Change::DecayNow(_) if rate_now(config, spent, recoveries) == 0.0 => {
                let problem =
                    "its rate has already fallen to nothing, so there is nothing left to end gracefully; go \
                               on with --budget LENGTH --schedule restart"
                        .into();
                return refuse("--resume", "budget", old.to_string(), problem);
            }
            Change::DecayUntil(budget) => decay(config, spent, recoveries, budget),
            Change::DecayNow(length) => {
                let length = length.unwrap_or_else(|| tenth(&old, spent, config.step_tokens()));
                decay(config, spent, recoveries, length.beyond(spent))
            }
        };
        // Amounts in a unit that cannot be compared with the new budget's become what they are at the pace so far.
        let (budget, step_tokens) = (config.budget, config.fixed_step_tokens());
        for (stretch, step_tokens) in [
            (&mut config.schedule.warmup, step_tokens),
            (&mut config.ema.half_life, step_tokens),
            (&mut config.batch_ramp.over, None),
        ] {
            if spent.steps > 0 && stretch.share_of(&budget, step_tokens).is_none() {
                *stretch = Stretch::Share(stretch.share_at_pace(&budget, spent));
            }
        }
        config.schedule.changed_after = spent.steps;
        let checked = config.check();
        checked.map_err(|Problem { key, value, problem }| Error::Value {
            place: "config.toml with the new budget".into(),
            key,
            value,
            problem,
        })?;
        Ok(what)
    }
}

/// The factor on the rate where the run is.
fn rate_now(config: &RunConfig, spent: &Spent, recoveries: &Recoveries) -> f64 {
    let progress = recoveries.progress(config.budget.share(spent), &config.budget, &config.schedule);
    config.schedule().multiplier(progress)
}

fn decay(config: &mut RunConfig, spent: &Spent, recoveries: &Recoveries, budget: Budget) -> String {
    let start_fraction = rate_now(config, spent, recoveries);
    let old = std::mem::replace(&mut config.budget, budget);
    let schedule = &mut config.schedule;
    (schedule.origin, schedule.start_fraction) = (budget.share(spent), start_fraction);
    schedule.ending = true;
    format!("budget {old} becomes {budget}; the rate falls to nothing from here to its end")
}

/// A tenth of what is spent, in the budget's unit; at least a step or a second.
fn tenth(budget: &Budget, spent: &Spent, step_tokens: u64) -> Budget {
    match budget {
        Budget::Steps(_) => Budget::Steps((spent.steps / 10).max(1)),
        Budget::Tokens(_) => Budget::Tokens((spent.tokens / 10).max(step_tokens)),
        Budget::Time(_) => Budget::Time(Duration::from_secs((spent.seconds / 10.0).ceil().max(1.0) as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScheduleKind;

    fn config() -> RunConfig {
        let mut config = RunConfig::of_preset("tiny").unwrap();
        config.budget = Budget::Steps(1000);
        config.schedule.warmup = Stretch::Share(0.1);
        config.schedule.final_fraction = 0.0;
        config.schedule.kind = ScheduleKind::Linear;
        config
    }

    fn after(steps: u64) -> Spent {
        Spent { steps, tokens: steps * 512, seconds: steps as f64 }
    }

    /// The rate's factor in the middle of the step that follows `steps`.
    fn factor(config: &RunConfig, steps: u64) -> f64 {
        config.schedule().multiplier(config.budget.progress_of_step(&after(steps), 512, 1.0))
    }

    /// Oracle: the schedules' values by hand; the middle of a step is half a step of 145 beyond its beginning.
    #[test]
    fn each_choice_gives_the_rate_that_it_says() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 5e-3, "{a} against {b}");
        close(factor(&config(), 550), 0.5);
        let changed = |change: Change| {
            let mut config = config();
            change.apply(&mut config, &after(550), &Recoveries::default()).unwrap();
            assert_eq!(config.schedule.changed_after, 550);
            let again =
                crate::UserConfig::parse(&config.to_toml(), "config.toml").unwrap().resolve().unwrap();
            assert_eq!(again, config);
            config
        };
        // 2,000 steps: 200 of warm-up, then 1,800 of falling, of which 350 are over.
        let stretched = changed(Change::Stretch(Budget::Steps(2000)));
        close(factor(&stretched, 550), 1.0 - 350.0 / 1800.0);
        close(factor(&stretched, 1999), 0.0);
        // 1,450 steps are left: 145 of warm-up, then falling.
        let restarted = changed(Change::Restart(Budget::Steps(2000)));
        close(factor(&restarted, 550), 0.0);
        close(factor(&restarted, 550 + 145), 1.0);
        close(factor(&restarted, 550 + 145 + 652), 0.5);
        // A tenth of what is spent: 55 steps.
        let ending = changed(Change::DecayNow(None));
        assert_eq!(ending.budget, Budget::Steps(605));
        assert!((factor(&ending, 550) - 0.5).abs() < 0.01 && factor(&ending, 604) < 0.01);
        let ending = changed(Change::DecayNow(Some(Budget::Tokens(512_000))));
        assert_eq!(ending.budget, Budget::Tokens(550 * 512 + 512_000));
        close(factor(&ending, 1050), 0.25);
    }

    /// Oracle: by hand. 605 steps are over, and a schedule with 10% of warm-up covers the 1,000 that follow: the rate is
    /// at its half after 50 and at its top after 100 of them.
    #[test]
    fn a_run_that_was_ended_gets_its_own_schedule_back() {
        let mut changed = config();
        Change::DecayNow(None).apply(&mut changed, &after(550), &Recoveries::default()).unwrap();
        let error = Change::DecayNow(None)
            .apply(&mut changed.clone(), &after(605), &Recoveries::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("already fallen to nothing") && error.contains("--schedule restart"),
            "{error}"
        );
        Change::Restart(Budget::Steps(1605))
            .apply(&mut changed, &after(605), &Recoveries::default())
            .unwrap();
        assert!((factor(&changed, 655) - 0.5).abs() < 0.01 && (factor(&changed, 705) - 1.0).abs() < 0.01);
        assert!((factor(&changed, 705 + 450) - 0.5).abs() < 0.01, "and then falls over 900");
        // Ended when a third of the warm-up was over, it falls from there.
        Change::DecayNow(Some(Budget::Steps(100)))
            .apply(&mut changed, &after(638), &Recoveries::default())
            .unwrap();
        assert!((factor(&changed, 638) - 0.33).abs() < 0.01 && (factor(&changed, 688) - 0.165).abs() < 0.01);
    }

    /// Amounts that suit the length that a run began with are longer than one that ends now.
    #[test]
    fn a_run_is_ended_whatever_amounts_it_has() {
        let mut ended = config();
        ended.budget = Budget::Steps(20_000);
        ended.schedule.warmup = Stretch::Amount(Budget::Steps(3000));
        ended.ema.half_life = Stretch::Amount(Budget::Steps(2000));
        ended.check().map_err(|problem| problem.problem).unwrap();
        Change::DecayNow(None).apply(&mut ended, &after(1500), &Recoveries::default()).unwrap();
        assert_eq!(ended.budget, Budget::Steps(1650));
        assert!(ended.ema_half_life().unwrap() > 1.0);
    }

    #[test]
    fn what_is_already_spent_is_refused() {
        let error = |change: Change, steps| {
            change.apply(&mut config(), &after(steps), &Recoveries::default()).unwrap_err().to_string()
        };
        let spent = error(Change::Stretch(Budget::Steps(500)), 550);
        assert!(
            spent.contains("--budget: budget = \"500steps\"")
                || spent.contains("--budget: budget = 500steps"),
            "{spent}"
        );
        assert!(spent.contains("used 550 steps") && spent.contains("--decay-now"), "{spent}");
        assert!(error(Change::DecayNow(None), 0).contains("no checkpoint yet"));
    }
}

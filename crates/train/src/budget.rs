//! How long a run is, and how much of it is over.
//!
//! A run has a [`Budget`] in steps, tokens or time. What it has used up so far is [`Spent`], and
//! the share of the one in the other is its *progress* in [0, 1], which everything scheduled is a
//! function of. A step stands for a stretch of the budget; *its* progress is that of the stretch's
//! middle, so that neither the first step has the rate 0 nor the last one an arbitrary one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The length of a run.
///
/// ```
/// use train::Budget;
/// let budget: Budget = "20Mtok".parse().unwrap();
/// assert_eq!(budget, Budget::Tokens(20_000_000));
/// assert_eq!(budget.to_string(), "20Mtok");
/// assert!("soon".parse::<Budget>().unwrap_err().contains("5m"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// Optimiser steps.
    Steps(u64),
    /// Training tokens; the last step may go beyond.
    Tokens(u64),
    /// Time spent in training steps: not in compiling, validation or checkpoints.
    Time(Duration),
}

/// What a run has used up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Steps done, the skipped ones included.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds in steps.
    pub seconds: f64,
}

impl Budget {
    /// The share of the budget that is spent, in [0, 1].
    pub fn share(&self, spent: &Spent) -> f64 {
        let share = match self {
            Budget::Steps(n) => spent.steps as f64 / *n as f64,
            Budget::Tokens(n) => spent.tokens as f64 / *n as f64,
            Budget::Time(time) => spent.seconds / time.as_secs_f64(),
        };
        share.clamp(0.0, 1.0)
    }

    /// Whether nothing is left.
    pub fn is_spent(&self, spent: &Spent) -> bool {
        match self {
            Budget::Steps(n) => spent.steps >= *n,
            Budget::Tokens(n) => spent.tokens >= *n,
            Budget::Time(time) => spent.seconds >= time.as_secs_f64(),
        }
    }

    /// The progress of the step that follows `spent`: the share that is spent in its middle, in
    /// [0, 1].
    ///
    /// * `step_tokens`: tokens of the step
    /// * `step_seconds`: what it has taken so far, its gradients being there
    pub fn progress_of_step(&self, spent: &Spent, step_tokens: u64, step_seconds: f64) -> f64 {
        let progress = match self {
            Budget::Steps(n) => (spent.steps as f64 + 0.5) / *n as f64,
            Budget::Tokens(n) => (spent.tokens as f64 + 0.5 * step_tokens as f64) / *n as f64,
            Budget::Time(time) => (spent.seconds + 0.5 * step_seconds) / time.as_secs_f64(),
        };
        progress.clamp(0.0, 1.0)
    }

    /// How many steps it is, where that does not depend on the clock.
    ///
    /// * `step_tokens`: tokens of a step; `None` where steps differ
    pub fn steps(&self, step_tokens: Option<u64>) -> Option<u64> {
        match self {
            Budget::Steps(n) => Some(*n),
            Budget::Tokens(n) => Some(n.div_ceil(step_tokens?.max(1))),
            Budget::Time(_) => None,
        }
    }

    /// The budget that is spent this much after `spent`.
    pub(crate) fn beyond(&self, spent: &Spent) -> Budget {
        match self {
            Budget::Steps(n) => Budget::Steps(spent.steps + n),
            Budget::Tokens(n) => Budget::Tokens(spent.tokens + n),
            Budget::Time(time) => Budget::Time(*time + Duration::from_secs(spent.seconds.ceil() as u64)),
        }
    }

    /// How much of it is spent, in its own unit.
    fn amount_of(&self, spent: &Spent) -> f64 {
        match self {
            Budget::Steps(_) => spent.steps as f64,
            Budget::Tokens(_) => spent.tokens as f64,
            Budget::Time(_) => spent.seconds,
        }
    }

    fn unit(&self) -> std::mem::Discriminant<Budget> {
        std::mem::discriminant(self)
    }

    fn amount(&self) -> f64 {
        match self {
            Budget::Steps(n) | Budget::Tokens(n) => *n as f64,
            Budget::Time(time) => time.as_secs_f64(),
        }
    }
}

/// What a length may look like, for error messages.
const EXAMPLES: &str = "expected something like 30s, 5m, 2h, 2000steps, 500ktok or 20Mtok";

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |problem: &str| Err(format!("{problem}; {EXAMPLES}"));
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '_')).unwrap_or(text.len());
        let (number, unit) = (text[..split].replace('_', ""), text[split..].trim());
        let Ok(number) = number.parse::<f64>() else {
            return fail(&format!("`{text}` does not begin with a number"));
        };
        let lower = unit.to_ascii_lowercase();
        let seconds_each = match lower.as_str() {
            "s" | "sec" => Some(1.0),
            // A capital M alone could as well mean a million of something.
            "m" | "min" if unit != "M" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        let count_each = match lower.as_str() {
            "step" | "steps" | "tok" | "tokens" => Some(1.0),
            "ktok" => Some(1e3),
            "mtok" => Some(1e6),
            "gtok" | "btok" => Some(1e9),
            _ => None,
        };
        let amount = number * seconds_each.or(count_each).unwrap_or(1.0);
        if amount <= 0.0 || amount > 1e18 {
            return fail(&format!("`{text}` is no length that a run can have"));
        }
        if seconds_each.is_some() {
            return Ok(Budget::Time(Duration::from_secs_f64(amount)));
        }
        if count_each.is_none() {
            return fail(&match unit {
                "" => format!("`{text}` lacks a unit"),
                unit => format!("`{unit}` is no unit"),
            });
        }
        if amount.fract() != 0.0 {
            return fail(&format!("`{text}` is not a whole number of steps or tokens"));
        }
        Ok(if lower.starts_with("step") {
            Budget::Steps(amount as u64)
        } else {
            Budget::Tokens(amount as u64)
        })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Budget::Steps(n) => write!(f, "{n}steps"),
            Budget::Tokens(n) if n % 1_000_000 == 0 => write!(f, "{}Mtok", n / 1_000_000),
            Budget::Tokens(n) if n % 1_000 == 0 => write!(f, "{}ktok", n / 1_000),
            Budget::Tokens(n) => write!(f, "{n}tok"),
            Budget::Time(time) => match (time.as_secs(), time.subsec_nanos()) {
                (s, 0) if s % 3600 == 0 => write!(f, "{}h", s / 3600),
                (s, 0) if s % 60 == 0 => write!(f, "{}m", s / 60),
                (s, 0) => write!(f, "{s}s"),
                _ => write!(f, "{}s", time.as_secs_f64()),
            },
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> String {
        budget.to_string()
    }
}

/// A part of a run: a share of its budget (`0.1`), or an amount (`"500steps"`, `"10m"`). As an
/// interval, 0 means never.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Stretch {
    /// Of the budget, in [0, 1].
    Share(f64),
    /// Whatever the budget is.
    Amount(Budget),
}

/// A stretch in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a share of the budget such as 0.1, or an amount such as \"500steps\""
)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Stretch {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(share) if (0.0..=1.0).contains(&share) => Ok(Stretch::Share(share)),
            Written::Number(_) => Err(
                "as a number it is a share of the budget, 0 to 1; or write an amount such as \"500steps\""
                    .into(),
            ),
            Written::Text(text) => text.parse().map(Stretch::Amount),
        }
    }
}

impl From<Stretch> for Written {
    fn from(stretch: Stretch) -> Written {
        match stretch {
            Stretch::Share(share) => Written::Number(share),
            Stretch::Amount(amount) => Written::Text(amount.to_string()),
        }
    }
}

impl Stretch {
    /// As a share of `budget`; `None` where that would depend on the machine's speed, or on steps of several
    /// sizes (`step_tokens` is `None`).
    pub fn share_of(&self, budget: &Budget, step_tokens: Option<u64>) -> Option<f64> {
        let share = match (self, budget) {
            (Stretch::Share(share), _) => *share,
            (Stretch::Amount(part), whole) if part.unit() == whole.unit() => part.amount() / whole.amount(),
            (Stretch::Amount(part), whole) => {
                part.steps(step_tokens)? as f64 / whole.steps(step_tokens)? as f64
            }
        };
        Some(share)
    }

    /// The share of `budget` that this is at the pace of a run which has spent so much, at most 1; for a run whose
    /// budget gets another unit.
    pub(crate) fn share_at_pace(&self, budget: &Budget, spent: &Spent) -> f64 {
        match self {
            Stretch::Share(share) => *share,
            Stretch::Amount(part) => {
                let spent_parts = part.amount_of(spent) / part.amount();
                (budget.share(spent) / spent_parts).min(1.0)
            }
        }
    }

    /// Whether it is nothing, or never.
    pub fn is_zero(&self) -> bool {
        *self == Stretch::Share(0.0)
    }

    /// Whether a multiple of the stretch lies within the step that led from `before` to `after`.
    pub fn passed(&self, budget: &Budget, before: &Spent, after: &Spent) -> bool {
        let count = |spent: &Spent| match self {
            Stretch::Share(every) => budget.share(spent) / every,
            Stretch::Amount(amount) => amount.amount_of(spent) / amount.amount(),
        };
        if self.is_zero() {
            return false;
        }
        // Shares such as 0.3 / 0.1 may come out a little below the whole number that they are.
        (count(after) + 1e-9).floor() > (count(before) + 1e-9).floor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_written_back() {
        for (text, budget, back) in [
            ("30s", Budget::Time(Duration::from_secs(30)), "30s"),
            ("5m", Budget::Time(Duration::from_secs(300)), "5m"),
            ("90 min", Budget::Time(Duration::from_secs(5400)), "90m"),
            ("1.5h", Budget::Time(Duration::from_secs(5400)), "90m"),
            ("2h", Budget::Time(Duration::from_secs(7200)), "2h"),
            ("0.25s", Budget::Time(Duration::from_millis(250)), "0.25s"),
            ("2_000 steps", Budget::Steps(2000), "2000steps"),
            ("1step", Budget::Steps(1), "1steps"),
            ("20Mtok", Budget::Tokens(20_000_000), "20Mtok"),
            ("1.5mtok", Budget::Tokens(1_500_000), "1500ktok"),
            ("500ktok", Budget::Tokens(500_000), "500ktok"),
            ("77tokens", Budget::Tokens(77), "77tok"),
        ] {
            assert_eq!(text.parse(), Ok(budget), "{text}");
            assert_eq!(budget.to_string(), back);
            assert_eq!(back.parse(), Ok(budget));
        }
    }

    #[test]
    fn what_is_no_length_is_refused_with_examples() {
        for (text, wanted) in [
            ("", "does not begin with a number"),
            ("m5", "does not begin with a number"),
            ("-5m", "does not begin with a number"),
            ("1.2.3s", "does not begin with a number"),
            ("5", "lacks a unit"),
            ("5M", "`M` is no unit"),
            ("5parsecs", "`parsecs` is no unit"),
            ("0steps", "no length"),
            ("0.5steps", "not a whole number"),
        ] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(error.contains(wanted) && error.contains("2000steps"), "{text}: {error}");
        }
    }

    /// Oracle: the shares by hand.
    #[test]
    fn progress_is_that_of_the_middle_of_the_step() {
        let spent = Spent { steps: 3, tokens: 300, seconds: 6.0 };
        assert_eq!(Budget::Steps(4).progress_of_step(&spent, 100, 2.0), 3.5 / 4.0);
        assert_eq!(Budget::Tokens(400).progress_of_step(&spent, 100, 2.0), 3.5 / 4.0);
        assert_eq!(Budget::Tokens(310).progress_of_step(&spent, 100, 2.0), 1.0);
        assert_eq!(Budget::Time(Duration::from_secs(10)).progress_of_step(&spent, 100, 2.0), 0.7);
        assert_eq!(Budget::Steps(1000).progress_of_step(&Spent::default(), 1, 9.0), 0.0005);
        assert_eq!(Budget::Tokens(301).share(&spent), 300.0 / 301.0);
        assert!(!Budget::Tokens(301).is_spent(&spent));
        assert!(Budget::Tokens(300).is_spent(&spent));
        assert!(Budget::Steps(3).is_spent(&spent));
        assert_eq!(Budget::Tokens(301).steps(Some(100)), Some(4));
    }

    #[test]
    fn a_stretch_of_a_tenth_passes_ten_times() {
        let budget = Budget::Steps(30);
        let at = |steps: u64| Spent { steps, tokens: steps * 10, seconds: steps as f64 };
        let passes = |stretch: Stretch| {
            (0..30)
                .filter(|s| stretch.passed(&budget, &at(*s), &at(s + 1)))
                .map(|s| s + 1)
                .collect::<Vec<_>>()
        };
        assert_eq!(passes(Stretch::Share(0.1)), [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]);
        assert_eq!(passes(Stretch::Amount(Budget::Steps(10))), [10, 20, 30]);
        assert_eq!(passes(Stretch::Amount(Budget::Tokens(150))), [15, 30]);
        assert_eq!(passes(Stretch::Amount(Budget::Time(Duration::from_secs(20)))), [20]);
        assert!(passes(Stretch::Share(0.0)).is_empty());
        assert_eq!(passes(Stretch::Share(1.0)), [30]);
    }

    #[test]
    fn a_stretch_is_a_share_of_any_budget_that_is_not_a_matter_of_speed() {
        let steps = |n| Stretch::Amount(Budget::Steps(n));
        let time = Budget::Time(Duration::from_secs(5));
        assert_eq!(steps(5).share_of(&Budget::Steps(50), Some(10)), Some(0.1));
        assert_eq!(steps(5).share_of(&Budget::Tokens(1000), Some(10)), Some(0.05));
        assert_eq!(steps(5).share_of(&time, Some(10)), None);
        assert_eq!(Stretch::Share(0.3).share_of(&time, Some(10)), Some(0.3));
        // Where steps differ in size, only what is of one unit.
        assert_eq!(steps(5).share_of(&Budget::Steps(50), None), Some(0.1));
        assert_eq!(steps(5).share_of(&Budget::Tokens(1000), None), None);
        assert_eq!(Stretch::Amount(Budget::Tokens(500)).share_of(&Budget::Steps(50), None), None);
    }

    /// Oracle: by hand. 20 steps took 8 s, so that 5 steps are 2 s, of a budget of 40.
    #[test]
    fn a_stretch_in_another_unit_goes_by_the_pace_so_far() {
        let spent = Spent { steps: 20, tokens: 300, seconds: 8.0 };
        let budget = Budget::Time(Duration::from_secs(40));
        let share = |amount| Stretch::Amount(amount).share_at_pace(&budget, &spent);
        assert_eq!(share(Budget::Steps(5)), 0.05);
        assert_eq!(share(Budget::Tokens(150)), 0.1);
        assert_eq!(share(Budget::Steps(10_000)), 1.0);
        assert_eq!(Stretch::Share(0.3).share_at_pace(&budget, &spent), 0.3);
    }
}

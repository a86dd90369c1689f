//! What a run does about its guard's verdicts: the table `[guard]` of its configuration.

use serde::{Deserialize, Serialize};

use crate::check::Problem;

/// What happens when a run is ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes back to a healthy checkpoint and on from there at a lower rate.
    #[default]
    Recover,
    /// It is said, and the run goes on.
    Warn,
    /// Nobody watches.
    Off,
}

/// The guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardConfig {
    /// What happens when the run is ill.
    pub action: Action,
    /// Recoveries after which the run ends instead.
    pub max_recoveries: u64,
    /// The factor on every learning rate with each recovery.
    pub lr_factor: f64,
    /// Standard errors by which the smoothed loss must be above its lowest to count as risen.
    pub rise: f64,
    /// The share of what was learned that must be lost for a risen loss to be an illness by itself.
    pub lost: f64,
    /// The factor by which activations or gradients must have grown for a risen loss to be an illness; one and a half
    /// times that where the loss has only ceased to fall.
    pub growth: f64,
}

impl Default for GuardConfig {
    /// The page `docs/stability.md` says why these.
    fn default() -> Self {
        GuardConfig {
            action: Action::Recover,
            max_recoveries: 5,
            lr_factor: 0.5,
            rise: 6.0,
            lost: 0.1,
            growth: 2.0,
        }
    }
}

impl GuardConfig {
    /// Whether a run that is ill goes back.
    pub fn recovers(&self) -> bool {
        self.action == Action::Recover
    }

    /// Checks every value's range.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        for (key, value, least, most) in [
            ("guard.max_recoveries", self.max_recoveries as f64, 0.0, 100.0),
            ("guard.lr_factor", self.lr_factor, 0.01, 0.99),
            ("guard.rise", self.rise, 3.0, 1000.0),
            ("guard.lost", self.lost, 0.01, 1.0),
            ("guard.growth", self.growth, 1.2, 1000.0),
        ] {
            if !(least..=most).contains(&value) {
                let problem = format!("expected {least} to {most}");
                return Err(Problem { key: key.into(), value: value.to_string(), problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::UserConfig;

    #[test]
    fn what_is_out_of_range_is_named_with_its_place() {
        for (written, wanted) in [
            ("action = 'maybe'", "guard.action = \"maybe\""),
            ("max_recoveries = 101", "guard.max_recoveries = 101: expected 0 to 100"),
            ("max_recoveries = -1", "guard.max_recoveries = -1"),
            ("lr_factor = 1.0", "guard.lr_factor = 1: expected 0.01 to 0.99"),
            ("lr_factor = nan", "guard.lr_factor = NaN: expected 0.01 to 0.99"),
            ("rise = 1", "guard.rise = 1"),
            ("lost = 0", "guard.lost = 0"),
            ("growth = 1.0", "guard.growth = 1: expected 1.2 to 1000"),
            ("patience = 3", "there is no key `guard.patience`; there are action, "),
        ] {
            let user = UserConfig::parse(&format!("[guard]\n{written}\n"), "my.toml").unwrap();
            let error = user.resolve().unwrap_err().to_string();
            assert!(
                error.starts_with("my.toml, line 2: ") && error.contains(wanted),
                "{error}\nexpected {wanted}"
            );
        }
        let off = UserConfig::parse("[guard]\naction = 'off'\nmax_recoveries = 0\n", "my.toml").unwrap();
        assert!(!off.resolve().unwrap().guard.recovers());
    }
}

//! Which checkpoints stay, and how much room they may take.
//!
//! A run saves at regular instants, numbered from 1. After save n there stay
//!
//! * the newest few: the ones to resume from;
//! * the one with the lowest val_bpb;
//! * for each power of two, 2^k, the save of that number and the newest whose number is an odd multiple of it: 1, 2,
//!   4, … and about n - 4, n - 2, n - 1, so that there is one from before an illness that began long before it was
//!   seen, for the price of two checkpoints each time the run has become twice as long. Which these are depends on n
//!   alone, not on what was removed before, so that a run that was killed while it removed some goes on with the
//!   same ones;
//! * milestones, where they are configured;
//! * and whatever is newest: what was saved because the run was stopped or went back is no regular save, and goes
//!   with the next one that is.

use serde::{Deserialize, Serialize};

use crate::config::CheckpointConfig;
use crate::{Budget, Stretch};

/// Why a checkpoint was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// It was time for one, by `checkpoint.every`.
    Regular,
    /// It was time for one that stays, by `checkpoint.milestones`.
    Milestone,
    /// The run was stopped, its device failed, or it went back.
    Other,
}

/// What is known about a checkpoint when it is decided whether it stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The number of regular saves up to it, its own included.
    pub number: u64,
    /// Why it was written.
    pub occasion: Occasion,
    /// Validation at its step, if there was one.
    pub val_bpb: Option<f64>,
    /// Whether it is from a stretch that the run has since gone back from.
    pub abandoned: bool,
}

/// Whether save number `number` is one of those that are kept for the past when `newest` is the last.
///
/// ```
/// use train::retention::is_spaced;
/// let kept: Vec<u64> = (1..=100).filter(|number| is_spaced(*number, 100)).collect();
/// assert_eq!(kept, [1, 2, 4, 8, 16, 32, 64, 80, 88, 96, 98, 99, 100]);
/// ```
pub fn is_spaced(number: u64, newest: u64) -> bool {
    // Of any 2^(k+1) numbers in a row exactly one is an odd multiple of 2^k.
    let is_newest = |number: u64| (newest - number) >> 1 < 1 << number.trailing_zeros();
    number > 0 && number <= newest && (number.is_power_of_two() || is_newest(number))
}

/// For each of `candidates`, oldest first, whether it stays.
pub fn stay(config: &CheckpointConfig, candidates: &[Candidate]) -> Vec<bool> {
    let is_regular = |candidate: &&Candidate| candidate.occasion != Occasion::Other && !candidate.abandoned;
    let newest = candidates.iter().filter(is_regular).map(|candidate| candidate.number).max().unwrap_or(0);
    let old = candidates.iter().filter(is_regular).count().saturating_sub(config.keep.max(1));
    let score = |place: &usize| candidates[*place].val_bpb.unwrap_or(f64::INFINITY);
    let scored = (0..candidates.len()).filter(|place| candidates[*place].occasion != Occasion::Other);
    let best = scored.filter(|place| score(place).is_finite()).min_by(|a, b| score(a).total_cmp(&score(b)));
    let mut regular = 0;
    let stays = |(place, candidate): (usize, &Candidate)| {
        let mut stays = place + 1 == candidates.len() || Some(place) == best;
        if is_regular(&candidate) {
            regular += 1;
            stays |= regular > old || candidate.occasion == Occasion::Milestone;
            stays |= config.spaced && is_spaced(candidate.number, newest);
        }
        stays
    };
    candidates.iter().enumerate().map(stays).collect()
}

/// The most checkpoints that are ever on disk at once, the one that is being written included; of a run whose number
/// of saves cannot be told before it is over, for a million of them, and without milestones that cannot be counted.
pub fn most_on_disk(config: &CheckpointConfig, budget: &Budget, step_tokens: Option<u64>) -> u64 {
    // Of milestones whose number nobody can tell none is counted, which is said where this number is.
    let countable = config.milestones.share_of(budget, step_tokens).is_some();
    let milestones = if countable { passes(&config.milestones, budget, step_tokens) } else { 0 };
    // There is one more at the end.
    let saves = passes(&config.every, budget, step_tokens) + milestones + 1;
    let keep = (config.keep.max(1) as u64).min(saves);
    // One for each power of two up to the number of saves, and one more for each but the last, where they are the same.
    // Among `keep` numbers in a row are those of log2(keep) + 1 powers.
    let past = 2 * u64::from(saves.ilog2()) - u64::from(keep.ilog2()).min(u64::from(saves.ilog2()));
    let past = if config.spaced { past.min(saves - keep) } else { 0 };
    // The best; one of no regular save; the one that is being written.
    keep + past + milestones + 3
}

/// How often a multiple of `every` lies within a run.
fn passes(every: &Stretch, budget: &Budget, step_tokens: Option<u64>) -> u64 {
    match every.share_of(budget, step_tokens) {
        Some(share) if share > 0.0 => (1.0 / share + 1e-9).floor() as u64,
        Some(_) => 0,
        None => 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keep: usize) -> CheckpointConfig {
        CheckpointConfig { every: Stretch::Share(1e-4), keep, spaced: true, milestones: Stretch::Share(0.0) }
    }

    fn save(number: u64) -> Candidate {
        // Some are validated; the best is always an old one.
        let val_bpb = number.is_multiple_of(3).then(|| 2.0 + (number as f64 - 2000.0).abs() / 1e5);
        Candidate { number, occasion: Occasion::Regular, val_bpb, abandoned: false }
    }

    fn retain(config: &CheckpointConfig, disk: &mut Vec<Candidate>) {
        let mut stay = stay(config, disk).into_iter();
        disk.retain(|_| stay.next() == Some(true));
    }

    #[test]
    fn what_cannot_be_counted_refuses_no_run() {
        let mut config = config(2);
        config.every = Stretch::Share(0.1);
        config.milestones = Stretch::Amount(Budget::Steps(5000));
        let hours = Budget::Time(std::time::Duration::from_secs(7200));
        assert!(most_on_disk(&config, &hours, Some(10)) < 20);
        // Where they can be, they are: one for each 5,000 steps.
        let tokens = Budget::Tokens(1_000_000);
        assert!(most_on_disk(&config, &tokens, Some(10)) >= 20);
    }

    /// Oracle: the promises, counted after each of 10,000 saves.
    #[test]
    fn ten_thousand_saves_keep_their_promises() {
        for keep in [1, 2, 5] {
            let config = config(keep);
            let bound = most_on_disk(&config, &Budget::Steps(10_000), Some(1));
            let (mut disk, mut most): (Vec<Candidate>, u64) = (Vec::new(), 0);
            for n in 1..=10_000_u64 {
                disk.push(save(n));
                // While it is written, all others are there.
                most = most.max(disk.len() as u64);
                retain(&config, &mut disk);
                let kept: Vec<u64> = disk.iter().map(|candidate| candidate.number).collect();
                let newest: Vec<u64> = (n.saturating_sub(keep as u64) + 1..=n).collect();
                assert!(kept.ends_with(&newest), "after {n}: {kept:?}");
                let best = (1..=n).filter(|m| m.is_multiple_of(3)).min_by_key(|m| m.abs_diff(2000));
                assert!(best.is_none_or(|best| kept.contains(&best)), "after {n}: {kept:?}");
                // Whenever an illness began, there is one from before it, and not from long before it: neither by the
                // run's age nor by the time since.
                for age in [0, 1, 2, 5, 10, 100, 1000, 3000, 9000].into_iter().filter(|age| *age < n) {
                    let before = *kept.iter().rev().find(|number| n - **number >= age).expect("the first");
                    let near = n - before <= 3 * age + 1 || 2 * before > n - age;
                    assert!(near && 3 * before > n - age, "{age} before {n}: {kept:?}");
                }
            }
            assert!(most <= bound, "{most} are more than {bound}");
            // One more would be one that was saved because the run was stopped; others coincide.
            assert!(most + 2 >= bound, "{bound} is too cautious for {most}");
        }
    }

    /// As a kill leaves it: some of those that were to go are gone, others not.
    #[test]
    fn what_stays_does_not_depend_on_what_else_is_there() {
        let config = config(2);
        let mut random = data::random::Stream::new(7);
        let mut disk = Vec::new();
        for n in 1..=300 {
            disk.push(save(n));
            let mut whole = disk.clone();
            retain(&config, &mut whole);
            disk.retain(|candidate| whole.contains(candidate) || random.below(2) == 0);
            let mut again = disk.clone();
            retain(&config, &mut again);
            assert_eq!(again, whole, "after {n}");
        }
    }

    #[test]
    fn other_occasions_and_abandoned_ones_stay_only_while_they_are_needed() {
        let numbers = |config: &CheckpointConfig, disk: &[Candidate]| {
            let mut disk = disk.to_vec();
            retain(config, &mut disk);
            disk.iter().map(|candidate| candidate.number).collect::<Vec<_>>()
        };
        let bare = CheckpointConfig { spaced: false, ..config(2) };
        let plain = |number| Candidate { val_bpb: None, ..save(number) };
        let other = |number| Candidate { occasion: Occasion::Other, ..plain(number) };
        assert_eq!(numbers(&bare, &[plain(1), plain(2), plain(3), other(3)]), [2, 3, 3]);
        assert_eq!(numbers(&bare, &[plain(2), plain(3), other(3), plain(4)]), [3, 4]);
        // The best of an abandoned stretch is still the best model that there is.
        let left = |number, val_bpb| Candidate { abandoned: true, val_bpb, ..plain(number) };
        let disk = [plain(1), left(2, Some(1.5)), left(3, None), other(1)];
        assert_eq!(numbers(&bare, &disk), [1, 2, 1]);
        let milestone = Candidate { occasion: Occasion::Milestone, ..plain(1) };
        assert_eq!(numbers(&bare, &[milestone, plain(2), plain(3), plain(4)]), [1, 3, 4]);
        assert_eq!(numbers(&config(1), &[plain(4), plain(5), plain(6), plain(7), plain(8)]), [4, 6, 7, 8]);
    }

    /// Oracle: counted by hand.
    #[test]
    fn the_bound_counts_every_reason() {
        let of = |every, keep, spaced, milestones, budget: &str| {
            let config = CheckpointConfig { every, keep, spaced, milestones };
            most_on_disk(&config, &budget.parse().unwrap(), Some(10))
        };
        let (tenth, none) = (Stretch::Share(0.1), Stretch::Share(0.0));
        // Two newest, best, other, being written; of eleven also the saves 1, 2, 4, 8 and one of 5, 6, 7, 9.
        assert_eq!(of(tenth, 2, false, none, "5m"), 5);
        assert_eq!(of(tenth, 2, true, none, "5m"), 10);
        assert_eq!(of(tenth, 2, false, Stretch::Share(0.25), "5m"), 9);
        // Two saves can be no more than two, whatever is to be kept.
        assert_eq!(of(Stretch::Amount(Budget::Steps(10)), 50, true, none, "100tok"), 2 + 3);
        // Nobody knows how many steps five minutes are.
        assert_eq!(of(Stretch::Amount(Budget::Steps(10)), 2, true, none, "5m"), 2 + 37 + 3);
    }
}

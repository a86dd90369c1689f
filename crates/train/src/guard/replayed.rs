//! Two runs of our own, replayed: of one that exploded the guard says so in time and knows from when it was well; of one
//! that only drifted it says nothing.
//!
//! Oracle: what became of them, by `docs/explosions.md`. Their signals, step by step and without any noise of ours, are
//! in `replayed/`, each file headed by the run that it is of; `replayed/thin.py` made them, at three or four digits.

use super::synthetic::Run;
use super::*;

/// v1 at three times its rate, with the original's gradient of a norm: an activation stood out at update 424 (above 20),
/// and the run exploded at 702 (above 50): val_bpb was 2.278 after 700 and 2.678 after 800, and later 0.541 above its best.
const EXPLODED: &str = include_str!("replayed/defect-3x.tsv");
/// The same with right gradients: activations passed 200 at update 485 and reached 370, and val_bpb fell from 2.833 to
/// 2.083, never more than 0.011 above its best.
const DRIFTED: &str = include_str!("replayed/v1-3x.tsv");

/// A recorded run, up to where it is called ill.
fn replay(file: &str) -> Run {
    let mut run = Run::new(0);
    for line in file.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())) {
        let values: Vec<f64> = line.split('\t').map(|value| value.parse().expect("a number")).collect();
        let [step, lr, loss, grad_norm, ref act_max @ ..] = values[..] else { panic!("{line}") };
        run.step(step as u64, lr, loss, grad_norm, act_max);
        if run.ill.is_some() {
            break;
        }
    }
    run
}

#[test]
fn a_run_that_exploded_is_called_ill_at_once_and_was_well_before() {
    let run = replay(EXPLODED);
    let (step, kind) = run.ill.expect("it exploded");
    // Live it was warned of at 792 and called ill at 816.
    assert!((702..=702 + 160).contains(&step), "{step}: it exploded at 702");
    assert_eq!(kind, Illness::Loss);
    let warned: Vec<u64> = run.warned.iter().map(|(step, _)| *step).collect();
    assert!(!warned.is_empty() && warned.iter().all(|step| *step >= 702), "{warned:?}");
    let healthy = run.guard.healthy_until();
    assert!((300..=424).contains(&healthy), "{healthy}: an extreme first stood out at 424");
    let last = run.readings.last().expect("there are some");
    // All but the first two layers stand above a thousand by then, and the last had the least before.
    assert_eq!(last.act_layer, Some(5), "{last:?}");
    // Single losses stand out sooner than the smoothed one has risen, and did not before.
    let far = run.readings.iter().position(|reading| reading.z > Some(6.0)).expect("one does") as u64 + 1;
    assert!((702..step).contains(&far), "{far}");
}

#[test]
fn a_run_that_drifted_and_went_on_learning_is_never_called_ill() {
    let run = replay(DRIFTED);
    assert_eq!((run.ill, run.warned.as_slice(), run.readings.len()), (None, &[][..], 2000));
    // It did drift: no bound on activations, and not their growth alone, would have let it pass.
    let grown = run.readings.iter().filter_map(|reading| reading.act_growth).fold(0.0, f64::max);
    assert!(grown > 2.0 * GuardConfig::default().growth, "{grown}");
}

//! Which of a run's checkpoints is used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data::Vocabulary;
use model::ModelConfig;

use crate::checkpoint::{self, Found, Name};
use crate::{Checkpoints, Error, Result};

/// One of a run's checkpoints.
///
/// ```
/// use train::Pick;
/// let step = |step, recoveries| Pick::Step { step, recoveries };
/// assert_eq!("best".parse(), Ok(Pick::Best));
/// assert_eq!("400".parse(), Ok(step(400, None)));
/// assert_eq!("step_000400-r1".parse(), Ok(step(400, Some(1))));
/// assert!("runs/b/checkpoints/step_000400".parse::<Pick>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pick {
    /// The newest that is whole.
    #[default]
    Newest,
    /// That of the lowest val_bpb, of those that were validated over as many windows as the newest that was; the run may
    /// have gone back from it since. Newer ones that were not validated are passed over, and said to be.
    Best,
    /// That of a step.
    Step {
        /// The step.
        step: u64,
        /// How often the run had gone back by then; `None` for the last time that it passed there.
        recoveries: Option<usize>,
    },
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Pick::Newest => f.write_str("newest"),
            Pick::Best => f.write_str("best"),
            Pick::Step { step, recoveries: None } => write!(f, "{step}"),
            Pick::Step { step, recoveries: Some(recoveries) } => {
                f.write_str(&Name { recoveries, step }.folder())
            }
        }
    }
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => return Ok(Pick::Newest),
            "best" => return Ok(Pick::Best),
            _ => {}
        }
        // A path may be that of another run.
        let named = Some(text)
            .filter(|text| !text.contains(['/', '\\']))
            .map(Path::new)
            .and_then(Name::parse)
            .map(|Name { recoveries, step }| Pick::Step { step, recoveries: Some(recoveries) });
        let numbered = || text.parse().ok().map(|step| Pick::Step { step, recoveries: None });
        named.or_else(numbered).ok_or_else(|| {
            "newest, best, a step such as 400, or a checkpoint's name such as step_000400 is expected".into()
        })
    }
}

impl Checkpoints {
    /// A checkpoint of the run. Where [`Pick::Newest`] or [`Pick::Best`] is broken, the next one counts.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] for a step that none is of, and for the best where none was validated;
    /// [`Error::Checkpoint`] when that of a step does not verify, [`Error::NoValidCheckpoint`] when none does,
    /// [`Error::ModelChanged`] when they are of another model.
    pub fn pick(&self, pick: Pick, config: &ModelConfig, vocabulary: Option<&Vocabulary>) -> Result<Found> {
        let (all, mut skipped) = (self.named(), Vec::new());
        let mut paths: Vec<PathBuf> = match pick {
            Pick::Newest => all.into_iter().rev().map(|(_, path)| path).collect(),
            Pick::Best => {
                let scores = all.iter().map(|(_, path)| checkpoint::score(path));
                let scores = checkpoint::of_one_measure(scores.collect());
                let newest = scores.iter().rposition(Option::is_some);
                for (_, path) in &all[newest.map_or(all.len(), |at| at + 1)..] {
                    skipped.push((path.clone(), "it was not validated".to_owned()));
                }
                let mut scored: Vec<_> = scores.into_iter().zip(all).collect();
                scored.retain(|(score, _)| score.is_some());
                scored.sort_by(|(a, _), (b, _)| a.partial_cmp(b).expect("they are finite"));
                scored.into_iter().map(|(_, (_, path))| path).collect()
            }
            Pick::Step { step, recoveries } => {
                let is_it = |name: &Name| {
                    name.step == step && recoveries.is_none_or(|recoveries| name.recoveries == recoveries)
                };
                all.into_iter().rev().filter(|(name, _)| is_it(name)).map(|(_, path)| path).collect()
            }
        };
        if paths.is_empty() && pick != Pick::Newest {
            return Err(Error::NoSuchCheckpoint {
                dir: self.dir().to_owned(),
                wanted: match pick {
                    Pick::Step { recoveries: None, .. } => format!("of step {pick}"),
                    Pick::Step { .. } => format!("of the name {pick}"),
                    _ => {
                        "that was validated, of which one could be the best (eval.every decides when that is)"
                            .into()
                    }
                },
                there: self.named().into_iter().map(|(name, _)| name.folder()).collect(),
            });
        }
        if matches!(pick, Pick::Step { .. }) {
            // Another time that the run passed there is not what was asked for.
            paths.truncate(1);
        }
        for path in paths {
            match checkpoint::load(&path, config, vocabulary) {
                Ok(checkpoint) => return Ok(Found { checkpoint: Some(checkpoint), skipped }),
                // So are the others.
                Err(changed @ Error::ModelChanged { .. }) => return Err(changed),
                Err(why) if matches!(pick, Pick::Step { .. }) => return Err(why),
                Err(why) => skipped.push((path, why.to_string())),
            }
        }
        if skipped.is_empty() {
            return Ok(Found::default());
        }
        Err(Error::NoValidCheckpoint { dir: self.dir().to_owned(), skipped })
    }
}

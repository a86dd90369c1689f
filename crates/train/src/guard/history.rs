//! The past of a run in bounded room: at first block by block, later in coarser blocks, so that half the run
//! ago and a quarter of it are always there to be compared with.

use serde::{Deserialize, Serialize};

use super::point::{Point, median};

/// Parts of a block, whose median it is: a spike that touches up to three of them does not move it.
const PARTS: usize = 8;
/// Steps in a part of the first blocks.
const FIRST_STEPS: usize = 3;
/// Blocks that are kept: when there are so many, two become one.
const BLOCKS: usize = 128;
/// Blocks whose median is the smoothed signal: a spike that touches two of them does not move it.
pub(super) const SMOOTH: usize = 5;
/// Second differences that tell how far blocks scatter: those of the last so many blocks.
const SCATTER: usize = 32;

/// A run's signals so far. Part of a checkpoint: a few dozen lines, whatever the run's length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// The step before its first.
    pub(super) origin: u64,
    /// The last step at which the learning rate rose.
    risen: u64,
    /// The loss of the first steps, before anything was learned.
    untaught: Option<f64>,
    /// Steps in a part.
    steps: usize,
    blocks: Vec<Point>,
    /// The mean of the part that is not yet full, and of how many steps.
    part: Option<(Point, usize)>,
    /// The full parts of the block that is not yet full.
    parts: Vec<Point>,
}

impl Default for History {
    fn default() -> History {
        History::from(0)
    }
}

impl History {
    /// Nothing yet, of a run that has done `origin` steps.
    pub(super) fn from(origin: u64) -> History {
        let (untaught, part) = (None, None);
        History {
            origin,
            risen: origin,
            untaught,
            steps: FIRST_STEPS,
            blocks: Vec::new(),
            part,
            parts: Vec::new(),
        }
    }

    /// Takes in a step; says whether a block is full, so that there is something new to be judged.
    pub(super) fn push(&mut self, step: Point) -> bool {
        let (part, steps) = match self.part.take() {
            None => (step, 1),
            Some((mean, steps)) => (grown(mean, &step, steps), steps + 1),
        };
        if steps < self.steps {
            self.part = Some((part, steps));
            return false;
        }
        self.untaught.get_or_insert(part.loss);
        self.parts.push(part);
        if self.parts.len() < PARTS {
            return false;
        }
        self.blocks.push(Point::median_of(&self.parts, self.steps));
        self.parts.clear();
        if self.blocks.len() == BLOCKS {
            self.blocks = self.blocks.chunks(2).map(Point::mean_of).collect();
            self.steps *= 2;
        }
        true
    }

    /// The learning rate has risen at `step`.
    pub(super) fn rate_rose(&mut self, step: u64) {
        self.risen = step;
    }

    /// The first block that begins after the rate last rose.
    pub(super) fn settled(&self) -> usize {
        self.blocks.partition_point(|block| block.step <= self.risen) + usize::from(self.risen > self.origin)
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The last step of block `index`; before the first, that of the beginning.
    pub(super) fn step(&self, index: Option<usize>) -> u64 {
        index.map_or(self.origin, |index| self.blocks[index].step)
    }

    /// The loss before anything was learned.
    pub(super) fn untaught(&self) -> f64 {
        self.untaught.unwrap_or(f64::NAN)
    }

    /// The layers that every block knows.
    pub(super) fn layers(&self) -> usize {
        self.blocks.iter().map(|block| block.acts.len()).min().unwrap_or(0)
    }

    /// A signal smoothed: its median over the [`SMOOTH`] blocks that end with `index`.
    pub(super) fn smooth(&self, index: usize, of: &dyn Fn(&Point) -> f64) -> f64 {
        median(&mut self.blocks[index + 1 - SMOOTH..=index].iter().map(of).collect::<Vec<f64>>())
    }

    /// The loss of the last block.
    pub(super) fn last_loss(&self) -> f64 {
        self.blocks.last().map_or(f64::NAN, |block| block.loss)
    }

    /// The deviation of single steps' losses in the last blocks.
    pub(super) fn deviation(&self) -> f64 {
        let last = &self.blocks[self.blocks.len().saturating_sub(SCATTER)..];
        median(&mut last.iter().map(|block| block.spread).collect::<Vec<f64>>())
    }

    /// The standard error of the difference of two smoothed losses.
    ///
    /// Whichever is larger of what the scatter of steps lets expect, were they independent, and of what neighbouring
    /// blocks show, which they are not when the text becomes harder and easier.
    pub(super) fn loss_error(&self) -> f64 {
        let blocks = &self.blocks[self.blocks.len().saturating_sub(SCATTER)..];
        if blocks.is_empty() {
            return 0.0;
        }
        // The median of eight has 1.2 times the deviation of their mean.
        let by_steps = 1.2 * self.deviation() / ((self.steps * PARTS) as f64).sqrt();
        let bend = |three: &[Point]| (three[0].loss - 2.0 * three[1].loss + three[2].loss).abs();
        let mut bends: Vec<f64> = blocks.windows(3).map(bend).collect();
        // A second difference of independent values has sqrt(6) times their deviation.
        let by_blocks = if bends.is_empty() { 0.0 } else { median(&mut bends) / (0.6745 * 6_f64.sqrt()) };
        // A median of n has sqrt(pi/2) times the error of their mean; a difference of two, sqrt(2) times that.
        let of_difference = (std::f64::consts::PI / SMOOTH as f64).sqrt();
        // Losses that do not scatter at all are no reason to be alarmed by the last digit.
        (of_difference * by_steps.max(by_blocks)).max(1e-4 * self.blocks.last().map_or(0.0, |b| b.loss.abs()))
    }
}

/// The mean of `count` steps, grown by one.
fn grown(mean: Point, next: &Point, count: usize) -> Point {
    let share = 1.0 / (count + 1) as f64;
    let toward = |old: f64, new: f64| old + share * (new - old);
    Point {
        step: next.step,
        loss: toward(mean.loss, next.loss),
        spread: toward(mean.spread, next.spread),
        grad: toward(mean.grad, next.grad),
        acts: mean.acts.iter().zip(&next.acts).map(|(old, new)| toward(*old, *new)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(steps: u64, loss: impl Fn(u64) -> f64) -> History {
        let mut history = History::default();
        for step in 1..=steps {
            history.push(Point::of_step(step, loss(step), 1.0, &[1.0, 2.0]).unwrap());
        }
        history
    }

    #[test]
    fn its_room_is_bounded_and_its_past_reaches_back_to_the_beginning() {
        for steps in [1, 24, 3071, 3072, 5000, 100_000] {
            let history = filled(steps, |step| step as f64);
            assert!(history.blocks() < BLOCKS && history.parts.len() < PARTS);
            assert!(steps < 3072 || history.blocks() >= BLOCKS / 2);
            let parts = PARTS * history.blocks() + history.parts.len();
            let open = history.part.as_ref().map_or(0, |(_, steps)| *steps);
            assert_eq!(parts * history.steps + open, steps as usize);
            // Of a straight line every mean lies in the middle of its stretch.
            for (number, block) in history.blocks.iter().enumerate() {
                let (first, last) = (history.step(number.checked_sub(1)) as f64 + 1.0, block.step as f64);
                assert!((block.loss - f64::midpoint(first, last)).abs() < 1e-6, "{number}: {block:?}");
            }
            let json = serde_json::to_string(&history).unwrap();
            assert_eq!(serde_json::from_str::<History>(&json).unwrap(), history);
        }
    }

    /// Oracle: the deviation of the differences of the smoothed losses of many runs of noise.
    #[test]
    fn the_error_is_that_of_noise() {
        let difference = |seed: u64| {
            let mut random = data::random::Stream::new(seed);
            let mut normal = move || -> f64 {
                let uniform = |bits: u64| (bits >> 11) as f64 / 2f64.powi(53) + f64::EPSILON;
                let (a, b) = (uniform(random.next_u64()), uniform(random.next_u64()));
                (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
            };
            let mut history = History::default();
            for step in 1..=1440 {
                history.push(Point::of_step(step, 3.0 + 0.2 * normal(), 1.0, &[]).unwrap());
            }
            let smooth = |index| history.smooth(index, &|block| block.loss);
            (smooth(59) - smooth(29), history.loss_error())
        };
        let all: Vec<(f64, f64)> = (0..400).map(difference).collect();
        let measured = (all.iter().map(|(d, _)| d * d).sum::<f64>() / 400.0).sqrt();
        let told = all.iter().map(|(_, e)| e).sum::<f64>() / 400.0;
        // The larger of two estimates is larger than either; a deviation of 400 has an error of 4 of 100.
        assert!((0.95..1.4).contains(&(told / measured)), "told {told}, measured {measured}");
    }
}

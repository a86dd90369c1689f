//! Values over a run, thinned while they arrive so that memory and the report stay small and no spike is
//! lost: steps side by side share a bucket, which remembers its smallest and its largest value and where
//! they were. A run with fewer steps than buckets is kept whole.

/// A value that is so many times the usual one is a peak.
const FAR: f64 = 3.0;
/// Peaks that are marked.
const PEAKS: usize = 12;

/// When something was: the number of a step comes again after a run has gone back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment {
    /// How often the run had gone back.
    pub(crate) recoveries: u64,
    /// After this step.
    pub(crate) step: u64,
}

/// Where in a run something was.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct At {
    /// After this step.
    pub(crate) step: u64,
    /// Tokens seen, those of steps that the run went back from included: what happened later lies further on.
    pub(crate) tokens: u64,
    /// Seconds in steps.
    pub(crate) seconds: f64,
}

/// A value of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) at: At,
    pub(crate) value: f64,
}

/// Steps side by side.
#[derive(Debug, Clone, PartialEq)]
struct Bucket {
    first: At,
    last: At,
    count: u64,
    sum: f64,
    min: Point,
    max: Point,
    /// Whether the smallest came before the largest.
    min_first: bool,
}

impl Bucket {
    fn of(at: At, value: f64) -> Bucket {
        let point = Point { at, value };
        Bucket { first: at, last: at, count: 1, sum: value, min: point, max: point, min_first: true }
    }

    /// Takes in what follows.
    fn absorb(&mut self, next: &Bucket) {
        let (lower, higher) = (next.min.value < self.min.value, next.max.value > self.max.value);
        self.min_first = match (lower, higher) {
            (false, false) => self.min_first,
            (true, true) => next.min_first,
            (lower, _) => !lower,
        };
        if lower {
            self.min = next.min;
        }
        if higher {
            self.max = next.max;
        }
        self.last = next.last;
        self.count += next.count;
        self.sum += next.sum;
    }

    fn middle(&self) -> At {
        At {
            step: self.first.step.midpoint(self.last.step),
            tokens: self.first.tokens.midpoint(self.last.tokens),
            seconds: self.first.seconds.midpoint(self.last.seconds),
        }
    }
}

/// Thinned values.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    buckets: Vec<Bucket>,
    /// Values in each bucket but the last.
    per_bucket: u64,
    most: usize,
    /// How many values were not finite, and where the first and the last of them was.
    pub(crate) lost: u64,
    pub(crate) lost_at: Option<(At, At)>,
}

impl Series {
    /// An empty one that keeps at most `most` buckets, an even number.
    pub(crate) fn new(most: usize) -> Series {
        debug_assert!(most >= 2 && most.is_multiple_of(2));
        Series { buckets: Vec::new(), per_bucket: 1, most, lost: 0, lost_at: None }
    }

    /// Adds a value; `None`, NaN and infinities are counted and not kept.
    pub(crate) fn push(&mut self, at: At, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            self.lost += 1;
            self.lost_at = Some((self.lost_at.map_or(at, |(first, _)| first), at));
            return;
        };
        let next = Bucket::of(at, value);
        match self.buckets.last_mut() {
            Some(last) if last.count < self.per_bucket => return last.absorb(&next),
            _ => {}
        }
        if self.buckets.len() == self.most {
            self.halve();
            // All buckets are whole pairs, so the value begins a new one.
        }
        self.buckets.push(next);
    }

    fn halve(&mut self) {
        let mut halved = Vec::with_capacity(self.most);
        for pair in self.buckets.chunks(2) {
            let mut bucket = pair[0].clone();
            pair[1..].iter().for_each(|next| bucket.absorb(next));
            halved.push(bucket);
        }
        self.buckets = halved;
        self.per_bucket *= 2;
    }

    /// Whether it has no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The smallest and the largest value.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        let min = self.buckets.iter().map(|bucket| bucket.min.value).reduce(f64::min)?;
        let max = self.buckets.iter().map(|bucket| bucket.max.value).reduce(f64::max)?;
        Some((min, max))
    }

    /// The smallest and the largest value of each bucket, in the order in which they came.
    pub(crate) fn envelope(&self) -> Vec<Point> {
        let mut points = Vec::with_capacity(2 * self.buckets.len());
        for bucket in &self.buckets {
            match (bucket.min.value == bucket.max.value, bucket.min_first) {
                (true, _) if bucket.count == 1 => points.push(bucket.min),
                // A flat stretch keeps its length.
                (true, _) => points
                    .extend([(bucket.first), bucket.last].map(|at| Point { at, value: bucket.min.value })),
                (false, true) => points.extend([bucket.min, bucket.max]),
                (false, false) => points.extend([bucket.max, bucket.min]),
            }
        }
        points
    }

    /// The mean of each bucket.
    pub(crate) fn means(&self) -> Vec<Point> {
        let mean = |bucket: &Bucket| Point { at: bucket.middle(), value: bucket.sum / bucket.count as f64 };
        self.buckets.iter().map(mean).collect()
    }

    /// The median of the means of the buckets that lie at most `half` away, which a spike does not move. At the
    /// beginning, where values change fastest, as many count on either side as there are on the left one, so
    /// that the curve does not lag or lead; at the end all that are there count.
    pub(crate) fn smoothed(&self, half: usize) -> Vec<Point> {
        let means = self.means();
        let n = means.len();
        let smooth = |i: usize| {
            let left = half.min(i);
            let window = &means[i - left..=(i + left).min(n - 1)];
            let mut values: Vec<f64> = window.iter().map(|point| point.value).collect();
            values.sort_by(f64::total_cmp);
            let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
            Point { at: means[i].at, value: low.midpoint(high) }
        };
        (0..n).map(smooth).collect()
    }

    /// The largest values that stand far above the smoothed curve, at most [`PEAKS`].
    pub(crate) fn peaks(&self) -> Vec<Point> {
        let smoothed = self.smoothed(self.half_window());
        // At the beginning everything is steep.
        let pairs = self.buckets.iter().zip(smoothed).skip(self.half_window());
        let far = pairs.filter(|(bucket, usual)| usual.value > 0.0 && bucket.max.value > FAR * usual.value);
        let mut peaks: Vec<Point> = far.map(|(bucket, _)| bucket.max).collect();
        peaks.sort_by(|a, b| b.value.total_cmp(&a.value));
        peaks.truncate(PEAKS);
        peaks
    }

    /// Half of the width over which a curve of this length is smoothed: 2 of 100 of the run.
    pub(crate) fn half_window(&self) -> usize {
        match self.buckets.len() {
            0..8 => 0,
            n => (n / 50).max(2),
        }
    }
}

/// The largest value of each row over stretches of a run: what a heat map shows.
#[derive(Debug, Clone)]
pub(crate) struct Heat {
    columns: Vec<Column>,
    per_column: u64,
    most: usize,
}

/// A stretch of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) first: At,
    pub(crate) last: At,
    count: u64,
    /// The largest finite value of each row, and whether all were finite; `[L]`.
    pub(crate) rows: Vec<(f32, bool)>,
}

impl Heat {
    /// An empty one of at most `most` columns, an even number.
    pub(crate) fn new(most: usize) -> Heat {
        Heat { columns: Vec::new(), per_column: 1, most }
    }

    /// Adds the values of one step, `[L]`.
    pub(crate) fn push(&mut self, at: At, values: &[Option<f32>]) {
        let rows = values.iter().map(|value| match value {
            Some(value) if value.is_finite() => (value.abs(), true),
            _ => (0.0, false),
        });
        let next = Column { first: at, last: at, count: 1, rows: rows.collect() };
        match self.columns.last_mut() {
            Some(last) if last.count < self.per_column => return last.absorb(&next),
            _ => {}
        }
        if self.columns.len() == self.most {
            let mut halved: Vec<Column> = Vec::with_capacity(self.most);
            for pair in self.columns.chunks(2) {
                let mut column = pair[0].clone();
                pair[1..].iter().for_each(|next| column.absorb(next));
                halved.push(column);
            }
            self.columns = halved;
            self.per_column *= 2;
        }
        self.columns.push(next);
    }

    /// The columns in their order.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.columns.iter().map(|column| column.rows.len()).max().unwrap_or(0)
    }
}

impl Column {
    fn absorb(&mut self, next: &Column) {
        self.last = next.last;
        self.count += next.count;
        self.rows.resize(self.rows.len().max(next.rows.len()), (0.0, true));
        for (row, (value, finite)) in self.rows.iter_mut().zip(&next.rows) {
            *row = (row.0.max(*value), row.1 && *finite);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64) -> At {
        At { step, tokens: 10 * step, seconds: step as f64 }
    }

    fn series(most: usize, values: &[f64]) -> Series {
        let mut series = Series::new(most);
        values.iter().zip(1..).for_each(|(value, step)| series.push(at(step), Some(*value)));
        series
    }

    fn values(points: Vec<Point>) -> Vec<f64> {
        points.into_iter().map(|point| point.value).collect()
    }

    #[test]
    fn a_short_run_is_kept_whole() {
        let short = series(4, &[3.0, 1.0, 2.0, 5.0]);
        assert_eq!(values(short.envelope()), [3.0, 1.0, 2.0, 5.0]);
        assert_eq!(short.envelope()[3].at, at(4));
        assert_eq!(short.range(), Some((1.0, 5.0)));
    }

    #[test]
    fn a_bucket_gives_its_extremes_in_the_order_in_which_they_came() {
        // The fifth value halves four buckets to two; buckets: (3 1) (2 5) (4 9).
        let thinned = series(4, &[3.0, 1.0, 2.0, 5.0, 4.0, 9.0]);
        assert_eq!(values(thinned.envelope()), [3.0, 1.0, 2.0, 5.0, 4.0, 9.0]);
        // Buckets of four: (3 1 2 5) (4 9 0 7) (6): the extremes of the second are 9, then 0.
        let thinned = series(4, &[3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 0.0, 7.0, 6.0]);
        assert_eq!(values(thinned.envelope()), [1.0, 5.0, 9.0, 0.0, 6.0]);
        let steps: Vec<u64> = thinned.envelope().iter().map(|point| point.at.step).collect();
        assert_eq!(steps, [2, 4, 6, 7, 9]);
        assert_eq!(values(thinned.means()), [11.0 / 4.0, 20.0 / 4.0, 6.0]);
    }

    #[test]
    fn the_smoothed_curve_is_the_median_of_its_neighbours() {
        let raw = series(8, &[8.0, 4.0, 300.0, 1.0, 2.0]);
        assert_eq!(values(raw.smoothed(0)), [8.0, 4.0, 300.0, 1.0, 2.0]);
        // 8; of (8 4 300); of (4 300 1); of (300 1 2); at the end half way from 1 to 2.
        assert_eq!(values(raw.smoothed(1)), [8.0, 8.0, 4.0, 2.0, 1.5]);
        // 8; of (8 4 300); of all five; of (4 300 1 2), half way from 2 to 4; of (300 1 2).
        assert_eq!(values(raw.smoothed(2)), [8.0, 8.0, 4.0, 3.0, 2.0]);
        // Of the means of buckets: (8 4) gives 6, (3 1) gives 2, (5) gives 5.
        let thinned = series(4, &[8.0, 4.0, 3.0, 1.0, 5.0]);
        assert_eq!(values(thinned.smoothed(1)), [6.0, 5.0, 3.5]);
    }

    #[test]
    fn one_spike_in_a_hundred_thousand_steps_is_kept_with_its_step() {
        for spike in [1, 2, 49_999, 77_777, 100_000] {
            let mut long = Series::new(1024);
            for step in 1..=100_000 {
                long.push(at(step), Some(if step == spike { 1e3 } else { 2.0 + (step % 7) as f64 }));
            }
            let kept = long.envelope();
            assert!(kept.len() <= 2048, "{}", kept.len());
            let top = kept.iter().find(|point| point.value == 1e3).expect("the spike");
            assert_eq!(top.at, at(spike));
            // The first buckets are too close to the beginning for anything to be usual there.
            let peaks: Vec<u64> = long.peaks().iter().map(|point| point.at.step).collect();
            assert_eq!(peaks, if spike > 2 { vec![spike] } else { vec![] });
            assert!(kept.is_sorted_by_key(|point| point.at.step));
            assert_eq!((kept[0].at.step <= 64, kept.last().unwrap().at.step > 99_900), (true, true));
        }
    }

    #[test]
    fn what_is_not_finite_is_counted() {
        let mut series = Series::new(4);
        for (step, value) in [(1, Some(1.0)), (2, None), (3, Some(f64::NAN)), (4, Some(2.0))] {
            series.push(at(step), value);
        }
        assert_eq!((series.lost, series.lost_at), (2, Some((at(2), at(3)))));
        assert_eq!(values(series.envelope()), [1.0, 2.0]);
    }

    #[test]
    fn a_column_keeps_the_largest_of_its_steps() {
        let mut heat = Heat::new(2);
        for (step, values) in [[1.0, 5.0], [7.0, 2.0], [3.0, f32::INFINITY]].into_iter().enumerate() {
            heat.push(at(step as u64 + 1), &values.map(Some));
        }
        let rows: Vec<_> = heat.columns().iter().map(|column| column.rows.clone()).collect();
        assert_eq!(rows, [[(7.0, true), (5.0, true)], [(3.0, true), (0.0, false)]]);
        assert_eq!((heat.columns()[0].first, heat.columns()[0].last, heat.rows()), (at(1), at(2), 2));
    }
}

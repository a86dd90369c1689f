//! The plots of a report: what each shows of its runs, and the sentence below its title.

use std::ops::Range;

use train::guard::{GuardConfig, STALLED, WITNESSED};

use super::axis::{self, Axis};
use super::plot::{Along, HEIGHT, Plot};
use super::run::{Curves, Run};
use super::series::{At, Point, Series};
use super::xml::Xml;

/// Levels of colour in a heat map.
const LEVELS: usize = 20;
/// The colours of viridis (matplotlib's, by Smith and van der Walt) at equal distances, dark to light: they
/// are told apart by lightness alone.
const RAMP: [(u8, u8, u8); 9] = [
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
];
/// A linear axis no longer shows a curve whose largest value is so many times its smallest.
const LOG_FROM: f64 = 20.0;
/// Events that change what a run is, and the letter that marks them.
const TURNS: [(&str, char); 7] = [
    ("resumed", 'R'),
    ("interrupted", 'I'),
    ("failed", 'F'),
    ("device_failed", 'D'),
    ("warned", 'W'),
    ("recovered", 'B'),
    ("skipped", 'S'),
];
/// A reading of the guard that is a smaller share of its threshold than this stands at the lower end.
const LEAST_SHARE: f64 = 0.1;
/// With more skipped steps than this, a run's are left to the timeline.
const MANY: usize = 12;

/// A plot with its words.
pub(crate) struct Figure {
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) svg: String,
    /// What explains colours, as markup.
    pub(crate) key: String,
}

impl Figure {
    fn new(title: &str, about: impl Into<String>, plot: Plot) -> Figure {
        Figure { title: title.to_owned(), about: about.into(), svg: plot.finish(), key: String::new() }
    }
}

/// All plots for which there is something to show.
pub(crate) fn all(runs: &[Run]) -> Vec<Figure> {
    let all = Plots { runs, x: tokens_axis(runs) };
    let mut figures = Vec::new();
    figures.extend(all.loss());
    figures.extend(all.validation(Along::Tokens));
    figures.extend(all.validation(Along::Seconds));
    figures.extend(all.rate());
    figures.extend(all.gradient());
    figures.extend(all.activations());
    figures.extend(all.layers());
    figures.extend(all.single_losses());
    figures.extend(all.guard());
    figures.extend(all.scale());
    figures.extend(all.throughput());
    figures.extend(all.time());
    figures.extend(all.timeline());
    figures
}

struct Plots<'r> {
    runs: &'r [Run],
    /// Tokens of the longest run: all plots share it.
    x: Axis,
}

fn tokens_axis(runs: &[Run]) -> Axis {
    Axis::from_zero(runs.iter().map(|run| run.places.last().tokens).max().unwrap_or(0) as f64)
}

/// The smallest and the largest of all.
fn range(ranges: impl Iterator<Item = (f64, f64)>) -> Option<(f64, f64)> {
    ranges.reduce(|(lo, hi), (l, h)| (lo.min(l), hi.max(h)))
}

fn pairs(points: Vec<Point>) -> impl Iterator<Item = (At, f64)> {
    points.into_iter().map(|point| (point.at, point.value))
}

impl Plots<'_> {
    fn range(&self, of: impl Fn(&Curves) -> &Series) -> Option<(f64, f64)> {
        range(self.runs.iter().filter_map(|run| of(&run.curves).range()))
    }

    /// Draws the same for each run; every curve comes above all that is raw.
    fn each(&self, plot: &mut Plot, mut draw: impl FnMut(&mut Plot, usize, &Run)) {
        for (number, run) in self.runs.iter().enumerate() {
            plot.begin(number, &run.about.name);
            draw(plot, number, run);
            plot.end();
        }
    }

    /// Thin what was measured, thick its running median; rings around single steps far
    /// above it, crosses below where it was not finite.
    fn measured(&self, plot: &mut Plot, of: impl Fn(&Curves) -> &Series) -> Option<String> {
        self.each(plot, |plot, _, run| plot.line("raw", pairs(of(&run.curves).envelope())));
        self.each(plot, |plot, _, run| {
            let series = of(&run.curves);
            match series.half_window() {
                0 => plot.line("line", pairs(series.envelope())),
                half => plot.line("line", pairs(series.smoothed(half))),
            }
            if let Some((first, last)) = series.lost_at {
                plot.crosses("lost", [first, last].into_iter());
            }
            for peak in series.peaks() {
                let (value, step) = (axis::power(peak.value), peak.at.step);
                plot.ring(peak.at, peak.value, &format!("{}: {value} in step {step}", run.about.name));
            }
        });
        let lost = self.runs.iter().filter(|run| of(&run.curves).lost > 0).map(|run| {
            let n = of(&run.curves).lost;
            let steps = if n == 1 { "step" } else { "steps" };
            format!("{}: {n} {steps} without a finite value (crosses: first and last)", run.about.name)
        });
        let lost: Vec<String> = lost.collect();
        (!lost.is_empty()).then(|| lost.join("; "))
    }

    /// The events that change what a run is, as upright lines; returns what the letters mean.
    fn turns(&self, plot: &mut Plot) -> Option<String> {
        self.turns_of(plot, 0..self.runs.len())
    }

    /// Those of some of the runs.
    fn turns_of(&self, plot: &mut Plot, runs: Range<usize>) -> Option<String> {
        let (mut seen, mut row) = (Vec::new(), 0);
        for number in runs {
            let run = &self.runs[number];
            plot.begin(number, &run.about.name);
            let mut marks: Vec<(At, String)> = Vec::new();
            for (kind, letter) in TURNS {
                let moments = run.events.moments(kind);
                if moments.is_empty() || kind == "skipped" && moments.len() > MANY {
                    continue;
                }
                marks.extend(moments.iter().map(|moment| (run.places.of(*moment), letter.to_string())));
                if !seen.contains(&(letter, kind)) {
                    seen.push((letter, kind));
                }
            }
            if !marks.is_empty() {
                marks.sort_by_key(|(at, _)| at.tokens);
                let name = &run.about.name;
                plot.upright(
                    "",
                    &marks,
                    row % 12,
                    &format!("{name}: events, see the timeline and the table"),
                );
                row += 1;
            }
            plot.end();
        }
        seen.sort_unstable();
        let meaning = |(letter, kind): &(char, &str)| match *kind {
            "recovered" => format!("{letter} went back and recovered"),
            "skipped" => format!("{letter} skipped step"),
            "device_failed" => format!("{letter} device failed"),
            kind => format!("{letter} {kind}"),
        };
        (!seen.is_empty()).then(|| seen.iter().map(meaning).collect::<Vec<_>>().join(", "))
    }

    fn loss(&self) -> Option<Figure> {
        let (lo, hi) = self.range(|curves| &curves.loss)?;
        let log = lo > 0.0 && hi / lo > LOG_FROM;
        let y = if log { Axis::log(lo, hi) } else { Axis::linear(lo, hi) };
        let mut plot = Plot::new("training loss over training tokens", Along::Tokens, self.x, y);
        let lost = self.measured(&mut plot, |curves| &curves.loss);
        let turns = self.turns(&mut plot);
        let scale = if log { ", log scale" } else { "" };
        let about = sentences([
            Some(format!(
                "nats per token{scale}; thin: every step (smallest and largest where they share a pixel), thick: running median over ±2% of the run"
            )),
            lost,
            turns,
        ]);
        Some(Figure::new("Training loss", about, plot))
    }

    fn validation(&self, along: Along) -> Option<Figure> {
        let all = || self.runs.iter().flat_map(|run| &run.events.validations);
        let figures = all().map(|v| (v.val_bpb - v.se.unwrap_or(0.0), v.val_bpb + v.se.unwrap_or(0.0)));
        let (lo, hi) = range(figures)?;
        let mut bounds: Vec<f64> = self.runs.iter().filter_map(|run| run.about.bound_bits_per_byte).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let lo = bounds.iter().copied().fold(lo, f64::min);
        let x = match along {
            Along::Tokens => self.x,
            Along::Seconds => {
                Axis::time(self.runs.iter().map(|run| run.places.last().seconds).fold(0.0, f64::max))
            }
        };
        let name = match along {
            Along::Tokens => "val_bpb over training tokens",
            Along::Seconds => "val_bpb over time",
        };
        let mut plot = Plot::new(name, along, x, Axis::linear(lo, hi));
        let mut other = false;
        self.each(&mut plot, |plot, _, run| {
            // The last one may count more of the text; it is no point of the same curve.
            let usual = run.events.validations.first().map(|v| v.protocol.as_str()).unwrap_or_default();
            let (same, others): (Vec<_>, Vec<_>) =
                run.events.validations.iter().partition(|validation| validation.protocol == usual);
            plot.line("line thin", same.iter().map(|v| (v.at, v.val_bpb)));
            for (validation, class) in same.iter().map(|v| (v, "")).chain(others.iter().map(|v| (v, "last")))
            {
                let se = validation.se.map(|se| format!(" ± {se:.4}")).unwrap_or_default();
                let told = format!(
                    "{}: val_bpb {:.4}{se} after step {} ({})",
                    run.about.name, validation.val_bpb, validation.at.step, validation.protocol
                );
                plot.figure(class, validation.at, validation.val_bpb, validation.se, &told);
            }
            other |= !others.is_empty();
        });
        for bound in bounds {
            plot.level("bound", bound, &format!("best possible {bound:.4}"));
        }
        let about = sentences([
            Some("bits per byte of held-out text, with standard errors".to_owned()),
            other.then(|| "hollow: counted over other windows than the curve".to_owned()),
        ]);
        Some(Figure::new(name, about, plot))
    }

    fn rate(&self) -> Option<Figure> {
        let (_, hi) = self.range(|curves| &curves.lr)?;
        let mut plot = Plot::new(
            "learning rate over training tokens",
            Along::Tokens,
            self.x,
            Axis::from_zero(hi * 1.05),
        );
        self.each(&mut plot, |plot, _, run| plot.line("line", pairs(run.curves.lr.envelope())));
        Some(Figure::new("Learning rate", "base rate of each step; kinds of parameters multiply it", plot))
    }

    fn gradient(&self) -> Option<Figure> {
        let (lo, hi) = self.range(|curves| &curves.grad_norm)?;
        let mut clips: Vec<f64> =
            self.runs.iter().filter_map(|run| run.number("optimizer.grad_clip")).collect();
        clips.retain(|clip| *clip > 0.0);
        clips.sort_by(f64::total_cmp);
        clips.dedup();
        // Zeros (nothing but padding, or an underflow) stand at the lower end.
        let lo = if lo > 0.0 { lo } else { (hi * 1e-6).max(1e-12) };
        let (low, high) = clips.iter().fold((lo, hi), |(l, h), clip| (l.min(*clip), h.max(*clip)));
        let mut plot =
            Plot::new("gradient norm over training tokens", Along::Tokens, self.x, Axis::log(low, high));
        let lost = self.measured(&mut plot, |curves| &curves.grad_norm);
        let turns = self.turns(&mut plot);
        for clip in clips {
            plot.level("clip", clip, &format!("clipped above {}", axis::power(clip)));
        }
        let about = sentences([Some("before clipping, log scale".to_owned()), lost, turns]);
        Some(Figure::new("Gradient norm", about, plot))
    }

    fn activations(&self) -> Option<Figure> {
        let (lo, hi) = self.range(|curves| &curves.act_max)?;
        let lo = if lo > 0.0 { lo } else { (hi * 1e-4).max(1e-9) };
        let mut plot =
            Plot::new("largest activation over training tokens", Along::Tokens, self.x, Axis::log(lo, hi));
        let lost = self.measured(&mut plot, |curves| &curves.act_max);
        let about = sentences([
            Some("largest magnitude in the residual stream after any layer, log scale".to_owned()),
            lost,
        ]);
        Some(Figure::new("Largest activation", about, plot))
    }

    /// A heat map for each run that has layers, all of one scale.
    fn layers(&self) -> Vec<Figure> {
        let values = || {
            let columns = self.runs.iter().flat_map(|run| run.curves.layers.columns());
            columns.flat_map(|column| &column.rows).map(|(value, _)| f64::from(*value)).filter(|v| *v > 0.0)
        };
        let Some((lo, hi)) = range(values().map(|value| (value, value))) else { return Vec::new() };
        let scale = Axis::log(lo, hi);
        let key = ramp_key(lo, hi, self.runs.len() > 1);
        let of = |(number, run): (usize, &Run)| self.layers_of(number, run, scale, &key);
        self.runs.iter().enumerate().filter_map(of).collect()
    }

    fn layers_of(&self, number: usize, run: &Run, scale: Axis, key: &str) -> Option<Figure> {
        let heat = &run.curves.layers;
        let layers = heat.rows();
        if layers == 0 {
            return None;
        }
        let row = (HEIGHT / layers as f64).min(34.0);
        let name = &run.about.name;
        let title = format!("largest activations of each layer of {name}");
        let mut plot = Plot::rows(&title, Along::Tokens, self.x, row * layers as f64, true);
        plot.begin(number, name);
        // Boxes of each level; the last are those that were not finite.
        let mut boxes = vec![Vec::new(); LEVELS + 1];
        for layer in 0..layers {
            let y = row * (layers - 1 - layer) as f64;
            let mut open: Option<(usize, f64, f64)> = None;
            let mut from = 0.0;
            for column in heat.columns() {
                let to = column.last.tokens as f64;
                let level = match column.rows.get(layer) {
                    Some((_, false)) => LEVELS,
                    Some((value, true)) => {
                        ((scale.position(f64::from(*value)) * LEVELS as f64) as usize).min(LEVELS - 1)
                    }
                    None => continue,
                };
                open = match open {
                    Some((before, start, _)) if before == level => Some((level, start, to)),
                    closed => {
                        if let Some((before, start, end)) = closed {
                            boxes[before].push((start, end, y, row));
                        }
                        Some((level, from, to))
                    }
                };
                from = to;
            }
            if let Some((level, start, end)) = open {
                boxes[level].push((start, end, y, row));
            }
        }
        for (level, boxes) in boxes.iter().enumerate() {
            let class = if level == LEVELS { "cell bad".to_owned() } else { format!("cell h{level}") };
            plot.boxes(&class, boxes);
        }
        let every = (layers as f64 * 20.0 / (row * layers as f64)).ceil().max(1.0) as usize;
        for layer in 0..layers {
            let y = row * (layers - 1 - layer) as f64;
            if layer.is_multiple_of(every) {
                plot.row_label(y + row / 2.0, &layer.to_string());
            }
            let rows = heat.columns().iter().filter_map(|column| Some((column, column.rows.get(layer)?.0)));
            if let Some((column, largest)) = rows.max_by(|(_, a), (_, b)| a.total_cmp(b)) {
                let told = format!(
                    "layer {layer}: at most {} (steps {} to {})",
                    axis::power(f64::from(largest)),
                    column.first.step,
                    column.last.step
                );
                plot.tell_row(y, row, &told);
            }
        }
        plot.end();
        let bad = if boxes[LEVELS].is_empty() { "" } else { "; red: not finite" };
        let about =
            format!("the largest magnitude of each stretch; a row is a layer, the first at the bottom{bad}");
        let mut figure = Figure::new(&format!("Activations: {name}"), about, plot);
        figure.key = key.to_owned();
        Some(figure)
    }

    fn single_losses(&self) -> Option<Figure> {
        let (lo, hi) = self.range(|curves| &curves.guard.z)?;
        let name = "how far single losses stand out over training tokens";
        let mut plot = Plot::new(name, Along::Tokens, self.x, Axis::linear(lo, hi));
        self.each(&mut plot, |plot, _, run| plot.line("raw", pairs(run.curves.guard.z.envelope())));
        let turns = self.turns(&mut plot);
        let what = "each step's loss, in deviations above the smoothed curve of those before it";
        let about = sentences([Some(what.to_owned()), turns]);
        Some(Figure::new("Guard: single losses", about, plot))
    }

    /// How near the guard of each run was to calling it ill: what it read of the loss, of activations and gradients.
    fn guard(&self) -> Vec<Figure> {
        let shares = self.runs.iter().flat_map(readings);
        let shares = shares.filter_map(|(_, threshold, series)| Some(series.range()?.1 / threshold));
        let y = Axis::log(LEAST_SHARE, shares.fold(2.0, f64::max));
        self.runs.iter().enumerate().filter_map(|(number, run)| self.guard_of(number, run, y)).collect()
    }

    fn guard_of(&self, number: usize, run: &Run, y: Axis) -> Option<Figure> {
        let readings = readings(run);
        if readings.iter().all(|(_, _, series)| series.is_empty()) {
            return None;
        }
        let name = &run.about.name;
        let title = format!("readings of the guard of {name} over training tokens");
        let mut plot = Plot::new(&title, Along::Tokens, self.x, y);
        let mut key = Xml::default();
        for (index, (what, threshold, series)) in readings.into_iter().enumerate() {
            plot.begin(number, &format!("{name}, {what}"));
            let shares = pairs(series.envelope()).map(|(at, value)| (at, value / threshold));
            plot.line(&format!("line g{index}"), shares);
            plot.end();
            let style = format!("background:var(--c{index})");
            key.element("i", &[("class", &"swatch"), ("style", &style)], "");
            key.text(format!("{what} / {}", axis::power(threshold)));
        }
        plot.level("threshold", 1.0, "threshold");
        let about = sentences([
            Some(format!(
                "each as a share of its threshold, log scale; ill: rise and lost above 1, or rise above {} and activations above 1, or \
                 activations or gradient above {} once the loss has ceased to fall",
                axis::power(WITNESSED),
                axis::power(STALLED),
            )),
            self.turns_of(&mut plot, number..number + 1),
        ]);
        let mut figure = Figure::new(&format!("Guard: {name}"), about, plot);
        figure.key = key.finish();
        Some(figure)
    }

    fn scale(&self) -> Option<Figure> {
        let (lo, hi) = self.range(|curves| &curves.scale)?;
        let skips = |run: &Run| run.events.moments("skipped");
        if lo == hi && self.runs.iter().all(|run| run.about.skipped_steps == 0) {
            // A line that never moves tells nothing; the page says so in a sentence.
            return None;
        }
        let mut plot =
            Plot::new("loss scale over training tokens", Along::Tokens, self.x, Axis::log2(lo, hi * 2.0));
        self.each(&mut plot, |plot, number, run| {
            let mut corners: Vec<(At, f64)> = Vec::new();
            for point in run.curves.scale.envelope() {
                // It stays as it was until the step that changes it.
                if let Some((_, before)) =
                    corners.last().copied().filter(|(_, before)| *before != point.value)
                {
                    corners.push((point.at, before));
                }
                corners.push((point.at, point.value));
            }
            plot.line("line thin", corners.into_iter());
            let places = skips(run).into_iter().map(|moment| run.places.of(moment));
            plot.strokes("", places, 11.0 * (number % 12) as f64, 9.0);
        });
        let about = "powers of two; strokes at the top: steps whose update was left out";
        Some(Figure::new("Loss scale and skipped steps", about, plot))
    }

    fn throughput(&self) -> Option<Figure> {
        let (_, hi) = self.range(|curves| &curves.tok_s)?;
        let y = Axis::from_zero(hi * 1.05);
        let mut plot = Plot::new("tokens per second over training tokens", Along::Tokens, self.x, y);
        let lost = self.measured(&mut plot, |curves| &curves.tok_s);
        let about = sentences([
            Some(
                "training tokens per second of each step; validation and checkpoints are not in it"
                    .to_owned(),
            ),
            lost,
        ]);
        Some(Figure::new("Throughput", about, plot))
    }

    /// Where the time of a step goes, for each run.
    fn time(&self) -> Vec<Figure> {
        self.runs.iter().enumerate().filter_map(|(number, run)| self.time_of(number, run)).collect()
    }

    fn time_of(&self, number: usize, run: &Run) -> Option<Figure> {
        let time = &run.curves.time;
        let (programs, copies, host) = (time.programs.means(), time.copies.means(), time.host.means());
        let mut bands = [Vec::new(), Vec::new(), Vec::new()];
        let mut totals = Vec::new();
        for ((p, c), h) in programs.iter().zip(&copies).zip(&host) {
            let (first, second, third) = (p.value, p.value + c.value, p.value + c.value + h.value);
            bands[0].push((p.at, 0.0, first));
            bands[1].push((p.at, first, second));
            bands[2].push((p.at, second, third));
            totals.push(third);
        }
        let hi = totals.iter().copied().reduce(f64::max)?;
        let name = &run.about.name;
        let title = format!("time of a step of {name} over training tokens");
        let mut plot = Plot::new(&title, Along::Tokens, self.x, Axis::from_zero(hi * 1.05));
        plot.begin(number, name);
        for (number, band) in bands.iter().enumerate() {
            plot.area(&format!("s{number}"), band);
        }
        plot.end();
        // What the pointer reads belongs to its own name.
        plot.line("total", pairs(time.update.means()));
        plot.line("engine", pairs(time.engine.means()));
        let mean = |points: &[Point]| {
            points.iter().map(|point| point.value).sum::<f64>() / points.len().max(1) as f64
        };
        let all = totals.iter().sum::<f64>() / totals.len() as f64;
        let share = |points: &[Point]| format!("{:.0}%", 100.0 * mean(points) / all);
        let mut key = Xml::default();
        for (class, text) in [
            ("swatch s0", format!("programs {}", share(&programs))),
            ("swatch s1", format!("copies {}", share(&copies))),
            ("swatch s2", format!("host {}", share(&host))),
        ] {
            let style = format!("background:var(--{})", &class[7..]);
            key.element("i", &[("class", &class), ("style", &style)], "");
            key.text(text);
        }
        let update = share(&time.update.means());
        key.text(format!("; dashed: of all, measuring gradients and updating weights {update}"));
        if !time.engine.is_empty() {
            key.text("; dotted: of programs, the engine itself");
        }
        let about = format!("milliseconds, {} on average", axis::power(all));
        let mut figure = Figure::new(&format!("Time of a step: {name}"), about, plot);
        figure.key = key.finish();
        Some(figure)
    }

    /// When what happened, a row for each kind of event.
    fn timeline(&self) -> Option<Figure> {
        let mut kinds: Vec<&str> =
            self.runs.iter().flat_map(|run| run.events.kinds().keys()).map(String::as_str).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.retain(|kind| self.runs.iter().any(|run| !run.events.moments(kind).is_empty()));
        if kinds.is_empty() {
            return None;
        }
        let stroke = if self.runs.len() > 6 { 5.0 } else { 8.0 };
        let row = 25.0 + (stroke + 1.0) * self.runs.len() as f64;
        let title = "events over training tokens";
        let mut plot = Plot::rows(title, Along::Tokens, self.x, row * kinds.len() as f64, false);
        for (line, kind) in kinds.iter().enumerate() {
            let y = row * line as f64;
            let count: usize = self.runs.iter().map(|run| run.events.moments(kind).len()).sum();
            plot.inner_label(y + 18.0, &format!("{} {count}", kind.replace('_', " ")));
            self.each(&mut plot, |plot, number, run| {
                let y = y + 22.0 + (stroke + 1.0) * number as f64;
                let places = run.events.moments(kind).into_iter().map(|moment| run.places.of(moment));
                plot.strokes("", places, y, stroke);
            });
        }
        let about = "each kind with its number; what a resume undid is left out";
        Some(Figure::new("Events", about, plot))
    }
}

/// What the guard of a run read, by its name in a few words, and the threshold that it is held against: by the run's
/// configuration, or the usual one.
fn readings(run: &Run) -> [(&'static str, f64, &Series); 4] {
    let (read, usual) = (&run.curves.guard, GuardConfig::default());
    let of = |key: &str, usual: f64| run.number(key).filter(|value| *value > 0.0).unwrap_or(usual);
    let growth = of("guard.growth", usual.growth);
    [
        ("rise of the loss, standard errors", of("guard.rise", usual.rise), &read.rise),
        ("lost of what was learned", of("guard.lost", usual.lost), &read.lost),
        ("growth of activations", growth, &read.act_growth),
        ("growth of the gradient", growth, &read.grad_growth),
    ]
}

/// `a; b`, without what is not there.
fn sentences<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The colour of a level.
fn colour(level: usize) -> String {
    let at = level as f64 / (LEVELS - 1) as f64 * (RAMP.len() - 1) as f64;
    let (low, share) = ((at as usize).min(RAMP.len() - 2), at - at.floor().min((RAMP.len() - 2) as f64));
    let (a, b) = (RAMP[low], RAMP[low + 1]);
    let mix = |a: u8, b: u8| (f64::from(a) + share * (f64::from(b) - f64::from(a))).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// The style of heat maps.
pub(crate) fn heat_style() -> String {
    let levels = (0..LEVELS).map(|level| format!(".h{level}{{fill:{}}}", colour(level)));
    ".cell{shape-rendering:crispEdges}".to_owned() + &levels.collect::<String>()
}

fn ramp_key(lo: f64, hi: f64, several: bool) -> String {
    let colours: Vec<String> = (0..LEVELS).map(colour).collect();
    let mut key = Xml::default();
    key.text(axis::power(lo));
    let style = format!("background:linear-gradient(90deg,{})", colours.join(","));
    key.element("i", &[("class", &"ramp"), ("style", &style)], "");
    let same = if several { ", the same for all runs" } else { "" };
    key.text(format!("{} (log scale{same})", axis::power(hi)));
    key.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_goes_from_dark_to_light() {
        assert_eq!((colour(0), colour(LEVELS - 1)), ("#440154".to_owned(), "#fde725".to_owned()));
        let light = |colour: &str| -> u32 {
            [1, 3, 5].map(|at| u32::from_str_radix(&colour[at..at + 2], 16).unwrap()).iter().sum()
        };
        // The sum of its parts need not rise everywhere; lightness does, of which green is most.
        assert!(light(&colour(LEVELS - 1)) > 2 * light(&colour(0)));
        let green = |level| u32::from_str_radix(&colour(level)[3..5], 16).unwrap();
        assert!((0..LEVELS).map(green).is_sorted());
    }
}

//! One plot as SVG: its frame, its axes, and what is drawn between them. Colours and dashes are classes,
//! which the page's style gives meaning to.

use super::axis::Axis;
use super::series::At;
use super::xml::Xml;

/// Width of every plot in its own units; the page scales it.
pub(crate) const WIDTH: f64 = 640.0;
/// Height of most plots between their axes.
pub(crate) const HEIGHT: f64 = 226.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Ticks at most, so that their labels do not touch on a narrow screen.
const X_TICKS: usize = 7;
const Y_TICKS: usize = 7;

/// What runs from left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    Tokens,
    Seconds,
}

impl Along {
    /// The number of a place in a run.
    pub(crate) fn of(self, at: At) -> f64 {
        match self {
            Along::Tokens => at.tokens as f64,
            Along::Seconds => at.seconds,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Along::Tokens => "training tokens",
            Along::Seconds => "time in training steps",
        }
    }
}

/// A plot in the making.
pub(crate) struct Plot {
    along: Along,
    x: Axis,
    y: Axis,
    height: f64,
    left: f64,
    xml: Xml,
}

impl Plot {
    /// An empty one with its axes. `name` is read aloud by those who cannot see it.
    pub(crate) fn new(name: &str, along: Along, x: Axis, y: Axis) -> Plot {
        let mut plot = Plot::frame(name, along, x, y, HEIGHT, LEFT);
        for tick in y.ticks(Y_TICKS) {
            let at = plot.y(tick.value);
            plot.grid(plot.left, at, WIDTH - RIGHT, at);
            plot.label(plot.left - 7.0, at + 4.0, "end", &tick.label);
        }
        plot
    }

    /// A plot of rows instead of numbers, each `row` high; the caller labels them.
    pub(crate) fn rows(name: &str, along: Along, x: Axis, height: f64, labels_beside: bool) -> Plot {
        let left = if labels_beside { LEFT } else { RIGHT };
        Plot::frame(name, along, x, Axis::from_zero(1.0), height, left)
    }

    fn frame(name: &str, along: Along, x: Axis, y: Axis, height: f64, left: f64) -> Plot {
        let mut xml = Xml::default();
        let ((x0, x1), (y0, y1)) = (x.ends(), y.ends());
        let whole = height + TOP + BOTTOM;
        let view_box = format!("0 0 {WIDTH} {whole}");
        // What a pointer needs to read a value off the curves.
        let scales =
            format!("{left} {} {TOP} {height} {x0} {x1} {y0} {y1} {}", WIDTH - RIGHT, u8::from(y.is_log()));
        let along_name = if along == Along::Seconds { "s" } else { "tokens" };
        xml.open(
            "svg",
            &[
                ("xmlns", &"http://www.w3.org/2000/svg"),
                ("viewBox", &view_box),
                ("role", &"img"),
                ("aria-label", &name),
                ("data-scales", &scales),
                ("data-x", &along_name),
            ],
        );
        let mut plot = Plot { along, x, y, height, left, xml };
        for tick in x.ticks(X_TICKS) {
            let at = plot.x(tick.value);
            plot.grid(at, TOP, at, TOP + height);
            // A label at the very end stays inside.
            let anchor = if at > WIDTH - RIGHT - 12.0 { "end" } else { "middle" };
            let at = if anchor == "end" { WIDTH - 2.0 } else { at };
            plot.label(at, TOP + height + 18.0, anchor, &tick.label);
        }
        plot.label(WIDTH - 2.0, TOP + height + 40.0, "end", along.title());
        plot
    }

    fn grid(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        let d = format!("M{} {}L{} {}", tenths(x1), tenths(y1), tenths(x2), tenths(y2));
        self.xml.empty("path", &[("class", &"grid"), ("d", &d)]);
    }

    /// A word anywhere: `anchor` is `start`, `middle` or `end`.
    pub(crate) fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.xml.element("text", &[("x", &tenths(x)), ("y", &tenths(y)), ("text-anchor", &anchor)], text);
    }

    /// A word at the left end of a row whose middle is at `y` below the upper end.
    pub(crate) fn row_label(&mut self, y: f64, text: &str) {
        self.label(self.left - 7.0, TOP + y + 4.0, "end", text);
    }

    /// A word inside, at the left.
    pub(crate) fn inner_label(&mut self, y: f64, text: &str) {
        self.label(self.left, TOP + y, "start", text);
    }

    fn x(&self, value: f64) -> f64 {
        self.left + self.x.position(value) * (WIDTH - RIGHT - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (1.0 - self.y.position(value)) * self.height
    }

    fn place(&self, (at, value): (At, f64)) -> (f64, f64) {
        (self.x(self.along.of(at)), self.y(value))
    }

    /// What follows, up to [`Plot::end`], belongs to the run of this number and name.
    pub(crate) fn begin(&mut self, run: usize, name: &str) {
        let class = format!("r{run}");
        self.xml.open("g", &[("class", &class), ("data-run", &name)]);
    }

    /// See [`Plot::begin`].
    pub(crate) fn end(&mut self) {
        self.xml.close();
    }

    /// A curve.
    pub(crate) fn line(&mut self, class: &str, points: impl Iterator<Item = (At, f64)>) {
        let points: Vec<(f64, f64)> = points.map(|point| self.place(point)).collect();
        match points[..] {
            [] => {}
            [(x, y)] => {
                let class = format!("{class} dot");
                self.xml.empty(
                    "circle",
                    &[("class", &class), ("cx", &tenths(x)), ("cy", &tenths(y)), ("r", &2.5)],
                );
            }
            _ => {
                let d = path(&points);
                self.xml.empty("path", &[("class", &class), ("d", &d)]);
            }
        }
    }

    /// What lies between two curves over the same places.
    pub(crate) fn area(&mut self, class: &str, points: &[(At, f64, f64)]) {
        let low = points.iter().map(|(at, low, _)| self.place((*at, *low)));
        let high = points.iter().rev().map(|(at, _, high)| self.place((*at, *high)));
        let outline: Vec<(f64, f64)> = low.chain(high).collect();
        if !outline.is_empty() {
            let d = closed(&outline);
            self.xml.empty("path", &[("class", &class), ("d", &d)]);
        }
    }

    /// A value with its standard error, and what is told when it is pointed at.
    pub(crate) fn figure(&mut self, class: &str, at: At, value: f64, error: Option<f64>, told: &str) {
        let (x, y) = self.place((at, value));
        self.xml.open("g", &[("class", &class)]);
        self.xml.element("title", &[], told);
        if let Some(error) = error {
            let (high, low) = (self.y(value + error), self.y(value - error));
            let (left, right) = (x - 3.0, x + 3.0);
            let d = format!(
                "M{} {}H{}M{} {}H{}M{} {}V{}",
                tenths(left),
                tenths(high),
                tenths(right),
                tenths(left),
                tenths(low),
                tenths(right),
                tenths(x),
                tenths(high),
                tenths(low)
            );
            self.xml.empty("path", &[("class", &"bar"), ("d", &d)]);
        }
        let d = format!("M{} {}l3.5 3.5-3.5 3.5-3.5-3.5z", tenths(x), tenths(y - 3.5));
        self.xml.empty("path", &[("class", &"mark"), ("d", &d)]);
        self.xml.close();
    }

    /// A line over the whole width at `value`, with a word on it.
    pub(crate) fn level(&mut self, class: &str, value: f64, text: &str) {
        let y = self.y(value);
        let d = format!("M{} {}H{}", tenths(self.left), tenths(y), tenths(WIDTH - RIGHT));
        let all = format!("level {class}");
        self.xml.empty("path", &[("class", &all), ("d", &d)]);
        // Above the line, or below where there is no room.
        let y = if y < TOP + 16.0 { y + 15.0 } else { y - 4.0 };
        self.label(WIDTH - RIGHT - 3.0, y, "end", text);
    }

    /// Upright lines over the whole height, from left to right, with letters at the upper end, `row` rows down.
    pub(crate) fn upright(&mut self, class: &str, marks: &[(At, String)], row: usize, told: &str) {
        let mut d = String::new();
        let mut letters: Vec<(f64, String)> = Vec::new();
        let mut last_line = f64::MIN;
        for (at, letter) in marks {
            let x = self.x(self.along.of(*at));
            match letters.last_mut() {
                // Letters that would touch stand together.
                Some((first, text)) if x - *first < 3.0 + 10.0 * text.len() as f64 => {
                    if !text.contains(letter.as_str()) {
                        *text += letter;
                    }
                }
                _ => letters.push((x, letter.clone())),
            }
            if x - last_line >= 0.5 {
                d += &format!("M{} {}v{}", tenths(x), tenths(TOP), tenths(self.height));
                last_line = x;
            }
        }
        let all = format!("upright {class}");
        self.xml.open("g", &[("class", &all)]);
        self.xml.element("title", &[], told);
        self.xml.empty("path", &[("d", &d)]);
        for (x, text) in letters {
            let y = TOP + 11.0 + 13.0 * row as f64;
            let (x, y) = (tenths((x + 3.0).min(WIDTH - 9.0 * text.len() as f64)), tenths(y));
            self.xml.element("text", &[("x", &x), ("y", &y)], text);
        }
        self.xml.close();
    }

    /// Short upright strokes from `y` to `y + height` below the upper end.
    pub(crate) fn strokes(&mut self, class: &str, places: impl Iterator<Item = At>, y: f64, height: f64) {
        let mut d = String::new();
        let mut last = f64::MIN;
        for at in places {
            let x = self.x(self.along.of(at));
            // Strokes closer than half a unit are one to the eye.
            if (x - last).abs() >= 0.5 {
                d += &format!("M{} {}v{}", tenths(x), tenths(TOP + y), tenths(height));
                last = x;
            }
        }
        if !d.is_empty() {
            let class = format!("stroke {class}");
            self.xml.empty("path", &[("class", &class), ("d", &d)]);
        }
    }

    /// Crosses at the lower end.
    pub(crate) fn crosses(&mut self, class: &str, places: impl Iterator<Item = At>) {
        let mut d = String::new();
        for at in places {
            let (x, y) = (self.x(self.along.of(at)), TOP + self.height - 9.0);
            d += &format!("M{} {}l7 7m0-7l-7 7", tenths(x - 3.5), tenths(y));
        }
        self.xml.empty("path", &[("class", &class), ("d", &d)]);
    }

    /// A ring around a value, and what is told when it is pointed at.
    pub(crate) fn ring(&mut self, at: At, value: f64, told: &str) {
        let (x, y) = self.place((at, value));
        self.xml.open("circle", &[("class", &"ring"), ("cx", &tenths(x)), ("cy", &tenths(y)), ("r", &"3.5")]);
        self.xml.element("title", &[], told);
        self.xml.close();
    }

    /// Filled boxes of one class, each from one place to another, `y` and `height` below the upper end.
    pub(crate) fn boxes(&mut self, class: &str, boxes: &[(f64, f64, f64, f64)]) {
        let mut d = String::new();
        for (from, to, y, height) in boxes {
            let (left, right) = (self.x(*from), self.x(*to));
            if right > left {
                let (top, bottom) = (tenths(TOP + y), tenths(TOP + y + height));
                d += &format!("M{} {top}H{}V{bottom}H{}z", tenths(left), tenths(right), tenths(left));
            }
        }
        if !d.is_empty() {
            self.xml.empty("path", &[("class", &class), ("d", &d)]);
        }
    }

    /// Something invisible over a row that tells `text` when it is pointed at.
    pub(crate) fn tell_row(&mut self, y: f64, height: f64, text: &str) {
        let (width, top) = (tenths(WIDTH - RIGHT - self.left), tenths(TOP + y));
        self.xml.open(
            "rect",
            &[
                ("class", &"tell"),
                ("x", &tenths(self.left)),
                ("y", &top),
                ("width", &width),
                ("height", &tenths(height)),
            ],
        );
        self.xml.element("title", &[], text);
        self.xml.close();
    }

    /// The whole of it.
    pub(crate) fn finish(mut self) -> String {
        self.xml.close();
        self.xml.finish()
    }
}

/// A number to one digit behind the point, as short as SVG allows.
fn tenths(value: f64) -> String {
    short((value * 10.0).round() as i64)
}

fn short(tenths: i64) -> String {
    let (sign, n) = (if tenths < 0 { "-" } else { "" }, tenths.unsigned_abs());
    match (n / 10, n % 10) {
        (whole, 0) => format!("{}{whole}", if whole == 0 { "" } else { sign }),
        (0, tenth) => format!("{sign}.{tenth}"),
        (whole, tenth) => format!("{sign}{whole}.{tenth}"),
    }
}

/// A curve through `points`; where it would go back (a run that was set back) it begins anew.
fn path(points: &[(f64, f64)]) -> String {
    draw(points, true)
}

fn closed(points: &[(f64, f64)]) -> String {
    draw(points, false) + "z"
}

/// Moves of tenths, each from the rounded place of the one before, so that nothing adds up.
fn draw(points: &[(f64, f64)], breaks: bool) -> String {
    let mut d = String::new();
    let mut before: Option<(i64, i64)> = None;
    for (x, y) in points {
        let (x, y) = ((x * 10.0).round() as i64, (y * 10.0).round() as i64);
        match before {
            Some((bx, by)) if !breaks || x >= bx - 5 => {
                if (x, y) == (bx, by) {
                    continue;
                }
                let dy = short(y - by);
                let between = if dy.starts_with('-') { "" } else { " " };
                d += &format!("l{}{between}{dy}", short(x - bx));
            }
            _ => d += &format!("M{} {}", short(x), short(y)),
        }
        before = Some((x, y));
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.04, -0.04, 0.5, -0.5, 12.0, -12.34, 99.96].map(tenths);
        assert_eq!(all, ["0", "0", "0", ".5", "-.5", "12", "-12.3", "100"]);
    }

    #[test]
    fn a_curve_goes_by_small_moves_and_begins_anew_where_it_goes_back() {
        let points = [(1.0, 2.0), (1.5, 1.0), (1.5, 1.0), (3.0, 4.0), (2.0, 5.0)];
        assert_eq!(path(&points), "M1 2l.5-1l1.5 3M2 5");
        assert_eq!(closed(&points[..2]), "M1 2l.5-1z");
        // Ten moves of 0.04 end where they should.
        let many: Vec<(f64, f64)> = (0..=10).map(|i| (f64::from(i) * 0.04, 0.0)).collect();
        assert_eq!(path(&many), "M0 0l.1 0l.1 0l.1 0l.1 0");
    }
}

//! The events of a run: each kind is counted, the first and the last of each are told, and what this room
//! has never heard of is told as it stands.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use super::axis;
use super::series::{At, Moment};

/// Of each kind, so many of the first and as many of the last are told in full.
const TOLD: usize = 40;
/// The longest text of an event that is told.
const LONGEST_TEXT: usize = 400;

/// An object of `events.jsonl`.
pub(crate) type Object = Map<String, Value>;

/// An event that is told in full.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// Its place among all events.
    number: u64,
    pub(crate) time: String,
    pub(crate) kind: String,
    pub(crate) step: Option<u64>,
    moment: Option<Moment>,
    pub(crate) what: String,
    /// Whether the run was later resumed from before it.
    pub(crate) undone: bool,
}

/// A validation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Validation {
    pub(crate) at: At,
    moment: Moment,
    pub(crate) val_bpb: f64,
    pub(crate) se: Option<f64>,
    /// How it was counted, and over how much: figures of different ones are of different things.
    pub(crate) protocol: String,
}

/// All events of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kind {
    pub(crate) count: u64,
    first: Vec<Told>,
    last: VecDeque<Told>,
    /// When they were, and whether the run was resumed from before.
    moments: Vec<(Moment, bool)>,
}

/// The events of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    kinds: BTreeMap<String, Kind>,
    /// In their order; those that a resume undid are left out.
    pub(crate) validations: Vec<Validation>,
    count: u64,
    /// How often the run has gone back.
    recoveries: u64,
}

impl Events {
    /// Takes in the next one. `place` knows the tokens and seconds of a moment.
    pub(crate) fn push(&mut self, object: &Object, place: impl Fn(Moment) -> At) {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let kind = text("event").unwrap_or("(no kind)").to_owned();
        let step = object.get("step").and_then(Value::as_u64);
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        if kind == "resumed" {
            self.recoveries = number("recoveries").unwrap_or(0);
            self.undo(Moment { recoveries: self.recoveries, step: step.unwrap_or(0) });
        }
        let moment = step.map(|step| Moment { recoveries: self.recoveries, step });
        if kind == "recovered" {
            self.recoveries = number("recoveries").unwrap_or(self.recoveries + 1);
        }
        if kind == "validation"
            && let Some(moment) = moment
            && let Some(val_bpb) = object.get("val_bpb").and_then(Value::as_f64)
        {
            let se = object.get("val_bpb_se").and_then(Value::as_f64);
            self.validations.push(Validation {
                at: place(moment),
                moment,
                val_bpb,
                se,
                protocol: protocol(object),
            });
        }
        self.count += 1;
        let told = Told {
            number: self.count,
            time: text("time").unwrap_or_default().to_owned(),
            step,
            moment,
            what: shortened(tell(&kind, object)),
            kind: kind.clone(),
            undone: false,
        };
        let kept = self.kinds.entry(kind).or_default();
        kept.count += 1;
        kept.moments.extend(moment.map(|moment| (moment, false)));
        if kept.first.len() < TOLD {
            kept.first.push(told);
        } else {
            if kept.last.len() == TOLD {
                kept.last.pop_front();
            }
            kept.last.push_back(told);
        }
    }

    /// The run goes on from there: what came later did not happen to the run as it is now.
    fn undo(&mut self, from: Moment) {
        self.validations.retain(|validation| validation.moment <= from);
        for kind in self.kinds.values_mut() {
            for told in kind.first.iter_mut().chain(&mut kind.last) {
                told.undone |= told.moment.is_some_and(|at| at > from);
            }
            kind.moments.iter_mut().for_each(|(at, undone)| *undone |= *at > from);
        }
    }

    /// Each kind by its name.
    pub(crate) fn kinds(&self) -> &BTreeMap<String, Kind> {
        &self.kinds
    }

    /// When those of one kind were that were not undone.
    pub(crate) fn moments(&self, kind: &str) -> Vec<Moment> {
        let moments = self.kinds.get(kind).map_or(&[][..], |kind| &kind.moments);
        moments.iter().filter(|(_, undone)| !undone).map(|(moment, _)| *moment).collect()
    }

    /// Those that are told in full, in their order.
    pub(crate) fn told(&self) -> Vec<&Told> {
        let mut all: Vec<&Told> =
            self.kinds.values().flat_map(|kind| kind.first.iter().chain(&kind.last)).collect();
        all.sort_by_key(|told| told.number);
        all
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The event of `kind` that was told last.
    pub(crate) fn last_of(&self, kind: &str) -> Option<&Told> {
        let kind = self.kinds.get(kind)?;
        kind.last.back().or(kind.first.last())
    }

    /// Which of `kinds` happened last.
    pub(crate) fn latest<'a>(&self, kinds: &[&'a str]) -> Option<&'a str> {
        let number = |kind: &&str| self.last_of(kind).map(|told| told.number);
        kinds.iter().copied().filter(|kind| number(kind).is_some()).max_by_key(|kind| number(kind))
    }
}

/// How a validation was counted, in a few words.
pub(crate) fn protocol(object: &Object) -> String {
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let name = object.get("protocol").and_then(Value::as_str).unwrap_or("validation");
    let mut text = name.to_owned();
    if let (Some(windows), Some(window)) = (number("windows"), number("window")) {
        text += &format!(", {windows} x {window} tokens");
    }
    if let Some(stride) = number("stride") {
        text += &format!(", stride {stride}");
    }
    if let Some(bytes) = number("bytes") {
        text += &format!(", {bytes} bytes");
    }
    text
}

/// What happened, in a sentence where this room knows the kind, and as it stands where not.
fn tell(kind: &str, object: &Object) -> String {
    let text = |key: &str| object.get(key).map(plain).unwrap_or_default();
    let number = |key: &str| object.get(key).and_then(Value::as_f64).map(axis::power).unwrap_or_default();
    let folder = |key: &str| text(key).rsplit('/').next().unwrap_or_default().to_owned();
    match kind {
        "validation" => {
            let figure = |key: &str| object.get(key).and_then(Value::as_f64);
            let bpb = figure("val_bpb").map_or("not a number".into(), |bpb| format!("{bpb:.4}"));
            let se = figure("val_bpb_se").map(|se| format!(" ± {se:.4}")).unwrap_or_default();
            format!("val_bpb {bpb}{se} ({})", protocol(object))
        }
        "checkpoint" => {
            let mb = object.get("bytes").and_then(Value::as_f64).unwrap_or(0.0) / 1e6;
            format!("{}: {} MB in {} s", folder("path"), axis::power(mb), number("seconds"))
        }
        "checkpoint_skipped" => format!("{}: {}", folder("path"), text("why")),
        "skipped" => format!("{}; loss scale {} from now on", text("why"), number("scale")),
        "scale_grew" => format!("loss scale {} from now on", number("scale")),
        "device_failed" => format!("{}; {}", text("why"), text("then")),
        "resumed" => {
            let from = match object.get("checkpoint") {
                Some(Value::String(_)) => folder("checkpoint"),
                _ => "the beginning".to_owned(),
            };
            format!("from {from}; {} logged steps dropped; {}", text("dropped_metrics"), text("device"))
        }
        "choice" => text("what"),
        "failed" | "warned" => text("why"),
        "recovered" => {
            let back_to = match object.get("checkpoint") {
                Some(Value::String(_)) => folder("checkpoint"),
                _ => "the beginning".to_owned(),
            };
            format!("{}; back to {back_to}, and on at {} of the rate", text("why"), number("lr_factor"))
        }
        _ => {
            let rest = object.iter().filter(|(key, _)| !["time", "event", "step"].contains(&key.as_str()));
            rest.map(|(key, value)| format!("{key}: {}", plain(value))).collect::<Vec<_>>().join("; ")
        }
    }
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => axis::power(number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events(all: &[Value]) -> Events {
        let mut events = Events::default();
        for event in all {
            let object = event.as_object().expect("an object");
            events.push(object, |moment| At { step: moment.step, tokens: 10 * moment.step, seconds: 0.0 });
        }
        events
    }

    fn what(event: Value) -> String {
        events(&[event]).told()[0].what.clone()
    }

    #[test]
    fn kinds_are_told_in_words_and_unknown_ones_as_they_stand() {
        let event =
            json!({ "event": "skipped", "step": 3, "why": "the gradients are not finite", "scale": 8192.0 });
        assert_eq!(what(event), "the gradients are not finite; loss scale 8192 from now on");
        let event = json!({ "event": "checkpoint", "step": 3, "path": "runs/a/checkpoints/step_000003", "bytes": 2_238_303, "seconds": 0.038_466 });
        assert_eq!(what(event), "step_000003: 2.24 MB in 0.0385 s");
        let event = json!({ "event": "warned", "step": 3, "why": "activations grow" });
        assert_eq!(what(event), "activations grow");
        let event = json!({ "time": "now", "event": "recovered", "step": 9, "why": "loss", "since": 4, "checkpoint": "c", "lr_factor": 0.5 });
        assert_eq!(what(event), "loss; back to c, and on at 0.5 of the rate");
        let event = json!({ "event": "moon_rose", "phase": { "full": true } });
        assert_eq!(what(event), "phase: {\"full\":true}");
        let event = json!({ "event": "choice", "what": "ä".repeat(999) });
        assert_eq!(what(event).chars().count(), LONGEST_TEXT + 1);
        assert_eq!(events(&[json!({})]).told()[0].kind, "(no kind)");
    }

    #[test]
    fn a_resume_undoes_what_came_after_its_checkpoint() {
        let validation = |step: u64, bpb: f64| json!({ "event": "validation", "step": step, "val_bpb": bpb });
        let found = events(&[
            validation(5, 2.0),
            validation(9, 1.0),
            json!({ "event": "skipped", "step": 8 }),
            json!({ "event": "resumed", "step": 6 }),
            validation(9, 1.5),
        ]);
        let bpb: Vec<f64> = found.validations.iter().map(|validation| validation.val_bpb).collect();
        assert_eq!(bpb, [2.0, 1.5]);
        let undone: Vec<bool> = found.told().iter().map(|told| told.undone).collect();
        assert_eq!(undone, [false, true, true, false, false]);
        let steps = |kind| found.moments(kind).iter().map(|moment| moment.step).collect::<Vec<_>>();
        assert_eq!((steps("skipped"), steps("validation")), (vec![], vec![5, 9]));
        assert_eq!(found.latest(&["started", "resumed", "validation"]), Some("validation"));
    }

    #[test]
    fn a_resume_undoes_nothing_from_before_the_run_went_back() {
        let validation = |step: u64, bpb: f64| json!({ "event": "validation", "step": step, "val_bpb": bpb });
        let found = events(&[
            validation(9, 1.0),
            json!({ "event": "recovered", "step": 12, "back_to": 4, "recoveries": 1 }),
            validation(9, 0.9),
            json!({ "event": "resumed", "step": 6, "recoveries": 1 }),
            validation(9, 0.8),
        ]);
        let bpb: Vec<f64> = found.validations.iter().map(|validation| validation.val_bpb).collect();
        assert_eq!(bpb, [1.0, 0.8]);
        assert_eq!(found.moments("recovered"), [Moment { recoveries: 0, step: 12 }]);
        // Killed before it was true.
        let found = events(&[
            json!({ "event": "recovered", "step": 12, "back_to": 4, "recoveries": 1 }),
            json!({ "event": "resumed", "step": 10, "recoveries": 0 }),
        ]);
        assert!(found.moments("recovered").is_empty());
    }

    #[test]
    fn many_of_a_kind_are_counted_and_some_are_told() {
        let all: Vec<Value> = (1..=1000).map(|step| json!({ "event": "skipped", "step": step })).collect();
        let found = events(&all);
        let told: Vec<u64> = found.told().iter().filter_map(|told| told.step).collect();
        assert_eq!((told.len(), told[0], told[2 * TOLD - 1]), (2 * TOLD, 1, 1000));
        assert_eq!(
            (found.count(), found.kinds()["skipped"].count, found.moments("skipped").len()),
            (1000, 1000, 1000)
        );
    }
}

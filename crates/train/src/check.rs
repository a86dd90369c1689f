//! What the values of a run's settings may be: every range and every contradiction in one place, each named by its key.
//!
//! A value that a type excludes never gets here, and one that only the data or the machine can tell is checked where
//! these are met. The model's own settings are checked by [`model::ModelConfig::validate`], the guard's by the guard.

use data::Packing;

use crate::config::{Auto, OptimizerKind};
use crate::{RunConfig, ScheduleKind, Stretch};

/// A value that cannot be, by its key.
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) problem: String,
}

impl RunConfig {
    /// Checks every value's range; the model's own are checked by [`ModelConfig::validate`].
    pub(crate) fn check(&self) -> std::result::Result<(), Problem> {
        let fail = |key: &str, value: &dyn std::fmt::Display, problem: &str| {
            Err(Problem { key: key.into(), value: value.to_string(), problem: problem.into() })
        };
        if let Err(error) = self.model.validate() {
            return match error {
                model::Error::Config { key, value, problem } => {
                    fail(&format!("model.{key}"), &value, &problem)
                }
                other => fail("model", &"…", &other.to_string()),
            };
        }
        if !self.data.shuffle && self.data.packing == Packing::Windows {
            let problem = "windows always come in a random order; data.packing = \"best_fit\" can keep that of the text";
            return fail("data.shuffle", &false, problem);
        }
        for (key, value, most) in [("batch", self.batch, 1 << 16), ("accum", self.accum, 1 << 20)] {
            if value == 0 || value > most {
                return fail(key, &value, &format!("expected 1 to {most}"));
            }
        }
        for (key, value) in [
            ("log_every", self.log_every),
            ("loss_scale.growth_interval", self.loss_scale.growth_interval),
            ("eval.windows", self.eval.windows as u64),
            ("checkpoint.keep", self.checkpoint.keep as u64),
        ] {
            if value == 0 {
                return fail(key, &value, "expected at least 1");
            }
        }
        let (o, s, l) = (&self.optimizer, &self.schedule, &self.loss_scale);
        let m = &o.multipliers;
        for (key, value, least, most) in [
            ("optimizer.lr", o.lr, 0.0, 10.0),
            ("optimizer.multipliers.matrix", m.matrix, 0.0, 1e3),
            ("optimizer.multipliers.embedding", m.embedding, 0.0, 1e3),
            ("optimizer.multipliers.classifier", m.classifier, 0.0, 1e3),
            ("optimizer.multipliers.norm", m.norm, 0.0, 1e3),
            ("optimizer.multipliers.value_embedding", m.value_embedding, 0.0, 1e3),
            ("optimizer.multipliers.resid_lambda", m.resid_lambda, 0.0, 1e3),
            ("optimizer.multipliers.x0_lambda", m.x0_lambda, 0.0, 1e3),
            ("optimizer.weight_decay", o.weight_decay, 0.0, 10.0),
            ("optimizer.grad_clip", o.grad_clip, 0.0, 1e6),
            ("optimizer.muon.lr", o.muon.lr, 0.0, 10.0),
            ("optimizer.muon.margin", o.muon.margin, 1.0, 2.0),
            ("schedule.decay", s.decay, 0.0, 1.0),
            ("schedule.final_fraction", s.final_fraction, 0.0, 1.0),
            ("schedule.origin", s.origin, 0.0, 0.999_999),
            ("schedule.start_fraction", s.start_fraction, 0.0, 1.0),
            ("loss_scale.min", l.min, 1e-6, 1e12),
            ("loss_scale.max", l.max, 1e-6, 1e12),
        ] {
            if !(least..=most).contains(&value) {
                return fail(key, &value, &format!("expected {least} to {most}"));
            }
        }
        for (key, value) in [
            ("optimizer.beta1", o.beta1),
            ("optimizer.beta2", o.beta2),
            ("optimizer.muon.momentum", o.muon.momentum),
            ("optimizer.muon.momentum_start", o.muon.momentum_start),
            ("optimizer.muon.beta2", o.muon.beta2),
        ] {
            if !(0.0..1.0).contains(&value) {
                return fail(key, &value, "expected 0 or more, and less than 1");
            }
        }
        self.guard.check()?;
        if !(o.eps > 0.0 && o.eps <= 1.0) {
            return fail("optimizer.eps", &o.eps, "expected more than 0, at most 1");
        }
        for (at, group) in o.groups.iter().enumerate() {
            let key = |name: &str| format!("optimizer.groups[{at}].{name}");
            if o.groups[..at].iter().any(|other| other.kind == group.kind) {
                let name = serde_json::to_string(&group.kind).unwrap_or_default();
                return fail(
                    &key("kind"),
                    &name,
                    "this kind stands there twice; put all of it into one group",
                );
            }
            for (name, value) in [("beta1", group.beta1), ("beta2", group.beta2)] {
                if let Some(value) = value.filter(|value| !(0.0..1.0).contains(value)) {
                    return fail(&key(name), &value, "expected 0 or more, and less than 1");
                }
            }
            if let Some(eps) = group.eps.filter(|eps| !(*eps > 0.0 && *eps <= 1.0)) {
                return fail(&key("eps"), &eps, "expected more than 0, at most 1");
            }
            if let Some(decay) = group.weight_decay.filter(|decay| !(0.0..=10.0).contains(decay)) {
                return fail(&key("weight_decay"), &decay, "expected 0 to 10");
            }
        }
        if l.min > l.max {
            return fail("loss_scale.min", &l.min, &format!("it must not exceed loss_scale.max = {}", l.max));
        }
        if let Auto::Value(initial) = l.initial
            && !(l.min..=l.max).contains(&initial)
        {
            return fail(
                "loss_scale.initial",
                &initial,
                &format!("expected {} to {}, or \"auto\"", l.min, l.max),
            );
        }
        let ramp = &self.batch_ramp;
        if ramp.start == 0 || ramp.start > self.accum && !ramp.over.is_zero() {
            let problem = format!("expected 1 to accum = {}", self.accum);
            return fail("batch_ramp.start", &ramp.start, &problem);
        }
        // What was right for the length that a run began with may be longer than what it has now.
        let whole = if s.changed_after > 0 { f64::INFINITY } else { 1.0 };
        // A schedule that ends the run has no warm-up.
        let warmup = if s.ending { Stretch::Share(0.0) } else { s.warmup };
        for (key, stretch, step_tokens, most) in [
            // A run that is all warm-up has no rate to warm up to.
            ("schedule.warmup", warmup, self.fixed_step_tokens(), 1.0 - f64::EPSILON),
            ("ema.half_life", self.ema.half_life, self.fixed_step_tokens(), whole),
            ("batch_ramp.over", ramp.over, None, whole),
        ] {
            if matches!(stretch.share_of(&self.budget, step_tokens), Some(share) if share <= most) {
                continue;
            }
            let value = match stretch {
                Stretch::Share(share) => share.to_string(),
                Stretch::Amount(amount) => amount.to_string(),
            };
            let differ =
                if step_tokens.is_none() { " and steps that a batch_ramp makes unequal" } else { "" };
            let problem = format!(
                "with budget = {}{differ} it must be a shorter part of the run in the same unit, or a share of it such as 0.02",
                self.budget
            );
            return fail(key, &value, &problem);
        }
        Ok(())
    }

    /// Keys that have no effect beside the other values, or cannot be beside them, each with the reason and what to do.
    ///
    /// They are mistakes of who wrote them. In a recipe, a preset or what a run keeps they may stand: the settings of Muon do,
    /// whatever the optimiser is.
    pub(crate) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let (m, o, s, l) = (&self.model, &self.optimizer, &self.schedule, &self.loss_scale);
        let idle =
            |with: &str, repair: &str| format!("it has no effect with {with}; leave it out, or set {repair}");
        let kind = serde_json::to_string(&s.kind).unwrap_or_default();
        let beyond = m.window > m.seq_len;
        let all = [
            (
                "schedule.decay",
                // None at all is what there is.
                s.kind != ScheduleKind::Wsd && s.decay > 0.0,
                idle(&format!("schedule.kind = {kind}"), "schedule.kind = \"wsd\""),
            ),
            (
                "optimizer.muon",
                o.kind != OptimizerKind::Muon,
                idle(&format!("optimizer.kind = \"{}\"", o.kind), "optimizer.kind = \"muon\""),
            ),
            (
                "optimizer.muon.momentum_start",
                o.muon.momentum_start > o.muon.momentum,
                format!(
                    "it must not exceed optimizer.muon.momentum = {}, to which it rises",
                    o.muon.momentum
                ),
            ),
            ("model.init.classifier_gain", m.tied, idle("model.tied = true", "model.tied = false")),
            (
                "model.init.output_gain",
                m.init.zero_output_projections,
                idle(
                    "model.init.zero_output_projections = true",
                    "model.init.zero_output_projections = false",
                ),
            ),
            (
                "model.window",
                beyond,
                format!(
                    "no query sees more than its sequence; expected 0 (all of it) to model.seq_len = {}",
                    m.seq_len
                ),
            ),
            (
                "model.window_pattern",
                beyond && m.window_pattern.contains('S'),
                format!(
                    "its S has no effect with model.window = {}; set that to less than model.seq_len = {}",
                    m.window, m.seq_len
                ),
            ),
            (
                "model.n_heads",
                !m.n_heads.is_multiple_of(m.n_kv_heads),
                format!("it must be a multiple of model.n_kv_heads = {}; set that, too", m.n_kv_heads),
            ),
            (
                "loss_scale.max",
                l.min > l.max,
                format!("it must not be less than loss_scale.min = {}; set that, too", l.min),
            ),
            (
                "data.packing",
                !self.data.shuffle && self.data.packing == Packing::Windows,
                "windows always come in a random order; set data.shuffle = true, too".into(),
            ),
        ];
        all.into_iter().filter(|(_, holds, _)| *holds).map(|(key, _, problem)| (key, problem)).collect()
    }
}

//! What a model is.

use serde::{Deserialize, Serialize};

use crate::{Defect, Error, Result};

/// The feed-forward part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForward {
    /// W2 (silu(W1 f) * W3 f), three matrices (Shazeer 2020, arXiv 2002.05202).
    SwiGlu,
    /// W2 relu(W1 f)², two matrices (So et al. 2021, arXiv 2109.08668).
    Relu2,
}

/// How parameters begin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// Standard deviation of the token embedding and of an untied classifier (normal distribution);
    /// presets have 1/sqrt(C).
    pub embedding_std: f32,
    /// Factor on that of an untied classifier.
    #[serde(default = "one")]
    pub classifier_gain: f32,
    /// Matrices are uniform with the standard deviation `matrix_gain / sqrt(fan_in)`, tables of value
    /// embeddings with `matrix_gain / sqrt(C)`.
    pub matrix_gain: f32,
    /// Factor on that of `w1` and `w3`.
    #[serde(default = "one")]
    pub ffn_in_gain: f32,
    /// Factor on that of `wo` and `w2`, when these do not begin at zero.
    #[serde(default = "one")]
    pub output_gain: f32,
    /// Whether `wo` and `w2` begin at zero, so that each layer begins as the identity. The first of
    /// the three fixes that made long runs hold.
    pub zero_output_projections: bool,
}

fn one() -> f32 {
    1.0
}

fn yes() -> bool {
    true
}

impl Default for InitConfig {
    fn default() -> Self {
        InitConfig {
            embedding_std: 0.02,
            classifier_gain: 1.0,
            matrix_gain: 1.0,
            ffn_in_gain: 1.0,
            output_gain: 1.0,
            zero_output_projections: true,
        }
    }
}

/// A decoder-only transformer: pre-norm RMSNorm, rotary embeddings, causal attention with grouped
/// key/value heads, a gated or squared feed-forward part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Layers, L.
    pub n_layers: usize,
    /// Channels of the residual stream, C.
    pub width: usize,
    /// Query heads, H.
    pub n_heads: usize,
    /// Key/value heads, KV; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Channels of a head, D; even. `n_heads * head_dim` may differ from `width`.
    pub head_dim: usize,
    /// Hidden channels of the feed-forward part, F.
    pub ffn_hidden: usize,
    /// Token ids, V.
    pub vocab_size: usize,
    /// Tokens in a training sequence, S.
    pub seq_len: usize,
    /// The feed-forward part.
    pub ffn: FeedForward,
    /// Whether queries and keys are normalised per head before they are rotated (as in Qwen3). A norm without
    /// gains gives the same before and after: a rotation leaves the mean of a head's squares as it is.
    pub qk_norm: bool,
    /// Whether norms have gains, one for each channel; without, x / rms(x) is all there is.
    #[serde(default = "yes")]
    pub norm_gain: bool,
    /// Whether embeddings are divided by their root mean square, without gains, before the first layer.
    #[serde(default)]
    pub embed_norm: bool,
    /// Whether each layer's input is a sum of the stream and of the first layer's, x0, with a learned factor on
    /// each: `resid_lambda * x + x0_lambda * x0`.
    #[serde(default)]
    pub x0_residual: bool,
    /// Whether every second layer, the last among them, adds embeddings of its own to the values of its
    /// attention, each head's times a gate that follows from the layer's input (autoresearch).
    #[serde(default)]
    pub value_embeddings: bool,
    /// Logits z become softcap * tanh(z / softcap); 0 leaves them. The second of the three fixes.
    pub softcap: f32,
    /// Whether the classifier is the token embedding.
    pub tied: bool,
    /// Factor on both branches of a layer before they are added to the residual stream.
    pub residual_scale: f32,
    /// Each query sees this many tokens, itself included; 0 sees all before it. With a `window_pattern` this is of
    /// the layers with `S`, where 0 is half a sequence before it, and itself.
    pub window: usize,
    /// Which layers see how far, over and over: `S` for `window`, `L` for all before the query, as the last layer
    /// always does. Empty: all layers see as far as `window`.
    #[serde(default)]
    pub window_pattern: String,
    /// Base of the rotary angles.
    pub rope_theta: f32,
    /// Added to the mean of squares in every norm.
    pub norm_eps: f32,
    /// Faults of other systems that the model is trained with on purpose, to study what they do; none otherwise.
    #[serde(default)]
    pub defects: Vec<Defect>,
    /// How parameters begin.
    pub init: InitConfig,
}

/// What one layer's programs have that another's may not have. Layers of one kind share their programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerKind {
    /// Whether its letter in `window_pattern` is `S`.
    pub short: bool,
    /// Whether it adds value embeddings.
    pub value_embedding: bool,
}

impl LayerKind {
    /// The name of a program of such a layer that is called `name` in a plain one.
    pub fn program_name(self, name: &str) -> String {
        let short = if self.short { "_short" } else { "" };
        let value_embedding = if self.value_embedding { "_ve" } else { "" };
        format!("{name}{short}{value_embedding}")
    }
}

/// Channels of a layer's normed input that the gates of its value embeddings are computed from (autoresearch).
pub const GATE_CHANNELS: usize = 32;

/// Largest value of any extent of a model, far beyond what fits a machine; it keeps products of two
/// extents countable.
pub const MAX_EXTENT: usize = 1 << 20;

impl ModelConfig {
    /// Checks that the numbers describe a model.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and what would be right.
    pub fn validate(&self) -> Result<()> {
        let fail = |key, value: &dyn std::fmt::Display, problem: String| {
            Err(Error::Config { key, value: value.to_string(), problem })
        };
        for (key, value) in [
            ("n_layers", self.n_layers),
            ("width", self.width),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("ffn_hidden", self.ffn_hidden),
            ("seq_len", self.seq_len),
        ] {
            if value == 0 || value > MAX_EXTENT {
                return fail(key, &value, format!("expected 1 to {MAX_EXTENT}"));
            }
        }
        if self.vocab_size < 2 || self.vocab_size > 1 << 20 {
            return fail("vocab_size", &self.vocab_size, format!("expected 2 to {}", 1 << 20));
        }
        if self.window > MAX_EXTENT {
            return fail("window", &self.window, format!("expected 0 (none) to {MAX_EXTENT}"));
        }
        if let Some(other) = self.window_pattern.chars().find(|letter| !matches!(letter, 'S' | 'L')) {
            let problem = format!("`{other}` is no window; expected letters S and L, or nothing");
            return fail("window_pattern", &self.window_pattern, problem);
        }
        if self.value_embeddings && self.width < GATE_CHANNELS {
            let problem =
                format!("gates of value embeddings read {GATE_CHANNELS} channels; expected at least as many");
            return fail("width", &self.width, problem);
        }
        if self.q_dim() > MAX_EXTENT {
            let problem = format!("n_heads * head_dim is {}, expected at most {MAX_EXTENT}", self.q_dim());
            return fail("head_dim", &self.head_dim, problem);
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return fail(
                "n_kv_heads",
                &self.n_kv_heads,
                format!("it must divide n_heads = {}", self.n_heads),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(
                "head_dim",
                &self.head_dim,
                "rotary embeddings turn pairs of channels; expected an even number".into(),
            );
        }
        for (key, value) in [("softcap", self.softcap), ("norm_eps", self.norm_eps)] {
            if !(0.0..=1e4).contains(&value) {
                return fail(key, &value, "expected 0 to 10000".into());
            }
        }
        for (key, value) in [("residual_scale", self.residual_scale), ("rope_theta", self.rope_theta)] {
            if !value.is_finite() || value <= 0.0 {
                return fail(key, &value, "expected more than 0, and finite".into());
            }
        }
        for (key, value) in [
            ("init.embedding_std", self.init.embedding_std),
            ("init.classifier_gain", self.init.classifier_gain),
            ("init.matrix_gain", self.init.matrix_gain),
            ("init.ffn_in_gain", self.init.ffn_in_gain),
            ("init.output_gain", self.init.output_gain),
        ] {
            if !(0.0..=1e3).contains(&value) {
                return fail(key, &value, "expected 0 to 1000".into());
            }
        }
        Ok(())
    }

    /// Channels of all query heads together, H*D.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Channels of all key (or value) heads together, KV*D.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// What layer number `layer` has.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        let letter = self.window_pattern.chars().cycle().nth(layer);
        LayerKind {
            short: letter == Some('S') && layer + 1 != self.n_layers,
            value_embedding: self.value_embeddings && layer % 2 == (self.n_layers - 1) % 2,
        }
    }

    /// The kinds of layers that there are, in the order in which they first come, each with its layers.
    pub fn layer_kinds(&self) -> Vec<(LayerKind, Vec<usize>)> {
        let mut kinds: Vec<(LayerKind, Vec<usize>)> = Vec::new();
        for layer in 0..self.n_layers {
            let kind = self.layer_kind(layer);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, layers)) => layers.push(layer),
                None => kinds.push((kind, vec![layer])),
            }
        }
        kinds
    }

    /// How many tokens a query sees in a layer of `kind`, itself included; `None` sees all before it.
    pub fn window_of(&self, kind: LayerKind) -> Option<usize> {
        let window = (self.window > 0).then_some(self.window);
        match (self.window_pattern.is_empty(), kind.short) {
            (true, _) => window,
            (false, true) => Some(window.unwrap_or(self.seq_len / 2 + 1)),
            (false, false) => None,
        }
    }

    /// The same model on sequences of another length: queries see as far as they did.
    pub fn with_seq_len(&self, seq_len: usize) -> ModelConfig {
        let mut longer = ModelConfig { seq_len, ..self.clone() };
        if let Some((short, _)) = self.layer_kinds().into_iter().find(|(kind, _)| kind.short) {
            longer.window = self.window_of(short).unwrap_or(0);
        }
        longer
    }

    /// Learned numbers.
    pub fn parameter_count(&self) -> usize {
        crate::Parameter::all(self).iter().map(|p| p.numel()).sum()
    }

    /// Floating-point operations of one training step on `tokens` tokens, forward and backward,
    /// without recomputation: 6 for each weight of a matrix product and token (2 forward, 4
    /// backward: PaLM, arXiv 2204.02311, appendix B), plus attention with only the causal half
    /// counted (PaLM counts all of it).
    pub fn flops_per_step(&self, tokens: usize) -> f64 {
        let products: usize =
            crate::Parameter::all(self).iter().filter(|p| p.in_product(self)).map(|p| p.numel()).sum();
        // Two products of D x reach for each query and head, half of the square being visible.
        let attention = |layer: usize| {
            let reach = self.window_of(self.layer_kind(layer)).unwrap_or(self.seq_len).min(self.seq_len);
            let seen = if reach == self.seq_len { reach as f64 / 2.0 } else { reach as f64 };
            2.0 * 2.0 * self.q_dim() as f64 * seen
        };
        let attention: f64 = (0..self.n_layers).map(attention).sum();
        tokens as f64 * (6.0 * products as f64 + 3.0 * attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    /// Oracle: what autoresearch says of its layers, written out by hand.
    #[test]
    fn layers_of_autoresearch_are_of_its_kinds() {
        let config = presets::by_name("autoresearch").unwrap();
        let window = |layer| config.window_of(config.layer_kind(layer));
        // Half of 2,048 before it, and itself.
        let short = Some(1025);
        let windows: Vec<_> = (0..8).map(window).collect();
        assert_eq!(windows, [short, short, short, None, short, short, short, None]);
        let with_values: Vec<_> = (0..8).filter(|layer| config.layer_kind(*layer).value_embedding).collect();
        assert_eq!(with_values, [1, 3, 5, 7]);
        let kinds = config.layer_kinds();
        let layers: Vec<_> = kinds.iter().map(|(_, layers)| layers.as_slice()).collect();
        assert_eq!(layers, [&[0, 2, 4, 6][..], &[1, 5], &[3, 7]]);
        let names: Vec<_> = kinds.iter().map(|(kind, _)| kind.program_name("forward")).collect();
        assert_eq!(names, ["forward_short", "forward_short_ve", "forward_ve"]);
        // On longer sequences they stay as they are; a window of its own is taken as it is.
        let longer = config.with_seq_len(4096);
        assert_eq!((longer.seq_len, longer.window_of(longer.layer_kind(0))), (4096, short));
        assert_eq!(longer.window_of(longer.layer_kind(3)), None);
        let own = ModelConfig { window: 8, ..config.clone() };
        assert_eq!((own.window_of(own.layer_kind(0)), own.window_of(own.layer_kind(3))), (Some(8), None));
        // The last layer sees all, whatever its letter; of an odd number the even ones have value embeddings.
        let five = ModelConfig { n_layers: 5, seq_len: 21, ..config };
        assert_eq!(five.window_of(five.layer_kind(4)), None);
        assert_eq!(five.window_of(five.layer_kind(0)), Some(11));
        let with_values: Vec<_> = (0..5).filter(|layer| five.layer_kind(*layer).value_embedding).collect();
        assert_eq!(with_values, [0, 2, 4]);
    }

    #[test]
    fn what_is_no_model_says_so() {
        let odd = presets::by_name("odd-all").unwrap();
        let error = |config: ModelConfig| config.validate().unwrap_err().to_string();
        let pattern = error(ModelConfig { window_pattern: "SxL".into(), ..odd.clone() });
        assert!(
            pattern.contains("window_pattern = SxL: `x` is no window; expected letters S and L"),
            "{pattern}"
        );
        let heads = error(ModelConfig { n_heads: 6, n_kv_heads: 4, ..odd.clone() });
        assert!(heads.contains("n_kv_heads = 4: it must divide n_heads = 6"), "{heads}");
        let narrow = error(ModelConfig { width: 30, ..odd });
        assert!(narrow.contains("width = 30: gates of value embeddings read 32 channels"), "{narrow}");
    }
}

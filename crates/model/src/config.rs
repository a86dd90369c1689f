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
    /// Matrices are uniform with the standard deviation `matrix_gain / sqrt(fan_in)`.
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

impl Default for InitConfig {
    fn default() -> Self {
        InitConfig {
            embedding_std: 0.02,
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
    /// Whether queries and keys are normalised per head before they are rotated (as in Qwen3).
    pub qk_norm: bool,
    /// Logits z become softcap * tanh(z / softcap); 0 leaves them. The second of the three fixes.
    pub softcap: f32,
    /// Whether the classifier is the token embedding.
    pub tied: bool,
    /// Factor on both branches of a layer before they are added to the residual stream.
    pub residual_scale: f32,
    /// Each query sees this many tokens, itself included; 0 sees all before it.
    pub window: usize,
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
                return fail(key, &value, "expected a positive number".into());
            }
        }
        for (key, value) in [
            ("init.embedding_std", self.init.embedding_std),
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
        let reach = if self.window == 0 { self.seq_len } else { self.window.min(self.seq_len) };
        // Two products of D x reach for each query and head, half of the square being visible.
        let seen = if reach == self.seq_len { reach as f64 / 2.0 } else { reach as f64 };
        let attention = self.n_layers as f64 * 2.0 * 2.0 * self.q_dim() as f64 * seen;
        tokens as f64 * (6.0 * products as f64 + 3.0 * attention)
    }
}

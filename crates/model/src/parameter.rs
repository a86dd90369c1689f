//! What a model learns.

use crate::{FeedForward, ModelConfig};

/// Which rate and decay a parameter gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// Weights of a product inside a layer.
    Matrix,
    /// The token embedding (and classifier, when tied).
    Embedding,
    /// A classifier of its own.
    Classifier,
    /// Gain of a norm.
    Norm,
}

impl ParameterKind {
    /// Whether it has a row for each token of the vocabulary.
    pub fn is_of_tokens(self) -> bool {
        matches!(self, ParameterKind::Embedding | ParameterKind::Classifier)
    }
}

/// One learned tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Hugging Face name: `model.layers.0.self_attn.q_proj.weight`, …
    pub name: String,
    /// As weight files hold it: `[out, in]` for a matrix, `[V, C]` for an embedding, `[C]` or `[D]`
    /// for a norm.
    pub shape: Vec<usize>,
    /// Which rate and decay it gets.
    pub kind: ParameterKind,
    /// Its layer; `None` for embedding, last norm and classifier.
    pub layer: Option<usize>,
    /// The port of a layer program that it feeds; empty for embedding, last norm and classifier.
    pub port: &'static str,
}

/// Name of the token embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the last norm's gain.
pub const FINAL_NORM: &str = "model.norm.weight";
/// Name of the classifier, when it is not the embedding.
pub const CLASSIFIER: &str = "lm_head.weight";

impl Parameter {
    /// Elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it takes part in a matrix product (a tied embedding does, as the classifier).
    pub fn in_product(&self, config: &ModelConfig) -> bool {
        match self.kind {
            ParameterKind::Matrix | ParameterKind::Classifier => true,
            ParameterKind::Embedding => config.tied,
            ParameterKind::Norm => false,
        }
    }

    /// The shape of the port that it feeds: `[1, 1, out, in]` for a matrix, `[1, C, 1, 1]` for a
    /// norm over channels, `[1, 1, D, 1]` for one over a head.
    pub fn port_shape(&self) -> Vec<usize> {
        match (self.kind, self.port) {
            (ParameterKind::Norm, "q_norm" | "k_norm") => vec![1, 1, self.shape[0], 1],
            (ParameterKind::Norm, _) => vec![1, self.shape[0], 1, 1],
            _ => vec![1, 1, self.shape[0], self.shape[1]],
        }
    }

    /// Those of one layer, in the order in which the layer uses them: (port, name within the
    /// layer, shape).
    fn of_layer(config: &ModelConfig) -> Vec<(&'static str, &'static str, Vec<usize>)> {
        let (c, f, q, kv) = (config.width, config.ffn_hidden, config.q_dim(), config.kv_dim());
        let mut list = vec![
            ("norm1", "input_layernorm", vec![c]),
            ("wq", "self_attn.q_proj", vec![q, c]),
            ("wk", "self_attn.k_proj", vec![kv, c]),
            ("wv", "self_attn.v_proj", vec![kv, c]),
        ];
        if config.qk_norm {
            list.push(("q_norm", "self_attn.q_norm", vec![config.head_dim]));
            list.push(("k_norm", "self_attn.k_norm", vec![config.head_dim]));
        }
        list.push(("wo", "self_attn.o_proj", vec![c, q]));
        list.push(("norm2", "post_attention_layernorm", vec![c]));
        match config.ffn {
            FeedForward::SwiGlu => {
                list.push(("w1", "mlp.gate_proj", vec![f, c]));
                list.push(("w3", "mlp.up_proj", vec![f, c]));
            }
            FeedForward::Relu2 => list.push(("w1", "mlp.up_proj", vec![f, c])),
        }
        list.push(("w2", "mlp.down_proj", vec![c, f]));
        list
    }

    /// All parameters of a model, in the order of its weight files.
    pub fn all(config: &ModelConfig) -> Vec<Parameter> {
        let (v, c) = (config.vocab_size, config.width);
        let outer = |name: &str, shape: Vec<usize>, kind| Parameter {
            name: name.to_owned(),
            shape,
            kind,
            layer: None,
            port: "",
        };
        let mut all = vec![outer(EMBEDDING, vec![v, c], ParameterKind::Embedding)];
        for layer in 0..config.n_layers {
            for (port, name, shape) in Parameter::of_layer(config) {
                let kind = if shape.len() == 1 { ParameterKind::Norm } else { ParameterKind::Matrix };
                let name = format!("model.layers.{layer}.{name}.weight");
                all.push(Parameter { name, shape, kind, layer: Some(layer), port });
            }
        }
        all.push(outer(FINAL_NORM, vec![c], ParameterKind::Norm));
        if !config.tied {
            all.push(outer(CLASSIFIER, vec![v, c], ParameterKind::Classifier));
        }
        all
    }
}

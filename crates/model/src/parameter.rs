//! What a model learns.

use serde::{Deserialize, Serialize};

use crate::config::GATE_CHANNELS;
use crate::{FeedForward, LayerKind, ModelConfig};

/// Which rate and decay a parameter gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Weights of a product inside a layer.
    Matrix,
    /// The token embedding (and classifier, when tied).
    Embedding,
    /// What a layer adds to the values of its attention.
    ValueEmbedding,
    /// A classifier of its own.
    Classifier,
    /// Gain of a norm.
    Norm,
    /// The factor on the stream before a layer.
    ResidLambda,
    /// The factor on the first layer's input before another layer.
    X0Lambda,
}

impl ParameterKind {
    /// Whether it has a row for each token of the vocabulary.
    pub fn is_of_tokens(self) -> bool {
        matches!(self, ParameterKind::Embedding | ParameterKind::ValueEmbedding | ParameterKind::Classifier)
    }
}

/// One learned tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Hugging Face name: `model.layers.0.self_attn.q_proj.weight`, … What Llama lacks has a name of the same
    /// form; see [`crate::weights`].
    pub name: String,
    /// As weight files hold it: `[out, in]` for a matrix, `[V, C]` for an embedding, `[V, KV*D]` for value
    /// embeddings, `[C]` or `[D]` for a norm, `[1]` for a factor.
    pub shape: Vec<usize>,
    /// Which rate and decay it gets.
    pub kind: ParameterKind,
    /// Its layer; `None` for embedding, last norm and classifier.
    pub layer: Option<usize>,
    /// The port of a layer program that it feeds; empty for embedding, last norm and classifier, and for value
    /// embeddings, of which a program gets the rows of its tokens.
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
            ParameterKind::ValueEmbedding
            | ParameterKind::Norm
            | ParameterKind::ResidLambda
            | ParameterKind::X0Lambda => false,
        }
    }

    /// Whether only the host has it, to look rows up in: no program reads it.
    pub fn on_host_only(&self, config: &ModelConfig) -> bool {
        match self.kind {
            ParameterKind::Embedding => !config.tied,
            ParameterKind::ValueEmbedding => true,
            _ => false,
        }
    }

    /// The shape of the port that it feeds: `[1, 1, out, in]` for a matrix, `[1, C, 1, 1]` for a
    /// norm over channels, `[1, 1, D, 1]` for one over a head, `[1, 1, 1, 1]` for a factor.
    pub fn port_shape(&self) -> Vec<usize> {
        match (self.kind, self.port) {
            (ParameterKind::ResidLambda | ParameterKind::X0Lambda, _) => vec![1; 4],
            (ParameterKind::Norm, "q_norm" | "k_norm") => vec![1, 1, self.shape[0], 1],
            (ParameterKind::Norm, _) => vec![1, self.shape[0], 1, 1],
            _ => vec![1, 1, self.shape[0], self.shape[1]],
        }
    }

    /// Those of layer number `layer` in a layer of `kind`, in the order in which the layer uses them.
    fn of_layer(config: &ModelConfig, kind: LayerKind, layer: usize) -> Vec<Parameter> {
        use ParameterKind::{Matrix, Norm, ResidLambda, ValueEmbedding, X0Lambda};
        let (c, f, q, kv) = (config.width, config.ffn_hidden, config.q_dim(), config.kv_dim());
        let mut list = Vec::new();
        let mut add = |kind, port, name: &str, shape: &[usize]| {
            if kind != Norm || config.norm_gain {
                let name = format!("model.layers.{layer}.{name}.weight");
                list.push(Parameter { name, shape: shape.to_vec(), kind, layer: Some(layer), port });
            }
        };
        if config.x0_residual {
            add(ResidLambda, "resid_lambda", "resid_lambda", &[1]);
            add(X0Lambda, "x0_lambda", "x0_lambda", &[1]);
        }
        add(Norm, "norm1", "input_layernorm", &[c]);
        add(Matrix, "wq", "self_attn.q_proj", &[q, c]);
        add(Matrix, "wk", "self_attn.k_proj", &[kv, c]);
        add(Matrix, "wv", "self_attn.v_proj", &[kv, c]);
        if config.qk_norm {
            add(Norm, "q_norm", "self_attn.q_norm", &[config.head_dim]);
            add(Norm, "k_norm", "self_attn.k_norm", &[config.head_dim]);
        }
        if kind.value_embedding {
            add(Matrix, "wg", "self_attn.value_gate", &[config.n_kv_heads, GATE_CHANNELS]);
            add(ValueEmbedding, "", "self_attn.value_embed", &[config.vocab_size, kv]);
        }
        add(Matrix, "wo", "self_attn.o_proj", &[c, q]);
        add(Norm, "norm2", "post_attention_layernorm", &[c]);
        match config.ffn {
            FeedForward::SwiGlu => {
                add(Matrix, "w1", "mlp.gate_proj", &[f, c]);
                add(Matrix, "w3", "mlp.up_proj", &[f, c]);
            }
            FeedForward::Relu2 => add(Matrix, "w1", "mlp.up_proj", &[f, c]),
        }
        add(Matrix, "w2", "mlp.down_proj", &[c, f]);
        list
    }

    /// Those that the programs of a layer of `kind` read, in order, as of layer 0.
    pub(crate) fn of_ports(config: &ModelConfig, kind: LayerKind) -> Vec<Parameter> {
        let mut list = Parameter::of_layer(config, kind, 0);
        list.retain(|parameter| !parameter.on_host_only(config));
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
            all.extend(Parameter::of_layer(config, config.layer_kind(layer), layer));
        }
        if config.norm_gain {
            all.push(outer(FINAL_NORM, vec![c], ParameterKind::Norm));
        }
        if !config.tied {
            all.push(outer(CLASSIFIER, vec![v, c], ParameterKind::Classifier));
        }
        all
    }
}

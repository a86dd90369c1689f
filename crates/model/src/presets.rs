//! Models known by name.

use crate::{Error, FeedForward, InitConfig, ModelConfig, Result};

/// The names, smallest model first.
pub const NAMES: &[&str] =
    &["odd", "odd-all", "tiny", "deep-5m", "gpt-48m", "autoresearch", "gpt-68m", "stories110m", "qwen3-0.6b"];

/// The preset called `name`.
///
/// # Errors
/// [`Error::Preset`] with the names that exist.
pub fn by_name(name: &str) -> Result<ModelConfig> {
    let base = ModelConfig {
        n_layers: 6,
        width: 768,
        n_heads: 6,
        n_kv_heads: 6,
        head_dim: 128,
        ffn_hidden: 2048,
        vocab_size: 8192,
        seq_len: 512,
        ffn: FeedForward::SwiGlu,
        qk_norm: false,
        norm_gain: true,
        embed_norm: false,
        x0_residual: false,
        value_embeddings: false,
        softcap: 15.0,
        tied: true,
        residual_scale: 1.0,
        window: 0,
        window_pattern: String::new(),
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        defects: Vec::new(),
        init: InitConfig::default(),
    };
    // The residual scale of the system that these descend from: 1/sqrt(2L) on both branches.
    let scaled = |config: ModelConfig| {
        let residual_scale = 1.0 / (2.0 * config.n_layers as f32).sqrt();
        ModelConfig { residual_scale, ..config }
    };
    let config = match name {
        // Odd sizes everywhere, for tests: nothing is a multiple of anything convenient.
        "odd" => ModelConfig {
            n_layers: 2,
            width: 40,
            n_heads: 6,
            n_kv_heads: 2,
            head_dim: 10,
            ffn_hidden: 56,
            vocab_size: 131,
            seq_len: 21,
            ffn: FeedForward::Relu2,
            qk_norm: true,
            softcap: 0.0,
            tied: false,
            ..base
        },
        // The same with everything that a model can have: three kinds of layers.
        "odd-all" => ModelConfig {
            n_layers: 4,
            n_heads: 4,
            softcap: 15.0,
            window_pattern: "SSSL".to_owned(),
            ..with_everything(by_name("odd")?)
        },
        // About 2M parameters: learns in two minutes on any machine.
        "tiny" => scaled(ModelConfig {
            n_layers: 4,
            width: 192,
            n_heads: 3,
            n_kv_heads: 3,
            head_dim: 64,
            ffn_hidden: 512,
            vocab_size: 2048,
            seq_len: 256,
            ..base
        }),
        // About 5M parameters in twelve layers: shows what depth does to f16.
        "deep-5m" => scaled(ModelConfig {
            n_layers: 12,
            width: 192,
            n_heads: 3,
            n_kv_heads: 3,
            head_dim: 64,
            ffn_hidden: 448,
            vocab_size: 2048,
            seq_len: 256,
            ..base
        }),
        // Karpathy's autoresearch at its depth of 8.
        "autoresearch" => ModelConfig {
            n_layers: 8,
            width: 512,
            n_heads: 4,
            n_kv_heads: 4,
            seq_len: 2048,
            ffn: FeedForward::Relu2,
            qk_norm: true,
            tied: false,
            window_pattern: "SSSL".to_owned(),
            // That of f32, which PyTorch's norm adds where it is told nothing else.
            norm_eps: f32::EPSILON,
            ..with_everything(base)
        },
        // The model of autoresearch-ANE, and its 32,768-token sister.
        "gpt-48m" => scaled(base),
        "gpt-68m" => scaled(ModelConfig { vocab_size: 32_768, ..base }),
        // Karpathy's llama2.c model, as maderix/ANE trains it.
        "stories110m" => scaled(ModelConfig {
            n_layers: 12,
            n_heads: 12,
            n_kv_heads: 12,
            head_dim: 64,
            vocab_size: 32_000,
            seq_len: 256,
            ..base
        }),
        "qwen3-0.6b" => ModelConfig {
            n_layers: 28,
            width: 1024,
            n_heads: 16,
            n_kv_heads: 8,
            ffn_hidden: 3072,
            vocab_size: 151_936,
            qk_norm: true,
            softcap: 0.0,
            rope_theta: 1_000_000.0,
            norm_eps: 1e-6,
            ..base
        },
        _ => return Err(Error::Preset { name: name.to_owned(), known: NAMES.join(", ") }),
    };
    Ok(ModelConfig {
        init: InitConfig { embedding_std: embedding_std(config.width), ..config.init },
        ..config
    })
}

/// What autoresearch's model has and Llama has not, but for its windows.
fn with_everything(config: ModelConfig) -> ModelConfig {
    ModelConfig { norm_gain: false, embed_norm: true, x0_residual: true, value_embeddings: true, ..config }
}

/// The embedding's deviation for C = `width` channels, 1/sqrt(C) to three digits: columns of length 1, so that a new classifier's logits have deviation 1.
/// A tied one begins with its own input's logit at sqrt(C), capped by `softcap`, and unlearns that in
/// some 20 steps.
///
/// The first norm divides by an embedding's deviation, and its gradient with it. With the customary
/// 0.02 the gradients of the embedding and the first layers were tens of times those of the others, runs
/// of `deep-5m` grew activations of hundreds within 500 steps, and where three seeds ended differed by
/// 0.1 bits per byte (val_bpb 2.05 to 2.16 after a million tokens of the classics, November 2026).
pub fn embedding_std(width: usize) -> f32 {
    (1000.0 / (width as f32).sqrt()).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_valid_model() {
        for name in NAMES {
            by_name(name).unwrap().validate().unwrap();
        }
    }

    /// Oracle: the parameter counts that the models' own projects publish (48.8M and 67.6M with an
    /// unembedded norm or two of difference in rounding; 50.3M; 110M; 0.6B).
    #[test]
    fn presets_have_the_published_sizes() {
        let millions = |name| by_name(name).unwrap().parameter_count() as f64 / 1e6;
        assert!((millions("gpt-48m") - 48.8).abs() < 0.06, "{}", millions("gpt-48m"));
        assert!((millions("autoresearch") - 50.3).abs() < 0.05, "{}", millions("autoresearch"));
        assert!((millions("gpt-68m") - 67.6).abs() < 0.1, "{}", millions("gpt-68m"));
        assert!((millions("stories110m") - 109.5).abs() < 0.1, "{}", millions("stories110m"));
        assert!((millions("qwen3-0.6b") - 596.0).abs() < 1.0, "{}", millions("qwen3-0.6b"));
        assert!((1.9..2.4).contains(&millions("tiny")), "{}", millions("tiny"));
        assert!((4.5..5.5).contains(&millions("deep-5m")), "{}", millions("deep-5m"));
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        assert!(by_name("huge").unwrap_err().to_string().contains("gpt-48m"));
    }
}

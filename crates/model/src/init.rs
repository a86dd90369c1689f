//! How parameters begin.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{ModelConfig, Parameter, ParameterKind};

/// The first values of `parameter`, row-major: a function of the configuration, the seed and the
/// parameter's name only, so that no parameter's values depend on which others exist.
pub fn initial_values(config: &ModelConfig, parameter: &Parameter, seed: u64) -> Vec<f32> {
    let count = parameter.numel();
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(parameter.name.as_bytes()));
    match parameter.kind {
        ParameterKind::Norm => vec![1.0; count],
        // autoresearch's.
        ParameterKind::ResidLambda => vec![1.0; count],
        ParameterKind::X0Lambda => vec![0.1; count],
        ParameterKind::Embedding | ParameterKind::Classifier => {
            let gain =
                if parameter.kind == ParameterKind::Classifier { config.init.classifier_gain } else { 1.0 };
            let std = config.init.embedding_std * gain;
            (0..count).map(|_| std * normal(&mut rng)).collect()
        }
        ParameterKind::ValueEmbedding => {
            let bound = config.init.matrix_gain * (3.0 / config.width as f32).sqrt();
            (0..count).map(|_| bound * (2.0 * uniform(&mut rng) - 1.0)).collect()
        }
        // All gates begin half open: twice the sigmoid of 0 is 1.
        ParameterKind::Matrix if parameter.port == "wg" => vec![0.0; count],
        ParameterKind::Matrix => {
            let is_output = matches!(parameter.port, "wo" | "w2");
            if is_output && config.init.zero_output_projections {
                return vec![0.0; count];
            }
            // A uniform distribution on (-b, b) has the standard deviation b / sqrt(3).
            let of_place = match parameter.port {
                "w1" | "w3" => config.init.ffn_in_gain,
                "wo" | "w2" => config.init.output_gain,
                _ => 1.0,
            };
            let bound = config.init.matrix_gain * of_place * (3.0 / parameter.shape[1] as f32).sqrt();
            (0..count).map(|_| bound * (2.0 * uniform(&mut rng) - 1.0)).collect()
        }
    }
}

/// Uniform on [0, 1), 24 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.random::<u32>() >> 8) as f32 / (1 << 24) as f32
}

/// Standard normal (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v) = (1.0 - uniform(rng), uniform(rng));
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// 64-bit FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), to spread names over seeds.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    /// Oracle: mean and deviation of the stated distributions; 5 standard errors of tolerance.
    #[test]
    fn values_have_the_stated_spread() {
        let mut config = presets::by_name("tiny").unwrap();
        // What autoresearch adds, at a size that takes no time.
        config.n_layers = 2;
        (config.x0_residual, config.value_embeddings) = (true, true);
        (config.tied, config.init.classifier_gain) = (false, 0.001);
        for parameter in Parameter::all(&config) {
            let values = initial_values(&config, &parameter, 7);
            let n = values.len() as f64;
            let std = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n).sqrt();
            let expected = match (parameter.kind, parameter.port) {
                (ParameterKind::Norm | ParameterKind::ResidLambda, _) => 1.0,
                (ParameterKind::X0Lambda, _) => 0.1,
                (ParameterKind::Matrix, "wo" | "w2" | "wg") => 0.0,
                (ParameterKind::ValueEmbedding, _) => 1.0 / 192_f64.sqrt(),
                (ParameterKind::Classifier, _) => 0.072e-3,
                (ParameterKind::Matrix, _) => 1.0 / (parameter.shape[1] as f64).sqrt(),
                _ => 0.072,
            };
            assert!(
                (std - expected).abs() <= 5.0 * expected / n.sqrt(),
                "{}: {std} against {expected}",
                parameter.name
            );
        }
    }

    #[test]
    fn seeds_and_names_give_different_values() {
        let config = presets::by_name("odd").unwrap();
        let all = Parameter::all(&config);
        let of = |name: &str, seed| {
            initial_values(&config, all.iter().find(|p| p.name.contains(name)).unwrap(), seed)[0]
        };
        assert_eq!(of("q_proj", 1), of("q_proj", 1));
        assert_ne!(of("q_proj", 1), of("q_proj", 2));
        assert_ne!(of("layers.0.self_attn.k_proj", 1), of("layers.1.self_attn.k_proj", 1));
    }
}

//! Named runs: the settings of those that others published, and our own.
//!
//! A recipe is a file of settings in the folder `recipes`, complete as far as its source says anything, and commented.
//! [`UserConfig`](crate::UserConfig) puts it under what a person writes: `recipe = "v3b"` or `--recipe v3b`.

/// The recipe of who asks for none.
pub const DEFAULT: &str = "anneal";

/// Presets that it is for. The others are models that somebody published, which are trained as they are, and those of
/// tests.
const WITH_DEFAULT: &[&str] = &["tiny", "deep-5m", "gpt-48m", "gpt-68m"];

/// Names and files.
const ALL: &[(&str, &str)] = &[
    (DEFAULT, include_str!("../../../recipes/anneal.toml")),
    ("v1", include_str!("../../../recipes/v1.toml")),
    ("v2", include_str!("../../../recipes/v2.toml")),
    ("ane-10k", include_str!("../../../recipes/ane-10k.toml")),
    ("v3", include_str!("../../../recipes/v3.toml")),
    ("v3b", include_str!("../../../recipes/v3b.toml")),
    ("s1024", include_str!("../../../recipes/s1024.toml")),
    ("maderix", include_str!("../../../recipes/maderix.toml")),
    ("autoresearch", include_str!("../../../recipes/autoresearch.toml")),
    ("autoresearch-mlx", include_str!("../../../recipes/autoresearch-mlx.toml")),
];

/// Whether a run of `preset` follows [`DEFAULT`] when nobody says anything about a recipe.
pub fn is_default_of(preset: &str) -> bool {
    WITH_DEFAULT.contains(&preset)
}

/// The names: ours, autoresearch-ANE's in the order of their history, then those of others.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The text of the recipe called `name`.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, RunConfig, Stretch, UserConfig};

    fn resolve(name: &str, more: &str) -> RunConfig {
        UserConfig::parse(&format!("recipe = '{name}'\n{more}"), "my.toml").unwrap().resolve().unwrap()
    }

    #[test]
    fn every_recipe_resolves_and_its_resolution_to_itself() {
        for name in names() {
            let config = resolve(name, "");
            assert_eq!(config.recipe, name);
            let again = UserConfig::parse(&config.to_toml(), "config.toml").unwrap().resolve().unwrap();
            assert_eq!(again, config, "{name}");
            // The folder holds nothing that nobody can name.
            assert!(text(name).unwrap().starts_with("# "), "{name} begins with what it is");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes")).unwrap();
        assert_eq!(files.count(), names().count());
    }

    /// Oracle: the fact sheets of those runs, ane-facts.md (section 8) and protocol-facts.md (sections 5 to 7), by hand where
    /// they count otherwise: rates are over 0.04 (0.6 is 15), a uniform deviation over that of 1/sqrt(fan_in), steps of tokens
    /// in sequences. That v2's schedule was one of 330,000 is in the story of those runs. What the sheets leave open is not
    /// here. Tolerance: settings to the rounding of f32; warm-ups to two sequences, as shares of a run have three digits.
    #[test]
    fn every_recipe_is_the_run_of_its_source() {
        let ane = "model.n_layers = 6, model.width = 768, model.n_heads = 6, model.n_kv_heads = 6, model.head_dim = 128, \
             model.ffn_hidden = 2048, model.ffn = \"swiglu\", model.tied = true, model.rope_theta = 10000, \
             model.norm_eps = 1e-5, model.residual_scale = 0.28867513, model.init.matrix_gain = 0.57735027, \
             model.init.ffn_in_gain = 0.61237244, model.init.embedding_std = 0.01154701, optimizer.kind = \"adamw\", \
             optimizer.beta1 = 0.9, optimizer.beta2 = 0.95, optimizer.eps = 1e-8, optimizer.weight_decay = 0.1, \
             optimizer.grad_clip = 1, schedule.kind = \"cosine\", schedule.final_fraction = 0.1, loss_scale.initial = 256";
        let old = "model.softcap = 0, model.init.zero_output_projections = false, model.init.output_gain = 0.28867513, \
             optimizer.multipliers.matrix = 1, optimizer.multipliers.embedding = 1, optimizer.multipliers.norm = 1";
        let fixed = "model.softcap = 15, model.init.zero_output_projections = true, optimizer.multipliers.matrix = 0.05, \
             optimizer.multipliers.embedding = 5, optimizer.multipliers.norm = 1";
        let karpathy = "model.head_dim = 128, model.ffn = \"relu2\", model.vocab_size = 8192, model.seq_len = 2048, \
             model.tied = false, model.softcap = 15, model.norm_gain = false, model.embed_norm = true, \
             model.qk_norm = true, model.rope_theta = 10000, model.x0_residual = true, model.value_embeddings = true, \
             model.window = 0, model.window_pattern = \"SSSL\", model.init.embedding_std = 1, \
             model.init.classifier_gain = 0.001, model.init.matrix_gain = 1, model.init.ffn_in_gain = 1, \
             model.init.zero_output_projections = true, optimizer.lr = 0.04, optimizer.beta1 = 0.8, \
             optimizer.beta2 = 0.95, optimizer.eps = 1e-10, optimizer.weight_decay = 0.2, \
             optimizer.multipliers.matrix = 1, optimizer.multipliers.embedding = 15, \
             optimizer.multipliers.classifier = 0.1, schedule.kind = \"wsd\", schedule.decay = 0.5";
        // With the sequences of schedule and warm-up, where they are counted.
        for (name, sequences, facts) in [
            (
                "v1",
                Some((313_000.0, 1000.0)),
                [ane, old, "optimizer.lr = 3e-4, accum = 10, model.vocab_size = 32768, model.seq_len = 512"],
            ),
            (
                "v2",
                Some((330_000.0, 2000.0)),
                [ane, old, "optimizer.lr = 1e-4, accum = 10, model.vocab_size = 32768, model.seq_len = 512"],
            ),
            (
                "ane-10k",
                Some((10_000.0, 100.0)),
                [ane, old, "optimizer.lr = 2e-4, accum = 10, model.vocab_size = 8192, model.seq_len = 512"],
            ),
            (
                "v3",
                Some((177_000.0, 1000.0)),
                [ane, fixed, "optimizer.lr = 5e-4, accum = 2, model.vocab_size = 8192, model.seq_len = 512"],
            ),
            (
                "v3b",
                Some((72_000.0, 720.0)),
                [
                    ane,
                    fixed,
                    "optimizer.lr = 2.5e-4, accum = 2, model.vocab_size = 8192, model.seq_len = 512",
                ],
            ),
            (
                "s1024",
                Some((72_000.0, 700.0)),
                [ane, fixed, "optimizer.lr = 2.5e-4, model.vocab_size = 8192, model.seq_len = 1024"],
            ),
            (
                "maderix",
                None,
                [
                    "model.n_layers = 12, model.width = 768, model.n_heads = 12, model.n_kv_heads = 12",
                    "model.head_dim = 64, model.ffn_hidden = 2048, model.vocab_size = 32000, model.seq_len = 256",
                    "loss_scale.initial = 256",
                ],
            ),
            (
                "autoresearch",
                None,
                [
                    karpathy,
                    "model.n_layers = 8, model.width = 512, model.n_heads = 4, model.n_kv_heads = 4, model.ffn_hidden = 2048, \
                     model.norm_eps = 1.1920929e-7, budget = \"5m\", accum = 256, optimizer.kind = \"muon\", \
                     optimizer.grad_clip = 0, optimizer.decay_falls = true, optimizer.token_rate_width = 768, \
                     schedule.warmup = 0, schedule.final_fraction = 0",
                    "optimizer.muon.lr = 0.04, optimizer.muon.momentum = 0.95, optimizer.muon.momentum_start = 0.85, \
                     optimizer.muon.momentum_warmup = 300, optimizer.muon.beta2 = 0.95, optimizer.muon.cautious = true, \
                     optimizer.multipliers.value_embedding = 15, optimizer.multipliers.resid_lambda = 0.125, \
                     optimizer.multipliers.x0_lambda = 12.5, optimizer.groups[0].kind = \"x0_lambda\", \
                     optimizer.groups[0].beta1 = 0.96, optimizer.groups[0].beta2 = 0.95",
                ],
            ),
            (
                "autoresearch-mlx",
                None,
                [
                    karpathy,
                    "model.n_layers = 4, model.width = 256, model.n_heads = 2, model.n_kv_heads = 2, model.ffn_hidden = 1024",
                    "model.norm_eps = 1e-5, accum = 32, optimizer.kind = \"adamw\"",
                ],
            ),
        ] {
            let config = resolve(name, "");
            let resolved = UserConfig::parse(&config.to_toml(), name).unwrap();
            for fact in facts.iter().flat_map(|facts| facts.split(", ")) {
                let (key, told) = fact.split_once(" = ").unwrap();
                let found = resolved.get(key).unwrap_or_else(|| panic!("{name}: no {key}")).to_string();
                let same = match (found.parse::<f64>(), told.parse::<f64>()) {
                    (Ok(found), Ok(told)) => (found - told).abs() <= 1e-6 * told.abs(),
                    _ => found == told,
                };
                assert!(same, "{name}: {key} = {found}, and its source says {told}");
            }
            if let Some((whole, rising)) = sequences {
                let (Budget::Steps(steps), Stretch::Share(share)) = (config.budget, config.schedule.warmup)
                else {
                    panic!("{name}: {} and {:?}", config.budget, config.schedule.warmup)
                };
                let found = (steps * config.step_sequences()) as f64;
                assert_eq!(found, whole, "{name}: sequences");
                assert!((share * found - rising).abs() <= 2.0, "{name}: warm-up over {}", share * found);
            }
        }
    }

    /// Oracle: the sizes that the recipe and the preset have without each other.
    #[test]
    fn another_preset_than_a_recipes_brings_its_sizes() {
        let sizes = |config: RunConfig| {
            let m = config.model;
            [m.n_layers, m.width, m.n_heads, m.n_kv_heads, m.head_dim, m.ffn_hidden, m.vocab_size, m.seq_len]
        };
        let odd = sizes(RunConfig::of_preset("odd").unwrap());
        for name in names() {
            let own = resolve(name, "");
            assert_eq!(sizes(resolve(name, &format!("preset = '{}'", own.preset))), sizes(own), "{name}");
            assert_eq!(sizes(resolve(name, "preset = 'odd'")), odd, "{name}");
            let wider = resolve(name, "preset = 'odd'\n[model]\nwidth = 60");
            assert_eq!((wider.model.width, wider.model.n_heads), (60, odd[2]), "{name}");
        }
    }

    /// Oracle: the published run of autoresearch-ANE.
    #[test]
    fn v3b_is_the_published_run() {
        let config = resolve("v3b", "");
        assert_eq!(config.step_tokens(), 1024);
        let Budget::Steps(steps) = config.budget else { panic!("{:?}", config.budget) };
        assert_eq!(steps * config.step_tokens(), 36_864_000, "36.9M tokens");
        let o = &config.optimizer;
        assert_eq!((o.lr, o.beta1, o.beta2, o.weight_decay), (2.5e-4, 0.9, 0.95, 0.1));
        assert_eq!((o.multipliers.matrix, o.multipliers.embedding), (0.05, 5.0));
        assert_eq!((config.model.softcap, config.model.init.zero_output_projections), (15.0, true));
        assert_eq!(config.model.residual_scale, 1.0 / 12.0_f32.sqrt());
    }

    /// Oracle: what autoresearch prints of its baseline.
    #[test]
    fn autoresearch_is_the_published_baseline() {
        let config = resolve("autoresearch", "");
        assert_eq!(config.step_tokens(), 1 << 19);
        let millions = config.model.parameter_count() as f64 / 1e6;
        assert!((millions - 50.3).abs() < 0.05, "{millions}");
        assert_eq!(config.model, {
            let preset = model::presets::by_name("autoresearch").unwrap();
            let init = config.model.init;
            model::ModelConfig { init, ..preset }
        });
        // Depth 4 as its page says, with rates that follow the width.
        let small = "[model]\nn_layers = 4\nwidth = 256\nn_heads = 2\nn_kv_heads = 2\nffn_hidden = 1024\n";
        let four = resolve("autoresearch", small);
        let mlx = resolve("autoresearch-mlx", "");
        assert_eq!(four.model, model::ModelConfig { norm_eps: four.model.norm_eps, ..mlx.model.clone() });
        assert_eq!(mlx.step_tokens(), 1 << 16);
    }

    #[test]
    fn what_is_written_wins_over_a_recipe() {
        let config =
            resolve("v3b", "preset = 'tiny'\n[optimizer]\nlr = 1e-3\n[model.init]\nmatrix_gain = 1.0\n");
        assert_eq!((config.preset.as_str(), config.model.width, config.optimizer.lr), ("tiny", 192, 1e-3));
        assert_eq!((config.model.init.matrix_gain, config.optimizer.multipliers.matrix), (1.0, 0.05));
        assert_eq!(config.model.residual_scale, 1.0 / 8.0_f32.sqrt(), "of four layers");
        let error =
            |text: &str| UserConfig::parse(text, "my.toml").unwrap().resolve().unwrap_err().to_string();
        let unknown = error("seed = 1\nrecipe = 'v4'");
        assert!(
            unknown.starts_with(
                "my.toml, line 2: recipe = \"v4\": there is no such recipe; there are anneal, v1, "
            ),
            "{unknown}"
        );
        assert!(!unknown.contains("FILE"), "{unknown}");
        let file = error("recipe = 'my.toml'");
        assert!(
            file.ends_with("-mlx; a file of settings goes without --recipe: anneal train FILE"),
            "{file}"
        );
    }
}

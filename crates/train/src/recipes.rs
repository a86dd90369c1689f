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
    use crate::{Budget, RunConfig, UserConfig};

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
    }
}

//! What somebody wrote, in a file or as options, and what it resolves to.

use std::collections::BTreeMap;
use std::path::Path;

use model::presets;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::check::Problem;
use crate::config::{DEFAULT_PRESET, default_accum, default_batch, default_lr};
use crate::{Error, Result, RunConfig, recipes};

/// Settings as they were written: any part of a [`RunConfig`], each value with its place.
///
/// ```
/// use train::UserConfig;
/// let mut user = UserConfig::parse("preset = 'tiny'\n[optimizer]\nlr = 1e-3\n", "my.toml")?;
/// user.set("budget", "2000steps", "--budget");
/// let config = user.resolve()?;
/// assert_eq!(config.optimizer.lr, 1e-3);
/// assert_eq!(config.model.width, 192);
/// # Ok::<(), train::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct UserConfig {
    table: Table,
    /// From the whole key to where its value stands.
    places: BTreeMap<String, String>,
}

impl UserConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Toml`], which names the line.
    pub fn read(path: &Path) -> Result<UserConfig> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read this configuration"))?;
        UserConfig::parse(&text, &path.display().to_string())
    }

    /// Reads a text; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::Toml`] naming the line.
    pub fn parse(text: &str, name: &str) -> Result<UserConfig> {
        let place = |at: usize| format!("{name}, line {}", text[..at].matches('\n').count() + 1);
        let fail = |error: toml::de::Error| Error::Toml {
            place: place(error.span().map_or(0, |span| span.start)),
            problem: error.message().to_owned(),
        };
        let spanned = DeTable::parse(text).map_err(fail)?;
        let mut places = BTreeMap::new();
        note_places(spanned.get_ref(), "", &place, &mut places);
        Ok(UserConfig { table: toml::from_str(text).map_err(fail)?, places })
    }

    /// Sets `key` (with its tables, `optimizer.lr`), whatever it was before; `place` stands for it in
    /// errors, for instance the option's name.
    pub fn set(&mut self, key: &str, value: impl Into<Value>, place: &str) {
        let mut table = &mut self.table;
        let (tables, last) = key.rsplit_once('.').unwrap_or(("", key));
        for name in tables.split('.').filter(|name| !name.is_empty()) {
            let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            table = entry.as_table_mut().expect("it was made a table above");
        }
        table.insert(last.to_owned(), value.into());
        if ["data.source", "data.tokenizer"].contains(&key) {
            // The configuration of an earlier run may be the start of one on other data.
            for recorded in ["tokenizer_hash", "train_tokens", "valid_tokens"] {
                table.remove(recorded);
            }
            // The model's own may have been made shorter for the earlier data.
            if let Some(of_tokenizer @ Value::Integer(1..)) = table.remove("vocab_size") {
                self.set("model.vocab_size", of_tokenizer, place);
            }
        }
        self.places.insert(key.to_owned(), place.to_owned());
    }

    /// Whether somebody gave `key` a value.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value that was written for `key`; `groups[1].kind` is one of an array's.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let steps = key.split(['.', '[']).filter(|step| !step.is_empty());
        let (mut table, mut found) = (Some(&self.table), None::<&Value>);
        for step in steps {
            let value = match (table, step.strip_suffix(']')) {
                (Some(table), _) => table.get(step)?,
                (None, place) => found?.as_array()?.get(place?.parse::<usize>().ok()?)?,
            };
            (table, found) = (value.as_table(), Some(value));
        }
        found
    }

    /// Fills in everything that was not written and checks everything that was.
    ///
    /// A recipe stands under everything else that was written; where none was, presets that stand for no published
    /// model have [ours](recipes::DEFAULT), and `recipe = ""` asks for none. With another `optimizer.lr` than a recipe's,
    /// the rate that it has for Muon keeps its ratio to it, unless that was written, too. The preset gives the model's sizes and
    /// the other defaults. Three of them follow what was written: the rate the width, the batch the sequence length,
    /// and a residual scale of 1/sqrt(2L) the number of layers. A relative path of a text file or tokenizer is taken
    /// from the present directory and made absolute, so that a run can be resumed from anywhere.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] and [`Error::Value`], naming place, key, value and what would be right.
    pub fn resolve(&self) -> Result<RunConfig> {
        let ours = Value::from(recipes::DEFAULT);
        let name = match self.table.get("recipe") {
            Some(name) => name,
            None if recipes::is_default_of(self.preset()?) => &ours,
            None => return self.resolve_whole(),
        };
        if name.as_str() == Some("") {
            return self.resolve_whole();
        }
        let Some((name, text)) = name.as_str().and_then(|name| Some((name, recipes::text(name)?))) else {
            let known = recipes::names().collect::<Vec<_>>().join(", ");
            return Err(self.value_error("recipe", &format!("there is no such recipe; there are {known}")));
        };
        let place = format!("recipe {name}");
        let mut recipe = UserConfig::parse(text, &place)?;
        recipe.set("recipe", name, &place);
        let rates = ["optimizer.lr", "optimizer.muon.lr"].map(|key| recipe.number(key));
        let mut whole = recipe.under(self);
        // Who asks for half the rate means that of matrices, too.
        if let ([Some(lr), Some(of_muon)], Some(asked)) = (rates, self.number("optimizer.lr"))
            && !self.has("optimizer.muon.lr")
            && lr > 0.0
        {
            whole.set("optimizer.muon.lr", of_muon * (asked / lr), &self.place("optimizer.lr"));
        }
        whole.resolve_whole()
    }

    /// The number that was written for `key`, if it is one.
    fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// The name of the preset, which need not exist.
    fn preset(&self) -> Result<&str> {
        match self.table.get("preset") {
            None => Ok(DEFAULT_PRESET),
            Some(Value::String(name)) => Ok(name),
            Some(_) => {
                Err(self.value_error("preset", &format!("expected one of {}", presets::NAMES.join(", "))))
            }
        }
    }

    /// Itself where `over` says nothing.
    fn under(mut self, over: &UserConfig) -> UserConfig {
        fn put(into: &mut Table, from: &Table) {
            for (name, value) in from {
                match (into.get_mut(name), value) {
                    (Some(Value::Table(into)), Value::Table(from)) => put(into, from),
                    _ => _ = into.insert(name.clone(), value.clone()),
                }
            }
        }
        put(&mut self.table, &over.table);
        self.places.extend(over.places.clone());
        self
    }

    fn resolve_whole(&self) -> Result<RunConfig> {
        let base = RunConfig::of_preset(self.preset()?)
            .map_err(|error| self.value_error("preset", &error.to_string()))?;
        let mut table = Table::try_from(&base).expect("every field of a run can be written as TOML");
        self.merge(&mut table, &self.table, "")?;
        let mut config: RunConfig =
            serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
                let key = error.path().to_string();
                // toml repeats the key below its message.
                let problem = error.into_inner().message().lines().next().unwrap_or_default().to_owned();
                self.value_error(&key, &problem)
            })?;
        let scaled = |layers: usize| 1.0 / (2.0 * layers as f32).sqrt();
        if !self.has("model.residual_scale") && base.model.residual_scale == scaled(base.model.n_layers) {
            config.model.residual_scale = scaled(config.model.n_layers.max(1));
        }
        if !self.has("model.init.embedding_std") && config.model.width > 0 {
            config.model.init.embedding_std = presets::embedding_std(config.model.width);
        }
        if !self.has("optimizer.lr") && config.model.width > 0 {
            config.optimizer.lr = default_lr(&config.model);
        }
        if !self.has("batch") {
            config.batch = default_batch(&config.model);
        }
        if !self.has("accum") {
            config.accum = default_accum(&config.model, config.optimizer.kind, config.batch);
        }
        config.check().map_err(|Problem { key, value, problem }| Error::Value {
            place: self.place(&key),
            key,
            value,
            problem,
        })?;
        self.check_paths(&mut config)?;
        Ok(config)
    }

    /// Source, tokenizer and replayed run: what is a path becomes absolute.
    fn check_paths(&self, config: &mut RunConfig) -> Result<()> {
        let source: data::Source = config
            .data
            .source
            .parse()
            .map_err(|error: data::Error| self.value_error("data.source", &error.to_string()))?;
        // A source that does not exist is left as it is: `data` says what is wrong with it.
        if let data::Source::Path(path) = source
            && let Ok(whole) = std::fs::canonicalize(&path)
        {
            config.data.source = whole.display().to_string();
        }
        let others = [(&mut config.data.tokenizer, "train"), (&mut config.replay, "")];
        for (path, word) in others {
            if path != word
                && let Ok(whole) = std::fs::canonicalize(&*path)
            {
                *path = whole.display().to_string();
            }
        }
        Ok(())
    }

    /// Puts the values of `from` over those of `into`, which knows every key that there is.
    fn merge(&self, into: &mut Table, from: &Table, tables: &str) -> Result<()> {
        for (name, value) in from {
            let key = format!("{tables}{name}");
            let known = || into.keys().cloned().collect();
            match (into.get(name), value) {
                (None, _) => {
                    return Err(Error::UnknownKey { place: self.place(&key), key, known: known() });
                }
                (Some(Value::Table(_)), Value::Table(inner)) => {
                    let Some(Value::Table(below)) = into.get_mut(name) else {
                        unreachable!("it was a table above")
                    };
                    self.merge(below, inner, &format!("{key}."))?;
                }
                (Some(Value::Table(inside)), _) => {
                    let keys: Vec<&str> = inside.keys().map(String::as_str).collect();
                    let problem = format!("this is a table, [{key}], with the keys {}", keys.join(", "));
                    return Err(self.value_error(&key, &problem));
                }
                (Some(_), Value::Table(_)) => {
                    return Err(Error::UnknownKey { place: self.place(&key), key, known: Vec::new() });
                }
                _ => {
                    into.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(())
    }

    /// Where `key` was written, or the nearest table around it.
    pub(crate) fn place(&self, key: &str) -> String {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rsplit_once(['.', '[']) {
                Some((tables, _)) => key = tables,
                None => return "configuration".into(),
            }
        }
    }

    fn value_error(&self, key: &str, problem: &str) -> Error {
        let value = self.get(key).map_or_else(String::new, Value::to_string);
        Error::Value { place: self.place(key), key: key.to_owned(), value, problem: problem.to_owned() }
    }
}

fn note_places(
    table: &DeTable<'_>,
    tables: &str,
    place: &dyn Fn(usize) -> String,
    places: &mut BTreeMap<String, String>,
) {
    for (name, value) in table {
        let (name, value): (&Spanned<_>, &Spanned<DeValue<'_>>) = (name, value);
        let key = format!("{tables}{}", name.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            note_places(inner, &format!("{key}."), place, places);
        }
        places.insert(key, place(name.span().start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Auto, Budget, Stretch};

    fn resolve(text: &str) -> Result<RunConfig> {
        UserConfig::parse(text, "my.toml")?.resolve()
    }

    #[test]
    fn nothing_written_is_the_default_run() {
        let config = resolve("").unwrap();
        assert_eq!((config.recipe.as_str(), config.preset.as_str()), ("anneal", "tiny"));
        assert_eq!(config, resolve("recipe = 'anneal'\npreset = 'tiny'").unwrap());
        for name in presets::NAMES {
            let (plain, given) =
                (RunConfig::of_preset(name).unwrap(), resolve(&format!("preset = '{name}'")).unwrap());
            assert_eq!(resolve(&format!("preset = '{name}'\nrecipe = ''")).unwrap(), plain);
            // A published model is what its name says.
            assert_eq!(given == plain, !recipes::is_default_of(name), "{name}");
            let sizes =
                |config: RunConfig| (config.model.width, config.model.n_layers, config.model.ffn_hidden);
            assert_eq!(sizes(given), sizes(plain));
        }
    }

    #[test]
    fn the_rate_of_muon_follows_the_rate_unless_it_is_written() {
        let rates = |text: &str| {
            let optimizer = resolve(text).unwrap().optimizer;
            (optimizer.lr, optimizer.muon.lr)
        };
        let ours = rates("");
        assert_eq!(rates(&format!("[optimizer]\nlr = {}", ours.0 / 2.0)), (ours.0 / 2.0, ours.1 / 2.0));
        assert_eq!(rates("[optimizer]\nlr = 1"), (1.0, ours.1 / ours.0));
        assert_eq!(rates("[optimizer]\nlr = 0.5\nmuon = { lr = 0.25 }"), (0.5, 0.25));
        assert_eq!(rates("[optimizer.muon]\nlr = 0.25"), (ours.0, 0.25));
        // What a run keeps says both.
        let kept = resolve("[optimizer]\nlr = 0.01").unwrap();
        assert_eq!(resolve(&kept.to_toml()).unwrap(), kept);
    }

    /// Or an update of wide matrices takes longer than the tokens that it comes from.
    #[test]
    fn steps_by_muon_are_longer_and_grow_with_the_width() {
        let step = |text: &str| resolve(text).unwrap().step_tokens();
        assert_eq!((step(""), step("preset = 'gpt-48m'")), (2048, 8 * 768));
        assert_eq!(step("[model]\nwidth = 256"), 2048);
        assert_eq!(step("batch = 3"), 3 * 3 * 256, "the fewest of three sequences each");
        assert_eq!(step("batch = 64"), 64 * 256);
        assert_eq!(step("accum = 1"), 512);
        assert_eq!((step("recipe = ''"), step("[optimizer]\nkind = 'adamw'")), (512, 512));
        assert_eq!(step("recipe = ''\n[optimizer]\nkind = 'muon'"), 2048);
    }

    #[test]
    fn what_is_written_wins_and_defaults_follow_it() {
        let config = resolve(
            "recipe = ''\npreset = 'gpt-48m'\nbudget = '20Mtok'\ncut = 'ten'\n[model]\nwidth = 384\nseq_len = 256\nn_layers = 2\n\
             [schedule]\nwarmup = '1Mtok'\n[eval]\nevery = 0\n[loss_scale]\ninitial = 256",
        )
        .unwrap();
        assert_eq!(config.model.head_dim, 128, "from the preset");
        assert_eq!(config.optimizer.lr, 2.1e-3, "3e-3 * 192 / 384 * sqrt(4 / 2), to two digits");
        assert_eq!(config.batch, 2, "512 tokens in sequences of 256");
        assert_eq!(config.model.residual_scale, 0.5, "1/sqrt(2 * 2)");
        assert_eq!(config.model.init.embedding_std, 0.051, "1/sqrt(384)");
        assert_eq!(config.cut, Auto::Value(model::Cut::Ten));
        assert_eq!(config.loss_scale.initial, Auto::Value(256.0));
        assert_eq!(config.schedule.warmup, Stretch::Amount(Budget::Tokens(1_000_000)));
        assert_eq!(config.schedule().warmup, 0.05);
        assert_eq!(config.eval.every, Stretch::Share(0.0));
    }

    #[test]
    fn a_resolved_config_resolves_to_itself() {
        for name in presets::NAMES {
            let config = resolve(&format!("preset = '{name}'\nseed = 7\n[optimizer]\nlr = 0.01\n")).unwrap();
            assert_eq!(resolve(&config.to_toml()).unwrap(), config, "{name}");
        }
    }

    #[test]
    fn options_win_over_the_file_and_stand_in_errors() {
        let mut user = UserConfig::parse("budget = '5m'\n[optimizer]\nlr = 1", "my.toml").unwrap();
        user.set("budget", "10steps", "--budget");
        user.set("optimizer.multipliers.norm", 2.0, "--set");
        let config = user.resolve().unwrap();
        assert_eq!(config.budget, Budget::Steps(10));
        assert_eq!((config.optimizer.lr, config.optimizer.multipliers.norm), (1.0, 2.0));
        user.set("budget", "soon", "--budget");
        let error = user.resolve().unwrap_err().to_string();
        assert!(
            error.starts_with("--budget: budget = \"soon\": `soon` does not begin with a number"),
            "{error}"
        );
    }

    #[test]
    fn other_data_is_not_held_to_what_an_earlier_run_recorded() {
        let mut recorded = RunConfig::of_preset("tiny").unwrap();
        recorded.data.tokenizer_hash = "abc".into();
        recorded.data.train_tokens = 7;
        let mut user = UserConfig::parse(&recorded.to_toml(), "config.toml").unwrap();
        assert_eq!(user.resolve().unwrap(), recorded);
        user.set("data.source", "stories:2", "--data");
        let data = user.resolve().unwrap().data;
        assert_eq!((data.tokenizer_hash.as_str(), data.train_tokens), ("", 0));
    }

    #[test]
    fn every_mistake_names_line_key_value_and_repair() {
        for (text, wanted) in [
            (
                "preset = 'tiny'\n[optimizer]\nlerning_rate = 1\n",
                "my.toml, line 3: there is no key `optimizer.lerning_rate`; there are beta1, ",
            ),
            ("budgte = '5m'", "my.toml, line 1: there is no key `budgte`; there are accum, "),
            ("[optimiser]\nlr = 1", "my.toml, line 1: there is no key `optimiser`; there are "),
            (
                "[model.init]\nstd = 1",
                "my.toml, line 2: there is no key `model.init.std`; there are classifier_gain, ",
            ),
            ("[budget]\nsteps = 5", "my.toml, line 1: there is no key `budget`"),
            (
                "preset = 'huge'",
                "my.toml, line 1: preset = \"huge\": there is no preset `huge`; there are odd, odd-all, tiny, ",
            ),
            ("preset = 3", "my.toml, line 1: preset = 3: expected one of odd, "),
            (
                "optimizer = 3",
                "my.toml, line 1: optimizer = 3: this is a table, [optimizer], with the keys beta1, ",
            ),
            (
                "\nbatch = 'many'",
                "my.toml, line 2: batch = \"many\": invalid type: string \"many\", expected usize",
            ),
            ("batch = 0", "my.toml, line 1: batch = 0: expected 1 to 65536"),
            ("batch = -1", "my.toml, line 1: batch = -1: "),
            (
                "[optimizer]\nkind = 'adam'",
                "my.toml, line 2: optimizer.kind = \"adam\": unknown variant `adam`, expected `adamw` or `muon`",
            ),
            ("[optimizer]\nlr = -1.0", "my.toml, line 2: optimizer.lr = -1: expected 0 to 10"),
            (
                "[optimizer]\nbeta2 = 1.0",
                "my.toml, line 2: optimizer.beta2 = 1: expected 0 or more, and less than 1",
            ),
            ("[model]\nhead_dim = 63", "my.toml, line 2: model.head_dim = 63: rotary embeddings"),
            (
                "[model.init]\nmatrix_gain = -1",
                "my.toml, line 2: model.init.matrix_gain = -1: expected 0 to 1000",
            ),
            (
                "\n[[optimizer.groups]]\nkind = 'gate'",
                "my.toml, line 2: optimizer.groups[0].kind = \"gate\": unknown variant `gate`, expected one of `matrix`, ",
            ),
            (
                "[[optimizer.groups]]\nkind = 'norm'\nbeta1 = 1.0",
                "my.toml, line 1: optimizer.groups[0].beta1 = 1: expected 0 or more, and less than 1",
            ),
            (
                "[[optimizer.groups]]\nkind = 'norm'\n[[optimizer.groups]]\nkind = 'norm'",
                "my.toml, line 1: optimizer.groups[1].kind = \"norm\": this kind stands there twice",
            ),
            (
                "[model]\nwindow = 8\nwindow_pattern = 'SX'",
                "my.toml, line 3: model.window_pattern = SX: `X` is no window; expected letters S and L",
            ),
            (
                "cut = 'half'",
                "my.toml, line 1: cut = \"half\": expected \"auto\", \"whole\", \"attn|ffn\" or \"ten\"",
            ),
            (
                "budget = '5M'",
                "my.toml, line 1: budget = \"5M\": `M` is no unit; expected something like 30s, ",
            ),
            ("[eval]\nevery = 2", "my.toml, line 2: eval.every = 2: as a number it is a share of the budget"),
            ("[eval]\nevery = true", "my.toml, line 2: eval.every = true: expected a share of the budget"),
            (
                "[schedule]\nwarmup = '100steps'",
                "my.toml, line 2: schedule.warmup = 100steps: with budget = 2m",
            ),
            (
                "[loss_scale]\ninitial = 'big'",
                "my.toml, line 2: loss_scale.initial = \"big\": expected \"auto\" or a number",
            ),
            (
                "[loss_scale]\nmin = 9.0\nmax = 3.0",
                "my.toml, line 2: loss_scale.min = 9: it must not exceed loss_scale.max = 3",
            ),
            ("[data]\nsource = 'stories:x'", "my.toml, line 2: data.source = \"stories:x\": "),
            ("a = 1\nb = = 2", "my.toml, line 2: this is not TOML: "),
        ] {
            let error = resolve(text).expect_err(text).to_string();
            assert!(error.starts_with(wanted), "{text}:\n{error}\nexpected\n{wanted}");
        }
    }
}

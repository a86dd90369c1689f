//! What somebody wrote, in a file or as options, and what it resolves to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use model::presets;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::check::Problem;
use crate::config::{DEFAULT_PRESET, default_accum, default_batch, default_lr};
use crate::{Error, Result, RunConfig, recipes};

/// Keys that only a run writes, into its `config.toml`, one of them since there are runs.
const KEPT: [&str; 2] = ["data.tokenizer_hash", "schedule.changed_after"];
/// What a preset says of a model before all else.
const SIZES: [&str; 8] =
    ["n_layers", "width", "n_heads", "n_kv_heads", "head_dim", "ffn_hidden", "vocab_size", "seq_len"];

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
    /// Keys as an earlier run kept them, which keeps all that there are, also those without effect.
    kept: BTreeSet<String>,
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
        let of_run = KEPT.iter().any(|key| places.contains_key(*key));
        let kept = if of_run { places.keys().cloned().collect() } else { BTreeSet::new() };
        Ok(UserConfig { table: toml::from_str(text).map_err(fail)?, places, kept })
    }

    /// As [`UserConfig::set`], with a value as TOML spells it, or else the text itself, so that strings need no quotes.
    pub fn set_text(&mut self, key: &str, text: &str, place: &str) {
        self.set(key, value_of(text), place);
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
        self.kept.remove(key);
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

    /// The key itself, or the first one of its table, whose value somebody chose for this run.
    fn chosen(&self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::Table(inside) => inside.keys().find_map(|name| self.chosen(&format!("{key}.{name}"))),
            _ => (!self.kept.contains(key)).then(|| key.to_owned()),
        }
    }

    /// Fills in everything that was not written and checks everything that was.
    ///
    /// A recipe stands under everything else that was written; where none was, presets that stand for no published
    /// model have [ours](recipes::DEFAULT), and `recipe = ""` asks for none. With another `optimizer.lr` than a recipe's,
    /// the rate that it has for Muon keeps its ratio to it, unless that was written, too. The preset gives the model's sizes,
    /// also instead of a recipe's when it is another than the recipe's, and the other defaults. Three of them follow what was
    /// written: the rate the width, the batch the sequence length, and a residual scale of 1/sqrt(2L) the number of layers. A
    /// relative path of a text file or tokenizer is taken from the present directory and made absolute, so that a run can be
    /// resumed from anywhere.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] and [`Error::Value`], naming place, key, value and what would be right; also of a key that was
    /// written here, and not kept by a run, and has no effect beside the others.
    pub fn resolve(&self) -> Result<RunConfig> {
        let ours = Value::from(recipes::DEFAULT);
        let name = match self.table.get("recipe") {
            Some(name) => name,
            None if recipes::is_default_of(self.preset()?) => &ours,
            None => return self.resolve_whole(self),
        };
        if name.as_str() == Some("") {
            return self.resolve_whole(self);
        }
        let Some((name, text)) = name.as_str().and_then(|name| Some((name, recipes::text(name)?))) else {
            let known = recipes::names().collect::<Vec<_>>().join(", ");
            let is_path = name.as_str().is_some_and(|name| name.contains(['/', '.']));
            let repair =
                if is_path { "; a file of settings goes without --recipe: anneal train FILE" } else { "" };
            let problem = format!("there is no such recipe; there are {known}{repair}");
            return Err(self.value_error("recipe", &problem));
        };
        let place = format!("recipe {name}");
        let mut recipe = UserConfig::parse(text, &place)?;
        recipe.set("recipe", name, &place);
        if let (Some(own), Some(asked)) = (recipe.get("preset"), self.get("preset"))
            && own != asked
        {
            recipe.forget_sizes();
        }
        let rates = ["optimizer.lr", "optimizer.muon.lr"].map(|key| recipe.number(key));
        let mut whole = recipe.under(self);
        // Who asks for half the rate means that of matrices, too.
        if let ([Some(lr), Some(of_muon)], Some(asked)) = (rates, self.number("optimizer.lr"))
            && !self.has("optimizer.muon.lr")
            && lr > 0.0
        {
            whole.set("optimizer.muon.lr", of_muon * (asked / lr), &self.place("optimizer.lr"));
        }
        whole.resolve_whole(self)
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

    /// Leaves the model's sizes to the preset.
    fn forget_sizes(&mut self) {
        for size in SIZES {
            self.places.remove(&format!("model.{size}"));
            if let Some(Value::Table(model)) = self.table.get_mut("model") {
                model.remove(size);
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

    /// Resolves what is complete but for the preset; `user` is what of it somebody wrote.
    fn resolve_whole(&self, user: &UserConfig) -> Result<RunConfig> {
        let base = RunConfig::of_preset(self.preset()?)
            .map_err(|error| self.value_error("preset", &error.to_string()))?;
        let mut table = Table::try_from(&base).expect("every field of a run can be written as TOML");
        self.merge(&mut table, &self.table, "")?;
        let mut config: RunConfig =
            serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|error| {
                let key = error.path().to_string();
                // toml repeats the key below its message.
                let problem = error.into_inner().message().lines().next().unwrap_or_default().to_owned();
                self.value_error(&key, &in_plain_words(&problem, &table, &key).unwrap_or(problem))
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
        let contradiction =
            config.contradictions().into_iter().find_map(|(key, problem)| Some((user.chosen(key)?, problem)));
        let mistake = config.check().err();
        let is_theirs = mistake.as_ref().is_some_and(|mistake| user.chosen(&mistake.key).is_some());
        match (mistake, contradiction) {
            // What stands in a recipe or preset is not to blame for what was written beside it.
            (_, Some((key, problem))) if !is_theirs => return Err(user.value_error(&key, &problem)),
            (Some(Problem { key, value, problem }), _) => {
                return Err(Error::Value { place: self.place(&key), key, value, problem });
            }
            (None, _) => (),
        }
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

/// What may stand at `key` of a run's `table`, where a value of another type stands; `None` where `problem`, which serde
/// has with it, says so itself.
fn in_plain_words(problem: &str, table: &Table, key: &str) -> Option<String> {
    let (_, expected) = problem.rsplit_once(", expected ")?;
    let number = |words: &str, otherwise: &str| match allowed_numbers(table, key) {
        Some(allowed) => format!("{words}, {allowed}"),
        None => format!("{words}{otherwise}"),
    };
    let words = match expected {
        "usize" | "u64" => number("a whole number", ", 0 or more"),
        "u32" => number("a whole number", &format!(", 0 to {}", u32::MAX)),
        "f32" | "f64" => number("a number", ""),
        "a boolean" => "true or false".into(),
        "a string" => "a text".into(),
        // One of several names, which serde tells who gives it another name.
        "string only" => {
            let error = with(table, key, "").err()?;
            error.message().lines().next()?.strip_prefix("unknown variant ``, expected ")?.to_owned()
        }
        "a sequence" => "a list".into(),
        "struct GroupConfig" => "a table".into(),
        _ => return None,
    };
    Some(format!("expected {words}"))
}

/// The numbers that are allowed at `key` of a run's `table`, in the words in which the checks refuse others.
fn allowed_numbers(table: &Table, key: &str) -> Option<String> {
    [i64::MAX, 0].into_iter().find_map(|refused| {
        let found = with(table, key, refused).ok()?.check().err()?;
        let allowed = found.problem.strip_prefix("expected ")?;
        (found.key == key).then(|| allowed.to_owned())
    })
}

/// The run of `table` with another value at `key`.
fn with(table: &Table, key: &str, value: impl Into<Value>) -> Result<RunConfig, toml::de::Error> {
    let mut user = UserConfig { table: table.clone(), ..UserConfig::default() };
    user.set(key, value, "");
    RunConfig::deserialize(Value::Table(user.table))
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

fn value_of(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    let value = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Auto, Budget, Stretch};

    #[test]
    fn values_are_toml_or_else_text() {
        assert_eq!(value_of("3"), Value::Integer(3));
        assert_eq!(value_of("1e-3"), Value::Float(1e-3));
        assert_eq!(value_of("true"), Value::Boolean(true));
        assert_eq!(value_of("\"5\""), Value::String("5".into()));
        assert_eq!(value_of("attn|ffn"), Value::String("attn|ffn".into()));
        assert_eq!(value_of("a\nb = 1"), Value::String("a\nb = 1".into()));
        assert_eq!(value_of("1\nb = 1"), Value::String("1\nb = 1".into()));
    }

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

    /// Oracle: the formulas that the values stand in, by hand; a run's own file holds every key.
    #[test]
    fn what_has_no_effect_is_refused_for_who_wrote_it() {
        for (text, wanted) in [
            (
                "recipe = 'v3b'\n[schedule]\ndecay = 0.3",
                "line 3: schedule.decay = 0.3: it has no effect with schedule.kind = \"cosine\"; leave it out, or set schedule.kind = \"wsd\"",
            ),
            (
                "[schedule]\nkind = 'linear'\ndecay = 0.3",
                "line 3: schedule.decay = 0.3: it has no effect with ",
            ),
            (
                "[optimizer]\nkind = 'adamw'\nmuon = { cautious = false }",
                "line 3: optimizer.muon.cautious = false: it has no effect with optimizer.kind = \"adamw\"; leave it out, ",
            ),
            (
                "[optimizer.muon]\nmomentum_start = 0.97",
                "line 2: optimizer.muon.momentum_start = 0.97: it must not exceed optimizer.muon.momentum = 0.95, to which it rises",
            ),
            (
                "[model]\ntied = true\n[model.init]\nclassifier_gain = 0.5",
                "line 4: model.init.classifier_gain = 0.5: it has no effect with model.tied = true; leave it out, or set model.tied = false",
            ),
            (
                "[model.init]\noutput_gain = 0.5",
                "line 2: model.init.output_gain = 0.5: it has no effect with model.init.zero_output_projections = true",
            ),
            (
                "[model]\nwindow = 257",
                "line 2: model.window = 257: no query sees more than its sequence; expected 0 (all of it) to model.seq_len = 256",
            ),
        ] {
            let error = resolve(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("my.toml, {wanted}")), "{text}:\n{error}\nexpected\n{wanted}");
        }
        // Nobody wrote them here, or what they say is so.
        for text in [
            "recipe = 'autoresearch'\n[optimizer]\nkind = 'adamw'",
            "[model]\ntied = true",
            "[schedule]\nkind = 'cosine'",
            "[schedule]\nkind = 'cosine'\ndecay = 0.0",
            "[model]\nwindow = 256\nwindow_pattern = 'SL'",
        ] {
            let config = resolve(text).unwrap();
            assert_eq!(resolve(&config.to_toml()).unwrap(), config, "{text}");
            // The file of a run may be the start of another; what is added to it is somebody's again.
            let mut user = UserConfig::parse(&config.to_toml(), "config.toml").unwrap();
            user.set("data.source", "stories:2", "--data");
            user.set("model.window", 16, "--set");
            user.set("model.window_pattern", "S", "--set");
            user.resolve().unwrap();
            user.set("model.window", 3000, "--set");
            let error = user.resolve().unwrap_err().to_string();
            assert!(error.starts_with("--set: model.window = 3000: no query sees more"), "{error}");
        }
        let mut kept =
            UserConfig::parse(&resolve("recipe = 'v3b'").unwrap().to_toml(), "config.toml").unwrap();
        kept.set("optimizer.muon.lr", 0.02, "--set");
        let error = kept.resolve().unwrap_err().to_string();
        assert!(error.starts_with("--set: optimizer.muon.lr = 0.02: it has no effect"), "{error}");
    }

    #[test]
    fn of_two_keys_that_do_not_go_together_the_written_one_is_named() {
        for (text, wanted) in [
            ("[model]\nn_kv_heads = 2", "line 2: model.n_kv_heads = 2: it must divide n_heads = 3"),
            (
                "[model]\nn_heads = 4",
                "line 2: model.n_heads = 4: it must be a multiple of model.n_kv_heads = 3; set that, too",
            ),
            (
                "recipe = 'autoresearch'\n[model]\nn_heads = 6",
                "line 3: model.n_heads = 6: it must be a multiple of model.n_kv_heads = 4; set that, too",
            ),
            (
                "[model]\nn_heads = 4\nn_kv_heads = 3",
                "line 3: model.n_kv_heads = 3: it must divide n_heads = 4",
            ),
            (
                "[loss_scale]\nmax = 0.5",
                "line 2: loss_scale.max = 0.5: it must not be less than loss_scale.min = 1; set that, too",
            ),
            (
                "recipe = 'autoresearch'\n[data]\npacking = 'windows'",
                "line 3: data.packing = \"windows\": windows always come in a random order; set data.shuffle = true, too",
            ),
        ] {
            let error = resolve(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("my.toml, {wanted}")), "{text}:\n{error}\nexpected\n{wanted}");
        }
    }

    /// Oracle: the ranges of `check.rs` and of the model's own checks, and the types of `config.rs`.
    #[test]
    fn a_value_of_another_type_is_told_what_may_stand_there() {
        for (key, value, wanted) in [
            ("batch", "-1", "a whole number, 1 to 65536"),
            ("accum", "1.5", "a whole number, 1 to 1048576"),
            ("seed", "-1", "a whole number, 0 or more"),
            ("checkpoint.keep", "\"all\"", "a whole number, at least 1"),
            ("optimizer.lr", "\"fast\"", "a number, 0 to 10"),
            ("optimizer.beta1", "true", "a number, 0 or more, and less than 1"),
            ("optimizer.eps", "\"small\"", "a number, more than 0, at most 1"),
            ("optimizer.muon.momentum_warmup", "-3", "a whole number, 0 or more"),
            ("optimizer.token_rate_width", "-1", "a whole number, 0 to 4294967295"),
            ("optimizer.decay_falls", "1", "true or false"),
            ("optimizer.kind", "3", "`adamw` or `muon`"),
            ("optimizer.groups", "3", "a list"),
            ("guard.lr_factor", "\"half\"", "a number, 0.01 to 0.99"),
            ("model.width", "-1", "a whole number, 1 to 1048576"),
            ("model.residual_scale", "\"1/L\"", "a number, more than 0, and finite"),
            ("data.source", "3", "a text"),
        ] {
            let error = resolve(&format!("{key} = {value}")).expect_err(key).to_string();
            assert_eq!(error, format!("my.toml, line 1: {key} = {value}: expected {wanted}"));
        }
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
            ("\nbatch = 'many'", "my.toml, line 2: batch = \"many\": expected a whole number, 1 to 65536"),
            ("batch = 0", "my.toml, line 1: batch = 0: expected 1 to 65536"),
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

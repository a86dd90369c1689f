//! What the user typed behind `anneal mil estimate`.

use clap::{ArgGroup, Args as ClapArgs, ValueEnum};
use mil::lint::Chip;
use model::Cut;

use super::numbers::{gigabytes, whole};
use super::{RouteName, cut};

/// Predict how long a training step would take on the Neural Engine, chip by chip
///
/// Counts the programs that a model is made of and sets them against rates that others measured; which
/// rates are assumed is said below the table, and `--published` says how far off the model is.
#[derive(Debug, ClapArgs)]
#[command(
    group(ArgGroup::new("what").args(["published", "choose", "boundary"])),
    after_help = "\
EXAMPLES:
  anneal mil estimate --preset gpt-48m
  anneal mil estimate --preset gpt-48m --batch 8 --cut ten --chip all
  anneal mil estimate --preset stories110m --choose --sequences 16 --memory 16
  anneal mil estimate --preset gpt-48m --boundary    # bytes per token, beside autoresearch-ANE's
  anneal mil estimate --published                    # how far predictions are off
  anneal mil estimate --preset tiny --json | jq '.chips.m4.tok_s'"
)]
pub(crate) struct EstimateArgs {
    /// The model
    #[arg(long, short, value_name = "NAME", default_value = train::DEFAULT_PRESET)]
    pub(crate) preset: String,
    /// Tokens in a sequence [default: the preset's]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) seq: Option<usize>,
    /// Sequences in a batch, which one dispatch computes side by side
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<usize>)]
    pub(crate) batch: usize,
    /// Batches whose gradients make one update
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<usize>)]
    pub(crate) batches: usize,
    /// How a layer is divided into programs: whole, attn (for attn|ffn) or ten
    #[arg(long, default_value = "whole", value_parser = cut)]
    pub(crate) cut: Cut,
    /// Which activations the backward pass finds kept
    #[arg(long, value_enum, default_value_t = TapsName::Keep)]
    pub(crate) taps: TapsName,
    /// The chip: m1, m2, m3, m4, m5 or all
    #[arg(long, value_name = "CHIP", default_value = "m4", value_parser = chips)]
    pub(crate) chip: Chips,
    /// The way to the engine
    #[arg(long, value_enum, default_value_t = RouteName::Ane)]
    pub(crate) route: RouteName,
    /// Instead, compare predictions with the times that other systems published
    #[arg(long)]
    pub(crate) published: bool,
    /// Instead, sort every cut, taps and batch by the predicted time of a step
    #[arg(long)]
    pub(crate) choose: bool,
    /// With --choose: sequences in a step, which batches divide
    #[arg(long, value_name = "N", default_value_t = 16, requires = "choose", value_parser = whole::<usize>)]
    pub(crate) sequences: usize,
    /// With --choose: what a run may hold, in GB
    #[arg(long, value_name = "GB", default_value_t = 16.0, requires = "choose", value_parser = gigabytes)]
    pub(crate) memory: f64,
    /// Instead, what crosses between host and device for a token, as a table in Markdown
    #[arg(long)]
    pub(crate) boundary: bool,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which activations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TapsName {
    /// Every product's result
    Keep,
    /// Only what passes between forward programs
    Recompute,
}

/// One chip or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chips(pub(crate) Vec<Chip>);

/// `m4`, as `--chip` spells it.
pub(crate) fn chip_name(chip: Chip) -> String {
    format!("{chip:?}").to_lowercase()
}

fn chips(text: &str) -> Result<Chips, String> {
    let named: Vec<Chip> =
        Chip::ALL.into_iter().filter(|chip| text == "all" || chip_name(*chip) == text).collect();
    if named.is_empty() { Err("there are m1, m2, m3, m4, m5 and all".to_owned()) } else { Ok(Chips(named)) }
}

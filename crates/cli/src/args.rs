//! What the user typed. Nothing here touches the system; what the words mean is found out by the
//! command that they belong to.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use model::Cut;
use train::{Budget, Pick};

mod estimate;
mod numbers;

pub(crate) use estimate::{EstimateArgs, TapsName, chip_name};
use numbers::{rate, temperature, whole, whole_in};

/// Trains language models on the Neural Engine of Apple Silicon and on any CPU.
#[derive(Debug, Parser)]
#[command(
    name = "anneal",
    version,
    arg_required_else_help = true,
    after_help = "\
EXAMPLES:
  anneal train                                    two minutes: built-in stories, a 2M model, a story
  anneal train --data notes.txt --budget 10m      the same on your own text
  anneal generate runs/notes --prompt 'One day'   let a trained model write

`anneal COMMAND --help` tells more about each command."
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// What this process was asked for. It ends when that is help, or no command of ours.
    pub(crate) fn read() -> Args {
        let matches = Args::definition().get_matches();
        Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Options with a number or a length take what begins with a minus, too, and say themselves what is wrong with it.
    fn definition() -> clap::Command {
        fn take_minus(command: clap::Command) -> clap::Command {
            let numbers = [
                TypeId::of::<u16>(),
                TypeId::of::<u32>(),
                TypeId::of::<u64>(),
                TypeId::of::<usize>(),
                TypeId::of::<f64>(),
                TypeId::of::<Budget>(),
            ];
            let command = command.mut_args(|arg| {
                let of = arg.get_value_parser().type_id();
                let takes = numbers.iter().any(|number| of == *number) && !arg.is_require_equals_set();
                if takes { arg.allow_hyphen_values(true) } else { arg }
            });
            command.mut_subcommands(take_minus)
        }
        take_minus(Args::command())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(TrainArgs),
    Eval(EvalArgs),
    Generate(GenerateArgs),
    Report(ReportArgs),
    /// Prepare text for training, and look at text and tokenizers
    #[command(subcommand)]
    Data(DataCommand),
    Devices(DevicesArgs),
    /// Print and check the programs that a model is made of
    #[command(subcommand)]
    Mil(MilCommand),
    Bench(BenchArgs),
    /// Try a program on an engine, as a request on standard input says; for our own child processes
    #[command(name = crate::device_choice::PROBE_COMMAND, hide = true)]
    ProbeEngine,
}

/// Train a model, or go on with a run
///
/// Without arguments: the built-in stories, the preset `tiny`, the best device that this machine
/// has, two minutes; at the end val_bpb beside the best that any model could reach on that text,
/// and a story. Ctrl-C writes a checkpoint and says how to go on.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal train
  anneal train --preset gpt-48m --data books/ --budget 2h --out runs/books
  anneal train --recipe v3b --data climbmix:10 --budget 8h
  anneal train my.toml --set optimizer.weight_decay=0.05 --set model.n_layers=8
  anneal train --resume runs/books
  anneal train --resume runs/books --budget 4h --schedule stretch
  anneal train --resume runs/books --decay-now=10m")]
pub(crate) struct TrainArgs {
    /// A TOML file of settings; options win over it
    pub(crate) config: Option<PathBuf>,
    /// The model to start from: odd, odd-all, tiny, deep-5m, gpt-48m, autoresearch, gpt-68m, stories110m,
    /// qwen3-0.6b
    #[arg(long, short, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Settings under everything else: anneal (ours, the default of tiny, deep-5m, gpt-48m and gpt-68m), those of a
    /// published run: v1, v2, ane-10k, v3, v3b, s1024, maderix, autoresearch, autoresearch-mlx (docs/recipes.md),
    /// or '' for none: a plain Llama and AdamW
    #[arg(long, value_name = "NAME")]
    pub(crate) recipe: Option<String>,
    /// Text to train on: `stories`, `stories:SEED`, a .txt, .md, .jsonl or .parquet file, or a
    /// folder of one of these
    #[arg(long, short, value_name = "SOURCE")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// How long: 30s, 5m, 2h, 2000steps, 500ktok, 20Mtok
    #[arg(long, short, value_name = "LENGTH")]
    pub(crate) budget: Option<Budget>,
    /// Go on with the run in this directory, from its newest checkpoint that is whole
    #[arg(
        long,
        value_name = "RUN",
        conflicts_with_all = ["config", "preset", "recipe", "data", "out", "seed", "batch", "lr", "set"]
    )]
    pub(crate) resume: Option<PathBuf>,
    /// With --resume and --budget: what becomes of the learning rate
    #[arg(long, value_name = "HOW", requires_all = ["resume", "budget"])]
    pub(crate) schedule: Option<NewSchedule>,
    /// With --resume: let the rate fall to nothing from now on, and end [over: a tenth of what was trained]
    #[arg(
        long,
        value_name = "LENGTH",
        num_args = 0..=1,
        require_equals = true,
        requires = "resume",
        conflicts_with_all = ["budget", "schedule"]
    )]
    pub(crate) decay_now: Option<Option<Budget>>,
    /// The directory of the new run [default: runs/DATE_TIME-PRESET]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of the initial weights and of the order of the text
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) seed: Option<u32>,
    /// Sequences in a batch
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) batch: Option<u32>,
    /// Learning rate; what a recipe has for parts of the model, Muon's matrices among them, keeps its ratio to it
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) lr: Option<f64>,
    /// Any setting of the TOML file by its whole key; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, action = ArgAction::Append)]
    pub(crate) set: Vec<(String, String)>,
    /// Print one JSON object per line, for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors and the result
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// What becomes of the rate of a run that is given another budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NewSchedule {
    /// The schedule becomes as long as the budget: the rate goes back up to where it would be by now
    Stretch,
    /// The schedule begins anew, warm-up included, for what is left of the budget
    Restart,
    /// The rate falls in a line to nothing until the budget's end
    Decay,
}

/// What matrix products read; sums, weights and the optimiser are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// As it is
    F32,
    /// Rounded to 8 significant bits: training is faster where the processor multiplies such numbers
    /// (AVX512-BF16), slower elsewhere; `generate` reads half as much memory anywhere
    Bf16,
}

impl From<Precision> for cpu::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// Where programs run.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct DeviceArgs {
    /// Where to compute: auto, ane, gpu, bnns, cpu, sim, sim:CHIP; `anneal devices` lists them all
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// The chip that `sim` computes like, or that `ane` is taken for: m1, m2, m3, m4, m5; sim: exact
    #[arg(long, value_name = "CHIP")]
    pub(crate) chip: Option<String>,
    /// What `cpu` rounds the operands of matrix products to [default: f32; a run's own]
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = whole::<u16>)]
    pub(crate) threads: Option<u16>,
}

/// Measure a run's model in bits per byte
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal eval runs/notes
  anneal eval runs/notes --checkpoint best --data other.txt --stride 64
  anneal eval runs/notes --protocol autoresearch --bytes compat
  anneal eval runs/notes --protocol ane-windows --no-softcap
  anneal eval runs/notes --json | jq .val_bpb

PROTOCOLS:
  full          every token of the held-out text once, in windows side by side
  windows       --windows N of them, at equal distances
  sliding       windows that move on by --stride N: every token once, with more text before it
  autoresearch  documents packed into rows by best fit, as in Karpathy's autoresearch (its own
                window is 2048 and its bytes were `compat` at first)
  ane-windows   20 windows at equal distances, wherever documents begin, as in autoresearch-ANE
                (its published figures are with --no-softcap)
Figures of different protocols or windows are of different things.")]
pub(crate) struct EvalArgs {
    /// The directory of a run
    pub(crate) run: PathBuf,
    /// Measure on this text's held-out part instead of the run's own
    #[arg(long, short, value_name = "SOURCE")]
    pub(crate) data: Option<String>,
    /// What is counted [default: full; windows with --windows, sliding with --stride]
    #[arg(long, value_name = "NAME")]
    pub(crate) protocol: Option<EvalProtocol>,
    /// Windows to measure
    #[arg(long, value_name = "N", conflicts_with = "stride", value_parser = whole::<usize>)]
    pub(crate) windows: Option<usize>,
    /// Tokens from one sliding window to the next
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) stride: Option<usize>,
    /// Tokens in a window [default: the sequence length that the run was trained with]
    #[arg(long, value_name = "T", value_parser = whole::<usize>)]
    pub(crate) window: Option<usize>,
    /// With autoresearch: tokens to measure; its MLX port takes 1572864
    #[arg(long, value_name = "N", default_value_t = train::AUTORESEARCH_TOKENS, value_parser = whole::<u64>)]
    pub(crate) eval_tokens: u64,
    /// With autoresearch: rows in a batch, which decides where the last whole batch ends
    #[arg(long, value_name = "N", default_value_t = train::AUTORESEARCH_BATCH, value_parser = whole::<u64>)]
    pub(crate) eval_batch: u64,
    /// How bytes of a token are counted: its own, or those of the token decoded alone
    #[arg(long, value_name = "HOW", default_value = "raw")]
    pub(crate) bytes: EvalBytes,
    /// Leave out the softcap that the model was trained with, as autoresearch-ANE's validation does
    #[arg(long)]
    pub(crate) no_softcap: bool,
    /// Which checkpoint: newest, best (of the lowest val_bpb), a step, or a checkpoint's name
    #[arg(long, value_name = "WHICH", default_value_t = Pick::Newest)]
    pub(crate) checkpoint: Pick,
    /// Take the weights that training goes on with, and not their mean, of a run that keeps one
    #[arg(long)]
    pub(crate) raw_weights: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// The names of [`train::Protocol`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EvalProtocol {
    Full,
    Windows,
    Sliding,
    Autoresearch,
    AneWindows,
}

/// Ways of counting a token's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EvalBytes {
    Raw,
    Compat,
}

/// Let a trained model write
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal generate runs/notes
  anneal generate runs/notes --prompt 'Once upon a time' --temperature 0
  anneal generate runs/notes --stories 3 --seed 7 --max-tokens 200
  anneal generate runs/notes --checkpoint best")]
pub(crate) struct GenerateArgs {
    /// The directory of a run
    pub(crate) run: PathBuf,
    /// The beginning of the text
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    pub(crate) prompt: String,
    /// Tokens to write at most; a text that ends earlier ends
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = whole::<usize>)]
    pub(crate) max_tokens: usize,
    /// How freely to choose: 0 always takes the likeliest token
    #[arg(long, short, value_name = "T", default_value_t = 0.8, value_parser = temperature)]
    pub(crate) temperature: f64,
    /// Choose among the likeliest K tokens; 0 among all
    #[arg(long, value_name = "K", default_value_t = 50, value_parser = whole::<usize>)]
    pub(crate) top_k: usize,
    /// Seed of the choices: the same seed writes the same text
    #[arg(long, value_name = "N", default_value_t = 42, value_parser = whole::<u64>)]
    pub(crate) seed: u64,
    /// How many texts to write
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = whole::<u64>)]
    pub(crate) stories: u64,
    /// Which checkpoint: newest, best (of the lowest val_bpb), a step, or a checkpoint's name
    #[arg(long, value_name = "WHICH", default_value_t = Pick::Newest)]
    pub(crate) checkpoint: Pick,
    /// Take the weights that training goes on with, and not their mean, of a run that keeps one
    #[arg(long)]
    pub(crate) raw_weights: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print one JSON object for each text, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write runs side by side into one HTML file: curves, figures, settings, events
///
/// The file needs nothing else to be read and asks no network; the small script in it only shows values
/// under the pointer, hides runs and sorts tables. Runs may still be going on, or have been killed; nothing
/// in their directories is changed. An older report of that name is replaced, anything else is not.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal report runs/notes
  anneal report runs/a runs/b runs/c --out compare.html
  anneal report runs/* --json | jq '.runs[] | [.name, .val_bpb]'")]
pub(crate) struct ReportArgs {
    /// The directories of runs
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the report goes
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    Prepare(PrepareArgs),
    Inspect(InspectArgs),
    Tokenizer(TokenizerArgs),
}

/// Train a tokenizer and write token files into the cache, as training would do first
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal data prepare climbmix --shards 2
  anneal data prepare tinystories --vocab 4096
  anneal data prepare hf:owner/name@main/folder:column
  zcat *.txt.gz | anneal data prepare - --lenient
  anneal data prepare books/
  anneal data prepare notes.txt --vocab 4096
  anneal data prepare more.jsonl --tokenizer runs/books/tokenizer.json")]
pub(crate) struct PrepareArgs {
    /// `stories`, `stories:SEED`, `climbmix`, `tinystories`, `hf:OWNER/NAME`, a file or a folder of text, or - for standard input
    pub(crate) source: String,
    /// The column of Parquet files, or the field of JSON lines, with the text
    #[arg(long, value_name = "NAME", default_value = data::corpus::COLUMN)]
    pub(crate) column: String,
    /// Pass over what cannot be read, and say how much that was, instead of ending with an error
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Training shards of climbmix, some 100 MB each; the validation shard comes with them
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) shards: Option<u32>,
    /// Files that are downloaded at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<usize>)]
    pub(crate) jobs: usize,
    /// Where the Hugging Face Hub is, or a mirror [default: HF_ENDPOINT, else https://huggingface.co]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Size of the vocabulary [default: 8192, 2048 for small sources]
    #[arg(long, value_name = "N", conflicts_with = "tokenizer", value_parser = whole::<usize>)]
    pub(crate) vocab: Option<usize>,
    /// Use this tokenizer (a tokenizer.json, llama2.c's tokenizer.bin or a rank file) instead of training one
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what a corpus, a file of tokens or a tokenizer holds: counts, lengths, duplicates, tokens, samples
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal data inspect books/
  anneal data inspect books/ --tokenizer runs/books/tokenizer.json --top 20
  anneal data inspect ~/.cache/anneal/datasets/books-0123456789abcdef
  anneal data inspect train.bin --tokenizer tokenizer.bin
  anneal data inspect runs/books
  anneal data inspect stories --json | jq .train.duplicates")]
pub(crate) struct InspectArgs {
    /// A source of text as for `prepare`, a prepared data set, a .tokens or .bin file, a tokenizer, or a run
    pub(crate) source: String,
    /// Count the tokens of this tokenizer; what ids of a .bin file mean
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens in each table
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole::<usize>)]
    pub(crate) top: usize,
    /// Documents to show, from all over the text
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<usize>)]
    pub(crate) samples: usize,
    /// The column of Parquet files, or the field of JSON lines, with the text
    #[arg(long, value_name = "NAME", default_value = data::corpus::COLUMN)]
    pub(crate) column: String,
    /// Pass over what cannot be read, and say how much that was, instead of ending with an error
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what a tokenizer is, and how it divides a text
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal data tokenizer runs/notes
  anneal data tokenizer tokenizer.json --text 'Once upon a time'
  anneal data tokenizer tokenizer.bin --export tokenizer.json")]
pub(crate) struct TokenizerArgs {
    /// The directory of a run, a tokenizer.json, llama2.c's tokenizer.bin, or a rank file of tiktoken
    pub(crate) path: PathBuf,
    /// Write it as a tokenizer.json, which gives the same ids elsewhere
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
    /// Show the tokens of this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// List the devices, and why one cannot be used here
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal devices
  anneal devices --measure --json
  anneal devices --self-test --out self-test.json    what only this machine can tell, to be sent in")]
pub(crate) struct DevicesArgs {
    /// Ask each device what only real hardware can answer, and write the answers to a file of JSON
    #[arg(long)]
    pub(crate) self_test: bool,
    /// Where the answers of --self-test go
    #[arg(long, value_name = "FILE", default_value = "anneal-self-test.json", requires = "self_test")]
    pub(crate) out: PathBuf,
    /// Answer for one device, on standard output; for our own child processes
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) self_test_device: Option<String>,
    /// Also measure how fast each multiplies matrices (takes seconds)
    #[arg(long)]
    pub(crate) measure: bool,
    /// Print one JSON object per device, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MilCommand {
    Print(MilPrintArgs),
    Lint(MilLintArgs),
    Rules(MilRulesArgs),
    Export(MilExportArgs),
    Estimate(EstimateArgs),
}

/// Which programs of which model.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct LayerArgs {
    /// How a layer is divided into programs: whole, attn (for attn|ffn) or ten
    #[arg(long, default_value = "whole", value_parser = cut)]
    pub(crate) cut: Cut,
    /// Only this program, by name
    #[arg(long, value_name = "NAME")]
    pub(crate) segment: Option<String>,
    /// Sequences in a batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<usize>)]
    pub(crate) batch: usize,
    /// Tokens in a sequence [default: the preset's]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(crate) seq: Option<usize>,
}

/// Print a layer's programs as MIL text, in f16 as the Neural Engine takes them
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal mil print --preset tiny
  anneal mil print --preset gpt-48m --cut ten --segment wo_forward
  anneal mil print --preset gpt-48m --cut ten --out programs    # programs/NAME/model.mil, and its weights")]
pub(crate) struct MilPrintArgs {
    /// The model whose layer it is
    #[arg(long, short, value_name = "NAME", default_value = train::DEFAULT_PRESET)]
    pub(crate) preset: String,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
    /// Constants of up to this many elements stand in the text
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole::<usize>)]
    pub(crate) inline_max: usize,
    /// Write each program into a folder of its name in DIR, with the files of its large constants
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Check programs against what is known about the Neural Engine and its compilers
///
/// Of a preset: the programs of a layer, of the head and of decoding. Exits with 1 when a finding is an
/// error, and with 3 when the way to the engine does not work on the chip at all.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal mil lint --preset gpt-48m --chip m1
  anneal mil lint model.mil --chip m4 --route ane-inmem
  anneal mil lint --preset tiny --cut ten --json | jq .errors")]
#[command(group(clap::ArgGroup::new("program").required(true).args(["file", "preset"])))]
pub(crate) struct MilLintArgs {
    /// A file of MIL text
    pub(crate) file: Option<PathBuf>,
    /// The model whose programs to check
    #[arg(long, short, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
    /// The chip to check for
    #[arg(long, value_enum, default_value_t = ChipName::M4)]
    pub(crate) chip: ChipName,
    /// The way to the engine to check for
    #[arg(long, value_enum, default_value_t = RouteName::Ane)]
    pub(crate) route: RouteName,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// List what is known about the Neural Engine and its compilers, or one rule of it in full
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal mil rules
  anneal mil rules ANE-054 ANE-057
  anneal mil rules --json | jq -r 'select(.routes.ane == \"error\") | .id'")]
pub(crate) struct MilRulesArgs {
    /// The rules to tell in full
    #[arg(value_name = "RULE")]
    pub(crate) ids: Vec<String>,
    /// Print one JSON object per rule, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write programs as Core ML packages, which Apple's tools open
///
/// Of a preset: the programs of a layer, of the head and of decoding, in f16, one package each.
/// The same program always gives the same bytes. A package of ours is replaced, anything else is not.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal mil export --preset tiny --out packages                     # packages/NAME.mlpackage
  anneal mil export --preset gpt-48m --cut ten --segment wo_forward --out packages
  anneal mil export model.mil --out model.mlpackage --opset ios16")]
#[command(group(clap::ArgGroup::new("program").required(true).args(["file", "preset"])))]
pub(crate) struct MilExportArgs {
    /// A file of MIL text
    pub(crate) file: Option<PathBuf>,
    /// The model whose programs to write
    #[arg(long, short, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    #[command(flatten)]
    pub(crate) layer: LayerArgs,
    /// With --preset, the folder for the packages; with a file, the package, whose name ends with .mlpackage
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,
    /// The ops that the packages say they use: ios18 needs macOS 15, ios16 macOS 13
    #[arg(long, value_enum, default_value_t = OpsetName::Ios18)]
    pub(crate) opset: OpsetName,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Generations of the language by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpsetName {
    /// As the text for the Neural Engine says
    Ios18,
    /// The oldest with half precision at the border
    Ios16,
}

/// The linter's chips by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChipName {
    M1,
    M2,
    M3,
    M4,
    M5,
}

/// The ways to the engine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RouteName {
    /// Espresso's e5rt interface
    Ane,
    /// _ANEInMemoryModel, the older one
    AneInmem,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// Whole training steps on made-up tokens: forward, backward, clipping, the optimizer
    Step,
    /// The ops of one layer and of the classifier, each beside what the machine allows (device cpu only)
    Layer,
    /// Tokens of `anneal generate`, one after the other, beside the rate at which memory is read
    Generate,
    /// The best rate, in the device's floats and in int8: stacked 1x1 convolutions of 512 channels over 64 x 64
    Peak,
    /// How long the smallest program takes
    Dispatch,
    /// The rate against the size of the weights, which shows where they leave the engine's own memory
    Sram,
}

/// Measure how fast this machine trains
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
EXAMPLES:
  anneal bench step --preset gpt-48m
  anneal bench step --preset tiny --seq 128 --batch 16 --steps 50 --profile
  anneal bench step --preset gpt-48m --json | jq .tok_s
  anneal bench generate --preset gpt-48m --steps 100
  anneal bench peak --device ane
  anneal bench sram --device cpu --json > sram.json")]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) kind: BenchKind,
    /// The model; `--set recipe=NAME` trains it by a recipe
    #[arg(long, short, value_name = "NAME", default_value = train::DEFAULT_PRESET)]
    pub(crate) preset: String,
    /// Tokens in a sequence [default: the preset's]
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) seq: Option<u32>,
    /// Sequences in a batch [default: what training would take]
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub(crate) batch: Option<u32>,
    /// Steps, or tokens of `generate`, to measure, after some to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole_in::<u32>(1..=u64::from(u32::MAX)))]
    pub(crate) steps: u32,
    /// Any other setting, as for `anneal train`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, action = ArgAction::Append)]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Convolutions in a row for `peak`
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole_in::<u32>(1..=512))]
    pub(crate) depth: u32,
    /// Also print where the time goes (device cpu only)
    #[arg(long)]
    pub(crate) profile: bool,
    /// Print one JSON object, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, for example optimizer.lr=0.001".to_owned()),
    }
}

/// `attn` stands for `attn|ffn`, which a shell would take for a pipe.
fn cut(text: &str) -> Result<Cut, String> {
    if text == "attn" { Ok(Cut::AttnFfn) } else { text.parse() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::definition().debug_assert();
    }

    #[test]
    fn what_is_no_such_number_is_said_in_words() {
        for (line, said) in [
            ("train --seed -1", "'-1' for '--seed <N>': expected a whole number"),
            ("train --budget -5m", "'-5m' for '--budget <LENGTH>'"),
            ("bench step --steps -1", "'-1' for '--steps <N>': expected a whole number from 1 on"),
            ("bench peak --depth 513", "expected a whole number from 1 to 512"),
            ("generate a --temperature -.5", "'-.5' for '--temperature <T>': expected a number from 0"),
            ("train --batch 1.5", "'1.5' for '--batch <N>': expected a whole number"),
            ("train --lr fast", "'fast' for '--lr <RATE>': expected a number"),
            ("train --threads 70000", "'70000' for '--threads <N>': expected a whole number from 0 to 65535"),
            ("generate a --checkpoint 3rd", "'3rd' for '--checkpoint <WHICH>': newest, best, a step"),
            ("mil print --seq x", "'x' for '--seq <N>': expected a whole number"),
        ] {
            let words = std::iter::once("anneal").chain(line.split(' '));
            let error = Args::definition().try_get_matches_from(words).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn every_option_says_what_it_is_and_every_command_shows_examples() {
        fn walk(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no description");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{name} {} has no help", arg.get_id());
            }
            if !command.has_subcommands() && !command.is_hide_set() {
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.matches("\n  anneal ").count() >= 2, "{name}: {after}");
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Args::command());
    }

    #[test]
    fn the_help_names_every_preset() {
        let mut help = Args::command();
        let train = help.find_subcommand_mut("train").expect("a command");
        let text = train.render_long_help().to_string();
        for name in model::presets::NAMES {
            assert!(text.contains(name), "{name}");
        }
    }
}

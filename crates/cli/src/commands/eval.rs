//! `anneal eval`: a run's model in bits per byte.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use data::{ByteCount, Dataset, PrepareOptions, ReadOptions, TokenizerChoice};
use model::{Stack, StackOptions};
use serde_json::json;
use train::{Protocol, RunConfig, ValidationData, evaluate, load_trained, prepare_data, run_dir};

use crate::args::{EvalArgs, EvalBytes, EvalProtocol};
use crate::progress::{Progress, Style};
use crate::{Result, cache, device_choice, units, validation};

pub(crate) fn run(args: &EvalArgs, out: &mut dyn Write) -> Result {
    let trained = load_trained(&args.run, args.checkpoint)?;
    for (path, why) in &trained.skipped {
        eprintln!("note: the checkpoint {} is passed over: {why}", path.display());
    }
    let (config, checkpoint) = (&trained.config, &trained.checkpoint);
    let mut model = config.model.with_seq_len(args.window.unwrap_or(config.model.seq_len));
    if args.no_softcap {
        model.softcap = 0.0;
    }
    let protocol = protocol(args)?;
    let choice = device_choice::open(&args.device, Some(&config.device))?;
    let mut progress = Progress::new(Style::choose(false, args.json), String::new());
    let mut dataset = match &args.data {
        None => own_data(&args.run, config, &mut progress)?,
        Some(source) => {
            let mut options = PrepareOptions::new(super::data::text_source(source)?.parse()?, cache::dir()?);
            options.read = ReadOptions { column: config.data.column.clone(), lenient: config.data.lenient };
            options.tokenizer = TokenizerChoice::File(args.run.join(run_dir::TOKENIZER));
            let progress = std::cell::RefCell::new(&mut progress);
            data::prepare(&options, &|p| progress.borrow_mut().preparing(&p))?
        }
    };
    dataset.vocabulary = trained.vocabulary.clone();
    progress.finish();
    // A batch of the run's size in tokens, whatever the window.
    let batch = (config.batch * config.model.seq_len / model.seq_len).max(1);
    let mut stack =
        Stack::new(&model, choice.device.clone(), &StackOptions { batch, ..config.stack_options() })?;
    for (index, weights) in checkpoint.model_weights(args.raw_weights).iter().enumerate() {
        stack.set_weights(index, weights)?;
    }
    let byte_count = match args.bytes {
        EvalBytes::Raw => ByteCount::Raw,
        EvalBytes::Compat => ByteCount::Compat,
    };
    let data = ValidationData::new(&dataset, byte_count);
    let mut progress = Progress::new(Style::choose(false, args.json), String::new());
    let found = evaluate(&mut stack, &data, protocol, &mut |done, all| progress.measuring(done, all))?;
    progress.finish();
    let bound = dataset.info.bound_bits_per_byte;
    let step = checkpoint.state.spent.steps;
    if args.json {
        let mut object = serde_json::to_value(&found)?;
        object["softcap"] = json!(model.softcap);
        object["mean_weights"] = json!(checkpoint.means.is_some() && !args.raw_weights);
        object["bound_bits_per_byte"] = json!(bound);
        object["step"] = step.into();
        object["checkpoint"] = json!(checkpoint.path);
        object["data"] = dataset.info.source.clone().into();
        object["tokenizer_hash"] = dataset.info.tokenizer_hash.clone().into();
        object["device"] = choice.name.into();
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let bpb = units::with_error(found.val_bpb, found.val_bpb_se);
    writeln!(out, "val_bpb   {bpb} bits per byte after step {step}")?;
    if let Some(bound) = bound {
        writeln!(
            out,
            "bound     {bound:.4} is the best that any model could reach on the whole of this text"
        )?;
    }
    let without = if args.no_softcap { ", without the softcap" } else { "" };
    writeln!(out, "protocol  {}{without}", validation::how(&found))?;
    if checkpoint.means.is_some() {
        let which = if args.raw_weights { "the last ones" } else { "their running mean" };
        writeln!(out, "weights   {which}")?;
    }
    writeln!(out, "over      {}", validation::over(&found))?;
    writeln!(out, "of        {}", dataset.info.source)?;
    writeln!(out, "in        {:.1}s on {}", found.seconds, choice.device.describe())?;
    Ok(ExitCode::SUCCESS)
}

/// What the options ask for.
fn protocol(args: &EvalArgs) -> Result<Protocol, String> {
    let asked = args.protocol.unwrap_or(match (args.windows, args.stride) {
        (Some(_), _) => EvalProtocol::Windows,
        (_, Some(_)) => EvalProtocol::Sliding,
        _ => EvalProtocol::Full,
    });
    let belongs = |option: &str, given: bool, to: EvalProtocol| {
        if given && asked != to {
            return Err(format!(
                "{option} belongs to another protocol than the one that --protocol asks for"
            ));
        }
        Ok(())
    };
    belongs("--windows", args.windows.is_some(), EvalProtocol::Windows)?;
    belongs("--stride", args.stride.is_some(), EvalProtocol::Sliding)?;
    Ok(match asked {
        EvalProtocol::Full => Protocol::Full,
        EvalProtocol::Windows => {
            Protocol::windows(args.windows.ok_or("--protocol windows needs --windows N, their number")?)
        }
        EvalProtocol::Sliding => {
            let stride = args.stride.ok_or("--protocol sliding needs --stride N, in tokens")?;
            Protocol::Sliding { stride }
        }
        EvalProtocol::Autoresearch => {
            Protocol::Autoresearch { tokens: args.eval_tokens, batch: args.eval_batch.max(1) }
        }
        EvalProtocol::AneWindows => Protocol::AneWindows,
    })
}

/// The data that the run was trained on.
fn own_data(run: &Path, config: &RunConfig, progress: &mut Progress) -> Result<Dataset> {
    let (dataset, _) = prepare_data(config, true, &cache::dir()?, progress)?;
    let (recorded, found) = (&config.data.tokenizer_hash, dataset.tokenizer.hash());
    if recorded != found {
        return Err(Box::new(train::Error::DataChanged {
            config: run.join(run_dir::CONFIG),
            key: "data.tokenizer_hash",
            recorded: recorded.clone(),
            data: format!("data.source = {}", config.data.source),
            found: found.to_owned(),
        }));
    }
    Ok(dataset)
}

//! `anneal eval`: a run's newest checkpoint in bits per byte.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use data::{ByteCount, Dataset, PrepareOptions, TokenizerChoice};
use model::Stack;
use serde_json::json;
use train::{RunConfig, evaluate, load_trained, prepare_data, run_dir};

use crate::args::EvalArgs;
use crate::progress::{Progress, Style};
use crate::{Result, cache, device_choice};

pub(crate) fn run(args: &EvalArgs, out: &mut dyn Write) -> Result {
    let trained = load_trained(&args.run)?;
    for (path, why) in &trained.skipped {
        eprintln!("note: the checkpoint {} is passed over: {why}", path.display());
    }
    let (config, checkpoint) = (&trained.config, &trained.checkpoint);
    let choice = device_choice::open(&args.device, Some(&config.device))?;
    let mut progress = Progress::new(Style::choose(false, args.json), String::new());
    let dataset = match &args.data {
        None => own_data(&args.run, config, &mut progress)?,
        Some(source) => {
            let mut options = PrepareOptions::new(source.parse()?, cache::dir()?);
            options.tokenizer = TokenizerChoice::File(args.run.join(run_dir::TOKENIZER));
            let progress = std::cell::RefCell::new(&mut progress);
            data::prepare(&options, &|p| progress.borrow_mut().preparing(&p))?
        }
    };
    progress.finish();
    let mut stack = Stack::new(&config.model, choice.device.clone(), &config.stack_options())?;
    for (index, weights) in checkpoint.weights.iter().enumerate() {
        stack.set_weights(index, weights)?;
    }
    let byte_table = trained.tokenizer.byte_table(ByteCount::Raw);
    let found = evaluate(&mut stack, &dataset.valid, &byte_table, args.windows)?;
    let tokens = found.windows * config.model.seq_len;
    let bound = dataset.info.bound_bits_per_byte;
    let step = checkpoint.state.spent.steps;
    if args.json {
        let mut object = serde_json::to_value(&found)?;
        object["tokens"] = tokens.into();
        object["bound_bits_per_byte"] = json!(bound);
        object["step"] = step.into();
        object["checkpoint"] = json!(checkpoint.path);
        object["data"] = dataset.info.source.clone().into();
        object["device"] = choice.name.into();
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "val_bpb  {:.4} ± {:.4} bits per byte after step {step}", found.val_bpb, found.val_bpb_se)?;
    if let Some(bound) = bound {
        writeln!(
            out,
            "bound    {bound:.4} is the best that any model could reach on the whole of this text"
        )?;
    }
    writeln!(
        out,
        "over     {tokens} tokens, {} bytes in {} windows of {}; {:.1}s on {}",
        found.bytes,
        found.windows,
        dataset.info.source,
        found.seconds,
        choice.device.describe()
    )?;
    Ok(ExitCode::SUCCESS)
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

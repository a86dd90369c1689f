//! `anneal report`: runs side by side in one file of HTML.

use std::io::Write;
use std::process::ExitCode;

use lab::report::{self, Report, RunSummary};
use serde_json::json;

use crate::args::ReportArgs;
use crate::table::Table;
use crate::{Result, units};

pub(crate) fn run(args: &ReportArgs, out: &mut dyn Write) -> Result {
    // Before logs are read, which may be long.
    report::require_free(&args.out)?;
    let report = Report::read(&args.runs)?;
    let bytes = report.write(&args.out)?;
    if args.json {
        let runs: Vec<&RunSummary> = report.runs().collect();
        let object =
            json!({ "report": args.out, "bytes": bytes, "runs": runs, "cautions": report.cautions() });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    for run in report.runs() {
        for note in &run.notes {
            eprintln!("note: {}: {note}", run.name);
        }
    }
    for caution in report.cautions() {
        eprintln!("note: {caution}");
    }
    let mut table = Table::new(2, &["run", "state", "steps", "tokens", "tokens/s", "val_bpb"]);
    for run in report.runs() {
        let known = |value: Option<f64>, text: &dyn Fn(f64) -> String| value.map_or("-".to_owned(), text);
        table.row(vec![
            run.name.clone(),
            run.state.to_owned(),
            run.steps.to_string(),
            units::count(run.tokens as f64),
            known(run.tok_s, &units::count),
            known(run.val_bpb, &|bpb| units::with_error(bpb, run.val_bpb_se)),
        ]);
    }
    write!(out, "{}", table.text())?;
    writeln!(out, "report  {}, {}", args.out.display(), units::bytes(bytes))?;
    Ok(ExitCode::SUCCESS)
}

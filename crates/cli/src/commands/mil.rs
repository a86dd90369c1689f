//! `anneal mil`: a model's programs as text, and what the linter says about them.

use std::io::Write;
use std::process::ExitCode;

use mil::lint::{self, Check, Chip, Finding, Place, Route, Rule, Severity};
use mil::text::{self, WriteOptions};
use mil::{Element, Segment};
use model::{ModelConfig, Taps, presets};
use serde_json::{Value, json};

use crate::Result;
use crate::args::{ChipName, LayerArgs, MilLintArgs, MilPrintArgs, MilRulesArgs, RouteName};
use crate::units;

/// The exit status of a lint for a chip on which the route itself does not work.
const NOT_SUPPORTED: u8 = 3;

/// The programs of `preset`, in f16 as the engine takes them: a layer's, the head's, those of decoding.
fn programs(preset: &str, args: &LayerArgs) -> Result<Vec<Segment>> {
    let config = config(preset, args)?;
    only_wanted(model::programs(&config, args.cut, Taps::Keep, args.batch, Element::F16)?, args)
}

/// `preset` with what `args` change of it.
pub(super) fn config(preset: &str, args: &LayerArgs) -> Result<ModelConfig> {
    let mut config = presets::by_name(preset)?;
    if let Some(seq) = args.seq {
        config.seq_len = seq;
    }
    config.validate()?;
    if args.batch == 0 {
        return Err("--batch 0: expected at least one sequence".into());
    }
    Ok(config)
}

/// Those of `segments` that `--segment` asks for.
pub(super) fn only_wanted(mut segments: Vec<Segment>, args: &LayerArgs) -> Result<Vec<Segment>> {
    if let Some(wanted) = &args.segment {
        let names: Vec<String> = segments.iter().map(|s| s.name.clone()).collect();
        segments.retain(|segment| segment.name == *wanted);
        if segments.is_empty() {
            let (cut, names) = (args.cut.name(), names.join(", "));
            return Err(
                format!("--segment {wanted}: the cut {cut} has no such program; it has {names}").into()
            );
        }
    }
    Ok(segments)
}

pub(crate) fn print(args: &MilPrintArgs, out: &mut dyn Write) -> Result {
    let options = WriteOptions { inline_max: args.inline_max, ..WriteOptions::default() };
    for segment in programs(&args.preset, &args.layer)? {
        if let Some(folder) = &args.out {
            let path = text::write_to_dir(&segment.program, &folder.join(&segment.name), &options)?;
            writeln!(out, "{}", path.display())?;
            continue;
        }
        let written = text::write(&segment.program, &options)?;
        let (cut, batch) = (args.layer.cut.name(), args.layer.batch);
        writeln!(out, "// {} of {}, cut {cut}, batch {batch}", segment.name, args.preset)?;
        for file in &written.weights {
            let size = units::bytes(file.bytes.len() as u64);
            writeln!(out, "// goes with {} ({size}), which holds its large constants", file.path)?;
        }
        writeln!(out, "{}", written.text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `anneal mil rules`: the catalogue, or one rule of it in full.
pub(crate) fn rules(args: &MilRulesArgs, out: &mut dyn Write) -> Result {
    let ids: Vec<String> = args.ids.iter().map(|id| id.to_uppercase()).collect();
    for (id, given) in ids.iter().zip(&args.ids) {
        if lint::rule(id).is_none() {
            return Err(format!("there is no rule {given}; `anneal mil rules` lists them").into());
        }
    }
    let mut rules: Vec<&Rule> =
        lint::rules().filter(|rule| ids.is_empty() || ids.iter().any(|id| id == rule.id)).collect();
    rules.sort_by_key(|rule| rule.id);
    for rule in rules {
        if args.json {
            writeln!(out, "{}", rule_object(rule))?;
        } else if ids.is_empty() {
            writeln!(out, "{:<13} {:<9} {:<6} {}", rule.id, severities(rule), chips(rule), rule.statement)?;
        } else {
            rule_in_full(rule, out)?;
        }
    }
    if ids.is_empty() && !args.json {
        writeln!(
            out,
            "\nseverity on ane/ane-inmem: e an error, w a warning, i a remark, - none; one rule in full:"
        )?;
        writeln!(out, "  anneal mil rules ANE-054")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rule_in_full(rule: &Rule, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}: {}", rule.id, rule.statement)?;
    writeln!(out, "  otherwise  {}", rule.symptom)?;
    writeln!(out, "  what to do {}", rule.remedy)?;
    writeln!(out, "  source     {}", rule.source)?;
    writeln!(out, "  chips      {}", chips(rule))?;
    for (route, severity) in rule.routes {
        writeln!(out, "  {:<10} {}", route_name(*route), severity_name(*severity))?;
    }
    writeln!(out, "  checked    {}", checked(rule))
}

fn rule_object(rule: &Rule) -> Value {
    let routes: serde_json::Map<String, Value> = rule
        .routes
        .iter()
        .map(|(route, severity)| (route_name(*route).to_owned(), severity_name(*severity).into()))
        .collect();
    let chips: Vec<String> = rule.chips.iter().map(|chip| format!("{chip:?}").to_lowercase()).collect();
    json!({
        "id": rule.id, "statement": rule.statement, "symptom": rule.symptom, "remedy": rule.remedy,
        "source": rule.source, "routes": routes, "chips": chips, "checked": checked(rule),
    })
}

fn checked(rule: &Rule) -> String {
    match rule.check {
        Check::Program(_) => "on every program".to_owned(),
        Check::Plan(_) => "before a program is compiled: its slots, surfaces and blob files".to_owned(),
        Check::Driver(how) => format!("by the drivers: {how}"),
        Check::Always(why) => format!("by nothing: {why}"),
    }
}

fn route_name(route: Route) -> &'static str {
    match route {
        Route::Ane => "ane",
        Route::AneInMem => "ane-inmem",
    }
}

/// A letter for each route.
fn severities(rule: &Rule) -> String {
    let letter = |route| {
        let severity = rule.routes.iter().find(|(r, _)| *r == route).map(|(_, severity)| *severity);
        severity.map_or("-", |severity| &severity_name(severity)[..1])
    };
    format!("{}/{}", letter(Route::Ane), letter(Route::AneInMem))
}

/// `M1-M5`, `M3`.
fn chips(rule: &Rule) -> String {
    match rule.chips {
        [chip] => format!("{chip:?}"),
        [first, .., last] => format!("{first:?}-{last:?}"),
        [] => String::new(),
    }
}

pub(crate) fn run_lint(args: &MilLintArgs, out: &mut dyn Write) -> Result {
    let chip = match args.chip {
        ChipName::M1 => Chip::M1,
        ChipName::M2 => Chip::M2,
        ChipName::M3 => Chip::M3,
        ChipName::M4 => Chip::M4,
        ChipName::M5 => Chip::M5,
    };
    let route = match args.route {
        RouteName::Ane => Route::Ane,
        RouteName::AneInmem => Route::AneInMem,
    };
    let against: Vec<&Rule> = lint::against(chip, route).collect();
    let looked_at: Vec<(String, Vec<Finding>)> = match (&args.file, &args.preset) {
        // A file is taken as it stands: each port a surface, its text and blob files those that a driver hands over.
        (Some(path), _) => {
            let (program, written) = text::read_written(path)?;
            vec![(path.display().to_string(), ane::lint(&program, &written, chip, route, (0, 0)))]
        }
        // Programs of ours are looked at in the form in which the driver would hand them over.
        (None, Some(preset)) => {
            let programs = programs(preset, &args.layer)?.into_iter();
            programs.map(|s| (s.name, ane::findings(&s.program, chip, route))).collect()
        }
        (None, None) => return Err("give a file of MIL text, or --preset".into()),
    };
    let programs: Vec<&str> = looked_at.iter().map(|(name, _)| name.as_str()).collect();
    let found: Vec<(&str, &Finding)> = looked_at
        .iter()
        .flat_map(|(name, findings)| findings.iter().map(|finding| (name.as_str(), finding)))
        .collect();
    let count = |severity| found.iter().filter(|(_, f)| f.severity == severity).count();
    let [errors, warnings, infos] = [Severity::Error, Severity::Warning, Severity::Info].map(count);
    if args.json {
        let findings: Vec<Value> = found.iter().map(|(program, finding)| object(program, finding)).collect();
        let report = json!({
            "programs": programs,
            "findings": findings, "errors": errors, "warnings": warnings, "infos": infos,
            "supported": against.is_empty(), "against": against.iter().map(|rule| rule.id).collect::<Vec<_>>(),
        });
        writeln!(out, "{report}")?;
    } else {
        table(&found, out)?;
        let checked = programs.len();
        let s = if checked == 1 { "" } else { "s" };
        writeln!(out, "{checked} program{s}: {errors} errors, {warnings} warnings, {infos} remarks")?;
    }
    if !against.is_empty() {
        if !args.json {
            writeln!(out, "this route is not supported on {chip:?}:")?;
            for rule in &against {
                writeln!(out, "  {}: {} ({}); {}", rule.id, rule.statement, rule.source, rule.remedy)?;
            }
        }
        return Ok(ExitCode::from(NOT_SUPPORTED));
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn severity(finding: &Finding) -> &'static str {
    severity_name(finding.severity)
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn place(finding: &Finding) -> String {
    match &finding.place {
        Place::Program => "the program".to_owned(),
        Place::Port(name) => format!("port {name}"),
        Place::Statement { op, result, .. } => format!("{result} = {op}"),
    }
}

fn object(program: &str, finding: &Finding) -> Value {
    let index = match finding.place {
        Place::Statement { index, .. } => Some(index),
        _ => None,
    };
    json!({
        "program": program, "rule": finding.rule, "severity": severity(finding),
        "place": place(finding), "statement": index,
        "message": finding.message, "symptom": lint::rule(finding.rule).map(|rule| rule.symptom),
        "remedy": finding.remedy,
    })
}

/// One line for each finding; a remedy is told once, below the last finding of its rule in a row.
fn table(found: &[(&str, &Finding)], out: &mut dyn Write) -> std::io::Result<()> {
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let programs = width(&mut found.iter().map(|(program, _)| program.len()));
    let places = width(&mut found.iter().map(|(_, f)| place(f).len()));
    for (at, (program, finding)) in found.iter().enumerate() {
        let (severity, rule, place) = (severity(finding), finding.rule, place(finding));
        let message = &finding.message;
        writeln!(out, "{severity:<7}  {rule:<8}  {program:<programs$}  {place:<places$}  {message}")?;
        if found.get(at + 1).is_none_or(|(_, next)| next.rule != finding.rule) {
            writeln!(out, "{:<7}  what to do: {}", "", finding.remedy)?;
        }
    }
    Ok(())
}

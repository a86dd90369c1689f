//! `anneal devices`: what this machine has, and why a device is missing.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use ane::Machine;
use serde_json::json;

use crate::Result;
use crate::args::{DeviceArgs, DevicesArgs};
use crate::commands::self_test;
use crate::device_choice::{self, ENTRIES};
use crate::machine::matmul_peak;

/// How long a rate is measured.
const MEASURE: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &DevicesArgs, out: &mut dyn Write) -> Result {
    if let Some(name) = &args.self_test_device {
        return self_test::answer_for(name, out);
    }
    if args.self_test {
        return self_test::run(args, out);
    }
    let machine = Machine::here();
    if args.json {
        writeln!(out, "{}", machine_object(&machine))?;
    } else {
        let cores =
            machine.engine_cores().map(|cores| format!(", an engine of {cores} cores")).unwrap_or_default();
        writeln!(out, "{}{cores}, {}", machine.name, machine.system)?;
    }
    for entry in &ENTRIES {
        let asked = DeviceArgs { device: Some(entry.name.to_owned()), ..DeviceArgs::default() };
        // What is there may still not work: an engine that refuses a small program, a chip without the route.
        let opened = match entry.missing() {
            Some(why) => Err(why),
            None => device_choice::open(&asked, None).map(|choice| choice.device).map_err(why_not),
        };
        let mut about = json!({ "name": entry.name, "what": entry.what, "available": opened.is_ok() });
        let mut line = format!("{:<10} ", entry.name);
        match opened {
            Err(why) => {
                line += &format!("no   {}; {why}", entry.what);
                about["why_not"] = why.into();
            }
            Ok(device) => {
                about["describe"] = device.describe().into();
                about["element"] = device.element().dtype().mil_name().into();
                line += &format!("yes  {}: {}", entry.what, device.describe());
                if args.measure {
                    let peak = matmul_peak(device.as_ref(), MEASURE)?;
                    about["matmul_gflops"] = (peak / 1e9).into();
                    line += &format!("; {:.0} GFLOP/s in matrix products", peak / 1e9);
                }
            }
        }
        if args.json { writeln!(out, "{about}")? } else { writeln!(out, "{line}")? }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a machine says of itself.
pub(crate) fn machine_object(machine: &Machine) -> serde_json::Value {
    json!({
        "machine": machine.name, "chip": machine.chip.map(|chip| format!("{chip:?}")),
        "engine_cores": machine.engine_cores(), "system": machine.system,
    })
}

/// Why a device could not be opened; the line names it already.
fn why_not(error: device::Error) -> String {
    match error {
        device::Error::Unavailable { problem, .. } => problem,
        error => error.to_string(),
    }
}

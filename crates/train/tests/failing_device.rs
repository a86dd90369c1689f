//! Devices that fail, for a moment or for good, or answer a success and zeros: nothing is lost, nothing is
//! learnt from it, and the run says what it did.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Place, cpu, sim_f16};
use device::{
    Binding, Bound, Buffer, Device, Error, Executable, Invocation, Limits, RawExecutable, RawInvocation,
    Result, Telemetry, Ticket,
};
use mil::{Element, PortKind, Program};
use train::{Outcome, RunOptions, Start, train_run};

/// How a run goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It reports an error and leaves rubbish.
    Error,
    /// It reports success and leaves zeros.
    Zeros,
    /// It reports success and leaves what is no number.
    Nans,
}

/// Which runs go wrong: the program's name begins so, and the number of runs of such programs is listed.
struct Plan {
    fault: Fault,
    program: &'static str,
    runs: std::ops::Range<u64>,
    seen: AtomicU64,
}

/// An ordinary device, but for the plan.
struct Moody {
    inner: Arc<dyn Device>,
    plan: Arc<Plan>,
}

impl Moody {
    fn device(fault: Fault, program: &'static str, runs: std::ops::Range<u64>) -> Arc<dyn Device> {
        let plan = Arc::new(Plan { fault, program, runs, seen: AtomicU64::new(0) });
        Arc::new(Moody { inner: sim_f16(), plan })
    }
}

impl Device for Moody {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn element(&self) -> Element {
        self.inner.element()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    fn compile(&self, name: &str, program: &Program) -> Result<Executable> {
        let inner = self.inner.compile(name, program)?;
        let time = inner.compile_time();
        let raw = MoodyExecutable { inner, plan: self.plan.clone() };
        Ok(Executable::new(self, name, Arc::new(program.clone()), time, Box::new(raw)))
    }
    fn alloc(&self, shape: &[usize]) -> Result<Buffer> {
        self.inner.alloc(shape)
    }
    fn telemetry(&self) -> Telemetry {
        self.inner.telemetry()
    }
}

struct MoodyExecutable {
    inner: Executable,
    plan: Arc<Plan>,
}

impl RawExecutable for MoodyExecutable {
    fn bind(&self, bound: Bound) -> Result<Box<dyn RawInvocation>> {
        let outputs: Vec<Buffer> = bound.outputs.iter().map(|(buffer, _)| buffer.clone()).collect();
        let buffers = bound.inputs.iter().chain(&outputs);
        let bindings: Vec<Binding<'_>> = self
            .inner
            .program()
            .ports()
            .zip(buffers)
            .map(|(port, buffer)| Binding::new(port.name, buffer))
            .collect();
        assert!(self.inner.program().ports().any(|port| port.kind == PortKind::Output));
        let inner = self.inner.bind(&bindings)?;
        let name = self.inner.name().to_owned();
        Ok(Box::new(MoodyInvocation { inner, name, outputs, plan: self.plan.clone() }))
    }
}

struct MoodyInvocation {
    inner: Invocation,
    name: String,
    outputs: Vec<Buffer>,
    plan: Arc<Plan>,
}

impl RawInvocation for MoodyInvocation {
    fn submit(&self) -> Result<Ticket> {
        let plan = &self.plan;
        let concerns = self.name.starts_with(plan.program);
        if !concerns || !plan.runs.contains(&plan.seen.fetch_add(1, Ordering::Relaxed)) {
            return self.inner.submit();
        }
        let value = match plan.fault {
            Fault::Error => 7.0,
            Fault::Zeros => 0.0,
            Fault::Nans => f32::NAN,
        };
        for buffer in &self.outputs {
            buffer.write_f32(&vec![value; buffer.numel()])?;
        }
        match plan.fault {
            Fault::Zeros | Fault::Nans => Ok(Ticket::done()),
            Fault::Error => Err(Error::Run {
                device: "sim".to_owned(),
                program: self.name.clone(),
                problem: "status 0x1d".to_owned(),
            }),
        }
    }
}

/// A whole run of 6 steps on this device: its outcome, and what its events say about the device.
fn run(
    place: &Place,
    name: &str,
    device: Arc<dyn Device>,
    more: &str,
) -> (train::Result<Outcome>, Vec<String>) {
    let start = place.start(name, place.config("6steps", &format!("cut = 'whole'\n{more}")));
    let outcome = go_on(place, start, device);
    let told = place.events(name, "device_failed");
    (outcome, told.iter().map(|e| format!("{}: {}; {}", e["step"], e["why"], e["then"])).collect())
}

fn go_on(place: &Place, start: Start, device: Arc<dyn Device>) -> train::Result<Outcome> {
    let options = RunOptions { fallback: Some(Box::new(|| Ok(cpu()))), ..place.options(start, device) };
    train_run(options, &mut (), &AtomicBool::new(false))
}

/// Oracle: the same run on a device without faults.
#[test]
fn a_failure_that_passes_leaves_no_trace_in_the_weights() {
    let place = Place::new();
    run(&place, "sound", sim_f16(), "").0.unwrap();
    for (name, fault, program) in [
        ("error-forward", Fault::Error, "forward"),
        ("error-backward", Fault::Error, "backward"),
        ("zeros-forward", Fault::Zeros, "forward"),
        ("zeros-backward", Fault::Zeros, "backward"),
    ] {
        // Two layers, two microbatches: run 9 of a program is in the third step, or in a validation.
        let (outcome, told) = run(&place, name, Moody::device(fault, program, 9..10), "");
        outcome.unwrap();
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert!(told[0].contains("it is tried once more"), "{name}: {told:?}");
        assert!(
            told[0].contains(if fault == Fault::Zeros { "zero everywhere" } else { "status 0x1d" }),
            "{told:?}"
        );
        assert!(place.tensors(name) == place.tensors("sound"), "{name} ends with other weights");
    }
}

/// Muon asks the device when a step's gradients are there and its batches are gone. Oracle: the same run on a device
/// without faults.
#[test]
fn a_failure_in_the_update_loses_no_batch() {
    let place = Place::new();
    let train = |name: &str, device: Arc<dyn Device>| {
        let mut config = place.config("6steps", "");
        config.set("optimizer.kind", "muon", "test");
        go_on(&place, place.start(name, config), device).unwrap();
    };
    train("sound", sim_f16());
    train("failed", Moody::device(Fault::Error, "orthogonalize", 30..31));
    assert_eq!(place.events("failed", "device_failed").len(), 1);
    assert!(place.tensors("failed") == place.tensors("sound"), "it ends with other weights");
}

/// A run that learned nothing is no success, however short it is.
#[test]
fn a_run_of_nothing_but_nan_ends_with_an_error() {
    let place = Place::new();
    let (outcome, _) = run(&place, "nan", Moody::device(Fault::Nans, "forward", 0..u64::MAX), "");
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.starts_with("step 6: the budget is spent after 0 updates (6 steps were left out"),
        "{error}"
    );
    assert!(!place.runs().join("nan/summary.json").exists());
}

/// Whatever run of the forward program fails, in a step or in a validation, which lends the weights' place to their
/// mean. Oracle: the same run on a device without faults.
#[test]
fn a_failure_under_the_mean_of_the_weights_leaves_no_trace_either() {
    let place = Place::new();
    let more = "[ema]\nhalf_life = 0.3\n";
    run(&place, "sound", sim_f16(), more).0.unwrap();
    let mut failed = 0;
    for at in 20..32 {
        let name = format!("failed{at}");
        let (outcome, told) = run(&place, &name, Moody::device(Fault::Error, "forward", at..at + 1), more);
        outcome.unwrap();
        failed += told.len();
        assert!(place.tensors(&name) == place.tensors("sound"), "{name} ends with other weights");
        assert!(place.means(&name) == place.means("sound"), "{name} ends with another mean");
    }
    assert_eq!(failed, 12);
}

/// Oracle: a run that was never disturbed.
#[test]
fn a_failure_that_stays_ends_the_run_with_a_checkpoint_that_goes_on() {
    let place = Place::new();
    run(&place, "sound", sim_f16(), "").0.unwrap();
    let (outcome, told) = run(&place, "stopped", Moody::device(Fault::Error, "backward", 9..u64::MAX), "");
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("running `backward`: status 0x1d"), "{error}");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("its checkpoint is of this step"), "{told:?}");
    let (step, ..) = place.tensors("stopped");
    assert!(told[1].starts_with(&format!("{step}: ")) && step > 0, "{told:?}");

    go_on(&place, place.resume("stopped"), sim_f16()).unwrap();
    assert!(place.tensors("stopped") == place.tensors("sound"), "it ends with other weights");
}

/// The device fails for good in the validation of a step at which a milestone is due, and the run moves: what was
/// saved at the failure is saved once more as what it is, and stays.
#[test]
fn a_milestone_is_one_even_if_the_device_fails_at_its_step() {
    let place = Place::new();
    // Two layers, two microbatches of three: 4 runs of the program a step, then the validation of the second step.
    let more = "on_device_failure = 'cpu'\n";
    let mut config = place.config("12steps", &format!("cut = 'whole'\n{more}"));
    for (key, value) in
        [("eval.every", "2steps"), ("checkpoint.every", "1steps"), ("checkpoint.milestones", "2steps")]
    {
        config.set(key, value, "test");
    }
    config.set("checkpoint.keep", 1, "test");
    let device = Moody::device(Fault::Error, "forward", 8..u64::MAX);
    go_on(&place, place.start("moved", config), device).unwrap();
    let failed = place.events("moved", "device_failed");
    assert!(failed.len() == 2 && failed.iter().all(|event| event["step"] == 2), "{failed:?}");
    let saved: Vec<u64> =
        place.events("moved", "checkpoint").iter().filter_map(|e| e["step"].as_u64()).collect();
    assert_eq!(saved[..4], [1, 2, 2, 3]);
    let there = train::Checkpoints::of_run(&place.runs().join("moved")).list();
    let steps: Vec<u64> = there.iter().map(|(step, _)| *step).filter(|step| step % 2 == 0).collect();
    assert_eq!(steps, [2, 4, 6, 8, 10, 12]);
}

#[test]
fn a_failure_that_stays_moves_the_run_if_it_is_configured_so() {
    let place = Place::new();
    let device = Moody::device(Fault::Error, "forward", 9..u64::MAX);
    let (outcome, told) = run(&place, "moved", device, "on_device_failure = 'cpu'");
    let Outcome::Finished(summary) = outcome.unwrap() else { panic!("nobody stopped it") };
    assert_eq!((summary.steps, summary.device.as_str()), (6, "cpu"));
    assert!(told[1].contains("the run goes on on cpu"), "{told:?}");
    assert_eq!(place.metrics("moved").len(), 6);
}

/// The head has no residual connection to compare with: zeros show in its losses alone.
#[test]
fn a_head_of_zeros_is_noticed() {
    let place = Place::new();
    let (outcome, told) = run(&place, "head", Moody::device(Fault::Zeros, "head", 2..u64::MAX), "");
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("reported success"), "{error}: {told:?}");
}

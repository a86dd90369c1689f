//! The device.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use device::{Buffer, Device, Error, Executable, Limits, Result, Telemetry};
use mil::lint::{Chip, Route};
use mil::text;
use mil::{DType, Element, PortKind, Program};

use super::buffer::E5rtBuffer;
use super::bundles;
use super::espresso::{
    Backend, BufferObject, CallError, Compiled, Direction, Espresso, OpenOrder, Operation,
};
use super::program::{Loaded, PortSpec, Shared};
use super::trying::{Request, Task};
use super::ways::{self, Ways};
use crate::check;
use crate::child::{self, NoAnswer};
use crate::explain::explain;
use crate::options::Options;
use crate::trials::{Trials, key};

/// A device behind Espresso's `e5rt` interface.
pub struct E5rtDevice {
    backend: Backend,
    /// Whose rules hold: what the oldest chip takes, one that is not known takes too.
    chip: Chip,
    options: Options,
    limits: Limits,
    espresso: Espresso,
    trials: Trials,
    shared: Arc<Shared>,
    /// Texts and bundles of this process.
    work: tempfile::TempDir,
    compiled: AtomicUsize,
}

impl E5rtDevice {
    /// Loads Espresso and finds out how bindings can be carried out.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing: the library, symbols of it, or an engine that computes a
    /// small product.
    pub fn open(backend: Backend, options: Options) -> Result<E5rtDevice> {
        let espresso = Espresso::load(&options.library).map_err(|error| Error::Unavailable {
            device: backend.name().to_owned(),
            problem: error.to_string(),
        })?;
        E5rtDevice::with_espresso(backend, options, espresso)
    }

    /// As [`E5rtDevice::open`], with a library that is loaded.
    pub(super) fn with_espresso(
        backend: Backend,
        options: Options,
        espresso: Espresso,
    ) -> Result<E5rtDevice> {
        let name = backend.name();
        let unavailable = |problem: String| Error::Unavailable { device: name.to_owned(), problem };
        let work = tempfile::Builder::new().prefix("anneal-").tempdir().map_err(|error| {
            unavailable(format!("no folder for its programs can be made in the temporary directory: {error}"))
        })?;
        let trials = Trials::new(&options, name);
        let ways = trials
            .ways(|| find_ways(backend, &options, &espresso, &trials, work.path()))
            .map_err(unavailable)?;
        let engine = backend == Backend::Ane;
        let chip = options.chip.unwrap_or(Chip::M1);
        let limits = Limits {
            max_axis: if engine && chip <= Chip::M3 { 16_384 } else { 65_536 },
            max_programs: Some(options.max_programs),
            accumulate: false,
            inout: true,
            int8: true,
        };
        let shared = Arc::new(Shared {
            device: name.into(),
            counters: Arc::default(),
            ways,
            loaded: AtomicUsize::new(0),
            max_operations: options.max_programs,
            lane: Mutex::new(()),
        });
        Ok(E5rtDevice {
            backend,
            chip,
            limits,
            espresso,
            trials,
            shared,
            work,
            compiled: AtomicUsize::new(0),
            options,
        })
    }

    /// How bindings are carried out.
    pub fn ways(&self) -> Ways {
        self.shared.ways
    }

    fn refusal(&self, program: &str, problem: String) -> Error {
        Error::Compile { device: self.name().to_owned(), program: program.to_owned(), problem }
    }

    /// What this driver refuses before the program is written.
    fn check(&self, program: &Program) -> std::result::Result<(), String> {
        if program.element() != Element::F16 {
            return Err(format!(
                "it is built for {:?}, this device computes F16; build it for Device::element()",
                program.element()
            ));
        }
        if let Some(port) = program.ports().find(|port| port.ty.dtype != DType::F16) {
            return Err(format!("port `{}` is {}; ports are fp16 (rule ANE-072)", port.name, port.ty));
        }
        Ok(())
    }

    /// The program on the device, from a bundle that was kept or compiled in this process.
    fn prepare(&self, name: &str, program: &Program, ports: &[PortSpec]) -> Prepared {
        let options = check::write_options(Route::Ane);
        let written = text::write(program, &options).map_err(|error| error.to_string())?;
        if self.backend == Backend::Ane {
            let counts = (self.compiled.load(Ordering::Relaxed), self.shared.loaded.load(Ordering::Relaxed));
            let chip = self.chip;
            check::refuse_errors(chip, &check::lint(program, &written, chip, Route::Ane, counts))?;
        }
        let key = key(&written);
        self.trials.refused_before(&key)?;
        let kept = self.options.folder.join("bundles").join(&key);
        if let Some(order) = self.shared.ways.reopens
            && let Some(prepared) = self.reopen(&kept, order, ports)
        {
            return Ok(prepared);
        }
        // Each process compiles in a folder of its own: another may be at the same program now.
        let number = self.compiled.fetch_add(1, Ordering::Relaxed);
        let dir = self.work.path().join(format!("{number:03}-{}", file_name(name)));
        let bundle_dir = bundles::dir(&dir);
        let mil = text::write_to_dir(program, &dir, &options).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let compile = || Task::Compile { mil: mil.clone(), bundle_dir: bundle_dir.clone() };
        let control = || Task::Ways { dir: self.work.path().join(format!("{number:03}-control")) };
        let request = |task| request(self.backend, &self.options, task);
        self.trials.try_first(&key, || Ok(request(compile())), || request(control()))?;
        let compiled = self.trials.compile(|| {
            Compiled::compile(&self.espresso, self.backend, &mil, &bundle_dir)
                .map_err(|error| explain(&error))
        })?;
        if let Some(backend) = bundles::selected_backend(&bundle_dir)
            && self.backend == Backend::Ane
            && backend != "ane"
        {
            return Err(format!("the compiler gave it to `{backend}` and not to the engine"));
        }
        let prepared = load(compiled, ports)?;
        self.trials.accept(&key, begun.elapsed());
        if self.shared.ways.reopens.is_some() {
            bundles::keep(&bundle_dir, &kept);
        }
        Ok(prepared)
    }

    /// The program from the bundle that was kept in `kept`. One that no longer opens, loads or has these
    /// ports (a restarted service, a damaged file) is removed, and the program is compiled again.
    fn reopen(
        &self,
        kept: &Path,
        order: OpenOrder,
        ports: &[PortSpec],
    ) -> Option<(Arc<Compiled>, Operation)> {
        for bundle in bundles::found_in(kept) {
            if let Ok(Some(compiled)) = Compiled::open(&self.espresso, &bundle, order)
                && let Ok(prepared) = load(compiled, ports)
            {
                return Some(prepared);
            }
        }
        bundles::remove(kept);
        None
    }
}

impl Device for E5rtDevice {
    fn name(&self) -> &str {
        self.backend.name()
    }

    fn describe(&self) -> String {
        let ways = self.shared.ways;
        let bindings = match (ways.own_operations, ways.rebinds) {
            (true, true) => {
                format!("an operation for each binding up to {}, then bound anew", self.options.max_programs)
            }
            (true, false) => {
                format!("an operation for each binding up to {}, then copies", self.options.max_programs)
            }
            (false, true) => "one operation for each program, bound anew before each run".to_owned(),
            (false, false) => "one operation for each program, with copies".to_owned(),
        };
        let bundles =
            if ways.reopens.is_some() { "compiled bundles are kept" } else { "compiled at each start" };
        let mut text = format!("{}, e5rt; {bindings}; {bundles}", self.options.system);
        for without in self.espresso.without() {
            text += &format!("; {without}");
        }
        text
    }

    fn element(&self) -> Element {
        Element::F16
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn compile(&self, name: &str, program: &Program) -> Result<Executable> {
        let begun = Instant::now();
        self.check(program).map_err(|problem| self.refusal(name, problem))?;
        let ports: Vec<PortSpec> = program
            .ports()
            .map(|port| PortSpec {
                direction: match port.kind {
                    PortKind::Input => Direction::Input,
                    PortKind::Output => Direction::Output,
                },
                name: port.name.to_owned(),
                numel: port.ty.numel(),
            })
            .collect();
        let (compiled, operation) =
            self.prepare(name, program, &ports).map_err(|problem| self.refusal(name, problem))?;
        self.shared.counters.compiled();
        let loaded =
            Loaded::new(self.shared.clone(), self.espresso.clone(), name, ports, compiled, operation);
        Ok(Executable::new(self, name, Arc::new(program.clone()), begun.elapsed(), Box::new(loaded)))
    }

    fn alloc(&self, shape: &[usize]) -> Result<Buffer> {
        let fail = |bytes: usize, problem: String| Error::Alloc {
            device: self.name().to_owned(),
            shape: shape.to_vec(),
            bytes,
            problem,
        };
        let bytes = shape.iter().try_fold(2_usize, |bytes, extent| bytes.checked_mul(*extent));
        // A pointer may not span more than this.
        let Some(bytes) = bytes.filter(|bytes| *bytes <= isize::MAX as usize) else {
            return Err(fail(usize::MAX, "it is larger than the address space".to_owned()));
        };
        let object =
            BufferObject::alloc(&self.espresso, bytes).map_err(|error| fail(bytes, explain(&error)))?;
        let buffer = E5rtBuffer::new(self.shared.device.clone(), shape, object, self.shared.counters.clone());
        Ok(Buffer::new(Arc::new(buffer)))
    }

    fn telemetry(&self) -> Telemetry {
        self.shared.counters.snapshot()
    }
}

/// A program and its first operation, or what was refused.
type Prepared = std::result::Result<(Arc<Compiled>, Operation), String>;

/// Loads a compiled program and compares the ports that the device sees with those that it should have.
fn load(compiled: Compiled, ports: &[PortSpec]) -> Prepared {
    let told = |error: CallError| explain(&error);
    let compiled = Arc::new(compiled);
    let operation = Operation::load(&compiled, &PortSpec::names(ports)).map_err(told)?;
    if let Some(found) = operation.port_names().map_err(told)? {
        for (direction, mut found) in [Direction::Input, Direction::Output].into_iter().zip(found) {
            let mut expected: Vec<&str> =
                ports.iter().filter(|port| port.direction == direction).map(|port| &*port.name).collect();
            expected.sort_unstable();
            found.sort_unstable();
            if found != expected {
                return Err(format!(
                    "compiled, its {direction:?} ports are {}; the program has {}",
                    found.join(", "),
                    expected.join(", ")
                ));
            }
        }
    }
    for (port, found) in ports.iter().zip(operation.port_elements().map_err(told)?.unwrap_or_default()) {
        if found != port.numel as u64 {
            return Err(format!(
                "compiled, port `{}` holds {found} elements; the program has {}",
                port.name, port.numel
            ));
        }
    }
    Ok((compiled, operation))
}

fn request(backend: Backend, options: &Options, task: Task) -> child::Request {
    let (library, backend) = (options.library.clone(), backend.name().to_owned());
    child::Request::E5rt(Request { library, backend, task })
}

/// Tries the small program: in a child, and its bundle in a second one; or in this process, which cannot
/// tell whether bundles open in another one.
fn find_ways(
    backend: Backend,
    options: &Options,
    espresso: &Espresso,
    trials: &Trials,
    work: &Path,
) -> std::result::Result<(Ways, bool), String> {
    let dir = work.join("probe");
    let mut ways = match trials.ask::<Ways>(&request(backend, options, Task::Ways { dir: dir.clone() })) {
        Ok(ways) => ways,
        Err(NoAnswer::NotStarted(_)) => return Ok((ways::probe(espresso, backend, &dir)?, true)),
        Err(no_answer) => return Err(format!("a small program does not run: {no_answer}")),
    };
    // That it does not work is the answer that ANEForge found.
    let reopens = trials.ask(&request(backend, options, Task::Reopen { dir }));
    let is_sure = !matches!(reopens, Err(NoAnswer::Ended(_) | NoAnswer::NotStarted(_)));
    ways.reopens = reopens.ok();
    Ok((ways, is_sure))
}

/// A name that every file system takes.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

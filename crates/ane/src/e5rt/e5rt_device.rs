//! The device.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use device::{Buffer, Device, Error, Executable, Limits, Result, Telemetry};
use mil::lint::{Chip, Route, Severity};
use mil::text::{self, WriteOptions};
use mil::{DType, Element, PortKind, Program};
use sha2::{Digest, Sha256};

use super::buffer::E5rtBuffer;
use super::bundles;
use super::child::{self, ChildCommand, NoAnswer, Request, Task};
use super::espresso::{
    Backend, BufferObject, CallError, Compiled, Direction, Espresso, OpenOrder, Operation,
};
use super::explain::explain;
use super::known::{Known, Verdict, ms};
use super::program::{Loaded, PortSpec, Shared};
use super::symbols::ESPRESSO;
use super::ways::{self, Ways};
use crate::Machine;

/// How a device is opened.
#[derive(Clone)]
pub struct Options {
    /// Which engine.
    pub backend: Backend,
    /// The library with the `e5rt` symbols.
    pub library: PathBuf,
    /// Whose limits and rules hold.
    pub chip: Chip,
    /// Chip and version of the system, as what is learnt is filed.
    pub system: String,
    /// Where what is learnt and, if they can be opened again, compiled bundles are kept.
    pub folder: PathBuf,
    /// How to start a child process that tries; `None` tries in this process.
    pub child: Option<ChildCommand>,
    /// How long a child may take. ANEForge waited 162 s for eight layers in one program.
    pub limit: Duration,
    /// The most operations to have loaded: 128 is where loading fails (ANEForge; rule ANE-004 advises 100),
    /// and programs that are compiled later need some as well.
    pub max_operations: usize,
    /// How long to wait with the next compile after one was refused (rule ANE-017).
    pub back_off: Duration,
}

impl Options {
    /// For this machine, keeping what is learnt in `folder`.
    pub fn here(backend: Backend, folder: &Path) -> Options {
        let machine = Machine::here();
        Options {
            backend,
            library: PathBuf::from(ESPRESSO),
            // What the oldest chip takes, a newer one takes too.
            chip: machine.chip.unwrap_or(Chip::M1),
            system: format!("{}, {}", machine.name, machine.system),
            folder: folder.to_owned(),
            child: None,
            limit: Duration::from_secs(240),
            max_operations: 100,
            back_off: Duration::from_secs(15),
        }
    }
}

/// A device behind Espresso's `e5rt` interface.
pub struct E5rtDevice {
    options: Options,
    limits: Limits,
    espresso: Espresso,
    known: Known,
    shared: Arc<Shared>,
    /// Texts and bundles of this process.
    work: tempfile::TempDir,
    /// When a compile was last refused.
    refused: Mutex<Option<Instant>>,
    compiled: AtomicUsize,
}

impl E5rtDevice {
    /// Loads Espresso and finds out how bindings can be carried out.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing: the library, symbols of it, or an engine that computes a
    /// small product.
    pub fn open(options: Options) -> Result<E5rtDevice> {
        let espresso = Espresso::load(&options.library).map_err(|error| Error::Unavailable {
            device: options.backend.name().to_owned(),
            problem: error.to_string(),
        })?;
        E5rtDevice::with_espresso(options, espresso)
    }

    /// As [`E5rtDevice::open`], with a library that is loaded.
    pub(crate) fn with_espresso(options: Options, espresso: Espresso) -> Result<E5rtDevice> {
        let name = options.backend.name();
        let unavailable = |problem: String| Error::Unavailable { device: name.to_owned(), problem };
        let work = tempfile::Builder::new().prefix("anneal-").tempdir().map_err(|error| {
            unavailable(format!("no folder for its programs can be made in the temporary directory: {error}"))
        })?;
        let system = format!("{}, {name}", options.system);
        let known = Known::read(&options.folder.join("engine.json"), &system);
        let ways = match known.ways() {
            Some(ways) => ways,
            None => {
                let ways = find_ways(&options, &espresso, work.path()).map_err(unavailable)?;
                known.learn_ways(ways);
                ways
            }
        };
        let engine = options.backend == Backend::Ane;
        let limits = Limits {
            max_axis: if engine && options.chip <= Chip::M3 { 16_384 } else { 65_536 },
            max_programs: Some(options.max_operations),
            accumulate: false,
            inout: true,
        };
        let shared = Arc::new(Shared {
            device: name.into(),
            counters: Arc::default(),
            ways,
            loaded: AtomicUsize::new(0),
            max_operations: options.max_operations,
            lane: Mutex::new(()),
        });
        Ok(E5rtDevice {
            limits,
            espresso,
            known,
            shared,
            work,
            refused: Mutex::new(None),
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

    /// What this driver or the catalogue refuses before any compiler sees it.
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
        if self.options.backend != Backend::Ane {
            return Ok(());
        }
        let findings = program.lint(self.options.chip, Route::Ane);
        match findings.iter().find(|finding| finding.severity == Severity::Error) {
            Some(finding) => Err(format!("{:?} does not take it: {finding}", self.options.chip)),
            None => Ok(()),
        }
    }

    /// The program on the device, from a bundle that was kept or compiled in this process.
    fn prepare(&self, name: &str, program: &Program, ports: &[PortSpec]) -> Prepared {
        let written = text::write(program, &WriteOptions::ane()).map_err(|error| error.to_string())?;
        let key = key(&written);
        let verdict = self.known.verdict(&key);
        if let Some(Verdict::Refused { problem }) = &verdict {
            return Err(format!(
                "it was refused before on this chip and system: {problem} (remembered in {}; delete the file to try again)",
                self.known.path().display()
            ));
        }
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
        let mil =
            text::write_to_dir(program, &dir, &WriteOptions::ane()).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        if !matches!(verdict, Some(Verdict::Accepted { .. })) {
            self.try_in_child(&key, &mil, &bundle_dir)?;
        }
        self.wait_after_refusal();
        let compiled =
            Compiled::compile(&self.espresso, self.options.backend, &mil, &bundle_dir).map_err(|error| {
                self.note_refusal();
                explain(&error)
            })?;
        if let Some(backend) = bundles::selected_backend(&bundle_dir)
            && self.options.backend == Backend::Ane
            && backend != "ane"
        {
            return Err(format!("the compiler gave it to `{backend}` and not to the engine"));
        }
        let prepared = load(compiled, ports)?;
        self.known.learn(&key, Verdict::Accepted { ms: ms(begun.elapsed()) });
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

    /// Lets a child compile and load the program first, where one can be started.
    fn try_in_child(&self, key: &str, mil: &Path, bundle_dir: &Path) -> std::result::Result<(), String> {
        let Some(command) = &self.options.child else {
            return Ok(());
        };
        self.wait_after_refusal();
        let task = Task::Compile { mil: mil.to_owned(), bundle_dir: bundle_dir.to_owned() };
        match child::ask::<()>(command, &request(&self.options, task), self.options.limit) {
            // Without a child nothing is known, and the run would rather try than give up.
            Ok(()) | Err(NoAnswer::NotStarted(_)) => Ok(()),
            Err(NoAnswer::Ended(problem)) => Err(problem),
            Err(no_answer) => {
                self.note_refusal();
                let problem = no_answer.to_string();
                if let Err(also) = self.control(command) {
                    return Err(format!(
                        "{problem}; a small program that is known to run is refused as well ({also}), so nothing is remembered"
                    ));
                }
                self.known.learn(key, Verdict::Refused { problem: problem.clone() });
                Err(problem)
            }
        }
    }

    /// Whether compiling works at all: a full disk or a wedged service refuses everything, and says nothing
    /// about the program that was refused first.
    fn control(&self, command: &ChildCommand) -> std::result::Result<(), String> {
        self.wait_after_refusal();
        let number = self.compiled.fetch_add(1, Ordering::Relaxed);
        let task = Task::Ways { dir: self.work.path().join(format!("{number:03}-control")) };
        child::ask::<Ways>(command, &request(&self.options, task), self.options.limit)
            .map(drop)
            .map_err(|no_answer| no_answer.to_string())
    }

    fn note_refusal(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn wait_after_refusal(&self) {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = refused.and_then(|at| self.options.back_off.checked_sub(at.elapsed())) {
            std::thread::sleep(left);
        }
    }
}

impl Device for E5rtDevice {
    fn name(&self) -> &str {
        self.options.backend.name()
    }

    fn describe(&self) -> String {
        let ways = self.shared.ways;
        let bindings = match (ways.own_operations, ways.rebinds) {
            (true, true) => format!(
                "an operation for each binding up to {}, then bound anew",
                self.options.max_operations
            ),
            (true, false) => {
                format!("an operation for each binding up to {}, then copies", self.options.max_operations)
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

fn request(options: &Options, task: Task) -> Request {
    Request { library: options.library.clone(), backend: options.backend.name().to_owned(), task }
}

/// Tries the small program: in a child, and its bundle in a second one; or in this process, which cannot
/// tell whether bundles open in another one.
fn find_ways(options: &Options, espresso: &Espresso, work: &Path) -> std::result::Result<Ways, String> {
    let dir = work.join("probe");
    let Some(command) = &options.child else {
        return ways::probe(espresso, options.backend, &dir);
    };
    let task = Task::Ways { dir: dir.clone() };
    let mut ways = match child::ask::<Ways>(command, &request(options, task), options.limit) {
        Ok(ways) => ways,
        Err(NoAnswer::NotStarted(_)) => return ways::probe(espresso, options.backend, &dir),
        Err(no_answer) => return Err(format!("a small program does not run: {no_answer}")),
    };
    let task = Task::Reopen { dir };
    // That it does not work is the answer that ANEForge found.
    ways.reopens = child::ask(command, &request(options, task), options.limit).ok();
    Ok(ways)
}

/// What a program is known by: its text and its constants.
fn key(written: &text::Written) -> String {
    let mut hash = Sha256::new();
    hash.update(written.text.as_bytes());
    for file in &written.weights {
        hash.update(file.path.as_bytes());
        hash.update(&file.bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name that every file system takes.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

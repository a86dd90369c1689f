//! The device.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use device::{Buffer, Device, Error, Executable, Limits, Result, Telemetry};
use mil::lint::{Chip, Route, against};
use mil::text;
use mil::{Element, Program};

use super::buffer::{Books, InMemBuffer};
use super::framework::Framework;
use super::model::{Model, compiles};
use super::program::{Loaded, Shared};
use super::ways::{Task, Ways, carry_out};
use crate::check;
use crate::child::NoAnswer;
use crate::explain::explain;
use crate::inmem::{Packing, SurfaceLimits};
use crate::options::Options;
use crate::trials::{Trials, key};

/// As the command line calls it.
pub const IN_MEMORY: &str = "ane-inmem";

/// A device behind `_ANEInMemoryModel`.
pub struct InMemDevice {
    options: Options,
    chip: Chip,
    limits: Limits,
    shared: Arc<Shared>,
    trials: Trials,
    /// Texts for child processes.
    work: tempfile::TempDir,
    written: AtomicUsize,
}

impl InMemDevice {
    /// Loads the framework and finds out what it does.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what is missing: the chip's support, the framework, classes or functions of
    /// it, or an engine that computes a small product and takes joined results.
    pub fn open(options: Options) -> Result<InMemDevice> {
        let framework = Framework::load(&options.library).map_err(|error| unavailable(error.to_string()))?;
        InMemDevice::with_framework(options, framework)
    }

    /// As [`InMemDevice::open`], with a framework that is loaded.
    pub(super) fn with_framework(options: Options, framework: Framework) -> Result<InMemDevice> {
        let Some(chip) = options.chip else {
            let problem = "this chip is none that the catalogue of rules knows; say which it is to be taken for: \
                           --device ane-inmem:m5";
            return Err(unavailable(problem.to_owned()));
        };
        let rules: Vec<String> =
            against(chip, Route::AneInMem).map(|rule| format!("{}: {}", rule.id, rule.statement)).collect();
        if !rules.is_empty() {
            let problem =
                format!("this route does not work on {:?}: {}; use --device ane", chip, rules.join("; "));
            return Err(unavailable(problem));
        }
        let work = tempfile::Builder::new().prefix("anneal-").tempdir().map_err(|error| {
            unavailable(format!("no folder for its programs can be made in the temporary directory: {error}"))
        })?;
        let trials = Trials::new(&options, IN_MEMORY);
        let ways = trials.ways(|| find_ways(&options, &framework, &trials)).map_err(unavailable)?;
        let limits = Limits {
            max_axis: SurfaceLimits::of(chip).columns,
            max_programs: Some(options.max_programs),
            accumulate: false,
            // Two surfaces share nothing: a pair would be copied from the one to the other in each run.
            inout: false,
            int8: true,
        };
        let books = Arc::new(Books { device: IN_MEMORY.into(), counters: Arc::default() });
        let shared = Arc::new(Shared { framework, books, ways });
        Ok(InMemDevice { options, chip, limits, shared, trials, work, written: AtomicUsize::new(0) })
    }

    fn load(&self, program: &Program) -> std::result::Result<(Packing, Model), String> {
        let chip = self.chip;
        let packing = Packing::new(program, SurfaceLimits::of(chip)).map_err(|error| error.to_string())?;
        let options = check::write_options(Route::AneInMem);
        let written = text::write(packing.program(), &options).map_err(|error| error.to_string())?;
        let counts = (compiles(), 0);
        let findings = check::lint(packing.program(), &written, chip, Route::AneInMem, counts);
        check::refuse_errors(chip, &findings)?;
        let key = key(&written);
        self.trials.refused_before(&key)?;
        let begun = Instant::now();
        let times = self.shared.ways.times;
        let request = |task: Task| task.request(&self.options.library);
        let compile = || -> std::result::Result<_, String> {
            let dir = self.work.path().join(format!("{:03}", self.written.fetch_add(1, Ordering::Relaxed)));
            text::write_to_dir(packing.program(), &dir, &options).map_err(|error| error.to_string())?;
            Ok(request(Task::Compile { dir, times }))
        };
        self.trials.try_first(&key, compile, || request(Task::Works))?;
        let model = self.trials.compile(|| {
            Model::new(&self.shared.framework, &written, times).map_err(|error| explain(&error))
        })?;
        self.trials.accept(&key, begun.elapsed());
        Ok((packing, model))
    }
}

fn unavailable(problem: String) -> Error {
    Error::Unavailable { device: IN_MEMORY.to_owned(), problem }
}

/// Tries the small programs, each in a child; or in this process.
fn find_ways(
    options: &Options,
    framework: &Framework,
    trials: &Trials,
) -> std::result::Result<(Ways, bool), String> {
    let attempt = |task: Task| match trials.ask::<()>(&task.clone().request(&options.library)) {
        Ok(()) => Ok(()),
        Err(NoAnswer::NotStarted(_)) => carry_out(framework, &task),
        Err(no_answer) => Err(no_answer.to_string()),
    };
    attempt(Task::Works).map_err(|problem| format!("a small program does not run: {problem}"))?;
    attempt(Task::Joins).map_err(|problem| {
        format!(
            "a program that joins its results is refused here, as some systems do (rule ANE-021), and packed \
             programs need it; use --device ane: {problem}"
        )
    })?;
    // Statistics are a comfort, and asking for them crashes where they are made otherwise: only in a child.
    let times = trials.ask::<()>(&Task::Times.request(&options.library));
    let is_sure = matches!(times, Ok(()) | Err(NoAnswer::Failed(_) | NoAnswer::Crashed(_)));
    Ok((Ways { times: times.is_ok() }, is_sure))
}

impl Device for InMemDevice {
    fn name(&self) -> &str {
        IN_MEMORY
    }

    fn describe(&self) -> String {
        let times =
            if self.shared.ways.times { "time as the engine tells it" } else { "time as the host sees it" };
        format!(
            "{}, _ANEInMemoryModel; a surface in and a surface out for each binding; at most {} programs a process; \
             {times}",
            self.options.system, self.options.max_programs
        )
    }

    fn element(&self) -> Element {
        Element::F16
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn compile(&self, name: &str, program: &Program) -> Result<Executable> {
        let begun = Instant::now();
        let (packing, model) = self.load(program).map_err(|problem| Error::Compile {
            device: IN_MEMORY.to_owned(),
            program: name.to_owned(),
            problem,
        })?;
        self.shared.books.counters.compiled();
        let loaded =
            Loaded { shared: self.shared.clone(), name: name.into(), packing, model: Arc::new(model) };
        Ok(Executable::new(self, name, Arc::new(program.clone()), begun.elapsed(), Box::new(loaded)))
    }

    fn alloc(&self, shape: &[usize]) -> Result<Buffer> {
        let fail = |bytes: usize, problem: String| Error::Alloc {
            device: IN_MEMORY.to_owned(),
            shape: shape.to_vec(),
            bytes,
            problem,
        };
        let bytes = shape.iter().try_fold(2_usize, |bytes, extent| bytes.checked_mul(*extent));
        // A pointer may not span more than this.
        if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(fail(usize::MAX, "it is larger than the address space".to_owned()));
        }
        Ok(Buffer::new(Arc::new(InMemBuffer::new(self.shared.books.clone(), shape))))
    }

    fn telemetry(&self) -> Telemetry {
        self.shared.books.counters.snapshot()
    }
}

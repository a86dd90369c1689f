//! Programs on the engine, and requests to run them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mil::text::{self, Written};
use objc2::rc::autoreleasepool;

use super::folder::Folder;
use super::framework::{Framework, Id, Object, Sides, hardware_ns, id, outcome, text_of};
use super::surface::IoSurface;
use crate::CallError;

/// The wait before a program that was not loaded is tried once more: places are freed late (maderix/ANE).
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
/// Which statistics a model is to collect; any bit makes it take the time (ANEgpt, ane-infer).
const PERF_STATS_MASK: u32 = 1;

/// Compiles of this process, whichever device asked for them.
static COMPILES: AtomicUsize = AtomicUsize::new(0);

/// How many programs this process has compiled.
pub(super) fn compiles() -> usize {
    COMPILES.load(Ordering::Relaxed)
}

/// A compiled program on the engine.
pub(super) struct Model {
    framework: Framework,
    /// Removed when the program is unloaded, and before the model is released.
    _folder: Folder,
    object: Object,
    /// An empty dictionary, which calls take as options.
    options: Object,
}

// SAFETY: objects whose references are counted atomically; messages go to the framework one at a time, in its lane.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Compiles and loads `written`; with statistics if `times` is set.
    ///
    /// # Errors
    /// The call that failed, and what was said.
    pub(super) fn new(framework: &Framework, written: &Written, times: bool) -> Result<Model, CallError> {
        let _lane = framework.lane();
        autoreleasepool(|_| Model::compile_and_load(framework, written, times))
    }

    fn compile_and_load(framework: &Framework, written: &Written, times: bool) -> Result<Model, CallError> {
        let (calls, classes) = (framework.calls(), framework.classes());
        let nil = |call| CallError { call, code: 0, message: Some("it answered nil".to_owned()) };
        let source = classes.data(written.text.as_bytes());
        // Never nil (rules ANE-001, ANE-002); one entry for each file, each file from its beginning.
        let (offset_key, data_key, zero) =
            (classes.string("offset"), classes.string("data"), classes.number(0));
        let entries: Vec<(Object, Object)> = written
            .weights
            .iter()
            .map(|file| {
                let content = classes.data(&file.bytes);
                let entry = classes.dictionary([(id(&offset_key), id(&zero)), (id(&data_key), id(&content))]);
                (classes.string(&file.path), entry)
            })
            .collect();
        let weights = classes.dictionary(entries.iter().map(|(path, entry)| (id(path), id(entry))));
        // SAFETY: objects of the classes that the messages expect; here and below.
        let (object, hex) = unsafe {
            let descriptor = (calls.descriptor)(classes, id(&source), id(&weights))
                .ok_or_else(|| nil("modelWithMILText:weights:optionsPlist:"))?;
            let object =
                (calls.model)(classes, id(&descriptor)).ok_or_else(|| nil("inMemoryModelWithDescriptor:"))?;
            let hex = text_of((calls.hex)(id(&object))).ok_or_else(|| nil("hexStringIdentifier"))?;
            (object, hex)
        };
        let folder = fill(framework, &hex, written)?;
        let options = classes.dictionary([]);
        if times {
            // SAFETY: as above.
            unsafe { (calls.set_perf_stats_mask)(id(&object), PERF_STATS_MASK) };
        }
        COMPILES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        outcome("compileWithQoS:options:error:", |error| unsafe {
            (calls.compile)(id(&object), id(&options), error)
        })?;
        let load = || {
            // SAFETY: as above.
            outcome("loadWithQoS:options:error:", |error| unsafe {
                (calls.load)(id(&object), id(&options), error)
            })
        };
        load().or_else(|_| {
            std::thread::sleep(RELOAD_PAUSE);
            load()
        })?;
        // From here on it is unloaded by its owner.
        Ok(Model { framework: framework.clone(), _folder: folder, object, options })
    }

    /// Runs `request`, by whoever has the [lane](Framework::lane).
    ///
    /// # Errors
    /// What was said; outputs then hold anything.
    pub(super) fn evaluate(&self, request: &Request) -> Result<(), CallError> {
        let evaluate = self.framework.calls().evaluate;
        // No thread of the host looks at what the engine writes.
        let (_reading, _writing) = (request.input.reading(), request.output.writing());
        autoreleasepool(|_| {
            // SAFETY: the model is loaded, and the request keeps its surfaces.
            outcome("evaluateWithQoS:options:request:error:", |error| unsafe {
                evaluate(id(&self.object), id(&self.options), id(&request.object), error)
            })
        })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let unload = self.framework.calls().unload;
        let _lane = self.framework.lane();
        // Nobody can be told, and the process may go on without the place.
        let _ = autoreleasepool(|_| {
            // SAFETY: it is loaded.
            outcome("unloadWithQoS:error:", |error| unsafe { unload(id(&self.object), error) })
        });
    }
}

/// The folder that the compiler reads (rule ANE-003), with the text and the files of the weights.
fn fill(framework: &Framework, hex: &str, written: &Written) -> Result<Folder, CallError> {
    let dir = framework.temporary_directory()?.join(hex);
    let lost = |path: &Path, error: std::io::Error| CallError {
        call: "writing the program for the compiler",
        code: error.raw_os_error().unwrap_or_default().into(),
        message: Some(format!("{}: {error}", path.display())),
    };
    let folder = Folder::at(dir.clone()).map_err(|error| lost(&dir, error))?;
    let weights = dir.join("weights");
    std::fs::create_dir_all(&weights).map_err(|error| lost(&weights, error))?;
    let write = |path: &Path, bytes: &[u8]| {
        (framework.calls().write_file)(path, bytes).map_err(|error| lost(path, error))
    };
    for file in &written.weights {
        write(&dir.join(file.path.strip_prefix(text::MODEL_PATH).unwrap_or(&file.path)), &file.bytes)?;
    }
    write(&dir.join(text::FILE_NAME), written.text.as_bytes())?;
    Ok(folder)
}

/// One input surface and one output surface, fixed for good (rule ANE-013).
pub(super) struct Request {
    object: Object,
    stats: Option<Object>,
    /// Kept by the objects as well; here for whoever copies.
    pub(super) input: Arc<IoSurface>,
    pub(super) output: Arc<IoSurface>,
}

// SAFETY: as for `Model`.
unsafe impl Send for Request {}
// SAFETY: as for `Model`.
unsafe impl Sync for Request {}

impl Request {
    /// A request to run a program from `input` to `output`; with statistics if `times` is set.
    ///
    /// # Errors
    /// The call that failed.
    pub(super) fn new(
        framework: &Framework,
        input: Arc<IoSurface>,
        output: Arc<IoSurface>,
        times: bool,
    ) -> Result<Request, CallError> {
        let (calls, classes) = (framework.calls(), framework.classes());
        autoreleasepool(|_| {
            let side = |surface: &IoSurface| -> Result<_, CallError> {
                let object = surface.object()?;
                Ok((classes.array([id(&object)]), classes.array([id(&classes.number(0))])))
            };
            let (inputs, outputs) = (side(&input)?, side(&output)?);
            let sides = Sides { inputs: (&inputs.0, &inputs.1), outputs: (&outputs.0, &outputs.1) };
            let stats = if times { classes.stats() } else { None };
            let none: Id = std::ptr::null_mut();
            // SAFETY: arrays of surface objects and of numbers, and statistics or nil.
            let object = unsafe { (calls.request)(classes, sides, stats.as_ref().map_or(none, id)) };
            let object = object.ok_or(CallError {
                call: "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
                code: 0,
                message: Some("it answered nil".to_owned()),
            })?;
            Ok(Request { object, stats, input, output })
        })
    }

    /// How long the engine took for the latest run, where it says.
    pub(super) fn hardware_time(&self) -> Option<Duration> {
        let ns = hardware_ns(self.stats.as_ref()?);
        (ns > 0).then(|| Duration::from_nanos(ns))
    }
}

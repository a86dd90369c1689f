//! `_ANEInMemoryModel`: identify, compile, load, evaluate, unload; and `_ANEClient`, the shorter way to evaluate.

use std::path::Path;

use mil::{Op, Program};
use objc2::runtime::{AnyClass, Bool, Sel};
use objc2::sel;
use sim::Interpreter;
use standin::engine::{self, Backend};
use standin::fault::CompileFault;
use standin::inmem::{InMem, Silent};
use standin::profile::Profile;

use crate::foundation::{Id, Refusal, answer, string, temporary_directory};
use crate::objects::{self, INVALID, Object, alloc, autorelease, event, objects, violation};
use crate::run::{NOT_LOADED, evaluate};

/// What a refused load answers: too many programs are alive.
const LOAD_REFUSED: isize = 0x50004;
/// What a compiler puts beside the text: a description, and the program. In this library the second is text
/// again, with every constant in it.
const PRODUCTS: [&str; 2] = ["net.plist", "data"];

/// A model between its descriptor and the engine.
pub(crate) struct Model {
    hex: String,
    /// Keys of the weights dictionary.
    files: Vec<String>,
    /// What the latest compile read. Files that change later change nothing (ANE-005).
    program: Option<Program>,
    loaded: Option<LoadedModel>,
    /// Which statistics a run fills in; none without it.
    pub(crate) perf_stats_mask: u32,
}

/// A program that can run.
pub(crate) struct LoadedModel {
    pub(crate) interpreter: Interpreter,
    /// What the profile gets wrong about it.
    pub(crate) silent: Option<Silent>,
}

impl Model {
    /// Whether it holds a place on the engine.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// What runs.
    pub(crate) fn loaded(&self) -> Option<&LoadedModel> {
        self.loaded.as_ref()
    }
}

/// Defines the classes.
pub(crate) fn define() {
    objects::define(c"_ANEInMemoryModel", |class| {
        // SAFETY: the functions have the methods' types.
        unsafe {
            class.add_class_method(
                sel!(inMemoryModelWithDescriptor:),
                with_descriptor as unsafe extern "C-unwind" fn(_, _, _) -> _,
            );
            class.add_method(sel!(hexStringIdentifier), hex as unsafe extern "C-unwind" fn(_, _) -> _);
            class.add_method(
                sel!(compileWithQoS:options:error:),
                compile_with as unsafe extern "C-unwind" fn(_, _, _, _, _) -> _,
            );
            class.add_method(
                sel!(loadWithQoS:options:error:),
                load_with as unsafe extern "C-unwind" fn(_, _, _, _, _) -> _,
            );
            class.add_method(
                sel!(evaluateWithQoS:options:request:error:),
                evaluate_with as unsafe extern "C-unwind" fn(_, _, _, _, _, _) -> _,
            );
            class.add_method(
                sel!(unloadWithQoS:error:),
                unload_with as unsafe extern "C-unwind" fn(_, _, _, _) -> _,
            );
            class.add_method(sel!(perfStatsMask), perf_stats_mask as unsafe extern "C-unwind" fn(_, _) -> _);
            class.add_method(
                sel!(setPerfStatsMask:),
                set_perf_stats_mask as unsafe extern "C-unwind" fn(_, _, _),
            );
            class.add_method(sel!(model), itself as unsafe extern "C-unwind" fn(_, _) -> _);
        }
    });
    objects::define(c"_ANEClient", |class| {
        // SAFETY: the functions have the methods' types.
        unsafe {
            class.add_method(
                sel!(initWithRestrictedAccessAllowed:),
                init_client as unsafe extern "C-unwind" fn(_, _, _) -> _,
            );
            class.add_method(
                sel!(doEvaluateDirectWithModel:options:request:qos:error:),
                evaluate_directly as unsafe extern "C-unwind" fn(_, _, _, _, _, _, _) -> _,
            );
        }
    });
}

/// `+inMemoryModelWithDescriptor:` → object or nil.
unsafe extern "C-unwind" fn with_descriptor(class: &'static AnyClass, _: Sel, descriptor: Id) -> Id {
    let mut all = objects();
    let found = all.live(descriptor as usize, "descriptor", "inMemoryModelWithDescriptor");
    let Ok(Object::Descriptor { hex, files }) = found else { return std::ptr::null_mut() };
    let model =
        Model { hex: hex.clone(), files: files.clone(), program: None, loaded: None, perf_stats_mask: 0 };
    // SAFETY: the class is ours, and the reference is given to the pool.
    let new = unsafe { autorelease(alloc(class)) };
    let name = all.add(new, Object::Model(Box::new(model)));
    event(&format!("inMemoryModelWithDescriptor {} -> {name}", all.name(descriptor as usize)));
    new
}

/// Does something with a live model.
fn with<T>(this: Id, call: &str, body: impl FnOnce(&mut Model) -> T) -> Result<T, Refusal> {
    match objects().live(this as usize, "model", call)? {
        Object::Model(model) => Ok(body(model)),
        _ => unreachable!("`live` looks at the kind"),
    }
}

/// `-hexStringIdentifier` → string.
unsafe extern "C-unwind" fn hex(this: Id, _: Sel) -> Id {
    match with(this, "hexStringIdentifier", |model| model.hex.clone()) {
        Ok(hex) => string(&hex),
        Err(_) => std::ptr::null_mut(),
    }
}

/// Tells the trace how a call went, and answers it.
///
/// # Safety
/// `error` is null or may be written.
unsafe fn finish(call: &str, this: Id, result: Result<(), Refusal>, error: *mut Id) -> Bool {
    let name = objects().name(this as usize);
    match &result {
        Ok(()) => event(&format!("{call} {name} -> YES")),
        Err(Refusal { text: Some(text), .. }) => event(&format!("{call} {name} -> NO: {text}")),
        Err(Refusal { text: None, .. }) => event(&format!("{call} {name} -> NO, without an error")),
    }
    // SAFETY: the caller's promise.
    unsafe { answer(result, error) }
}

/// `-compileWithQoS:(unsigned)qos options:(NSDictionary *)options error:(NSError **)error` → BOOL. The number
/// of the quality of service changes nothing (ANE-020).
unsafe extern "C-unwind" fn compile_with(this: Id, _: Sel, _qos: u32, _options: Id, error: *mut Id) -> Bool {
    // SAFETY: `error` is the driver's.
    unsafe { finish("compile", this, compile(this), error) }
}

fn compile(this: Id) -> Result<(), Refusal> {
    let (hex, files) = with(this, "compile", |model| (model.hex.clone(), model.files.clone()))?;
    let (profile, faults) = {
        let state = standin::state();
        (state.profile.clone(), state.faults.clone())
    };
    let compiles = {
        let mut objects = objects();
        objects.compiles += 1;
        objects.compiles
    };
    if compiles > profile.inmem.compile_limit {
        return Err(Refusal { code: INVALID, text: None });
    }
    let dir = temporary_directory().join(&hex);
    let program = read(&dir, &files, faults.compile.as_ref(), &profile);
    let program = program.map_err(|text| Refusal::new(INVALID, text))?;
    write_products(&dir, &program).map_err(|text| Refusal::new(INVALID, text))?;
    with(this, "compile", |model| model.program = Some(program))
}

/// Reads the folder that the driver filled, as the compiler does.
///
/// # Errors
/// What the compiler says.
fn read(
    dir: &Path,
    files: &[String],
    fault: Option<&(CompileFault, String)>,
    profile: &Profile,
) -> Result<Program, String> {
    let path = dir.join(mil::text::FILE_NAME);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("ANECCompile() FAILED: {}: {error} (ANE-003)", path.display()))?;
    match fault.filter(|(_, part)| text.contains(part)) {
        Some((CompileFault::Hang, _)) => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        Some((CompileFault::Crash, _)) => std::process::abort(),
        Some((CompileFault::Refuse, _)) => return Err("ANECCompile() FAILED: as planted".to_owned()),
        None => {}
    }
    let named = text.split('"').filter(|part| part.starts_with(mil::text::MODEL_PATH));
    if let Some(file) = { named }.find(|part| !files.iter().any(|file| file == part)) {
        return Err(format!("InvalidMILProgram: {file} is not in the weights dictionary"));
    }
    let program = engine::compile(&path, Backend::Ane, profile)?;
    let primitive = program.expand_all().map_err(|error| format!("InvalidMILProgram: {error}"))?;
    check_ops(&primitive, &profile.inmem)?;
    Ok(program)
}

/// # Errors
/// The op that this compiler does not take.
fn check_ops(program: &Program, inmem: &InMem) -> Result<(), String> {
    let producers = program.producers();
    for stmt in program.stmts() {
        let name = stmt.op.name();
        if inmem.refused_ops.contains(&name) {
            return Err(format!("ANECCompile() FAILED: this compiler takes no {name}"));
        }
        let constant = |id: &mil::ValueId| {
            producers[id.index()].is_some_and(|index| matches!(program.stmts()[index].op, Op::Const(_)))
        };
        if inmem.refuses_constant_matmul && name == "matmul" && stmt.args.iter().any(constant) {
            return Err("InvalidMILProgram: a matmul has a constant operand (ANE-033)".to_owned());
        }
    }
    Ok(())
}

/// Puts beside the text what a compiler does.
///
/// # Errors
/// What the system says.
fn write_products(dir: &Path, program: &Program) -> Result<(), String> {
    let [description, data] = PRODUCTS.map(|name| dir.join(name));
    let inline = mil::text::WriteOptions { inline_max: usize::MAX, ..mil::text::WriteOptions::default() };
    let written =
        mil::text::write(program, &inline).map_err(|error| format!("ANECCompile() FAILED: {error}"))?;
    let put = |path: &Path, text: &str| {
        std::fs::write(path, text)
            .map_err(|error| format!("ANECCompile() FAILED: {}: {error}", path.display()))
    };
    put(
        &description,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\"><dict/></plist>\n",
    )?;
    put(&data, &written.text)
}

/// `-loadWithQoS:options:error:`, as compiling.
unsafe extern "C-unwind" fn load_with(this: Id, _: Sel, _qos: u32, _options: Id, error: *mut Id) -> Bool {
    // SAFETY: `error` is the driver's.
    unsafe { finish("load", this, load(this), error) }
}

fn load(this: Id) -> Result<(), Refusal> {
    let (hex, program, again) =
        with(this, "load", |model| (model.hex.clone(), model.program.clone(), model.is_loaded()))?;
    if again {
        violation(&format!("load: {} is loaded already", objects().name(this as usize)));
        return Ok(());
    }
    let (profile, faults) = {
        let state = standin::state();
        (state.profile.clone(), state.faults.clone())
    };
    let (loads, loaded) = {
        let mut objects = objects();
        objects.loads += 1;
        (objects.loads, objects.loaded)
    };
    let refused = |why: &str| Refusal::new(LOAD_REFUSED, format!("Program load failure (0x50004): {why}"));
    let program = match program {
        Some(program) => program,
        None if profile.inmem.loads_from_folder => compiled_before(&temporary_directory().join(hex))
            .map_err(|error| refused(&format!("the folder holds no compiled program: {error}")))?,
        None => return Err(refused("the model is not compiled")),
    };
    if faults.load_refuse || faults.of_load(loads) {
        return Err(refused("as planted"));
    }
    let limit = faults.loaded_limit.unwrap_or(profile.loaded_limit);
    if loaded >= limit {
        return Err(refused(&format!("{loaded} programs are loaded")));
    }
    let interpreter =
        Interpreter::new(&program, &profile.arithmetic).map_err(|error| refused(&error.to_string()))?;
    let findings = program.lint(profile.chip, profile.route);
    let broken = |rule: &str| findings.iter().any(|finding| finding.rule == rule);
    let silent =
        profile.inmem.silent.iter().filter(|(rule, _)| broken(rule)).map(|(_, silent)| *silent).max();
    objects().loaded += 1;
    with(this, "load", |model| model.loaded = Some(LoadedModel { interpreter, silent }))
}

/// The program that an earlier compile left in a folder.
fn compiled_before(dir: &Path) -> Result<Program, String> {
    let [description, data] = PRODUCTS.map(|name| dir.join(name));
    std::fs::metadata(&description).map_err(|error| format!("{}: {error}", description.display()))?;
    mil::text::read_file(&data).map_err(|error| error.to_string())
}

/// `-evaluateWithQoS:(unsigned)qos options:(NSDictionary *)options request:(_ANERequest *)request
/// error:(NSError **)error` → BOOL.
unsafe extern "C-unwind" fn evaluate_with(
    this: Id,
    _: Sel,
    _qos: u32,
    _options: Id,
    request: Id,
    error: *mut Id,
) -> Bool {
    // SAFETY: `error` is the driver's.
    unsafe { finish("evaluate", this, evaluate(this as usize, request as usize), error) }
}

/// `-unloadWithQoS:(unsigned)qos error:(NSError **)error` → BOOL.
unsafe extern "C-unwind" fn unload_with(this: Id, _: Sel, _qos: u32, error: *mut Id) -> Bool {
    // SAFETY: `error` is the driver's.
    unsafe { finish("unload", this, unload(this), error) }
}

fn unload(this: Id) -> Result<(), Refusal> {
    if with(this, "unload", |model| model.loaded.take())?.is_some() {
        objects().loaded -= 1;
        return Ok(());
    }
    violation(&format!("unload: {} is not loaded", objects().name(this as usize)));
    Err(Refusal::new(INVALID, NOT_LOADED))
}

/// `-perfStatsMask` → unsigned.
unsafe extern "C-unwind" fn perf_stats_mask(this: Id, _: Sel) -> u32 {
    with(this, "perfStatsMask", |model| model.perf_stats_mask).unwrap_or(0)
}

/// `-setPerfStatsMask:(unsigned)mask`.
unsafe extern "C-unwind" fn set_perf_stats_mask(this: Id, _: Sel, mask: u32) {
    // A model that was released is in the trace; the method has no way to answer.
    let _ = with(this, "setPerfStatsMask", |model| model.perf_stats_mask = mask);
}

/// `-model`: what `_ANEClient` takes. The real one answers an object of another class.
unsafe extern "C-unwind" fn itself(this: Id, _: Sel) -> Id {
    this
}

/// `-[_ANEClient initWithRestrictedAccessAllowed:(BOOL)allowed]` → object.
unsafe extern "C-unwind" fn init_client(this: Id, _: Sel, _allowed: Bool) -> Id {
    this
}

/// `-[_ANEClient doEvaluateDirectWithModel:options:request:qos:error:]` → BOOL.
unsafe extern "C-unwind" fn evaluate_directly(
    _this: Id,
    _: Sel,
    model: Id,
    _options: Id,
    request: Id,
    _qos: u32,
    error: *mut Id,
) -> Bool {
    // SAFETY: `error` is the driver's.
    unsafe { finish("evaluate directly", model, evaluate(model as usize, request as usize), error) }
}

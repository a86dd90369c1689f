//! The `e5rt_*` functions: objects behind handles, and what is checked at each call.
//!
//! A handle is a pointer to a few bytes that are never given back, so a handle that was released is known
//! when it is used again. Memory of released buffers is spoilt and kept, so a driver that still uses it
//! computes nonsense and does not crash the test.

mod buffer;
mod compiler;
mod library;
mod operation;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::engine::Loaded;
use crate::fault::Faults;
use crate::profile::{self, Profile};
use crate::trace::Trace;

/// A handle as callers hold it.
type Raw = *mut c_void;

/// The code of arguments that mean nothing. Which codes Espresso uses is not documented, only that 0 is
/// success.
const INVALID: i64 = 1;
/// The code of a compile or a load that was refused.
const REFUSED: i64 = 11;
/// The code of a run that failed.
const RUN_FAILED: i64 = 13;

/// An answer that is no success.
struct Failure {
    code: i64,
    message: String,
}

type Answer<T = ()> = Result<T, Failure>;

fn invalid<T>(message: impl Into<String>) -> Answer<T> {
    Err(Failure { code: INVALID, message: message.into() })
}

fn refused<T>(message: impl Into<String>) -> Answer<T> {
    Err(Failure { code: REFUSED, message: message.into() })
}

/// What stands behind a handle. Other objects are named by their handles' keys.
enum Object {
    Config { dir: Option<PathBuf> },
    Compiler { dir: PathBuf, made_operation: bool },
    Options { mask: u64 },
    Library { bundle: PathBuf, compiler: Option<usize> },
    Function { library: usize },
    OpOptions { function: usize, operations: usize },
    Operation { options: usize, loaded: Arc<Loaded>, bound: Vec<Option<usize>>, encoded: Encoded },
    Port { operation: usize, index: usize },
    Buffer { memory: Vec<u64>, bytes: usize },
    Stream { encoded: Vec<usize> },
    Event { signaled: u64, completes: Option<usize> },
    TensorDesc { numel: usize },
}

/// Where an operation is between being bound and being run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoded {
    Never,
    /// In a stream.
    Now,
    /// Prepared to be encoded anew.
    Before,
}

impl Object {
    fn kind(&self) -> &'static str {
        match self {
            Object::Config { .. } => "config",
            Object::Compiler { .. } => "compiler",
            Object::Options { .. } => "options",
            Object::Library { .. } => "library",
            Object::Function { .. } => "function",
            Object::OpOptions { .. } => "op_options",
            Object::Operation { .. } => "operation",
            Object::Port { .. } => "port",
            Object::Buffer { .. } => "buffer",
            Object::Stream { .. } => "stream",
            Object::Event { .. } => "event",
            Object::TensorDesc { .. } => "tensor_desc",
        }
    }
}

struct Entry {
    number: u64,
    object: Object,
    released: bool,
}

/// Everything that the library knows in this process.
pub struct State {
    /// The hardware that is imitated.
    pub profile: Profile,
    /// Planted bad luck.
    pub faults: Faults,
    /// What was called.
    pub trace: Trace,
    /// Live objects of the other route, by kind.
    pub others: BTreeMap<&'static str, usize>,
    objects: HashMap<usize, Entry>,
    /// Runs so far.
    runs: u64,
    last_message: CString,
    process: u32,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::new()));

/// The state, for whoever only asks.
pub fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new() -> State {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let name = set("ANNEAL_STANDIN_PROFILE");
        let wanted = name.as_deref().unwrap_or(profile::DEFAULT);
        let profile = Profile::by_name(wanted).unwrap_or_else(|| {
            let names: Vec<&str> = Profile::all().iter().map(|p| p.name).collect();
            panic!(
                "ANNEAL_STANDIN_PROFILE={wanted}: there is no such profile; there are {}",
                names.join(", ")
            )
        });
        let faults = Faults::parse(&set("ANNEAL_STANDIN_FAULT").unwrap_or_default())
            .unwrap_or_else(|error| panic!("ANNEAL_STANDIN_FAULT: {error}"));
        State {
            profile,
            faults,
            trace: Trace::new(),
            others: BTreeMap::new(),
            objects: HashMap::new(),
            runs: 0,
            last_message: CString::default(),
            process: std::process::id(),
        }
    }

    /// How many objects of each kind were not released.
    pub(crate) fn live(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = self
            .others
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| (*kind, *count))
            .collect();
        for entry in self.objects.values().filter(|entry| !entry.released) {
            *counts.entry(entry.object.kind()).or_default() += 1;
        }
        counts.into_iter().map(|(kind, count)| format!("{kind} {count}\n")).collect()
    }

    /// A handle as the trace tells it.
    fn show(&self, raw: Raw) -> String {
        match self.objects.get(&(raw as usize)) {
            Some(entry) => format!("{}#{}", entry.object.kind(), entry.number),
            None if raw.is_null() => "null".to_owned(),
            None => "unknown".to_owned(),
        }
    }

    /// A handle by the place where a caller keeps it.
    fn show_at(&self, handle: *mut Raw) -> String {
        // SAFETY: null is excluded; otherwise it may be read, as the exported functions ask.
        if handle.is_null() { "null".to_owned() } else { self.show(unsafe { *handle }) }
    }

    /// The object behind a handle that must be live.
    fn object(&mut self, raw: Raw, kind: &'static str) -> Answer<&mut Object> {
        let shown = self.show(raw);
        match self.objects.get(&(raw as usize)) {
            Some(entry) if entry.released => {
                self.trace.violation(&format!("{shown} is used after its release"));
                return invalid(format!("{kind} handle is stale"));
            }
            Some(entry) if entry.object.kind() == kind => {}
            _ => {
                self.trace.violation(&format!("{shown} is given where a {kind} is expected"));
                return invalid(format!("Cannot provide {} as nullptr. @ Create", spoken(kind)));
            }
        }
        Ok(&mut self.objects.get_mut(&(raw as usize)).expect("it was found above").object)
    }

    /// The object of a key that another object holds; it may have been released since.
    fn by_key(&mut self, key: usize) -> &mut Entry {
        self.objects.get_mut(&key).expect("objects are never forgotten")
    }

    fn is_live(&self, key: usize) -> bool {
        self.objects.get(&key).is_some_and(|entry| !entry.released)
    }

    /// Live objects, with their keys.
    fn all_live(&self) -> impl Iterator<Item = (usize, &Object)> {
        self.objects.iter().filter(|(_, entry)| !entry.released).map(|(key, entry)| (*key, &entry.object))
    }

    /// Puts a new handle into `out`.
    ///
    /// # Safety
    /// `out` is null or may be written.
    unsafe fn create(&mut self, out: *mut Raw, object: Object) -> Answer {
        if out.is_null() {
            return invalid("Output pointer is NULL");
        }
        let number = self.objects.len() as u64 + 1;
        // Never given back, so that no later handle has the same address.
        let raw = Box::into_raw(Box::new(number)).cast::<c_void>();
        self.objects.insert(raw as usize, Entry { number, object, released: false });
        // SAFETY: the caller's promise.
        unsafe { *out = raw };
        Ok(())
    }

    /// Ends a handle. `check` says what is wrong with doing that now.
    ///
    /// # Safety
    /// `handle` is null or may be read and written.
    unsafe fn release(
        &mut self,
        handle: *mut Raw,
        kind: &'static str,
        check: impl FnOnce(&State, usize) -> Option<String>,
    ) -> Answer {
        if handle.is_null() {
            return invalid("Handle pointer is NULL");
        }
        // SAFETY: the caller's promise.
        let raw = unsafe { *handle };
        let shown = self.show(raw);
        match self.objects.get(&(raw as usize)) {
            Some(entry) if entry.released => {
                self.trace.violation(&format!("{shown} is released twice"));
                return invalid("stale handle");
            }
            Some(entry) if entry.object.kind() == kind => {}
            _ => {
                self.trace.violation(&format!("{shown} is released as a {kind}"));
                return invalid("unknown handle");
            }
        }
        if let Some(wrong) = check(self, raw as usize) {
            self.trace.violation(&format!("{shown} is released {wrong}"));
        }
        let entry = self.by_key(raw as usize);
        entry.released = true;
        if let Object::Buffer { memory, .. } = &mut entry.object {
            memory.fill(SPOILT);
        }
        // SAFETY: the caller's promise.
        unsafe { *handle = std::ptr::null_mut() };
        Ok(())
    }
}

/// Four halves that are no numbers: what memory holds that nobody wrote, or that was released.
const SPOILT: u64 = 0x7E00_7E00_7E00_7E00;

fn spoken(kind: &str) -> &str {
    match kind {
        "function" => "program function",
        kind => kind,
    }
}

/// A C string that a caller gave.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn string(text: *const c_char) -> Answer<String> {
    if text.is_null() {
        return invalid("string is NULL");
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Writes an answer to where the caller wants it.
///
/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return invalid("Output pointer is NULL");
    }
    // SAFETY: the caller's promise.
    unsafe { *out = value };
    Ok(())
}

/// One call: alone, traced, and without a panic that leaves it.
fn call(name: &str, shown: impl FnOnce(&State) -> String, work: impl FnOnce(&mut State) -> Answer) -> i64 {
    let (mut state, second) = match STATE.try_lock() {
        Ok(state) => (state, false),
        Err(TryLockError::Poisoned(poisoned)) => (poisoned.into_inner(), false),
        Err(TryLockError::WouldBlock) => (state(), true),
    };
    if second {
        state.trace.violation(&format!("{name} is called while another thread is inside"));
    }
    if state.process != std::process::id() {
        state.trace.violation(&format!("{name} is called in a forked process"));
        return INVALID;
    }
    let shown = shown(&state);
    let done = catch_unwind(AssertUnwindSafe(|| work(&mut state)));
    let (code, message) = match done {
        Ok(Ok(())) => (0, String::new()),
        Ok(Err(failure)) => (failure.code, failure.message),
        Err(_) => (INVALID, "internal error".to_owned()),
    };
    if code == 0 {
        state.trace.event(&format!("{name}({shown})"));
    } else {
        state.trace.event(&format!("{name}({shown}) -> {code} {message}"));
        // Espresso's words appear here, too.
        eprintln!("E5RT: {message}");
    }
    state.last_message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    code
}

/// Declares an exported function: its arguments, how they are shown, what it does.
macro_rules! export {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) show $show:expr; $work:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Handles are ones that this library gave, strings end with a zero byte, and out-pointers may be
        /// written; null is an error, not a crash.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> i64 {
            $crate::e5rt::call(stringify!($name), $show, $work)
        }
    };
}
use export;

/// What the last call that failed had to say.
#[unsafe(no_mangle)]
pub extern "C" fn e5rt_get_last_error_message() -> *const c_char {
    // Valid until the next call, as callers know.
    state().last_message.as_ptr()
}

/// Answers a C++ string, so whoever calls it from C has already gone wrong.
#[unsafe(no_mangle)]
pub extern "C" fn e5rt_error_code_get_string(_code: i64) -> *const c_char {
    state().trace.violation("e5rt_error_code_get_string is called, which answers a C++ string");
    std::ptr::null()
}

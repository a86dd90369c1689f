//! The library as tests hold it.

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};

use libloading::os::unix::Library;

/// A library that is loaded; that of the `e5rt` symbols from a folder of its own, so that its state is its own.
pub struct StandIn {
    folder: tempfile::TempDir,
    path: PathBuf,
    library: Library,
}

impl StandIn {
    /// Under this profile.
    ///
    /// # Panics
    /// When there is no such profile, or the library was not built.
    pub fn new(profile: &str) -> StandIn {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = crate::copy_to(folder.path());
        StandIn::load(folder, path, profile)
    }

    /// The library of the Objective-C route under this profile. A process has its classes once, so all
    /// instances are the same.
    ///
    /// # Panics
    /// As [`StandIn::new`].
    pub fn of_objective_c(profile: &str) -> StandIn {
        StandIn::load(tempfile::tempdir().expect("a temporary folder"), crate::objective_c(), profile)
    }

    fn load(folder: tempfile::TempDir, path: PathBuf, profile: &str) -> StandIn {
        // SAFETY: the libraries' initialisers define classes, or do nothing.
        let library = unsafe { Library::new(&path) }.expect("a library that was just built");
        let stand_in = StandIn { folder, path, library };
        stand_in.set("anneal_standin_set_profile", profile);
        stand_in
    }

    /// Plants bad luck, see [`crate::fault`].
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn plant(&self, fault: &str) {
        self.set("anneal_standin_set_fault", fault);
    }

    fn set(&self, function: &str, value: &str) {
        let value = CString::new(value).expect("no zero byte");
        // SAFETY: the type is that of both functions.
        let code = unsafe {
            let set = self.library.get::<unsafe extern "C" fn(*const c_char) -> i64>(function.as_bytes());
            set.expect("the library exports it")(value.as_ptr())
        };
        assert_eq!(code, 0, "{function}({value:?})");
    }

    fn told(&self, function: &str) -> String {
        // SAFETY: the type is that of all functions that tell; the buffer has the size that is said.
        unsafe {
            let tell =
                self.library.get::<unsafe extern "C" fn(*mut c_char, usize) -> usize>(function.as_bytes());
            let tell = tell.expect("the library exports it");
            let mut bytes = vec![0_u8; tell(std::ptr::null_mut(), 0) + 1];
            tell(bytes.as_mut_ptr().cast(), bytes.len());
            bytes.pop();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }

    /// Every call.
    pub fn trace(&self) -> String {
        self.told("anneal_standin_trace")
    }

    /// What must not have been done.
    pub fn violations(&self) -> String {
        self.told("anneal_standin_violations")
    }

    /// Objects that were not released.
    pub fn live(&self) -> String {
        self.told("anneal_standin_live")
    }

    /// How often a function was called with success.
    pub fn calls(&self, function: &str) -> usize {
        let call = format!(" {function}(");
        self.trace().lines().filter(|line| line.contains(&call) && !line.contains(" -> ")).count()
    }

    /// The library's file.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A folder of its own, which goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The loaded library.
    pub fn library(&self) -> &Library {
        &self.library
    }
}

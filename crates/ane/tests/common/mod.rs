//! A stand-in of one's own, and a device on it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ane::{Backend, E5rtDevice, Options};
use libloading::os::unix::Library;
use mil::lint::Chip;

/// A copy of the stand-in, with a state and a folder that no other test sees.
pub struct StandIn {
    folder: tempfile::TempDir,
    library: Library,
}

impl StandIn {
    pub fn new(profile: &str) -> StandIn {
        let folder = tempfile::tempdir().unwrap();
        let path = standin::copy_to(folder.path());
        // SAFETY: the library's initialisers do nothing.
        let library = unsafe { Library::new(&path) }.unwrap();
        let stand_in = StandIn { folder, library };
        stand_in.set("anneal_standin_set_profile", profile);
        stand_in
    }

    pub fn plant(&self, fault: &str) {
        self.set("anneal_standin_set_fault", fault);
    }

    fn set(&self, function: &str, value: &str) {
        let value = CString::new(value).unwrap();
        // SAFETY: the type is that of both functions.
        let code = unsafe {
            let set =
                self.library.get::<unsafe extern "C" fn(*const c_char) -> i64>(function.as_bytes()).unwrap();
            set(value.as_ptr())
        };
        assert_eq!(code, 0, "{function}({value:?})");
    }

    fn told(&self, function: &str) -> String {
        // SAFETY: the type is that of all functions that tell; the buffer has the size that is said.
        unsafe {
            let tell = self
                .library
                .get::<unsafe extern "C" fn(*mut c_char, usize) -> usize>(function.as_bytes())
                .unwrap();
            let mut bytes = vec![0_u8; tell(std::ptr::null_mut(), 0) + 1];
            tell(bytes.as_mut_ptr().cast(), bytes.len());
            bytes.pop();
            String::from_utf8(bytes).unwrap()
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

    pub fn path(&self) -> PathBuf {
        self.folder.path().join(standin::FILE_NAME)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Options of a device on it that tries everything in this process.
    pub fn options(&self, backend: Backend) -> Options {
        Options {
            library: self.path(),
            chip: Chip::M4,
            system: "a stand-in".to_owned(),
            back_off: Duration::ZERO,
            ..Options::here(backend, &self.folder().join("engine"))
        }
    }

    pub fn device(&self) -> E5rtDevice {
        E5rtDevice::open(self.options(Backend::Ane)).unwrap()
    }
}

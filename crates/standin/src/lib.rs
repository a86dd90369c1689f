//! A shared library that stands in for Apple's Espresso framework on machines that have none.
//!
//! It exports the `e5rt_*` functions with the argument orders, the codes and the manners that ANEForge and
//! mil_infer document, takes MIL text and blob files as the real compiler does, and computes with the
//! arithmetic of the `sim` crate. A [`Profile`](profile::Profile) is named after the evidence that it is made
//! of and says what that hardware refuses and what it gets wrong in silence. A driver that was written
//! against the real framework should run on it unchanged; nothing in here knows ours. ANEForge's own driver does
//! (`tests/oracle/aneforge_driver.py`).
//!
//! Beside the framework's functions it exports what tests ask:
//!
//! | function | what it does |
//! | --- | --- |
//! | `anneal_standin_set_profile(name)` | chooses a profile before anything is compiled; 1 when there is none of that name |
//! | `anneal_standin_set_fault(spec)` | plants bad luck, see [`fault`]; 1 when it cannot be read |
//! | `anneal_standin_trace(buffer, capacity)` | every call so far, a line each |
//! | `anneal_standin_violations(buffer, capacity)` | what a driver must not do and did, a line each |
//! | `anneal_standin_live(buffer, capacity)` | objects that were not released, a line for each kind |
//!
//! The last three write as much text as fits, end it with a zero byte, and return how many bytes it has in
//! all. In the environment `ANNEAL_STANDIN_PROFILE` and `ANNEAL_STANDIN_FAULT` say the same as the first two, and
//! `ANNEAL_STANDIN_TRACE=FILE` adds every line of the trace to a file, from child processes too.
//!
//! With the feature `objc` there is a second library, the example `ane_objc`: the classes of
//! `AppleNeuralEngine.framework` and IOSurfaces, on the Objective-C runtime of Debian's packages `gobjc` and
//! `libgnustep-base-dev`. It is built by `cargo build -p anneal-standin --features objc --example ane_objc` and
//! answers the same questions; [`inmem`] is what profiles say about it.
//!
//! What it refuses: shapes that are not static, ports of integers.

pub mod engine;
pub mod fault;
pub mod inmem;
pub mod profile;
pub mod trace;

mod instance;

#[allow(unreachable_pub, reason = "exported by their symbols, not as items of this crate")]
mod e5rt;
#[allow(unreachable_pub, reason = "as above")]
mod report;

pub use e5rt::{State, state};
pub use instance::StandIn;

use std::path::{Path, PathBuf};

/// The library's file name on this system.
pub const FILE_NAME: &str = if cfg!(target_os = "macos") { "libstandin.dylib" } else { "libstandin.so" };

/// The library of the Objective-C route that was built beside the running test.
///
/// # Panics
/// When it was not built, which cargo does not do by itself for another crate's tests.
pub fn objective_c() -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its program");
    let built = own.ancestors().skip(1).take(2).map(|dir| dir.join("examples/libane_objc.so"));
    built.into_iter().find(|path| path.exists()).unwrap_or_else(|| {
        panic!(
            "there is no libane_objc.so beside {}; `cargo build -p anneal-standin --features objc --example \
             ane_objc` makes it",
            own.display()
        )
    })
}

/// The library that was built beside the running test, copied to a name of its own: each copy that is
/// loaded has a state of its own.
///
/// # Panics
/// When the test was built without this crate among its dependencies, or `dir` cannot be written.
pub fn copy_to(dir: &Path) -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its program");
    let folders = own.ancestors().skip(1).take(2).flat_map(|dir| [dir.to_owned(), dir.join("deps")]);
    let built = folders
        .map(|folder| folder.join(FILE_NAME))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{FILE_NAME} is not beside {}", own.display()));
    let copy = dir.join(FILE_NAME);
    std::fs::copy(built, &copy).expect("the folder takes a copy");
    copy
}

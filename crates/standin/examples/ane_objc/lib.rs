//! A shared library that stands in for `AppleNeuralEngine.framework` where there is no Mac.
//!
//! Loading it (`dlopen`, or linking) defines `_ANEInMemoryModelDescriptor`, `_ANEInMemoryModel`,
//! `_ANERequest`, `_ANEIOSurfaceObject`, `_ANEPerformanceStats` and `_ANEClient` on GCC's Objective-C runtime,
//! with the selectors and argument types that Orion, maderix/ANE, the ane crate and others call. It exports
//! what such drivers take from `IOSurface.framework` (`IOSurfaceCreate`, `IOSurfaceLock`, …, and the keys
//! `kIOSurfaceWidth`, …) and `CFRetain` and `CFRelease` for surfaces and for what bridges to them. A
//! `CFDictionaryRef` is an `NSDictionary`.
//!
//! Programs are read from the files that a driver writes, refused or got wrong as the chosen
//! [profile](standin::profile) says, and run with the arithmetic of the `sim` crate. Profile, planted bad luck
//! and trace are those of the library `standin`, by the same functions (`anneal_standin_trace`, …) and the
//! same variables of the environment; there is one state for each process.
//!
//! Objects that were released are kept, so one that is used again is known. The memory of a surface that was
//! released is spoilt.
//!
//! What it does not have: chaining (sources disagree whether it works at all), programs of several functions,
//! `modelWithNetworkDescription:`.

mod descriptor;
mod foundation;
mod model;
mod objects;
mod request;
mod run;
mod surface;

use objc_gnustep_shim as _;

/// What the system's loader calls; a framework's classes are there as soon as it is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

extern "C" fn loaded() {
    surface::define();
    descriptor::define();
    model::define();
    request::define();
}

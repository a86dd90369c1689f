//! The stand-in for `AppleNeuralEngine.framework`, driven as somebody would who knows only what the field has
//! published about the real one: through messages and the C functions of a library that is opened by name.
//!
//! It needs an Objective-C runtime (Debian: `gobjc`, `libgnustep-base-dev`) and the feature `objc`:
//! `cargo test -p anneal-standin --features objc`, which builds the library as well; with `--test objc` alone
//! cargo does not, and what an earlier build left is tested.
//!
//! Expected numbers are worked out here, in whole numbers that halves hold exactly. Every test runs in a
//! process of its own, and ends with a look at what the library noted: each violation that is expected and no
//! other, and no live object.

mod alone;
mod driver;
mod lifetimes;
mod mil_text;
mod profiles;
mod route;
mod surfaces;

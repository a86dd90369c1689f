//! What the hardware of one piece of evidence refuses, and what it gets wrong.
//!
//! Sources contradict each other: each profile carries one side. Where nobody has looked, the profile says so in
//! its `source`.

use mil::lint::{Chip, Route};
use sim::Profile as Arithmetic;

use crate::inmem::InMem;

/// How a compiled bundle can be opened by another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopening {
    /// Not at all: "Must re-compile the E5 bundle".
    Refused,
    /// With the path as the first argument.
    PathFirst,
    /// With the out-pointer as the first argument.
    OutFirst,
}

/// One piece of evidence.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Chip and who observed it.
    pub name: &'static str,
    /// Where its switches come from.
    pub source: &'static str,
    /// The chip.
    pub chip: Chip,
    /// The way in that was observed.
    pub route: Route,
    /// What the engine computes.
    pub arithmetic: Arithmetic,
    /// Rules of the catalogue that its compiler enforces, by id.
    pub refuses: &'static [&'static str],
    /// How many programs can be loaded.
    pub loaded_limit: usize,
    /// Whether several operations of one program function can be made.
    pub many_operations: bool,
    /// Whether an operation that has run takes other buffers.
    pub rebinds: bool,
    /// Opening bundles.
    pub reopening: Reopening,
    /// The most statements (constants apart) that its compiler takes.
    pub max_statements: Option<usize>,
    /// The route `_ANEInMemoryModel`.
    pub inmem: InMem,
}

/// What ANEForge found refused on every chip.
const ANEFORGE: &[&str] = &[
    "ANE-RANK",
    "ANE-AXIS",
    "ANE-047",
    "ANE-048-BATCH",
    "ANE-049",
    "ANE-050",
    "ANE-052",
    "ANE-071",
    "ANE-072",
    "ANE-075",
    "ANE-CAST",
    "ANE-INT32",
];

/// What the in-memory route refuses wherever it was seen. Axis limits are those of the chip.
const IN_MEMORY: &[&str] = &["ANE-RANK", "ANE-AXIS", "ANE-036", "ANE-046", "ANE-079"];
/// And what rustane found besides.
const RUSTANE: &[&str] = &["ANE-RANK", "ANE-AXIS", "ANE-036", "ANE-038", "ANE-046", "ANE-079"];

/// The name of the profile that holds unless another is asked for.
pub const DEFAULT: &str = "M5/ANEForge";

impl Profile {
    /// All of them.
    pub fn all() -> Vec<Profile> {
        let aneforge = |name, chip, arithmetic: Arithmetic| Profile {
            name,
            source: "ANEForge 0.4.0 on M1, M2 Pro and M5 Pro: 128 loaded programs, a bundle of another process is \
                     refused, NaN does not propagate; several operations of one function were not tried, and are refused",
            chip,
            route: Route::Ane,
            arithmetic: Arithmetic { propagate_nan: false, ..arithmetic },
            refuses: ANEFORGE,
            loaded_limit: 128,
            many_operations: false,
            rebinds: true,
            reopening: Reopening::Refused,
            max_statements: None,
            inmem: InMem::PLAIN,
        };
        let mil_infer = Profile {
            name: "M4/mil_infer",
            source: "mil_infer 0.6: opens compiled bundles, the path first; one operation for each library; \
                     binding anew was not tried, and is refused",
            chip: Chip::M4,
            arithmetic: Arithmetic::m4(),
            rebinds: false,
            reopening: Reopening::PathFirst,
            ..aneforge("", Chip::M4, Arithmetic::m4())
        };
        let generous = |name, max_statements| Profile {
            name,
            source: "no evidence: a system on which everything works that somebody found to work somewhere, \
                     with a compiler that refuses large programs, to walk a driver down its ladder",
            arithmetic: Arithmetic::m4(),
            many_operations: true,
            reopening: Reopening::OutFirst,
            max_statements,
            ..aneforge("", Chip::M4, Arithmetic::m4())
        };
        let in_memory = |name, source, chip, arithmetic: Arithmetic, inmem| Profile {
            name,
            source,
            route: Route::AneInMem,
            refuses: IN_MEMORY,
            inmem,
            ..aneforge("", chip, arithmetic)
        };
        vec![
            aneforge("M1/ANEForge", Chip::M1, Arithmetic::m1()),
            aneforge("M2/ANEForge", Chip::M2, Arithmetic::m2()),
            aneforge("M5/ANEForge", Chip::M5, Arithmetic::m5()),
            mil_infer,
            generous("hypothetical/generous", None),
            generous("hypothetical/refuses-whole", Some(REFUSES_WHOLE)),
            generous("hypothetical/refuses-attn-ffn", Some(REFUSES_ATTN_FFN)),
            in_memory(
                "M1/ane-train",
                "ane-train on M1 and M1 Pro, macOS 26: surfaces sorted by size, small ones and contractions that \
                 are no multiple of 32 give zeros, hardly an op that moves data compiles; the limit of loaded \
                 programs is ANEForge's",
                Chip::M1,
                Arithmetic::m1(),
                InMem::ANE_TRAIN,
            ),
            in_memory(
                "M4/Orion",
                "Orion on M4 Max, macOS 15: slots sorted by name, one size for all inputs and one for all \
                 outputs, at least 48 KiB; concat and gelu refused",
                Chip::M4,
                Arithmetic::m4(),
                InMem::ORION,
            ),
            in_memory(
                "M4/maderix",
                "maderix/ANE on M4: a second input is an inference error; concat and constant operands of \
                 matmul compile",
                Chip::M4,
                Arithmetic::m4(),
                InMem::MADERIX,
            ),
            in_memory(
                "M4/rustane",
                "rustane on M4 Max: a last axis that is no multiple of 16 corrupts in silence; roots of what a \
                 reduction gave are refused",
                Chip::M4,
                Arithmetic::m4(),
                InMem::RUSTANE,
            )
            .refusing(RUSTANE),
            in_memory(
                "M3/rustane",
                "rustane's report from an M3 Ultra: concat is refused; the rest is its M4 Max",
                Chip::M3,
                Arithmetic::m3(),
                InMem::RUSTANE_M3,
            )
            .refusing(RUSTANE),
            in_memory(
                "M4/ane-crate",
                "the ane crate on M1 to M5: slots as declared, a last axis below 64 is an inference error",
                Chip::M4,
                Arithmetic::m4(),
                InMem::ANE_CRATE,
            ),
            in_memory(
                "M5/ANEgpt",
                "ANEgpt on M5, macOS 26.3: baked weights never change, 0x50004 when too many programs are \
                 loaded; the number is ANEForge's",
                Chip::M5,
                Arithmetic::m5(),
                InMem::ANEGPT,
            ),
        ]
    }

    fn refusing(self, refuses: &'static [&'static str]) -> Profile {
        Profile { refuses, ..self }
    }

    /// The profile of this name.
    pub fn by_name(name: &str) -> Option<Profile> {
        Profile::all().into_iter().find(|profile| profile.name == name)
    }
}

/// A layer of a Llama-like model without grouped heads has a backward pass of about 180 statements in
/// primitive ops, of which the attention has 120: this lies between.
const REFUSES_WHOLE: usize = 150;
/// Of ten programs the largest has about 60 statements: this lies between that and the attention's 120.
const REFUSES_ATTN_FFN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let all = Profile::all();
        for profile in &all {
            assert_eq!(Profile::by_name(profile.name).map(|p| p.name), Some(profile.name));
            assert_eq!(all.iter().filter(|p| p.name == profile.name).count(), 1);
        }
        assert!(Profile::by_name(DEFAULT).is_some());
        assert!(Profile::by_name("M0/nobody").is_none());
    }

    #[test]
    fn every_rule_that_is_enforced_is_in_the_catalogue() {
        for id in Profile::all().iter().flat_map(|profile| profile.refuses) {
            assert!(mil::lint::rule(id).is_some(), "{id}");
        }
    }
}

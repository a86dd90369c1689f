//! What the hardware of one piece of evidence refuses, and what it gets wrong.
//!
//! Sources contradict each other: each profile carries one side. Where nobody has looked, the profile says so in
//! its `source`.

use mil::lint::{Chip, Route};
use sim::Profile as Arithmetic;

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
}

/// What ANEForge found refused on every chip.
const ANEFORGE: &[&str] = &["ANE-RANK", "ANE-AXIS", "ANE-036", "ANE-052", "ANE-071", "ANE-072", "ANE-075"];

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
        vec![
            aneforge("M1/ANEForge", Chip::M1, Arithmetic::m1()),
            aneforge("M2/ANEForge", Chip::M2, Arithmetic::m2()),
            aneforge("M5/ANEForge", Chip::M5, Arithmetic::m5()),
            mil_infer,
            generous("hypothetical/generous", None),
            generous("hypothetical/refuses-whole", Some(REFUSES_WHOLE)),
            generous("hypothetical/refuses-attn-ffn", Some(REFUSES_ATTN_FFN)),
        ]
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
            assert!(mil::lint::RULES.iter().any(|rule| rule.id == *id), "{id}");
        }
    }
}

//! Every program of every preset against the catalogue of rules.

use mil::Element;
use mil::lint::{Chip, Route, Severity};
use model::{Cut, ModelConfig, Taps, presets, programs};

/// What the catalogue says about a program stands still between runs, so this is no test of chance: a finding
/// that is an error means that the program is refused, or computes nonsense, on that chip.
#[test]
fn every_program_of_every_preset_is_clean_on_the_engine_of_every_chip() {
    for name in presets::NAMES {
        for seq_len in [512, 1024, 2048] {
            let config = ModelConfig { seq_len, ..presets::by_name(name).unwrap() };
            for cut in Cut::ALL {
                for segment in programs(&config, cut, Taps::Keep, 1, Element::F16).unwrap() {
                    for chip in Chip::ALL {
                        let findings = segment.program.lint(chip, Route::Ane);
                        let error = findings.iter().find(|finding| finding.severity == Severity::Error);
                        assert!(
                            error.is_none(),
                            "{name} at {seq_len}, {}, {chip:?}: {}",
                            segment.name,
                            error.unwrap()
                        );
                    }
                }
            }
        }
    }
}

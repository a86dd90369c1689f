//! A device on a stand-in of one's own.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::time::Duration;

use ane::{Backend, E5rtDevice, Options};
use mil::lint::Chip;
use standin::StandIn;

/// Options of a device that tries everything in this process.
pub fn options(stand_in: &StandIn) -> Options {
    Options {
        chip: Some(Chip::M4),
        system: "a stand-in".to_owned(),
        back_off: Duration::ZERO,
        ..Options::here(stand_in.path(), &stand_in.folder().join("engine"))
    }
}

pub fn device(stand_in: &StandIn) -> E5rtDevice {
    E5rtDevice::open(Backend::Ane, options(stand_in)).unwrap()
}

//! Which machine this is.

use mil::lint::Chip;

/// The chip and the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As the chip calls itself: `Apple M4 Max`.
    pub name: String,
    /// Its generation; `None` when it is none of Apple's, or a newer one than the catalogue knows.
    pub chip: Option<Chip>,
    /// System and version: `macOS 26.1`.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let name =
            system_value(c"machdep.cpu.brand_string").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let system = match system_value(c"kern.osproductversion") {
            Some(version) => format!("macOS {version}"),
            None => std::env::consts::OS.to_owned(),
        };
        Machine { chip: generation(&name), name, system }
    }

    /// The cores of its Neural Engine, where they are known: 16 in every chip from M1 to M5 and 32 in those that
    /// are two of them, called Ultra (Apple's technical specifications).
    pub fn engine_cores(&self) -> Option<u32> {
        self.chip.map(|_| if self.name.ends_with("Ultra") { 32 } else { 16 })
    }
}

/// The generation in a name such as `Apple M4 Max`.
fn generation(name: &str) -> Option<Chip> {
    let number = name.strip_prefix("Apple M")?.split(' ').next()?;
    match number {
        "1" => Some(Chip::M1),
        "2" => Some(Chip::M2),
        "3" => Some(Chip::M3),
        "4" => Some(Chip::M4),
        "5" => Some(Chip::M5),
        _ => None,
    }
}

/// A text that macOS knows by this name.
#[cfg(target_os = "macos")]
fn system_value(name: &std::ffi::CStr) -> Option<String> {
    let mut bytes = [0_u8; 256];
    let mut length = bytes.len();
    // SAFETY: the name is a C string, the value has room for `length` bytes, and nothing is set.
    let code = unsafe {
        libc::sysctlbyname(name.as_ptr(), bytes.as_mut_ptr().cast(), &raw mut length, std::ptr::null_mut(), 0)
    };
    let text = std::ffi::CStr::from_bytes_until_nul(bytes.get(..length)?).ok()?;
    (code == 0).then(|| text.to_string_lossy().into_owned())
}

#[cfg(not(target_os = "macos"))]
fn system_value(_name: &std::ffi::CStr) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_generation() {
        for (name, chip) in [
            ("Apple M1", Some(Chip::M1)),
            ("Apple M4 Max", Some(Chip::M4)),
            ("Apple M5 Pro", Some(Chip::M5)),
            ("Apple M12", None),
            ("Apple A18 Pro", None),
            ("Intel(R) Core(TM) i7", None),
        ] {
            assert_eq!(generation(name), chip, "{name}");
        }
    }
}

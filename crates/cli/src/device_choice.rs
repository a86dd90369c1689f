//! From a device's name to the device, with the reason.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ane::{Backend, ChildCommand, E5rtDevice, Machine};
use cpu::{CpuDevice, Precision};
use device::Device;
use mil::lint::Chip;
use sim::{Profile, SimDevice};

use crate::args::DeviceArgs;
use crate::cache;

/// A library with Espresso's `e5rt` symbols, to be used in place of the system's.
const ESPRESSO_VARIABLE: &str = "ANNEAL_ESPRESSO";
/// A library with `_ANEInMemoryModel` and its companions, to be used in place of the system's.
const NEURAL_ENGINE_VARIABLE: &str = "ANNEAL_NEURAL_ENGINE";
/// Seconds that a compile on one of Apple's routes may take.
pub(crate) const COMPILE_LIMIT_VARIABLE: &str = "ANNEAL_COMPILE_LIMIT";
/// The hidden command of the child processes that try programs; see [`crate::commands::probe`].
pub(crate) const PROBE_COMMAND: &str = "probe-engine";

/// What `sim` computes like unless somebody says otherwise: the newest chip that was measured.
const DEFAULT_CHIP: &str = "m4";

/// The older route to the engine.
const IN_MEMORY: &str = "ane-inmem";

/// The host's cores.
const CPU: &str = "cpu";

/// The name that leaves the choice to us.
const AUTO: &str = "auto";

/// A device that the command line knows.
pub(crate) struct Entry {
    /// As it is called.
    pub(crate) name: &'static str,
    /// How it runs programs.
    pub(crate) what: &'static str,
    /// Whether it is one of Apple's.
    pub(crate) apple: bool,
}

/// Every device, the best first.
pub(crate) const ENTRIES: [Entry; 6] = [
    Entry { name: "ane", what: "the Neural Engine, through Espresso's e5rt interface", apple: true },
    Entry { name: IN_MEMORY, what: "the Neural Engine, through _ANEInMemoryModel", apple: true },
    Entry { name: "gpu", what: "the Mac's GPU, through the same e5rt interface", apple: true },
    Entry { name: "bnns", what: "the Mac's CPU, through the same e5rt interface", apple: true },
    Entry { name: "cpu", what: "all cores, fused kernels, in f32 or with products in bf16", apple: false },
    Entry { name: "sim", what: "the engine's arithmetic, interpreted; for checking", apple: false },
];

impl Entry {
    /// Why it cannot be used on this machine; `None` when it can.
    pub(crate) fn missing(&self) -> Option<String> {
        if !self.apple {
            return None;
        }
        let here = cfg!(all(target_os = "macos", target_arch = "aarch64"));
        let chosen = if backend(self.name).is_some() { espresso() } else { neural_engine() };
        if chosen.is_none() && !here {
            return Some("needs macOS on Apple Silicon".to_owned());
        }
        match backend(self.name) {
            Some(_) => {
                let library = chosen.unwrap_or_else(|| PathBuf::from(ane::ESPRESSO));
                ane::check_library(&library).err().map(|error| error.to_string())
            }
            None => missing_in_memory(chosen),
        }
    }
}

/// Why `ane-inmem` cannot be used, with the library of the environment's choice or the system's.
#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
fn missing_in_memory(chosen: Option<PathBuf>) -> Option<String> {
    let library = chosen.unwrap_or_else(|| PathBuf::from(ane::NEURAL_ENGINE));
    ane::check_framework(&library).err().map(|error| error.to_string())
}

#[cfg(not(any(target_vendor = "apple", feature = "gnustep")))]
fn missing_in_memory(_chosen: Option<PathBuf>) -> Option<String> {
    Some("this build speaks no Objective-C; off a Mac that takes the feature `gnustep`".to_owned())
}

/// Which of Espresso's engines the device of this name is.
fn backend(name: &str) -> Option<Backend> {
    Backend::ALL.into_iter().find(|backend| backend.name() == name)
}

/// The library that the environment names for Espresso.
fn espresso() -> Option<PathBuf> {
    path_in(ESPRESSO_VARIABLE)
}

/// The library that the environment names for `_ANEInMemoryModel`.
fn neural_engine() -> Option<PathBuf> {
    path_in(NEURAL_ENGINE_VARIABLE)
}

fn path_in(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The chip called `name`, in lower case.
fn chip(name: &str) -> Option<Chip> {
    Chip::ALL.into_iter().find(|chip| format!("{chip:?}").eq_ignore_ascii_case(name))
}

/// A device that was opened.
pub(crate) struct Choice {
    /// The device.
    pub(crate) device: Arc<dyn Device>,
    /// The same when it is `cpu`, for its profile.
    pub(crate) cpu: Option<Arc<CpuDevice>>,
    /// Its whole name, as a run's `config.toml` keeps it: `cpu`, `sim:m4`.
    pub(crate) name: String,
    /// Why this one.
    pub(crate) why: String,
}

/// The whole name of the device that was asked for: by option, else by `written` (a run's or a
/// file's), else the best.
///
/// # Errors
/// When a name means nothing, naming what exists.
pub(crate) fn name(args: &DeviceArgs, written: Option<&str>) -> Result<(String, String), device::Error> {
    let Some((name, why)) = asked_for(args, written) else { return Ok(best()) };
    let (base, chip) = name.split_once(':').map_or((name, None), |(base, chip)| (base, Some(chip)));
    let unavailable =
        |device: &str, problem: String| device::Error::Unavailable { device: device.to_owned(), problem };
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == base) else {
        let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        return Err(unavailable(
            &format!("device `{name}`"),
            format!(
                "there is none of this name; there are {} (`anneal devices` says which work here)",
                names.join(", ")
            ),
        ));
    };
    if let Some(missing) = entry.missing() {
        let here: Vec<&str> = ENTRIES.iter().filter(|e| e.missing().is_none()).map(|e| e.name).collect();
        let problem = format!("{missing}; on this machine there are {}", here.join(" and "));
        return Err(unavailable(&format!("device `{base}`"), problem));
    }
    if args.precision.is_some() && base != CPU {
        let problem = "it has no choice of precision; only cpu has: --device cpu";
        return Err(unavailable(&format!("device `{base}`"), problem.to_owned()));
    }
    let is_chip = |name: &str| self::chip(name).is_some();
    if base == CPU && args.chip.is_none() && !chip.is_some_and(is_chip) {
        let named = match chip {
            None => None,
            Some("f32") => Some(Precision::F32),
            Some("bf16") => Some(Precision::Bf16),
            Some(other) => {
                let problem = format!("there is no precision `{other}`; there are f32 and bf16");
                return Err(unavailable(&format!("device `{base}`"), problem));
            }
        };
        let asked = args.precision.map(Precision::from);
        let both_typed = args.device.is_some() && named.is_some() && asked.is_some();
        if both_typed && named != asked {
            let problem = "--device and --precision name different ones";
            return Err(unavailable(&format!("device `{name}`"), problem.to_owned()));
        }
        return Ok((asked.or(named).unwrap_or_default().device_name().to_owned(), why));
    }
    let chip = args.chip.as_deref().or(chip);
    let (chip, known) = match (base, chip) {
        ("sim", chip) => {
            let chip = chip.unwrap_or(DEFAULT_CHIP);
            (chip, Profile::by_name(chip).map(|_| ()).ok_or_else(|| Profile::NAMES.join(", ")))
        }
        // Which chip it is taken for, where the machine does not say or somebody knows better.
        ("ane" | IN_MEMORY, Some(chip)) => {
            let names = || Chip::ALL.map(|chip| format!("{chip:?}").to_lowercase()).join(", ");
            (chip, self::chip(chip).map(|_| ()).ok_or_else(names))
        }
        (_, None) => return Ok((base.to_owned(), why)),
        (_, Some(chip)) => {
            return Err(unavailable(
                &format!("device `{base}`"),
                format!("it cannot compute like chip `{chip}`; only sim can: --device sim:{chip}"),
            ));
        }
    };
    match known {
        Ok(()) => Ok((format!("{base}:{chip}"), why)),
        Err(names) => {
            let problem = format!("there is no chip `{chip}`; there are {names}");
            Err(unavailable(&format!("device `{base}`"), problem))
        }
    }
}

/// The name that was asked for, and by what; `None` where the choice is left to us.
fn asked_for<'a>(args: &'a DeviceArgs, written: Option<&'a str>) -> Option<(&'a str, String)> {
    let asked = args.device.as_deref().filter(|name| *name != AUTO);
    let written = written.filter(|name| *name != AUTO && args.device.is_none());
    match (asked, written, &args.chip, args.precision) {
        (Some(name), ..) => Some((name, "asked for by --device".to_owned())),
        (None, Some(name), ..) => Some((name, "the configuration names it".to_owned())),
        (None, None, Some(_), _) => Some(("sim", "--chip is a choice of sim's".to_owned())),
        (None, None, None, Some(_)) => Some((CPU, "--precision is a choice of cpu's".to_owned())),
        (None, None, None, None) => None,
    }
}

/// The best device of this machine, and why.
fn best() -> (String, String) {
    let ane = &ENTRIES[0];
    // A library of the environment's choice is for trying; it is used only when it is asked for.
    let why = match ane.missing() {
        None if espresso().is_none() => {
            return (ane.name.to_owned(), "the Neural Engine is present".to_owned());
        }
        Some(missing) if cfg!(target_os = "macos") => format!("the best device present; ane: {missing}"),
        _ => "the best device present; on a Mac it is ane".to_owned(),
    };
    (CPU.to_owned(), why)
}

/// Opens one of Espresso's engines, with the limits and rules of the chip `chip` or of this machine's.
fn open_e5rt(backend: Backend, chip: Option<Chip>) -> Result<Arc<dyn Device>, device::Error> {
    let unavailable =
        |problem: String| device::Error::Unavailable { device: backend.name().to_owned(), problem };
    let folder = cache::dir().map_err(unavailable)?.join("engine");
    let options = apple_options(espresso(), ane::ESPRESSO, &folder, chip).map_err(unavailable)?;
    Ok(Arc::new(E5rtDevice::open(backend, options)?))
}

/// Opens the older route to the engine.
#[cfg(any(target_vendor = "apple", feature = "gnustep"))]
fn open_in_memory(chip: Option<Chip>) -> Result<Arc<dyn Device>, device::Error> {
    let unavailable = |problem: String| device::Error::Unavailable { device: IN_MEMORY.to_owned(), problem };
    let folder = cache::dir().map_err(unavailable)?.join("engine");
    let options = apple_options(neural_engine(), ane::NEURAL_ENGINE, &folder, chip).map_err(unavailable)?;
    Ok(Arc::new(ane::InMemDevice::open(options)?))
}

#[cfg(not(any(target_vendor = "apple", feature = "gnustep")))]
fn open_in_memory(_chip: Option<Chip>) -> Result<Arc<dyn Device>, device::Error> {
    unreachable!("`missing_in_memory` says so first")
}

/// Options of a route: its library, of the environment's choice or the system's, and the chip `chip` or this
/// machine's.
fn apple_options(
    chosen: Option<PathBuf>,
    system: &str,
    folder: &Path,
    chip: Option<Chip>,
) -> Result<ane::Options, String> {
    let library = chosen.clone().unwrap_or_else(|| PathBuf::from(system));
    let mut options = ane::Options::here(library, folder);
    if let Some(chip) = chip {
        options.system = format!("{}, taken for {chip:?}, {}", Machine::here().name, Machine::here().system);
        options.chip = Some(chip);
    }
    if let Some(chosen) = chosen {
        options.system += &format!(", {}", chosen.display());
        // The wait is for Apple's compiler service.
        options.back_off = Duration::ZERO;
    }
    if let Some(limit) = std::env::var_os(COMPILE_LIMIT_VARIABLE) {
        options.limit = seconds(&limit)?;
    }
    options.child = std::env::current_exe().ok().map(|own| {
        ChildCommand::new(move || {
            let mut command = Command::new(&own);
            command.arg(PROBE_COMMAND);
            command
        })
    });
    Ok(options)
}

fn seconds(value: &OsString) -> Result<Duration, String> {
    let parsed = value.to_str().and_then(|text| text.parse::<f64>().ok());
    parsed
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| {
            format!("{COMPILE_LIMIT_VARIABLE}={}: expected seconds, as 240", value.to_string_lossy())
        })
}

/// Opens the device that was asked for; see [`name`]. The best one, if nobody asked: what is there may not work, as
/// an engine in a virtual machine, and then `cpu` does.
///
/// # Errors
/// As [`name`], and what keeps a device from working that was asked for.
pub(crate) fn open(args: &DeviceArgs, written: Option<&str>) -> Result<Choice, device::Error> {
    let named = name(args, written)?;
    let threads = usize::from(args.threads.unwrap_or(0));
    or_cpu(open_named(named, threads), asked_for(args, written).is_some(), threads)
}

/// What was opened; where that failed and nobody asked for it, the CPU, with what was the matter.
fn or_cpu(
    opened: Result<Choice, device::Error>,
    is_asked_for: bool,
    threads: usize,
) -> Result<Choice, device::Error> {
    match opened {
        Err(error) if !is_asked_for => {
            open_named((CPU.to_owned(), format!("the best device that works; {error}")), threads)
        }
        opened => opened,
    }
}

/// Opens the device of this whole name.
fn open_named((name, why): (String, String), threads: usize) -> Result<Choice, device::Error> {
    if threads > 0 {
        // Whatever does not go through the device's own pool. It fails only when a pool is already
        // there, which then stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    if let Some(chip) = name.strip_prefix("sim:") {
        let profile = Profile::by_name(chip).expect("checked with the name");
        return Ok(Choice { device: Arc::new(SimDevice::new(profile)), cpu: None, name, why });
    }
    let (base, of_chip) = name.split_once(':').map_or((&*name, None), |(base, chip)| (base, Some(chip)));
    if let Some(backend) = backend(base) {
        let device = open_e5rt(backend, of_chip.and_then(chip))?;
        return Ok(Choice { device, cpu: None, name, why });
    }
    if base == IN_MEMORY {
        let device = open_in_memory(of_chip.and_then(chip))?;
        return Ok(Choice { device, cpu: None, name, why });
    }
    let precision = if name == Precision::Bf16.device_name() { Precision::Bf16 } else { Precision::F32 };
    let cpu = Arc::new(CpuDevice::with_precision(threads, precision));
    Ok(Choice { device: cpu.clone(), cpu: Some(cpu), name, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(device: Option<&str>, chip: Option<&str>, written: Option<&str>) -> Result<String, String> {
        let args = DeviceArgs {
            device: device.map(str::to_owned),
            chip: chip.map(str::to_owned),
            ..DeviceArgs::default()
        };
        name(&args, written).map(|(name, _)| name).map_err(|e| e.to_string())
    }

    #[test]
    fn names_become_whole() {
        // On a Mac the best is another.
        let best = best().0;
        for (device, chip, written, expected) in [
            (None, None, None, &*best),
            (Some("cpu"), None, Some("sim:m1"), "cpu"),
            (None, None, Some("sim:m1"), "sim:m1"),
            (Some("sim"), None, None, "sim:m4"),
            (Some("sim:m1"), None, None, "sim:m1"),
            (Some("sim"), Some("exact"), None, "sim:exact"),
            (None, Some("m2"), None, "sim:m2"),
            (None, None, Some("auto"), &*best),
            (Some("auto"), None, Some("sim:m1"), "cpu"),
        ] {
            assert_eq!(ask(device, chip, written).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn precision_is_a_choice_of_cpu() {
        use crate::args::Precision::{Bf16, F32};
        let ask = |device: Option<&str>, precision, written| {
            let args = DeviceArgs { device: device.map(str::to_owned), precision, ..DeviceArgs::default() };
            name(&args, written).map(|(name, _)| name).map_err(|e| e.to_string())
        };
        for (device, precision, written, expected) in [
            (None, Some(Bf16), None, "cpu:bf16"),
            (Some("cpu:bf16"), None, None, "cpu:bf16"),
            (Some("cpu:f32"), None, None, "cpu"),
            (Some("cpu"), Some(Bf16), Some("sim:m1"), "cpu:bf16"),
            // A run's own, unless another is asked for.
            (None, None, Some("cpu:bf16"), "cpu:bf16"),
            (None, Some(F32), Some("cpu:bf16"), "cpu"),
            (Some("cpu"), None, Some("cpu:bf16"), "cpu"),
        ] {
            assert_eq!(ask(device, precision, written).as_deref(), Ok(expected));
        }
        for (device, precision, expected) in [
            ("sim", Some(Bf16), "device `sim` cannot be used: it has no choice of precision; only cpu has"),
            ("cpu:f16", Some(F32), "device `cpu` cannot be used: there is no precision `f16`"),
            (
                "cpu:f32",
                Some(Bf16),
                "device `cpu:f32` cannot be used: --device and --precision name different",
            ),
            ("cpu:m4", None, "device `cpu` cannot be used: it cannot compute like chip `m4`; only sim can"),
            (
                "cpu:f16",
                None,
                "device `cpu` cannot be used: there is no precision `f16`; there are f32 and bf16",
            ),
        ] {
            let error = ask(Some(device), precision, None).expect_err(device);
            assert!(error.starts_with(expected), "{error}");
        }
        let choice =
            open(&DeviceArgs { precision: Some(Bf16), threads: Some(1), ..DeviceArgs::default() }, None);
        let cpu = choice.map_err(|e| e.to_string()).expect("it is there").cpu.expect("it is cpu");
        assert_eq!((cpu.precision(), cpu.name()), (Precision::Bf16, "cpu:bf16"));
    }

    #[test]
    fn what_nobody_asked_for_may_fail() {
        let broken = || device::Error::Unavailable {
            device: "ane".to_owned(),
            problem: "a small program does not run".to_owned(),
        };
        let choice = or_cpu(Err(broken()), false, 1).map_err(|e| e.to_string()).expect("the CPU works");
        assert_eq!(choice.name, "cpu");
        let why = "the best device that works; ane cannot be used: a small program does not run";
        assert_eq!(choice.why, why);
        assert!(or_cpu(Err(broken()), true, 1).is_err());
        let asked = |device: &str| DeviceArgs { device: Some(device.to_owned()), ..DeviceArgs::default() };
        assert!(asked_for(&DeviceArgs::default(), Some("auto")).is_none());
        assert!(asked_for(&asked("auto"), Some("ane")).is_none());
        assert_eq!(asked_for(&asked("ane"), None).map(|(name, _)| name), Some("ane"));
    }

    #[test]
    fn errors_name_what_exists() {
        for (device, chip, expected) in [
            ("cuda", None, "device `cuda` cannot be used: there is none of this name; there are ane, "),
            ("sim:m9", None, "device `sim` cannot be used: there is no chip `m9`; there are m1, "),
            ("cpu", Some("m4"), "device `cpu` cannot be used: it cannot compute like chip `m4`"),
        ] {
            let error = ask(Some(device), chip, None).expect_err(device);
            assert!(error.starts_with(expected), "{error}");
        }
        if !cfg!(target_os = "macos") {
            let error = ask(Some("ane"), None, None).expect_err("it is Apple's");
            assert!(error.contains("there are cpu and sim"), "{error}");
        }
    }
}

//! Configuration, options, and the compiler.

use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};

use super::{Object, Raw, State, export, invalid, refused, string};
use crate::engine::{self, Backend};
use crate::fault::CompileFault;

/// The compiled program in a bundle.
pub(super) const PROGRAM: &str = "program.mil";
/// Which backend the compiler chose.
pub(super) const ANALYTICS: &str = "analytics.mil";
/// Which process compiled it.
pub(super) const PROCESS: &str = "process";

export! {
    /// A configuration, out-pointer first.
    fn e5rt_e5_compiler_config_options_create(out: *mut Raw) show |_| String::new();
    // SAFETY: the caller's promise.
    |state| unsafe { state.create(out, Object::Config { dir: None }) }
}

export! {
    /// Where bundles go.
    fn e5rt_e5_compiler_config_options_set_cache_bundle_location(config: Raw, dir: *const c_char)
    show |s| s.show(config);
    |state| {
        // SAFETY: the caller's promise.
        let dir = unsafe { string(dir) }?;
        if let Object::Config { dir: place } = state.object(config, "config")? {
            *place = Some(PathBuf::from(dir));
        }
        Ok(())
    }
}

export! {
    /// A compiler, out-pointer first.
    fn e5rt_e5_compiler_create_with_config(out: *mut Raw, config: Raw) show |s| s.show(config);
    |state| {
        let Object::Config { dir } = state.object(config, "config")? else { unreachable!() };
        let Some(dir) = dir.clone() else { return invalid("no bundle location") };
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::Compiler { dir, made_operation: false }) }
    }
}

export! {
    /// Options, out-pointer first.
    fn e5rt_e5_compiler_options_create(out: *mut Raw) show |_| String::new();
    // SAFETY: the caller's promise.
    |state| unsafe { state.create(out, Object::Options { mask: 0x7 }) }
}

export! {
    /// 0x1 the CPU, 0x2 the GPU, 0x4 the engine.
    fn e5rt_e5_compiler_options_set_compute_device_types_mask(options: Raw, mask: u64)
    show |s| format!("{}, {mask:#x}", s.show(options));
    |state| {
        if mask == 0 || mask > 0x7 {
            return invalid(format!("compute device mask {mask:#x}"));
        }
        if let Object::Options { mask: place } = state.object(options, "options")? {
            *place = mask;
        }
        Ok(())
    }
}

export! {
    /// Whether an older bundle may not be used.
    fn e5rt_e5_compiler_options_set_force_recompilation(options: Raw, value: c_int)
    show |s| format!("{}, {value}", s.show(options));
    |state| state.object(options, "options").map(drop)
}

export! {
    /// How programs are cut up.
    fn e5rt_e5_compiler_options_set_segmenter(options: Raw, name: *const c_char) show |s| s.show(options);
    |state| {
        state.object(options, "options")?;
        // SAFETY: the caller's promise.
        match unsafe { string(name) }?.as_str() {
            "graph" => Ok(()),
            other => invalid(format!("segmenter {other}")),
        }
    }
}

export! {
    /// Words for the engine's compiler. An unknown `TargetArchitecture` silently means this machine
    /// (ANE-016).
    fn e5rt_e5_compiler_options_set_custom_ane_compiler_options(options: Raw, words: *const c_char)
    show |s| s.show(options);
    |state| {
        state.object(options, "options")?;
        // SAFETY: the caller's promise.
        unsafe { string(words) }.map(drop)
    }
}

/// The backend that a mask gives: 0x3 goes to the CPU, whatever has the engine's bit to the engine.
fn backend(mask: u64) -> Backend {
    match mask {
        0x1 | 0x3 => Backend::Bnns,
        0x2 => Backend::Gpu,
        _ => Backend::Ane,
    }
}

impl State {
    fn compile(&mut self, path: &Path, mask: u64, dir: &Path) -> super::Answer<PathBuf> {
        let fault = self.faults.compile.as_ref();
        match fault.filter(|(_, part)| path.to_string_lossy().contains(part)).map(|(fault, _)| *fault) {
            Some(CompileFault::Hang) => loop {
                std::thread::park();
            },
            Some(CompileFault::Crash) => std::process::abort(),
            Some(CompileFault::Refuse) => return refused("ANECCompile() FAILED"),
            None => {}
        }
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut backend = backend(mask);
        let compiled = engine::compile(path, backend, &self.profile);
        if compiled.is_err() && mask == 0x7 {
            backend = Backend::Bnns;
        } else if let Err(problem) = compiled {
            return refused(problem);
        }
        if self.faults.gpu_instead {
            backend = Backend::Gpu;
        }
        // One name for every program: in one directory, bundles overwrite one another.
        let bundle = dir.join("main.bundle").join(format!("{:?}.bundle", self.profile.chip));
        let source = path.parent().unwrap_or(Path::new(""));
        write_bundle(&bundle, source, dir, &text, backend)
            .map_err(|error| super::Failure { code: super::REFUSED, message: format!("bundle: {error}") })?;
        Ok(bundle)
    }
}

/// The text and everything that lies beside it, as a compiler would bake it in.
fn write_bundle(
    bundle: &Path,
    source: &Path,
    own: &Path,
    text: &str,
    backend: Backend,
) -> std::io::Result<()> {
    if bundle.exists() {
        std::fs::remove_dir_all(bundle)?;
    }
    std::fs::create_dir_all(bundle)?;
    copy_below(source, bundle, own)?;
    std::fs::write(bundle.join(PROGRAM), text)?;
    std::fs::write(bundle.join(PROCESS), std::process::id().to_string())?;
    std::fs::write(
        bundle.join(ANALYTICS),
        format!(
            "string SelectedBackend = const()[val = string(\"{0}\")]; SelectedBackend = string(\"{0}\")\n",
            backend.name()
        ),
    )
}

/// Copies blob files and the folders that hold them; texts and bundles are somebody else's.
fn copy_below(from: &Path, to: &Path, bundles: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)?.flatten() {
        let path = entry.path();
        let target = to.join(entry.file_name());
        if path.is_dir() {
            if !bundles.starts_with(&path) && path.extension().is_none_or(|e| e != "bundle") {
                std::fs::create_dir_all(&target)?;
                copy_below(&path, &target, bundles)?;
            }
        } else if path.extension().is_some_and(|e| e == "bin") {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

export! {
    /// From a MIL text to a library, out-pointer last.
    fn e5rt_e5_compiler_compile(compiler: Raw, path: *const c_char, options: Raw, out: *mut Raw)
    show |s| format!("{}, {}", s.show(compiler), s.show(options));
    |state| {
        // SAFETY: the caller's promise.
        let path = PathBuf::from(unsafe { string(path) }?);
        let Object::Compiler { dir, .. } = state.object(compiler, "compiler")? else { unreachable!() };
        let dir = dir.clone();
        let Object::Options { mask } = *state.object(options, "options")? else { unreachable!() };
        let bundle = state.compile(&path, mask, &dir)?;
        // SAFETY: the caller's promise.
        unsafe { state.create(out, Object::Library { bundle, compiler: Some(compiler as usize) }) }
    }
}

export! {
    /// Ends a configuration.
    fn e5rt_e5_compiler_config_options_release(config: *mut Raw) show |s| s.show_at(config);
    // SAFETY: the caller's promise.
    |state| unsafe { state.release(config, "config", |_, _| None) }
}

export! {
    /// Ends options.
    fn e5rt_e5_compiler_options_release(options: *mut Raw) show |s| s.show_at(options);
    // SAFETY: the caller's promise.
    |state| unsafe { state.release(options, "options", |_, _| None) }
}

export! {
    /// Ends a compiler, which is needed until the first operation of its library was made.
    fn e5rt_e5_compiler_release(compiler: *mut Raw) show |s| s.show_at(compiler);
    // SAFETY: the caller's promise.
    |state| unsafe {
        state.release(compiler, "compiler", |state, key| {
            let made = matches!(state.objects[&key].object, Object::Compiler { made_operation: true, .. });
            let waits = state.all_live().any(|(_, object)| {
                matches!(object, Object::Library { compiler: Some(of), .. } if *of == key)
            });
            (!made && waits).then(|| "before its library has an operation".to_owned())
        })
    }
}

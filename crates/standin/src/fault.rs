//! Bad luck, planted: what real hardware does on a bad day.
//!
//! A comma-separated list:
//!
//! | word | what happens |
//! | --- | --- |
//! | `compile-hang`, `compile-hang=TEXT` | compiling (a program whose path, on the in-memory route whose text, contains TEXT) never ends |
//! | `compile-crash`, `compile-crash=TEXT` | it aborts the process |
//! | `compile-refuse`, `compile-refuse=TEXT` | it is refused |
//! | `load-refuse` | no program can be loaded |
//! | `loaded-limit=K` | K programs can be loaded at once |
//! | `execute-error@N` | the N-th run of the process fails |
//! | `execute-error@N+` | so do all that follow |
//! | `silent-zero@N`, `silent-zero@N+` | the N-th run (and all that follow) reports success and leaves zeros |
//! | `nan@N`, `nan@N+` | as above, NaN |
//! | `load-error@N`, `load-error@N+` | the N-th load of the process (and all that follow) fails; in-memory route |
//! | `no-surface@N`, `no-surface@N+` | the N-th surface (and all that follow) cannot be had; in-memory route |
//! | `gpu-instead` | the compiler gives programs to the GPU, whatever the mask says |

use std::ops::RangeInclusive;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// How compiling goes wrong, for programs whose path (on the in-memory route: whose text) contains the
    /// text; the empty text is in all of them.
    pub compile: Option<(CompileFault, String)>,
    /// Nothing can be loaded.
    pub load_refuse: bool,
    /// How many programs can be loaded, whatever the profile says.
    pub loaded_limit: Option<usize>,
    /// Runs that go wrong, counted from 1, and how.
    pub runs: Vec<(RangeInclusive<u64>, RunFault)>,
    /// Loads that fail, counted from 1.
    pub loads: Vec<RangeInclusive<u64>>,
    /// Surfaces that cannot be had, counted from 1.
    pub surfaces: Vec<RangeInclusive<u64>>,
    /// Programs go to the GPU.
    pub gpu_instead: bool,
}

/// How compiling goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileFault {
    /// It never ends.
    Hang,
    /// It aborts the process.
    Crash,
    /// It reports an error.
    Refuse,
}

/// How a run goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunFault {
    /// It reports an error.
    Error,
    /// It reports success and leaves zeros.
    Zero,
    /// It reports success and leaves NaN.
    Nan,
}

impl Faults {
    /// Reads a list.
    ///
    /// # Errors
    /// The word that means nothing.
    pub fn parse(list: &str) -> Result<Faults, String> {
        let mut faults = Faults::default();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let wrong = || format!("`{word}` is no fault that can be planted");
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            match (name, value) {
                ("compile-hang" | "compile-crash" | "compile-refuse", text) => {
                    let fault = match name {
                        "compile-hang" => CompileFault::Hang,
                        "compile-crash" => CompileFault::Crash,
                        _ => CompileFault::Refuse,
                    };
                    faults.compile = Some((fault, text.unwrap_or_default().to_owned()));
                }
                ("load-refuse", None) => faults.load_refuse = true,
                ("loaded-limit", Some(limit)) => {
                    faults.loaded_limit = Some(limit.parse().map_err(|_| wrong())?);
                }
                ("gpu-instead", None) => faults.gpu_instead = true,
                _ => {
                    let (kind, when) = word.split_once('@').ok_or_else(wrong)?;
                    let first = when.trim_end_matches('+').parse().map_err(|_| wrong())?;
                    let last = if when.ends_with('+') { u64::MAX } else { first };
                    let kind = match kind {
                        "load-error" => {
                            faults.loads.push(first..=last);
                            continue;
                        }
                        "no-surface" => {
                            faults.surfaces.push(first..=last);
                            continue;
                        }
                        "execute-error" => RunFault::Error,
                        "silent-zero" => RunFault::Zero,
                        "nan" => RunFault::Nan,
                        _ => return Err(wrong()),
                    };
                    faults.runs.push((first..=last, kind));
                }
            }
        }
        Ok(faults)
    }

    /// Whether the load of this number fails.
    pub fn of_load(&self, number: u64) -> bool {
        self.loads.iter().any(|loads| loads.contains(&number))
    }

    /// Whether the surface of this number cannot be had.
    pub fn of_surface(&self, number: u64) -> bool {
        self.surfaces.iter().any(|surfaces| surfaces.contains(&number))
    }

    /// What goes wrong in the run of this number.
    pub fn of_run(&self, number: u64) -> Option<RunFault> {
        self.runs.iter().find(|(runs, _)| runs.contains(&number)).map(|(_, fault)| *fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_a_word_that_means_nothing_is_told() {
        let faults = Faults::parse("compile-refuse=main_, loaded-limit=3, nan@7, execute-error@9+").unwrap();
        assert_eq!(faults.compile, Some((CompileFault::Refuse, "main_".to_owned())));
        assert_eq!(faults.loaded_limit, Some(3));
        let kinds: Vec<_> = [6, 7, 8, 9, 1000].map(|run| faults.of_run(run)).into();
        let error = Some(RunFault::Error);
        assert_eq!(kinds, [None, Some(RunFault::Nan), None, error, error]);
        let faults = Faults::parse("load-error@2,no-surface@3+").unwrap();
        assert_eq!([1, 2, 3].map(|load| faults.of_load(load)), [false, true, false]);
        assert_eq!([2, 3, 4].map(|surface| faults.of_surface(surface)), [false, true, true]);
        for word in ["sunshine", "nan@x", "load-error@", "loaded-limit=many", "load-refuse=1"] {
            assert!(Faults::parse(word).unwrap_err().contains(word), "{word}");
        }
    }
}

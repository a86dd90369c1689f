//! Reports: several runs side by side in one file of HTML that needs nothing else to be read. The script in it
//! only shows values under the pointer, hides runs and sorts tables; where scripts are off, all is there to be seen.
//!
//! Logs are read a line at a time ([`lines`]) and thinned while they are read ([`series`]), so that a run of
//! a hundred thousand steps costs no more memory or room than one of a few thousand, and a spike of a
//! single step stays to be seen. Plots are written as SVG ([`plot`], [`plots`]).

mod axis;
mod events;
mod lines;
mod page;
mod plot;
mod plots;
mod run;
mod series;
mod xml;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use run::Run;
pub use run::RunSummary;

use crate::{Error, Result};

/// Runs that were read.
#[derive(Debug, Clone)]
pub struct Report {
    runs: Vec<Run>,
}

impl Report {
    /// Reads run directories, in the order in which they are shown. Nothing in them is locked or changed,
    /// so they may be in use.
    ///
    /// # Errors
    /// [`train::Error::NotARun`], [`Error::Toml`], [`Error::NoSteps`], [`Error::LongLine`],
    /// [`Error::Read`].
    pub fn read(dirs: &[PathBuf]) -> Result<Report> {
        let mut runs = dirs.iter().map(|dir| Run::read(dir)).collect::<Result<Vec<Run>>>()?;
        let names: Vec<String> = runs.iter().map(|run| run.about.name.clone()).collect();
        for run in &mut runs {
            if names.iter().filter(|name| **name == run.about.name).count() > 1 {
                run.about.name = run.about.path.display().to_string();
            }
        }
        Ok(Report { runs })
    }

    /// The runs in a few words and figures each.
    pub fn runs(&self) -> impl Iterator<Item = &RunSummary> {
        self.runs.iter().map(|run| &run.about)
    }

    /// Why figures of these runs should not be compared as they stand; none for runs that were measured
    /// alike.
    pub fn cautions(&self) -> Vec<String> {
        page::cautions(&self.runs)
    }

    /// The page.
    pub fn to_html(&self) -> String {
        page::html(&self.runs)
    }

    /// Writes the page to `path`, whole or not at all, and returns how many bytes it has. A report that is
    /// there is replaced, anything else is not.
    ///
    /// # Errors
    /// [`Error::Taken`], [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<u64> {
        require_free(path)?;
        let html = self.to_html();
        let Some(name) = path.file_name() else {
            let problem = "this is no name of a file; give one with --out, such as report.html".to_owned();
            return Err(Error::Taken { path: path.to_owned(), problem });
        };
        let temporary = path.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(html.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            Error::writing(path)(source)
        })?;
        Ok(html.len() as u64)
    }
}

/// Whether a report may go to `path`: nothing is there, or an older report.
///
/// # Errors
/// [`Error::Taken`].
pub fn require_free(path: &Path) -> Result<()> {
    let taken = |problem: &str| Err(Error::Taken { path: path.to_owned(), problem: problem.to_owned() });
    if path.is_dir() {
        return taken("this is a folder; give the name of a file with --out, such as report.html");
    }
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return taken("this is no regular file; give the name of one with --out, such as report.html");
        }
        Ok(_) => {}
        // Nothing is there, or what keeps it from being looked at will keep it from being written.
        Err(_) => return Ok(()),
    }
    let Ok(file) = fs::File::open(path) else { return Ok(()) };
    let mut head = Vec::new();
    let read = file.take(page::HEAD.len() as u64).read_to_end(&mut head);
    if read.is_ok() && (head.is_empty() || head == page::HEAD.as_bytes()) {
        return Ok(());
    }
    taken("a file of this name exists and is no report; give another name with --out, or remove it")
}

//! What is made of runs once there are some: reports that compare them.
//!
//! A [`report::Report`] reads run directories, finished or not, while they are being written or after
//! they were killed, and becomes one file of HTML that needs nothing else to be read.
//!
//! What it refuses: training, locking a run, and changing anything in its directory.
//!
//! ```no_run
//! use lab::report::Report;
//!
//! let report = Report::read(&["runs/a".into(), "runs/b".into()])?;
//! for run in report.runs() {
//!     println!("{}: {} steps, val_bpb {:?}", run.name, run.steps, run.val_bpb);
//! }
//! report.write("report.html".as_ref())?;
//! # Ok::<(), lab::Error>(())
//! ```

mod error;
pub mod report;

pub use error::{Error, Result};

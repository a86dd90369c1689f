//! What can be wrong with a program.

/// An error of building, checking, differentiating, cutting or reading a program.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An op was given operands that it does not accept.
    #[error("{op}: {problem}")]
    Op {
        /// MIL's name of the op.
        op: &'static str,
        /// Which port, which shapes, what was expected.
        problem: String,
    },
    /// A program's parts do not fit together.
    #[error("program: {0}")]
    Program(String),
    /// A gradient was asked of something that has none.
    #[error("gradient of {op}: {reason}")]
    Gradient {
        /// MIL's name of the op.
        op: &'static str,
        /// Why it has none.
        reason: String,
    },
    /// MIL text that cannot be read.
    #[error("{file}:{line}:{column}: {problem}")]
    Text {
        /// Where the text came from; `<text>` when it came from memory.
        file: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What was found, what was expected.
        problem: String,
    },
    /// A weight blob file that cannot be read or written.
    #[error("blob file {file}, byte {offset}: {problem}")]
    Blob {
        /// The file as the program names it.
        file: String,
        /// Where in the file.
        offset: u64,
        /// The field, its value, what was expected.
        problem: String,
    },
    /// A Core ML package that cannot be read or written.
    #[error("package {file}: {problem}")]
    Package {
        /// The package, or the file in it.
        file: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Error {
    pub(crate) fn op(op: &'static str, problem: impl Into<String>) -> Self {
        Error::Op { op, problem: problem.into() }
    }

    pub(crate) fn program(problem: impl Into<String>) -> Self {
        Error::Program(problem.into())
    }
}

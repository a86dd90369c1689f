//! The linter: what the engine rule catalogue says about a program before any compiler sees it.

//! The weight blob file.

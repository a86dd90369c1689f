//! The `mil` room.

//! The `cpu` room.

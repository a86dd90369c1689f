//! scaffolding
mod axis;
mod lines;
mod series;

//! Apple's text form of MIL, written and read.

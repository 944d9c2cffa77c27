//! The command line as people and scripts use it: real processes, a registry in a fresh directory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod demo;
mod ends;
mod faults;
mod reads;
mod support;
mod writes;

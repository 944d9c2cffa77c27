//! Command line as people and scripts use it: real processes, and a registry in a fresh directory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod args;
mod demo;
mod ends;
mod etcd;
mod faults;
mod page;
mod reads;
mod support;
mod terminal;
mod writes;

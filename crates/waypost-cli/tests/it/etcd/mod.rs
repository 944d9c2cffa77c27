//! Command line on every etcd of this machine.

mod commands;
mod demo;
mod golden;
mod many;
mod refusals;

//! The command line on every etcd there is.

mod commands;
mod demo;
mod golden;
mod many;
mod refusals;

//! Integration tests of the public API of waypost-core.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod directory;
mod lifetimes;
mod memory;
mod property;
mod records;
mod scripted;
mod selector;
mod static_list;

//! What Waypost's own tests break things with: a [`Fleet`] of real processes, a [`Proxy`] that delays, cuts and swallows, and the
//! [`paths`] of our binaries.
//!
//! All of it is owned: what a test starts is gone when its value is dropped. Every wait has a deadline, and its failure shows what the
//! process said. It stands on loopback and on processes it started itself, and never reaches for anything else.

mod child;
mod failure;
mod fleet;
mod output;
pub mod paths;
mod program;
mod proxy;

pub use child::Child;
pub use failure::Failure;
pub use fleet::Fleet;
pub use program::Program;
pub use proxy::Proxy;

//! What Waypost's own tests break things with: a [`Fleet`] of real processes, a real [`etcd`], a [`Proxy`] that delays, cuts and
//! swallows, [`hostile`] servers, hosts of our own ([`netns`]), the [`paths`] of our binaries, and the [`report`] of what is measured.
//!
//! All of it is owned: what a test starts is gone when its value is dropped. Every wait has a deadline, and its failure shows what the
//! process said. It stands on loopback, on namespaces and processes it made itself, and never reaches for anything else.

mod child;
pub mod etcd;
mod failure;
mod fleet;
pub mod hostile;
pub mod netns;
mod output;
pub mod paths;
mod port;
mod program;
mod proxy;
pub mod report;

pub use child::Child;
pub use failure::Failure;
pub use fleet::Fleet;
pub use port::Port;
pub use program::Program;
pub use proxy::Proxy;

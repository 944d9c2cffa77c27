//! Connections against real servers of h2, over TCP or in memory.

mod calls;
mod dials;
mod ends;
mod flow;
mod liveness;
mod net;

//! Tests of connections against real h2 servers, over TCP or in memory.

mod calls;
mod dials;
mod ends;
mod flow;
mod liveness;
mod net;

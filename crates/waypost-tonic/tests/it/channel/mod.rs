//! Channel under real stubs, against real servers on loopback.

mod calls;
mod errors;
mod mistakes;
mod readers;
mod streams;

//! Tests of the registrar: tables and a property for the machine; the task in paused time with a
//! scripted registry and with the memory registry; ended runtimes and panics in real time.

mod advertise;
mod lifetime;
mod machine;
mod memory;
mod property;
mod scripted;
mod task;

use tokio::time::Instant;

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the beginning; it is only counted from"
)]
fn start() -> Instant {
    Instant::from_std(std::time::Instant::now())
}

//! Server over real sockets: in this process, and as a child that receives real signals.

mod deadlines;
mod echo;
mod endpoints;
mod hooks;
mod layers;
mod lifecycle;
#[cfg(unix)]
mod log;
mod resets;
#[cfg(feature = "axum")]
mod router;
#[cfg(unix)]
mod signals;

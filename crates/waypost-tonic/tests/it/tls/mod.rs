//! TLS between a real channel and real servers on loopback.

mod calls;
mod errors;
mod floods;
#[path = "../../../../waypost-http/tests/it/log.rs"]
mod log;
mod reload;
mod support;

//! Logs on stderr: warnings, and what `RUST_LOG` asks for.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Without `RUST_LOG`. How a registration stands is told by the commands themselves.
const DEFAULT: &str = "warn,waypost_core::registrar=error";

/// Starts to log. A directive that cannot be read is left out, with a note.
pub(crate) fn start() {
    let asked = std::env::var_os("RUST_LOG").is_some_and(|asked| !asked.is_empty());
    let filter = match asked {
        true => EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy(),
        false => EnvFilter::new(DEFAULT),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

//! Logs on stderr: warnings, and the events that `RUST_LOG` selects.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Filter without `RUST_LOG`. The commands themselves report the state of a registration.
const DEFAULT: &str = "warn,waypost_core::registrar=error,waypost_core::registrar::advertise=warn";

/// Starts logging. A directive that cannot be parsed is left out, with a note.
pub(crate) fn start() {
    let asked = std::env::var_os("RUST_LOG").is_some_and(|asked| !asked.is_empty());
    let filter = match asked {
        true => EnvFilter::builder()
            .with_default_directive(LevelFilter::WARN.into())
            .from_env_lossy(),
        false => EnvFilter::new(DEFAULT),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Escape codes would depend on the features that other crates of a build enable.
        .with_ansi(false)
        .init();
}

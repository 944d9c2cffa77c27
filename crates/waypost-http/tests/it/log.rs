//! Capture of a client's log lines at INFO and above.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Captured lines of this thread, oldest first: level, message, fields. The capture ends when it is
/// dropped.
pub(crate) struct Log(());

impl Log {
    pub(crate) fn capture() -> Self {
        // One subscriber for all threads: tracing caches the interest of the thread that first
        // reaches a callsite, and would cache a lack of interest.
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            tracing::subscriber::set_global_default(Capture).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        LINES.set(Some(Vec::new()));
        Self(())
    }

    /// Takes the lines since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        LINES.with_borrow_mut(|lines| lines.as_mut().map(std::mem::take).unwrap_or_default())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

struct Capture;

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("waypost") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LINES.with_borrow_mut(|lines| {
            let Some(lines) = lines else { return };
            let mut line = Line::default();
            event.record(&mut line);
            lines.push(format!(
                "{} {}{}",
                event.metadata().level(),
                line.message,
                line.fields
            ));
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.fields, " {}={value}", field.name());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

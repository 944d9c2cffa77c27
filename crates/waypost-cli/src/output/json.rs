//! JSON for other programs. It carries its schema, and fields are only ever added.

use serde::Serialize;
use waypost::registry::SkippedRecords;

use crate::escape;

/// Schema of every object.
pub(crate) const SCHEMA: &str = "waypost/1";

/// List of services as one document.
#[derive(Serialize)]
pub(crate) struct Document<'a, T> {
    schema: &'static str,
    services: &'a [T],
    #[serde(skip_serializing_if = "SkippedRecords::is_empty")]
    skipped: &'a SkippedRecords,
}

impl<'a, T> Document<'a, T> {
    /// Creates a document of what was read, and of the records that were skipped.
    pub(crate) fn new(services: &'a [T], skipped: &'a SkippedRecords) -> Self {
        Self {
            schema: SCHEMA,
            services,
            skipped,
        }
    }
}

/// Serializes on one line.
pub(crate) fn compact(value: &impl Serialize) -> String {
    // Our own types always serialize: their keys are text, and writing to a string does not fail.
    escape::json(&serde_json::to_string(value).unwrap_or_default())
}

/// Serializes on several lines.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    escape::json(&serde_json::to_string_pretty(value).unwrap_or_default())
}

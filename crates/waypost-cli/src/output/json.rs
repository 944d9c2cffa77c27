//! JSON for other programs: it carries its schema, and only grows.

use serde::Serialize;

use crate::escape;

/// What every object says it is.
pub(crate) const SCHEMA: &str = "waypost/1";

/// A list of services, as one document.
#[derive(Serialize)]
pub(crate) struct Document<'a, T> {
    schema: &'static str,
    services: &'a [T],
}

impl<'a, T> Document<'a, T> {
    pub(crate) fn new(services: &'a [T]) -> Self {
        Self { schema: SCHEMA, services }
    }
}

/// On one line.
pub(crate) fn compact(value: &impl Serialize) -> String {
    // Our own types serialise: their keys are text, and writing to a string does not fail.
    escape::json(&serde_json::to_string(value).unwrap_or_default())
}

/// On many.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    escape::json(&serde_json::to_string_pretty(value).unwrap_or_default())
}

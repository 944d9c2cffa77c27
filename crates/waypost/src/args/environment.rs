//! Environment variables. Only this file of the module reads the environment of the process.

use std::env::VarError;
use std::ffi::OsString;

use crate::registry::{Error, Result};

type Read = dyn Fn(&'static str) -> Option<OsString> + Send + Sync;

/// Source of environment variables, by name.
pub(super) struct Environment(Box<Read>);

impl Environment {
    /// Returns the environment of the process.
    pub(super) fn of_process() -> Self {
        Self(Box::new(read))
    }

    /// Returns the value of a variable, or none if it is unset or empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the value is not valid UTF-8.
    pub(super) fn get(&self, name: &'static str) -> Result<Option<String>> {
        let value = (self.0)(name).filter(|value| !value.is_empty());
        let text = |value: OsString| {
            value
                .into_string()
                .map_err(|_| Error::invalid(name, "must be text in UTF-8"))
        };
        value.map(text).transpose()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "flags can be given as variables too, and all of them are read here"
)]
fn read(name: &'static str) -> Option<OsString> {
    match std::env::var(name) {
        Ok(text) => Some(text.into()),
        Err(VarError::NotUnicode(raw)) => Some(raw),
        Err(VarError::NotPresent) => None,
    }
}

#[cfg(test)]
impl Environment {
    /// Creates an environment of exactly these variables.
    pub(super) fn of(variables: &[(&'static str, &str)]) -> Self {
        Self::raw(
            variables
                .iter()
                .map(|(name, value)| (*name, OsString::from(value)))
                .collect(),
        )
    }

    /// Creates an environment of variables that may not be valid UTF-8.
    pub(super) fn raw(variables: Vec<(&'static str, OsString)>) -> Self {
        Self(Box::new(move |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.clone())
        }))
    }
}

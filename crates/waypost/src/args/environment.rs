//! What the environment says. The process's own is read here and nowhere else.

use std::env::VarError;
use std::ffi::OsString;

use crate::registry::{Error, Result};

type Read = dyn Fn(&'static str) -> Option<OsString> + Send + Sync;

/// Variables by name.
pub(super) struct Environment(Box<Read>);

impl Environment {
    /// The process's own.
    pub(super) fn of_process() -> Self {
        Self(Box::new(read))
    }

    /// What the variable says; nothing if it is empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no text.
    pub(super) fn get(&self, name: &'static str) -> Result<Option<String>> {
        let value = (self.0)(name).filter(|value| !value.is_empty());
        let text = |value: OsString| value.into_string().map_err(|_| Error::invalid(name, "is no text: write it in UTF-8"));
        value.map(text).transpose()
    }
}

#[expect(clippy::disallowed_methods, reason = "flags can be given as variables too, and all of them are read here")]
fn read(name: &'static str) -> Option<OsString> {
    match std::env::var(name) {
        Ok(text) => Some(text.into()),
        Err(VarError::NotUnicode(raw)) => Some(raw),
        Err(VarError::NotPresent) => None,
    }
}

#[cfg(test)]
impl Environment {
    /// These variables and no others.
    pub(super) fn of(variables: &[(&'static str, &str)]) -> Self {
        Self::raw(variables.iter().map(|(name, value)| (*name, OsString::from(value))).collect())
    }

    /// The same, of what need not be text.
    pub(super) fn raw(variables: Vec<(&'static str, OsString)>) -> Self {
        Self(Box::new(move |name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())))
    }
}

//! One setting: the flag and the variables that may give it, and who wins.

use super::environment::Environment;
use crate::registry::{Error, Result};

/// The names of a setting outside the code.
pub(super) struct Setting<T: 'static> {
    /// The flag, without its dashes; its id in clap too.
    pub(super) flag: &'static str,
    /// The same with its dashes, for errors.
    pub(super) typed: &'static str,
    /// The strongest first.
    pub(super) variables: &'static [Variable<T>],
}

/// A variable, and how its text is read.
pub(super) struct Variable<T> {
    pub(super) name: &'static str,
    pub(super) read: fn(&str) -> Result<T, String>,
    /// What follows its name in the help.
    pub(super) note: &'static str,
}

/// A value, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given<T> {
    pub(super) value: T,
    /// `--register-ttl`, or `WAYPOST_REGISTER_TTL`.
    pub(super) by: &'static str,
}

impl<T: Clone> Setting<T> {
    /// The flag, or else the strongest variable; what is weaker is not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the variable, what is wrong, and what to write.
    pub(super) fn given(&self, flag: Option<&T>, environment: &Environment) -> Result<Option<Given<T>>> {
        self.all_given(flag, environment).next().transpose()
    }

    /// All that is given, the strongest first.
    pub(super) fn all_given(&self, flag: Option<&T>, environment: &Environment) -> impl Iterator<Item = Result<Given<T>>> {
        let flag = flag.map(|value| Ok(Given { value: value.clone(), by: self.typed }));
        flag.into_iter().chain(self.variables.iter().filter_map(|variable| variable.given(environment).transpose()))
    }

    /// What the help says: the text, and the variables.
    pub(super) fn help(&self, text: &str) -> String {
        let shown = |variable: &Variable<T>| format!("{}{}", variable.name, variable.note);
        let variables: Vec<_> = self.variables.iter().map(shown).collect();
        format!("{text}\n[env: {}]", variables.join(", "))
    }

    /// The variables' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<T> {
        self.variables.iter().map(|variable| variable.name)
    }
}

impl<T> Variable<T> {
    /// One with nothing more to say of it.
    pub(super) const fn new(name: &'static str, read: fn(&str) -> Result<T, String>) -> Self {
        Self { name, read, note: "" }
    }

    /// With something more for the help to say.
    pub(super) const fn noted(self, note: &'static str) -> Self {
        Self { name: self.name, read: self.read, note }
    }

    fn given(&self, environment: &Environment) -> Result<Option<Given<T>>> {
        let Some(text) = environment.get(self.name)? else { return Ok(None) };
        let wrong = |why| Error::invalid(format!("{} {text:?}", self.name), why);
        (self.read)(&text).map(|value| Some(Given { value, by: self.name })).map_err(wrong)
    }
}

/// What was given is set; what was not stays as it is.
#[cfg(feature = "tonic")]
pub(super) fn set<B, T>(builder: B, given: Option<Given<T>>, setter: impl FnOnce(B, T) -> B) -> B {
    match given {
        Some(given) => setter(builder, given.value),
        None => builder,
    }
}

/// The error with the name of who gave the value; other trouble as it is.
pub(super) fn blame(by: &str, error: Error) -> Error {
    match error {
        Error::Invalid { what, why } => Error::invalid(format!("{by}: {what}"), why),
        error => error,
    }
}

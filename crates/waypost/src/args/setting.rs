//! One setting: the flag and the variables that can give it, and their precedence.

use super::environment::Environment;
use crate::registry::{Error, Result};

/// Names of a setting outside the code.
pub(super) struct Setting<T: 'static> {
    /// Flag without its dashes; also its id in clap.
    pub(super) flag: &'static str,
    /// Flag with its dashes, for errors.
    pub(super) typed: &'static str,
    /// Variables, highest precedence first.
    pub(super) variables: &'static [Variable<T>],
}

/// Environment variable, and the function that parses its value.
pub(super) struct Variable<T> {
    pub(super) name: &'static str,
    pub(super) read: fn(&str) -> Result<T, String>,
    /// Text that follows the variable's name in the help.
    pub(super) note: &'static str,
}

/// Value, and the name of the flag or variable that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given<T> {
    pub(super) value: T,
    /// Name of the flag or variable, such as `--register-ttl` or `WAYPOST_REGISTER_TTL`.
    pub(super) by: &'static str,
}

impl<T: Clone> Setting<T> {
    /// Returns the value of the flag, or else of the variable with the highest precedence.
    /// Variables of lower precedence are not read.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the variable, what is wrong, and what to write.
    pub(super) fn given(
        &self,
        flag: Option<&T>,
        environment: &Environment,
    ) -> Result<Option<Given<T>>> {
        self.all_given(flag, environment).next().transpose()
    }

    /// Returns all given values, highest precedence first.
    pub(super) fn all_given(
        &self,
        flag: Option<&T>,
        environment: &Environment,
    ) -> impl Iterator<Item = Result<Given<T>>> {
        let flag = flag.map(|value| {
            Ok(Given {
                value: value.clone(),
                by: self.typed,
            })
        });
        flag.into_iter().chain(
            self.variables
                .iter()
                .filter_map(|variable| variable.given(environment).transpose()),
        )
    }

    /// Returns the help of the flag: the text, and the variables.
    pub(super) fn help(&self, text: &str) -> String {
        let shown = |variable: &Variable<T>| format!("{}{}", variable.name, variable.note);
        let variables: Vec<_> = self.variables.iter().map(shown).collect();
        format!("{text}\n[env: {}]", variables.join(", "))
    }

    /// Returns the names of the variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<T> {
        self.variables.iter().map(|variable| variable.name)
    }
}

impl<T> Variable<T> {
    /// Creates a variable without a note.
    pub(super) const fn new(name: &'static str, read: fn(&str) -> Result<T, String>) -> Self {
        Self {
            name,
            read,
            note: "",
        }
    }

    /// Adds a note to the variable's name in the help.
    pub(super) const fn noted(self, note: &'static str) -> Self {
        Self {
            name: self.name,
            read: self.read,
            note,
        }
    }

    fn given(&self, environment: &Environment) -> Result<Option<Given<T>>> {
        let Some(text) = environment.get(self.name)? else {
            return Ok(None);
        };
        let wrong = |why| Error::invalid(format!("{} {text:?}", self.name), why);
        (self.read)(&text)
            .map(|value| {
                Some(Given {
                    value,
                    by: self.name,
                })
            })
            .map_err(wrong)
    }
}

/// Returns all given pairs, lowest precedence first, so that they can be set key by key.
///
/// # Errors
/// [`Error::Invalid`], naming the variable, what is wrong, and what to write.
pub(super) fn merged<T: Clone>(
    setting: &Setting<Vec<T>>,
    flag: &Vec<T>,
    environment: &Environment,
) -> Result<Vec<Given<T>>> {
    let flag = (!flag.is_empty()).then_some(flag);
    let mut all = setting
        .all_given(flag, environment)
        .collect::<Result<Vec<_>>>()?;
    all.reverse();
    let pairs = all
        .into_iter()
        .flat_map(|Given { value, by }| value.into_iter().map(move |value| Given { value, by }));
    Ok(pairs.collect())
}

/// Sets the given value; without one, the builder stays unchanged.
pub(super) fn set<B, T>(builder: B, given: Option<Given<T>>, setter: impl FnOnce(B, T) -> B) -> B {
    match given {
        Some(given) => setter(builder, given.value),
        None => builder,
    }
}

/// Adds the name of the flag or variable to [`Error::Invalid`]; other errors stay unchanged.
pub(super) fn blame(by: &str, error: Error) -> Error {
    match error {
        Error::Invalid { what, why } => Error::invalid(format!("{by}: {what}"), why),
        error => error,
    }
}

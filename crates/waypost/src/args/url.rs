//! URL of a registry that does not show its password.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::registry::redacted_url;

/// URL of a registry, of which `Debug` and `Display` hide the parts that may be a password. It is
/// validated when it is connected to, so that no flag parser repeats it in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryUrl(String);

impl RegistryUrl {
    /// Returns the URL itself, password included, for [`connect`](crate::connect).
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for RegistryUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl FromStr for RegistryUrl {
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Infallible> {
        Ok(Self(url.to_owned()))
    }
}

impl fmt::Debug for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redacted_url(&self.0))
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted_url(&self.0))
    }
}

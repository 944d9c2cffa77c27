//! Flag `--registry`: the registry as a URL, or by go-micro's variables.

use super::HEADING;
use super::environment::Environment;
use super::setting::{Given, Setting, Variable, blame};
use super::url::RegistryUrl;
use crate::AnyRegistry;
use crate::registry::{Error, Result, redacted_url};

const URL: Setting<RegistryUrl> = Setting {
    flag: "registry",
    typed: "--registry",
    variables: &[Variable::new("WAYPOST_REGISTRY", url)
        .noted(", MICRO_REGISTRY with MICRO_REGISTRY_ADDRESS")],
};

const MICRO_REGISTRY: &str = "MICRO_REGISTRY";
const MICRO_REGISTRY_ADDRESS: &str = "MICRO_REGISTRY_ADDRESS";

/// Address of etcd that go-micro uses by default.
const DEFAULT_ETCD: &str = "127.0.0.1:2379";

/// Flag of the registry: `--registry URL`, `WAYPOST_REGISTRY`, or go-micro's `MICRO_REGISTRY`
/// (`etcd` or `memory`) with `MICRO_REGISTRY_ADDRESS` (`host:port,…`; default `127.0.0.1:2379`).
#[derive(Clone, Debug, Default, clap::Args)]
#[command(about = None, long_about = None)]
#[group(skip)]
pub struct RegistryArgs {
    #[arg(id = URL.flag, long = URL.flag, value_name = "URL", help_heading = HEADING)]
    #[arg(help = URL.help("Registry URL: etcd://host:2379, local://, static://host:port"))]
    registry: Option<RegistryUrl>,
}

impl RegistryArgs {
    /// Opens the given registry, or `local://`, the registry of this host, if none is given. See
    /// [`connect`](crate::connect).
    ///
    /// # Errors
    /// As [`connect`](crate::connect). The error of a given value names its flag or variable.
    ///
    /// # Cancel safety
    /// If it is dropped, nothing is left.
    pub async fn connect(&self) -> Result<AnyRegistry> {
        self.connect_or("local://").await
    }

    /// Opens the given registry, or the one at `url` if none is given.
    ///
    /// # Errors
    /// As for [`connect`](RegistryArgs::connect).
    ///
    /// # Cancel safety
    /// If it is dropped, nothing is left.
    pub async fn connect_or(&self, url: &str) -> Result<AnyRegistry> {
        self.connect_in(url, &Environment::of_process()).await
    }

    pub(super) async fn connect_in(
        &self,
        url: &str,
        environment: &Environment,
    ) -> Result<AnyRegistry> {
        match self.given(environment)? {
            Some(Given { value, by }) => crate::connect(value.expose())
                .await
                .map_err(|error| blame(by, error)),
            None => crate::connect(url).await,
        }
    }

    /// Returns the URL given by flag or environment.
    ///
    /// # Errors
    /// [`Error::Invalid`] if go-micro's variables name a registry that Waypost does not have.
    pub fn url(&self) -> Result<Option<RegistryUrl>> {
        Ok(self
            .given(&Environment::of_process())?
            .map(|given| given.value))
    }

    /// Returns the URL given by the flag, without regard to the environment.
    pub fn flag(&self) -> Option<&RegistryUrl> {
        self.registry.as_ref()
    }

    pub(super) fn given(&self, environment: &Environment) -> Result<Option<Given<RegistryUrl>>> {
        match URL.given(self.registry.as_ref(), environment)? {
            Some(given) => Ok(Some(given)),
            None => of_go_micro(environment),
        }
    }
}

/// Returns the names of all variables read here.
pub(super) fn variables() -> Vec<&'static str> {
    URL.names()
        .chain([MICRO_REGISTRY, MICRO_REGISTRY_ADDRESS])
        .collect()
}

fn url(text: &str) -> Result<RegistryUrl, String> {
    Ok(text.to_owned().into())
}

/// Returns the URL that go-micro's two variables describe together.
fn of_go_micro(environment: &Environment) -> Result<Option<Given<RegistryUrl>>> {
    let addresses = environment.get(MICRO_REGISTRY_ADDRESS)?;
    let (url, by) = match (environment.get(MICRO_REGISTRY)?.as_deref(), addresses) {
        (None, None) => return Ok(None),
        (None, Some(_)) => {
            let why = "gives addresses without a registry: set MICRO_REGISTRY=etcd too, or set WAYPOST_REGISTRY to a URL";
            return Err(Error::invalid(MICRO_REGISTRY_ADDRESS, why));
        }
        (Some("memory"), _) => ("memory://".to_owned(), MICRO_REGISTRY),
        (Some("etcd"), None) => (format!("etcd://{DEFAULT_ETCD}"), MICRO_REGISTRY),
        (Some("etcd"), Some(addresses)) => (etcd(&addresses)?, MICRO_REGISTRY_ADDRESS),
        (Some(other), _) => return Err(unknown(other)),
    };
    Ok(Some(Given {
        value: url.into(),
        by,
    }))
}

/// Returns the URL of these members. go-micro's list may contain empty items.
fn etcd(addresses: &str) -> Result<String> {
    // The error does not repeat the text, which may contain a password.
    if addresses.contains(['/', '@', '?', '#', '%']) {
        let why = "must be a list such as host:2379,host:2379: give the user in ETCD_USERNAME and ETCD_PASSWORD, \
                   and anything else in WAYPOST_REGISTRY=etcd://…";
        return Err(Error::invalid(MICRO_REGISTRY_ADDRESS, why));
    }
    let members: Vec<_> = addresses
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .collect();
    Ok(format!(
        "etcd://{}",
        if members.is_empty() {
            DEFAULT_ETCD.to_owned()
        } else {
            members.join(",")
        }
    ))
}

fn unknown(name: &str) -> Error {
    let why = "must be etcd or memory, the two of go-micro's registries that Waypost supports; \
               for another registry set --registry or WAYPOST_REGISTRY to its URL, such as etcd://host:2379";
    Error::invalid(format!("{MICRO_REGISTRY} {:?}", redacted_url(name)), why)
}

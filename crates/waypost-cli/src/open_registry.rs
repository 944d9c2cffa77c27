//! Open registry of a command, and the explanation of its errors.

use waypost::AnyRegistry;
use waypost::args::RegistryArgs;
use waypost::record::Service;
use waypost::registry::{self, SkippedRecords, WatchOptions, Watcher};

use crate::error::CliError;
use crate::escape;
use crate::output;

/// Returns the URL of the registry: from the flag, else from the environment, else `local://`.
pub(crate) fn registry_url(registry: &RegistryArgs) -> Result<String, CliError> {
    Ok(registry
        .url()?
        .map_or_else(|| "local://".to_owned(), |url| url.expose().to_owned()))
}

/// Open registry, and its URL without secrets.
pub(crate) struct OpenRegistry {
    registry: AnyRegistry,
    shown: String,
}

impl OpenRegistry {
    /// Opens the registry at `url`.
    pub(crate) async fn open(url: &str) -> Result<Self, CliError> {
        if url.starts_with("memory:") {
            let what = "memory:// lives inside one process: a command would see nothing there";
            return Err(CliError::usage(what)
                .next("give a registry that processes share: --registry local://"));
        }
        let registry = waypost::connect(url)
            .await
            .map_err(|error| explained(error, "it", ""))?;
        let shown = shown(url, &registry);
        Ok(Self { registry, shown })
    }

    /// Opens a registry in which `what` is to be registered. A static list is refused.
    pub(crate) async fn open_for(what: &str, url: &str) -> Result<Self, CliError> {
        if url.starts_with("static:") {
            let why = format!("static:// is a fixed list: {what} cannot register there");
            return Err(CliError::usage(why)
                .next("give a registry that can be written: --registry local://"));
        }
        Self::open(url).await
    }

    /// Returns the handle of the registry.
    pub(crate) fn registry(&self) -> AnyRegistry {
        self.registry.clone()
    }

    /// Returns the name of the backend.
    pub(crate) fn name(&self) -> &'static str {
        self.registry.name()
    }

    /// Returns the URL of the registry, without secrets.
    pub(crate) fn url(&self) -> &str {
        &self.shown
    }

    /// Returns another command on the same registry, in a form that can be pasted into a shell.
    pub(crate) fn command(&self, command: &str) -> String {
        let url = match self
            .shown
            .contains(['?', '&', ' ', '$', ';', '*', '(', ')', '<', '>', '|'])
        {
            true => format!("'{}'", self.shown),
            false => self.shown.clone(),
        };
        format!("waypost --registry {url} {command}")
    }

    /// Returns all services.
    pub(crate) async fn list(&self) -> Result<Vec<Service>, CliError> {
        self.awaited(self.registry.list_services())
            .await
            .map_err(|error| self.failure(error))
    }

    /// Returns one service, one record per version.
    pub(crate) async fn get(&self, name: &str) -> Result<Vec<Service>, CliError> {
        match self.awaited(self.registry.get_service(name)).await {
            Ok(services) if services.iter().any(|service| !service.nodes.is_empty()) => {
                Ok(services)
            }
            Ok(_) | Err(registry::Error::NotFound { .. }) => Err(self.not_found(name)),
            Err(error) => Err(self.failure(error)),
        }
    }

    async fn awaited<T>(&self, answer: impl Future<Output = T>) -> T {
        output::awaited(&format!("reading {}", self.url()), answer).await
    }

    /// Checks that the registry responds to a query for one service.
    pub(crate) async fn answers(&self, name: &str) -> Result<(), CliError> {
        match self.registry.get_service(name).await {
            Ok(_) | Err(registry::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Returns the records of one service, or of all, that were read and skipped.
    pub(crate) fn skipped(&self, name: Option<&str>) -> SkippedRecords {
        self.registry.skipped(name)
    }

    /// Returns the text about skipped records of a service, to be appended to an error.
    pub(crate) fn and_skipped(&self, name: &str) -> String {
        match self.skipped(Some(name)) {
            skipped if skipped.is_empty() => String::new(),
            skipped => format!("; {}", escape::text(&skipped.to_string())),
        }
    }

    /// Watches one service, or all.
    pub(crate) async fn watch(&self, name: Option<&str>) -> Result<Watcher, CliError> {
        let options = name.map_or_else(WatchOptions::all, WatchOptions::service);
        self.registry
            .watch(&options)
            .await
            .map_err(|error| self.failure(error))
    }

    /// Explains an error of this registry, with what to do.
    pub(crate) fn failure(&self, error: registry::Error) -> CliError {
        explained(
            error,
            self.url(),
            &escape::text(&self.registry.options().prefix),
        )
    }

    fn not_found(&self, name: &str) -> CliError {
        CliError::no(format!(
            "service {:?} is not registered in {}{}",
            escape::text(name),
            self.url(),
            self.and_skipped(name)
        ))
        .next(format!("see what is: {}", self.command("list")))
    }

    /// Closes the registry. The records registered through it are gone when this returns.
    pub(crate) async fn close(self) -> Result<(), CliError> {
        Ok(self.registry.close().await?)
    }
}

/// Returns the opened URL in a form that can be typed again. User and password are left out: they
/// belong into the environment or a file.
fn shown(url: &str, registry: &AnyRegistry) -> String {
    let (name, addresses) = (registry.name(), registry.options().addresses.join(","));
    let shown = match url.split_once("://") {
        // The path and options identify the registry better than its members. A user ends at the
        // last @ before them.
        Some((scheme @ ("etcd" | "etcds"), rest)) => {
            let (members, options) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
            let (_, members) = members.rsplit_once('@').unwrap_or(("", members));
            format!("{scheme}://{members}{options}")
        }
        _ => format!("{name}://{addresses}"),
    };
    escape::text(&shown)
}

/// Explains an error of a registry, with what to do.
fn explained(error: registry::Error, url: &str, prefix: &str) -> CliError {
    let next = match &error {
        registry::Error::Denied { .. } if prefix.is_empty() => {
            Some(format!("may you read and write {url}?"))
        }
        registry::Error::Denied { .. } => Some(format!(
            "check the user and its password (ETCD_USERNAME and ETCD_PASSWORD, or password_file= in the URL), \
             and that its role may read and write {prefix}/"
        )),
        error if error.is_transient() => Some(format!(
            "is {url} the right one, and up? choose with --registry URL or WAYPOST_REGISTRY"
        )),
        _ => None,
    };
    let failure = CliError::from(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(url: &str) -> String {
        OpenRegistry::open(url).await.unwrap().url().to_owned()
    }

    #[tokio::test]
    async fn a_url_is_shown_without_its_user_and_can_be_typed_again() {
        assert_eq!(
            shown("etcd://ann:hunter2@a:1,b:2/my/prefix?timeout=500ms").await,
            "etcd://a:1,b:2/my/prefix?timeout=500ms"
        );
        assert_eq!(shown("etcds://ann:p%40ss%2Fw@a").await, "etcds://a");
        assert_eq!(
            shown("etcd://ann:p@ss@a?tls=false").await,
            "etcd://a?tls=false"
        );
        assert_eq!(shown("static://a:1?protocol=http").await, "static://a:1");
        let opened = OpenRegistry::open("etcd://ann:hunter2@a?tls=false&timeout=1s")
            .await
            .unwrap();
        assert_eq!(
            opened.command("list"),
            "waypost --registry 'etcd://a?tls=false&timeout=1s' list"
        );
    }
}

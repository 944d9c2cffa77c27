//! The registry that a command works with, and what its errors say of it.

use waypost::record::Service;
use waypost::registry::{self, WatchOptions, Watcher};
use waypost::{AnyRegistry, Registry};

use crate::escape;
use crate::failure::Failure;

/// An open registry.
pub(crate) struct Place {
    registry: AnyRegistry,
}

impl Place {
    /// Opens the registry at `url`.
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        if url.starts_with("memory:") {
            let what = "memory:// lives inside one process: a command would see nothing there";
            return Err(Failure::usage(what).next("give a registry that processes share: --registry local://"));
        }
        let registry = waypost::connect(url).await.map_err(|error| explained(error, "it"))?;
        Ok(Self { registry })
    }

    /// Opens one in which `what` is to be registered: a fixed list is none.
    pub(crate) async fn open_for(what: &str, url: &str) -> Result<Self, Failure> {
        if url.starts_with("static:") {
            let why = format!("static:// is a fixed list: {what} cannot register there");
            return Err(Failure::usage(why).next("give a registry that can be written: --registry local://"));
        }
        Self::open(url).await
    }

    /// The handle.
    pub(crate) fn registry(&self) -> AnyRegistry {
        self.registry.clone()
    }

    /// The backend's name.
    pub(crate) fn name(&self) -> &'static str {
        self.registry.name()
    }

    /// Where it is, as a URL without secrets.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.name(), escape::text(&self.registry.options().addresses.join(",")))
    }

    /// All services.
    pub(crate) async fn list(&self) -> Result<Vec<Service>, Failure> {
        self.registry.list_services().await.map_err(|error| self.failure(error))
    }

    /// One service, one record per version.
    pub(crate) async fn get(&self, name: &str) -> Result<Vec<Service>, Failure> {
        match self.registry.get_service(name).await {
            Ok(services) if services.iter().any(|service| !service.nodes.is_empty()) => Ok(services),
            Ok(_) | Err(registry::Error::NotFound { .. }) => Err(self.not_found(name)),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// The events of one service, or of all.
    pub(crate) async fn watch(&self, name: Option<&str>) -> Result<Watcher, Failure> {
        let options = name.map_or_else(WatchOptions::all, WatchOptions::service);
        self.registry.watch(&options).await.map_err(|error| self.failure(error))
    }

    /// Trouble with this registry, with what to do.
    pub(crate) fn failure(&self, error: registry::Error) -> Failure {
        explained(error, &self.url())
    }

    fn not_found(&self, name: &str) -> Failure {
        Failure::no(format!("service {:?} is not registered in {}", escape::text(name), self.url()))
            .next(format!("see what is: waypost --registry {} list", self.url()))
    }

    /// Closes it: what was registered through it is gone when this returns.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        Ok(self.registry.close().await?)
    }
}

/// Trouble with a registry, with what to do about it.
fn explained(error: registry::Error, url: &str) -> Failure {
    let next =
        error.is_transient().then(|| format!("is {url} the right one, and up? choose with --registry URL or WAYPOST_REGISTRY"));
    let failure = Failure::from(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}

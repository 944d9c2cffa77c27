//! Registries by URL.

use waypost_core::memory::MemoryRegistry;
use waypost_core::record::Address;
use waypost_core::registry::{AnyRegistry, Error, Result, redacted_url};
use waypost_core::static_list::StaticRegistry;

/// Schemes that this build supports, as its errors list them.
const SCHEMES: &[&str] = &[
    "memory://",
    "static://host:port[,host:port…][?protocol=grpc]",
    #[cfg(feature = "local")]
    "local://[dir][?option=value&…]",
    #[cfg(feature = "etcd")]
    "etcd[s]://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]",
];

/// Opens a registry by its URL.
///
/// * `memory://`: a registry in this process, empty at first; clone the handle to share it.
/// * `static://host:port[,host:port…][?protocol=grpc]`: a static list of nodes, the same for every
///   service.
/// * `local://[dir][?option=value&…]`: the processes of one host, in a directory; without one,
///   `$XDG_RUNTIME_DIR/waypost`, else `waypost-<uid>` in the temporary directory. Options: the
///   [`RecordLimits`](crate::record::RecordLimits) `max_record_bytes=65536`,
///   `max_metadata_entries=64` and `max_endpoints=1024`.
/// * `etcd://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]`: the members of an etcd
///   cluster; `etcds://` over TLS. Options: `tls=true`, `ca=FILE`, `cert=FILE`, `key=FILE`,
///   `server_name=NAME`, `password_file=FILE`, `timeout=2s`, `heartbeat_timeout=1s`,
///   `relist_interval=300s`, `rebalance_interval=300s`, `backoff_initial=50ms`, `backoff_max=2s`,
///   and the limits of a record as for `local://`. Without a user in the URL,
///   `ETCD_USERNAME` and `ETCD_PASSWORD` of the environment apply. No connection is opened before
///   the first use.
///
/// A registry in memory, shared by its clones:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use waypost::record::{Node, Service};
/// use waypost::registry::{Instance, RegisterOptions};
///
/// let registry = waypost::connect("memory://").await?;
/// let mut service = Service::new("users");
/// service.nodes.push(Node::new("users", "10.0.0.7:8080"));
/// let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// registry.clone().register(&service, &options).await?;
/// assert_eq!(registry.list_services().await?[0].name, "users");
/// # Ok(()) }
/// ```
///
/// A static list:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = waypost::connect("static://10.0.0.7:8080,10.0.0.8:8080?protocol=http").await?;
/// let service = &registry.get_service("users").await?[0];
/// assert_eq!(service.nodes.len(), 2);
/// assert_eq!(service.nodes[1].address, "10.0.0.8:8080");
/// # Ok(()) }
/// ```
///
/// The processes of this host, in a directory:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "local")] {
/// # let dir = tempfile::tempdir()?;
/// # let url = format!("local://{}", dir.path().display());
/// let registry = waypost::connect(&url).await?; // such as local:///run/users/registry
/// assert!(registry.list_services().await?.is_empty());
/// registry.close().await?;
/// # }
/// # Ok(()) }
/// ```
///
/// Two members of an etcd cluster; nothing is connected yet:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "etcd")] {
/// let registry = waypost::connect("etcd://10.0.0.5,10.0.0.6:2380/fleet?timeout=500ms").await?;
/// assert_eq!(registry.options().addresses, ["10.0.0.5:2379", "10.0.0.6:2380"]);
/// assert_eq!(registry.options().prefix, "/fleet");
/// # }
/// # Ok(()) }
/// ```
///
/// The error of a URL that no registry has:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost::registry::Error;
///
/// let error = waypost::connect("zookeeper://10.0.0.5").await.unwrap_err();
/// assert!(matches!(error, Error::Invalid { .. }));
/// assert!(error.to_string().contains(r#"the scheme "zookeeper" is not in this build"#));
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Invalid`], naming the part of the URL that is wrong and the schemes that this build
/// supports; [`Error::Unavailable`] or [`Error::Denied`] if the directory or file that it names
/// cannot be used.
///
/// # Cancel safety
/// If it is dropped, nothing is left.
pub async fn connect(url: &str) -> Result<AnyRegistry> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(wrong(url, "it has no scheme"));
    };
    match scheme {
        "memory" if rest.is_empty() => Ok(AnyRegistry::new(MemoryRegistry::new())),
        "memory" => Err(wrong(url, "nothing may follow memory://")),
        "static" => fixed(url, rest).map(AnyRegistry::new),
        #[cfg(feature = "local")]
        "local" => local(url, rest),
        #[cfg(not(feature = "local"))]
        "local" => Err(wrong(url, "this build lacks the feature local")),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let options = waypost_etcd::EtcdOptions::parse(url)?.or_user_of_environment();
            waypost_etcd::EtcdRegistry::new(options).map(AnyRegistry::new)
        }
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => Err(wrong(url, "this build lacks the feature etcd")),
        _ => Err(wrong(
            url,
            format_args!("the scheme {scheme:?} is not in this build"),
        )),
    }
}

fn fixed(url: &str, rest: &str) -> Result<StaticRegistry> {
    let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut protocol = "grpc";
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("protocol", value)) if !value.is_empty() => protocol = value,
            _ => {
                return Err(wrong(
                    url,
                    format_args!(
                        "{pair:?} is not an option of static://; the only one is protocol=NAME"
                    ),
                ));
            }
        }
    }
    if hosts.contains('@') {
        return Err(wrong(url, "static:// takes no user: give host:port only"));
    }
    let address = |host: &str| host.parse::<Address>().map_err(|error| wrong(url, error));
    Ok(StaticRegistry::new(
        hosts.split(',').map(address).collect::<Result<Vec<_>>>()?,
        protocol,
    ))
}

#[cfg(feature = "local")]
fn local(url: &str, rest: &str) -> Result<AnyRegistry> {
    let (dir, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut options = waypost_local::LocalOptions::default();
    options.dir = (!dir.is_empty()).then(|| dir.into());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known = options.limits.set(name, value);
        if !known.map_err(|error| wrong(url, error))? {
            let options = waypost_core::record::RecordLimits::OPTIONS.join(", ");
            return Err(wrong(
                url,
                format_args!("{name:?} is not an option of local://; the options are {options}"),
            ));
        }
    }
    Ok(AnyRegistry::new(waypost_local::LocalRegistry::open(
        options,
    )?))
}

fn wrong(url: &str, why: impl std::fmt::Display) -> Error {
    let known = SCHEMES.join(", ");
    Error::invalid(
        format!("registry URL {:?}", redacted_url(url)),
        format!("{why}; this build knows {known}"),
    )
}

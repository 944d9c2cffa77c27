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
    "local://[dir]",
    #[cfg(feature = "etcd")]
    "etcd[s]://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]",
];

/// Opens a registry by its URL.
///
/// * `memory://`: a registry in this process, empty at first; clone the handle to share it.
/// * `static://host:port[,host:port…][?protocol=grpc]`: a static list of nodes, the same for every
///   service.
/// * `local://[dir]`: the processes of one host, in a directory; without one,
///   `$XDG_RUNTIME_DIR/waypost`, else `waypost-<uid>` in the temporary directory.
/// * `etcd://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]`: the members of an etcd
///   cluster; `etcds://` over TLS. Options: `tls=true`, `ca=FILE`, `cert=FILE`, `key=FILE`,
///   `server_name=NAME`, `timeout=2s`, `password_file=FILE`. Without a user in the URL,
///   `ETCD_USERNAME` and `ETCD_PASSWORD` of the environment apply. No connection is opened before
///   the first use.
///
/// # Errors
/// [`Error::Invalid`], naming the part of the URL that is wrong and the schemes that this build
/// supports; [`Error::Unavailable`] or [`Error::Denied`] if the directory or file that it names
/// cannot be used.
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
        _ => Err(wrong(url, format_args!("the scheme {scheme:?} is not in this build"))),
    }
}

fn fixed(url: &str, rest: &str) -> Result<StaticRegistry> {
    let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut protocol = "grpc";
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("protocol", value)) if !value.is_empty() => protocol = value,
            _ => return Err(wrong(url, format_args!("{pair:?} is no option of static://; the only one is protocol=NAME"))),
        }
    }
    if hosts.contains('@') {
        return Err(wrong(url, "static:// knows no users: give host:port and no more"));
    }
    let address = |host: &str| host.parse::<Address>().map_err(|error| wrong(url, error));
    Ok(StaticRegistry::new(hosts.split(',').map(address).collect::<Result<Vec<_>>>()?, protocol))
}

#[cfg(feature = "local")]
fn local(url: &str, rest: &str) -> Result<AnyRegistry> {
    if let Some((_, query)) = rest.split_once('?') {
        return Err(wrong(url, format_args!("{query:?} is no option of local://, which has none")));
    }
    let dir = (!rest.is_empty()).then(|| rest.into());
    let options = waypost_local::LocalOptions { dir };
    Ok(AnyRegistry::new(waypost_local::LocalRegistry::open(options)?))
}

fn wrong(url: &str, why: impl std::fmt::Display) -> Error {
    let known = SCHEMES.join(", ");
    Error::invalid(format!("registry URL {:?}", redacted_url(url)), format!("{why}; this build knows {known}"))
}

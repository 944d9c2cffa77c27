//! Settings of a service's server and registration, from flags and environment variables.

use std::time::Duration;

use super::config::{self, REGISTRATION};
use super::environment::Environment;
use super::setting::{Given, Setting, Variable, blame, merged, set};
use super::value::{self, Pair};
use super::{HEADING, duration};
use crate::registrar::{Config, RegistrationBuilder};
use crate::registry::{Error, Result};
#[cfg(feature = "tonic")]
use crate::server::ServerBuilder;

const NAME: Setting<String> = Setting {
    flag: "server-name",
    typed: "--server-name",
    variables: &[
        Variable::new("WAYPOST_SERVER_NAME", value::service),
        Variable::new("MICRO_SERVER_NAME", value::service),
    ],
};
const VERSION: Setting<String> = Setting {
    flag: "server-version",
    typed: "--server-version",
    variables: &[
        Variable::new("WAYPOST_SERVER_VERSION", value::version),
        Variable::new("MICRO_SERVER_VERSION", value::version),
    ],
};
const ID: Setting<String> = Setting {
    flag: "server-id",
    typed: "--server-id",
    variables: &[
        Variable::new("WAYPOST_SERVER_ID", value::id),
        Variable::new("MICRO_SERVER_ID", value::id),
    ],
};
const ADDRESS: Setting<String> = Setting {
    flag: "server-address",
    typed: "--server-address",
    variables: &[
        Variable::new("WAYPOST_SERVER_ADDRESS", value::bind),
        Variable::new("MICRO_SERVER_ADDRESS", value::bind),
    ],
};
const ADVERTISE: Setting<String> = Setting {
    flag: "server-advertise",
    typed: "--server-advertise",
    variables: &[
        Variable::new("WAYPOST_SERVER_ADVERTISE", value::advertise),
        Variable::new("MICRO_SERVER_ADVERTISE", value::advertise),
    ],
};
const METADATA: Setting<Vec<Pair>> = Setting {
    flag: "server-metadata",
    typed: "--server-metadata",
    variables: &[
        Variable::new("WAYPOST_SERVER_METADATA", value::pairs),
        Variable::new("MICRO_SERVER_METADATA", value::go_pairs),
    ],
};
const TTL: Setting<Duration> = Setting {
    flag: "register-ttl",
    typed: "--register-ttl",
    variables: &[
        Variable::new("WAYPOST_REGISTER_TTL", value::duration),
        Variable::new("MICRO_REGISTER_TTL", value::go_seconds).noted(" (s)"),
    ],
};
const INTERVAL: Setting<Duration> = Setting {
    flag: "register-interval",
    typed: "--register-interval",
    variables: &[
        Variable::new("WAYPOST_REGISTER_INTERVAL", value::duration),
        Variable::new("MICRO_REGISTER_INTERVAL", value::go_seconds).noted(" (s)"),
    ],
};

const CONFIG: Setting<Vec<Pair>> = Setting {
    flag: "server-config",
    typed: "--server-config",
    variables: &[Variable::new("WAYPOST_SERVER_CONFIG", value::pairs)],
};
/// Keys of `--server-config` beside those of the registration's config.
const DRAIN_TIMEOUT: &str = "drain-timeout";
const ALLOW_LOOPBACK: &str = "allow-loopback";

/// Flags of a service's server: name, version, id, addresses, metadata, and the times of the
/// registration.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use clap::Parser;
/// use waypost::Server;
///
/// #[derive(Parser)]
/// struct Cli {
///     #[command(flatten)]
///     server: waypost::args::ServerArgs,
/// }
///
/// let cli = Cli::try_parse_from(["greeterd", "--server-version", "2", "--server-metadata", "zone=eu-1"])?;
/// # let registry = waypost::connect("memory://").await?;
/// let server = Server::builder("greeter", registry.clone()).version("1").metadata("track", "canary");
/// let server = cli.server.apply(server)?.start().await?;
/// server.registered().await?;
///
/// let service = &registry.get_service("greeter").await?[0];
/// let metadata = &service.nodes[0].metadata;
/// assert_eq!(service.version, "2");
/// assert_eq!((metadata.get("zone"), metadata.get("track")), (Some("eu-1"), Some("canary")));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, clap::Args)]
#[command(about = None, long_about = None)]
#[group(skip)]
pub struct ServerArgs {
    #[arg(id = NAME.flag, long = NAME.flag, value_name = "NAME", value_parser = value::service, help_heading = HEADING)]
    #[arg(help = NAME.help("Name of the service in the registry"))]
    name: Option<String>,
    #[arg(id = VERSION.flag, long = VERSION.flag, value_name = "VERSION", value_parser = value::version, help_heading = HEADING)]
    #[arg(help = VERSION.help("Version of the service"))]
    version: Option<String>,
    #[arg(id = ID.flag, long = ID.flag, value_name = "ID", value_parser = value::id, help_heading = HEADING)]
    #[arg(help = ID.help("Id of the node, NAME-ID in the registry; random by default"))]
    id: Option<String>,
    #[arg(id = ADDRESS.flag, long = ADDRESS.flag, value_name = "HOST:PORT", value_parser = value::bind, help_heading = HEADING)]
    #[arg(help = ADDRESS.help("Address to listen on; port 0 is any free port, :8080 is every interface"))]
    address: Option<String>,
    #[arg(id = ADVERTISE.flag, long = ADVERTISE.flag, value_name = "HOST[:PORT]", value_parser = value::advertise)]
    #[arg(help_heading = HEADING, help = ADVERTISE.help("Address that clients dial, if it differs"))]
    advertise: Option<String>,
    #[arg(id = METADATA.flag, long = METADATA.flag, value_name = "KEY=VALUE", value_parser = value::pair, value_delimiter = ',')]
    #[arg(help_heading = HEADING, help = METADATA.help("Metadata of the node; several with commas, or repeat the flag"))]
    metadata: Vec<Pair>,
    #[arg(id = TTL.flag, long = TTL.flag, value_name = "TIME", value_parser = duration::parse, help_heading = HEADING)]
    #[arg(help = TTL.help("Time to live of the record if the process dies, such as 15s"))]
    ttl: Option<Duration>,
    #[arg(id = INTERVAL.flag, long = INTERVAL.flag, value_name = "TIME", value_parser = duration::parse, help_heading = HEADING)]
    #[arg(help = INTERVAL.help("Interval between heartbeats, less than the TTL"))]
    interval: Option<Duration>,
    #[arg(id = CONFIG.flag, long = CONFIG.flag, value_name = "KEY=VALUE", value_parser = value::pair, value_delimiter = ',')]
    #[arg(help_heading = HEADING, help = CONFIG.help(&config::help(config_keys())))]
    config: Vec<Pair>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::ServerTlsArgs,
}

fn config_keys() -> impl Iterator<Item = &'static str> {
    let of_registration = REGISTRATION.iter().map(|key| key.name);
    of_registration.chain([DRAIN_TIMEOUT, ALLOW_LOOPBACK])
}

impl ServerArgs {
    /// Returns the server, or the registration of a server of another kind, with the given settings
    /// applied. All other settings stay unchanged. Metadata is merged key by key: a key of the code
    /// stays unless it is given too.
    ///
    /// Call it after the code's own settings, or those override it. A registration has no listener
    /// of its own: open it at [`address_or`](Self::address_or). Its owner finishes the calls, so that
    /// the key `drain-timeout` has no effect on it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::registry::Error::Invalid), naming the flag or the variable, what
    /// is wrong with it, and what to write.
    pub fn apply<B: ServerSettings>(&self, builder: B) -> Result<B> {
        self.apply_in(builder, &Environment::of_process())
    }

    /// Returns the given address to listen on, else `default`, for servers that open their listener
    /// themselves. Either may be `:port`, every interface: `waypost::server::listen` accepts it.
    ///
    /// ```
    /// # #[cfg(feature = "tonic")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use clap::Parser;
    /// use waypost::Registration;
    /// use waypost::record::Service;
    ///
    /// #[derive(Parser)]
    /// struct Cli {
    ///     #[command(flatten)]
    ///     server: waypost::args::ServerArgs,
    /// }
    ///
    /// let cli = Cli::try_parse_from(["webd", "--server-address", ":0", "--server-id", "one"])?;
    /// # let registry = waypost::connect("memory://").await?;
    /// let listener = waypost::server::listen(&cli.server.address_or("127.0.0.1:8080")?).await?;
    /// let registration = Registration::builder(registry, Service::new("web")).metadata("protocol", "http");
    /// let registration = cli.server.apply(registration)?.start_on(listener.local_addr()?).await?;
    ///
    /// assert_eq!(registration.service().nodes[0].id, "web-one");
    /// # Ok(()) }
    /// # #[cfg(not(feature = "tonic"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::registry::Error::Invalid), naming the variable, what is wrong with
    /// it, and what to write.
    pub fn address_or(&self, default: &str) -> Result<String> {
        self.address_in(default, &Environment::of_process())
    }

    pub(super) fn address_in(&self, default: &str, environment: &Environment) -> Result<String> {
        let given = ADDRESS.given(self.address.as_ref(), environment)?;
        Ok(given.map_or_else(|| default.to_owned(), |given| given.value))
    }

    pub(super) fn apply_in<B: ServerSettings>(
        &self,
        builder: B,
        environment: &Environment,
    ) -> Result<B> {
        let texts: [Text<'_, B>; 5] = [
            (&NAME, &self.name, B::name),
            (&VERSION, &self.version, B::version),
            (&ID, &self.id, B::id),
            (&ADDRESS, &self.address, B::bind),
            (&ADVERTISE, &self.advertise, B::advertise),
        ];
        let mut builder = builder;
        for (setting, flag, setter) in texts {
            builder = set(builder, setting.given(flag.as_ref(), environment)?, setter);
        }
        let builder = self.apply_metadata(builder, environment)?;
        let builder = self.apply_config(builder, environment)?;
        #[cfg(feature = "tls")]
        let builder = {
            let by = self.tls.given_by(environment)?;
            builder.tls(by, |server| self.tls.apply(server, environment))?
        };
        self.apply_times(builder, environment)
    }

    /// Merges the metadata key by key, so that an entry of a flag does not undo what a platform's
    /// variable sets for another key.
    fn apply_metadata<B: ServerSettings>(
        &self,
        builder: B,
        environment: &Environment,
    ) -> Result<B> {
        let pairs = merged(&METADATA, &self.metadata, environment)?.into_iter();
        Ok(pairs.fold(builder, |builder, Given { value, .. }| {
            builder.metadata(value.0, value.1)
        }))
    }

    /// Sets the keys of `--server-config`, merged as the metadata is.
    fn apply_config<B: ServerSettings>(
        &self,
        mut builder: B,
        environment: &Environment,
    ) -> Result<B> {
        let mut by = Vec::new();
        for given in merged(&CONFIG, &self.config, environment)? {
            let Given {
                value,
                by: value_by,
            } = given;
            let invalid = |why: String| Error::invalid(value_by, why);
            let wrong = |why| invalid(format!("{}={}: {why}", value.0, value.1));
            match value.0.as_str() {
                DRAIN_TIMEOUT => {
                    builder = builder.drain_timeout(value::duration(&value.1).map_err(wrong)?);
                    continue;
                }
                ALLOW_LOOPBACK => {
                    builder = builder.allow_loopback(value::switch(&value.1).map_err(wrong)?);
                    continue;
                }
                _ => {}
            }
            let mut config = builder.register_config().clone();
            if !config::set(REGISTRATION, &mut config, &value).map_err(invalid)? {
                return Err(invalid(config::unknown(&value.0, config_keys())));
            }
            builder = builder.register(config);
            by.push(value_by);
        }
        by.dedup();
        checked(builder, &by)
    }

    /// Sets the times of the registration and checks them here, where the flags or variables that
    /// gave them are known.
    fn apply_times<B: ServerSettings>(&self, builder: B, environment: &Environment) -> Result<B> {
        let ttl = TTL.given(self.ttl.as_ref(), environment)?;
        let interval = INTERVAL.given(self.interval.as_ref(), environment)?;
        let by: Vec<_> = [&ttl, &interval]
            .into_iter()
            .flatten()
            .map(|given| given.by)
            .collect();
        let builder = set(set(builder, ttl, B::ttl), interval, B::interval);
        checked(builder, &by)
    }
}

/// Returns the builder if its registration's settings are valid. The error names the flags and
/// variables that gave some of them; without any, the code is to blame, and the start says so.
fn checked<B: ServerSettings>(builder: B, by: &[&str]) -> Result<B> {
    match builder.register_config().check() {
        Err(error) if !by.is_empty() => Err(blame(&by.join(" and "), error)),
        _ => Ok(builder),
    }
}

/// Setting that is a text: its names, its flag's value, and its setter.
type Text<'a, B> = (&'a Setting<String>, &'a Option<String>, fn(B, String) -> B);

/// Builder that [`ServerArgs`] can be applied to: that of a server, or of the registration of a
/// server of another kind. It cannot be implemented elsewhere.
pub trait ServerSettings: Settings {}

impl<B: Settings> ServerSettings for B {}

/// Setters behind [`ServerSettings`], out of users' reach.
mod sealed {
    use super::{Config, Duration};
    #[cfg(feature = "tls")]
    use super::{Result, ServerBuilder};

    pub trait Settings: Sized {
        fn name(self, name: String) -> Self;
        fn version(self, version: String) -> Self;
        fn id(self, id: String) -> Self;
        fn bind(self, address: String) -> Self;
        fn advertise(self, address: String) -> Self;
        fn metadata(self, key: String, value: String) -> Self;
        fn ttl(self, ttl: Duration) -> Self;
        fn interval(self, interval: Duration) -> Self;
        fn register(self, config: Config) -> Self;
        fn allow_loopback(self, allow: bool) -> Self;
        fn drain_timeout(self, limit: Duration) -> Self;
        fn register_config(&self) -> &Config;
        /// Applies the TLS settings; `by` is the name of one that is given.
        #[cfg(feature = "tls")]
        fn tls(
            self,
            by: Option<&'static str>,
            apply: impl FnOnce(ServerBuilder) -> Result<ServerBuilder>,
        ) -> Result<Self>;
    }
}

use sealed::Settings;

/// Implements the setters that both builders have.
macro_rules! setters {
    ($($setter:ident($($argument:ident: $kind:ty),*);)+) => {
        $(fn $setter(self, $($argument: $kind),*) -> Self {
            Self::$setter(self, $($argument),*)
        })+

        fn register_config(&self) -> &Config {
            Self::register_config(self)
        }
    };
    () => {
        setters! {
            name(name: String);
            version(version: String);
            id(id: String);
            advertise(address: String);
            metadata(key: String, value: String);
            ttl(ttl: Duration);
            interval(interval: Duration);
            allow_loopback(allow: bool);
        }
    };
}

#[cfg(feature = "tonic")]
impl Settings for ServerBuilder {
    setters!();

    fn bind(self, address: String) -> Self {
        Self::bind(self, address)
    }

    fn register(self, config: Config) -> Self {
        Self::register(self, config)
    }

    fn drain_timeout(self, limit: Duration) -> Self {
        Self::drain_timeout(self, limit)
    }

    #[cfg(feature = "tls")]
    fn tls(
        self,
        _: Option<&'static str>,
        apply: impl FnOnce(ServerBuilder) -> Result<ServerBuilder>,
    ) -> Result<Self> {
        apply(self)
    }
}

// The listener of a registration is its owner's, and so are its calls.
impl Settings for RegistrationBuilder {
    setters!();

    fn bind(self, _: String) -> Self {
        self
    }

    fn register(self, config: Config) -> Self {
        self.config(config)
    }

    fn drain_timeout(self, _: Duration) -> Self {
        self
    }

    #[cfg(feature = "tls")]
    fn tls(
        self,
        by: Option<&'static str>,
        _: impl FnOnce(ServerBuilder) -> Result<ServerBuilder>,
    ) -> Result<Self> {
        match by {
            None => Ok(self),
            Some(by) => Err(Error::invalid(
                by,
                "has no effect on a registration: configure TLS in its server, and add the metadata waypost.tls=true",
            )),
        }
    }
}

/// Returns the names of all variables read here.
pub(super) fn variables() -> Vec<&'static str> {
    let texts = [NAME, VERSION, ID, ADDRESS, ADVERTISE];
    let times = [TTL, INTERVAL];
    let texts = texts
        .iter()
        .flat_map(Setting::names)
        .chain(METADATA.names());
    let names = texts
        .chain(times.iter().flat_map(Setting::names))
        .chain(CONFIG.names());
    #[cfg(feature = "tls")]
    let names = names.chain(super::tls::server_variables());
    names.collect()
}

//! Settings of a service's client, from flags and environment variables.

use std::time::Duration;

use super::config::{self, CHANNEL, CLIENT};
use super::environment::Environment;
use super::setting::{Given, Setting, Variable, merged, set};
use super::value::{self, Pair};
use super::{HEADING, duration};
use crate::balance::StrategyName;
use crate::registry::{Error, Result};
use crate::{ChannelBuilder, ChannelConfig, ClientBuilder};

const STRATEGY: Setting<StrategyName> = Setting {
    flag: "client-strategy",
    typed: "--client-strategy",
    variables: &[Variable::new("WAYPOST_CLIENT_STRATEGY", value::strategy)],
};
const RETRIES: Setting<u32> = Setting {
    flag: "client-retries",
    typed: "--client-retries",
    variables: &[
        Variable::new("WAYPOST_CLIENT_RETRIES", value::retries),
        Variable::new("MICRO_CLIENT_RETRIES", value::retries),
    ],
};
const REQUEST_TIMEOUT: Setting<Duration> = Setting {
    flag: "client-request-timeout",
    typed: "--client-request-timeout",
    variables: &[
        Variable::new("WAYPOST_CLIENT_REQUEST_TIMEOUT", value::duration),
        Variable::new("MICRO_CLIENT_REQUEST_TIMEOUT", value::duration),
    ],
};
const CONNECT_TIMEOUT: Setting<Duration> = Setting {
    flag: "client-connect-timeout",
    typed: "--client-connect-timeout",
    variables: &[Variable::new(
        "WAYPOST_CLIENT_CONNECT_TIMEOUT",
        value::duration,
    )],
};
const WAIT_FOR_READY: Setting<Duration> = Setting {
    flag: "client-wait-for-ready",
    typed: "--client-wait-for-ready",
    variables: &[Variable::new(
        "WAYPOST_CLIENT_WAIT_FOR_READY",
        value::duration,
    )],
};

const CONFIG: Setting<Vec<Pair>> = Setting {
    flag: "client-config",
    typed: "--client-config",
    variables: &[Variable::new("WAYPOST_CLIENT_CONFIG", value::pairs)],
};

/// Flags of a service's client: strategy, retries, time limits, and any other setting of
/// [`ClientConfig`](crate::ClientConfig) and [`ChannelConfig`](crate::ChannelConfig) by its key in
/// `--client-config`, such as `budget-per-call=0.1`; the help lists the keys.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use clap::Parser;
/// use waypost::Client;
///
/// #[derive(Parser)]
/// struct Cli {
///     #[command(flatten)]
///     client: waypost::args::ClientArgs,
/// }
///
/// let cli = Cli::try_parse_from(["greet", "--client-wait-for-ready", "100ms"])?;
/// # let registry = waypost::connect("memory://").await?;
/// # use waypost_greeter::greeter::{HelloRequest, greeter_client::GreeterClient};
/// let client = cli.client.apply(Client::builder(registry))?.build();
///
/// // No server is registered.
/// let mut greeter = GreeterClient::new(client.channel("greeter")?);
/// let status = greeter.hello(HelloRequest::default()).await.unwrap_err();
/// assert_eq!(status.code(), tonic::Code::Unavailable);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, clap::Args)]
#[command(about = None, long_about = None)]
#[group(skip)]
pub struct ClientArgs {
    #[arg(id = STRATEGY.flag, long = STRATEGY.flag, value_name = "NAME", value_parser = value::strategy, help_heading = HEADING)]
    #[arg(help = STRATEGY.help("Load balancing strategy: random, round-robin or least-request"))]
    strategy: Option<StrategyName>,
    #[arg(id = RETRIES.flag, long = RETRIES.flag, value_name = "N", value_parser = value::retries, help_heading = HEADING)]
    #[arg(allow_negative_numbers = true, help = RETRIES.help("Maximum number of retries of a retryable call"))]
    retries: Option<u32>,
    #[arg(id = REQUEST_TIMEOUT.flag, long = REQUEST_TIMEOUT.flag, value_name = "TIME", value_parser = duration::parse)]
    #[arg(help_heading = HEADING, help = REQUEST_TIMEOUT.help("Deadline of unary calls that set none"))]
    request_timeout: Option<Duration>,
    #[arg(id = CONNECT_TIMEOUT.flag, long = CONNECT_TIMEOUT.flag, value_name = "TIME", value_parser = duration::parse)]
    #[arg(help_heading = HEADING, help = CONNECT_TIMEOUT.help("Timeout of a connect to a node"))]
    connect_timeout: Option<Duration>,
    #[arg(id = WAIT_FOR_READY.flag, long = WAIT_FOR_READY.flag, value_name = "TIME", value_parser = duration::parse)]
    #[arg(help_heading = HEADING, help = WAIT_FOR_READY.help("Maximum time that a call waits for a ready node"))]
    wait_for_ready: Option<Duration>,
    #[arg(id = CONFIG.flag, long = CONFIG.flag, value_name = "KEY=VALUE", value_parser = value::pair, value_delimiter = ',')]
    #[arg(help_heading = HEADING, help = CONFIG.help(&config::help(config_keys())))]
    config: Vec<Pair>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::ClientTlsArgs,
}

fn config_keys() -> impl Iterator<Item = &'static str> {
    let channel = CHANNEL.iter().map(|key| key.name);
    CLIENT.iter().map(|key| key.name).chain(channel)
}

/// Settings given for every channel of the client.
#[derive(Clone, Copy, Debug)]
struct OfChannels {
    strategy: Option<StrategyName>,
    attempts: Option<u32>,
    deadline: Option<Duration>,
    wait_for_ready: Option<Duration>,
}

impl ClientArgs {
    /// Returns the client with the given settings applied, to itself and to every channel that it
    /// builds. All other settings stay unchanged.
    ///
    /// A given setting overrides the channel's own, even if the code sets that later.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::registry::Error::Invalid), naming the flag or the variable, what
    /// is wrong with it, and what to write.
    pub fn apply(&self, client: ClientBuilder) -> Result<ClientBuilder> {
        self.apply_in(client, &Environment::of_process())
    }

    pub(super) fn apply_in(
        &self,
        client: ClientBuilder,
        environment: &Environment,
    ) -> Result<ClientBuilder> {
        let connect_timeout = CONNECT_TIMEOUT.given(self.connect_timeout.as_ref(), environment)?;
        let channels = self.of_channels(environment)?;
        let client = set(client, connect_timeout, ClientBuilder::connect_timeout);
        let client = self.apply_config(client, environment)?;
        #[cfg(feature = "tls")]
        let client = self.tls.apply(client, environment)?;
        Ok(client.configure_channels(move |channel| channels.apply(channel)))
    }

    /// Sets the keys of `--client-config`. They are merged, so that a key of a flag does not undo
    /// what a platform's variable sets for another.
    fn apply_config(
        &self,
        mut client: ClientBuilder,
        environment: &Environment,
    ) -> Result<ClientBuilder> {
        let mut of_channels = Vec::new();
        for Given { value, by } in merged(&CONFIG, &self.config, environment)? {
            let invalid = |why: String| Error::invalid(by, why);
            let mut is_known = false;
            let mut result = Ok(());
            client = client.configure(|config| {
                result = config::set(CLIENT, config, &value).map(|known| is_known = known);
            });
            result.map_err(invalid)?;
            // The value is checked here, where the flag or the variable that gave it is known.
            if config::set(CHANNEL, &mut ChannelConfig::default(), &value).map_err(invalid)? {
                of_channels.push(value);
            } else if !is_known {
                return Err(invalid(config::unknown(&value.0, config_keys())));
            }
        }
        Ok(client.configure_channels(move |channel| {
            channel.configure(|config| {
                for pair in &of_channels {
                    let _ = config::set(CHANNEL, config, pair);
                }
            })
        }))
    }

    fn of_channels(&self, environment: &Environment) -> Result<OfChannels> {
        let retries = RETRIES.given(self.retries.as_ref(), environment)?;
        Ok(OfChannels {
            strategy: STRATEGY
                .given(self.strategy.as_ref(), environment)?
                .map(|given| given.value),
            attempts: retries.map(|given| given.value.saturating_add(1)),
            deadline: REQUEST_TIMEOUT
                .given(self.request_timeout.as_ref(), environment)?
                .map(|given| given.value),
            wait_for_ready: WAIT_FOR_READY
                .given(self.wait_for_ready.as_ref(), environment)?
                .map(|given| given.value),
        })
    }
}

impl OfChannels {
    fn apply(self, mut channel: ChannelBuilder) -> ChannelBuilder {
        if let Some(name) = self.strategy {
            channel = channel.strategy(name.strategy());
        }
        if let Some(attempts) = self.attempts {
            channel = channel.max_attempts(attempts);
        }
        if let Some(deadline) = self.deadline {
            channel = channel.default_timeout(deadline);
        }
        if let Some(wait) = self.wait_for_ready {
            channel = channel.wait_for_ready(wait);
        }
        channel
    }
}

/// Returns the names of all variables read here.
pub(super) fn variables() -> Vec<&'static str> {
    let times = [REQUEST_TIMEOUT, CONNECT_TIMEOUT, WAIT_FOR_READY];
    let names = STRATEGY
        .names()
        .chain(RETRIES.names())
        .chain(times.iter().flat_map(Setting::names))
        .chain(CONFIG.names());
    #[cfg(feature = "tls")]
    let names = names.chain(super::tls::client_variables());
    names.collect()
}

//! Settings of TLS, from flags and environment variables. A given setting replaces that of the code
//! by itself; the others of a configuration stay.

use std::path::PathBuf;

use super::HEADING;
use super::environment::Environment;
use super::setting::{Given, Setting, Variable, blame};
use super::value;
use crate::registry::{Error, Result};
use crate::server::ServerBuilder;
use crate::{ClientBuilder, Pem, ServerTlsConfig, TlsConfig, TlsIdentity};

/// Value of `--client-tls-ca` for the CA certificates that the system trusts.
const SYSTEM: &str = "system";

const CLIENT_CA: Setting<PathBuf> = Setting {
    flag: "client-tls-ca",
    typed: "--client-tls-ca",
    variables: &[Variable::new("WAYPOST_CLIENT_TLS_CA", file)],
};
const CLIENT_CERT: Setting<PathBuf> = Setting {
    flag: "client-tls-cert",
    typed: "--client-tls-cert",
    variables: &[Variable::new("WAYPOST_CLIENT_TLS_CERT", file)],
};
const CLIENT_KEY: Setting<PathBuf> = Setting {
    flag: "client-tls-key",
    typed: "--client-tls-key",
    variables: &[Variable::new("WAYPOST_CLIENT_TLS_KEY", file)],
};
const SERVER_NAME: Setting<String> = Setting {
    flag: "client-tls-server-name",
    typed: "--client-tls-server-name",
    variables: &[Variable::new("WAYPOST_CLIENT_TLS_SERVER_NAME", text)],
};
const ASSUME: Setting<bool> = Setting {
    flag: "client-tls-assume",
    typed: "--client-tls-assume",
    variables: &[Variable::new("WAYPOST_CLIENT_TLS_ASSUME", value::switch)],
};
const SERVER_CERT: Setting<PathBuf> = Setting {
    flag: "server-tls-cert",
    typed: "--server-tls-cert",
    variables: &[Variable::new("WAYPOST_SERVER_TLS_CERT", file)],
};
const SERVER_KEY: Setting<PathBuf> = Setting {
    flag: "server-tls-key",
    typed: "--server-tls-key",
    variables: &[Variable::new("WAYPOST_SERVER_TLS_KEY", file)],
};
const SERVER_CLIENT_CA: Setting<PathBuf> = Setting {
    flag: "server-tls-client-ca",
    typed: "--server-tls-client-ca",
    variables: &[Variable::new("WAYPOST_SERVER_TLS_CLIENT_CA", file)],
};

/// Flags of a client's TLS.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct ClientTlsArgs {
    #[arg(id = CLIENT_CA.flag, long = CLIENT_CA.flag, value_name = "FILE|system", help_heading = HEADING)]
    #[arg(help = CLIENT_CA.help("CA certificates (PEM) that verify servers; system: those of the operating system"))]
    ca: Option<PathBuf>,
    #[arg(id = CLIENT_CERT.flag, long = CLIENT_CERT.flag, value_name = "FILE", help_heading = HEADING)]
    #[arg(help = CLIENT_CERT.help("Certificate (PEM) of the client, for servers that require one"))]
    cert: Option<PathBuf>,
    #[arg(id = CLIENT_KEY.flag, long = CLIENT_KEY.flag, value_name = "FILE", help_heading = HEADING)]
    #[arg(help = CLIENT_KEY.help("Private key (PEM) of the certificate"))]
    key: Option<PathBuf>,
    #[arg(id = SERVER_NAME.flag, long = SERVER_NAME.flag, value_name = "NAME", value_parser = text, help_heading = HEADING)]
    #[arg(help = SERVER_NAME.help("Name in the servers' certificates, such as {service}.internal; the service's name by default"))]
    server_name: Option<String>,
    #[arg(id = ASSUME.flag, long = ASSUME.flag, value_name = "true|false", value_parser = value::switch, help_heading = HEADING)]
    #[arg(help = ASSUME.help("Assume TLS of nodes whose record does not state it, such as those of go-micro"))]
    assume: Option<bool>,
}

/// Flags of a server's TLS.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct ServerTlsArgs {
    #[arg(id = SERVER_CERT.flag, long = SERVER_CERT.flag, value_name = "FILE", help_heading = HEADING)]
    #[arg(help = SERVER_CERT.help("Certificate chain (PEM) of the server; enables TLS"))]
    cert: Option<PathBuf>,
    #[arg(id = SERVER_KEY.flag, long = SERVER_KEY.flag, value_name = "FILE", help_heading = HEADING)]
    #[arg(help = SERVER_KEY.help("Private key (PEM) of the certificate"))]
    key: Option<PathBuf>,
    #[arg(id = SERVER_CLIENT_CA.flag, long = SERVER_CLIENT_CA.flag, value_name = "FILE", help_heading = HEADING)]
    #[arg(help = SERVER_CLIENT_CA.help("CA certificates (PEM) that verify clients (mTLS)"))]
    client_ca: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// Applies the given settings, and reads the files.
    pub(super) fn apply(
        &self,
        client: ClientBuilder,
        environment: &Environment,
    ) -> Result<ClientBuilder> {
        let ca = CLIENT_CA.given(self.ca.as_ref(), environment)?;
        let cert = CLIENT_CERT.given(self.cert.as_ref(), environment)?;
        let key = CLIENT_KEY.given(self.key.as_ref(), environment)?;
        let server_name = SERVER_NAME.given(self.server_name.as_ref(), environment)?;
        let assume = ASSUME.given(self.assume.as_ref(), environment)?;
        let by: Vec<_> = [by(&ca), by(&cert), by(&key), by(&server_name), by(&assume)]
            .into_iter()
            .flatten()
            .collect();
        if by.is_empty() {
            return Ok(client);
        }
        let mut config = client.tls_config().cloned().unwrap_or_default();
        set_ca(&mut config, ca);
        config.identity = identity(
            config.identity.take(),
            cert,
            key,
            [&CLIENT_CERT, &CLIENT_KEY],
        )?;
        config.server_name = server_name.map(|name| name.value).or(config.server_name);
        config.assume_tls = assume.map_or(config.assume_tls, |assume| assume.value);
        client
            .tls(config)
            .map_err(|error| blame(&by.join(" and "), Error::invalid("TLS", error.to_string())))
    }
}

impl ServerTlsArgs {
    /// Returns the name of a flag or variable that gives one of the settings.
    pub(super) fn given_by(&self, environment: &Environment) -> Result<Option<&'static str>> {
        let given = [
            by(&SERVER_CERT.given(self.cert.as_ref(), environment)?),
            by(&SERVER_KEY.given(self.key.as_ref(), environment)?),
            by(&SERVER_CLIENT_CA.given(self.client_ca.as_ref(), environment)?),
        ];
        Ok(given.into_iter().flatten().next())
    }

    /// Applies the given settings. The files are read when the server starts.
    pub(super) fn apply(
        &self,
        server: ServerBuilder,
        environment: &Environment,
    ) -> Result<ServerBuilder> {
        let cert = SERVER_CERT.given(self.cert.as_ref(), environment)?;
        let key = SERVER_KEY.given(self.key.as_ref(), environment)?;
        let client_ca = SERVER_CLIENT_CA.given(self.client_ca.as_ref(), environment)?;
        let by_code = server.tls_config().cloned();
        let names = [&SERVER_CERT, &SERVER_KEY];
        let before = by_code.as_ref().map(|config| config.identity.clone());
        let Some(identity) = identity(before, cert, key, names)? else {
            return match client_ca {
                Some(Given { by, .. }) => Err(Error::invalid(by, needs(&SERVER_CERT))),
                None => Ok(server),
            };
        };
        let mut config = by_code.unwrap_or_else(|| ServerTlsConfig::new(identity.clone()));
        config.identity = identity;
        config.client_ca = client_ca.map(|ca| Pem::file(ca.value)).or(config.client_ca);
        Ok(server.tls(config))
    }
}

fn set_ca(config: &mut TlsConfig, ca: Option<Given<PathBuf>>) {
    match ca {
        Some(ca) if ca.value.as_os_str() == SYSTEM => config.ca = None,
        Some(ca) => config.ca = Some(Pem::file(ca.value)),
        None => {}
    }
}

/// Returns the identity with the given parts replaced.
///
/// # Errors
/// [`Error::Invalid`] if one part is given and the other is nowhere.
fn identity(
    before: Option<TlsIdentity>,
    cert: Option<Given<PathBuf>>,
    key: Option<Given<PathBuf>>,
    [cert_setting, key_setting]: [&Setting<PathBuf>; 2],
) -> Result<Option<TlsIdentity>> {
    let file = |given: Given<PathBuf>| Pem::file(given.value);
    match (before, cert, key) {
        (before, None, None) => Ok(before),
        (_, Some(cert), Some(key)) => Ok(Some(TlsIdentity::new(file(cert), file(key)))),
        (Some(before), cert, key) => Ok(Some(TlsIdentity::new(
            cert.map_or(before.certificate, file),
            key.map_or(before.key, file),
        ))),
        (None, Some(cert), None) => Err(Error::invalid(cert.by, needs(key_setting))),
        (None, None, Some(key)) => Err(Error::invalid(key.by, needs(cert_setting))),
    }
}

fn needs(setting: &Setting<PathBuf>) -> String {
    let variables: Vec<_> = setting.names().collect();
    format!(
        "needs another setting: give {} or {} too",
        setting.typed,
        variables.join(" or ")
    )
}

fn by<T>(given: &Option<Given<T>>) -> Option<&'static str> {
    given.as_ref().map(|given| given.by)
}

fn file(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty: give a name, such as {service}.internal".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Returns the names of all variables of a client that are read here.
pub(super) fn client_variables() -> Vec<&'static str> {
    let files = [CLIENT_CA, CLIENT_CERT, CLIENT_KEY];
    let names = files.iter().flat_map(Setting::names);
    names
        .chain(SERVER_NAME.names())
        .chain(ASSUME.names())
        .collect()
}

/// Returns the names of all variables of a server that are read here.
pub(super) fn server_variables() -> Vec<&'static str> {
    let files = [SERVER_CERT, SERVER_KEY, SERVER_CLIENT_CA];
    files.iter().flat_map(Setting::names).collect()
}

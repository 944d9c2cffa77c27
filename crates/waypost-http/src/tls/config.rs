//! Settings of TLS, for clients and for servers.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, InconsistentKeys, ServerConfig, WantsVerifier,
    WantsVersions,
};

use super::pem::{Part, Pem, TlsError, certificates, private_key, roots, system_roots};
use super::reload::Load;

/// ALPN identifier of HTTP/2, the only protocol that is offered and accepted.
const H2: &[u8] = b"h2";

/// Certificate with its chain, and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Certificate, followed by the intermediate certificates of its chain, if any.
    pub certificate: Pem,
    /// Private key of the certificate: PKCS#8, PKCS#1 or SEC1.
    pub key: Pem,
}

impl TlsIdentity {
    /// Creates an identity.
    pub fn new(certificate: Pem, key: Pem) -> Self {
        Self { certificate, key }
    }
}

/// TLS settings of a client.
///
/// Files are checked for changes by a handshake, at most once a second. A change applies to new
/// connections; open ones are kept. A file that cannot be used, such as one that is half written,
/// changes nothing: the previous certificates stay in use, and a warning is logged once.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{Client, ClientConfig, Connect, Pem, TlsConfig, TlsConnect};
///
/// let mut config = TlsConfig::default();
/// config.ca = Some(Pem::file("tests/doc/ca.pem"));
/// config.server_name = Some("{service}.internal".to_owned());
/// let connect = TlsConnect::new(config.clone())?;
/// assert_eq!(connect.scheme().as_str(), "https");
/// # let registry = nodes([]);
/// let client = Client::with_connect(registry, ClientConfig::default(), connect);
///
/// config.ca = Some(Pem::file("tests/doc/plain.rs"));
/// let error = TlsConnect::new(config).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"the CA certificate "tests/doc/plain.rs" holds no CERTIFICATE section"#
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// CA certificates, one of which must have signed the server's certificate. Default none: those
    /// that the system trusts, read once.
    pub ca: Option<Pem>,
    /// Certificate and key of this client, for servers that request one. Default none.
    pub identity: Option<TlsIdentity>,
    /// Name that the server's certificate must be valid for, in which `{service}` stands for the
    /// name of the called service. Default `{service}`. A connection to one address, without a
    /// service, expects the host that was dialled. The registry never has a say in the name.
    pub server_name: Option<String>,
    /// True if nodes whose metadata does not say whether they speak TLS are assumed to. Default
    /// false: they are excluded as `plaintext`. Set it for servers that do not write
    /// [`waypost.tls`](waypost_core::record::keys::TLS), such as those of go-micro, and for
    /// `static://`.
    pub assume_tls: bool,
}

/// TLS settings of a server.
///
/// Files are checked for changes as those of a [`TlsConfig`] are.
///
/// ```
/// use waypost_http::{Pem, ServerTlsConfig, TlsAcceptor, TlsIdentity};
///
/// let identity = TlsIdentity::new(Pem::file("server.pem"), Pem::file("server.key"));
/// let mut config = ServerTlsConfig::new(identity);
/// config.client_ca = Some(Pem::file("clients-ca.pem"));
///
/// let error = TlsAcceptor::new(config).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"the certificate "server.pem" cannot be read: No such file or directory (os error 2)"#
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerTlsConfig {
    /// Certificate and key of the server.
    pub identity: TlsIdentity,
    /// CA certificates, one of which must have signed the client's certificate. Default none:
    /// clients are not asked for a certificate. With it, a client without one is refused.
    pub client_ca: Option<Pem>,
    /// Maximum time of a handshake, after which the connection is closed. Default 5 s.
    pub handshake_timeout: Duration,
}

impl ServerTlsConfig {
    /// Creates settings with this identity, and defaults for the others.
    pub fn new(identity: TlsIdentity) -> Self {
        Self {
            identity,
            client_ca: None,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

/// Content of the files of an identity.
#[derive(PartialEq, Eq)]
pub(super) struct IdentityText {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl TlsIdentity {
    fn reads_files(&self) -> bool {
        self.certificate.is_file() || self.key.is_file()
    }

    fn read(&self) -> Result<IdentityText, TlsError> {
        Ok(IdentityText {
            certificate: self.certificate.read(Part::Certificate)?,
            key: self.key.read(Part::Key)?,
        })
    }

    /// Returns the error of a certificate and a key that rustls refuses together.
    fn refused(&self, error: &rustls::Error) -> TlsError {
        let certificate = self.certificate.describe(Part::Certificate);
        let key = self.key.describe(Part::Key);
        TlsError(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{key} does not fit {certificate}")
            }
            error => format!("{certificate} and {key} cannot be used: {error}"),
        })
    }
}

/// Content of the files of a client's configuration.
#[derive(PartialEq, Eq)]
pub(super) struct ClientText {
    ca: Option<Vec<u8>>,
    identity: Option<IdentityText>,
}

impl Load for TlsConfig {
    type Text = ClientText;
    type Loaded = ClientConfig;

    fn reads_files(&self) -> bool {
        self.ca.as_ref().is_some_and(Pem::is_file)
            || self.identity.as_ref().is_some_and(TlsIdentity::reads_files)
    }

    fn read(&self) -> Result<ClientText, TlsError> {
        let identity = self.identity.as_ref().map(TlsIdentity::read);
        Ok(ClientText {
            ca: self.ca.as_ref().map(|ca| ca.read(Part::Ca)).transpose()?,
            identity: identity.transpose()?,
        })
    }

    fn load(&self, text: &ClientText) -> Result<ClientConfig, TlsError> {
        let roots = match (&self.ca, &text.ca) {
            (Some(pem), Some(text)) => roots(Part::Ca, pem, text)?,
            _ => system_roots()?,
        };
        let builder = versions(ClientConfig::builder_with_provider(provider()))?
            .with_root_certificates(roots);
        let mut config = match (&self.identity, &text.identity) {
            (Some(identity), Some(text)) => {
                let chain =
                    certificates(Part::Certificate, &identity.certificate, &text.certificate)?;
                let key = private_key(&identity.key, &text.key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| identity.refused(&error))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }
}

/// Content of the files of a server's configuration.
#[derive(PartialEq, Eq)]
pub(super) struct ServerText {
    identity: IdentityText,
    client_ca: Option<Vec<u8>>,
}

impl Load for ServerTlsConfig {
    type Text = ServerText;
    type Loaded = ServerConfig;

    fn reads_files(&self) -> bool {
        self.identity.reads_files() || self.client_ca.as_ref().is_some_and(Pem::is_file)
    }

    fn read(&self) -> Result<ServerText, TlsError> {
        let client_ca = self.client_ca.as_ref().map(|ca| ca.read(Part::ClientCa));
        Ok(ServerText {
            identity: self.identity.read()?,
            client_ca: client_ca.transpose()?,
        })
    }

    fn load(&self, text: &ServerText) -> Result<ServerConfig, TlsError> {
        let builder = versions(ServerConfig::builder_with_provider(provider()))?;
        let builder = match (&self.client_ca, &text.client_ca) {
            (Some(pem), Some(text)) => {
                let roots = Arc::new(roots(Part::ClientCa, pem, text)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| {
                        let what = pem.describe(Part::ClientCa);
                        TlsError(format!("{what} cannot be used: {error}"))
                    })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let identity = &self.identity;
        let chain = certificates(
            Part::Certificate,
            &identity.certificate,
            &text.identity.certificate,
        )?;
        let key = private_key(&identity.key, &text.identity.key)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| identity.refused(&error))?;
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Allows TLS 1.2 and 1.3.
fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
    builder
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(format!("TLS 1.2 and 1.3 cannot be used: {error}")))
}

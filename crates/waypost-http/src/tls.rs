//! TLS for connections: rustls with the ring provider, passed explicitly, so that no process-wide
//! default applies.

use std::fmt;
use std::io;
use std::sync::Arc;

use http::uri::Scheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use waypost_core::record::Address;

use crate::conn::connect::{AddressPolicy, BoxIo, Connect, Connecting, dial};

/// Settings of TLS, each part as PEM text.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{Client, ClientConfig, Connect, TlsConfig, TlsConnect};
///
/// let mut config = TlsConfig::default();
/// config.ca = Some(std::fs::read("tests/doc/ca.pem")?);
/// config.server_name = Some("users.internal".to_owned());
/// let connect = TlsConnect::new(&config)?;
/// assert_eq!(connect.scheme().as_str(), "https");
/// # let registry = nodes([]);
/// let client = Client::with_connect(registry, ClientConfig::default(), connect);
///
/// config.ca = Some(b"not PEM".to_vec());
/// assert_eq!(TlsConnect::new(&config).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct TlsConfig {
    /// CA certificates that the server's certificate must be signed by; the system's own if none.
    pub ca: Option<Vec<u8>>,
    /// Client certificate with its chain, and its private key, for servers that request a client
    /// certificate.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Name that the server's certificate must match; the dialled host if none.
    pub server_name: Option<String>,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("own_ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

/// Connector for TCP with TLS 1.2 or 1.3. The server's certificate is verified against its name;
/// the client presents a certificate if an identity is configured.
#[derive(Clone)]
pub struct TlsConnect {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl TlsConnect {
    /// Reads the certificates, without dialling. They are read once: to change them, create another
    /// connector.
    ///
    /// # Errors
    /// Names the part that is not PEM, does not fit the others, or is missing.
    pub fn new(config: &TlsConfig) -> io::Result<Self> {
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_root_certificates(roots(config.ca.as_deref())?);
        let mut tls = match &config.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| wrong("the private key", error))?;
                let chain = certificates("the certificate", chain)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| wrong("the certificate or its key", error))?
            }
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = config
            .server_name
            .clone()
            .map(ServerName::try_from)
            .transpose();
        Ok(Self {
            config: Arc::new(tls),
            server_name: server_name.map_err(|error| wrong("the server name", error))?,
        })
    }

    fn name(&self, address: &Address) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => {
                ServerName::try_from(address.host.clone()).map_err(|error| wrong("the host", error))
            }
        }
    }
}

impl Connect for TlsConnect {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        Box::pin(async move {
            let name = self.name(address)?;
            let stream = dial(address, policy).await?;
            let stream = TlsConnector::from(Arc::clone(&self.config))
                .connect(name, stream)
                .await?;
            Ok(Box::new(stream) as BoxIo)
        })
    }

    fn scheme(&self) -> Scheme {
        Scheme::HTTPS
    }
}

fn roots(ca: Option<&[u8]>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates("the CA", pem)? {
                roots
                    .add(certificate)
                    .map_err(|error| wrong("the CA", error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no CA certificate: give the one that signed the server's",
        ));
    }
    Ok(roots)
}

fn certificates(what: &str, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| wrong(what, error))?;
    if certificates.is_empty() {
        return Err(wrong(what, "it holds no certificate"));
    }
    Ok(certificates)
}

fn wrong(what: &str, why: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{what} cannot be used: {why}"),
    )
}

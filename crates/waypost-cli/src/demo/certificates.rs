//! Certificates of `waypost demo --tls`: an authority of the demo's own, in a temporary directory.
//! Servers and client prove themselves to each other.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use waypost::{Pem, TlsConfig, TlsIdentity};

use super::SERVICE;
use crate::error::CliError;

/// Maximum time of one handshake that reads the served certificate.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// File with the certificate and the key of the servers. One file is replaced by one rename.
const SERVER: &str = "server.pem";
/// File with the certificate and the key of the client.
const CLIENT: &str = "client.pem";
/// File with the certificate of the authority.
const CA: &str = "ca.pem";

/// Certificates of a demo, and their files.
pub(super) struct DemoCertificates {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Serial number of the servers' certificate.
    serial: u64,
    server: CertificateDer<'static>,
    /// Reads the certificate that a server serves.
    probe: TlsConnector,
}

impl DemoCertificates {
    /// Creates the authority, a certificate for the servers and one for the client.
    pub(super) fn create() -> Result<Self, CliError> {
        let folder = TempDir::with_prefix("waypost-demo-tls-")?;
        let (params, key) = (authority()?, KeyPair::generate()?);
        let ca = params.self_signed(&key)?;
        std::fs::write(folder.path().join(CA), ca.pem())?;
        let issuer = Issuer::new(params, key);
        let (client, client_key) = issue(&issuer, "demo", 1)?;
        write(&folder.path().join(CLIENT), &client, &client_key)?;
        let (server, server_key) = issue(&issuer, SERVICE, 1)?;
        write(&folder.path().join(SERVER), &server, &server_key)?;
        Ok(Self {
            probe: probe(&ca, &client, &client_key)?,
            server: server.der().clone(),
            serial: 1,
            folder,
            issuer,
        })
    }

    /// Returns the environment of the servers.
    pub(super) fn server_environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("WAYPOST_SERVER_TLS_CERT", self.path(SERVER)),
            ("WAYPOST_SERVER_TLS_KEY", self.path(SERVER)),
            ("WAYPOST_SERVER_TLS_CLIENT_CA", self.path(CA)),
        ]
    }

    /// Returns the settings of the client.
    pub(super) fn client_tls(&self) -> TlsConfig {
        let file = |name| Pem::file(self.path(name));
        let mut tls = TlsConfig::default();
        tls.ca = Some(file(CA));
        tls.identity = Some(TlsIdentity::new(file(CLIENT), file(CLIENT)));
        tls
    }

    /// Replaces the certificate of the servers by one with the next serial number, which is
    /// returned, and a key of its own.
    pub(super) fn replace(&mut self) -> Result<u64, CliError> {
        self.serial += 1;
        let (server, key) = issue(&self.issuer, SERVICE, self.serial)?;
        let fresh = self.path("server.pem.new");
        write(&fresh, &server, &key)?;
        std::fs::rename(fresh, self.path(SERVER))?;
        self.server = server.der().clone();
        Ok(self.serial)
    }

    /// Handshakes with the server at `address`. Returns true if it serves the latest certificate.
    pub(super) async fn is_served(&self, address: SocketAddr) -> Result<bool, CliError> {
        let name = ServerName::try_from(SERVICE)
            .map_err(|error| CliError::no(format!("no certificate for {SERVICE}: {error}")))?;
        let handshake = async {
            let stream = TcpStream::connect(address).await?;
            self.probe.connect(name, stream).await
        };
        let late = |_| {
            CliError::no(format!(
                "no TLS handshake with {address} within {HANDSHAKE:?}"
            ))
        };
        let stream = timeout(HANDSHAKE, handshake).await.map_err(late)??;
        let (_, session) = stream.get_ref();
        let served = session.peer_certificates().and_then(|chain| chain.first());
        Ok(served == Some(&self.server))
    }

    /// Removes the files.
    pub(super) fn remove(self) -> Result<(), CliError> {
        Ok(self.folder.close()?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn authority() -> Result<CertificateParams, CliError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "waypost demo");
    Ok(params)
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    serial: u64,
) -> Result<(Certificate, KeyPair), CliError> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate, key))
}

/// Writes a certificate and its key to a new file that only this user can read.
fn write(path: &Path, certificate: &Certificate, key: &KeyPair) -> Result<(), CliError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(certificate.pem().as_bytes())?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(file.sync_all()?)
}

fn probe(ca: &Certificate, client: &Certificate, key: &KeyPair) -> Result<TlsConnector, CliError> {
    let refused = |error: rustls::Error| CliError::no(format!("TLS of the demo: {error}"));
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).map_err(refused)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.der().clone()], key.into())
        .map_err(refused)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

impl From<rcgen::Error> for CliError {
    fn from(error: rcgen::Error) -> Self {
        Self::no(format!("no certificate for the demo: {error}"))
    }
}

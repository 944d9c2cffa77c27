//! Certificate authority of one test, with certificates issued on demand.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

use crate::Failure;

/// Certificate authority whose files are removed when it is dropped. Two authorities do not trust
/// each other.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and private key, as PEM files in the directory of the [`Authority`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Path of the certificate.
    pub certificate: PathBuf,
    /// Path of its private key, in PKCS#8.
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn new() -> Result<Self, Failure> {
        made("authority", || {
            let dir = TempDir::new()?;
            let (params, key) = (authority_params()?, KeyPair::generate()?);
            std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
            Ok(Self {
                dir,
                issuer: Issuer::new(params, key),
            })
        })
    }

    /// Returns the path of the authority's own certificate, for peers that are to trust it.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Issues a certificate for a server with these names and IP addresses.
    ///
    /// # Errors
    /// A name is invalid, or the files cannot be written.
    pub fn server(&self, names: &[&str]) -> Result<Identity, Failure> {
        self.identity("server", names, |_| {})
    }

    /// Issues a certificate for a server as [`server`](Self::server) does, that expired years ago.
    ///
    /// # Errors
    /// A name is invalid, or the files cannot be written.
    pub fn expired(&self, names: &[&str]) -> Result<Identity, Failure> {
        self.identity("expired", names, |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        })
    }

    /// Issues a certificate for a client with this common name, which is the user if etcd requires
    /// client certificates.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client(&self, common_name: &str) -> Result<Identity, Failure> {
        self.identity(common_name, &[], |_| {})
    }

    fn identity(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Identity, Failure> {
        made(common_name, || {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names)?;
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            change(&mut params);
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            let dir = fresh(self.dir.path(), common_name)?;
            let identity = Identity {
                certificate: dir.join("cert.pem"),
                key: dir.join("key.pem"),
            };
            std::fs::write(&identity.certificate, certificate.pem())?;
            std::fs::write(&identity.key, key.serialize_pem())?;
            Ok(identity)
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.dir.path())
            .finish_non_exhaustive()
    }
}

fn authority_params() -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
        .distinguished_name
        .push(DnType::CommonName, "Waypost test authority");
    Ok(params)
}

/// Creates a directory for one identity; several identities may have the same name.
fn fresh(dir: &Path, name: &str) -> io::Result<PathBuf> {
    Ok(tempfile::Builder::new()
        .prefix(name)
        .tempdir_in(dir)?
        .keep())
}

fn made<T>(
    what: &str,
    make: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
) -> Result<T, Failure> {
    make().map_err(|error| Failure::new(format!("no certificate for {what}: {error}")))
}

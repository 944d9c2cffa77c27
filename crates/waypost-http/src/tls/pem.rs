//! Sources of certificates and keys, and the errors of reading them. No error and no `Debug` shows
//! a part of a private key.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Maximum size of a file, in bytes: several times that of a distribution's whole CA bundle.
const MAX_FILE: u64 = 4 << 20;

/// PEM text of certificates or of a private key: the path of a file, or bytes.
///
/// A file is read again when it changes; see [`TlsConfig`](crate::TlsConfig). Bytes never change.
///
/// ```
/// use waypost_http::Pem;
///
/// let ca = Pem::file("/etc/tls/ca.pem");
/// assert_eq!(format!("{ca:?}"), r#"Pem("/etc/tls/ca.pem")"#);
///
/// // Bytes may be a private key, and are never shown.
/// let key = Pem::bytes("-----BEGIN PRIVATE KEY-----…");
/// assert_eq!(format!("{key:?}"), "Pem(bytes)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Pem {
    /// Creates the source of the file at `path`, which is read when the configuration is used, and
    /// again when it has changed.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// Creates the source of this PEM text.
    pub fn bytes(pem: impl Into<Vec<u8>>) -> Self {
        Self(Source::Bytes(pem.into().into()))
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.0, Source::File(_))
    }

    /// Reads the whole text. Blocks for the time of reading a small file.
    pub(super) fn read(&self, part: Part) -> Result<Vec<u8>, TlsError> {
        match &self.0 {
            Source::Bytes(bytes) => Ok(bytes.to_vec()),
            Source::File(path) => read_file(path).map_err(|error| {
                TlsError(format!("{} cannot be read: {error}", self.describe(part)))
            }),
        }
    }

    /// Returns the part and its source, for errors.
    pub(super) fn describe(&self, part: Part) -> String {
        match &self.0 {
            Source::File(path) => format!("the {part} {:?}", path.display().to_string()),
            Source::Bytes(_) => format!("the {part}, given as bytes,"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File(path) => f.debug_tuple("Pem").field(path).finish(),
            Source::Bytes(_) => f.write_str("Pem(bytes)"),
        }
    }
}

/// Reads a regular file. Opening a pipe could block for ever.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it exceeds {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Error of a TLS configuration: a file that cannot be read, text that is not PEM, a key that does
/// not fit its certificate, or an invalid server name. The text names the part and its file, and
/// never shows a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(super) String);

/// Part of a configuration, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Ca,
    ClientCa,
    Certificate,
    Key,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "CA certificate",
            Self::ClientCa => "CA certificate of the clients",
            Self::Certificate => "certificate",
            Self::Key => "private key",
        })
    }
}

/// Parses all certificates in `text`, the content of `pem`.
pub(super) fn certificates(
    part: Part,
    pem: &Pem,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = certificates.map_err(|error| not_pem(part, pem, &error))?;
    if certificates.is_empty() {
        let what = pem.describe(part);
        return Err(TlsError(format!("{what} holds no CERTIFICATE section")));
    }
    Ok(certificates)
}

/// Parses the private key in `text`, the content of `pem`.
pub(super) fn private_key(pem: &Pem, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            let what = pem.describe(Part::Key);
            TlsError(format!("{what} holds no PRIVATE KEY section"))
        }
        error => not_pem(Part::Key, pem, &error),
    })
}

/// Returns the roots in `text`, the content of `pem`.
pub(super) fn roots(part: Part, pem: &Pem, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(part, pem, text)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError(format!("{} cannot be used: {error}", pem.describe(part))))?;
    }
    Ok(roots)
}

/// Returns the roots that the system trusts.
pub(super) fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let why = "this system trusts no CA certificate; configure the one that signs the servers' certificates";
        return Err(TlsError(why.to_owned()));
    }
    Ok(roots)
}

/// Returns the error of a text that is not PEM. The parser's own text may repeat a line of the file.
fn not_pem(part: Part, pem: &Pem, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::SectionTooLarge => "a section is too large",
        _ => "a section does not start with a BEGIN line",
    };
    TlsError(format!("{} is not PEM: {why}", pem.describe(part)))
}

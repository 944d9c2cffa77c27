//! Errors of handshakes, in terms of what to configure.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

const CA: &str = "TlsConfig::ca (--client-tls-ca, WAYPOST_CLIENT_TLS_CA)";
const IDENTITY: &str = "TlsConfig::identity (--client-tls-cert and --client-tls-key, WAYPOST_CLIENT_TLS_CERT and WAYPOST_CLIENT_TLS_KEY)";
const SERVER_NAME: &str =
    "TlsConfig::server_name (--client-tls-server-name, WAYPOST_CLIENT_TLS_SERVER_NAME)";
const PLAIN: &str = "call it without TLS, or serve TLS there: ServerBuilder::tls (--server-tls-cert and --server-tls-key)";

/// Returns the error of a client with its meaning and a remedy.
pub(super) fn client_error(error: io::Error, has_identity: bool) -> io::Error {
    let kind = error.kind();
    let explained = match tls_error(&error) {
        Some(error) => client_text(error, has_identity),
        None if is_end(kind) => Some(format!(
            "the server closed the connection during the TLS handshake; if it does not speak TLS: {PLAIN}"
        )),
        None => None,
    };
    explained.map_or(error, |text| io::Error::new(kind, text))
}

fn client_text(error: &Error, has_identity: bool) -> Option<String> {
    Some(match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("the server does not speak TLS; {PLAIN}")
        }
        Error::InvalidCertificate(error) => certificate_text(error),
        Error::AlertReceived(alert) => alert_text(*alert, has_identity)?,
        _ => return None,
    })
}

fn certificate_text(error: &CertificateError) -> String {
    match error {
        // A CA that was replaced by one of the same name fails by its signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the server's certificate is signed by none of the trusted CAs; to trust the one that signed it, set {CA}"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; replace it on the server".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; compare the clocks of both hosts".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "the server's certificate is valid for {}, not for {:?}; issue one for this name, or set {SERVER_NAME}",
            names(presented),
            expected.to_str(),
        ),
        error => format!("the server's certificate is refused: {error}"),
    }
}

/// Returns the names in a certificate, at most five.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 5;
    // rustls names the kind too: `DnsName("users")`.
    let bare = |name: &String| match name.split_once('(') {
        Some((_, name)) => name.trim_end_matches(')').to_owned(),
        None => name.clone(),
    };
    let shown: Vec<_> = presented.iter().take(SHOWN).map(bare).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        1..=SHOWN => shown.join(", "),
        all => format!("{} and {} more", shown.join(", "), all - SHOWN),
    }
}

fn alert_text(alert: AlertDescription, has_identity: bool) -> Option<String> {
    Some(match alert {
        AlertDescription::CertificateRequired => {
            format!("the server requires a client certificate; set {IDENTITY}")
        }
        // TLS 1.2 has no alert of its own for a missing certificate.
        AlertDescription::HandshakeFailure | AlertDescription::BadCertificate if !has_identity => {
            format!(
                "the server refuses the handshake ({alert:?}); if it requires a client certificate, set {IDENTITY}"
            )
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
            if has_identity =>
        {
            format!(
                "the server refuses the client certificate ({alert:?}); set another with {IDENTITY}"
            )
        }
        AlertDescription::NoApplicationProtocol => {
            "the server does not offer HTTP/2 over TLS (ALPN h2)".to_owned()
        }
        _ => return None,
    })
}

/// Returns the meaning of a handshake's error on the server.
pub(super) fn server_text(error: &io::Error) -> String {
    match tls_error(error) {
        Some(Error::NoCertificatesPresented) => "the client presents no certificate".to_owned(),
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "the client's certificate is signed by none of the trusted CAs".to_owned(),
        Some(Error::InvalidCertificate(error)) => {
            format!("the client's certificate is refused: {error}")
        }
        Some(Error::AlertReceived(alert)) => {
            format!("the client refuses this server's certificate or settings ({alert:?})")
        }
        _ => error.to_string(),
    }
}

/// Returns true if the peer's first bytes are not a TLS record.
pub(super) fn is_plaintext(error: &io::Error) -> bool {
    matches!(
        tls_error(error),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType))
    )
}

/// Returns true if the peer ended the connection.
pub(super) fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

//! TLS of a client.

use waypost_http::{TlsConfig, TlsConnect, TlsError};

use super::ClientBuilder;

impl ClientBuilder {
    /// Connects over TLS. Nodes whose metadata does not say that they speak TLS
    /// ([`waypost.tls`](waypost_core::record::keys::TLS)) are excluded as `plaintext`, unless
    /// [`assume_tls`](TlsConfig::assume_tls) is set.
    ///
    /// The name that a node's certificate must be valid for is that of the called service, or the
    /// configured [`server_name`](TlsConfig::server_name); never one that the registry gives. The
    /// files are read here, and again when they change.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/greeter.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_tonic::Client;
    /// use waypost_http::{Pem, TlsConfig};
    ///
    /// let mut tls = TlsConfig::default();
    /// tls.server_name = Some("{service}.internal".to_owned());
    /// tls.ca = Some(Pem::file("ca.pem"));
    /// # let registry = registry();
    /// // The file does not exist.
    /// let error = Client::builder(registry).tls(tls).unwrap_err();
    /// assert!(error.to_string().starts_with(r#"the CA certificate "ca.pem" cannot be read"#));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`TlsError`] names the part that cannot be used.
    pub fn tls(mut self, config: TlsConfig) -> Result<Self, TlsError> {
        self.tls = Some(TlsConnect::new(config)?);
        Ok(self)
    }

    /// Returns the current TLS settings; none if the client does not use TLS.
    pub fn tls_config(&self) -> Option<&TlsConfig> {
        self.tls.as_ref().map(TlsConnect::config)
    }
}

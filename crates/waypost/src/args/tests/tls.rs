//! Settings of TLS: precedence of each by itself, and their errors.

use insta::assert_snapshot;
use waypost_testkit::etcd::Authority;

use super::super::environment::Environment;
use super::parsed;
use crate::registry::Result;
use crate::server::ServerBuilder;
use crate::{
    Client, ClientBuilder, MemoryRegistry, Pem, Server, ServerTlsConfig, TlsConfig, TlsIdentity,
};

fn server(flags: &[&str], variables: &[(&'static str, &str)]) -> Result<ServerBuilder> {
    let server = Server::builder("greeter", MemoryRegistry::new());
    parsed(flags)
        .server
        .apply_in(server, &Environment::of(variables))
}

fn client(
    code: Option<TlsConfig>,
    flags: &[&str],
    variables: &[(&'static str, &str)],
) -> Result<ClientBuilder> {
    let client = Client::builder(MemoryRegistry::new());
    let client = match code {
        Some(tls) => client.tls(tls).unwrap(),
        None => client,
    };
    parsed(flags)
        .client
        .apply_in(client, &Environment::of(variables))
}

fn identity(cert: &str, key: &str) -> TlsIdentity {
    TlsIdentity::new(Pem::file(cert), Pem::file(key))
}

#[test]
fn without_flags_and_variables_nothing_speaks_tls() {
    assert_eq!(server(&[], &[]).unwrap().tls_config(), None);
    assert_eq!(client(None, &[], &[]).unwrap().tls_config(), None);
}

#[test]
fn each_setting_of_a_server_has_its_own_precedence() {
    let variables = [
        ("WAYPOST_SERVER_TLS_CERT", "variable.pem"),
        ("WAYPOST_SERVER_TLS_KEY", "variable.key"),
    ];
    let given = server(&["--server-tls-cert", "flag.pem"], &variables).unwrap();
    let mut expected = ServerTlsConfig::new(identity("flag.pem", "variable.key"));
    assert_eq!(given.tls_config(), Some(&expected));

    let code = Server::builder("greeter", MemoryRegistry::new());
    let code = code.tls(ServerTlsConfig::new(identity("code.pem", "code.key")));
    let flags = ["--server-tls-client-ca", "flag-ca.pem"];
    let environment = Environment::of(&variables[1..]);
    let merged = parsed(&flags).server.apply_in(code, &environment).unwrap();
    expected.identity = identity("code.pem", "variable.key");
    expected.client_ca = Some(Pem::file("flag-ca.pem"));
    assert_eq!(merged.tls_config(), Some(&expected));
}

#[test]
fn each_setting_of_a_client_has_its_own_precedence() {
    let (a, b) = (Authority::new().unwrap(), Authority::new().unwrap());
    let issued = a.client("app").unwrap();
    let path = |path: &std::path::Path| path.display().to_string();
    let (a, b) = (path(&a.certificate()), path(&b.certificate()));
    let (cert, key) = (path(&issued.certificate), path(&issued.key));

    let mut code = TlsConfig::default();
    code.ca = Some(Pem::file(&a));
    code.server_name = Some("code".to_owned());
    let flags = ["--client-tls-ca", &b, "--client-tls-key", &key];
    let variables = [
        ("WAYPOST_CLIENT_TLS_CA", a.as_str()),
        ("WAYPOST_CLIENT_TLS_CERT", &cert),
        ("WAYPOST_CLIENT_TLS_ASSUME", "true"),
    ];
    let given = client(Some(code.clone()), &flags, &variables).unwrap();
    let mut expected = code.clone();
    expected.ca = Some(Pem::file(&b));
    expected.identity = Some(identity(&cert, &key));
    expected.assume_tls = true;
    assert_eq!(given.tls_config(), Some(&expected));

    let flags = ["--client-tls-server-name", "{service}.flag"];
    let variables = [("WAYPOST_CLIENT_TLS_SERVER_NAME", "variable")];
    let given = client(Some(code.clone()), &flags, &variables).unwrap();
    code.server_name = Some("{service}.flag".to_owned());
    assert_eq!(given.tls_config(), Some(&code));
}

#[test]
fn the_roots_of_the_system_have_a_name() {
    let authority = Authority::new().unwrap();
    let mut code = TlsConfig::default();
    code.ca = Some(Pem::file(authority.certificate()));
    // A machine may trust no CA at all, and then the error says so.
    match client(Some(code), &["--client-tls-ca", "system"], &[]) {
        Ok(client) => assert_eq!(client.tls_config(), Some(&TlsConfig::default())),
        Err(error) => {
            assert_snapshot!(error, @"--client-tls-ca: TLS: this system trusts no CA certificate; configure the one that signs the servers' certificates");
        }
    }
}

#[test]
fn what_does_not_fit_is_reported_with_its_source() {
    let refused = |flags: &[&str], variables: &[(&'static str, &str)]| {
        let server = server(flags, variables).map(drop);
        let client = client(None, flags, variables).map(drop);
        server.and(client).unwrap_err().to_string()
    };
    assert_snapshot!(refused(&["--server-tls-cert", "a.pem"], &[]), @"--server-tls-cert: needs another setting: give --server-tls-key or WAYPOST_SERVER_TLS_KEY too");
    assert_snapshot!(refused(&[], &[("WAYPOST_SERVER_TLS_KEY", "a.key")]), @"WAYPOST_SERVER_TLS_KEY: needs another setting: give --server-tls-cert or WAYPOST_SERVER_TLS_CERT too");
    assert_snapshot!(refused(&["--server-tls-client-ca", "ca.pem"], &[]), @"--server-tls-client-ca: needs another setting: give --server-tls-cert or WAYPOST_SERVER_TLS_CERT too");
    assert_snapshot!(refused(&["--client-tls-cert", "a.pem"], &[]), @"--client-tls-cert: needs another setting: give --client-tls-key or WAYPOST_CLIENT_TLS_KEY too");
    assert_snapshot!(refused(&["--client-tls-ca", "/nowhere/ca.pem"], &[]), @r#"--client-tls-ca: TLS: the CA certificate "/nowhere/ca.pem" cannot be read: No such file or directory (os error 2)"#);
    assert_snapshot!(refused(&[], &[("WAYPOST_CLIENT_TLS_ASSUME", "yes")]), @r#"WAYPOST_CLIENT_TLS_ASSUME "yes": must be true or false"#);
    assert_snapshot!(refused(&["--client-tls-server-name", "a b"], &[]), @r#"--client-tls-server-name: TLS: the server name "a b" is neither a DNS name nor an IP address; {service} in it is replaced by the service's name"#);
}

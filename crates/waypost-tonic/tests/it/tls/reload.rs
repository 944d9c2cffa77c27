//! Certificates that are replaced while a client calls: in place, by a rename, and by a symlink, as
//! kubelet does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::GreeterServer;
use waypost_http::{Pem, ServerTlsConfig, TlsIdentity};
use waypost_testkit::etcd::{Authority, Identity};
use waypost_tonic::{Channel, Server, ServerHandle};

use super::log::Log;
use super::support::{
    DEADLINE, certificate, channel, client_tls, eventually, hello, served, server_tls,
};
use crate::support::{Service, Town, serving};

/// Directory with the files `tls.crt`, `tls.key` and `ca.crt`, which are replaced.
struct Mounted {
    folder: TempDir,
    versions: u32,
}

/// Way to replace the files.
#[derive(Clone, Copy, Debug)]
enum Way {
    InPlace,
    Rename,
    /// `tls.crt` links to `..data/tls.crt`, and `..data` to a directory, and is renamed over.
    Symlink,
}

impl Mounted {
    fn new(identity: &Identity, authority: &Authority) -> Self {
        let mut mounted = Self {
            folder: TempDir::new().unwrap(),
            versions: 0,
        };
        mounted.link(identity, authority);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let link = Path::new("..data").join(name);
            std::os::unix::fs::symlink(link, mounted.path(name)).unwrap();
        }
        mounted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identity(&self) -> TlsIdentity {
        TlsIdentity::new(
            Pem::file(self.path("tls.crt")),
            Pem::file(self.path("tls.key")),
        )
    }

    fn replace(&mut self, way: Way, identity: &Identity, authority: &Authority) {
        let files = [
            ("tls.crt", identity.certificate.clone()),
            ("tls.key", identity.key.clone()),
            ("ca.crt", authority.certificate()),
        ];
        match way {
            Way::Symlink => self.link(identity, authority),
            Way::InPlace => {
                for (name, from) in files {
                    std::fs::write(self.path(name), std::fs::read(from).unwrap()).unwrap();
                }
            }
            Way::Rename => {
                for (name, from) in files {
                    let fresh = self.path("fresh");
                    std::fs::copy(from, &fresh).unwrap();
                    std::fs::rename(fresh, self.path(name)).unwrap();
                }
            }
        }
    }

    fn link(&mut self, identity: &Identity, authority: &Authority) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        std::fs::create_dir(self.path(&version)).unwrap();
        let copy = |from: &Path, name| {
            std::fs::copy(from, self.path(&version).join(name)).unwrap();
        };
        copy(&identity.certificate, "tls.crt");
        copy(&identity.key, "tls.key");
        copy(&authority.certificate(), "ca.crt");
        std::os::unix::fs::symlink(&version, self.path("..data-new")).unwrap();
        std::fs::rename(self.path("..data-new"), self.path("..data")).unwrap();
    }
}

/// Starts a call that the server answers after `ms`.
fn slow_call(channel: &Channel, ms: u64) -> tokio::task::JoinHandle<Result<(), tonic::Status>> {
    let mut greeter = GreeterClient::new(channel.clone());
    let request = HelloRequest {
        name: format!("sleep {ms}"),
    };
    tokio::spawn(async move { greeter.hello(request).await.map(drop) })
}

#[tokio::test]
async fn a_server_serves_the_new_certificate_however_it_was_replaced_and_cuts_no_call() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let issue = || authority.server(&["greeter"]).unwrap();
    let mut mounted = Mounted::new(&issue(), &authority);
    let peers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&peers);
    let intercept = move |request: tonic::Request<()>| {
        seen.lock().unwrap().insert(request.remote_addr());
        Ok(request)
    };
    let service = GreeterServer::with_interceptor(Service::default(), intercept);
    let builder = Server::builder("greeter", town.registry()).add_service(service);
    let server = serving(builder.tls(ServerTlsConfig::new(mounted.identity()))).await;
    let channel = channel(town.registry(), client_tls(&authority));
    hello(&channel).await.unwrap();
    // The links last until a rename replaces them.
    for way in [
        Way::Symlink,
        Way::InPlace,
        Way::Symlink,
        Way::Rename,
        Way::InPlace,
    ] {
        let call = slow_call(&channel, 2_500);
        let fresh = issue();
        mounted.replace(way, &fresh, &authority);
        let new = certificate(&fresh.certificate);
        let took = eventually("new certificate", async || {
            served(&server, &authority).await == new
        })
        .await;
        assert!(took < Duration::from_secs(2), "{way:?}: {took:?}");
        call.await.unwrap().unwrap();
        hello(&channel).await.unwrap();
    }
    assert_eq!(
        peers.lock().unwrap().len(),
        1,
        "all calls used the first connection"
    );
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_certificate_and_is_logged_once() {
    let log = Log::capture();
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let old = authority.server(&["greeter"]).unwrap();
    let mut mounted = Mounted::new(&old, &authority);
    let (builder, _) = town.builder("a");
    let server = serving(builder.tls(ServerTlsConfig::new(mounted.identity()))).await;
    let half = &std::fs::read_to_string(&old.certificate).unwrap()[..200];
    std::fs::write(mounted.path("tls.crt"), half).unwrap();
    log.take();
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_millis(3_500) {
        let served = served(&server, &authority).await;
        assert_eq!(served, certificate(&old.certificate));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let shown = |line: String| line.replace(&mounted.folder.path().display().to_string(), "DIR");
    let lines: Vec<_> = log.take().into_iter().map(shown).collect();
    assert_eq!(
        lines,
        [
            r#"WARN changed TLS files cannot be used; keeping the previous ones error=the certificate "DIR/tls.crt" is not PEM: a section has no END line"#
        ]
    );

    let fresh = authority.server(&["greeter"]).unwrap();
    mounted.replace(Way::Rename, &fresh, &authority);
    let new = certificate(&fresh.certificate);
    eventually("new certificate", async || {
        served(&server, &authority).await == new
    })
    .await;
    assert_eq!(log.take(), ["INFO TLS certificates reloaded"]);
}

/// Starts a server that requires certificates of clients, and records the last one.
async fn demanding(
    town: &Town,
    name: &str,
    authority: &Authority,
) -> (ServerHandle, Arc<Mutex<Option<CertificateDer<'static>>>>) {
    let mut tls = server_tls(authority);
    tls.client_ca = Some(Pem::file(authority.certificate()));
    let seen = Arc::new(Mutex::new(None));
    let seen_by = Arc::clone(&seen);
    let intercept = move |request: tonic::Request<()>| {
        *seen_by.lock().unwrap() = Some(request.peer_certs().unwrap()[0].clone());
        Ok(request)
    };
    let service = Service {
        name: name.to_owned(),
        ..Service::default()
    };
    let server = Server::builder("greeter", town.registry())
        .id(name)
        .tls(tls);
    let service = GreeterServer::with_interceptor(service, intercept);
    (serving(server.add_service(service)).await, seen)
}

#[tokio::test]
async fn a_client_presents_its_new_certificate_on_new_connections_and_keeps_the_old_ones() {
    let (town, authority) = (Town::new(), Authority::new().unwrap());
    let old = authority.client("app").unwrap();
    let mut mounted = Mounted::new(&old, &authority);
    let mut tls = client_tls(&authority);
    tls.identity = Some(mounted.identity());
    let channel = channel(town.registry(), tls);
    let (_a, seen_by_a) = demanding(&town, "a", &authority).await;
    hello(&channel).await.unwrap();
    let mut servers = Vec::new();

    for (way, name) in [(Way::Symlink, "b"), (Way::InPlace, "c"), (Way::Rename, "d")] {
        let call = slow_call(&channel, 2_000);
        let fresh = authority.client("app").unwrap();
        mounted.replace(way, &fresh, &authority);
        // The next check is due by then.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let (server, seen) = demanding(&town, name, &authority).await;
        servers.push(server);
        eventually("a call to the new node", async || {
            hello(&channel).await.unwrap() == name
        })
        .await;
        assert_eq!(
            seen.lock().unwrap().take(),
            Some(certificate(&fresh.certificate)),
            "{way:?}"
        );
        call.await.unwrap().unwrap();
        eventually("a call to the first node", async || {
            hello(&channel).await.unwrap() == "a"
        })
        .await;
        assert_eq!(
            seen_by_a.lock().unwrap().take(),
            Some(certificate(&old.certificate))
        );
    }
}

#[tokio::test]
async fn a_client_trusts_the_new_ca_without_a_restart() {
    let (town, ours, theirs) = (
        Town::new(),
        Authority::new().unwrap(),
        Authority::new().unwrap(),
    );
    let mut mounted = Mounted::new(&ours.client("app").unwrap(), &ours);
    let mut tls = client_tls(&ours);
    tls.ca = Some(Pem::file(mounted.path("ca.crt")));
    let channel = channel(town.registry(), tls);
    let _server = serving(town.builder("a").0.tls(server_tls(&theirs))).await;
    let error = hello(&channel).await.unwrap_err();
    assert!(
        error.message().contains("none of the trusted CAs"),
        "{error}"
    );
    mounted.replace(Way::Symlink, &theirs.client("app").unwrap(), &theirs);
    channel.ready(DEADLINE).await.unwrap();
    assert_eq!(hello(&channel).await.unwrap(), "a");
}

//! Authentication with passwords and certificates.

use waypost_core::registry::{AnyRegistry, Error, Registry};
use waypost_testkit::etcd::{Etcd, Options};

use super::SECRET;
use super::rig::{TTL, each, service, url};

pub(crate) const PREFIX: &str = "/micro/registry/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_password_is_denied() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(SECRET), PREFIX)
            .await
            .unwrap();
        let anonymous = super::open(&format!("etcd://{}", etcd.addresses()[0]));
        let refused = anonymous.list_services().await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    })
    .await;
}

/// Returns a URL with a user and a password; without them if a certificate names the user.
pub(crate) fn tls_url(etcd: &Etcd, options: &str) -> String {
    let ca = etcd.authority().unwrap().certificate();
    let user = if options.contains("cert=") {
        String::new()
    } else {
        format!("waypost:{SECRET}@")
    };
    format!(
        "etcds://{user}{}?ca={}{options}",
        etcd.addresses()[0],
        ca.display()
    )
}

async fn registers(url: &str) {
    let registry = AnyRegistry::new(super::open(url));
    let options = waypost_core::registry::RegisterOptions {
        ttl: TTL,
        instance: waypost_core::registry::Instance::random(),
    };
    registry
        .register(&service("1", "10.0.0.1:1"), &options)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(
        registry.get_service("greeter").await.unwrap()[0]
            .nodes
            .len(),
        1
    );
    let mut watcher = registry
        .watch(&waypost_core::registry::WatchOptions::all())
        .await
        .unwrap();
    watcher.next().await.unwrap().unwrap();
    registry.close().await.unwrap();
}

async fn refused(url: &str) -> String {
    let error = super::open(url).list_services().await.unwrap_err();
    super::capture_error(&error);
    error.chain()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_verifies_the_member() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one().tls()).await.unwrap();
        registers(&tls_url(&etcd, "")).await;
        registers(&tls_url(&etcd, "&server_name=localhost")).await;
        let stranger = waypost_testkit::etcd::Authority::new().unwrap();
        let untrusted = format!(
            "etcds://waypost:{SECRET}@{}?ca={}",
            etcd.addresses()[0],
            stranger.certificate().display()
        );
        let untrusted = refused(&untrusted).await;
        assert!(
            untrusted.contains("invalid peer certificate") && untrusted.contains("ca="),
            "{untrusted}"
        );
        let misnamed = refused(&tls_url(&etcd, "&server_name=other.example")).await;
        assert!(misnamed.contains("other.example"), "{misnamed}");
        let plain = refused(&url(&etcd.addresses())).await;
        assert!(plain.contains("etcds://"), "the remedy is missing: {plain}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_names_the_user() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one().mutual_tls())
            .await
            .unwrap();
        let certificates = |name: &str| {
            let identity = etcd.authority().unwrap().client(name).unwrap();
            format!(
                "&cert={}&key={}",
                identity.certificate.display(),
                identity.key.display()
            )
        };
        let (app, other) = (
            tls_url(&etcd, &certificates("app")),
            tls_url(&etcd, &certificates("other")),
        );
        let without_certificate = refused(&tls_url(&etcd, "")).await;
        assert!(
            without_certificate.contains("cert="),
            "the remedy is missing: {without_certificate}"
        );
        registers(&app).await;
        etcd.enable_auth("app", None, PREFIX).await.unwrap();
        registers(&app).await;
        let denied = super::open(&other).list_services().await;
        assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    })
    .await;
}

//! Who may: passwords, tokens, permissions, certificates.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registrar::State;
use waypost_core::registry::{AnyRegistry, Error, Registry};
use waypost_testkit::etcd::{Data, Etcd, Options};

use super::SECRET;
use super::rig::{INTERVAL, Rig, Server, TTL, each, key, service, url};

const PREFIX: &str = "/micro/registry/";

async fn with_users(binary: &waypost_testkit::etcd::Binary, options: &Options) -> Rig {
    let mut etcd = Etcd::start(binary, options).await.unwrap();
    etcd.enable_auth("waypost", Some(SECRET), PREFIX).await.unwrap();
    let at = url(&etcd.addresses());
    Rig::on(etcd, &at, &at, 2).await
}

/// What the rig asks of etcd by hand needs a user too.
async fn stands(etcd: &Etcd, id: &str) -> bool {
    let key = String::from_utf8(super::path(&key(id))).unwrap();
    etcd.get(&key).await.unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_run_out_after_4_s() {
    each(async |binary| {
        let options = Options::one().signed_tokens(Duration::from_secs(4));
        let mut rig = with_users(&binary, &options).await;
        sleep(Duration::from_secs(9)).await;
        // Tokens of everything there is have run out twice; writes and watches go on.
        rig.servers[0].registration.set_metadata("zone", "a").unwrap();
        let zoned = |entry: &waypost_core::record::Entry| entry.node.metadata.contains_key("zone");
        rig.until_seen("the change", |snapshot| snapshot.confirmed.iter().any(zoned)).await;
        let late = Server::start(&url(&rig.etcd.addresses()), "late").await;
        rig.until_seen("a third", |snapshot| snapshot.confirmed.len() == 3).await;
        late.close().await;
        rig.until_right().await;
        rig.never_suspected_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_with_users_and_tokens_lost() {
    each(async |binary| {
        let mut rig = with_users(&binary, &Options::one()).await;
        rig.etcd.restart(Data::Kept).await.unwrap();
        let begun = Instant::now();
        rig.servers[0].registration.set_metadata("zone", "a").unwrap();
        let zoned = |entry: &waypost_core::record::Entry| entry.node.metadata.contains_key("zone");
        rig.until_seen("the change", |snapshot| snapshot.confirmed.iter().any(zoned)).await;
        println!("etcd {}: restarted, tokens lost: a change is seen after {:?}", binary.version(), begun.elapsed());
        rig.never_suspected_one();
        rig.until_right().await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_rotated() {
    each(async |binary| {
        let mut rig = with_users(&binary, &Options::one()).await;
        let at = url(&rig.etcd.addresses());
        rig.etcd.set_password("waypost", "another").await.unwrap();
        let refused = super::open(&at).list_services().await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
        super::assert_secret_is_not_in(&format!("{refused:?}"));
        let late = Server::begin(&at, "late");
        late.until("it says why", |state| matches!(state, State::Failing { why, .. } if why.contains("refused"))).await;
        rig.etcd.set_password("waypost", SECRET).await.unwrap();
        let begun = Instant::now();
        late.until("it is in", State::is_registered).await;
        println!("etcd {}: password given back: registered after {:?}", binary.version(), begun.elapsed());
        late.close().await;
        // Those who were there have lost their tokens, and nothing else.
        sleep(INTERVAL * 2).await;
        for number in ["0", "1"] {
            assert!(stands(&rig.etcd, number).await);
        }
        rig.until_right().await;
        rig.never_lost_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permission_revoked_and_given_back() {
    each(async |binary| {
        let mut rig = with_users(&binary, &Options::one()).await;
        rig.etcd.forbid("waypost", PREFIX).await.unwrap();
        rig.servers[0].registration.set_metadata("zone", "a").unwrap();
        rig.servers[0].until("it says why", |state| matches!(state, State::Failing { why, .. } if why.contains("refused"))).await;
        sleep(TTL).await;
        rig.never_lost_one();
        rig.etcd.allow("waypost", PREFIX).await.unwrap();
        let begun = Instant::now();
        rig.servers[0].until("it is in", State::is_registered).await;
        let zoned = |entry: &waypost_core::record::Entry| entry.node.metadata.contains_key("zone");
        rig.until_seen("the change", |snapshot| snapshot.confirmed.iter().any(zoned)).await;
        println!("etcd {}: permission given back: well after {:?}", binary.version(), begun.elapsed());
        rig.until_right().await;
        rig.never_lost_one();
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_a_password() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(SECRET), PREFIX).await.unwrap();
        let anonymous = super::open(&format!("etcd://{}", etcd.addresses()[0]));
        let refused = anonymous.list_services().await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    })
    .await;
}

fn tls_url(etcd: &Etcd, rest: &str) -> String {
    let ca = etcd.authority().unwrap().certificate();
    format!("etcds://{}?ca={}{rest}", etcd.addresses()[0], ca.display())
}

async fn registers(url: &str) {
    let registry = AnyRegistry::new(super::open(url));
    let options = waypost_core::registry::RegisterOptions { ttl: TTL, instance: waypost_core::registry::Instance::random() };
    registry.register(&service("1", "10.0.0.1:1"), &options).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(registry.get_service("greeter").await.unwrap()[0].nodes.len(), 1);
    let mut watcher = registry.watch(&waypost_core::registry::WatchOptions::all()).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    registry.close().await.unwrap();
}

async fn refused(url: &str) -> String {
    super::open(url).list_services().await.unwrap_err().chain()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_proves_the_member() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one().tls()).await.unwrap();
        registers(&tls_url(&etcd, "")).await;
        registers(&tls_url(&etcd, "&server_name=localhost")).await;
        let stranger = waypost_testkit::etcd::Authority::new().unwrap();
        let untrusted = format!("etcds://{}?ca={}", etcd.addresses()[0], stranger.certificate().display());
        let untrusted = refused(&untrusted).await;
        assert!(untrusted.contains("invalid peer certificate") && untrusted.contains("ca="), "{untrusted}");
        let misnamed = refused(&tls_url(&etcd, "&server_name=other.example")).await;
        assert!(misnamed.contains("other.example"), "{misnamed}");
        let plain = refused(&format!("etcd://{}", etcd.addresses()[0])).await;
        assert!(plain.contains("etcds://"), "it says what to do: {plain}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_a_user() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one().mutual_tls()).await.unwrap();
        let certificates = |name: &str| {
            let identity = etcd.authority().unwrap().client(name).unwrap();
            format!("&cert={}&key={}", identity.certificate.display(), identity.key.display())
        };
        let (app, other) = (tls_url(&etcd, &certificates("app")), tls_url(&etcd, &certificates("other")));
        let nobody = refused(&tls_url(&etcd, "")).await;
        assert!(nobody.contains("cert="), "it says what to do: {nobody}");
        registers(&app).await;
        etcd.enable_auth("app", None, PREFIX).await.unwrap();
        registers(&app).await;
        let denied = super::open(&other).list_services().await;
        assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    })
    .await;
}

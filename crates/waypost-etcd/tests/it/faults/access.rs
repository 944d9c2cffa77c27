//! Changes of tokens, passwords and permissions while nodes are registered.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use waypost_core::registry::{Error, Registry};
use waypost_testkit::etcd::{Binary, Data, Etcd, Options};

use crate::SECRET;
use crate::access::{PREFIX, tls_url};
use crate::rig::{Figures, INTERVAL, Rig, Server, TTL, each, url};

async fn with_users(binary: &Binary, options: &Options) -> Rig {
    let mut etcd = Etcd::start(binary, options).await.unwrap();
    etcd.enable_auth("waypost", Some(SECRET), PREFIX)
        .await
        .unwrap();
    let at = if etcd.authority().is_some() {
        tls_url(&etcd, "")
    } else {
        url(&etcd.addresses())
    };
    Rig::on(etcd, &at, &at, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_expire_after_4_s() {
    each(async |binary| {
        let options = Options::one().signed_tokens(Duration::from_secs(4));
        let mut rig = with_users(&binary, &options).await;
        let mut figures = Figures::without_outage();
        rig.observe(&mut figures, Instant::now(), Duration::from_secs(9))
            .await;
        rig.report("tokens expire after 4 s, idle for 9 s", &figures)
            .await;
        // All tokens have expired twice. Writes still succeed, and so do new registrations.
        let begun = Instant::now();
        rig.servers[0]
            .registration
            .set_metadata("zone", "a")
            .unwrap();
        rig.servers
            .push(Server::begin(&url(&rig.etcd.addresses()), "2"));
        rig.recovered("tokens have run out, then a write", begun)
            .await;
        rig.assert_none_suspected();
        rig.close().await;
    })
    .await;
}

async fn tokens_lost(binary: Binary, options: Options, name: &str) {
    let mut rig = with_users(&binary, &options).await;
    rig.etcd.restart(Data::Kept).await.unwrap();
    let begun = Instant::now();
    rig.servers[0]
        .registration
        .set_metadata("zone", "a")
        .unwrap();
    rig.recovered(name, begun).await;
    rig.assert_none_suspected();
    rig.close().await;
}

/// Simple tokens are lost when the process that issued them restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_with_users() {
    each(async |binary| tokens_lost(binary, Options::one(), "restarted, all tokens lost").await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_with_users_over_tls() {
    each(async |binary| {
        tokens_lost(
            binary,
            Options::one().tls(),
            "restarted, all tokens lost, over TLS",
        )
        .await;
    })
    .await;
}

/// A client with the old password stays registered as long as no request needs a login, and reports
/// why it cannot write. A client with the new password can register.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_rotated() {
    const NEW: &str = "do-not-log-7f3a-either";
    each(async |binary| {
        let mut rig = with_users(&binary, &Options::one()).await;
        let at = url(&rig.etcd.addresses());
        // Wait until the registrations are established.
        sleep(INTERVAL * 2).await;
        rig.etcd.set_password("waypost", NEW).await.unwrap();
        let refused = crate::open(&at).list_services().await.unwrap_err();
        crate::capture_error(&refused);
        assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
        rig.servers[0]
            .registration
            .set_metadata("zone", "a")
            .unwrap();
        rig.servers[0].until_it_reports("refused").await;
        let renewed = Server::start(&at.replace(SECRET, NEW), "2").await;
        rig.until_seen("the node with the new password", |snapshot| {
            snapshot.confirmed().len() == 3
        })
        .await;
        sleep(TTL + INTERVAL).await;
        rig.assert_none_lost();
        renewed.close().await;
        rig.etcd.set_password("waypost", SECRET).await.unwrap();
        rig.servers.push(Server::begin(&at, "2"));
        rig.recovered("password rotated, and given back", Instant::now())
            .await;
        rig.close().await;
    })
    .await;
}

/// A password in a file may be changed while all are running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_rotated_in_its_file() {
    const NEW: &str = "do-not-log-7f3a-either";
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(SECRET), PREFIX)
            .await
            .unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
        let at = format!(
            "etcd://waypost@{}?password_file={}",
            etcd.addresses()[0],
            file.path().display()
        );
        let mut rig = Rig::on(etcd, &at, &at, 2).await;
        rig.etcd.set_password("waypost", NEW).await.unwrap();
        rig.servers[0]
            .registration
            .set_metadata("zone", "a")
            .unwrap();
        rig.servers[0].until_it_reports("refused").await;
        std::fs::write(file.path(), format!("{NEW}\n")).unwrap();
        rig.recovered("password rotated in its file", Instant::now())
            .await;
        rig.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permission_revoked_and_given_back() {
    each(async |binary| {
        let mut rig = with_users(&binary, &Options::one()).await;
        rig.etcd.forbid("waypost", PREFIX).await.unwrap();
        rig.servers[0]
            .registration
            .set_metadata("zone", "a")
            .unwrap();
        rig.servers[0].until_it_reports("refused").await;
        // 3.6 checks permissions at each keepalive too; in earlier versions a client without write
        // permission stays registered.
        let checks_keepalives = binary.version().minor > 4;
        if checks_keepalives {
            rig.servers[1]
                .until_it_reports("refused: keeping the lease alive: permission denied")
                .await;
        }
        sleep(TTL + INTERVAL).await;
        if checks_keepalives {
            rig.assert_none_lost();
        } else {
            rig.assert_none_suspected();
        }
        rig.etcd.allow("waypost", PREFIX).await.unwrap();
        rig.recovered("permission revoked, and given back", Instant::now())
            .await;
        rig.close().await;
    })
    .await;
}

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

/// A login costs etcd 65 ms of CPU, also if the client gives it up. The handles of a fleet log in at
/// the same moment.
async fn fleet_logs_in_again(binary: Binary, options: Options, name: &'static str) {
    const HANDLES: usize = 150;
    const WITHIN: Duration = Duration::from_secs(30);
    // etcd's default cost of a password.
    let options = options.flag("--bcrypt-cost=10");
    let mut etcd = Etcd::start(&binary, &options).await.unwrap();
    etcd.enable_auth("waypost", Some(SECRET), PREFIX)
        .await
        .unwrap();
    let at = url(&etcd.addresses());
    let servers: Vec<_> = (0..HANDLES)
        .map(|number| Server::begin(&at, &number.to_string()))
        .collect();
    let all_registered = async || {
        for server in &servers {
            server.registration.registered().await.unwrap();
        }
    };
    tokio::time::timeout(WITHIN * 2, all_registered())
        .await
        .unwrap();
    // Not `restart`, which waits for a login of its own.
    etcd.kill().await.unwrap();
    for member in 0..etcd.size() {
        etcd.member(member).start().unwrap();
    }
    let begun = Instant::now();
    // A write needs the new token.
    for server in &servers {
        server.registration.set_metadata("zone", "a").unwrap();
    }
    let reader = crate::open(&at);
    let written = async || {
        let services = reader.get_service("greeter").await.unwrap_or_default();
        let nodes = services.iter().flat_map(|service| &service.nodes);
        nodes
            .filter(|node| node.metadata.get("zone") == Some("a"))
            .count()
    };
    while written().await < HANDLES {
        let states = servers.iter().map(|server| server.registration.state());
        assert!(begun.elapsed() < WITHIN, "{:?}", states.collect::<Vec<_>>());
        sleep(INTERVAL / 2).await;
    }
    let back = begun.elapsed();
    println!("etcd {}: {name}: back after {back:.1?}", binary.version());
}

/// Runs each fleet after the other, since each keeps the whole machine busy with logins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo xtask etcd-faults"]
async fn a_fleet_with_passwords_logs_in_again_after_a_restart() {
    for binary in crate::binaries() {
        let three = binary.clone();
        fleet_logs_in_again(binary, Options::one(), "150 with passwords, restarted").await;
        fleet_logs_in_again(
            three,
            Options::three(),
            "150 with passwords, three restarted",
        )
        .await;
    }
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
            rig.servers[1].until_it_reports("permission denied").await;
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

//! Launcher of etcd, tested on every etcd of the machine.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use waypost_testkit::etcd::{Authority, Binary, Data, Etcd, Options, ROOT};

use crate::DEADLINE;

fn binaries() -> Vec<Binary> {
    Binary::all().expect("an etcd")
}

async fn start(binary: &Binary, options: Options) -> Etcd {
    Etcd::start(binary, &options).await.expect("it starts")
}

fn failure<T: std::fmt::Debug>(result: Result<T, waypost_testkit::Failure>) -> String {
    result.expect_err("it fails").to_string()
}

/// Returns true if a process with that id exists.
fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Returns true if connections to the port are refused and no process can bind it.
async fn is_kept(address: SocketAddr) -> bool {
    let refused = TcpStream::connect(address)
        .await
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    refused
        && TcpSocket::new_v4()
            .expect("a socket")
            .bind(address)
            .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// Sends a request to a member's JSON gateway, which needs no etcdctl.
async fn ask(address: SocketAddr, path: &str, headers: &str, question: Value) -> Value {
    let question = question.to_string();
    let length = question.len();
    let request =
        format!("POST {path} HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n{question}");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a write");
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .expect("an answer in time")
        .expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("headers");
    serde_json::from_str(body).expect("JSON")
}

#[tokio::test]
async fn data_is_kept_or_lost_over_a_restart_and_the_ports_stay_ours() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one()).await;
        let (before, address) = (etcd.status(0).await.unwrap(), etcd.addresses()[0]);
        assert_eq!(
            (etcd.size(), before.revision, before.leader),
            (1, 1, before.member)
        );
        etcd.put("/a", b"one \xff\n").await.unwrap();
        etcd.put("/b", b"").await.unwrap();
        etcd.kill().await.unwrap();
        assert!(is_kept(address).await);
        assert!(failure(etcd.member(0).pause()).ends_with("m1 is down"));
        etcd.restart(Data::Kept).await.unwrap();
        assert_eq!(
            etcd.get("/a").await.unwrap().as_deref(),
            Some(&b"one \xff\n"[..])
        );
        assert_eq!(
            (etcd.get("/b").await.unwrap(), etcd.get("/c").await.unwrap()),
            (Some(Vec::new()), None)
        );
        assert_eq!(etcd.keys("/").await.unwrap(), ["/a", "/b"]);
        etcd.restart(Data::Lost).await.unwrap();
        let after = etcd.status(0).await.unwrap();
        assert_eq!(
            (after.cluster, after.member, after.revision),
            (before.cluster, before.member, 1),
            "only the data is gone"
        );
        assert_eq!(
            (etcd.addresses(), etcd.keys("/").await.unwrap()),
            (vec![address], Vec::new())
        );
    }
}

#[tokio::test]
async fn three_members_go_on_without_a_killed_and_without_a_frozen_leader() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::three()).await;
        let first = etcd.leader().await.unwrap();
        etcd.member(first).kill().await.unwrap();
        let second = etcd.leader().await.unwrap();
        assert_ne!(second, first);
        etcd.put("/a", b"1").await.unwrap();
        etcd.member(first).start().unwrap();
        etcd.member(first).serving().await.unwrap();
        etcd.member(second).pause().unwrap();
        let third = etcd.leader().await.unwrap();
        assert_ne!(third, second);
        etcd.put("/a", b"2").await.unwrap();
        etcd.member(second).resume().unwrap();
        etcd.leader().await.unwrap();
        assert_eq!(etcd.get("/a").await.unwrap().as_deref(), Some(&b"2"[..]));
        etcd.assert_alive();
    }
}

#[tokio::test]
async fn a_frozen_member_accepts_and_is_silent() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one()).await;
        etcd.pause().unwrap();
        let mut stream = TcpStream::connect(etcd.addresses()[0]).await.unwrap();
        stream
            .write_all(b"GET /version HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        timeout(Duration::from_millis(100), stream.read_u8())
            .await
            .unwrap_err();
        etcd.resume().unwrap();
        timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn history_before_a_compaction_is_gone() {
    for binary in binaries() {
        let etcd = start(&binary, Options::one()).await;
        for value in ["1", "2", "3"] {
            etcd.put("/a", value.as_bytes()).await.unwrap();
        }
        let revision = etcd.revision().await.unwrap();
        assert_eq!(
            etcd.ctl(&["get", "/a", "--rev=2", "--print-value-only"])
                .await
                .unwrap(),
            "1\n"
        );
        etcd.compact(revision).await.unwrap();
        assert!(
            failure(etcd.ctl(&["get", "/a", "--rev=2"]).await)
                .contains("required revision has been compacted")
        );
    }
}

#[tokio::test]
async fn leases_are_listed_and_revoked_with_their_keys() {
    for binary in binaries() {
        let etcd = start(&binary, Options::one()).await;
        assert_eq!(etcd.leases().await.unwrap(), [""; 0]);
        let granted = etcd.ctl(&["lease", "grant", "600"]).await.unwrap();
        let lease = granted.split(' ').nth(1).unwrap();
        etcd.ctl(&["put", "/a", "1", "--lease", lease])
            .await
            .unwrap();
        etcd.put("/b", b"1").await.unwrap();
        assert_eq!(etcd.leases().await.unwrap(), [lease]);
        assert_eq!(
            (
                etcd.lease_of("/a").await.unwrap().as_deref(),
                etcd.lease_of("/b").await.unwrap()
            ),
            (Some(lease), None)
        );
        etcd.revoke(lease).await.unwrap();
        assert_eq!(
            (etcd.leases().await.unwrap(), etcd.keys("/").await.unwrap()),
            (Vec::new(), vec!["/b".to_owned()])
        );
        etcd.delete("/b").await.unwrap();
        assert_eq!(etcd.keys("/").await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_full_store_refuses_writes_until_room_is_made() {
    for binary in binaries() {
        let etcd = start(&binary, Options::one().quota_bytes(8 << 20)).await;
        etcd.fill().await.unwrap();
        assert!(failure(etcd.put("/a", b"1").await).contains("database space exceeded"));
        assert!(
            etcd.ctl(&["alarm", "list"])
                .await
                .unwrap()
                .contains("NOSPACE")
        );
        etcd.make_room().await.unwrap();
        etcd.put("/a", b"1").await.unwrap();
    }
}

#[tokio::test]
async fn a_user_may_what_its_role_allows() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one()).await;
        etcd.enable_auth("app", Some("first"), "/micro/")
            .await
            .unwrap();
        let put = |login: &'static str, key: &'static str| {
            let etcd = &etcd;
            async move { etcd.ctl_as(login, &["put", key, "1"]).await }
        };
        put("app:first", "/micro/a").await.unwrap();
        assert!(failure(put("app:first", "/other").await).contains("permission denied"));
        assert!(failure(put("app:wrong", "/micro/a").await).contains("authentication failed"));
        etcd.put("/other", b"1").await.unwrap();
        etcd.set_password("app", "second").await.unwrap();
        assert!(failure(put("app:first", "/micro/a").await).contains("authentication failed"));
        put("app:second", "/micro/a").await.unwrap();
        etcd.forbid("app", "/micro/").await.unwrap();
        assert!(failure(put("app:second", "/micro/a").await).contains("permission denied"));
        etcd.allow("app", "/micro/").await.unwrap();
        put("app:second", "/micro/a").await.unwrap();
        etcd.restart(Data::Lost).await.unwrap();
        etcd.put("/open", b"again").await.unwrap();
    }
}

#[tokio::test]
async fn a_signed_token_ends_with_its_life() {
    for binary in binaries() {
        let life = Duration::from_secs(2);
        let mut etcd = start(&binary, Options::one().signed_tokens(life)).await;
        etcd.enable_auth("app", Some("secret"), "/").await.unwrap();
        let (address, begin) = (etcd.addresses()[0], Instant::now());
        let login = json!({ "name": "app", "password": "secret" });
        let answer = ask(address, "/v3/auth/authenticate", "", login).await;
        let authorization = format!("Authorization: {}\r\n", answer["token"].as_str().unwrap());
        let range = || {
            ask(
                address,
                "/v3/kv/range",
                &authorization,
                json!({ "key": "L2E=" }),
            )
        };
        assert!(range().await["header"]["revision"].is_string());
        let refusal = timeout(DEADLINE, async {
            loop {
                if let Some(error) = range().await["message"].as_str() {
                    return error.to_owned();
                }
            }
        });
        assert_eq!(refusal.await.unwrap(), "etcdserver: invalid auth token");
        // The lifetime is counted in whole seconds of the wall clock.
        assert!(
            begin.elapsed() > life.saturating_sub(Duration::from_secs(1)),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test]
async fn tls_is_asked_of_clients_and_their_certificates_are_users() {
    for binary in binaries() {
        let etcd = start(&binary, Options::one().tls()).await;
        etcd.put("/a", b"1").await.unwrap();
        let ours = etcd.authority().unwrap().certificate();
        let get = async |flags: &[&str]| {
            let args = [&["--command-timeout=1s", "get", "/a"], flags].concat();
            etcd.ctl(&args).await
        };
        get(&["--cacert", ours.to_str().unwrap()]).await.unwrap();
        let stranger = Authority::new().unwrap();
        get(&["--cacert", stranger.certificate().to_str().unwrap()])
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn a_certificate_is_asked_of_clients_and_names_the_user() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one().mutual_tls()).await;
        etcd.enable_auth("app", None, "/micro/").await.unwrap();
        etcd.put(
            "/a",
            b"by root, whose password goes before the certificate's name",
        )
        .await
        .unwrap();
        let put = async |common_name: &str, authority: &Authority, key: &str| {
            let identity = authority.client(common_name).unwrap();
            let mut args = vec![
                "--endpoints".to_owned(),
                etcd.addresses()[0].to_string(),
                "--command-timeout=1s".to_owned(),
            ];
            args.extend([
                "--cacert".to_owned(),
                etcd.authority()
                    .unwrap()
                    .certificate()
                    .display()
                    .to_string(),
            ]);
            args.extend([
                "--cert".to_owned(),
                identity.certificate.display().to_string(),
            ]);
            args.extend(["--key".to_owned(), identity.key.display().to_string()]);
            let args = args.into_iter().chain(["put", key, "1"].map(str::to_owned));
            let output = tokio::process::Command::new(binary.etcdctl())
                .args(args)
                .output()
                .await
                .unwrap();
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        };
        let authority = etcd.authority().unwrap();
        put("app", authority, "/micro/a").await.unwrap();
        assert!(
            put("app", authority, "/other")
                .await
                .unwrap_err()
                .contains("permission denied")
        );
        put("app", &Authority::new().unwrap(), "/micro/a")
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn what_a_member_counts_can_be_read() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one().tls()).await;
        let count = async |etcd: &mut Etcd| {
            let metrics = etcd.member(0).metrics().await.unwrap();
            let puts = metrics.get(
                "grpc_server_handled_total",
                &["grpc_method=\"Put\"", "grpc_code=\"OK\""],
            );
            (
                puts.unwrap(),
                metrics.get("etcd_disk_wal_write_bytes_total", &[]).unwrap(),
            )
        };
        let before = count(&mut etcd).await;
        etcd.put("/a", &[b'x'; 1000]).await.unwrap();
        let after = count(&mut etcd).await;
        assert_eq!(after.0 - before.0, 1.0);
        assert!(after.1 - before.1 > 1000.0, "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn a_cluster_that_cannot_start_states_why() {
    for binary in binaries() {
        let message =
            failure(Etcd::start(&binary, &Options::one().flag("--election-timeout=1")).await);
        assert!(
            message.contains("m1") && message.contains("election-timeout"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn dropped_it_leaves_no_process_and_no_file() {
    for binary in binaries() {
        let mut etcd = start(&binary, Options::one().on_disk()).await;
        let pid = etcd.member(0).pid().unwrap();
        let folder = etcd.member(0).log().concat();
        let folder = folder
            .split_once("\"data-dir\":\"")
            .unwrap()
            .1
            .split_once('"')
            .unwrap()
            .0;
        assert!(Path::new(folder).is_dir());
        etcd.pause().unwrap();
        assert!(runs(pid));
        drop(etcd);
        assert!(!runs(pid));
        assert!(!Path::new(folder).parent().unwrap().exists());
    }
}

#[test]
fn etcds_are_of_different_versions_and_the_oldest_is_first() {
    let versions: Vec<_> = binaries().iter().map(Binary::version).collect();
    assert!(
        versions.is_sorted_by(|one, next| one < next),
        "{versions:?}"
    );
    assert!(ROOT.starts_with("root:"));
}

//! Record of the demo's server in a real etcd: key and value are go-micro's, byte for byte.

use waypost_testkit::etcd::{Etcd, Options};

use crate::support::{Host, each};

const GOLDEN: &str = include_str!("../../../../waypost-core/tests/golden/grpc.kv");
const GOLDEN_ID: &str = "greeter-6fbd9c3e-0a64-4d7d-b060-f558e5d053bf";
const GOLDEN_ADDRESS: &str = "127.0.0.1:45075";

#[tokio::test]
async fn the_demos_record_is_go_micros_byte_for_byte() {
    each(async |binary| {
        let golden = GOLDEN
            .replace(GOLDEN_ID, "greeter-a")
            .replace(GOLDEN_ADDRESS, "ADDRESS");
        let (golden_key, golden) = golden.trim_end().split_once('\n').unwrap();
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let server = Host::on(&etcd, "").greeter("a").await;
        assert_eq!(etcd.keys("").await.unwrap(), [golden_key]);
        let value = String::from_utf8(etcd.get(golden_key).await.unwrap().unwrap()).unwrap();
        let registered: serde_json::Value = serde_json::from_str(&server.stdout()[0]).unwrap();
        let ours = value.replace(registered["address"].as_str().unwrap(), "ADDRESS");
        assert_eq!(
            without_pairs(&ours, "waypost."),
            without_pairs(golden, "broker")
        );
        assert!(
            ours.contains(
                r#""protocol":"grpc","registry":"etcd","server":"grpc","transport":"grpc""#
            ),
            "{ours}"
        );
    })
    .await;
}

/// Removes each `"key":"value"` whose key begins with `key`, and the comma next to it. Values hold
/// no quotes here.
fn without_pairs(json: &str, key: &str) -> String {
    let start = format!("\"{key}");
    let mut text = json.to_owned();
    while let Some(at) = text.find(&start) {
        let length = text[at..].match_indices('"').nth(3).unwrap().0 + 1;
        text.replace_range(at..at + length, "");
        if text[at..].starts_with(',') {
            text.remove(at);
        } else if text[..at].ends_with(',') {
            text.remove(at - 1);
        }
    }
    text
}

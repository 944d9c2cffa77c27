//! Check that the generated files match the protos in `proto/`. `WAYPOST_BLESS=1` writes them
//! instead.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use prost::Message;

#[test]
fn the_generated_greeter_is_fresh() {
    check("greeter");
}

#[test]
fn the_generated_echo_is_fresh() {
    check("echo");
}

fn check(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, set) = generate(root, name);
    compare_or_write(&root.join(format!("src/{name}.rs")), &code);
    compare_or_write(&root.join(format!("src/{name}.bin")), &set);
}

fn generate(root: &Path, name: &str) -> (Vec<u8>, Vec<u8>) {
    let mut set = protox::compile([format!("{name}.proto")], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(out.path())
        .compile_fds(set.clone())
        .unwrap();
    for file in &mut set.file {
        file.source_code_info = None;
    }
    (
        fs::read(out.path().join(format!("{name}.rs"))).unwrap(),
        set.encode_to_vec(),
    )
}

#[expect(clippy::disallowed_methods, reason = "a switch of this test's own")]
fn compare_or_write(path: &Path, fresh: &[u8]) {
    if std::env::var("WAYPOST_BLESS").is_ok() {
        fs::write(path, fresh).unwrap();
    }
    let committed = fs::read(path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{} is stale: run WAYPOST_BLESS=1 cargo test -p waypost-greeter",
        path.display()
    );
}

//! Binaries are found, or built.

use waypost_testkit::{Fleet, Program, paths};

use crate::DEADLINE;

#[tokio::test]
async fn a_binary_of_the_workspace_is_found_and_runs() {
    let path = paths::binary("xtask", "xtask").unwrap();
    let mut fleet = Fleet::new();
    let child = fleet.start("xtask", &Program::new(path)).unwrap();
    assert_eq!(child.wait(DEADLINE).await.unwrap().code(), Some(2));
    assert!(child.stderr()[0].starts_with("usage: cargo xtask"));
}

#[test]
fn an_unknown_binary_is_reported_with_the_output_of_cargo() {
    let failure = paths::binary("waypost-testkit", "nothing").unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("no bin target named `nothing`"),
        "{failure}"
    );
}

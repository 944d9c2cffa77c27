//! `waypost wait NAME --ready N`: waits for nodes, for scripts that start servers.

use waypost::record::Entry;
use waypost::registry::{self, NodeSet, Watcher};

use super::get;
use crate::cli::Wait;
use crate::error::CliError;
use crate::escape;
use crate::open_registry::OpenRegistry;
use crate::output;

pub(crate) async fn run(opened: &OpenRegistry, args: &Wait) -> Result<(), CliError> {
    let mut watcher = opened.watch(Some(&args.name)).await?;
    let mut seen = SeenNodes::default();
    let enough = follow(&mut watcher, &mut seen, args.ready.get());
    if let Ok(result) = tokio::time::timeout(args.timeout, enough).await {
        result?;
        let picture = seen.picture.unwrap_or_default();
        let services = Entry::to_services(present(&picture));
        let skipped = opened.skipped(Some(&args.name));
        return get::print(&services, &skipped, args.show.format());
    }
    Err(too_late(opened, args, seen))
}

/// State that the registry has reported so far.
#[derive(Default)]
struct SeenNodes {
    picture: Option<NodeSet>,
    /// Error since the last event.
    trouble: Option<registry::Error>,
}

/// Follows the watcher until the registry has `enough` nodes.
async fn follow(
    watcher: &mut Watcher,
    seen: &mut SeenNodes,
    enough: usize,
) -> Result<(), CliError> {
    while let Some(item) = watcher.next().await {
        match item {
            Ok(event) => {
                seen.picture.get_or_insert_default().apply(event);
                seen.trouble = None;
            }
            Err(error) => {
                output::note(&format!("{}; still waiting", escape::text(&error.chain())));
                seen.trouble = Some(error);
            }
        }
        if seen
            .picture
            .as_ref()
            .is_some_and(|picture| present(picture).count() >= enough)
        {
            return Ok(());
        }
    }
    Err(CliError::registry("the registry was closed"))
}

fn present(picture: &NodeSet) -> impl Iterator<Item = &Entry> {
    picture.iter().filter(|entry| !entry.node.is_leaving())
}

fn too_late(opened: &OpenRegistry, args: &Wait, seen: SeenNodes) -> CliError {
    let (name, url) = (escape::text(&args.name), opened.url());
    if let (None, Some(error)) = (&seen.picture, seen.trouble) {
        return opened.failure(error);
    }
    let Some(picture) = seen.picture else {
        return CliError::registry(format!("{url} did not respond within {:?}", args.timeout))
            .next("is it the right one, and up? choose with --registry URL or WAYPOST_REGISTRY");
    };
    let count = present(&picture).count();
    CliError::no(format!(
        "{name}: {count} of {} nodes registered in {url} after {:?}{}",
        args.ready,
        args.timeout,
        opened.and_skipped(&args.name)
    ))
    .next(format!(
        "watch its nodes: {}",
        opened.command(&format!("watch {name}"))
    ))
}

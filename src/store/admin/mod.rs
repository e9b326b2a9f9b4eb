//! `tarpon admin store`: what lies in an object store, for who runs the servers that share it. It reads, and changes
//! nothing, whatever servers do meanwhile. In memory are the heads and the pieces that are just looked at.
//!
//! - [`repository`]: heads, and what parts are to them.
//! - [`verify`]: whether all that is named is there and right.
//! - [`look`]: what asks the store.
//! - [`told`]: what is said.

use std::io::Write;
use std::rc::Rc;

use serde_json::json;
use tokio::task::{JoinSet, LocalSet};

pub use look::AdminError;

use self::look::Look;
use self::repository::{Headed, REPOSITORIES, Repository};
use self::told::Told;
use crate::config::{StoreAdmin, StoreTask};
use crate::io::clock::unix_ms;
use crate::limits::STORE_REPOSITORIES_AT_ONCE;
use crate::store::remote::any::AnyStore;
use crate::store::remote::head::Head;
use crate::store::remote::pages::Pages;

mod look;
mod repository;
mod told;
mod verify;

/// Exit code of what has found something missing or wrong.
pub const DAMAGED_CODE: u8 = 2;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nothing is wrong, as far as it was looked at.
    Sound,
    /// Something is missing, or is not what it should be: it was said.
    Damaged,
    /// There was nothing to verify.
    Nothing,
}

/// Looks at a store, and says what is there.
///
/// # Errors
/// See [`AdminError`].
pub fn look_at_store(asked: &StoreAdmin, out: Box<dyn Write>) -> Result<Looked, AdminError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(AdminError::Start)?;
    let objects = AnyStore::open_to_look(&asked.url, &asked.headers)?;
    let told = Told::new(out, asked.is_json, counts(asked.task));
    let (look, task) = (Rc::new(Look::new(objects, told)), asked.task);
    LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            looked = repositories(&look, task) => looked,
            () = look.told.tell_progress() => Ok(()),
        }
    })?;
    look.told.tell_total()?;
    let wrong = look.told.counted("missing") + look.told.counted("wrong");
    let is_nothing = task == StoreTask::Verify && look.told.counted("repositories") == 0;
    Ok(match wrong {
        // What was never looked at is not sound: it may be the wrong place, or what was there is gone.
        0 if is_nothing => Looked::Nothing,
        0 => Looked::Sound,
        _ => Looked::Damaged,
    })
}

/// What is counted for a task.
fn counts(task: StoreTask) -> &'static [&'static str] {
    match task {
        StoreTask::List => &["repositories", "wrong", "bytes"],
        StoreTask::Usage => &[
            "repositories",
            "wrong",
            "bytes",
            "shared",
            "condemned",
            "given_up",
            "unnamed",
            "foreign",
        ],
        StoreTask::Verify => &[
            "repositories",
            "parts",
            "read_bytes",
            "missing",
            "wrong",
            "superfluous",
            "unchecked",
        ],
        StoreTask::Prune => &[
            "repositories",
            "wrong",
            "remove",
            "remove_bytes",
            "wait",
            "wait_bytes",
            "condemn",
            "condemn_bytes",
        ],
    }
}

/// All of them, a few at once.
async fn repositories(look: &Rc<Look>, task: StoreTask) -> Result<(), AdminError> {
    let mut running: JoinSet<Result<(), AdminError>> = JoinSet::new();
    let mut pages = Pages::of(&look.objects, REPOSITORIES);
    while let Some(page) = look.again(async || pages.next().await).await? {
        // What else lies there no server has put there.
        for name in page
            .dirs
            .into_iter()
            .filter(|name| Repository::is_one(name))
        {
            if running.len() >= STORE_REPOSITORIES_AT_ONCE
                && let Some(looked) = running.join_next().await
            {
                looked??;
            }
            let look = look.clone();
            running.spawn_local(async move { one(&look, task, &name).await });
        }
    }
    while let Some(looked) = running.join_next().await {
        looked??;
    }
    Ok(())
}

/// One of them.
async fn one(look: &Rc<Look>, task: StoreTask, name: &str) -> Result<(), AdminError> {
    let repository = look.repository(name).await?;
    look.told.count("repositories", 1);
    if let Headed::Broken(why) = &repository.head {
        look.told.count("wrong", 1);
        look.told.tell(&[
            ("repository", json!(repository.name())),
            ("found", json!("wrong")),
            ("key", json!(repository.head_key())),
            ("why", json!(why)),
        ])?;
        // Of what lies there nobody knows what is named.
        return Ok(());
    }
    match task {
        StoreTask::List => match repository.sound() {
            Some(head) => list(look, name, head),
            None => Ok(()),
        },
        StoreTask::Usage => usage(look, &repository).await,
        StoreTask::Verify => verify::verify(look, &repository).await,
        StoreTask::Prune => prune(look, &repository).await,
    }
}

fn list(look: &Look, name: &str, head: &Head) -> Result<(), AdminError> {
    let bytes = head.parts.iter().map(|part| part.bytes);
    let bytes = bytes.fold(0, u64::saturating_add);
    look.told.count("bytes", bytes);
    let snapshots = head.snapshots.iter();
    let current = snapshots
        .filter(|one| one.replaced_unix_ms.is_none())
        .count();
    let whose = &head.repository;
    look.told.tell(&[
        (
            "repository",
            json!(format!("{}/{}", whose.host, whose.path)),
        ),
        ("url", json!(whose.url)),
        ("generation", json!(head.generation)),
        ("sequence", json!(head.sequence)),
        ("snapshots", json!(current)),
        ("replaced", json!(head.snapshots.len() - current)),
        ("bytes", json!(bytes)),
        ("dir", json!(name)),
    ])?;
    Ok(())
}

async fn usage(look: &Look, repository: &Repository) -> Result<(), AdminError> {
    let (states, mut all) = (repository.states(), 0_u64);
    let names = ["shared", "condemned", "given_up", "unnamed", "foreign"];
    let mut sizes = names.map(|name| (name, 0_u64));
    let mut pages = Pages::of(&look.objects, repository.parts());
    while let Some(page) = look.again(async || pages.next().await).await? {
        for object in page.objects {
            let (state, _) = states.state(&object);
            let size = sizes.iter_mut().filter(|(name, _)| *name == state.name());
            size.for_each(|(_, size)| *size = size.saturating_add(object.bytes));
            all = all.saturating_add(object.bytes);
        }
    }
    look.told.count("bytes", all);
    let mut fields = vec![
        ("repository", json!(repository.name())),
        ("bytes", json!(all)),
    ];
    for (name, size) in sizes {
        look.told.count(name, size);
        fields.push((name, json!(size)));
    }
    look.told.tell(&fields)?;
    Ok(())
}

async fn prune(look: &Look, repository: &Repository) -> Result<(), AdminError> {
    let (states, now_unix_ms) = (repository.states(), unix_ms());
    let mut pages = Pages::of(&look.objects, repository.parts());
    while let Some(page) = look.again(async || pages.next().await).await? {
        for object in page.objects {
            let (state, _) = states.state(&object);
            // Without a head nobody sweeps.
            let fate = repository.sound().and_then(|_| state.fate(now_unix_ms));
            let Some((fate, why)) = fate else {
                continue;
            };
            look.told.count(fate, 1);
            look.told.count(&format!("{fate}_bytes"), object.bytes);
            let mut fields = vec![
                ("repository", json!(repository.name())),
                ("fate", json!(fate)),
                ("key", json!(object.name)),
                ("why", json!(why)),
                ("bytes", json!(object.bytes)),
            ];
            fields.extend(state.since_unix_ms().map(|at| ("since_unix_ms", json!(at))));
            look.told.tell(&fields)?;
        }
    }
    Ok(())
}

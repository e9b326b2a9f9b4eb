//! The first walk over a tree: what a build has to know of it before it begins with it.

use gix::ObjectId;

use super::source::Source;
use crate::tree::filter::AttributeFiles;
use crate::tree::index::Plan;
use crate::tree::walk::{ATTRIBUTES_FILE, Step, WalkError};

/// What a build has to know of its tree before it begins with it.
pub(super) type Survey = (Plan, AttributeFiles);

/// The first walk: the shape of the index, and where the attributes are. Work for an encoder: what
/// comes first, the packs, does not need it. `None` if it takes more than `steps_max` steps.
pub(super) fn survey(
    source: &Source,
    tree: &ObjectId,
    steps_max: u64,
) -> Result<Option<Survey>, WalkError> {
    let (mut plan, mut attributes) = (Plan::new(tree.kind()), AttributeFiles::default());
    let mut steps = 0;
    let walked = source.walk(tree, |step| {
        steps += 1;
        if steps > steps_max {
            return Err(Left::Long);
        }
        match step {
            Step::Enter { path, id } => plan.enter(path, &id),
            Step::Leave => plan.leave(),
            Step::Entry(entry) => {
                plan.entry(entry.path);
                let name = entry.path.rsplit(|b| *b == b'/').next();
                let is_file = matches!(
                    entry.kind,
                    gix::objs::tree::EntryKind::Blob | gix::objs::tree::EntryKind::BlobExecutable
                );
                if is_file && name == Some(ATTRIBUTES_FILE) {
                    attributes.push(entry.path, &entry.id);
                }
            }
        }
        Ok(())
    });
    match walked {
        Ok(()) => {}
        Err(Left::Long) => return Ok(None),
        Err(Left::Walk(e)) => return Err(e),
    }
    attributes.look_for_encodings(&source.repository.to_thread_local().objects);
    Ok(Some((plan, attributes)))
}

/// Why a survey has ended before the tree's end.
enum Left {
    Long,
    Walk(WalkError),
}

impl From<WalkError> for Left {
    fn from(e: WalkError) -> Left {
        Left::Walk(e)
    }
}

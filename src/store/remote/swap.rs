//! The one write that others may be making, too.

use super::objects::{Condition, Found, ObjectError, Objects, Version};
use crate::limits::REMOTE_TRIES_MAX;

/// How it ended.
#[derive(Debug)]
pub enum Swapped {
    /// The object is what was written, or was.
    Done,
    /// Somebody else has written meanwhile; this is what stands there now, if anything does.
    Lost(Option<Found>),
}

/// Writes an object if the condition holds. A refusal may be one's own success whose answer got lost, and an error says
/// nothing: so after either the object is read. What `is_own` knows again is done; what is as it was is tried again,
/// with the same bytes, so that a write which arrives late is the same one.
///
/// # Errors
/// Nobody knows whether it was written, or it was not.
pub async fn swap(
    objects: &impl Objects,
    (key, bytes_max): (&str, usize),
    bytes: &[u8],
    condition: &Condition,
    is_own: impl Fn(&Found) -> bool,
) -> Result<Swapped, ObjectError> {
    let mut tries = 0;
    loop {
        let why = match objects.swap(key, bytes.to_vec(), condition).await {
            Ok(Version(_)) => return Ok(Swapped::Done),
            Err(why) => why,
        };
        let found = objects.get(key, bytes_max).await?;
        if found.as_ref().is_some_and(&is_own) {
            return Ok(Swapped::Done);
        }
        if !condition.holds_of(found.as_ref()) {
            return Ok(Swapped::Lost(found));
        }
        tries += 1;
        if tries == REMOTE_TRIES_MAX || why.is_final() {
            return Err(why);
        }
        objects.before_again(tries).await;
    }
}

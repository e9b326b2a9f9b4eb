//! What lies below a directory of a store, page by page: there may be more than fits into memory.

use super::any::AnyStore;
use super::objects::{ObjectError, Page};

/// Pages of one directory, in the store's order.
#[derive(Debug)]
pub struct Pages<'s> {
    objects: &'s AnyStore,
    dir: String,
    /// What the next one is asked for by; nothing once all were there.
    next: Option<Option<String>>,
}

impl<'s> Pages<'s> {
    /// All of a directory.
    #[must_use]
    pub fn of(objects: &'s AnyStore, dir: impl Into<String>) -> Pages<'s> {
        Pages {
            objects,
            dir: dir.into(),
            next: Some(None),
        }
    }

    /// The next page, if there is one. After an error the same one is asked for again.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn next(&mut self) -> Result<Option<Page>, ObjectError> {
        let Some(after) = self.next.clone() else {
            return Ok(None);
        };
        let page = self.objects.page(&self.dir, after.clone()).await?;
        // A store that sends its reader in a circle would have it list for ever.
        if page.next.is_some() && page.next == after {
            return Err(ObjectError::Failed {
                op: "list",
                key: self.dir.clone(),
                source: "the store names the same page once more".into(),
            });
        }
        self.next = page.next.clone().map(Some);
        Ok(Some(page))
    }
}

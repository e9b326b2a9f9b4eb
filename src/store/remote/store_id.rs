//! Which store it is: a random number in an object that is made once. A store that was emptied has another one, one that
//! was restored the same.

use serde::{Deserialize, Serialize};

use super::key::RandomId;
use super::objects::{Condition, Found, ObjectError, Objects};
use super::publish::Draw;
use super::swap::{Swapped, swap};
use crate::limits::SMALL_OBJECT_BYTES_MAX;

/// Its key.
pub const STORE: &str = "v1/store.json";

#[derive(Debug, Serialize, Deserialize)]
struct Store {
    id: RandomId,
}

fn decode(found: &Found) -> Option<RandomId> {
    let store: Option<Store> = serde_json::from_slice(&found.bytes).ok();
    store.map(|store| store.id)
}

/// The id of a store. It is made where there is none, by who writes there; `None` if there is none then, or something else
/// in its place.
///
/// # Errors
/// Nobody knows.
pub async fn store_id(
    objects: &impl Objects,
    random: Option<&mut impl Draw>,
) -> Result<Option<RandomId>, ObjectError> {
    let found = objects.get(STORE, SMALL_OBJECT_BYTES_MAX).await?;
    let (None, Some(random)) = (&found, random) else {
        return Ok(found.as_ref().and_then(decode));
    };
    let store = Store { id: random.draw() };
    // Its keys are texts, so this cannot fail.
    let bytes = serde_json::to_vec(&store).unwrap_or_default();
    let is_own = |found: &Found| decode(found) == Some(store.id);
    let key = (STORE, SMALL_OBJECT_BYTES_MAX);
    match swap(objects, key, &bytes, &Condition::Absent, is_own).await? {
        Swapped::Done => Ok(Some(store.id)),
        Swapped::Lost(found) => Ok(found.as_ref().and_then(decode)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::FileStore;
    use super::super::publish::SystemRandom;
    use super::*;

    #[test]
    fn it_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            let nobody = None::<&mut SystemRandom>;
            assert_eq!(store_id(&store, nobody).await.unwrap(), None);
            let (mut one, mut other) = (SystemRandom, SystemRandom);
            let both = tokio::join!(
                store_id(&store, Some(&mut one)),
                store_id(&store, Some(&mut other))
            );
            let id = both.0.unwrap();
            assert!(id.is_some() && id == both.1.unwrap());
            assert_eq!(
                store_id(&store, None::<&mut SystemRandom>).await.unwrap(),
                id
            );
            store.delete(STORE).await.unwrap();
            assert_ne!(store_id(&store, Some(&mut one)).await.unwrap(), id);
        });
    }
}

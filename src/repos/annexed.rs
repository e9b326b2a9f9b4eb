//! What the annex of a mirror has, as far as it can be served: each of its tips for so long as its upstream is
//! believed. Cores look here before they serve a commit.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gix::bstr::{BStr, BString};

use crate::io::clock::unix_ms;
use crate::limits::{UNFOLLOWED_COMPARED_MAX, UNFOLLOWED_REFS_MAX, WANT_IN_USE_MS};
use crate::manifest::want::AnyId;
use crate::mirror::beside::Beside;
use crate::mirror::{Tip, Tips};

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Annexed {
    state: Mutex<State>,
    /// Held while the tips are changed and written: the disk has what is here, or is about to.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    tips: Tips,
    /// For how long an upstream is believed.
    expiry_ms: u64,
    /// What refs that are not followed led to.
    refs: HashMap<BString, Lead>,
    /// The packs that tips came in, each alone; what is not known any more is fetched again where it is needed.
    packs: HashMap<AnyId, Vec<String>>,
}

/// What a ref leads to that is not followed.
#[derive(Debug, Clone, Copy)]
struct Lead {
    id: AnyId,
    /// When the upstream was asked.
    asked: Instant,
    /// When somebody last wanted to know.
    used: Instant,
}

impl State {
    fn is_believed(&self, tip: &Tip) -> bool {
        match tip {
            Tip::Kept(kept) => kept.given_unix_ms.saturating_add(self.expiry_ms) > unix_ms(),
            Tip::Gone => false,
        }
    }
}

impl Annexed {
    /// The state is changed in single assignments, so a panic cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the disk; an upstream is believed for so long.
    pub(crate) fn load(&self, tips: Tips, expiry_ms: u64) {
        let mut now = self.lock();
        *now = State {
            tips,
            expiry_ms,
            ..State::default()
        };
    }

    /// All tips.
    pub(crate) fn tips(&self) -> Tips {
        self.lock().tips.clone()
    }

    /// Puts others in their place. Whoever does writes them, too, and holds `writing`.
    pub(crate) fn set_tips(&self, tips: Tips) {
        let mut now = self.lock();
        now.packs.retain(|id, _| tips.0.contains_key(id));
        now.tips = tips;
    }

    /// What a tip came in, which is to be put there.
    pub(crate) fn note_packs(&self, id: AnyId, packs: Vec<String>) {
        self.lock().packs.insert(id, packs);
    }

    /// What those of these came in that are believed tips.
    pub(crate) fn packs_of<'i>(&self, ids: impl IntoIterator<Item = &'i AnyId>) -> Vec<String> {
        let now = self.lock();
        let believed = |id: &&AnyId| now.tips.0.get(*id).is_some_and(|tip| now.is_believed(tip));
        let packs = ids.into_iter().filter(believed);
        packs
            .filter_map(|id| now.packs.get(id))
            .flatten()
            .cloned()
            .collect()
    }

    /// Whether it is a tip that can be served.
    pub(crate) fn is_fresh(&self, id: &AnyId) -> bool {
        let now = self.lock();
        now.tips.0.get(id).is_some_and(|tip| now.is_believed(tip))
    }

    /// Whether all that is in the annex can be served.
    pub(crate) fn is_all_fresh(&self) -> bool {
        let now = self.lock();
        now.tips.0.values().all(|tip| now.is_believed(tip))
    }

    /// Whether it is a tip, however old.
    pub(crate) fn is_kept(&self, id: &AnyId) -> bool {
        matches!(self.lock().tips.0.get(id), Some(Tip::Kept(_)))
    }

    /// Whether it is one that goes.
    pub(crate) fn is_gone(&self, id: &AnyId) -> bool {
        matches!(self.lock().tips.0.get(id), Some(Tip::Gone))
    }

    /// Whether a snapshot of this commit may be served: it is no tip, or one that can.
    pub(crate) fn may_serve(&self, id: &AnyId) -> bool {
        let now = self.lock();
        now.tips.0.get(id).is_none_or(|tip| now.is_believed(tip))
    }

    /// Somebody wants it.
    pub(crate) fn note_used(&self, id: &AnyId) {
        self.note_used_at(id, unix_ms());
    }

    /// Somebody wanted it then.
    pub(crate) fn note_used_at(&self, id: &AnyId, at_unix_ms: u64) {
        if let Some(Tip::Kept(kept)) = self.lock().tips.0.get_mut(id) {
            kept.used_unix_ms = kept.used_unix_ms.max(at_unix_ms);
        }
    }

    /// What a ref that is not followed led to when the upstream was asked at `since` or later.
    pub(crate) fn ref_since(&self, name: &BStr, since: Option<Instant>) -> Option<AnyId> {
        let mut now = self.lock();
        let lead = now.refs.get_mut::<BStr>(name)?;
        lead.used = Instant::now();
        (since.is_none_or(|since| lead.asked >= since)).then_some(lead.id)
    }

    /// It leads to this, or to nothing, as the upstream says that was asked then.
    pub(crate) fn note_ref(&self, name: &BStr, id: Option<AnyId>, asked: Instant) {
        let mut now = self.lock();
        let Some(id) = id else {
            now.refs.remove::<BStr>(name);
            return;
        };
        if now.refs.len() >= UNFOLLOWED_REFS_MAX {
            now.refs.clear();
        }
        let used = Instant::now();
        now.refs.insert(name.into(), Lead { id, asked, used });
    }

    /// The refs of which somebody wanted to know lately what they lead to; the last ones, if there are many.
    pub(crate) fn refs_in_use(&self) -> Vec<BString> {
        let now = self.lock();
        let mut used = Vec::from_iter(now.refs.iter().map(|(name, lead)| (lead.used, name)));
        used.retain(|(used, _)| used.elapsed() < Duration::from_millis(WANT_IN_USE_MS));
        used.sort_unstable_by(|a, b| b.cmp(a));
        let names = used.into_iter().map(|(_, name)| name.clone());
        names.take(UNFOLLOWED_COMPARED_MAX).collect()
    }

    /// What a comparison that began then has found of some of them. What a ref leads to now that has moved is not
    /// there yet: whoever wants it has it fetched.
    pub(crate) fn note_told(&self, beside: &Beside, began: Instant) {
        let mut now = self.lock();
        for name in beside.names() {
            match (beside.told(name), now.refs.get_mut(name)) {
                (Some(told), Some(lead)) if told == lead.id => lead.asked = lead.asked.max(began),
                (None, Some(lead)) if lead.asked < began => drop(now.refs.remove(name)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::KeptTip;
    use gix::bstr::ByteSlice;

    #[test]
    fn an_upstream_is_believed_for_a_while() {
        let annexed = Annexed::default();
        let id = |byte| AnyId::from_bytes_or_panic(&[byte; 20]);
        let kept = |ago_ms| {
            Tip::Kept(KeptTip {
                given_unix_ms: unix_ms() - ago_ms,
                used_unix_ms: 0,
                bytes: 0,
            })
        };
        let tips = [(id(1), kept(0)), (id(2), kept(60_000)), (id(3), Tip::Gone)];
        annexed.load(Tips(tips.into()), 60_000);
        let told = |byte| {
            let id = id(byte);
            let (is_fresh, is_kept) = (annexed.is_fresh(&id), annexed.is_kept(&id));
            (is_fresh, is_kept, annexed.may_serve(&id))
        };
        assert_eq!(told(1), (true, true, true));
        assert!(!annexed.is_all_fresh() && Annexed::default().is_all_fresh());
        assert_eq!(told(2), (false, true, false));
        assert_eq!(told(3), (false, false, false));
        assert_eq!(told(4), (false, false, true), "it is the mirror's");
        // However often it is used.
        annexed.note_used(&id(2));
        assert_eq!(told(2), (false, true, false));
    }

    #[test]
    fn a_ref_leads_to_what_it_led_to_a_moment_ago() {
        let (annexed, now) = (Annexed::default(), Instant::now());
        let (name, id) = (
            BStr::new("refs/pull/7/merge"),
            AnyId::null(gix::hash::Kind::Sha1),
        );
        assert_eq!(annexed.ref_since(name, None), None);
        annexed.note_ref(name, Some(id), now);
        assert_eq!(annexed.ref_since(name, Some(now)), Some(id));
        let later = now + std::time::Duration::from_millis(1);
        assert_eq!(annexed.ref_since(name, Some(later)), None);
        annexed.note_ref(name, None, later);
        assert_eq!(annexed.ref_since(name, None), None);
    }

    #[test]
    fn comparisons_make_refs_in_use_young() {
        let (annexed, began) = (Annexed::default(), Instant::now());
        let later = began + Duration::from_millis(1);
        let id = |byte| AnyId::from_bytes_or_panic(&[byte; 20]);
        let name = |which: &str| BString::from(format!("refs/pull/{which}/head"));
        let names = ["same", "moved", "gone"].map(name);
        for name in &names {
            annexed.note_ref(name.as_bstr(), Some(id(1)), began);
        }
        let in_use = annexed.refs_in_use();
        assert_eq!(in_use.len(), 3);
        let beside = Beside::of(in_use);
        beside.tell(vec![(names[0].clone(), id(1)), (names[1].clone(), id(2))]);
        annexed.note_told(&beside, later);
        let told = |since| {
            names
                .each_ref()
                .map(|name| annexed.ref_since(name.as_bstr(), since))
        };
        assert_eq!(told(Some(later)), [Some(id(1)), None, None]);
        // It is what there is, until the other is there.
        assert_eq!(told(None), [Some(id(1)), Some(id(1)), None]);
    }
}

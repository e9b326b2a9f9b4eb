//! An object store below any number of servers, as a protocol: what stands there, and who may write it when. It adds
//! no consensus to what the store promises ([`objects`]).
//!
//! ```text
//! PREFIX/v1/repos/HASH/head.json         the one object that matters and is ever replaced
//! PREFIX/v1/repos/HASH/parts/NAME.NONCE  packs, frames, refs, manifests: written once
//! PREFIX/v1/repos/HASH/lease.json        who works on the repository
//! PREFIX/v1/raised.json                  which repositories had something expire lately
//! PREFIX/v1/store.json                   a random id, made once
//! PREFIX/v1/lease.json                   who looks for what leaves
//! PREFIX/v1/used.json                    which were asked for lately
//! ```
//!
//! - [`head`]: what a head says, and what may follow it; functions without any input or output.
//! - [`next`]: which head may follow another one.
//! - [`change`]: what a server wants a head to say.
//! - [`listing`]: what is there, whatever heads say.
//! - [`pages`]: the same of what may be more than fits into memory, as it comes.
//! - [`swap`]: the one write that others may be making, too.
//! - [`publish`]: parts, then manifests, then one swap of the head.
//! - [`broken`]: what is to be uploaded again.
//! - [`collect`]: what nothing names any more leaves, in steps.
//! - [`day`]: on which day something was used.
//! - [`expiry`]: whole repositories that nobody uses leave, too.
//! - [`lease`]: who works on what. Nothing right rests on it.
//! - [`key`]: names of objects.
//! - [`bucket`], [`files`], [`any`]: the stores that are known.
//! - [`account`], [`profile`]: who asks, by variables and by the files of such stores' tools.
//! - [`breaker`]: whether it is asked at all.
//! - [`entry`]: an entry of the cache by its parts.
//! - [`name`]: whether a content is what its name says.
//! - [`sums`], [`plan`]: the checksums of their pieces, and in which order these are downloaded.
//! - [`memory`]: what a server remembers of heads, apart from its mirrors.
//! - [`store_id`]: which store it is.
//! - [`raised`]: where something has expired, for who does not look at all heads.
//! - [`used`]: what was asked for lately, for who starts with an empty disk.
//! - [`twice`]: whether what an upstream lists is believed.
//! - [`signed`]: where a client gets an object by itself.
//! - [`probe`]: whether one keeps its promises.
//! - [`kept`], [`asks`]: by what a bucket keeps what is removed, and how it is asked about that.
//!
//! What makes it right:
//!
//! 1. A head is swapped against the one that was read before the work began. So what a paused server has prepared is
//!    refused, and refs never go back.
//! 2. After a refusal or an error the object is read; a head has the writes before it, so that one's own is known
//!    again also when others have written since. Only another's write is a loss.
//! 3. No key is written twice: each try of an upload draws one. What was given up is never named again: a server names
//!    what the head names or has condemned, and what it has uploaded itself since a removal of which the head still
//!    has the list. So a removal that comes late removes nothing that anybody needs.
//! 4. A lease expires by the clock of who watches it.
//! 5. What a head names is not believed to be there: whoever publishes lists what is, and uploads the rest again. A part
//!    that a reader has found broken is marked by its key, and what is uploaded for it has another one.
//! 6. What has expired at one server is gone from the head by the swap that raises its generation, which names what was
//!    built since, so that it never names nothing of what somebody may want. It does not come back: a swap of an earlier
//!    generation is refused, and a server that finds a later one than its own first removes from its mirror all that no
//!    ref leads to, as the upstream has listed them twice.
//! 7. That others are to be told of an expiry, and the furthest head that was seen, is noted apart from the mirror: neither
//!    is forgotten because a mirror has left the disk. From a store that was restored to an earlier state nothing is taken.

mod account;
pub mod any;
pub mod asks;
pub mod breaker;
pub mod broken;
pub mod bucket;
pub mod change;
pub mod collect;
pub mod day;
pub mod entry;
pub mod expiry;
pub mod files;
pub mod head;
pub mod kept;
pub mod key;
pub mod lease;
pub mod listing;
pub mod memory;
pub(crate) mod name;
pub mod next;
pub mod objects;
pub mod pages;
pub mod plan;
pub mod probe;
pub mod profile;
pub mod publish;
pub mod raised;
pub mod signed;
pub mod store_id;
pub mod sums;
pub mod swap;
pub mod twice;
pub mod used;

//! What reads and checks what others have written, for the fuzz targets.

pub use super::budget::Budget;
pub use super::capture::Captured;
pub use super::chunk::Chunk;
pub use super::dates::Dates;
pub use super::decode::{Content, Space, Stream, joined_bytes, whole};
pub use super::frames::{Body, Cut, Cutter, Frame, Part};
pub use super::gitdir::{Modes, Restored, configuration};
pub use super::index::{Expected, refresh};
pub use super::login::basic;
pub use super::netrc::find as find_in_netrc;
pub use super::origin::{choose, read as said, shown};
pub use super::packs::check as check_packs;
pub use super::path::{Kind, Place, check as check_path, place};
pub use super::quota::Quota;
pub use super::refs::Refs;
pub use super::settings::{Users, scheme};
pub use super::stop::Stop;
pub use super::sums::{Running, Sums};
pub use super::tar::{Event, Meta, Parser};
pub use super::tracked::{Stale, Tracked};
pub use super::tree::{Unpacked, index as index_of};
pub use super::unpack::fetch_parts;
pub use super::url::{Server, User, base_target};

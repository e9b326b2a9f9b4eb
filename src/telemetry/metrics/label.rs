//! What tells the series of a family apart.

/// A label: an enum whose variants are the values, with their names in the same order.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_meta])* $value,)+
        }

        impl $name {
            /// The label values, in the order of the variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The label value.
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

label! {
    /// How a request was answered.
    Outcome {
        /// A snapshot from the cache.
        Hit = "hit",
        /// A snapshot from a build that was already running.
        Follow = "follow",
        /// A snapshot from a build that this request started.
        Build = "build",
        /// A condition held: 304 or 412.
        Precondition = "precondition",
        /// A `HEAD` of a snapshot.
        Head = "head",
        /// A manifest.
        Manifest = "manifest",
        /// A part.
        Part = "part",
        /// Of a part where it is to be had from the store.
        Redirect = "redirect",
        /// A bundle.
        Bundle = "bundle",
        /// `ensure-refs`.
        EnsureRefs = "ensure_refs",
        /// The git protocol.
        Git = "git",
        /// A webhook.
        Webhook = "webhook",
        /// Health, status or metrics.
        Admin = "admin",
        /// The request was wrong: 4xx.
        Refused = "refused",
        /// The server or the upstream failed: 5xx, or a response cut short.
        Error = "error",
        /// It was not: the client had left.
        Left = "left",
    }
}

label! {
    /// Why a connection ended before its time.
    DropReason {
        /// No byte taken for the stall time.
        Stall = "stall",
        /// No request for the idle time.
        Idle = "idle",
        /// The longest without a request when places were short.
        Crowded = "crowded",
        /// A body or the taking of a response was too slow while others waited.
        Slow = "slow",
        /// The client closed in the middle of a response.
        Gone = "gone",
        /// The grace time after SIGTERM was over.
        Shutdown = "shutdown",
        /// It did not speak TLS as it should, or its certificate was refused.
        Handshake = "handshake",
    }
}

label! {
    /// How a build ended.
    BuildResult {
        /// Published in the cache.
        Complete = "complete",
        /// Given up, for its clients left or the server stopped.
        Abandoned = "abandoned",
        /// Clients got an error.
        Failed = "failed",
        /// Clients got it, the cache did not.
        LiveOnly = "live_only",
    }
}

label! {
    /// Why a snapshot could not be spooled.
    SpoolFailure {
        /// ENOSPC or EDQUOT.
        DiskFull = "disk_full",
        /// Any other error.
        Io = "io",
    }
}

label! {
    /// What came of preparing cached data for sending.
    Prefault {
        /// It was in the page cache.
        Resident = "resident",
        /// It was read from disk.
        Read = "read",
        /// It could not be read.
        Failed = "failed",
    }
}

label! {
    /// How a first clone ended.
    CloneResult {
        /// There is a mirror.
        Complete = "complete",
        /// The upstream says that there is no such repository.
        NotFound = "not_found",
        /// It took longer than the limit.
        TimedOut = "timed_out",
        /// Anything else.
        Failed = "failed",
    }
}

label! {
    /// What became of a snapshot that was to be shared.
    OfferResult {
        /// The store has it now.
        Done = "done",
        /// The store had it.
        Known = "known",
        /// What the store had has left since nobody used it, and nobody has since.
        Unused = "unused",
        /// There is a newer one.
        Superseded = "superseded",
        /// It is tried again.
        Failed = "failed",
    }
}

label! {
    /// What an object store is asked for.
    StoreRequest {
        /// An object, or a part of one.
        Read = "read",
        /// To take an object.
        Upload = "upload",
        /// The same under a condition.
        Swap = "swap",
        /// What there is.
        List = "list",
        /// To remove an object.
        Remove = "remove",
    }
}

label! {
    /// What became of a lease.
    LeaseResult {
        /// This server has it.
        Taken = "taken",
        /// It has it no more, and others are told.
        GivenBack = "given_back",
        /// Somebody else may have it.
        Lost = "lost",
    }
}

label! {
    /// What became of a look for a snapshot in the store.
    ImportResult {
        /// It was taken.
        Done = "done",
        /// There is none.
        Absent = "absent",
        /// It could not be had.
        Failed = "failed",
    }
}

label! {
    /// What became of packs that were to take the place of a mirror's own.
    AdoptionResult {
        /// They have.
        Done = "done",
        /// They have, but for what they lack.
        Kept = "kept",
        /// Something was in the way.
        PutOff = "put_off",
        /// They could not be had.
        Failed = "failed",
    }
}

label! {
    /// What work is, of which so much runs at a time.
    WorkClass {
        /// A comparison of a mirror with its upstream.
        Comparison = "comparison",
        /// A fetch into a mirror.
        Fetch = "fetch",
        /// A first clone.
        Clone = "clone",
        /// A build.
        Build = "build",
        /// A pack of one commit, for a build.
        Pack = "pack",
    }
}

impl WorkClass {
    /// What people call several of it.
    pub(crate) const fn name_of_several(self) -> &'static str {
        match self {
            WorkClass::Comparison => "comparisons",
            WorkClass::Fetch => "fetches",
            WorkClass::Clone => "first clones",
            WorkClass::Build => "builds",
            WorkClass::Pack => "packs of one commit",
        }
    }
}

label! {
    /// Why a mirror is compared with its upstream, and whatever follows from that; what is asked for comes
    /// first.
    #[derive(Default, PartialOrd, Ord)]
    Cause {
        /// A request waits for it.
        #[default]
        Asked = "asked",
        /// A webhook says that something has moved.
        Webhook = "webhook",
        /// It was time.
        Timer = "timer",
    }
}

label! {
    /// What became of a webhook.
    WebhookResult {
        /// Its repository is looked at.
        Accepted = "accepted",
        /// It is about nothing that is served, or says nothing.
        Ignored = "ignored",
        /// Its signature is not one of the secrets'.
        Refused = "refused",
    }
}

label! {
    /// What came of reading files of secrets anew.
    ReloadResult {
        /// All are in force.
        Done = "done",
        /// One was wrong: nothing has changed.
        Failed = "failed",
    }
}

label! {
    /// How a fetch ended.
    FetchResult {
        /// Refs moved.
        Changed = "changed",
        /// Nothing new.
        Unchanged = "unchanged",
        /// It failed.
        Failed = "failed",
    }
}

label! {
    /// What came of asking an upstream for something that no followed ref leads to.
    AnnexResult {
        /// It is there.
        Given = "given",
        /// The upstream has it not, or does not give it out.
        Refused = "refused",
        /// It could not be asked.
        Failed = "failed",
    }
}

label! {
    /// What an upstream said of who may read.
    QuestionResult {
        /// Whoever asks may.
        Yes = "yes",
        /// He may not, or there is nothing.
        No = "no",
        /// Neither.
        Nothing = "nothing",
    }
}

label! {
    /// What became of a token of a CI system.
    CiToken {
        /// It was proven before.
        Known = "known",
        /// Its signature was checked, and is its issuer's.
        Proven = "proven",
        /// It is not believed, or not enough.
        Refused = "refused",
        /// Its issuer has not said by which keys it signs.
        Unsaid = "unsaid",
    }
}

label! {
    /// What came of a fetch of an issuer's keys.
    KeyFetchResult {
        /// They are known.
        Done = "done",
        /// They are not; those of before go on.
        Failed = "failed",
    }
}

label! {
    /// What came of a step of a mirror's upkeep that had something to do.
    MaintenanceResult {
        /// Packs were joined.
        Joined = "joined",
        /// A bitmap was made.
        Bitmap = "bitmap",
        /// A commit-graph was made.
        CommitGraph = "commit_graph",
        /// What no ref led to is gone.
        Expired = "expired",
        /// It took too long; it is tried again with twice the time.
        CutOff = "cut_off",
        /// A build reads the packs where they are; it is tried again.
        Busy = "busy",
        /// It failed.
        Failed = "failed",
    }
}

label! {
    /// What was removed to make room.
    Evicted {
        /// A snapshot that a newer one had replaced.
        Superseded = "superseded",
        /// Single commits that were fetched before a clone.
        Tips = "tips",
        /// A snapshot that was served.
        Snapshot = "snapshot",
        /// A mirror.
        Mirror = "mirror",
    }
}

label! {
    /// What came of a look at what the disk has.
    ScrubResult {
        /// A snapshot is what was published.
        EntrySound = "entry_sound",
        /// A snapshot has rotted.
        EntryDamaged = "entry_damaged",
        /// A mirror is what git wrote.
        MirrorSound = "mirror_sound",
        /// A mirror has rotted.
        MirrorDamaged = "mirror_damaged",
        /// Files could not be read.
        Unreadable = "unreadable",
    }
}

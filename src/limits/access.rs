//! Who may: credentials and tokens.

/// Longest credential that is read, as it stands in its header: the signed tokens of CI systems, with what
/// they say of a job, have some thousand bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;
/// So many letters and digits behind what tokens begin with may be one, or most of one. A user may well be
/// called `tarpon_builder`.
pub const TOKEN_LIKE_BYTES_MIN: usize = 16;
/// Random bytes of a token.
pub const TOKEN_BYTES: usize = 32;
/// Longest name of a token.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Most tokens of a server.
pub const TOKENS_MAX: usize = 100_000;
/// Largest file of them that is read: each may have a long name, and a line of comment.
pub const TOKENS_FILE_BYTES_MAX: u64 = 32 << 20;

const _: () = assert!(2 * TOKEN_BYTES >= TOKEN_LIKE_BYTES_MIN);

/// How long whoever asks waits until his upstream has said whether he may read a repository.
pub const QUESTION_LIMIT_MS: u64 = 10_000;
/// How long an upstream may take for that, redirects included: who comes then asks anew.
pub const QUESTION_ANSWER_MS: u64 = QUESTION_LIMIT_MS - 500;
/// Longest head of its answer.
pub const QUESTION_HEAD_BYTES_MAX: usize = 64 * 1024;
/// What is read of its content: what a host of version 2 says is far less, and of others the first line is
/// enough.
pub const QUESTION_ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// Connections to one upstream that stay open for the next question.
pub const QUESTION_IDLE_MAX: usize = 8;
/// Largest file of certificates that is read.
pub const ROOTS_FILE_BYTES_MAX: u64 = 16 << 20;
/// Questions to one upstream at the same time. Nobody has more of them than are left.
pub const QUESTIONS_RUNNING_MAX: u32 = 32;
/// The same, besides, of those who may read what they ask about.
pub const QUESTIONS_OF_PROVEN_MAX: u32 = 8;
/// Questions to one upstream that begin within a minute. The same holds of them.
pub const QUESTIONS_A_MINUTE_MAX: u32 = 3_000;
/// The same, besides, of those who may read what they ask about.
pub const QUESTIONS_OF_PROVEN_A_MINUTE_MAX: u32 = 1_000;
/// All who come by an address that is not counted, of this machine or of a proxy, have so many times what is left.
pub const QUESTIONS_WEIGHT_OF_PROXY: u32 = 3;
/// One credential has so many times what is left of what its client can have.
pub const QUESTIONS_WEIGHT_OF_CREDENTIAL: u32 = 3;
/// How often a question is asked for somebody, if the first was another one's and had no answer.
pub const QUESTION_TRIES_MAX: u32 = 2;
/// For how long an upstream's yes is believed.
pub const VERDICT_YES_MS: u64 = 60_000;
/// For how long its no is.
pub const VERDICT_NO_MS: u64 = 10_000;
/// For how long who might read something is told from strangers once that has to be asked again, unless the upstream
/// has said no since.
pub const VERDICT_REMEMBERED_MS: u64 = 3_600_000;
/// How often a comparison is begun again for somebody because it was refused to others.
pub const REFUSED_TRIES_MAX: u32 = 3;
/// Objects that are asked for in one question: a partial clone has as many fetched that it lacks. A request that names
/// more which no ref does is refused.
pub const SHOWN_AT_ONCE_MAX: usize = 10_000;
/// Objects of which a request says that the client has them that are looked for; of the rest it is not known here
/// that he has them. Those that count come first.
pub const HAVES_SHOWN_MAX: usize = 4_096;
/// Lines of a request that say so which are read at all: git's own client has some 16,000 in one, and more only where
/// it has far more history than there is here.
pub const HAVES_READ_MAX: usize = 65_536;
/// Yeses that are remembered.
pub const VERDICTS_YES_MAX: usize = 65_536;
/// Noes that are: those of whoever makes up credentials push out no yes.
pub const VERDICTS_NO_MAX: usize = 16_384;
/// Parts that verdicts are kept in, each with a lock of its own.
pub const VERDICT_SHARDS: usize = 16;
/// Threads that ask upstreams who may read, of all hosts together.
pub const ASKERS_MAX: usize = 80;
/// How many of them ask for nobody but those who may read what they ask about.
pub const ASKERS_OF_PROVEN: usize = 16;
/// How long one of them is kept that has nothing to do.
pub const ASKER_IDLE_MS: u64 = 10_000;
/// The stack of each: nothing of an answer lies there.
pub const ASKER_STACK_BYTES: usize = 512 << 10;
/// After so many questions without an answer an upstream is asked few at a time.
pub const QUESTIONS_UNANSWERED: u32 = 3;
/// How many: what hangs elsewhere leaves threads to others.
pub const QUESTIONS_OF_SILENT_MAX: u32 = 2;

const _: () = assert!(ASKERS_OF_PROVEN < ASKERS_MAX);
const _: () = assert!(QUESTIONS_OF_SILENT_MAX < QUESTIONS_RUNNING_MAX);

//! Remembers the first answer of a request, so that asking again is harmless.

use crate::stamp::Millis;

/// How long an answer is remembered, in log time; no command may be applied later than this after
/// it was made.
pub const WINDOW: Millis = Millis(60_000);

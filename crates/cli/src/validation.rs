//! What a figure of bits per byte is a figure of, for people: two of them can be laid side by side only when it is the
//! same.

use data::ByteCount;
use train::Evaluation;

use crate::units;

/// How it was counted: `full, window 256, stride 256, bytes raw`.
pub(crate) fn how(found: &Evaluation) -> String {
    let stride = found.stride.map_or_else(String::new, |stride| format!(", stride {stride}"));
    let bytes = match found.byte_count {
        ByteCount::Raw => "raw",
        ByteCount::Compat => "compat",
    };
    format!("{}, window {}{stride}, bytes {bytes}", found.protocol, found.window)
}

/// Over what: `72800 tokens, 298113 bytes, 512 documents in 285 windows`.
pub(crate) fn over(found: &Evaluation) -> String {
    let Evaluation { tokens, bytes, .. } = found;
    let documents = units::counted(found.documents as u64, "document");
    let windows = units::counted(found.windows as u64, "window");
    let unseen = match found.unseen_tokens {
        0 => String::new(),
        n => format!("; {n} of the tokens never occur in training"),
    };
    format!("{tokens} tokens, {bytes} bytes, {documents} in {windows}{unseen}")
}

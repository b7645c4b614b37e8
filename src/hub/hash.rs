//! Hashes as text.

use sha2::{Digest, Sha256};

/// SHA-1 or SHA-256, in lower-case hex.
pub(crate) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The SHA-256 of a text.
pub(super) fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

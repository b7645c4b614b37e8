//! What models and their files may be called: by the Hub's rules, and so that no name leads out of the store.

/// SHA-1 or SHA-256, in lower-case hex.
pub(crate) fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What the Hub allows in names of owners and repositories.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 96 && name.chars().all(plain) && !name.starts_with('.')
}

/// `owner/repo`, checked.
pub(crate) fn is_repo(repo: &str) -> bool {
    repo.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
}

/// A relative path that stays below where it begins, on every system.
pub(crate) fn is_file(path: &str) -> bool {
    let safe = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty() && !part.trim_matches(['.', ' ']).is_empty() && part.chars().all(safe)
        })
}

/// A branch, tag or commit: `main`, `refs/pr/1`, `v1.0`.
pub(crate) fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_name)
}

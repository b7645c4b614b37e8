//! Names on the Hub, as they are typed and as a browser's address bar has them.
//!
//! ```text
//! owner/repo[:QUANT][@revision]                  huggingface.co/owner/repo[/tree/REVISION[/FOLDER]]
//! owner/repo/file.gguf[@revision]                huggingface.co/owner/repo/blob|resolve|raw/REVISION/file.gguf
//! ```

use super::spec::{FileChoice, HubSpec, is_gguf};
use crate::store::names::{is_file, is_name, is_revision};
use crate::{Error, Result};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The Hub's own hosts, also with `www.`.
const HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];

/// What else the Hub has at `huggingface.co/WORD/…`.
const NO_OWNERS: [&str; 14] = [
    "blog",
    "chat",
    "collections",
    "datasets",
    "docs",
    "join",
    "learn",
    "login",
    "models",
    "organizations",
    "papers",
    "posts",
    "settings",
    "spaces",
];

/// Pages of a file.
const OF_FILES: [&str; 5] = ["resolve", "blob", "raw", "blame", "edit"];
/// Pages of a revision.
const OF_REVISIONS: [&str; 4] = ["tree", "commits", "commit", "revision"];
/// Pages of a repository.
const OF_REPOSITORIES: [&str; 4] = ["discussions", "settings", "activity", "community"];

/// Whether an address begins with `https://` or `http://`.
pub(super) fn is_http(text: &str) -> bool {
    scheme(text).is_some_and(|(scheme, _)| scheme == "https" || scheme == "http")
}

/// What follows the Hub's host, or that of `mirror`, in an address; its beginning may be missing.
pub(super) fn on_hub<'a>(text: &'a str, mirror: Option<&str>) -> Option<&'a str> {
    let rest = match scheme(text) {
        // As Python's file systems have it: `hf://owner/repo/file`.
        Some((scheme, rest)) if scheme == "hf" => return Some(rest),
        Some((scheme, rest)) if scheme == "https" || scheme == "http" => rest,
        Some(_) => return None,
        None => text,
    };
    let (host, path) = authority(rest);
    let whole = host.to_ascii_lowercase();
    let name = whole.strip_suffix(":443").or_else(|| whole.strip_suffix(":80")).unwrap_or(&whole);
    if HOSTS.contains(&name.strip_prefix("www.").unwrap_or(name)) {
        return Some(path);
    }
    let (at, below) = authority(scheme(mirror?)?.1);
    let below = below.trim_end_matches('/');
    let inside = path.strip_prefix(below).filter(|path| path.is_empty() || path.starts_with(['/', '?', '#']));
    inside.filter(|_| at.eq_ignore_ascii_case(host))
}

/// What comes after the host on the Hub.
pub(super) fn read(rest: &str) -> Result<HubSpec> {
    let rest = rest.split('#').next().unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.starts_with(&["api", "models"]) {
        parts.drain(..2);
    }
    let spec = match parts[..] {
        [owner, _, ..] if NO_OWNERS.contains(&owner) => None,
        [owner, repo] => plain(owner, &decoded(repo), None),
        [owner, repo, page, ..] if OF_REPOSITORIES.contains(&page) => plain(owner, repo, None),
        [owner, repo, page, _, ..] if is_page(page) => of_page(owner, repo, page, &parts[3..]),
        [owner, repo, ..] => plain(owner, &decoded(repo), Some(&*decoded(&parts[2..].join("/")))),
        _ => None,
    };
    // The Hub's own look into a file, which leaves the repository's page where it is.
    let shown = query.split('&').find_map(|part| part.strip_prefix("show_file_info="));
    let shown = shown.map(|file| decoded(&file.replace('+', " ")).into_owned());
    let spec = match (spec, shown) {
        (Some(spec), Some(file)) if is_gguf(&file) && is_file(&file) => {
            Some(HubSpec { file: FileChoice::File(file), ..spec })
        }
        (spec, _) => spec,
    };
    spec.ok_or_else(|| {
        Error::invalid_argument(format!(
            "\"{}\" names no model on the Hub. Give owner/repo or a .gguf file of it",
            path.trim_matches('/')
        ))
    })
}

/// `owner/repo…`, where a text can be that.
pub(super) fn name(text: &str) -> Option<HubSpec> {
    let text = text.split('?').next().unwrap_or(text);
    // A file's name may have a `#`.
    let text = if is_gguf(text) { text } else { text.split('#').next().unwrap_or(text) };
    let text = text.trim_end_matches('/');
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        // Only a host is missing.
        [owner, repo, page, _, _, ..] if OF_FILES.contains(&page) => of_page(owner, repo, page, &parts[3..]),
        [owner, repo, "tree", _, ..] => of_page(owner, repo, "tree", &parts[3..]),
        [owner, repo] => plain(owner, repo, None),
        [owner, repo, ..] => plain(owner, repo, Some(&parts[2..].join("/"))),
        _ => None,
    }
}

fn is_page(name: &str) -> bool {
    OF_FILES.contains(&name) || OF_REVISIONS.contains(&name)
}

/// A page that shows a revision, or something in it.
fn of_page(owner: &str, repo: &str, page: &str, rest: &[&str]) -> Option<HubSpec> {
    let (revision, path) = revision_of(rest);
    let path = decoded(&path.join("/")).into_owned();
    let file = match page {
        _ if is_gguf(&path) && is_file(&path) => FileChoice::File(path),
        "tree" if is_file(&path) => FileChoice::Folder(path),
        _ if OF_REVISIONS.contains(&page) => FileChoice::Any,
        _ => return None,
    };
    let spec = plain(owner, repo, None)?;
    is_revision(&revision).then_some(HubSpec { file, revision: Some(revision), ..spec })
}

/// The revision that parts of a path begin with, and what follows. Git's own names have slashes: `refs/pr/1`.
fn revision_of<'a>(parts: &'a [&'a str]) -> (String, &'a [&'a str]) {
    let count = match parts {
        ["refs", "pr" | "convert" | "heads" | "tags", _, ..] => 3,
        _ => parts.len().min(1),
    };
    let (revision, rest) = parts.split_at(count);
    (decoded(&revision.join("/")).into_owned(), rest)
}

/// `repo`, `repo:QUANT` and `repo@revision` of an owner, and a file, which a revision may follow.
fn plain(owner: &str, repo: &str, file: Option<&str>) -> Option<HubSpec> {
    let (name, revision, file) = match (repo.split_once('@'), file) {
        // Neither repositories nor quantizations have an `@`: what follows is a revision, perhaps with slashes.
        (Some((name, revision)), file) => {
            let rest = file.map_or_else(|| revision.to_owned(), |file| format!("{revision}/{file}"));
            match is_gguf(&rest) {
                true => {
                    let parts: Vec<&str> = rest.split('/').collect();
                    let (revision, file) = revision_of(&parts);
                    (name, Some(revision), Some(file.join("/")))
                }
                false => (name, Some(decoded(&rest).into_owned()), None),
            }
        }
        // Files may have one.
        (None, Some(file)) if !is_gguf(file) => {
            let (file, revision) = file.rsplit_once('@')?;
            (repo, Some(revision.to_owned()), Some(file.to_owned()))
        }
        (None, file) => (repo, None, file.map(str::to_owned)),
    };
    let (name, tag) = name.split_once(':').map_or((name, None), |(name, tag)| (name, Some(tag)));
    let wanted = match (file, tag) {
        (Some(file), None) if is_gguf(&file) && is_file(&file) => FileChoice::File(file),
        // As Ollama has them: the usual one, and files.
        (None, Some(tag)) if tag.eq_ignore_ascii_case("latest") => FileChoice::Any,
        (None, Some(tag)) if is_gguf(tag) && is_file(tag) => FileChoice::File(tag.to_owned()),
        (None, Some(tag)) if is_name(tag) => FileChoice::Quantization(tag.to_owned()),
        // `models/story.gguf` is a path.
        (None, None) if !is_gguf(name) => FileChoice::Any,
        _ => return None,
    };
    // What git clones.
    let name = name.strip_suffix(".git").unwrap_or(name);
    let named = is_name(owner) && is_name(name) && revision.as_deref().is_none_or(is_revision);
    named.then(|| HubSpec { repo: format!("{owner}/{name}"), file: wanted, revision })
}

/// The scheme of an address in lower case, and what follows.
fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    Some((scheme.to_ascii_lowercase(), rest))
}

/// Host and port, without who asks there; and the path.
fn authority(rest: &str) -> (&str, &str) {
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (host.rsplit_once('@').map_or(host, |(_, host)| host), path)
}

/// Without `%20`; as it is where that would be no text.
fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::super::spec::{ALIASES, Spec};
    use crate::Code;

    fn hub_name(text: &str, mirror: Option<&str>) -> String {
        match Spec::at(text, mirror) {
            Ok(Spec::Hub(spec)) => spec.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn names_and_addresses_of_models() {
        let commit = "0123456789012345678901234567890123456789";
        let at_commit = format!("https://huggingface.co/o/r/commit/{commit}");
        let of_commit = format!("o/r@{commit}");
        let cases = [
            ("owner/repo", "owner/repo"),
            (" \u{a0}owner/repo\u{200b}\n", "owner/repo"),
            ("owner/repo/", "owner/repo"),
            ("owner/repo:q4_k_m", "owner/repo:q4_k_m"),
            ("owner/repo:UD-Q4_K_XL", "owner/repo:UD-Q4_K_XL"),
            ("owner/repo:latest", "owner/repo"),
            ("owner/repo:m-Q4_K_M.gguf", "owner/repo/m-Q4_K_M.gguf"),
            ("owner/repo:Q8_0@v1.0", "owner/repo:Q8_0@v1.0"),
            ("owner/repo@refs/pr/3", "owner/repo@refs/pr/3"),
            ("owner/repo@feature/x", "owner/repo@feature/x"),
            ("owner/repo@v2/sub/file.gguf", "owner/repo/sub/file.gguf@v2"),
            ("owner/repo@refs/pr/3/file.gguf", "owner/repo/file.gguf@refs/pr/3"),
            ("owner/repo@refs%2Fpr%2F3/file.gguf", "owner/repo/file.gguf@refs/pr/3"),
            ("owner/repo/file.gguf", "owner/repo/file.gguf"),
            ("owner/repo/FILE.GGUF", "owner/repo/FILE.GGUF"),
            ("owner/repo/a@b.gguf", "owner/repo/a@b.gguf"),
            ("owner/repo/a@b.gguf@main", "owner/repo/a@b.gguf@main"),
            ("owner/repo/c#1.gguf", "owner/repo/c#1.gguf"),
            ("owner/repo#readme", "owner/repo"),
            ("owner/repo?library=gguf", "owner/repo"),
            ("owner/repo/sub/file.gguf@refs/pr/3", "owner/repo/sub/file.gguf@refs/pr/3"),
            ("owner/repo/file.gguf?download=true", "owner/repo/file.gguf"),
            ("owner/repo/tree/main", "owner/repo@main"),
            ("owner/repo/blob/main/My%20Model.gguf", "owner/repo/My Model.gguf@main"),
            ("hf.co/owner/repo:Q8_0", "owner/repo:Q8_0"),
            ("HF.co/owner/repo:Q8_0", "owner/repo:Q8_0"),
            ("huggingface.co/o/r", "o/r"),
            ("www.huggingface.co/o/r", "o/r"),
            ("http://huggingface.co/o/r", "o/r"),
            ("HTTPS://WWW.HuggingFace.co/o/r/", "o/r"),
            ("https://huggingface.co:443/o/r", "o/r"),
            ("https://user:password@huggingface.co/o/r.git", "o/r"),
            ("hf://o/r@v1/a/b.gguf", "o/r/a/b.gguf@v1"),
            ("hf://o/r", "o/r"),
            ("https://huggingface.co//o/r///", "o/r"),
            ("https://huggingface.co/owner/repo/", "owner/repo"),
            ("https://huggingface.co/o/r?not-for-all-audiences=true#usage", "o/r"),
            ("https://huggingface.co/o/r#model-details", "o/r"),
            ("https://huggingface.co/o/r?show_file_info=m-Q4_K_M.gguf", "o/r/m-Q4_K_M.gguf"),
            ("https://huggingface.co/o/r/tree/main?show_file_info=a%2Fm.gguf", "o/r/a/m.gguf@main"),
            ("https://huggingface.co/o/r/discussions/12", "o/r"),
            ("https://huggingface.co/o/r/commits/main", "o/r@main"),
            (&at_commit, &of_commit),
            ("https://huggingface.co/api/models/o/r", "o/r"),
            ("https://huggingface.co/api/models/o/r/tree/main", "o/r@main"),
            ("https://huggingface.co/o/r/blob/main/a/b.gguf?download=true", "o/r/a/b.gguf@main"),
            ("https://huggingface.co/o/r/raw/main/b.gguf", "o/r/b.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/b.gguf?download=true#x", "o/r/b.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/a%20b.gguf", "o/r/a b.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/%C3%B6.gguf", "o/r/ö.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/100%.gguf", "o/r/100%.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/a%2fb.gguf", "o/r/a/b.gguf@main"),
            ("https://huggingface.co/o/r/resolve/main/a@b.gguf", "o/r/a@b.gguf@main"),
            ("https://huggingface.co/o/r/a%40b.gguf", "o/r/a@b.gguf"),
            ("https://huggingface.co/o/r/file.gguf", "o/r/file.gguf"),
            ("https://huggingface.co/o/r/tree/refs%2Fpr%2F1", "o/r@refs/pr/1"),
            ("https://huggingface.co/o/r/tree/refs%2fpr%2f1", "o/r@refs/pr/1"),
            ("https://huggingface.co/o/r/tree/refs/pr/1", "o/r@refs/pr/1"),
            ("https://huggingface.co/o/r/blob/refs%2fpr%2f1/b.gguf", "o/r/b.gguf@refs/pr/1"),
            ("https://huggingface.co/o/r/blob/refs/pr/1/a/b.gguf", "o/r/a/b.gguf@refs/pr/1"),
            ("https://hf.co/o/r/tree/main", "o/r@main"),
            ("https://hf.co/o/r/tree/main/Q4_K_M", "o/r/tree/main/Q4_K_M"),
            ("https://hf.co/o/r/tree/refs%2Fpr%2F1/a%20b/", "o/r/tree/refs%2Fpr%2F1/a b"),
            ("https://hf.co/o/r/tree/main/b.gguf", "o/r/b.gguf@main"),
            ("smollm2", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0"),
        ];
        for (text, name) in cases {
            assert_eq!(hub_name(text, None), name, "{text}");
            // It is what it is written as.
            assert_eq!(name.parse::<Spec>().unwrap(), text.parse().unwrap(), "{text}");
        }
        for (_, name) in ALIASES {
            hub_name(name, None);
        }
    }

    #[test]
    fn addresses_of_a_mirror() {
        let below = Some("http://localhost:8080/hub");
        for text in [
            "http://localhost:8080/hub/o/r/resolve/main/b.gguf",
            "localhost:8080/hub/o/r/blob/main/b.gguf",
            "https://LOCALHOST:8080/hub/o/r/raw/main/b.gguf?x=1",
            "https://huggingface.co/o/r/blob/main/b.gguf",
        ] {
            assert_eq!(hub_name(text, below), "o/r/b.gguf@main", "{text}");
        }
        assert_eq!(hub_name("mirror.org/o/r", Some("https://mirror.org")), "o/r");
        for elsewhere in
            ["http://localhost:8080/hubs/o/r", "http://localhost:8081/hub/o/r", "http://localhost/hub/o/r"]
        {
            assert_eq!(Spec::at(elsewhere, below), Ok(Spec::Url(elsewhere.to_owned())));
        }
    }

    #[test]
    fn what_is_on_no_hub() {
        let paths = [
            "model.gguf",
            "./a/b",
            "/a/b",
            "../a/b/c.gguf",
            "models/story.gguf",
            "models/story.gguf?version=1",
            "a/b/c.bin",
            "~/x",
            "a/b/../c.gguf",
            "a//b",
            "a/",
            "a",
        ];
        for path in paths {
            assert_eq!(path.parse(), Ok(Spec::Path(path.to_owned())));
        }
        let url = "https://example.org/model.gguf?key=secret";
        assert_eq!(url.parse::<Spec>().unwrap().to_string(), "https://example.org/model.gguf");
        assert!(matches!("HTTPS://nohuggingface.co/o/r".parse(), Ok(Spec::Url(_))));
        for bad in [
            "",
            " ",
            "ftp://a/b",
            "huggingface.co",
            "https://huggingface.co/owner",
            "https://hf.co/a/b/c.bin",
            "https://huggingface.co/o/r/blob/main/README.md",
            "https://huggingface.co/o/r/blob/main/..%2F..%2Fx.gguf",
            "https://huggingface.co/datasets/o/r",
            "https://huggingface.co/spaces/o/r",
        ] {
            let error = bad.parse::<Spec>().unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{bad}");
        }
        let error = "https://hf.co/o/r/blob/main/x.bin?Signature=secret".parse::<Spec>().unwrap_err();
        assert!(!error.message.contains("secret"), "{error}");
    }
}

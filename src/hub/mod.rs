//! Models by name: from the Hugging Face Hub, or any server, into the store and to the engine.
//!
//! ```text
//! Spec ─► Client: commit, files, hashes ─► choose ─► Download, one a part ─► Store
//!                                                        └► Source, read while it comes
//! ```
//!
//! A name is looked up once: what is in the store is used as it is, without asking the Hub, until
//! [`Models::pull`] or `force` look for something newer. Facts about the Hub: <https://huggingface.co/docs/hub/api>.

mod address;
mod cached;
mod choose;
mod client;
mod download;
mod find;
mod model;
mod models;
mod patience;
mod remote;
mod spec;

pub use cached::{Cached, Verification};
pub use choose::RemoteFile;
pub use client::{Client, Repository};
pub use download::{Download, Report, Sizes};
pub use find::Found;
pub use model::{Model, Peek};
pub use models::Models;
pub use remote::Remote;
pub use spec::{ALIASES, FileChoice, HubSpec, Spec};

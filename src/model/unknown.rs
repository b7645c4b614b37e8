//! Architectures that nobody here knows: often another one by a new name.

use super::config::Config;
use super::decoder::Decoder;
use super::family::{FAMILIES, Family};
use crate::format::gguf::Header;
use crate::store::Source;
use crate::{Error, Result};
use futures_util::FutureExt;

/// Tokens of a context that is recorded to see what a model needs, and rows of its steps.
const LITTLE: usize = 64;

impl Config {
    /// As [`Config::from_header`]. Where the architecture is unknown, but all that its file has is what a known one needs,
    /// the error says so.
    pub fn read(source: &dyn Source, header: &Header) -> Result<Config> {
        let error = match Config::from_header(header) {
            Ok(config) => return Ok(config),
            Err(error) => error.context(source.name()),
        };
        let name = header.metadata.text("general.architecture").ok().flatten();
        let alike =
            name.filter(|name| Family::named(name).is_err()).and_then(|name| alike(source, header, &name));
        match alike {
            None => Err(error),
            Some(family) => Err(Error {
                message: format!(
                    "{}. Its keys and tensors are all those of {}: if it computes the same, the file will run with that as its \
                     general.architecture, and its keys renamed",
                    error.message, family.name
                ),
                ..error
            }),
        }
    }
}

/// The first family with whose rules all of the file is read, under the prefix `name`.
fn alike(source: &dyn Source, header: &Header, name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| {
        let Ok(config) = Config::of_family(header, family, name) else { return false };
        // Without weights there is nothing to wait for.
        let recorded = Decoder::program(source, header, &config, LITTLE, LITTLE).now_or_never();
        recorded.is_some_and(|program| program.is_ok())
    })
}

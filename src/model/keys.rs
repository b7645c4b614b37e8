//! The numbers that a file has about its model.

use crate::format::gguf::Metadata;
use crate::{Error, Result};

/// Keys of one architecture: `{architecture}.{key}`.
pub(super) struct Keys<'a> {
    pub metadata: &'a Metadata,
    pub prefix: &'a str,
}

impl Keys<'_> {
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    /// A size from 1 to `max`.
    pub(super) fn size(&self, key: &str, max: u32) -> Result<Option<usize>> {
        let name = self.name(key);
        self.metadata.integer(&name)?.map(|value| in_range(&name, value, max)).transpose()
    }

    /// The same where a file may have a number for each of the `layers`. Those that differ are not supported.
    pub(super) fn layered(&self, key: &str, max: u32, layers: usize) -> Result<Option<usize>> {
        let name = self.name(key);
        let Some(len) = self.metadata.array_len(&name) else { return self.size(key, max) };
        check_layers(&name, len, layers)?;
        let values = self.metadata.integers(&name)?.unwrap_or_default();
        if values.iter().any(|&value| value != values[0]) {
            return Err(Error::unsupported_model(format!(
                "metadata {name} differs from layer to layer, which candlewick cannot run yet"
            )));
        }
        in_range(&name, values[0].into(), max).map(Some)
    }

    fn missing(&self, key: &str) -> Error {
        Error::corrupt_model(format!("metadata {} is missing", self.name(key)))
    }

    pub(super) fn required(&self, key: &str, max: u32) -> Result<usize> {
        self.size(key, max)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn required_layered(&self, key: &str, max: u32, layers: usize) -> Result<usize> {
        self.layered(key, max, layers)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.f32(&self.name(key))
    }

    /// A number above 0; 0 counts as absent.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.f32(key)? {
            Some(value) if value < 0.0 => {
                Err(Error::corrupt_model(format!("metadata {} is {value}, below 0", self.name(key))))
            }
            value => Ok(value.filter(|&value| value > 0.0)),
        }
    }
}

fn in_range(name: &str, value: i128, max: u32) -> Result<usize> {
    match value {
        1.. if value <= max.into() => Ok(value as usize),
        _ => Err(Error::corrupt_model(format!("metadata {name} is {value}; it must be from 1 to {max}"))),
    }
}

/// Whether a list has a value for each of the layers.
pub(super) fn check_layers(name: &str, values: usize, layers: usize) -> Result<()> {
    match values == layers {
        true => Ok(()),
        false => {
            Err(Error::corrupt_model(format!("metadata {name} has {values} values for {layers} layers")))
        }
    }
}

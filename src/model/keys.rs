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
        self.metadata.integer(&name)?.map(|value| in_range(&name, value, 1, max)).transpose()
    }

    /// A number from `least` to `max` for each of the `layers`: a file may have one for all of them, or a list.
    pub(super) fn layered(
        &self,
        key: &str,
        least: u32,
        max: u32,
        layers: usize,
    ) -> Result<Option<Vec<usize>>> {
        let name = self.name(key);
        let checked = |value: i128| in_range(&name, value, least, max);
        let Some(len) = self.metadata.array_len(&name) else {
            let value = self.metadata.integer(&name)?.map(checked).transpose()?;
            return Ok(value.map(|value| vec![value; layers]));
        };
        check_layers(&name, len, layers)?;
        let values = self.metadata.integers(&name)?.unwrap_or_default();
        values.into_iter().map(|value| checked(value.into())).collect::<Result<Vec<_>>>().map(Some)
    }

    fn missing(&self, key: &str) -> Error {
        Error::corrupt_model(format!("metadata {} is missing", self.name(key)))
    }

    pub(super) fn required(&self, key: &str, max: u32) -> Result<usize> {
        self.size(key, max)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn required_layered(
        &self,
        key: &str,
        least: u32,
        max: u32,
        layers: usize,
    ) -> Result<Vec<usize>> {
        self.layered(key, least, max, layers)?.ok_or_else(|| self.missing(key))
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

fn in_range(name: &str, value: i128, least: u32, max: u32) -> Result<usize> {
    match value {
        _ if (least.into()..=max.into()).contains(&value) => Ok(value as usize),
        _ => {
            let message = format!("metadata {name} is {value}; it must be from {least} to {max}");
            Err(Error::corrupt_model(message))
        }
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

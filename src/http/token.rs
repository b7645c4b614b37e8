//! What proves who asks.

use crate::{Error, Result};
use serde::Deserialize;
use std::fmt;

/// A key. It is sent in a header and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as people paste it.
    pub fn new(token: &str) -> Result<Token> {
        let token = token.trim();
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || !printable {
            return Err(Error::invalid_argument("the token is empty or has characters that no token has"));
        }
        Ok(Token(token.to_owned()))
    }

    /// The user's own for Hugging Face: `HF_TOKEN`, `HUGGINGFACE_API_KEY`, `HUGGINGFACE_API_TOKEN`, or what
    /// `hf auth login` left in `HF_TOKEN_PATH`, by default `token` in the folder `home` (`HF_HOME`).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_environment(home: &std::path::Path) -> Option<Token> {
        let names = ["HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGINGFACE_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
        names.iter().find_map(|name| Token::new(&std::env::var(name).ok()?).ok()).or_else(|| {
            let path = std::env::var_os("HF_TOKEN_PATH").map_or_else(|| home.join("token"), Into::into);
            Token::new(&std::fs::read_to_string(path).ok()?).ok()
        })
    }

    /// For a header.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        Token::new(&String::deserialize(value)?).map_err(|error| serde::de::Error::custom(error.message))
    }
}

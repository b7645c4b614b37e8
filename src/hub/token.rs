//! The user's key to private and gated models.

use std::fmt;

/// A token. It goes into one header of requests to the Hub, and nowhere else: no text of it can be had by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Surrounding white space does not count; nothing is left of an empty one.
    pub fn new(token: &str) -> Option<Token> {
        let token = token.trim();
        (!token.is_empty()).then(|| Token(token.to_owned()))
    }

    /// The user's own: `HF_TOKEN`, `HUGGINGFACE_API_KEY`, `HUGGINGFACE_API_TOKEN`, or what `hf auth login` left
    /// in `HF_TOKEN_PATH`, by default `token` in the folder `home` (`HF_HOME`).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_environment(home: &std::path::Path) -> Option<Token> {
        let names = ["HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGINGFACE_API_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
        names.iter().find_map(|name| Token::new(&std::env::var(name).ok()?)).or_else(|| {
            let path = std::env::var_os("HF_TOKEN_PATH").map_or_else(|| home.join("token"), Into::into);
            Token::new(&std::fs::read_to_string(path).ok()?)
        })
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

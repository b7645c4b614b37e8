//! What OpenAI's interface takes for a text: one or several, as words or as token ids.

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

const EXPECTED: &str = "a text, a list of texts, a list of token ids or a list of lists of token ids";

/// A text, or the same as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// One or several; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inputs(pub Vec<Input>);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Reads;

        impl<'de> Visitor<'de> for Reads {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs(vec![Input::Text(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inputs, A::Error> {
                let (mut inputs, mut tokens) = (Vec::new(), Vec::new());
                while let Some(item) = items.next_element()? {
                    match item {
                        Item::Input(input) => inputs.push(input),
                        Item::Token(token) => tokens.push(token),
                    }
                }
                let same =
                    |input: &Input| std::mem::discriminant(input) == std::mem::discriminant(&inputs[0]);
                match (inputs.is_empty(), tokens.is_empty()) {
                    (true, true) => Err(A::Error::custom(format!("must be {EXPECTED}, not an empty list"))),
                    (true, false) => Ok(Inputs(vec![Input::Tokens(tokens)])),
                    (false, true) if inputs.iter().all(same) => Ok(Inputs(inputs)),
                    (false, _) => {
                        Err(A::Error::custom(format!("must be {EXPECTED}, not a mixture of these")))
                    }
                }
            }
        }
        value.deserialize_any(Reads)
    }
}

enum Item {
    Input(Input),
    Token(u32),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Reads;

        impl<'de> Visitor<'de> for Reads {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text, a token id or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Input(Input::Text(text.to_owned())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Item, E> {
                let token = u32::try_from(number);
                token.map(Item::Token).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Item, E> {
                match number.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(&number) {
                    true => Ok(Item::Token(number as u32)),
                    false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = items.next_element()? {
                    tokens.push(token);
                }
                Ok(Item::Input(Input::Tokens(tokens)))
            }
        }
        value.deserialize_any(Reads)
    }
}

//! serde's types out of JSON, with this crate's errors.

use super::words::{Fault, one_of};
use serde::Deserializer;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde_json::{Map, Number, Value, map};
use std::cell::RefCell;

type Result<T> = std::result::Result<T, Fault>;

/// Reads one value.
#[derive(Clone, Copy)]
pub(super) struct Reader<'de> {
    value: &'de Value,
    /// Gets the names of the fields that the type has.
    known: Option<&'de RefCell<Vec<&'static str>>>,
}

impl<'de> Reader<'de> {
    pub(super) fn new(value: &'de Value) -> Self {
        Reader { value, known: None }
    }

    pub(super) fn noting(value: &'de Value, known: &'de RefCell<Vec<&'static str>>) -> Self {
        Reader { value, known: Some(known) }
    }

    fn invalid<T>(self, expected: &str) -> Result<T> {
        Err(Fault::invalid_type(self.unexpected(), &expected))
    }

    fn unexpected(self) -> Unexpected<'de> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Unexpected::Unsigned(number),
                (None, Some(number)) => Unexpected::Signed(number),
                (None, None) => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }

    /// A whole number in whichever form it is written.
    fn whole<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let number = self.value.as_number().and_then(Number::as_f64).and_then(super::whole);
        match self.value.as_number().and_then(Number::as_i128).or(number) {
            Some(number) => match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => Err(Fault::invalid_value(self.unexpected(), &visitor)),
            },
            None => Err(Fault::invalid_type(self.unexpected(), &visitor)),
        }
    }
}

macro_rules! whole {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.whole(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Object(fields) => visitor.visit_map(Entries::new(fields, false)),
        }
    }

    whole! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value.as_f64().is_some_and(|number| !(number as f32).is_finite()) {
            true => self.invalid("a number up to 3.4e38"),
            false => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if let Some(known) = self.known {
            known.borrow_mut().extend(fields);
        }
        match self.value {
            Value::Object(fields) => visitor.visit_map(Entries::new(fields, true)),
            _ => self.invalid("an object"),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.value {
            Value::String(name) => visitor.visit_enum(Name(name)),
            _ => self.invalid(&one_of(names)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i128 u128 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'de> {
    items: &'de [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(Reader::new(item)).map(Some).map_err(|fault| fault.in_item(self.next - 1))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Entries<'de> {
    entries: map::Iter<'de>,
    /// Whether null stands for a field that is not there.
    skips_nulls: bool,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> Entries<'de> {
    fn new(fields: &'de Map<String, Value>, skips_nulls: bool) -> Self {
        Entries { entries: fields.iter(), skips_nulls, value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let skips = self.skips_nulls;
        let Some((name, value)) = self.entries.find(|(_, value)| !skips || !value.is_null()) else {
            return Ok(None);
        };
        self.value = Some((name, value));
        let name: StrDeserializer<Fault> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value> {
        let (name, value) = self.value.take().ok_or_else(|| Fault::custom("a value without a name"))?;
        seed.deserialize(Reader::new(value)).map_err(|fault| fault.in_field(name))
    }
}

/// One of several names.
struct Name<'de>(&'de str);

impl<'de> EnumAccess<'de> for Name<'de> {
    type Error = Fault;
    type Variant = Alone;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Alone)> {
        let name: StrDeserializer<Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Alone))
    }
}

/// Nothing follows the name.
struct Alone;

impl<'de> VariantAccess<'de> for Alone {
    type Error = Fault;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value> {
        Err(Fault::custom("must be an object"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value> {
        Err(Fault::custom("must be an object"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value> {
        Err(Fault::custom("must be an object"))
    }
}

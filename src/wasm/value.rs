//! What JavaScript gives, as JSON.

use crate::json::{self, DEEPEST};
use crate::{Error, Result};
use js_sys::{Array, ArrayBuffer, BigInt, Map as JsMap, Object};
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use wasm_bindgen::{JsCast, JsValue};

/// Reads a value, which messages call `what`.
pub(super) fn from_js<T: DeserializeOwned>(what: &str, value: &JsValue) -> Result<T> {
    json::read(what, &from_js_value(what, value)?)
}

/// The value as JSON; with nothing as `what` it is a request. Fields that are undefined are left out. Fails with `invalid_argument`, which names the place,
/// where there is something else, or a number that is not finite: those would become null.
pub(super) fn from_js_value(what: &str, value: &JsValue) -> Result<Value> {
    convert(value, 0).map_err(|fault| match fault {
        Fault::TooDeep => json::too_deep(if what.is_empty() { "the request" } else { what }),
        Fault::At(place, message) if what.is_empty() && place.is_empty() => {
            Error::invalid_argument(format!("the request {message}"))
        }
        Fault::At(place, message) => {
            let dot = if what.is_empty() || place.is_empty() || place.starts_with('[') { "" } else { "." };
            Error::invalid_argument(format!("{what}{dot}{place} {message}"))
        }
    })
}

enum Fault {
    TooDeep,
    At(String, String),
}

impl Fault {
    fn below(self, name: &str) -> Fault {
        match self {
            Fault::TooDeep => self,
            Fault::At(place, message) => {
                let dot = if place.is_empty() || place.starts_with('[') { "" } else { "." };
                Fault::At(format!("{name}{dot}{place}"), message)
            }
        }
    }
}

fn convert(value: &JsValue, depth: usize) -> Result<Value, Fault> {
    let wrong = |message: String| Err(Fault::At(String::new(), message));
    if value.is_null() || value.is_undefined() {
        return Ok(Value::Null);
    }
    if let Some(value) = value.as_bool() {
        return Ok(value.into());
    }
    if let Some(number) = value.as_f64() {
        return match number.is_finite() {
            // As it would be written.
            true if number.fract() == 0.0 && number.abs() < 9e15 => Ok((number as i64).into()),
            true => Ok(number.into()),
            false => wrong(format!("must be a finite number, not {number}")),
        };
    }
    if let Some(text) = value.as_string() {
        return Ok(text.into());
    }
    if let Some(number) = value.dyn_ref::<BigInt>() {
        let text: String = number.to_string(10).map_or_else(|_| String::new(), Into::into);
        let number = text.parse().ok().and_then(Number::from_i128);
        return match number {
            Some(number) => Ok(number.into()),
            None => wrong(format!("must be a whole number from {} to {}", i64::MIN, u64::MAX)),
        };
    }
    if depth == DEEPEST {
        return Err(Fault::TooDeep);
    }
    // Typed arrays are lists of numbers too.
    if Array::is_array(value) || ArrayBuffer::is_view(value) {
        let items = Array::from(value);
        let mut list = Vec::with_capacity(items.length() as usize);
        for (index, item) in items.iter().enumerate() {
            list.push(convert(&item, depth + 1).map_err(|fault| fault.below(&format!("[{index}]")))?);
        }
        return Ok(list.into());
    }
    let Some(object) = value.dyn_ref::<Object>().filter(|_| !value.is_function()) else {
        return wrong("must be JSON".to_owned());
    };
    let entries = match value.dyn_ref::<JsMap>() {
        Some(map) => Array::from(map),
        None => Object::entries(object),
    };
    let mut fields = Map::new();
    for entry in entries.iter() {
        let entry: Array = entry.unchecked_into();
        let (name, field) = (entry.get(0).as_string().unwrap_or_default(), entry.get(1));
        if !field.is_undefined() {
            let field = convert(&field, depth + 1).map_err(|fault| fault.below(&name))?;
            fields.insert(name, field);
        }
    }
    Ok(fields.into())
}

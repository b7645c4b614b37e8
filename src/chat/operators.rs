//! Python's operators that minijinja has for numbers only, and calls of macros with any number of
//! arguments.

use super::{budget, formatting, python};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn floats(left: &Value, right: &Value) -> Option<(f64, f64)> {
    let number = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        _ => python::as_float(value),
    };
    Some((number(left)?, number(right)?))
}

/// `left * right`.
pub(super) fn times(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        let product = a.checked_mul(b).ok_or_else(|| invalid("a number grows beyond all bounds"))?;
        return Ok(whole(product));
    }
    let sequence = |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq);
    let (part, count) = match (sequence(left), sequence(right)) {
        (true, false) => (left, right),
        (false, true) => (right, left),
        _ => {
            let numbers =
                floats(left, right).ok_or_else(|| invalid("values of these types cannot be multiplied"))?;
            return Ok(python::from_float(numbers.0 * numbers.1));
        }
    };
    let count = integer(count).ok_or_else(|| invalid("a sequence can only be multiplied with an integer"))?;
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = part.as_str() {
        budget::check_text(text.len().saturating_mul(count))?;
        return Ok(Value::from(text.repeat(count)));
    }
    let items: Vec<Value> = part.try_iter()?.collect();
    budget::check_text(items.len().saturating_mul(count).saturating_mul(4))?;
    let repeated: Vec<Value> = (0..count).flat_map(|_| items.iter().cloned()).collect();
    Ok(if part.is_tuple() { Value::from(Tuple::from(repeated)) } else { Value::from(repeated) })
}

/// `left % right`.
pub(super) fn modulo(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return formatting::printf(format, right);
    }
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        if b == 0 {
            return Err(invalid("division by zero"));
        }
        let rest = a.wrapping_rem(b);
        return Ok(whole(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }));
    }
    match floats(left, right) {
        Some((_, 0.0)) => Err(invalid("division by zero")),
        Some((a, b)) => {
            let rest = a % b;
            Ok(python::from_float(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
        }
        None => Err(invalid("values of these types cannot be divided")),
    }
}

/// Whether `left % right` is 0.
pub(super) fn divisible(left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(modulo(left, right)? == Value::from(0))
}

/// An integer in the form that minijinja gives those that are not large.
pub(super) fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// Calls a macro, whose last parameters are `varargs` and `kwargs`, with what is too much for the
/// others, whose names are given in one text.
pub(super) fn variadic(state: &mut State, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let [callee, names, positional @ ..] = positional else {
        return Err(Error::from(ErrorKind::MissingArgument));
    };
    let names: Vec<&str> = names.as_str().unwrap_or_default().split_whitespace().collect();
    let (known, more) = positional.split_at(names.len().min(positional.len()));
    let mut passed = Vec::new();
    let mut extra = Vec::new();
    for name in named.args() {
        let value: Value = named.get(name)?;
        match names.contains(&name) || name == "caller" {
            true => passed.push((name.to_owned(), value)),
            false => extra.push((name.to_owned(), value)),
        }
    }
    passed.push(("varargs".to_owned(), Value::from(Tuple::from(more.to_vec()))));
    passed.push(("kwargs".to_owned(), Value::from_pairs(extra)));
    let mut all = known.to_vec();
    all.push(passed.into_iter().collect::<Kwargs>().into());
    callee.call(state, &all)
}

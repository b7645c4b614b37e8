//! Where Jinja's filters, tests and functions differ between jinja2 and minijinja, jinja2's way.

use super::python::{self, Arguments};
use super::{budget, formatting, json, lists, methods, operators, source, texts};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use std::sync::Arc;

/// The longest list that a template may make.
const MAX_LENGTH: usize = 1 << 18;
/// The widest indentation, against templates that ask for gigabytes.
const MAX_INDENT: usize = 1000;

/// Registers everything.
pub(super) fn register(env: &mut Environment) {
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", python::str);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("items", items);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("indent", indent);
    env.add_filter("replace", replace);
    env.add_filter("int", int);
    env.add_filter("float", float);
    // As Python's `pformat` has it where a line has room for it.
    env.add_filter("pprint", python::repr);
    env.add_filter("title", title);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("forceescape", escape);
    env.add_filter("safe", |value: Value| value);
    env.add_filter("dictsort", dictsort);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter(source::ITERABLE, |value: Value| {
        python::iterate(&value)?;
        let value = budget::keep(value)?;
        Ok::<_, Error>(match value.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
                Value::from_object(budget::Ticking(value))
            }
            _ => value,
        })
    });
    env.add_filter(source::BOUNDED, budget::keep);
    // jinja2 has none of these.
    for name in ["bool", "zip", "chain", "split", "lines"] {
        env.remove_filter(name);
    }
    env.add_filter(source::HELD, |value: Value| unnested(&value).and_then(|()| budget::keep(value)));
    env.add_filter(source::WRITTEN, |bytes: usize| budget::write(bytes).map(|()| ""));
    env.add_filter(source::TIMES, operators::times);
    env.add_filter(source::MODULO, operators::modulo);
    env.add_function(source::VARIADIC, operators::variadic);
    for name in ["sort", "unique", "min", "max", "groupby", "abs", "round"] {
        guard(env, name);
    }
    lists::register(env);
    texts::register(env);
    env.add_filter(source::CONDITION, |value: Value| budget::tick().map(|()| value));
    env.add_filter("format", format);

    env.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        ) && !lists::is_generator(value)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("divisibleby", operators::divisible);
    env.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || python::is_float_object(value)
    });
    env.add_test("float", |value: &Value| {
        (value.kind() == ValueKind::Number && !value.is_integer()) || python::is_float_object(value)
    });
    env.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined) && !python::is_float_object(value)
    });

    env.add_function("range", range);
    env.add_function("namespace", namespace);
    env.add_function("dict", dict);
    env.add_function("joiner", |separator: Option<String>| {
        Value::from_object(Joiner { separator: separator.unwrap_or(", ".into()), used: Default::default() })
    });
}

/// `namespace`. None holds another, so that none holds itself.
fn namespace(arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = arguments.into_values();
    if arguments.len() > 1 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let defaults = arguments.pop();
    if let Some(defaults) = &defaults {
        for key in defaults.try_iter()? {
            unnested(&defaults.get_item(&key)?)?;
        }
    }
    minijinja::functions::namespace(defaults.map(Into::into))
}

/// Refuses namespaces as parts of others.
fn unnested(value: &Value) -> Result<(), Error> {
    match is_namespace(value) {
        true => Err(Error::new(ErrorKind::InvalidOperation, "a namespace in another is not supported")),
        false => Ok(()),
    }
}

/// Whether `value` is a namespace, whose type is private.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.kind() == ValueKind::Map
        && value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// Python's `%`.
fn format(text: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let names: Vec<&str> = named.args().collect();
    let arguments = match names.is_empty() {
        true => Value::from(Tuple::from(positional)),
        false if positional.is_empty() => {
            let items = names.into_iter().map(|name| Ok((name.to_owned(), named.get::<Value>(name)?)));
            Value::from_pairs(items.collect::<Result<Vec<_>, Error>>()?)
        }
        false => {
            let message = "can't handle positional and keyword arguments at the same time";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    };
    formatting::printf(&python::str(text), &arguments)
}

/// Python's `range`, with a bound; minijinja's overflows on extreme numbers.
fn range(first: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = stop.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    let distance = match step {
        0 => return Err(Error::new(ErrorKind::InvalidOperation, "range: the step must not be 0")),
        1.. => i128::from(stop) - i128::from(start),
        _ => i128::from(start) - i128::from(stop),
    };
    let length = usize::try_from((distance.max(0) as u128).div_ceil(u128::from(step.unsigned_abs())));
    match length {
        Ok(length) if length <= MAX_LENGTH => {
            Ok(Value::from_object(python::Range { start, stop, step, length }))
        }
        _ => Err(Error::new(ErrorKind::OutOfFuel, "a range is too long")),
    }
}

/// Bounds what these filters compare, many times over, or gives them the float they count with.
fn guard(env: &mut Environment, name: &'static str) {
    let builtin = match name {
        "sort" => Value::from_function(filters::sort),
        "unique" => Value::from_function(filters::unique),
        "min" => Value::from_function(filters::min),
        "max" => Value::from_function(filters::max),
        "abs" => Value::from_function(filters::abs),
        "round" => Value::from_function(filters::round),
        _ => Value::from_function(filters::groupby),
    };
    env.add_filter(name, move |state: &mut State, value: Value, arguments: Rest<ValueOrKwargs>| {
        let mut all = vec![match python::is_float_object(&value) {
            true => python::as_float(&value).map_or(value, Value::from),
            false => budget::keep(value)?,
        }];
        all.extend(arguments.into_values());
        builtin.call(state, &all)
    });
}

/// Python's `dict`: of a mapping or of pairs, and of names.
fn dict(arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let mut pairs = Vec::new();
    match positional {
        [] => {}
        [value] if value.kind() == ValueKind::Map => {
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                pairs.push((key, item));
            }
        }
        [value] => {
            for pair in python::iterate(value)? {
                let pair: Vec<Value> = pair.try_iter()?.collect();
                let Ok([key, item]) = <[Value; 2]>::try_from(pair) else {
                    return Err(Error::new(ErrorKind::InvalidOperation, "dict needs pairs"));
                };
                pairs.push((key, item));
            }
        }
        _ => return Err(Error::from(ErrorKind::TooManyArguments)),
    }
    for name in named.args() {
        pairs.push((Value::from(name), named.get(name)?));
    }
    Ok(Value::from_pairs(pairs))
}

/// jinja2's `joiner`: nothing when first called, then the separator.
#[derive(Debug)]
struct Joiner {
    separator: String,
    used: std::sync::atomic::AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let used = self.used.swap(true, std::sync::atomic::Ordering::Relaxed);
        Ok(Value::from(if used { self.separator.as_str() } else { "" }))
    }
}

fn trim(value: &Value, characters: Option<&str>) -> String {
    let text = python::str(value);
    match characters {
        Some(_) => python::strip_of(&text, characters, true, true).to_owned(),
        None => python::strip(&text).to_owned(),
    }
}

fn join(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let separator = arguments.get(0, "d")?.map(|separator| python::str(&separator)).unwrap_or_default();
    let attribute = arguments.get(1, "attribute")?;
    arguments.end(2)?;
    let mut out = String::new();
    for (n, item) in python::iterate(value)?.enumerate() {
        if n > 0 {
            out.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        out.push_str(&python::str(&item));
        budget::check_text(out.len())?;
    }
    Ok(out)
}

fn replace(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    methods::replace(&python::str(value), &arguments)
}

/// Like `int` and `float` of jinja2, which give 0 for what is no number.
fn int(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let default = arguments.get(0, "default")?.unwrap_or_else(|| Value::from(0));
    let base = arguments.get(1, "base")?.map_or(Ok(10), u32::try_from)?;
    arguments.end(2)?;
    let Some(text) = value.as_str() else {
        return match python::as_float(value) {
            _ if value.kind() == ValueKind::Bool => Ok(Value::from(i64::from(value.is_true()))),
            _ if value.is_integer() => Ok(value.clone()),
            Some(number) if !number.is_nan() => truncated(number),
            _ => Ok(default),
        };
    };
    match (python::parse_integer(text, base), python::parse_float(text)) {
        (Some(integer), _) => Ok(operators::whole(integer)),
        (None, Some(number)) if number.is_finite() => truncated(number),
        _ => Ok(default),
    }
}

/// Python's `int` of a float. There, integers have no bounds.
fn truncated(number: f64) -> Result<Value, Error> {
    match number.abs() < i128::MAX as f64 {
        true => Ok(operators::whole(number as i128)),
        false => Err(Error::new(ErrorKind::InvalidOperation, "a number is too large for an integer")),
    }
}

fn float(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let default = arguments.get(0, "default")?.unwrap_or_else(|| Value::from(0.0));
    arguments.end(1)?;
    let number = match value.as_str() {
        Some(text) => python::parse_float(text),
        None => python::as_float(value),
    };
    Ok(number.map_or(default, Value::from))
}

fn items(value: &Value) -> Result<Value, Error> {
    match value.is_undefined() {
        true => Ok(lists::generator(Vec::new())),
        false => filters::items(value),
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.is_undefined() {
        true => Ok(0),
        false => filters::length(value),
    }
}

fn indent(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let (first, blank) = (arguments.truth(1, "first")?, arguments.truth(2, "blank")?);
    let indentation = match arguments.get(0, "width")? {
        None => " ".repeat(4),
        Some(text) if text.as_str().is_some() => python::str(&text),
        Some(width) => " ".repeat(usize::try_from(width)?.min(MAX_INDENT)),
    };
    arguments.end(3)?;
    let text = python::str(value) + "\n";
    let mut out = String::new();
    for (n, line) in methods::lines(&text).into_iter().enumerate() {
        let line = methods::without_end(line);
        if n > 0 {
            out.push('\n');
        }
        // The first line only if told so, but then even when it is empty.
        if if n == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line);
        budget::check_text(out.len())?;
    }
    Ok(out)
}

/// Every word, after white space, a hyphen or an opening bracket, with a capital.
fn title(value: &Value) -> String {
    let mut out = String::new();
    let mut start = true;
    for c in python::str(value).chars() {
        match start {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        start = python::is_space(c) || "-({[<".contains(c);
    }
    out
}

/// markupsafe's escape.
pub(super) fn escape(value: &Value) -> Result<String, Error> {
    let text = python::str(value);
    budget::check_text(text.len())?;
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    budget::check_text(out.len())?;
    Ok(out)
}

fn default(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let (positional, named): (&[Value], Kwargs) = from_args(&arguments)?;
    let fallback: Option<Value> = named.get("default_value")?;
    let arguments = Arguments::new(&arguments)?;
    let boolean = arguments.truth(1, "boolean")?;
    match value.is_undefined() || (boolean && !value.is_true()) {
        // Not by `get`: None is a fallback like any other.
        true => Ok(positional.first().cloned().or(fallback).unwrap_or_else(|| Value::from(""))),
        false => Ok(value.clone()),
    }
}

fn dictsort(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let case_sensitive = arguments.truth(0, "case_sensitive")?;
    let by_value = arguments.get(1, "by")?.is_some_and(|by| by.as_str() == Some("value"));
    let reverse = arguments.truth(2, "reverse")?;
    arguments.end(3)?;
    if value.kind() != ValueKind::Map {
        return Err(Error::new(ErrorKind::InvalidOperation, "dictsort needs a mapping"));
    }
    let fold = |value: &Value| match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value.clone(),
    };
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        pairs.push((fold(if by_value { &item } else { &key }), key, item));
    }
    pairs.sort_by(|a, b| if reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
    Ok(pairs.into_iter().map(|(_, key, item)| methods::tuple([key, item])).collect())
}

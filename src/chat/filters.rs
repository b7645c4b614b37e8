//! Where Jinja's filters, tests and functions differ between jinja2 and minijinja, jinja2's way.

use super::{json, methods, python};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use std::borrow::Cow;
use std::sync::Arc;

/// The widest indentation, against templates that ask for gigabytes.
const MAX_INDENT: usize = 1000;

/// Registers everything.
pub fn register(env: &mut Environment) {
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", python::str);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("items", items);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("indent", indent);
    env.add_filter("title", title);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("safe", |value: Value| value);
    env.add_filter("dictsort", dictsort);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("select", select);
    env.add_filter("reject", reject);
    env.add_filter("selectattr", selectattr);
    env.add_filter("rejectattr", rejectattr);
    env.add_filter("map", map);

    env.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        ) && !is_generator(value)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || python::is_float_object(value)
    });
    env.add_test("float", |value: &Value| {
        (value.kind() == ValueKind::Number && !value.is_integer()) || python::is_float_object(value)
    });
    env.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && !python::is_float_object(value)
    });

    env.add_function("joiner", |separator: Option<String>| {
        Value::from_object(Joiner { separator: separator.unwrap_or(", ".into()), used: Default::default() })
    });
}

/// What jinja2's filters give that are generators there: true even if empty.
#[derive(Debug)]
struct Generator(Vec<Value>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.clone())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Whether `value` is a generator in jinja2.
pub fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(items))
}

macro_rules! generators {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $name(state: &mut State<'_, '_>, $($argument: $type),*) -> Result<Value, Error> {
            filters::$name(state, $($argument),*).map(generator)
        })*
    };
}
generators! {
    select(value: Value, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    reject(value: Value, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    selectattr(value: Value, name: Cow<'_, str>, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    rejectattr(value: Value, name: Cow<'_, str>, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    map(value: Value, arguments: Rest<ValueOrKwargs>);
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
        Some(characters) => text.trim_matches(|c| characters.contains(c)).to_owned(),
        None => python::strip(&text).to_owned(),
    }
}

fn join(value: &Value, arguments: Rest<Value>) -> Result<String, Error> {
    let (separator, attribute, kwargs): (Option<Value>, Option<Value>, Kwargs) = from_args(&arguments)?;
    let separator = match separator {
        Some(separator) => separator,
        None => kwargs.get::<Option<Value>>("d")?.unwrap_or_else(|| Value::from("")),
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => kwargs.get("attribute")?,
    };
    kwargs.assert_all_used()?;
    let separator = python::str(&separator);
    let mut out = String::new();
    for (n, item) in value.try_iter()?.enumerate() {
        if n > 0 {
            out.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        out.push_str(&python::str(&item));
        methods::check_size(out.len())?;
    }
    Ok(out)
}

fn items(value: &Value) -> Result<Value, Error> {
    match value.is_undefined() {
        true => Ok(generator(Vec::new())),
        false => filters::items(value),
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.is_undefined() {
        true => Ok(0),
        false => filters::length(value),
    }
}

fn indent(value: &Value, arguments: Rest<Value>) -> Result<String, Error> {
    let (width, first, blank, kwargs): (Option<Value>, Option<Value>, Option<Value>, Kwargs) =
        from_args(&arguments)?;
    let or_named = |value: Option<Value>, name: &str| match value {
        Some(value) => Ok(Some(value)),
        None => kwargs.get::<Option<Value>>(name),
    };
    let (width, first, blank) =
        (or_named(width, "width")?, or_named(first, "first")?, or_named(blank, "blank")?);
    kwargs.assert_all_used()?;
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (truth(first), truth(blank));
    let indentation = match width {
        None => " ".repeat(4),
        Some(text) if text.as_str().is_some() => python::str(&text),
        Some(width) => " ".repeat(usize::try_from(width)?.min(MAX_INDENT)),
    };
    let text = python::str(value) + "\n";
    let mut out = String::new();
    for (n, line) in methods::lines(&text).into_iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        // jinja2 indents the first line if told so even when that is empty, and other lines by `blank`.
        if if n == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line.trim_end_matches(['\n', '\r']));
        methods::check_size(out.len())?;
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
fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in python::str(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn default(value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let (fallback, boolean, kwargs): (Option<Value>, Option<Value>, Kwargs) = from_args(&arguments)?;
    let named: Option<Value> = kwargs.get("default_value")?;
    let boolean = boolean.or(kwargs.get("boolean")?).is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    match value.is_undefined() || (boolean && !value.is_true()) {
        true => Ok(fallback.or(named).unwrap_or_else(|| Value::from(""))),
        false => Ok(value.clone()),
    }
}

fn dictsort(value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let (case_sensitive, by, reverse, kwargs): (Option<Value>, Option<Value>, Option<Value>, Kwargs) =
        from_args(&arguments)?;
    let or_named = |value: Option<Value>, name: &str| match value {
        Some(value) => Ok(Some(value)),
        None => kwargs.get::<Option<Value>>(name),
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let case_sensitive = truth(or_named(case_sensitive, "case_sensitive")?);
    let reverse = truth(or_named(reverse, "reverse")?);
    let by_value = or_named(by, "by")?.is_some_and(|by| by.as_str() == Some("value"));
    kwargs.assert_all_used()?;
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

//! jinja2's filters of lists, and its generators.

use super::budget;
use super::python::{self, Arguments};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::borrow::Cow;
use std::sync::Arc;

/// Registers everything.
pub(super) fn register(env: &mut Environment) {
    env.add_filter("batch", batch);
    env.add_filter("slice", slice);
    env.add_filter("select", select);
    env.add_filter("reject", reject);
    env.add_filter("selectattr", selectattr);
    env.add_filter("rejectattr", rejectattr);
    env.add_filter("map", map);
    env.add_filter("list", list);
    env.add_filter("sum", sum);
    env.add_filter("first", first);
    env.add_filter("last", last);
}

fn count(number: usize) -> Result<usize, Error> {
    budget::check_text(number.saturating_mul(64)).map(|()| number)
}

fn batch(state: &State, value: Value, size: usize, fill: Option<Value>) -> Result<Value, Error> {
    minijinja::filters::batch(state, value, count(size)?, fill)
}

fn slice(state: &State, value: Value, slices: usize, fill: Option<Value>) -> Result<Value, Error> {
    minijinja::filters::slice(state, value, count(slices)?, fill)
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
pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

/// A generator of these.
pub(super) fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(items))
}

macro_rules! generators {
    ($($name:ident($keep:expr, $($argument:ident: $type:ty),*);)*) => {
        $(fn $name(state: &mut State<'_, '_>, value: Value, $($argument: $type),*) -> Result<Value, Error> {
            minijinja::filters::$name(state, $keep(value)?, $($argument),*).map(generator)
        })*
    };
}
generators! {
    // These compare whole items.
    select(budget::keep, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    reject(budget::keep, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    selectattr(Ok::<_, Error>, name: Cow<'_, str>, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
    rejectattr(Ok::<_, Error>, name: Cow<'_, str>, test: Option<Cow<'_, str>>, arguments: Rest<ValueOrKwargs>);
}

/// `map`. Filters make something new of each item, all of which is there at once.
fn map(state: &mut State, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let value = budget::keep(value)?;
    let builtin = Value::from_function(minijinja::filters::map);
    let arguments = arguments.into_values();
    let (names, _): (&[Value], Kwargs) = from_args(&arguments)?;
    let mut all = vec![value.clone()];
    all.extend(arguments.iter().cloned());
    if names.is_empty() {
        let items = builtin.call(state, &all)?;
        return Ok(generator(items.try_iter()?.collect()));
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        all[0] = Value::from(vec![item]);
        let mapped = builtin.call(state, &all)?.get_item_by_index(0)?;
        items.push(budget::keep(mapped)?);
    }
    Ok(generator(items))
}

/// `list`.
fn list(value: &Value) -> Result<Vec<Value>, Error> {
    let items: Vec<Value> = python::iterate(value)?.collect();
    budget::check_parts(items.len())?;
    Ok(items)
}

/// Python's `sum`, which adds no texts.
fn sum(state: &mut State, value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let attribute = arguments.get(0, "attribute")?.unwrap_or(Value::from(()));
    let mut total = arguments.get(1, "start")?.unwrap_or_else(|| Value::from(0));
    arguments.end(2)?;
    let builtin = Value::from_function(minijinja::filters::sum);
    for item in python::iterate(&budget::keep(value)?)? {
        if total.as_str().is_some() {
            return Err(Error::new(ErrorKind::InvalidOperation, "sum can't sum strings"));
        }
        total = builtin.call(state, &[Value::from(vec![item]), attribute.clone(), total])?;
        // Lists grow.
        total = budget::keep(total)?;
    }
    Ok(total)
}

fn first(value: &Value) -> Result<Value, Error> {
    Ok(python::iterate(value)?.next().unwrap_or_default())
}

fn last(value: &Value) -> Result<Value, Error> {
    Ok(python::iterate(value)?.last().unwrap_or_default())
}

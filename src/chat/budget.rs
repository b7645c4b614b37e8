//! What a rendering may take: parts walked, bytes held, and time.
//!
//! The virtual machine counts instructions, but a single one can walk over a value of any size, or
//! make one: forty lists, each of the one before twice, have 2⁴⁰ parts. So whatever a template keeps
//! or passes on is measured, with all that it shares counted as often as it is found in it; long texts
//! within it count as many parts. Then no operator meets more than a bounded value, and between two of
//! them the clock is looked at.

use super::filters;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueIter, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use web_time::Instant;

/// The most parts of a value, beside four times those of the conversation.
const MAX_PARTS: usize = 1 << 18;
/// The deepest value. JSON schemas in tools stay below; what recurses would exhaust the stack.
const MAX_NESTING: usize = 128;
/// Bytes of text that count as a part: what compares or copies a value goes through them as well.
const PART: usize = 64;
/// The most parts measured in a rendering, beside two thousand times those of the conversation:
/// templates may go through all messages for each message.
const MAX_WALKED: usize = 1 << 23;
/// The longest text, beside twice the conversation's: less than memory even if an expression has
/// hundreds.
const MAX_TEXT: usize = 1 << 20;
/// The most bytes of text that are held, beside eight times the conversation's.
const MAX_HELD: usize = 128 << 20;
/// Shorter ones are not followed: no template has room for many.
const SHORT: usize = 128;
/// Bytes of text after which those are forgotten that nothing holds any more.
const SWEEP: usize = 32 << 20;
/// The longest prompt, beside four times the conversation.
const MAX_OUTPUT: usize = 16 << 20;
/// Published templates take milliseconds.
const MAX_TIME: Duration = Duration::from_secs(2);

/// What is left to the rendering that runs on this thread; one at a time does.
struct Budget {
    max_parts: usize,
    max_text: usize,
    max_output: usize,
    max_held: usize,
    walked: usize,
    written: usize,
    /// The conversation's own texts, by address. They live as long as the rendering.
    given: HashSet<usize>,
    /// Texts that were kept, by address.
    kept: HashMap<usize, (usize, Weak<str>)>,
    /// Bytes of those, and of others within lists.
    held: usize,
    within: usize,
    swept: usize,
    end: Option<Instant>,
    exceeded: bool,
    /// Whether that was by the clock alone.
    late: bool,
}

/// What a rendering took too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Time. On another day there may be enough.
    Time,
    /// Parts or bytes.
    Size,
}

thread_local! {
    static BUDGET: RefCell<Budget> = RefCell::new(Budget::new(0, 0));
}

impl Budget {
    fn new(parts: usize, bytes: usize) -> Self {
        Budget {
            max_parts: MAX_PARTS.saturating_add(parts.saturating_mul(4)),
            max_text: MAX_TEXT.saturating_add(bytes.saturating_mul(2)),
            max_output: MAX_OUTPUT.saturating_add(bytes.saturating_mul(4)),
            max_held: MAX_HELD.saturating_add(bytes.saturating_mul(8)),
            walked: MAX_WALKED.saturating_add(parts.saturating_mul(2000)),
            written: 0,
            given: HashSet::new(),
            kept: HashMap::new(),
            held: 0,
            within: 0,
            swept: 0,
            end: None,
            exceeded: false,
            late: false,
        }
    }

    fn exceed(&mut self, what: &'static str) -> Error {
        self.exceeded = true;
        Error::new(ErrorKind::OutOfFuel, what)
    }

    fn tick(&mut self) -> Result<(), Error> {
        let late = self.end.is_some_and(|end| Instant::now() > end);
        self.late |= late && !self.exceeded;
        match self.exceeded || late {
            true => Err(self.exceed("the chat template takes too long")),
            false => Ok(()),
        }
    }

    /// Goes through all of a value, up to `left` parts.
    fn measure(&mut self, value: &Value, depth: usize, left: &mut usize) -> Result<(), Error> {
        // A text by itself has a bound of its own.
        let text = value.as_str().filter(|_| depth > 0);
        let cost = 1 + text.map_or(0, |text| text.len() / PART);
        if *left < cost || self.walked < cost {
            return Err(self.exceed("a value grows beyond all bounds"));
        }
        *left -= cost;
        self.walked -= cost;
        match value.kind() {
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                if depth > 0 && text.len() >= SHORT && !self.knows(text) {
                    self.within += text.len();
                    return self.check_held();
                }
                Ok(())
            }
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
                if depth >= MAX_NESTING {
                    return Err(self.exceed("a value is nested beyond all bounds"));
                }
                if depth > 0 && filters::is_namespace(value) {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "a namespace within another value is not supported",
                    ));
                }
                let is_map = value.kind() == ValueKind::Map;
                for item in value.try_iter()? {
                    if is_map {
                        self.measure(&value.get_item(&item)?, depth + 1, left)?;
                    }
                    self.measure(&item, depth + 1, left)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, text: &str) -> bool {
        let at = text.as_ptr() as usize;
        self.given.contains(&at) || self.kept.contains_key(&at)
    }

    fn check_held(&mut self) -> Result<(), Error> {
        if self.held >= self.swept + SWEEP {
            // The address of a text that is only remembered is not given to another.
            self.kept.retain(|_, (_, text)| text.strong_count() > 0);
            self.held = self.kept.values().map(|(length, _)| length).sum();
            self.swept = self.held;
        }
        match self.held.saturating_add(self.within) > self.max_held {
            true => Err(self.exceed("the chat template keeps too much text")),
            false => Ok(()),
        }
    }
}

/// Begins a rendering with these variables.
pub(super) fn begin(context: &Value) {
    fn walk(value: &Value, parts: &mut usize, bytes: &mut usize, given: &mut HashSet<usize>) {
        *parts += 1;
        match value.kind() {
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                *bytes += text.len();
                *parts += text.len() / PART;
                if text.len() >= SHORT {
                    given.insert(text.as_ptr() as usize);
                }
            }
            ValueKind::Seq | ValueKind::Map => {
                let is_map = value.kind() == ValueKind::Map;
                for item in value.try_iter().into_iter().flatten() {
                    if is_map {
                        walk(&value.get_item(&item).unwrap_or_default(), parts, bytes, given);
                    }
                    walk(&item, parts, bytes, given);
                }
            }
            _ => {}
        }
    }
    let (mut parts, mut bytes, mut given) = (0, 0, HashSet::new());
    walk(context, &mut parts, &mut bytes, &mut given);
    let end = Instant::now().checked_add(MAX_TIME);
    BUDGET.set(Budget { given, end, ..Budget::new(parts, bytes) });
}

/// Ends it. What it took more of than it may.
pub(super) fn end() -> Option<Excess> {
    let ended = BUDGET.replace(Budget::new(0, 0));
    ended.exceeded.then_some(if ended.late { Excess::Time } else { Excess::Size })
}

/// Fails once the rendering has taken too long.
pub(super) fn tick() -> Result<(), Error> {
    // A value that is being measured may tick as well.
    BUDGET.with(|budget| budget.try_borrow_mut().map_or(Ok(()), |mut budget| budget.tick()))
}

/// The value, unless it is larger than any that an honest template makes.
pub(super) fn keep(value: Value) -> Result<Value, Error> {
    BUDGET.with_borrow_mut(|budget| {
        budget.tick()?;
        let mut left = budget.max_parts;
        budget.measure(&value, 0, &mut left)?;
        let Some(text) = value.as_str().filter(|text| text.len() >= SHORT) else { return Ok(value) };
        if text.len() > budget.max_text {
            return Err(budget.exceed("a text grows beyond all bounds"));
        }
        if budget.knows(text) {
            return Ok(value);
        }
        let text: Arc<str> = Arc::from(text);
        budget.held += text.len();
        budget.kept.insert(text.as_ptr() as usize, (text.len(), Arc::downgrade(&text)));
        budget.check_held()?;
        Ok(Value::from(text))
    })
}

/// Refuses texts that only a hostile template would make.
pub(super) fn check_text(bytes: usize) -> Result<(), Error> {
    BUDGET.with_borrow_mut(|budget| match bytes > budget.max_text {
        true => Err(budget.exceed("a text grows beyond all bounds")),
        false => Ok(()),
    })
}

/// Refuses lists that only a hostile template would make.
pub(super) fn check_parts(count: usize) -> Result<(), Error> {
    BUDGET.with_borrow_mut(|budget| match count > budget.max_parts {
        true => Err(budget.exceed("a list grows beyond all bounds")),
        false => Ok(()),
    })
}

/// Counts a part that is looked at; false once there have been too many.
pub(super) fn walk() -> bool {
    BUDGET.with_borrow_mut(|budget| {
        budget.walked = budget.walked.saturating_sub(1);
        budget.exceeded |= budget.walked == 0;
        !budget.exceeded
    })
}

/// Counts what is written, also into macros and blocks, which the output may not show.
pub(super) fn write(bytes: usize) -> Result<(), Error> {
    BUDGET.with_borrow_mut(|budget| {
        budget.tick()?;
        budget.written = budget.written.saturating_add(bytes);
        match budget.written > budget.max_output {
            true => Err(budget.exceed("the prompt grows without end")),
            false => Ok(()),
        }
    })
}

/// How long the prompt may become, in bytes.
pub(super) fn max_output() -> usize {
    BUDGET.with_borrow(|budget| budget.max_output)
}

/// What a loop goes through: ends early once the rendering has taken too long.
#[derive(Debug)]
pub(super) struct Ticking(pub Value);

impl Object for Ticking {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.0.try_iter() {
            Ok(items) => Enumerator::Iter(Box::new(Timed(items))),
            Err(_) => Enumerator::NonEnumerable,
        }
    }
}

/// As long as what it goes through: `loop.last` and `loop.length` depend on it.
struct Timed(ValueIter);

impl Iterator for Timed {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0.next().filter(|_| tick().is_ok())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

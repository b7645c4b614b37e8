//! Which piece belongs to which tool call. Hosts number calls from 0, or all with 0, or not at all; they give ids to all
//! pieces or to the first, the same to all calls, or a new one to every piece. Here each call has its own index.

use crate::openai::ToolCall;
use std::collections::HashMap;

/// The calls of one answer so far.
#[derive(Debug, Default)]
pub(super) struct Calls {
    known: Vec<Known>,
    by_index: HashMap<usize, usize>,
    by_id: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Known {
    /// As the host has it.
    index: Option<usize>,
    has_id: bool,
    has_kind: bool,
    name: Option<String>,
    arguments: Arguments,
    /// The chunk that it began in.
    chunk: usize,
}

impl Calls {
    /// Gives a piece, of chunk number `chunk`, the index of its call, and takes away what the call has had before. False
    /// where there is nothing in it.
    pub(super) fn place(&mut self, piece: &mut ToolCall, chunk: usize) -> bool {
        let at = self.find(piece, chunk);
        self.put(piece, chunk, at)
    }

    /// The same for a call that is whole.
    pub(super) fn place_whole(&mut self, call: &mut ToolCall) -> bool {
        self.put(call, 0, None)
    }

    fn put(&mut self, piece: &mut ToolCall, chunk: usize, at: Option<usize>) -> bool {
        let function = &mut piece.function;
        let empty = piece.id.is_none()
            && function.name.is_none()
            && function.arguments.is_empty()
            && function.other.is_empty()
            && piece.other.is_empty();
        if empty {
            return false;
        }
        let at = at.unwrap_or_else(|| {
            self.known.push(Known { index: piece.index, chunk, ..Known::default() });
            self.known.len() - 1
        });
        if let Some(index) = piece.index {
            self.by_index.insert(index, at);
        }
        if let Some(id) = &piece.id {
            self.by_id.insert(id.clone(), at);
        }
        let known = &mut self.known[at];
        // Whoever puts the pieces together may append these too.
        piece.id = piece.id.take().filter(|_| !std::mem::replace(&mut known.has_id, true));
        piece.kind = piece.kind.take().filter(|_| !std::mem::replace(&mut known.has_kind, true));
        match known.name {
            Some(_) => function.name = None,
            None => known.name.clone_from(&function.name),
        }
        known.arguments.add(&function.arguments);
        piece.index = Some(at);
        true
    }

    fn find(&self, piece: &ToolCall, chunk: usize) -> Option<usize> {
        let last = self.known.len().checked_sub(1);
        let by_index = match piece.index {
            Some(index) => self.by_index.get(&index).copied(),
            None => last,
        };
        let Some(id) = &piece.id else { return by_index.filter(|&at| !self.begins(at, piece, chunk)) };
        let same_index = |at: usize| {
            piece.index.is_none_or(|index| self.known[at].index.is_none_or(|known| known == index))
        };
        if let Some(&at) = self.by_id.get(id)
            && same_index(at)
        {
            return Some(at).filter(|&at| !self.begins(at, piece, chunk));
        }
        by_index.filter(|&at| match self.known[at].has_id {
            // The id comes late.
            false => !self.begins(at, piece, chunk),
            // A new one with every piece: only a name begins a call then.
            true => piece.function.name.is_none() && !self.known[at].arguments.complete(),
        })
    }

    /// Whether a piece that could belong to a call begins another one.
    fn begins(&self, at: usize, piece: &ToolCall, chunk: usize) -> bool {
        let known = &self.known[at];
        let (Some(name), Some(known_name)) = (&piece.function.name, &known.name) else { return false };
        name != known_name
            || known.chunk == chunk
            || (known.arguments.complete() && !piece.function.arguments.is_empty())
    }
}

/// Whether JSON that comes in pieces is whole, without reading any of it twice.
#[derive(Debug, Default)]
struct Arguments {
    depth: usize,
    in_text: bool,
    escaped: bool,
    begun: bool,
}

impl Arguments {
    fn add(&mut self, piece: &str) {
        for byte in piece.bytes() {
            self.begun |= !byte.is_ascii_whitespace();
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => self.depth += 1,
                b'}' | b']' if !self.in_text => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn complete(&self) -> bool {
        self.begun && self.depth == 0 && !self.in_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{Chunk, Completion};
    use serde_json::{Value, json};

    /// The calls that the chunks of an answer make: `[name, arguments]` each.
    fn put_together(chunks: &[Value]) -> Vec<[String; 2]> {
        let (mut calls, mut whole) = (Calls::default(), Completion::default());
        for (number, pieces) in chunks.iter().enumerate() {
            let body = json!({ "choices": [{ "delta": { "tool_calls": pieces } }] });
            let mut chunk: Chunk = serde_json::from_value(body).unwrap();
            let pieces = &mut chunk.choices[0].delta.as_mut().unwrap().tool_calls;
            pieces.retain_mut(|piece| calls.place(piece, number));
            whole.add(&chunk);
        }
        let whole = serde_json::to_value(&whole).unwrap();
        let calls = whole["choices"][0]["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        calls
            .iter()
            .map(|call| [text(&call["function"]["name"]), text(&call["function"]["arguments"])])
            .collect()
    }

    fn call(fields: Value, name: &str, arguments: &str) -> Value {
        let mut call = fields;
        call["function"] = match name {
            "" => json!({ "arguments": arguments }),
            name => json!({ "name": name, "arguments": arguments }),
        };
        call
    }

    #[test]
    fn calls_stay_apart() {
        let both = [["f", "{\"x\":1}"], ["g", "{\"y\":2}"]];
        let twice = [["f", "{\"x\":1}"], ["f", "{\"y\":2}"]];
        let (x, y) = (both[0][1], both[1][1]);
        let one = |fields: Value| call(fields, "f", x);
        let two = |fields: Value| call(fields, "g", y);
        let again = |fields: Value| call(fields, "f", y);
        let more = |fields: Value, text: &str| call(fields, "", text);
        let id = |id: &str| json!({ "id": id });
        let at = |index: usize| json!({ "index": index });
        let zero = |id: &str| json!({ "index": 0, "id": id });
        for (chunks, expected) in [
            // As OpenAI has it.
            (
                vec![
                    json!([call(json!({ "index": 0, "id": "a" }), "f", "")]),
                    json!([more(at(0), "{\"x\"")]),
                    json!([more(at(0), ":1}")]),
                    json!([call(json!({ "index": 1, "id": "b" }), "g", "")]),
                    json!([more(at(1), y)]),
                ],
                both,
            ),
            // Interleaved.
            (
                vec![
                    json!([call(at(0), "f", "{"), call(at(1), "g", "{")]),
                    json!([more(at(1), "\"y\":2}"), more(at(0), "\"x\":1}")]),
                ],
                both,
            ),
            // All with index 0.
            (vec![json!([one(zero("a")), two(zero("b"))])], both),
            (vec![json!([one(zero("a"))]), json!([two(zero("b"))])], both),
            (vec![json!([one(zero("a"))]), json!([again(zero("b"))])], twice),
            (
                vec![
                    json!([call(zero("a"), "f", "{\"x\"")]),
                    json!([more(zero("a"), ":1}")]),
                    json!([call(zero("b"), "g", "")]),
                    json!([more(zero("b"), y)]),
                ],
                both,
            ),
            (
                vec![
                    json!([call(zero("a"), "f", ""), call(zero("b"), "g", "")]),
                    json!([more(zero("a"), x)]),
                    json!([more(zero("b"), y)]),
                ],
                both,
            ),
            (vec![json!([one(at(0))]), json!([two(at(0))])], both),
            (vec![json!([one(at(0)), again(at(0))])], twice),
            (vec![json!([one(at(0))]), json!([again(at(0))])], twice),
            // Without index, without id, without either.
            (vec![json!([one(id("a")), two(id("b"))])], both),
            (vec![json!([one(id("a"))]), json!([again(id("b"))])], twice),
            (vec![json!([one(json!({})), two(json!({}))])], both),
            (vec![json!([one(json!({}))]), json!([again(json!({}))])], twice),
            (
                vec![
                    json!([call(id("a"), "f", "")]),
                    json!([more(id(""), x)]),
                    json!([call(id("b"), "g", "")]),
                    json!([more(json!({}), y)]),
                ],
                both,
            ),
            // Indexes and ids of other types.
            (
                vec![
                    json!([call(json!({ "index": "0", "id": 7 }), "f", "")]),
                    json!([more(json!({ "index": 0.0, "id": null }), x)]),
                    json!([two(json!({ "index": "1", "id": 8 }))]),
                ],
                both,
            ),
            // The same id for all, or a new one with every piece.
            (
                vec![json!([one(json!({ "index": 0, "id": "0" })), two(json!({ "index": 1, "id": "0" }))])],
                both,
            ),
            (
                vec![
                    json!([call(zero("a"), "f", "{")]),
                    json!([more(zero("b"), "\"x\":1}")]),
                    json!([call(json!({ "index": 1, "id": "c" }), "g", "")]),
                    json!([more(json!({ "index": 1, "id": "d" }), y)]),
                ],
                both,
            ),
            // The name with every piece.
            (
                vec![
                    json!([call(at(0), "f", "")]),
                    json!([call(at(0), "f", "{\"x\":")]),
                    json!([call(at(0), "f", "1}")]),
                    json!([call(at(0), "f", "")]),
                    json!([two(at(1))]),
                ],
                both,
            ),
            // The id late.
            (
                vec![
                    json!([call(at(0), "f", "")]),
                    json!([more(zero("a"), x)]),
                    json!([two(json!({ "index": 1, "id": "b" }))]),
                ],
                both,
            ),
            // Other shapes.
            (vec![json!({ "0": one(id("a")), "1": two(id("b")) })], both),
            (vec![json!(one(at(0))), json!(two(at(1)))], both),
            (
                vec![
                    json!([{ "name": "f", "arguments": { "x": 1 } }, { "function": "g", "arguments": { "y": 2 } }, {}, null]),
                ],
                both,
            ),
            // Indexes that jump, and end up in their order.
            (vec![json!([one(json!({ "index": 7 }))]), json!([two(json!({ "index": 3 }))])], both),
        ] {
            assert_eq!(put_together(&chunks), expected.map(|call| call.map(str::to_owned)), "{chunks:?}");
        }
        assert!(
            put_together(&[json!(null), json!([]), json!([{ "index": 0 }]), json!("x"), json!(3)]).is_empty()
        );
    }

    #[test]
    fn ids_and_names_come_once() {
        let mut calls = Calls::default();
        let piece = |arguments: &str| {
            let call = json!({ "index": 4, "id": "a", "type": "function", "function": { "name": "f", "arguments": arguments }, "extra_content": { "x": 1 } });
            let body = json!({ "choices": [{ "delta": { "tool_calls": [call] } }] });
            let mut chunk: Chunk = serde_json::from_value(body).unwrap();
            chunk.choices[0].delta.as_mut().unwrap().tool_calls.remove(0)
        };
        let (mut first, mut second) = (piece("{"), piece("}"));
        assert!(calls.place(&mut first, 0) && calls.place(&mut second, 1));
        assert_eq!(
            (first.index, first.id.as_deref(), first.function.name.as_deref()),
            (Some(0), Some("a"), Some("f"))
        );
        assert_eq!((second.index, second.id, second.kind, second.function.name), (Some(0), None, None, None));
        assert_eq!(first.other["extra_content"], json!({ "x": 1 }));
    }
}

//! Server-sent events: their data, and what kind they are.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. The
//! published parsers (eventsource-stream, sse-stream) keep a line without an end for as long as it
//! grows; answers of strangers must not fill the memory.

use crate::{Error, Result};

/// The longest event, in bytes. Real ones have a few hundred.
const LONGEST: usize = 4 << 20;

/// An event with data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its name; empty where it has none, as most.
    pub kind: String,
    /// What it brings. Bytes that are not UTF-8 are replaced, as the standard has it.
    pub data: String,
    /// The stream ended in the middle of it, or the host left the last empty line out.
    pub unfinished: bool,
}

/// Takes bytes as they come and gives the events in them.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// A line without its end.
    line: Vec<u8>,
    /// The name of an event without its end.
    kind: Vec<u8>,
    /// The lines of data of an event without its end.
    data: Option<Vec<u8>>,
    after_return: bool,
    begun: bool,
}

impl Parser {
    /// Each event that is complete now, put to `events`.
    pub(super) fn feed(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<()> {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match piece.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (piece, None),
            };
            // The second half of a line's end.
            let half = end == Some(b'\n') && text.is_empty() && self.line.is_empty() && self.after_return;
            self.after_return = end == Some(b'\r');
            if half {
                continue;
            }
            self.line.extend_from_slice(text);
            if self.line.len() + self.kind.len() + self.data.as_ref().map_or(0, Vec::len) > LONGEST {
                return Err(Error::provider_error(format!("an event of more than {LONGEST} bytes")));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                events.extend(self.line(&line));
            }
        }
        Ok(())
    }

    /// The event that the stream ended in.
    pub(super) fn rest(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.line(&line);
        }
        Some(Event { unfinished: true, ..self.event()? })
    }

    fn event(&mut self) -> Option<Event> {
        let kind = std::mem::take(&mut self.kind);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Event { data: text(&self.data.take()?), kind: text(&kind), unfinished: false })
    }

    /// A whole line; an empty one ends an event.
    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = match self.begun {
            false => line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line),
            true => line,
        };
        self.begun = true;
        if line.is_empty() {
            return self.event();
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match (name, &mut self.data) {
            (b"data", Some(data)) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            (b"data", data) => *data = Some(value.to_vec()),
            (b"event", _) => self.kind = value.to_vec(),
            // Comments and fields without meaning here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_however_they_are_cut() {
        let stream = "\u{feff}: hello\r\ndata: {\"a\":\"é\"}\n\nevent: x\rdata:one\rdata: two\r\rid: 1\n\ndata\n\nignored\ndata: [DONE]\r\n\r\ndata: no end";
        let expected = [("", "{\"a\":\"é\"}"), ("x", "one\ntwo"), ("", ""), ("", "[DONE]")];
        for size in 1..stream.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                parser.feed(piece, &mut events).unwrap();
            }
            let found: Vec<_> =
                events.iter().map(|event| (event.kind.as_str(), event.data.as_str())).collect();
            assert_eq!(found, expected, "in pieces of {size}");
            let rest = Event { data: "no end".into(), unfinished: true, ..Event::default() };
            assert_eq!((parser.rest(), parser.rest()), (Some(rest), None));
        }
    }

    #[test]
    fn names_belong_to_one_event() {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        let stream =
            b"event: ping\n\nevent: error\nevent:late\ndata: a\xff\n\ndata: b\n\nevent: last\ndata\n";
        parser.feed(stream, &mut events).unwrap();
        events.extend(parser.rest());
        let found: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.data.as_str())).collect();
        assert_eq!(found, [("late", "a\u{fffd}"), ("", "b"), ("last", "")]);
    }

    #[test]
    fn endless_lines_end() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let error = (0..5).map(|_| parser.feed(&piece, &mut Vec::new())).find_map(Result::err).unwrap();
        assert_eq!(error.code, crate::Code::ProviderError);
    }
}

//! Server-sent events, of which only the data matters here.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. The
//! published parsers (eventsource-stream, sse-stream) keep a line without an end for as long as it
//! grows; answers of strangers must not fill the memory.

use crate::{Error, Result};

/// The longest event, in bytes. Real ones have a few hundred.
const LONGEST: usize = 4 << 20;

/// Takes bytes as they come and gives the events in them.
#[derive(Debug, Default)]
pub struct Parser {
    /// A line without its end.
    line: Vec<u8>,
    /// The lines of data of an event without its end.
    data: Option<Vec<u8>>,
    after_return: bool,
    begun: bool,
}

impl Parser {
    /// The data of each event that is complete now, put to `events`.
    pub fn feed(&mut self, bytes: &[u8], events: &mut impl Extend<String>) -> Result<()> {
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
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > LONGEST {
                return Err(Error::provider_error(format!("an event of more than {LONGEST} bytes")));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                events.extend(self.line(&line)?);
            }
        }
        Ok(())
    }

    /// A whole line; an empty one ends an event.
    fn line(&mut self, line: &[u8]) -> Result<Option<String>> {
        let line = match self.begun {
            false => line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line),
            true => line,
        };
        self.begun = true;
        if line.is_empty() {
            let text = self.data.take().map(String::from_utf8).transpose();
            return text.map_err(|_| Error::provider_error("an event that is not valid UTF-8"));
        }
        let value = match line.strip_prefix(b"data") {
            Some(b"") => &b""[..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            // Comments and fields without meaning here.
            _ => return Ok(None),
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            data => *data = Some(value.to_vec()),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_however_they_are_cut() {
        let stream = "\u{feff}: hello\r\ndata: {\"a\":\"é\"}\n\nevent: x\rdata:one\rdata: two\r\rid: 1\n\ndata\n\nignored\ndata: [DONE]\r\n\r\ndata: no end";
        let expected = ["{\"a\":\"é\"}", "one\ntwo", "", "[DONE]"];
        for size in 1..stream.len() {
            let (mut parser, mut events) = (Parser::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                parser.feed(piece, &mut events).unwrap();
            }
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn endless_lines_end() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let error = (0..5).map(|_| parser.feed(&piece, &mut Vec::new())).find_map(Result::err).unwrap();
        assert_eq!(error.code, crate::Code::ProviderError);
        let mut parser = Parser::default();
        assert!(parser.feed(b"data: \xff\n\n", &mut Vec::new()).is_err());
    }
}

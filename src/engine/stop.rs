//! Stop strings, found in text that arrives piece by piece.

/// One stop string with the state of its search (Knuth, Morris and Pratt, over bytes).
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// `failure[n]`: the longest proper prefix that also ends the first `n + 1` bytes.
    failure: Vec<usize>,
    /// How many of the first bytes the text seen so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(pattern: &str) -> Self {
        let bytes = pattern.as_bytes().to_vec();
        let mut failure = vec![0; bytes.len()];
        let mut length = 0;
        for end in 1..bytes.len() {
            while length > 0 && bytes[end] != bytes[length] {
                length = failure[length - 1];
            }
            length += usize::from(bytes[end] == bytes[length]);
            failure[end] = length;
        }
        Pattern { bytes, failure, matched: 0 }
    }

    /// Whether the text, now one byte longer, ends with the whole pattern.
    fn advance(&mut self, byte: u8) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.failure[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }
}

/// Finds stop strings in streamed text, also across the borders of its pieces.
///
/// It lets text through as soon as that can no longer belong to a stop string, and holds back no
/// more than that. The stop string that is complete first wins, the longest of those that end
/// together; so the result depends on the text alone, not on how it was cut into pieces. A byte
/// costs amortized constant time for each stop string.
#[derive(Debug, Clone, Default)]
pub(super) struct StopMatcher {
    patterns: Vec<Pattern>,
    /// What the last call let through, then what is held back.
    buffer: String,
    /// Length of the part let through.
    released: usize,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for `stops`; empty strings among them never match.
    pub(super) fn new(stops: &[String]) -> Self {
        StopMatcher { patterns: stops.iter().map(|stop| Pattern::new(stop)).collect(), ..Self::default() }
    }

    /// Takes the next piece; gives the text that is now known to be wanted, and the index of the stop
    /// string if one has ended it. After that nothing more comes out.
    pub(super) fn push(&mut self, piece: &str) -> (&str, Option<usize>) {
        self.buffer.drain(..self.released);
        self.released = 0;
        if self.stopped {
            return ("", None);
        }
        let start = self.buffer.len();
        self.buffer.push_str(piece);
        for end in start..self.buffer.len() {
            let byte = self.buffer.as_bytes()[end];
            let mut found: Option<usize> = None;
            for index in 0..self.patterns.len() {
                // Every pattern advances, even after a find: ties go to the longest.
                let complete = self.patterns[index].advance(byte);
                let longer =
                    |other: usize| self.patterns[index].bytes.len() > self.patterns[other].bytes.len();
                if complete && found.is_none_or(longer) {
                    found = Some(index);
                }
            }
            if let Some(index) = found {
                // Both borders are borders of characters: a stop string begins and ends with whole ones.
                self.buffer.truncate(end + 1 - self.patterns[index].bytes.len());
                self.released = self.buffer.len();
                self.stopped = true;
                return (&self.buffer, Some(index));
            }
        }
        let held = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        self.released = self.buffer.len() - held;
        (&self.buffer[..self.released], None)
    }

    /// The text still held back, when no more will come.
    pub(super) fn finish(&mut self) -> &str {
        self.buffer.drain(..self.released);
        self.released = self.buffer.len();
        self.stopped = true;
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    fn run(stops: &[String], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = matcher.push(piece);
            out.push(text.to_owned());
            if stopped.is_some() {
                assert_eq!(matcher.finish(), "");
                assert_eq!(matcher.push("more"), ("", None));
                return (out, stopped);
            }
        }
        out.push(matcher.finish().to_owned());
        (out, None)
    }

    fn strings(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn holds_back_only_what_may_still_match() {
        let (out, stopped) = run(&strings(&["<end>"]), &["a<", "b<e", "n", "x", "<en", "d>tail"]);
        assert_eq!(out, ["a", "<b", "", "<enx", "", ""]);
        assert_eq!(stopped, Some(0));
        let (out, stopped) = run(&strings(&["", "\n\n"]), &["a\n", "b\n"]);
        assert_eq!((out, stopped), (strings(&["a", "\nb", "\n"]), None));
    }

    #[test]
    fn the_first_to_be_complete_wins_then_the_longest() {
        assert_eq!(run(&strings(&["abcd", "bc"]), &["xabcd"]), (strings(&["xa"]), Some(1)));
        assert_eq!(run(&strings(&["c", "bc"]), &["xabcd"]), (strings(&["xa"]), Some(1)));
        assert_eq!(run(&strings(&["é!"]), &["aé", "é", "!"]), (strings(&["a", "é", ""]), Some(0)));
    }

    /// What the text up to the stop is, by looking at every prefix.
    fn naive<'a>(stops: &[String], text: &'a str) -> (&'a str, Option<usize>) {
        for (start, c) in text.char_indices() {
            let seen = &text[..start + c.len_utf8()];
            let ending = (0..stops.len()).filter(|&i| !stops[i].is_empty() && seen.ends_with(&stops[i]));
            if let Some(index) = ending.rev().max_by_key(|&i| stops[i].len()) {
                return (&seen[..seen.len() - stops[index].len()], Some(index));
            }
        }
        (text, None)
    }

    #[test]
    fn agrees_with_a_naive_search() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let alphabet = ['a', 'b', 'é', '世', '🙂'];
        let mut below = |n: u32| (rng.next_u32() % n) as usize;
        for _ in 0..20_000 {
            let letters = 2 + below(4) as u32;
            let mut word = |longest: u32| -> String {
                (0..below(longest + 1)).map(|_| alphabet[below(letters)]).collect()
            };
            let stops: Vec<String> = (0..3).map(|_| word(4)).collect();
            let text = word(40);
            let mut pieces = Vec::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let length = rest.char_indices().map(|(at, _)| at).nth(1 + below(4)).unwrap_or(rest.len());
                let (piece, tail) = rest.split_at(length);
                pieces.push(piece);
                rest = tail;
            }

            let (out, stopped) = run(&stops, &pieces);
            assert_eq!((out.concat().as_str(), stopped), naive(&stops, &text), "{stops:?} in {pieces:?}");

            // After each piece, what is held back is exactly the longest suffix that may become a stop.
            let mut seen = String::new();
            for (n, piece) in pieces.iter().enumerate().take(out.len() - 1) {
                seen.push_str(piece);
                let held = stops
                    .iter()
                    .flat_map(|stop| stop.char_indices().map(|(end, _)| &stop[..end]))
                    .filter(|prefix| seen.ends_with(prefix))
                    .map(str::len)
                    .max()
                    .unwrap_or(0);
                if naive(&stops, &seen).1.is_none() {
                    assert_eq!(out[..=n].concat(), seen[..seen.len() - held]);
                }
            }
        }
    }
}

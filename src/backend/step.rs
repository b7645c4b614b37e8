//! A step: rows of tokens of one or several sequences that go through the model together.

/// Positions of a page, in which a sequence's keys and values are kept.
pub const PAGE: usize = 64;

/// Most rows of a step that are scored: as many sequences go on together.
pub const MOST_SCORED: usize = 16;

/// Most spans of a step: those that go on, and prompts.
pub const MOST_SPANS: usize = 32;

/// Pages for `positions` positions.
pub fn pages(positions: usize) -> usize {
    positions.div_ceil(PAGE)
}

/// A row's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// This one.
    Known(u32),
    /// The one that the last [`Backend::choose`](super::Backend::choose) chose by its scored row of this number. It may
    /// not have reached this side yet.
    Chosen(usize),
}

/// Rows of one sequence, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// The sequence's pages in the order of its positions, up to the last of these rows: page `i` has the positions
    /// from `i ·` [`PAGE`] on. Those before `position` must have been there before.
    pub pages: Vec<u32>,
    /// The slot of the sequence's state, where layers have one. It must be as it was after the row before `position`; at
    /// position 0 it may be anything.
    pub state: u32,
    /// Of the first row.
    pub position: usize,
    /// How many; at least one.
    pub rows: usize,
}

impl Span {
    /// The position after the last row.
    pub fn end(&self) -> usize {
        self.position + self.rows
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// One a row.
    pub tokens: Vec<Token>,
    /// Whose rows these are, in the same order. No sequence is in a step twice.
    pub spans: Vec<Span>,
    /// So many of the last rows are scored.
    pub scored: usize,
}

impl Step {
    /// `tokens` of one sequence that has the pages from 0 on, and state 0.
    pub fn single(tokens: impl IntoIterator<Item = u32>, position: usize, scored: usize) -> Step {
        let tokens: Vec<Token> = tokens.into_iter().map(Token::Known).collect();
        let rows = tokens.len();
        let pages = (0..pages(position + rows) as u32).collect();
        Step { tokens, spans: vec![Span { pages, state: 0, position, rows }], scored }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// The position of each row.
    pub fn positions(&self) -> impl Iterator<Item = usize> + Clone {
        self.spans.iter().flat_map(|span| span.position..span.end())
    }

    /// Each span with the number of its first row.
    pub fn spans(&self) -> impl Iterator<Item = (usize, &Span)> {
        let mut next = 0;
        self.spans.iter().map(move |span| {
            next += span.rows;
            (next - span.rows, span)
        })
    }
}

//! Joining neighbours, best pair first: what SentencePiece and byte-pair encoding have in common.

use crate::turns::Turns;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No token; no neighbour.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of the text that may yet grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// The piece it reads as, or [`NONE`].
    pub piece: u32,
    /// Where it begins, in bytes.
    pub start: u32,
    /// In bytes; 0 once its left neighbour has taken it in.
    pub len: u32,
    previous: u32,
    next: u32,
}

/// Two neighbours that can be joined. Ordered by rank, then from the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    /// Of both together: a pair of another length has changed since it was queued.
    len: u32,
    piece: u32,
}

/// The symbols of one word. Kept from word to word for its buffers.
#[derive(Debug, Default)]
pub(super) struct Word {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Pair>>,
}

impl Word {
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
    }

    /// Adds a symbol of `len` bytes on the right.
    pub(super) fn push(&mut self, piece: u32, len: usize) {
        let index = self.symbols.len() as u32;
        let (start, previous) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = index;
                (last.start + last.len, index - 1)
            }
            None => (0, NONE),
        };
        self.symbols.push(Symbol { piece, start, len: len as u32, previous, next: NONE });
    }

    /// Joins until nothing can be joined. `join` gives the rank of a pair, lowest first, and what the
    /// two read as together. O(n log n) for n symbols.
    pub(super) async fn merge(
        &mut self,
        turns: &mut Turns,
        join: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let Word { symbols, queue } = self;
        let pair = |symbols: &[Symbol], left: u32| {
            let l = symbols.get(left as usize)?;
            let r = symbols.get(l.next as usize)?;
            let (rank, piece) = join(l, r)?;
            Some(Reverse(Pair { rank, left, len: l.len + r.len, piece }))
        };
        let mut first = std::mem::take(queue).into_vec();
        first.clear();
        first.extend((0..symbols.len() as u32).filter_map(|left| pair(symbols, left)));
        *queue = first.into();

        while let Some(Reverse(Pair { left, len, piece, .. })) = queue.pop() {
            turns.step().await;
            let l = symbols[left as usize];
            let Some(&r) = symbols.get(l.next as usize) else { continue };
            if l.len == 0 || l.len + r.len != len {
                continue;
            }
            symbols[l.next as usize].len = 0;
            symbols[left as usize] = Symbol { piece, len, next: r.next, ..l };
            if let Some(next) = symbols.get_mut(r.next as usize) {
                next.previous = left;
            }
            queue.extend(pair(symbols, l.previous));
            queue.extend(pair(symbols, left));
        }
    }

    /// What is left, from the left.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }
}

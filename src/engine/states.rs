//! Which slot has what recurrent layers remember of which tokens.
//!
//! Such a state cannot be rewound: who begins like another sequence begins with a copy of its state at some point. So states
//! are kept of a sequence's last tokens, of a prompt's end, and of points between, as many as there is room for.

use std::rc::Rc;

/// A state that no sequence goes on with.
#[derive(Debug, Clone)]
struct Snapshot {
    /// What was read when the state was so.
    tokens: Rc<[u32]>,
    slot: u32,
}

#[derive(Debug, Default)]
pub(super) struct States {
    slots: usize,
    free: Vec<u32>,
    /// The one that was used last is at the end.
    kept: Vec<Snapshot>,
}

impl States {
    /// Without slots, layers have no states, and nothing is needed.
    pub(super) fn new(slots: usize) -> States {
        States { slots, free: (0..slots as u32).rev().collect(), kept: Vec::new() }
    }

    pub(super) fn are_needed(&self) -> bool {
        self.slots > 0
    }

    /// Whether another sequence can have one.
    pub(super) fn has_room(&self) -> bool {
        !self.are_needed() || !self.free.is_empty() || !self.kept.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots
    }

    /// The longest beginning of `tokens` whose state is kept, and where.
    pub(super) fn like(&self, tokens: &[u32]) -> Option<(usize, u32)> {
        let begins = self.kept.iter().filter(|kept| tokens.starts_with(&kept.tokens));
        begins.map(|kept| (kept.tokens.len(), kept.slot)).max()
    }

    /// A slot for a sequence that begins with the state in slot `from`, if any; where that is the last one, it is taken over.
    /// What was used first goes, but for what `stays`.
    pub(super) fn take(&mut self, from: Option<u32>, stays: impl Fn(&[u32]) -> bool) -> Option<u32> {
        if let Some(from) = from.and_then(|from| self.kept.iter().position(|kept| kept.slot == from)) {
            let used = self.kept.remove(from);
            self.kept.push(used);
        }
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let evictable = |kept: &Snapshot| Some(kept.slot) != from && !stays(&kept.tokens);
        let oldest = self.kept.iter().position(evictable);
        let oldest = oldest.or_else(|| self.kept.iter().position(|kept| Some(kept.slot) != from));
        let oldest = oldest.or(if self.kept.is_empty() { None } else { Some(0) })?;
        Some(self.kept.remove(oldest).slot)
    }

    /// The state in `slot` is that after `tokens`; its sequence goes on no longer.
    pub(super) fn keep(&mut self, tokens: &[u32], slot: u32) {
        match self.kept.iter().position(|kept| *kept.tokens == *tokens) {
            Some(known) => {
                let known = self.kept.remove(known);
                self.kept.push(known);
                self.free.push(slot);
            }
            None => self.kept.push(Snapshot { tokens: tokens.into(), slot }),
        }
    }

    /// Whether the state after `tokens` is kept.
    pub(super) fn knows(&self, tokens: &[u32]) -> bool {
        self.kept.iter().any(|kept| *kept.tokens == *tokens)
    }

    /// Nobody needs it.
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_is_found_and_the_oldest_goes() {
        let mut states = States::new(3);
        let never = |_: &[u32]| false;
        let slots: Vec<u32> = (0..3).map_while(|_| states.take(None, never)).collect();
        assert_eq!((slots.len(), states.has_room(), states.take(None, never)), (3, false, None));
        states.keep(&[1, 2], slots[0]);
        states.keep(&[1, 2, 3, 4], slots[1]);
        states.keep(&[5], slots[2]);
        assert_eq!(states.like(&[1, 2, 3]), Some((2, slots[0])));
        assert_eq!(states.like(&[1, 2, 3, 4, 9]), Some((4, slots[1])));
        assert_eq!(states.like(&[2]), None);
        // What is used stays; what is to stay goes last.
        assert_eq!(states.take(Some(slots[0]), |tokens| tokens == [1, 2, 3, 4]), Some(slots[2]));
        assert_eq!(states.take(Some(slots[0]), |tokens| tokens == [1, 2, 3, 4]), Some(slots[1]));
        assert_eq!(states.take(Some(slots[0]), never), Some(slots[0]), "the last one is taken over");
        // The same twice needs one slot.
        states.keep(&[7], slots[0]);
        states.keep(&[7], slots[1]);
        assert!(states.knows(&[7]));
        assert_eq!(states.take(None, never), Some(slots[1]));
    }

    #[test]
    fn without_slots_nothing_is_needed() {
        assert!(States::new(0).has_room() && !States::new(0).are_needed());
    }
}

//! Attention of a layer: rotation, what is kept, and what is seen of it.

use super::{Attention, Buffer, Heads, KvCache, Norm, Rope, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::step::{Span, Step, Token, pages};

/// Applies the heads' norms and the rotation to queries and keys in place, keeps keys and values at their positions in
/// the sequence's pages, and gives each query what it sees there.
#[derive(Debug, Clone, PartialEq)]
pub struct Attend {
    /// Rows × query heads · head size.
    pub query: Buffer,
    /// Rows × key heads · head size.
    pub key: Buffer,
    /// Rows × key heads · head size.
    pub value: Buffer,
    /// RMSNorms of each head of query and key.
    pub norms: Option<[Norm; 2]>,
    /// Whether they follow the rotation; otherwise they come before it.
    pub norms_rotated: bool,
    /// By which queries and keys are rotated.
    pub rope: Rope,
    /// Where keys and values are kept.
    pub cache: KvCache,
    /// How scores become weights.
    pub attention: Attention,
    /// Rows × query heads · head size.
    pub out: Buffer,
}

/// Positions in a trial's KV cache: decode splits that many over workgroups.
const POSITIONS: usize = 160;
/// A position that it does not split.
const EARLY: usize = 37;

impl Tried for Attend {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        cutter.rows = POSITIONS;
        let Heads { query, kv, size } = self.attention.heads;
        let heads = Heads { query: query / kv * kv.min(2), kv: kv.min(2), size };
        let window = self.attention.window.map(|window| window.min(POSITIONS - 10));
        let attention = Attention { heads, window, ..self.attention };
        let norms =
            self.norms.as_ref().map(|norms| [0, 1].map(|index: usize| cutter.norm(&norms[index], size)));
        // Scores of about ±3.
        let amplitude = 3.0 / (attention.scale * (size as f32).sqrt()).sqrt();
        let (q_width, kv_width) = (heads.query * size, heads.kv * size);
        Attend {
            query: cutter.both(q_width, Numbers::Within(amplitude)),
            key: cutter.input(kv_width, Numbers::Within(amplitude)),
            value: cutter.input(kv_width, Numbers::Within(1.0)),
            norms,
            norms_rotated: self.norms_rotated,
            rope: self.rope.clone(),
            // A second sequence has but one.
            cache: cutter.to.program.cache(pages(POSITIONS) + 1, heads),
            attention,
            out: cutter.output(q_width),
        }
    }

    /// After many positions: the last ones, and where that is one an earlier one, and both together with another sequence.
    fn steps(&self, _: &Program, tokens: usize) -> Vec<(Step, bool)> {
        let single = |position, rows| Step::single(vec![0; rows], position, 0);
        let mut steps = vec![(single(0, POSITIONS), false), (single(POSITIONS - tokens, tokens), true)];
        let mut together = single(POSITIONS - tokens, tokens);
        let other = Span { pages: vec![pages(POSITIONS) as u32], rows: 1, ..Span::default() };
        together.spans.push(other);
        together.tokens.push(Token::Known(0));
        if tokens == 1 {
            steps.push((single(EARLY, 1), true));
        }
        if self.attention.causal {
            steps.push((together, true));
        }
        steps
    }

    fn describe(&self, _: &Program) -> String {
        format!("attention (heads of {})", self.attention.heads.size)
    }
}

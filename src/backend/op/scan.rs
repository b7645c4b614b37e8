//! The selective scan of Mamba 2: a state a head that decays, is added to, and read.

use super::{Buffer, Norm, ScanHeads, State, Tried, Vector, recurrent_steps};
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::{Program, Step};

/// For each head, with its state S (size × state) and its group's B and C, row by row:
///
/// `δ = softplus(dt + bias)`, `S ← exp(−rate · δ) · S + δ · x·Bᵀ`, `y = S·C + skip · x`, and of all heads together
/// `out = norm(silu(z) · y)`, an RMSNorm over each group.
///
/// Source: Dao and Gu, <https://arxiv.org/abs/2405.21060>; `modeling_mamba2.py` of transformers.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Rows × [`ScanHeads::width`]: all heads' x, all groups' B, all groups' C.
    pub xbc: Buffer,
    /// Rows × heads.
    pub dt: Buffer,
    /// Rows × heads · head size.
    pub z: Buffer,
    /// One number a head; not negative.
    pub rate: Vector,
    /// One number a head.
    pub bias: Vector,
    /// One number a head.
    pub skip: Vector,
    /// Over the numbers of a group, with a scale for each of all.
    pub norm: Option<Norm>,
    /// Sizes.
    pub heads: ScanHeads,
    /// `heads · head size · state` numbers a sequence.
    pub state: State,
    /// Rows × heads · head size.
    pub out: Buffer,
}

impl Tried for Scan {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let ScanHeads { count, size, groups, state } = self.heads;
        let heads =
            ScanHeads { count: (count / groups).min(2) * groups.min(2), size, groups: groups.min(2), state };
        Scan {
            xbc: cutter.input(heads.width(), Numbers::Within(1.0)),
            dt: cutter.input(heads.count, Numbers::Within(1.0)),
            z: cutter.input(heads.inner(), Numbers::Within(1.0)),
            rate: cutter.to.program.vector(heads.count),
            bias: cutter.to.program.vector(heads.count),
            skip: cutter.to.program.vector(heads.count),
            norm: self.norm.as_ref().map(|norm| cutter.norm(norm, heads.inner())),
            heads,
            state: cutter.state(heads.inner() * state),
            out: cutter.output(heads.inner()),
        }
    }

    fn steps(&self, _: &Program, tokens: usize) -> Vec<(Step, bool)> {
        recurrent_steps(tokens)
    }

    fn describe(&self, _: &Program) -> String {
        format!("a selective scan (heads of {})", self.heads.size)
    }
}

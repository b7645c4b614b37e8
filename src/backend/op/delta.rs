//! The gated delta rule (Qwen 3.5, Qwen 3 Next): attention whose memory is a matrix a head.

use super::{Buffer, DeltaHeads, Norm, State, Tried, Vector, recurrent_steps};
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::{Program, Step};

/// For each value head, with the matrix M of its state (key × value), row by row:
///
/// `q ← q / √(Σq² + ε) / √size`, `k ← k / √(Σk² + ε)`, `M ← exp(−rate · softplus(alpha + bias)) · M`,
/// `d = sigmoid(beta) · (v − Mᵀk)`, `M ← M + k·dᵀ`, `out = RMSNorm(Mᵀq) · silu(z)`.
///
/// Source: `modeling_qwen3_next.py` of transformers (`torch_recurrent_gated_delta_rule`).
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Rows × [`DeltaHeads::width`]: queries, keys, values.
    pub qkv: Buffer,
    /// Rows × value heads.
    pub alpha: Buffer,
    /// Rows × value heads.
    pub beta: Buffer,
    /// Rows × value heads · head size.
    pub z: Buffer,
    /// One number a value head; not negative.
    pub rate: Vector,
    /// One number a value head.
    pub bias: Vector,
    /// Of each head of the result. Its epsilon is that of queries and keys, too.
    pub norm: Norm,
    /// Sizes.
    pub heads: DeltaHeads,
    /// [`DeltaHeads::state`] numbers a sequence.
    pub state: State,
    /// Rows × value heads · head size.
    pub out: Buffer,
}

impl Tried for Delta {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let DeltaHeads { key, value, size } = self.heads;
        let heads = DeltaHeads { key: key.min(2), value: (value / key).min(2) * key.min(2), size };
        let inner = heads.value * size;
        Delta {
            qkv: cutter.input(heads.width(), Numbers::Within(1.0)),
            alpha: cutter.input(heads.value, Numbers::Within(1.0)),
            beta: cutter.input(heads.value, Numbers::Within(1.0)),
            z: cutter.input(inner, Numbers::Within(1.0)),
            rate: cutter.to.program.vector(heads.value),
            bias: cutter.to.program.vector(heads.value),
            norm: cutter.norm(&self.norm, size),
            heads,
            state: cutter.state(heads.state()),
            out: cutter.output(inner),
        }
    }

    fn steps(&self, _: &Program, tokens: usize) -> Vec<(Step, bool)> {
        recurrent_steps(tokens)
    }

    fn describe(&self, _: &Program) -> String {
        format!("a gated delta rule (heads of {})", self.heads.size)
    }
}

//! The operations of a program, a file each: what it works on, and what is tried of it.
//!
//! Each has a twin of the same name for the CPU (`cpu/op`) and for the GPU (`gpu/op`, with the kernels in `gpu/wgsl`).
//! Another operation is a line in [`Operation`], its file, and its twins.
//!
//! Activations are f32, row-major, one row a token.

mod activate;
mod add_positions;
mod attend;
mod convolve;
mod delta;
mod embed;
mod experts;
mod gate;
mod normalize;
mod operands;
mod output_gate;
mod project;
mod project_add;
mod route;
mod scan;
mod score;

pub use activate::Activate;
pub use add_positions::AddPositions;
pub use attend::Attend;
pub use convolve::Convolve;
pub use delta::Delta;
pub use embed::Embed;
pub use experts::Experts;
pub use gate::Gate;
pub use normalize::Normalize;
pub use operands::{
    Activation, Attention, Buffer, DeltaHeads, Gating, Heads, KvCache, Linear, Matrix, Norm, NormKind, Rope,
    RopePairing, ScanHeads, State, Vector,
};
pub use output_gate::OutputGate;
pub use project::Project;
pub use project_add::ProjectAdd;
pub use route::{LEAST_SUM, Route};
pub use scan::Scan;
pub use score::Score;

use super::excerpt::Cutter;
use super::program::Program;
use super::step::{Span, Step, Token};

macro_rules! operations {
    ($($name:ident)*) => {
        /// One of a program's.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "they are named as their types")]
        pub enum Operation {
            $($name($name)),*
        }

        $(impl From<$name> for Operation {
            fn from(operation: $name) -> Self {
                Operation::$name(operation)
            }
        })*

        impl Operation {
            /// The matrices by which it multiplies every token.
            pub fn products(&self) -> Vec<Linear> {
                match self {
                    $(Operation::$name(operation) => operation.products()),*
                }
            }

            /// The same with operands of its own: see [`Cutter`].
            pub(super) fn cut(&self, cutter: &mut Cutter<'_>) -> Operation {
                match self {
                    $(Operation::$name(operation) => operation.cut(cutter).into()),*
                }
            }

            /// The steps by which it is tried, of `tokens` tokens each but for what must come before, and after which
            /// of them what it gave is looked at.
            pub(super) fn steps(&self, program: &Program, tokens: usize) -> Vec<(Step, bool)> {
                match self {
                    $(Operation::$name(operation) => operation.steps(program, tokens)),*
                }
            }

            /// In words.
            pub(super) fn describe(&self, program: &Program) -> String {
                match self {
                    $(Operation::$name(operation) => operation.describe(program)),*
                }
            }
        }
    };
}
operations! {
    Embed AddPositions Normalize Project ProjectAdd Attend Convolve Delta Scan OutputGate Gate Activate Route Experts Score
}

/// What each operation says of itself.
trait Tried: Sized {
    fn products(&self) -> Vec<Linear> {
        Vec::new()
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self;

    fn steps(&self, program: &Program, tokens: usize) -> Vec<(Step, bool)> {
        _ = program;
        vec![(Step::single((0..tokens as u32).map(|_| 0), 0, 0), true)]
    }

    fn describe(&self, program: &Program) -> String;
}

/// Where a sequence that is tried with another one has its state.
const OTHER_STATE: u32 = 1;

/// The steps by which operations with a state are tried: from a sequence's beginning, going on, and together with another one.
fn recurrent_steps(tokens: usize) -> Vec<(Step, bool)> {
    let single = |position| Step::single(vec![0; tokens], position, 0);
    let mut together = single(2 * tokens);
    together.spans.push(Span { state: OTHER_STATE, rows: 1, ..Span::default() });
    together.tokens.push(Token::Known(0));
    vec![(single(0), true), (single(tokens), true), (together, true)]
}

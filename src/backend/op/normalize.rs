//! A norm by itself, where it is no part of a product.

use super::{Buffer, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `out = norm(x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalize {
    /// Rows × columns.
    pub x: Buffer,
    /// Of each row.
    pub norm: Norm,
    /// Rows × columns; another buffer than `x`.
    pub out: Buffer,
}

impl Tried for Normalize {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let (x, norm) = (cutter.input(width, Numbers::Within(1.0)), cutter.norm(&self.norm, width));
        Normalize { x, norm, out: cutter.output(width) }
    }

    fn describe(&self, _: &Program) -> String {
        "a norm".to_owned()
    }
}

//! What a model does in every step: operations in their order, recorded once, before any of its weights are read.
//!
//! A program declares what its operations work on (matrices, vectors, buffers, KV caches, states) with their sizes, and numbers
//! them; a device makes room for all of them in [`Backend::prepare`](super::Backend::prepare). So the same program
//! says what a model needs, loads it, runs it, and is what single operations are tried by.

use super::op::{Buffer, Heads, KvCache, Matrix, Operation, State, Vector};
use super::step::PAGE;
use crate::format::gguf::TensorType;

/// A matrix without its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Out.
    pub rows: usize,
    /// In.
    pub columns: usize,
    /// How it is stored.
    pub kind: TensorType,
}

impl Shape {
    /// Bytes in a file.
    pub fn size(&self) -> u64 {
        let (block_len, block_size) = self.kind.block();
        self.rows as u64 * (self.columns as u64 / block_len * block_size)
    }
}

/// Activations without their numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BufferShape {
    /// Tokens of a step, at most.
    pub rows: usize,
    /// Numbers a token.
    pub width: usize,
}

/// The keys and values of a layer without their numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheShape {
    /// Pages of [`PAGE`] positions each, numbered alike in all caches.
    pub pages: usize,
    /// Key and value heads, and their size.
    pub heads: Heads,
}

impl CacheShape {
    /// Positions that it has room for.
    pub fn positions(&self) -> usize {
        self.pages.saturating_mul(PAGE)
    }
}

/// What a recurrent layer remembers, without its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateShape {
    /// Sequences, at most: each has a slot, numbered alike in all states.
    pub slots: usize,
    /// Numbers a sequence.
    pub width: usize,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program {
    /// Of [`Matrix`] 0, 1, ….
    pub matrices: Vec<Shape>,
    /// Of how many experts' rows each of them is, one after the other; 1 where all rows are multiplied.
    pub parts: Vec<usize>,
    /// Numbers of [`Vector`] 0, 1, ….
    pub vectors: Vec<usize>,
    /// Of [`Buffer`] 0, 1, ….
    pub buffers: Vec<BufferShape>,
    /// Of [`KvCache`] 0, 1, ….
    pub caches: Vec<CacheShape>,
    /// Of [`State`] 0, 1, ….
    pub states: Vec<StateShape>,
    /// In the order in which a step runs them.
    pub operations: Vec<Operation>,
}

impl Program {
    /// Declares a matrix.
    pub fn matrix(&mut self, rows: usize, columns: usize, kind: TensorType) -> Matrix {
        self.experts(1, rows, columns, kind)
    }

    /// Declares the matrices of `count` experts, of `rows` rows each, as one.
    pub fn experts(&mut self, count: usize, rows: usize, columns: usize, kind: TensorType) -> Matrix {
        self.matrices.push(Shape { rows: count * rows, columns, kind });
        self.parts.push(count);
        Matrix(self.matrices.len() - 1)
    }

    /// Declares a vector of `len` numbers.
    pub fn vector(&mut self, len: usize) -> Vector {
        self.vectors.push(len);
        Vector(self.vectors.len() - 1)
    }

    /// Declares activations: at most `rows` rows of `width` numbers.
    pub fn buffer(&mut self, rows: usize, width: usize) -> Buffer {
        self.buffers.push(BufferShape { rows, width });
        Buffer(self.buffers.len() - 1)
    }

    /// Declares the keys and values of a layer, each `heads.kv · heads.size` numbers a position.
    pub fn cache(&mut self, pages: usize, heads: Heads) -> KvCache {
        self.caches.push(CacheShape { pages, heads });
        KvCache(self.caches.len() - 1)
    }

    /// Declares what a layer remembers of each of `slots` sequences, `width` numbers.
    pub fn state(&mut self, slots: usize, width: usize) -> State {
        self.states.push(StateShape { slots, width });
        State(self.states.len() - 1)
    }

    /// Adds what a step does next.
    pub fn push(&mut self, operation: impl Into<Operation>) {
        self.operations.push(operation.into());
    }

    /// Of a declared matrix.
    pub fn shape(&self, matrix: Matrix) -> Shape {
        self.matrices[matrix.0]
    }

    /// Experts whose rows a matrix has.
    pub fn parts(&self, matrix: Matrix) -> usize {
        self.parts[matrix.0]
    }

    /// Numbers a row of a buffer.
    pub fn width(&self, buffer: Buffer) -> usize {
        self.buffers[buffer.0].width
    }

    /// The matrices by which a token is multiplied, one for each time.
    pub fn products(&self) -> impl Iterator<Item = Shape> {
        // Of experts, those that a token goes to.
        let of_experts = self.operations.iter().filter_map(|operation| match operation {
            Operation::Experts(experts) => Some(experts),
            _ => None,
        });
        let of_experts = of_experts.flat_map(|experts| {
            experts.read().map(|matrix| {
                let shape = self.shape(matrix);
                Shape { rows: shape.rows / self.parts(matrix) * experts.chosen, ..shape }
            })
        });
        let whole = self.operations.iter().flat_map(|operation| operation.products());
        whole.map(|linear| self.shape(linear.weight)).chain(of_experts)
    }
}

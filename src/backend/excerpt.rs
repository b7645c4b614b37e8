//! Operations taken out of a program, to be tried by themselves.

use super::op::{Buffer, Linear, Matrix, Norm, NormKind, Operation, State};
use super::program::{Program, Shape};

/// An operation alone, with all that it works on, in a program that is small enough to be tried before a model is
/// loaded: what decides about a device's kernels stays as it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Excerpt {
    pub program: Program,
    /// What has to hold numbers before, and which.
    pub inputs: Vec<(Buffer, Numbers)>,
    /// What there is to see afterwards.
    pub outputs: Vec<Buffer>,
}

/// What a buffer is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Numbers {
    /// From −x to x.
    Within(f32),
    /// Numbers of experts, of which there are so many, and weights up to 1, in turns.
    Routes(usize),
    /// From −1 to 1, every other one 0, so that they hide nothing small.
    Alternating,
}

/// Rows of an excerpt's matrices, at most: more than a workgroup of a GPU takes, and no round number.
pub(super) const FEW_ROWS: usize = 41;
/// Experts of an excerpt, at most.
const FEW_EXPERTS: usize = 4;
/// What lies between their matrices, at most: whole blocks of every type.
pub(super) const FEW_BETWEEN: usize = 256;

/// Takes an operation out of a program.
pub(crate) struct Cutter<'a> {
    from: &'a Program,
    /// Tokens of a step.
    pub rows: usize,
    pub to: Excerpt,
}

impl Cutter<'_> {
    /// `operation` alone; `rows`: tokens of a step that its buffers have room for.
    pub(super) fn cut(from: &Program, operation: &Operation, rows: usize) -> Excerpt {
        let empty = Excerpt { program: Program::default(), inputs: Vec::new(), outputs: Vec::new() };
        let mut cutter = Cutter { from, rows, to: empty };
        let operation = operation.cut(&mut cutter);
        cutter.to.program.push(operation);
        cutter.to
    }

    /// Numbers a row of a buffer that the program has.
    pub(super) fn width(&self, buffer: Buffer) -> usize {
        self.from.width(buffer)
    }

    /// Rows of `width` numbers, and the norm that they get, if any.
    pub(super) fn normed(
        &mut self,
        width: usize,
        norm: Option<&Norm>,
        numbers: Numbers,
    ) -> (Buffer, Option<Norm>) {
        (self.input(width, numbers), norm.map(|norm| self.norm(norm, width)))
    }

    /// The same matrix with few rows.
    pub(super) fn matrix(&mut self, matrix: Matrix) -> Matrix {
        let Shape { rows, columns, kind } = self.from.shape(matrix);
        self.to.program.matrix(rows.min(FEW_ROWS), columns, kind)
    }

    /// Of each of few experts, the first rows and columns.
    pub(super) fn experts(&mut self, matrix: Matrix, rows: usize, columns: usize) -> Matrix {
        let (kind, count) = (self.from.shape(matrix).kind, self.from.parts(matrix));
        self.to.program.experts(count.min(FEW_EXPERTS), rows, columns, kind)
    }

    /// Rows and columns of one of the experts that the program has.
    pub(super) fn expert_shape(&self, matrix: Matrix) -> [usize; 2] {
        let Shape { rows, columns, .. } = self.from.shape(matrix);
        [rows / self.from.parts(matrix), columns]
    }

    pub(super) fn linear(&mut self, linear: &Linear) -> Linear {
        let weight = self.matrix(linear.weight);
        let rows = self.to.program.shape(weight).rows;
        Linear { weight, bias: linear.bias.map(|_| self.to.program.vector(rows)) }
    }

    /// The same norm of rows of `width` numbers.
    pub(super) fn norm(&mut self, norm: &Norm, width: usize) -> Norm {
        let scale = self.to.program.vector(width);
        let kind = match norm.kind {
            NormKind::Rms => NormKind::Rms,
            NormKind::Layer { .. } => NormKind::Layer { bias: self.to.program.vector(width) },
        };
        Norm { kind, scale, epsilon: norm.epsilon }
    }

    /// Columns of a matrix of the excerpt.
    pub(super) fn columns(&self, linear: &Linear) -> usize {
        self.to.program.shape(linear.weight).columns
    }

    /// Rows of a matrix of the excerpt.
    pub(super) fn rows_of(&self, linear: &Linear) -> usize {
        self.to.program.shape(linear.weight).rows
    }

    /// For two sequences.
    pub(super) fn state(&mut self, width: usize) -> State {
        self.to.program.state(2, width)
    }

    pub(super) fn input(&mut self, width: usize, numbers: Numbers) -> Buffer {
        let buffer = self.to.program.buffer(self.rows, width);
        self.to.inputs.push((buffer, numbers));
        buffer
    }

    pub(super) fn output(&mut self, width: usize) -> Buffer {
        let buffer = self.to.program.buffer(self.rows, width);
        self.to.outputs.push(buffer);
        buffer
    }

    /// What is read and written.
    pub(super) fn both(&mut self, width: usize, numbers: Numbers) -> Buffer {
        let buffer = self.input(width, numbers);
        self.to.outputs.push(buffer);
        buffer
    }
}

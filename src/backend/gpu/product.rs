//! Products with weight matrices: which kernel, in which shape.

use super::memory::Part;
use super::repack::Format;
use super::shader::Kernel;
use super::{Activations, BufferId, Gpu};
use crate::Result;
use crate::backend::{Activation, Linear, Norm};

/// Most tokens that the kernels of a few tokens take; above, `matmul` does.
const FEW_TOKENS: usize = 8;
/// Threads of a workgroup of `matvec` and `gate`, where blocks suffice.
const THREADS: usize = 128;
/// Rows and tokens of a tile of `matmul`.
const TILE: usize = 64;
/// Matrices of one `matvec`.
const MATRICES: usize = 3;
/// Words of `Product` in `wgsl/shared/product.wgsl` before its matrices.
const HEAD: usize = 8;
/// Words of `Matrix` in `wgsl/shared/matrix.wgsl`.
const MATRIX: usize = 12;
const NONE: u32 = u32::MAX;

/// What becomes of `W·x + b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Store,
    Add,
    Softcap(f32),
}

/// A part of a matrix with its place in the output.
#[derive(Clone, Copy)]
struct Piece {
    part: Part,
    format: Format,
    blocks: usize,
    bias: Option<usize>,
    out: Activations,
}

/// How threads of `matvec` and `gate` share the work out.
struct Shape {
    threads: usize,
    lanes: usize,
    rows: usize,
    /// Room for tokens; a power of two.
    tokens: usize,
    subgroups: bool,
}

/// The words of a `Matrix`.
pub(super) fn matrix_params(
    part: &Part,
    first_group: usize,
    out: usize,
    out_stride: usize,
    bias: Option<usize>,
) -> [u32; MATRIX] {
    let [quants, scales, extra, more] = part.offsets;
    let bias = bias.map_or(NONE, |bias| bias as u32);
    let words = |offset: u64| (offset / 4) as u32;
    [
        (quants / 16) as u32,
        words(scales),
        words(extra),
        words(more),
        part.rows as u32,
        first_group as u32,
        out as u32,
        out_stride as u32,
        bias,
        0,
        0,
        0,
    ]
}

impl Gpu {
    /// `out = W·norm(x) + b` for each of `outputs`, ended by `end`; x from its row `first` on.
    pub(super) fn products(
        &mut self,
        rows: usize,
        x: Activations,
        first: usize,
        norm: Option<&Norm>,
        outputs: &[(Linear, Activations)],
        end: End,
    ) -> Result<()> {
        let pieces: Vec<Piece> = outputs.iter().flat_map(|(linear, out)| self.pieces(linear, *out)).collect();
        if rows > FEW_TOKENS {
            let columns = self.matrices[outputs[0].0.weight.0].columns;
            let x = match norm {
                Some(norm) => {
                    let normed = self.scratch(0, rows, columns)?;
                    self.rms_norm(rows, x, norm, normed, false)?;
                    normed
                }
                None => x,
            };
            return pieces.iter().try_for_each(|piece| self.matmul(rows, x, piece, end));
        }
        let mut rest = &pieces[..];
        while let Some(leader) = rest.first() {
            let alike = |p: &&Piece| {
                (p.part.slab, p.format, p.blocks) == (leader.part.slab, leader.format, leader.blocks)
            };
            let count = rest.iter().take(MATRICES).take_while(alike).count();
            self.matvec(rows, x, first, norm, &rest[..count], end)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn pieces(&self, linear: &Linear, out: Activations) -> Vec<Piece> {
        let matrix = &self.matrices[linear.weight.0];
        let bias = linear.bias.map(|bias| self.vectors[bias.0].at);
        let piece = |part: &Part| Piece {
            part: *part,
            format: matrix.format,
            blocks: matrix.blocks,
            bias: bias.map(|bias| bias + part.first_row),
            out,
        };
        matrix.parts.iter().map(piece).collect()
    }

    fn shape(&self, tokens: usize, blocks: usize, matrices: usize) -> Shape {
        let tokens = tokens.next_power_of_two();
        let lanes = blocks.next_power_of_two().clamp(32, THREADS);
        let rows = match (tokens, matrices) {
            (1, 1) => 4,
            (1, _) => 2,
            (8, 2) => 1,
            _ => 2,
        };
        let [threads, lanes, rows] = self.tuned.filter(|_| tokens == 1).unwrap_or([THREADS, lanes, rows]);
        let fits = |(least, most): (u32, u32)| least >= 4 && most as usize <= lanes;
        Shape { threads, lanes, rows, tokens, subgroups: self.device.subgroups.is_some_and(fits) }
    }

    /// A kernel that imports `shared/multiply`.
    fn few_kernel(&self, name: &'static str, shape: &Shape, matrices: usize, norm: bool) -> Kernel {
        let values = matrices * shape.rows * shape.tokens + if norm { shape.tokens } else { 0 };
        Kernel::new(name)
            .flag("NORM", norm)
            .flag("ONE_TOKEN", shape.tokens == 1)
            .flag("SUBGROUPS", shape.subgroups)
            .flag("EXACT_HALF", self.exact_half)
            .constant("WG", shape.threads)
            .constant("LANES", shape.lanes)
            .constant("ROWS", shape.rows)
            .constant("TOKENS", shape.tokens)
            .constant("MATRICES", matrices)
            .constant("VALUES", values)
    }

    /// The words of `Product`.
    fn product_params(
        &self,
        rows: usize,
        x: Activations,
        first: usize,
        norm: Option<&Norm>,
        end: End,
        blocks: usize,
    ) -> Vec<u32> {
        let mut params = Vec::with_capacity(HEAD + MATRICES * MATRIX);
        let scale = norm.map(|norm| self.vectors[norm.scale.0]);
        params.extend([
            blocks as u32,
            rows as u32,
            (first * x.stride / 4) as u32,
            (x.stride / 4) as u32,
            scale.map_or(0, |scale| scale.at as u32 / 4),
            scale.map_or(0.0, |scale| 1.0 / scale.len as f32).to_bits(),
            norm.map_or(0.0, |norm| norm.epsilon).to_bits(),
            if let End::Softcap(cap) = end { cap.to_bits() } else { 0 },
        ]);
        params
    }

    fn matvec(
        &mut self,
        rows: usize,
        x: Activations,
        first: usize,
        norm: Option<&Norm>,
        pieces: &[Piece],
        end: End,
    ) -> Result<()> {
        let leader = pieces[0];
        let shape = self.shape(rows, leader.blocks, 1);
        let rows_a_group = shape.threads / shape.lanes * shape.rows;
        let mut params = self.product_params(rows, x, first, norm, end, leader.blocks);
        let mut groups = 0;
        for piece in pieces {
            let (part, out) = (&piece.part, piece.out);
            params.extend(matrix_params(part, groups, part.first_row, out.stride, piece.bias));
            groups += part.rows.div_ceil(rows_a_group);
        }
        let kernel = self
            .few_kernel("matvec", &shape, 1, norm.is_some())
            .format(leader.format.file())
            .flag("OUT1", pieces.len() > 1)
            .flag("OUT2", pieces.len() > 2)
            .flag("ADD", end == End::Add)
            .flag("SOFTCAP", matches!(end, End::Softcap(_)));
        let mut buffers = vec![leader.part.slab, leader.part.slab, self.memory.vectors, x.id];
        buffers.extend(pieces.iter().map(|piece| piece.out.id));
        self.dispatch(kernel, &params, &buffers, fold(groups))
    }

    fn matmul(&mut self, rows: usize, x: Activations, piece: &Piece, end: End) -> Result<()> {
        let mut params = self.product_params(rows, x, 0, None, end, piece.blocks);
        let part = &piece.part;
        params.extend(matrix_params(part, 0, part.first_row, piece.out.stride, piece.bias));
        let kernel = Kernel::new("matmul")
            .format(piece.format.file())
            .flag("EXACT_HALF", self.exact_half)
            .flag("ADD", end == End::Add);
        let buffers = [part.slab, part.slab, self.memory.vectors, x.id, piece.out.id];
        self.dispatch(kernel, &params, &buffers, [part.rows.div_ceil(TILE), rows.div_ceil(TILE), 1])
    }

    /// `out = act(gate·norm(x)) · (up·norm(x))`.
    pub(super) fn gated(
        &mut self,
        rows: usize,
        x: Activations,
        norm: &Norm,
        [gate, up]: [&Linear; 2],
        activation: Activation,
        out: Activations,
    ) -> Result<()> {
        let gelu = activation == Activation::Gelu;
        let (gates, ups) = (self.pieces(gate, out), self.pieces(up, out));
        if let ([gate], [up]) = (&gates[..], &ups[..])
            && rows <= FEW_TOKENS
            && (gate.part.slab, gate.format) == (up.part.slab, up.format)
        {
            let shape = self.shape(rows, gate.blocks, 2);
            let mut params = self.product_params(rows, x, 0, Some(norm), End::Store, gate.blocks);
            params.extend(matrix_params(&gate.part, 0, 0, out.stride, gate.bias));
            params.extend(matrix_params(&up.part, 0, 0, out.stride, up.bias));
            let kernel =
                self.few_kernel("gate", &shape, 2, true).format(gate.format.file()).flag("GELU", gelu);
            let groups = gate.part.rows.div_ceil(shape.threads / shape.lanes * shape.rows);
            let buffers = [gate.part.slab, gate.part.slab, self.memory.vectors, x.id, out.id];
            return self.dispatch(kernel, &params, &buffers, fold(groups));
        }
        let width = self.matrices[up.weight.0].rows;
        let upped = self.scratch(1, rows, width)?;
        self.products(rows, x, 0, Some(norm), &[(*gate, out), (*up, upped)], End::Store)?;
        let quads = out.stride / 4;
        let kernel = Kernel::new("activate").flag("GELU", gelu);
        let params = [quads as u32, quads as u32, rows as u32, 0];
        self.dispatch(kernel, &params, &[upped.id, out.id], [quads.div_ceil(256), rows, 1])
    }

    /// `out = norm(x)`, or `out += norm(x)`.
    pub(super) fn rms_norm(
        &mut self,
        rows: usize,
        x: Activations,
        norm: &Norm,
        out: Activations,
        add: bool,
    ) -> Result<()> {
        let scale = self.vectors[norm.scale.0];
        let params = [
            (x.stride / 4) as u32,
            (x.stride / 4) as u32,
            (out.stride / 4) as u32,
            (scale.at / 4) as u32,
            (1.0 / scale.len as f32).to_bits(),
            norm.epsilon.to_bits(),
            0,
            0,
        ];
        let buffers: [BufferId; 3] = [self.memory.vectors, x.id, out.id];
        self.dispatch(Kernel::new("rms_norm").flag("ADD", add), &params, &buffers, [rows, 1, 1])
    }
}

/// More workgroups than one dimension takes, in two.
pub(super) fn fold(groups: usize) -> [usize; 3] {
    const MOST: usize = 65_535;
    match groups <= MOST {
        true => [groups, 1, 1],
        false => [MOST, groups.div_ceil(MOST), 1],
    }
}

//! Products with weight matrices: which kernel, in which shape.

use super::memory::Part;
use super::repack::{BLOCK, Format};
use super::shader::Kernel;
use super::{Activations, Gpu};
use crate::Result;
use crate::backend::op::{Activation, Linear, Norm, NormKind};
use crate::format::gguf::TensorType;

/// Most tokens that the kernels of a few tokens take; above, `matmul` does.
pub(super) const FEW_TOKENS: usize = 8;
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
    Activate(Activation),
}

impl End {
    /// The same in a kernel's flags.
    fn flags(self, kernel: Kernel) -> Kernel {
        let kernel = kernel
            .flag("ADD", self == End::Add)
            .flag("SOFTCAP", matches!(self, End::Softcap(_)))
            .flag("ACTIVATE", matches!(self, End::Activate(_)));
        match self {
            End::Activate(activation) => activated(kernel, activation),
            _ => kernel,
        }
    }
}

/// An activation in a kernel's flags.
pub(super) fn activated(kernel: Kernel, activation: Activation) -> Kernel {
    let is = |known| activation == known;
    kernel
        .flag("GELU", is(Activation::Gelu))
        .flag("GELU_ERF", is(Activation::GeluErf))
        .flag("SQUARED_RELU", is(Activation::SquaredRelu))
}

/// What matrices are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub x: Activations,
    /// Row of it where the first token is.
    pub first: usize,
    /// Never rounded to 8 bits: attention scores grow with the square of what queries and keys are.
    pub exact: bool,
}

impl Input {
    pub(super) fn of(x: Activations) -> Self {
        Input { x, first: 0, exact: false }
    }
}

/// A part of a matrix with its place in the output.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub part: Part,
    pub format: Format,
    pub blocks: usize,
    pub bias: Option<usize>,
    out: Activations,
}

/// How threads of `matvec` and `gate` share the work out.
pub(super) struct Shape {
    pub threads: usize,
    pub lanes: usize,
    pub rows: usize,
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
    /// `out = W·norm(x) + b` for each of `outputs`, ended by `end`.
    pub(super) fn products(
        &mut self,
        rows: usize,
        input: Input,
        norm: Option<&Norm>,
        outputs: &[(Linear, Activations)],
        end: End,
    ) -> Result<()> {
        // Only RMSNorm is part of the products: it is but a factor, and the same for all columns.
        let (input, norm) = match norm {
            Some(norm) if rows > FEW_TOKENS || norm.kind != NormKind::Rms => {
                let columns = self.matrices[outputs[0].0.weight.0].columns;
                let normed = self.scratch(0, rows, columns)?;
                self.norm_rows(rows, input, norm, normed)?;
                (Input { x: normed, first: 0, ..input }, None)
            }
            norm => (input, norm),
        };
        let Input { x, first, exact } = input;
        let pieces: Vec<Piece> = outputs.iter().flat_map(|(linear, out)| self.pieces(linear, *out)).collect();
        if rows > FEW_TOKENS {
            let integers = pieces.iter().all(|piece| piece.format.is_integer());
            return match self.dp4a == Some(true) && integers && !exact {
                false => pieces.iter().try_for_each(|piece| self.matmul(rows, x, piece, end)),
                true => {
                    let x = self.quantize(rows, x)?;
                    pieces.iter().try_for_each(|piece| self.matmul_dp4a(rows, x, piece, end))
                }
            };
        }
        let mut rest = &pieces[..];
        while let Some(leader) = rest.first() {
            let alike = |p: &&Piece| {
                (p.part.slab, p.format, p.blocks) == (leader.part.slab, leader.format, leader.blocks)
            };
            // Parts of one matrix have one output, which is bound once.
            let alone = |(at, p): &(usize, &Piece)| rest[..*at].iter().all(|other| other.out.id != p.out.id);
            let together = rest.iter().take(MATRICES).take_while(alike).enumerate();
            let count = together.take_while(alone).count();
            self.matvec(rows, x, first, norm, &rest[..count], end)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    pub(super) fn pieces(&self, linear: &Linear, out: Activations) -> Vec<Piece> {
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

    pub(super) fn shape(&self, tokens: usize, blocks: usize, matrices: usize) -> Shape {
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
    pub(super) fn few_kernel(
        &self,
        name: &'static str,
        shape: &Shape,
        matrices: usize,
        norm: bool,
    ) -> Kernel {
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
    pub(super) fn product_params(
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
            .flag("OUT2", pieces.len() > 2);
        let kernel = end.flags(kernel);
        let mut buffers = vec![leader.part.slab, leader.part.slab, self.memory.vectors, x.id];
        buffers.extend(pieces.iter().map(|piece| piece.out.id));
        self.dispatch(kernel, &params, &buffers, fold(groups))
    }

    fn matmul(&mut self, rows: usize, x: Activations, piece: &Piece, end: End) -> Result<()> {
        self.tiles("matmul", rows, x, piece, end)
    }

    /// The same where `x` comes from [`Gpu::quantize`].
    fn matmul_dp4a(&mut self, rows: usize, x: Activations, piece: &Piece, end: End) -> Result<()> {
        self.tiles("matmul_dp4a", rows, x, piece, end)
    }

    fn tiles(
        &mut self,
        name: &'static str,
        rows: usize,
        x: Activations,
        piece: &Piece,
        end: End,
    ) -> Result<()> {
        let mut params = self.product_params(rows, x, 0, None, end, piece.blocks);
        let part = &piece.part;
        params.extend(matrix_params(part, 0, part.first_row, piece.out.stride, piece.bias));
        let kernel = Kernel::new(name).format(piece.format.file()).flag("EXACT_HALF", self.exact_half);
        let kernel = end.flags(kernel);
        let buffers = [part.slab, part.slab, self.memory.vectors, x.id, piece.out.id];
        self.dispatch(kernel, &params, &buffers, [part.rows.div_ceil(TILE), rows.div_ceil(TILE), 1])
    }

    /// `x` as signed bytes, 48 bytes for a block of 32.
    fn quantize(&mut self, rows: usize, x: Activations) -> Result<Activations> {
        let blocks = x.stride / BLOCK;
        let out = self.scratch(2, rows, 12 * blocks)?;
        let params = [blocks, x.stride / 4, out.stride / 4, rows].map(|word| word as u32);
        self.dispatch(Kernel::new("quantize"), &params, &[x.id, out.id], [blocks.div_ceil(64), rows, 1])?;
        Ok(out)
    }

    /// Finds out whether products of integers are faster here. A few milliseconds on a GPU; renderers in software
    /// are left alone, where it would be much longer.
    pub(super) async fn measure_variants(&mut self) -> Result<()> {
        if self.dp4a.is_some() {
            return Ok(());
        }
        self.dp4a = Some(false);
        if self.device.is_software() {
            return Ok(());
        }
        const TOKENS: usize = 256;
        const SIZE: usize = 1024;
        const CALLS: usize = 8;
        let format = Format::of(TensorType::Q4_0);
        // Whatever the numbers are: they take as long.
        let slab = self.device.storage("a measurement", (SIZE * SIZE) as u64)?;
        let slab = self.recorder.add(slab);
        let part = Part { slab, offsets: [0; 4], first_row: 0, rows: SIZE };
        let [x, out] = [self.activations(TOKENS, SIZE)?, self.activations(TOKENS, SIZE)?];
        let piece = Piece { part, format, blocks: format.blocks(SIZE), bias: None, out };
        let mut best = [f64::INFINITY; 2];
        // The first round makes the pipelines.
        for round in 0..4 {
            for (best, dp4a) in best.iter_mut().zip([false, true]) {
                let start = web_time::Instant::now();
                for _ in 0..CALLS {
                    match dp4a {
                        false => self.matmul(TOKENS, x, &piece, End::Store)?,
                        true => {
                            let x = self.quantize(TOKENS, x)?;
                            self.matmul_dp4a(TOKENS, x, &piece, End::Store)?;
                        }
                    }
                }
                self.recorder.read(&self.device, out.id, 4, &mut Vec::new()).await?;
                if round > 0 {
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
        }
        for id in [slab, x.id, out.id] {
            self.recorder.replace(&self.device, id, self.device.storage("nothing", 16)?)?;
        }
        // Rounding has its price: it must be worth it.
        self.dp4a = Some(best[1] < 0.8 * best[0]);
        Ok(())
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

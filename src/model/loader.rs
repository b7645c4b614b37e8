//! Tensors from a source to a backend, checked and piece by piece.
//!
//! A model declares its tensors in a program in its own order, and files have them in another. So they are read at the
//! end, in the file's order: each byte once, and the next piece is on its way while one is brought to the backend.

use super::config::{Config, MAX_WIDTH};
use super::family::NormStyle;
use crate::backend::op::{Linear, Matrix, Norm, Vector};
use crate::backend::{Backend, Program};
use crate::format::gguf::{Header, TensorInfo, TensorType};
use crate::store::Source;
use crate::turns::yield_now;
use crate::{Error, Result};
use futures_util::stream::{self, StreamExt};
use half::{bf16, f16};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of one read, or a row if that is longer: over a network a request costs as much as some megabytes.
const PIECE: u64 = 4 << 20;
/// How many of them are in memory, or on their way.
const PIECES: usize = 2;
/// What is read for nothing rather than asked for apart: tensors begin at multiples of 32 bytes.
const GAP: u64 = 4 << 10;
/// Bytes of each piece that tell a model from others.
const SAMPLE: usize = 256;

/// Hears of the bytes loaded so far; gives an error to stop.
pub type Progress<'a> = dyn FnMut(u64) -> Result<()> + 'a;

pub(super) struct Loader<'a> {
    source: &'a dyn Source,
    header: &'a Header,
    /// What the model declares and does.
    pub program: Program,
    /// Whether weights will be wanted. Otherwise nothing but the header is used.
    weights: bool,
    progress: &'a mut Progress<'a>,
    loaded: u64,
    /// What is still to be read.
    pieces: Vec<Piece>,
    /// Matrices that are made from several tensors: all their rows.
    made: Vec<(Matrix, Vec<u8>)>,
    /// Vectors that the file does not have.
    made_vectors: Vec<(Vector, Vec<f32>)>,
    /// Names of tensors that the model wants.
    asked: HashSet<String>,
}

/// A part of a tensor, and where it goes.
struct Piece {
    range: Range<u64>,
    to: Place,
}

enum Place {
    /// A matrix, from this row on.
    Rows(Matrix, usize),
    /// All of a vector, from numbers of this type, each multiplied by a factor.
    Vector(Vector, TensorType, f32),
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        header: &'a Header,
        weights: bool,
        progress: &'a mut Progress<'a>,
    ) -> Self {
        let (program, pieces, made, made_vectors, asked) = Default::default();
        Loader { source, header, program, weights, progress, loaded: 0, pieces, made, made_vectors, asked }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }

    /// `len` numbers, at once, whatever float type the file has them in.
    pub(super) async fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.numbers(name, len)?;
        if !self.weights {
            return Ok(vec![1.0; len]);
        }
        let bytes = self.source.read(tensor.offset, tensor.size as usize).await?;
        self.loaded += tensor.size;
        (self.progress)(self.loaded)?;
        Ok(floats(tensor.kind, &bytes))
    }

    /// A tensor of `len` numbers that are floats of some type.
    fn numbers(&mut self, name: &str, len: usize) -> Result<&'a TensorInfo> {
        let tensor = self.tensor(name)?;
        if tensor.elements() != len as u64 {
            return Err(self.wrong_shape(tensor, &[len]));
        }
        if !matches!(tensor.kind, TensorType::F32 | TensorType::F16 | TensorType::BF16) {
            let message = format!("tensor {name} is a vector in {}; it should be F32", tensor.kind.name());
            return Err(Error::unsupported_model(message).context(self.source.name()));
        }
        Ok(tensor)
    }

    /// A tensor of `len` numbers, each multiplied by `factor`.
    pub(super) fn vector(&mut self, name: &str, len: usize, factor: f32) -> Result<Vector> {
        let tensor = self.numbers(name, len)?;
        self.part(tensor, 0, len, factor)
    }

    /// `len` of a tensor's numbers from `first` on.
    fn part(&mut self, tensor: &TensorInfo, first: usize, len: usize, factor: f32) -> Result<Vector> {
        let size = tensor.kind.block().1;
        let vector = self.program.vector(len);
        let place = Place::Vector(vector, tensor.kind, factor);
        self.ask(tensor.offset + first as u64 * size, len as u64 * size, place);
        Ok(vector)
    }

    /// One that no file has.
    fn made_vector(&mut self, values: Vec<f32>) -> Vector {
        let vector = self.program.vector(values.len());
        self.made_vectors.push((vector, values));
        vector
    }

    /// Fails with `unsupported_model` where a layer has a tensor that nobody asked for: it would be computed
    /// differently.
    pub(super) fn check_layers(&self, layers: usize) -> Result<()> {
        let left = self.header.tensors.iter().find(|tensor| {
            let layer = tensor.name.strip_prefix("blk.").and_then(|name| name.split_once('.'));
            layer.is_some_and(|(index, part)| {
                // Those of layers that predict further tokens come last, and are not needed. Old files have the
                // frequencies of rotations.
                let needed =
                    index.parse().is_ok_and(|index: usize| index < layers) && !part.contains("rot_embd");
                needed && !self.asked.contains(&tensor.name)
            })
        });
        match left {
            None => Ok(()),
            Some(tensor) => Err(Error::unsupported_model(format!(
                "the model has tensors that candlewick does not know for its architecture, such as {}",
                tensor.name
            ))
            .context(self.source.name())),
        }
    }

    /// The embeddings of positions, as many as the trained context. To each is added that of the first type of token,
    /// where the file has types: all tokens of one text have that.
    pub(super) async fn positions(&mut self, config: &Config) -> Result<Matrix> {
        let (rows, columns) = (config.trained_context, config.embedding);
        let (name, types) = ("position_embd.weight", "token_types.weight");
        if !self.has(types) {
            return self.matrix(name, rows, columns);
        }
        let tensor = self.tensor(name)?;
        self.check_shape(tensor, rows, columns)?;
        let mut positions = self.values(name, rows * columns).await?;
        let tensor = self.tensor(types)?;
        let kinds = tensor.dimension(1) as usize;
        let types = self.values(types, kinds.saturating_mul(columns)).await?;
        for position in positions.chunks_exact_mut(columns) {
            position.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
        }
        let matrix = self.program.matrix(rows, columns, TensorType::F32);
        self.made.push((matrix, positions.iter().flat_map(|value| value.to_le_bytes()).collect()));
        Ok(matrix)
    }

    /// A norm of the stream, or of what is added to it: `{name}.weight`, and `{name}.bias` where the family has LayerNorm
    /// and the file one.
    pub(super) fn norm(&mut self, name: &str, width: usize, config: &Config) -> Result<Norm> {
        // The stream is smaller by its residual scale, which a norm takes out, and this keeps it exact.
        let epsilon = config.norm_epsilon / (config.residual_scale * config.residual_scale);
        self.scaled_norm(name, width, config, epsilon, 1.0)
    }

    /// The last norm, which scales the logits too.
    pub(super) fn last_norm(&mut self, name: &str, width: usize, config: &Config) -> Result<Norm> {
        let epsilon = config.norm_epsilon / (config.residual_scale * config.residual_scale);
        self.scaled_norm(name, width, config, epsilon, config.logit_scale)
    }

    fn scaled_norm(
        &mut self,
        name: &str,
        width: usize,
        config: &Config,
        epsilon: f32,
        factor: f32,
    ) -> Result<Norm> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let scale = match config.family.norm {
            NormStyle::Bare => self.made_vector(vec![factor; width]),
            NormStyle::Rms | NormStyle::Layer => self.vector(&weight, width, factor)?,
        };
        let bias = match config.family.norm {
            NormStyle::Rms => return Ok(Norm::rms(scale, epsilon)),
            NormStyle::Layer if self.has(&bias) => self.vector(&bias, width, factor)?,
            NormStyle::Layer | NormStyle::Bare => self.made_vector(vec![0.0; width]),
        };
        Ok(Norm::layer(scale, bias, epsilon))
    }

    /// The norm of queries or keys.
    pub(super) fn head_norm(&mut self, name: &str, width: usize, config: &Config) -> Result<Norm> {
        let scale = self.vector(&format!("{name}.weight"), width, 1.0)?;
        Ok(Norm::rms(scale, config.norm_epsilon))
    }

    /// `{name}.weight`, and `{name}.bias` where the file has one.
    pub(super) fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let [linear] = self.split(name, [rows], columns)?;
        Ok(linear)
    }

    /// The same where several matrices are stacked in one tensor.
    pub(super) fn split<const N: usize>(
        &mut self,
        name: &str,
        parts: [usize; N],
        columns: usize,
    ) -> Result<[Linear; N]> {
        let weight_name = format!("{name}.weight");
        let bias_name = format!("{name}.bias");
        let total: usize = parts.iter().sum();
        let tensor = self.tensor(&weight_name)?;
        self.check_shape(tensor, total, columns)?;
        let bias = match self.has(&bias_name) {
            true => Some(self.numbers(&bias_name, total)?),
            false => None,
        };

        let mut linears = Vec::with_capacity(N);
        let mut first_row = 0;
        for rows in parts {
            let weight = self.rows(tensor, first_row, rows, columns)?;
            let bias = bias.map(|bias| self.part(bias, first_row, rows, 1.0)).transpose()?;
            linears.push(Linear { weight, bias });
            first_row += rows;
        }
        linears.try_into().map_err(|_| Error::internal("a tensor was split into too few parts"))
    }

    /// Two matrices of `rows` rows that take turns in one tensor, `run` rows each time.
    pub(super) fn alternate(
        &mut self,
        name: &str,
        run: usize,
        rows: usize,
        columns: usize,
    ) -> Result<[Linear; 2]> {
        let tensor = self.tensor(&format!("{name}.weight"))?;
        self.check_shape(tensor, 2 * rows, columns)?;
        let mut of = |first: usize| {
            let weight = self.program.matrix(rows, columns, tensor.kind);
            for start in (0..rows).step_by(run) {
                self.ask_rows(tensor, 2 * start + first, run, (weight, start));
            }
            Linear { weight, bias: None }
        };
        Ok([of(0), of(run)])
    }

    /// The matrices of `count` experts, `{name}.weight`.
    pub(super) fn experts(
        &mut self,
        name: &str,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix> {
        let tensor = self.tensor(&format!("{name}.weight"))?;
        let shape = [0, 1, 2, 3].map(|index| tensor.dimension(index));
        if shape != [columns as u64, rows as u64, count as u64, 1] {
            return Err(self.wrong_shape(tensor, &[columns, rows, count]));
        }
        let matrix = self.program.experts(count, rows, columns, tensor.kind);
        self.ask_rows(tensor, 0, count * rows, (matrix, 0));
        Ok(matrix)
    }

    /// How many a tensor has.
    pub(super) fn rows_of(&self, name: &str) -> Result<usize> {
        let missing =
            || Error::corrupt_model(format!("tensor {name} is missing")).context(self.source.name());
        let tensor = self.header.tensor(name).ok_or_else(missing)?;
        match tensor.dimension(1) {
            rows if (1..=u64::from(MAX_WIDTH)).contains(&rows) => Ok(rows as usize),
            rows => Err(Error::corrupt_model(format!("tensor {name} has {rows} rows"))),
        }
    }

    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let tensor = self.tensor(name)?;
        self.check_shape(tensor, rows, columns)?;
        self.rows(tensor, 0, rows, columns)
    }

    fn rows(&mut self, tensor: &TensorInfo, first: usize, rows: usize, columns: usize) -> Result<Matrix> {
        let matrix = self.program.matrix(rows, columns, tensor.kind);
        self.ask_rows(tensor, first, rows, (matrix, 0));
        Ok(matrix)
    }

    /// `rows` rows of a tensor from `first` on, for a matrix from its row on.
    fn ask_rows(&mut self, tensor: &TensorInfo, first: usize, rows: usize, (matrix, to): (Matrix, usize)) {
        let (block_len, block_size) = tensor.kind.block();
        let row_size = tensor.dimension(0) / block_len * block_size;
        let rows_a_piece = (PIECE / row_size).max(1) as usize;
        for start in (0..rows).step_by(rows_a_piece) {
            let count = rows_a_piece.min(rows - start) as u64;
            let offset = tensor.offset + (first + start) as u64 * row_size;
            self.ask(offset, count * row_size, Place::Rows(matrix, to + start));
        }
    }

    fn ask(&mut self, offset: u64, size: u64, to: Place) {
        if self.weights {
            self.pieces.push(Piece { range: offset..offset + size, to });
        }
    }

    /// Reads what was asked for, and brings it to `backend`, which has made room for it. Gives a hash of samples of it:
    /// other weights mostly have another one.
    pub(super) async fn finish(mut self, backend: &mut dyn Backend) -> Result<Sha256> {
        let mut samples = Sha256::new();
        for (matrix, rows) in std::mem::take(&mut self.made) {
            samples.update(sample(&rows));
            backend.write_rows(matrix, 0, &rows)?;
        }
        for (vector, values) in std::mem::take(&mut self.made_vectors) {
            backend.write_vector(vector, &values)?;
        }
        self.pieces.sort_by_key(|piece| piece.range.start);
        let reads: Vec<&[Piece]> = together(&self.pieces).collect();
        let source = self.source;
        let span = |pieces: &[Piece]| pieces[0].range.start..pieces[pieces.len() - 1].range.end;
        let mut bytes = stream::iter(reads.iter().map(|pieces| span(pieces)))
            .map(|Range { start, end }| source.read(start, (end - start) as usize))
            .buffered(PIECES);
        for pieces in &reads {
            // Lets whoever waits look at the progress, and stop.
            yield_now().await;
            let bytes = bytes.next().await.ok_or_else(|| Error::internal("a read is missing"))??;
            let start = span(pieces).start;
            for Piece { range, to } in *pieces {
                let bytes = &bytes[(range.start - start) as usize..(range.end - start) as usize];
                samples.update(sample(bytes));
                match to {
                    Place::Rows(matrix, first) => backend.write_rows(*matrix, *first, bytes)?,
                    Place::Vector(vector, kind, factor) => {
                        let mut values = floats(*kind, bytes);
                        values.iter_mut().for_each(|value| *value *= factor);
                        backend.write_vector(*vector, &values)?;
                    }
                }
                self.loaded += bytes.len() as u64;
                (self.progress)(self.loaded)?;
            }
        }
        Ok(samples)
    }

    fn tensor(&mut self, name: &str) -> Result<&'a TensorInfo> {
        self.asked.insert(name.to_owned());
        let missing =
            || Error::corrupt_model(format!("tensor {name} is missing")).context(self.source.name());
        self.header.tensor(name).ok_or_else(missing)
    }

    fn check_shape(&self, tensor: &TensorInfo, rows: usize, columns: usize) -> Result<()> {
        let shape = [tensor.dimension(0), tensor.dimension(1), tensor.dimension(2), tensor.dimension(3)];
        if shape == [columns as u64, rows as u64, 1, 1] {
            Ok(())
        } else {
            Err(self.wrong_shape(tensor, &[columns, rows]))
        }
    }

    fn wrong_shape(&self, tensor: &TensorInfo, wanted: &[usize]) -> Error {
        Error::corrupt_model(format!(
            "tensor {} has the shape {:?}; the metadata ask for {wanted:?}",
            tensor.name, tensor.dimensions
        ))
        .context(self.source.name())
    }
}

/// From the middle, where a tensor is least likely to be all zeros.
fn sample(bytes: &[u8]) -> &[u8] {
    let start = bytes.len().saturating_sub(SAMPLE) / 2;
    &bytes[start..bytes.len().min(start + SAMPLE)]
}

/// Those that follow one another and are one read, of pieces in their order.
fn together(mut pieces: &[Piece]) -> impl Iterator<Item = &[Piece]> {
    std::iter::from_fn(move || {
        let start = pieces.first()?.range.start;
        let joins = |pair: &[Piece]| {
            let [last, next] = [&pair[0].range, &pair[1].range];
            next.start >= last.end && next.start - last.end <= GAP && next.end - start <= PIECE
        };
        let count = 1 + pieces.windows(2).take_while(|pair| joins(pair)).count();
        let (first, rest) = pieces.split_at(count);
        pieces = rest;
        Some(first)
    })
}

/// The numbers in `bytes`.
fn floats(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    match kind {
        TensorType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        TensorType::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_follow_one_another_are_one_read() {
        let part = PIECE / 4;
        let pieces = |ranges: &[Range<u64>]| -> Vec<Piece> {
            let place = || Place::Rows(Matrix(0), 0);
            ranges.iter().map(|range| Piece { range: range.clone(), to: place() }).collect()
        };
        let counts = |ranges: &[Range<u64>]| together(&pieces(ranges)).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(counts(&[]), [0; 0]);
        assert_eq!(counts(&[0..1, 1..2, 32..64]), [3]);
        assert_eq!(counts(&[0..1, 1 + GAP..3 + GAP, 4 + 2 * GAP..5 + 2 * GAP]), [2, 1]);
        assert_eq!(
            counts(&[0..2 * part, 2 * part..4 * part, 4 * part..5 * part, 5 * part..6 * part]),
            [2, 2]
        );
        // A row that is longer than a piece, and the same tensor twice.
        assert_eq!(counts(&[0..9 * part, 9 * part..10 * part, 9 * part..10 * part]), [1, 1, 1]);
    }
}

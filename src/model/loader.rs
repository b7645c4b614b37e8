//! Tensors from a source to a backend, checked and piece by piece.

use super::config::Config;
use super::gguf::{Header, TensorInfo, TensorType};
use crate::backend::{Backend, Linear, Matrix, Norm};
use crate::store::Source;
use crate::{Error, Result};
use half::{bf16, f16};

/// What is in memory of a matrix at a time, beside the backend's copy.
const PIECE: u64 = 4 << 20;

/// Hears of the bytes loaded so far; gives an error to stop.
pub type Progress<'a> = dyn FnMut(u64) -> Result<()> + 'a;

pub(super) struct Loader<'a> {
    source: &'a dyn Source,
    header: &'a Header,
    pub backend: &'a mut dyn Backend,
    progress: &'a mut Progress<'a>,
    loaded: u64,
}

impl<'a> Loader<'a> {
    pub fn new(
        source: &'a dyn Source,
        header: &'a Header,
        backend: &'a mut dyn Backend,
        progress: &'a mut Progress<'a>,
    ) -> Self {
        Loader { source, header, backend, progress, loaded: 0 }
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }

    /// A vector of `len` numbers, whatever float type the file has them in.
    pub async fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        if tensor.elements() != len as u64 {
            return Err(self.wrong_shape(tensor, &[len]));
        }
        if !self.backend.wants_weights() {
            return Ok(vec![1.0; len]);
        }
        let bytes = self.read(tensor.offset, tensor.size).await?;
        Ok(match tensor.kind {
            TensorType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            TensorType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            TensorType::BF16 => {
                bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
            kind => {
                let message = format!("tensor {name} is a vector in {}; it should be F32", kind.name());
                return Err(Error::unsupported_model(message).context(self.source.name()));
            }
        })
    }

    /// The embeddings of positions, as many as the trained context. To each is added that of the first type of token,
    /// where the file has types: all tokens of one text have that.
    pub async fn positions(&mut self, config: &Config) -> Result<Matrix> {
        let (rows, columns) = (config.trained_context, config.embedding);
        let (name, types) = ("position_embd.weight", "token_types.weight");
        if !self.has(types) {
            return self.matrix(name, rows, columns).await;
        }
        let tensor = self.tensor(name)?;
        self.check_shape(tensor, rows, columns)?;
        let mut positions = self.values(name, rows * columns).await?;
        let tensor = self.tensor(types)?;
        let kinds = tensor.dimensions.get(1).copied().unwrap_or(1) as usize;
        let types = self.values(types, kinds.saturating_mul(columns)).await?;
        for position in positions.chunks_exact_mut(columns) {
            position.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
        }
        let matrix = self.backend.matrix(rows, columns, TensorType::F32)?;
        if self.backend.wants_weights() {
            let bytes: Vec<u8> = positions.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.backend.write_rows(matrix, 0, &bytes)?;
        }
        Ok(matrix)
    }

    /// `{name}.weight`, and `{name}.bias` where the family has LayerNorm.
    pub async fn norm(&mut self, name: &str, width: usize, config: &Config) -> Result<Norm> {
        let scale = self.values(&format!("{name}.weight"), width).await?;
        let scale = self.backend.vector(&scale)?;
        if !config.architecture.has_layer_norm() {
            return Ok(Norm::rms(scale, config.norm_epsilon));
        }
        let bias = self.values(&format!("{name}.bias"), width).await?;
        Ok(Norm::layer(scale, self.backend.vector(&bias)?, config.norm_epsilon))
    }

    /// `{name}.weight`, and `{name}.bias` where the file has one.
    pub async fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear> {
        let [linear] = self.split(name, [rows], columns).await?;
        Ok(linear)
    }

    /// The same where several matrices are stacked in one tensor.
    pub async fn split<const N: usize>(
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
            true => Some(self.values(&bias_name, total).await?),
            false => None,
        };

        let mut linears = Vec::with_capacity(N);
        let mut first_row = 0;
        for rows in parts {
            let weight = self.rows(tensor, first_row, rows, columns).await?;
            let bias = match &bias {
                Some(bias) => Some(self.backend.vector(&bias[first_row..first_row + rows])?),
                None => None,
            };
            linears.push(Linear { weight, bias });
            first_row += rows;
        }
        linears.try_into().map_err(|_| Error::internal("a tensor was split into too few parts"))
    }

    pub async fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let tensor = self.tensor(name)?;
        self.check_shape(tensor, rows, columns)?;
        self.rows(tensor, 0, rows, columns).await
    }

    async fn rows(
        &mut self,
        tensor: &TensorInfo,
        first: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix> {
        let (block_len, block_size) = tensor.kind.block();
        let row_size = columns as u64 / block_len * block_size;
        let rows_a_piece = (PIECE / row_size).max(1) as usize;
        let matrix = self.backend.matrix(rows, columns, tensor.kind)?;
        if !self.backend.wants_weights() {
            return Ok(matrix);
        }
        for start in (0..rows).step_by(rows_a_piece) {
            let count = rows_a_piece.min(rows - start) as u64;
            let offset = tensor.offset + (first + start) as u64 * row_size;
            let bytes = self.read(offset, count * row_size).await?;
            self.backend.write_rows(matrix, start, &bytes)?;
        }
        Ok(matrix)
    }

    fn tensor(&self, name: &str) -> Result<&'a TensorInfo> {
        let missing =
            || Error::corrupt_model(format!("tensor {name} is missing")).context(self.source.name());
        self.header.tensor(name).ok_or_else(missing)
    }

    fn check_shape(&self, tensor: &TensorInfo, rows: usize, columns: usize) -> Result<()> {
        if tensor.dimensions == [columns as u64, rows as u64] {
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

    async fn read(&mut self, offset: u64, size: u64) -> Result<Vec<u8>> {
        let bytes = self.source.read(offset, size as usize).await?;
        self.loaded += size;
        (self.progress)(self.loaded)?;
        Ok(bytes)
    }
}

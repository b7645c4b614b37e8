//! The CPU backend: our own SIMD kernels for quantized and 16-bit weights, candle's for F32 and for shapes that cannot be
//! packed. [`Cpu::reference`] computes in f32 over dequantized weights: what kernels are compared with.

mod attention;
mod blocks;
#[cfg(any(test, target_feature = "relaxed-simd"))]
mod form;
mod kernels;
mod ops;
mod packed;
mod packed16;
pub(crate) mod pool;
#[cfg(test)]
mod tests;
mod times;
mod together;

use super::{
    Activation, Attention, Backend, Buffer, Heads, KernelTime, KvCache, Linear, Matrix, Norm, NormKind, Rope,
    Tokens, Top, Vector, Wanted,
};
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use attention::Cache;
use blocks::Blocks;
use futures_util::future::LocalBoxFuture;
use kernels::input::Input;
use ops::Rotations;
pub(crate) use ops::{exp_of, top_k};
pub use pool::MOST_THREADS;
use pool::Pool;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use times::Times;
use together::TOGETHER;

/// Enough rows to amortize reading the weights, few enough to answer an abort soon.
const PREFILL_ROWS: usize = 64;

/// What a sine or an exponential takes, in multiplications.
const SLOW: usize = 8;

struct WeightMatrix {
    kind: TensorType,
    rows: usize,
    columns: usize,
    blocks: Box<dyn Blocks>,
}

impl WeightMatrix {
    /// For the table of times.
    fn label(&self) -> String {
        format!("{} {} × {}", self.kind.name(), self.rows, self.columns)
    }
}

/// Runs models on the CPU.
#[derive(Default)]
pub struct Cpu {
    pool: Pool,
    /// Whether the fastest number of threads is still to be measured.
    tune: bool,
    dequantize: bool,
    matrices: Vec<WeightMatrix>,
    vectors: Vec<Vec<f32>>,
    buffers: Vec<Vec<f32>>,
    caches: Vec<Cache>,
    /// A normed input or an un-normed output; grows to the largest in the first step.
    scratch: Vec<f32>,
    /// The second factor of a gated activation.
    scratch_up: Vec<f32>,
    /// What ranges of positions add to an attention's result.
    scratch_attention: Vec<f32>,
    /// The input of matrix products as their kernels want it; all but the first where several want it differently.
    rounded: RefCell<[Input; TOGETHER]>,
    rotations: Rotations,
    times: Times,
    last_choice: u32,
    /// Choices that were not read yet.
    choices: VecDeque<u32>,
}

impl Cpu {
    /// An empty device that works on the caller's thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with so many threads; by default, with as many of the machine's as turn out to be the fastest.
    pub fn with_threads(threads: Option<NonZeroUsize>) -> Self {
        let pool = Pool::new(threads.map_or_else(pool::most_threads, NonZeroUsize::get));
        Cpu { pool, tune: threads.is_none(), ..Self::default() }
    }

    /// A device that holds every weight as F32 and rounds no activations: what quantized kernels,
    /// here and on other devices, are measured against.
    pub fn reference() -> Self {
        Cpu { dequantize: true, ..Self::default() }
    }

    /// Measures its operations, for [`Backend::kernel_times`], where that is asked for.
    pub fn measured(self, profile: bool) -> Self {
        Cpu { times: if profile { Times::on() } else { Times::default() }, ..self }
    }

    /// Takes a buffer out while an operation writes it, so that others can be read meanwhile. It has to come back
    /// whether that succeeds or not: the next request finds all in its place.
    fn take(&mut self, buffer: Buffer) -> Vec<f32> {
        std::mem::take(&mut self.buffers[buffer.0])
    }

    /// `work` with a buffer taken out.
    fn writing(
        &mut self,
        buffer: Buffer,
        work: impl FnOnce(&mut Self, &mut Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let mut values = self.take(buffer);
        let done = work(self, &mut values);
        self.put(buffer, values);
        done
    }

    fn put(&mut self, buffer: Buffer, values: Vec<f32>) {
        self.buffers[buffer.0] = values;
    }

    /// What is multiplied next is another input.
    fn forget_input(&self) {
        self.rounded.borrow_mut().iter_mut().for_each(Input::forget);
    }

    /// `out = W·input + b`.
    fn apply(&self, linear: &Linear, rows: usize, input: &[f32], out: &mut [f32]) -> Result<()> {
        self.forget_input();
        self.apply_same(linear, rows, input, out)
    }

    /// The same for several, at most [`TOGETHER`].
    fn apply_all(&self, linears: &[Linear], rows: usize, input: &[f32], outs: &mut [Vec<f32>]) -> Result<()> {
        self.forget_input();
        if rows == 1 && self.apply_together(linears, input, outs)? {
            return Ok(());
        }
        linears.iter().zip(outs).try_for_each(|(linear, out)| self.apply_same(linear, rows, input, out))
    }

    /// The same with the input of the last time.
    fn apply_same(&self, linear: &Linear, rows: usize, input: &[f32], out: &mut [f32]) -> Result<()> {
        let matrix = &self.matrices[linear.weight.0];
        let out = &mut out[..rows * matrix.rows];
        let input = &input[..rows * matrix.columns];
        let started = self.times.start();
        matrix.blocks.multiply(&self.pool, rows, input, &mut self.rounded.borrow_mut()[0], out)?;
        self.times.stop(started, || matrix.label());
        if let Some(bias) = linear.bias {
            let bias = &self.vectors[bias.0];
            for row in out.chunks_exact_mut(matrix.rows) {
                ops::add(row, bias);
            }
        }
        Ok(())
    }

    fn norm_rows(&self, norm: &Norm, input: &[f32], out: &mut [f32]) -> Result<()> {
        let started = self.times.start();
        let scale = &self.vectors[norm.scale.0];
        let bias = match norm.kind {
            NormKind::Rms => None,
            NormKind::Layer { bias } => Some(&self.vectors[bias.0]),
        };
        let width = scale.len();
        self.pool.rows(out, width, 2 * width, |row, out| {
            let row = &input[row * width..][..width];
            match bias {
                None => ops::rms_norm(row, scale, norm.epsilon, out),
                Some(bias) => ops::layer_norm(row, scale, bias, norm.epsilon, out),
            }
        })?;
        self.times.stop(started, || "norm".into());
        Ok(())
    }

    /// The rows of `input` normed, in a scratch vector that the caller hands back.
    fn normed(&mut self, norm: &Norm, rows: Range<usize>, input: Buffer) -> Result<Vec<f32>> {
        let width = self.vectors[norm.scale.0].len();
        let mut scratch = std::mem::take(&mut self.scratch);
        resize(&mut scratch, rows.len() * width)?;
        let input = &self.buffers[input.0][rows.start * width..rows.end * width];
        self.norm_rows(norm, input, &mut scratch[..rows.len() * width])?;
        Ok(scratch)
    }

    /// `work` with `rows` rows of `x`, normed if there is a norm.
    fn with_input(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        work: impl FnOnce(&mut Self, &[f32]) -> Result<()>,
    ) -> Result<()> {
        match norm {
            Some(norm) => {
                let input = self.normed(norm, 0..rows, x)?;
                let done = work(self, &input);
                self.scratch = input;
                done
            }
            None => self.writing(x, |cpu, input| work(cpu, input)),
        }
    }

    /// The gated activation of `input` in the first of `outs`, with the second for its other factor.
    fn gate_into(
        &self,
        rows: usize,
        linears: [&Linear; 2],
        input: &[f32],
        activation: Activation,
        outs: &mut [Vec<f32>; 2],
    ) -> Result<()> {
        let width = self.matrices[linears[0].weight.0].rows;
        resize(&mut outs[1], rows * width)?;
        self.apply_all(&linears.map(|linear| *linear), rows, input, outs)?;
        let [gated, upped] = outs;
        let started = self.times.start();
        self.pool.rows(&mut gated[..rows * width], width, SLOW * width, |row, gated| {
            ops::gate(gated, &upped[row * width..][..width], activation);
        })?;
        self.times.stop(started, || "gate".into());
        Ok(())
    }
}

/// Makes room for `len` numbers without giving any back.
fn resize(scratch: &mut Vec<f32>, len: usize) -> Result<()> {
    if scratch.len() < len {
        scratch.try_reserve_exact(len - scratch.len()).map_err(|_| no_memory(len))?;
        scratch.resize(len, 0.0);
    }
    Ok(())
}

fn no_memory(len: usize) -> Error {
    let megabytes = len.saturating_mul(size_of::<f32>()) / 1_000_000;
    Error::resource_exhausted(format!("no memory for {megabytes} MB. Choose a smaller model or context"))
}

fn zeros(len: usize) -> Result<Vec<f32>> {
    Vec::<f32>::new().try_reserve_exact(len).map_err(|_| no_memory(len))?;
    // Zeroed by the system, page by page as they are used: a context that is never filled costs little.
    Ok(vec![0.0; len])
}

impl Backend for Cpu {
    fn device(&self) -> &'static str {
        "cpu"
    }

    fn kernel_times(&mut self) -> LocalBoxFuture<'_, Result<Vec<KernelTime>>> {
        Box::pin(std::future::ready(Ok(self.times.take())))
    }

    fn prefill_rows(&self) -> usize {
        PREFILL_ROWS
    }

    fn threads(&self) -> Option<usize> {
        Some(self.pool.threads())
    }

    fn loaded(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.pool.started().await;
            if self.tune { self.pool.tune() } else { Ok(()) }
        })
    }

    fn matrix(&mut self, rows: usize, columns: usize, kind: TensorType) -> Result<Matrix> {
        let blocks = match self.dequantize {
            true => blocks::dequantized(kind, rows, columns)?,
            false => blocks::allocate(kind, rows, columns)?,
        };
        self.matrices.push(WeightMatrix { kind, rows, columns, blocks });
        Ok(Matrix(self.matrices.len() - 1))
    }

    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()> {
        self.matrices[matrix.0].blocks.write_rows(&self.pool, first, bytes)
    }

    fn vector(&mut self, len: usize) -> Result<Vector> {
        self.vectors.push(zeros(len)?);
        Ok(Vector(self.vectors.len() - 1))
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.vectors[vector.0].copy_from_slice(values);
        Ok(())
    }

    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer> {
        self.buffers.push(zeros(rows.saturating_mul(width))?);
        Ok(Buffer(self.buffers.len() - 1))
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<()> {
        self.buffers[buffer.0][..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn kv_cache(&mut self, context: usize, heads: Heads) -> Result<KvCache> {
        self.caches.push(Cache::new(context, heads)?);
        Ok(KvCache(self.caches.len() - 1))
    }

    fn embed(&mut self, tokens: Tokens, table: Matrix, scale: f32, out: Buffer) -> Result<()> {
        let tokens = match tokens {
            Tokens::Known(tokens) => tokens,
            Tokens::Chosen => &[self.last_choice],
        };
        let table = &self.matrices[table.0];
        let out = &mut self.buffers[out.0];
        for (&token, row) in tokens.iter().zip(out.chunks_exact_mut(table.columns)) {
            if token as usize >= table.rows {
                return Err(Error::invalid_argument(format!(
                    "token {token} is outside the vocabulary of {}",
                    table.rows
                )));
            }
            table.blocks.row(token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, first: usize, rows: usize, table: Matrix, x: Buffer) -> Result<()> {
        let table = &self.matrices[table.0];
        let mut values = vec![0.0; table.columns];
        for (index, row) in self.buffers[x.0].chunks_exact_mut(table.columns).take(rows).enumerate() {
            table.blocks.row(first + index, &mut values);
            ops::add(row, &values);
        }
        Ok(())
    }

    fn norm(&mut self, rows: usize, x: Buffer, norm: &Norm, out: Buffer) -> Result<()> {
        let len = rows * self.vectors[norm.scale.0].len();
        self.writing(out, |cpu, normed| cpu.norm_rows(norm, &cpu.buffers[x.0][..len], &mut normed[..len]))
    }

    fn project(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        outputs: &[(Linear, Buffer)],
    ) -> Result<()> {
        self.with_input(rows, x, norm, |cpu, input| {
            for outputs in outputs.chunks(TOGETHER) {
                let mut linears = [outputs[0].0; TOGETHER];
                let mut outs: [Vec<f32>; TOGETHER] = Default::default();
                for (index, (linear, buffer)) in outputs.iter().enumerate() {
                    (linears[index], outs[index]) = (*linear, cpu.take(*buffer));
                }
                let done = cpu.apply_all(&linears[..outputs.len()], rows, input, &mut outs[..outputs.len()]);
                for ((_, buffer), out) in outputs.iter().zip(outs) {
                    cpu.put(*buffer, out);
                }
                done?;
            }
            Ok(())
        })
    }

    fn project_add(
        &mut self,
        rows: usize,
        input: Buffer,
        linear: &Linear,
        norm: Option<&Norm>,
        x: Buffer,
    ) -> Result<()> {
        let width = self.matrices[linear.weight.0].rows;
        self.writing(x, |cpu, x| {
            let mut projected = std::mem::take(&mut cpu.scratch);
            resize(&mut projected, 2 * rows * width)?;
            let (projected_rows, normed_rows) = projected.split_at_mut(rows * width);
            cpu.apply(linear, rows, &cpu.buffers[input.0], projected_rows)?;
            match norm {
                Some(norm) => {
                    let normed_rows = &mut normed_rows[..rows * width];
                    cpu.norm_rows(norm, projected_rows, normed_rows)?;
                    ops::add(x, normed_rows);
                }
                None => ops::add(x, projected_rows),
            }
            cpu.scratch = projected;
            Ok(())
        })
    }

    fn rotate_and_store(
        &mut self,
        position: usize,
        rows: usize,
        [q, k, v]: [Buffer; 3],
        heads: Heads,
        norms: Option<&[Norm; 2]>,
        rope: &Rope,
        cache: KvCache,
    ) -> Result<()> {
        let started = self.times.start();
        let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
        for (buffer, width, index) in [(q, q_width, 0), (k, kv_width, 1)] {
            let mut values = self.take(buffer);
            let used = &mut values[..rows * width];
            if let Some(norms) = norms {
                let scale = &self.vectors[norms[index].scale.0];
                ops::rms_norm_runs(used, scale, norms[index].epsilon);
            }
            let angles = self.rotations.angles(position, rows, rope);
            for (values, angles) in used.chunks_exact_mut(width).zip(angles) {
                ops::rotate(values, heads.size, angles, rope.pairing);
            }
            self.put(buffer, values);
        }
        let (keys, values) = (&self.buffers[k.0], &self.buffers[v.0]);
        for (row, (keys, values)) in keys.chunks(kv_width).zip(values.chunks(kv_width)).take(rows).enumerate()
        {
            self.caches[cache.0].store(position + row, keys, values);
        }
        self.times.stop(started, || "rotate and store".into());
        Ok(())
    }

    fn attend(
        &mut self,
        position: usize,
        rows: usize,
        q: Buffer,
        cache: KvCache,
        attention: &Attention,
        out: Buffer,
    ) -> Result<()> {
        let len = rows * attention.heads.query * attention.heads.size;
        self.writing(out, |cpu, out| {
            let queries = &cpu.buffers[q.0][..len];
            let started = cpu.times.start();
            let (cache, scratch) = (&cpu.caches[cache.0], &mut cpu.scratch_attention);
            cache.attend(&cpu.pool, position, queries, attention, scratch, &mut out[..len])?;
            cpu.times.stop(started, || "attend".into());
            Ok(())
        })
    }

    fn gate(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        linears: [&Linear; 2],
        activation: Activation,
        out: Buffer,
    ) -> Result<()> {
        self.with_input(rows, x, norm, |cpu, input| {
            let mut outs = [cpu.take(out), std::mem::take(&mut cpu.scratch_up)];
            let done = cpu.gate_into(rows, linears, input, activation, &mut outs);
            let [gated, upped] = outs;
            cpu.scratch_up = upped;
            cpu.put(out, gated);
            done
        })
    }

    fn activate(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        up: &Linear,
        activation: Activation,
        out: Buffer,
    ) -> Result<()> {
        let width = self.matrices[up.weight.0].rows;
        self.with_input(rows, x, norm, |cpu, input| {
            cpu.writing(out, |cpu, activated| {
                cpu.apply(up, rows, input, activated)?;
                let used = &mut activated[..rows * width];
                cpu.pool.rows(used, width, SLOW * width, |_, row| ops::activate(row, activation))
            })
        })
    }

    fn logits(
        &mut self,
        row: usize,
        x: Buffer,
        norm: &Norm,
        head: &Linear,
        softcap: Option<f32>,
        out: Buffer,
    ) -> Result<()> {
        let input = self.normed(norm, row..row + 1, x)?;
        self.writing(out, |cpu, scores| {
            cpu.apply(head, 1, &input, scores)?;
            if let Some(cap) = softcap {
                ops::cap_all(scores, cap);
            }
            cpu.scratch = input;
            Ok(())
        })
    }

    fn choose(&mut self, scores: Buffer, len: usize) -> Result<()> {
        let scores = &self.buffers[scores.0][..len];
        let best = (0..len).reduce(|best, place| if scores[place] > scores[best] { place } else { best });
        self.last_choice = best.unwrap_or(0) as u32;
        self.choices.push_back(self.last_choice);
        Ok(())
    }

    fn chosen(&mut self) -> LocalBoxFuture<'_, Result<u32>> {
        let oldest = self.choices.pop_front().ok_or_else(|| Error::internal("nothing was chosen"));
        Box::pin(std::future::ready(oldest))
    }

    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>> {
        let started = self.times.start();
        top_k(&self.buffers[scores.0][..len], wanted, out);
        self.times.stop(started, || "top k".into());
        Box::pin(std::future::ready(Ok(())))
    }

    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        len: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        out.clear();
        out.extend_from_slice(&self.buffers[buffer.0][..len]);
        Box::pin(std::future::ready(Ok(())))
    }
}

//! The CPU backend: our own SIMD kernels for quantized and 16-bit weights, candle's for F32 and for shapes that cannot be
//! packed. [`Cpu::reference`] computes in f32 over dequantized weights: what kernels are compared with.

mod attention;
mod blocks;
mod cache;
#[cfg(any(test, target_feature = "relaxed-simd"))]
mod form;
mod kernels;
mod math;
mod op;
mod packed;
mod packed16;
pub(crate) mod pool;
#[cfg(test)]
mod tests;
mod times;
mod together;

use super::op::{Buffer, Linear, Matrix, Norm, NormKind, State, Vector};
use super::{Backend, KernelTime, Program, Shape, Step, Top, Wanted};
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use blocks::Blocks;
use cache::Cache;
use futures_util::future::LocalBoxFuture;
use kernels::input::Input;
use math::Rotations;
pub(crate) use math::{exp_of, top_k};
pub use pool::MOST_THREADS;
use pool::Pool;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::rc::Rc;
use times::Times;
use together::TOGETHER;

/// Enough rows to amortize reading the weights, few enough to answer an abort soon.
const PREFILL_ROWS: usize = 64;

/// So many rows go through a matrix one by one: kernels of several rows unpack its weights first, which more rows have to
/// be worth (tests/bench/README.md, "Answers at once").
const APART: usize = 8;
/// Rows that these kernels take at a time, and of the rest how many go one by one.
const TILE: usize = 4;
const REST: usize = 2;

/// How many of `rows` rows go through a matrix together; the others follow one by one.
fn together(rows: usize) -> usize {
    match rows {
        1 => 1,
        ..=APART => 0,
        _ if rows % TILE <= REST => rows - rows % TILE,
        _ => rows,
    }
}

/// What a sine or an exponential takes, in multiplications.
const SLOW: usize = 8;

struct WeightMatrix {
    kind: TensorType,
    rows: usize,
    columns: usize,
    blocks: Box<dyn Blocks>,
    /// Of several experts' matrices, all but the first; each has `rows` rows.
    others: Vec<Box<dyn Blocks>>,
}

impl WeightMatrix {
    /// Of an expert.
    fn expert(&self, index: usize) -> &dyn Blocks {
        index.checked_sub(1).map_or(&*self.blocks, |other| &*self.others[other])
    }

    /// Puts whole rows, which may be of several experts.
    fn write_rows(&mut self, pool: &Pool, mut first: usize, mut bytes: &[u8]) -> Result<()> {
        let (block_len, block_size) = self.kind.block();
        let row = self.columns / block_len as usize * block_size as usize;
        while !bytes.is_empty() {
            let (expert, at) = (first / self.rows, first % self.rows);
            let count = (self.rows - at).min(bytes.len() / row).max(1);
            let (now, rest) = bytes.split_at_checked(count * row).ok_or_else(past_the_end)?;
            let blocks = match expert.checked_sub(1) {
                None => Some(&mut self.blocks),
                Some(other) => self.others.get_mut(other),
            };
            blocks.ok_or_else(past_the_end)?.write_rows(pool, at, now)?;
            (first, bytes) = (first + count, rest);
        }
        Ok(())
    }

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
    /// Keys and values in 8 bits.
    kv_8bit: bool,
    matrices: Vec<WeightMatrix>,
    vectors: Vec<Vec<f32>>,
    buffers: Vec<Vec<f32>>,
    caches: Vec<Cache>,
    /// Of each recurrent layer: slots × numbers.
    states: Vec<Vec<f32>>,
    /// A normed input or an un-normed output; grows to the largest in the first step.
    scratch: Vec<f32>,
    /// The second factor of a gated activation.
    scratch_up: Vec<f32>,
    scratch_experts: op::experts::ExpertRoom,
    /// What ranges of positions add to an attention's result.
    scratch_attention: Vec<f32>,
    /// The input of matrix products as their kernels want it; all but the first where several want it differently.
    rounded: RefCell<[Input; TOGETHER]>,
    rotations: Rotations,
    times: Times,
    program: Rc<Program>,
    /// One a row.
    last_choice: Vec<u32>,
    /// Choices that were not read yet.
    choices: VecDeque<u32>,
    /// How many rows each of them has.
    chosen_rows: VecDeque<usize>,
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

    /// Keeps keys and values in 8 bits, with a scale for each head of a position: a quarter of the room, at some loss.
    pub fn with_kv_8bit(self, kv_8bit: bool) -> Self {
        Cpu { kv_8bit, ..self }
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

    /// Takes a state out while an operation changes it; it has to come back as buffers have to.
    fn take_state(&mut self, state: State) -> Vec<f32> {
        std::mem::take(&mut self.states[state.0])
    }

    fn put_state(&mut self, state: State, numbers: Vec<f32>) {
        self.states[state.0] = numbers;
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
        self.multiply(matrix, 0, rows, input, out)?;
        if let Some(bias) = linear.bias {
            let bias = &self.vectors[bias.0];
            for row in out.chunks_exact_mut(matrix.rows) {
                math::add(row, bias);
            }
        }
        Ok(())
    }

    /// `out = W·input` with an expert's matrix.
    fn multiply(
        &self,
        matrix: &WeightMatrix,
        expert: usize,
        rows: usize,
        input: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let (out, input) = (&mut out[..rows * matrix.rows], &input[..rows * matrix.columns]);
        let started = self.times.start();
        let together = together(rows);
        let (first, rest) = input.split_at(together * matrix.columns);
        let (first_out, rest_out) = out.split_at_mut(together * matrix.rows);
        let multiply = |rows: usize, input: &[f32], out: &mut [f32]| {
            // What was rounded last is not what comes now.
            if !rest.is_empty() {
                self.forget_input();
            }
            let rounded = &mut self.rounded.borrow_mut()[0];
            matrix.expert(expert).multiply(&self.pool, rows, input, rounded, out)
        };
        if together > 0 {
            multiply(together, first, first_out)?;
        }
        for (input, out) in rest.chunks(matrix.columns).zip(rest_out.chunks_mut(matrix.rows)) {
            multiply(1, input, out)?;
        }
        self.times.stop(started, || matrix.label());
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
                None => math::rms_norm(row, scale, norm.epsilon, out),
                Some(bias) => math::layer_norm(row, scale, bias, norm.epsilon, out),
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
}

/// Makes room for `len` numbers without giving any back.
fn resize(scratch: &mut Vec<f32>, len: usize) -> Result<()> {
    if scratch.len() < len {
        scratch.try_reserve_exact(len - scratch.len()).map_err(|_| no_memory(len))?;
        scratch.resize(len, 0.0);
    }
    Ok(())
}

fn past_the_end() -> Error {
    Error::internal("a matrix is written past its end")
}

fn no_page() -> Error {
    Error::internal("these are not the bytes of a page")
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

    fn kv_number_size(&self) -> u64 {
        if self.kv_8bit { 1 } else { size_of::<f32>() as u64 }
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

    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()> {
        self.matrices[matrix.0].write_rows(&self.pool, first, bytes)
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.vectors[vector.0].copy_from_slice(values);
        Ok(())
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<()> {
        self.buffers[buffer.0][..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn prepare(&mut self, program: &Rc<Program>) -> Result<()> {
        let matrices = program.matrices.iter().zip(&program.parts).skip(self.matrices.len());
        for (&Shape { rows, columns, kind }, &parts) in matrices {
            let rows = rows / parts;
            let make = |_| match self.dequantize {
                true => blocks::dequantized(kind, rows, columns),
                false => blocks::allocate(kind, rows, columns),
            };
            let (blocks, others) = (make(0)?, (1..parts).map(make).collect::<Result<_>>()?);
            self.matrices.push(WeightMatrix { kind, rows, columns, blocks, others });
        }
        for len in program.vectors.iter().skip(self.vectors.len()) {
            self.vectors.push(zeros(*len)?);
        }
        for shape in program.buffers.iter().skip(self.buffers.len()) {
            self.buffers.push(zeros(shape.rows.saturating_mul(shape.width))?);
        }
        for shape in program.caches.iter().skip(self.caches.len()) {
            self.caches.push(Cache::new(shape.pages, shape.heads, self.kv_8bit)?);
        }
        for shape in program.states.iter().skip(self.states.len()) {
            self.states.push(zeros(shape.slots.saturating_mul(shape.width))?);
        }
        self.program = program.clone();
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<()> {
        let program = self.program.clone();
        program.operations.iter().try_for_each(|operation| self.perform(operation, step))
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<()> {
        self.caches.iter_mut().for_each(|cache| cache.copy_page(from, to));
        Ok(())
    }

    fn copy_state(&mut self, from: u32, to: u32) -> Result<()> {
        for (state, shape) in self.states.iter_mut().zip(&self.program.states) {
            let from = from as usize * shape.width;
            state.copy_within(from..from + shape.width, to as usize * shape.width);
        }
        Ok(())
    }

    fn state_size(&self) -> usize {
        size_of::<f32>() * self.program.states.iter().map(|shape| shape.width).sum::<usize>()
    }

    fn read_state<'a>(&'a mut self, slot: u32, out: &'a mut Vec<u8>) -> LocalBoxFuture<'a, Result<()>> {
        for (state, shape) in self.states.iter().zip(&self.program.states) {
            let numbers = &state[slot as usize * shape.width..][..shape.width];
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.state_size() {
            return Err(Error::internal("these are not the bytes of a state"));
        }
        let mut words = bytes.as_chunks::<4>().0.iter();
        for (state, shape) in self.states.iter_mut().zip(&self.program.states) {
            let numbers = &mut state[slot as usize * shape.width..][..shape.width];
            numbers.iter_mut().zip(&mut words).for_each(|(number, word)| *number = f32::from_le_bytes(*word));
        }
        Ok(())
    }

    fn page_form(&self) -> String {
        format!("cpu, {} bits", 8 * self.kv_number_size())
    }

    fn page_size(&self) -> usize {
        self.caches.iter().map(Cache::page_size).sum()
    }

    fn read_pages<'a>(
        &'a mut self,
        pages: &'a [u32],
        out: &'a mut Vec<u8>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        let size = self.page_size();
        let room = out.try_reserve_exact(pages.len() * size).map_err(|_| no_memory(pages.len() * size / 4));
        let read = room.map(|()| {
            for page in pages {
                self.caches.iter().for_each(|cache| cache.read_page(*page, out));
            }
        });
        Box::pin(std::future::ready(read))
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for cache in &mut self.caches {
            let (bytes, after) = rest.split_at_checked(cache.page_size()).ok_or_else(no_page)?;
            cache.write_page(page, bytes);
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(no_page()) }
    }

    fn choose(&mut self, scores: Buffer, rows: usize, len: usize) -> Result<()> {
        let scores = self.buffers[scores.0].chunks_exact(self.program.width(scores)).take(rows);
        self.last_choice.clear();
        self.last_choice.extend(scores.map(|scores| {
            let best = (0..len).reduce(|best, place| if scores[place] > scores[best] { place } else { best });
            best.unwrap_or(0) as u32
        }));
        self.choices.extend(&self.last_choice);
        self.chosen_rows.push_back(self.last_choice.len());
        Ok(())
    }

    fn chosen<'a>(&'a mut self, out: &'a mut Vec<u32>) -> LocalBoxFuture<'a, Result<()>> {
        out.clear();
        let oldest = self.chosen_rows.pop_front().ok_or_else(|| Error::internal("nothing was chosen"));
        Box::pin(std::future::ready(oldest.map(|rows| out.extend(self.choices.drain(..rows)))))
    }

    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        row: usize,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>> {
        let started = self.times.start();
        let width = self.program.width(scores);
        top_k(&self.buffers[scores.0][row * width..][..len], wanted, out);
        self.times.stop(started, || "top k".into());
        Box::pin(std::future::ready(Ok(())))
    }

    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        first: usize,
        rows: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        let width = self.program.width(buffer);
        out.clear();
        out.extend_from_slice(&self.buffers[buffer.0][first * width..][..rows * width]);
        Box::pin(std::future::ready(Ok(())))
    }
}

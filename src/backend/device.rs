//! What a device must be able to do.

use super::op::Buffer;
use super::op::{Matrix, Vector};
use super::program::{Program, Shape};
use super::scores::{Top, Wanted};
use super::step::Step;
use crate::Result;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use std::rc::Rc;

/// A GPU and how it is used, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "GPUInfo", optional_fields))]
pub struct GpuInfo {
    /// The adapter's name.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// Optional features of the device that are on.
    pub features: Vec<&'static str>,
    /// Which variants of the kernels run.
    pub variants: Vec<&'static str>,
    /// Types of weights that take more room than in the file, in words: `Q3_K as Q6_K`. Nothing is rounded.
    pub wider: Vec<&'static str>,
    /// Pipelines that are made.
    pub pipelines: usize,
    /// Every kernel is compared with the CPU when a model first meets a GPU: what that found, where it was done.
    #[cfg(feature = "gpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(inline))]
    pub self_test: Option<super::gpu::SelfTest>,
}

/// What one kernel of a device has cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct KernelTime {
    /// With the variant's constants.
    pub kernel: String,
    /// Dispatches measured.
    pub calls: u64,
    /// Over all of them. Browsers round each to 100 µs, unless they were started for developers.
    pub nanoseconds: u64,
}

/// A device that runs a model: it makes room for what a [`Program`] declares, gets the weights, and runs the program's
/// operations for each [`Step`].
///
/// Calls enqueue work and do not wait for it; only those that give a future do. Handles are the program's.
/// Sizes are checked when a model is loaded; operations may rely on them.
pub trait Backend {
    /// `cpu` or `gpu`.
    fn device(&self) -> &'static str;

    /// Time in each kernel since the last call, longest first, where the device was asked to measure.
    fn kernel_times(&mut self) -> LocalBoxFuture<'_, Result<Vec<KernelTime>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Tokens that should go through the model in one step of the prompt. Between steps a
    /// caller can report progress and stop.
    fn prefill_rows(&self) -> usize;

    /// Hears what will come. A device that cannot hold it says so now, before anything is loaded.
    fn expect<'a>(&'a mut self, program: &'a Program) -> LocalBoxFuture<'a, Result<()>> {
        _ = program;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Bytes that a matrix takes here; as many as in its file, unless the device's layout is wider.
    fn matrix_size(&self, shape: &Shape) -> u64 {
        shape.size()
    }

    /// Bytes of a number in the KV cache, scales aside.
    fn kv_number_size(&self) -> u64 {
        size_of::<f32>() as u64
    }

    /// The GPU, where that is the device.
    fn gpu(&self) -> Option<GpuInfo> {
        None
    }

    /// Lets go of all memory. Whatever is called afterwards fails with `device_lost`, where the device can be lost.
    fn release(&mut self) {}

    /// Threads at work, where that is known.
    fn threads(&self) -> Option<usize> {
        None
    }

    /// Makes room for what `program` declares and was not declared before, and takes over its operations: steps run
    /// these from now on. What is declared must not change from one program to the next, only grow.
    fn prepare(&mut self, program: &Rc<Program>) -> Result<()>;

    /// Hears that a model is loaded, and gets ready to run it.
    fn loaded(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether tokens chosen on the device spare it a wait: [`Backend::choose`] enqueues.
    fn chooses_ahead(&self) -> bool {
        false
    }

    /// Ends when everything enqueued has run.
    fn wait(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Puts whole rows, in the encoding of the matrix's type, at row `first` and after.
    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()>;

    /// Puts all of a vector's numbers.
    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()>;

    /// Puts rows at the start of a buffer: for trials of a device. Models fill buffers by operations.
    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<()>;

    /// Runs the program's operations for the rows of `step`. With an error nothing has happened but that
    /// positions of the step's rows hold anything.
    fn run(&mut self, step: &Step) -> Result<()>;

    /// In every KV cache: what page `from` holds is in page `to` too.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<()>;

    /// In every layer's state: what slot `from` holds is in slot `to` too.
    fn copy_state(&mut self, from: u32, to: u32) -> Result<()>;

    /// Bytes of a slot, over all layers.
    fn state_size(&self) -> usize;

    /// Adds what a slot holds to `out`, once everything enqueued has run.
    fn read_state<'a>(&'a mut self, slot: u32, out: &'a mut Vec<u8>) -> LocalBoxFuture<'a, Result<()>>;

    /// Puts what [`Backend::read_state`] gave into a slot.
    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> Result<()>;

    /// How pages are written out: only what was written out in this form can be written back.
    fn page_form(&self) -> String;

    /// Bytes of a page in that form, over all KV caches.
    fn page_size(&self) -> usize;

    /// Adds what the pages hold to `out`, one after the other, once everything enqueued has run.
    fn read_pages<'a>(&'a mut self, pages: &'a [u32], out: &'a mut Vec<u8>)
    -> LocalBoxFuture<'a, Result<()>>;

    /// Puts what [`Backend::read_pages`] gave for one page into a page.
    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()>;

    /// Chooses in each of the first `rows` rows of `scores` the place of the highest of the first `len`, the first of
    /// equals: for the next step's [`Token::Chosen`](super::Token::Chosen), and for [`Backend::chosen`].
    fn choose(&mut self, scores: Buffer, rows: usize, len: usize) -> Result<()>;

    /// The oldest choice that was not read yet, one token a row. Reading each one a step late keeps the device busy.
    fn chosen<'a>(&'a mut self, out: &'a mut Vec<u32>) -> LocalBoxFuture<'a, Result<()>>;

    /// The highest of the first `len` scores of row `row`, and what else is wanted. The scores stay where they are.
    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        row: usize,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>>;

    /// `rows` rows of `buffer` from row `first` on, once everything enqueued has run.
    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        first: usize,
        rows: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>>;
}

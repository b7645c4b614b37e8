//! The GPU backend: our own WGSL kernels through wgpu, in browsers and natively.
//!
//! `device` opens an adapter, `memory` lays weights out (`repack` says how), `shader` makes pipelines
//! from `wgsl/`, and `record` collects the dispatches of a step and submits them as one compute pass.
//! What is left here and in `product` and `attention` is which kernels an operation is.
//!
//! Rows of activations are padded by zeros to a multiple of 64 numbers, so that products read whole
//! blocks; kernels never write the padding.

mod attention;
mod choice;
mod device;
mod memo;
mod memory;
mod probe;
mod product;
mod profile;
mod record;
mod repack;
mod self_test;
mod shader;
#[cfg(target_arch = "wasm32")]
mod web;

pub use device::{Corruption, Options};
pub use self_test::{SelfTest, SwitchedOff, Variant};

use super::{
    Activation, Attention, Backend, Buffer, GpuInfo, Heads, KernelTime, KvCache, Linear, Matrix, Needs, Norm,
    Rope, Shape, Tokens, Top, Vector, Wanted,
};
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use attention::{Cache, Rotation};
use choice::{CHOSEN_AT, Choices};
use device::Device;
use futures_util::future::LocalBoxFuture;
use memory::{MatrixData, Memory, VectorData};
use product::{End, FEW_TOKENS, Input};
use record::{BufferId, Recorder};
use repack::Format;
use shader::{Kernel, Pipelines};
use std::collections::{BTreeSet, HashMap};

/// Activations' rows begin at multiples of this many numbers: two blocks of a matrix.
const ROW_ALIGNMENT: usize = 64;
/// Tokens of a step of the prompt.
const PREFILL_ROWS: usize = 512;

/// `rows × width` numbers, a row every `stride`.
#[derive(Debug, Clone, Copy)]
struct Activations {
    id: BufferId,
    width: usize,
    stride: usize,
}

/// Runs models on a GPU.
pub struct Gpu {
    device: Device,
    options: Options,
    recorder: Recorder,
    memory: Memory,
    matrices: Vec<MatrixData>,
    vectors: Vec<VectorData>,
    buffers: Vec<Activations>,
    caches: Vec<Cache>,
    rotations: Vec<Rotation>,
    /// Token ids: of steps that are not submitted yet, and the chosen one at the end.
    ids: BufferId,
    choices: Choices,
    /// What lies between two kernels of an operation; made when first needed.
    scratch: HashMap<(usize, usize), Activations>,
    /// The splits of `attend`.
    parts: Option<BufferId>,
    /// Longest KV cache.
    context: usize,
    /// What the self-test found, where there was one.
    self_test: Option<SelfTest>,
    /// Halves are decoded by integers: the device reads subnormal ones as 0.
    exact_half: bool,
    /// Products of many tokens are of integers where the weights are; not known before it was measured.
    dp4a: Option<bool>,
    /// Threads, lanes and rows of `matvec` and `gate`, in place of the usual.
    tuned: Option<[usize; 3]>,
}

/// What runs and how, for people.
#[derive(Debug, Clone)]
pub struct Info {
    /// The adapter's name.
    pub adapter: String,
    /// Vulkan, Metal, …
    pub backend: String,
    /// The driver, with its version.
    pub driver: String,
    /// Sizes of a subgroup, where kernels use them.
    pub subgroups: Option<(u32, u32)>,
    /// Whether keys and values are kept as f16.
    pub kv_f16: bool,
    /// Bytes of weights on the device.
    pub weights: u64,
    /// Pipelines made.
    pub pipelines: usize,
    /// Dispatches so far.
    pub dispatches: u64,
}

impl Gpu {
    /// Opens a device.
    pub async fn open(mut options: Options) -> Result<Gpu> {
        let device = Device::open(&options).await?;
        options.kv_f32 |= !options.allows("f16");
        if !options.allows("half") {
            options.exact_half = Some(true);
        }
        let pipelines = Pipelines::new(options.corruptions.clone());
        let mut gpu = Gpu::with(device, options, pipelines)?;
        gpu.dp4a = if gpu.options.allows("dp4a") { gpu.options.dp4a } else { Some(false) };
        gpu.exact_half = match gpu.options.exact_half {
            Some(exact) => exact,
            None => !gpu.reads_halves().await?,
        };
        Ok(gpu)
    }

    /// The same device with nothing on it but its pipelines.
    pub fn emptied(self) -> Result<Gpu> {
        let Gpu { device, options, recorder, self_test, exact_half, dp4a, tuned, .. } = self;
        recorder.destroy_buffers();
        let gpu = Gpu::with(device, options, recorder.pipelines)?;
        Ok(Gpu { self_test, exact_half, dp4a, tuned, ..gpu })
    }

    fn with(device: Device, options: Options, pipelines: Pipelines) -> Result<Gpu> {
        let mut recorder = Recorder::new(&device, options.profile, pipelines)?;
        let memory = Memory::new(&device, &mut recorder)?;
        let ids = recorder.add(device.storage("token ids", 4 * (4 * PREFILL_ROWS as u64 + 2))?);
        Ok(Gpu {
            device,
            options,
            recorder,
            memory,
            matrices: Vec::new(),
            vectors: Vec::new(),
            buffers: Vec::new(),
            caches: Vec::new(),
            rotations: Vec::new(),
            ids,
            choices: Choices::default(),
            scratch: HashMap::new(),
            parts: None,
            context: 0,
            self_test: None,
            exact_half: false,
            dp4a: None,
            tuned: None,
        })
    }

    /// What runs and how.
    pub fn info(&self) -> Info {
        let info = &self.device.info;
        Info {
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info),
            subgroups: self.device.subgroups,
            kv_f16: !self.options.kv_f32,
            weights: self.memory.used(),
            pipelines: self.recorder.pipelines.len(),
            dispatches: self.recorder.dispatches,
        }
    }

    /// Bytes a second that a kernel reads and writes when it copies `bytes` bytes.
    pub async fn copy_bandwidth(&mut self, bytes: usize) -> Result<f64> {
        let bytes = bytes.min(self.device.max_binding() as usize).next_multiple_of(16);
        let [from, to] =
            [self.device.storage("copy", bytes as u64)?, self.device.storage("copy", bytes as u64)?]
                .map(|buffer| self.recorder.add(buffer));
        let count = bytes / 16;
        let (mut best, mut word) = (0.0f64, Vec::new());
        for rounds in [2, 20, 20, 20] {
            for _ in 0..rounds {
                let groups = product::fold(count.div_ceil(1024));
                self.dispatch(Kernel::new("copy"), &[count as u32, 0, 0, 0], &[from, to], groups)?;
            }
            let start = web_time::Instant::now();
            self.recorder.read(&self.device, to, 4, &mut word).await?;
            best = best.max((2 * bytes * rounds) as f64 / start.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Threads, lanes a row and rows a lane for the products of one token; for measurements.
    pub fn tune(&mut self, shape: Option<[usize; 3]>) {
        self.tuned = shape;
    }

    /// Loses the device, for tests of what comes then.
    pub fn destroy(&self) {
        self.device.handle.destroy();
    }

    /// Whether the device can hold what is needed, as far as it tells: WebGPU does not say how much memory
    /// there is, only how much a buffer may have.
    fn check_needs(&mut self, needs: &Needs) -> Result<()> {
        let size = |shape: &Shape| self.matrix_size(shape);
        // Slabs' ends take a little more.
        let weights = needs.matrices.iter().map(size).sum::<u64>() + 4096 * needs.matrices.len() as u64;
        let caches = needs.caches.iter().map(|&(context, heads)| self.cache_size(context, heads));
        let cache = caches.clone().max().unwrap_or(0);
        let caches = caches.fold(0u64, |sum, size| sum.saturating_add(size.saturating_mul(2)));
        let rows = needs.matrices.iter().map(|shape| size(&Shape { rows: 1, ..*shape }));
        let limit = self.device.max_binding();
        for (what, bytes) in [("a layer's keys", cache), ("a row of weights", rows.max().unwrap_or(0))] {
            if bytes > limit {
                return Err(Error::resource_exhausted(format!(
                    "{what} would take {bytes} bytes, and the GPU takes {limit} in one piece (in all, {weights} \
                     bytes of weights and {caches} of KV cache). Choose a smaller model or context"
                )));
            }
        }
        self.memory.expect(weights);
        Ok(())
    }

    async fn wait_idle(&mut self) -> Result<()> {
        let mut word = Vec::new();
        self.recorder.read(&self.device, self.ids, 4, &mut word).await
    }

    fn activations(&mut self, rows: usize, width: usize) -> Result<Activations> {
        let stride = width.next_multiple_of(ROW_ALIGNMENT);
        // Kernels for few tokens read whole powers of two of rows.
        let rows = if rows <= FEW_TOKENS { rows.next_power_of_two() } else { rows };
        let buffer = self.device.storage("activations", 4 * rows as u64 * stride as u64)?;
        Ok(Activations { id: self.recorder.add(buffer), width, stride })
    }

    /// Room for `rows × width` numbers until the operation ends: one buffer for each index and width, however often
    /// they take turns. The padding is zero.
    fn scratch(&mut self, index: usize, rows: usize, width: usize) -> Result<Activations> {
        // Few steps are longer than all before them.
        let rows = rows.next_power_of_two();
        match self.scratch.get(&(index, width)).copied() {
            Some(found) => {
                let size = 4 * rows as u64 * found.stride as u64;
                if self.recorder.buffer(found.id).size() < size {
                    let larger = self.device.storage("activations", size)?;
                    self.recorder.replace(&self.device, found.id, larger)?;
                }
                Ok(found)
            }
            None => {
                let found = self.activations(rows, width)?;
                self.scratch.insert((index, width), found);
                Ok(found)
            }
        }
    }

    /// `out = scale · table[ids[first + i]]`; without ids, `out += scale · table[first + i]`.
    fn rows_of(
        &mut self,
        table: Matrix,
        first: usize,
        ids: Option<BufferId>,
        scale: f32,
        rows: usize,
        out: Activations,
    ) -> Result<()> {
        let matrix = &self.matrices[table.0];
        let (blocks, format, columns) = (matrix.blocks, matrix.format, matrix.columns);
        for part in matrix.parts.clone() {
            let mut params = vec![
                blocks as u32,
                rows as u32,
                first as u32,
                (out.stride / 4) as u32,
                part.first_row as u32,
                scale.to_bits(),
                columns as u32,
                0,
            ];
            params.extend(product::matrix_params(&part, 0, 0, 0, None));
            let kernel = Kernel::new("embed")
                .format(format.file())
                .flag("EXACT_HALF", self.exact_half)
                .flag("ROWS", ids.is_none());
            let mut buffers = vec![part.slab, part.slab, out.id];
            buffers.extend(ids);
            self.dispatch(kernel, &params, &buffers, [(blocks * 8).div_ceil(64), rows, 1])?;
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        kernel: Kernel,
        params: &[u32],
        buffers: &[BufferId],
        workgroups: [usize; 3],
    ) -> Result<()> {
        self.recorder.dispatch(&self.device, kernel, params, buffers, workgroups)
    }
}

impl Backend for Gpu {
    fn device(&self) -> &'static str {
        "gpu"
    }

    fn kernel_times(&mut self) -> LocalBoxFuture<'_, Result<Vec<KernelTime>>> {
        Box::pin(self.recorder.take_times(&self.device))
    }

    fn prefill_rows(&self) -> usize {
        PREFILL_ROWS
    }

    fn expect(&mut self, needs: &Needs) -> LocalBoxFuture<'_, Result<()>> {
        let checked = self.check_needs(needs);
        Box::pin(async move {
            checked?;
            self.measure_variants().await
        })
    }

    fn matrix_size(&self, shape: &Shape) -> u64 {
        Memory::size_of(Format::of(shape.kind), shape.rows, shape.columns)
    }

    fn kv_number_size(&self) -> u64 {
        if self.options.kv_f32 { 4 } else { 2 }
    }

    fn gpu(&self) -> Option<GpuInfo> {
        let features =
            [("subgroups", self.device.subgroups.is_some()), ("timestamps", self.device.timestamps)];
        let variants = [
            ("subgroups", self.device.subgroups.is_some()),
            ("shared memory", self.device.subgroups.is_none()),
            ("kv f16", !self.options.kv_f32),
            ("kv f32", self.options.kv_f32),
            ("exact half", self.exact_half),
            ("dp4a", self.dp4a == Some(true)),
        ];
        let on = |flags: &[(&'static str, bool)]| {
            flags.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect()
        };
        let (adapter, backend) = (self.device.info.name.clone(), self.device.info.backend.to_string());
        let (features, variants) = (on(&features), on(&variants));
        let wider: BTreeSet<_> = self.matrices.iter().filter_map(|matrix| matrix.format.wider()).collect();
        Some(GpuInfo {
            adapter,
            backend,
            features,
            variants,
            wider: wider.into_iter().collect(),
            pipelines: self.recorder.pipelines.len(),
            self_test: self.self_test.clone(),
        })
    }

    fn release(&mut self) {
        self.recorder.destroy_buffers();
        self.device.lose();
    }

    fn chooses_ahead(&self) -> bool {
        true
    }

    fn wait(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.wait_idle())
    }

    fn matrix(&mut self, rows: usize, columns: usize, kind: TensorType) -> Result<Matrix> {
        let matrix = self.memory.matrix(&self.device, &mut self.recorder, rows, columns, kind)?;
        self.matrices.push(matrix);
        Ok(Matrix(self.matrices.len() - 1))
    }

    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()> {
        let matrix = &self.matrices[matrix.0];
        self.memory.write_rows(&self.device, &self.recorder, matrix, first, bytes)
    }

    fn vector(&mut self, len: usize) -> Result<Vector> {
        let vector = self.memory.vector(&self.device, &mut self.recorder, len)?;
        self.vectors.push(vector);
        Ok(Vector(self.vectors.len() - 1))
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.memory.write_vector(&self.device, &self.recorder, &self.vectors[vector.0], values);
        Ok(())
    }

    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer> {
        let buffer = self.activations(rows, width)?;
        self.buffers.push(buffer);
        Ok(Buffer(self.buffers.len() - 1))
    }

    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<()> {
        // What is enqueued still sees what was there.
        if !self.recorder.is_empty() {
            self.recorder.submit(&self.device)?;
        }
        let Activations { id, width, stride } = self.buffers[buffer.0];
        let buffer = self.recorder.buffer(id);
        for (row, values) in values.chunks(width).enumerate() {
            let offset = 4 * (row * stride) as u64;
            self.device.queue.write_buffer(buffer, offset, bytemuck::cast_slice(values));
        }
        Ok(())
    }

    fn kv_cache(&mut self, context: usize, heads: Heads) -> Result<KvCache> {
        let cache = self.new_cache(context, heads)?;
        self.caches.push(cache);
        Ok(KvCache(self.caches.len() - 1))
    }

    fn embed(&mut self, tokens: Tokens, table: Matrix, scale: f32, out: Buffer) -> Result<()> {
        // A step begins: the device may have the last one.
        if !self.recorder.is_empty() {
            self.recorder.submit(&self.device)?;
        }
        let first = match tokens {
            Tokens::Chosen => CHOSEN_AT,
            Tokens::Known(tokens) => {
                let vocabulary = self.matrices[table.0].rows;
                if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
                    let message = format!("token {token} is outside the vocabulary of {vocabulary}");
                    return Err(Error::invalid_argument(message));
                }
                // Earlier steps are submitted: these ids are written after they ran.
                let ids = self.recorder.buffer(self.ids);
                self.device.queue.write_buffer(ids, 0, bytemuck::cast_slice(tokens));
                0
            }
        };
        self.rows_of(table, first, Some(self.ids), scale, tokens.len(), self.buffers[out.0])
    }

    fn add_rows(&mut self, first: usize, rows: usize, table: Matrix, x: Buffer) -> Result<()> {
        self.rows_of(table, first, None, 1.0, rows, self.buffers[x.0])
    }

    fn norm(&mut self, rows: usize, x: Buffer, norm: &Norm, out: Buffer) -> Result<()> {
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        self.norm_rows(rows, Input::of(x), norm, out)
    }

    fn project(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        outputs: &[(Linear, Buffer)],
    ) -> Result<()> {
        let x = self.buffers[x.0];
        let outputs: Vec<_> = outputs.iter().map(|(linear, out)| (*linear, self.buffers[out.0])).collect();
        self.products(rows, Input { x, first: 0, exact: true }, norm, &outputs, End::Store)
    }

    fn project_add(
        &mut self,
        rows: usize,
        input: Buffer,
        linear: &Linear,
        norm: Option<&Norm>,
        x: Buffer,
    ) -> Result<()> {
        let (input, x) = (self.buffers[input.0], self.buffers[x.0]);
        match norm {
            None => self.products(rows, Input::of(input), None, &[(*linear, x)], End::Add),
            Some(norm) => {
                let width = self.matrices[linear.weight.0].rows;
                let projected = self.scratch(0, rows, width)?;
                self.products(rows, Input::of(input), None, &[(*linear, projected)], End::Store)?;
                self.rms_norm(rows, projected, norm, x, true)
            }
        }
    }

    fn rotate_and_store(
        &mut self,
        position: usize,
        rows: usize,
        qkv: [Buffer; 3],
        heads: Heads,
        norms: Option<&[Norm; 2]>,
        rope: &Rope,
        cache: KvCache,
    ) -> Result<()> {
        self.rotate_and_store_at(position, rows, qkv.map(|b| self.buffers[b.0]), heads, norms, rope, cache)
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
        self.attend_at(position, rows, self.buffers[q.0], cache, attention, self.buffers[out.0])
    }

    fn gate(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        gate_up: [&Linear; 2],
        activation: Activation,
        out: Buffer,
    ) -> Result<()> {
        self.gated(rows, self.buffers[x.0], norm, gate_up, activation, self.buffers[out.0])
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
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        self.products(rows, Input::of(x), norm, &[(*up, out)], End::Activate(activation))
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
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        let end = softcap.map_or(End::Store, End::Softcap);
        self.products(1, Input { x, first: row, exact: true }, Some(norm), &[(*head, out)], end)
    }

    fn choose(&mut self, scores: Buffer, len: usize) -> Result<()> {
        self.choose_from(self.buffers[scores.0].id, len)
    }

    fn chosen(&mut self) -> LocalBoxFuture<'_, Result<u32>> {
        Box::pin(async move {
            match self.recorder.receive_late(&self.device).await? {
                [token, 0] => Ok(token),
                _ => Err(Error::internal("the model gave a logit that is not a finite number")),
            }
        })
    }

    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.top_k_of(self.buffers[scores.0].id, len, wanted, out))
    }

    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        len: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Activations { id, width, stride } = self.buffers[buffer.0];
            let padded = match len <= width {
                true => len,
                false => len.div_ceil(width) * stride,
            };
            let mut bytes = Vec::new();
            self.recorder.read(&self.device, id, 4 * padded as u64, &mut bytes).await?;
            let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let unpadded = numbers.enumerate().filter(|(at, _)| at % stride < width).map(|(_, n)| n);
            out.clear();
            out.extend(unpadded.take(len));
            Ok(())
        })
    }
}

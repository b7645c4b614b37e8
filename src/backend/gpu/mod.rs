//! The GPU backend: our own WGSL kernels through wgpu, in browsers and natively.
//!
//! `device` opens an adapter, `memory` lays weights out (`repack` says how), `shader` makes pipelines
//! from `wgsl/`, and `record` collects the dispatches of a step and submits them as one compute pass. `op` says
//! which kernels an operation is, a file each; `product` and `norm` have what several of them share.
//!
//! A step is written to one buffer: for each row its token, its position, and where its sequence's pages are listed;
//! then those lists. So kernels' parameters do not depend on the step, but for attention's.
//!
//! Rows of activations are padded by zeros to a multiple of 64 numbers, so that products read whole
//! blocks; kernels never write the padding.

mod choice;
mod device;
mod memo;
mod memory;
mod norm;
mod op;
mod probe;
mod product;
mod profile;
mod record;
mod repack;
mod self_test;
mod shader;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "wasm32")]
mod web;

pub use device::{Corruption, Options};
pub use self_test::{SelfTest, SwitchedOff, Variant};

use super::op::{Buffer, Matrix, Operation, Vector};
use super::{
    Backend, CacheShape, GpuInfo, KernelTime, MOST_SCORED, MOST_SPANS, Program, Shape, Step, Token, Top,
    Wanted,
};
use crate::{Error, Result};
use choice::Choices;
use device::Device;
use futures_util::future::LocalBoxFuture;
use memory::{MatrixData, Memory, VectorData};
use op::attend::{Cache, Rotation};
use product::FEW_TOKENS;
use record::{BufferId, Planned, Recorder};
use repack::Format;
use shader::{Kernel, Pipelines};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Activations' rows begin at multiples of this many numbers: two blocks of a matrix.
const ROW_ALIGNMENT: usize = 64;
/// Threads of a workgroup, at most: what every device has.
const WORKGROUP: usize = 256;
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
    /// Of each recurrent layer: slots × numbers.
    states: Vec<BufferId>,
    rotations: Vec<Rotation>,
    program: Rc<Program>,
    /// The step's rows, and lists of pages.
    step: BufferId,
    words: Vec<u32>,
    /// The tokens chosen last, two words each: the token, and whether a score was no number.
    chosen: BufferId,
    choices: Choices,
    /// Whether there was a step of so many rows, all scored.
    seen: [bool; MOST_SCORED + 1],
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

/// What there is on a device before any program.
struct Bare {
    memory: Memory,
    step: BufferId,
    chosen: BufferId,
}

impl Bare {
    fn new(device: &Device, recorder: &mut Recorder) -> Result<Bare> {
        Ok(Bare {
            memory: Memory::new(device, recorder)?,
            step: recorder.add(device.storage("a step", 4 * step_words(0) as u64)?),
            chosen: recorder.add(device.storage("chosen tokens", 8 * MOST_SCORED as u64)?),
        })
    }
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
    pub fn emptied(mut self) -> Result<Gpu> {
        self.empty()?;
        Ok(self)
    }

    /// Lets go of all that a program has declared.
    fn empty(&mut self) -> Result<()> {
        self.recorder.forget_buffers(&self.device)?;
        let Bare { memory, step, chosen } = Bare::new(&self.device, &mut self.recorder)?;
        (self.memory, self.step, self.chosen) = (memory, step, chosen);
        self.matrices.clear();
        self.vectors.clear();
        self.buffers.clear();
        self.caches.clear();
        self.states.clear();
        self.rotations.clear();
        self.program = Rc::default();
        self.choices = Choices::default();
        self.seen = [false; MOST_SCORED + 1];
        self.scratch.clear();
        self.parts = None;
        self.context = 0;
        Ok(())
    }

    fn with(device: Device, options: Options, pipelines: Pipelines) -> Result<Gpu> {
        let mut recorder = Recorder::new(&device, options.profile, pipelines)?;
        let Bare { memory, step, chosen } = Bare::new(&device, &mut recorder)?;
        Ok(Gpu {
            device,
            options,
            recorder,
            memory,
            matrices: Vec::new(),
            vectors: Vec::new(),
            buffers: Vec::new(),
            caches: Vec::new(),
            states: Vec::new(),
            rotations: Vec::new(),
            program: Rc::default(),
            step,
            words: Vec::new(),
            chosen,
            choices: Choices::default(),
            seen: [false; MOST_SCORED + 1],
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
    fn check_needs(&mut self, needs: &Program) -> Result<()> {
        let size = |shape: &Shape| self.matrix_size(shape);
        // Slabs' ends take a little more.
        let weights = needs.matrices.iter().map(size).sum::<u64>() + 4096 * needs.matrices.len() as u64;
        let caches = needs.caches.iter().map(|shape| self.cache_size(shape));
        let cache = caches.clone().max().unwrap_or(0);
        let caches = caches.fold(0u64, |sum, size| sum.saturating_add(size.saturating_mul(2)));
        let rows = needs.matrices.iter().map(|shape| size(&Shape { rows: 1, ..*shape }));
        let limit = self.device.max_binding();
        let states =
            needs.states.iter().map(|shape| 4 * (shape.slots as u64).saturating_mul(shape.width as u64));
        let longest = needs.operations.iter().map(|operation| match operation {
            Operation::Delta(delta) => delta.heads.size,
            Operation::Scan(scan) => scan.heads.size,
            _ => 0,
        });
        if let Some(size) = longest.max().filter(|size| *size > WORKGROUP) {
            let message = format!("recurrent heads of {size} numbers are too long for the GPU");
            return Err(Error::unsupported_model(message));
        }
        for (what, bytes) in [
            ("a layer's keys", cache),
            ("a row of weights", rows.max().unwrap_or(0)),
            ("a layer's states", states.max().unwrap_or(0)),
        ] {
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
        self.recorder.read(&self.device, self.chosen, 4, &mut word).await
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

    fn expect<'a>(&'a mut self, program: &'a Program) -> LocalBoxFuture<'a, Result<()>> {
        let checked = self.check_needs(program);
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

    fn prepare(&mut self, program: &Rc<Program>) -> Result<()> {
        self.recorder.forget_plans();
        self.seen = [false; MOST_SCORED + 1];
        for Shape { rows, columns, kind } in program.matrices.iter().skip(self.matrices.len()).copied() {
            let matrix = self.memory.matrix(&self.device, &mut self.recorder, rows, columns, kind)?;
            self.matrices.push(matrix);
        }
        for len in program.vectors.iter().skip(self.vectors.len()) {
            let vector = self.memory.vector(&self.device, &mut self.recorder, *len)?;
            self.vectors.push(vector);
        }
        for shape in program.buffers.iter().skip(self.buffers.len()) {
            let buffer = self.activations(shape.rows, shape.width)?;
            self.buffers.push(buffer);
        }
        for shape in program.caches.iter().skip(self.caches.len()) {
            let cache = self.new_cache(shape)?;
            self.caches.push(cache);
        }
        for shape in program.states.iter().skip(self.states.len()) {
            let size = 4 * (shape.slots as u64).saturating_mul(shape.width as u64);
            let state = self.device.storage("a layer's states", size)?;
            self.states.push(self.recorder.add(state));
        }
        let pages = program.caches.iter().map(|shape| shape.pages).max().unwrap_or(0);
        let size = 4 * step_words(pages) as u64;
        if self.recorder.buffer(self.step).size() < size {
            let larger = self.device.storage("a step", size)?;
            self.recorder.replace(&self.device, self.step, larger)?;
        }
        self.program = program.clone();
        Ok(())
    }

    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()> {
        let matrix = &self.matrices[matrix.0];
        self.memory.write_rows(&self.device, &self.recorder, matrix, first, bytes)
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.memory.write_vector(&self.device, &self.recorder, &self.vectors[vector.0], values);
        Ok(())
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

    fn run(&mut self, step: &Step) -> Result<()> {
        // The device may have the last one.
        if !self.recorder.is_empty() {
            self.recorder.submit(&self.device)?;
        }
        self.write_step(step)?;
        self.prepare_rotations(step)?;
        let program = self.program.clone();
        let rows = step.rows();
        let often = rows == step.scored && self.seen.get(rows).is_some_and(|seen| *seen);
        if often && self.recorder.plan(rows).is_none() {
            self.recorder.begin_plan();
            let planned = self.perform_all(&program, step);
            self.recorder.keep_plan(planned.is_ok().then_some(rows));
            planned?;
        }
        match self.recorder.plan(rows).filter(|_| often) {
            Some(plan) => {
                for item in &plan.items {
                    match item {
                        Planned::Dispatch(dispatch) => self.recorder.repeat(&self.device, *dispatch)?,
                        Planned::Later(operation) => {
                            self.perform_late(&program.operations[*operation], step)?
                        }
                    }
                }
                Ok(())
            }
            None => {
                // The first of its kind makes room for what lies between its kernels.
                if rows == step.scored {
                    self.seen[rows] = true;
                }
                self.perform_all(&program, step)
            }
        }
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<()> {
        let parts: Vec<_> = self.page_parts().collect();
        self.copy_parts(&parts, from, to)
    }

    fn copy_state(&mut self, from: u32, to: u32) -> Result<()> {
        let parts: Vec<_> = self.state_parts().collect();
        self.copy_parts(&parts, from, to)
    }

    fn state_size(&self) -> usize {
        self.state_parts().map(|(_, size)| size as usize).sum()
    }

    fn read_state<'a>(&'a mut self, slot: u32, out: &'a mut Vec<u8>) -> LocalBoxFuture<'a, Result<()>> {
        let parts = self.state_parts().collect();
        Box::pin(self.read_parts(parts, slot, out))
    }

    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> Result<()> {
        let parts: Vec<_> = self.state_parts().collect();
        self.write_parts(&parts, slot, bytes)
    }

    fn page_form(&self) -> String {
        format!("gpu, {} bits", 8 * self.kv_number_size())
    }

    fn page_size(&self) -> usize {
        self.page_parts().map(|(_, size)| size as usize).sum()
    }

    fn read_pages<'a>(
        &'a mut self,
        pages: &'a [u32],
        out: &'a mut Vec<u8>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for page in pages {
                let parts = self.page_parts().collect();
                self.read_parts(parts, *page, out).await?;
            }
            Ok(())
        })
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        let parts: Vec<_> = self.page_parts().collect();
        self.write_parts(&parts, page, bytes)
    }

    fn choose(&mut self, scores: Buffer, rows: usize, len: usize) -> Result<()> {
        self.choose_from(self.buffers[scores.0], rows, len)
    }

    fn chosen<'a>(&'a mut self, out: &'a mut Vec<u32>) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let rows = self.recorder.receive_late(&self.device).await?;
            if rows.iter().any(|row| row[1] != 0) {
                return Err(Error::internal("the model gave a logit that is not a finite number"));
            }
            out.clear();
            out.extend(rows.iter().map(|row| row[0]));
            Ok(())
        })
    }

    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        row: usize,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.top_k_of(self.buffers[scores.0], row, len, wanted, out))
    }

    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        first: usize,
        rows: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Activations { id, width, stride } = self.buffers[buffer.0];
            // Of the last row no more than is asked for.
            let numbers = if rows == 0 { 0 } else { (rows - 1) * stride + width };
            let mut bytes = Vec::new();
            let piece = (id, 4 * first * stride, 4 * numbers);
            self.recorder.read_pieces(&self.device, &[piece], &mut bytes).await?;
            let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            out.clear();
            out.extend(numbers.enumerate().filter(|(at, _)| at % stride < width).map(|(_, number)| number));
            Ok(())
        })
    }
}

/// Words of a row of a step: token, position, where its pages are listed, the slot of its state.
const ROW_WORDS: usize = 4;
/// Tokens from here on are chosen ones.
const CHOSEN: u32 = 1 << 31;

/// Words of a step over KV caches of so many pages.
fn step_words(pages: usize) -> usize {
    ROW_WORDS * PREFILL_ROWS + MOST_SPANS * pages
}

impl Gpu {
    /// Brings rows and pages to the device.
    fn write_step(&mut self, step: &Step) -> Result<()> {
        let vocabulary = self.program.operations.iter().find_map(|operation| match operation {
            Operation::Embed(embed) => Some(self.program.shape(embed.table).rows),
            _ => None,
        });
        let words = &mut self.words;
        words.clear();
        let mut pages = ROW_WORDS * step.rows();
        for (first, span) in step.spans() {
            for (token, position) in step.tokens[first..].iter().zip(span.position..span.end()) {
                let token = match *token {
                    Token::Known(token) if vocabulary.is_some_and(|len| token as usize >= len) => {
                        let len = vocabulary.unwrap_or_default();
                        let message = format!("token {token} is outside the vocabulary of {len}");
                        return Err(Error::invalid_argument(message));
                    }
                    Token::Known(token) => token,
                    Token::Chosen(row) => CHOSEN | row as u32,
                };
                words.extend([token, position as u32, pages as u32, span.state]);
            }
            pages += span.pages.len();
        }
        step.spans.iter().for_each(|span| words.extend(&span.pages));
        let buffer = self.recorder.buffer(self.step);
        if 4 * words.len() as u64 > buffer.size() {
            return Err(Error::internal("a step lists more pages than there is room for"));
        }
        // Earlier steps are submitted: this is written after they ran.
        self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(words));
        Ok(())
    }

    /// The keys and the values of each layer, with the bytes of a page.
    fn page_parts(&self) -> impl Iterator<Item = (BufferId, u64)> {
        self.caches.iter().zip(&self.program.caches).flat_map(|(cache, shape)| {
            let size = self.cache_size(&CacheShape { pages: 1, ..*shape });
            [cache.keys, cache.values].map(|id| (id, size))
        })
    }

    /// The states of each recurrent layer, with the bytes of a slot.
    fn state_parts(&self) -> impl Iterator<Item = (BufferId, u64)> {
        self.states.iter().zip(&self.program.states).map(|(id, shape)| (*id, 4 * shape.width as u64))
    }

    /// In each buffer, of so many bytes a piece: what is in piece `from` is in piece `to` too.
    fn copy_parts(&mut self, parts: &[(BufferId, u64)], from: u32, to: u32) -> Result<()> {
        let copies: Vec<_> = parts
            .iter()
            .map(|&(id, size)| (id, u64::from(from) * size, u64::from(to) * size, size))
            .collect();
        let size = copies.iter().map(|(_, _, _, size)| *size).max().unwrap_or(4);
        let between = self.room(|choices| &mut choices.page, size as usize)?;
        self.recorder.copy_within(&self.device, &copies, between)
    }

    async fn read_parts(&mut self, parts: Vec<(BufferId, u64)>, piece: u32, out: &mut Vec<u8>) -> Result<()> {
        let place = |(id, size): (BufferId, u64)| (id, piece as usize * size as usize, size as usize);
        let (pieces, mut bytes): (Vec<_>, _) = (parts.into_iter().map(place).collect(), Vec::new());
        self.recorder.read_pieces(&self.device, &pieces, &mut bytes).await?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn write_parts(&mut self, parts: &[(BufferId, u64)], piece: u32, bytes: &[u8]) -> Result<()> {
        // What was enqueued goes first.
        if !self.recorder.is_empty() {
            self.recorder.submit(&self.device)?;
        }
        let mut rest = bytes;
        for &(id, size) in parts {
            let (bytes, after) = rest
                .split_at_checked(size as usize)
                .ok_or_else(|| Error::internal("these bytes were not written out here"))?;
            self.device.queue.write_buffer(self.recorder.buffer(id), u64::from(piece) * size, bytes);
            rest = after;
        }
        Ok(())
    }

    fn perform_all(&mut self, program: &Program, step: &Step) -> Result<()> {
        for (index, operation) in program.operations.iter().enumerate() {
            self.perform(operation, step)?;
            if op::goes_by_the_step(operation) && !self.recorder.plan_later(index) {
                self.perform_late(operation, step)?;
            }
        }
        Ok(())
    }
}

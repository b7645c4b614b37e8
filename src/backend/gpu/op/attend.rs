//! The KV cache and attention over it.

use super::super::device::Device;
use super::super::record::BufferId;
use super::super::shader::Kernel;
use super::Gpu;
use crate::backend::op::{Attend, Attention, Heads, Operation, Rope, RopePairing};
use crate::backend::{Backend, CacheShape, Step};
use crate::{Error, Result};
use std::ops::Range;

/// Threads of a workgroup of `attend`, and keys that it scores at a time.
const THREADS: usize = 128;
/// Queries of a workgroup of `attend`, at most.
const QUERIES: usize = 8;
/// Numbers of a workgroup's queries, at most: 8 KiB.
const QUERY_NUMBERS: usize = 2048;
/// Splits of the keys for one token, at most.
const SPLITS: usize = 64;
const NONE: u32 = u32::MAX;
/// Positions whose angles are computed at a time.
const ANGLES: usize = 256;

/// A layer's keys and values: pages × key heads × positions of a page × [`head_stride`] each.
#[derive(Clone, Copy)]
pub(in super::super) struct Cache {
    pub keys: BufferId,
    pub values: BufferId,
}

/// Cosines and sines of a RoPE, computed here: a GPU's own are poor at large angles.
pub(in super::super) struct Rotation {
    rope: Rope,
    /// context × pairs × (cosine, sine)
    angles: BufferId,
    /// Positions that there is room for.
    positions: usize,
    /// Positions that have theirs.
    ready: usize,
}

impl Rotation {
    fn fill(&mut self, device: &Device, buffer: &wgpu::Buffer, until: usize) {
        let pairs = self.rope.frequencies.len();
        while self.ready < until {
            let mut angles = Vec::with_capacity(2 * pairs * ANGLES);
            for position in self.ready..self.ready + ANGLES {
                for frequency in &self.rope.frequencies {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    angles.extend([cos * self.rope.magnitude, sin * self.rope.magnitude]);
                }
            }
            let offset = 8 * (pairs * self.ready) as u64;
            device.queue.write_buffer(buffer, offset, bytemuck::cast_slice(&angles));
            self.ready += ANGLES;
        }
    }
}

/// Numbers of a head in the cache: whole vec4 of halves.
fn head_stride(heads: Heads) -> usize {
    heads.size.next_multiple_of(8)
}

impl Gpu {
    pub(in super::super) fn new_cache(&mut self, shape: &CacheShape) -> Result<Cache> {
        if head_stride(shape.heads) > 4 * THREADS {
            let message = format!("heads of {} numbers are too long for the GPU", shape.heads.size);
            return Err(Error::unsupported_model(message));
        }
        let size = self.cache_size(shape);
        let keys = self.device.storage("the KV cache of a layer", size)?;
        let values = self.device.storage("the KV cache of a layer", size)?;
        self.context = self.context.max(shape.positions());
        Ok(Cache { keys: self.recorder.add(keys), values: self.recorder.add(values) })
    }

    /// Bytes of the keys, or the values, of a layer. What does not fit a number does not fit the memory.
    pub(in super::super) fn cache_size(&self, shape: &CacheShape) -> u64 {
        let number = Backend::kv_number_size(self);
        let position = number * (shape.heads.kv * head_stride(shape.heads)) as u64;
        position.saturating_mul(shape.positions() as u64)
    }

    /// Has the angles of all positions of a step ready.
    pub(in super::super) fn prepare_rotations(&mut self, step: &Step) -> Result<()> {
        let until = step.spans.iter().map(|span| span.end()).max().unwrap_or(0);
        let program = self.program.clone();
        for operation in &program.operations {
            if let Operation::Attend(attend) = operation {
                self.angles(&attend.rope, until)?;
            }
        }
        Ok(())
    }

    /// The table of angles of `rope`, with the positions before `until`.
    fn angles(&mut self, rope: &Rope, until: usize) -> Result<BufferId> {
        let positions = self.context.next_multiple_of(ANGLES);
        let known = self.rotations.iter().position(|rotation| rotation.rope == *rope);
        let index = match known {
            Some(index) if self.rotations[index].positions >= positions => index,
            known => {
                let size = 8 * (positions * rope.frequencies.len()) as u64;
                let angles = self.device.storage("RoPE angles", size)?;
                match known {
                    Some(index) => {
                        let rotation = &mut self.rotations[index];
                        (rotation.positions, rotation.ready) = (positions, 0);
                        self.recorder.replace(&self.device, rotation.angles, angles)?;
                        index
                    }
                    None => {
                        let angles = self.recorder.add(angles);
                        self.rotations.push(Rotation { rope: rope.clone(), angles, positions, ready: 0 });
                        self.rotations.len() - 1
                    }
                }
            }
        };
        let rotation = &mut self.rotations[index];
        rotation.fill(&self.device, self.recorder.buffer(rotation.angles), until);
        Ok(rotation.angles)
    }

    pub(super) fn rotate_and_store(&mut self, operation: &Attend, step: &Step) -> Result<()> {
        let Attend { query, key, value, norms, norms_rotated, rope, cache, attention, .. } = operation;
        let (rows, heads, Cache { keys, values }) = (step.rows(), attention.heads, self.caches[cache.0]);
        let [q, k, v] = [query, key, value].map(|buffer| self.buffers[buffer.0]);
        let angles = self.angles(rope, 0)?;
        let norm = |index: usize| match norms {
            Some(norms) => (self.vectors[norms[index].scale.0].at as u32, norms[index].epsilon.to_bits()),
            None => (NONE, 0),
        };
        let ((q_norm, q_epsilon), (k_norm, k_epsilon)) = (norm(0), norm(1));
        let params = [
            heads.query as u32,
            heads.kv as u32,
            heads.size as u32,
            rope.frequencies.len() as u32,
            q.stride as u32,
            k.stride as u32,
            (*norms_rotated).into(),
            0,
            q_norm,
            k_norm,
            q_epsilon,
            k_epsilon,
        ];
        let kernel = Kernel::new("rotate_and_store")
            .flag("INTERLEAVED", rope.pairing == RopePairing::Interleaved)
            .flag("KV_F16", !self.options.kv_f32)
            .constant("STRIDE", head_stride(heads));
        let buffers = [self.memory.vectors, angles, q.id, k.id, v.id, keys, values, self.step];
        self.dispatch(kernel, &params, &buffers, [heads.query + 2 * heads.kv, rows, 1])
    }

    /// A dispatch for each sequence with several rows, and one for all others that follow one another.
    pub(super) fn attend(&mut self, operation: &Attend, step: &Step) -> Result<()> {
        let mut spans = step.spans().peekable();
        while let Some((first, span)) = spans.next() {
            let (mut rows, mut seen) = (first..first + span.rows, span.end());
            let alone = span.rows > 1 || !operation.attention.causal;
            while let Some((_, next)) = spans.next_if(|(_, next)| !alone && next.rows == 1) {
                rows.end += 1;
                seen = seen.max(next.end());
            }
            self.attend_rows(operation, rows, seen, alone)?;
        }
        Ok(())
    }

    /// `seen`: positions of the longest sequence among these. `alone`: they are all of one.
    fn attend_rows(
        &mut self,
        operation: &Attend,
        rows: Range<usize>,
        seen: usize,
        alone: bool,
    ) -> Result<()> {
        let Attend { query, cache, attention, out, .. } = operation;
        let Attention { heads, .. } = *attention;
        let (q, out) = (self.buffers[query.0], self.buffers[out.0]);
        let Cache { keys, values } = self.caches[cache.0];
        let (first, rows) = (rows.start, rows.len());
        let stride = head_stride(heads);
        let group = heads.query / heads.kv;
        let most = QUERIES.min(QUERY_NUMBERS / stride).max(1);
        let heads_at_once = (1..=most.min(group)).rev().find(|n| group.is_multiple_of(*n)).unwrap_or(1);
        let tokens_at_once = if alone { (most / heads_at_once).min(rows) } else { 1 };
        let queries = heads_at_once * tokens_at_once;

        let window = attention.window.unwrap_or(usize::MAX).min(u32::MAX as usize >> 1);
        let seen = seen.min(window);
        // Of one sequence's rows every workgroup sees all keys.
        let several = alone && rows > 1;
        let split = match several {
            false => seen.div_ceil(SPLITS).next_multiple_of(THREADS),
            true => u32::MAX as usize >> 1,
        };
        let splits = if several { 1 } else { seen.div_ceil(split) };
        let params = [
            heads.query as u32,
            rows as u32,
            q.stride as u32,
            out.stride as u32,
            first as u32,
            heads.kv as u32,
            window as u32,
            split as u32,
            splits as u32,
            attention.scale.to_bits(),
            attention.softcap.unwrap_or(0.0).to_bits(),
            0,
        ];
        let kernel = Kernel::new("attend")
            .flag("KV_F16", !self.options.kv_f32)
            .flag("SPLIT", splits > 1)
            .flag("SOFTCAP", attention.softcap.is_some())
            .flag("CAUSAL", attention.causal)
            .constant("WG", THREADS)
            .constant("SIZE", heads.size)
            .constant("STRIDE", stride)
            .constant("GROUP", group)
            .constant("HEADS", heads_at_once)
            .constant("TOKENS", tokens_at_once)
            .constant("QUERIES", queries)
            .constant("QUERIES_POW2", queries.next_power_of_two());
        let workgroups = [heads.query / heads_at_once, rows.div_ceil(tokens_at_once), splits];
        if splits == 1 {
            return self.dispatch(kernel, &params, &[q.id, keys, values, self.step, out.id], workgroups);
        }
        let parts = self.parts(rows * heads.query * SPLITS * (stride / 4 + 1))?;
        self.dispatch(kernel, &params, &[q.id, keys, values, self.step, parts], workgroups)?;
        let kernel = Kernel::new("attend_reduce").constant("SIZE", heads.size).constant("STRIDE", stride);
        let params = [heads.query as u32, splits as u32, out.stride as u32, first as u32];
        self.dispatch(kernel, &params, &[parts, out.id], [heads.query, rows, 1])
    }

    /// Room for `count` vec4 of splits.
    fn parts(&mut self, count: usize) -> Result<BufferId> {
        let size = 16 * count as u64;
        if let Some(parts) = self.parts
            && self.recorder.buffer(parts).size() >= size
        {
            return Ok(parts);
        }
        let parts = self.recorder.add(self.device.storage("parts of attention", size)?);
        self.parts = Some(parts);
        Ok(parts)
    }
}

//! Time in each kernel, by timestamps around every dispatch.
//!
//! WebGPU writes timestamps between passes only, so that each dispatch gets a pass of its own: that slows
//! everything down, and what is measured includes no overlap. Browsers round timestamps to 100 µs
//! unless started for developers (Chromium: `--enable-webgpu-developer-features`).

use super::device::Device;
use super::record::{self, Dispatch, SLOTS};
use super::shader::{Kernel, Pipelines};
use crate::backend::KernelTime;
use crate::{Error, Result};
use futures_channel::oneshot;
use std::collections::{HashMap, VecDeque};

/// Where each dispatch's two timestamps take 16 bytes.
const PAIR: u64 = 16;

pub(super) struct Profile {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Submissions whose timestamps are on their way, oldest first.
    coming: VecDeque<Coming>,
    /// By pipeline.
    times: HashMap<usize, KernelTime>,
    /// Nanoseconds.
    tick: f64,
}

struct Coming {
    /// Of each dispatch, in order.
    pipelines: Vec<usize>,
    buffer: wgpu::Buffer,
    index: wgpu::SubmissionIndex,
    receiver: oneshot::Receiver<bool>,
}

impl Profile {
    pub(super) fn new(device: &Device) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let queries = device.handle.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2 * SLOTS as u32,
        });
        let resolved = device.buffer("times", PAIR * SLOTS as u64, Usage::QUERY_RESOLVE | Usage::COPY_SRC)?;
        let tick = f64::from(device.queue.get_timestamp_period());
        Ok(Profile { queries, resolved, coming: VecDeque::new(), times: HashMap::new(), tick })
    }

    /// A pass for the dispatch in `slot`.
    pub(super) fn pass<'a>(
        &self,
        encoder: &'a mut wgpu::CommandEncoder,
        slot: usize,
    ) -> wgpu::ComputePass<'a> {
        let timestamps = wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * slot as u32),
            end_of_pass_write_index: Some(2 * slot as u32 + 1),
        };
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(timestamps),
        })
    }

    /// Has the timestamps of `count` dispatches copied to the buffer that it gives.
    pub(super) fn resolve(
        &self,
        device: &Device,
        encoder: &mut wgpu::CommandEncoder,
        count: usize,
    ) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usage;
        let size = PAIR * count as u64;
        let buffer = device.buffer("times", size, Usage::MAP_READ | Usage::COPY_DST)?;
        encoder.resolve_query_set(&self.queries, 0..2 * count as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &buffer, 0, size);
        Ok(buffer)
    }

    /// Those timestamps are on their way.
    pub(super) fn submitted(
        &mut self,
        dispatches: &[Dispatch],
        buffer: wgpu::Buffer,
        index: wgpu::SubmissionIndex,
    ) {
        let receiver = record::map(&buffer, PAIR * dispatches.len() as u64);
        let pipelines = dispatches.iter().map(|dispatch| dispatch.pipeline).collect();
        self.coming.push_back(Coming { pipelines, buffer, index, receiver });
        // So that they do not pile up where nobody asks for long.
        while let Some(coming) = self.coming.front_mut()
            && coming.receiver.try_recv() == Ok(Some(true))
            && let Some(coming) = self.coming.pop_front()
        {
            // What went wrong shows elsewhere.
            _ = self.count(&coming);
        }
    }

    fn count(&mut self, coming: &Coming) -> Result<()> {
        let size = PAIR * coming.pipelines.len() as u64;
        let view = coming.buffer.slice(..size).get_mapped_range();
        let view = view.map_err(|error| Error::internal(format!("GPU: {error}")))?;
        let ticks: &[[u8; 8]] = view.as_chunks().0;
        for (&pipeline, pair) in coming.pipelines.iter().zip(ticks.as_chunks().0) {
            let [start, end] = pair.map(u64::from_le_bytes);
            let time = self.times.entry(pipeline).or_default();
            time.calls += 1;
            time.nanoseconds += (end.saturating_sub(start) as f64 * self.tick) as u64;
        }
        Ok(())
    }

    /// What was measured since the last call, longest first.
    pub(super) async fn take(&mut self, device: &Device, pipelines: &Pipelines) -> Result<Vec<KernelTime>> {
        while let Some(mut coming) = self.coming.pop_front() {
            record::wait(device, coming.index.clone(), &mut coming.receiver).await?;
            self.count(&coming)?;
        }
        let named = |(pipeline, time)| KernelTime { kernel: name(&pipelines.get(pipeline).kernel), ..time };
        let mut times: Vec<KernelTime> = self.times.drain().map(named).collect();
        times.sort_by_key(|time| std::cmp::Reverse(time.nanoseconds));
        Ok(times)
    }
}

/// The file, the format and what sets the variant apart.
fn name(kernel: &Kernel) -> String {
    let words = [kernel.name, kernel.format].into_iter().filter(|word| !word.is_empty());
    let words = words.chain(kernel.flags.iter().copied()).map(str::to_owned);
    let constants = kernel.constants.iter().map(|(name, value)| format!("{name}={value}"));
    words.chain(constants).collect::<Vec<_>>().join(" ")
}

//! What a step enqueues, and how it reaches the device: one compute pass, one submission.

use super::device::Device;
use super::profile::Profile;
use super::shader::{Kernel, Pipelines};
use crate::backend::KernelTime;
use crate::{Error, Result};
use futures_channel::oneshot;
use std::collections::{HashMap, VecDeque};

/// Kernels' parameters lie this far apart: WebGPU's alignment of dynamic offsets.
const SLOT: usize = 256;
/// Dispatches recorded before they are submitted by themselves.
pub(super) const SLOTS: usize = 2048;
/// Chosen tokens on their way back.
const RING: usize = 8;

/// A buffer known to the recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BufferId(u32);

#[derive(Debug, Clone, Copy)]
pub(super) struct Dispatch {
    pub pipeline: usize,
    group: usize,
    slot: usize,
    workgroups: [u32; 3],
}

pub(super) struct Recorder {
    pub pipelines: Pipelines,
    buffers: Vec<wgpu::Buffer>,
    groups: Vec<wgpu::BindGroup>,
    group_of: HashMap<(usize, [BufferId; 8]), usize>,
    uniforms: wgpu::Buffer,
    params: Vec<u8>,
    pending: Vec<Dispatch>,
    /// Dispatches since the start.
    pub dispatches: u64,
    staging: Option<wgpu::Buffer>,
    ring: Vec<wgpu::Buffer>,
    ring_next: usize,
    /// Choices on their way back, oldest first.
    late: VecDeque<(usize, wgpu::SubmissionIndex, oneshot::Receiver<bool>)>,
    profile: Option<Profile>,
    /// Kernels asked for, where they are only collected.
    collected: Option<Vec<Kernel>>,
}

impl Recorder {
    pub(super) fn new(device: &Device, profile: bool, pipelines: Pipelines) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let uniforms =
            device.buffer("parameters", (SLOT * SLOTS) as u64, Usage::UNIFORM | Usage::COPY_DST)?;
        let ring = (0..RING).map(|_| device.buffer("token", 16, Usage::MAP_READ | Usage::COPY_DST));
        let profile = (profile && device.timestamps).then(|| Profile::new(device)).transpose()?;
        Ok(Recorder {
            pipelines,
            buffers: Vec::new(),
            groups: Vec::new(),
            group_of: HashMap::new(),
            uniforms,
            params: Vec::with_capacity(SLOT * SLOTS),
            pending: Vec::new(),
            dispatches: 0,
            staging: None,
            ring: ring.collect::<Result<_>>()?,
            ring_next: 0,
            late: VecDeque::new(),
            profile,
            collected: None,
        })
    }

    /// Frees what the device holds. Nothing may be submitted any more.
    pub(super) fn destroy_buffers(&self) {
        self.buffers.iter().for_each(wgpu::Buffer::destroy);
    }

    /// From now on notes kernels instead of enqueuing them.
    pub(super) fn collect(&mut self) {
        self.collected = Some(Vec::new());
    }

    /// Ends that; each kernel comes once.
    pub(super) fn collected(&mut self) -> Vec<Kernel> {
        self.collected.take().unwrap_or_default()
    }

    pub(super) fn add(&mut self, buffer: wgpu::Buffer) -> BufferId {
        self.buffers.push(buffer);
        BufferId((self.buffers.len() - 1) as u32)
    }

    /// Another buffer behind the same id. What is enqueued still runs with the old one.
    pub(super) fn replace(&mut self, device: &Device, id: BufferId, buffer: wgpu::Buffer) -> Result<()> {
        self.submit(device)?;
        self.buffers[id.0 as usize] = buffer;
        self.groups.clear();
        self.group_of.clear();
        Ok(())
    }

    pub(super) fn buffer(&self, id: BufferId) -> &wgpu::Buffer {
        &self.buffers[id.0 as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Enqueues a kernel over `buffers`, its storage bindings in order.
    pub(super) fn dispatch(
        &mut self,
        device: &Device,
        kernel: Kernel,
        params: &[u32],
        buffers: &[BufferId],
        workgroups: [usize; 3],
    ) -> Result<()> {
        if let Some(kernels) = &mut self.collected {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
            return Ok(());
        }
        if self.pending.len() == SLOTS {
            self.submit(device)?;
        }
        let pipeline = self.pipelines.find(device, kernel)?;
        let mut key = [BufferId(u32::MAX); 8];
        key[..buffers.len()].copy_from_slice(buffers);
        let group = match self.group_of.get(&(pipeline, key)) {
            Some(&group) => group,
            None => {
                let group = self.bind(device, pipeline, buffers);
                self.groups.push(group);
                self.group_of.insert((pipeline, key), self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        let slot = self.pending.len();
        self.params.resize(slot * SLOT, 0);
        self.params.extend_from_slice(bytemuck::cast_slice(params));
        let workgroups = workgroups.map(|count| count as u32);
        debug_assert!(
            workgroups.iter().all(|&count| count <= device.limits.max_compute_workgroups_per_dimension)
        );
        self.pending.push(Dispatch { pipeline, group, slot, workgroups });
        self.dispatches += 1;
        Ok(())
    }

    fn bind(&self, device: &Device, pipeline: usize, buffers: &[BufferId]) -> wgpu::BindGroup {
        let uniform = wgpu::BufferBinding {
            buffer: &self.uniforms,
            offset: 0,
            size: wgpu::BufferSize::new(SLOT as u64),
        };
        let entry = |binding: usize, resource| wgpu::BindGroupEntry { binding: binding as u32, resource };
        let mut entries = vec![entry(0, wgpu::BindingResource::Buffer(uniform))];
        entries.extend(
            buffers.iter().enumerate().map(|(i, &id)| entry(i + 1, self.buffer(id).as_entire_binding())),
        );
        device.handle.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipelines.get(pipeline).layout,
            entries: &entries,
        })
    }

    /// Sends what is enqueued.
    pub(super) fn submit(&mut self, device: &Device) -> Result<wgpu::SubmissionIndex> {
        self.submit_with(device, |_| {})
    }

    /// The same with copies after it.
    fn submit_with(
        &mut self,
        device: &Device,
        copies: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        device.check()?;
        if !self.pending.is_empty() {
            device.queue.write_buffer(&self.uniforms, 0, &self.params);
        }
        let mut encoder = device.handle.create_command_encoder(&Default::default());
        let mut times = None;
        match &self.profile {
            _ if self.pending.is_empty() => {}
            None => {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                let mut current = usize::MAX;
                for dispatch in &self.pending {
                    if dispatch.pipeline != current {
                        current = dispatch.pipeline;
                        pass.set_pipeline(&self.pipelines.get(current).pipeline);
                    }
                    self.record(dispatch, &mut pass);
                }
            }
            Some(profile) => {
                for dispatch in &self.pending {
                    let mut pass = profile.pass(&mut encoder, dispatch.slot);
                    pass.set_pipeline(&self.pipelines.get(dispatch.pipeline).pipeline);
                    self.record(dispatch, &mut pass);
                }
                times = Some(profile.resolve(device, &mut encoder, self.pending.len())?);
            }
        }
        copies(&mut encoder);
        let index = device.queue.submit([encoder.finish()]);
        if let (Some(profile), Some(times)) = (&mut self.profile, times) {
            profile.submitted(&self.pending, times, index.clone());
        }
        self.pending.clear();
        self.params.clear();
        Ok(index)
    }

    fn record(&self, dispatch: &Dispatch, pass: &mut wgpu::ComputePass) {
        pass.set_bind_group(0, &self.groups[dispatch.group], &[(dispatch.slot * SLOT) as u32]);
        let [x, y, z] = dispatch.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }

    /// Bytes of a buffer, once everything enqueued has run.
    pub(super) async fn read(
        &mut self,
        device: &Device,
        id: BufferId,
        bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.read_pieces(device, &[(id, bytes as usize)], out).await
    }

    /// The first bytes, a multiple of 4, of several buffers, one after the other.
    pub(super) async fn read_pieces(
        &mut self,
        device: &Device,
        pieces: &[(BufferId, usize)],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let size = pieces.iter().map(|(_, bytes)| *bytes as u64).sum::<u64>();
        let staging = match self.staging.take().filter(|staging| staging.size() >= size) {
            Some(staging) => staging,
            None => {
                device.buffer("staging", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?
            }
        };
        let sources: Vec<_> =
            pieces.iter().map(|&(id, bytes)| (self.buffer(id).clone(), bytes as u64)).collect();
        let index = self.submit_with(device, |encoder| {
            let mut at = 0;
            for (source, bytes) in &sources {
                encoder.copy_buffer_to_buffer(source, 0, &staging, at, *bytes);
                at += bytes;
            }
        })?;
        wait(device, index, &mut map(&staging, size)).await?;
        let view = staging.slice(..size).get_mapped_range().map_err(|error| failed(device, error))?;
        out.clear();
        out.extend_from_slice(&view);
        drop(view);
        staging.unmap();
        self.staging = Some(staging);
        Ok(())
    }

    /// Sends what is enqueued, and words `offset` and `offset + 1` of `source` on their way back.
    pub(super) fn send_late(&mut self, device: &Device, source: BufferId, offset: u64) -> Result<()> {
        if self.collected.is_some() {
            return Ok(());
        }
        if self.late.len() == RING {
            return Err(Error::internal("too many choices are unread"));
        }
        let place = self.ring_next;
        self.ring_next = (place + 1) % RING;
        let (from, to) = (self.buffer(source).clone(), self.ring[place].clone());
        let index =
            self.submit_with(device, |encoder| encoder.copy_buffer_to_buffer(&from, 4 * offset, &to, 0, 8))?;
        self.late.push_back((place, index, map(&to, 8)));
        Ok(())
    }

    /// The oldest words that `send_late` sent.
    pub(super) async fn receive_late(&mut self, device: &Device) -> Result<[u32; 2]> {
        // It stays in the queue until it is here: whoever waits may give up, and read it later.
        let (place, index, receiver) =
            self.late.front_mut().ok_or_else(|| Error::internal("nothing was chosen"))?;
        let (place, arrived) = (*place, wait(device, index.clone(), receiver).await);
        self.late.pop_front();
        arrived?;
        let buffer = &self.ring[place];
        let view = buffer.slice(..8).get_mapped_range().map_err(|error| failed(device, error))?;
        let word = |at: usize| u32::from_le_bytes([view[at], view[at + 1], view[at + 2], view[at + 3]]);
        let words = [word(0), word(4)];
        drop(view);
        buffer.unmap();
        Ok(words)
    }

    /// What was measured since the last call, longest first; nothing where the device was not asked to, or cannot.
    pub(super) async fn take_times(&mut self, device: &Device) -> Result<Vec<KernelTime>> {
        self.submit(device)?;
        match &mut self.profile {
            Some(profile) => profile.take(device, &self.pipelines).await,
            None => Ok(Vec::new()),
        }
    }
}

pub(super) fn map(buffer: &wgpu::Buffer, size: u64) -> oneshot::Receiver<bool> {
    let (sender, receiver) = oneshot::channel();
    buffer.slice(..size).map_async(wgpu::MapMode::Read, move |result| {
        // The receiver is gone where nobody waits any more.
        _ = sender.send(result.is_ok());
    });
    receiver
}

pub(super) async fn wait(
    device: &Device,
    index: wgpu::SubmissionIndex,
    receiver: &mut oneshot::Receiver<bool>,
) -> Result<()> {
    let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
    // Does nothing on the web, where callbacks come by themselves.
    let polled = device.handle.poll(wait);
    let mapped = receiver.await;
    device.check()?;
    polled.map_err(|error| failed(device, error))?;
    match mapped {
        Ok(true) => Ok(()),
        _ => Err(failed(device, "a buffer could not be read")),
    }
}

/// The device's own error where it has one. Buffers come back from every device but a lost one, which may say so
/// only after the buffer does.
fn failed(device: &Device, error: impl std::fmt::Display) -> Error {
    device.check().err().unwrap_or_else(|| Error::device_lost(format!("the GPU was lost: {error}")))
}

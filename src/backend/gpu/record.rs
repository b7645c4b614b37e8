//! What a step enqueues, and how it reaches the device: one compute pass, one submission.
//!
//! Steps that come again and again are kept as [`Plan`]s: their dispatches, with parameters that lie on the device, are
//! enqueued as they are.

use super::device::Device;
use super::profile::Profile;
use super::shader::{Kernel, Pipelines};
use crate::backend::KernelTime;
use crate::{Error, Result};
use futures_channel::oneshot;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Kernels' parameters lie this far apart: WebGPU's alignment of dynamic offsets.
const SLOT: usize = 256;
/// Dispatches recorded before they are submitted by themselves.
pub(super) const SLOTS: usize = 2048;
/// Parameters of plans lie behind those of what is enqueued now: so many.
const PLAN_SLOTS: usize = 16_384;
/// A plan has no more dispatches than this.
const LONGEST_PLAN: usize = 4096;
/// Choices on their way back.
const RING: usize = 8;
/// Rows that a choice may have.
const RING_ROWS: usize = crate::backend::MOST_SCORED;

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

/// What a kind of step enqueues.
#[derive(Default)]
pub(super) struct Plan {
    pub items: Vec<Planned>,
}

pub(super) enum Planned {
    /// The same each time.
    Dispatch(Dispatch),
    /// What goes by the step: the operation of this number.
    Later(usize),
}

/// A choice on its way back.
struct Late {
    /// In the ring.
    place: usize,
    rows: usize,
    index: wgpu::SubmissionIndex,
    arrived: oneshot::Receiver<bool>,
}

pub(super) struct Recorder {
    pub pipelines: Pipelines,
    buffers: Vec<wgpu::Buffer>,
    groups: Vec<wgpu::BindGroup>,
    group_of: HashMap<(usize, [BufferId; 8]), usize>,
    uniforms: wgpu::Buffer,
    /// Of what is pending and in no plan.
    params: Vec<u8>,
    plans: HashMap<usize, Rc<Plan>>,
    plan_slots: usize,
    /// The plan in the making.
    recording: Option<Plan>,
    /// What it was made from has changed meanwhile.
    spoiled: bool,
    pending: Vec<Dispatch>,
    /// Dispatches since the start.
    pub dispatches: u64,
    staging: Option<wgpu::Buffer>,
    ring: Vec<wgpu::Buffer>,
    ring_next: usize,
    /// Choices on their way back, oldest first.
    late: VecDeque<Late>,
    profile: Option<Profile>,
    /// Kernels asked for, where they are only collected.
    collected: Option<Vec<Kernel>>,
}

impl Recorder {
    pub(super) fn new(device: &Device, profile: bool, pipelines: Pipelines) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let size = (SLOT * (SLOTS + PLAN_SLOTS)) as u64;
        let uniforms = device.buffer("parameters", size, Usage::UNIFORM | Usage::COPY_DST)?;
        let size = 8 * RING_ROWS as u64;
        let ring = (0..RING).map(|_| device.buffer("tokens", size, Usage::MAP_READ | Usage::COPY_DST));
        let profile = (profile && device.timestamps).then(|| Profile::new(device)).transpose()?;
        Ok(Recorder {
            pipelines,
            buffers: Vec::new(),
            groups: Vec::new(),
            group_of: HashMap::new(),
            uniforms,
            params: Vec::with_capacity(SLOT * SLOTS),
            plans: HashMap::new(),
            plan_slots: 0,
            recording: None,
            spoiled: false,
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

    /// Frees what the device holds, once what is enqueued has run. No buffer is known any more.
    pub(super) fn forget_buffers(&mut self, device: &Device) -> Result<()> {
        self.submit(device)?;
        self.destroy_buffers();
        self.buffers.clear();
        self.groups.clear();
        self.group_of.clear();
        self.late.clear();
        self.forget_plans();
        Ok(())
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
        self.forget_plans();
        Ok(())
    }

    /// What plans were made from is not so any more.
    pub(super) fn forget_plans(&mut self) {
        self.plans.clear();
        self.plan_slots = 0;
        self.spoiled = true;
    }

    /// The plan of a kind of step.
    pub(super) fn plan(&self, kind: usize) -> Option<Rc<Plan>> {
        self.plans.get(&kind).cloned()
    }

    /// From now on plans what is enqueued, until [`Recorder::keep_plan`]. Does nothing where there is no room for more.
    pub(super) fn begin_plan(&mut self) {
        if self.collected.is_none() && self.plan_slots + LONGEST_PLAN <= PLAN_SLOTS {
            self.recording = Some(Plan::default());
            self.spoiled = false;
        }
    }

    /// Whether a plan is in the making, in which this operation has its place.
    pub(super) fn plan_later(&mut self, operation: usize) -> bool {
        self.recording.as_mut().map(|plan| plan.items.push(Planned::Later(operation))).is_some()
    }

    /// Ends the plan in the making and keeps it for steps of this kind. What failed is not kept.
    pub(super) fn keep_plan(&mut self, kind: Option<usize>) {
        if let (Some(plan), Some(kind), false) = (self.recording.take(), kind, self.spoiled) {
            self.plans.insert(kind, Rc::new(plan));
        }
    }

    /// Enqueues what was planned.
    pub(super) fn repeat(&mut self, device: &Device, dispatch: Dispatch) -> Result<()> {
        if self.pending.len() == SLOTS {
            self.submit(device)?;
        }
        self.pending.push(dispatch);
        self.dispatches += 1;
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
        if self.pending.len() == SLOTS && self.recording.is_none() {
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
        let workgroups = workgroups.map(|count| count as u32);
        debug_assert!(
            workgroups.iter().all(|&count| count <= device.limits.max_compute_workgroups_per_dimension)
        );
        if let Some(plan) = &mut self.recording {
            if plan.items.len() == LONGEST_PLAN {
                return Err(Error::internal("a step has too many dispatches"));
            }
            let slot = SLOTS + self.plan_slots;
            self.plan_slots += 1;
            let bytes = bytemuck::cast_slice(params);
            device.queue.write_buffer(&self.uniforms, (slot * SLOT) as u64, bytes);
            plan.items.push(Planned::Dispatch(Dispatch { pipeline, group, slot, workgroups }));
            return Ok(());
        }
        let slot = self.params.len().div_ceil(SLOT);
        self.params.resize(slot * SLOT, 0);
        self.params.extend_from_slice(bytemuck::cast_slice(params));
        self.repeat(device, Dispatch { pipeline, group, slot, workgroups })
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
        if !self.params.is_empty() {
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
                for (index, dispatch) in self.pending.iter().enumerate() {
                    let mut pass = profile.pass(&mut encoder, index);
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

    /// Bytes of several buffers, one after the other: (buffer, first byte, bytes), the last two multiples of 4.
    pub(super) async fn read_pieces(
        &mut self,
        device: &Device,
        pieces: &[(BufferId, usize, usize)],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let size = pieces.iter().map(|(_, _, bytes)| *bytes as u64).sum::<u64>();
        let staging = match self.staging.take().filter(|staging| staging.size() >= size) {
            Some(staging) => staging,
            None => {
                device.buffer("staging", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?
            }
        };
        let source = |&(id, first, bytes)| (self.buffer(id).clone(), first as u64, bytes as u64);
        let sources: Vec<_> = pieces.iter().map(source).collect();
        let index = self.submit_with(device, |encoder| {
            let mut at = 0;
            for (source, first, bytes) in &sources {
                encoder.copy_buffer_to_buffer(source, *first, &staging, at, *bytes);
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

    /// Sends what is enqueued, and the first two words for each of `rows` rows of `source` on their way back.
    pub(super) fn send_late(&mut self, device: &Device, source: BufferId, rows: usize) -> Result<()> {
        if self.collected.is_some() {
            return Ok(());
        }
        if self.late.len() == RING || rows > RING_ROWS {
            return Err(Error::internal("too many choices are unread"));
        }
        let place = self.ring_next;
        self.ring_next = (place + 1) % RING;
        let (from, to, size) = (self.buffer(source).clone(), self.ring[place].clone(), 8 * rows as u64);
        let index =
            self.submit_with(device, |encoder| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size))?;
        self.late.push_back(Late { place, rows, index, arrived: map(&to, size) });
        Ok(())
    }

    /// The oldest words that `send_late` sent, two a row.
    pub(super) async fn receive_late(&mut self, device: &Device) -> Result<Vec<[u32; 2]>> {
        // It stays in the queue until it is here: whoever waits may give up, and read it later.
        let late = self.late.front_mut().ok_or_else(|| Error::internal("nothing was chosen"))?;
        let (place, rows) = (late.place, late.rows);
        let arrived = wait(device, late.index.clone(), &mut late.arrived).await;
        self.late.pop_front();
        arrived?;
        let buffer = &self.ring[place];
        let view =
            buffer.slice(..8 * rows as u64).get_mapped_range().map_err(|error| failed(device, error))?;
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let words = view.as_chunks::<8>().0.iter().map(|row| [word(&row[..4]), word(&row[4..])]).collect();
        drop(view);
        buffer.unmap();
        Ok(words)
    }

    /// Copies within buffers, once everything enqueued has run: (buffer, from, to, bytes), by way of `between`.
    pub(super) fn copy_within(
        &mut self,
        device: &Device,
        copies: &[(BufferId, u64, u64, u64)],
        between: BufferId,
    ) -> Result<()> {
        let between = self.buffer(between).clone();
        let copies: Vec<_> =
            copies.iter().map(|&(id, from, to, size)| (self.buffer(id).clone(), from, to, size)).collect();
        self.submit_with(device, |encoder| {
            for (buffer, from, to, size) in &copies {
                encoder.copy_buffer_to_buffer(buffer, *from, &between, 0, *size);
                encoder.copy_buffer_to_buffer(&between, 0, buffer, *to, *size);
            }
        })?;
        Ok(())
    }

    /// The first bytes of a buffer, once everything enqueued has run.
    pub(super) async fn read(
        &mut self,
        device: &Device,
        id: BufferId,
        bytes: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.read_pieces(device, &[(id, 0, bytes as usize)], out).await
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

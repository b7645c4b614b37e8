use super::super::{SLOW, math};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::cpu::pool::Parts;
use crate::backend::op::{Scan, ScanHeads};

impl Cpu {
    pub(super) fn scan(&mut self, operation: &Scan, step: &Step) -> Result<()> {
        let Scan { heads, state, out, z, .. } = *operation;
        let started = self.times.start();
        let inner = heads.inner();
        let mut states = self.take_state(state);
        let done = self.writing(out, |cpu, out| {
            let (all_states, all_out) = (Parts::new(&mut states), Parts::new(out));
            let own = heads.size * heads.state;
            let input = Rows::new(cpu, operation);
            for (first, span) in step.spans() {
                cpu.pool.each(heads.count, span.rows * (3 * own + SLOW), |head| {
                    let at = span.state as usize * heads.count * own + head * own;
                    // SAFETY: each head of each sequence comes once.
                    let state = unsafe { all_states.part(at, own) };
                    if span.position == 0 {
                        state.fill(0.0);
                    }
                    for row in first..first + span.rows {
                        // SAFETY: the same, and each row.
                        let out = unsafe { all_out.part(row * inner + head * heads.size, heads.size) };
                        input.read(row, head, state, out);
                    }
                })?;
            }
            let z = &cpu.buffers[z.0];
            let norm = operation.norm.as_ref().map(|norm| (&cpu.vectors[norm.scale.0], norm.epsilon));
            let group = inner / heads.groups;
            cpu.pool.rows(&mut out[..step.rows() * inner], inner, SLOW * inner, |row, out| {
                let z = &z[row * inner..][..inner];
                out.iter_mut().zip(z).for_each(|(out, z)| *out *= z / (1.0 + (-z).exp()));
                if let Some((scale, epsilon)) = norm {
                    for (out, scale) in out.chunks_exact_mut(group).zip(scale.chunks_exact(group)) {
                        math::rms_norm_runs(out, scale, epsilon);
                    }
                }
            })
        });
        self.put_state(state, states);
        self.times.stop(started, || "scan".into());
        done
    }
}

/// What a step has, for threads.
struct Rows<'a> {
    heads: ScanHeads,
    xbc: &'a [f32],
    dt: &'a [f32],
    rate: &'a [f32],
    bias: &'a [f32],
    skip: &'a [f32],
}

impl<'a> Rows<'a> {
    fn new(cpu: &'a Cpu, operation: &Scan) -> Self {
        let Scan { xbc, dt, rate, bias, skip, heads, .. } = operation;
        let [xbc, dt] = [xbc, dt].map(|buffer| cpu.buffers[buffer.0].as_slice());
        let [rate, bias, skip] = [rate, bias, skip].map(|vector| cpu.vectors[vector.0].as_slice());
        Rows { heads: *heads, xbc, dt, rate, bias, skip }
    }

    /// Takes a row into a head's state, which has the numbers of an element together, and gives what is read of it.
    fn read(&self, row: usize, head: usize, state: &mut [f32], out: &mut [f32]) {
        let ScanHeads { count, size, groups, state: width } = self.heads;
        let (inner, all) = (self.heads.inner(), self.heads.width());
        let xbc = &self.xbc[row * all..][..all];
        let group = head / (count / groups);
        let x = &xbc[head * size..][..size];
        let entering = &xbc[inner + group * width..][..width];
        let leaving = &xbc[inner + (groups + group) * width..][..width];
        let step = math::softplus(self.dt[row * count + head] + self.bias[head]);
        let decay = (-self.rate[head] * step).exp();
        let skip = self.skip[head];
        for ((numbers, x), out) in state.chunks_exact_mut(width).zip(x).zip(out) {
            let added = step * x;
            numbers.iter_mut().zip(entering).for_each(|(number, b)| *number = *number * decay + added * b);
            *out = math::dot(numbers, leaving) + skip * x;
        }
    }
}

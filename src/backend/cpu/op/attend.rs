use super::super::math;
use super::Cpu;
use crate::Result;
use crate::backend::op::Attend;
use crate::backend::{PAGE, Step};

impl Cpu {
    pub(super) fn attend(&mut self, operation: &Attend, step: &Step) -> Result<()> {
        self.rotate_and_store(operation, step);
        let Attend { query, cache, attention, out, .. } = operation;
        let width = attention.heads.query * attention.heads.size;
        self.writing(*out, |cpu, out| {
            let started = cpu.times.start();
            let (cache, scratch) = (&cpu.caches[cache.0], &mut cpu.scratch_attention);
            for (first, span) in step.spans() {
                let rows = first * width..(first + span.rows) * width;
                let (queries, out) = (&cpu.buffers[query.0][rows.clone()], &mut out[rows]);
                cache.attend(&cpu.pool, span, queries, attention, scratch, out)?;
            }
            cpu.times.stop(started, || "attend".into());
            Ok(())
        })
    }

    fn rotate_and_store(&mut self, operation: &Attend, step: &Step) {
        let Attend { query, key, value, norms, norms_rotated, rope, cache, attention, .. } = operation;
        let started = self.times.start();
        let (heads, rows) = (attention.heads, step.rows());
        let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
        for (buffer, width, index) in [(*query, q_width, 0), (*key, kv_width, 1)] {
            let mut values = self.take(buffer);
            let used = &mut values[..rows * width];
            let normalize = |values: &mut [f32]| {
                if let Some(norms) = norms {
                    let scale = &self.vectors[norms[index].scale.0];
                    math::rms_norm_runs(values, scale, norms[index].epsilon);
                }
            };
            if !norms_rotated {
                normalize(used);
            }
            let angles = self.rotations.angles(step.positions(), rope);
            for (values, angles) in used.chunks_exact_mut(width).zip(angles) {
                math::rotate(values, heads.size, angles, rope.pairing);
            }
            if *norms_rotated {
                normalize(used);
            }
            self.put(buffer, values);
        }
        let (keys, values) = (&self.buffers[key.0], &self.buffers[value.0]);
        let cache = &mut self.caches[cache.0];
        let mut rows = keys.chunks(kv_width).zip(values.chunks(kv_width));
        for (_, span) in step.spans() {
            for (position, (keys, values)) in (span.position..span.end()).zip(&mut rows) {
                cache.store(span.pages[position / PAGE], position, keys, values);
            }
        }
        self.times.stop(started, || "rotate and store".into());
    }
}

use super::super::{SLOW, math};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::cpu::pool::Parts;
use crate::backend::op::{Delta, DeltaHeads};

impl Cpu {
    pub(super) fn delta(&mut self, operation: &Delta, step: &Step) -> Result<()> {
        let Delta { heads, state, out, .. } = *operation;
        let started = self.times.start();
        let mut states = self.take_state(state);
        let done = self.writing(out, |cpu, out| {
            let (states, out) = (Parts::new(&mut states), Parts::new(out));
            let (matrix_len, inner) = (heads.size * heads.size, heads.value * heads.size);
            let input = Rows::new(cpu, operation);
            for (first, span) in step.spans() {
                let cost = span.rows * heads.size * (4 * heads.size + SLOW);
                cpu.pool.each(heads.value, cost, |head| {
                    let at = span.state as usize * heads.state() + head * matrix_len;
                    // SAFETY: each head of each sequence comes once.
                    let matrix = unsafe { states.part(at, matrix_len) };
                    if span.position == 0 {
                        matrix.fill(0.0);
                    }
                    let mut room = Room::new(heads.size);
                    for row in first..first + span.rows {
                        // SAFETY: the same, and each row.
                        let out = unsafe { out.part(row * inner + head * heads.size, heads.size) };
                        input.read(row, head, matrix, &mut room, out);
                    }
                })?;
            }
            Ok(())
        });
        self.put_state(state, states);
        self.times.stop(started, || "delta".into());
        done
    }
}

/// What a step has, for threads.
struct Rows<'a> {
    heads: DeltaHeads,
    epsilon: f32,
    qkv: &'a [f32],
    alpha: &'a [f32],
    beta: &'a [f32],
    z: &'a [f32],
    rate: &'a [f32],
    bias: &'a [f32],
    scale: &'a [f32],
}

impl<'a> Rows<'a> {
    fn new(cpu: &'a Cpu, operation: &Delta) -> Self {
        let Delta { qkv, alpha, beta, z, rate, bias, norm, heads, .. } = operation;
        let [qkv, alpha, beta, z] = [qkv, alpha, beta, z].map(|buffer| cpu.buffers[buffer.0].as_slice());
        let [rate, bias, scale] = [rate, bias, &norm.scale].map(|vector| cpu.vectors[vector.0].as_slice());
        Rows { heads: *heads, epsilon: norm.epsilon, qkv, alpha, beta, z, rate, bias, scale }
    }

    /// Takes a row into a head's matrix, and gives what that has for it.
    fn read(&self, row: usize, head: usize, matrix: &mut [f32], room: &mut Room, out: &mut [f32]) {
        let DeltaHeads { key, value, size } = self.heads;
        let qkv = &self.qkv[row * self.heads.width()..][..self.heads.width()];
        let of_head = |first: usize, head: usize| &qkv[(first + head) * size..][..size];
        let Room { query, key: keys, found } = room;
        unit(of_head(0, head % key), self.epsilon, 1.0 / (size as f32).sqrt(), query);
        unit(of_head(key, head % key), self.epsilon, 1.0, keys);
        let values = of_head(2 * key, head);
        let at = row * value + head;
        let step = math::softplus(self.alpha[at] + self.bias[head]);
        let decay = (-self.rate[head] * step).exp();
        let weight = 1.0 / (1.0 + (-self.beta[at]).exp());

        found.fill(0.0);
        for (line, key) in matrix.chunks_exact_mut(size).zip(&*keys) {
            for (number, found) in line.iter_mut().zip(&mut *found) {
                *number *= decay;
                *found += *number * key;
            }
        }
        // What is to be added for the key to give the value.
        found.iter_mut().zip(values).for_each(|(found, value)| *found = weight * (value - *found));
        out.fill(0.0);
        for ((line, key), query) in matrix.chunks_exact_mut(size).zip(&*keys).zip(&*query) {
            for ((number, added), out) in line.iter_mut().zip(&*found).zip(&mut *out) {
                *number += key * added;
                *out += *number * query;
            }
        }
        math::rms_norm_runs(out, self.scale, self.epsilon);
        let z = &self.z[at * size..][..size];
        out.iter_mut().zip(z).for_each(|(out, z)| *out *= z / (1.0 + (-z).exp()));
    }
}

struct Room {
    query: Vec<f32>,
    key: Vec<f32>,
    /// What the matrix gives for the key, then what it lacks.
    found: Vec<f32>,
}

impl Room {
    fn new(size: usize) -> Self {
        Room { query: vec![0.0; size], key: vec![0.0; size], found: vec![0.0; size] }
    }
}

/// A vector of length `length`.
fn unit(x: &[f32], epsilon: f32, length: f32, out: &mut [f32]) {
    let factor = length / (math::dot(x, x) + epsilon).sqrt();
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
}

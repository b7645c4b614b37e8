//! From scores to a choice, or to what a sampler needs of them.

use super::record::BufferId;
use super::shader::Kernel;
use super::{Activations, Gpu};
use crate::backend::{Top, Wanted};
use crate::{Error, Result};

/// Workgroups of the first half of argmax, at most.
const ARGMAX_GROUPS: usize = 64;
/// Scores that a workgroup of `top_k` sorts.
const STRETCH: usize = 1024;

/// What lies between the kernels; made when first needed.
#[derive(Default)]
pub(super) struct Choices {
    best: Option<BufferId>,
    /// What rounds of `top_k` keep, in turns.
    runs: [Option<BufferId>; 2],
    sums: Option<BufferId>,
    places: Option<BufferId>,
    picked: Option<BufferId>,
    /// A page of a cache on its way to another.
    pub page: Option<BufferId>,
}

impl Gpu {
    pub(super) fn choose_from(&mut self, scores: Activations, rows: usize, len: usize) -> Result<()> {
        let groups = len.div_ceil(STRETCH).min(ARGMAX_GROUPS);
        let stretch = len.div_ceil(groups);
        let groups = len.div_ceil(stretch);
        let best = self.room(|choices| &mut choices.best, 8 * ARGMAX_GROUPS * rows)?;
        let kernel = Kernel::new("argmax");
        let params = [len as u32, stretch as u32, scores.stride as u32, groups as u32];
        self.dispatch(kernel.clone(), &params, &[scores.id, best], [groups, rows, 1])?;
        let params = [groups as u32, groups as u32, groups as u32, 1];
        self.dispatch(kernel.flag("LAST", true), &params, &[best, self.chosen], [1, rows, 1])?;
        self.recorder.send_late(&self.device, self.chosen, rows)
    }

    pub(super) async fn top_k_of(
        &mut self,
        scores: Activations,
        row: usize,
        len: usize,
        wanted: &Wanted,
        out: &mut Top,
    ) -> Result<()> {
        let first = (row * scores.stride) as u32;
        let scores = scores.id;
        let Wanted { count, ref places, sum: wants_sum } = *wanted;
        if !(1..=Wanted::MOST).contains(&count) || places.len() > Wanted::MOST {
            return Err(Error::internal(format!("{count} candidates and {} places", places.len())));
        }
        let k = count.min(len).next_power_of_two();
        let groups = len.div_ceil(STRETCH);
        let sums = self.room(|choices| &mut choices.sums, 8 * groups)?;
        let mut kept = self.room(|choices| &mut choices.runs[0], 8 * groups * k)?;
        let mut next = self.room(|choices| &mut choices.runs[1], 8 * groups * k)?;
        let kernel = Kernel::new("top_k").constant("K", k);
        self.dispatch(kernel.clone(), &[len as u32, first, 0, 0], &[scores, kept, sums], [groups, 1, 1])?;
        let mut runs = groups;
        while runs > 1 {
            let entries = runs * k;
            runs = entries.div_ceil(STRETCH);
            let kernel = kernel.clone().flag("MERGE", true);
            self.dispatch(kernel, &[entries as u32, 0, 0, 0], &[kept, next], [runs, 1, 1])?;
            std::mem::swap(&mut kept, &mut next);
        }
        let picked = self.room(|choices| &mut choices.picked, 4 * Wanted::MOST)?;
        if !places.is_empty() {
            let asked = self.room(|choices| &mut choices.places, 4 * Wanted::MOST)?;
            self.device.queue.write_buffer(
                self.recorder.buffer(asked),
                0,
                bytemuck::cast_slice::<u32, u8>(places),
            );
            let params = [places.len() as u32, first, 0, 0];
            let workgroups = [places.len().div_ceil(64), 1, 1];
            self.dispatch(Kernel::new("pick"), &params, &[scores, asked, picked], workgroups)?;
        }

        let pieces = [(kept, 0, 8 * k), (sums, 0, 8 * groups), (picked, 0, 4 * places.len())];
        let mut bytes = Vec::new();
        self.recorder.read_pieces(&self.device, &pieces, &mut bytes).await?;
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let (best, rest) = words.split_at(2 * k);
        let (sums, picked) = rest.split_at(2 * groups);
        let pairs = |words: &[u32]| -> Vec<[u32; 2]> { words.as_chunks().0.to_vec() };
        let highest = f64::from(number_of(best[0]));
        out.finite = best[0] != INVALID;
        out.best.clear();
        out.best.extend(pairs(best).iter().take(count.min(len)).map(|&[key, place]| (place, number_of(key))));
        out.picked.clear();
        out.picked.extend(picked.iter().map(|&bits| f32::from_bits(bits)));
        let sum = |&[key, sum]: &[u32; 2]| {
            f64::from(f32::from_bits(sum)) * (f64::from(number_of(key)) - highest).exp()
        };
        // A stretch of −∞ alone has no part in it.
        let parts = pairs(sums).into_iter().filter(|[key, _]| wants_sum && *key > LOWEST_KEY);
        out.sum = parts.map(|part| sum(&part)).sum();
        Ok(())
    }

    pub(super) fn room(
        &mut self,
        which: impl Fn(&mut Choices) -> &mut Option<BufferId>,
        bytes: usize,
    ) -> Result<BufferId> {
        if let Some(found) = *which(&mut self.choices)
            && self.recorder.buffer(found).size() >= bytes as u64
        {
            return Ok(found);
        }
        let made = self.recorder.add(self.device.storage("choices", bytes as u64)?);
        *which(&mut self.choices) = Some(made);
        Ok(made)
    }
}

/// The key of what is NaN or +∞, and that of −∞: see `wgsl/top_k.wgsl`.
const INVALID: u32 = u32::MAX;
const LOWEST_KEY: u32 = 0x007f_ffff;

fn number_of(key: u32) -> f32 {
    f32::from_bits(if key >= 1 << 31 { key & 0x7fff_ffff } else { !key })
}

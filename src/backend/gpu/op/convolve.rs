use super::super::product::activated;
use super::super::shader::Kernel;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Convolve;

impl Gpu {
    pub(super) fn convolve(&mut self, operation: &Convolve, step: &Step) -> Result<()> {
        let Convolve { x, before, after, kernel, taps, bias, activation, state, out } = *operation;
        let (width, out, state) = (self.program.width(x), self.buffers[out.0], self.states[state.0]);
        let x = self.buffers[x.0];
        let [from, after_from] = [before, after].map(|buffer| buffer.map_or(x, |b| self.buffers[b.0]));
        let kernel_at = self.vectors[kernel.0].at as u32;
        let bias_at = bias.map_or(0, |bias| self.vectors[bias.0].at as u32);
        let mut kernel = Kernel::new("convolve")
            .flag("BEFORE", before.is_some())
            .flag("AFTER", after.is_some())
            .flag("BIAS", bias.is_some())
            .flag("ACTIVATE", activation.is_some())
            .constant("TAPS", taps)
            .constant("PAST", taps - 1);
        if let Some(activation) = activation {
            kernel = activated(kernel, activation);
        }
        for (first, rows, sequences) in sequences(step) {
            let params = [
                first as u32,
                rows as u32,
                width as u32,
                x.stride as u32,
                from.stride as u32,
                after_from.stride as u32,
                out.stride as u32,
                kernel_at,
                bias_at,
                0,
                0,
                0,
            ];
            let buffers = [x.id, from.id, after_from.id, self.memory.vectors, state, out.id, self.step];
            self.dispatch(kernel.clone(), &params, &buffers, [width.div_ceil(64), sequences, 1])?;
        }
        Ok(())
    }
}

/// What is done at once: the first row, the rows of a sequence, and how many sequences. Those of one row that follow one
/// another go together.
pub(super) fn sequences(step: &Step) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut spans = step.spans().peekable();
    std::iter::from_fn(move || {
        let (first, span) = spans.next()?;
        let mut count = 1;
        while span.rows == 1 && spans.next_if(|(_, next)| next.rows == 1).is_some() {
            count += 1;
        }
        Some((first, span.rows, count))
    })
}

use super::super::math;
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Convolve;

impl Cpu {
    pub(super) fn convolve(&mut self, operation: &Convolve, step: &Step) -> Result<()> {
        let Convolve { x, before, after, kernel, taps, bias, activation, state, out } = *operation;
        let width = self.program.width(x);
        let started = self.times.start();
        let mut states = self.take_state(state);
        let done = self.writing(out, |cpu, out| {
            let (kernel, bias) = (&cpu.vectors[kernel.0], bias.map(|bias| &cpu.vectors[bias.0]));
            let [x, before, after] =
                [Some(x), before, after].map(|buffer| buffer.map(|buffer| &cpu.buffers[buffer.0]));
            let x = x.map_or(&[][..], |x| x);
            let past_len = (taps - 1) * width;
            let mut window = vec![0.0; taps * width];
            for (first, span) in step.spans() {
                let past = &mut states[span.state as usize * past_len..][..past_len];
                match span.position {
                    0 => window.fill(0.0),
                    _ => window[width..].copy_from_slice(past),
                }
                for row in first..first + span.rows {
                    let at = row * width..(row + 1) * width;
                    window.copy_within(width.., 0);
                    let last = &mut window[past_len..];
                    last.copy_from_slice(&x[at.clone()]);
                    if let Some(before) = before {
                        last.iter_mut().zip(&before[at.clone()]).for_each(|(x, before)| *x *= before);
                    }
                    let out = &mut out[at.clone()];
                    for (column, out) in out.iter_mut().enumerate() {
                        let kernel = &kernel[column * taps..][..taps];
                        let inputs = window[column..].iter().step_by(width);
                        *out = kernel.iter().zip(inputs).map(|(kernel, input)| kernel * input).sum();
                    }
                    if let Some(bias) = bias {
                        math::add(out, bias);
                    }
                    if let Some(activation) = activation {
                        math::activate(out, activation);
                    }
                    if let Some(after) = after {
                        out.iter_mut().zip(&after[at]).for_each(|(out, after)| *out *= after);
                    }
                }
                past.copy_from_slice(&window[width..]);
            }
            Ok(())
        });
        self.put_state(state, states);
        self.times.stop(started, || "convolve".into());
        done
    }
}

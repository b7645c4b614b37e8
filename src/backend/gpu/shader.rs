//! WGSL sources, a preprocessor of a hundred lines, and the cache of pipelines.
//!
//! Directives stand at the start of a line:
//! - `#import path` puts `wgsl/path.wgsl` there, once a module; `{FORMAT}` in it is replaced.
//! - `#ifdef FLAG`, `#ifndef FLAG`, `#else`, `#endif`
//! - `#unroll J COUNT` … `#end` repeats its lines with `{J}` as 0, 1, …, `{J/4}` as that over 4 and
//!   `{J+1}` as the next.
//!   COUNT is a number or a constant. Registers have no addresses, so what a loop indexes must be
//!   unrolled here: drivers differ in whether they do it.
//!
//! Constants become `const NAME: u32 = …` at the head.

use super::Corruption;
use super::device::Device;
use super::self_test::Progress;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

macro_rules! sources {
    ($($path:literal)*) => {
        /// (path without `.wgsl`, text).
        const SOURCES: &[(&str, &str)] = &[$(($path, include_str!(concat!("wgsl/", $path, ".wgsl")))),*];
    };
}
sources! {
    "shared/activation" "shared/bytes" "shared/half" "shared/matrix" "shared/multiply" "shared/pairs"
    "shared/places" "shared/places32" "shared/places256" "shared/recurrence"
    "shared/product" "shared/reduce" "shared/step" "shared/store"
    "format/f32" "format/f16" "format/bf16" "format/q8_0" "format/q4_0" "format/q4_1" "format/q5_0"
    "format/q5_1" "format/q2_k" "format/q4_k" "format/q5_k" "format/q6_k" "format/q1_0" "format/q2_0"
    "format/iq4_nl" "format/iq4_xs" "format/mxfp4" "format/iq3_xxs" "format/iq3_s" "format/iq2" "format/iq1"
    "activate" "argmax" "attend" "attend_reduce" "convolve" "copy" "delta" "embed" "experts" "gate" "gate_norm"
    "layer_norm" "matmul" "matmul_dp4a" "matvec" "output_gate" "pick" "probe_half" "quantize" "rms_norm" "rotate_and_store" "route"
    "scan"
    "top_k"
}

/// One variant of a kernel: what its module is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    /// The file, and the entry point in it.
    pub name: &'static str,
    /// The format imported as `{FORMAT}`.
    pub format: &'static str,
    pub flags: Vec<&'static str>,
    pub constants: Vec<(&'static str, u32)>,
}

impl Kernel {
    pub(super) fn new(name: &'static str) -> Self {
        Kernel { name, format: "", flags: Vec::new(), constants: Vec::new() }
    }

    pub(super) fn format(mut self, format: &'static str) -> Self {
        self.format = format;
        self
    }

    pub(super) fn flag(mut self, name: &'static str, set: bool) -> Self {
        if set {
            self.flags.push(name);
        }
        self
    }

    pub(super) fn constant(mut self, name: &'static str, value: usize) -> Self {
        self.constants.push((name, value as u32));
        self
    }

    /// The module's WGSL.
    pub(super) fn source(&self) -> Result<String> {
        let mut out = String::new();
        for (name, value) in &self.constants {
            out += &format!("const {name}: u32 = {value}u;\n");
        }
        let mut imported = BTreeSet::new();
        self.expand(&format!("#import {}", self.name), &mut imported, &mut out)?;
        Ok(out)
    }

    fn value(&self, name: &str) -> Result<u32> {
        let constant = self.constants.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        constant.or(name.parse().ok()).ok_or_else(|| self.wrong(format!("{name} is not a number")))
    }

    fn wrong(&self, message: impl std::fmt::Display) -> Error {
        Error::internal(format!("shader {}: {message}", self.name))
    }

    fn expand(&self, text: &str, imported: &mut BTreeSet<String>, out: &mut String) -> Result<()> {
        // One entry an open #ifdef: whether its lines count.
        let mut conditions: Vec<bool> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            let directive = words.next().filter(|word| word.starts_with('#')).unwrap_or_default();
            let argument = words.next().unwrap_or_default();
            match directive {
                "#ifdef" => conditions.push(self.flags.contains(&argument)),
                "#ifndef" => conditions.push(!self.flags.contains(&argument)),
                "#else" => match conditions.last_mut() {
                    Some(condition) => *condition = !*condition,
                    None => return Err(self.wrong("#else without #ifdef")),
                },
                "#endif" => {
                    conditions.pop().ok_or_else(|| self.wrong("#endif without #ifdef"))?;
                }
                _ if conditions.contains(&false) => {}
                "#import" => {
                    let path = argument.replace("{FORMAT}", self.format);
                    let source = SOURCES.iter().find(|(name, _)| *name == path);
                    let (_, source) = source.ok_or_else(|| self.wrong(format!("no file {path}")))?;
                    if imported.insert(path) {
                        self.expand(source, imported, out)?;
                    }
                }
                "#unroll" => {
                    let count = self.value(words.next().unwrap_or_default())?;
                    let (mut body, mut depth) = (String::new(), 1);
                    for line in lines.by_ref() {
                        depth += i32::from(line.starts_with("#unroll")) - i32::from(line == "#end");
                        if depth == 0 {
                            break;
                        }
                        body += line;
                        body.push('\n');
                    }
                    for index in 0..count {
                        let body = body.replace(&format!("{{{argument}}}"), &index.to_string());
                        let body = body.replace(&format!("{{{argument}/4}}"), &(index / 4).to_string());
                        let body = body.replace(&format!("{{{argument}+1}}"), &(index + 1).to_string());
                        self.expand(&body, imported, out)?;
                    }
                }
                "" => {
                    out.push_str(line);
                    out.push('\n');
                }
                unknown => return Err(self.wrong(format!("unknown directive {unknown}"))),
            }
        }
        Ok(())
    }
}

/// A pipeline and what it binds.
pub(super) struct Pipeline {
    pub kernel: Kernel,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines made so far.
#[derive(Default)]
pub(super) struct Pipelines {
    by_kernel: HashMap<Kernel, usize>,
    made: Vec<Pipeline>,
    /// What the driver refuses to compile, and why.
    refused: HashMap<Kernel, String>,
    /// One for each pattern of read-only and writable bindings.
    layouts: HashMap<Vec<bool>, wgpu::BindGroupLayout>,
    corruptions: Vec<Corruption>,
}

/// A kernel with all that makes its pipeline.
pub(super) struct Described {
    pub kernel: Kernel,
    pub source: String,
    /// Whether each storage binding is written.
    #[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "browsers alone ask for it"))]
    pub writable: Vec<bool>,
    layout: wgpu::BindGroupLayout,
}

impl Pipelines {
    /// Without pipelines. `corruptions` change the shaders.
    pub(super) fn new(corruptions: Vec<Corruption>) -> Self {
        Pipelines { corruptions, ..Pipelines::default() }
    }

    pub(super) fn get(&self, index: usize) -> &Pipeline {
        &self.made[index]
    }

    pub(super) fn len(&self) -> usize {
        self.made.len()
    }

    /// Feeds all the texts that pipelines are made from.
    pub(super) fn hash_sources(&self, hasher: &mut impl Hasher) {
        (SOURCES, &self.corruptions).hash(hasher);
    }

    /// The pipeline of `kernel`, made when first asked for.
    pub(super) fn find(&mut self, device: &Device, kernel: Kernel) -> Result<usize> {
        if let Some(&index) = self.by_kernel.get(&kernel) {
            return Ok(index);
        }
        if let Some(reason) = self.refused.get(&kernel) {
            return Err(kernel.wrong(reason));
        }
        let described = self.describe(device, kernel)?;
        let pipeline = described.make(device);
        Ok(self.keep(described, pipeline))
    }

    fn describe(&mut self, device: &Device, kernel: Kernel) -> Result<Described> {
        let mut source = kernel.source()?;
        for corruption in &self.corruptions {
            if kernel.name == corruption.kernel || kernel.flags.contains(&corruption.kernel.as_str()) {
                source = source.replace(&corruption.text, &corruption.by);
            }
        }
        let writable = writable_bindings(&source);
        let layout = self.layouts.entry(writable.clone()).or_insert_with_key(|w| layout(device, w)).clone();
        if cfg!(target_arch = "wasm32") && kernel.flags.contains(&"SUBGROUPS") {
            // Browsers ask for this line, naga does not know it.
            source.insert_str(0, "enable subgroups;\n");
        }
        Ok(Described { kernel, source, writable, layout })
    }

    fn keep(&mut self, described: Described, pipeline: wgpu::ComputePipeline) -> usize {
        let Described { kernel, layout, .. } = described;
        self.made.push(Pipeline { kernel: kernel.clone(), pipeline, layout });
        self.by_kernel.insert(kernel, self.made.len() - 1);
        self.made.len() - 1
    }

    /// Makes the pipelines of `kernels` that are not made yet. What a driver refuses is remembered: it is an error
    /// where it is used.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) async fn make(
        &mut self,
        device: &Device,
        kernels: Vec<Kernel>,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let total = kernels.len();
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(8);
        for (index, kernels) in kernels.chunks(threads).enumerate() {
            progress(index * threads, total)?;
            let new = kernels.iter().filter(|kernel| !self.by_kernel.contains_key(kernel)).cloned();
            let new: Vec<Kernel> = new.collect();
            let described: Result<Vec<_>> =
                new.into_iter().map(|kernel| self.describe(device, kernel)).collect();
            let described = described?;
            let made: Vec<_> = std::thread::scope(|scope| {
                let make = |described| scope.spawn(move || Described::try_make(described, device));
                let threads: Vec<_> = described.iter().map(make).collect();
                threads.into_iter().map(|thread| thread.join()).collect()
            });
            for (described, made) in described.into_iter().zip(made) {
                match made.map_err(|_| Error::internal("a thread that compiles shaders panicked"))? {
                    Ok(pipeline) => _ = self.keep(described, pipeline),
                    Err(reason) => _ = self.refused.insert(described.kernel, reason),
                }
            }
            device.check()?;
        }
        progress(total, total)
    }

    /// The same in a browser, which compiles them beside each other.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn make(
        &mut self,
        device: &Device,
        kernels: Vec<Kernel>,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        use super::web;
        let Some(mut compilation) = web::Compilation::new(&device.handle) else { return Ok(()) };
        let total = kernels.len();
        let mut begun = Vec::new();
        for kernel in kernels {
            if self.by_kernel.contains_key(&kernel) {
                continue;
            }
            let described = self.describe(device, kernel)?;
            let promise = compilation.begin(&described);
            begun.push((described, promise));
        }
        let first = total - begun.len();
        for (index, (described, promise)) in begun.into_iter().enumerate() {
            progress(first + index, total)?;
            let compiled = match promise {
                Ok(promise) => web::compiled(promise).await,
                Err(error) => Err(error),
            };
            device.check()?;
            match compiled {
                // While the browser's own is there, wgpu's is the same one.
                Ok(_compiled) => {
                    let pipeline = described.make(device);
                    self.keep(described, pipeline);
                }
                Err(error) => _ = self.refused.insert(described.kernel, web::message(&error)),
            }
        }
        progress(total, total)
    }
}

impl Described {
    /// As [`Described::make`], with the driver's refusal.
    #[cfg(not(target_arch = "wasm32"))]
    fn try_make(&self, device: &Device) -> std::result::Result<wgpu::ComputePipeline, String> {
        use futures_util::FutureExt;
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
        let [outer, inner] = filters.map(|filter| device.handle.push_error_scope(filter));
        let pipeline = self.make(device);
        // Known at once where the driver is in this process.
        let errors = [inner.pop().now_or_never(), outer.pop().now_or_never()];
        match errors.into_iter().flatten().flatten().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(pipeline),
        }
    }

    fn make(&self, device: &Device) -> wgpu::ComputePipeline {
        let name = self.kernel.name;
        let module = device.shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(self.source.as_str().into()),
        });
        let layout = device.handle.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&self.layout)],
            immediate_size: 0,
        });
        device.handle.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(name),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}

/// Whether each storage binding of a module, in order, is written. Binding 0 is the uniform.
fn writable_bindings(source: &str) -> Vec<bool> {
    let bindings = source.lines().filter(|line| line.contains("@binding(") && line.contains("var<storage"));
    bindings.map(|line| line.contains("read_write")).collect()
}

fn layout(device: &Device, writable: &[bool]) -> wgpu::BindGroupLayout {
    let entry = |binding: usize, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
    entries.extend(writable.iter().enumerate().map(|(index, &writable)| {
        entry(index + 1, wgpu::BufferBindingType::Storage { read_only: !writable }, false)
    }));
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
    device.handle.create_bind_group_layout(&descriptor)
}

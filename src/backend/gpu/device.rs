//! The adapter, what it can do, and what goes wrong with it.

use crate::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What may be used of a device, and which device.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Features that stay off though the device has them: `f16`, `subgroups`, `timestamps`, `dp4a`, `half`.
    pub disable: Vec<String>,
    /// Part of the adapter's name, any case.
    pub adapter: Option<String>,
    /// Bytes of one binding, if fewer than the device allows; for tests.
    pub max_binding: Option<u64>,
    /// Ask only for what every WebGPU device has; for tests.
    pub least_limits: bool,
    /// Keep keys and values as f32, at twice the memory.
    pub kv_f32: bool,
    /// Multiply quantized weights by activations of 8 bits where there are many tokens, or never; without it a
    /// measurement says which is faster.
    pub dp4a: Option<bool>,
    /// Decode halves by integers, or by the device's own instructions; without it a try at start says which.
    pub exact_half: Option<bool>,
    /// Refuse a renderer in software.
    pub hardware_only: bool,
    /// The device "auto" takes a renderer in software too; for tests.
    pub software: bool,
    /// What the device "auto" shall find when it measures whether the GPU is faster; for tests.
    pub faster: Option<bool>,
    /// Measure every kernel; slows everything down.
    pub profile: bool,
    /// Where results of self-tests are kept: a folder, in browsers the name of a Cache. By default the user's
    /// cache folder, or `candlewick-gpu`.
    pub cache: Option<String>,
    /// Shaders made wrong, to see the self-test find it.
    pub corruptions: Vec<Corruption>,
    /// Bytes after which the device is out of memory; for tests.
    pub max_memory: Option<u64>,
    /// Holds on to the device, to take it away; for tests.
    pub hold: Hold,
    /// A device that computes nothing and checks everything.
    #[cfg(test)]
    pub noop: wgpu::NoopBackendOptions,
}

/// The device that was opened last.
#[derive(Debug, Clone, Default)]
pub struct Hold(Arc<Mutex<Option<wgpu::Device>>>);

impl Hold {
    /// Loses it.
    pub fn destroy(&self) {
        if let Ok(device) = self.0.lock()
            && let Some(device) = &*device
        {
            device.destroy();
        }
    }

    fn keep(&self, device: &wgpu::Device) {
        if let Ok(mut held) = self.0.lock() {
            *held = Some(device.clone());
        }
    }
}

/// A text replaced in the shader of a kernel, or of all kernels with a flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Corruption {
    /// `matvec`, or `SUBGROUPS`.
    pub kernel: String,
    /// WGSL.
    pub text: String,
    /// What stands there instead.
    pub by: String,
}

impl Options {
    /// The defaults with what the environment says.
    pub fn from_env() -> Self {
        Options::default().with_env()
    }

    /// With what the environment says too: `CANDLEWICK_GPU_DISABLE=f16,subgroups` and
    /// `CANDLEWICK_GPU_ADAPTER=name`. Browsers have no environment.
    pub fn with_env(mut self) -> Self {
        let disable = std::env::var("CANDLEWICK_GPU_DISABLE").unwrap_or_default();
        self.disable.extend(disable.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        self.adapter = self.adapter.or(std::env::var("CANDLEWICK_GPU_ADAPTER").ok());
        self
    }

    /// Refuses names that nothing has.
    fn check(&self) -> Result<()> {
        const NAMES: [&str; 5] = ["subgroups", "f16", "half", "dp4a", "timestamps"];
        match self.disable.iter().find(|name| !NAMES.contains(&name.as_str())) {
            Some(name) => Err(Error::invalid_argument(format!(
                "\"{name}\" cannot be switched off on the GPU; what can is {}",
                NAMES.join(", ")
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn allows(&self, feature: &str) -> bool {
        !self.disable.iter().any(|name| name == feature)
    }
}

/// The first thing that went wrong, for the next call that can say so.
#[derive(Default)]
struct Faults {
    lost: Option<String>,
    error: Option<Error>,
}

/// An open device.
pub(super) struct Device {
    pub handle: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    /// Sums over subgroups may be used: their size, which is 4 to 128.
    pub subgroups: Option<(u32, u32)>,
    /// The same, where they are switched off.
    idle_subgroups: Option<(u32, u32)>,
    pub timestamps: bool,
    faults: Arc<Mutex<Faults>>,
    max_memory: Option<u64>,
    /// Bytes of all buffers so far.
    allocated: AtomicU64,
}

impl Device {
    pub(super) async fn open(options: &Options) -> Result<Device> {
        options.check()?;
        let adapter = adapter(options).await?;
        let mut info = adapter.get_info();
        if options.hardware_only && is_software(&info) {
            return Err(Error::resource_exhausted(match info.name.as_str() {
                "" => "the only GPU adapter is a software renderer".to_owned(),
                name => format!("the only GPU adapter is a software renderer ({name})"),
            }));
        }
        let offered = adapter.features();
        let mut features = wgpu::Features::empty();
        let mut wants = |name: &str, feature| {
            let on = offered.contains(feature) && options.allows(name);
            features.set(feature, on);
            on
        };
        let asked_subgroups = wants("subgroups", wgpu::Features::SUBGROUP);
        let timestamps = wants("timestamps", wgpu::Features::TIMESTAMP_QUERY);
        let mut limits = match options.least_limits {
            true => wgpu::Limits {
                max_storage_buffer_binding_size: 128 << 20,
                max_buffer_size: 256 << 20,
                ..wgpu::Limits::defaults()
            },
            false => adapter.limits(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("candlewick"),
            required_features: features,
            required_limits: limits.clone(),
            ..Default::default()
        };
        let (handle, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            let message = format!("the GPU {} cannot be opened: {error}", info.name);
            Error::resource_exhausted(message)
        })?;
        options.hold.keep(&handle);
        if let Some(max) = options.max_binding {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(max);
        }

        let faults = Arc::new(Mutex::new(Faults::default()));
        let kept = faults.clone();
        handle.on_uncaptured_error(Arc::new(move |error| {
            let error = match error {
                wgpu::Error::OutOfMemory { .. } => out_of_memory(),
                error => Error::internal(format!("GPU: {error}")),
            };
            if let Ok(mut faults) = kept.lock() {
                faults.error.get_or_insert(error);
            }
        }));
        let kept = faults.clone();
        handle.set_device_lost_callback(move |reason, message| {
            if let Ok(mut faults) = kept.lock() {
                faults.lost.get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        #[cfg(not(target_arch = "wasm32"))]
        let has_subgroups = asked_subgroups;
        #[cfg(target_arch = "wasm32")]
        let has_subgroups =
            asked_subgroups || options.allows("subgroups") && super::web::has_subgroups(&handle);
        #[cfg(target_arch = "wasm32")]
        if info.name.is_empty() {
            info.name = super::web::adapter_name(&handle);
        }
        if info.name.is_empty() {
            info.name = "unnamed GPU".to_owned();
        }
        // Kernels are made for these sizes.
        let known = info.subgroup_min_size >= 4 && info.subgroup_max_size <= 128;
        let sizes = (info.subgroup_min_size, info.subgroup_max_size);
        let subgroups = (has_subgroups && known).then_some(sizes);
        Ok(Device {
            handle,
            queue,
            info,
            limits,
            subgroups,
            idle_subgroups: None,
            timestamps,
            faults,
            max_memory: options.max_memory,
            allocated: AtomicU64::new(0),
        })
    }

    /// Has kernels use subgroups, where the device has them, or not.
    pub(super) fn switch_subgroups(&mut self, on: bool) {
        let known = self.subgroups.or(self.idle_subgroups);
        (self.subgroups, self.idle_subgroups) = if on { (known, None) } else { (None, known) };
    }

    /// The first error since the device was opened, if there was one.
    pub(super) fn check(&self) -> Result<()> {
        if self.faults.lock().is_ok_and(|faults| faults.error.is_some() && faults.lost.is_none()) {
            // Natively a loss is only told when asked for; errors that come of it are heard before.
            _ = self.handle.poll(wgpu::PollType::Poll);
        }
        let Ok(faults) = self.faults.lock() else { return Err(Error::internal("a GPU callback failed")) };
        if let Some(message) = &faults.lost {
            return Err(Error::device_lost(format!("the GPU was lost: {message}")));
        }
        faults.error.clone().map_or(Ok(()), Err)
    }

    /// Gives the device up: every check fails from now on.
    pub(super) fn lose(&self) {
        if let Ok(mut faults) = self.faults.lock() {
            faults.lost.get_or_insert("it was given up".to_owned());
        }
        self.handle.destroy();
    }

    /// Whether a processor plays the GPU.
    pub(super) fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    /// Bytes of one binding.
    pub(super) fn max_binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Kernels stay within their buffers, by arithmetic that the kernel tests check; naga's checks
    /// around every access and loop would cost native speed.
    pub(super) fn shader_module(&self, descriptor: wgpu::ShaderModuleDescriptor) -> wgpu::ShaderModule {
        // SAFETY: the WGSL is our own. Indices come from `Params` that this module's callers
        // compute from checked sizes, and from token ids that `embed` compares with the table's.
        unsafe {
            self.handle.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        }
    }

    /// A zeroed buffer of at least `size` bytes, or `resource_exhausted`.
    pub(super) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = size.next_multiple_of(16).max(16);
        let limit = match usage.contains(wgpu::BufferUsages::STORAGE) {
            true => self.max_binding(),
            false => self.limits.max_buffer_size,
        };
        if size > limit {
            return Err(Error::resource_exhausted(format!(
                "the GPU takes {} MB in one piece; {label} would need {} MB. Choose a smaller model or context",
                limit >> 20,
                size >> 20
            )));
        }
        let allocated = self.allocated.fetch_add(size, Ordering::Relaxed) + size;
        if self.max_memory.is_some_and(|max| allocated > max) {
            return Err(out_of_memory());
        }
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        Ok(self.handle.create_buffer(&descriptor))
    }

    /// A storage buffer that can be written and read from here.
    pub(super) fn storage(&self, label: &str, size: u64) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usage;
        self.buffer(label, size, Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC)
    }
}

/// In browsers buffers are freed by the garbage collector, sometime: too late where another device or the CPU takes over.
impl Drop for Device {
    fn drop(&mut self) {
        self.handle.destroy();
    }
}

fn out_of_memory() -> Error {
    Error::resource_exhausted("the GPU is out of memory. Choose a smaller model or context")
}

async fn adapter(options: &Options) -> Result<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // Validation layers are for debugging wgpu itself.
    descriptor.flags = wgpu::InstanceFlags::empty();
    #[cfg(test)]
    if options.noop.enable {
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = options.noop.clone();
    }
    let instance = wgpu::Instance::new(descriptor);
    if let Some(name) = &options.adapter {
        let name = name.to_lowercase();
        let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
        let named = |adapter: &wgpu::Adapter| adapter.get_info().name.to_lowercase().contains(&name);
        return adapters
            .into_iter()
            .find(named)
            .ok_or_else(|| Error::resource_exhausted(format!("no GPU is called \"{name}\"")));
    }
    let wanted = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    instance.request_adapter(&wanted).await.map_err(|_| Error::resource_exhausted(NO_ADAPTER))
}

#[cfg(target_arch = "wasm32")]
const NO_ADAPTER: &str = "no WebGPU adapter";
#[cfg(not(target_arch = "wasm32"))]
const NO_ADAPTER: &str = "no GPU adapter";

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    // By name too: not every browser says that it falls back.
    info.device_type == wgpu::DeviceType::Cpu
        || ["swiftshader", "llvmpipe", "basic render"].iter().any(|known| name.contains(known))
}

//! How much memory there is for a model.

/// Memory that a model can have now.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// There may be more: whoever told does not tell of more than that.
    pub at_least: bool,
}

/// Memory for a model on the GPU, or on the CPU; nothing where nobody tells.
///
/// On Linux, what programs can have without swapping, in a container within its limit. In browsers it is a guess: three quarters of what
/// `navigator.deviceMemory` tells (of most GPUs too, which share it), on phones what pages were seen to get before they
/// are ended; and never more than WebAssembly can address.
pub fn room(gpu: bool) -> Option<Room> {
    platform::room(gpu)
}

#[cfg(target_os = "linux")]
mod platform {
    use super::Room;

    pub(super) fn room(gpu: bool) -> Option<Room> {
        if gpu {
            return None;
        }
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let bytes = allowed().map_or(kilobytes * 1024, |allowed| allowed.min(kilobytes * 1024));
        Some(Room { bytes, at_least: false })
    }

    /// What a container's limit leaves: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>.
    /// Files that were read count as used there, and go when memory is wanted.
    fn allowed() -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let files = read("stat").and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok())
        });
        Some(number("max")?.saturating_sub(number("current")?.saturating_sub(files.unwrap_or(0))))
    }
}

#[cfg(target_arch = "wasm32")]
mod platform {
    use super::Room;
    use js_sys::Reflect;
    use wasm_bindgen::JsValue;

    /// The part of the device's memory that one page may want.
    const SHARE: f64 = 0.75;
    /// Browsers tell of no more GiB than that, some of no more than this.
    const MOST_TOLD: f64 = 8.0;
    /// Part of a user agent, and bytes for a page on the CPU and on the GPU there.
    const PHONES: [(&str, [u64; 2]); 3] = [
        ("iPhone", [450_000_000, 700_000_000]),
        ("iPad", [450_000_000, 700_000_000]),
        ("Android", [800_000_000, 1_500_000_000]),
    ];

    pub(super) fn room(gpu: bool) -> Option<Room> {
        let navigator = Reflect::get(&js_sys::global(), &JsValue::from("navigator")).ok()?;
        let about = |name: &str| Reflect::get(&navigator, &JsValue::from(name)).unwrap_or_default();
        let agent = about("userAgent").as_string().unwrap_or_default();
        let phone =
            PHONES.iter().find(|(name, _)| agent.contains(name)).map(|(_, bytes)| bytes[usize::from(gpu)]);
        let told = about("deviceMemory").as_f64();
        let share = told.map(|gigabytes| (gigabytes * SHARE * f64::from(1 << 30)) as u64);
        // 4 GiB, of which the engine itself has some.
        let addressable = || (1 << 32) - core::arch::wasm32::memory_size(0) as u64 * 65_536;
        let limits = [phone, share, (!gpu).then(addressable)];
        let bytes = limits.into_iter().flatten().min()?;
        let at_least = share == Some(bytes) && told.is_some_and(|told| told >= MOST_TOLD);
        Some(Room { bytes, at_least })
    }
}

#[cfg(not(any(target_os = "linux", target_arch = "wasm32")))]
mod platform {
    pub fn room(_: bool) -> Option<super::Room> {
        None
    }
}

//! Files of the origin's private file system: <https://fs.spec.whatwg.org/>
//!
//! Workers read and write them at once, without the browser's own process. Whoever does has the file for itself, but in
//! Chromium, which lets several; so a file is open for one read or write only. While it is, nobody can remove it.

use crate::store::origin;
use async_lock::Mutex;
use js_sys::{AsyncIterator, Function, IteratorNext, Object, Promise, Reflect, Uint8Array};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, DomException, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions,
    FileSystemGetFileOptions, FileSystemReadWriteOptions, FileSystemSyncAccessHandle,
};

#[wasm_bindgen]
extern "C" {
    // What web-sys has of it has no options, and traps where there is no such method.
    #[wasm_bindgen(extends = FileSystemFileHandle)]
    type Openable;
    #[wasm_bindgen(method, catch, js_name = createSyncAccessHandle)]
    fn open(this: &Openable, options: &JsValue) -> Result<Promise, JsValue>;
}

/// A snapshot of a file cannot be read when somebody writes to it meanwhile; then there is a newer one.
const SNAPSHOTS: usize = 8;

/// One folder of them.
pub(super) struct PrivateFiles {
    folder: FileSystemDirectoryHandle,
    /// There are handles here that write.
    writes: bool,
    /// Where each has its file for itself, this one's own operations come one after another.
    turn: Mutex<()>,
    /// Bytes that files have at least which may grow. With fewer it would be another file of the same name, and what was
    /// written before a hole in that.
    lens: RefCell<HashMap<String, u64>>,
}

/// Why bytes were not written.
pub(super) enum Unwritten {
    /// There is no room.
    Full,
    /// The file is shorter than it was: somebody has removed it.
    Lost,
    /// It can only be written elsewhere now.
    Elsewhere,
}

/// An open file, until it is dropped.
struct Open(FileSystemSyncAccessHandle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl PrivateFiles {
    /// Nothing where the browser has none, as in some private windows.
    pub(super) async fn open(name: &str) -> Option<PrivateFiles> {
        let root: FileSystemDirectoryHandle =
            JsFuture::from(origin::directory().ok()?).await.ok()?.dyn_into().ok()?;
        let options = FileSystemGetDirectoryOptions::new();
        options.set_create(true);
        let folder = JsFuture::from(root.get_directory_handle_with_options(name, &options)).await.ok()?;
        let prototype = Reflect::get(&js_sys::global(), &"FileSystemFileHandle".into())
            .and_then(|class| Reflect::get(&class, &"prototype".into()))
            .and_then(|prototype| Reflect::get(&prototype, &"createSyncAccessHandle".into()));
        let writes = prototype.is_ok_and(|open| open.is_instance_of::<Function>());
        let (turn, lens) = (Mutex::new(()), RefCell::default());
        Some(PrivateFiles { folder: folder.dyn_into().ok()?, writes, turn, lens })
    }

    /// A file of at least `len` bytes may grow from now on.
    pub(super) fn begin(&self, name: &str, len: u64) {
        self.lens.borrow_mut().insert(name.to_owned(), len);
    }

    /// Writes to a file that was begun, and makes sure that the bytes are on the disk.
    pub(super) async fn write(&self, name: &str, at: u64, bytes: &Uint8Array) -> Result<(), Unwritten> {
        let _turn = self.turn.lock().await;
        let Some(len) = self.lens.borrow().get(name).copied().filter(|_| self.writes) else {
            return Err(Unwritten::Elsewhere);
        };
        let Open(file) =
            &self.handle(name, len == 0).await.map_err(|error| match is(&error, "NotFoundError") {
                true if len > 0 => Unwritten::Lost,
                _ => Unwritten::Elsewhere,
            })?;
        if file.get_size().map_err(unwritten)? < len as f64 {
            return Err(Unwritten::Lost);
        }
        let written = file.write_with_js_u8_array_and_options(bytes, &place(at)).map_err(unwritten)?;
        // In Chromium's private windows it is 2³² - 8 where there is no room.
        if written != f64::from(bytes.length()) {
            return Err(Unwritten::Full);
        }
        file.flush().map_err(unwritten)?;
        self.begin(name, len.max(at + u64::from(bytes.length())));
        Ok(())
    }

    /// Fills `bytes` from the file. False where it has not so many.
    pub(super) async fn read(&self, name: &str, at: u64, bytes: &mut [u8]) -> bool {
        let _turn = self.turn.lock().await;
        if self.writes
            && let Ok(Open(file)) = self.handle(name, false).await.as_ref()
            && let Ok(read) = file.read_with_u8_array_and_options(bytes, &place(at))
        {
            return read == bytes.len() as f64;
        }
        // Somebody else has it for itself just now.
        for _ in 0..SNAPSHOTS {
            let Ok(file) = self.snapshot(name).await else { return false };
            let part = at..at + bytes.len() as u64;
            if let Ok(read) = part_of(&file, part).await
                && read.length() as usize == bytes.len()
            {
                read.copy_to(bytes);
                return true;
            }
        }
        false
    }

    /// Bytes; 0 where there is no such file, and very many where nobody can tell: then reading will.
    pub(super) async fn len(&self, name: &str) -> u64 {
        match self.snapshot(name).await {
            Ok(file) => file.size() as u64,
            Err(error) if is(&error, "NotFoundError") => 0,
            Err(_) => u64::MAX,
        }
    }

    /// All that are there.
    pub(super) async fn names(&self) -> Result<Vec<String>, JsValue> {
        let names: AsyncIterator = self.folder.keys();
        let mut list = Vec::new();
        loop {
            let next: IteratorNext = JsFuture::from(names.next()?).await?.unchecked_into();
            if next.done() {
                return Ok(list);
            }
            list.extend(next.value().as_string());
        }
    }

    /// Removes one, unless somebody has it open.
    pub(super) async fn remove(&self, name: &str) {
        let _turn = self.turn.lock().await;
        self.lens.borrow_mut().remove(name);
        // It stays until it is tried again.
        let _ = JsFuture::from(self.folder.remove_entry(name)).await;
    }

    async fn file(&self, name: &str, create: bool) -> Result<FileSystemFileHandle, JsValue> {
        let options = FileSystemGetFileOptions::new();
        options.set_create(create);
        let file = JsFuture::from(self.folder.get_file_handle_with_options(name, &options)).await?;
        Ok(file.unchecked_into())
    }

    async fn handle(&self, name: &str, create: bool) -> Result<Open, JsValue> {
        let options = Object::new();
        Reflect::set(&options, &"mode".into(), &"readwrite-unsafe".into())?;
        let file: Openable = self.file(name, create).await?.unchecked_into();
        Ok(Open(JsFuture::from(file.open(&options)?).await?.unchecked_into()))
    }

    async fn snapshot(&self, name: &str) -> Result<Blob, JsValue> {
        let file = self.file(name, false).await?;
        Ok(JsFuture::from(file.get_file()).await?.unchecked_into())
    }
}

async fn part_of(file: &Blob, part: Range<u64>) -> Result<Uint8Array, JsValue> {
    let part = file.slice_with_f64_and_f64(part.start as f64, part.end as f64)?;
    Ok(Uint8Array::new(&JsFuture::from(part.array_buffer()).await?))
}

fn place(at: u64) -> FileSystemReadWriteOptions {
    let options = FileSystemReadWriteOptions::new();
    options.set_at(at as f64);
    options
}

fn unwritten(error: JsValue) -> Unwritten {
    if is(&error, "QuotaExceededError") { Unwritten::Full } else { Unwritten::Elsewhere }
}

fn is(error: &JsValue, name: &str) -> bool {
    error.dyn_ref::<DomException>().is_some_and(|error| error.name() == name)
}

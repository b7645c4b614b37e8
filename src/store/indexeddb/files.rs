//! What is kept of each file beside its pieces.

use super::connection::{FILES, array, done, failure};
use crate::store::{Key, Record, Written};
use crate::{Error, Result};
use js_sys::Array;
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use web_sys::{IdbObjectStore, IdbTransaction};

/// All but its pieces.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    pub key: Key,
    pub len: u64,
    pub whole: bool,
    pub last_used: u64,
}

impl File {
    /// Something else than one was not written by this version.
    pub(super) fn read(value: JsValue) -> Option<File> {
        serde_wasm_bindgen::from_value(value).ok()
    }

    pub(super) fn write(&self, files: &IdbObjectStore) -> Result<()> {
        let value = self.serialize(&serde_wasm_bindgen::Serializer::json_compatible());
        files.put_with_key(&value.map_err(Error::internal)?, &file_id(&self.key)).map_err(failure)?;
        Ok(())
    }

    pub(super) fn record(self, written: Written) -> Record {
        let whole = self.whole && written == Written::all(self.len);
        Record { key: self.key, len: self.len, written, whole, last_used: self.last_used }
    }
}

pub(super) async fn all_files(transaction: &IdbTransaction) -> Result<Vec<File>> {
    let request = transaction.object_store(FILES).and_then(|store| store.get_all());
    let files = Array::from(&done(request).await.map_err(failure)?);
    Ok(files.iter().filter_map(File::read).collect())
}

pub(super) fn file_id(key: &Key) -> JsValue {
    array([key.repo.as_str(), &key.commit, &key.path]).into()
}
